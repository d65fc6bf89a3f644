//! L0's mistakes, one by one: with one switched on, an honest L1 notices, as it would on hardware.

use core::ops::ControlFlow;
use hv::machine::Machine;
use hv::world::World;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Actor, Cause, Event, InputKind, Vpid, VpidOp, What};
use hv_defs::exit::Reason;
use hv_defs::policy::{PRESETS, Policy, Shadowing, Tags};
use hv_defs::slip::{Slip, Slips};
use std::collections::BTreeSet;

#[derive(Default)]
struct Outside {
    console: Vec<u8>,
    events: Vec<Event>,
}

impl World for Outside {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        self.events.extend_from_slice(events);
        ControlFlow::Continue(())
    }

    fn console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

/// Runs a guest under a preset on so many physical CPUs, and gives what its console showed and all events.
fn run(guest: &str, preset: &str, pcpus: u16, slips: Slips) -> (String, Vec<Event>) {
    run_policy(guest, Policy::preset(preset).unwrap(), pcpus, slips)
}

fn run_policy(guest: &str, policy: Policy, pcpus: u16, slips: Slips) -> (String, Vec<Event>) {
    let config = Config {
        memory: 16 << 20,
        policy,
        slips,
        pcpus,
        vcpus: if guest == "handover" { 2 } else { 1 },
        // With several CPUs the one vCPU goes from one to the next.
        slice: if pcpus > 1 { 500 } else { 1_000_000 },
        max_instructions: Some(10_000_000),
        ..Config::new(Guest::BuiltIn(guest.to_owned()))
    };
    let mut outside = Outside::default();
    Machine::new(&config, &[]).unwrap().run(&mut outside);
    (String::from_utf8(outside.console).unwrap(), outside.events)
}

fn one(slip: Slip) -> Slips {
    Slips::default().with(slip)
}

/// With the slip the guest shows `symptom`, and without it does not.
#[track_caller]
fn check(guest: &str, preset: &str, pcpus: u16, slip: Slip, symptom: &str) {
    let (said, _) = run(guest, preset, pcpus, Slips::default());
    assert!(!said.contains(symptom), "{guest} under {preset} on {pcpus} without a slip: {said}");
    let (said, _) = run(guest, preset, pcpus, one(slip));
    assert!(said.contains(symptom), "{guest} under {preset} on {pcpus} with {slip}: {said}");
}

#[test]
fn without_a_slip_all_is_true() {
    for preset in PRESETS {
        for pcpus in [1, 2, 3] {
            for guest in ["witness", "handover"] {
                let (said, _) = run(guest, preset.name, pcpus, Slips::default());
                assert_eq!(said, format!("{guest}: all true\n"), "{} on {pcpus}", preset.name);
            }
        }
    }
}

#[test]
fn an_honest_guest_goes_wrong() {
    for preset in ["kvm-2018", "kvm-2020", "kvm-2021", "mapped", "ideal"] {
        check("witness", preset, 1, Slip::InvvpidWrongVpid, "after INVVPID L2 number 1 reads 4444, not 3333");
        check("witness", preset, 1, Slip::InvvpidAsInvept, "after INVVPID L2 number 1 reads 4444, not 3333");
        check("witness", preset, 1, Slip::InveptAsInvvpid, "after INVEPT L2 number 0 reads 2222, not 1111");
        check("witness", preset, 2, Slip::MigrationUnflushed, "witness: not true");
        check("witness", preset, 1, Slip::SharedTagUnflushed, "without VPID and EPT L2 number 2 reads");
    }
    for preset in ["kvm-2018", "kvm-2020", "kvm-2021"] {
        check("witness", preset, 1, Slip::Vpid12Unflushed, "under a VPID of its own L2 number 0 reads 3333, not 1111");
    }
    for preset in ["kvm-2018", "kvm-2020", "kvm-2021", "mapped", "ideal"] {
        check("handover", preset, 1, Slip::LastVpidKept, "L2 of CPU 1 reads 1111, not 2222");
        // On so many CPUs a vCPU comes to one where the other has left translations of a VPID that is its own now.
        check("handover", preset, 5, Slip::VpidStaleCpu, "L2 of CPU 1 reads 1111, not 2222");
    }
    check("witness", "mapped", 1, Slip::PoolStaleHit, "a VMWRITE of RSP did not reach L2");
    // What these years flush at each root load would show what L1 changed, had EPT02 been synced.
    check("stale", "kvm-2011", 1, Slip::Ept02Unsynced, "after the change, without INVEPT, L2 reads 1111");
    check("stale", "kvm-2015", 1, Slip::Ept02Unsynced, "after the change, without INVEPT, L2 reads 1111");
}

/// For each vpid02 in turn, how often it was given out and freed.
fn balance(preset: &str, slips: Slips) -> Vec<(u16, usize, usize)> {
    let (_, events) = run("witness", preset, 1, slips);
    let mut all: Vec<(u16, usize, usize)> = Vec::new();
    for event in &events {
        let What::Vpid(Vpid { op, vpid02, .. }) = event.what else { continue };
        let at = all.iter().position(|row| row.0 == vpid02).unwrap_or_else(|| {
            all.push((vpid02, 0, 0));
            all.len() - 1
        });
        all[at].1 += usize::from(op == VpidOp::Map);
        all[at].2 += usize::from(op == VpidOp::Free);
    }
    all
}

#[test]
fn every_vpid_is_freed_once() {
    // VMX operation is entered twice; what was taken the first time is taken again the second, but for the vpid02 that a
    // map has for the fourth L2, which runs only the first time.
    let all = |vpids: &[u16]| vpids.iter().map(|vpid| (*vpid, 2, 2)).collect::<Vec<_>>();
    for preset in ["kvm-2015", "kvm-2020", "kvm-2021", "mapped", "ideal"] {
        let expected = match Policy::preset(preset).unwrap().tags {
            Tags::Mapped => all(&[2, 3]).into_iter().chain([(4, 1, 1)]).collect(),
            _ => all(&[2]),
        };
        assert_eq!(balance(preset, Slips::default()), expected, "{preset}");
        for (vpid, _, freed) in balance(preset, one(Slip::VpidLeaked)) {
            assert_eq!(freed, 0, "{preset}: VPID {vpid}");
        }
        for (vpid, given, freed) in balance(preset, one(Slip::VpidFreedTwice)) {
            assert!(freed > given, "{preset}: VPID {vpid} is given out {given} times and freed {freed} times");
        }
    }
}

#[test]
fn a_root_load_flushes_what_is_entered() {
    // Of the EPT pointers that root loads flush, those that the entry behind them loads.
    let right = |slips| {
        let (_, events) = run("flush-storm", "kvm-2015", 1, slips);
        let mut flushed = None;
        let (mut same, mut other) = (0, 0);
        for event in &events {
            match event.what {
                What::Flush(flush) if flush.cause == Cause::RootLoad => flushed = Some(flush.eptp),
                What::Entry(entry) => match flushed.take() {
                    Some(eptp) if eptp == entry.eptp => same += 1,
                    Some(_) => other += 1,
                    None => {}
                },
                _ => {}
            }
        }
        (same, other)
    };
    let (same, other) = right(Slips::default());
    assert!(same > 50 && other == 0, "{same} right, {other} wrong");
    let (same, other) = right(one(Slip::FlushLeftEptp));
    assert!(same == 0 && other > 50, "{same} right, {other} wrong");
}

/// The flush rule of the APIC-access page. Before, L2 without EPT runs under L1's EPT pointer, and each entry and each exit
/// of such an L2 with an APIC-access page flushes it: `witness` runs one 16 times. After, L2s without EPT have EPT pointers
/// of their own, those with an APIC-access page another one, and nothing is flushed. With neither, L2 reads by what L1 has
/// cached of the page.
#[test]
fn the_apic_access_page_needs_a_flush_or_a_root_of_its_own() {
    let check = |apic_access_flush: bool, slips: Slips, flushes: usize, roots: usize, last: &str| {
        let policy = Policy { apic_access_flush, ..Policy::preset("kvm-2018").unwrap() };
        let (console, events) = run_policy("witness", policy, 1, slips);
        assert!(console.ends_with(last), "{apic_access_flush} {slips:?}: {console}");
        let flushed = events
            .iter()
            .filter(|event| matches!(event.what, What::Flush(flush) if flush.cause == Cause::ApicAccessPage));
        assert_eq!(flushed.count(), flushes, "{apic_access_flush} {slips:?}");
        // L1's, and those of the two L2s without EPT.
        let pointers = events.iter().filter_map(|event| match event.what {
            What::Entry(entry) if entry.level == 1 || matches!(entry.vmcs12, 0x1_2000 | 0x1_3000) => Some(entry.eptp),
            _ => None,
        });
        assert_eq!(pointers.collect::<BTreeSet<_>>().len(), roots, "{apic_access_flush} {slips:?}");
    };
    let slip = one(Slip::ApicAccessUnflushed);
    check(true, Slips::default(), 32, 1, "witness: all true\n");
    check(false, Slips::default(), 0, 3, "witness: all true\n");
    check(true, slip, 0, 1, "witness: not true: 16\n");
    check(false, slip, 0, 1, "witness: not true: 16\n");
}

/// What the three ways of offering VMCS shadowing show of [`nest`](hv::guests), as its file derives it: what L1 sees of
/// L2's VMREADs and VMWRITEs, and how many exits of them silicon makes.
#[test]
fn vmcs_shadowing_spares_l1_and_then_silicon_the_exits() {
    let check = |shadowing: Shadowing, slips: Slips, rights: &str, l1: (usize, usize), l0: usize| {
        let policy = Policy { shadowing, ..Policy::default() };
        let (console, events) = run_policy("nest", policy, 1, slips);
        let expected = format!(
            "nest: L2 saw 8 of 8 exits of L3, which counted 8, and keeps access rights 0x{rights}\n\
             nest: L1 saw {} VMREADs and {} VMWRITEs of L2\n",
            l1.0, l1.1
        );
        assert_eq!(console, expected, "{shadowing} {slips:?}");
        let exits = |reason: Reason, by: Actor| {
            let exits = events.iter().filter(|event| match event.what {
                What::Exit(exit) => exit.level == 2 && exit.basic() == reason && exit.handled_by == by,
                _ => false,
            });
            exits.count()
        };
        assert_eq!((exits(Reason::VMREAD, Actor::L1), exits(Reason::VMWRITE, Actor::L1)), l1, "{shadowing} {slips:?}");
        assert_eq!(exits(Reason::VMREAD, Actor::L0) + exits(Reason::VMWRITE, Actor::L0), l0, "{shadowing} {slips:?}");
        // L3 is told apart, and so are its entries.
        let third = events.iter().filter_map(|event| match &event.what {
            What::Exit(exit) if exit.level > 2 => Some((exit.level, exit.basic())),
            What::Entry(entry) if entry.level > 2 => Some((entry.level, Reason(u16::MAX))),
            _ => None,
        });
        let (entries, exits): (Vec<_>, Vec<_>) = third.partition(|(_, reason)| reason.0 == u16::MAX);
        assert_eq!(exits, [(3, Reason::VMCALL); 8], "{shadowing} {slips:?}");
        assert_eq!(entries.len(), 8, "{shadowing} {slips:?}");
    };
    let none = Slips::default();
    check(Shadowing::Off, none, "1f0ff", (25, 13), 0);
    check(Shadowing::Emulated, none, "1f0ff", (8, 1), 29);
    check(Shadowing::Virtualized, none, "1f0ff", (8, 1), 0);
    // Where silicon writes the field it masks it by itself.
    check(Shadowing::Emulated, one(Slip::RightsUnmasked), "ffffffff", (8, 1), 29);
    check(Shadowing::Virtualized, one(Slip::RightsUnmasked), "1f0ff", (8, 1), 0);
}
