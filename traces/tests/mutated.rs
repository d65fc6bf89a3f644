//! Messages that are wrong within, under checksums that are right: what a hostile writer would make. A reader says what
//! is wrong, or reads what is there; it does not panic, hang or take much memory.

#[path = "common/frames.rs"]
mod frames;

use frames::{file, frames, u32_at};
use hv_defs::event::Kind;
use std::path::Path;
use traces::Reader;

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Does all that a reader can do. Returns whether anything was found to be wrong.
fn read_all(bytes: Vec<u8>) -> bool {
    let Ok(reader) = Reader::from_bytes(bytes) else { return true };
    let mut wrong = traces::check(&reader).map_or(true, |verified| !verified.damage.is_empty());
    wrong |= reader.counts().is_err() || reader.events(0).any(|event| event.is_err());
    for block in 0..reader.blocks().len() {
        wrong |= Kind::ALL.iter().any(|&kind| reader.block_columns(block, kind).is_err());
        wrong |= reader.block_table(block, "vmcs").is_err();
    }
    wrong
}

fn golden() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1.nvmx")).expect("the golden trace")
}

#[test]
fn the_file_that_is_put_together_again_is_sound() {
    assert!(!read_all(file(&frames(&golden()))));
}

#[test]
fn mutated_messages_are_refused_or_read() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut refused = 0;
    for round in 0..4_000 {
        let mut frames = frames(&golden());
        let frame = random.below(frames.len());
        let message = &mut frames[frame].message;
        for _ in 0..=random.below(3) {
            let at = random.below(message.len());
            match random.below(4) {
                0 => message[at] ^= 1 << random.below(8),
                1 => message[at] = random.next() as u8,
                // A word of the message: a pointer, as like as not.
                2 => {
                    let (from, to) = (random.below(message.len() / 8) * 8, at / 8 * 8);
                    message.copy_within(from..from + 8, to);
                }
                _ => message[at / 8 * 8..at / 8 * 8 + 8].copy_from_slice(&random.next().to_le_bytes()),
            }
        }
        if round % 5 == 0 {
            let keep = random.below(message.len() / 8) * 8;
            message.truncate(keep);
        }
        refused += usize::from(read_all(file(&frames)));
    }
    assert!(refused > 1_000, "only {refused} were refused: the mutations do nothing");
}

#[test]
fn heads_that_ask_for_too_much_are_refused() {
    let good = golden();
    // Offsets in the head: message length, events, first event.
    for (offset, value) in [(8, u32::MAX), (8, 1 << 31), (8, 12), (12, u32::MAX), (12, 1 << 19), (20, u32::MAX)] {
        let mut bytes = good.clone();
        let mut at = 16;
        while &bytes[at..at + 4] != b"EVTS" {
            at += 32 + u32_at(&bytes, at + 4);
        }
        bytes[at + offset..at + offset + 4].copy_from_slice(&value.to_le_bytes());
        let crc = crc32fast::hash(&bytes[at..at + 28]);
        bytes[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
        assert!(read_all(bytes), "{value} at {offset}");
    }
}
