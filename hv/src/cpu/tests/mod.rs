//! Snippets of guest code, assembled beside what is expected of them.

mod fuzz;
mod integer;
