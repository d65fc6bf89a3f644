//! A world that keeps what it is told and types what it is given.

#![allow(dead_code)] // Each test takes what it needs.

use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, InputKind, Stop};
use hv_defs::policy::Policy;
use std::collections::VecDeque;

/// What a run was.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Its events.
    pub(crate) events: Vec<Event>,
    /// What the console showed.
    pub(crate) console: String,
    /// How it ended.
    pub(crate) stop: Option<Stop>,
    /// Answers to the questions that are asked while every vCPU waits.
    pub(crate) answers: VecDeque<(InputKind, u64)>,
    /// The answers are for any question.
    pub(crate) eager: bool,
    /// Break the run off when so many events have come.
    pub(crate) enough: Option<usize>,
}

impl World for Run {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        self.events.extend_from_slice(events);
        if self.enough.is_some_and(|enough| self.events.len() >= enough) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, bytes: &[u8]) {
        self.console.extend(bytes.iter().map(|byte| char::from(*byte)));
    }

    fn input(&mut self, _poll: u64, _now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        if self.eager || idle_until.is_some() { self.answers.pop_front() } else { None }
    }
}

/// The configuration for a built-in guest under a policy, with a limit that none of them should reach.
pub(crate) fn config(guest: &str, policy: &str) -> Config {
    Config {
        memory: 16 << 20,
        policy: Policy::preset(policy).expect("a preset"),
        max_instructions: Some(50_000_000),
        ..Config::new(Guest::BuiltIn(guest.to_owned()))
    }
}

/// Runs a machine to its end.
pub(crate) fn run(config: &Config) -> Run {
    run_in(config, &[], Run::default())
}

/// As [`run`], with images to boot from, in a given world.
pub(crate) fn run_in(config: &Config, images: &[Image], mut run: Run) -> Run {
    let stop = Machine::new(config, images).expect("a machine").run(&mut run);
    run.stop = Some(stop);
    run
}
