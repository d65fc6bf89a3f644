//! Passing over blocks for a filter or a search: only the tables and columns that it asks for, on all cores.

use crate::filter::Plan;
use crate::hits::Bits;
use crate::model::Reply;
use crate::work::{PIECE, threads};
use hv_defs::event::Kind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use traces::{Error, Order, Reader, Rows};

/// Memory that a thread uses for one block after another.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) rows: Rows,
    pub(crate) places: Vec<u32>,
    pub(crate) order: Order,
}

/// Memory of threads that are done, for those to come.
static ROOMS: Mutex<Vec<Room>> = Mutex::new(Vec::new());

/// The events of a block that a plan holds for.
pub(crate) fn scan_block(reader: &Reader, plan: &Plan, block: usize, room: &mut Room) -> Result<Bits, Error> {
    let Some(info) = reader.blocks().get(block).copied() else { return Ok(Bits::none()) };
    // What the index says is not there is not read.
    let may = |kind: &Kind| plan.wants(*kind) && reader.rows_in(block, *kind) != Some(0);
    let mut kinds = Kind::ALL.iter().copied().filter(may).peekable();
    if kinds.peek().is_none() {
        return Ok(Bits::none());
    }
    let tables = reader.tables(block)?;
    let mut words = vec![0_u64; info.events.div_ceil(64) as usize];
    for kind in kinds {
        let count = tables.rows(kind) as usize;
        if count == 0 {
            continue;
        }
        let Room { rows, places, .. } = room;
        match plan.wants_stamps(kind) {
            true => tables.columns_into(kind, plan.columns(kind), rows)?,
            false => tables.cells_into(kind, plan.columns(kind), rows)?,
        }
        let held = plan.matches(kind, rows, count);
        if !held.is_none() {
            tables.places_into(kind, places);
            held.each(places.len(), |row| {
                let place = places[row] as usize;
                words[place / 64] |= 1 << (place % 64);
            });
        }
    }
    Ok(Bits::of_words(words))
}

/// Does `work` for each of some items on all cores, in their order as far as `time` allows, and gives back what came of
/// those that were done, in that order: at least one, and `None` for one that panicked.
pub(crate) fn on_all_cores<T: Send>(
    items: usize,
    time: Duration,
    work: impl Fn(usize, &mut Room) -> T + Sync,
) -> Vec<Option<T>> {
    let (began, next, done) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = || {
        let mut room = lock(&ROOMS).pop().unwrap_or_default();
        let mut found = Vec::new();
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            found.push((item, catch_unwind(AssertUnwindSafe(|| work(item, &mut room))).ok()));
            if began.elapsed() > time {
                break;
            }
        }
        lock(&done).append(&mut found);
        lock(&ROOMS).push(room);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads().min(items) {
            // A thread that cannot be had is done without.
            let _ = std::thread::Builder::new().name("tui scan".into()).spawn_scoped(scope, run);
        }
        run();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(item, _)| *item);
    done.into_iter().map(|(_, made)| made).collect()
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said where a thread panicked: the panic is one of this program's, not of the trace.
const INTERNAL: &str = "internal error: this part of the trace could not be looked at";

/// Tests the events of blocks, as many as a piece of work allows.
pub(crate) fn scan(reader: &Reader, id: u64, plan: &Plan, blocks: &[usize], time: Duration) -> Reply {
    let done = on_all_cores(blocks.len(), time, |item, room| scan_block(reader, plan, blocks[item], room));
    let (mut found, mut error) = (Vec::with_capacity(done.len()), None);
    for (&block, bits) in blocks.iter().zip(done) {
        // What cannot be read matches nothing.
        let bits = match bits {
            Some(Ok(bits)) => Ok(bits),
            Some(Err(damaged)) => Err(damaged.to_string()),
            None => Err(INTERNAL.to_owned()),
        };
        found.push((
            block,
            bits.unwrap_or_else(|why| {
                error = Some(why);
                Bits::none()
            }),
        ));
    }
    Reply::Scanned { id, blocks: found, error }
}

/// Looks for the next event that a plan holds for, from one on, itself included, as far as a piece of work allows.
pub(crate) fn find(reader: &Reader, id: u64, plan: &Plan, from: u64, forward: bool) -> Reply {
    let failed = |error| Reply::Found { id, found: None, next: None, error: Some(error) };
    let first = match reader.block_of(from) {
        Ok(first) => first,
        Err(error) => return failed(error.to_string()),
    };
    let left = if forward { reader.blocks().len() - first } else { first + 1 };
    let block_of = |item: usize| if forward { first + item } else { first - item };
    let began = Instant::now();
    let mut item = 0;
    while item < left && (item == 0 || began.elapsed() < PIECE) {
        // Some blocks at once, the nearest of which with an event tells which one it is.
        let some = threads().min(left - item);
        let done = on_all_cores(some, PIECE, |at, room| scan_block(reader, plan, block_of(item + at), room));
        for (bits, at) in done.into_iter().zip(item..) {
            let info = reader.blocks()[block_of(at)];
            let place = match (at, forward) {
                (0, _) => (from - info.first) as usize,
                (_, true) => 0,
                (_, false) => info.events as usize,
            };
            let found = match bits {
                Some(Ok(bits)) if forward => bits.at_or_after(place),
                Some(Ok(bits)) => bits.at_or_before(place),
                Some(Err(error)) => return failed(error.to_string()),
                None => return failed(INTERNAL.to_owned()),
            };
            if let Some(place) = found {
                return Reply::Found { id, found: Some(info.first + place as u64), next: None, error: None };
            }
            item = at + 1;
        }
    }
    // Where the next piece begins.
    let next = (item < left).then(|| {
        let info = reader.blocks()[block_of(item)];
        if forward { info.first } else { info.first + u64::from(info.events.max(1)) - 1 }
    });
    Reply::Found { id, found: None, next, error: None }
}
