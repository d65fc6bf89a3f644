//! Events on their way into a block: batches, and how they become messages.

use crate::coding::{Coder, Coding, TILE, chosen};
use crate::wire::Word;
use crate::wire::{self, BlockOut, ColumnOut, TableOut};
use hv_defs::event::{Event, Kind, Stamp};
use hv_defs::fields::Texts;

/// When a block ends. The same for equal runs, so that equal runs give equal files.
const BLOCK_EVENTS: usize = 1 << 15;
/// A block that spans so many instructions ends too, so that a machine that is killed loses a second or so: it is what the
/// software CPU does in one.
const BLOCK_INSTRUCTIONS: u64 = 1 << 26;
/// Texts are for what is rare.
const BLOCK_TEXTS: usize = 256;

/// Events on their way into a block: what a thread that must not wait fills, and hands to another that writes it with
/// [`Writer::write`](crate::Writer::write).
#[derive(Debug)]
pub struct Batch {
    order: Vec<u8>,
    stamps: Stamps,
    /// For each kind, its rows one after another.
    tables: [Vec<u64>; Kind::ALL.len()],
    texts: Texts,
}

/// Runs of events that share a stamp.
#[derive(Debug, Default)]
struct Stamps {
    last: Option<Stamp>,
    events: Vec<u64>,
    instruction: Vec<u64>,
    vcpu: Vec<u64>,
    pcpu: Vec<u64>,
}

impl Stamps {
    #[inline]
    fn push(&mut self, at: Stamp) {
        if self.last == Some(at)
            && let Some(events) = self.events.last_mut()
        {
            *events += 1;
            return;
        }
        self.last = Some(at);
        self.events.push(1);
        self.instruction.push(at.instruction);
        self.vcpu.push(at.vcpu.into());
        self.pcpu.push(at.pcpu.into());
    }
}

impl Default for Batch {
    fn default() -> Self {
        let tables = std::array::from_fn(|_| Vec::new());
        Self { order: Vec::new(), stamps: Stamps::default(), tables, texts: Texts::default() }
    }
}

impl Batch {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.order.clear();
        let stamps = &mut self.stamps;
        stamps.last = None;
        for column in [&mut stamps.events, &mut stamps.instruction, &mut stamps.vcpu, &mut stamps.pcpu] {
            column.clear();
        }
        self.tables.iter_mut().for_each(Vec::clear);
        self.texts.list.clear();
    }

    /// Adds an event. Returns whether the batch is now full: one that is pushed to further may be too long to write.
    #[inline]
    pub fn push(&mut self, event: &Event) -> bool {
        let kind = event.what.kind();
        self.order.push(kind as u8);
        self.stamps.push(event.at);
        event.what.push_row(&mut self.tables[kind as usize], &mut self.texts);
        let span = event.at.instruction.wrapping_sub(self.stamps.instruction[0]);
        self.order.len() >= BLOCK_EVENTS || span >= BLOCK_INSTRUCTIONS || self.texts.list.len() >= BLOCK_TEXTS
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
        Kind::ALL.iter().zip(&self.tables).map(|(kind, rows)| (rows.len() / kind.columns().len()) as u32)
    }
}

/// Makes messages of blocks. What it allots for one it uses again for the next.
#[derive(Default)]
pub(crate) struct Encoder {
    columns: Vec<Vec<u64>>,
    coder: Coder,
    words: Vec<Word>,
}

impl Encoder {
    /// The message of a block that begins with event `first`, into `message`.
    pub(crate) fn encode(&mut self, first: u64, block: &Batch, message: &mut Vec<u8>) {
        let Stamps { events, instruction, vcpu, pcpu, .. } = &block.stamps;
        let stamps = TableOut {
            name: "stamps",
            rows: events.len() as u32,
            columns: vec![
                self.column("events", (Coding::Plain, &[]), &[], events),
                self.column("instruction", (Coding::Delta, &[]), &[], instruction),
                self.column("vcpu", (Coding::Plain, &[]), &[], vcpu),
                self.column("pcpu", (Coding::Plain, &[]), &[], pcpu),
            ],
        };
        let (mut tables, mut places) = (Vec::new(), [0; Kind::ALL.len()]);
        for (&kind, rows) in Kind::ALL.iter().zip(&block.tables).filter(|(_, rows)| !rows.is_empty()) {
            places[kind as usize] = tables.len() as u64;
            tables.push(self.table(kind, rows));
        }
        let mut order = self.columns.pop().unwrap_or_default();
        order.clear();
        order.extend(block.order.iter().map(|&kind| places[usize::from(kind)]));
        let order = ColumnOut::new("order", Coding::Plain, &[], order);
        let texts = &block.texts.list;
        let mut out = BlockOut { first, events: block.len() as u32, order, stamps, tables, texts };
        wire::write_block(&out, &mut self.words, message);
        self.columns.push(out.order.stored);
        let tables = out.tables.iter_mut().chain([&mut out.stamps]);
        self.columns.extend(tables.flat_map(|table| table.columns.drain(..)).map(|column| column.stored));
    }

    fn table(&mut self, kind: Kind, rows: &[u64]) -> TableOut<'static> {
        let width = kind.columns().len();
        let mut values: Vec<Vec<u64>> = (0..width).map(|_| self.columns.pop().unwrap_or_default()).collect();
        values.iter_mut().for_each(Vec::clear);
        for tile in rows.chunks(TILE * width) {
            for (at, column) in values.iter_mut().enumerate() {
                column.extend(tile.chunks_exact(width).map(|row| row[at]));
            }
        }
        let mut coded = Vec::with_capacity(width);
        for (of, own) in kind.columns().iter().zip(&values) {
            let (coding, keys) = chosen(kind, of.name);
            coded.push((coding != Coding::Plain).then(|| self.column(of.name, (coding, keys), &values, own)));
        }
        let mut columns = Vec::with_capacity(width);
        for ((of, own), coded) in kind.columns().iter().zip(values).zip(coded) {
            columns.push(match coded {
                Some(coded) => {
                    self.columns.push(own);
                    coded
                }
                None => ColumnOut::new(of.name, Coding::Plain, &[], own),
            });
        }
        TableOut { name: kind.name(), rows: (rows.len() / width) as u32, columns }
    }

    fn column<'a>(
        &mut self,
        name: &'a str,
        (coding, keys): (Coding, &'a [u8]),
        table: &[Vec<u64>],
        values: &[u64],
    ) -> ColumnOut<'a> {
        let key_columns: Vec<&[u64]> = keys.iter().map(|&key| &table[usize::from(key)][..]).collect();
        let mut stored = self.columns.pop().unwrap_or_default();
        stored.clear();
        stored.extend_from_slice(values);
        self.coder.begin();
        self.coder.code(coding, &key_columns, &mut stored);
        ColumnOut::new(name, coding, keys, stored)
    }
}
