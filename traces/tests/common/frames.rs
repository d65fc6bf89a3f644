//! Traces taken apart into their messages, and put together again.
#![allow(dead_code, missing_docs, unreachable_pub)] // Each test file uses its part.

/// A frame: the first 28 bytes of its head, and its message.
pub struct Frame {
    pub head: Vec<u8>,
    pub message: Vec<u8>,
}

pub fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

pub fn frames(bytes: &[u8]) -> Vec<Frame> {
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
pub fn file(frames: &[Frame]) -> Vec<u8> {
    stored(frames, |message| zstd::bulk::compress(message, 1).expect("zstd"))
}

/// As [`file`], with nothing compressed.
pub fn stored_file(frames: &[Frame]) -> Vec<u8> {
    stored(frames, <[u8]>::to_vec)
}

fn stored(frames: &[Frame], store: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = b"\x89NVMX\r\n\n\x01\x00\x00\x00".to_vec();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    let mut index = 0;
    for frame in frames {
        index = bytes.len() as u64;
        let stored = store(&frame.message);
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
