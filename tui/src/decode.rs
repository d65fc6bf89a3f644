//! An event in full, in the SDM's words: what the detail pane shows.

use crate::describe::{Piece, Pieces, interruption, size_name, thousands};
use crate::theme::Role;
use hv_defs::controls::{EntryControls, ExitControls, Interruptibility, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::event::{Event, Exit, VmcsOp, What};
use hv_defs::exit::{
    ApicAccess, CrAccess, DrAccess, EptViolation, ExitReason, InterruptionInfo, IoAccess, Reason, TaskSwitch,
};
use hv_defs::fields::Value;
use hv_defs::vmcs::{self, VmcsField};
use hv_defs::x86::{Cr0, Cr4, Efer, GPR_NAMES, Rflags};

/// The lines of the detail pane: every field with its name, each followed by what its bits say. `time` is what the stamp
/// counts.
pub(crate) fn decode(number: u64, event: &Event, time: &str) -> Vec<Vec<Piece>> {
    let at = &event.at;
    let kind = event.what.kind();
    let mut lines = vec![
        Pieces::default()
            .add(Role::Kind(kind), format!("{} ", kind.name().to_uppercase()))
            .field("event", thousands(number))
            .field(time, thousands(at.instruction))
            .field("vcpu", at.vcpu.to_string())
            .field("pcpu", at.pcpu.to_string())
            .0,
    ];
    for (field, value) in event.values() {
        // What the SDM leaves undefined for the reason, and what is another field's value once more.
        let undefined =
            matches!(field.name, "gpa" | "gla" | "length") && matches!(value, Value::Hex(0) | Value::Unsigned(0));
        // A VMCLEAR and a VMPTRLD are of no field; a read has no value before.
        let meaningless = match (&event.what, field.name) {
            (What::Vmcs(access), "field" | "value") => !matches!(access.op, VmcsOp::Read | VmcsOp::Write),
            (What::Vmcs(access), "old") => access.op != VmcsOp::Write,
            _ => false,
        };
        if undefined || meaningless || field.name == "reason_code" || (value == Value::None && field.name != "vmcs12") {
            continue;
        }
        let mut line = vec![(Role::Dim, format!("{:<16}", field.name)), (Role::Plain, value.to_string())];
        line.extend(meaning(event, field.name).into_iter().map(|text| (Role::Notice, format!("  {text}"))));
        lines.push(line);
        lines.extend(
            bits(event, field.name).into_iter().map(|text| vec![(Role::Dim, " ".repeat(18)), (Role::Plain, text)]),
        );
    }
    lines
}

/// What a value means, in a few words behind it.
fn meaning(event: &Event, field: &str) -> Option<String> {
    match (&event.what, field) {
        (What::Exit(exit), "reason") => {
            let flags = exit_flags(exit.reason);
            let name = reason_words(exit.basic());
            Some(if flags.is_empty() { name.to_owned() } else { format!("{name}; {flags}") })
                .filter(|text| !text.is_empty())
        }
        (What::Exit(exit), "intr_info") => Some(interruption(exit.intr_info)),
        (What::Exit(exit), "length") if exit.length > 0 => {
            Some(format!("next {:#x}", exit.rip.wrapping_add(exit.length.into())))
        }
        (What::Entry(entry), "injected") => Some(interruption(entry.injected)),
        (What::Entry(entry), "eptp") => Some(eptp(entry.eptp)),
        (What::Entry(entry), "failed") => entry.failed.map(|_| "the first VM-entry check that does not hold".into()),
        (What::Injection(injection), "info") => Some(interruption(injection.info)),
        (What::Flush(flush), "eptp") => Some(eptp(flush.eptp)),
        (What::Vmcs(access), "field") => {
            VmcsField::name(access.field).map(|_| format!("encoding {:#06x}", access.field.0))
        }
        (What::Vmcs(access), "value") if access.old == access.value && access.op == VmcsOp::Write => {
            Some("as before: the write changed nothing".into())
        }
        (What::Ept(change), "size") if change.size > 0 => Some(size_name(change.size)),
        (What::Ept(change), "old") => Some(ept_entry(change.old)),
        (What::Ept(change), "new") => Some(ept_entry(change.new)),
        _ => None,
    }
}

/// The named bits of a value, a line each.
fn bits(event: &Event, field: &str) -> Vec<String> {
    match (&event.what, field) {
        (What::Exit(exit), "qualification") => qualification(exit),
        (What::Exit(exit), "intr_info") => interruption_bits(exit.intr_info),
        (What::Entry(entry), "injected") => interruption_bits(entry.injected),
        (What::Injection(injection), "info") => interruption_bits(injection.info),
        (What::Vmcs(access), "value") => field_bits(access.field, access.old, access.value),
        _ => Vec::new(),
    }
}

fn exit_flags(reason: ExitReason) -> String {
    let flags = [
        (reason.entry_failure(), "VM-entry failure"),
        (reason.from_vmx_root(), "from VMX root operation"),
        (reason.pending_mtf(), "pending MTF VM exit"),
        (reason.enclave_mode(), "in enclave mode"),
        (reason.bus_lock(), "bus lock"),
        (reason.shadow_stack_busy(), "shadow stack busy"),
    ];
    join(flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()))
}

fn join(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}

/// What the SDM says of the commoner reasons.
fn reason_words(reason: Reason) -> &'static str {
    match reason {
        Reason::EXCEPTION_NMI => "exception or non-maskable interrupt",
        Reason::EXTERNAL_INTERRUPT => "external interrupt",
        Reason::TRIPLE_FAULT => "triple fault",
        Reason::INTERRUPT_WINDOW => "interrupt window: the guest can take interrupts",
        Reason::NMI_WINDOW => "NMI window",
        Reason::CR_ACCESS => "control-register access",
        Reason::DR_ACCESS => "MOV DR",
        Reason::INVALID_GUEST_STATE => "VM-entry failure due to invalid guest state",
        Reason::MSR_LOAD_FAIL => "VM-entry failure due to MSR loading",
        Reason::MONITOR_TRAP_FLAG => "monitor trap flag",
        Reason::TPR_BELOW_THRESHOLD => "TPR below threshold",
        Reason::APIC_ACCESS => "access to the APIC-access page",
        Reason::EPT_VIOLATION => "EPT paging structures did not allow the access",
        Reason::EPT_MISCONFIG => "misconfigured EPT paging-structure entry",
        Reason::PREEMPTION_TIMER => "VMX-preemption timer counted down to zero",
        Reason::PML_FULL => "page-modification log full",
        _ => "",
    }
}

/// The exit qualification, bit by bit, for the reasons that have one.
fn qualification(exit: &Exit) -> Vec<String> {
    let raw = exit.qualification;
    match exit.basic() {
        Reason::EPT_VIOLATION => {
            let bits = EptViolation::from(raw);
            let access =
                [(bits.read(), "data read"), (bits.write(), "data write"), (bits.fetch(), "instruction fetch")];
            let allowed =
                [(bits.readable(), "readable"), (bits.writable(), "writable"), (bits.executable(), "executable")];
            let named =
                |list: &[(bool, &str)]| join(list.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
            let allowed = named(&allowed);
            let mut lines = vec![
                format!("access: {}", named(&access)),
                format!("EPT entries allow: {}", if allowed.is_empty() { "nothing (not present)" } else { &allowed }),
            ];
            if bits.gla_valid() {
                let what = if bits.gla_translated() { "the final translation" } else { "a paging-structure entry" };
                lines.push(format!("guest-linear address valid; access to {what}"));
            }
            let more = [
                (bits.nmi_unblocking(), "NMI unblocking due to IRET"),
                (bits.shadow_stack(), "shadow-stack access"),
                (bits.guest_paging_verification(), "guest-paging verification"),
                (bits.asynchronous(), "asynchronous to instruction execution"),
            ];
            let more = named(&more);
            lines.extend((!more.is_empty()).then_some(more));
            lines
        }
        Reason::IO_INSTRUCTION => {
            let io = IoAccess::from(raw);
            let way = if io.input() { "IN" } else { "OUT" };
            let mut words =
                vec![format!("{way} of {} bytes", u32::from(io.size_less_one()) + 1), format!("port {:#x}", io.port())];
            words.extend(io.string().then(|| "string".into()));
            words.extend(io.rep().then(|| "REP".into()));
            words.push(if io.immediate() { "port in the instruction".into() } else { "port in DX".into() });
            vec![words.join(", ")]
        }
        Reason::CR_ACCESS => {
            let access = CrAccess::from(raw);
            let gpr = GPR_NAMES[usize::from(access.gpr() & 15)];
            vec![match access.kind() {
                hv_defs::exit::CrAccessKind::MovTo => format!("MOV to CR{} from {gpr}", access.cr()),
                hv_defs::exit::CrAccessKind::MovFrom => format!("MOV from CR{} to {gpr}", access.cr()),
                hv_defs::exit::CrAccessKind::Clts => "CLTS".into(),
                hv_defs::exit::CrAccessKind::Lmsw => format!("LMSW of {:#x}", access.lmsw_source()),
            }]
        }
        Reason::DR_ACCESS => {
            let access = DrAccess::from(raw);
            let gpr = GPR_NAMES[usize::from(access.gpr() & 15)];
            let way = if access.from_dr() { "from" } else { "to" };
            vec![format!("MOV {way} DR{}, register {gpr}", access.dr())]
        }
        Reason::TASK_SWITCH => {
            let task = TaskSwitch::from(raw);
            let source = ["CALL", "IRET", "JMP", "a task gate in the IDT"][usize::from(task.source() & 3)];
            vec![format!("by {source}, to TSS selector {:#x}", task.selector())]
        }
        Reason::APIC_ACCESS => {
            let access = ApicAccess::from(raw);
            let kind = match access.kind() {
                0 => "linear read",
                1 => "linear write",
                2 => "instruction fetch",
                3 => "linear access during event delivery",
                10 => "guest-physical access during event delivery",
                15 => "guest-physical access",
                _ => "reserved access type",
            };
            vec![format!("{kind} at offset {:#x}", access.offset())]
        }
        Reason::EXCEPTION_NMI if exit.intr_info.vector() == 14 => {
            vec![format!("linear address of the page fault {raw:#x}")]
        }
        Reason::EXCEPTION_NMI if exit.intr_info.vector() == 1 => vec![format!("pending debug exceptions {raw:#x}")],
        Reason::INVLPG => vec![format!("linear address {raw:#x}")],
        Reason::APIC_WRITE => vec![format!("register at offset {raw:#x}")],
        Reason::VIRTUALIZED_EOI => vec![format!("vector {:#x}", raw & 0xff)],
        _ => Vec::new(),
    }
}

fn interruption_bits(info: InterruptionInfo) -> Vec<String> {
    if !info.valid() {
        return vec!["not valid".into()];
    }
    let mut words = vec![format!("vector {}", info.vector()), info.kind().name().replace('-', " ")];
    words.extend(info.has_error_code().then(|| "error code valid".into()));
    words.extend(info.nmi_unblocking().then(|| "NMI unblocking due to IRET".into()));
    vec![words.join(", ")]
}

/// An EPT pointer's parts.
fn eptp(raw: u64) -> String {
    let eptp = Eptp::from(raw);
    let memory = memory_type(eptp.memory_type());
    let dirty = if eptp.accessed_dirty() { ", A/D" } else { "" };
    format!("EP4TA {:#x}, {memory}, {} levels{dirty}", eptp.ep4ta(), eptp.walk_length_less_one() + 1)
}

const fn memory_type(number: u8) -> &'static str {
    match number {
        0 => "UC",
        1 => "WC",
        4 => "WT",
        5 => "WP",
        6 => "WB",
        _ => "reserved memory type",
    }
}

/// An EPT entry's parts.
fn ept_entry(raw: u64) -> String {
    let entry = EptEntry::from(raw);
    if !entry.present() {
        return "not present".into();
    }
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    let rights: String =
        [letter(entry.read(), 'r'), letter(entry.write(), 'w'), letter(entry.execute(), 'x')].iter().collect();
    let more = [(entry.large(), " large"), (entry.accessed(), " A"), (entry.dirty(), " D")];
    let more: String = more.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    format!("{rights} {:#x}{more}", entry.address())
}

/// What the bits of a VMCS field's value say, and which of them a write turned.
fn field_bits(field: VmcsField, old: u64, value: u64) -> Vec<String> {
    let now = field_meaning(field, value);
    let mut lines: Vec<String> = now.into_iter().collect();
    let turned = old ^ value;
    if turned != 0 && named_bits(field, u64::MAX).is_some() {
        let name = |bits: u64| named_bits(field, bits).filter(|names| !names.is_empty());
        lines.extend(name(turned & value).map(|names| format!("set: {names}")));
        lines.extend(name(turned & old).map(|names| format!("cleared: {names}")));
    }
    lines
}

/// What a VMCS field's value means, where that is more than a number.
pub(crate) fn field_meaning(field: VmcsField, value: u64) -> Option<String> {
    let is = |known: VmcsField| known == field;
    if is(vmcs::EPT_POINTER.field()) {
        return Some(eptp(value));
    }
    if is(vmcs::EXIT_REASON.field()) {
        let reason = ExitReason::from(value as u32);
        let flags = exit_flags(reason);
        let more = if flags.is_empty() { flags } else { format!("; {flags}") };
        return Some(format!("{}{more}", reason.reason()));
    }
    let infos =
        [vmcs::ENTRY_INTERRUPTION_INFO.field(), vmcs::EXIT_INTERRUPTION_INFO.field(), vmcs::IDT_VECTORING_INFO.field()];
    if infos.contains(&field) {
        let info = InterruptionInfo::from(value as u32);
        return Some(if info.valid() { interruption(info) } else { "not valid".into() });
    }
    if is(vmcs::GUEST_ACTIVITY_STATE.field()) {
        return hv_defs::controls::ActivityState::new(value as u32).map(|state| format!("{state:?}").to_uppercase());
    }
    if is(vmcs::VM_INSTRUCTION_ERROR.field()) && value != 0 {
        return Some(hv_defs::instruction_error::InstructionError(value as u32).to_string());
    }
    named_bits(field, value).filter(|names| !names.is_empty())
}

/// The names of the bits of a field that is a set of named bits; `None` for other fields.
fn named_bits(field: VmcsField, value: u64) -> Option<String> {
    macro_rules! set {
        ($type:ident, $bits:ty) => {
            Some(join($type::from_bits_truncate(value as $bits).iter_names().map(|(name, _)| name.to_owned())))
        };
    }
    let is = |any: &[VmcsField]| any.contains(&field);
    if is(&[vmcs::PIN_BASED_CONTROLS.field()]) {
        set!(PinBased, u32)
    } else if is(&[vmcs::PRIMARY_CONTROLS.field()]) {
        set!(PrimaryControls, u32)
    } else if is(&[vmcs::SECONDARY_CONTROLS.field()]) {
        set!(SecondaryControls, u32)
    } else if is(&[vmcs::EXIT_CONTROLS.field()]) {
        set!(ExitControls, u32)
    } else if is(&[vmcs::ENTRY_CONTROLS.field()]) {
        set!(EntryControls, u32)
    } else if is(&[
        vmcs::GUEST_CR0.field(),
        vmcs::HOST_CR0.field(),
        vmcs::CR0_READ_SHADOW.field(),
        vmcs::CR0_GUEST_HOST_MASK.field(),
    ]) {
        set!(Cr0, u64)
    } else if is(&[
        vmcs::GUEST_CR4.field(),
        vmcs::HOST_CR4.field(),
        vmcs::CR4_READ_SHADOW.field(),
        vmcs::CR4_GUEST_HOST_MASK.field(),
    ]) {
        set!(Cr4, u64)
    } else if is(&[vmcs::GUEST_EFER.field(), vmcs::HOST_EFER.field()]) {
        set!(Efer, u64)
    } else if is(&[vmcs::GUEST_RFLAGS.field()]) {
        set!(Rflags, u64)
    } else if is(&[vmcs::GUEST_INTERRUPTIBILITY.field()]) {
        set!(Interruptibility, u32)
    } else {
        None
    }
}
