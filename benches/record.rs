//! What recording costs: `nvmx record` of a built-in guest against `nvmx run` of it, as a ratio of times.
//!
//! Run by `cargo bench`. The two alternate, so that a host that is slow for a while is slow for both; the ratio is of the
//! medians, with the range that the middle half of the pairs spans.

use hv_defs::config::{Config, Guest, Log};
use recorder::{NoKeys, Outside};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long one guest is measured.
const BUDGET: Duration = Duration::from_secs(5);
/// Pairs measured at least and at most.
const PAIRS: std::ops::RangeInclusive<usize> = 5..=400;

fn outside<T>(run: impl FnOnce(Outside<'_>) -> T) -> T {
    let stop = AtomicBool::new(false);
    run(Outside { console: &mut std::io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} })
}

fn time<T, E: std::fmt::Display>(run: impl FnOnce() -> Result<T, E>) -> (Duration, T) {
    let start = Instant::now();
    match run() {
        Ok(done) => (start.elapsed(), done),
        Err(error) => {
            eprintln!("the bench cannot run: {error}");
            std::process::exit(3);
        }
    }
}

fn quantile(sorted: &[f64], at: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}

fn measure(guest: &str, log: Log, file: &Path) {
    let config = Config { log, ..Config::new(Guest::BuiltIn(guest.into())) };
    // A run without recording logs as little as can be.
    let plain = Config { log: Log::Exits, ..config.clone() };
    let (mut ratios, mut runs, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let mut summary = traces::Summary::default();
    let start = Instant::now();
    while ratios.len() < *PAIRS.start() || (start.elapsed() < BUDGET && ratios.len() < *PAIRS.end()) {
        let (run, _) = time(|| outside(|outside| recorder::run(&plain, &[], outside)));
        let (record, recorded) = time(|| outside(|outside| recorder::record(&config, &[], file, outside)));
        ratios.push(record.as_secs_f64() / run.as_secs_f64());
        runs.push(run.as_secs_f64());
        records.push(record.as_secs_f64());
        summary = recorded.summary;
    }
    for list in [&mut ratios, &mut runs, &mut records] {
        list.sort_by(f64::total_cmp);
    }
    println!(
        "{guest:<14} {:<6} {:>9} {:>11.2} {:>11.2} {:>7.2} ({:.2} to {:.2}) {:>9.1} {:>7.2} {:>6}",
        log.name(),
        summary.events,
        quantile(&runs, 0.5) * 1e3,
        quantile(&records, 0.5) * 1e3,
        quantile(&ratios, 0.5),
        quantile(&ratios, 0.25),
        quantile(&ratios, 0.75),
        (quantile(&records, 0.5) - quantile(&runs, 0.5)) * 1e9 / summary.events.max(1) as f64,
        summary.bytes as f64 / summary.events.max(1) as f64,
        ratios.len(),
    );
}

fn main() {
    let file = std::env::temp_dir().join(format!("nvmx-bench-{}.nvmx", std::process::id()));
    println!(
        "{:<14} {:<6} {:>9} {:>11} {:>11} {:>7} {:<14} {:>9} {:>7} {:>6}",
        "guest", "log", "events", "run ms", "record ms", "ratio", "(middle half)", "ns/event", "B/event", "pairs"
    );
    for guest in ["demo", "flush-storm", "pool-thrash"] {
        for log in [Log::Exits, Log::Vmcs] {
            measure(guest, log, &file);
        }
    }
    let _ = std::fs::remove_file(file);
}
