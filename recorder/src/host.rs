//! A machine on the host's KVM, which is L0, recorded: the kernel's tracepoints of the thread that runs it, and what its user
//! sees of it.

use crate::attach::Attach;
use core::ops::ControlFlow;
use hv::machine::Image;
use hv::world::World;
use hv_defs::config::{Clock, Config, Guest, Origin};
use hv_defs::event::{Event, InputKind, Stop, What};
use hv_kvm::host::{Host, HostError};
use traces::Header;

pub(crate) use hv_kvm::host::available;

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

/// Runs it, on the thread that made it, and has the world told what the kernel's tracepoints say too. What there is to know of
/// how it was seen is noted.
pub(crate) fn run(host: &mut Host, world: &mut dyn World, notes: &mut Vec<String>) -> Stop {
    let mut attach = match Attach::of_this_thread() {
        Ok(attach) => attach,
        Err(why) => {
            notes.push(format!("of the exits, only those that reach nvmx are recorded: {why}"));
            return host.run(world);
        }
    };
    notes.extend_from_slice(attach.notes());
    host.leave_exits_to_tracepoints(attach.start());
    let mut merged = Merged { attach: &mut attach, world, last: None };
    let stop = host.run(&mut merged);
    let last = merged.last;
    match attach.end() {
        Ok((rest, totals)) => {
            // Nothing comes after this: whether the world wants more does not matter.
            let _ = world.events(&rest);
            if totals.lost > 0 {
                notes.push(format!("{} records of tracepoints were lost", totals.lost));
            }
            if let Some((many, why)) = totals.wrong {
                notes.push(format!("{many} records of tracepoints were not understood: {why}"));
            }
        }
        Err(error) => notes.push(format!("the last of the tracepoints are missing: {error}")),
    }
    if let Some(last) = last {
        let _ = world.events(&[last]);
    }
    stop
}

/// A world that hears of the tracepoints too.
struct Merged<'a> {
    attach: &'a mut Attach,
    world: &'a mut dyn World,
    /// The stop, behind which nothing is to come.
    last: Option<Event>,
}

impl World for Merged<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        let events = match events.split_last() {
            Some((last @ Event { what: What::Stop(_), .. }, before)) => {
                self.last = Some(last.clone());
                before
            }
            _ => events,
        };
        let all: Vec<_> = self.attach.take_own(events).collect();
        if all.is_empty() { ControlFlow::Continue(()) } else { self.world.events(&all) }
    }

    fn console(&mut self, bytes: &[u8]) {
        self.world.console(bytes);
    }

    fn input(&mut self, poll: u64, now: u64, idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        self.world.input(poll, now, idle_until)
    }
}
