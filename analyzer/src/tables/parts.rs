//! Which traces there are, opened when they are needed, and the stretches that a table is read in.

use super::{Verdicts, flushes, has_judge, rows};
use crate::schema::Table;
use crate::source::{Rows, Source};
use crate::{Error, judge};
use hv_defs::event::{Event, Kind};
use polars::prelude::DataFrame;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use traces::Reader;

/// Where a trace is.
#[derive(Clone)]
pub(super) enum From {
    Reader(Arc<Reader>),
    Events(Arc<[Event]>),
    File(PathBuf),
}

/// A stretch of a trace: some of its blocks, or with `None` all of it.
#[derive(Clone, Debug)]
pub(super) struct Span {
    trace: usize,
    blocks: Option<Range<usize>>,
}

/// Stretches that are read at once.
pub(super) type Unit = Vec<Span>;

/// Rows that a unit has, if it can be had: as many as fill the caches of a CPU with a few columns of them.
const ROWS: u64 = 1 << 17;

/// Bytes of a file that is read in one go, without a look at its index beforehand.
const SMALL: u64 = 1 << 20;

/// Bytes of a compressed trace that are taken for a row.
const ROW: u64 = 4;

/// Files that are kept open.
const OPEN: usize = 16;

/// The traces of a dataset.
pub(super) struct Set {
    traces: Vec<(String, From)>,
    /// Whether rows say which trace they are of.
    pub(super) named: bool,
    verdicts: Option<Verdicts>,
    open: Mutex<Vec<(usize, Arc<Reader>)>>,
    state: Mutex<State>,
}

/// What became of the traces.
#[derive(Default)]
struct State {
    broken: BTreeMap<usize, String>,
    /// Of a dataset: whether a trace broke that has rows in the answer.
    again: bool,
    /// Of one trace: why it cannot be read.
    failed: Option<Error>,
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("traces", &self.traces.len()).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Set {
    pub(super) fn new(traces: Vec<(String, From)>, named: bool) -> Self {
        Self { traces, named, verdicts: None, open: Mutex::default(), state: Mutex::default() }
    }

    pub(super) fn with_verdicts(&self, verdicts: Option<Verdicts>) -> Self {
        Self { verdicts, ..Self::new(self.traces.clone(), self.named) }
    }

    /// How many events of a kind there are, if that is known without reading all of a trace.
    pub(super) fn count(&self, kind: Kind) -> Option<u64> {
        let [(_, from)] = &self.traces[..] else { return None };
        match from {
            From::Reader(reader) if !reader.truncated() => {
                let counts = reader.counts().ok()?;
                Some(counts.iter().find(|(name, _)| name == kind.name()).map_or(0, |(_, count)| *count))
            }
            _ => None,
        }
    }

    pub(super) fn broken(&self) -> Vec<(usize, String)> {
        locked(&self.state).broken.iter().map(|(&trace, why)| (trace, why.clone())).collect()
    }

    /// Whether an answer must be made again, without a trace of which it has some rows.
    pub(super) fn again(&self) -> bool {
        std::mem::take(&mut locked(&self.state).again)
    }

    /// Why the trace cannot be read, if that ended the answer.
    pub(super) fn failed(&self) -> Option<Error> {
        locked(&self.state).failed.take()
    }

    fn is_broken(&self, trace: usize) -> bool {
        locked(&self.state).broken.contains_key(&trace)
    }

    /// Passes a trace over, or ends the answer if there is only the one.
    fn pass_over(&self, trace: usize, error: Error, has_rows: bool) -> Result<(), Error> {
        let mut state = locked(&self.state);
        if !self.named {
            state.failed = Some(error);
            return Err(Error::Table { table: String::new(), why: "the trace cannot be read".into() });
        }
        state.again |= has_rows && !state.broken.contains_key(&trace);
        state.broken.entry(trace).or_insert_with(|| error.to_string());
        Ok(())
    }

    fn opened(&self, trace: usize) -> Result<Opened, Error> {
        match &self.traces[trace].1 {
            From::Reader(reader) => Ok(Opened::Trace(reader.clone())),
            From::Events(events) => Ok(Opened::Events(events.clone())),
            From::File(path) => {
                if let Some((_, reader)) = locked(&self.open).iter().find(|(number, _)| *number == trace) {
                    return Ok(Opened::Trace(reader.clone()));
                }
                let reader = Arc::new(Reader::open(path)?);
                let mut open = locked(&self.open);
                if open.len() >= OPEN {
                    open.remove(0);
                }
                open.push((trace, reader.clone()));
                Ok(Opened::Trace(reader))
            }
        }
    }

    /// A table's rows in stretches, at most `most`, in order. Blocks that are known to have none are left out.
    pub(super) fn units(&self, kind: Kind, most: usize) -> Result<Vec<Unit>, Error> {
        let mut spans: Vec<(Span, u64)> = Vec::new();
        for (trace, (_, from)) in self.traces.iter().enumerate() {
            let whole = Span { trace, blocks: None };
            if self.is_broken(trace) {
                continue;
            }
            match from {
                // The judge needs all of the trace.
                _ if kind == Kind::Flush => spans.push((whole, ROWS)),
                From::Events(events) => spans.push((whole, events.len() as u64)),
                From::Reader(reader) => blocks(reader, trace, kind, &mut spans),
                From::File(path) => match std::fs::metadata(path) {
                    Ok(file) if file.len() > SMALL => match self.opened(trace) {
                        Ok(Opened::Trace(reader)) => blocks(&reader, trace, kind, &mut spans),
                        Ok(Opened::Events(_)) => {}
                        Err(error) => self.pass_over(trace, error, false)?,
                    },
                    Ok(file) => spans.push((whole, file.len() / ROW)),
                    // What is wrong is found when it is opened.
                    Err(_) => spans.push((whole, 0)),
                },
            }
        }
        let all: u64 = spans.iter().map(|(_, rows)| rows).sum();
        let rows = ROWS.max(all.div_ceil(most as u64 / 2));
        let mut units: Vec<Unit> = Vec::new();
        let mut left = 0;
        for (span, has) in spans {
            match units.last_mut() {
                Some(unit) if left >= has.max(1) => {
                    left -= has.max(1);
                    match unit.last_mut() {
                        Some(Span { trace, blocks: Some(blocks) })
                            if *trace == span.trace
                                && span.blocks.as_ref().is_some_and(|next| next.start == blocks.end) =>
                        {
                            blocks.end += 1;
                        }
                        _ => unit.push(span),
                    }
                }
                _ => {
                    left = rows.saturating_sub(has);
                    units.push(vec![span]);
                }
            }
        }
        Ok(units)
    }

    /// The rows of some units as a frame with these columns.
    pub(super) fn rows(&self, table: &Table, units: &[Unit], columns: &[&'static str]) -> Result<DataFrame, Error> {
        let wanted = |name: &str| columns.contains(&name);
        let mut traces: Vec<(usize, usize)> = Vec::new();
        let columns = if has_judge(table) {
            let mut judged = Vec::new();
            for span in units.iter().flatten() {
                let before = judged.len();
                match self.judged(span.trace) {
                    Ok(rows) => judged.extend(rows),
                    Err(error) => self.pass_over(span.trace, error, false)?,
                }
                traces.push((span.trace, judged.len() - before));
            }
            flushes::columns(&judged, &wanted)
        } else {
            let needed = rows::needed(table, &wanted);
            let mut rows = Rows::new(table.kind, ["instruction", "vcpu", "pcpu"].map(wanted));
            for span in units.iter().flatten() {
                let before = rows.event.len();
                if !self.is_broken(span.trace)
                    && let Err(error) = self.read(span, table.kind, &needed, &mut rows)
                {
                    let begun = span.blocks.is_some();
                    rows.truncate(before);
                    self.pass_over(span.trace, error, begun)?;
                }
                traces.push((span.trace, rows.event.len() - before));
            }
            rows::columns(table, rows, &wanted)
        };
        let trace = wanted(crate::schema::TRACE.name).then(|| rows::trace(&traces, |trace| &self.traces[trace].0));
        let failed =
            |why: polars::prelude::PolarsError| Error::Table { table: table.name.into(), why: why.to_string() };
        DataFrame::new_infer_height(trace.into_iter().chain(columns).collect()).map_err(failed)
    }

    fn read(&self, span: &Span, kind: Kind, needed: &[bool], rows: &mut Rows) -> Result<(), Error> {
        match self.opened(span.trace)? {
            Opened::Events(events) => Source::Events(&events).rows(kind, needed, 0..0, rows),
            Opened::Trace(reader) => {
                let blocks = span.blocks.clone().unwrap_or(0..reader.blocks().len());
                Source::Trace(&reader).rows(kind, needed, blocks, rows)
            }
        }
    }

    fn judged(&self, trace: usize) -> Result<Vec<judge::Judged>, Error> {
        let given = self.verdicts.as_ref().map_or(Ok(None), |verdicts| verdicts(trace))?;
        match self.opened(trace)? {
            Opened::Events(events) => judge::judge_with(Source::Events(&events), given.as_deref()),
            Opened::Trace(reader) => judge::judge_with(Source::Trace(&reader), given.as_deref()),
        }
    }
}

/// A trace that can be read.
enum Opened {
    Trace(Arc<Reader>),
    Events(Arc<[Event]>),
}

/// A span for each block of a trace that may have rows, with how many.
fn blocks(reader: &Reader, trace: usize, kind: Kind, spans: &mut Vec<(Span, u64)>) {
    for (number, block) in reader.blocks().iter().enumerate() {
        let rows = reader.rows_in(number, kind).unwrap_or(block.events);
        if rows > 0 {
            spans.push((Span { trace, blocks: Some(number..number + 1) }, rows.into()));
        }
    }
}
