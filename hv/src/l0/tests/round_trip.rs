//! Nested round trips, event by event, under each policy.

use super::script::{Bench, Flags, VMCS_A, VMXON};
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::event::{Event, VpidOp, What};
use hv_defs::exit::Reason;
use hv_defs::policy::{PRESETS, Policy, Tags, Vmcs02Writes};
use hv_defs::vmcs;

const VMCS_B: u64 = 0x1_2000;

/// The flushes of: a first round trip with vpid12 5, a second one, one with vpid12 6, one with 5 again.
fn check(preset: &str, expected: [&str; 4]) {
    let mut bench = Bench::with_l2(Policy::preset(preset).unwrap());
    bench.launch();
    bench.vmcall();
    let mut got = vec![bench.flushes()];
    for vpid12 in [5, 6, 5] {
        bench.vmwrite(vmcs::VPID, vpid12);
        bench.log.events.clear();
        assert_eq!(bench.resume(), Flags::SUCCEED);
        bench.vmcall();
        got.push(bench.flushes());
    }
    let got: Vec<String> = got.iter().map(|flushes| flushes.join("; ").replace("flush ", "")).collect();
    // The first load of a root write-protects L1's tables.
    let protect = "invept-single write-protect vpid 0; invept-single write-protect vpid 0";
    let first = got[0].replacen(protect, "", 1);
    assert_eq!([first.trim_start_matches("; "), &got[1], &got[2], &got[3]], expected, "{preset}");
}

#[test]
fn flushes_of_each_preset() {
    let eager = "invvpid-single nested-entry vpid 1; invept-single root-load vpid 0; \
                 invvpid-single nested-exit vpid 1; invept-single root-load vpid 0";
    let change_and_root = "invvpid-single vpid12-change vpid 2; invept-single root-load vpid 0; \
                           invept-single root-load vpid 0";
    let root = "invept-single root-load vpid 0; invept-single root-load vpid 0";
    let change = "invvpid-single vpid12-change vpid 2";
    check("kvm-2011", [eager; 4]);
    check("kvm-2013-pool", [eager; 4]);
    check("kvm-2015", [change_and_root, root, change_and_root, change_and_root]);
    check("kvm-2018", [change, "", change, change]);
    check("kvm-2020", [change, "", change, change]);
    check("mapped", [""; 4]);
    check("ideal", [""; 4]);
}

#[test]
fn without_vpid_the_hardware_flushes() {
    let mut bench = Bench::with_l2(Policy::preset("no-vpid").unwrap());
    bench.launch();
    let entry = "flush transition hardware-entry vpid 0";
    let exit = "flush transition hardware-exit vpid 0";
    let flushes = bench.flushes();
    assert_eq!(flushes[..2], [entry, exit]);
    assert_eq!(bench.now(vmcs::VPID), 0);
}

#[test]
fn a_vmcs12_without_vpid_is_flushed_for_under_every_policy_with_tags() {
    for preset in PRESETS.iter().filter(|preset| preset.policy.tags != Tags::Off) {
        let mut bench = Bench::new(preset.policy);
        bench.vmxon(VMXON);
        bench.make_ept12();
        bench.make_vmcs12(VMCS_A, 0);
        bench.launch();
        bench.vmcall();
        let flushes = bench.flushes();
        // What the entry has dropped nothing can have brought back for the exit.
        let at_exit = usize::from(preset.name != "ideal");
        for (cause, count) in [("entry", 1), ("exit", at_exit)] {
            let cause = format!("flush invvpid-single nested-{cause} vpid 1");
            assert_eq!(flushes.iter().filter(|flush| **flush == cause).count(), count, "{} {cause}", preset.name);
        }
    }
}

#[test]
fn the_story_of_one_round_trip() {
    let mut bench = Bench::with_l2(Policy::preset("kvm-2015").unwrap());
    bench.launch();
    bench.l2_touches(0x1234, 1);
    bench.vmcall();
    let story = bench.story();
    let expected = [
        "entry 1",
        "exit 1 VMLAUNCH L0",
        "vpid map 5 2",
        "flush invept-single write-protect vpid 0",
        "flush invept-single write-protect vpid 0",
        "ept switch 0x0 0x0",
        "pool miss 0x11000 slot 0",
        "flush invvpid-single vpid12-change vpid 2",
        "flush invept-single root-load vpid 0",
        "entry 2",
        "exit 2 EPT_VIOLATION L0",
        "flush invept-single write-protect vpid 0",
        "flush invept-single write-protect vpid 0",
        "ept map 0x1000 0x1000",
        "entry 2",
        "exit 2 VMCALL L1",
        "flush invept-single root-load vpid 0",
    ];
    assert_eq!(story, expected);
    assert_eq!((bench.level(), bench.now(vmcs::GUEST_RIP), bench.now(vmcs::GUEST_RSP)), (1, 0xa000, 0xb000));
    assert_eq!(bench.vmread(vmcs::EXIT_REASON).reason(), Reason::VMCALL);
    assert_eq!(bench.vmread(vmcs::EXIT_INSTRUCTION_LENGTH), 3);
}

#[test]
fn a_hit_writes_what_changed_and_counts_the_rest() {
    let counts = |policy: Policy| {
        let mut bench = Bench::with_l2(policy);
        bench.launch();
        bench.vmcall();
        bench.vmwrite(vmcs::GUEST_RIP, 0x200);
        bench.log.events.clear();
        bench.resume();
        let pool = bench.log.events.iter().find_map(|event| match event.what {
            hv_defs::event::What::Pool(pool) => Some((pool.op.name(), pool.written, pool.skipped)),
            _ => None,
        });
        assert_eq!(bench.now(vmcs::GUEST_RIP), 0x200);
        pool.unwrap()
    };
    let all = counts(Policy { vmcs02_writes: Vmcs02Writes::All, ..Policy::default() });
    let dirty = counts(Policy { vmcs02_writes: Vmcs02Writes::Dirty, ..Policy::default() });
    assert_eq!((all.0, all.2, dirty.0), ("hit", 0, "hit"));
    assert_eq!(dirty.1, 1, "only RIP");
    assert_eq!(dirty.1 + dirty.2, all.1);
}

#[test]
fn what_l2_did_is_in_vmcs12_whenever_l1_looks() {
    for writes in [Vmcs02Writes::All, Vmcs02Writes::Dirty] {
        let mut bench = Bench::with_l2(Policy { vmcs02_writes: writes, ..Policy::default() });
        bench.launch();
        let moved = [
            (vmcs::GUEST_RIP.field(), 0x300),
            (vmcs::GUEST_FS_BASE.field(), 0x7777),
            (vmcs::GUEST_CR3.field(), 0x5000),
            (vmcs::GUEST_CR0.field(), 0x8000_003b), // TS, which L2 may set by itself
        ];
        bench.exits(Reason::VMCALL, &moved);
        assert_eq!(bench.vmread(vmcs::GUEST_RIP), 0x300);
        assert_eq!(bench.vmread(vmcs::GUEST_FS_BASE), 0x7777, "{writes}");
        assert_eq!(bench.vmread(vmcs::GUEST_CR3), 0x5000);
        assert_eq!(bench.vmread(vmcs::GUEST_CR0), 0x8000_003b);
        // In L1's memory too, once it is no longer current; and back from there.
        assert_eq!(bench.vmclear(VMCS_A), Flags::SUCCEED);
        let at = crate::vmcs::Vmcs::offset(vmcs::GUEST_FS_BASE.index()) as u64;
        assert_eq!(bench.load(VMCS_A + at), 0x7777);
        bench.vmptrld(VMCS_A);
        assert_eq!(bench.launch(), Flags::SUCCEED);
        assert_eq!(bench.now(vmcs::GUEST_FS_BASE), 0x7777);
    }
}

#[test]
fn the_pool_keeps_the_most_recent() {
    let mut bench = Bench::with_l2(Policy { pool: 2, ..Policy::default() });
    let third = 0x1_3000;
    for (region, vpid) in [(VMCS_B, 6), (third, 7)] {
        bench.make_vmcs12(region, vpid);
    }
    bench.log.events.clear();
    for region in [VMCS_A, VMCS_B, VMCS_A, third, VMCS_A, VMCS_B] {
        bench.vmptrld(region);
        if bench.launch() != Flags::SUCCEED {
            assert_eq!(bench.resume(), Flags::SUCCEED);
        }
        bench.vmcall();
    }
    let story: Vec<String> = bench.story().into_iter().filter(|line| line.starts_with("pool")).collect();
    assert_eq!(
        story,
        [
            "pool miss 0x11000 slot 0",
            "pool miss 0x12000 slot 1",
            "pool hit 0x11000 slot 0",
            "pool recycle 0x13000 slot 1",
            "pool hit 0x11000 slot 0",
            "pool recycle 0x12000 slot 1",
        ]
    );
    // VMCLEAR gives the slot up, and the next entry finds it free.
    bench.vmclear(VMCS_B);
    bench.vmptrld(third);
    bench.resume();
    let story: Vec<String> = bench.story().into_iter().filter(|line| line.starts_with("pool")).collect();
    assert_eq!(story, ["pool free 0x12000 slot 1", "pool miss 0x13000 slot 1"]);
}

#[test]
fn vpids_are_freed_once() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.make_vmcs12(VMCS_B, 6);
    for region in [VMCS_A, VMCS_B] {
        bench.vmptrld(region);
        bench.launch();
        bench.vmcall();
    }
    bench.log.events.clear();
    bench.vmx(Reason::VMXOFF, [0, 0], 0);
    let story: Vec<String> = bench.story();
    let of = |start: &str| story.iter().filter(|line| line.starts_with(start)).cloned().collect::<Vec<_>>();
    assert_eq!(of("vpid"), ["vpid free 5 2", "vpid free 6 3"]);
    assert_eq!(of("flush"), ["flush invvpid-single vpid-free vpid 2", "flush invvpid-single vpid-free vpid 3"]);
    assert_eq!(of("pool"), ["pool free 0x11000 slot 0", "pool free 0x12000 slot 1"]);
    bench.vmxon(VMXON);
    bench.vmx(Reason::VMXOFF, [0, 0], 0);
    assert!(bench.story().iter().all(|line| !line.starts_with("vpid") && !line.starts_with("flush")));
    // The next VMX operation starts afresh.
    bench.vmxon(VMXON);
    bench.vmptrld(VMCS_B);
    assert_eq!(bench.resume(), Flags(6));
    assert_eq!(bench.launch(), Flags(4));
    bench.vmclear(VMCS_B);
    bench.vmptrld(VMCS_B);
    assert_eq!(bench.launch(), Flags::SUCCEED);
    assert!(bench.story().contains(&"vpid map 6 2".to_owned()));
}

#[test]
fn invvpid_hits_the_vpid02_that_is_meant() {
    let check = |preset: &str, vpid12: u64, kind: u64, expected: &[&str]| {
        let mut bench = Bench::with_l2(Policy::preset(preset).unwrap());
        bench.make_vmcs12(VMCS_B, 6);
        for region in [VMCS_A, VMCS_B] {
            bench.vmptrld(region);
            bench.launch();
            bench.vmcall();
        }
        bench.l0.silicon.dropped.clear();
        assert_eq!(bench.vmx(Reason::INVVPID, [vpid12, 0x1000], kind), Flags::SUCCEED);
        assert_eq!(bench.l0.silicon.dropped, expected, "{preset} vpid12 {vpid12} type {kind}");
    };
    check("kvm-2011", 5, 1, &["0: invvpid Single 1"]);
    check("kvm-2015", 5, 1, &["0: invvpid Single 2"]);
    check("mapped", 5, 1, &["0: invvpid Single 2"]);
    check("mapped", 6, 0, &["0: invvpid Address 3"]);
    check("mapped", 6, 3, &["0: invvpid RetainGlobals 3"]);
    check("mapped", 7, 1, &[]);
    check("mapped", 0, 2, &["0: invvpid Single 2", "0: invvpid Single 3"]);
    check("no-vpid", 5, 1, &[]);
}

#[test]
fn a_recycled_vpid_is_flushed_first() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.vmcall();
    for vpid12 in 6..6 + 63 {
        bench.vmwrite(vmcs::VPID, vpid12);
        bench.resume();
        bench.vmcall();
    }
    bench.log.events.clear();
    bench.vmwrite(vmcs::VPID, 200);
    bench.resume();
    let story = bench.story();
    let at = story.iter().position(|line| line == "vpid recycle 200 2").expect("vpid12 5 was used least recently");
    assert_eq!(story[at + 1], "flush invvpid-single vpid-recycle vpid 2");
}

#[test]
fn exits_go_to_whom_they_belong() {
    let check = |reason: Reason, qualification: u64, expected: &str| {
        let mut bench = Bench::with_l2(Policy::default());
        bench.launch();
        bench.log.events.clear();
        bench.exits(reason, &[(vmcs::EXIT_QUALIFICATION.field(), qualification)]);
        assert_eq!(bench.story()[1], format!("exit 2 {reason} {expected}"));
    };
    check(Reason::CPUID, 0, "L1");
    check(Reason::HLT, 0, "L1");
    check(Reason::TRIPLE_FAULT, 0, "L1");
    check(Reason::VMXON, 0, "L1");
    check(Reason::EXTERNAL_INTERRUPT, 0, "L0");
    check(Reason::IO_INSTRUCTION, 0x70_0000, "L0"); // L1 neither has bitmaps nor asks for all
    check(Reason::RDMSR, 0, "L1"); // without a bitmap every MSR exits
    check(Reason::RDTSC, 0, "L0");
    check(Reason::CR_ACCESS, 3, "L1"); // MOV to CR3, which exits where the control is one
}

#[test]
fn an_interrupt_takes_l2_to_l1_that_asked() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.vmwrite(vmcs::PIN_BASED_CONTROLS, hv_defs::controls::PinBased::from_bits_retain(0x17));
    bench.vmwrite(vmcs::EXIT_CONTROLS, hv_defs::controls::ExitControls::from_bits_retain(0x3_efff));
    bench.launch();
    bench.exits(Reason::EXTERNAL_INTERRUPT, &[]);
    bench.log.events.clear();
    bench.bus.interrupt = Some(0x30);
    // L1 is entered, at its host RIP, interrupts off.
    bench.exits(Reason::CPUID, &[]);
    let story = bench.story();
    assert_eq!(story, ["exit 2 EXTERNAL_INTERRUPT L1", "entry 1", "exit 1 CPUID L0"]);
    let info = bench.vmread(vmcs::EXIT_INTERRUPTION_INFO);
    assert_eq!((info.valid(), info.vector()), (true, 0x30));
    assert_eq!(bench.bus.interrupt, None);
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut bench = Bench::preset("mapped");
    bench.bus.interrupt = Some(0x20);
    bench.exits(Reason::CPUID, &[]); // IF is clear
    assert!(bench.story().iter().all(|line| !line.starts_with("inject")));
    let primary = bench.now(vmcs::PRIMARY_CONTROLS);
    assert!(primary.contains(hv_defs::controls::PrimaryControls::INTERRUPT_WINDOW_EXITING));
    bench.exits(Reason::INTERRUPT_WINDOW, &[(vmcs::GUEST_RFLAGS.field(), 0x202)]);
    bench.exits(Reason::CPUID, &[]);
    assert!(bench.story().contains(&"inject 1 32".to_owned()));
    assert_eq!(bench.bus.interrupt, None);
}

#[test]
fn a_vcpu_that_moves_leaves_nothing_behind() {
    let mut bench = Bench::with_l2(Policy::default());
    bench.launch();
    bench.vmcall();
    bench.l0.silicon.dropped.clear();
    bench.cpu = 1;
    bench.exits(Reason::CPUID, &[]);
    assert_eq!(bench.l0.silicon.dropped, Vec::<String>::new(), "it was never there");
    assert!(bench.story().contains(&"migration from 0".to_owned()));
    assert_eq!(bench.resume(), Flags::SUCCEED);
    assert_eq!(bench.l0.silicon.entered.last().map(|(_, launch)| *launch), Some(false));
    bench.vmcall();
    assert!(bench.l0.silicon.entered.iter().rev().any(|(_, launch)| *launch), "vmcs02 was launched again");
    bench.cpu = 0;
    bench.exits(Reason::CPUID, &[]);
    assert_eq!(bench.l0.silicon.dropped, ["0: invvpid Single 1", "0: invvpid Single 2", "0: invept All 0x0"]);
}

#[test]
fn a_mark_is_an_event() {
    let mut bench = Bench::preset("mapped");
    *bench.gpr(0) = 42;
    bench.exits(Reason::IO_INSTRUCTION, &[(vmcs::EXIT_QUALIFICATION.field(), 0x0e9a_0003)]);
    assert!(bench.story().contains(&"mark 42".to_owned()));
    assert_eq!(bench.bus.written, [(0xe9a, 42)]);
}

#[test]
fn l2_s_time_is_l1_s_scaled_and_offset() {
    let mut bench = Bench::with_l2(Policy::default());
    let (primary, secondary) = (bench.vmread(vmcs::PRIMARY_CONTROLS), bench.vmread(vmcs::SECONDARY_CONTROLS));
    bench.vmwrite(vmcs::PRIMARY_CONTROLS, primary | PrimaryControls::TSC_OFFSETTING);
    bench.vmwrite(vmcs::SECONDARY_CONTROLS, secondary | SecondaryControls::TSC_SCALING);
    bench.vmwrite(vmcs::TSC_MULTIPLIER, 3 << 47);
    bench.vmwrite(vmcs::TSC_OFFSET, 1000);
    // L1's own counter is behind silicon's.
    bench.set_tsc_offset((-40i64) as u64);
    bench.launch();
    assert_eq!(bench.now(vmcs::TSC_MULTIPLIER), 3 << 47);
    assert_eq!(bench.now(vmcs::TSC_OFFSET), 1000 - 60);
}

#[test]
fn a_vcpu_that_ends_frees_every_vpid_once() {
    for preset in PRESETS {
        for in_l2 in [true, false] {
            let mut bench = Bench::with_l2(preset.policy);
            bench.launch();
            if !in_l2 {
                bench.vmcall();
            }
            let given: Vec<u16> = bench.log.events.iter().filter_map(|event| mapping(event, VpidOp::Map)).collect();
            for again in [false, true] {
                bench.log.events.clear();
                let (l0, bus, log) = (&mut bench.l0, &mut bench.bus, &mut bench.log);
                l0.tear_down(0, 0, bus, log);
                let freed = bench.log.events.iter().filter_map(|event| mapping(event, VpidOp::Free));
                let freed: Vec<u16> = freed.collect();
                assert_eq!(freed, if again { &[][..] } else { &given }, "{} again={again}", preset.name);
                let held = bench.l0.vcpus[0].tagging.held();
                assert!(held.is_empty(), "{}: {held:?}", preset.name);
                // Nobody else has one, so the lowest is the next one's.
                assert_eq!(bench.l0.shared.vpids.take(), 1, "{}", preset.name);
                bench.l0.shared.vpids.release(1);
            }
            assert!(bench.l0.vcpus[0].pool.slots.iter().all(|slot| slot.vmcs12.is_none()), "{}", preset.name);
        }
    }
}

/// The vpid02 of an event of the map.
fn mapping(event: &Event, op: VpidOp) -> Option<u16> {
    match event.what {
        What::Vpid(vpid) if vpid.op == op => Some(vpid.vpid02),
        _ => None,
    }
}
