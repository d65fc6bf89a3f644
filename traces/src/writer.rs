//! Writing a trace, block by block.

use crate::block::{Encoder, Filling};
use crate::error::Error;
use crate::frame::{self, Tag};
use crate::header::Header;
use crate::wire::{self, Index, IndexRow};
use hv_defs::event::{Event, Kind};
use std::io::Write;

/// When a block ends. The same for equal runs, so that equal runs give equal files.
const BLOCK_EVENTS: u32 = 1 << 16;
/// A block that spans so many instructions ends too, so that a machine that is killed loses seconds only.
const BLOCK_INSTRUCTIONS: u64 = 1 << 30;
/// Texts are for what is rare.
const BLOCK_TEXTS: usize = 256;
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
/// What has been written is readable up to its last whole block at any moment, with [`Writer::finish`] or without.
pub struct Writer<W: Write> {
    out: W,
    at: u64,
    whole: u64,
    filling: Filling,
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
            filling: Filling::new(0),
            encoder: Encoder::default(),
            message: Vec::new(),
            stored: Vec::new(),
            index: Index::default(),
            compressor,
            ended: false,
        };
        writer.index.tables = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), Vec::new())).collect();
        writer.write(&frame::prologue(crate::VERSION))?;
        writer.frame(Tag::Header, (0, 0), &wire::write_header(header))?;
        Ok(writer)
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
        self.filling.push(event);
        let span = event.at.instruction.wrapping_sub(self.filling.first_instruction().unwrap_or(0));
        if self.filling.len() >= BLOCK_EVENTS || span >= BLOCK_INSTRUCTIONS || self.filling.texts_len() >= BLOCK_TEXTS {
            self.end_block()?;
        }
        Ok(())
    }

    /// Events pushed so far.
    pub fn len(&self) -> u64 {
        self.filling.first() + u64::from(self.filling.len())
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
        if self.filling.len() == 0 {
            return Ok(());
        }
        let (first, events) = (self.filling.first(), self.filling.len());
        self.index.blocks.push(IndexRow { offset: self.at, first, events });
        for ((_, rows), count) in self.index.tables.iter_mut().zip(self.filling.counts()) {
            rows.push(count);
        }
        let mut message = std::mem::take(&mut self.message);
        self.encoder.encode(&self.filling, &mut message);
        let written = self.frame(Tag::Block, (first, events), &message);
        self.message = message;
        written?;
        self.filling.restart(first + u64::from(events));
        Ok(())
    }

    /// Ends the trace: writes what is still held, the index and the trailer. Nothing can be pushed after it.
    pub fn finish(&mut self) -> Result<Summary, Error> {
        self.end_block()?;
        let index = std::mem::take(&mut self.index);
        let counts = Kind::ALL.iter().zip(&index.tables);
        let counts = counts.map(|(&kind, (_, rows))| (kind, rows.iter().map(|&rows| u64::from(rows)).sum()));
        let counts = counts.filter(|(_, count)| *count > 0).collect();
        let (offset, events) = (self.at, self.filling.first());
        let kept = Index {
            tables: index.tables.into_iter().filter(|(_, rows)| rows.iter().any(|&rows| rows > 0)).collect(),
            blocks: index.blocks,
        };
        self.frame(Tag::Index, (0, 0), &wire::write_index(&kept))?;
        self.write(&frame::trailer(offset, events))?;
        self.out.flush().map_err(Error::Write)?;
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
            Ok(head) => self.write(&head.to_bytes()).and_then(|()| self.write(&stored)),
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        };
        self.stored = stored;
        written?;
        self.whole = self.at;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
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
