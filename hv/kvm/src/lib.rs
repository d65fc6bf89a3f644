//! Guest code on /dev/kvm.
//!
//! KVM is a second CPU here, in two parts. As a machine's [`Engine`] it executes what its guests do, beside the software
//! CPU. As a second opinion, [`Vm`] runs a snippet as the software CPU would, so that a test can hold the two end states
//! against each other. A state is the architecture's, in the words of [`hv::cpu`].
//!
//! Not here: any device, any interrupt controller, and the nested hypervisor.

mod engine;
pub mod host;
mod state;
mod vm;

pub use engine::Engine;
pub use kvm_bindings::kvm_cpuid_entry2 as CpuidEntry;
pub use state::State;
pub use vm::{Error, Exit, Pending, Vm};
