//! MONITOR and MWAIT: what is checked, what ends the wait, and whose exits they are.

use super::script::{Bench, Flags, OPERAND};
use crate::l0::Ran;
use hv_defs::controls::{ActivityState, PrimaryControls};
use hv_defs::exit::{EventType, Reason};
use hv_defs::policy::Policy;
use hv_defs::vmcs;
use hv_defs::x86::Rflags;

/// L1 after a MONITOR of `address`, with ECX and EDX zero.
fn armed(address: u64) -> Bench {
    let mut bench = Bench::preset("mapped");
    arm(&mut bench, address);
    bench
}

fn arm(bench: &mut Bench, address: u64) {
    *bench.gpr(0) = address;
    *bench.gpr(1) = 0;
    let rip = bench.now(vmcs::GUEST_RIP);
    assert_eq!(bench.exits(Reason::MONITOR, &[]), Ran::Ready);
    assert_eq!(bench.now(vmcs::GUEST_RIP), rip + 3);
}

/// MWAIT with these extensions; whether the vCPU waits.
fn waits(bench: &mut Bench, extensions: u64) -> bool {
    *bench.gpr(1) = extensions;
    let rip = bench.now(vmcs::GUEST_RIP);
    bench.exits(Reason::MWAIT, &[]);
    assert_eq!(bench.now(vmcs::GUEST_RIP), rip + 3);
    is_waiting(bench)
}

fn is_waiting(bench: &mut Bench) -> bool {
    bench.exits(Reason::CPUID, &[]) == Ran::Halted
}

#[test]
fn a_store_to_the_line_ends_the_wait() {
    let check = |offset: u64, ends: bool| {
        let mut bench = armed(OPERAND + 8);
        assert!(waits(&mut bench, 0));
        assert!(!bench.l0.is_stored_to(0));
        bench.store(OPERAND.wrapping_add(offset), 7);
        assert_eq!((bench.l0.is_stored_to(0), !is_waiting(&mut bench)), (ends, ends), "{offset}");
    };
    check(0, true);
    check(56, true);
    check(64, false);
    check(8u64.wrapping_neg(), false);
}

#[test]
fn it_goes_on_at_once_without_a_line_or_after_a_store() {
    assert!(!waits(&mut Bench::preset("mapped"), 0), "nothing is armed");
    let mut bench = armed(OPERAND);
    bench.store(OPERAND, 7);
    assert!(!waits(&mut bench, 0), "the store came in between");
    assert!(!waits(&mut bench, 0), "MONITOR is needed anew");
    assert!(!waits(&mut armed(0x3fff_0000), 0), "there is no RAM");
}

#[test]
fn interrupts_end_it_as_they_end_a_hlt() {
    let check = |open: bool, extensions: u64, ends: bool, injected: bool| {
        let mut bench = armed(OPERAND);
        let flags = if open { Rflags::IF.bits() | 2 } else { 2 };
        *bench.gpr(1) = extensions;
        bench.exits(Reason::MWAIT, &[(vmcs::GUEST_RFLAGS.field(), flags)]);
        bench.bus.interrupt = Some(0x40);
        bench.log.events.clear();
        assert_eq!(!is_waiting(&mut bench), ends, "{open} {extensions}");
        assert_eq!(bench.story().contains(&"inject 1 64".to_owned()), injected, "{open} {extensions}");
    };
    check(true, 0, true, true);
    check(true, 1, true, true);
    check(false, 0, false, false);
    check(false, 1, true, false);
    let mut bench = armed(OPERAND);
    assert!(waits(&mut bench, 0));
    bench.bus.signals.nmi = true;
    assert!(!is_waiting(&mut bench));
}

#[test]
fn what_is_wrong_faults() {
    let check = |reason: Reason, address: u64, extensions: u64, vector: u8| {
        let mut bench = Bench::preset("mapped");
        *bench.gpr(0) = address;
        *bench.gpr(1) = extensions;
        let rip = bench.now(vmcs::GUEST_RIP);
        bench.exits(reason, &[]);
        let info = bench.now(vmcs::ENTRY_INTERRUPTION_INFO);
        let got = (bench.now(vmcs::GUEST_RIP), info.valid(), info.kind(), info.vector());
        assert_eq!(got, (rip, true, EventType::HardwareException, vector), "{reason} {address:#x} {extensions:#x}");
    };
    check(Reason::MONITOR, OPERAND, 1, 13);
    check(Reason::MONITOR, OPERAND, 1 << 32, 13);
    check(Reason::MONITOR, 1 << 63, 0, 13);
    check(Reason::MONITOR, 0x40_0000_0000, 0, 14);
    check(Reason::MWAIT, 0, 2, 13);
    check(Reason::MWAIT, 0, 1 << 32, 13);
}

#[test]
fn l1_has_the_exits_that_it_asks_for() {
    let check = |controls: PrimaryControls, owners: [&str; 2]| {
        let mut bench = Bench::with_l2(Policy::default());
        let primary = bench.vmread(vmcs::PRIMARY_CONTROLS);
        bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | controls);
        assert_eq!(bench.launch(), Flags::SUCCEED);
        bench.log.events.clear();
        *bench.gpr(1) = 0;
        bench.exits(Reason::MWAIT, &[]);
        assert!(bench.story().contains(&format!("exit 2 MWAIT {}", owners[0])), "{:?}", bench.story());
        if owners[0] == "L1" {
            assert_eq!(bench.vmread(vmcs::EXIT_QUALIFICATION), 0, "nothing is armed");
            assert_eq!(bench.vmread(vmcs::GUEST_ACTIVITY_STATE), ActivityState::Active as u32);
            return;
        }
        bench.exits(Reason::MONITOR, &[]);
        assert!(bench.story().contains(&format!("exit 2 MONITOR {}", owners[1])), "{:?}", bench.story());
    };
    check(PrimaryControls::MWAIT_EXITING, ["L1", "L1"]);
    check(PrimaryControls::MONITOR_EXITING, ["L0", "L1"]);
}
