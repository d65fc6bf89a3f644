//! Guest code on /dev/kvm.
//!
//! Where KVM's guests may be hypervisors, the kernel can be L0: [`host`] is its user then. Where they may not, KVM is a CPU
//! for an L0 of ours: a machine's [`Engine`], which executes its guests' plain instructions beside the software CPU. And as
//! a second opinion, [`Vm`] runs a snippet as the software CPU would, so that a test can hold the two end states against
//! each other. A state is the architecture's, in the words of [`hv::cpu`].

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod about;
mod engine;
pub mod host;
mod state;
mod vm;

pub use about::{About, about};
pub use engine::Engine;
pub use kvm_bindings::kvm_cpuid_entry2 as CpuidEntry;
pub use state::State;
pub use vm::{Error, Exit, Pending, Vm};
