//! A recording that is read while it is made.

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Stamp, What};
use std::fs::{self, File};
use std::path::Path;
use traces::{Growth, Header, Reader, Writer};

fn header(name: &str) -> Header {
    Header::new(Config::new(Guest::BuiltIn(name.into())), Vec::new())
}

fn event(number: u64) -> Event {
    Event { at: Stamp { instruction: number, vcpu: 0, pcpu: 0 }, what: What::Mark(number as u32) }
}

fn more(reader: &Reader) -> Reader {
    match reader.growth().expect("the file is there") {
        Growth::More(grown) => *grown,
        other => panic!("{other:?}"),
    }
}

/// The events are those from 0 to `len`, and so says the reader.
#[track_caller]
fn check(reader: &Reader, len: u64, truncated: bool) {
    assert_eq!((reader.len(), reader.truncated()), (len, truncated));
    let events: Vec<Event> = reader.events(0).map(|event| event.expect("it is whole")).collect();
    assert_eq!(events, (0..len).map(event).collect::<Vec<_>>());
}

#[test]
fn what_is_appended_is_seen_and_so_is_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("live.nvmx");
    let mut writer = Writer::create(File::create(&path).expect("a file"), &header("live")).expect("it writes");
    let first = Reader::open(&path).expect("a header is enough");
    check(&first, 0, true);
    assert!(matches!(first.growth(), Ok(Growth::Same)));
    let mut push = |from: u64, to: u64| {
        (from..to).for_each(|number| writer.push(&event(number)).expect("it writes"));
        writer.end_block().expect("it writes");
    };
    push(0, 10);
    let second = more(&first);
    check(&second, 10, true);
    push(10, 500);
    push(500, 501);
    let third = more(&second);
    check(&third, 501, true);
    // Half a block is none yet.
    let whole = fs::read(&path).expect("it is there");
    push(501, 900);
    let longer = fs::read(&path).expect("it is there");
    let half = folder.path().join("half.nvmx");
    fs::write(&half, &whole).expect("it writes");
    let reader = Reader::open(&half).expect("a trace");
    let append = |path: &Path, bytes: &[u8]| {
        std::io::Write::write_all(&mut File::options().append(true).open(path).expect("a file"), bytes)
            .expect("it writes");
    };
    append(&half, &longer[whole.len()..longer.len() - 7]);
    let same = more(&reader);
    check(&same, 501, true);
    append(&half, &longer[longer.len() - 7..]);
    check(&more(&same), 900, true);
    writer.finish().expect("it ends");
    let ended = more(&third);
    check(&ended, 900, false);
    assert!(matches!(ended.growth(), Ok(Growth::Same)));
    // What was opened before reads on.
    check(&third, 501, true);
}

#[test]
fn a_file_that_is_another_is_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.nvmx");
    let write = |path: &Path, name: &str, events: u64| {
        let mut writer = Writer::create(File::create(path).expect("a file"), &header(name)).expect("it writes");
        (0..events).for_each(|number| writer.push(&event(number)).expect("it writes"));
        writer.finish().expect("it ends");
    };
    write(&path, "one", 100);
    let reader = Reader::open(&path).expect("a trace");
    File::options().write(true).open(&path).and_then(|file| file.set_len(50)).expect("it is cut");
    assert!(matches!(reader.growth(), Ok(Growth::Shorter)));
    assert!(reader.event(99).is_err());
    // Written anew where it lies, and longer.
    write(&path, "one and another", 100_000);
    assert!(matches!(reader.growth(), Ok(Growth::Other)));
    // Another file of that name.
    let reader = Reader::open(&path).expect("a trace");
    let other = folder.path().join("b.nvmx");
    write(&other, "two", 7);
    fs::rename(&other, &path).expect("it is renamed");
    if cfg!(unix) {
        assert!(matches!(reader.growth(), Ok(Growth::Other)));
        assert_eq!(reader.events(0).filter(Result::is_ok).count(), 100_000);
    }
    assert!(matches!(
        Reader::from_bytes(fs::read(&path).expect("it is there")).expect("a trace").growth(),
        Ok(Growth::Same)
    ));
}
