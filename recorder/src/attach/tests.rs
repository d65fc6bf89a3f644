//! Records as kernels lay them out, old and new, Intel's and AMD's: the events are those that the text of other tools gives.

use super::rings::{Of, Record};
use super::*;
use crate::foreign::{Detail, Layout as Kernel, Tape, What as Happened};
use hv_defs::event::{Actor, Cause, Entry, Exit, FlushKind, Injection, NO_ADDRESS, Stamp, What};
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};

/// The events of a tape's records, and the names of what they were not made of.
fn read(tape: &Tape) -> (Vec<Event>, Vec<String>) {
    let layouts: Vec<_> = tape.tracepoints.iter().map(|of| Layout::parse(&of.text).expect("a layout")).collect();
    let mut state = State::new(0);
    for record in &tape.records {
        match &record.what {
            Happened::Lost(count) => state.lost_then(*count, record.cpu, record.time),
            Happened::Hit { tracepoint, thread, bytes } => {
                let thread = &tape.threads[*thread];
                let layout = &layouts[*tracepoint];
                let values = layout.values(bytes);
                let of = Of::Hit { layout: *tracepoint as u16, values };
                let (process, id) = (thread.process, thread.id);
                let record = Record { time: record.time, process, thread: id, cpu: record.cpu, what: of };
                state.take(&Binary { record: &record, layout, values: &values, named: None }).expect("understood");
            }
        }
    }
    state.end();
    let events = state.ready().collect();
    (events, state.unmapped().keys().cloned().collect())
}

fn exit(level: u8, reason: Reason, qualification: u64, gpa: u64, handled_by: Actor) -> What {
    What::Exit(Exit {
        level,
        reason: ExitReason::of(reason),
        qualification,
        rip: 0xffff_ffff_8100_1234,
        length: 0,
        gpa,
        gla: 0,
        intr_info: InterruptionInfo::from(0),
        vmcs12: if level > 1 { 0x5000 } else { NO_ADDRESS },
        handled_by,
    })
}

fn entry(level: u8) -> What {
    What::Entry(Entry {
        level,
        launch: false,
        vmcs12: if level > 1 { 0x5000 } else { NO_ADDRESS },
        vmcs02: NO_ADDRESS,
        vpid: 0,
        eptp: 0,
        injected: InterruptionInfo::from(0),
        failed: None,
        fields_written: 0,
    })
}

#[test]
fn nested_events_of_both_layouts() {
    let info = InterruptionInfo::from(0x8000_0b0e);
    let whats = [
        exit(1, Reason::VMRESUME, 0, 0, Actor::L0),
        entry(2),
        exit(2, Reason::EPT_VIOLATION, 0x181, 0x9000, Actor::L0),
        entry(2),
        exit(2, Reason::CPUID, 0, 0, Actor::L1),
        entry(1),
        exit(1, Reason::IO_INSTRUCTION, 0x3f8_0000, 0, Actor::L0),
        What::Injection(Injection { level: 1, info, error_code: 2 }),
        entry(1),
        What::Lost(7),
        exit(1, Reason::HLT, 0, 0, Actor::L0),
        entry(1),
    ];
    let events: Vec<_> = whats
        .into_iter()
        .zip(1..)
        .map(|(what, at)| Event { at: Stamp { instruction: at * 100, vcpu: 0, pcpu: 1 }, what })
        .collect();
    for kernel in [Kernel::Linux6, Kernel::Linux4, Kernel::Host] {
        let (got, unmapped) = read(&Tape::of(&events, kernel, Detail::Nested));
        assert_eq!(got, events, "{kernel:?}");
        assert_eq!(unmapped, Vec::<String>::new(), "{kernel:?}");
    }
}

/// AMD's exit codes become VMX's reasons, and its words VMX's.
#[test]
fn exits_of_amd() {
    for kernel in [Kernel::Linux6, Kernel::Linux4] {
        let mut tape = Tape::new(kernel);
        let thread = tape.thread(1, 2, "CPU 0/KVM");
        let mut hit = |time, code, info1, info2| {
            let values = [("exit_reason", code), ("guest_rip", 0x1000), ("isa", 2), ("info1", info1), ("info2", info2)];
            tape.hit((time, 0, thread), "kvm_exit", &values);
        };
        hit(1, 0x400, 6, 0x9000);
        hit(2, 0x7c, 1, 0);
        hit(3, 0x7b, 0x3f8_0011, 0x1001);
        let (events, _) = read(&tape);
        let exits: Vec<_> = events
            .iter()
            .filter_map(|event| match event.what {
                What::Exit(exit) => Some((exit.basic(), exit.qualification, exit.gpa)),
                _ => None,
            })
            .collect();
        let want = [(Reason::EPT_VIOLATION, 2, 0x9000), (Reason::WRMSR, 0, 0), (Reason::IO_INSTRUCTION, 0x3f8_0008, 0)];
        assert_eq!(exits, want, "{kernel:?}");
    }
}

/// A hit of what has no bytes, or of these values.
struct Said<'a>(&'a str, u32, &'a [(Field, u64)]);

impl Hit for Said<'_> {
    fn at(&self) -> At {
        At { thread: self.1, process: Some(1), cpu: 0, time: 5 }
    }

    fn event(&self) -> &str {
        self.0
    }

    fn get(&self, field: Field) -> Option<u64> {
        self.2.iter().find(|(of, _)| *of == field).map(|(_, value)| *value)
    }
}

#[track_caller]
fn flushes(hits: &[Said<'_>], want: &[(FlushKind, Cause, Actor)]) {
    let mut state = State::new(0);
    hits.iter().for_each(|hit| state.take(hit).expect("understood"));
    state.end();
    let of = |event: Event| match event.what {
        What::Flush(flush) => Some((flush.kind, flush.cause, flush.actor)),
        _ => None,
    };
    assert_eq!(state.ready().filter_map(of).collect::<Vec<_>>(), want);
}

#[test]
fn functions_that_flush() {
    let runs = || Said("kvm_entry", 2, &[(Field::Vcpu, 0)]);
    let nested = || Said("kvm_nested_vmenter", 2, &[(Field::Vmcs12, 0x5000)]);
    let does = |name| Said(name, 2, &[]);
    let l0 = |kind, cause| (kind, cause, Actor::L0);
    flushes(&[runs(), does("vmx_flush_tlb_gva")], &[l0(FlushKind::InvvpidAddress, Cause::GuestPaging)]);
    flushes(&[runs(), does("vmx_flush_tlb_guest")], &[l0(FlushKind::InvvpidSingle, Cause::GuestPaging)]);
    flushes(&[runs(), does("vmx_flush_tlb_current")], &[l0(FlushKind::InveptSingle, Cause::RootLoad)]);
    flushes(&[runs(), does("vmx_flush_tlb_all.isra.0")], &[l0(FlushKind::InveptAll, Cause::EptZap)]);
    // A flush that was asked for has its cause, once.
    flushes(
        &[
            runs(),
            nested(),
            does("nested_vmx_transition_tlb_flush"),
            does("vmx_flush_tlb_guest"),
            does("vmx_flush_tlb_guest"),
        ],
        &[l0(FlushKind::InvvpidSingle, Cause::NestedEntry), l0(FlushKind::InvvpidSingle, Cause::GuestPaging)],
    );
    flushes(
        &[runs(), does("nested_vmx_transition_tlb_flush"), does("vmx_flush_tlb_current")],
        &[l0(FlushKind::InveptSingle, Cause::NestedExit)],
    );
    // It is made before the vCPU runs on, or not at all.
    flushes(
        &[runs(), does("nested_vmx_transition_tlb_flush"), runs(), does("vmx_flush_tlb_current")],
        &[l0(FlushKind::InveptSingle, Cause::RootLoad)],
    );
    // Another thread of the machine asks all its vCPUs, which flush all when they run next.
    flushes(
        &[runs(), Said("kvm_flush_remote_tlbs", 9, &[]), does("vmx_flush_tlb_current"), does("vmx_flush_tlb_all")],
        &[l0(FlushKind::InveptSingle, Cause::RootLoad), l0(FlushKind::InveptAll, Cause::EptZap)],
    );
    // A thread that runs no vCPU flushes none's translations.
    flushes(&[does("vmx_flush_tlb_all")], &[]);
}

#[test]
fn flushes_that_guests_ask_for() {
    let guest = |kind, actor| (kind, Cause::Guest, actor);
    flushes(&[Said("kvm_hv_flush_tlb", 2, &[(Field::Flags, 0)])], &[guest(FlushKind::InvvpidSingle, Actor::L1)]);
    flushes(
        &[Said("kvm_hv_flush_tlb_ex", 2, &[(Field::Flags, 4), (Field::GuestMode, 1)])],
        &[guest(FlushKind::InvvpidRetainGlobals, Actor::L2)],
    );
    flushes(&[Said("kvm_pv_tlb_flush", 2, &[(Field::NeedFlush, 0)])], &[]);
    flushes(&[Said("kvm_pv_tlb_flush", 2, &[(Field::NeedFlush, 1)])], &[guest(FlushKind::InvvpidSingle, Actor::L1)]);
    flushes(
        &[Said("kvm_invlpga", 2, &[(Field::Asid, 3), (Field::Address, 0x1000)])],
        &[guest(FlushKind::InvvpidAddress, Actor::L1)],
    );
}

/// Where nothing runs guests but KVM's emulator, what an instruction asks for is an exit; where hardware does, it is not.
#[test]
fn guests_that_are_emulated() {
    let pio = || Said("kvm_pio", 2, &[(Field::Writes, 0), (Field::Port, 0x60), (Field::Size, 1), (Field::Count, 1)]);
    let exits = |hits: &[Said<'_>]| {
        let mut state = State::new(0);
        hits.iter().for_each(|hit| state.take(hit).expect("understood"));
        state.end();
        let of = |event: Event| match event.what {
            What::Exit(exit) => Some((exit.basic(), exit.qualification, exit.gpa)),
            _ => None,
        };
        state.ready().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(exits(&[pio(), pio()]), [(Reason::IO_INSTRUCTION, 0x60_0008, 0); 2]);
    assert_eq!(exits(&[Said("kvm_entry", 2, &[]), pio()]), []);
    assert_eq!(exits(&[Said("kvm_msr", 2, &[(Field::Writes, 1)])]), [(Reason::WRMSR, 0, 0)]);
    assert_eq!(exits(&[Said("kvm_cr", 2, &[(Field::Writes, 1), (Field::Register, 3)])]), [(Reason::CR_ACCESS, 3, 0)]);
    let mmio = |kind| exits(&[Said("kvm_mmio", 2, &[(Field::Kind, kind), (Field::Gpa, 0xfec0_0000)])]);
    assert_eq!(mmio(2), [(Reason::EPT_VIOLATION, 2, 0xfec0_0000)]);
    assert_eq!(mmio(0), []);
    assert_eq!(exits(&[Said("kvm_set_irq", 2, &[])]), []);
}
