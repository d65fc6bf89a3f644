//! A made-up run of two vCPUs, with every kind of event in it.

use hv_defs::config::{Clock, Config, Guest, Origin};
use hv_defs::event::*;
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs::{self, VmcsField};
use traces::{Header, Writer};

const VMCS01: u64 = 0x1000;
const VMCS02: u64 = 0x7000;
const VMCS12: u64 = 0xa_1000;
const EPTP: u64 = 0x2_205e;

/// Builds the events.
struct Run {
    events: Vec<Event>,
    instruction: u64,
    vcpu: u16,
}

impl Run {
    fn push(&mut self, what: What) {
        let at = Stamp { instruction: self.instruction, vcpu: self.vcpu, pcpu: self.vcpu % 2 };
        self.events.push(Event { at, what });
    }

    fn exit(&mut self, level: u8, reason: Reason, qualification: u64, rip: u64, handled_by: Actor) {
        self.instruction += 120 + rip % 7;
        let ept = reason == Reason::EPT_VIOLATION;
        let exception = reason == Reason::EXCEPTION_NMI;
        self.push(What::Exit(Exit {
            level,
            reason: ExitReason::of(reason),
            qualification,
            rip,
            length: if ept || exception { 0 } else { 3 },
            gpa: if ept { 0x4000 + (rip & 0xff0) } else { 0 },
            gla: if ept { 0x7fff_0000 } else { 0 },
            intr_info: InterruptionInfo::from(if exception { 0x8000_0b0e } else { 0 }),
            vmcs12: if level == 1 { NO_ADDRESS } else { VMCS12 },
            handled_by,
        }));
    }

    fn entry(&mut self, level: u8, launch: bool, injected: u32, failed: Option<Check>) {
        self.push(What::Entry(Entry {
            level,
            launch,
            vmcs12: if level == 1 { NO_ADDRESS } else { VMCS12 },
            vmcs02: if level == 1 { VMCS01 } else { VMCS02 },
            vpid: u16::from(level),
            eptp: EPTP + u64::from(level) * 0x1000,
            injected: InterruptionInfo::from(injected),
            failed,
            fields_written: if level == 1 { 0 } else { 4 },
        }));
    }

    fn vmcs(&mut self, actor: Actor, which: Which, op: VmcsOp, field: VmcsField, old: u64, value: u64) {
        let address = match which {
            Which::Vmcs01 => VMCS01,
            Which::Vmcs02 | Which::Shadow02 => VMCS02,
            Which::Vmcs12 | Which::Shadow12 => VMCS12,
        };
        self.push(What::Vmcs(VmcsAccess { actor, which, address, op, field, old, value }));
    }

    fn flush(&mut self, kind: FlushKind, cause: Cause, actor: Actor) {
        let dropped = if actor == Actor::L0 { 17 } else { 0 };
        self.push(What::Flush(Flush { kind, cause, actor, vpid: 2, eptp: EPTP, address: 0x7fff_1000, dropped }));
    }

    /// L1 handles an exit of L2: reads what happened, writes what it wants, resumes.
    fn round(&mut self, n: u64) {
        let reasons = [Reason::EPT_VIOLATION, Reason::CPUID, Reason::IO_INSTRUCTION, Reason::CR_ACCESS];
        let reason = reasons[n as usize % 4];
        let qualification = [0x182, 0, 0x00e9_0040, 0x703][n as usize % 4];
        let rip = if n.is_multiple_of(2) { 0x4_0010 + n * 3 } else { 0x5_0010 + n * 3 };
        self.exit(2, reason, qualification, rip, Actor::L1);
        let rip_of = vmcs::GUEST_RIP.field();
        self.vmcs(Actor::L0, Which::Vmcs02, VmcsOp::Read, rip_of, rip, rip);
        self.vmcs(Actor::L0, Which::Vmcs12, VmcsOp::Write, rip_of, 0x4_0000, rip);
        let code = vmcs::EXIT_REASON.field();
        self.vmcs(Actor::L0, Which::Vmcs12, VmcsOp::Write, code, 10, reason.0.into());
        self.entry(1, false, 0, None);
        for (at, reason) in [Reason::VMREAD, Reason::VMREAD, Reason::VMWRITE].into_iter().enumerate() {
            self.exit(1, reason, 0, 0xffff_8000_0000_1000 + at as u64, Actor::L0);
            let op = if reason == Reason::VMREAD { VmcsOp::Read } else { VmcsOp::Write };
            let now = if op == VmcsOp::Write { rip + 3 } else { rip };
            self.vmcs(Actor::L1, Which::Vmcs12, op, rip_of, rip, now);
            self.vmcs(Actor::L0, Which::Vmcs01, VmcsOp::Write, rip_of, 0x1003, 0x1003);
            self.entry(1, false, 0, None);
        }
        if n.is_multiple_of(4) {
            self.exit(1, Reason::INVEPT, 0x8, 0xffff_8000_0000_2000, Actor::L0);
            self.flush(FlushKind::InveptSingle, Cause::Guest, Actor::L1);
            let gpa = 0x4000 + n * 0x1000;
            let old = 0x1_2000 + n;
            self.push(What::Ept(EptChange {
                op: EptOp::Sync,
                eptp12: EPTP,
                eptp02: EPTP + 0x2000,
                gpa,
                size: 4096,
                old,
                new: old | 0x37,
            }));
            self.flush(FlushKind::InveptSingle, Cause::InveptEmulation, Actor::L0);
            self.entry(1, false, 0, None);
        }
        self.exit(1, Reason::VMRESUME, 0, 0xffff_8000_0000_3000, Actor::L0);
        let op = if n.is_multiple_of(3) { PoolOp::Miss } else { PoolOp::Hit };
        self.push(What::Pool(Pool { op, vmcs12: VMCS12, slot: 0, written: 4, skipped: 90 }));
        self.push(What::Vpid(Vpid { op: VpidOp::Hit, vpid12: 1, vpid02: 2 }));
        self.vmcs(Actor::L0, Which::Vmcs02, VmcsOp::Write, rip_of, rip, rip + 3);
        if n == 5 {
            let info = InterruptionInfo::from(0x8000_0b0e);
            self.push(What::Injection(Injection { level: 2, info, error_code: 2 }));
        }
        if n == 6 {
            self.entry(2, true, 0, Some(Check::new("guest-rflags-reserved")));
        }
        self.entry(2, n == 0, if n == 5 { 0x8000_0b0e } else { 0 }, None);
    }
}

/// The events of the run.
pub(crate) fn events() -> Vec<Event> {
    let mut run = Run { events: Vec::new(), instruction: 0, vcpu: 0 };
    run.entry(1, true, 0, None);
    run.exit(1, Reason::CPUID, 0, 0xffff_8000_0000_0100, Actor::L0);
    run.entry(1, false, 0, None);
    run.push(What::Mark(1));
    run.exit(1, Reason::VMCLEAR, 0, 0xffff_8000_0000_0200, Actor::L0);
    run.vmcs(Actor::L1, Which::Vmcs12, VmcsOp::Clear, VmcsField(0), 0, 0);
    run.entry(1, false, 0, None);
    run.exit(1, Reason::VMPTRLD, 0, 0xffff_8000_0000_0300, Actor::L0);
    run.vmcs(Actor::L1, Which::Vmcs12, VmcsOp::Load, VmcsField(0), 0, 0);
    let controls = [
        (vmcs::PIN_BASED_CONTROLS.field(), 0x1),
        (vmcs::PRIMARY_CONTROLS.field(), 0x8400_0080),
        (vmcs::SECONDARY_CONTROLS.field(), 0x22),
        (vmcs::GUEST_CR0.field(), 0x8000_0031),
        (vmcs::HOST_RIP.field(), 0xffff_8000_0000_4000),
    ];
    for (field, value) in controls {
        run.vmcs(Actor::L1, Which::Vmcs12, VmcsOp::Write, field, 0, value);
    }
    run.entry(1, false, 0, None);
    run.exit(1, Reason::VMLAUNCH, 0, 0xffff_8000_0000_3000, Actor::L0);
    run.push(What::Vpid(Vpid { op: VpidOp::Map, vpid12: 1, vpid02: 2 }));
    run.entry(2, true, 0, None);
    for n in 0..24 {
        run.round(n);
        if n == 8 {
            run.push(What::Input(Input { poll: 3, kind: InputKind::Console, value: 0x6c }));
            run.vcpu = 1;
            run.entry(1, true, 0, None);
            run.exit(1, Reason::HLT, 0, 0xffff_8000_0000_5000, Actor::L0);
            run.push(What::Migration(Migration { from: 0 }));
            run.flush(FlushKind::InvvpidSingle, Cause::Migration, Actor::L0);
            run.flush(FlushKind::InvvpidAddress, Cause::Guest, Actor::L1);
            run.vcpu = 0;
        }
        if n == 12 {
            run.push(What::Mark(2));
            run.exit(2, Reason::EXCEPTION_NMI, 0x7fff_2000, 0x4_0999, Actor::L0);
            run.entry(2, false, 0, None);
            run.push(What::Digest(0x0123_4567_89ab_cdef));
        }
    }
    run.push(What::Lost(3));
    let text = "the guest says goodbye".to_owned();
    run.push(What::Stop(Stop { kind: StopKind::DebugExit, code: 33, text }));
    run.events
}

/// The run as a trace of several blocks.
pub(crate) fn trace() -> Vec<u8> {
    let mut config = Config::new(Guest::BuiltIn("sample".into()));
    config.vcpus = 2;
    write(&Header::new(config, Vec::new()), &events())
}

/// Any events as a trace of several blocks.
pub(crate) fn of(events: &[Event]) -> Vec<u8> {
    write(&Header::new(Config::new(Guest::BuiltIn("sample".into())), Vec::new()), events)
}

/// The run so many times over, in blocks as recordings have them.
pub(crate) fn long(times: u64) -> Vec<u8> {
    let (events, mut bytes) = (events(), Vec::new());
    let config = Config::new(Guest::BuiltIn("sample".into()));
    let mut writer = Writer::create(&mut bytes, &Header::new(config, Vec::new())).expect("memory takes all");
    let each = events.last().map_or(0, |event| event.at.instruction + 100);
    for time in 0..times {
        for event in &events {
            let at = Stamp { instruction: event.at.instruction + time * each, ..event.at };
            writer.push(&Event { at, what: event.what.clone() }).expect("memory takes all");
        }
    }
    writer.finish().expect("memory takes all");
    bytes
}

/// Entries and exits of so many vCPUs, of which the header knows nothing.
pub(crate) fn of_vcpus(vcpus: u16) -> Vec<u8> {
    let mut run = Run { events: Vec::new(), instruction: 0, vcpu: 0 };
    for round in 0..4 {
        for vcpu in 0..vcpus {
            run.vcpu = vcpu;
            run.entry(1 + vcpu as u8 % 3, round == 0, 0, None);
            run.exit(1 + vcpu as u8 % 3, Reason::CPUID, 0, 0x1000, Actor::L0);
        }
    }
    of(&run.events)
}

/// The run as a trace that was imported, whose header says nothing of a machine.
pub(crate) fn imported() -> Vec<u8> {
    let mut header = Header::new(Config::new(Guest::BuiltIn("perf.data".into())), Vec::new());
    header.origin = Some(Origin {
        source: "perf".into(),
        name: "perf.data".into(),
        clock: Clock::Nanoseconds,
        note: String::new(),
    });
    write(&header, &events())
}

fn write(header: &Header, events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, header).expect("memory takes all");
    for (number, event) in events.iter().enumerate() {
        if number > 0 && number.is_multiple_of(100) {
            writer.end_block().expect("memory takes all");
        }
        writer.push(event).expect("memory takes all");
    }
    writer.finish().expect("memory takes all");
    bytes
}

/// The first event that is such.
pub(crate) fn position(such: impl Fn(&Event) -> bool) -> usize {
    events().iter().position(such).expect("the sample has one")
}

/// All of an event as words.
pub(crate) fn line(number: u64, event: &Event) -> String {
    let at = &event.at;
    let mut line =
        format!("{number} instruction={} vcpu={} pcpu={} is={}", at.instruction, at.vcpu, at.pcpu, event.what.kind());
    for (field, value) in event.values() {
        line.push_str(&format!(" {}={value}", field.name));
    }
    line
}

/// A trace without events.
pub(crate) fn empty() -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header::new(Config::new(Guest::BuiltIn("nothing".into())), Vec::new());
    Writer::create(&mut bytes, &header).and_then(|mut writer| writer.finish()).expect("memory takes all");
    bytes
}
