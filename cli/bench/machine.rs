//! The machine that measures.

use serde_json::{Value, json};
use std::fs::read_to_string;

/// CPUs that this process may use.
pub fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// How many threads wanted a CPU in the last minute: figures of a machine that is busy are worse.
pub fn load() -> Option<f64> {
    read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The CPU's model, as it calls itself.
fn model() -> Option<String> {
    let said = read_to_string("/proc/cpuinfo").ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim_ascii_end().to_owned())
}

/// The kernel's version, without what a distribution puts behind it.
fn kernel() -> Option<String> {
    let release = read_to_string("/proc/sys/kernel/osrelease").ok()?;
    release.trim_ascii().split(['-', '+']).next().map(|version| format!("Linux {version}"))
}

/// Memory, in MiB.
fn memory() -> Option<u64> {
    let said = read_to_string("/proc/meminfo").ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim_ascii().split(' ').next()?.parse::<u64>().ok()? / 1024)
}

/// It in a line.
pub fn line() -> String {
    let what = [model(), kernel()].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let what = if what.is_empty() { what } else { format!(", {what}") };
    let load = load().map(|load| format!(", load {load:.2}")).unwrap_or_default();
    format!("{}{what}{load}", super::super::print::of(cpus(), "CPU"))
}

/// It as JSON: what can be told of it, without names of hosts and paths.
pub fn object() -> Value {
    json!({ "cpus": cpus(), "model": model(), "kernel": kernel(), "memory_mib": memory() })
}
