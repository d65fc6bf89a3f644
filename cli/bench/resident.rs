//! Resident memory, as Linux tells it.

use super::part::Part;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a part has of it on a trace, before and at most, in a process of its own.
///
/// # Errors
/// What it said, or that the system does not tell.
pub fn of_child(part: Part, path: &Path) -> Result<[f64; 2], String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output =
        Command::new(program).args(["bench", "--only-memory", part.name()]).arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("nvmx cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim_ascii().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    <[f64; 2]>::try_from(numbers).map_err(|_| "this system does not tell how much memory a process has".into())
}

/// Forgets the most that there was, where the system can. Gives what there is now, in MiB.
pub fn begin_peak() -> Option<f64> {
    // Where it cannot, what came before counts too, and the figure is too large, not too small.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    said("VmRSS:")
}

/// The most since then, in MiB.
pub fn peak() -> Option<f64> {
    said("VmHWM:")
}

fn said(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_ascii().split(' ').next()?.parse::<f64>().ok()? / 1024.0)
}
