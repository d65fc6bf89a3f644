//! A machine on the host's KVM, recorded: what its user sees of it.

use hv::machine::Image;
use hv::world::World;
use hv_defs::config::{Clock, Config, Guest, Origin};
use hv_defs::event::Stop;
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
    let note = "the host's kernel was L0, and nvmx its user".into();
    let origin = Origin { source: Origin::KVM.into(), name, clock: Clock::Nanoseconds, note };
    Header { origin: Some(origin), ..Header::new(config.clone(), Vec::new()) }
}

/// Runs it.
pub(crate) fn run(host: &mut Host, world: &mut dyn World) -> Stop {
    host.run(world)
}
