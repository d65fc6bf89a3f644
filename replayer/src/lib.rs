//! Trace in, the same machine again.
//!
//! [`replay`] builds the machine that a trace's header describes, answers its questions from the trace, and compares
//! every event as it happens. It stops at the first difference and says what differed. [`replay_many`] does so again and
//! again; [`state_at`] stops at an event and hands the machine over.

pub mod beside;
mod build;
mod checkpoint;
mod cursor;
pub mod gdb;
pub mod judge;
mod l0only;
pub mod look;
mod part;
mod recorded;
mod scene;
pub mod whatif;

pub use build::Build;
pub use cursor::{Arrived, Came, Cursor, Place, Runner, Walk};
pub use l0only::{Found, L0Verdict, Mutated, mutate, replay_l0, replay_l0_watched};
pub use part::{Differs, Parting, digests_around, last_writer, part};
pub use recorded::{Divergence, Side};
pub use scene::Scene;

use hv::machine::{Machine, MachineError};
use hv::world::World;
use hv_defs::config::{Config, ImageKind, Log};
use hv_defs::event::Stop;
use recorded::Recorded;
use std::sync::atomic::{AtomicU64, Ordering};
use traces::{Header, Reader};

/// Why a trace could not be replayed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image's bytes are not in the trace.
    #[error("the bytes of {kind} '{name}' are not in the trace")]
    ImageMissing {
        /// What it is.
        kind: ImageKind,
        /// Its file name.
        name: String,
    },
    /// An image in the trace is not what it was.
    #[error(transparent)]
    Image(traces::Error),
    /// The machine that the header describes could not be built.
    #[error("cannot build the machine: {0}")]
    Machine(#[from] MachineError),
    /// The trace does not hold what silicon answered.
    #[error("it holds no answers of silicon's: it was recorded with --log {0}, and L0 alone is replayed from --log l0")]
    NoAnswers(Log),
    /// The trace could not be read. What came before the damage was replayed and was the same.
    #[error("the replay ended at event {event}: {source}")]
    Trace {
        /// The first event that could not be read.
        event: u64,
        /// Why.
        source: traces::Error,
    },
}

/// How far to replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Stop when this event has happened; `None` for the trace's end.
    pub to: Option<u64>,
}

/// What a replay found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Events that happened and were the same as the recorded ones.
    pub events: u64,
    /// Instructions retired at the last of them.
    pub instructions: u64,
    /// The first difference; `None` when all was the same.
    pub divergence: Option<Divergence>,
    /// A digest of all events that were the same: equal runs have equal digests.
    pub digest: u64,
    /// How the run ended; `None` when it was ended before its end, by a difference, by [`Options::to`], or because the
    /// trace is truncated.
    pub stop: Option<Stop>,
    /// Whether the trace is truncated, or was saved from one that is, so that nothing is known of the run behind its last
    /// event.
    pub truncated: bool,
}

impl Verdict {
    /// Whether all that was compared was the same.
    pub fn identical(&self) -> bool {
        self.divergence.is_none()
    }
}

/// Runs the machine of a trace again and compares what happens with what is recorded.
///
/// # Errors
/// The machine cannot be built, or a block of the trace is damaged. A difference is no error: see [`Verdict`].
pub fn replay(reader: &Reader, options: &Options) -> Result<Verdict, Error> {
    replay_watched(reader, options, &mut |_| {})
}

/// As [`replay`]; `progress` is told, now and then, how many events have been compared.
pub fn replay_watched(reader: &Reader, options: &Options, progress: &mut dyn FnMut(u64)) -> Result<Verdict, Error> {
    let header = reader.header();
    match header.config.log {
        // What silicon answered is compared too.
        Log::L0 => {
            let mut machine = Machine::taped(&header.config, &images(header)?)?;
            let world = Recorded::new(reader, options.to, Box::new(progress))?.taped();
            replay_in(world, reader, options, |world| machine.run(world))
        }
        Log::Exits | Log::Vmcs => {
            let mut machine = machine(header)?;
            let world = Recorded::new(reader, options.to, Box::new(progress))?;
            replay_in(world, reader, options, |world| machine.run(world))
        }
    }
}

/// The machine as it was when `event` had happened, or where the replay first differed before that. L0 makes the events
/// of one exit together, so the machine stands behind the last event of that batch.
pub fn state_at(reader: &Reader, event: u64) -> Result<(Machine, Verdict), Error> {
    let mut machine = machine(reader.header())?;
    let options = Options { to: Some(event) };
    let world = Recorded::new(reader, options.to, Box::new(|_| {}))?;
    let verdict = replay_in(world, reader, &options, |world| machine.run(world))?;
    Ok((machine, verdict))
}

/// The machine that a trace's header describes, before its first instruction.
pub fn machine(header: &Header) -> Result<Machine, Error> {
    machine_of(header, &header.config)
}

/// A machine of another configuration, with the images of a trace's header.
pub(crate) fn machine_of(header: &Header, config: &Config) -> Result<Machine, Error> {
    Ok(Machine::new(config, &images(header)?)?)
}

/// The files that the guest boots from.
fn images(header: &Header) -> Result<Vec<hv::machine::Image>, Error> {
    let mut images = Vec::with_capacity(header.images.len());
    for image in &header.images {
        let missing = || Error::ImageMissing { kind: image.kind, name: image.name.clone() };
        images.push(hv::machine::Image {
            kind: image.kind,
            name: image.name.clone(),
            bytes: image.bytes.as_ref().ok_or_else(missing)?.get().map_err(Error::Image)?,
        });
    }
    Ok(images)
}

/// As [`replay_watched`], of the machine of another configuration. What is recorded of silicon's answers is not compared.
///
/// # Errors
/// As [`replay`].
pub fn replay_under(
    reader: &Reader,
    config: &Config,
    options: &Options,
    progress: &mut dyn FnMut(u64),
) -> Result<Verdict, Error> {
    let mut machine = Machine::new(config, &images(reader.header())?)?;
    let world = Recorded::new(reader, options.to, Box::new(progress))?;
    replay_in(world, reader, options, |world| machine.run(world))
}

fn replay_in(
    mut world: Recorded<'_>,
    reader: &Reader,
    options: &Options,
    run: impl FnOnce(&mut dyn World) -> Stop,
) -> Result<Verdict, Error> {
    let end = options.to.map_or(reader.len(), |to| reader.len().min(to.saturating_add(1)));
    // A replay to no event at all, as of a trace that was cut before its first block, asks nothing of the machine.
    let stop = if end == 0 { None } else { Some(run(&mut world)) };
    world.verdict(stop)
}

/// What many replays of one trace found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runs {
    /// Replays that were made.
    pub runs: u64,
    /// Those of them in which everything was the same.
    pub identical: u64,
    /// The verdict of the first run that differed, else that of the first run.
    pub verdict: Verdict,
}

impl Runs {
    /// Of one replay.
    pub fn one(verdict: Verdict) -> Self {
        Self { runs: 1, identical: verdict.identical().into(), verdict }
    }
}

/// Replays a trace `runs` times (at least once), on as many threads as the host has CPUs, and stops at the first
/// difference. `progress` is told how many runs are done.
pub fn replay_many(
    reader: &Reader,
    options: &Options,
    runs: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Runs, Error> {
    let first = replay(reader, options)?;
    progress(1);
    if !first.identical() {
        return Ok(Runs { runs: 1, identical: 0, verdict: first });
    }
    let (taken, done, identical) = (AtomicU64::new(1), AtomicU64::new(1), AtomicU64::new(1));
    let work = || -> Result<Option<Verdict>, Error> {
        while taken.fetch_add(1, Ordering::Relaxed) < runs {
            let verdict = replay(reader, options);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            match verdict {
                Ok(verdict) if verdict == first => _ = identical.fetch_add(1, Ordering::Relaxed),
                // Nobody takes another run.
                other => {
                    taken.store(runs, Ordering::Relaxed);
                    return other.map(Some);
                }
            }
        }
        Ok(None)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(usize::try_from(runs).unwrap_or(1));
    let found = std::thread::scope(|scope| {
        // Where there can be no more threads, those that there are do it.
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..threads).map_while(spawn).collect();
        let mut found = vec![work()];
        // A thread that panicked carries its panic on.
        found.extend(workers.into_iter().map(|worker| worker.join().unwrap_or_else(|p| std::panic::resume_unwind(p))));
        found
    });
    let mut verdict = first;
    for found in found {
        if let Some(differs) = found? {
            verdict = differs;
        }
    }
    Ok(Runs { runs: done.into_inner(), identical: identical.into_inner(), verdict })
}
