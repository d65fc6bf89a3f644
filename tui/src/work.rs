//! What the inspector does outside of its model: all reading of the trace. Runs on worker threads.

use crate::model::{Effect, Growth, Msg, Reply};
use crate::replay::work::Replay;
use crate::round::{self, Round, Turn};
use crate::scan;
use crate::state::Fold;
use crate::survey;
use crate::{export, keep};
use hv_defs::event::{Event, Kind};
use std::time::{Duration, Instant};
use traces::{Error, Reader, Values};

/// How long a piece of long work takes, about: after that, the model is asked whether to go on.
pub(crate) const PIECE: Duration = Duration::from_millis(50);

/// And how long the first piece of a filter, so that its first events are seen at once.
const FIRST_PIECE: Duration = Duration::from_millis(10);

/// Threads that long work is done on.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

/// Does an effect.
pub(crate) fn perform(reader: &Reader, replay: &mut Replay, effect: Effect, tell: &mut dyn FnMut(Msg)) -> Reply {
    match effect {
        Effect::Fetch(numbers) => Reply::Events(fetch(reader, &numbers)),
        Effect::Scan { id, plan, blocks, first } => {
            scan::scan(reader, id, &plan, &blocks, if first { FIRST_PIECE } else { PIECE })
        }
        Effect::Find { id, plan, from, forward } => scan::find(reader, id, &plan, from, forward),
        Effect::Strip(look) => {
            let (id, whole) = (look.id, look.columns.is_none());
            Reply::Strip { id, whole, parts: survey::look(reader, &look) }
        }
        Effect::Near { event } => {
            let first = reader.block_of(event).map(|block| reader.blocks()[block].first);
            let fold = first.and_then(|first| fold(reader, first, event + 1));
            Reply::Near { event, fold: fold.map_err(|error| error.to_string()) }
        }
        Effect::Far { block, fold, from } => far(reader, block, &fold, from),
        Effect::Round { event, vcpu } => {
            let round = round(reader, event, vcpu).map(Box::new).map_err(|error| error.to_string());
            Reply::Round { event, round }
        }
        Effect::Locate { instruction } => {
            Reply::Located { event: locate(reader, instruction).map_err(|error| error.to_string()) }
        }
        Effect::Findings => {
            let mut told = 0;
            Reply::Findings(crate::findings::find(reader, &mut |events| {
                // As often as a reader could tell the difference.
                if events - told > reader.len() / 100 {
                    told = events;
                    tell(Msg::Analysed(events));
                }
            }))
        }
        Effect::Export(export) => Reply::Exported { id: export.id, step: export::step(reader, &export) },
        Effect::Unsave(path) => {
            export::cancel(&path);
            Reply::Unsaved
        }
        Effect::Keep(place, kept) => Reply::Kept(keep::save(&place, &kept)),
        Effect::Replay { event, look } => Reply::Replay(replay.piece(event, look)),
        // What a reader has is of one moment: see `Trace`.
        Effect::Follow => Reply::Followed(Growth::Same),
        Effect::Copy(text) => Reply::Copied(crate::terminal::copy(&text).map_err(|error| error.to_string())),
    }
}

/// How long events are read before those that were are shown.
const GLANCE: Duration = Duration::from_millis(20);

/// Reads events, the first at least. Those that time does not allow are asked for again.
fn fetch(reader: &Reader, numbers: &[u64]) -> Vec<(u64, Result<Event, String>)> {
    let began = Instant::now();
    let mut events = Vec::with_capacity(numbers.len());
    for &number in numbers {
        events.push((number, reader.event(number).map_err(|error| error.to_string())));
        if began.elapsed() > GLANCE {
            break;
        }
    }
    events
}

fn numbered(reader: &Reader, from: u64) -> impl Iterator<Item = Result<(u64, Event), Error>> {
    (from..).zip(reader.events(from)).map(|(number, event)| event.map(|event| (number, event)))
}

/// The fold of the events `from..to`. Events of kinds that are not known say nothing of VMCSs.
fn fold(reader: &Reader, from: u64, to: u64) -> Result<Fold, Error> {
    let mut fold = Fold::default();
    for item in numbered(reader, from).take((to - from) as usize) {
        match item {
            Ok((number, event)) => fold.add(number, &event),
            Err(Error::NewerKind { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fold)
}

fn far(reader: &Reader, block: usize, known: &Fold, from: usize) -> Reply {
    let began = Instant::now();
    let (mut sum, mut from) = (known.clone(), from);
    while from > 0 {
        let info = reader.blocks()[from - 1];
        match fold(reader, info.first, info.first + u64::from(info.events)) {
            Ok(older) => sum.put_under(&older),
            Err(error) => return Reply::Far { block, fold: Err(error.to_string()), from },
        }
        from -= 1;
        if began.elapsed() > PIECE {
            break;
        }
    }
    Reply::Far { block, fold: Ok(sum), from }
}

fn round(reader: &Reader, event: u64, vcpu: u16) -> Result<Round, Error> {
    let nearest = event.saturating_sub(round::REACH);
    let here = reader.block_of(event)?;
    let blocks = (0..=here).rev().take_while(|&block| {
        let info = &reader.blocks()[block];
        block == here || info.first + u64::from(info.events) > nearest
    });
    let turns = blocks.flat_map(|block| match turns(reader, block, event, vcpu) {
        Ok(turns) => turns.into_iter().rev().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    match round::find_start(event, turns)? {
        Some(start) => {
            let known = numbered(reader, start).filter(|item| !matches!(item, Err(Error::NewerKind { .. })));
            round::follow(event, known.take(round::REACH as usize))
        }
        None => round::follow(event, std::iter::empty()),
    }
}

/// The exits and entries of a vCPU in a block, up to an event.
fn turns(reader: &Reader, block: usize, upto: u64, vcpu: u16) -> Result<Vec<Turn>, Error> {
    let mut turns = Vec::new();
    for (kind, exit) in [(Kind::Exit, true), (Kind::Entry, false)] {
        let rows = reader.block_columns_of(block, kind, &["level"])?;
        // Only an exit or an entry of no level lacks the column.
        let levels = rows.column("level").map(Values::to_vec).unwrap_or_else(|| vec![0; rows.len()]);
        let of_vcpu = rows
            .event
            .iter()
            .zip(rows.vcpu.iter())
            .zip(levels)
            .filter(|((number, of), _)| *number <= upto && *of == u64::from(vcpu));
        turns.extend(of_vcpu.map(|((number, _), level)| Turn { number, level: level.min(255) as u8, exit }));
    }
    turns.sort_unstable_by_key(|turn| turn.number);
    Ok(turns)
}

/// The first event at or after an instruction.
fn locate(reader: &Reader, instruction: u64) -> Result<Option<u64>, Error> {
    let blocks = reader.blocks();
    let (mut low, mut high) = (0, blocks.len());
    while low < high {
        let middle = low.midpoint(high);
        if reader.block(middle)?.stamp(0).is_some_and(|stamp| stamp.instruction < instruction) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // The block before may still have it at its end.
    let Some(from) = blocks.get(low.saturating_sub(1)).map(|block| block.first) else { return Ok(None) };
    for item in numbered(reader, from) {
        match item {
            Ok((number, event)) if event.at.instruction >= instruction => return Ok(Some(number)),
            Ok(_) | Err(Error::NewerKind { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
