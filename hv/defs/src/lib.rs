//! Words only: names, bits and shapes of x86 and of VMX, the VMCS field table, exit reasons, addresses, the event
//! vocabulary, and the configuration of a machine.
//!
//! Nothing here acts: no memory is touched, no hypervisor decides. The crate imports nothing of ours, so that every
//! other crate can speak the same words without pulling the machine in.

pub mod addr;
pub mod config;
pub mod controls;
pub mod cost;
pub mod ept;
pub mod event;
pub mod exit;
pub mod fields;
pub mod instruction_error;
pub mod policy;
pub mod slip;
mod stored;
pub mod vmcs;
pub mod x86;
