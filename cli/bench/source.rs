//! Events to measure on: of traces, or of the built-in guests.

use hv_defs::config::{Config, Guest, Log};
use hv_defs::event::Event;
use recorder::{NoKeys, Outside};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use traces::Reader;

/// The guests that are recorded where no trace is named.
pub const GUESTS: [&str; 2] = ["demo", "flush-storm"];

/// Why there are none.
#[derive(Debug)]
pub enum NoEvents {
    /// The trace cannot be read.
    Trace(traces::Error),
    /// The guest cannot be recorded.
    Guest(recorder::Error),
    /// It has none.
    Empty,
}

impl std::fmt::Display for NoEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trace(error) => error.fmt(f),
            Self::Guest(error) => error.fmt(f),
            Self::Empty => f.write_str("it has no events"),
        }
    }
}

/// At most about `most` events of a trace: all, or whole blocks that are spread over it evenly.
pub fn of_trace(path: &Path, most: usize) -> Result<Vec<Event>, NoEvents> {
    some(&Reader::open(path).map_err(NoEvents::Trace)?, most)
}

/// As [`of_trace`], of a built-in guest that is recorded with its VMCS accesses.
pub fn of_guest(name: &str, most: usize) -> Result<Vec<Event>, NoEvents> {
    let config = Config { log: Log::Vmcs, ..Config::new(Guest::BuiltIn(name.into())) };
    let (mut bytes, stop) = (Vec::new(), AtomicBool::new(false));
    let outside = Outside { console: &mut std::io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} };
    recorder::record_to(&config, &[], &mut bytes, outside).map_err(NoEvents::Guest)?;
    some(&Reader::from_bytes(bytes).map_err(NoEvents::Trace)?, most)
}

fn some(reader: &Reader, most: usize) -> Result<Vec<Event>, NoEvents> {
    let blocks = reader.blocks();
    let stride = (reader.len() as usize).div_ceil(most.max(1)).max(1);
    let mut events = Vec::new();
    for block in blocks.iter().step_by(stride) {
        for event in reader.events(block.first).take(block.events as usize) {
            match event {
                Ok(event) => events.push(event),
                // An event of a newer version is none of ours.
                Err(traces::Error::NewerKind { .. }) => {}
                Err(error) => return Err(NoEvents::Trace(error)),
            }
        }
    }
    if events.is_empty() { Err(NoEvents::Empty) } else { Ok(events) }
}
