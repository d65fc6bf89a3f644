//! How deep a guest is said to be, as L1 goes about its VMCSs in the ways of KVM.

use super::script::{Bench, Flags, VMCS_A};
use hv_defs::event::What;
use hv_defs::exit::Reason;
use hv_defs::policy::Policy;

/// L2's VMCS is A, L3's is B.
const VMCS_B: u64 = 0x1_2000;

/// The guest that was entered exits to L1. Returns the level that its entry and its exit tell of.
#[track_caller]
fn exits(bench: &mut Bench, reason: Reason) -> u8 {
    bench.log.events.clear();
    bench.exits(reason, &[]);
    assert_eq!(bench.level(), 1, "{reason} is L1's");
    let levels: Vec<u8> = bench
        .log
        .events
        .iter()
        .filter_map(|event| match &event.what {
            What::Entry(entry) => Some(entry.level),
            What::Exit(exit) => Some(exit.level),
            _ => None,
        })
        .collect();
    assert!(levels.len() == 2 && levels[0] == levels[1], "{levels:?}");
    levels[0]
}

/// L1 makes a VMCS current and resumes its guest, which exits.
#[track_caller]
fn resumes(bench: &mut Bench, region: u64, reason: Reason) -> u8 {
    assert_eq!(bench.vmptrld(region), Flags::SUCCEED);
    assert_eq!(bench.resume(), Flags::SUCCEED);
    exits(bench, reason)
}

/// As [`resumes`], of a VMCS that was not launched.
#[track_caller]
fn launches(bench: &mut Bench, region: u64) -> u8 {
    assert_eq!(bench.vmptrld(region), Flags::SUCCEED);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    exits(bench, Reason::CPUID)
}

/// L1 makes a VMCS of a page of zeros.
fn makes_anew(bench: &mut Bench, region: u64) {
    for at in (0..4096).step_by(8) {
        bench.store(region + at, 0);
    }
    bench.make_vmcs12(region, 6);
}

/// An L1 whose L2 has asked for an L3, which has run.
fn with_l3() -> Bench {
    let mut bench = Bench::with_l2(Policy::preset("mapped").unwrap());
    makes_anew(&mut bench, VMCS_B);
    assert_eq!(launches(&mut bench, VMCS_A), 2);
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::VMLAUNCH), 2);
    assert_eq!(launches(&mut bench, VMCS_B), 3);
    bench
}

#[test]
fn l3_is_told_from_l2_wherever_it_is_entered() {
    let mut bench = with_l3();
    // L1 handles an exit of L3's itself, then one as L2 wants it.
    assert_eq!(resumes(&mut bench, VMCS_B, Reason::CPUID), 3);
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::CPUID), 2);
    assert_eq!(resumes(&mut bench, VMCS_B, Reason::CPUID), 3);
    // L1 moves the vCPU to another CPU: VMCLEAR, and another launch.
    for (region, level) in [(VMCS_B, 3), (VMCS_A, 2), (VMCS_B, 3)] {
        assert_eq!(bench.vmclear(region), Flags::SUCCEED);
        assert_eq!(launches(&mut bench, region), level);
    }
}

#[test]
fn an_entry_that_l1_answers_with_a_failure_makes_no_l3() {
    let mut bench = Bench::with_l2(Policy::preset("mapped").unwrap());
    makes_anew(&mut bench, VMCS_B);
    assert_eq!(launches(&mut bench, VMCS_A), 2);
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::VMLAUNCH), 2);
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::CPUID), 2);
    assert_eq!(launches(&mut bench, VMCS_B), 2);
}

#[test]
fn a_page_that_becomes_another_vmcs_is_another_guest_s() {
    let mut bench = with_l3();
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::CPUID), 2);
    makes_anew(&mut bench, VMCS_B);
    assert_eq!(launches(&mut bench, VMCS_B), 2);
    // And again for an L3.
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::VMRESUME), 2);
    makes_anew(&mut bench, VMCS_B);
    assert_eq!(launches(&mut bench, VMCS_B), 3);
}

#[test]
fn a_guest_that_leaves_vmx_operation_has_none_of_its_own() {
    let mut bench = with_l3();
    assert_eq!(resumes(&mut bench, VMCS_A, Reason::VMXOFF), 2);
    assert_eq!(resumes(&mut bench, VMCS_B, Reason::CPUID), 2);
    // So has L1.
    let mut bench = with_l3();
    bench.exits(Reason::VMXOFF, &[]);
    assert_eq!(bench.vmxon(super::script::VMXON), Flags::SUCCEED);
    assert_eq!(bench.vmclear(VMCS_B), Flags::SUCCEED);
    assert_eq!(launches(&mut bench, VMCS_B), 2);
}
