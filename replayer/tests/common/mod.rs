//! Recordings of built-in guests, in memory, for the tests of replay.
#![allow(dead_code, unreachable_pub)] // Every test program uses a part of it.

use core::ops::ControlFlow;
use hv::world::World;
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, InputKind};
use hv_defs::policy::Policy;
use recorder::{Outside, Recorded, Script};
use std::sync::atomic::{AtomicBool, Ordering};
use traces::{Reader, Writer};

/// A built-in guest under a preset.
pub fn config(guest: &str, policy: &str) -> Config {
    let policy = Policy::preset(policy).expect("a preset");
    Config { policy, ..Config::new(Guest::BuiltIn(guest.into())) }
}

/// Records to the guest's own end.
pub fn record(config: &Config) -> Reader {
    open(&record_typed(config, "", usize::MAX).0)
}

/// Records with these keys typed; the run is stopped from outside once that many events were seen. Returns the trace, what
/// became of the run, and what the console showed.
pub fn record_typed(config: &Config, keys: &str, stop_after: usize) -> (Vec<u8>, Recorded, String) {
    let (mut bytes, mut shown, mut seen) = (Vec::new(), Vec::new(), 0);
    let stop = AtomicBool::new(false);
    let outside = Outside {
        console: &mut shown,
        keys: &mut Script(keys.bytes().collect()),
        stop: &stop,
        watch: &mut |events: &[Event]| {
            seen += events.len();
            stop.store(seen >= stop_after, Ordering::Relaxed);
        },
    };
    let recorded = recorder::record_to(config, &[], &mut bytes, outside).expect("recorded");
    (bytes, recorded, String::from_utf8_lossy(&shown).into_owned())
}

pub fn open(bytes: &[u8]) -> Reader {
    Reader::from_bytes(bytes.to_vec()).expect("a sound trace")
}

pub fn events(reader: &Reader) -> Vec<Event> {
    reader.events(0).map(|event| event.expect("sound")).collect()
}

/// The trace with other events under the same header.
pub fn rewrite(reader: &Reader, events: &[Event]) -> Reader {
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, reader.header()).expect("a vector takes all");
    events.iter().for_each(|event| writer.push(event).expect("a vector takes all"));
    writer.finish().expect("a vector takes all");
    open(&bytes)
}

/// A world without input that looks at nothing.
pub struct Nobody;

impl World for Nobody {
    fn events(&mut self, _: &[Event]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

/// Numbers in an order that is the same in each run (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
