//! A stretch of events as folds take them: VMCS accesses, which are most of all events, as columns; the rest one by one.
//!
//! A block of a trace becomes a chunk with no event made of an access, and so do events in memory: whoever folds chunks
//! finds the same in both.

use crate::Error;
use hv_defs::event::{Actor, Event, Kind, Stamp, VmcsAccess, VmcsOp, What, Which};
use hv_defs::vmcs::{COUNT, VmcsField};
use traces::{Column, Order, Reader, Rows, Values};

/// Kinds that no fold asks for: only how many there are, and their stamps.
const COUNTED_ONLY: [Kind; 3] = [Kind::Digest, Kind::Registers, Kind::Answer];

/// Events in memory that are put together in a chunk.
const EVENTS: u32 = 1 << 12;

/// A stretch of events that follow one another.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The number of its first event.
    pub(crate) first: u64,
    /// Of each run of events that share a stamp, the place in the chunk behind its last, and the stamp.
    pub(crate) stamps: Vec<(u32, Stamp)>,
    /// How many there are of each kind, in the order of [`Kind::ALL`].
    pub(crate) counts: [u64; Kind::ALL.len()],
    /// What is neither a VMCS access nor of a kind that no fold asks for, in order.
    pub(crate) others: Vec<Other>,
    len: u32,
    /// The places of all events but VMCS accesses.
    gaps: Vec<u32>,
    /// The VMCS accesses, a row each.
    accesses: Rows,
}

/// An event that is no VMCS access.
#[derive(Debug)]
pub(crate) struct Other {
    /// Its place in the chunk.
    pub(crate) place: u32,
    /// How many VMCS accesses are before it in the chunk.
    pub(crate) row: u32,
    pub(crate) event: Event,
}

/// The columns of a VMCS access, by their place in [`Kind::columns`].
const ACTOR: usize = 0;
const WHICH: usize = 1;
const ADDRESS: usize = 2;
const OP: usize = 3;
const FIELD: usize = 4;
const OLD: usize = 5;
const VALUE: usize = 6;

impl Chunk {
    /// How many events it has.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// How many VMCS accesses it has.
    pub(crate) fn rows(&self) -> u32 {
        self.len - self.gaps.len() as u32
    }

    /// Empties it. The next event is number `first`.
    pub(crate) fn clear(&mut self, first: u64) {
        (self.first, self.len) = (first, 0);
        self.stamps.clear();
        self.counts = Default::default();
        self.others.clear();
        self.gaps.clear();
        match self.accesses.columns.is_empty() {
            true => {
                let column = |name: &str| Column { name: name.into(), values: Values::U64(Vec::new()) };
                self.accesses.columns = Kind::Vmcs.columns().iter().map(|of| column(of.name)).collect();
            }
            false => self.accesses.columns.iter_mut().for_each(|column| match &mut column.values {
                Values::U64(list) => list.clear(),
                other => *other = Values::U64(Vec::new()),
            }),
        }
    }

    /// Adds an event. Returns whether the chunk has enough.
    pub(crate) fn push(&mut self, event: &Event) -> bool {
        let place = self.len;
        self.len += 1;
        match self.stamps.last_mut() {
            Some((end, at)) if *at == event.at => *end = self.len,
            _ => self.stamps.push((self.len, event.at)),
        }
        let kind = event.what.kind();
        self.counts[kind as usize] += 1;
        if let What::Vmcs(access) = &event.what {
            let VmcsAccess { actor, which, address, op, field, old, value } = *access;
            let row = [actor as u64, which as u64, address, op as u64, field.0.into(), old, value];
            for (column, cell) in self.accesses.columns.iter_mut().zip(row) {
                if let Values::U64(list) = &mut column.values {
                    list.push(cell);
                }
            }
        } else {
            let row = place - self.gaps.len() as u32;
            self.gaps.push(place);
            if !COUNTED_ONLY.contains(&kind) {
                self.others.push(Other { place, row, event: event.clone() });
            }
        }
        self.len >= EVENTS
    }

    /// The number of the event that is a row of the accesses.
    pub(crate) fn number_of(&self, row: u32) -> u64 {
        self.first + u64::from(self.place_of(row))
    }

    fn place_of(&self, row: u32) -> u32 {
        // As many accesses come before a gap as its place less the gaps before it.
        let (mut low, mut high) = (0, self.gaps.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.gaps[middle] - middle as u32 <= row {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        row + low as u32
    }

    /// The stamp of the event that is a row of the accesses.
    pub(crate) fn stamp_of(&self, row: u32) -> Stamp {
        let place = self.place_of(row);
        let at = self.stamps.partition_point(|(end, _)| *end <= place);
        self.stamps.get(at).map(|(_, stamp)| *stamp).unwrap_or_default()
    }

    /// The rows of the accesses by vCPU, into `spans`: of each stretch the row behind its last, and the vCPU.
    pub(crate) fn spans(&self, spans: &mut Vec<(u32, u16)>) {
        spans.clear();
        let mut gaps = 0;
        for (end, at) in &self.stamps {
            while self.gaps.get(gaps).is_some_and(|place| place < end) {
                gaps += 1;
            }
            let row = end - gaps as u32;
            match spans.last_mut() {
                Some((last, vcpu)) if *vcpu == at.vcpu || *last == row => *last = row,
                _ if row > 0 => spans.push((row, at.vcpu)),
                _ => {}
            }
        }
    }

    /// The field of a row of the accesses.
    pub(crate) fn field(&self, row: u32) -> VmcsField {
        VmcsField(self.accesses.columns[FIELD].values.at(row as usize) as u32)
    }

    /// The accesses from row `from` on: as many as a tile takes, and none behind the last. `room` is for what does not lie
    /// ready.
    pub(crate) fn tile<'a>(&'a self, from: u32, room: &'a mut Room) -> Tile<'a> {
        let len = (self.rows().saturating_sub(from) as usize).min(TILE);
        let (first, from, mut wide, mut narrow) = (from, from as usize, [0; TILE], [0; TILE]);
        let column = |column: usize| &self.accesses.columns[column].values;
        let Room { code, field, address, old, value } = room;
        bytes(column(ACTOR), from, &mut code[..len]);
        for (of, shift) in [(WHICH, 2), (OP, 5)] {
            bytes(column(of), from, &mut narrow[..len]);
            code[..len].iter_mut().zip(&narrow).for_each(|(code, part)| *code |= part << shift);
        }
        let index = |field: u64| VmcsField(field as u32).index().map_or(Tile::STRANGER, |index| index as u8);
        let fields = numbers(column(FIELD), from, &mut wide[..len]);
        field.iter_mut().zip(fields).for_each(|(place, field)| *place = index(*field));
        Tile {
            first,
            code: &code[..len],
            field: &field[..len],
            address: numbers(column(ADDRESS), from, &mut address[..len]),
            old: numbers(column(OLD), from, &mut old[..len]),
            value: numbers(column(VALUE), from, &mut value[..len]),
        }
    }
}

/// The numbers of a column from a row on, as many as `room` has place for.
fn numbers<'a>(values: &'a Values, from: usize, room: &'a mut [u64]) -> &'a [u64] {
    match values {
        Values::U64(list) => &list[from..from + room.len()],
        other => {
            other.widen(from, room);
            room
        }
    }
}

/// The numbers of a column that are below 256, from a row on.
fn bytes(values: &Values, from: usize, out: &mut [u8]) {
    match values {
        Values::U8(list) => out.copy_from_slice(&list[from..from + out.len()]),
        Values::Same { value, .. } => out.fill(*value as u8),
        other => {
            let mut wide = [0; TILE];
            other.widen(from, &mut wide[..out.len()]);
            out.iter_mut().zip(wide).for_each(|(out, number)| *out = number as u8);
        }
    }
}

/// The largest number of a column.
fn largest(values: &Values) -> u64 {
    match values {
        Values::Same { value, .. } => *value,
        Values::U8(list) => list.iter().fold(0, |most, number| most.max(*number)).into(),
        Values::U16(list) => list.iter().fold(0, |most, number| most.max(*number)).into(),
        Values::U32(list) => list.iter().fold(0, |most, number| most.max(*number)).into(),
        other => other.iter().fold(0, u64::max),
    }
}

/// Rows that are worked on together: so few that the first-level cache holds them.
pub(crate) const TILE: usize = 256;

/// Some VMCS accesses that follow one another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    /// The row of the first.
    pub(crate) first: u32,
    /// Who did what to which VMCS: see [`code`].
    pub(crate) code: &'a [u8],
    /// The fields' rows in the table of fields; [`Tile::STRANGER`] for those that the SDM does not define.
    pub(crate) field: &'a [u8],
    pub(crate) address: &'a [u64],
    pub(crate) old: &'a [u64],
    pub(crate) value: &'a [u64],
}

impl Tile<'_> {
    /// The field is none of the SDM's.
    pub(crate) const STRANGER: u8 = u8::MAX;
}

/// Room for a tile.
#[derive(Debug)]
pub(crate) struct Room {
    code: [u8; TILE],
    field: [u8; TILE],
    address: [u64; TILE],
    old: [u64; TILE],
    value: [u64; TILE],
}

impl Default for Room {
    fn default() -> Self {
        let zeros = [0; TILE];
        Self { code: [0; TILE], field: [0; TILE], address: zeros, old: zeros, value: zeros }
    }
}

/// Who did what to which VMCS, in a byte.
pub(crate) const fn code(actor: Actor, which: Which, op: VmcsOp) -> u8 {
    actor as u8 | (which as u8) << 2 | (op as u8) << 5
}

/// What a byte of [`code`] stands for; `None` for one that it never gives.
pub(crate) fn decode(code: u8) -> Option<(Actor, Which, VmcsOp)> {
    Some((Actor::from_number(code & 3)?, Which::from_number(code >> 2 & 7)?, VmcsOp::from_number(code >> 5)?))
}

const _: () = assert!(Actor::ALL.len() <= 4 && Which::ALL.len() <= 8 && VmcsOp::ALL.len() <= 8);
const _: () = assert!(COUNT < Tile::STRANGER as usize);

/// Makes chunks of a trace's blocks, one after another, with the memory of the one before.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    chunk: Chunk,
    order: Order,
    rows: Rows,
    tables: Vec<Table>,
}

/// The rows of one kind, one after another.
#[derive(Debug, Default)]
struct Table {
    cells: Vec<u64>,
    width: usize,
    next: usize,
    texts: hv_defs::fields::Texts,
}

impl Chunks {
    /// Shows the events of a block: as one chunk, or as several where there are events between that this program does
    /// not know.
    pub(crate) fn of_block(&mut self, reader: &Reader, block: usize, see: &mut dyn FnMut(&Chunk)) -> Result<(), Error> {
        if self.read(reader, block)? {
            see(&self.chunk);
            return Ok(());
        }
        // Numbers are out of range: of a newer version, which is passed over, or for no good reason.
        let chunk = &mut self.chunk;
        let info = reader.blocks()[block];
        chunk.clear(info.first);
        for (number, event) in (info.first..info.first + u64::from(info.events)).zip(reader.events(info.first)) {
            match event {
                Ok(event) => _ = chunk.push(&event),
                Err(traces::Error::NewerKind { .. }) => {
                    see(chunk);
                    chunk.clear(number + 1);
                }
                Err(error) => return Err(error.into()),
            }
        }
        see(chunk);
        Ok(())
    }

    /// Makes a chunk of a block. Returns whether it could be done with what is known.
    fn read(&mut self, reader: &Reader, block: usize) -> Result<bool, Error> {
        let Self { chunk, order, rows, tables } = self;
        reader.block_order_into(block, order)?;
        let events = order.kinds.len();
        // Room for one more, so that each place can be put down before it is known whether it is kept.
        chunk.gaps.resize(events + 1, 0);
        let mut gaps = 0;
        for (place, kind) in (0..).zip(&order.kinds) {
            chunk.gaps[gaps] = place;
            gaps += usize::from(*kind != Some(Kind::Vmcs));
        }
        chunk.gaps.truncate(gaps);
        chunk.counts = Default::default();
        chunk.counts[Kind::Vmcs as usize] = (events - gaps) as u64;
        for place in &chunk.gaps {
            let Some(kind) = order.kinds[*place as usize] else { return Ok(false) };
            chunk.counts[kind as usize] += 1;
        }
        tables.resize_with(Kind::ALL.len(), Table::default);
        for (&kind, table) in Kind::ALL.iter().zip(&mut *tables) {
            if kind == Kind::Vmcs || COUNTED_ONLY.contains(&kind) || chunk.counts[kind as usize] == 0 {
                continue;
            }
            reader.block_cells_into(block, kind, rows)?;
            table.width = rows.cells_into(&mut table.cells);
            table.next = 0;
            table.texts.clone_from(&rows.texts);
        }
        reader.block_cells_into(block, Kind::Vmcs, &mut chunk.accesses)?;
        let below = |column: usize, end: usize| {
            let column = chunk.accesses.columns.get(column);
            column.is_none_or(|column| largest(&column.values) < end as u64)
        };
        let known = [(ACTOR, Actor::ALL.len()), (WHICH, Which::ALL.len()), (OP, VmcsOp::ALL.len()), (FIELD, 1 << 32)];
        if !known.into_iter().all(|(column, end)| below(column, end)) {
            return Ok(false);
        }
        (chunk.first, chunk.len) = (order.first, events as u32);
        chunk.stamps.clone_from(&order.stamps);
        chunk.others.clear();
        let mut run = 0;
        for (gap, &place) in (0..).zip(&chunk.gaps) {
            let Some(kind) = order.kinds[place as usize] else { continue };
            if COUNTED_ONLY.contains(&kind) {
                continue;
            }
            let row = place - gap;
            while chunk.stamps[run].0 <= place {
                run += 1;
            }
            let table = &mut tables[kind as usize];
            let cells = &table.cells[table.next..table.next + table.width];
            table.next += table.width;
            let Some(what) = What::from_row(kind, cells, &table.texts) else { return Ok(false) };
            chunk.others.push(Other { place, row, event: Event { at: chunk.stamps[run].1, what } });
        }
        Ok(true)
    }

    /// Shows events in memory as chunks.
    pub(crate) fn of_events(&mut self, events: &[Event], see: &mut dyn FnMut(&Chunk)) {
        self.chunk.clear(0);
        for (number, event) in (1..).zip(events) {
            if self.chunk.push(event) {
                see(&self.chunk);
                self.chunk.clear(number);
            }
        }
        see(&self.chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_where_they_are_looked_for() {
        let names: Vec<&str> = Kind::Vmcs.columns().iter().map(|column| column.name).collect();
        let of = [ACTOR, WHICH, ADDRESS, OP, FIELD, OLD, VALUE].map(|column| names[column]);
        assert_eq!(of, ["actor", "which", "address", "op", "field", "old", "value"]);
        assert_eq!(names.len(), of.len());
    }

    #[test]
    fn codes_are_undone() {
        for (&actor, &which) in Actor::ALL.iter().flat_map(|actor| Which::ALL.iter().map(move |which| (actor, which))) {
            for &op in VmcsOp::ALL {
                assert_eq!(decode(code(actor, which, op)), Some((actor, which, op)));
            }
        }
    }
}
