//! Live world in, trace out.
//!
//! [`record`] builds the machine, runs it in the world that the caller gives, and tees what happens into a trace;
//! [`run`] does the same without the trace. Terminals, threads and signals are the caller's: what reaches a run from
//! outside comes through [`Outside`].

#[cfg(feature = "live")]
pub mod attach;
mod durable;
pub mod foreign;
#[cfg_attr(not(feature = "live"), path = "no_host.rs")]
mod host;
pub mod import;
mod keeping;
mod live;
mod own_file;
mod sink;
#[cfg_attr(not(feature = "live"), allow(dead_code))] // Imports ask for less of it than attaching does.
mod tracepoints;

pub use host::HostError;
#[cfg(feature = "live")]
pub use hv_kvm::{About, about};
pub use keeping::Keep;
pub use live::{Key, Keys, NoKeys, Script};

use durable::Durable;
use host::Host;
use hv::cpu::Engine;
use hv::machine::{Machine, MachineError};
use hv::parts::PARTS;
use hv::soft::SoftSilicon;
use hv::taped::Taped;
use hv::world::World;
use hv_defs::config::{Backend, Config, Log};
use hv_defs::event::{Event, Stop};
use keeping::{Counting, Keeping, Seen, Written};
use live::Live;
use own_file::Refused;
use sink::{Recording, Unrecorded};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use traces::seek::{self, SeekSummary};
use traces::{Header, Image, Reader, Summary, Writer};

/// What a run and the outside say to each other.
pub struct Outside<'a> {
    /// Takes what the guest's console shows. Once it fails, nothing more is sent to it; the run goes on.
    pub console: &'a mut dyn Write,
    /// Gives what is typed.
    pub keys: &'a mut dyn Keys,
    /// Ends the run soon after it becomes true.
    pub stop: &'a AtomicBool,
    /// Sees the events as they happen, for progress bars and the like.
    pub watch: &'a mut dyn FnMut(&[Event]),
}

/// Why a run could not be made or not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image is needed whose bytes are not at hand.
    #[error("the bytes of {kind} '{name}' are not at hand")]
    ImageMissing {
        /// What it is.
        kind: hv_defs::config::ImageKind,
        /// Its file name.
        name: String,
    },
    /// An image of a trace is not what it was.
    #[error(transparent)]
    Image(traces::Error),
    /// The machine could not be built.
    #[error("cannot build the machine: {0}")]
    Machine(#[from] MachineError),
    /// The machine could not be built on the host's KVM.
    #[error("cannot build the machine: {0}")]
    Host(HostError),
    /// There can be no thread that the machine needs.
    #[error("cannot build the machine: there can be no more threads: {0}")]
    Thread(io::Error),
    /// The file for the trace could not be created.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another recording is being written into the file. It is left as it is.
    #[error("another recording is being written to it")]
    Busy,
    /// The file was removed, renamed or replaced while the run was recorded into it, so that the trace is lost.
    #[error("the file was removed or replaced while it was written")]
    Gone,
    /// The trace could not be written on. What is in the file is a readable trace of the run up to its last whole block.
    #[error("the recording ended after {events} events: {source}")]
    Trace {
        /// Events that the machine had made by then.
        events: u64,
        /// Why.
        source: traces::Error,
    },
}

/// A finished recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// How the run ended.
    pub stop: Stop,
    /// What was written.
    pub summary: Summary,
    /// What was written of checkpoints, if they were wanted; or why they could not be written, which does the trace no harm.
    pub checkpoints: Option<Result<SeekSummary, String>>,
    /// How many of the guest's instructions the host's KVM has executed, where it was to; the software CPU has the others.
    pub by_kvm: Option<u64>,
    /// What there is to know of how it was recorded, a line each.
    pub notes: Vec<String>,
}

/// The machine that a configuration and images describe.
pub fn machine(config: &Config, images: &[Image]) -> Result<Machine, Error> {
    let mut machine = Machine::new(config, &with_bytes(images)?)?;
    if let Some(engine) = engine(config)? {
        machine.silicon().set_engine(engine);
    }
    Ok(machine)
}

/// What executes the plain instructions, if the configuration wants it to be the host's KVM.
fn engine(config: &Config) -> Result<Option<Box<dyn Engine>>, Error> {
    Ok(match config.backend {
        Backend::Soft => None,
        Backend::Kvm => Some(host::engine()?),
    })
}

fn with_bytes(images: &[Image]) -> Result<Vec<hv::machine::Image>, Error> {
    let images = images.iter().map(|image| match &image.bytes {
        Some(bytes) => Ok(hv::machine::Image {
            kind: image.kind,
            name: image.name.clone(),
            bytes: bytes.get().map_err(Error::Image)?,
        }),
        None => Err(Error::ImageMissing { kind: image.kind, name: image.name.clone() }),
    });
    images.collect()
}

/// Runs a machine to its end without recording.
pub fn run(config: &Config, images: &[Image], outside: Outside<'_>) -> Result<Stop, Error> {
    match AnyMachine::new(config, images)? {
        AnyMachine::Plain(mut machine) => Ok(machine.run(&mut Live::new(outside, Unrecorded))),
        AnyMachine::Taped(mut machine) => Ok(machine.run(&mut Live::new(outside, Unrecorded))),
        AnyMachine::Host(host) => Ok(host::run(*host, &mut Live::new(outside, Unrecorded))),
    }
}

/// Runs a machine to its end and records it into a file, which is overwritten unless another recording goes into it.
///
/// # Errors
/// The machine cannot be built: then no file is made. Another recording has the file. The file cannot be created or written on: a full disk ends the run,
/// and the file is cut to its last whole block. The file is no longer there when the run has ended.
pub fn record(config: &Config, images: &[Image], path: &Path, outside: Outside<'_>) -> Result<Recorded, Error> {
    record_keeping(config, images, path, None, outside)
}

/// As [`record`], and keeps checkpoints too, from which a replay can go on. The events are the same with and without.
///
/// # Errors
/// As [`record`]. That checkpoints cannot be kept is none: see [`Recorded::checkpoints`].
pub fn record_keeping(
    config: &Config,
    images: &[Image],
    path: &Path,
    keep: Option<&Keep>,
    outside: Outside<'_>,
) -> Result<Recorded, Error> {
    // A machine that cannot be built leaves no file behind.
    let machine = AnyMachine::new(config, images)?;
    let file = own_file::create(path).map_err(|refused| match refused {
        Refused::Busy => Error::Busy,
        Refused::Open(source) => Error::Create { path: path.to_owned(), source },
    })?;
    let header = machine.header(config, images);
    let keep = keep.map(|keep| (keep, path));
    let recorded = machine.record(&header, Durable::new(&file), keep, outside, |whole| {
        // What is left of a block that did not fit is of no use to readers. That it stays is no harm either.
        let _ = file.set_len(whole);
    })?;
    if is_gone(&file, path) { Err(Error::Gone) } else { Ok(recorded) }
}

/// Whether a regular file is no longer to be found where it was made.
fn is_gone(file: &File, path: &Path) -> bool {
    let Some(made) = file.metadata().ok().filter(Metadata::is_file) else { return false };
    let found = std::fs::metadata(path);
    found.map_or(true, |found| (found.dev(), found.ino()) != (made.dev(), made.ino()))
}

/// As [`record`], into any writer.
pub fn record_to(
    config: &Config,
    images: &[Image],
    out: impl Write + Send,
    outside: Outside<'_>,
) -> Result<Recorded, Error> {
    let machine = AnyMachine::new(config, images)?;
    let header = machine.header(config, images);
    machine.record(&header, out, None, outside, |_| {})
}

/// A machine.
enum AnyMachine {
    /// In software.
    Plain(Box<Machine>),
    /// In software, with an ear for what silicon answers L0.
    Taped(Box<Machine<Taped<SoftSilicon>>>),
    /// On the host's KVM, which is L0.
    Host(Box<Host>),
}

impl AnyMachine {
    fn new(config: &Config, images: &[Image]) -> Result<Self, Error> {
        // What silicon answers L0 is for an L0 of ours.
        if config.backend == Backend::Kvm && config.log != Log::L0 && host::available()? {
            return Ok(Self::Host(Box::new(host::new(config, &with_bytes(images)?)?)));
        }
        Ok(match config.log {
            Log::L0 => {
                let mut machine = Machine::taped(config, &with_bytes(images)?)?;
                if let Some(engine) = engine(config)? {
                    machine.silicon().inner().set_engine(engine);
                }
                Self::Taped(Box::new(machine))
            }
            Log::Exits | Log::Vmcs => Self::Plain(Box::new(machine(config, images)?)),
        })
    }

    /// The header of what it records.
    fn header(&self, config: &Config, images: &[Image]) -> Header {
        match self {
            Self::Plain(_) | Self::Taped(_) => Header::new(config.clone(), images.to_vec()).made_of(&PARTS),
            Self::Host(_) => host::header(config),
        }
    }

    /// Runs it and writes its events on a thread beside it, and checkpoints of the trace at a path on another. `cut` is called
    /// when writing fails, with the length up to the last whole block.
    fn record(
        self,
        header: &Header,
        out: impl Write + Send,
        keep: Option<(&Keep, &Path)>,
        outside: Outside<'_>,
        cut: impl FnOnce(u64),
    ) -> Result<Recorded, Error> {
        let written = Written::default();
        let out = Counting { out, written: written.clone() };
        let mut writer = Writer::create(out, header).map_err(|source| Error::Trace { events: 0, source })?;
        let seen = Seen::default();
        match self {
            Self::Plain(mut machine) => {
                let begun = keep.map(|(keep, trace)| begin(keep, trace, &mut machine, written));
                let (mut keeping, failed) = match begun {
                    Some(Ok(keeping)) => (Some(keeping), None),
                    Some(Err(error)) => (None, Some(error.to_string())),
                    None => (None, None),
                };
                let run = |world: &mut dyn World| match &mut keeping {
                    Some(keeping) => keeping.run(&mut machine, world, &seen),
                    None => machine.run(world),
                };
                let (stop, summary) = record_run(run, &mut writer, &seen, outside, cut)?;
                let identity = || keep.and_then(|(_, trace)| Reader::open(trace).ok()?.identity().ok());
                let kept =
                    keeping.map(|keeping| keeping.finish(identity(), machine.now()).map_err(|error| error.to_string()));
                let by_kvm = machine.silicon().engine().map(Engine::retired);
                Ok(Recorded { stop, summary, checkpoints: kept.or(failed.map(Err)), by_kvm, notes: Vec::new() })
            }
            Self::Taped(mut machine) => {
                let (stop, summary) = record_run(|world| machine.run(world), &mut writer, &seen, outside, cut)?;
                let why = "not while silicon's answers are recorded; `nvmx replay --checkpoints` makes them";
                let by_kvm = machine.silicon().inner().engine().map(Engine::retired);
                Ok(Recorded {
                    stop,
                    summary,
                    checkpoints: keep.map(|_| Err(why.to_owned())),
                    by_kvm,
                    notes: Vec::new(),
                })
            }
            Self::Host(host) => {
                let mut notes = Vec::new();
                let run = |world: &mut dyn World| {
                    let (stop, noted) = host::record(*host, world);
                    notes = noted;
                    stop
                };
                let (stop, summary) = record_run(run, &mut writer, &seen, outside, cut)?;
                let why = "the host's KVM ran the guest, and nothing can go on from a checkpoint of it";
                Ok(Recorded { stop, summary, checkpoints: keep.map(|_| Err(why.to_owned())), by_kvm: None, notes })
            }
        }
    }
}

/// Runs a machine and writes its events on a thread beside it.
fn record_run(
    run: impl FnOnce(&mut dyn World) -> Stop,
    writer: &mut Writer<impl Write + Send>,
    seen: &Seen,
    outside: Outside<'_>,
    cut: impl FnOnce(u64),
) -> Result<(Stop, Summary), Error> {
    let (stop, finished) = traces::beside(writer, |feed| {
        let mut recording = Recording { feed, seen, since: 0 };
        run(&mut Live::new(outside, &mut recording))
    });
    match finished {
        Ok(summary) => Ok((stop, summary)),
        Err(source) => {
            cut(writer.whole());
            Err(Error::Trace { events: seen.events.get(), source })
        }
    }
}

/// Begins the checkpoints of a trace whose header is written.
fn begin(keep: &Keep, trace: &Path, machine: &mut Machine, written: Written) -> io::Result<Keeping> {
    let mut first = [0; seek::BEGINNING];
    File::open(trace)?.read_exact(&mut first)?;
    Keeping::begin(keep, machine, seek::beginning(&first), written)
}
