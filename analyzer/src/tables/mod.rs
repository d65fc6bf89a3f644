//! Traces as tables: one a kind of event, read when a query asks for its rows and only the columns that it names.
//!
//! A table is never whole in memory: it is a plan for polars' streaming engine, whose source hands out stretches of blocks
//! (`parts`) that become rows (`rows`) when their turn comes. Names and forms come from [`hv_defs::fields`], and what
//! each column means from [`crate::schema`]. The `flushes` table has the judge's columns too, and rows for flushes that
//! are missing.

mod flushes;
mod parts;
mod rows;

use crate::Error;
use crate::judge::Judged;
use crate::query::{self, Plan};
use crate::schema::{self, Table};
use hv_defs::event::{Event, Kind};
use parts::{From, Set, Unit};
use polars::prelude::{
    Column, DataFrame, DataType, Engine, IdxSize, IntoLazy, LazyFrame, OptFlags, PlSmallStr, PolarsError, PolarsResult,
    Scalar, Schema, SchemaRef,
};
use std::path::PathBuf;
use std::sync::Arc;
use traces::Reader;

/// What gives verdicts on the flushes of a trace, by its number, in the place of the judge's own: see
/// [`judge::Bench::with`](crate::judge::Bench::with).
pub type Verdicts = Arc<dyn Fn(usize) -> Result<Option<Vec<Judged>>, Error> + Send + Sync>;

/// The tables of a trace, or of many with a column that says which. Nothing is read before it is asked for.
#[derive(Clone, Debug)]
pub struct Tables {
    set: Arc<Set>,
}

/// The names of all tables, for messages.
pub(crate) fn names() -> String {
    schema::TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ")
}

/// Rows of the plan's source that stand for a unit: as many as the streaming engine hands out at once.
const STEP: usize = 100_000;

/// Units of a table: more would be more rows of the source than polars counts.
const UNITS: usize = 40_000;

impl Tables {
    /// The tables of a trace.
    pub fn read(reader: impl Into<Arc<Reader>>) -> Self {
        Self { set: Arc::new(Set::new(vec![(String::new(), From::Reader(reader.into()))], false)) }
    }

    /// The tables of events in memory, numbered from 0.
    pub fn of(events: Vec<Event>) -> Self {
        Self { set: Arc::new(Set::new(vec![(String::new(), From::Events(events.into()))], false)) }
    }

    /// The tables of many traces, by name and place, one behind the other, each with a column [`schema::TRACE`] for the
    /// name. Files are opened when their rows are asked for; what cannot be read is passed over: see [`Tables::broken`].
    pub fn of_files(traces: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let traces = traces.into_iter().map(|(name, path)| (name, From::File(path)));
        Self { set: Arc::new(Set::new(traces.collect(), true)) }
    }

    /// The same, with verdicts on flushes from outside.
    pub fn with_verdicts(self, verdicts: Option<Verdicts>) -> Self {
        Self { set: Arc::new(self.set.with_verdicts(verdicts)) }
    }

    /// The columns of a table, in order.
    pub fn columns(&self, table: &Table) -> Vec<schema::Column> {
        let trace = self.set.named.then_some(schema::TRACE);
        trace.into_iter().chain(table.columns()).collect()
    }

    /// The traces that could not be read, by number, and why. They have no rows in any answer.
    pub fn broken(&self) -> Vec<(usize, String)> {
        self.set.broken()
    }

    /// Whether the trace is known to have no row for a table.
    pub fn is_empty(&self, table: &Table) -> bool {
        self.set.count(table.kind) == Some(0)
    }

    /// A whole table.
    ///
    /// # Errors
    /// There is no such table, or the trace is damaged.
    pub fn table(&self, name: &str) -> Result<DataFrame, Error> {
        let table =
            schema::table(name).ok_or_else(|| Error::NoTable { table: name.into(), near: None, place: None })?;
        let engine = Engine::Streaming;
        self.gather(|| Ok(Plan { frame: self.lazy(table, |_| true, engine)?, engine }))
    }

    /// A plan's rows, and where a trace broke when some of its rows had been handed out, those without it.
    pub(crate) fn gather(&self, plan: impl Fn() -> Result<Plan, Error>) -> Result<DataFrame, Error> {
        loop {
            let rows = query::collect(plan()?);
            if !self.again() {
                self.failed()?;
                return rows;
            }
        }
    }

    /// Whether a trace broke when some of its rows had been handed out, so that an answer must be made again.
    pub(crate) fn again(&self) -> bool {
        self.set.again()
    }

    /// Why the trace could not be read on, if it could not.
    pub(crate) fn failed(&self) -> Result<(), Error> {
        self.set.failed().map_or(Ok(()), Err)
    }

    /// A table as a plan for an engine, with those of its columns that are wanted.
    pub(crate) fn lazy(
        &self,
        table: &'static Table,
        wanted: impl Fn(&str) -> bool,
        engine: Engine,
    ) -> Result<LazyFrame, Error> {
        let columns: Vec<schema::Column> = self
            .columns(table)
            .into_iter()
            // One is always there, so that rows can be counted.
            .filter(|column| column.name == "event" || wanted(column.name))
            .collect();
        let schema: Schema =
            columns.iter().map(|column| (PlSmallStr::from_static(column.name), type_of(column.form))).collect();
        let schema = SchemaRef::new(schema);
        let units: Arc<[Unit]> = self.set.units(table.kind, UNITS)?.into();
        // One value for all rows, which takes no memory: which of them are handed out says which units are due. The other
        // engine hands out all at once, and would number them before that.
        let step = if engine == Engine::Streaming { STEP } else { 1 };
        let height = (units.len() * step).max(1);
        let rows = Column::new_scalar("unit".into(), Scalar::from(false), height);
        let source = DataFrame::new(height, vec![rows])
            .map_err(|why| Error::Table { table: table.name.into(), why: why.to_string() })?;
        let (set, names) = (self.set.clone(), columns.iter().map(|column| column.name).collect::<Vec<_>>());
        let read = move |part: DataFrame| -> PolarsResult<DataFrame> {
            let due = due(&part, units.len(), step)?;
            set.rows(table, &units[due], &names).map_err(|why| PolarsError::ComputeError(why.to_string().into()))
        };
        let given = schema.clone();
        let columns_of = move |_: &Schema| Ok(given.clone());
        Ok(source.lazy().with_row_index("row", None).map(
            read,
            OptFlags::STREAMING,
            Some(Arc::new(columns_of)),
            Some(table.name),
        ))
    }
}

/// The units whose first row of the source is in a part of it.
fn due(part: &DataFrame, units: usize, step: usize) -> PolarsResult<std::ops::Range<usize>> {
    let rows = part.column("row")?.as_materialized_series().idx()?;
    let Some(first) = rows.first() else { return Ok(0..0) };
    let unit = |row: IdxSize| (row as usize).div_ceil(step).min(units);
    Ok(unit(first)..unit(first + part.height() as IdxSize))
}

fn type_of(form: &str) -> DataType {
    match form {
        "integer" => DataType::Int64,
        "bits" => DataType::UInt64,
        "boolean" => DataType::Boolean,
        _ => DataType::String,
    }
}

/// Which traces a table's rows come from.
pub(crate) fn has_judge(table: &Table) -> bool {
    table.kind == Kind::Flush
}
