//! The machine and its L0 hypervisor.
//!
//! [`machine::Machine`] puts a guest hypervisor (L1) on a board and runs it under [`l0`], our nested hypervisor, which
//! asks [`silicon::Silicon`] to run instructions. [`cpu`], [`mmu`] and [`vmx`] are that silicon in software. All that
//! could differ between two runs comes in through [`world::World`], and all that happened goes out through it.
//!
//! This crate opens no file, reads no clock and spawns no thread.

pub mod boot;
pub mod cpu;
pub mod device;
pub mod disassemble;
pub mod features;
pub mod guests;
pub mod l0;
pub mod machine;
pub mod memory;
pub mod mmu;
pub mod parts;
pub mod silicon;
pub mod soft;
mod stored;
pub mod taped;
pub mod vmcs;
pub mod vmx;
pub mod watch;
pub mod world;
pub mod xsave;
