//! `nvmx bench` for who works on nvmx: `cargo bench --bench budgets -- nested --guest DIR` builds the program and has it
//! measure, with the words behind `--`; `nvmx bench --help` has them.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // cargo adds a word of its own.
    let words = std::env::args_os().skip(1).filter(|word| word != "--bench");
    let ran = Command::new(env!("CARGO_BIN_EXE_nvmx")).arg("bench").args(words).status();
    match ran {
        Ok(status) => u8::try_from(status.code().unwrap_or(3)).unwrap_or(3).into(),
        Err(error) => {
            eprintln!("nvmx cannot be started: {error}");
            3.into()
        }
    }
}
