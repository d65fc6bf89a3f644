//! Snippets of guest code, assembled beside what is expected of them.

mod exits;
mod fuzz;
mod integer;
mod system;
