//! A block of events as columns: filled by the writer, or read back whole or in part.

use crate::coding::{self, Coding, Lasts, chosen};
use crate::wire::{self, BlockOut, ColumnOut, TableOut, Wrong};
use capnp::Word;
use hv_defs::event::{Event, Kind, Stamp, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};

/// When a block ends. The same for equal runs, so that equal runs give equal files.
const BLOCK_EVENTS: usize = 1 << 16;
/// A block that spans so many instructions ends too, so that a machine that is killed loses seconds only.
const BLOCK_INSTRUCTIONS: u64 = 1 << 30;
/// Texts are for what is rare.
const BLOCK_TEXTS: usize = 256;

/// Events on their way into a block: what a thread that must not wait fills, and hands to another that writes it with
/// [`Writer::write`](crate::Writer::write).
pub struct Batch {
    order: Vec<u8>,
    stamps: Stamps,
    /// For each kind, its rows one after another.
    tables: [Vec<u64>; Kind::ALL.len()],
    texts: Texts,
}

/// Runs of events that share a stamp.
#[derive(Default)]
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
    lasts: Lasts,
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
        for (at, column) in values.iter_mut().enumerate() {
            column.clear();
            column.extend(rows.chunks_exact(width).map(|row| row[at]));
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
        coding::encode(coding, &key_columns, values, &mut self.lasts, &mut stored);
        ColumnOut::new(name, coding, keys, stored)
    }
}

/// One column of a table that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// A number a row. What it means is its kind's to say: see [`Kind::columns`].
    pub values: Vec<u64>,
}

/// The rows of one kind of event in one block, by columns. All lists have a number for each row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// The events' numbers in the trace.
    pub event: Vec<u64>,
    /// Their stamps: instructions retired.
    pub instruction: Vec<u64>,
    /// Their stamps: virtual CPU.
    pub vcpu: Vec<u16>,
    /// Their stamps: physical CPU.
    pub pcpu: Vec<u16>,
    /// The columns that were asked for: those of [`Kind::columns`] in its order, then any that a newer version added.
    pub columns: Vec<Column>,
    /// What the numbers of text columns stand for.
    pub texts: Texts,
}

impl Rows {
    /// The column of that name, if it was asked for.
    pub fn column(&self, name: &str) -> Option<&[u64]> {
        self.columns.iter().find(|column| column.name == name).map(|column| &column.values[..])
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.event.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.event.is_empty()
    }
}

/// A table of a block in memory.
#[derive(Debug)]
struct Table {
    name: String,
    /// `None` for a kind that a newer version added.
    kind: Option<Kind>,
    rows: u32,
    /// Those of [`Kind::columns`] first, in its order.
    columns: Vec<Column>,
}

/// A block in memory: the events of a stretch of the trace, by columns.
#[derive(Debug)]
pub struct Block {
    first: u64,
    order: Vec<u8>,
    /// For each event, its row in its table.
    rows: Vec<u32>,
    stamps: Vec<Stamp>,
    tables: Vec<Table>,
    texts: Texts,
}

/// Which columns to decode.
#[derive(Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// All that there are.
    All,
    /// None: only how many rows each table has, and where its events are.
    Counts,
    /// Those of one kind's table; all of them, or those that are named.
    Of(Kind, Option<&'a [&'a str]>),
}

impl Wanted<'_> {
    fn has(self, table: &str, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Counts => false,
            Self::Of(kind, names) => kind.name() == table && names.is_none_or(|names| names.contains(&column)),
        }
    }
}

impl Block {
    /// Reads a block's message. `head` is what its frame says: the first event's number and how many there are.
    pub(crate) fn read(words: &[Word], head: (u64, u32), wanted: Wanted<'_>) -> Result<Self, Wrong> {
        let block = wire::read_block(words, &|table, column| wanted.has(table, column))?;
        if (block.first, block.order.len()) != (head.0, head.1 as usize) {
            return Err(format!("its frame and its message differ on its events: {} and {}", head.0, block.first));
        }
        let stamps = read_stamps(&block.stamps, block.order.len())?;
        let mut next = vec![0_u32; block.tables.len()];
        let (mut order, mut rows) = (Vec::with_capacity(stamps.len()), Vec::with_capacity(stamps.len()));
        for &table in &block.order {
            let row = usize::try_from(table).ok().and_then(|table| next.get_mut(table));
            let row = row.ok_or_else(|| format!("an event belongs to table {table} of {}", block.tables.len()))?;
            order.push(table as u8);
            rows.push(*row);
            *row += 1;
        }
        let mut tables: Vec<Table> = Vec::with_capacity(block.tables.len());
        for (table, rows) in block.tables.into_iter().zip(next) {
            if table.rows != rows {
                return Err(format!("table '{}' has {} rows for {rows} events", table.name, table.rows));
            }
            if tables.iter().any(|other| other.name == table.name) {
                return Err(format!("it has two tables '{}'", table.name));
            }
            tables.push(read_table(table, wanted));
        }
        Ok(Self { first: block.first, order, rows, stamps, tables, texts: Texts { list: block.texts } })
    }

    /// The number of its first event.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Its tables' names and rows, those of kinds that this program does not know included.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.tables.iter().map(|table| (&table.name[..], table.rows))
    }

    /// The event at a place in the block, which must have been read whole; or what is wrong with it.
    pub(crate) fn event(&self, place: usize) -> Result<Event, Refused> {
        let table = &self.tables[usize::from(self.order[place])];
        let kind = table.kind.ok_or_else(|| Refused::NewerKind(table.name.clone()))?;
        let mut row = [0; MAX_COLUMNS];
        for (cell, column) in row.iter_mut().zip(&table.columns[..kind.columns().len()]) {
            *cell = column.values[self.rows[place] as usize];
        }
        let what = What::from_row(kind, &row[..kind.columns().len()], &self.texts);
        let what = what.ok_or_else(|| Refused::OutOfRange(self.first + place as u64, table.name.clone()))?;
        Ok(Event { at: self.stamps[place], what })
    }

    /// The kind of the event at a place; `None` for one that this program does not know.
    pub fn kind(&self, place: usize) -> Option<Kind> {
        self.tables.get(usize::from(*self.order.get(place)?))?.kind
    }

    /// The stamp of the event at a place.
    pub fn stamp(&self, place: usize) -> Option<Stamp> {
        self.stamps.get(place).copied()
    }

    /// The rows of one table, by its name.
    pub(crate) fn into_rows(mut self, name: &str) -> Rows {
        let Some(at) = self.tables.iter().position(|table| table.name == name) else { return Rows::default() };
        let table = self.tables.swap_remove(at);
        let count = table.rows as usize;
        let mut rows = Rows { columns: table.columns, texts: self.texts, ..Rows::default() };
        rows.event.reserve(count);
        rows.instruction.reserve(count);
        rows.vcpu.reserve(count);
        rows.pcpu.reserve(count);
        let places =
            self.order.iter().zip(&self.stamps).enumerate().filter(|(_, (table, _))| usize::from(**table) == at);
        for (place, (_, stamp)) in places {
            rows.event.push(self.first + place as u64);
            rows.instruction.push(stamp.instruction);
            rows.vcpu.push(stamp.vcpu);
            rows.pcpu.push(stamp.pcpu);
        }
        rows
    }
}

/// Why a row does not make an event.
pub(crate) enum Refused {
    /// Its table is one that this program does not know.
    NewerKind(String),
    /// A number is out of its column's range: the event's number and its table.
    OutOfRange(u64, String),
}

fn read_stamps(table: &wire::TableIn, events: usize) -> Result<Vec<Stamp>, Wrong> {
    let zeros = vec![0; table.rows as usize];
    let column = |name: &str| {
        let found = table.columns.iter().find(|(known, _)| known == name);
        found.and_then(|(_, values)| values.as_deref()).unwrap_or(&zeros)
    };
    let (counts, instructions, vcpus, pcpus) =
        (column("events"), column("instruction"), column("vcpu"), column("pcpu"));
    let mut stamps = Vec::with_capacity(events);
    for run in 0..zeros.len() {
        let (vcpu, pcpu) = match (u16::try_from(vcpus[run]), u16::try_from(pcpus[run])) {
            (Ok(vcpu), Ok(pcpu)) => (vcpu, pcpu),
            _ => return Err(format!("a stamp names CPU {} on {}", vcpus[run], pcpus[run])),
        };
        if counts[run] > (events - stamps.len()) as u64 {
            return Err("it has more stamps than events".into());
        }
        let stamp = Stamp { instruction: instructions[run], vcpu, pcpu };
        stamps.resize(stamps.len() + counts[run] as usize, stamp);
    }
    if stamps.len() == events { Ok(stamps) } else { Err(format!("it has {} stamps for {events} events", stamps.len())) }
}

fn read_table(table: wire::TableIn, wanted: Wanted<'_>) -> Table {
    let kind = Kind::by_name(&table.name);
    let mut found = table.columns;
    let mut columns = Vec::new();
    for known in kind.into_iter().flat_map(Kind::columns) {
        // A column that was left out is all zeros.
        let at = found.iter().position(|(name, _)| name == known.name);
        let values = at.and_then(|at| found.remove(at).1);
        if wanted.has(&table.name, known.name) {
            let values = values.unwrap_or_else(|| vec![0; table.rows as usize]);
            columns.push(Column { name: known.name.into(), values });
        }
    }
    let newer = found.into_iter().filter(|(name, _)| wanted.has(&table.name, name));
    columns.extend(newer.filter_map(|(name, values)| Some(Column { name, values: values? })));
    Table { name: table.name, kind, rows: table.rows, columns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Head, Tag};

    /// A block with one `mark` event, whose table has a column that this version does not know, and one event of a kind
    /// that it does not know.
    fn newer(order: &[u64], mark_value: u64) -> Result<Block, Wrong> {
        let column = |name, stored: &[u64]| ColumnOut::new(name, Coding::Plain, &[], stored.to_vec());
        let table = |name, columns| TableOut { name, rows: 1, columns };
        let stamps = vec![column("events", &[order.len() as u64]), column("instruction", &[5])];
        let out = BlockOut {
            first: 10,
            events: order.len() as u32,
            order: column("order", order),
            stamps: table("stamps", stamps),
            tables: vec![
                table("teleport", vec![column("distance", &[300])]),
                table("mark", vec![column("colour", &[4]), column("value", &[mark_value])]),
            ],
            texts: &[],
        };
        let (mut words, mut message, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        wire::write_block(&out, &mut words, &mut message);
        let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
        let head: Head = crate::frame::pack(Tag::Block, (10, out.events), &message, &mut compressor, &mut stored)
            .expect("a small message");
        let words = crate::frame::unpack(&head, &stored)?;
        Block::read(&words, (10, out.events), Wanted::All)
    }

    #[test]
    fn tables_and_columns_of_newer_versions_are_kept() {
        let block = newer(&[1, 0], 7).expect("a sound block");
        let mark = Event { at: Stamp { instruction: 5, vcpu: 0, pcpu: 0 }, what: What::Mark(7) };
        assert!(matches!(block.event(0), Ok(event) if event == mark));
        assert!(matches!(block.event(1), Err(Refused::NewerKind(name)) if name == "teleport"));
        assert_eq!((block.kind(0), block.kind(1)), (Some(Kind::Mark), None));
        let columns = |name: &str| -> Vec<(String, Vec<u64>)> {
            let rows = newer(&[1, 0], 7).expect("a sound block").into_rows(name);
            rows.columns.into_iter().map(|column| (column.name, column.values)).collect()
        };
        assert_eq!(columns("mark"), [("value".into(), vec![7]), ("colour".into(), vec![4])]);
        assert_eq!(columns("teleport"), [("distance".into(), vec![300])]);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        for (order, why) in [
            (&[1, 2][..], "an event belongs to table 2 of 2"),
            (&[1, 1], "table 'teleport' has 1 rows for 0 events"),
            (&[1], "table 'mark' claims 1 rows"),
            (&[1, 0, 0], "its tables hold 2 rows for 3 events"),
        ] {
            assert_eq!(newer(order, 7).err().as_deref(), Some(why));
        }
        let block = newer(&[1, 0], 1 << 32).expect("its message is sound");
        assert!(matches!(block.event(0), Err(Refused::OutOfRange(10, table)) if table == "mark"));
    }
}
