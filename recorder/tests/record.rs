//! Runs in a live world: what the console shows, what ends a run, and what is left when the disk is full.

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, StopKind};
use recorder::{Error, Key, Keys, NoKeys, Outside, Recorded};
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;
use traces::Reader;

fn demo() -> Config {
    Config::new(Guest::BuiltIn("demo".into()))
}

/// Calls `with` with an outside where nobody types.
fn quiet<T>(console: &mut dyn Write, with: impl FnOnce(Outside<'_>) -> T) -> T {
    let stop = AtomicBool::new(false);
    with(Outside { console, keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} })
}

#[test]
fn a_run_without_recording_ends_and_shows_the_same() {
    let (mut shown, mut recorded_shown, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let stop = quiet(&mut shown, |outside| recorder::run(&demo(), &[], outside)).expect("run");
    let recorded = quiet(&mut recorded_shown, |outside| recorder::record_to(&demo(), &[], &mut bytes, outside));
    assert_eq!(stop, recorded.expect("recorded").stop);
    assert!(!shown.is_empty());
    assert_eq!(shown, recorded_shown);
}

#[test]
fn what_is_watched_is_what_is_recorded() {
    let (mut watched, mut bytes) = (Vec::new(), Vec::new());
    let outside = Outside {
        console: &mut io::sink(),
        keys: &mut NoKeys,
        stop: &AtomicBool::new(false),
        watch: &mut |events| watched.extend_from_slice(events),
    };
    let Recorded { stop, summary, .. } = recorder::record_to(&demo(), &[], &mut bytes, outside).expect("recorded");
    let length = bytes.len() as u64;
    let reader = Reader::from_bytes(bytes).expect("a trace");
    let events: Vec<Event> = reader.events(0).map(|event| event.expect("sound")).collect();
    assert_eq!(events, watched);
    assert_eq!((summary.events, summary.bytes), (events.len() as u64, length));
    assert_eq!(events.last().map(|event| event.what.clone()), Some(hv_defs::event::What::Stop(stop)));
    assert_eq!(reader.header().config, demo());
}

#[test]
fn the_stop_flag_ends_a_run() {
    let stop = AtomicBool::new(true);
    let outside = Outside { console: &mut io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_| {} };
    let mut endless = demo();
    endless.slice = 1000;
    let stop = recorder::run(&endless, &[], outside).expect("run");
    assert_eq!(stop.kind, StopKind::World);
}

/// Says that the disk is full when so many bytes are written.
struct Full {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for &mut Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fits]);
        if fits == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(fits) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_is_written_is_readable() {
    let mut whole = Vec::new();
    quiet(&mut io::sink(), |outside| recorder::record_to(&demo(), &[], &mut whole, outside)).expect("recorded");
    let header = Reader::from_bytes(whole.clone()).expect("a trace").blocks()[0].offset as usize;
    for room in [0, header - 1, header, header + 50, whole.len() - 1] {
        let mut disk = Full { bytes: Vec::new(), room };
        let error = quiet(&mut io::sink(), |outside| recorder::record_to(&demo(), &[], &mut disk, outside));
        let error = error.expect_err("there is no room");
        assert!(matches!(error, Error::Trace { source: traces::Error::Write(_), .. }), "{error}");
        assert!(error.to_string().starts_with("the recording ended after "), "{error}");
        let read = Reader::from_bytes(disk.bytes);
        assert_eq!(read.is_ok(), room >= header, "{room} bytes of room");
        if let Ok(reader) = read {
            assert!(reader.events(0).all(|event| event.is_ok()));
        }
    }
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let path = std::path::Path::new("/no/such/directory/demo.nvmx");
    let error = quiet(&mut io::sink(), |outside| recorder::record(&demo(), &[], path, outside));
    let error = error.expect_err("refused").to_string();
    assert!(error.starts_with("cannot create /no/such/directory/demo.nvmx: "), "{error}");
}

#[test]
fn a_guest_that_cannot_be_built_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("never.nvmx");
    let config = Config::new(Guest::BuiltIn("no such guest".into()));
    let error = quiet(&mut io::sink(), |outside| recorder::record(&config, &[], &path, outside));
    assert!(matches!(error, Err(Error::Machine(_))));
    assert!(!path.exists());
}

/// A console whose reader went away.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_console_that_is_gone_does_not_end_a_run() {
    let ended = quiet(&mut io::sink(), |outside| recorder::run(&demo(), &[], outside)).expect("run");
    assert_eq!(quiet(&mut Gone, |outside| recorder::run(&demo(), &[], outside)).expect("run"), ended);
}

#[test]
fn a_thread_types_until_it_hangs_up() {
    let (typing, mut keys) = mpsc::channel();
    assert_eq!(keys.key(Duration::ZERO), Key::None);
    typing.send(b'x').expect("the other end is here");
    assert_eq!(keys.key(Duration::from_secs(5)), Key::Byte(b'x'));
    drop(typing);
    assert_eq!(keys.key(Duration::from_secs(5)), Key::End);
}
