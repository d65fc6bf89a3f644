//! Where another L0 parts from the recorded one is found, to the instruction.

use hv_defs::config::{Config, Guest};
use hv_defs::event::Event;
use hv_defs::policy::Policy;
use hv_defs::slip::{Slip, Slips};
use recorder::{Outside, Script};
use replayer::{Options, Parting, part, replay_under};
use std::sync::atomic::AtomicBool;
use traces::Reader;

fn record(guest: &str) -> Reader {
    let policy = Policy::preset("mapped").expect("a preset");
    let config = Config { policy, ..Config::new(Guest::BuiltIn(guest.into())) };
    let (mut bytes, stop, mut shown) = (Vec::new(), AtomicBool::new(false), Vec::new());
    let outside = Outside {
        console: &mut shown,
        keys: &mut Script(Default::default()),
        stop: &stop,
        watch: &mut |_: &[Event]| {},
    };
    recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
    Reader::from_bytes(bytes).expect("a sound trace")
}

/// What a slip comes to: whether an event differs, and where guests see it.
fn slipped(reader: &Reader, slip: Slip) -> (bool, Option<Parting>) {
    let other = Config { slips: Slips::default().with(slip), ..reader.header().config.clone() };
    let verdict = replay_under(reader, &other, &Options::default(), &mut |_| {}).expect("sound");
    (!verdict.identical(), part(reader, &other, &mut |_| {}).expect("sound"))
}

#[test]
fn the_same_configuration_never_parts() {
    let reader = record("demo");
    assert_eq!(part(&reader, &reader.header().config, &mut |_| {}).expect("sound"), None);
}

#[test]
fn a_policy_that_guests_cannot_see_does_not_part() {
    let reader = record("flush-storm");
    let policy = Policy::preset("kvm-2011").expect("a preset");
    let other = Config { policy, ..reader.header().config.clone() };
    let verdict = replay_under(&reader, &other, &Options::default(), &mut |_| {}).expect("sound");
    assert!(!verdict.identical(), "the events tell of it");
    let found = part(&reader, &other, &mut |_| {}).expect("sound");
    assert_eq!(found, None, "and no guest does");
}

#[test]
fn a_mistake_that_guests_see_is_found_to_the_instruction() {
    let reader = record("stale");
    let mut seen = 0;
    for &slip in Slip::ALL {
        let (differs, found) = slipped(&reader, slip);
        let Some(found) = found else { continue };
        seen += 1;
        assert!(differs, "{slip:?}: what guests see, events come to tell");
        assert!(found.behind > found.instruction, "{slip:?}: {found:?}");
        let shown = found.registers.len() + found.memory.len();
        assert!(shown > 0, "{slip:?}: {found:?}");
        for differs in found.registers.iter().chain(&found.memory).chain(&found.fields) {
            assert_ne!(differs.recorded, differs.other, "{slip:?}: {differs:?}");
        }
        // It is the first: the same search finds it again from no further than there.
        assert_eq!(found.behind, found.instruction + 1, "{slip:?}: {found:?}");
    }
    assert!(seen > 0, "no slip shows in a guest that is made to show them");
}
