//! The software CPU: what runs a guest's instructions in VMX non-root operation.
//!
//! Bytes become ops (`decode`, by the table in `rows`), ops become blocks within a physical page (`block`), and the loop
//! in `exec` runs blocks, exactly to an instruction count. An op is a function that was chosen for its shape and width at
//! decode, with its operands beside it (`op`); the functions of a block jump from one to the next (`chain`). Memory is
//! seen through `access`; what an op cannot complete, an exception or an exit, it leaves in the state and answers so;
//! `event` makes of that what the architecture makes of it, and `deliver` takes it through the IDT.
//!
//! **Adding a family of instructions**: a file in `ops` with builders, which are functions from a decoded form to the
//! function that runs it, or `None` for forms that are not there; a row for each mnemonic in `rows`, which says who may
//! run it, when it exits, and which builder it has. What has no row ends the run with a report, and never a panic.
//!
//! Not here: what an exit means to a hypervisor, and any device.

mod access;
mod apic;
mod block;
mod breakpoint;
mod chain;
mod decode;
mod deliver;
mod engine;
mod event;
mod exec;
mod flags;
mod float;
mod guard;
mod lanes;
mod op;
mod ops;
mod rows;
mod segment;
mod state;
mod stops;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use apic::Vectors;
pub use block::Blocks;
pub use decode::has;
pub use engine::{Engine, NOT_LEFT_TO_KVM, NOT_OFFERED};
pub use event::inject;
pub use exec::{run, run_by};
pub use state::{Cpu, Segment, Table, Trap};
pub use stops::{Met, Stops, Watch};
