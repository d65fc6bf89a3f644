//! L0's mistakes, one by one: with one switched on, an honest L1 notices, as it would on hardware.

use core::ops::ControlFlow;
use hv::machine::Machine;
use hv::world::World;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Cause, Event, InputKind, Vpid, VpidOp, What};
use hv_defs::policy::{PRESETS, Policy};
use hv_defs::slip::{Slip, Slips};

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
    let config = Config {
        memory: 16 << 20,
        policy: Policy::preset(preset).unwrap(),
        slips,
        pcpus,
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
            let (said, _) = run("witness", preset.name, pcpus, Slips::default());
            assert_eq!(said, "witness: all true\n", "{} on {pcpus}", preset.name);
        }
    }
}

#[test]
fn an_honest_guest_goes_wrong() {
    for preset in ["kvm-2018", "kvm-2020", "mapped"] {
        check("witness", preset, 1, Slip::InvvpidWrongVpid, "after INVVPID L2 number 1 reads 4444, not 3333");
        check("witness", preset, 1, Slip::InvvpidAsInvept, "after INVVPID L2 number 1 reads 4444, not 3333");
        check("witness", preset, 1, Slip::InveptAsInvvpid, "after INVEPT L2 number 0 reads 2222, not 1111");
        check("witness", preset, 2, Slip::MigrationUnflushed, "L2 number 0 reads 2222, not 1111");
        check("witness", preset, 1, Slip::SharedTagUnflushed, "without VPID and EPT L2 number 2 reads");
    }
    check("witness", "kvm-2018", 1, Slip::Vpid12Unflushed, "under a VPID of its own L2 number 0 reads 3333, not 1111");
    check("witness", "kvm-2020", 1, Slip::Vpid12Unflushed, "under a VPID of its own L2 number 0 reads 3333, not 1111");
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
    for preset in ["kvm-2015", "kvm-2020", "mapped"] {
        // VMX operation is entered twice; what was taken the first time is taken again the second.
        for (vpid, given, freed) in balance(preset, Slips::default()) {
            assert_eq!((given, freed), (2, 2), "{preset}: VPID {vpid}");
        }
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
