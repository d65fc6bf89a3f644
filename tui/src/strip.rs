//! The timeline: a stretch of the trace in a number of columns, each with what its events did.
//!
//! Where columns are wide, each takes in whole blocks: what the index counts is there at once, what only events tell comes
//! block by block, a block of every column first, and is kept for every later stretch. Where they are narrow, the blocks
//! of the stretch are looked at, and each of their events goes to its column.

use crate::model::About;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The most vCPUs that are told apart.
pub(crate) const MAX_VCPUS: usize = 256;

/// What the events of a column did, or of a block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    /// Its first event, and the first of the next.
    pub(crate) events: (u64, u64),
    /// Events of which it is known what kind they are.
    pub(crate) counted: u64,
    /// Events that were looked at. What is told below of vCPUs, misses and failed entries is of these.
    pub(crate) seen: u64,
    /// For each vCPU, how much it ran at L0 to L3, as the trace's clock counts. Where that counts instructions, of which
    /// L0 takes none, L0's is a number of events.
    pub(crate) lanes: Vec<[u64; 4]>,
    /// Exits.
    pub(crate) exits: u64,
    /// Flushes.
    pub(crate) flushes: u64,
    /// Requests that the pool could not serve from what it had.
    pub(crate) misses: u64,
    /// Phase markers.
    pub(crate) marks: u64,
    /// Entries that failed, and events that say that others were lost.
    pub(crate) bad: u64,
}

impl Cell {
    /// Of no events yet.
    pub(crate) fn of(events: (u64, u64)) -> Self {
        Self { events, ..Self::default() }
    }

    /// The lane of a vCPU, if it is among those that are told apart.
    pub(crate) fn lane(&mut self, vcpu: u16) -> Option<&mut [u64; 4]> {
        let vcpu = usize::from(vcpu);
        if vcpu >= self.lanes.len() && vcpu < MAX_VCPUS {
            self.lanes.resize(vcpu + 1, [0; 4]);
        }
        self.lanes.get_mut(vcpu)
    }

    /// Adds what other events did.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.lanes.len() < other.lanes.len() {
            self.lanes.resize(other.lanes.len(), [0; 4]);
        }
        for (lane, more) in self.lanes.iter_mut().zip(&other.lanes) {
            lane.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        }
        self.counted += other.counted;
        self.seen += other.seen;
        self.exits += other.exits;
        self.flushes += other.flushes;
        self.misses += other.misses;
        self.marks += other.marks;
        self.bad += other.bad;
    }
}

/// What the index counts in each block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exits: Vec<u32>,
    pub(crate) flushes: Vec<u32>,
    pub(crate) marks: Vec<u32>,
    pub(crate) lost: Vec<u32>,
}

/// Column `column` of `columns` over the events `window.0..window.1`.
pub(crate) fn range(window: (u64, u64), columns: u16, column: u16) -> (u64, u64) {
    let length = u128::from(window.1 - window.0);
    let at = |column: u16| window.0 + (length * u128::from(column) / u128::from(columns.max(1))) as u64;
    (at(column), at(column + 1))
}

/// The column that an event falls into.
pub(crate) fn column_of(window: (u64, u64), columns: u16, event: u64) -> Option<u16> {
    if !(window.0..window.1).contains(&event) {
        return None;
    }
    let length = u128::from(window.1 - window.0);
    // The last column that begins at or before the event; among empty ones, that which has it.
    let at = (u128::from(event - window.0 + 1) * u128::from(columns)).div_ceil(length).saturating_sub(1);
    Some((at as u16).min(columns.saturating_sub(1)))
}

/// The timeline's stretch and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Strip {
    /// The events that it shows.
    pub(crate) window: (u64, u64),
    /// The window and the number of columns that the cells are of.
    pub(crate) asked: ((u64, u64), u16),
    /// The number of that question.
    pub(crate) id: u64,
    /// A cell a column, with what is known of it so far.
    pub(crate) cells: Vec<Cell>,
    /// What is known of blocks, whatever the stretch.
    known: Vec<Option<Arc<Cell>>>,
    /// Blocks that are still to be looked at, and how many of them make the first picture.
    left: VecDeque<usize>,
    urgent: usize,
    /// How many there were.
    wanted: usize,
    /// Whether events of a block go to more than a column or two, so that blocks are looked at event by event.
    narrow: bool,
    /// Cells that are being put together while those before are shown: see [`Strip::keep`].
    fresh: Option<Vec<Cell>>,
    keep: bool,
}

/// What is to be looked at: blocks, and the window and columns that their events go to, or none for whole blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    pub(crate) id: u64,
    pub(crate) blocks: Vec<usize>,
    pub(crate) columns: Option<((u64, u64), u16)>,
}

/// What came of a block: a cell a column.
pub(crate) type Part = (usize, Vec<(u16, Cell)>);

/// Blocks that are asked for at once, at most.
const AT_ONCE: usize = 256;

impl Strip {
    /// The timeline of a whole trace.
    pub(crate) fn new(about: &About) -> Self {
        Self { window: (0, about.len), ..Self::default() }
    }

    /// The next stretch is this one with more at its end: what is drawn stays until all of that was looked at.
    pub(crate) fn keep(&mut self) {
        self.keep = self.fresh.is_some() || self.left.is_empty();
    }

    /// Begins with a window and a number of columns, whose number is `id`. `near` is the block to begin with.
    pub(crate) fn ask(&mut self, about: &About, asked: ((u64, u64), u16), id: u64, near: usize) {
        let (window, columns) = asked;
        let keep = std::mem::take(&mut self.keep) && self.cells.len() == usize::from(columns);
        self.fresh = None;
        self.known.resize(about.firsts.len(), None);
        (self.window, self.asked, self.id) = (window, asked, id);
        let blocks = blocks_of(about, window);
        self.narrow = blocks.len() < usize::from(columns) * 2;
        self.left.clear();
        (self.urgent, self.wanted) = (0, 0);
        // Where nothing is drawn, nothing is looked at.
        if columns == 0 {
            self.cells.clear();
            return;
        }
        if self.narrow {
            let cells = (0..columns).map(|column| Cell::of(range(window, columns, column))).collect();
            if keep {
                self.fresh = Some(cells);
            } else {
                self.cells = cells;
            }
            let from = near.clamp(blocks.start, blocks.end.max(blocks.start + 1) - 1);
            self.left.extend((from..blocks.end).chain(blocks.start..from));
            self.urgent = self.left.len();
        } else {
            // A block of each column, from all over the window on, and then the others.
            let column = |block: usize| column_of(window, columns, middle(about, block, window));
            let middles = scattered(columns).filter_map(|column| {
                let (from, to) = range(window, columns, column);
                blocks_of(about, (from.midpoint(to), to)).next()
            });
            let mut seen = vec![false; blocks.len()];
            let mut covered = vec![false; usize::from(columns)];
            for block in blocks.clone().filter(|&block| self.known[block].is_some()) {
                column(block).into_iter().for_each(|column| covered[usize::from(column)] = true);
                seen[block - blocks.start] = true;
            }
            for block in middles.filter(|block| blocks.contains(block)) {
                let bare = column(block).is_some_and(|column| !covered[usize::from(column)]);
                if bare && !std::mem::replace(&mut seen[block - blocks.start], true) {
                    self.left.push_back(block);
                }
            }
            self.urgent = self.left.len();
            self.left.extend(blocks.clone().filter(|block| !seen[block - blocks.start]));
            self.put_together(about);
        }
        self.wanted = blocks.len();
    }

    /// Makes the columns anew of what is known of their blocks.
    fn put_together(&mut self, about: &About) {
        let (window, columns) = self.asked;
        self.cells = (0..columns).map(|column| Cell::of(range(window, columns, column))).collect();
        for block in blocks_of(about, window) {
            let Some(column) = column_of(window, columns, middle(about, block, window)) else { continue };
            let Some(cell) = self.cells.get_mut(usize::from(column)) else { continue };
            if let Some(known) = self.known.get(block).and_then(Option::as_ref) {
                cell.add(known);
            } else if let Some(counts) = &about.counts {
                let of = |list: &[u32]| u64::from(list.get(block).copied().unwrap_or(0));
                let (from, to) = block_range(about, block);
                cell.counted += to - from;
                cell.exits += of(&counts.exits);
                cell.flushes += of(&counts.flushes);
                cell.marks += of(&counts.marks);
                cell.bad += of(&counts.lost);
            }
        }
    }

    /// What to look at next; what only makes the picture finer is not `urgent`.
    pub(crate) fn look(&self, urgent: bool) -> Option<Look> {
        let most = if urgent { self.urgent } else { self.left.len() };
        let blocks: Vec<usize> = self.left.iter().copied().take(most.min(AT_ONCE)).collect();
        (!blocks.is_empty()).then(|| Look { id: self.id, blocks, columns: self.narrow.then_some(self.asked) })
    }

    /// Takes in what was seen. The parts are of the first blocks that were asked for.
    pub(crate) fn put(&mut self, about: &About, id: u64, whole: bool, parts: Vec<Part>) {
        let current = self.id == id && self.narrow != whole;
        let done = parts.len();
        for (block, cells) in parts {
            if whole {
                let mut sum = Cell::of(block_range(about, block));
                cells.iter().for_each(|(_, cell)| sum.add(cell));
                if let Some(place) = self.known.get_mut(block) {
                    *place = Some(Arc::new(sum));
                }
            } else if current {
                let sums = self.fresh.as_mut().unwrap_or(&mut self.cells);
                for (column, cell) in cells {
                    sums.get_mut(usize::from(column)).into_iter().for_each(|sum| sum.add(&cell));
                }
            }
        }
        if current {
            self.left.drain(..done.min(self.left.len()));
            self.urgent = self.urgent.saturating_sub(done);
            if whole {
                self.put_together(about);
            } else if self.left.is_empty() {
                self.cells = self.fresh.take().unwrap_or_else(|| std::mem::take(&mut self.cells));
            }
        }
    }

    /// How much of the stretch was looked at, in hundredths, while it is not all.
    pub(crate) fn progress(&self) -> Option<usize> {
        let done = self.wanted - self.left.len().min(self.wanted);
        (!self.left.is_empty() && self.fresh.is_none()).then(|| done * 100 / self.wanted.max(1))
    }

    /// The deepest level that any vCPU was seen to run at, of the blocks and columns that are known: 2 at least.
    pub(crate) fn deepest(&self) -> u8 {
        let third = self.cells.iter().any(|cell| cell.lanes.iter().any(|lane| lane[3] > 0));
        if third { 3 } else { 2 }
    }

    /// How many vCPUs were seen in this stretch.
    pub(crate) fn vcpus(&self) -> usize {
        self.cells.iter().map(|cell| cell.lanes.len()).max().unwrap_or(0)
    }
}

/// The events of a block.
fn block_range(about: &About, block: usize) -> (u64, u64) {
    let at = |block: usize| about.firsts.get(block).copied().unwrap_or(about.len);
    (at(block), at(block + 1))
}

/// The event in the middle of a block's part in a window, by which the block belongs to a column.
fn middle(about: &About, block: usize, window: (u64, u64)) -> u64 {
    let (from, to) = block_range(about, block);
    from.max(window.0).midpoint(to.min(window.1))
}

/// The blocks with events in a window.
fn blocks_of(about: &About, window: (u64, u64)) -> Range<usize> {
    if window.0 >= window.1 {
        return 0..0;
    }
    let from = about.firsts.partition_point(|&first| first <= window.0).saturating_sub(1);
    from..about.firsts.partition_point(|&first| first < window.1).max(from)
}

/// The numbers below `columns`, those first that cut what is left in halves.
fn scattered(columns: u16) -> impl Iterator<Item = u16> {
    let bits = columns.max(1).next_power_of_two().trailing_zeros();
    (0..1_u32 << bits)
        .map(move |at| if bits == 0 { 0 } else { at.reverse_bits() >> (32 - bits) })
        .filter(move |&at| at < u32::from(columns))
        .map(|at| at as u16)
}

/// The level that a lane shows: the deepest that took a tenth of the guests' time, L0 where no guest ran; `None` where
/// the vCPU did nothing.
pub(crate) fn shown_level(lane: &[u64; 4]) -> Option<u8> {
    let ran: u64 = lane[1..].iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
    if ran == 0 {
        return (lane[0] > 0).then_some(0);
    }
    (1..4).rev().find(|&level| lane[level as usize].saturating_mul(10) >= ran)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use hv_defs::event::{PoolOp, What};
    use traces::Reader;

    #[test]
    fn columns_cover_the_window_and_find_their_events() {
        for (window, columns) in [((0, 1000), 80), ((5, 7), 80), ((10, 90), 80), ((3, 4), 1), ((0, 1 << 60), 200)] {
            let mut next = window.0;
            for column in 0..columns {
                let (from, to) = range(window, columns, column);
                assert_eq!(from, next);
                next = to;
                if from < to {
                    assert_eq!(column_of(window, columns, from), Some(column), "{window:?} {from}");
                    assert_eq!(column_of(window, columns, to - 1), Some(column), "{window:?} {to}");
                }
            }
            assert_eq!(next, window.1);
            assert_eq!(column_of(window, columns, window.1), None);
        }
        for columns in [0, 1, 2, 7, 64, 191] {
            let mut all: Vec<u16> = scattered(columns).collect();
            all.sort_unstable();
            assert_eq!(all, (0..columns).collect::<Vec<_>>());
        }
    }

    /// The timeline of a trace after all that it asks for was looked at.
    fn drawn(reader: &Reader, about: &About, asked: ((u64, u64), u16)) -> Strip {
        let mut strip = Strip::new(about);
        strip.ask(about, asked, 1, 0);
        while let Some(look) = strip.look(false) {
            let (whole, id) = (look.columns.is_none(), look.id);
            strip.put(about, id, whole, crate::survey::look(reader, &look));
        }
        strip
    }

    /// What a plain walk over the events counts.
    fn counted(reader: &Reader, events: (u64, u64)) -> [u64; 6] {
        let mut sums = [0; 6];
        for event in reader.events(events.0).take((events.1 - events.0) as usize) {
            let of = match event.expect("the sample is whole").what {
                What::Exit(_) => 1,
                What::Flush(_) => 2,
                What::Pool(pool) if matches!(pool.op, PoolOp::Miss | PoolOp::Recycle) => 3,
                What::Mark(_) => 4,
                What::Entry(entry) if entry.failed.is_some() => 5,
                What::Lost(_) => 5,
                _ => 0,
            };
            sums[of] += u64::from(of > 0);
            sums[0] += 1;
        }
        sums
    }

    fn sums(cell: &Cell) -> [u64; 6] {
        [cell.seen, cell.exits, cell.flushes, cell.misses, cell.marks, cell.bad]
    }

    #[test]
    fn narrow_columns_have_their_own_events() {
        let reader = Reader::from_bytes(sample::trace()).expect("a trace");
        let about = crate::about(&reader, String::new());
        for (window, columns) in [((0, about.len), 80), ((10, 50), 7), ((3, 90), 200)] {
            let strip = drawn(&reader, &about, (window, columns));
            assert_eq!(strip.cells.len(), usize::from(columns));
            for cell in &strip.cells {
                assert_eq!(sums(cell), counted(&reader, cell.events), "{:?}", cell.events);
                assert_eq!(cell.counted, cell.seen);
            }
            assert_eq!(strip.progress(), None);
        }
        let strip = drawn(&reader, &about, ((0, about.len), 2));
        assert!(strip.cells[0].lanes[0][1] > 0 && strip.cells[0].lanes[0][2] > 0, "{:?}", strip.cells[0].lanes);
    }

    #[test]
    fn wide_columns_have_all_that_happened_at_once_and_exactly() {
        // Many blocks: the sample over and over.
        let (times, one) = (2000, sample::events().len() as u64);
        let reader = Reader::from_bytes(sample::long(times)).expect("a trace");
        let about = crate::about(&reader, String::new());
        assert!(about.firsts.len() > 8, "{} blocks", about.firsts.len());
        let all = counted(&reader, (0, one));
        let mut strip = Strip::new(&about);
        strip.ask(&about, ((0, about.len), 4), 1, 0);
        let total = |strip: &Strip, of: fn(&Cell) -> u64| strip.cells.iter().map(of).sum::<u64>();
        // Before any block was read: what the index counts.
        assert_eq!(total(&strip, |cell| cell.exits), all[1] * times);
        assert_eq!(total(&strip, |cell| cell.flushes), all[2] * times);
        assert_eq!(total(&strip, |cell| cell.marks), all[4] * times);
        assert!(total(&strip, |cell| cell.bad) > 0 && total(&strip, |cell| cell.seen) == 0);
        let first = strip.look(true).expect("it asks for blocks");
        assert_eq!(first.blocks.len(), 4, "one of each column");
        assert!(strip.look(false).expect("it asks for more").blocks.starts_with(&first.blocks));
        let strip = drawn(&reader, &about, ((0, about.len), 4));
        assert_eq!(total(&strip, |cell| cell.seen), about.len);
        assert_eq!(total(&strip, |cell| cell.misses), all[3] * times);
        assert_eq!(total(&strip, |cell| cell.bad), all[5] * times);
        // Another stretch finds what is known.
        let mut strip = strip;
        strip.ask(&about, ((0, about.len / 2), 3), 2, 0);
        assert_eq!(strip.look(false), None);
        assert!(total(&strip, |cell| cell.seen) > 0);
    }

    #[test]
    fn lanes_show_the_deepest_level_that_matters() {
        assert_eq!(shown_level(&[5, 0, 0, 0]), Some(0));
        assert_eq!(shown_level(&[5, 95, 5, 0]), Some(1));
        assert_eq!(shown_level(&[5, 90, 10, 0]), Some(2));
        assert_eq!(shown_level(&[0; 4]), None);
    }
}
