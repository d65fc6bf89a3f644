//! A world that keeps what it is told and types what it is given.

use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, InputKind, Stop};
use hv_defs::policy::Policy;

/// What a run was.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Its events.
    pub(crate) events: Vec<Event>,
    /// What the console showed.
    pub(crate) console: String,
    /// How it ended.
    pub(crate) stop: Option<Stop>,
}

impl World for Run {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        self.events.extend_from_slice(events);
        ControlFlow::Continue(())
    }

    fn console(&mut self, bytes: &[u8]) {
        self.console.extend(bytes.iter().map(|byte| char::from(*byte)));
    }

    fn input(&mut self, _poll: u64, _now: u64, _idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        None
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
    run_images(config, &[])
}

/// As [`run`], with images to boot from.
pub(crate) fn run_images(config: &Config, images: &[Image]) -> Run {
    let mut run = Run::default();
    let stop = Machine::new(config, images).expect("a machine").run(&mut run);
    run.stop = Some(stop);
    run
}
