//! Frames: how messages lie in the file, one after another, each with its length and its checksums.
//!
//! ```text
//! prologue (16 bytes)   magic 8, major u16, minor u16, CRC-32 of these 12 bytes
//! frame                 head (32 bytes), then the stored message
//! ...
//! trailer (32 bytes)    magic 8, the index frame's offset u64, events u64, zero u32, CRC-32 of these 28 bytes
//! ```
//! A frame's head is its tag (4 bytes), stored length u32, message length u32, events u32, first event u64, CRC-32 of
//! the stored bytes, and CRC-32 of these 28 bytes. All numbers are little-endian. A message whose stored length is its
//! own length is stored as it is; any other is one zstd frame.

use crate::error::Error;
use crate::wire::{Word, ZERO};

/// How every trace begins. The line ends in it do not survive a transfer as text.
pub(crate) const MAGIC: [u8; 8] = *b"\x89NVMX\r\n\n";
const END: [u8; 8] = *b"NVMXEND\n";

pub(crate) const PROLOGUE: usize = 16;
pub(crate) const HEAD: usize = 32;
pub(crate) const TRAILER: usize = 32;

/// The most events that a block may hold.
pub const MAX_BLOCK_EVENTS: u32 = 1 << 18;
/// The longest message of a block or an index, in bytes.
pub(crate) const MAX_MESSAGE: u32 = 32 << 20;
/// A header may be longer than a block, but not by compression alone: else a small file could ask for much memory.
pub(crate) const MAX_HEADER_RATIO: u64 = 16;

/// What zstd can make of a byte at most: a block of its own takes 4 bytes, and is 128 KiB of one byte. See: RFC 8878,
/// "Blocks". A message that claims more is refused before memory is taken for it.
const MAX_ZSTD_RATIO: usize = 1 << 15;

/// What is wrong with a frame whose bytes are others than were stored.
pub(crate) const BAD_CHECKSUM: &str = "its bytes do not match their checksum";

pub(crate) const BLOCK_TAG: [u8; 4] = *b"EVTS";

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    Header,
    Block,
    Index,
}

impl Tag {
    const fn bytes(self) -> [u8; 4] {
        match self {
            Self::Header => *b"HEAD",
            Self::Block => BLOCK_TAG,
            Self::Index => *b"INDX",
        }
    }

    fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        [Self::Header, Self::Block, Self::Index].into_iter().find(|tag| tag.bytes() == bytes)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) tag: Tag,
    /// Bytes that follow the head.
    pub(crate) stored: u32,
    /// Bytes of the message.
    pub(crate) message: u32,
    pub(crate) events: u32,
    pub(crate) first: u64,
    pub(crate) crc: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Head {
    pub(crate) fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0..4].copy_from_slice(&self.tag.bytes());
        bytes[4..8].copy_from_slice(&self.stored.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.events.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The head in `bytes`; `None` when it is damaged or asks for what no writer writes.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Option<Self> {
        if crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
            return None;
        }
        let head = Self {
            tag: Tag::from_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])?,
            stored: u32_at(bytes, 4),
            message: u32_at(bytes, 8),
            events: u32_at(bytes, 12),
            first: u64_at(bytes, 16),
            crc: u32_at(bytes, 24),
        };
        let largest = match head.tag {
            Tag::Header => (u64::from(head.stored) * MAX_HEADER_RATIO).max(MAX_MESSAGE.into()),
            Tag::Block | Tag::Index => MAX_MESSAGE.into(),
        };
        let fits = u64::from(head.message) <= largest
            && head.message.is_multiple_of(8)
            && head.events <= MAX_BLOCK_EVENTS
            && head.first.checked_add(head.events.into()).is_some();
        fits.then_some(head)
    }
}

pub(crate) fn prologue(version: (u16, u16)) -> [u8; PROLOGUE] {
    let mut bytes = [0; PROLOGUE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&version.0.to_le_bytes());
    bytes[10..12].copy_from_slice(&version.1.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version in the prologue, of which `bytes` may be the first part only.
pub(crate) fn read_prologue(bytes: &[u8]) -> Result<(u16, u16), Error> {
    if bytes.is_empty() || !MAGIC.starts_with(&bytes[..bytes.len().min(8)]) {
        return Err(Error::NotATrace);
    }
    if bytes.len() < PROLOGUE {
        return Err(Error::HeaderCut);
    }
    if crc32fast::hash(&bytes[..12]) != u32_at(bytes, 12) {
        return Err(Error::Header("its version does not match its checksum".into()));
    }
    let version = u32_at(bytes, 8);
    let (major, minor) = (version as u16, (version >> 16) as u16);
    if major > crate::VERSION.0 { Err(Error::Newer { major, minor }) } else { Ok((major, minor)) }
}

pub(crate) fn trailer(index: u64, events: u64) -> [u8; TRAILER] {
    let mut bytes = [0; TRAILER];
    bytes[..8].copy_from_slice(&END);
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..24].copy_from_slice(&events.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The index frame's offset and the number of events, from a whole trailer.
pub(crate) fn read_trailer(bytes: &[u8; TRAILER]) -> Option<(u64, u64)> {
    let whole = bytes[..8] == END && crc32fast::hash(&bytes[..28]) == u32_at(bytes, 28);
    whole.then(|| (u64_at(bytes, 8), u64_at(bytes, 16)))
}

/// Makes a message ready to be stored: the bytes into `stored`. Returns their frame's head.
pub(crate) fn pack(
    tag: Tag,
    (first, events): (u64, u32),
    message: &[u8],
    compressor: &mut zstd::bulk::Compressor<'_>,
    stored: &mut Vec<u8>,
) -> Result<Head, Error> {
    let length = u32::try_from(message.len()).ok().filter(|&length| tag == Tag::Header || length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| Error::TooLarge(format!("a message of {} bytes", message.len())))?;
    stored.clear();
    stored.reserve(zstd::zstd_safe::compress_bound(message.len()));
    compressor.compress_to_buffer(message, stored).map_err(Error::Write)?;
    let too_dense = length > MAX_MESSAGE && stored.len() as u64 * MAX_HEADER_RATIO < u64::from(length);
    if stored.len() >= message.len() || too_dense {
        stored.clear();
        stored.extend_from_slice(message);
    }
    let crc = crc32fast::hash(stored);
    Ok(Head { tag, stored: stored.len() as u32, message: length, events, first, crc })
}

/// The message that `read` puts into the bytes it is given, of a frame that stores its message as it is. `words` is
/// memory for it.
pub(crate) fn read_stored<E>(
    head: &Head,
    mut words: Vec<Word>,
    read: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Result<Vec<Word>, String>, E> {
    resize(&mut words, head.message as usize / 8);
    read(Word::words_to_bytes_mut(&mut words))?;
    Ok(check(head, Word::words_to_bytes(&words)).map(|()| words))
}

/// Gives a list that length. What is in it does not matter.
fn resize(words: &mut Vec<Word>, length: usize) {
    if words.capacity() < length {
        // Memory that the system has zeroed is not zeroed again.
        *words = Word::allocate_zeroed_vec(length);
    }
    words.resize(length, ZERO);
}

fn check(head: &Head, stored: &[u8]) -> Result<(), String> {
    if crc32fast::hash(stored) == head.crc { Ok(()) } else { Err(BAD_CHECKSUM.into()) }
}

/// The message in `stored`, as aligned words; or what is wrong with it.
pub(crate) fn unpack(head: &Head, stored: &[u8]) -> Result<Vec<Word>, String> {
    unpack_into(head, stored, Vec::new())
}

/// As [`unpack`]; `words` is memory for the message.
pub(crate) fn unpack_into(head: &Head, stored: &[u8], mut words: Vec<Word>) -> Result<Vec<Word>, String> {
    check(head, stored)?;
    let length = head.message as usize;
    if stored.len() != length && stored.len().saturating_mul(MAX_ZSTD_RATIO) < length {
        return Err(format!("{} bytes cannot be {length} that were compressed", stored.len()));
    }
    resize(&mut words, length / 8);
    let bytes = Word::words_to_bytes_mut(&mut words);
    if stored.len() == length {
        bytes.copy_from_slice(stored);
    } else {
        let written =
            zstd::bulk::decompress_to_buffer(stored, bytes).map_err(|e| format!("it does not decompress: {e}"))?;
        if written != length {
            return Err(format!("it decompresses to {written} bytes and not to {length}"));
        }
    }
    Ok(words)
}
