//! Checking every byte of a trace, and saving what can be saved of a damaged one.

use crate::block::{Block, Message};
use crate::error::Error;
use crate::frame::{self, HEAD, Tag};
use crate::reader::{self, BlockInfo, Reader};
use crate::source::Source;
use crate::writer::{Summary, Writer};
use hv_defs::event::{Event, Stamp, What};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A part of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A block, by its number from 0.
    Block(usize),
    /// The index, or the trailer behind it. No event is lost by its damage.
    Index,
}

/// A part that is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Which part.
    pub part: Part,
    /// Where it begins in the file.
    pub offset: u64,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, offset, why } = self;
        match part {
            Part::Block(block) => write!(f, "block {block} at byte {offset} is damaged: {why}"),
            Part::Index => write!(f, "the index at byte {offset} is damaged: {why}"),
        }
    }
}

/// What [`verify`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Blocks of the trace, damaged ones included.
    pub blocks: usize,
    /// Events of the whole blocks.
    pub events: u64,
    /// The damaged parts, in the order of the file.
    pub damage: Vec<Damage>,
    /// Whether the recording was cut short. Up to there the trace may be whole.
    pub truncated: bool,
}

/// Checks every block of the trace in a file, and its index.
///
/// # Errors
/// As [`Reader::open`]: the trace cannot be read at all.
pub fn verify(path: impl AsRef<Path>) -> Result<Verified, Error> {
    let reader = Reader::open(path)?;
    check(&reader)
}

/// As [`verify`], of a trace that is open.
pub fn check(reader: &Reader) -> Result<Verified, Error> {
    reader.check_images()?;
    let mut verified = Verified { blocks: reader.blocks().len(), truncated: reader.truncated(), ..Verified::default() };
    for number in 0..reader.blocks().len() {
        let info = reader.blocks()[number];
        match reader.check_block(number) {
            Ok(()) => verified.events += u64::from(info.events),
            Err(Error::Block { block, offset, why }) => {
                verified.damage.push(Damage { part: Part::Block(block), offset, why });
            }
            Err(error) => return Err(error),
        }
    }
    if !reader.indexed() && !reader.truncated() {
        let offset = reader.blocks().last().map_or(0, |block| block.offset + block.bytes);
        let why = "it or the trailer does not match its checksum".into();
        verified.damage.push(Damage { part: Part::Index, offset, why });
    }
    Ok(verified)
}

/// What [`salvage`] saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// Whole blocks, whose events were saved.
    pub blocks: usize,
    /// Events that are known to be lost between them. Each gap became one `lost` event.
    pub lost: u64,
    /// What was written.
    pub summary: Summary,
}

/// Writes a whole trace of the events in the whole blocks of a damaged or truncated one, wherever they lie in the file.
/// Where blocks are missing between two others, a `lost` event says how many events are gone.
///
/// # Errors
/// The trace's header cannot be read, so that nothing can be made of the rest; or the output cannot be written.
pub fn salvage(path: impl AsRef<Path>, out: impl Write) -> Result<Salvaged, Error> {
    salvage_source(&Source::open(path.as_ref())?.into(), out)
}

/// As [`salvage`], of a trace that is in memory.
pub fn salvage_bytes(bytes: Vec<u8>, out: impl Write) -> Result<Salvaged, Error> {
    salvage_source(&Source::from_bytes(bytes).into(), out)
}

fn salvage_source(source: &Arc<Source>, out: impl Write) -> Result<Salvaged, Error> {
    let (header, start) = reader::read_header(source)?;
    for bytes in header.images.iter().filter_map(|image| image.bytes.as_ref()) {
        bytes.get()?;
    }
    let mut writer = Writer::create(out, &header)?;
    let mut tags = Tags { source, stretch: Vec::new(), start: 0 };
    let (mut offset, mut next, mut blocks, mut lost) = (start, 0, 0, 0);
    while let Some((info, block)) = next_whole_block(&mut tags, offset, next)? {
        if info.first > next {
            let at = block.stamp(0).unwrap_or(Stamp::default());
            writer.push(&Event { at, what: What::Lost(info.first - next) })?;
            lost += info.first - next;
        }
        // Events of kinds that this program does not know cannot be written by it, and count as lost.
        let mut unknown = 0;
        for place in 0..block.len() {
            match block.event(place) {
                Ok(event) => writer.push(&event)?,
                Err(_) => unknown += 1,
            }
        }
        if unknown > 0 {
            let at = block.stamp(block.len() - 1).unwrap_or_default();
            writer.push(&Event { at, what: What::Lost(unknown) })?;
            lost += unknown;
        }
        (offset, next, blocks) = (info.offset + info.bytes, info.first + u64::from(info.events), blocks + 1);
    }
    Ok(Salvaged { blocks, lost, summary: writer.finish()? })
}

/// The next whole block at `offset` or behind it, whose events are not before `next`.
fn next_whole_block(tags: &mut Tags<'_>, mut offset: u64, next: u64) -> Result<Option<(BlockInfo, Block)>, Error> {
    let source = tags.source;
    while let Some(found) = tags.next(offset)? {
        let head = reader::read_head(source, found)?;
        let head = head.filter(|head| head.tag == Tag::Block && head.first >= next);
        if let Some(head) = head.filter(|head| source.has(found, HEAD as u64 + u64::from(head.stored))) {
            let stored = source.take(found + HEAD as u64, head.stored as usize)?;
            let words = frame::unpack(&head, &stored);
            let message = words.and_then(|words| Message::read(words, (head.first, head.events)));
            let read = message.and_then(|message| Block::read(&message));
            if let Ok(block) = read {
                let bytes = HEAD as u64 + u64::from(head.stored);
                return Ok(Some((BlockInfo { offset: found, bytes, first: head.first, events: head.events }, block)));
            }
        }
        offset = found + 1;
    }
    Ok(None)
}

/// Where the tags of blocks stand in a file.
struct Tags<'a> {
    source: &'a Source,
    /// A stretch of the file, and where it begins. It is kept, since one may be full of what looks like tags.
    stretch: Vec<u8>,
    start: u64,
}

impl Tags<'_> {
    const STEP: u64 = 1 << 20;

    /// Where the next one stands, at `offset` or behind it.
    fn next(&mut self, mut offset: u64) -> Result<Option<u64>, Error> {
        while self.source.has(offset, HEAD as u64) {
            let held = offset.checked_sub(self.start).and_then(|from| self.stretch.get(usize::try_from(from).ok()?..));
            let Some(held) = held.filter(|held| held.len() >= HEAD) else {
                self.stretch = self.source.take(offset, (self.source.len() - offset).min(Self::STEP) as usize)?;
                self.start = offset;
                continue;
            };
            if let Some(at) = held.windows(4).position(|window| window == frame::BLOCK_TAG) {
                return Ok(Some(offset + at as u64));
            }
            offset += held.len() as u64 - 3;
        }
        Ok(None)
    }
}
