//! Reading a trace: by its index, or by a scan where there is none.

use crate::block::{Block, Message, Order, Refused, Rows, Stored};
use crate::error::Error;
use crate::frame::{self, HEAD, Head, PROLOGUE, TRAILER, Tag};
use crate::header::Header;
use crate::image;
use crate::seek;
use crate::source::{Now, Source};
use crate::store::{Store, StoreError};
use crate::tables::Tables;
use crate::wire::{self, Index, Word};
use hv_defs::event::{Event, Kind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What became of a trace's file: see [`Reader::growth`].
#[derive(Debug)]
pub enum Growth {
    /// It is as it was.
    Same,
    /// It has grown. The reader of what it is now has the same events and may have more; it is whole once the recording
    /// has ended.
    More(Box<Reader>),
    /// It is shorter than it was: what this reader has not read yet may be gone.
    Shorter,
    /// It is another trace now, or its name is another file's.
    Other,
}

/// Where a block is and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockInfo {
    /// Where its frame begins in the file.
    pub offset: u64,
    /// Bytes of its frame.
    pub bytes: u64,
    /// The number of its first event.
    pub first: u64,
    /// How many events it holds.
    pub events: u32,
}

/// An open trace. It holds the index and a few decoded blocks, whatever the size of the file; threads may share it.
#[derive(Debug)]
pub struct Reader {
    source: Arc<Source>,
    header: Header,
    /// Where the blocks begin.
    start: u64,
    blocks: Vec<BlockInfo>,
    counts: Option<Vec<(String, Vec<u32>)>>,
    truncated: bool,
    /// Decoded whole: where one reads and where one looks aside.
    cache: Kept<Block, 3>,
    /// For readers that take one table after another: one for each of a few threads.
    messages: Kept<Message, 2>,
    /// Memory of messages that were kept, for others.
    words: Mutex<Vec<Vec<Word>>>,
}

/// What memory of messages is kept at most: how many lists, and how many words each, far more than a recording's blocks
/// have.
const SPARE_LISTS: usize = 2;
const SPARE_WORDS: usize = 1 << 19;

/// Bytes of blocks of which more than one is kept. What a recording makes is far below it.
const KEPT_BYTES: usize = 48 << 20;

/// What was read last, by the number of its block: at most `MOST`.
#[derive(Debug)]
struct Kept<T, const MOST: usize>(Mutex<Vec<(usize, Arc<T>, usize)>>);

impl<T, const MOST: usize> Default for Kept<T, MOST> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T, const MOST: usize> Kept<T, MOST> {
    /// What is kept of that block, or what is read now. `bytes` is how much memory that takes, and `forget` is given what
    /// nobody needs any longer.
    fn or_read(
        &self,
        block: usize,
        read: impl FnOnce() -> Result<T, Error>,
        bytes: impl FnOnce(&T) -> usize,
        forget: impl Fn(T),
    ) -> Result<Arc<T>, Error> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(number, ..)| *number == block) {
            kept[at..].rotate_left(1);
            return Ok(kept[kept.len() - 1].1.clone());
        }
        // Larger than any recording makes it: such a one is not kept beside the next.
        kept.retain(|(.., bytes)| *bytes <= KEPT_BYTES);
        drop(kept);
        // Read without the lock held, so that threads do not wait for one another's blocks.
        let read = Arc::new(read()?);
        let bytes = bytes(&read);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() >= MOST
            || !kept.is_empty() && kept.iter().map(|(_, _, bytes)| bytes).sum::<usize>() + bytes > KEPT_BYTES
        {
            Arc::into_inner(kept.remove(0).1).into_iter().for_each(&forget);
        }
        kept.push((block, read.clone(), bytes));
        Ok(read)
    }
}

impl Reader {
    /// Opens the trace in a file.
    ///
    /// # Errors
    /// The file cannot be read, is no trace, is of a newer major version, or its header is damaged or cut short. Damage
    /// behind the header is met when what is damaged is read; a missing end is no error: see [`Reader::truncated`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::new(Source::open(path.as_ref())?.into())
    }

    /// Opens a trace that is in memory, as [`Reader::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(Source::from_bytes(bytes).into())
    }

    fn new(source: Arc<Source>) -> Result<Self, Error> {
        let (header, start) = read_header(&source)?;
        Self::from_blocks(source, header, start, Vec::new())
    }

    /// The trace in a source whose first blocks are known.
    fn from_blocks(source: Arc<Source>, header: Header, start: u64, known: Vec<BlockInfo>) -> Result<Self, Error> {
        let end = whole_end(&source, start)?;
        let (blocks, counts, truncated) = match end {
            Some((blocks, counts)) => (blocks, Some(counts), false),
            None => {
                let scan = scan(&source, start, known)?;
                let found = scan.blocks.last().map_or(0, |block| block.first + u64::from(block.events));
                let all = scan.ended || sound_trailer(&source, start)?.is_some_and(|(_, _, events)| events == found);
                (scan.blocks, None, !all)
            }
        };
        let (cache, messages, words) = (Kept::default(), Kept::default(), Mutex::default());
        Ok(Self { source, header, start, blocks, counts, truncated, cache, messages, words })
    }

    /// What became of the file since it was opened: who reads a recording while it is made asks from time to time. The
    /// blocks that are known are not read again; this reader goes on as it is.
    pub fn growth(&self) -> Result<Growth, Error> {
        let source = match self.source.now()? {
            Now::Same => return Ok(Growth::Same),
            Now::Shorter => return Ok(Growth::Shorter),
            Now::Other => return Ok(Growth::Other),
            Now::Longer(source) => Arc::new(source),
        };
        let grown = Self::from_blocks(source, self.header.clone(), self.start, self.blocks.clone())?;
        // What is known must be there still: a file may have been written anew under the same name.
        let head = match self.blocks.last() {
            Some(last) => read_head(&grown.source, last.offset)?.filter(|head| head.first == last.first).is_some(),
            None => true,
        };
        let goes_on = head && !self.indexed() && grown.blocks.starts_with(&self.blocks);
        let same_header = grown.beginning()? == self.beginning()?;
        Ok(if goes_on && same_header { Growth::More(Box::new(grown)) } else { Growth::Other })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Gets the bytes of the images that are not in the trace: see [`Header::find_images`].
    pub fn find_images(&mut self, store: Option<&Store>) -> Result<(), StoreError> {
        self.header.find_images(store)
    }

    /// A hash of the file's beginning, up to the head of the header's frame with the checksum of what it holds: all that
    /// can be told of a recording while it is made.
    pub fn beginning(&self) -> Result<[u8; 32], Error> {
        Ok(seek::beginning(&self.source.take(0, seek::BEGINNING)?))
    }

    /// A hash of what the frames' heads tell of the whole file, with the checksums of all blocks.
    pub fn identity(&self) -> Result<[u8; 32], Error> {
        let mut heads = vec![self.source.take(0, seek::BEGINNING)?];
        for block in &self.blocks {
            heads.push(self.source.take(block.offset, HEAD)?);
        }
        Ok(seek::hash(heads.iter().map(Vec::as_slice)))
    }

    /// How many events the trace has.
    pub fn len(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.first + u64::from(block.events))
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.source.len()
    }

    /// Its blocks, in order. Their events follow one another from 0 without a gap.
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// Whether the recording was cut short: the file ends without an index, so that events after the last whole block
    /// may be missing.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Events by the name of their kind, in the order of [`Kind::ALL`]; kinds that a newer version added come last.
    /// Kinds without events are left out. Free where the index is whole; else every block is read.
    pub fn counts(&self) -> Result<Vec<(String, u64)>, Error> {
        let mut sums: Vec<(String, u64)> = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
        let mut add = |name: &str, rows: u64| match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += rows,
            None => sums.push((name.to_owned(), rows)),
        };
        match &self.counts {
            Some(tables) => {
                tables.iter().for_each(|(name, rows)| add(name, rows.iter().map(|&rows| u64::from(rows)).sum()));
            }
            None => {
                for block in 0..self.blocks.len() {
                    self.message(block)?.counts().iter().for_each(|(name, rows)| add(name, (*rows).into()));
                }
            }
        }
        sums.retain(|(_, sum)| *sum > 0);
        Ok(sums)
    }

    /// How many events of a kind a block has; `None` where that is not known without the block.
    pub fn rows_in(&self, block: usize, kind: Kind) -> Option<u32> {
        let tables = self.counts.as_ref()?;
        let rows =
            tables.iter().find(|(name, _)| name == kind.name()).map_or(Some(0), |(_, rows)| rows.get(block).copied());
        rows.filter(|_| block < self.blocks.len())
    }

    /// The number of the block that holds an event.
    pub fn block_of(&self, event: u64) -> Result<usize, Error> {
        if event >= self.len() {
            return Err(Error::NoEvent { event, len: self.len() });
        }
        Ok(self.blocks.partition_point(|block| block.first <= event) - 1)
    }

    /// Whether a block is stored by the very bytes that a block of another trace is stored by, and so has the same events
    /// under the same numbers. Much cheaper than to compare them; that it is not so says nothing.
    pub fn is_stored_as(&self, block: usize, other: &Self, theirs: usize) -> Result<bool, Error> {
        let (Some(one), Some(two)) = (self.blocks.get(block), other.blocks.get(theirs)) else { return Ok(false) };
        if (one.first, one.events, one.bytes) != (two.first, two.events, two.bytes) {
            return Ok(false);
        }
        let stored = |reader: &Self, info: &BlockInfo| match usize::try_from(info.bytes) {
            Ok(bytes) if reader.source.has(info.offset, info.bytes) => reader.source.take(info.offset, bytes).map(Some),
            _ => Ok(None),
        };
        Ok(match (stored(self, one)?, stored(other, two)?) {
            (Some(one), Some(two)) => one == two,
            _ => false,
        })
    }

    /// The event of that number.
    pub fn event(&self, event: u64) -> Result<Event, Error> {
        let number = self.block_of(event)?;
        self.event_in(number, &*self.block(number)?, event)
    }

    /// The event of that number as it is stored, for kinds and columns that a newer minor version added.
    pub fn stored(&self, event: u64) -> Result<Stored, Error> {
        let block = self.block(self.block_of(event)?)?;
        Ok(block.stored((event - block.first()) as usize))
    }

    /// The events from number `from` on. The iterator ends at the trace's end, and after an error; an event of a kind
    /// that this program does not know is an error that it goes on after.
    pub fn events(&self, from: u64) -> Events<'_> {
        Events { reader: self, next: from, block: None, done: false }
    }

    /// A block, decoded whole. Recently used ones are kept.
    pub fn block(&self, block: usize) -> Result<Arc<Block>, Error> {
        self.cache.or_read(block, || self.decoded(block), Block::bytes, drop)
    }

    /// The rows of one kind in one block, with all columns. Empty where the block has no such event.
    pub fn block_columns(&self, block: usize, kind: Kind) -> Result<Rows, Error> {
        self.block_table(block, kind.name())
    }

    /// As [`Reader::block_columns`], with only the columns that are named.
    pub fn block_columns_of(&self, block: usize, kind: Kind, columns: &[&str]) -> Result<Rows, Error> {
        let mut rows = Rows::default();
        self.read_rows(block, kind.name(), Some(columns), &mut rows)?;
        Ok(rows)
    }

    /// As [`Reader::block_columns`], with all columns or those that are named, into `rows`: who reads one block after
    /// another has their memory used again.
    pub fn block_columns_into(
        &self,
        block: usize,
        kind: Kind,
        columns: Option<&[&str]>,
        rows: &mut Rows,
    ) -> Result<(), Error> {
        self.read_rows(block, kind.name(), columns, rows)
    }

    /// In what order the events of a block come and when, into `order`.
    pub fn block_order_into(&self, block: usize, order: &mut Order) -> Result<(), Error> {
        self.kept_message(block)?.order(order);
        Ok(())
    }

    /// As [`Reader::block_columns_into`] with all columns, without numbers and stamps of the events, which are in
    /// [`Reader::block_order_into`] for all kinds together.
    pub fn block_cells_into(&self, block: usize, kind: Kind, rows: &mut Rows) -> Result<(), Error> {
        self.kept_message(block)?.cells(kind.name(), None, rows).map_err(|why| self.damaged(block, why))
    }

    /// A block for one thread's use, of which columns are decoded as they are asked for: for who passes over many blocks
    /// and takes a few columns of each, with memory of its own that is used again.
    pub fn tables(&self, block: usize) -> Result<Tables<'_>, Error> {
        Tables::open(self, block)
    }

    /// The rows of one table in one block by the table's name, for tables that a newer version added.
    pub fn block_table(&self, block: usize, table: &str) -> Result<Rows, Error> {
        let mut rows = Rows::default();
        self.read_rows(block, table, None, &mut rows)?;
        Ok(rows)
    }

    /// The rows of a table. The block's message is kept, since who reads one table is like to read another.
    fn read_rows(&self, number: usize, table: &str, columns: Option<&[&str]>, rows: &mut Rows) -> Result<(), Error> {
        let message = self.kept_message(number)?;
        message.rows(table, columns, rows).map_err(|why| self.damaged(number, why))
    }

    fn kept_message(&self, number: usize) -> Result<Arc<Message>, Error> {
        let spent = |message: Message| self.keep_words(message);
        self.messages.or_read(number, || self.message(number), Message::bytes, spent)
    }

    /// Whether the index was read, rather than rebuilt.
    pub(crate) fn indexed(&self) -> bool {
        self.counts.is_some()
    }

    /// Reads the images that are in the trace, to see that it can be done.
    pub(crate) fn check_images(&self) -> Result<(), Error> {
        self.header.images.iter().filter_map(|image| image.bytes.as_ref()).try_for_each(|bytes| bytes.get().map(drop))
    }

    /// Reads a block whole and makes every event of it, to see that it can be done.
    pub(crate) fn check_block(&self, number: usize) -> Result<(), Error> {
        let block = self.decoded(number)?;
        for event in block.first()..block.first() + block.len() as u64 {
            match self.event_in(number, &block, event) {
                Ok(_) | Err(Error::NewerKind { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn decoded(&self, number: usize) -> Result<Block, Error> {
        let message = self.message(number)?;
        let block = Block::read(&message).map_err(|why| self.damaged(number, why));
        self.keep_words(message);
        block
    }

    pub(crate) fn keep_words(&self, message: Message) {
        let words = message.into_words();
        let mut spare = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_LISTS && words.capacity() <= SPARE_WORDS {
            spare.push(words);
        }
    }

    /// A block's message, whose frame is as the index says.
    pub(crate) fn message(&self, number: usize) -> Result<Message, Error> {
        let block = self.blocks.get(number).ok_or(Error::NoBlock { block: number, blocks: self.blocks.len() })?;
        let damaged = |why: String| self.damaged(number, why);
        let head = read_head(&self.source, block.offset)?.ok_or_else(|| damaged("its frame is damaged".into()))?;
        let agrees = (head.tag, head.first, head.events) == (Tag::Block, block.first, block.events);
        if !agrees || HEAD as u64 + u64::from(head.stored) != block.bytes {
            return Err(damaged("its frame is not the one that the index tells of".into()));
        }
        let offset = block.offset + HEAD as u64;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let words = if head.stored == head.message {
            frame::read_stored(&head, words, |bytes| self.source.read(offset, bytes))?
        } else {
            frame::unpack_into(&head, &self.source.take(offset, head.stored as usize)?, words)
        };
        let words = words.map_err(damaged)?;
        Message::read(words, (block.first, block.events)).map_err(damaged)
    }

    pub(crate) fn damaged(&self, block: usize, why: String) -> Error {
        Error::Block { block, offset: self.blocks[block].offset, why }
    }

    fn event_in(&self, number: usize, block: &Block, event: u64) -> Result<Event, Error> {
        let place = (event - block.first()) as usize;
        block.event(place).map_err(|refused| match refused {
            Refused::NewerKind(table) => Error::NewerKind { event, table },
            // A newer version may have more words in a list.
            Refused::OutOfRange(_, table) if self.header.version > crate::VERSION => Error::NewerKind { event, table },
            Refused::OutOfRange(event, table) => {
                self.damaged(number, format!("event {event} of table '{table}' has a number out of range"))
            }
        })
    }
}

/// The events of a trace in order: see [`Reader::events`].
#[derive(Debug)]
pub struct Events<'a> {
    reader: &'a Reader,
    next: u64,
    block: Option<(usize, Arc<Block>)>,
    done: bool,
}

impl Events<'_> {
    /// Steps over the next event if it is `event`, and says whether it did. This is much cheaper than to read the next
    /// event and compare. An event with a text is never stepped over, nor is what cannot be read: [`Iterator::next`]
    /// tells what is there.
    #[inline]
    pub fn accept(&mut self, event: &Event) -> bool {
        if self.done || self.next >= self.reader.len() || self.seek().is_err() {
            return false;
        }
        let accepted =
            self.block.as_ref().is_some_and(|(_, block)| block.is((self.next - block.first()) as usize, event));
        self.next += u64::from(accepted);
        accepted
    }

    /// Steps over the next event if it is of `kind`, and says whether it did.
    #[inline]
    pub fn pass(&mut self, kind: Kind) -> bool {
        if self.done || self.next >= self.reader.len() || self.seek().is_err() {
            return false;
        }
        let place = |block: &Block| (self.next - block.first()) as usize;
        let skipped = self.block.as_ref().is_some_and(|(_, block)| block.kind(place(block)) == Some(kind));
        self.next += u64::from(skipped);
        skipped
    }

    /// Holds the block of the next event.
    #[inline]
    fn seek(&mut self) -> Result<(), Error> {
        if self.block.as_ref().is_none_or(|(_, block)| self.next - block.first() >= block.len() as u64) {
            let number = self.reader.block_of(self.next)?;
            self.block = Some((number, self.reader.block(number)?));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Event, Error> {
        self.seek()?;
        let (number, block) = self.block.as_ref().ok_or(Error::NoEvent { event: self.next, len: self.reader.len() })?;
        self.reader.event_in(*number, block, self.next)
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.next >= self.reader.len() {
            return None;
        }
        let event = self.read();
        self.done = matches!(&event, Err(error) if !matches!(error, Error::NewerKind { .. }));
        self.next += 1;
        Some(event)
    }
}

// --- What the reader and `verify` share ---

/// The header, and where the first frame behind it begins.
pub(crate) fn read_header(source: &Arc<Source>) -> Result<(Header, u64), Error> {
    let prologue = source.take(0, source.len().min(PROLOGUE as u64) as usize)?;
    let version = frame::read_prologue(&prologue)?;
    if !source.has(PROLOGUE as u64, HEAD as u64) {
        return Err(Error::HeaderCut);
    }
    let head = read_head(source, PROLOGUE as u64)?.filter(|head| head.tag == Tag::Header);
    let head = head.ok_or_else(|| Error::Header("its frame is damaged".into()))?;
    let start = (PROLOGUE + HEAD) as u64;
    if !source.has(start, head.stored.into()) {
        return Err(Error::HeaderCut);
    }
    Ok((image::read_header(source, &head, version)?, start + u64::from(head.stored)))
}

/// The frame head at `offset`; `None` where there is no sound one.
pub(crate) fn read_head(source: &Source, offset: u64) -> Result<Option<Head>, Error> {
    if !source.has(offset, HEAD as u64) {
        return Ok(None);
    }
    let mut bytes = [0; HEAD];
    source.read(offset, &mut bytes)?;
    Ok(Head::from_bytes(&bytes))
}

/// Where the trailer begins, and the index's offset and the number of events that it holds, where it is whole.
fn sound_trailer(source: &Source, start: u64) -> Result<Option<(u64, u64, u64)>, Error> {
    let Some(trailer) = source.len().checked_sub(TRAILER as u64).filter(|&trailer| trailer >= start) else {
        return Ok(None);
    };
    let mut bytes = [0; TRAILER];
    source.read(trailer, &mut bytes)?;
    let found = frame::read_trailer(&bytes).filter(|(offset, _)| (start..trailer).contains(offset));
    Ok(found.map(|(offset, events)| (trailer, offset, events)))
}

type Indexed = (Vec<BlockInfo>, Vec<(String, Vec<u32>)>);

/// What the index says, where trailer and index are whole and make sense. `start` is where the blocks begin.
pub(crate) fn whole_end(source: &Source, start: u64) -> Result<Option<Indexed>, Error> {
    let Some((trailer, offset, events)) = sound_trailer(source, start)? else { return Ok(None) };
    let Some(head) = read_head(source, offset)?.filter(|head| head.tag == Tag::Index) else { return Ok(None) };
    if offset + HEAD as u64 + u64::from(head.stored) != trailer {
        return Ok(None);
    }
    let stored = source.take(offset + HEAD as u64, head.stored as usize)?;
    let index = frame::unpack(&head, &stored).and_then(|words| wire::read_index(&words));
    Ok(index.ok().and_then(|index| check_index(index, (start, offset), events)))
}

/// The index, if its blocks follow one another from the first byte of `range` to its last, and from event 0 to `events`.
fn check_index(index: Index, range: (u64, u64), events: u64) -> Option<Indexed> {
    let ends = index.blocks.iter().skip(1).map(|row| row.offset).chain([range.1]);
    let (mut offset, mut first) = (range.0, 0_u64);
    let mut blocks = Vec::with_capacity(index.blocks.len());
    for (row, end) in index.blocks.iter().zip(ends) {
        let bytes = end.checked_sub(offset).filter(|&bytes| bytes >= HEAD as u64)?;
        if row.offset != offset || row.first != first {
            return None;
        }
        blocks.push(BlockInfo { offset, bytes, first, events: row.events });
        offset = end;
        first = first.checked_add(row.events.into())?;
    }
    let counted: u64 = index.tables.iter().flat_map(|(_, rows)| rows).map(|&rows| u64::from(rows)).sum();
    (offset == range.1 && first == events && counted == events).then_some((blocks, index.tables))
}

/// What a walk from frame to frame finds.
pub(crate) struct Scan {
    pub(crate) blocks: Vec<BlockInfo>,
    /// Whether the walk came to the index, so that no block is missing.
    pub(crate) ended: bool,
}

/// Walks the frames from `start` to the last whole block, or from behind the blocks that are known.
pub(crate) fn scan(source: &Source, start: u64, known: Vec<BlockInfo>) -> Result<Scan, Error> {
    let behind = known.last().map(|last| (last.offset + last.bytes, last.first + u64::from(last.events)));
    let (mut offset, mut first) = behind.unwrap_or((start, 0));
    let mut scan = Scan { blocks: known, ended: false };
    while let Some(head) = read_head(source, offset)? {
        let bytes = HEAD as u64 + u64::from(head.stored);
        if head.tag != Tag::Block {
            scan.ended = head.tag == Tag::Index;
            break;
        }
        if head.first != first || !source.has(offset, bytes) {
            break;
        }
        scan.blocks.push(BlockInfo { offset, bytes, first, events: head.events });
        offset += bytes;
        first += u64::from(head.events);
    }
    // What was written last may have been allotted on the disk and not filled.
    if let Some(last) = scan.blocks.last().filter(|_| !scan.ended)
        && let Some(head) = read_head(source, last.offset)?
        && frame::unpack(&head, &source.take(last.offset + HEAD as u64, head.stored as usize)?).is_err()
    {
        scan.blocks.pop();
    }
    Ok(scan)
}
