//! A block that is read back: whole, or the rows of one table.

use crate::wire::Word;
use crate::wire::{self, Wrong};
use hv_defs::event::{Event, Kind, Stamp, What};
use hv_defs::fields::{MAX_COLUMNS, Texts};

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

/// An event as it is stored: what there is of one that this program does not know, or not all of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// When and where.
    pub at: Stamp,
    /// The name of its kind's table.
    pub table: String,
    /// Its columns by name. Those of [`Kind::columns`] come first, in its order.
    pub columns: Vec<(String, u64)>,
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

/// What a block's message says, checked: the parts add up.
struct Parts {
    first: u64,
    /// For each event, its table.
    order: Vec<u8>,
    /// Runs of events with one stamp; together as many as there are events.
    runs: Vec<(usize, Stamp)>,
    tables: Vec<Table>,
    texts: Texts,
}

impl Parts {
    /// Reads a block's message, decoding the columns that are wanted. `head` is what its frame says: the first event's
    /// number and how many there are.
    fn read(words: &[Word], head: (u64, u32), wanted: &dyn Fn(&str, &str) -> bool) -> Result<Self, Wrong> {
        let block = wire::read_block(words, wanted)?;
        if (block.first, block.order.len()) != (head.0, head.1 as usize) {
            return Err(format!("its frame and its message differ on its events: {} and {}", head.0, block.first));
        }
        let mut counts = [0_u32; 1 << u8::BITS];
        block.order.iter().for_each(|&table| counts[usize::from(table)] += 1);
        if let Some(table) = (block.tables.len()..counts.len()).find(|&table| counts[table] > 0) {
            return Err(format!("an event belongs to table {table} of {}", block.tables.len()));
        }
        let mut tables: Vec<Table> = Vec::with_capacity(block.tables.len());
        for (table, rows) in block.tables.into_iter().zip(counts) {
            if table.rows != rows {
                return Err(format!("table '{}' has {} rows for {rows} events", table.name, table.rows));
            }
            if tables.iter().any(|other| other.name == table.name) {
                return Err(format!("it has two tables '{}'", table.name));
            }
            tables.push(read_table(table, wanted));
        }
        let runs = read_runs(&block.stamps, block.order.len())?;
        Ok(Self { first: block.first, order: block.order, runs, tables, texts: Texts { list: block.texts } })
    }
}

/// The names and rows of a block's tables.
pub(crate) fn read_counts(words: &[Word], head: (u64, u32)) -> Result<Vec<(String, u32)>, Wrong> {
    let tables = Parts::read(words, head, &|_, _| false)?.tables;
    Ok(tables.into_iter().map(|table| (table.name, table.rows)).collect())
}

/// The rows of one of a block's tables, with all columns or those that are named.
pub(crate) fn read_rows(words: &[Word], head: (u64, u32), name: &str, columns: Option<&[&str]>) -> Result<Rows, Wrong> {
    let wanted = |table: &str, column: &str| table == name && columns.is_none_or(|names| names.contains(&column));
    let mut parts = Parts::read(words, head, &wanted)?;
    let Some(at) = parts.tables.iter().position(|table| table.name == name) else { return Ok(Rows::default()) };
    let table = parts.tables.swap_remove(at);
    let count = table.rows as usize;
    let mut rows = Rows {
        event: Vec::with_capacity(count),
        instruction: Vec::with_capacity(count),
        vcpu: Vec::with_capacity(count),
        pcpu: Vec::with_capacity(count),
        columns: table.columns,
        texts: parts.texts,
    };
    let mut place = 0;
    for (run, stamp) in parts.runs {
        let tables = parts.order[place..place + run].iter();
        let first = parts.first + place as u64;
        rows.event.extend(tables.zip(first..).filter(|(table, _)| usize::from(**table) == at).map(|(_, event)| event));
        rows.instruction.resize(rows.event.len(), stamp.instruction);
        rows.vcpu.resize(rows.event.len(), stamp.vcpu);
        rows.pcpu.resize(rows.event.len(), stamp.pcpu);
        place += run;
    }
    Ok(rows)
}

impl Block {
    /// Reads a block's message, as [`Parts::read`].
    pub(crate) fn read(words: &[Word], head: (u64, u32)) -> Result<Self, Wrong> {
        let Parts { first, order, runs, tables, texts } = Parts::read(words, head, &|_, _| true)?;
        let mut next = vec![0_u32; tables.len()];
        let mut rows = Vec::with_capacity(order.len());
        for &table in &order {
            let row = &mut next[usize::from(table)];
            rows.push(*row);
            *row += 1;
        }
        let mut stamps = Vec::with_capacity(order.len());
        runs.into_iter().for_each(|(run, stamp)| stamps.resize(stamps.len() + run, stamp));
        Ok(Self { first, order, rows, stamps, tables, texts })
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

    /// The event at a place in the block, which must have been read whole, as it is stored.
    pub(crate) fn stored(&self, place: usize) -> Stored {
        let (table, row) = (&self.tables[usize::from(self.order[place])], self.rows[place] as usize);
        let columns = table.columns.iter().map(|column| (column.name.clone(), column.values[row])).collect();
        Stored { at: self.stamps[place], table: table.name.clone(), columns }
    }

    /// Whether the event at a place is `event`, as far as that can be told by its numbers: an event with a text is none.
    #[inline]
    pub(crate) fn is(&self, place: usize, event: &Event) -> bool {
        let table = &self.tables[usize::from(self.order[place])];
        if table.kind != Some(event.what.kind()) || self.stamps[place] != event.at {
            return false;
        }
        let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        event.what.row(&mut row, &mut texts);
        let at = self.rows[place] as usize;
        let same = table.columns.iter().zip(row).take(event.what.kind().columns().len());
        same.fold(true, |same, (column, number)| same & (column.values[at] == number)) && texts.list.is_empty()
    }

    /// The kind of the event at a place; `None` for one that this program does not know.
    pub fn kind(&self, place: usize) -> Option<Kind> {
        self.tables.get(usize::from(*self.order.get(place)?))?.kind
    }

    /// The stamp of the event at a place.
    pub fn stamp(&self, place: usize) -> Option<Stamp> {
        self.stamps.get(place).copied()
    }
}

/// Why a row does not make an event.
pub(crate) enum Refused {
    /// Its table is one that this program does not know.
    NewerKind(String),
    /// A number is out of its column's range: the event's number and its table.
    OutOfRange(u64, String),
}

fn read_runs(table: &wire::TableIn, events: usize) -> Result<Vec<(usize, Stamp)>, Wrong> {
    let zeros = vec![0; table.rows as usize];
    let column = |name: &str| {
        let found = table.columns.iter().find(|(known, _)| known == name);
        found.and_then(|(_, values)| values.as_deref()).unwrap_or(&zeros)
    };
    let (counts, instructions, vcpus, pcpus) =
        (column("events"), column("instruction"), column("vcpu"), column("pcpu"));
    let (mut runs, mut left) = (Vec::with_capacity(zeros.len()), events as u64);
    for run in 0..zeros.len() {
        let (vcpu, pcpu) = match (u16::try_from(vcpus[run]), u16::try_from(pcpus[run])) {
            (Ok(vcpu), Ok(pcpu)) => (vcpu, pcpu),
            _ => return Err(format!("a stamp names CPU {} on {}", vcpus[run], pcpus[run])),
        };
        left = left.checked_sub(counts[run]).ok_or("it has more stamps than events")?;
        runs.push((counts[run] as usize, Stamp { instruction: instructions[run], vcpu, pcpu }));
    }
    if left == 0 { Ok(runs) } else { Err(format!("it has {} stamps for {events} events", events as u64 - left)) }
}

fn read_table(table: wire::TableIn, wanted: &dyn Fn(&str, &str) -> bool) -> Table {
    let kind = Kind::by_name(&table.name);
    let mut found = table.columns;
    let mut columns = Vec::new();
    for known in kind.into_iter().flat_map(Kind::columns) {
        // A column that was left out is all zeros.
        let at = found.iter().position(|(name, _)| name == known.name);
        let values = at.and_then(|at| found.remove(at).1);
        if wanted(&table.name, known.name) {
            let values = values.unwrap_or_else(|| vec![0; table.rows as usize]);
            columns.push(Column { name: known.name.into(), values });
        }
    }
    let newer = found.into_iter().filter(|(name, _)| wanted(&table.name, name));
    columns.extend(newer.filter_map(|(name, values)| Some(Column { name, values: values? })));
    Table { name: table.name, kind, rows: table.rows, columns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::frame::{Head, Tag};
    use crate::wire::{BlockOut, ColumnOut, TableOut};

    /// A block with one `mark` event, whose table has a column that this version does not know, and one event of a kind
    /// that it does not know.
    fn newer(order: &[u64], mark_value: u64) -> Result<Vec<Word>, Wrong> {
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
        crate::frame::unpack(&head, &stored)
    }

    #[test]
    fn tables_and_columns_of_newer_versions_are_kept() {
        let message = newer(&[1, 0], 7).expect("a message");
        let block = Block::read(&message, (10, 2)).expect("a sound block");
        let mark = Event { at: Stamp { instruction: 5, vcpu: 0, pcpu: 0 }, what: What::Mark(7) };
        assert!(matches!(block.event(0), Ok(event) if event == mark));
        assert!(matches!(block.event(1), Err(Refused::NewerKind(name)) if name == "teleport"));
        assert_eq!((block.kind(0), block.kind(1)), (Some(Kind::Mark), None));
        let columns = |name: &str| -> Vec<(String, Vec<u64>)> {
            let rows = read_rows(&message, (10, 2), name, None).expect("a sound block");
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
            let message = newer(order, 7).expect("a message");
            assert_eq!(Block::read(&message, (10, order.len() as u32)).err().as_deref(), Some(why));
        }
        let message = newer(&[1, 0], 1 << 32).expect("a message");
        let block = Block::read(&message, (10, 2)).expect("it adds up");
        assert!(matches!(block.event(0), Err(Refused::OutOfRange(10, table)) if table == "mark"));
    }
}
