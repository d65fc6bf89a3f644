//! In the place of a host's KVM where there is none to be built for: what asks for it is told so.

use crate::Error;
use hv::cpu::Engine;
use hv::machine::Image;
use hv::world::World;
use hv_defs::config::Config;
use hv_defs::event::Stop;
use traces::Header;

/// This build has no KVM.
#[derive(Debug, thiserror::Error)]
#[error("this nvmx was built without the feature `live`, and so without KVM, which Linux on x86-64 has")]
pub struct HostError;

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

/// A machine on it, of which there is none.
pub(crate) enum Host {}

/// Whether the kernel can be L0.
pub(crate) fn available() -> Result<bool, HostError> {
    Err(HostError)
}

/// What executes plain instructions under an L0 of ours.
pub(crate) fn engine() -> Result<Box<dyn Engine>, HostError> {
    Err(HostError)
}

/// The machine.
pub(crate) fn new(_: &Config, _: &[Image]) -> Result<Host, HostError> {
    Err(HostError)
}

/// The header of its trace, if there were one.
pub(crate) fn header(config: &Config) -> Header {
    Header::new(config.clone(), Vec::new())
}

/// Runs it.
pub(crate) fn run(host: Host, _: &mut dyn World) -> Stop {
    match host {}
}

/// Runs it, and records the kernel.
pub(crate) fn record(host: Host, _: &mut dyn World) -> (Stop, Vec<String>) {
    match host {}
}
