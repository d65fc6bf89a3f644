//! Where another L0 parts from the recorded one is found, to the instruction.

mod common;

use common::{config, record};
use hv_defs::config::Config;
use hv_defs::policy::Policy;
use hv_defs::slip::{Slip, Slips};
use replayer::{Options, Parting, part, replay_under};
use traces::Reader;

/// What a slip comes to: whether an event differs, and where guests see it.
fn slipped(reader: &Reader, slip: Slip) -> (bool, Option<Parting>) {
    let other = Config { slips: Slips::default().with(slip), ..reader.header().config.clone() };
    let verdict = replay_under(reader, &other, &Options::default(), &mut |_| {}).expect("sound");
    (!verdict.identical(), part(reader, &other, &mut |_| {}).expect("sound"))
}

#[test]
fn the_same_configuration_never_parts() {
    let reader = record(&config("demo", "mapped"));
    assert_eq!(part(&reader, &reader.header().config, &mut |_| {}).expect("sound"), None);
}

#[test]
fn a_policy_that_guests_cannot_see_does_not_part() {
    let reader = record(&config("flush-storm", "mapped"));
    let policy = Policy::preset("kvm-2011").expect("a preset");
    let other = Config { policy, ..reader.header().config.clone() };
    let verdict = replay_under(&reader, &other, &Options::default(), &mut |_| {}).expect("sound");
    assert!(!verdict.identical(), "the events tell of it");
    let found = part(&reader, &other, &mut |_| {}).expect("sound");
    assert_eq!(found, None, "and no guest does");
}

#[test]
fn a_mistake_that_guests_see_is_found_to_the_instruction() {
    let reader = record(&config("stale", "mapped"));
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

/// With silicon's answers among them, events have other numbers. The event is the same.
#[test]
fn the_event_has_the_number_that_it_has_in_the_trace() {
    use hv_defs::config::Log;
    let plain = record(&config("witness", "kvm-2018"));
    let taped = record(&Config { log: Log::L0, ..config("witness", "kvm-2018") });
    let at = |reader: &Reader| {
        let (_, found) = slipped(reader, Slip::InveptAsInvvpid);
        let event = found.expect("the guest is made to see it").event.expect("events were before it");
        (event, reader.event(event).expect("sound"))
    };
    let ((one, first), (two, second)) = (at(&plain), at(&taped));
    assert!(one < two, "answers stand between: {one}, {two}");
    assert_eq!(first, second);
}
