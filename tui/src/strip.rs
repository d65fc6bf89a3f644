//! The timeline: a stretch of the trace in a number of columns, each with what its events did.

use hv_defs::event::{Event, PoolOp, What};

/// A column of the timeline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    /// Its first event, and the first of the next column.
    pub(crate) events: (u64, u64),
    /// Events that were looked at: fewer than it has where only a sample was.
    pub(crate) seen: u64,
    /// For each vCPU, how much it ran at L0 to L3. L1 and above in instructions, L0 in events, since it takes no
    /// instructions.
    pub(crate) lanes: Vec<[u64; 4]>,
    /// Exits.
    pub(crate) exits: u64,
    /// Flushes.
    pub(crate) flushes: u64,
    /// Requests that the pool could not serve from what it had.
    pub(crate) misses: u64,
    /// The value of the first phase marker.
    pub(crate) mark: Option<u32>,
    /// Entries that failed, and events that were lost.
    pub(crate) bad: u64,
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

/// Adds up a column from its events in order.
pub(crate) struct Sum {
    cell: Cell,
    /// For each vCPU, the instruction at which it last was entered or first was seen, and the level it runs at.
    running: Vec<Option<(u64, usize)>>,
}

impl Sum {
    /// A column of these events with lanes for `vcpus` vCPUs.
    pub(crate) fn new(events: (u64, u64), vcpus: usize) -> Self {
        Self { cell: Cell { events, lanes: vec![[0; 4]; vcpus], ..Cell::default() }, running: vec![None; vcpus] }
    }

    /// Adds the next event.
    pub(crate) fn add(&mut self, event: &Event) {
        let cell = &mut self.cell;
        cell.seen += 1;
        let vcpu = usize::from(event.at.vcpu);
        if let (Some(lane), Some(running)) = (cell.lanes.get_mut(vcpu), self.running.get_mut(vcpu)) {
            match &event.what {
                What::Exit(exit) => {
                    let level = usize::from(exit.level.min(3));
                    let since = running.map_or(event.at.instruction, |(since, _)| since);
                    // What ran, ran: at least one, so that a column with nothing else shows its level.
                    lane[level] += (event.at.instruction - since.min(event.at.instruction)).max(1);
                    *running = None;
                }
                What::Entry(entry) if entry.failed.is_none() => {
                    *running = Some((event.at.instruction, usize::from(entry.level.min(3))));
                }
                _ => lane[0] += 1,
            }
        }
        match &event.what {
            What::Exit(_) => cell.exits += 1,
            What::Flush(_) => cell.flushes += 1,
            What::Pool(pool) => cell.misses += u64::from(matches!(pool.op, PoolOp::Miss | PoolOp::Recycle)),
            What::Mark(value) => cell.mark = cell.mark.or(Some(*value)),
            What::Entry(entry) => cell.bad += u64::from(entry.failed.is_some()),
            What::Lost(_) => cell.bad += 1,
            _ => {}
        }
    }

    /// The column. A guest that was entered in it and not left counts as having run.
    pub(crate) fn finish(mut self) -> Cell {
        for (lane, running) in self.cell.lanes.iter_mut().zip(&self.running) {
            if let Some((_, level)) = running {
                lane[*level] += 1;
            }
        }
        self.cell
    }
}

/// The level that a lane shows: the deepest that took a tenth of the instructions, L0 where no guest ran; `None` where
/// the vCPU did nothing.
pub(crate) fn shown_level(lane: &[u64; 4]) -> Option<u8> {
    let ran: u64 = lane[1..].iter().sum();
    if ran == 0 {
        return (lane[0] > 0).then_some(0);
    }
    (1..4).rev().find(|&level| lane[level as usize] * 10 >= ran)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;

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
    }

    #[test]
    fn a_column_adds_up_its_events() {
        let events = sample::events();
        let mut sum = Sum::new((0, events.len() as u64), 2);
        events.iter().for_each(|event| sum.add(event));
        let cell = sum.finish();
        assert_eq!(cell.exits, events.iter().filter(|event| matches!(event.what, What::Exit(_))).count() as u64);
        assert_eq!(cell.seen, events.len() as u64);
        assert!(cell.lanes[0][1] > 0 && cell.lanes[0][2] > 0, "{:?}", cell.lanes);
        assert_eq!((cell.bad, cell.mark), (2, Some(1)));
        assert_eq!(shown_level(&[5, 0, 0, 0]), Some(0));
        assert_eq!(shown_level(&[5, 95, 5, 0]), Some(1));
        assert_eq!(shown_level(&[5, 90, 10, 0]), Some(2));
        assert_eq!(shown_level(&[0; 4]), None);
    }
}
