//! A recorded guest under other policies: its own row is the recording, another policy's what a recording under it has.

mod common;

use common::{config, record};
use hv_defs::config::Config;
use hv_defs::event::{Event, Kind, What};
use hv_defs::policy::{Policy, Shadowing};
use replayer::whatif::{Apart, Ran, whatif};
use std::collections::BTreeMap;
use traces::Reader;

/// Events by kind, and flushes by cause.
type Counts = BTreeMap<String, u64>;

fn count(counts: &mut Counts, event: &Event) {
    *counts.entry(event.what.kind().name().to_owned()).or_default() += 1;
    if let What::Flush(flush) = event.what {
        *counts.entry(format!("flush {} {}", flush.cause, flush.kind)).or_default() += 1;
        *counts.entry("dropped".into()).or_default() += u64::from(flush.dropped);
    }
}

fn counts(reader: &Reader) -> Counts {
    let mut all = Counts::new();
    reader.events(0).for_each(|event| count(&mut all, &event.expect("sound")));
    all
}

fn run(reader: &Reader, configs: &[Config]) -> Vec<(Counts, Ran)> {
    whatif(reader, configs, Counts::new, |counts, _, event| count(counts, event), &|_| {}).expect("run")
}

const POLICIES: [&str; 7] = ["kvm-2011", "kvm-2013-pool", "kvm-2015", "kvm-2018", "kvm-2020", "mapped", "ideal"];

#[test]
fn each_row_is_what_a_recording_under_that_policy_has() {
    for guest in ["demo", "flush-storm", "pool-thrash"] {
        let own = config(guest, "mapped");
        let reader = record(&own);
        let configs: Vec<Config> = POLICIES.iter().map(|policy| config(guest, policy)).collect();
        for (policy, (counted, ran)) in POLICIES.iter().zip(run(&reader, &configs)) {
            let what = format!("{guest} under {policy}");
            assert_eq!(counted, counts(&record(&config(guest, policy))), "{what}");
            assert_eq!((ran.own, ran.divergence), (*policy == "mapped", None), "{what}");
            assert_eq!(ran.apart, None, "{what}");
            assert!(ran.steps > 10 && ran.stops > 10, "{what}: {} steps, {} stops", ran.steps, ran.stops);
        }
    }
}

#[test]
fn pools_and_tlbs_of_other_sizes_leave_the_guest_as_it_was() {
    let own = config("pool-thrash", "mapped");
    let reader = record(&own);
    let pools = [1, 2, 4, 8].map(|pool| Config { policy: Policy { pool, ..own.policy }, ..own.clone() });
    let tlbs = [16, 64].map(|tlb_entries| Config { tlb_entries, ..own.clone() });
    let ran = run(&reader, &[pools.as_slice(), tlbs.as_slice()].concat());
    assert!(ran.iter().all(|(_, ran)| ran.apart.is_none() && ran.divergence.is_none()));
    let entries: Vec<u64> = ran.iter().map(|(counts, _)| counts[Kind::Entry.name()]).collect();
    assert!(entries.iter().all(|count| *count == entries[0]), "{entries:?}");
}

#[test]
fn a_guest_that_sees_the_policy_is_told_to() {
    // The forgotten INVEPT shows under one policy and not under the other.
    let reader = record(&config("stale", "mapped"));
    let ran = run(&reader, &[config("stale", "kvm-2011"), config("stale", "mapped")]);
    assert!(ran[0].1.apart.is_some() && ran[1].1.apart.is_none(), "{ran:?}");
    // L1 sees whether VMCS shadowing is offered, and says something else then.
    let own = config("nest", "mapped");
    let shadowing = Policy { shadowing: Shadowing::Virtualized, ..own.policy };
    let reader = record(&own);
    let ran = run(&reader, &[Config { policy: shadowing, ..own.clone() }, own]);
    let Some(apart @ Apart::Step { .. } | apart @ Apart::State { .. }) = &ran[0].1.apart else {
        panic!("{:?}", ran[0].1)
    };
    assert!(!apart.to_string().is_empty() && apart.instruction() < 10_000, "{apart}");
    assert_eq!(ran[1].1.apart, None);
}

#[test]
fn a_trace_that_was_cut_short_runs_to_its_end() {
    let own = config("demo", "mapped");
    let mut bytes = Vec::new();
    let whole = record(&own);
    let mut writer = traces::Writer::create(&mut bytes, whole.header()).expect("a vector takes all");
    let cut = whole.len() / 2;
    whole.events(0).take(cut as usize).for_each(|event| writer.push(&event.expect("sound")).expect("pushed"));
    writer.end_block().expect("flushed");
    drop(writer);
    let reader = Reader::from_bytes(bytes).expect("a prefix");
    assert!(reader.truncated());
    let ran = run(&reader, &[config("demo", "kvm-2011"), own]);
    assert!(ran.iter().all(|(_, ran)| ran.apart.is_none() && ran.divergence.is_none()), "{ran:?}");
}
