//! Snippets of guest code, assembled beside what is expected of them.

mod alignment;
mod apic;
mod breakpoints;
mod exit_details;
mod exits;
mod fuzz;
mod gather;
mod integer;
mod la57;
mod opcodes;
mod system;
mod v86;
mod x87;
