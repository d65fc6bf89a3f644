//! L0 alone does what it did, whatever it is told; and what it does otherwise is found where it begins.

mod common;

use common::{events, record, rewrite};
use hv_defs::config::{Config, Log};
use hv_defs::event::{AnswerOf, Kind, VmcsOp, What};
use hv_defs::policy::PRESETS;
use hv_defs::slip::{Slip, Slips};
use replayer::{Error, L0Verdict, Options, mutate, replay, replay_l0, state_at};
use traces::Reader;

/// With silicon's answers.
fn config(guest: &str, policy: &str) -> Config {
    Config { log: Log::L0, ..common::config(guest, policy) }
}

fn alone(reader: &Reader) -> L0Verdict {
    replay_l0(reader, None, None).expect("replayed")
}

#[track_caller]
fn check(config: &Config) -> Reader {
    let reader = record(config);
    let found = alone(&reader);
    let what = format!("{:?} under {:?} with {:?}", config.guest, config.policy, config.slips);
    assert_eq!(found.verdict.divergence, None, "{what}");
    assert!(found.identical(), "{what}: {:?}", found.failure);
    assert_eq!(found.verdict.events, reader.len(), "{what}");
    assert!(found.entries > 10 && found.digests > 0, "{what}: {} entries", found.entries);
    reader
}

#[test]
fn every_guest_is_replayed_without_a_cpu_under_every_policy() {
    for guest in hv::guests::list() {
        for preset in PRESETS {
            check(&config(guest.name, preset.name));
        }
    }
}

#[test]
fn several_cpus_and_every_slip() {
    for cpus in [(2, 1), (1, 2), (2, 2), (3, 2)] {
        check(&Config { vcpus: cpus.0, pcpus: cpus.1, slice: 10_000, ..config("handover", "kvm-2018") });
    }
    for &slip in Slip::ALL {
        check(&Config { slips: Slips::default().with(slip), ..config("demo", "kvm-2018") });
    }
}

#[test]
fn a_full_replay_compares_the_answers_too() {
    let reader = record(&config("demo", "mapped"));
    let full = replay(&reader, &Options::default()).expect("replayed");
    assert_eq!((full.divergence.as_ref(), full.events), (None, reader.len()));
    let mut all = events(&reader);
    let at = all.iter().rposition(|event| event.what.kind() == Kind::Answer).expect("an answer");
    if let What::Answer(answer) = &mut all[at].what {
        answer.value ^= 1;
    }
    let found = replay(&rewrite(&reader, &all), &Options::default()).expect("replayed").divergence.expect("found");
    assert_eq!((found.event, found.field), (at as u64, "value"));
    // Whoever wants the machine at an event gets it from such a trace too.
    let (_, verdict) = state_at(&reader, reader.len() / 2).expect("replayed");
    assert!(verdict.identical() && verdict.events > reader.len() / 2, "{verdict:?}");
}

#[test]
fn a_decision_that_changed_is_found_where_it_changed() {
    let reader = record(&config("demo", "kvm-2018"));
    let all = events(&reader);
    let mut changed = 0;
    for &slip in Slip::ALL {
        let found = replay_l0(&reader, None, Some(Slips::default().with(slip))).expect("replayed");
        let Some(divergence) = &found.verdict.divergence else { continue };
        changed += 1;
        assert_eq!(divergence.recorded.as_ref(), all.get(divergence.event as usize), "{slip}");
        assert_ne!(divergence.recorded, divergence.replayed, "{slip}");
        assert!(!found.identical() && found.verdict.events == divergence.event, "{slip}");
    }
    assert!(changed >= 5, "{changed} slips show in this guest's run");
}

#[test]
fn altered_answers_and_events_are_found() {
    let reader = record(&config("demo", "mapped"));
    let all = events(&reader);
    let (mut found, mut tried) = (0, 0);
    for at in (7..all.len() - 2).step_by(all.len() / 97 + 1) {
        let mut altered = all.clone();
        let bit = 1 << (at % 12);
        match &mut altered[at].what {
            What::Exit(exit) => exit.rip ^= bit,
            What::Entry(entry) => entry.fields_written ^= bit as u16,
            What::Vmcs(access) if access.op == VmcsOp::Write => access.value ^= bit,
            What::Flush(flush) => flush.address ^= bit,
            What::Ept(change) => change.new ^= bit,
            _ => continue,
        }
        tried += 1;
        let divergence = alone(&rewrite(&reader, &altered)).verdict.divergence.expect("it was altered");
        assert_eq!(divergence.event, at as u64, "{:?}", all[at]);
        found += 1;
    }
    assert!(found == tried && tried > 20, "{found} of {tried}");
    // An answer is what L0 works with: what it does then is compared.
    let at = all.iter().position(|event| matches!(&event.what, What::Vmcs(v) if v.op == VmcsOp::Read)).expect("a read");
    let mut altered = all.clone();
    if let What::Vmcs(access) = &mut altered[at].what {
        (access.old, access.value) = (access.old ^ 1, access.value ^ 1);
    }
    assert!(!alone(&rewrite(&reader, &altered)).identical());
}

#[test]
fn traces_without_answers_are_refused() {
    for log in [Log::Exits, Log::Vmcs] {
        let reader = record(&Config { log, ..config("demo", "mapped") });
        let refused = replay_l0(&reader, None, None).expect_err("no answers");
        assert!(matches!(refused, Error::NoAnswers(level) if level == log) && refused.to_string().contains("--log l0"));
        assert!(events(&reader).iter().all(|event| event.what.kind() != Kind::Answer));
    }
}

#[test]
fn a_trace_that_was_cut_is_replayed_to_its_last_entry() {
    let reader = record(&config("demo", "mapped"));
    let all = events(&reader);
    for length in [all.len() - 1, all.len() / 2, all.len() / 3, all.len() / 50] {
        let cut = rewrite(&reader, &all[..length]);
        let last = all[..length].iter().rposition(|event| event.what.kind() == Kind::Entry).expect("an entry");
        let found = alone(&cut);
        assert!(found.identical(), "{length}: {:?}", found.verdict.divergence);
        assert_eq!(found.verdict.events, last as u64, "{length}");
    }
    for none in [0, 30] {
        assert_eq!(alone(&rewrite(&reader, &all[..none])).verdict.events, 0, "no entry is whole");
    }
}

#[test]
fn answers_are_few() {
    let reader = record(&config("demo", "mapped"));
    let all = events(&reader);
    let count = |kind| all.iter().filter(|event| event.what.kind() == kind).count();
    let capabilities =
        all.iter().filter(|e| matches!(&e.what, What::Answer(a) if a.of == AnswerOf::Capability)).count();
    assert_eq!(capabilities, 18);
    assert!(count(Kind::Answer) < 6 * count(Kind::Exit), "{} answers", count(Kind::Answer));
}

#[test]
fn altered_silicon_does_not_break_l0() {
    for (guest, policy) in [("demo", "mapped"), ("nest", "kvm-2018")] {
        let Some(_) = hv::guests::by_name(guest) else { continue };
        let reader = record(&config(guest, policy));
        let mutated = mutate(&reader, 1, 30, &mut |_| {}).expect("mutated");
        assert_eq!(mutated.found, None, "{guest}");
        assert!(mutated.runs == 30 && mutated.entries > 30, "{guest}: {mutated:?}");
        assert_eq!(mutate(&reader, 1, 30, &mut |_| {}).expect("mutated"), mutated, "equal seeds alter equally");
    }
}
