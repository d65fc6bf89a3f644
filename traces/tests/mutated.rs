//! Messages that are wrong within, under checksums that are right: what a hostile writer would make. A reader says what
//! is wrong, or reads what is there; it does not panic, hang or take much memory.

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

/// A frame: the first 28 bytes of its head, and its message.
struct Frame {
    head: Vec<u8>,
    message: Vec<u8>,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut frames, mut at) = (Vec::new(), 16);
    while at + 32 < bytes.len() {
        let (stored, length) = (u32_at(bytes, at + 4), u32_at(bytes, at + 8));
        let body = &bytes[at + 32..at + 32 + stored];
        let message =
            if stored == length { body.to_vec() } else { zstd::bulk::decompress(body, length).expect("zstd") };
        frames.push(Frame { head: bytes[at..at + 28].to_vec(), message });
        at += 32 + stored;
    }
    frames
}

/// The file of these frames, with right lengths and checksums.
fn file(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = b"\x89NVMX\r\n\n\x01\x00\x00\x00".to_vec();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    let mut index = 0;
    for frame in frames {
        index = bytes.len() as u64;
        let stored = zstd::bulk::compress(&frame.message, 1).expect("zstd");
        let mut head = frame.head.clone();
        head[4..8].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        head[8..12].copy_from_slice(&(frame.message.len() as u32).to_le_bytes());
        head[24..28].copy_from_slice(&crc32fast::hash(&stored).to_le_bytes());
        let crc = crc32fast::hash(&head);
        bytes.extend(head.into_iter().chain(crc.to_le_bytes()).chain(stored));
    }
    let events = frames.iter().map(|frame| u32_at(&frame.head, 12) as u64).sum::<u64>();
    let mut trailer = b"NVMXEND\n".to_vec();
    trailer.extend(index.to_le_bytes().into_iter().chain(events.to_le_bytes()).chain([0; 4]));
    let crc = crc32fast::hash(&trailer);
    bytes.extend(trailer.into_iter().chain(crc.to_le_bytes()));
    bytes
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
