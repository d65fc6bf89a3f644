//! L1 and L2 on the software silicon under L0: round trips that are counted, and what they leave behind.

#[path = "support/nested.rs"]
mod nested;

use hv::l0::Ran;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Actor, PoolOp, What};
use hv_defs::exit::Reason;
use hv_defs::policy::{PRESETS, Policy, Tags};
use nested::{Nested, ROUNDS_DONE};

#[test]
fn l2_runs_and_returns_as_often_as_l1_resumes_it() {
    for preset in PRESETS {
        let mut nested = Nested::new(preset.policy, 10);
        let (end, events) = nested.run();
        assert_eq!(end, Ran::Halted, "{}: {events:#?}", preset.name);
        let exits = |level: u8, reason: Reason| {
            events
                .iter()
                .filter(
                    |event| matches!(&event.what, What::Exit(exit) if exit.level == level && exit.basic() == reason),
                )
                .count()
        };
        assert_eq!((exits(1, Reason::VMLAUNCH), exits(1, Reason::VMRESUME)), (1, 9), "{}", preset.name);
        assert_eq!(exits(2, Reason::VMCALL), 10, "{}", preset.name);
        let marks = events.iter().filter(|event| event.what == What::Mark(ROUNDS_DONE)).count();
        assert_eq!(marks, 1, "{}", preset.name);
        let used = |what: &What| matches!(what, What::Pool(pool) if pool.op != PoolOp::Free);
        let hits = events.iter().filter(|event| used(&event.what)).count();
        assert_eq!(hits, 10, "{}", preset.name);
        for event in &events {
            if let What::Exit(exit) = &event.what {
                let reflected = exit.level == 2 && exit.basic() == Reason::VMCALL;
                assert_eq!(exit.handled_by, if reflected { Actor::L1 } else { Actor::L0 }, "{exit:?}");
            }
        }
    }
}

#[test]
fn two_runs_tell_the_same_story() {
    let mut runs = [(); 2].map(|()| Nested::new(Policy::default(), 20));
    let stories = runs.each_mut().map(|nested| nested.run());
    assert_eq!(stories[0], stories[1]);
    let digests = runs.each_mut().map(|nested| nested.digest());
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn without_vpid_more_is_dropped() {
    let dropped = |policy: Policy| {
        let (_, events) = Nested::new(policy, 10).run();
        let flushes = events.iter().filter_map(|event| match &event.what {
            What::Flush(flush) => Some(flush.dropped),
            _ => None,
        });
        flushes.sum::<u32>()
    };
    let tagged = dropped(Policy::default());
    let untagged = dropped(Policy { tags: Tags::Off, ..Policy::default() });
    assert!(untagged > tagged, "{untagged} with the hardware's flushes, {tagged} with tags");
}

#[test]
fn a_vcpu_that_never_stays_anywhere_does_the_same() {
    for preset in PRESETS {
        let mut config = Config::new(Guest::BuiltIn("round trips".to_owned()));
        config.memory = 16 << 20;
        config.pcpus = 3;
        config.policy = preset.policy;
        let mut nested = Nested::with(&config, 10);
        let mut cpu = 0;
        while matches!(nested.step_on(cpu), Ran::Ready | Ran::Slice) {
            cpu = (cpu + 1) % 3;
        }
        let marks = nested.log.events.iter().filter(|event| event.what == What::Mark(ROUNDS_DONE)).count();
        assert_eq!(marks, 1, "{}", preset.name);
        let moves = nested.log.events.iter().filter(|event| matches!(event.what, What::Migration(_))).count();
        assert!(moves > 20, "{}: {moves}", preset.name);
    }
}
