//! Events on their way into a block: batches, and how they become messages.

use crate::coding::{Coder, Coding, TILE, chosen};
use crate::narrow::{Narrow, Number, Spare};
use crate::wire::Word;
use crate::wire::{self, BlockOut, ColumnOut, TableOut};
use hv_defs::event::{Event, Kind, Stamp};
use hv_defs::fields::{MAX_COLUMNS, MAX_ROW, Texts};

/// When a block ends. The same for equal runs, so that equal runs give equal files.
const BLOCK_EVENTS: usize = 1 << 15;
/// A block that spans so many instructions ends too, so that a machine that is killed loses a second or so: it is what the
/// software CPU does in one.
const BLOCK_INSTRUCTIONS: u64 = 1 << 26;
/// Texts are for what is rare.
const BLOCK_TEXTS: usize = 256;

/// Events on their way into a block: what a thread that must not wait fills, and hands to another that writes it with
/// [`Writer::write`](crate::Writer::write).
#[derive(Debug, Default)]
pub struct Batch {
    /// The kind of each.
    order: Vec<u8>,
    /// The last one's stamp.
    last: Stamp,
    runs: Vec<Run>,
    tables: [Packed; Kind::ALL.len()],
    texts: Texts,
    full: bool,
}

/// Events that follow one another and share a stamp.
#[derive(Clone, Copy, Debug)]
struct Run {
    at: Stamp,
    /// Where the first of them is in the batch.
    from: u32,
}

/// The rows of one kind, one after another, as [`What::pack`](hv_defs::event::What::pack) makes them: most of a recording's cost to its
/// machine is the memory that it touches.
#[derive(Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    /// Bytes that are rows.
    used: usize,
}

impl Packed {
    fn rows(&self, kind: Kind) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes[..self.used].chunks_exact(kind.widths().iter().sum())
    }

    #[inline]
    fn push(&mut self, event: &Event, texts: &mut Texts) {
        match self.bytes.get_mut(self.used..).and_then(<[u8]>::first_chunk_mut) {
            Some(row) => self.used += event.what.pack(row, texts),
            None => self.grow(event, texts),
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, event: &Event, texts: &mut Texts) {
        self.bytes.resize((self.bytes.len() * 2).max(16 * MAX_ROW), 0);
        if let Some(row) = self.bytes[self.used..].first_chunk_mut() {
            self.used += event.what.pack(row, texts);
        }
    }
}

impl Batch {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.order.clear();
        self.runs.clear();
        self.tables.iter_mut().for_each(|table| table.used = 0);
        self.texts.list.clear();
        self.full = false;
    }

    /// Adds an event. Returns whether the batch is now full: one that is pushed to further may be too long to write.
    #[inline]
    pub fn push(&mut self, event: &Event) -> bool {
        if event.at != self.last || self.runs.is_empty() {
            self.begin_run(event.at);
        }
        let kind = event.what.kind() as u8;
        self.order.push(kind);
        self.tables[usize::from(kind)].push(event, &mut self.texts);
        self.full | (self.order.len() >= BLOCK_EVENTS) | (self.texts.list.len() >= BLOCK_TEXTS)
    }

    #[inline(never)]
    fn begin_run(&mut self, at: Stamp) {
        self.last = at;
        self.runs.push(Run { at, from: self.order.len() as u32 });
        self.full |= at.instruction.wrapping_sub(self.runs[0].at.instruction) >= BLOCK_INSTRUCTIONS;
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Rows of each kind, in the order of [`Kind::ALL`].
    pub(crate) fn counts(&self) -> impl Iterator<Item = u32> {
        Kind::ALL.iter().zip(&self.tables).map(|(&kind, table)| table.rows(kind).len() as u32)
    }
}

/// Makes messages of blocks. What it allots for one it uses again for the next.
#[derive(Default)]
pub(crate) struct Encoder {
    /// One for each column of a table.
    coders: Vec<Coder>,
    tiles: Vec<[u64; TILE]>,
    spare: Spare,
    words: Vec<Word>,
}

impl Encoder {
    /// The message of a block that begins with event `first`, into `message`.
    pub(crate) fn encode(&mut self, first: u64, block: &Batch, message: &mut Vec<u8>) {
        self.coders.resize_with(MAX_COLUMNS, Coder::default);
        self.tiles.resize(MAX_COLUMNS, [0; TILE]);
        let runs = &block.runs;
        let ends = |run: usize| runs.get(run + 1).map_or(block.len() as u32, |next| next.from);
        let events = (0..runs.len()).map(|run| u64::from(ends(run) - runs[run].from));
        let stamps = TableOut {
            name: "stamps",
            rows: runs.len() as u32,
            columns: vec![
                self.column("events", Coding::Plain, events),
                self.column("instruction", Coding::Delta, runs.iter().map(|run| run.at.instruction)),
                self.column("vcpu", Coding::Plain, runs.iter().map(|run| run.at.vcpu.into())),
                self.column("pcpu", Coding::Plain, runs.iter().map(|run| run.at.pcpu.into())),
            ],
        };
        let (mut tables, mut places) = (Vec::new(), [0; Kind::ALL.len()]);
        for (&kind, table) in Kind::ALL.iter().zip(&block.tables).filter(|(_, table)| table.used > 0) {
            places[kind as usize] = tables.len() as u8;
            tables.push(self.table(kind, table));
        }
        let (mut order, mut tile) = (Narrow::new(block.len()), [0_u8; TILE]);
        for kinds in block.order.chunks(TILE) {
            tile.iter_mut().zip(kinds).for_each(|(place, &kind)| *place = places[usize::from(kind)]);
            order.push(&tile[..kinds.len()], &mut self.spare);
        }
        let order = ColumnOut { name: "order", coding: Coding::Plain, keys: &[], stored: order.end() };
        let texts = &block.texts.list;
        let out = BlockOut { first, events: block.len() as u32, order, stamps, tables, texts };
        wire::write_block(&out, &mut self.words, message);
        let BlockOut { order, stamps, tables, .. } = out;
        let columns = tables.into_iter().chain([stamps]).flat_map(|table| table.columns).chain([order]);
        columns.for_each(|column| self.spare.keep(column.stored));
    }

    fn table(&mut self, kind: Kind, table: &Packed) -> TableOut<'static> {
        let (columns, widths) = (kind.columns(), kind.widths());
        let chosen: Vec<_> = columns.iter().map(|column| chosen(kind, column.name)).collect();
        let length = widths.iter().sum();
        let rows = table.used / length;
        let mut stored: Vec<Narrow> = columns.iter().map(|_| Narrow::new(rows)).collect();
        // Columns that are coded, or that others refer to.
        let mut wide: Vec<bool> = chosen.iter().map(|(coding, _)| *coding != Coding::Plain).collect();
        chosen.iter().flat_map(|(_, keys)| *keys).for_each(|&key| wide[usize::from(key)] = true);
        let coders = self.coders.iter_mut().zip(&chosen).filter(|(_, (coding, _))| *coding != Coding::Plain);
        coders.for_each(|(coder, _)| coder.begin());
        let mut coded = [0; TILE];
        for rows in table.bytes[..table.used].chunks(TILE * length) {
            let count = rows.len() / length;
            let mut offset = 0;
            for (at, &width) in widths.iter().enumerate() {
                let (of, tile) = ((rows, length, offset), &mut self.tiles[at][..count]);
                let stored = &mut stored[at];
                match (width, wide[at]) {
                    (1, true) => gather(of, tile, |[byte]| byte.into()),
                    (2, true) => gather(of, tile, |bytes| u16::from_le_bytes(bytes).into()),
                    (4, true) => gather(of, tile, |bytes| u32::from_le_bytes(bytes).into()),
                    (1, false) => push(of, count, stored, &mut self.spare, |[byte]| byte),
                    (2, false) => push(of, count, stored, &mut self.spare, u16::from_le_bytes),
                    (4, false) => push(of, count, stored, &mut self.spare, u32::from_le_bytes),
                    _ => gather(of, tile, u64::from_le_bytes),
                }
                offset += width;
            }
            for (at, &(coding, keys)) in chosen.iter().enumerate() {
                if coding == Coding::Plain {
                    if wide[at] || widths[at] == 8 {
                        stored[at].push(&self.tiles[at][..count], &mut self.spare);
                    }
                    continue;
                }
                let key = |key: u8| &self.tiles[usize::from(key)][..count];
                let coded = &mut coded[..count];
                coded.copy_from_slice(&self.tiles[at][..count]);
                match *keys {
                    [] => self.coders[at].code(coding, &[], coded),
                    [one] => self.coders[at].code(coding, &[key(one)], coded),
                    [one, other, ..] => self.coders[at].code(coding, &[key(one), key(other)], coded),
                }
                stored[at].push(coded, &mut self.spare);
            }
        }
        let columns = columns.iter().zip(chosen).zip(stored).map(|((of, (coding, keys)), stored)| ColumnOut {
            name: of.name,
            coding,
            keys,
            stored: stored.end(),
        });
        TableOut { name: kind.name(), rows: rows as u32, columns: columns.collect() }
    }

    fn column<'a>(
        &mut self,
        name: &'a str,
        coding: Coding,
        mut values: impl ExactSizeIterator<Item = u64>,
    ) -> ColumnOut<'a> {
        let (coder, mut stored) = (&mut self.coders[0], Narrow::new(values.len()));
        coder.begin();
        let mut coded = [0; TILE];
        while values.len() > 0 {
            let coded = &mut coded[..TILE.min(values.len())];
            coded.iter_mut().zip(&mut values).for_each(|(place, value)| *place = value);
            coder.code(coding, &[], coded);
            stored.push(coded, &mut self.spare);
        }
        ColumnOut { name, coding, keys: &[], stored: stored.end() }
    }
}

/// Packed rows, the length of each, and where in them a column begins.
type Cells<'a> = (&'a [u8], usize, usize);

/// Takes a column out of packed rows.
#[inline]
fn gather<const N: usize, T>((rows, length, offset): Cells<'_>, out: &mut [T], number: impl Fn([u8; N]) -> T) {
    // From the column's first number on, each row begins with the column's next, and the last one ends early.
    let rows = rows[offset..].chunks_exact(length);
    let last = rows.remainder();
    let read = |row: &[u8], out: &mut T| row.first_chunk().into_iter().for_each(|bytes| *out = number(*bytes));
    if let Some(out) = out.last_mut() {
        read(last, out);
    }
    rows.zip(out).for_each(|(row, out)| read(row, out));
}

/// Puts a column of packed rows onto the end of a list, `count` numbers.
#[inline]
fn push<const N: usize, T: Number>(
    cells: Cells<'_>,
    count: usize,
    list: &mut Narrow,
    spare: &mut Spare,
    number: impl Fn([u8; N]) -> T,
) {
    let mut tile = [T::default(); TILE];
    gather(cells, &mut tile[..count], number);
    list.push(&tile[..count], spare);
}
