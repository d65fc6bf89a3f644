//! EPT02 and what becomes of it when L1 changes EPT12.

use super::script::{Bench, EPT12, Flags, L2_PAGES};
use crate::l0::L0_MEMORY;
use hv_defs::controls::SecondaryControls;
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::event::{EptChange, What};
use hv_defs::exit::Reason;
use hv_defs::policy::Policy;
use hv_defs::slip::{Slip, Slips};
use hv_defs::vmcs;

const EPTP: u64 = EPT12 | 0x1e;
/// Where EPT12 maps L2's first page.
const FIRST: u64 = EPT12 + 0x3000;

fn changes(bench: &mut Bench) -> Vec<EptChange> {
    bench
        .log
        .events
        .drain(..)
        .filter_map(|event| match event.what {
            What::Ept(change) => Some(change),
            _ => None,
        })
        .collect()
}

/// L2 has run and touched its first page.
fn touched() -> Bench {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.log.events.clear();
    bench.l2_touches(0x10, 1);
    assert_eq!(bench.level(), 2);
    bench
}

/// L1 writes its EPT12: the page is read-only, so it exits once.
fn l1_writes(bench: &mut Bench, at: u64, value: u64) {
    let gpa = (vmcs::GUEST_PHYSICAL_ADDRESS.field(), at);
    bench.exits(Reason::EPT_VIOLATION, &[gpa, (vmcs::EXIT_QUALIFICATION.field(), 0x1aa)]);
    bench.store(at, value);
}

#[test]
fn a_violation_is_answered_from_ept12() {
    let mut bench = touched();
    let [change] = changes(&mut bench)[..] else { panic!("one entry is added") };
    assert_eq!((change.op.name(), change.gpa, change.size, change.eptp12), ("map", 0, 0x1000, EPTP));
    let entry = EptEntry::from_bits(change.new);
    assert_eq!((entry.address(), change.new & 7), (L0_MEMORY + L2_PAGES, 7));
    assert_eq!(bench.now(vmcs::EPT_POINTER).into_bits(), change.eptp02);
}

#[test]
fn what_ept12_does_not_permit_is_l1_s_to_hear() {
    let mut bench = touched();
    bench.l2_touches(0x5000, 2);
    assert_eq!(bench.level(), 1);
    assert_eq!(bench.vmread(vmcs::GUEST_PHYSICAL_ADDRESS), 0x5000);
    assert_eq!(bench.vmread(vmcs::EXIT_QUALIFICATION), 0x182, "nothing is permitted");
    // Read-only: the qualification says what the entries permit.
    bench.store(FIRST, L2_PAGES | 0x31);
    bench.resume();
    bench.l2_touches(0, 2);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_QUALIFICATION)), (1, 0x18a));
    bench.store(FIRST, L2_PAGES | 0x32);
    bench.resume();
    bench.l2_touches(0, 2);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, Reason::EPT_MISCONFIG));
}

#[test]
fn a_change_is_synced_at_the_next_entry_and_flushed_only_if_l1_says_so() {
    let mut bench = touched();
    bench.vmcall();
    l1_writes(&mut bench, FIRST, (L2_PAGES + 0x2000) | 0x37);
    bench.log.events.clear();
    bench.l0.silicon.dropped.clear();
    bench.resume();
    let [change] = changes(&mut bench)[..] else { panic!("one entry is synced") };
    assert_eq!(change.op.name(), "sync");
    assert_eq!(EptEntry::from_bits(change.old).address(), L0_MEMORY + L2_PAGES);
    assert_eq!(EptEntry::from_bits(change.new).address(), L0_MEMORY + L2_PAGES + 0x2000);
    let eptp02 = Eptp::from_bits(change.eptp02).ep4ta();
    let flushed = |bench: &Bench| bench.l0.silicon.dropped.contains(&format!("0: invept Single {eptp02:#x}"));
    assert!(!flushed(&bench), "L1 did not ask");
    // Once more, with INVEPT.
    bench.vmcall();
    l1_writes(&mut bench, FIRST, 0);
    bench.log.events.clear();
    assert_eq!(bench.vmx(Reason::INVEPT, [EPTP, 0], 1), Flags::SUCCEED);
    assert!(flushed(&bench));
    let [change] = changes(&mut bench)[..] else { panic!("one entry goes") };
    assert_eq!((change.op.name(), change.new), ("zap", 0));
}

#[test]
fn a_page_that_is_shadowed_is_read_only_for_l1_until_it_writes() {
    let mut bench = touched();
    bench.vmcall();
    let writable = |bench: &mut Bench| {
        let l0 = &mut bench.l0;
        l0.shared.ept01.is_writable(&mut l0.silicon, hv_defs::addr::Gpa(FIRST))
    };
    assert!(!writable(&mut bench));
    l1_writes(&mut bench, FIRST, 0);
    assert!(writable(&mut bench), "unsync pages are L1's to write");
    bench.resume();
    assert!(!writable(&mut bench), "and read-only again once synced");
}

#[test]
fn a_table_that_is_replaced_takes_its_entries_along() {
    let mut bench = touched();
    bench.vmcall();
    let table = EPT12 + 0x4000;
    bench.store(table, (L2_PAGES + 0x8000) | 0x37);
    l1_writes(&mut bench, EPT12 + 0x2000, table | 7);
    bench.log.events.clear();
    bench.resume();
    let [change] = changes(&mut bench)[..] else { panic!("one entry goes") };
    assert_eq!((change.op.name(), change.gpa, change.size), ("zap", 0, 2 << 20));
    bench.l2_touches(0, 1);
    let [change] = changes(&mut bench)[..] else { panic!("one entry comes") };
    assert_eq!(EptEntry::from_bits(change.new).address(), L0_MEMORY + L2_PAGES + 0x8000);
}

#[test]
fn large_pages_stay_large_where_both_are() {
    let mut bench = Bench::with_l2(Policy::default());
    // 2 MiB that hold none of L1's tables, and 2 MiB that do.
    bench.store(EPT12 + 0x2008, 0x40_0000 | 0xb7);
    bench.store(EPT12 + 0x2010, 0xb7);
    bench.launch();
    bench.log.events.clear();
    bench.l2_touches(0x20_3000, 1);
    bench.l2_touches(0x40_3000, 1);
    let sizes: Vec<(u64, u64)> = changes(&mut bench).iter().map(|change| (change.gpa, change.size)).collect();
    assert_eq!(sizes, [(0x20_0000, 2 << 20), (0x40_3000, 0x1000)]);
}

#[test]
fn accessed_and_dirty_flags_are_kept_where_l1_has_them_on() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::EPT_POINTER, Eptp::from_bits(EPTP | 0x40));
    bench.launch();
    bench.log.events.clear();
    bench.l2_touches(0, 1);
    assert_eq!(bench.load(FIRST) & 0x300, 0x100);
    assert_eq!(changes(&mut bench)[0].new & 7, 5, "a write must be seen first");
    bench.l2_touches(0, 2);
    assert_eq!(bench.load(FIRST) & 0x300, 0x300);
    assert_eq!(changes(&mut bench)[0].new & 7, 7);
}

#[test]
fn a_hostile_ept12_maps_nothing_that_is_not_l1_s() {
    for target in [super::script::RAM, 0xffff_f000, 1 << 40, (1 << 46) - 0x1000] {
        let mut bench = Bench::with_l2(Policy::default());
        bench.store(FIRST, target | 0x37);
        bench.launch();
        bench.log.events.clear();
        // Code to look at, for what touches a device there.
        bench.store(L2_PAGES, 0x078b);
        bench.l2_touches(0, 1);
        assert_eq!(changes(&mut bench).len(), 0, "{target:#x}");
    }
}

#[test]
fn pages_that_l2_makes_dirty_are_logged_until_the_log_is_full() {
    const LOG: u64 = 0x1_7000;
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::EPT_POINTER, Eptp::from_bits(EPTP | 0x40));
    let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::PML);
    bench.vmwrite(vmcs::PML_ADDRESS, LOG);
    bench.vmwrite(vmcs::PML_INDEX, 0);
    bench.store(FIRST + 8, (L2_PAGES + 0x1000) | 0x37);
    bench.launch();
    assert!(!bench.now(vmcs::SECONDARY_CONTROLS).contains(SecondaryControls::PML), "L0 keeps the log");
    bench.l2_touches(0x1008, 1);
    assert_eq!(bench.load(LOG), 0);
    bench.l2_touches(0x1008, 2);
    assert_eq!((bench.level(), bench.load(LOG)), (2, 0x1000));
    bench.l2_touches(0x10, 2);
    assert_eq!((bench.level(), bench.vmread(vmcs::EXIT_REASON).reason()), (1, Reason::PML_FULL));
    assert_eq!(bench.vmread(vmcs::PML_INDEX), 0xffff);
    assert_eq!(bench.load(FIRST) & 0x200, 0, "nothing is dirty that was not logged");
}

/// Entries that the next entry of L2 syncs, when L1 has changed one of EPT12 without INVEPT and gives L2 another VPID,
/// or none.
fn synced_by(preset: &str, slips: Slips, vpid: u16) -> usize {
    let mut bench = Bench::with_l2(Policy::preset(preset).unwrap());
    bench.l0.shared.slips = slips;
    bench.launch();
    bench.l2_touches(0, 1);
    bench.vmcall();
    l1_writes(&mut bench, FIRST, (L2_PAGES + 0x2000) | 0x37);
    if vpid == 0 {
        let secondary = bench.vmread(vmcs::SECONDARY_CONTROLS);
        bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary - SecondaryControls::VPID);
    } else {
        bench.vmwrite(vmcs::VPID, vpid);
    }
    bench.log.events.clear();
    bench.resume();
    let entry = changes(&mut bench).len();
    // L1's INVEPT is what brings the rest in line.
    bench.vmcall();
    bench.log.events.clear();
    assert_eq!(bench.vmx(Reason::INVEPT, [EPTP, 0], 1), Flags::SUCCEED);
    assert_eq!(entry + changes(&mut bench).len(), 1, "{preset}");
    entry
}

#[test]
fn what_syncs_ept02_at_an_entry_is_the_policy_s() {
    let check = |preset: &str, slips: Slips, same: usize, other: usize, none: usize| {
        let got = [5, 9, 0].map(|vpid| synced_by(preset, slips, vpid));
        assert_eq!(got, [same, other, none], "{preset} {slips:?}");
    };
    let honest = Slips::default();
    // Every load of a root syncs it.
    check("kvm-2011", honest, 1, 1, 1);
    check("kvm-2018", honest, 1, 1, 1);
    check("mapped", honest, 1, 1, 1);
    // A cached root is loaded as it is.
    check("kvm-2020", honest, 0, 0, 0);
    check("ideal", honest, 0, 0, 0);
    // A new vpid12, and none, are flushes of the guest's own.
    check("kvm-2021", honest, 0, 1, 1);
    check("kvm-2021", honest.with(Slip::Vpid12Unsynced), 0, 0, 0);
}
