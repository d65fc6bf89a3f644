//! One bit altered anywhere in a trace is reported at the right event.
//!
//! `NVMX_ALTERED=1000` alters that many places instead of a few.

mod common;

use common::{Dice, config, events, open, record, record_typed, rewrite};
use hv_defs::config::Config;
use hv_defs::event::{Event, Kind, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};
use hv_defs::policy::{Policy, Shadowing};
use hv_defs::slip::{Slip, Slips};
use replayer::{Options, replay, replay_under};
use traces::Reader;

const GUESTS: [(&str, &str); 4] =
    [("demo", "mapped"), ("flush-storm", "kvm-2011"), ("pool-thrash", "kvm-2021"), ("stale", "kvm-2015")];

/// The event with one bit of one of its columns altered; `None` where that is no event.
fn altered(event: &Event, dice: &mut Dice) -> Option<Event> {
    let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
    event.what.row(&mut row, &mut texts);
    let kind = event.what.kind();
    let columns = kind.columns().len() as u64;
    row[dice.below(columns) as usize] ^= 1 << dice.below(64);
    let what = What::from_row(kind, &row[..columns as usize], &texts)?;
    // A bit that the event has no room for is none of it.
    (what != event.what).then_some(Event { what, ..event.clone() })
}

/// Whether an altered input is given at another poll.
fn moves(event: &Event, to: &Event) -> bool {
    matches!((&event.what, &to.what), (What::Input(from), What::Input(to)) if from.poll != to.poll)
}

#[test]
fn one_bit_anywhere_is_reported_at_its_event() {
    let count: usize = std::env::var("NVMX_ALTERED").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    let traces: Vec<(Reader, Vec<Event>)> = GUESTS
        .iter()
        .map(|(guest, policy)| {
            // The run is polled often, so that keys arrive in its midst.
            let config = Config { slice: 2_000, digest_interval: 10_000, ..config(guest, policy) };
            let reader = open(&record_typed(&config, "what is typed is an input\n", 6_000).0);
            let events = events(&reader);
            (reader, events)
        })
        .collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut inputs, mut done) = (0, 0);
    while done < count {
        let (reader, events) = &traces[done % traces.len()];
        // Inputs are few: every fourth place is one of them.
        let places: Vec<usize> = match done / traces.len() % 4 {
            0 => (0..events.len()).filter(|&at| events[at].what.kind() == Kind::Input).collect(),
            _ => (0..events.len()).collect(),
        };
        if places.is_empty() {
            done += 1;
            continue;
        }
        let at = places[dice.below(places.len() as u64) as usize];
        let Some(event) = altered(&events[at], &mut dice) else { continue };
        let input = event.what.kind() == Kind::Input;
        let moved = moves(&events[at], &event);
        let mut other = events.clone();
        other[at] = event;
        let verdict = replay(&rewrite(reader, &other), &Options::default()).expect("sound");
        // An input that is altered is what the machine is given: it is the recorded event that agrees, and what the guest
        // makes of it that differs, or nothing does where the guest makes nothing of it.
        match verdict.divergence {
            // Where it is given at another poll, it is missed at its own, or met before.
            Some(divergence) if moved => assert!(divergence.event <= at as u64, "{:?}: {divergence:?}", events[at]),
            Some(divergence) if !input => assert_eq!(divergence.event, at as u64, "{:?}", events[at]),
            Some(divergence) => assert!(divergence.event > at as u64, "{:?}: {divergence:?}", events[at]),
            None => assert!(input && !moved, "{:?} was altered, and nothing said", events[at]),
        }
        inputs += usize::from(input);
        done += 1;
    }
    eprintln!("{done} places, {inputs} of them inputs");
}

/// Where a recording by an L0 with a mistake first has another event than one without.
fn first_other(events: &[Event], slipped: &[Event]) -> Option<u64> {
    let same = events.iter().zip(slipped).take_while(|(event, slipped)| event == slipped).count();
    (same < events.len().max(slipped.len())).then_some(same as u64)
}

#[test]
fn another_l0_is_reported_at_the_first_event_of_its_own() {
    let (mut found, mut shown) = (0, Slips::default());
    for guest in hv::guests::list() {
        for policy in ["kvm-2015", "kvm-2018", "kvm-2021", "mapped"] {
            // Some mistakes need more CPUs than one, one a guest whose VMCS shadows.
            let config = config(guest.name, policy);
            let policy = Policy { shadowing: Shadowing::Emulated, ..config.policy };
            let config = Config { policy, pcpus: 2, slice: 2_000, ..config };
            let reader = record(&config);
            let events = events(&reader);
            for &slip in Slip::ALL {
                let other = Config { slips: Slips::default().with(slip), ..config.clone() };
                let expected = first_other(&events, &common::events(&record(&other)));
                let verdict = replay_under(&reader, &other, &Options::default(), &mut |_| {}).expect("sound");
                let reported = verdict.divergence.map(|divergence| divergence.event);
                assert_eq!(reported, expected, "{} under {policy:?} with {slip:?}", guest.name);
                found += usize::from(expected.is_some());
                shown = if expected.is_some() { shown.with(slip) } else { shown };
            }
        }
    }
    eprintln!("{found} other ways, of {shown:?}");
    assert!(Slip::ALL.iter().all(|&slip| shown.has(slip)), "some guest tells of each: {shown:?}");
}
