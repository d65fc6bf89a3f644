//! Looking at blocks for the timeline: by the columns that tell who ran when, not event by event.

use crate::scan::{Room, on_all_cores};
use crate::strip::{Cell, Look, Part, column_of};
use crate::work::PIECE;
use hv_defs::config::Clock;
use hv_defs::event::{Kind, PoolOp};
use traces::{BlockInfo, Error, Reader, Tables};

/// An exit or an entry.
struct Turn {
    place: u32,
    /// Whether it is an entry, and whether that failed.
    entry: Option<bool>,
    level: usize,
    vcpu: u16,
    at: u64,
}

/// Looks at blocks, as many of the first ones as a piece of work allows. One that cannot be read has nothing to tell:
/// reading it in the list says why.
pub(crate) fn look(reader: &Reader, look: &Look) -> Vec<Part> {
    let done = on_all_cores(look.blocks.len(), PIECE, |item, room| block(reader, look, look.blocks[item], room));
    let cells = done.into_iter().map(|cells| cells.and_then(Result::ok).unwrap_or_default());
    look.blocks.iter().copied().zip(cells).collect()
}

fn block(reader: &Reader, look: &Look, number: usize, room: &mut Room) -> Result<Vec<(u16, Cell)>, Error> {
    let Some(info) = reader.blocks().get(number).copied() else { return Ok(Vec::new()) };
    let tables = reader.tables(number)?;
    let mut cells = Cells::new(info, look.columns);
    let instructions = reader.header().clock() == Clock::Instructions;
    tables.order_into(&mut room.order);
    let mut from = 0;
    for (end, at) in &room.order.stamps {
        cells.spread(from..*end, |cell, events| {
            cell.seen += events;
            cell.counted += events;
            // Where time stands still at L0, the events count that are neither an exit nor an entry: see `who_ran`.
            if instructions {
                cell.lane(at.vcpu).into_iter().for_each(|lane| lane[0] += events);
            }
        });
        from = *end;
    }
    who_ran(&mut cells, &turns(&tables, info, room)?, instructions);
    for kind in [Kind::Flush, Kind::Mark, Kind::Lost] {
        if tables.rows(kind) > 0 {
            tables.places_into(kind, &mut room.places);
            for &place in &room.places {
                let Some(cell) = cells.at(place) else { continue };
                match kind {
                    Kind::Flush => cell.flushes += 1,
                    Kind::Mark => cell.marks += 1,
                    _ => cell.bad += 1,
                }
            }
        }
    }
    if tables.rows(Kind::Pool) > 0 {
        tables.cells_into(Kind::Pool, &["op"], &mut room.rows)?;
        tables.places_into(Kind::Pool, &mut room.places);
        let ops = room.rows.column("op").into_iter().flatten();
        for (&place, op) in room.places.iter().zip(ops) {
            if op == PoolOp::Miss as u64 || op == PoolOp::Recycle as u64 {
                cells.at(place).into_iter().for_each(|cell| cell.misses += 1);
            }
        }
    }
    Ok(cells.cells)
}

/// The exits and entries of a block, in order.
fn turns(tables: &Tables<'_>, info: BlockInfo, room: &mut Room) -> Result<Vec<Turn>, Error> {
    let mut turns = Vec::with_capacity((tables.rows(Kind::Exit) + tables.rows(Kind::Entry)) as usize);
    let rows = &mut room.rows;
    for (kind, columns) in [(Kind::Exit, &["level"][..]), (Kind::Entry, &["level", "failed"])] {
        if tables.rows(kind) == 0 {
            continue;
        }
        tables.columns_into(kind, columns, rows)?;
        let (Some(levels), failed) = (rows.column("level"), rows.column("failed")) else { continue };
        let whens = rows.event.iter().zip(&rows.instruction).zip(rows.vcpu.iter().zip(levels));
        turns.extend(whens.enumerate().map(|(row, ((event, at), (vcpu, level)))| Turn {
            place: (event - info.first) as u32,
            entry: (kind == Kind::Entry).then(|| failed.is_some_and(|failed| failed.at(row) != 0)),
            level: level.min(3) as usize,
            vcpu: vcpu as u16,
            at,
        }));
    }
    turns.sort_unstable_by_key(|turn| turn.place);
    Ok(turns)
}

/// What a vCPU does: runs at a level, or is with L0, since when.
type Running = Option<(u64, usize)>;

/// Adds up who ran how long. `instructions` says that the clock counts them, so that it stands still at L0.
fn who_ran(cells: &mut Cells, turns: &[Turn], instructions: bool) {
    let mut running: Vec<Running> = Vec::new();
    for turn in turns {
        let vcpu = usize::from(turn.vcpu);
        if vcpu >= running.len() {
            running.resize(vcpu + 1, None);
        }
        let Some(cell) = cells.at(turn.place) else { continue };
        if let Some(lane) = cell.lane(turn.vcpu) {
            lane[0] = lane[0].saturating_sub(u64::from(instructions));
            match (turn.entry, running[vcpu]) {
                // What ran, ran: at least one, so that a column with nothing else shows its level.
                (None, Some((since, 1..))) => lane[turn.level] += turn.at.saturating_sub(since).max(1),
                (None, _) => lane[turn.level] += 1,
                (Some(_), Some((since, 0))) if !instructions => {
                    lane[0] = lane[0].saturating_add(turn.at.saturating_sub(since));
                }
                _ => {}
            }
        }
        match turn.entry {
            None => cell.exits += 1,
            Some(failed) => cell.bad += u64::from(failed),
        }
        running[vcpu] = match turn.entry {
            None => Some((turn.at, 0)),
            Some(false) => Some((turn.at, turn.level)),
            Some(true) => running[vcpu],
        };
    }
    // A guest that was entered and not left counts as having run.
    for (vcpu, of) in running.iter().enumerate() {
        if let (Some((_, level @ 1..)), Some((_, cell))) = (of, cells.cells.last_mut()) {
            cell.lane(vcpu as u16).into_iter().for_each(|lane| lane[*level] += 1);
        }
    }
}

/// The columns that a block's events go to.
struct Cells {
    first: u64,
    columns: Option<((u64, u64), u16)>,
    /// By column, rising.
    cells: Vec<(u16, Cell)>,
}

impl Cells {
    fn new(info: BlockInfo, columns: Option<((u64, u64), u16)>) -> Self {
        let (from, to) = (info.first, info.first + u64::from(info.events));
        let Some((window, count)) = columns else {
            return Self { first: from, columns, cells: vec![(0, Cell::of((from, to)))] };
        };
        let (from, to) = (from.max(window.0), to.min(window.1));
        let of = |event| column_of(window, count, event);
        let range = if from < to { of(from).zip(of(to - 1)) } else { None };
        let cell = |column| (column, Cell::of(crate::strip::range(window, count, column)));
        let cells = range.map_or(Vec::new(), |(first, last)| (first..=last).map(cell).collect());
        Self { first: info.first, columns, cells }
    }

    /// The column of an event by its place in the block; `None` outside of the window.
    fn at(&mut self, place: u32) -> Option<&mut Cell> {
        let Some((window, count)) = self.columns else { return self.cells.first_mut().map(|(_, cell)| cell) };
        let column = column_of(window, count, self.first + u64::from(place))?;
        let first = self.cells.first()?.0;
        self.cells.get_mut(usize::from(column.checked_sub(first)?)).map(|(_, cell)| cell)
    }

    /// Shows each column that has events of a range of places, with how many.
    fn spread(&mut self, places: std::ops::Range<u32>, mut see: impl FnMut(&mut Cell, u64)) {
        if self.columns.is_none() {
            self.cells.iter_mut().for_each(|(_, cell)| see(cell, u64::from(places.end - places.start)));
            return;
        }
        let (from, to) = (self.first + u64::from(places.start), self.first + u64::from(places.end));
        let begin = self.cells.partition_point(|(_, cell)| cell.events.1 <= from);
        for (_, cell) in self.cells[begin..].iter_mut().take_while(|(_, cell)| cell.events.0 < to) {
            let events = to.min(cell.events.1).saturating_sub(from.max(cell.events.0));
            if events > 0 {
                see(cell, events);
            }
        }
    }
}
