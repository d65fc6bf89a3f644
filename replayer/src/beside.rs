//! Checkpoints beside a trace: made by a replay, and gone to.

use crate::recorded::Recorded;
use crate::{Error, Options, Verdict, machine};
use hv::machine::{Advance, Machine, state_form};
use std::io;
use std::path::{Path, PathBuf};
use traces::seek::{About, Checkpoints, SeekError, SeekFile, SeekSummary};
use traces::{Reader, WholeFile};

/// Instructions between two checkpoints that a file is given, where its size lets it have them.
pub const APART: u64 = 1 << 26;

/// Where the checkpoints of a trace's file are kept: the same name with `.seek` behind it.
pub fn beside(trace: &Path) -> PathBuf {
    let mut name = trace.as_os_str().to_owned();
    name.push(".seek");
    name.into()
}

/// Whose checkpoints this build makes of a trace that begins so: see [`traces::seek::beginning`].
fn about(beginning: [u8; 32]) -> About {
    About { build: env!("CARGO_PKG_VERSION").into(), form: state_form(), beginning }
}

/// Opens the checkpoints beside a trace.
///
/// # Errors
/// They are of another trace or build, or the file cannot be read.
pub fn open(path: &Path, reader: &Reader) -> Result<SeekFile, SeekError> {
    let read = |error: traces::Error| SeekError::Read(error.to_string());
    let about = about(reader.beginning().map_err(read)?);
    let identity = if reader.truncated() { None } else { Some(reader.identity().map_err(read)?) };
    SeekFile::open(path, &about, identity)
}

/// Why checkpoints could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The replay could not be made.
    #[error(transparent)]
    Replay(#[from] Error),
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// As [`crate::replay_watched`] of a whole trace, and keeps checkpoints in the file at `path`: all but one image of memory
/// takes at most `per_mille` thousandths of the trace's size. The file appears when it is whole, and not where the replay
/// differs or the trace is damaged.
///
/// # Errors
/// As [`crate::replay`], and the file cannot be written.
pub fn replay_keeping(
    reader: &Reader,
    path: &Path,
    per_mille: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<(Verdict, Option<SeekSummary>), KeepError> {
    let failed = |source| KeepError::Write { path: path.to_owned(), source };
    let trace = |source| KeepError::Replay(Error::Trace { event: 0, source });
    let identity = if reader.truncated() { None } else { Some(reader.identity().map_err(trace)?) };
    let mut machine = machine(reader.header())?;
    let mut digests = Vec::new();
    let initial = machine.changed_pages(&mut digests);
    let file = WholeFile::create(path).map_err(failed)?;
    let about = about(reader.beginning().map_err(trace)?);
    let handle = file.handle().map_err(failed)?;
    let keeping = Checkpoints::begin(handle, &about, initial, per_mille).map_err(failed)?;
    let mut world = Recorded::new(reader, Options::default().to, Box::new(progress))?;
    let stop = if reader.is_empty() { None } else { Some(run(&mut machine, &mut world, &keeping, &mut digests)) };
    let kept = keeping.finish(identity, machine.now());
    let verdict = world.verdict(stop);
    if !matches!(&verdict, Ok(verdict) if verdict.identical()) {
        return Ok((verdict?, None));
    }
    let kept = kept.map_err(failed)?;
    file.finish().map_err(failed)?;
    Ok((verdict?, Some(kept)))
}

fn run(
    machine: &mut Machine,
    world: &mut Recorded<'_>,
    keeping: &Checkpoints,
    digests: &mut Vec<u64>,
) -> hv_defs::event::Stop {
    let mut next = APART;
    loop {
        match machine.run_to(world, next) {
            Advance::On | Advance::Paused => {
                next = machine.now() + APART;
                let point = world.point(machine.now());
                let trace = world.bytes();
                if keeping.is_due(trace) {
                    keeping.take(point, machine.save(), machine.changed_pages(digests), trace);
                }
            }
            Advance::Ended(stop) => return stop,
            Advance::BrokenOff => return hv::machine::world_stop(),
        }
    }
}
