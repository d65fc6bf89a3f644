//! SQL over the tables, and how a result is printed.

mod first;
mod print;
mod words;

pub(crate) use print::quoted;
pub use print::{Format, print};

use crate::export::ParquetRows;
use crate::schema::{self, Table};
use crate::{Error, Tables};
use polars::prelude::{DataFrame, Engine, LazyFrame, PlanCallback, PolarsError, Schema};
use polars::sql::{SQLContext, extract_table_identifiers};
use print::Lines;
use std::io::{self, Write};
use std::sync::mpsc::sync_channel;
use words::Words;

/// Where an answer goes.
pub trait Out: Write {
    /// Forgets all that was written; false where it is gone already.
    ///
    /// # Errors
    /// It may be forgotten and cannot.
    fn rewind(&mut self) -> io::Result<bool>;
}

impl Out for Vec<u8> {
    fn rewind(&mut self) -> io::Result<bool> {
        self.clear();
        Ok(true)
    }
}

/// Answers a query in SQL. Only the tables that it names are read, with the columns that it may mean.
///
/// # Errors
/// The query is wrong, or the trace is damaged.
pub fn query(tables: &Tables, sql: &str) -> Result<DataFrame, Error> {
    tables.gather(|| plan(tables, sql))
}

/// What a query means, and who carries it out.
pub(crate) struct Plan {
    pub(crate) frame: LazyFrame,
    pub(crate) engine: Engine,
}

/// The tables that a query names. What it cannot be read for has been said when it was answered.
pub fn tables_of(sql: &str) -> Vec<&'static Table> {
    let names = extract_table_identifiers(sql, false, true).unwrap_or_default();
    names.iter().filter_map(|name| schema::table(name.trim_matches('"'))).collect()
}

/// What a query means. Nothing is read yet, but for the indexes of large traces.
fn plan(tables: &Tables, sql: &str) -> Result<Plan, Error> {
    let words = Words::of(sql);
    let streamed = match plan_with(tables, sql, &words, words.all, Engine::Streaming) {
        // With all columns the message can say which there are.
        Err(Error::NoColumn { .. } | Error::Query { .. }) if !words.all => {
            plan_with(tables, sql, &words, true, Engine::Streaming)?
        }
        plan => plan?,
    };
    // Of a join by an order the streaming engine knows nothing in this build, and takes it for impossible.
    let optimized = streamed.frame.clone().with_streaming(true).describe_optimized_plan().map_err(wrong)?;
    if optimized.contains(RANGE_JOIN) {
        plan_with(tables, sql, &words, words.all, Engine::InMemory)
    } else {
        Ok(streamed)
    }
}

/// What polars calls, when it explains a plan, a join by an order.
const RANGE_JOIN: &str = "RANGE JOIN";

fn plan_with(tables: &Tables, sql: &str, words: &Words, all: bool, engine: Engine) -> Result<Plan, Error> {
    let mut context = SQLContext::new();
    let mut named = Vec::new();
    let unread = |error: PolarsError| words.unread(wrong(error));
    for name in extract_table_identifiers(sql, false, true).map_err(unread)? {
        let name = name.trim_matches('"');
        match schema::table(name) {
            Some(table) => {
                context.register(table.name, tables.lazy(table, |column| all || words.has(column), engine)?);
                named.push(table);
            }
            // A name that the query itself gives to a part of it is no table of ours.
            None if words.has_with => {}
            None => return Err(words.no_table(name)),
        }
    }
    let failed = |error: PolarsError| words.explain(tables, &named, wrong(error));
    let mut frame = context.execute(sql).map_err(failed)?;
    // That the names and types are right is known before anything is read.
    frame.collect_schema().map_err(failed)?;
    if engine == Engine::Streaming
        && let Some(cut) = first::cut(&frame.logical_plan, None)
    {
        frame = LazyFrame::from(cut);
    }
    Ok(Plan { frame, engine })
}

/// Answers a query to `out`, as its rows come, and returns how many there are. Only for [`Format::Table`], whose columns
/// are as wide as their widest cell, are they held before that.
///
/// # Errors
/// As [`query`], or `out` takes no more.
pub fn write(tables: &Tables, sql: &str, format: Format, out: &mut dyn Out) -> Result<u64, Error> {
    if format == Format::Table {
        let frame = query(tables, sql)?;
        print::table(&frame, out).map_err(Error::Output)?;
        return Ok(frame.height() as u64);
    }
    let begin = |schema: &Schema, out: &mut dyn Out| {
        let lines = Lines::new(format, schema.iter_names());
        lines.head(out).map_err(Error::Output)?;
        Ok(lines)
    };
    stream(tables, sql, out, begin, |lines, rows, out| lines.rows(rows, out).map_err(Error::Output), |_, _| Ok(()))
}

/// As [`write()`], as a Parquet file.
///
/// # Errors
/// As [`write()`], or a column holds something else than numbers, truth values and texts.
pub fn write_parquet(tables: &Tables, sql: &str, out: &mut dyn Out) -> Result<u64, Error> {
    let begin = |schema: &Schema, _: &mut dyn Out| ParquetRows::new(schema);
    stream(tables, sql, out, begin, |file, rows, out| file.add(rows, out), |file, out| file.finish(out))
}

/// Begins what is written when the first rows are there, so that what goes wrong before leaves nothing behind.
fn stream<S>(
    tables: &Tables,
    sql: &str,
    out: &mut dyn Out,
    begin: impl Fn(&Schema, &mut dyn Out) -> Result<S, Error>,
    add: impl Fn(&mut S, &DataFrame, &mut dyn Out) -> Result<(), Error>,
    end: impl Fn(S, &mut dyn Out) -> Result<(), Error>,
) -> Result<u64, Error> {
    loop {
        let mut plan = plan(tables, sql)?;
        let schema = plan.frame.collect_schema().map_err(wrong)?;
        let (mut written, mut count) = (None, 0);
        let ran = each(plan, |rows| {
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(begin(&schema, out)?),
            };
            count += rows.height() as u64;
            add(written, &rows, out)
        });
        if tables.again() && out.rewind().map_err(Error::Output)? {
            continue;
        }
        tables.failed()?;
        ran?;
        let written = written.map_or_else(|| begin(&schema, out), Ok)?;
        end(written, out)?;
        return Ok(count);
    }
}

/// A plan's rows.
pub(crate) fn collect(plan: Plan) -> Result<DataFrame, Error> {
    // One plan has one answer.
    Ok(plan.frame.collect_with_engine(plan.engine).map_err(wrong)?.unwrap_single())
}

/// Hands a plan's rows to `see`, some at a time and in order, while the next are made.
fn each(plan: Plan, mut see: impl FnMut(DataFrame) -> Result<(), Error>) -> Result<(), Error> {
    if plan.engine != Engine::Streaming {
        return see(collect(plan)?);
    }
    let (give, rows) = sync_channel(1);
    let end = give.clone();
    let hand = PlanCallback::new(move |rows| Ok(give.send(Some(rows)).is_err()));
    let plan = plan.frame.sink_batches(hand, true, None).map_err(wrong)?;
    std::thread::scope(|scope| {
        let run = move || {
            let ran = plan.collect_with_engine(Engine::Streaming);
            // Who hears this is there no more if it did not want the rest.
            let _ = end.send(None);
            ran.map(|_| ()).map_err(wrong)
        };
        let run = std::thread::Builder::new().name("query".into()).spawn_scoped(scope, run);
        let run = run.map_err(traces::Error::Thread)?;
        let seen = rows.into_iter().map_while(|rows| rows).try_for_each(&mut see);
        let ran = run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What ended the rest is what came first.
        seen.and(ran)
    })
}

/// What polars says, in one line and with its place.
fn wrong(error: PolarsError) -> Error {
    let text = error.to_string();
    let mut why = text.lines().next().unwrap_or_default().trim().to_owned();
    for noise in ["sql parser error: ", "SQL error: ", "SQL syntax error: "] {
        why = why.replace(noise, "");
    }
    let mut place = None;
    if let Some(at) = why.find(" at Line: ") {
        let numbers = why[at..].split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        let numbers: Vec<u64> = numbers.filter_map(|part| part.parse().ok()).collect();
        if let [line, column, ..] = numbers[..] {
            place = Some((line, column));
            why.truncate(at);
        }
    }
    Error::Query { why, place }
}
