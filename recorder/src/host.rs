//! A machine on the host's KVM, which is L0, recorded: the kernel's tracepoints of each vCPU's thread, and what its user sees.

use crate::Error;
use crate::attach::Attach;
use hv::cpu::Engine;
use hv::machine::{Image, MachineError};
use hv::world::World;
use hv_defs::config::{Clock, Config, Guest, Origin};
use hv_defs::event::{Event, Stop};
use hv_kvm::host::Ear;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use traces::Header;

pub use hv_kvm::host::HostError;
pub(crate) use hv_kvm::host::{Host, available};

impl From<HostError> for Error {
    /// What can be wrong with any machine is said as of any.
    fn from(error: HostError) -> Self {
        match error {
            HostError::Machine(error) => Self::Machine(error),
            HostError::Memory { needed, .. } => Self::Machine(MachineError::Host { needed }),
            HostError::Kvm(hv_kvm::Error::Thread(error)) => Self::Thread(error),
            error => Self::Host(error),
        }
    }
}

/// What executes plain instructions under an L0 of ours.
pub(crate) fn engine() -> Result<Box<dyn Engine>, HostError> {
    Ok(Box::new(hv_kvm::Engine::new()?))
}

/// The machine.
pub(crate) fn new(config: &Config, images: &[Image]) -> Result<Host, HostError> {
    Host::new(config, images)
}

/// The header of its trace: nothing of it can run again, and so its images are not kept.
pub(crate) fn header(config: &Config) -> Header {
    let name = match &config.guest {
        Guest::BuiltIn(name) | Guest::Kernel { name, .. } => name.clone(),
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let note = format!("L0 was KVM of Linux {}", release.trim());
    let origin = Origin { source: Origin::KVM.into(), name, clock: Clock::Nanoseconds, note };
    Header { origin: Some(origin), ..Header::new(config.clone(), Vec::new()) }
}

/// Runs it without recording.
pub(crate) fn run(host: Host, world: &mut dyn World) -> Stop {
    host.run(world, &|| Some(Box::new(Deaf)))
}

/// Runs it, and has the world told what the kernel's tracepoints say too; and what there is to know of how it was seen, a line
/// each.
pub(crate) fn record(host: Host, world: &mut dyn World) -> (Stop, Vec<String>) {
    let (began, notes) = (host.began(), Notes::default());
    let stop = host.run(world, &|| match Attach::of_this_thread(began) {
        Ok(attach) => {
            attach.notes().iter().for_each(|note| notes.add(note.clone()));
            Some(Box::new(Tracepoints { attach, notes: notes.clone() }))
        }
        Err(why) => {
            notes.add(format!("of the exits, only those that reach nvmx are recorded: {why}"));
            None
        }
    });
    (stop, notes.taken())
}

/// What there is to know, each once.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<BTreeSet<String>>>);

impl Notes {
    fn add(&self, note: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(note);
    }

    fn taken(&self) -> Vec<String> {
        core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

/// Hears nothing, and keeps nothing.
struct Deaf;

impl Ear for Deaf {
    fn hear(&mut self, _: &[Event]) -> Vec<Event> {
        Vec::new()
    }

    fn settled(&self, now: u64) -> u64 {
        now
    }

    fn end(self: Box<Self>) -> Vec<Event> {
        Vec::new()
    }
}

/// Hears the tracepoints of its thread.
struct Tracepoints {
    attach: Attach,
    notes: Notes,
}

impl Ear for Tracepoints {
    fn hear(&mut self, own: &[Event]) -> Vec<Event> {
        self.attach.take_own(own)
    }

    fn settled(&self, now: u64) -> u64 {
        self.attach.settled(now)
    }

    fn end(self: Box<Self>) -> Vec<Event> {
        let Self { attach, notes } = *self;
        match attach.end() {
            Ok((rest, totals)) => {
                if totals.lost > 0 {
                    notes.add(format!("{} records of tracepoints were lost", totals.lost));
                }
                if let Some((many, why)) = totals.wrong {
                    notes.add(format!("{many} records of tracepoints were not understood: {why}"));
                }
                rest
            }
            Err(error) => {
                notes.add(format!("the last of the tracepoints are missing: {error}"));
                Vec::new()
            }
        }
    }
}
