//! The events of a recording as L0 meets them, decoded on a thread ahead: a stretch after the other, each with all that is
//! between its entries. What the thread makes is decided by the recording alone.

use hv_defs::event::{Kind, Stamp, VmcsAccess, What};
use hv_defs::fields::Form;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use traces::{Error, Reader, Rows, Values};

/// An access to a VMCS, as it is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// The event's number.
    pub(super) number: u64,
    /// When and where.
    pub(super) at: Stamp,
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
    stamps: Vec<Stamp>,
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

    /// The stamp of a row that is there.
    #[inline]
    pub(super) fn stamp(&self, row: usize) -> Stamp {
        self.stamps[row]
    }

    fn clear(&mut self) {
        (self.width, _) = (0, self.numbers.clear());
        self.stamps.clear();
        self.cells.clear();
    }

    fn append(&mut self, kind: Kind, rows: &Rows) {
        let (from, count) = (self.numbers.len(), rows.len());
        self.width = kind.columns().len();
        self.numbers.extend(&rows.event);
        let cpus = rows.vcpu.iter().zip(&rows.pcpu);
        let stamps = rows.instruction.iter().zip(cpus);
        // CPUs are below 2^16, as the reader has seen.
        self.stamps.extend(stamps.map(|(instruction, (vcpu, pcpu))| Stamp {
            instruction,
            vcpu: vcpu as u16,
            pcpu: pcpu as u16,
        }));
        self.cells.resize((from + count) * self.width, 0);
        for (at, column) in rows.columns.iter().take(self.width).enumerate() {
            let cells = self.cells[from * self.width..].iter_mut().skip(at).step_by(self.width);
            cells.zip(&column.values).for_each(|(cell, number)| *cell = number);
        }
    }

    fn split(&mut self, number: u64, rest: &mut Self) {
        let row = self.numbers.partition_point(|other| *other < number);
        rest.width = self.width;
        rest.numbers.extend(self.numbers.drain(row..));
        rest.stamps.extend(self.stamps.drain(row..));
        rest.cells.extend(self.cells.drain(row * self.width..));
    }
}

/// Some events of a recording: from an entry, or the beginning, to where another entry is next, or the end.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The number behind its last event.
    pub(super) end: u64,
    /// All that is of [`Kind::Vmcs`].
    pub(super) accesses: Vec<Access>,
    /// All else, by the number of its kind.
    pub(super) tables: [Table; Kind::ALL.len()],
    /// Of those the ones with a text, by their numbers.
    pub(super) texts: Vec<(u64, What)>,
}

impl Stretch {
    /// The events of a kind.
    #[inline(always)]
    pub(super) fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// The event of that number, which has a text.
    pub(super) fn with_text(&self, number: u64) -> Option<&What> {
        self.texts.iter().find(|(known, _)| *known == number).map(|(_, what)| what)
    }

    fn clear(&mut self) {
        self.end = 0;
        self.accesses.clear();
        self.tables.iter_mut().for_each(Table::clear);
        self.texts.clear();
    }

    /// Gives what comes from the event of that number on to another.
    fn split(&mut self, number: u64, rest: &mut Self) {
        let row = self.accesses.partition_point(|access| access.number < number);
        rest.accesses.extend(self.accesses.drain(row..));
        self.tables.iter_mut().zip(&mut rest.tables).for_each(|(table, rest)| table.split(number, rest));
        let row = self.texts.partition_point(|(other, _)| *other < number);
        rest.texts.extend(self.texts.drain(row..));
        (self.end, rest.end) = (number, self.end);
    }
}

/// Rows that are looked at together, so that they stay near the CPU.
const TILE: usize = 256;

/// Puts the accesses of a block behind others.
fn append(accesses: &mut Vec<Access>, rows: &Rows) {
    let columns: [&Values; 7] = match rows.columns.get(..7) {
        Some(columns) => core::array::from_fn(|at| &columns[at].values),
        None => return,
    };
    let mut wide = [[0; TILE]; 11];
    for from in (0..rows.len()).step_by(TILE) {
        let count = TILE.min(rows.len() - from);
        let all = [&rows.event, &rows.instruction, &rows.vcpu, &rows.pcpu].into_iter().chain(columns);
        wide.iter_mut().zip(all).for_each(|(wide, values)| values.widen(from, &mut wide[..count]));
        let [event, instruction, vcpu, pcpu, actor, which, address, op, field, old, value] = &wide;
        accesses.extend((0..count).map(|row| {
            let small = (actor[row] | which[row] | op[row]) < 1 << 8 && field[row] < 1 << 32;
            let what = actor[row] << 56 | which[row] << 48 | op[row] << 40 | field[row];
            Access {
                number: event[row],
                at: Stamp { instruction: instruction[row], vcpu: vcpu[row] as u16, pcpu: pcpu[row] as u16 },
                what: if small { what } else { NO_WORD },
                address: address[row],
                old: old[row],
                value: value[row],
            }
        }));
    }
}

/// Decodes blocks into stretches.
struct Decoder<'a> {
    reader: &'a Reader,
    rows: Rows,
}

impl Decoder<'_> {
    /// Puts a block's events behind those of a stretch. Returns whether it has no others than that.
    fn append(&mut self, block: usize, to: &mut Stretch) -> Result<bool, Error> {
        let info = self.reader.blocks()[block];
        let mut left = info.events as usize;
        for &kind in Kind::ALL {
            if self.reader.rows_in(block, kind) == Some(0) {
                continue;
            }
            let Self { reader, rows } = self;
            reader.block_columns_into(block, kind, None, rows)?;
            left = left.saturating_sub(rows.len());
            if kind == Kind::Vmcs {
                append(&mut to.accesses, rows);
            } else if !rows.is_empty() {
                to.tables[kind as usize].append(kind, rows);
                texts(kind, rows, &mut to.texts);
            }
        }
        to.texts.sort_by_key(|(number, _)| *number);
        to.end = info.first + u64::from(info.events);
        Ok(left == 0)
    }
}

/// Keeps the events that have texts.
fn texts(kind: Kind, rows: &Rows, kept: &mut Vec<(u64, What)>) {
    let Some(at) = kind.columns().iter().position(|column| column.form == Form::Text) else { return };
    let Some(column) = rows.columns.get(at) else { return };
    for (row, _) in column.values.iter().enumerate().filter(|(_, number)| *number != 0) {
        let cells: Vec<u64> = rows.columns.iter().map(|column| column.values.at(row)).collect();
        kept.extend(What::from_row(kind, &cells, &rows.texts).map(|what| (rows.event.at(row), what)));
    }
}

/// Decodes a recording and sends it off, until nobody wants more or a block cannot be decoded: who waits for the next stretch
/// sees that it does not come. `spent` gives back what was used.
pub(super) fn decode(reader: &Reader, filled: &SyncSender<Stretch>, spent: &Receiver<Stretch>) {
    let mut decoder = Decoder { reader, rows: Rows::default() };
    let mut stretch = Stretch::default();
    let (mut first, blocks) = (0, reader.blocks().len());
    for block in 0..blocks {
        if !decoder.append(block, &mut stretch).unwrap_or(false) {
            return;
        }
        let entries = &stretch.table(Kind::Entry).numbers;
        let last = entries.last().copied().filter(|last| *last > first);
        let mut rest = spent.try_recv().unwrap_or_default();
        rest.clear();
        match last {
            _ if block + 1 == blocks => {}
            Some(last) => stretch.split(last, &mut rest),
            // Nothing was entered: what happened goes on.
            None => continue,
        }
        first = stretch.end;
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
