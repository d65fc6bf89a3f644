//! An image's bytes: at hand, or in a trace and read when they are asked for.

use crate::error::Error;
use crate::frame::{self, HEAD, Head, PROLOGUE};
use crate::header::{Header, sha256};
use crate::source::Source;
use crate::wire::{self, Word};
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an image, shared and not copied. Those of a trace that was opened are read, decompressed and compared with
/// their hash when they are first asked for: most who open a trace do not.
#[derive(Clone)]
pub struct ImageBytes(Place);

#[derive(Clone)]
enum Place {
    Here(Arc<[u8]>),
    /// The image of that number among those in the trace.
    Stored {
        of: Arc<Stored>,
        at: usize,
        len: u64,
    },
}

/// The frame of a header, with images in it.
pub(crate) struct Stored {
    source: Arc<Source>,
    head: Head,
    read: Mutex<Option<Vec<Arc<[u8]>>>>,
}

impl ImageBytes {
    /// How many there are, which is known without them.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Place::Here(bytes) => bytes.len() as u64,
            Place::Stored { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    ///
    /// # Errors
    /// The trace cannot be read, or they are not those of its hash.
    pub fn get(&self) -> Result<Arc<[u8]>, Error> {
        match &self.0 {
            Place::Here(bytes) => Ok(bytes.clone()),
            Place::Stored { of, at, .. } => of.get(*at),
        }
    }
}

impl<T: Into<Arc<[u8]>>> From<T> for ImageBytes {
    fn from(bytes: T) -> Self {
        Self(Place::Here(bytes.into()))
    }
}

impl PartialEq for ImageBytes {
    /// Whether they are the same, which those that cannot be read never are.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && matches!((self.get(), other.get()), (Ok(bytes), Ok(others)) if bytes == others)
    }
}

impl Eq for ImageBytes {}

impl fmt::Debug for ImageBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Stored {
    fn get(&self, at: usize) -> Result<Arc<[u8]>, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let images = match &mut *read {
            Some(images) => images,
            unread => {
                let words = whole(&self.source, &self.head)?;
                unread.insert(wire::read_images(&words, &sha256).map_err(Error::Header)?)
            }
        };
        images.get(at).cloned().ok_or_else(|| Error::Header(format!("it has no image {at}")))
    }
}

/// Where a header's message begins in the file.
const START: u64 = (PROLOGUE + HEAD) as u64;

/// A header's message, whole.
fn whole(source: &Source, head: &Head) -> Result<Vec<Word>, Error> {
    frame::unpack(head, &source.take(START, head.stored as usize)?).map_err(Error::Header)
}

/// Bytes of a file that are looked at together.
const PIECE: u64 = 1 << 20;

/// So much of a header is read at first: all but what images it has. It is enough where there are none, or where they come
/// last.
const FRONT: usize = 1 << 16;

/// The header whose frame has this head and is whole in the file. Of images no more is read than their lengths.
pub(crate) fn read_header(source: &Arc<Source>, head: &Head, version: (u16, u16)) -> Result<Header, Error> {
    let stored = Arc::new(Stored { source: source.clone(), head: *head, read: Mutex::new(None) });
    let place = |at: usize, len: u64| ImageBytes(Place::Stored { of: stored.clone(), at, len });
    check(source, head)?;
    if let Some(words) = front(source, head, version) {
        let header = wire::read_header(&words, version, &mut |at, bytes| Ok(place(at, bytes?.len() as u64)));
        if let Ok(header) = header {
            return Ok(header);
        }
    }
    let words = whole(source, head)?;
    wire::read_header(&words, version, &mut |at, bytes| Ok(place(at, bytes?.len() as u64))).map_err(Error::Header)
}

/// Compares what is stored with its checksum.
fn check(source: &Source, head: &Head) -> Result<(), Error> {
    let (mut crc, end) = (crc32fast::Hasher::new(), START + u64::from(head.stored));
    let mut piece = vec![0; PIECE.min(head.stored.into()) as usize];
    let mut at = START;
    while at < end {
        let piece = &mut piece[..PIECE.min(end - at) as usize];
        source.read(at, piece)?;
        crc.update(piece);
        at += piece.len() as u64;
    }
    if crc.finalize() == head.crc { Ok(()) } else { Err(Error::Header(frame::BAD_CHECKSUM.into())) }
}

/// A header's message with all that there is but images' bytes: those may be zeros. `None` where that cannot be told from
/// its beginning.
fn front(source: &Source, head: &Head, version: (u16, u16)) -> Option<Vec<Word>> {
    let length = head.message as usize;
    if length <= FRONT {
        return None;
    }
    let from = Section { source, at: START, end: START + u64::from(head.stored) };
    let mut message: Box<dyn Read> = match head.stored == head.message {
        true => Box::new(from),
        false => Box::new(zstd::stream::read::Decoder::new(from).ok()?),
    };
    // Pages of it that are not written to are not there.
    let mut words = Word::allocate_zeroed_vec(length / 8);
    let mut filled = 0;
    while filled < length {
        let end = (filled * 4).clamp(FRONT, length);
        message.read_exact(&mut Word::words_to_bytes_mut(&mut words)[filled..end]).ok()?;
        filled = end;
        // As if the message ended here, and all in it but images' bytes had to be before.
        let segment = Word::words_to_bytes(&words)[..8].to_owned();
        if segment[..4] != [0; 4] {
            return None;
        }
        let ended = (end as u32 / 8).checked_sub(1)?.to_le_bytes();
        Word::words_to_bytes_mut(&mut words)[4..8].copy_from_slice(&ended);
        let found = wire::read_header(&words[..end / 8], version, &mut |_, _| Ok(Vec::new().into()));
        Word::words_to_bytes_mut(&mut words)[..8].copy_from_slice(&segment);
        if found.is_ok() {
            return Some(words);
        }
    }
    None
}

/// A part of a file.
struct Section<'a> {
    source: &'a Source,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = (out.len() as u64).min(self.end - self.at) as usize;
        self.source.read(self.at, &mut out[..count]).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
