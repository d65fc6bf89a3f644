//! What was recorded is replayed the same, and what was altered is found where it was altered.

mod common;

use common::{config, events, open, record, record_typed, rewrite};
use hv_defs::config::Config;
use hv_defs::event::{Event, Kind, StopKind, What};
use replayer::{Options, Side, replay, replay_many, state_at};
use traces::{Reader, Writer};

const GUESTS: [&str; 4] = ["demo", "flush-storm", "pool-thrash", "stale"];
const POLICIES: [&str; 3] = ["kvm-2011", "kvm-2015", "mapped"];

fn demo() -> Reader {
    record(&config("demo", "mapped"))
}

#[test]
fn every_guest_replays_the_same_under_every_policy() {
    for guest in GUESTS {
        for policy in POLICIES {
            let config = config(guest, policy);
            let (bytes, recorded, _) = record_typed(&config, "", usize::MAX);
            assert_eq!(bytes, record_typed(&config, "", usize::MAX).0, "{guest} {policy}: two recordings");
            let reader = open(&bytes);
            let verdict = replay(&reader, &Options::default()).expect("replayed");
            assert_eq!(verdict.divergence, None, "{guest} {policy}");
            assert_eq!((verdict.events, verdict.truncated), (reader.len(), false), "{guest} {policy}");
            assert_eq!(verdict.stop, Some(recorded.stop), "{guest} {policy}");
            assert!(reader.len() > 10, "{guest} {policy}: {} events", reader.len());
        }
    }
}

#[test]
fn keys_and_a_stop_from_outside_are_replayed() {
    let asks_often = Config { slice: 500, digest_interval: 2000, ..config("demo", "mapped") };
    let (bytes, recorded, _) = record_typed(&asks_often, "hello", 20_000);
    let reader = open(&bytes);
    let verdict = replay(&reader, &Options::default()).expect("replayed");
    assert_eq!((verdict.divergence, verdict.events), (None, reader.len()));
    assert_eq!(verdict.stop, Some(recorded.stop));
    assert_eq!(verdict.stop.map(|stop| stop.kind), Some(StopKind::World));
    let counts = reader.counts().expect("an index");
    let count = |kind: Kind| counts.iter().find(|(name, _)| name == kind.name()).map_or(0, |(_, count)| *count);
    assert_eq!(count(Kind::Input), 6, "five keys and the stop");
    assert!(count(Kind::Digest) > 1);
}

#[test]
fn many_runs_have_one_digest() {
    let reader = demo();
    let runs = replay_many(&reader, &Options::default(), 20, &|_| {}).expect("replayed");
    assert_eq!((runs.runs, runs.identical), (20, 20));
    assert_eq!(runs.verdict, replay(&reader, &Options::default()).expect("replayed"));
    let mut other = events(&reader);
    other.pop();
    let shorter = replay(&rewrite(&reader, &other), &Options { to: Some(other.len() as u64 - 1) }).expect("replayed");
    assert_ne!(shorter.digest, runs.verdict.digest);
}

#[test]
fn an_altered_vmcs_value_is_found_at_its_event_and_field() {
    let reader = demo();
    let events = events(&reader);
    let accesses = events.iter().enumerate().filter(|(_, event)| event.what.kind() == Kind::Vmcs);
    let accesses: Vec<usize> = accesses.map(|(at, _)| at).collect();
    assert!(!accesses.is_empty());
    for &at in accesses.iter().step_by(accesses.len().div_ceil(25)) {
        let mut altered = events.clone();
        let What::Vmcs(access) = &mut altered[at].what else { continue };
        let true_value = access.value;
        access.value ^= 1 << (at % 64);
        let verdict = replay(&rewrite(&reader, &altered), &Options::default()).expect("replayed");
        let found = verdict.divergence.expect("a difference");
        assert_eq!((found.event, found.field, found.side), (at as u64, "value", Side::Both));
        assert_eq!(found.got.to_string(), format!("{true_value:#x}"));
        assert_eq!((verdict.events, verdict.stop), (at as u64, None));
    }
}

#[test]
fn an_event_too_many_or_too_few_is_found() {
    let reader = demo();
    let events = events(&reader);
    let last = events.len() - 1;
    let check = |events: &[Event], event: usize, side: Side| {
        let verdict = replay(&rewrite(&reader, events), &Options::default()).expect("replayed");
        let found = verdict.divergence.expect("a difference");
        assert_eq!((found.event, found.side), (event as u64, side));
    };
    // Without its end, a trace says nothing of what comes behind its last event.
    let cut = replay(&rewrite(&reader, &events[..last]), &Options::default()).expect("replayed");
    assert!(cut.identical() && cut.truncated && cut.events == last as u64);
    let mut less = events.clone();
    less.remove(last - 1);
    check(&less, last - 1, Side::Both);
    let mut more = events.clone();
    more.push(events[last].clone());
    check(&more, last + 1, Side::Recorded);
    let mut mark = events.clone();
    mark.insert(3, Event { at: events[3].at, what: What::Mark(0xbeef) });
    check(&mark, 3, Side::Both);
}

#[test]
fn a_replay_stops_where_it_is_told_and_at_the_end_of_a_cut_trace() {
    let (bytes, ..) = record_typed(&config("demo", "mapped"), "", usize::MAX);
    let reader = open(&bytes);
    let (_, verdict) = state_at(&reader, 7).expect("replayed");
    assert_eq!((verdict.events, verdict.divergence, verdict.stop), (8, None, None));
    let info = reader.blocks()[reader.blocks().len() - 1];
    let cut = open(&bytes[..(info.offset + info.bytes) as usize]);
    assert!(cut.truncated());
    let verdict = replay(&cut, &Options::default()).expect("replayed");
    assert_eq!((verdict.events, verdict.truncated, verdict.divergence), (cut.len(), true, None));
    let nothing = open(&bytes[..reader.blocks()[0].offset as usize]);
    let verdict = replay(&nothing, &Options::default()).expect("replayed");
    assert_eq!((verdict.events, verdict.truncated, verdict.divergence), (0, true, None));
}

#[test]
fn damage_stops_a_replay_at_a_named_event() {
    let reader = demo();
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, reader.header()).expect("a vector takes all");
    for (at, event) in events(&reader).iter().enumerate() {
        if at == 30 {
            writer.end_block().expect("a vector takes all");
        }
        writer.push(event).expect("a vector takes all");
    }
    writer.finish().expect("a vector takes all");
    let second = open(&bytes).blocks()[1].offset as usize;
    bytes[second + 40] ^= 1;
    let error = replay(&open(&bytes), &Options::default()).expect_err("damaged").to_string();
    let expected = format!("the replay ended at event 30: block 1 at byte {second} is damaged: ");
    assert!(error.starts_with(&expected), "{error}");
}
