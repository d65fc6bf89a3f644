//! Checkpoints beside a trace lead to the same places as the way there does, change nothing of a recording, and are left
//! aside when they are not right.

mod common;

use common::config;
use hv::silicon::Silicon;
use hv_defs::config::Config;
use hv_defs::event::Event;
use recorder::{Keep, Outside, Script};
use replayer::beside::{beside, open, replay_keeping};
use replayer::{Arrived, Cursor};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use traces::Reader;
use traces::seek::{About, Checkpoints, Point, SeekError, SeekFile};

fn record(config: &Config, keys: &str, path: &Path, keep: Option<&Keep>) -> recorder::Recorded {
    let (stop, mut shown) = (AtomicBool::new(false), Vec::new());
    let outside = Outside {
        console: &mut shown,
        keys: &mut Script(keys.bytes().collect()),
        stop: &stop,
        watch: &mut |_: &[Event]| {},
    };
    recorder::record_keeping(config, &[], path, keep, outside).expect("recorded")
}

/// A file of checkpoints as dense as `apart` instructions, of what a cursor passes.
fn keep(reader: &Reader, path: &Path, apart: u64) -> u64 {
    keep_as(reader, path, apart, 0)
}

/// The same, and each says that so many events more had happened.
fn keep_as(reader: &Reader, path: &Path, apart: u64, wrong: u64) -> u64 {
    let mut cursor = Cursor::open(reader).expect("opened");
    let about = About {
        build: env!("CARGO_PKG_VERSION").into(),
        form: hv::machine::state_form(),
        beginning: reader.beginning().expect("read"),
    };
    let mut digests = Vec::new();
    let initial = cursor.machine().changed_pages(&mut digests);
    let file = fs::File::create(path).expect("made");
    let kept = Checkpoints::begin(file, &about, initial, 1 << 30).expect("begun");
    let mut next = apart;
    while cursor.to_instruction(next).expect("sound") == Arrived::There {
        let point = Point { events: cursor.event() + wrong, instruction: cursor.instruction(), ..Point::default() };
        let state = cursor.machine().save();
        kept.take(point, state, cursor.machine().changed_pages(&mut digests), u64::MAX / 2000);
        next = cursor.instruction() + apart;
    }
    kept.finish(Some(reader.identity().expect("read")), cursor.instruction()).expect("written").points
}

fn seen(cursor: &mut Cursor<'_>) -> (u64, u64, u64) {
    (cursor.event(), cursor.instruction(), cursor.machine().silicon().digest())
}

#[track_caller]
fn check(guest: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.nvmx");
    record(&Config { seed: 7, ..config(guest, "mapped") }, "", &path, None);
    let reader = Reader::open(&path).expect("a trace");
    let last = reader.event(reader.len() - 1).expect("an event").at.instruction;
    // No input is given to these guests, so that points need not tell of any.
    let points = keep(&reader, &beside(&path), (last / 70).max(1));
    assert!(points > 40, "{points}");
    let first = open(&beside(&path), &reader).expect("right").point(0).expect("there").events;
    let places: Vec<u64> = (0..24).map(|at| reader.len() / 25 * at).collect();
    let mut plain = Cursor::open(&reader).expect("opened");
    let wanted: Vec<_> = places.iter().map(|&event| (plain.to_event(event), seen(&mut plain)).1).collect();
    // To and fro, each time from the file.
    let mut order: Vec<usize> = (0..places.len()).map(|at| at * 7 % places.len()).collect();
    order.extend([0, 23, 1, 22, 12]);
    for &at in order.iter().step_by(3) {
        let mut cursor = Cursor::open(&reader).expect("opened");
        assert_eq!(cursor.use_beside(&beside(&path)).expect("right") as u64, points);
        assert_eq!(cursor.to_event(places[at]).expect("sound"), Arrived::There);
        assert_eq!(seen(&mut cursor), wanted[at], "{guest}: event {}", places[at]);
        // Behind the first checkpoint, nobody has seen the events before.
        assert_eq!(cursor.digest().is_none(), places[at] >= first, "{guest}: event {}", places[at]);
    }
    let mut cursor = Cursor::open(&reader).expect("opened");
    cursor.use_beside(&beside(&path)).expect("right");
    for &at in order.iter().rev() {
        assert_eq!(cursor.to_event(places[at]).expect("sound"), Arrived::There);
        assert_eq!(seen(&mut cursor), wanted[at], "{guest}: event {}", places[at]);
    }
}

#[test]
fn a_place_is_the_same_by_a_checkpoint_beside_the_trace() {
    check("demo");
    check("pool-thrash");
}

#[test]
fn a_recording_is_the_same_with_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let (with, without): (PathBuf, PathBuf) = (folder.path().join("with.nvmx"), folder.path().join("without.nvmx"));
    for guest in ["demo", "flush-storm"] {
        let keep = Keep { path: beside(&with), per_mille: 1000 };
        let recorded = record(&config(guest, "mapped"), "some keys\n", &with, Some(&keep));
        let kept = recorded.checkpoints.expect("wanted").expect("written");
        record(&config(guest, "mapped"), "some keys\n", &without, None);
        assert_eq!(fs::read(&with).expect("read"), fs::read(&without).expect("read"), "{guest}");
        assert_eq!(fs::metadata(beside(&with)).expect("there").len(), kept.bytes);
        let reader = Reader::open(&with).expect("a trace");
        assert_eq!(open(&beside(&with), &reader).expect("right").points().len() as u64, kept.points);
        // A replay finds the same to keep.
        let other = folder.path().join("other.seek");
        let (verdict, again) = replay_keeping(&reader, &other, 1000, &mut |_| {}).expect("replayed");
        assert!(verdict.identical());
        assert_eq!(again.expect("kept").points, kept.points);
        open(&other, &reader).expect("right");
    }
}

#[test]
fn checkpoints_of_another_trace_or_build_are_left_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (folder.path().join("a.nvmx"), folder.path().join("b.nvmx"));
    record(&config("demo", "mapped"), "", &a, None);
    record(&Config { seed: 9, ..config("demo", "mapped") }, "", &b, None);
    let (ours, theirs) = (Reader::open(&a).expect("a trace"), Reader::open(&b).expect("a trace"));
    keep(&ours, &beside(&a), 5_000);
    open(&beside(&a), &ours).expect("right");
    assert!(matches!(open(&beside(&a), &theirs), Err(SeekError::OtherTrace)));
    assert!(matches!(open(&folder.path().join("none"), &ours), Err(SeekError::Read(_))));
    assert!(matches!(open(&a, &ours), Err(SeekError::NotOne)));
    let about = About {
        build: env!("CARGO_PKG_VERSION").into(),
        form: hv::machine::state_form() ^ 2,
        beginning: ours.beginning().expect("read"),
    };
    let bytes = fs::read(beside(&a)).expect("read");
    let other = SeekFile::from_bytes(bytes, &about, ours.identity().ok());
    assert!(matches!(other, Err(SeekError::OtherBuild { .. })));
}

#[test]
fn damaged_checkpoints_lead_nowhere_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.nvmx");
    record(&config("demo", "mapped"), "", &path, None);
    let reader = Reader::open(&path).expect("a trace");
    keep(&reader, &beside(&path), 3_000);
    let whole = fs::read(beside(&path)).expect("read");
    let event = reader.len() * 3 / 4;
    let mut plain = Cursor::open(&reader).expect("opened");
    plain.to_event(event).expect("sound");
    let wanted = seen(&mut plain);
    let (mut used, mut refused) = (0, 0);
    for step in 0..24 {
        let mut bytes = whole.clone();
        let at = whole.len() * step / 24 + step % 7;
        match step % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (step % 8),
            _ => bytes[at..].iter_mut().take(200).for_each(|byte| *byte = 0),
        }
        fs::write(beside(&path), bytes).expect("written");
        let mut cursor = Cursor::open(&reader).expect("opened");
        match cursor.use_beside(&beside(&path)) {
            Ok(_) => used += 1,
            Err(_) => refused += 1,
        }
        assert_eq!(cursor.to_event(event).expect("sound"), Arrived::There);
        assert_eq!(seen(&mut cursor), wanted, "step {step}");
    }
    assert!(used > 0 && refused > 0, "{used} {refused}");
}

/// Whoever can write there can make states that no run comes to. A difference that they lead to is not the trace's.
#[test]
fn checkpoints_that_are_wrong_are_no_difference() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.nvmx");
    record(&config("demo", "mapped"), "", &path, None);
    let reader = Reader::open(&path).expect("a trace");
    keep_as(&reader, &beside(&path), 20_000, 3);
    let mut plain = Cursor::open(&reader).expect("opened");
    for event in [reader.len() / 3, reader.len() * 3 / 4] {
        let mut cursor = Cursor::open(&reader).expect("opened");
        assert!(cursor.use_beside(&beside(&path)).expect("right") > 2);
        assert_eq!(cursor.to_event(event).expect("sound"), Arrived::There);
        plain.to_event(event).expect("sound");
        assert_eq!(seen(&mut cursor), seen(&mut plain));
        assert!(cursor.digest().is_some(), "it went from the start");
    }
}
