//! `nvmx`: record, replay and analyse nested VMX.

#![allow(unreachable_pub)] // Nothing of a program can be reached from outside.
#![cfg_attr(not(feature = "analysis"), allow(dead_code))] // The words of the commands that are left out are there.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: cli::memory::OrEnd = cli::memory::OrEnd;

fn main() -> ExitCode {
    cli::fail::install_panic_hook();
    cli::fail::outlive_full_files();
    match std::panic::catch_unwind(|| cli::run(std::env::args_os().collect())) {
        Ok(status) => status.into(),
        Err(_) => cli::fail::Status::Failed.into(),
    }
}
