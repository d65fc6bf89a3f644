//! How long L0 alone takes over recorded silicon, beside a full replay of the same recording in the same run.
//!
//! `cargo bench -p replayer --bench l0only -- FILE` measures a trace of your own that was recorded with `--log l0`; without,
//! one of a built-in guest, which is short: what a machine takes to be built weighs on it. With `--alone` too, the full replay
//! is left out.

use hv_defs::config::{Config, Guest, Log};
use hv_defs::event::Kind;
use hv_defs::policy::Policy;
use recorder::{NoKeys, Outside};
use replayer::{Options, replay, replay_l0};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use traces::Reader;

/// Runs of each kind. The fastest counts: what else the machine does only adds.
const RUNS: usize = 5;

fn main() {
    let named = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let reader = match &named {
        Some(path) => Reader::open(path).expect("a trace"),
        None => recorded("flush-storm"),
    };
    let exits = reader.counts().expect("sound").into_iter().find(|(name, _)| name == Kind::Exit.name());
    let exits = exits.map_or(0, |(_, count)| count);
    println!("{}: {} events, {exits} exits", named.as_deref().unwrap_or("flush-storm"), reader.len());
    let whole = !std::env::args().any(|word| word == "--alone");
    let full = whole.then(|| timed(|| assert!(replay(&reader, &Options::default()).expect("sound").identical()), 1));
    let alone = timed(|| assert!(replay_l0(&reader, None, None).expect("sound").identical()), RUNS);
    println!("{:<12} {:>9} {:>9} {:>16} {:>16} {:>10}", "replay", "wall", "CPU", "exits/s", "exits/CPU s", "of full");
    for (name, (wall, cpu)) in full.map(|full| ("full", full)).into_iter().chain([("L0 alone", alone)]) {
        println!(
            "{name:<12} {:>7.3} s {:>7.3} s {:>16.0} {:>16.0} {:>10}",
            wall.as_secs_f64(),
            cpu.as_secs_f64(),
            exits as f64 / wall.as_secs_f64(),
            exits as f64 / cpu.as_secs_f64(),
            full.map_or(String::new(), |full| format!("{:.4}", cpu.as_secs_f64() / full.1.as_secs_f64())),
        );
    }
}

fn recorded(guest: &str) -> Reader {
    let policy = Policy::preset("mapped").expect("a preset");
    let config = Config { policy, log: Log::L0, ..Config::new(Guest::BuiltIn(guest.into())) };
    let (stop, mut bytes) = (AtomicBool::new(false), Vec::new());
    let outside = Outside { console: &mut Vec::new(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} };
    recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
    Reader::from_bytes(bytes).expect("a sound trace")
}

/// Wall and CPU time, of all threads together, of the run that took least CPU time.
fn timed(mut run: impl FnMut(), runs: usize) -> (Duration, Duration) {
    let times = (0..runs).map(|_| {
        let (start, before) = (Instant::now(), cpu_time());
        run();
        (start.elapsed(), cpu_time() - before)
    });
    times.min_by_key(|(_, cpu)| *cpu).expect("a run")
}

/// CPU time of this process, threads that have ended included, to a hundredth of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
