//! Guest code on /dev/kvm: one CPU, some memory, and a state to begin with and to read back.
//!
//! KVM here is a second opinion about what x86 does: [`Vm`] runs a snippet as the software CPU would, so that a test can
//! hold the two end states against each other. A state is the architecture's, in the words of [`hv::cpu`].
//!
//! Not here: any device, any interrupt controller, and the nested hypervisor.

pub mod host;
mod state;
mod vm;

pub use kvm_bindings::kvm_cpuid_entry2 as CpuidEntry;
pub use state::State;
pub use vm::{Error, Exit, Pending, Vm};
