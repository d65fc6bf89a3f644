//! A run that is paused anywhere, saved, and gone on with by another machine is the same run.

#[path = "support/collect.rs"]
mod collect;

use collect::{Run, config, run};
use hv::machine::{Advance, Machine};
use hv_defs::config::Config;

/// Hands the state over to a machine that has run something else, as a replayer's has that seeks.
fn hand_over(from: &mut Machine, to: &mut Machine) {
    let state = from.save();
    let wanted = from.page_digests().to_vec();
    let different: Vec<usize> =
        to.page_digests().iter().zip(&wanted).enumerate().filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
    for page in different {
        let bytes = from.page(page).expect("a page of memory").to_vec();
        assert!(to.set_page(page, &bytes));
    }
    to.restore(&state).expect("a state of this build");
    assert!(to.page_digests() == wanted, "what set_page sets is what page gave");
    assert!(to.save() == state, "a state is the same when it is saved again");
}

#[track_caller]
fn check(config: &Config) {
    let whole = run(config);
    let length = whole.events.last().expect("a run has events").at.instruction;
    let mut machines = [0, 1].map(|_| Machine::new(config, &[]).expect("a machine"));
    let (mut parts, mut dice, mut pauses) = (Run::default(), 0x9e37_79b9_7f4a_7c15_u64, 0);
    let stop = loop {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let to = machines[0].now() + 1 + dice % (length / 23);
        match machines[0].run_to(&mut parts, to) {
            Advance::Paused => {}
            Advance::Ended(stop) => break stop,
            other => panic!("{other:?}"),
        }
        pauses += u32::from(machines[0].is_paused());
        // A machine that returns after each exit is the same, too.
        machines[0].set_fine(dice % 5 == 0);
        if dice % 3 != 0 {
            let (one, other) = machines.split_at_mut(1);
            hand_over(&mut one[0], &mut other[0]);
            machines.swap(0, 1);
        }
    };
    assert!(pauses > 5, "{pauses} pauses inside guests");
    assert_eq!(Some(stop), whole.stop);
    assert_eq!(parts.console, whole.console);
    let differs = parts.events.iter().zip(&whole.events).position(|(part, whole)| part != whole);
    assert_eq!(differs.map(|at| (&parts.events[at], &whole.events[at])), None);
    assert_eq!(parts.events.len(), whole.events.len());
}

#[test]
fn every_guest_goes_on_as_if_nothing_had_been() {
    for guest in hv::guests::list() {
        for policy in ["kvm-2011", "kvm-2021", "mapped"] {
            check(&Config { digest_interval: 100_000, ..config(guest.name, policy) });
        }
    }
}

#[test]
fn so_do_several_cpus() {
    let many = Config { vcpus: 2, pcpus: 2, slice: 3_000, tlb_entries: 64, ..config("demo", "mapped") };
    check(&many);
}

#[test]
fn one_instruction_at_a_time_is_the_same_run() {
    let config = config("demo", "mapped");
    let whole = run(&config);
    let (mut machine, mut parts) = (Machine::new(&config, &[]).expect("a machine"), Run::default());
    let mut steps = 0;
    let stop = loop {
        let next = machine.now() + 1;
        match machine.run_to(&mut parts, next) {
            Advance::Paused => steps += 1,
            Advance::Ended(stop) => break stop,
            other => panic!("{other:?}"),
        }
    };
    assert!(steps > 1000, "{steps} steps");
    assert_eq!((Some(stop), parts.events == whole.events), (whole.stop, true));
}

#[test]
fn what_is_no_state_is_refused() {
    let config = config("demo", "mapped");
    let mut machine = Machine::new(&config, &[]).expect("a machine");
    let state = machine.save();
    assert!(machine.restore(&state[..state.len() / 2]).is_err());
    assert!(machine.restore(&[]).is_err());
    let two = Config { vcpus: 2, ..config.clone() };
    let other = Machine::new(&two, &[]).expect("a machine");
    assert!(machine.restore(&other.save()).is_err());
    assert!(machine.save() == state);
}
