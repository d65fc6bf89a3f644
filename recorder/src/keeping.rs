//! Checkpoints while a run is recorded: the machine pauses now and then, and nobody inside notices.

use crate::own_file::{self, Refused};
use hv::machine::{Advance, Machine, state_form};
use hv::world::World;
use hv_defs::event::{Event, Stop, What};
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use traces::seek::{About, Checkpoints, Point, SeekSummary, mix_input};

/// Instructions between two checkpoints, where the size of their file lets it have them: some tenths of a second.
pub(crate) const APART: u64 = 1 << 26;

/// Where to keep checkpoints of a run, and how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keep {
    /// The file, which is overwritten.
    pub path: PathBuf,
    /// What all but one image of memory may take, in thousandths of the trace's size.
    pub per_mille: u32,
}

/// How many bytes a trace has so far. Written by the thread that writes the trace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<AtomicU64>);

/// Counts what goes by.
pub(crate) struct Counting<W> {
    pub(crate) out: W,
    pub(crate) written: Written,
}

impl<W: io::Write> io::Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.written.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What the events so far say of the inputs.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: Cell<u64>,
    inputs: Cell<u64>,
    given: Cell<u64>,
}

impl Seen {
    pub(crate) fn event(&self, event: &Event) {
        self.events.set(self.events.get() + 1);
        if let What::Input(input) = &event.what {
            self.inputs.set(self.inputs.get() + 1);
            self.given.set(mix_input(self.given.get(), input.poll, input.kind as u64, input.value));
        }
    }
}

/// Checkpoints in the making.
pub(crate) struct Keeping {
    checkpoints: Checkpoints,
    digests: Vec<u64>,
    written: Written,
}

impl Keeping {
    /// Begins the file for a machine that has run nothing. `beginning` is that of its trace's file.
    pub(crate) fn begin(keep: &Keep, machine: &mut Machine, beginning: [u8; 32], written: Written) -> io::Result<Self> {
        let about = About { build: env!("CARGO_PKG_VERSION").into(), form: state_form(), beginning };
        let mut digests = Vec::new();
        let initial = machine.changed_pages(&mut digests);
        let file = own_file::create(&keep.path).map_err(|refused| match refused {
            Refused::Busy => io::Error::new(io::ErrorKind::ResourceBusy, "another recording has them there"),
            Refused::Open(error) => error,
        })?;
        let checkpoints = Checkpoints::begin(file, &about, initial, keep.per_mille)?;
        Ok(Self { checkpoints, digests, written })
    }

    /// [`Machine::run`], with checkpoints.
    pub(crate) fn run(&mut self, machine: &mut Machine, world: &mut dyn World, seen: &Seen) -> Stop {
        let mut next = APART;
        loop {
            match machine.run_to(world, next) {
                Advance::On | Advance::Paused => {
                    next = machine.now() + APART;
                    self.take(machine, seen);
                }
                Advance::Ended(stop) => return stop,
                Advance::BrokenOff => return hv::machine::world_stop(),
            }
        }
    }

    fn take(&mut self, machine: &mut Machine, seen: &Seen) {
        let trace = self.written.0.load(Ordering::Relaxed);
        if self.checkpoints.is_due(trace) {
            let point = Point {
                events: seen.events.get(),
                instruction: machine.now(),
                inputs: seen.inputs.get(),
                given: seen.given.get(),
            };
            self.checkpoints.take(point, machine.save(), machine.changed_pages(&mut self.digests), trace);
        }
    }

    /// Ends the file; `identity` is that of the trace, if it is whole, and the run ended after so many `instructions`.
    pub(crate) fn finish(self, identity: Option<[u8; 32]>, instructions: u64) -> io::Result<SeekSummary> {
        self.checkpoints.finish(identity, instructions)
    }
}
