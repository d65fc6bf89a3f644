//! The fuzz targets of the machine. What they do lies in `hv/tests/hostile`, where `cargo test` runs it too.
#![allow(dead_code)] // The ordinary tests use the rest.

#[path = "../../tests/hostile/actions.rs"]
mod actions;
#[path = "../../tests/hostile/board.rs"]
mod board;
#[path = "../../tests/hostile/case.rs"]
mod case;
#[path = "../../tests/hostile/code.rs"]
mod code;
#[path = "../../tests/hostile/contents.rs"]
mod contents;
#[path = "../../tests/hostile/dice.rs"]
mod dice;
#[path = "../../tests/hostile/images.rs"]
mod images;
#[path = "../../tests/hostile/layout.rs"]
mod layout;
#[path = "../../tests/hostile/ports.rs"]
mod ports;
#[path = "../../tests/hostile/targets/mod.rs"]
mod targets;

/// Runs the target of a name.
///
/// # Panics
/// When there is none of that name, and where the machine breaks a promise.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name").1;
    target(data);
}
