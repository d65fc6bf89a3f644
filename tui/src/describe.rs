//! An event in one line.

use crate::theme::Role;
use hv_defs::event::{
    Actor, EptChange, Event, Exit, Flush, FlushKind, Injection, Kind, NO_ADDRESS, Pool, VmcsAccess, VmcsOp, What,
};
use hv_defs::exit::{CrAccess, CrAccessKind, EptViolation, InterruptionInfo, IoAccess, Reason};
use hv_defs::fields::Value;
use hv_defs::x86::{GPR_NAMES, Vector};

/// A piece of a line and what it is.
pub(crate) type Piece = (Role, String);

/// Builds a line of pieces.
#[derive(Default)]
pub(crate) struct Pieces(pub(crate) Vec<Piece>);

impl Pieces {
    /// Adds text of some role.
    pub(crate) fn add(mut self, role: Role, text: impl Into<String>) -> Self {
        self.0.push((role, text.into()));
        self
    }

    /// Adds a dim label and a value.
    pub(crate) fn field(self, label: &str, value: impl Into<String>) -> Self {
        let label = if label.is_empty() { "  ".to_owned() } else { format!("  {label} ") };
        self.add(Role::Dim, label).add(Role::Plain, value)
    }
}

/// A number with its thousands set apart.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in at most six characters, as `12.3M`.
pub(crate) fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match UNITS.iter().find(|(unit, _)| number >= *unit) {
        _ if number < 10_000 => number.to_string(),
        Some((unit, name)) => {
            let tenths = number / (unit / 10);
            if tenths < 1000 {
                format!("{}.{}{name}", tenths / 10, tenths % 10)
            } else {
                format!("{}{name}", tenths / 10)
            }
        }
        None => number.to_string(),
    }
}

/// The level that an event belongs to: of the guest for exits, entries and injections, of the actor for what someone
/// did; 0 for L0 and for what has no level.
pub(crate) fn level(event: &Event) -> u8 {
    let of = |actor: Actor| actor as u8;
    match &event.what {
        What::Exit(exit) => exit.level,
        What::Entry(entry) => entry.level,
        What::Injection(injection) => injection.level,
        What::Vmcs(access) => of(access.actor),
        What::Flush(flush) => of(flush.actor),
        _ => 0,
    }
    .min(3)
}

/// What interruption information says in a word, as `#PF` or `interrupt 0x20`.
pub(crate) fn interruption(info: InterruptionInfo) -> String {
    use hv_defs::exit::EventType;
    let vector = info.vector();
    match info.kind() {
        EventType::ExternalInterrupt => format!("interrupt {vector:#x}"),
        EventType::Nmi => "NMI".into(),
        EventType::HardwareException | EventType::SoftwareException | EventType::PrivilegedSoftwareException => {
            Vector(vector).name().map_or_else(|| format!("exception {vector}"), str::to_owned)
        }
        EventType::SoftwareInterrupt => format!("INT {vector:#x}"),
        kind => format!("{} {vector}", kind.name()),
    }
}

/// The event in a line, without its number, stamp and level.
pub(crate) fn describe(event: &Event) -> Vec<Piece> {
    let of_kind = Role::Kind(event.what.kind());
    let line = Pieces::default();
    match &event.what {
        What::Exit(exit) => describe_exit(exit),
        What::Entry(entry) => {
            let how = if entry.launch { "launch" } else { "resume" };
            let mut line = line.add(of_kind, format!("enter L{} by {how}", entry.level));
            if let Some(check) = entry.failed {
                line = line.add(Role::Bad, format!("  FAILED {}", check.name()));
            }
            if entry.injected.valid() {
                line = line.field("injects", interruption(entry.injected));
            }
            if entry.vpid != 0 {
                line = line.field("vpid", entry.vpid.to_string());
            }
            if entry.vmcs12 != NO_ADDRESS {
                line = line.field("vmcs12", format!("{:#x}", entry.vmcs12));
            }
            if entry.fields_written > 0 {
                line = line.field("wrote", entry.fields_written.to_string());
            }
            line
        }
        What::Vmcs(access) => describe_access(access),
        What::Flush(flush) => describe_flush(flush),
        What::Pool(Pool { op, vmcs12, slot, written, skipped }) => line
            .add(of_kind, format!("vmcs02 pool {op}"))
            .field("vmcs12", format!("{vmcs12:#x}"))
            .field("slot", slot.to_string())
            .field("wrote", written.to_string())
            .field("skipped", skipped.to_string()),
        What::Vpid(vpid) => line
            .add(of_kind, format!("vpid02 {}", vpid.op))
            .field("vpid12", vpid.vpid12.to_string())
            .field("vpid02", vpid.vpid02.to_string()),
        What::Ept(EptChange { op, eptp12, eptp02, gpa, size, old, new }) => {
            let line = line.add(of_kind, format!("EPT02 {op}"));
            if *size == 0 {
                line.field("eptp12", format!("{eptp12:#x}")).field("eptp02", format!("{eptp02:#x}"))
            } else {
                let line = line.field("L2 gpa", format!("{gpa:#x}")).field("size", size_name(*size));
                line.field("entry", format!("{old:#x}")).add(Role::Dim, " to ").add(Role::Plain, format!("{new:#x}"))
            }
        }
        What::Injection(Injection { level, info, error_code }) => {
            let line = line.add(of_kind, format!("inject {} into L{level}", interruption(*info)));
            if info.has_error_code() { line.field("error code", format!("{error_code:#x}")) } else { line }
        }
        What::Input(input) => {
            let line = line.add(of_kind, format!("input {}", input.kind));
            let shown = u8::try_from(input.value).ok().filter(u8::is_ascii_graphic).map(char::from);
            line.field("value", shown.map_or_else(|| format!("{:#x}", input.value), |shown| format!("'{shown}'")))
        }
        What::Migration(migration) => {
            line.add(of_kind, format!("migrate from CPU {} to CPU {}", migration.from, event.at.pcpu))
        }
        What::Mark(value) => line.add(of_kind, format!("mark {value}")),
        What::Digest(digest) => line.add(of_kind, "digest").field("", format!("{digest:016x}")),
        What::Lost(count) => line.add(Role::Bad, format!("{} events lost", thousands(*count))),
        What::Answer(answer) => {
            line.add(of_kind, format!("{} {:#x}", answer.of, answer.place)).field("", format!("{:#x}", answer.value))
        }
        What::Registers(_) => event
            .values()
            .filter(|(_, value)| *value != Value::Hex(0))
            .fold(line.add(of_kind, "registers"), |line, (field, value)| line.field(field.name, value.to_string())),
        What::Stop(stop) => line
            .add(of_kind, format!("stop: {}", stop.kind))
            .field("code", stop.code.to_string())
            .add(Role::Plain, if stop.text.is_empty() { String::new() } else { format!("  {}", stop.text) }),
    }
    .0
}

fn describe_exit(exit: &Exit) -> Pieces {
    let mut line = Pieces::default().add(Role::Kind(Kind::Exit), exit.basic().to_string());
    if exit.reason.entry_failure() {
        line = line.add(Role::Bad, " entry failure");
    }
    let inside = brief_qualification(exit);
    if !inside.is_empty() {
        line = line.add(Role::Plain, format!(" {inside}"));
    }
    if exit.handled_by != Actor::L0 {
        line = line.add(Role::Dim, " to ").add(Role::Level(exit.handled_by as u8), exit.handled_by.name());
    }
    line.field("rip", format!("{:#x}", exit.rip))
}

/// The part of a qualification that says most, in a few words.
fn brief_qualification(exit: &Exit) -> String {
    match exit.basic() {
        Reason::EPT_VIOLATION => {
            let bits = EptViolation::from(exit.qualification);
            let access = [(bits.read(), "r"), (bits.write(), "w"), (bits.fetch(), "x")];
            let access: String = access.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
            format!("{access} {:#x}", exit.gpa)
        }
        Reason::EPT_MISCONFIG => format!("{:#x}", exit.gpa),
        Reason::IO_INSTRUCTION => {
            let io = IoAccess::from(exit.qualification);
            let way = if io.input() { "in" } else { "out" };
            format!("{way}{} {:#x}", 8 * (u32::from(io.size_less_one()) + 1), io.port())
        }
        Reason::CR_ACCESS => {
            let access = CrAccess::from(exit.qualification);
            let gpr = GPR_NAMES[usize::from(access.gpr() & 15)];
            match access.kind() {
                CrAccessKind::MovTo => format!("mov cr{}, {gpr}", access.cr()),
                CrAccessKind::MovFrom => format!("mov {gpr}, cr{}", access.cr()),
                CrAccessKind::Clts => "clts".into(),
                CrAccessKind::Lmsw => "lmsw".into(),
            }
        }
        Reason::EXCEPTION_NMI | Reason::EXTERNAL_INTERRUPT if exit.intr_info.valid() => interruption(exit.intr_info),
        Reason::INVLPG => format!("{:#x}", exit.qualification),
        _ => String::new(),
    }
}

fn describe_access(access: &VmcsAccess) -> Pieces {
    let of_kind = Role::Kind(Kind::Vmcs);
    let line = Pieces::default().add(Role::Level(access.actor as u8), access.actor.name());
    match access.op {
        VmcsOp::Read => line
            .add(Role::Dim, " reads ")
            .add(of_kind, format!("{}.{}", access.which, access.field))
            .field("", format!("{:#x}", access.value)),
        VmcsOp::Write if access.old == access.value => line
            .add(Role::Dim, " writes ")
            .add(of_kind, format!("{}.{}", access.which, access.field))
            .field("", format!("{:#x}", access.value))
            .add(Role::Notice, "  no change"),
        VmcsOp::Write => line
            .add(Role::Strong, " writes ")
            .add(of_kind, format!("{}.{}", access.which, access.field))
            .field("", format!("{:#x}", access.old))
            .add(Role::Dim, " to ")
            .add(Role::Plain, format!("{:#x}", access.value)),
        VmcsOp::Clear | VmcsOp::Load | VmcsOp::Store => line
            .add(Role::Plain, format!(" {}s ", access.op))
            .add(of_kind, access.which.name())
            .field("at", format!("{:#x}", access.address)),
    }
}

fn describe_flush(flush: &Flush) -> Pieces {
    let mut line = Pieces::default().add(Role::Kind(Kind::Flush), flush.kind.name());
    match flush.kind {
        FlushKind::InvvpidAddress => {
            line = line.field("vpid", flush.vpid.to_string()).field("address", format!("{:#x}", flush.address));
        }
        FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals => line = line.field("vpid", flush.vpid.to_string()),
        FlushKind::InveptSingle => line = line.field("eptp", format!("{:#x}", flush.eptp)),
        FlushKind::InvvpidAll | FlushKind::InveptAll | FlushKind::Transition => {}
    }
    line.add(Role::Dim, "  by ")
        .add(Role::Level(flush.actor as u8), flush.actor.name())
        .field("for", flush.cause.name())
        .field("dropped", flush.dropped.to_string())
}

/// A page's size in words.
pub(crate) fn size_name(bytes: u64) -> String {
    match bytes {
        0x1000 => "4K".into(),
        0x20_0000 => "2M".into(),
        0x4000_0000 => "1G".into(),
        _ => format!("{bytes:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let check = |number, long: &str, brief: &str| {
            assert_eq!((thousands(number), short(number)), (long.into(), brief.into()))
        };
        check(0, "0", "0");
        check(999, "999", "999");
        check(9_999, "9,999", "9999");
        check(12_345, "12,345", "12.3k");
        check(1_234_567, "1,234,567", "1.2M");
        check(123_456_789, "123,456,789", "123M");
        check(u64::MAX, "18,446,744,073,709,551,615", "18446744T");
    }
}
