//! The events of a recording as L0 meets them, decoded on a thread ahead: a stretch after the other, each with all that is
//! between its entries. What the thread makes is decided by the recording alone.

use hv_defs::event::{Kind, Stamp, VmcsAccess, What};
use hv_defs::fields::Form;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use traces::{Error, Order, Reader, Rows};

/// An access to a VMCS, as it is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// What [`word`] makes of who did what to which field of which VMCS.
    pub(super) what: u64,
    pub(super) address: u64,
    pub(super) old: u64,
    pub(super) value: u64,
}

/// Who did what to which field of which VMCS, in one number.
#[inline(always)]
pub(super) const fn word(access: &VmcsAccess) -> u64 {
    (access.actor as u64) << 56 | (access.which as u64) << 48 | (access.op as u64) << 40 | access.field.0 as u64
}

/// What no [`word`] is: of numbers that are out of range.
const NO_WORD: u64 = u64::MAX;

/// The events of one kind, in order.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Columns of the kind.
    width: usize,
    numbers: Vec<u64>,
    /// Row by row.
    cells: Vec<u64>,
}

impl Table {
    /// The number of a row's event; `None` behind the last.
    #[inline]
    pub(super) fn number(&self, row: usize) -> Option<u64> {
        self.numbers.get(row).copied()
    }

    /// The columns of a row that is there.
    #[inline]
    pub(super) fn cells(&self, row: usize) -> &[u64] {
        &self.cells[row * self.width..(row + 1) * self.width]
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.cells.clear();
    }

    /// Puts the columns of those rows in place whose numbers are there already.
    fn fill(&mut self, kind: Kind, rows: &Rows) {
        self.width = kind.columns().len();
        let from = self.cells.len();
        self.cells.resize(self.numbers.len() * self.width, 0);
        let mut wide = [0; TILE];
        for (tile, cells) in self.cells[from..].chunks_mut(self.width * TILE).enumerate() {
            let wide = &mut wide[..cells.len() / self.width];
            for (at, column) in rows.columns.iter().take(self.width).enumerate() {
                column.values.widen(tile * TILE, wide);
                cells.chunks_exact_mut(self.width).zip(&*wide).for_each(|(row, number)| row[at] = *number);
            }
        }
    }

    fn split(&mut self, number: u64, rest: &mut Self) {
        let row = self.numbers.partition_point(|other| *other < number);
        rest.width = self.width;
        rest.numbers.extend(self.numbers.drain(row..));
        rest.cells.extend(self.cells.drain(row * self.width..));
    }
}

/// Some events of a recording: from an entry, or the beginning, to where another entry is next, or the end.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The number of its first event.
    pub(super) first: u64,
    /// The kind of each event.
    pub(super) kinds: Vec<Option<Kind>>,
    /// Of each run of events that share a stamp, the number behind its last, and the stamp.
    pub(super) stamps: Vec<(u64, Stamp)>,
    /// All that is of [`Kind::Vmcs`].
    pub(super) accesses: Vec<Access>,
    /// All else, by the number of its kind.
    pub(super) tables: [Table; Kind::ALL.len()],
    /// Of those the ones with a text, by their numbers.
    pub(super) texts: Vec<(u64, What)>,
}

impl Stretch {
    /// The number behind its last event.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.first + self.kinds.len() as u64
    }

    /// The events of a kind.
    #[inline(always)]
    pub(super) fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// The stamp of the event of that number, which is not far behind the beginning of a run of stamps; `None` where it is
    /// not in here.
    #[inline]
    pub(super) fn stamp(&self, run: usize, number: u64) -> Option<Stamp> {
        self.stamps.get(run..)?.iter().find(|(end, _)| *end > number).map(|(_, at)| *at)
    }

    /// The event of that number, which has a text.
    pub(super) fn with_text(&self, number: u64) -> Option<&What> {
        self.texts.iter().find(|(known, _)| *known == number).map(|(_, what)| what)
    }

    fn clear(&mut self) {
        self.kinds.clear();
        self.stamps.clear();
        self.accesses.clear();
        self.tables.iter_mut().for_each(Table::clear);
        self.texts.clear();
    }

    /// Gives what comes from the event of that number on to another, which is empty.
    fn split(&mut self, number: u64, rest: &mut Self) {
        rest.first = number;
        rest.kinds.extend(self.kinds.drain((number - self.first) as usize..));
        let run = self.stamps.partition_point(|(end, _)| *end <= number);
        rest.stamps.extend(&self.stamps[run..]);
        let accesses = rest.kinds.iter().filter(|kind| **kind == Some(Kind::Vmcs)).count();
        let row = self.accesses.len() - accesses;
        rest.accesses.extend(self.accesses.drain(row..));
        self.tables.iter_mut().zip(&mut rest.tables).for_each(|(table, rest)| table.split(number, rest));
        let row = self.texts.partition_point(|(other, _)| *other < number);
        rest.texts.extend(self.texts.drain(row..));
    }
}

/// Rows that are looked at together, so that they stay near the CPU.
const TILE: usize = 256;

/// Puts `count` accesses of a block behind others.
fn append(accesses: &mut Vec<Access>, rows: &Rows, count: usize) {
    let Some(columns) = rows.columns.first_chunk::<7>() else { return };
    let mut wide = [[0; TILE]; 7];
    accesses.reserve(count);
    for from in (0..count).step_by(TILE) {
        let some = TILE.min(count - from);
        wide.iter_mut().zip(columns).for_each(|(wide, column)| column.values.widen(from, &mut wide[..some]));
        let [actor, which, address, op, field, old, value] = &wide;
        accesses.extend((0..some).map(|row| {
            let small = (actor[row] | which[row] | op[row]) < 1 << 8 && field[row] < 1 << 32;
            let what = actor[row] << 56 | which[row] << 48 | op[row] << 40 | field[row];
            Access { what: if small { what } else { NO_WORD }, address: address[row], old: old[row], value: value[row] }
        }));
    }
}

/// Decodes blocks into stretches.
struct Decoder<'a> {
    reader: &'a Reader,
    order: Order,
    rows: Rows,
}

impl Decoder<'_> {
    /// Puts a block's events behind those of a stretch. Returns whether all are of kinds that are known.
    fn append(&mut self, block: usize, to: &mut Stretch) -> Result<bool, Error> {
        let Self { reader, order, rows } = self;
        reader.block_order_into(block, order)?;
        let accesses = to.accesses.len();
        let (mut counts, mut newer) = ([0; Kind::ALL.len()], false);
        for (number, kind) in (order.first..).zip(&order.kinds) {
            match *kind {
                Some(Kind::Vmcs) => counts[Kind::Vmcs as usize] += 1,
                Some(kind) => {
                    counts[kind as usize] += 1;
                    to.tables[kind as usize].numbers.push(number);
                }
                None => newer = true,
            }
        }
        to.kinds.extend(&order.kinds);
        to.stamps.extend(order.stamps.iter().map(|(end, at)| (order.first + u64::from(*end), *at)));
        for &kind in Kind::ALL {
            let count = counts[kind as usize];
            if count == 0 {
                continue;
            }
            reader.block_cells_into(block, kind, rows)?;
            if kind == Kind::Vmcs {
                append(&mut to.accesses, rows, count);
            } else {
                let table = &mut to.tables[kind as usize];
                table.fill(kind, rows);
                texts(kind, rows, &table.numbers[table.numbers.len() - count..], &mut to.texts);
            }
        }
        to.texts.sort_by_key(|(number, _)| *number);
        Ok(!newer && to.accesses.len() - accesses == counts[Kind::Vmcs as usize])
    }
}

/// Keeps the events that have texts.
fn texts(kind: Kind, rows: &Rows, numbers: &[u64], kept: &mut Vec<(u64, What)>) {
    let Some(at) = kind.columns().iter().position(|column| column.form == Form::Text) else { return };
    let Some(column) = rows.columns.get(at) else { return };
    for (row, _) in column.values.iter().enumerate().filter(|(_, number)| *number != 0) {
        let cells: Vec<u64> = rows.columns.iter().map(|column| column.values.at(row)).collect();
        kept.extend(What::from_row(kind, &cells, &rows.texts).map(|what| (numbers[row], what)));
    }
}

/// Decodes a recording and sends it off, until nobody wants more or a block cannot be decoded: who waits for the next stretch
/// sees that it does not come. `spent` gives back what was used.
pub(super) fn decode(reader: &Reader, filled: &SyncSender<Stretch>, spent: &Receiver<Stretch>) {
    let mut decoder = Decoder { reader, order: Order::default(), rows: Rows::default() };
    let mut stretch = Stretch::default();
    let blocks = reader.blocks().len();
    for block in 0..blocks {
        if !decoder.append(block, &mut stretch).unwrap_or(false) {
            return;
        }
        let entries = &stretch.table(Kind::Entry).numbers;
        let last = entries.last().copied().filter(|last| *last > stretch.first);
        let mut rest = spent.try_recv().unwrap_or_default();
        rest.clear();
        match last {
            _ if block + 1 == blocks => {}
            Some(last) => stretch.split(last, &mut rest),
            // Nothing was entered: what happened goes on.
            None => continue,
        }
        if filled.send(core::mem::replace(&mut stretch, rest)).is_err() {
            return;
        }
    }
}

/// The other end of [`decode`].
#[derive(Debug)]
pub(super) struct Ahead {
    /// What was decoded.
    pub(super) filled: Receiver<Stretch>,
    /// Takes back what was used.
    pub(super) spent: Sender<Stretch>,
}

impl Ahead {
    /// The next stretch in place of `now`; `None` when there is none, or it cannot be read.
    pub(super) fn next(&self, now: &mut Stretch) -> Option<()> {
        let next = self.filled.recv().ok()?;
        // Who decodes may have come to the end.
        let _ = self.spent.send(core::mem::replace(now, next));
        Some(())
    }
}
