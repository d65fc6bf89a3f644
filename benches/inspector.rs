//! What the inspector makes its user wait for: until the first screen, for a key, for a filter. `cargo bench --bench
//! inspector -- FILE...`; without a file, on a built-in guest's events, over and over up to 20 million.
//!
//! Each row stands beside a floor of the same run: to read and decompress every block once, on one core.

#[allow(dead_code, unreachable_pub)] // What other benches need.
#[path = "../cli/bench/source.rs"]
mod source;

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Kind, Stamp};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use traces::{Header, Reader, Writer};
use tui::measure::Inspector;

/// Events of the trace that is made where none is named.
const EVENTS: u64 = 20_000_000;

/// A terminal that is larger than most.
const SIZE: (u16, u16) = (200, 60);

fn main() {
    // cargo adds words of its own.
    let mut traces: Vec<PathBuf> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).map(PathBuf::from).collect();
    let folder = std::env::temp_dir().join(format!("nvmx-bench-inspector-{}", std::process::id()));
    let made = traces.is_empty();
    if made {
        let path = folder.join("demo.nvmx");
        std::fs::create_dir_all(&folder).and_then(|()| make(&path)).unwrap_or_else(|error| stop(&path, &error));
        traces.push(path);
    }
    for path in &traces {
        measure(path).unwrap_or_else(|error| stop(path, &error));
    }
    if made {
        // A scratch file that stays is no reason to fail.
        let _ = std::fs::remove_dir_all(&folder);
    }
}

fn stop(path: &Path, why: &dyn std::fmt::Display) -> ! {
    eprintln!("cannot measure on {}: {why}", path.display());
    std::process::exit(3)
}

/// Writes a built-in guest's events over and over.
fn make(path: &Path) -> std::io::Result<()> {
    let other = |error: &dyn std::fmt::Display| std::io::Error::other(error.to_string());
    let events = source::of_guest("demo", 1 << 20).map_err(|error| other(&error))?;
    let header = Header::new(Config::new(Guest::BuiltIn("demo".into())), Vec::new());
    let out = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut writer = Writer::create(out, &header).map_err(|error| other(&error))?;
    let span = events.last().map_or(0, |event| event.at.instruction + 1);
    for time in 0..EVENTS.div_ceil(events.len().max(1) as u64) {
        for event in &events {
            let at = Stamp { instruction: event.at.instruction + time * span, ..event.at };
            writer.push(&Event { at, what: event.what.clone() }).map_err(|error| other(&error))?;
        }
    }
    writer.finish().map(drop).map_err(|error| other(&error))
}

fn measure(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let mut inspector = Inspector::open(path, SIZE)?;
    let opened = began.elapsed();
    inspector.until_screen();
    let screen = began.elapsed();
    let memory_then = peak();
    inspector.until_rest();
    let timeline = began.elapsed();
    let reader = Reader::open(path)?;
    let began = Instant::now();
    let mut rows = 0;
    for block in 0..reader.blocks().len() {
        rows += u64::from(reader.tables(block)?.rows(Kind::Exit));
    }
    let floor = began.elapsed();
    println!("{}: {} events in {} blocks, {rows} exits", path.display(), reader.len(), reader.blocks().len());
    println!("  {:<46} {:>10}", "floor: every block read and decompressed", text(floor));
    let row = |what: &str, time: Duration, budget: &str| {
        let ratio = time.as_secs_f64() / floor.as_secs_f64().max(1e-9);
        println!("  {what:<46} {:>10}  {ratio:>7.3} of the floor  {budget}", text(time));
    };
    row("opened, a screen without events", opened, "");
    row("first screen", screen, "budget 200 ms at 100 million events");
    row("the timeline exact, and all else at rest", timeline, "");
    for (name, filter) in [
        ("no filter", None),
        ("a filter for most", Some("vmcs or exit")),
        ("a filter for some", Some("exit and level == 2")),
        ("a filter for one", Some("event == 12345")),
        ("a filter for none", Some("instruction > 0xfffffffffffffff")),
    ] {
        if let Some(filter) = filter {
            let (first, end) = inspector.filter(filter);
            println!("  {name}: {filter}, {} hits", inspector.hits());
            if let Some(first) = first {
                row("first hits", first, "budget 100 ms");
            }
            row("all hits", end, "budget 3 s at 100 million events");
        } else {
            println!("  {name}");
        }
        let mut times: Vec<Duration> = Vec::new();
        for key in "jjj GkkkgGkk  jj  jkg+++-0G +0zzg".chars().cycle().take(2000) {
            times.push(inspector.key(key));
            inspector.until_screen();
        }
        times.sort_unstable();
        row("a key, the 99th of 100", times[times.len() * 99 / 100], "budget 16 ms");
        row("a key, the worst of 2000", times[times.len() - 1], "budget 16 ms");
        inspector.until_rest();
    }
    println!("  most memory: {memory_then} at the first screen, {} at the end; budget 200 MB", peak());
    Ok(())
}

fn text(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        micros => format!("{:.0} ms", micros as f64 / 1e3),
    }
}

/// The most memory that the process has had, pages of files that are mapped included.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    peak.map_or("unknown".to_owned(), |kib| format!("{} MB", kib * 1024 / 1_000_000))
}
