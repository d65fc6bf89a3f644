//! `nvmx`: record, replay and analyse nested VMX.

#![allow(unreachable_pub)] // Nothing of a program can be reached from outside.
#![cfg_attr(not(all(feature = "analysis", feature = "live")), allow(dead_code))] // The words of what is left out are there.

#[cfg(all(feature = "live", not(all(target_os = "linux", target_arch = "x86_64"))))]
compile_error!(
    "the feature `live` is the host's KVM, which Linux on x86-64 has: build with --no-default-features --features analysis"
);

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
