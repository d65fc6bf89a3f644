//! How long seeking takes, beside a whole replay of the same trace in the same run.
//!
//! `cargo bench -p replayer --bench seek -- FILE` measures a trace of your own, with the checkpoints beside it; without, that of
//! a built-in guest, which is short.

use hv_defs::config::{Config, Guest};
use hv_defs::event::Event;
use hv_defs::policy::Policy;
use recorder::{Keep, Outside, Script};
use replayer::beside::beside;
use replayer::{Cursor, Options, replay};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use traces::Reader;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let named = std::env::args().skip(1).find(|word| !word.starts_with('-')).map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let path = folder.path().join("flush-storm.nvmx");
        let policy = Policy::preset("mapped").expect("a preset");
        let config = Config { policy, ..Config::new(Guest::BuiltIn("flush-storm".into())) };
        let (stop, mut shown) = (AtomicBool::new(false), Vec::new());
        let keep = Keep { path: beside(&path), per_mille: 1000 };
        let outside = Outside {
            console: &mut shown,
            keys: &mut Script(Default::default()),
            stop: &stop,
            watch: &mut |_: &[Event]| {},
        };
        recorder::record_keeping(&config, &[], &path, Some(&keep), outside).expect("recorded");
        path
    });
    let reader = Reader::open(&path).expect("a trace");
    let start = Instant::now();
    let verdict = replay(&reader, &Options::default()).expect("sound");
    let whole = start.elapsed();
    let millions = verdict.instructions as f64 / whole.as_secs_f64() / 1e6;
    println!(
        "{}: {} events, {} instructions, replayed in {:.3} s, {millions:.0} million instructions a second",
        path.display(),
        verdict.events,
        verdict.instructions,
        whole.as_secs_f64(),
    );
    let mut cursor = Cursor::open(&reader).expect("opened");
    match cursor.use_beside(&beside(&path)) {
        Ok(points) => println!("{points} checkpoints beside it"),
        Err(error) => println!("no checkpoints: {error}"),
    }
    drop(cursor);
    println!("{:<28} {:>10} {:>10} {:>10} {:>14}", "seek", "median", "mean", "longest", "longest/replay");
    let near = |beside_too: bool| {
        let mut cursor = Cursor::open(&reader).expect("opened");
        if beside_too {
            // What cannot be used was said above.
            let _ = cursor.use_beside(&beside(&path));
        }
        cursor
    };
    // Far: a fresh cursor each, as a command has one. Places are spread over the run's instructions: most events may be in a
    // few of its stretches.
    let length = reader.len();
    let places = |count: u64| {
        let reader = &reader;
        let end = verdict.instructions;
        (1..=count).map(move |at| {
            let wanted = at * 7 % count * (end / count);
            let (mut low, mut high) = (0, length - 1);
            while low < high {
                let middle = low + (high - low) / 2;
                let at = reader.event(middle).expect("sound").at.instruction;
                (low, high) = if at < wanted { (middle + 1, high) } else { (low, middle) };
            }
            low
        })
    };
    let show = |name: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let longest = times[times.len() - 1];
        println!(
            "{name:<28} {:>8.1}ms {:>8.1}ms {:>8.1}ms {:>14.4}",
            times[times.len() / 2].as_secs_f64() * 1e3,
            mean.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
            longest.as_secs_f64() / whole.as_secs_f64(),
        );
    };
    let timed = |cursor: &mut Cursor<'_>, event: u64| {
        let start = Instant::now();
        cursor.to_event(event).expect("sound");
        start.elapsed()
    };
    show(
        "from the start, with opening",
        places(10)
            .map(|event| {
                let start = Instant::now();
                near(true).to_event(event).expect("sound");
                start.elapsed()
            })
            .collect(),
    );
    show(
        "the same without the file",
        places(5)
            .map(|event| {
                let start = Instant::now();
                near(false).to_event(event).expect("sound");
                start.elapsed()
            })
            .collect(),
    );
    let mut cursor = near(true);
    show("50 places, by one cursor", places(50).map(|event| timed(&mut cursor, event)).collect());
    drop(cursor);
    let mut cursor = near(false);
    let start = Instant::now();
    cursor.to_event(length - 1).expect("sound");
    let passed = start.elapsed().as_secs_f64() / whole.as_secs_f64();
    println!("passed once, with checkpoints in memory, in {passed:.2} of the replay's time; from then on:");
    show("50 places that were passed", places(50).map(|event| timed(&mut cursor, event)).collect());
    show("the same places again", places(50).map(|event| timed(&mut cursor, event)).collect());
    let middle = reader.len() / 2;
    cursor.to_event(middle).expect("sound");
    for distance in [1, 100, 10_000, 1_000_000] {
        if distance < middle {
            let name = format!("{distance} events back and on");
            let times = (0..6).map(|at| timed(&mut cursor, if at % 2 == 0 { middle - distance } else { middle }));
            show(&name, times.collect());
        }
    }
}
