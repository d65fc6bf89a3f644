//! The judge by replay, proved by experiment: silicon is told to leave out one flush, and what becomes of every access is
//! compared. Then each mistake of L0's, and what the judge says of it.

mod common;

use common::{Nobody, record};
use hv::machine::Machine;
use hv::mmu::Adversary;
use hv_defs::config::{Config, Log};
use hv_defs::event::{Actor, Cause, FlushKind, What};
use hv_defs::policy::PRESETS;
use hv_defs::slip::Slip;
use replayer::judge::{Judgement, Need, judge};
use std::collections::BTreeMap;

fn config(guest: &str, policy: &str, pcpus: u16, slips: &[Slip]) -> Config {
    Config {
        memory: 16 << 20,
        slips: slips.iter().copied().collect(),
        pcpus,
        vcpus: if guest == "handover" { 2 } else { 1 },
        // With several CPUs the one vCPU goes from one to the next.
        slice: if pcpus > 1 { 500 } else { 1_000_000 },
        max_instructions: Some(10_000_000),
        // Nothing is evicted.
        tlb_entries: 1 << 14,
        ..common::config(guest, policy)
    }
}

fn judged(config: &Config) -> Judgement {
    let reader = record(config);
    let judgement = judge(&reader).expect("judged");
    assert_eq!(judgement.divergence, None);
    let flushes = reader.events(0).map(|event| event.expect("sound"));
    let flushes = flushes.filter(|event| matches!(event.what, What::Flush(flush) if flush.actor == Actor::L0)).count();
    assert_eq!(judgement.flushes.iter().filter(|judged| judged.need != Need::Missing).count(), flushes);
    judgement
}

fn count(judgement: &Judgement, need: Need) -> usize {
    judgement.flushes.iter().filter(|judged| judged.need == need).count()
}

/// What becomes of every access of a run with one flush left out.
fn accesses(config: &Config, left_out: Option<u64>) -> Vec<(u64, u64)> {
    let config = Config { log: Log::Exits, ..config.clone() };
    let mut machine = Machine::new(&config, &[]).expect("a machine");
    machine.silicon().set_adversary(Adversary::of_every_access);
    machine.silicon().leave_out_flush(left_out);
    machine.run(&mut Nobody);
    let pcpus = usize::from(config.pcpus);
    (0..pcpus).filter_map(|cpu| Some(machine.silicon().mmu(cpu).adversary()?.trail())).collect()
}

/// Leaves out, of each verdict, up to `most` flushes one by one.
#[track_caller]
fn experiment(guest: &str, policy: &str, pcpus: u16, slips: &[Slip], most: usize) {
    let config = config(guest, policy, pcpus, slips);
    let judgement = judged(&config);
    let all = accesses(&config, None);
    assert!(all.iter().map(|(_, count)| count).sum::<u64>() > 1000, "{guest} under {policy}: {all:?}");
    let flushes: Vec<_> = judgement.flushes.iter().filter(|judged| judged.need != Need::Missing).collect();
    for need in [Need::Required, Need::TooBroad, Need::Redundant] {
        let of: Vec<usize> = (0..flushes.len()).filter(|number| flushes[*number].need == need).collect();
        for &number in of.iter().step_by(of.len().div_ceil(most).max(1)) {
            let same = accesses(&config, Some(number as u64)) == all;
            let what = flushes[number];
            assert_eq!(same, need == Need::Redundant, "{guest} under {policy} without flush {number}: {what:?}");
        }
    }
}

#[test]
fn a_flush_left_out_changes_what_its_verdict_says() {
    for policy in ["no-vpid", "kvm-2011", "kvm-2015", "kvm-2018", "kvm-2021", "mapped", "ideal"] {
        experiment("witness", policy, 1, &[], 12);
        experiment("demo", policy, 1, &[], 5);
        experiment("stale", policy, 1, &[], 5);
    }
    experiment("witness", "mapped", 2, &[], 10);
    experiment("handover", "kvm-2018", 2, &[], 10);
    experiment("flush-storm", "kvm-2015", 1, &[], 5);
    experiment("witness", "kvm-2018", 1, &[Slip::InvvpidWrongVpid], 8);
}

#[test]
fn so_it_is_of_every_guest_under_every_policy() {
    for guest in hv::guests::list() {
        for preset in PRESETS {
            experiment(guest.name, preset.name, 1, &[], 2);
        }
    }
}

#[test]
fn an_l0_that_does_all_it_owes_misses_nothing() {
    for preset in PRESETS {
        for (guest, pcpus) in [
            ("demo", 1),
            ("stale", 1),
            ("flush-storm", 1),
            ("multiplication", 1),
            ("nest", 1),
            ("pool-thrash", 1),
            ("resync", 1),
            ("witness", 1),
            ("witness", 2),
            ("handover", 3),
        ] {
            let judgement = judged(&config(guest, preset.name, pcpus, &[]));
            assert_eq!(judgement.out_of_line, [], "{guest} under {} on {pcpus}", preset.name);
            let missing: Vec<_> =
                judgement.flushes.iter().filter(|judged| judged.need == Need::Missing).take(2).collect();
            // It is L1 that forgets an INVEPT there, which shows where L0 takes the change into EPT02 by itself.
            if guest == "stale" {
                assert!(missing.iter().all(|judged| judged.flush.actor == Actor::L1), "{missing:#?}");
                continue;
            }
            assert!(missing.is_empty(), "{guest} under {} on {pcpus}: {missing:#?}", preset.name);
            assert!(judgement.flushes.iter().all(|judged| !judged.wrong_target), "{guest} under {}", preset.name);
        }
    }
}

#[test]
fn a_verdict_has_its_proofs() {
    let judgement = judged(&config("witness", "kvm-2018", 1, &[]));
    assert!(count(&judgement, Need::Required) > 0);
    for judged in &judgement.flushes {
        let proven = matches!(judged.need, Need::Required | Need::TooBroad);
        assert_eq!((judged.proven > 0, !judged.proofs.is_empty()), (proven, proven), "{judged:?}");
        assert!(
            judged.proofs.iter().all(|proof| proof.event > judged.event && proof.entry.now != Some(proof.entry.target))
        );
    }
}

/// What the judge says with a mistake that it does not say without.
#[derive(Debug, Default, PartialEq)]
struct Said {
    missing: bool,
    wrong_target: bool,
    wasted: bool,
    unsynced: bool,
}

fn said(guest: &str, policy: &str, pcpus: u16, slips: &[Slip]) -> Said {
    let judgement = judged(&config(guest, policy, pcpus, slips));
    let wasted = judgement.flushes.iter().filter(|judged| judged.need == Need::Redundant && judged.wrong_target);
    Said {
        missing: count(&judgement, Need::Missing) > 0,
        wrong_target: judgement.flushes.iter().any(|judged| judged.wrong_target),
        wasted: wasted.count() > 0,
        unsynced: !judgement.out_of_line.is_empty(),
    }
}

#[test]
fn each_slip_is_named_in_its_direction() {
    let missing = Said { missing: true, ..Said::default() };
    let wrong = || Said { missing: true, wrong_target: true, wasted: true, unsynced: false };
    let unsynced = || Said { unsynced: true, ..Said::default() };
    let rows = [
        (Slip::FlushLeftEptp, "flush-storm", "kvm-2015", 1, Said { missing: false, ..wrong() }),
        (Slip::Ept02Unsynced, "resync", "kvm-2018", 1, unsynced()),
        (Slip::Ept02Unsynced, "resync", "mapped", 1, unsynced()),
        (Slip::Vpid12Unsynced, "resync", "kvm-2021", 1, unsynced()),
        // A policy that loads cached roots as they are owes no more.
        (Slip::Ept02Unsynced, "resync", "kvm-2020", 1, Said::default()),
        (Slip::InvvpidWrongVpid, "witness", "kvm-2018", 1, wrong()),
        (Slip::InvvpidAsInvept, "witness", "kvm-2018", 1, wrong()),
        (Slip::InveptAsInvvpid, "witness", "kvm-2018", 1, wrong()),
        (Slip::Vpid12Unflushed, "witness", "kvm-2018", 1, missing),
        (Slip::LastVpidKept, "handover", "kvm-2018", 1, Said { missing: true, ..Said::default() }),
        (Slip::VpidStaleCpu, "handover", "kvm-2018", 5, Said { missing: true, ..Said::default() }),
        (Slip::MigrationUnflushed, "witness", "kvm-2018", 2, Said { missing: true, ..Said::default() }),
        (Slip::SharedTagUnflushed, "witness", "kvm-2018", 1, Said { missing: true, ..Said::default() }),
        (Slip::ApicAccessUnflushed, "witness", "kvm-2018", 1, Said { missing: true, ..Said::default() }),
    ];
    let mut wrong = BTreeMap::new();
    for (slip, guest, policy, pcpus, expected) in rows {
        assert_eq!(said(guest, policy, pcpus, &[]), Said::default(), "{guest} under {policy} without {slip}");
        let got = said(guest, policy, pcpus, &[slip]);
        if got != expected {
            wrong.insert(slip.name(), (got, expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_stands_in_a_wrong_place_is_named() {
    let judgement = judged(&config("stale", "kvm-2018", 1, &[]));
    assert_eq!(count(&judgement, Need::Missing), 1, "the INVEPT that L1 forgets");
    let judgement = judged(&config("witness", "kvm-2018", 1, &[Slip::InveptAsInvvpid]));
    let missing = judgement.flushes.iter().find(|judged| judged.need == Need::Missing).expect("one is missing");
    assert_eq!((missing.flush.kind, missing.flush.actor), (FlushKind::InveptSingle, Actor::L0));
    let judgement = judged(&config("witness", "kvm-2018", 1, &[Slip::Vpid12Unflushed]));
    let missing = judgement.flushes.iter().find(|judged| judged.need == Need::Missing).expect("one is missing");
    assert_eq!((missing.flush.kind, missing.flush.cause), (FlushKind::InvvpidSingle, Cause::Vpid12Change));
}
