//! The queue: a source that can wait loses nothing and gives the bytes that it gives without a queue; one that cannot
//! wait counts what it loses; neither takes memory without bound.

mod common;

use common::{header, nested};
use hv_defs::event::{Event, Stamp, What};
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use traces::{Error, Feed, Reader, Summary, Writer, beside};

/// Takes what it is given when it is allowed to: one write for each word that it is sent, all when it is hung up on.
struct Slow<'a> {
    bytes: &'a mut Vec<u8>,
    may: Receiver<()>,
}

impl Write for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.may.recv();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn events() -> Vec<Event> {
    // More than all batches together hold.
    nested(13_000)
}

fn read(bytes: &[u8]) -> Vec<Event> {
    let reader = Reader::from_bytes(bytes.to_vec()).expect("a trace");
    assert!(!reader.truncated());
    reader.events(0).map(|event| event.expect("sound")).collect()
}

fn queued(out: impl Write + Send, source: impl FnOnce(&mut Feed)) -> Result<Summary, Error> {
    let mut writer = Writer::create(out, &header())?;
    beside(&mut writer, source).1
}

#[test]
fn a_queue_changes_no_byte() {
    let events = events();
    let direct = common::write(&events, &[]);
    for pause in [0, 3] {
        let (mut bytes, (allow, may)) = (Vec::new(), mpsc::channel());
        thread::scope(|scope| {
            scope.spawn(move || {
                while allow.send(()).is_ok() {
                    thread::sleep(Duration::from_millis(pause));
                }
            });
            let slow = Slow { bytes: &mut bytes, may };
            let fed = queued(slow, |feed| assert!(events.iter().all(|event| feed.push(event).is_continue())));
            assert_eq!(fed.expect("a vector takes all").events, events.len() as u64);
        });
        assert!(bytes == direct, "{pause} ms a write");
    }
}

#[test]
fn a_source_waits_for_a_slow_disk_and_holds_few_batches() {
    let events = events();
    let (mut bytes, (allow, may)) = (Vec::new(), mpsc::channel());
    // The prologue and the header, but no whole block.
    (0..4).for_each(|_| allow.send(()).expect("it is there"));
    let fed = Mutex::new(0_usize);
    thread::scope(|scope| {
        let counted = || *fed.lock().expect("no panic");
        let source = scope.spawn(|| {
            queued(Slow { bytes: &mut bytes, may }, |feed| {
                for event in &events {
                    assert!(feed.push(event).is_continue());
                    *fed.lock().expect("no panic") += 1;
                }
            })
        });
        let mut before = (0, 0);
        // Until it has not moved for a while.
        while before.1 < 20 {
            thread::sleep(Duration::from_millis(10));
            before = if counted() == before.0 && before.0 > 0 { (before.0, before.1 + 1) } else { (counted(), 0) };
        }
        assert!(before.0 <= 5 << 15, "{} events are held in memory", before.0);
        drop(allow);
        assert_eq!(source.join().expect("no panic").expect("written").events, events.len() as u64);
    });
    assert!(read(&bytes) == events);
}

#[test]
fn a_source_that_cannot_wait_counts_what_it_loses() {
    let events = events();
    let (mut bytes, (allow, may)) = (Vec::new(), mpsc::channel());
    (0..4).for_each(|_| allow.send(()).expect("it is there"));
    let later = Event { at: Stamp { instruction: u64::MAX, vcpu: 3, pcpu: 4 }, what: What::Mark(9) };
    let fed = queued(Slow { bytes: &mut bytes, may }, |feed| {
        assert!(events.iter().all(|event| feed.offer(event).is_continue()));
        feed.lose(7, later.at);
        // Now there is room again.
        drop(allow);
        assert!(feed.push(&later).is_continue());
        feed.lose(5, later.at);
    });
    let found = read(&bytes);
    assert_eq!(fed.expect("written").events, found.len() as u64);
    // What was fed and what was told to be lost, in order: each is in the trace, or one of a count that is.
    let all: Vec<&Event> = events.iter().chain([&later; 13]).collect();
    let (mut at, mut kept) = (0, 0);
    for event in &found {
        match event.what {
            What::Lost(count) => {
                at += count as usize;
                assert_eq!(event.at, all[at - 1].at);
            }
            _ => {
                assert_eq!(event, all[at]);
                (at, kept) = (at + 1, kept + 1);
            }
        }
    }
    assert_eq!(at, all.len());
    assert!((3 << 15..6 << 15).contains(&kept), "{kept} events were kept");
    assert_eq!(found[found.len() - 2..], [later.clone(), Event { at: later.at, what: What::Lost(5) }]);
}

#[test]
fn a_block_is_cut_where_the_source_says() {
    let events = nested(12);
    let mut bytes = Vec::new();
    let fed = queued(&mut bytes, |feed| {
        for (at, event) in events.iter().enumerate() {
            if at == 40 {
                assert!(feed.cut().is_continue() && feed.cut().is_continue());
                assert_eq!(feed.held(), 0);
            }
            if at == 100 {
                assert!(feed.cut_soon().is_continue());
            }
            assert!(feed.push(event).is_continue());
        }
    });
    assert_eq!(fed.expect("written").blocks, 3);
    assert!(bytes == common::write(&events, &[40, 100]));
}

/// A disk that is full from the start of the first block.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_source_hears_that_the_disk_is_full() {
    let events = events();
    for waits in [true, false] {
        let mut ended = false;
        let fed = queued(Full(4), |feed| {
            for event in events.iter().cycle().take(100_000_000) {
                if (if waits { feed.push(event) } else { feed.offer(event) }).is_break() {
                    ended = true;
                    break;
                }
            }
        });
        assert!(ended && matches!(fed, Err(Error::Write(_))), "{fed:?}");
    }
}
