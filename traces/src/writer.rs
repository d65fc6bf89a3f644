//! Writing a trace, block by block.

use crate::batch::{Batch, Encoder};
use crate::error::Error;
use crate::frame::{self, Head, Tag};
use crate::header::Header;
use crate::wire::{self, Index, IndexRow};
use hv_defs::event::{Event, Kind};
use std::io::{self, Write};

const LEVEL: i32 = 1;

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Blocks.
    pub blocks: usize,
    /// Bytes, all told.
    pub bytes: u64,
    /// Events of each kind that occurred, in the order of [`Kind::ALL`].
    pub counts: Vec<(Kind, u64)>,
}

/// Writes a trace. Equal headers and events give equal bytes.
///
/// What has been written is readable up to its last whole block at any moment, with [`Writer::finish`] or without. The
/// output is flushed after every block.
pub struct Writer<W: Write> {
    out: W,
    at: u64,
    whole: u64,
    /// The number of the next block's first event.
    next: u64,
    filling: Batch,
    encoder: Encoder,
    message: Vec<u8>,
    stored: Vec<u8>,
    index: Index,
    compressor: zstd::bulk::Compressor<'static>,
    ended: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a trace: writes its header. `header.version` does not matter, a writer writes its own.
    pub fn create(out: W, header: &Header) -> Result<Self, Error> {
        let compressor = zstd::bulk::Compressor::new(LEVEL).map_err(Error::Write)?;
        let mut writer = Self {
            out,
            at: 0,
            whole: 0,
            next: 0,
            filling: Batch::default(),
            encoder: Encoder::default(),
            message: Vec::new(),
            stored: Vec::new(),
            index: Index::default(),
            compressor,
            ended: false,
        };
        writer.index.tables = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), Vec::new())).collect();
        writer.put(&frame::prologue(crate::VERSION))?;
        let message = wire::write_header(header)?;
        if message.len() <= frame::MAX_MESSAGE.into() {
            let mut bytes = Vec::new();
            message.write_to(&mut bytes).map_err(Error::Write)?;
            writer.frame(Tag::Header, (0, 0), &bytes)?;
        } else {
            writer.long_header(&message)?;
        }
        Ok(writer)
    }

    /// Writes a header with large images. They are made ready twice, first to know how long they become, and never held.
    fn long_header(&mut self, message: &wire::HeaderOut) -> Result<(), Error> {
        let length = u32::try_from(message.len()).map_err(|_| Error::TooLarge(format!("{} bytes", message.len())))?;
        let mut sum = Sum::default();
        compress(message, &mut sum).map_err(Error::Write)?;
        let dense = sum.length.saturating_mul(frame::MAX_HEADER_RATIO) < length.into();
        let compressed = sum.length < length.into() && !dense;
        if !compressed {
            sum = Sum::default();
            message.write_to(&mut sum).map_err(Error::Write)?;
        }
        let (stored, crc) = (sum.length as u32, sum.crc.finalize());
        self.put(&Head { tag: Tag::Header, stored, message: length, events: 0, first: 0, crc }.to_bytes())?;
        let written = if compressed { compress(message, &mut self.out) } else { message.write_to(&mut self.out) };
        written.map_err(|error| {
            self.ended = true;
            Error::Write(error)
        })?;
        self.at += u64::from(stored);
        self.flush()?;
        self.whole = self.at;
        Ok(())
    }

    /// Adds an event.
    ///
    /// # Errors
    /// The block could not be written. Its events are lost and the trace ends before them; all later calls fail too.
    #[inline]
    pub fn push(&mut self, event: &Event) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        if self.filling.push(event) { self.end_block() } else { Ok(()) }
    }

    /// Events pushed so far.
    pub fn len(&self) -> u64 {
        self.next + self.filling.len() as u64
    }

    /// Whether none was pushed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the file up to the end of the last whole block, or of the header.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Writes the events that are still held as a block. Where blocks end does not matter to readers, but it does to the
    /// file's bytes.
    pub fn end_block(&mut self) -> Result<(), Error> {
        let mut filling = std::mem::take(&mut self.filling);
        let written = self.write_block(&filling);
        filling.clear();
        self.filling = filling;
        written
    }

    /// Writes a batch as a block of its own, behind the events that were pushed. Equal batches give equal bytes, and the
    /// same as events that are pushed one by one, where every batch but the last is full.
    pub fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        self.end_block()?;
        self.write_block(batch)
    }

    fn write_block(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let too_many = |_| Error::TooLarge(format!("a block of {} events", batch.len()));
        let events = u32::try_from(batch.len()).map_err(too_many)?;
        if events > frame::MAX_BLOCK_EVENTS {
            return Err(Error::TooLarge(format!("a block of {events} events")));
        }
        let first = self.next;
        self.index.blocks.push(IndexRow { offset: self.at, first, events });
        for ((_, rows), count) in self.index.tables.iter_mut().zip(batch.counts()) {
            rows.push(count);
        }
        let mut message = std::mem::take(&mut self.message);
        self.encoder.encode(first, batch, &mut message);
        let written = self.frame(Tag::Block, (first, events), &message);
        self.message = message;
        self.next = first + u64::from(events);
        written
    }

    /// Ends the trace: writes what is still held, the index and the trailer. Nothing can be pushed after it.
    pub fn finish(&mut self) -> Result<Summary, Error> {
        self.end_block()?;
        let index = std::mem::take(&mut self.index);
        let counts = Kind::ALL.iter().zip(&index.tables);
        let counts = counts.map(|(&kind, (_, rows))| (kind, rows.iter().map(|&rows| u64::from(rows)).sum()));
        let counts = counts.filter(|(_, count)| *count > 0).collect();
        let (offset, events) = (self.at, self.next);
        let kept = Index {
            tables: index.tables.into_iter().filter(|(_, rows)| rows.iter().any(|&rows| rows > 0)).collect(),
            blocks: index.blocks,
        };
        self.frame(Tag::Index, (0, 0), &wire::write_index(&kept))?;
        self.put(&frame::trailer(offset, events))?;
        self.flush()?;
        self.ended = true;
        Ok(Summary { events, blocks: kept.blocks.len(), bytes: self.at, counts })
    }

    fn frame(&mut self, tag: Tag, range: (u64, u32), message: &[u8]) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        let mut stored = std::mem::take(&mut self.stored);
        let head = frame::pack(tag, range, message, &mut self.compressor, &mut stored);
        let written = match head {
            Ok(head) => self.put(&head.to_bytes()).and_then(|()| self.put(&stored)),
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        };
        self.stored = stored;
        written?;
        self.flush()?;
        self.whole = self.at;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(|error| {
            self.ended = true;
            Error::Write(error)
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        self.out.write_all(bytes).map_err(|error| {
            self.ended = true;
            Error::Write(error)
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Counts what is written, and sums it up.
#[derive(Default)]
struct Sum {
    length: u64,
    crc: crc32fast::Hasher,
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        self.crc.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a header's message as one zstd frame. The same message gives the same bytes.
fn compress(message: &wire::HeaderOut, out: &mut impl Write) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL)?;
    encoder.set_pledged_src_size(Some(message.len()))?;
    message.write_to(&mut encoder)?;
    encoder.finish().map(|_| ())
}
