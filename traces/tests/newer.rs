//! Traces of a newer minor version: what this version does not know is kept and shown, and the rest is read as ever.

#[path = "common/frames.rs"]
mod frames;

use frames::{file, frames, u32_at};
use hv_defs::event::{Event, Kind, What};
use std::path::Path;
use traces::{Error, Reader, Values};

/// All places of a text in a message, written over by one of its length.
fn rename(message: &mut [u8], from: &str, to: &str) -> usize {
    let from = [from.as_bytes(), &[0]].concat();
    let places: Vec<usize> = (0..message.len()).filter(|&at| message[at..].starts_with(&from)).collect();
    places.iter().for_each(|&at| message[at..at + to.len()].copy_from_slice(to.as_bytes()));
    places.len()
}

/// The golden trace as a version 1.7 might have it, with names that this version does not know.
fn doctored(names: &[(&str, &str)]) -> Vec<u8> {
    let golden = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1.nvmx")).expect("the golden trace");
    let mut parts = frames(&golden);
    for (from, to) in names {
        assert!(parts.iter_mut().skip(1).map(|frame| rename(&mut frame.message, from, to)).sum::<usize>() > 0);
    }
    // The index tells where the blocks are, and they may be longer or shorter now.
    let offsets = |bytes: &[u8]| -> Vec<usize> {
        let mut starts = vec![16];
        for frame in 1..parts.len() {
            starts.push(starts[frame - 1] + 32 + u32_at(bytes, starts[frame - 1] + 4));
        }
        starts
    };
    let moved: Vec<_> = offsets(&golden).into_iter().zip(offsets(&file(&parts))).collect();
    let words = parts.last_mut().into_iter().flat_map(|index| index.message.chunks_exact_mut(8));
    for word in words {
        if let Some((_, to)) = moved.iter().find(|(from, _)| word == from.to_le_bytes()) {
            word.copy_from_slice(&to.to_le_bytes());
        }
    }
    let mut bytes = file(&parts);
    bytes[10] = 7;
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn events(bytes: Vec<u8>) -> Vec<Result<Event, Error>> {
    Reader::from_bytes(bytes).expect("opens").events(0).collect()
}

#[test]
fn a_table_that_is_not_known_is_kept_and_shown() {
    let known = events(doctored(&[]));
    let bytes = doctored(&[("mark", "mack")]);
    let reader = Reader::from_bytes(bytes.clone()).expect("opens");
    assert_eq!(reader.header().version, (1, 7));
    assert_eq!(traces::check(&reader).expect("checked").damage, []);
    let counts = reader.counts().expect("counted");
    assert_eq!(counts.last().map(|(name, count)| (&name[..], *count)), Some(("mack", 1)));
    let mut newer = 0;
    for (number, (known, found)) in known.into_iter().zip(events(bytes)).enumerate() {
        let known = known.expect("sound");
        let What::Mark(mark) = known.what else {
            assert_eq!(found.expect("known"), known);
            continue;
        };
        newer += 1;
        let error = found.expect_err("not known").to_string();
        assert_eq!(error, format!("event {number} of the kind 'mack' is newer than this program"));
        let stored = reader.stored(number as u64).expect("kept");
        assert_eq!((stored.at, &stored.table[..]), (known.at, "mack"));
        assert_eq!(stored.columns, [("value".to_owned(), mark.into())]);
        let block = reader.block_of(number as u64).expect("it is there");
        let rows = reader.block_table(block, "mack").expect("kept");
        let value = rows.column("value").map(Values::to_vec);
        assert_eq!((rows.event.to_vec(), value), (vec![number as u64], Some(vec![mark.into()])));
    }
    assert_eq!(newer, 1);
}

#[test]
fn a_column_that_is_not_known_is_kept_and_one_that_is_missing_is_zeros() {
    let reader = Reader::from_bytes(doctored(&[("dropped", "doubled")])).expect("opens");
    assert_eq!(traces::check(&reader).expect("checked").damage, []);
    let mut flushes = 0;
    for (number, event) in reader.events(0).enumerate() {
        let What::Flush(flush) = event.expect("known").what else { continue };
        flushes += 1;
        assert_eq!(flush.dropped, 0);
        let stored = reader.stored(number as u64).expect("kept");
        assert_eq!(stored.columns.last(), Some(&("doubled".to_owned(), 9)));
    }
    assert!(flushes > 10);
    for block in 0..reader.blocks().len() {
        let rows = reader.block_columns(block, Kind::Flush).expect("read");
        assert!(rows.is_empty() || rows.column("doubled").is_some_and(|column| column.iter().all(|value| value == 9)));
    }
}

#[test]
fn a_word_that_is_not_known_is_no_damage() {
    // Why a run stopped is read from what was its code: 33 is no reason yet.
    let reader = Reader::from_bytes(doctored(&[("kind", "kxnd"), ("code", "kind")])).expect("opens");
    assert_eq!(traces::check(&reader).expect("checked").damage, []);
    let newer: Vec<_> = reader.events(0).filter_map(Result::err).collect();
    let stops = reader.counts().expect("counted").into_iter().find(|(name, _)| name == "stop").map(|(_, count)| count);
    assert_eq!((newer.len() as u64, newer.len() > 3), (stops.unwrap_or(0), true));
    assert!(newer.iter().all(|error| matches!(error, Error::NewerKind { table, .. } if table == "stop")));
}
