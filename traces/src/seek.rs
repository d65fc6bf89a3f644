//! Checkpoints beside a trace: what a replay can go on from without having come there. docs/format.md describes the file.
//!
//! A checkpoint is where the run stood, the machine's state as bytes of which nothing is known here, and what each page of
//! memory holds that changed since the checkpoint before. What pages hold is kept by content, once, however many pages hold it
//! at however many checkpoints. A file of checkpoints is a short cut and no more: one that is damaged, of another build or of
//! another trace is left aside.

mod group;
mod read;
mod table;
mod write;

pub use read::{SeekError, SeekFile};
pub use write::{Checkpoints, SeekSummary};

use sha2::{Digest as _, Sha256};

/// How every file of checkpoints begins, with the version of its form.
const MAGIC: [u8; 16] = *b"\x89NVMXSEEK\r\n\n\x02\0\0\0";
/// Bytes before each frame's payload.
const HEAD: usize = 80;
/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Every that many checkpoints, the state is kept by itself; the others are kept as what differs from it.
const APART: usize = 32;
/// The longest state, in bytes.
const MAX_STATE: u32 = 64 << 20;

/// So many contents at most are made one of another.
const MAX_DEPTH: u8 = 32;

/// What a page holds: zeros, what a page held before the run, or a content that the file has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Content(u32);

/// A [`Content`], taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Zeros,
    /// What this page held before the run.
    Initial(u32),
    /// The content of that number, from 0 in the file's order.
    Kept(u32),
}

impl Content {
    const ZEROS: Self = Self(0);
    const INITIAL: u32 = 1 << 31;

    fn initial(page: u32) -> Self {
        Self(Self::INITIAL | page)
    }

    /// `None` for more contents than a file can have.
    fn kept(number: u32) -> Option<Self> {
        number.checked_add(1).filter(|word| *word < Self::INITIAL).map(Self)
    }

    fn holds(self) -> Holds {
        match self.0 {
            0 => Holds::Zeros,
            word if word & Self::INITIAL != 0 => Holds::Initial(word & !Self::INITIAL),
            word => Holds::Kept(word - 1),
        }
    }
}

/// Whose checkpoints a file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The program's version.
    pub build: String,
    /// The form of its states.
    pub form: u64,
    /// [`crate::Reader::beginning`] of the trace.
    pub beginning: [u8; 32],
}

impl About {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.form.to_le_bytes()[..], &self.beginning, self.build.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (form, rest) = bytes.split_first_chunk()?;
        let (beginning, build) = rest.split_first_chunk()?;
        let build = String::from_utf8(build.to_vec()).ok()?;
        Some(Self { build, form: u64::from_le_bytes(*form), beginning: *beginning })
    }
}

/// Where the run stood at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Point {
    /// Events that had happened.
    pub events: u64,
    /// Instructions retired.
    pub instruction: u64,
    /// Inputs that the world had given.
    pub inputs: u64,
    /// [`mix_input`] of all of them.
    pub given: u64,
}

/// Mixes an input, by its poll, its kind's number and its value, into a digest of those before it.
pub fn mix_input(digest: u64, poll: u64, kind: u64, value: u64) -> u64 {
    [poll, kind, value].into_iter().fold(digest, |digest, word| {
        (digest.rotate_left(21) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word.rotate_left(32)
    })
}

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    About,
    /// Contents of pages.
    Group,
    Point,
    /// The trace is whole: its identity.
    End,
}

impl Tag {
    const ALL: [(Self, [u8; 4]); 4] =
        [(Self::About, *b"ABOU"), (Self::Group, *b"PAGE"), (Self::Point, *b"PONT"), (Self::End, *b"TEND")];

    fn bytes(self) -> [u8; 4] {
        Self::ALL.into_iter().find(|(tag, _)| *tag == self).map_or([0; 4], |(_, bytes)| bytes)
    }
}

/// The head of a frame: 80 bytes, little-endian. A checkpoint's payload is `lengths[0]` bytes of its state, then `lengths[1]`
/// of its table; that of other frames is `lengths[0]` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    tag: Tag,
    /// CRC-32 of the payload.
    crc: u32,
    lengths: [u32; 2],
    /// Bytes of the state, or of the group, when it is decompressed.
    raw: u32,
    /// Rows of the table, or contents in the group.
    count: u32,
    /// Contents in the file before this frame.
    before: u32,
    point: Point,
}

impl Head {
    fn plain(tag: Tag, payload: &[u8]) -> Self {
        let (lengths, crc) = ([payload.len() as u32, 0], crc32fast::hash(payload));
        Self { tag, crc, lengths, raw: 0, count: 0, before: 0, point: Point::default() }
    }

    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.tag.bytes());
        let small = [self.crc, self.lengths[0], self.lengths[1], self.raw, self.count, self.before];
        for (place, word) in bytes[4..28].chunks_exact_mut(4).zip(small) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let Point { events, instruction, inputs, given } = self.point;
        for (place, word) in bytes[32..64].chunks_exact_mut(8).zip([events, instruction, inputs, given]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..HEAD - 4]);
        bytes[HEAD - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD]) -> Option<Self> {
        let small = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let large = |at: usize| u64::from(small(at)) | u64::from(small(at + 4)) << 32;
        let (tag, _) = Tag::ALL.into_iter().find(|(_, tag)| *tag == bytes[..4])?;
        let head = Self {
            tag,
            crc: small(4),
            lengths: [small(8), small(12)],
            raw: small(16),
            count: small(20),
            before: small(24),
            point: Point { events: large(32), instruction: large(40), inputs: large(48), given: large(56) },
        };
        (crc32fast::hash(&bytes[..HEAD - 4]) == small(HEAD - 4) && head.raw <= MAX_STATE).then_some(head)
    }

    fn payload(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }
}

/// Bytes of a trace's file before its header's message.
pub const BEGINNING: usize = crate::frame::PROLOGUE + crate::frame::HEAD;

/// [`crate::Reader::beginning`] of a trace whose file begins with these bytes: [`BEGINNING`] of them.
pub fn beginning(first: &[u8]) -> [u8; 32] {
    hash(std::iter::once(first))
}

/// SHA-256 of a few pieces, one behind the other.
pub(crate) fn hash<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    pieces.for_each(|piece| hash.update(piece));
    hash.finalize().into()
}
