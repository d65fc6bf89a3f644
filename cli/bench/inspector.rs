//! What the inspector makes its user wait for: until the first screen, for a key, for a filter. Drawn into memory.

use super::analysis::Failed;
use super::part::Part;
use super::resident;
use super::row::{Budget, Row};
use std::path::Path;
use std::time::{Duration, Instant};
use traces::Reader;
use tui::measure::Inspector;

/// A terminal that is larger than most.
const SIZE: (u16, u16) = (200, 60);
/// How often it is opened: the fastest counts.
const OPENED: usize = 3;
/// Keys that are pressed under each filter: moves of all kinds, and the timeline's.
const KEYS: &str = "jjj GkkkgGkk  jj  jkg+++-0G +0zzg";
/// Without a filter, and under filters for most events, for some, for one and for none.
const FILTERS: [Option<&str>; 5] = [
    None,
    Some("vmcs or exit"),
    Some("exit and level == 2"),
    Some("event == 12345"),
    Some("instruction > 0xfffffffffffffff"),
];

/// Measures on a trace of any length.
///
/// # Errors
/// The trace cannot be opened or is damaged.
pub fn measure(path: &Path, quick: bool) -> Result<Vec<Row>, Failed> {
    let [before, most] = resident::of_child(Part::Inspector, path)?;
    let mut screen = Duration::MAX;
    for _ in 1..OPENED {
        screen = screen.min(first_screen(path)?.1);
    }
    let (mut inspector, took) = first_screen(path)?;
    screen = screen.min(took);
    let began = Instant::now();
    inspector.until_rest();
    let timeline = screen + began.elapsed();
    let (mut keys, mut first, mut all) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for filter in FILTERS {
        if let Some(filter) = filter {
            let (hit, end) = inspector.filter(filter);
            (first, all) = (first.max(hit.unwrap_or_default()), all.max(end));
        }
        for key in KEYS.chars().cycle().take(if quick { 200 } else { 2000 }) {
            keys.push(inspector.key(key));
            inspector.until_screen();
        }
        inspector.until_rest();
    }
    drop(inspector);
    keys.sort_unstable();
    let (reader, began) = (Reader::open(path)?, Instant::now());
    for block in 0..reader.blocks().len() {
        std::hint::black_box(reader.tables(block)?);
    }
    let floor = began.elapsed();
    let row = |name, what: &str, time: Duration, most: f64| {
        Row::new(name, what, "ms", milliseconds(time)).budget(Budget::AtMost(most))
    };
    let beside = |row: Row| row.floor(milliseconds(floor), "every block read and decompressed once");
    let memory =
        Row::new("memory", "memory at most, all filters applied", "MiB", most).floor(before, "the program before it");
    Ok(vec![
        beside(row("first-screen", "from opening to the first screen", screen, 200.0))
            .with("events", reader.len() as f64),
        beside(Row::new("timeline", "to the timeline exact and all else at rest", "ms", milliseconds(timeline))),
        row("key", "from a key to the screen, the 99th of 100", keys[keys.len() * 99 / 100], 16.0),
        row("key-worst", "the worst of all keys", keys[keys.len() - 1], 16.0),
        row("first-hits", "to a filter's first events, the worst of four", first, 100.0),
        beside(row("all-hits", "to all of a filter's events, the worst of four", all, 3000.0)),
        memory.budget(Budget::AtMost(200e6 / f64::from(1 << 20))),
    ])
}

/// What is done to see how much memory it takes: the first screen, the timeline, all filters.
///
/// # Errors
/// As [`measure`].
pub fn only_memory(path: &Path) -> Result<[Option<f64>; 2], Failed> {
    let before = resident::begin_peak();
    let mut inspector = first_screen(path)?.0;
    inspector.until_rest();
    for filter in FILTERS.into_iter().flatten() {
        inspector.filter(filter);
        inspector.until_rest();
    }
    Ok([before, resident::peak()])
}

fn first_screen(path: &Path) -> Result<(Inspector, Duration), Failed> {
    let began = Instant::now();
    let mut inspector = Inspector::open(path, SIZE)?;
    inspector.until_screen();
    Ok((inspector, began.elapsed()))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
