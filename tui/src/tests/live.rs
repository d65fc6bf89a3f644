//! A trace that is written while it is shown.

use super::{Session, sample};
use crate::model::Msg;
use hv_defs::config::{Config, Guest};
use hv_defs::event::Event;
use std::fs::File;
use traces::{Header, Reader, Writer};

/// A recording under way, and a session that shows it.
struct Live {
    // Removed with all that is in it at the end.
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    writer: Writer<File>,
    session: Session,
}

fn live() -> Live {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("live.nvmx");
    let header = Header::new(Config::new(Guest::BuiltIn("sample".into())), Vec::new());
    let mut writer = Writer::create(File::create(&path).expect("a file"), &header).expect("it writes");
    push(&mut writer, &sample::events());
    let session = Session::of(Reader::open(&path).expect("a header is enough"), (80, 24));
    Live { _folder: folder, path, writer, session }
}

fn push(writer: &mut Writer<File>, events: &[Event]) {
    events.iter().for_each(|event| writer.push(event).expect("it writes"));
    writer.end_block().expect("it writes");
}

#[test]
fn the_list_stays_at_the_end_that_it_is_at() {
    let Live { _folder, mut writer, mut session, .. } = live();
    let (one, events) = (sample::events().len() as u64, sample::events());
    assert_eq!(session.model.about.len, one);
    session.keys("G");
    push(&mut writer, &events);
    session.send(Msg::Tick);
    assert_eq!((session.model.about.len, session.model.cursor), (2 * one, 2 * one - 1));
    assert!(session.screen().contains("live, followed"), "{}", session.screen());
    assert!(session.model.strip.cells.iter().all(|cell| cell.seen > 0), "the timeline has the new part");
    // Who has gone elsewhere stays there.
    session.keys("kkk");
    push(&mut writer, &events);
    session.send(Msg::Tick);
    assert_eq!((session.model.about.len, session.model.cursor), (3 * one, 2 * one - 4));
    assert!(session.screen().contains("live  "), "{}", session.screen());
    // Under a filter, the end is the last event that it lets through.
    session.keys("freason == CPUID\nG");
    let at = session.model.cursor;
    push(&mut writer, &events);
    session.send(Msg::Tick);
    assert_eq!(session.model.cursor, at + one);
    writer.finish().expect("it ends");
    session.send(Msg::Tick);
    assert_eq!(session.note(), "The recording has ended, and is whole.");
    assert!(!session.screen().contains("live") && !session.screen().contains("cut short"), "{}", session.screen());
    assert_eq!((session.model.about.len, session.model.cursor), (4 * one, at + one));
}

#[test]
fn a_recording_that_does_not_go_on_was_cut_short() {
    let Live { _folder, mut writer, mut session, .. } = live();
    assert!(session.screen().contains("cut short"));
    push(&mut writer, &sample::events());
    session.send(Msg::Tick);
    assert!(session.screen().contains("live"));
    for _ in 0..20 {
        session.send(Msg::Tick);
    }
    assert!(session.screen().contains("cut short") && !session.screen().contains("live  "), "{}", session.screen());
}

#[test]
fn a_file_that_is_no_longer_what_it_was_is_told_once() {
    let Live { _folder, path, writer, mut session } = live();
    drop(writer);
    File::options().write(true).open(&path).and_then(|file| file.set_len(40)).expect("it is cut");
    session.send(Msg::Tick);
    assert!(session.note().starts_with("The file has become shorter"), "{}", session.note());
    session.keys("Ggj");
    session.send(Msg::Tick);
    assert_eq!(session.note(), "");
}
