//! What is written is read; what is damaged or cut is said to be, and never more than that is lost.

mod common;

use common::{events, header, nested, write};
use hv_defs::event::{Event, Kind, Stamp, Stop, StopKind, What};
use proptest::prelude::*;
use traces::{Error, Reader, Rows, Writer};

fn read(reader: &Reader) -> Result<Vec<Event>, Error> {
    reader.events(0).collect()
}

fn open(bytes: &[u8]) -> Reader {
    Reader::from_bytes(bytes.to_vec()).expect("a sound trace")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_written_is_read(events in events(400), ends in prop::collection::vec(0..400_usize, 0..5)) {
        let bytes = write(&events, &ends);
        prop_assert_eq!(&bytes, &write(&events, &ends));
        let reader = open(&bytes);
        prop_assert_eq!(reader.header(), &header());
        prop_assert!(!reader.truncated());
        prop_assert_eq!(reader.len(), events.len() as u64);
        prop_assert_eq!(&read(&reader).unwrap(), &events);
        for (number, event) in events.iter().enumerate().rev().step_by(7) {
            prop_assert_eq!(&reader.event(number as u64).unwrap(), event);
        }
        let from = events.len() as u64 / 2;
        let tail: Result<Vec<Event>, Error> = reader.events(from).collect();
        prop_assert_eq!(&tail.unwrap()[..], &events[events.len() / 2..]);
        for &kind in Kind::ALL {
            let count = events.iter().filter(|event| event.what.kind() == kind).count() as u64;
            let counted = reader.counts().unwrap().into_iter().find(|(name, _)| name == kind.name());
            prop_assert_eq!(counted.map_or(0, |(_, count)| count), count);
        }
        prop_assert!(traces::check(&reader).unwrap().damage.is_empty());
    }

    #[test]
    fn columns_are_the_events(events in events(300), ends in prop::collection::vec(0..300_usize, 0..3)) {
        let reader = open(&write(&events, &ends));
        let mut rows = Rows::default();
        for &kind in Kind::ALL {
            let mut found = Vec::new();
            for block in 0..reader.blocks().len() {
                // Into what held other rows before.
                reader.block_columns_into(block, kind, None, &mut rows).unwrap();
                prop_assert_eq!(&rows.columns, &reader.block_columns(block, kind).unwrap().columns);
                for at in 0..rows.len() {
                    let row: Vec<u64> = rows.columns.iter().map(|column| column.values.at(at)).collect();
                    let what = What::from_row(kind, &row, &rows.texts).unwrap();
                    let [vcpu, pcpu] = [&rows.vcpu, &rows.pcpu].map(|cpus| cpus.at(at) as u16);
                    let stamp = Stamp { instruction: rows.instruction.at(at), vcpu, pcpu };
                    found.push((rows.event.at(at), Event { at: stamp, what }));
                }
                for column in &rows.columns {
                    let alone = reader.block_columns_of(block, kind, &[&column.name]).unwrap();
                    prop_assert_eq!(&alone.columns[..], std::slice::from_ref(column));
                    prop_assert_eq!(&alone.event, &rows.event);
                    prop_assert_eq!(&alone.instruction, &rows.instruction);
                }
            }
            let numbered = events.iter().cloned().enumerate().map(|(at, event)| (at as u64, event));
            let expected: Vec<_> = numbered.filter(|(_, event)| event.what.kind() == kind).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn noise_is_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 0..400), whole in any::<bool>()) {
        if whole {
            let good = write(&nested(2), &[]);
            let at = bytes.len().min(good.len());
            bytes.splice(0..0, good[..at].iter().copied());
        }
        if let Ok(reader) = Reader::from_bytes(bytes) {
            prop_assert!(read(&reader).is_ok() || traces::check(&reader).is_ok());
        }
    }
}

#[test]
fn a_trace_cut_anywhere_is_read_to_its_last_whole_block() {
    let events = nested(12);
    let bytes = write(&events, &[40, 100, 101]);
    let whole = open(&bytes);
    let ends: Vec<u64> = whole.blocks().iter().map(|block| block.offset + block.bytes).collect();
    assert_eq!(ends.len(), 4);
    let header_end = whole.blocks()[0].offset;
    for cut in 0..bytes.len() {
        let cut_at = cut as u64;
        match Reader::from_bytes(bytes[..cut].to_vec()) {
            Ok(reader) => {
                assert!(cut_at >= header_end, "cut at {cut}");
                let blocks = ends.iter().filter(|&&end| end <= cut_at).count();
                assert_eq!(reader.blocks(), &whole.blocks()[..blocks], "cut at {cut}");
                assert_eq!(read(&reader).expect("whole blocks"), events[..reader.len() as usize], "cut at {cut}");
                let index_whole = cut_at >= bytes.len() as u64 - 32;
                assert!(reader.truncated() || index_whole || blocks == 4, "cut at {cut}");
                let total: u64 = reader.counts().expect("counts").iter().map(|(_, count)| count).sum();
                assert_eq!(total, reader.len(), "cut at {cut}");
            }
            Err(Error::NotATrace) => assert_eq!(cut, 0),
            Err(Error::HeaderCut) => assert!(cut_at < header_end, "cut at {cut}"),
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn a_tail_of_zeros_is_no_event() {
    let events = nested(12);
    let bytes = write(&events, &[40, 100]);
    let last = open(&bytes).blocks()[2];
    for kept in [0, 10, 32, 40] {
        let mut zeroed = bytes.clone();
        let from = last.offset as usize + kept;
        zeroed.truncate((last.offset + last.bytes) as usize);
        zeroed[from..].fill(0);
        let reader = open(&zeroed);
        assert!(reader.truncated());
        assert_eq!(read(&reader).expect("two blocks"), events[..100]);
    }
}

#[test]
fn a_flipped_byte_is_refused_or_named() {
    let events = nested(12);
    let bytes = write(&events, &[40, 100]);
    let blocks = open(&bytes).blocks().to_vec();
    for at in 0..bytes.len() {
        for flip in [1, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= flip;
            let Ok(reader) = Reader::from_bytes(flipped) else {
                assert!((at as u64) < blocks[0].offset, "byte {at} is behind the header and was refused");
                continue;
            };
            let verified = traces::check(&reader).expect("a trace that opens can be checked");
            assert_eq!(verified.damage.len(), 1, "byte {at}: {:?}", verified.damage);
            let hit = blocks.iter().position(|block| (block.offset..block.offset + block.bytes).contains(&(at as u64)));
            let expected = hit.map_or(traces::Part::Index, traces::Part::Block);
            assert_eq!(verified.damage[0].part, expected, "byte {at}");
            match (read(&reader), hit) {
                (Ok(found), None) => assert_eq!(found, events),
                (Err(Error::Block { block, .. }), Some(hit)) => assert_eq!(block, hit),
                (other, hit) => panic!("byte {at}: {hit:?} {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_no_trace_is_refused_in_one_line() {
    let bytes = write(&nested(1), &[]);
    let error = |bytes: &[u8]| Reader::from_bytes(bytes.to_vec()).expect_err("refused").to_string();
    assert_eq!(error(b""), "not an nvmx trace");
    assert_eq!(error(b"#!/bin/sh\nexit\n"), "not an nvmx trace");
    assert_eq!(error(&bytes[..10]), "the trace ends within its header");
    let mut newer = bytes.clone();
    newer[8] = 2;
    let crc = crc32fast::hash(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(error(&newer), "the trace has format version 2.2, and this program reads up to 1");
    let mut later = bytes.clone();
    later[10] = 9;
    let crc = crc32fast::hash(&later[..12]);
    later[12..16].copy_from_slice(&crc.to_le_bytes());
    let later = open(&later);
    assert_eq!((later.header().version, later.len()), ((1, 9), 18));
    let missing = Reader::open("/no/such/trace").expect_err("refused").to_string();
    assert!(missing.starts_with("cannot open /no/such/trace: "), "{missing}");
    assert!(Reader::open("/").expect_err("refused").to_string().starts_with("cannot open /: "));
    let reader = open(&bytes);
    assert_eq!(reader.event(18).expect_err("refused").to_string(), "there is no event 18: the trace has 18");
    assert_eq!(
        reader.block_columns(1, Kind::Exit).expect_err("refused").to_string(),
        "there is no block 1: the trace has 1"
    );
}

#[test]
fn salvage_keeps_whole_blocks_and_counts_what_is_lost() {
    let events = nested(12);
    let mut bytes = write(&events, &[40, 100, 150]);
    let blocks = open(&bytes).blocks().to_vec();
    // The head of block 1 and the body of block 2 are hit, and the end is gone.
    bytes[blocks[1].offset as usize + 5] ^= 1;
    bytes[blocks[2].offset as usize + 60] ^= 1;
    bytes.truncate(bytes.len() - 10);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (damaged, saved) = (dir.path().join("damaged"), dir.path().join("saved"));
    std::fs::write(&damaged, &bytes).expect("written");
    let verified = traces::verify(&damaged).expect("opens");
    assert!(verified.truncated);
    let file = std::fs::File::create(&saved).expect("created");
    let salvaged = traces::salvage(&damaged, file).expect("salvaged");
    assert_eq!((salvaged.blocks, salvaged.lost, salvaged.summary.events), (2, 110, 216 - 110 + 1));
    let reader = Reader::open(&saved).expect("whole");
    assert!(!reader.truncated() && traces::check(&reader).expect("checked").damage.is_empty());
    let found = read(&reader).expect("whole");
    assert_eq!(found[..40], events[..40]);
    assert_eq!(found[40], Event { at: events[150].at, what: What::Lost(110) });
    assert_eq!(found[41..], events[150..]);
}

/// Takes so many bytes and then says that the disk is full.
struct Full<'a>(&'a mut Vec<u8>, usize);

impl std::io::Write for Full<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fits = bytes.len().min(self.1 - self.0.len());
        if fits == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_trace_and_leaves_it_readable() {
    let events = nested(300);
    let whole = write(&events, &[1000, 2000, 3000]);
    let header_end = open(&whole).blocks()[0].offset as usize;
    for room in (header_end..whole.len()).step_by(977) {
        let mut disk = Vec::new();
        let mut writer = Writer::create(Full(&mut disk, room), &header()).expect("the header fits");
        let mut failed = None;
        for (at, event) in events.iter().enumerate() {
            let ended = if at % 1000 == 0 { writer.end_block() } else { Ok(()) };
            if let Err(error) = ended.and_then(|()| writer.push(event)) {
                failed = Some(error);
                break;
            }
        }
        let again = writer.push(&events[0]);
        let finished = writer.finish();
        match failed {
            Some(Error::Write(_)) => assert!(matches!((again, finished), (Err(Error::Ended), Err(Error::Ended)))),
            Some(other) => panic!("{other}"),
            None => assert!(finished.is_err()),
        }
        let reader = open(&disk);
        assert_eq!(read(&reader).expect("whole blocks"), events[..reader.len() as usize]);
    }
}

#[test]
fn an_event_is_accepted_if_it_is_the_next() {
    let mut events = nested(12);
    let stop = Stop { kind: StopKind::Idle, code: 0, text: "here".into() };
    events.push(Event { at: Stamp::default(), what: What::Stop(stop) });
    let reader = open(&write(&events, &[50]));
    let mut left = reader.events(0);
    for at in 0..events.len() - 1 {
        let mut moved = events[at].clone();
        moved.at.pcpu ^= 1;
        let other = &events[(at + 3) % events.len()];
        assert!(!left.accept(&moved), "event {at}");
        assert!(other == &events[at] || !left.accept(other), "event {at}");
        assert!(left.accept(&events[at]), "event {at}");
    }
    let last = &events[events.len() - 1];
    assert!(!left.accept(last), "a text is not compared");
    assert_eq!(left.next().map(|event| event.expect("sound")).as_ref(), Some(last));
    assert!(!left.accept(last), "there is no more");
}

#[test]
fn long_streams_are_cut_into_blocks() {
    let mut events = nested(8000);
    let at = Stamp { instruction: u64::MAX, vcpu: 1, pcpu: 2 };
    let stop = Stop { kind: StopKind::Idle, code: 0, text: "at 0x1000".into() };
    events.push(Event { at, what: What::Stop(stop) });
    let reader = open(&write(&events, &[]));
    assert!(reader.blocks().len() >= 3 && reader.blocks().iter().all(|block| block.events <= traces::MAX_BLOCK_EVENTS));
    assert_eq!(read(&reader).expect("sound"), events);
}
