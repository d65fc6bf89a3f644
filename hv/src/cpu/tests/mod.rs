//! Snippets of guest code, assembled beside what is expected of them.

mod breakpoints;
mod exits;
mod fuzz;
mod gather;
mod integer;
mod opcodes;
mod system;
