//! What is measured on: guests that are recorded now, or traces that are there.

use super::clock::{Cost, Meter};
use super::guest::{self, Guest as Linux};
use hv_defs::config::{Config, Guest, ImageKind, Log};
use hv_defs::event::{Event, StopKind};
use recorder::{NoKeys, Outside};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use traces::{Image, Reader};

/// The built-in guests that are recorded where neither a trace nor a Linux guest is named.
pub const GUESTS: [&str; 2] = ["demo", "flush-storm"];

/// What L2 does under Linux's KVM: some 50 thousand exits of each kind that a virtual machine has most.
const WORK: &str = "cpuid=30000,out=5000,pages=3000,mmio=1000";
/// The same in short.
const LITTLE: &str = "cpuid=2000,out=400,pages=300,mmio=100";

/// Why there are no events.
#[derive(Debug)]
pub enum NoEvents {
    /// The trace cannot be read.
    Trace(traces::Error),
    /// The guest cannot be recorded.
    Guest(recorder::Error),
    /// The guest did not end well.
    Ended(String),
    /// It has none.
    Empty,
}

impl std::fmt::Display for NoEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Trace(error) => error.fmt(f),
            Self::Guest(error) => error.fmt(f),
            Self::Ended(how) => write!(f, "the guest failed: {how}"),
            Self::Empty => f.write_str("it has no events"),
        }
    }
}

impl std::error::Error for NoEvents {}

impl From<recorder::Error> for NoEvents {
    fn from(error: recorder::Error) -> Self {
        Self::Guest(error)
    }
}

/// A guest to run.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What to call it: no path is in it.
    pub name: String,
    /// Whether it is built in.
    pub built_in: bool,
    config: Config,
    images: Vec<Image>,
}

impl Subject {
    /// A built-in guest.
    pub fn built_in(name: &str) -> Self {
        let config = Config::new(Guest::BuiltIn(name.into()));
        Self { name: name.into(), built_in: true, config, images: Vec::new() }
    }

    /// Linux as L1, whose KVM runs a payload that exits; little of it if it has to be quick.
    ///
    /// # Errors
    /// An image cannot be read.
    pub fn linux_kvm(linux: &Linux, payload: &Path, quick: bool) -> io::Result<Self> {
        let append = format!("{} nvmx.run=kvm nvmx.payload={}", guest::APPEND, if quick { LITTLE } else { WORK });
        let image = |kind, name: &str, path: &Path| Ok::<_, io::Error>(Image::new(kind, name, std::fs::read(path)?));
        let images = vec![
            image(ImageKind::Kernel, "vmlinuz", &linux.kernel())?,
            image(ImageKind::Initrd, "initrd.img", payload)?,
        ];
        let config = Config::new(Guest::Kernel { name: "vmlinuz".into(), append });
        Ok(Self { name: "Linux with KVM".into(), built_in: false, config, images })
    }

    /// Runs it without recording, logged as little as can be.
    pub fn run(&self) -> Result<(), NoEvents> {
        let config = Config { log: Log::Exits, ..self.config.clone() };
        let stop = outside(|outside| recorder::run(&config, &self.images, outside))?;
        well(stop.kind, stop.code, &stop.text)
    }

    /// Records it into a file.
    pub fn record(&self, log: Log, path: &Path) -> Result<(), NoEvents> {
        let config = Config { log, ..self.config.clone() };
        let recorded = outside(|outside| recorder::record(&config, &self.images, path, outside))?;
        well(recorded.stop.kind, recorded.stop.code, &recorded.stop.text)
    }
}

/// Runs something that nobody looks at or types to.
fn outside<T>(run: impl FnOnce(Outside<'_>) -> T) -> T {
    let stop = AtomicBool::new(false);
    run(Outside { console: &mut io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} })
}

/// All guests that are measured on leave by isa-debug-exit, with 0.
fn well(kind: StopKind, code: u32, text: &str) -> Result<(), NoEvents> {
    if kind == StopKind::DebugExit && code == 1 { Ok(()) } else { Err(NoEvents::Ended(text.into())) }
}

/// A trace to measure on.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What to call it.
    pub name: String,
    /// Whether it is of a built-in guest that was recorded now.
    pub built_in: bool,
    /// Its file.
    pub path: PathBuf,
    /// What was recorded now, and what that cost; nothing for a trace that was there.
    pub made: Option<(Subject, Cost)>,
}

impl Recording {
    /// A trace that is there.
    pub fn named(path: &Path) -> Self {
        Self { name: path.display().to_string(), built_in: false, path: path.into(), made: None }
    }

    /// Records a guest with its VMCS accesses.
    pub fn of(subject: &Subject, folder: &Path) -> Result<Self, NoEvents> {
        let path = Self::path(subject, folder);
        let mut meter = Meter::default();
        meter.round(|| subject.record(Log::Vmcs, &path))?;
        Ok(Self::made(subject, path, meter.cost()))
    }

    /// Where a guest is recorded.
    pub fn path(subject: &Subject, folder: &Path) -> PathBuf {
        folder.join(format!("{}.nvmx", subject.name.replace(' ', "-")))
    }

    /// One that was recorded now.
    pub fn made(subject: &Subject, path: PathBuf, cost: Cost) -> Self {
        Self { name: subject.name.clone(), built_in: subject.built_in, path, made: Some((subject.clone(), cost)) }
    }
}

/// At most about `most` events of a trace: all, or whole blocks that are spread over it evenly.
pub fn some_events(path: &Path, most: usize) -> Result<Vec<Event>, NoEvents> {
    let reader = Reader::open(path).map_err(NoEvents::Trace)?;
    let stride = (reader.len() as usize).div_ceil(most.max(1)).max(1);
    let mut events = Vec::new();
    for block in reader.blocks().iter().step_by(stride) {
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
