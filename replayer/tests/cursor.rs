//! A cursor shows the same machine at a place, from wherever it comes.

mod common;

use common::{Dice, config, events, record, rewrite};
use hv::silicon::Silicon;
use replayer::{Arrived, Cursor};
use traces::{Reader, Writer};

/// What can be told of a place.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    event: u64,
    instruction: u64,
    digest: u64,
}

fn seen(cursor: &mut Cursor<'_>) -> Seen {
    Seen { event: cursor.event(), instruction: cursor.instruction(), digest: cursor.machine().silicon().digest() }
}

#[track_caller]
fn check(guest: &str, policy: &str) {
    let reader = record(&config(guest, policy));
    let last = reader.event(reader.len() - 1).expect("an event").at.instruction;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut events: Vec<u64> = (0..40).map(|_| dice.below(reader.len() - 2)).collect();
    let mut instructions: Vec<u64> = (0..40).map(|_| dice.below(last)).collect();
    events.sort_unstable();
    instructions.sort_unstable();
    // Forwards first, each kind of place by a cursor of its own; then to and fro by one.
    let mut forward = Cursor::open(&reader).expect("opened");
    let by_event: Vec<Seen> = events
        .iter()
        .map(|&event| {
            assert_eq!(forward.to_event(event).expect("sound"), Arrived::There);
            assert!(forward.event() > event);
            seen(&mut forward)
        })
        .collect();
    let mut forward = Cursor::open(&reader).expect("opened");
    let by_instruction: Vec<Seen> = instructions
        .iter()
        .map(|&instruction| {
            assert_eq!(forward.to_instruction(instruction).expect("sound"), Arrived::There);
            assert!(forward.instruction() >= instruction);
            seen(&mut forward)
        })
        .collect();
    let mut cursor = Cursor::open(&reader).expect("opened");
    for _ in 0..200 {
        let at = dice.below(40) as usize;
        let (arrived, wanted) = match dice.below(2) {
            0 => (cursor.to_event(events[at]), &by_event[at]),
            _ => (cursor.to_instruction(instructions[at]), &by_instruction[at]),
        };
        assert_eq!(arrived.expect("sound"), Arrived::There);
        assert_eq!(&seen(&mut cursor), wanted, "{guest} under {policy}");
    }
    assert!(matches!(cursor.to_event(reader.len() + 5).expect("sound"), Arrived::End(Some(_))));
    assert_eq!(cursor.event(), reader.len());
    cursor.to_event(events[3]).expect("sound");
    assert_eq!(seen(&mut cursor), by_event[3], "back from the end");
}

#[test]
fn a_place_is_the_same_from_before_and_from_behind() {
    check("demo", "mapped");
    check("flush-storm", "kvm-2011");
    check("pool-thrash", "kvm-2021");
}

#[test]
fn a_step_back_undoes_a_step() {
    let reader = record(&config("demo", "mapped"));
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.to_event(reader.len() / 2).expect("sound");
    let start = cursor.instruction() + 1;
    let mut trail = Vec::new();
    for instruction in start..start + 50 {
        cursor.to_instruction(instruction).expect("sound");
        trail.push(seen(&mut cursor));
    }
    for (step, before) in trail.iter().enumerate().rev() {
        cursor.to_instruction(start + step as u64).expect("sound");
        assert_eq!(&seen(&mut cursor), before);
    }
}

#[test]
fn marks_are_found_by_value_and_count() {
    let reader = record(&config("demo", "mapped"));
    let marks: Vec<(u64, u32)> = (0..)
        .zip(reader.events(0))
        .filter_map(|(number, event)| match event.expect("sound").what {
            hv_defs::event::What::Mark(value) => Some((number, value)),
            _ => None,
        })
        .collect();
    let mut cursor = Cursor::open(&reader).expect("opened");
    assert!(!marks.is_empty());
    for &(number, value) in marks.iter().rev() {
        let count = marks.iter().filter(|mark| mark.1 == value && mark.0 <= number).count() as u64;
        assert_eq!(cursor.to_mark(value, count).expect("sound"), Some(Arrived::There));
        assert!(cursor.event() > number);
    }
    assert_eq!(cursor.to_mark(0xdead_beef, 1).expect("sound"), None);
}

#[test]
fn a_divergence_stops_it_and_going_back_is_still_possible() {
    let reader = record(&config("demo", "mapped"));
    let mut events = events(&reader);
    let at = events.len() / 2;
    events[at].at.pcpu ^= 1;
    let altered = rewrite(&reader, &events);
    let mut cursor = Cursor::open(&altered).expect("opened");
    match cursor.to_event(events.len() as u64 - 1).expect("sound") {
        Arrived::Diverged(divergence) => assert_eq!((divergence.event, divergence.field), (at as u64, "pcpu")),
        other => panic!("{other:?}"),
    }
    assert_eq!(cursor.to_event(at as u64 / 2).expect("sound"), Arrived::There);
    assert!(cursor.divergence().is_none() && cursor.event() > at as u64 / 2);
}

#[test]
fn a_cut_trace_has_an_end() {
    let whole = record(&config("flush-storm", "mapped"));
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, whole.header()).expect("a vector takes all");
    for event in whole.events(0).take(500) {
        writer.push(&event.expect("sound")).expect("a vector takes all");
    }
    writer.end_block().expect("a vector takes all");
    drop(writer);
    let cut = Reader::from_bytes(bytes).expect("a sound prefix");
    assert!(cut.truncated());
    let mut cursor = Cursor::open(&cut).expect("opened");
    assert_eq!(cursor.to_event(600).expect("sound"), Arrived::End(None));
    assert_eq!(cursor.event(), 500);
    assert_eq!(cursor.to_event(100).expect("sound"), Arrived::There);
}
