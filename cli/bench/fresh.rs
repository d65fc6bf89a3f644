//! How long it takes from a fresh clone to the end of `nvmx demo`.

use super::row::{Budget, Row};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What to give for it.
const HOW: &str =
    "it builds for minutes: --source DIR, a checkout of nvmx (git clone DIR && cargo run --release -- demo)";

/// Clones the checkout in a folder, builds it and runs the demo; without one, says how it is measured.
///
/// # Errors
/// What failed, with the last line that it said.
pub fn measure(source: Option<&Path>, folder: &Path) -> Result<Row, String> {
    let (name, what) = ("demo", "a fresh clone to the end of `nvmx demo`");
    let budget = |row: Row| row.budget(Budget::AtMost(10.0)).stretch(Budget::AtMost(6.0));
    let Some(source) = source else { return Ok(budget(Row::missing(name, what, "min", HOW))) };
    let clone = folder.join("clone");
    let began = Instant::now();
    run("git clone", Command::new("git").args(["clone", "--quiet"]).arg(source).arg(&clone))?;
    let demo = folder.join("demo-of-the-clone");
    // A folder of its own for what is built; crates come from cargo's own store where they are there.
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&clone).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    run("the build", cargo.args(["run", "--release", "--locked", "--", "demo", "-o"]).arg(&demo))?;
    Ok(budget(Row::new(name, what, "min", began.elapsed().as_secs_f64() / 60.0)))
}

fn run(what: &str, command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{what} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{what} failed: {}", said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing")))
}
