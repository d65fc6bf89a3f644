//! SQL over the tables, and how a result is printed.

use crate::{Error, Tables, schema};
use polars::prelude::{AnyValue, DataFrame, DataType, IntoLazy, PolarsError};
use polars::sql::{SQLContext, extract_table_identifiers};
use std::fmt::Write as _;

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Aligned columns under a line of names; bits in hexadecimal.
    Table,
    /// Comma-separated values under a line of names, quoted where they must be; nulls are empty.
    Csv,
    /// A JSON object a line.
    Json,
}

/// Answers a query in SQL. Only the tables that it names are built, with the columns that it may mean.
///
/// # Errors
/// The query is wrong, or the trace is damaged.
pub fn query(tables: &Tables<'_>, sql: &str) -> Result<DataFrame, Error> {
    let text = sql.to_ascii_lowercase();
    // COUNT(*) wants no columns; any other star and a natural join may mean all.
    let packed: String = text.split_whitespace().collect();
    let all = packed.replace("count(*)", "").contains('*') || text.contains("natural");
    let answer = execute(tables, sql, |column| all || text.contains(column));
    match answer {
        // With all columns the message can say which there are.
        Err(Error::Query { why, .. }) if !all && why.contains("column") => execute(tables, sql, |_| true),
        answer => answer,
    }
}

fn execute(tables: &Tables<'_>, sql: &str, wanted: impl Fn(&str) -> bool) -> Result<DataFrame, Error> {
    let mut context = SQLContext::new();
    let own_names = sql.to_ascii_lowercase().contains("with");
    for name in extract_table_identifiers(sql, false, true).map_err(wrong)? {
        let name = name.trim_matches('"');
        match schema::table(name) {
            Some(table) => context.register(table.name, tables.table_with(table.name, &wanted)?.lazy()),
            // A name that the query itself gives to a part of it is no table of ours.
            None if own_names => {}
            None => return Err(Error::NoTable { table: name.into() }),
        }
    }
    context.execute(sql).and_then(|frame| frame.collect()).map_err(wrong)
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

/// A result as text.
pub fn print(frame: &DataFrame, format: Format) -> String {
    match format {
        Format::Table => table(frame),
        Format::Csv => csv(frame),
        Format::Json => json(frame),
    }
}

/// One cell, for reading.
fn shown(value: &AnyValue<'_>, hex: bool) -> String {
    match value {
        AnyValue::Null => "-".into(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::UInt64(bits) if hex => format!("{bits:#x}"),
        AnyValue::Float32(number) => format!("{number:.3}"),
        AnyValue::Float64(number) => format!("{number:.3}"),
        other => plain(other),
    }
}

/// One cell, for programs.
fn plain(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => String::new(),
        AnyValue::Boolean(flag) => flag.to_string(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::Int8(number) => number.to_string(),
        AnyValue::Int16(number) => number.to_string(),
        AnyValue::Int32(number) => number.to_string(),
        AnyValue::Int64(number) => number.to_string(),
        AnyValue::UInt8(number) => number.to_string(),
        AnyValue::UInt16(number) => number.to_string(),
        AnyValue::UInt32(number) => number.to_string(),
        AnyValue::UInt64(number) => number.to_string(),
        AnyValue::Float32(number) => number.to_string(),
        AnyValue::Float64(number) => number.to_string(),
        AnyValue::List(series) => {
            let parts: Vec<String> = series.iter().map(|part| plain(&part)).collect();
            parts.join(";")
        }
        other => format!("{other:?}"),
    }
}

fn cells(frame: &DataFrame, cell: impl Fn(&AnyValue<'_>) -> String) -> Vec<Vec<String>> {
    frame
        .columns()
        .iter()
        .map(|column| column.as_materialized_series().iter().map(|value| cell(&value)).collect())
        .collect()
}

fn table(frame: &DataFrame) -> String {
    let columns = cells(frame, |value| shown(value, true));
    let numeric: Vec<bool> = frame.columns().iter().map(|column| column.dtype().is_numeric()).collect();
    let names: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
    let width =
        |at: usize| columns[at].iter().map(|cell| cell.chars().count()).chain([names[at].chars().count()]).max();
    let widths: Vec<usize> = (0..names.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (at, cell) in cells.enumerate() {
            let width = widths[at];
            let _ = if numeric[at] { write!(row, "{cell:>width$}  ") } else { write!(row, "{cell:<width$}  ") };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(&mut names.iter().copied());
    for row in 0..frame.height() {
        line(&mut columns.iter().map(|column| column[row].as_str()));
    }
    text
}

/// A CSV cell, quoted where it must be.
pub(crate) fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.into() }
}

fn csv(frame: &DataFrame) -> String {
    let columns = cells(frame, |value| quoted(&plain(value)));
    let names: Vec<String> = frame.columns().iter().map(|column| quoted(column.name())).collect();
    let mut text = names.join(",") + "\n";
    for row in 0..frame.height() {
        let cells: Vec<&str> = columns.iter().map(|column| column[row].as_str()).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

fn json(frame: &DataFrame) -> String {
    let columns = cells(frame, |value| match value {
        AnyValue::Null => "null".into(),
        AnyValue::Float32(number) if !number.is_finite() => "null".into(),
        AnyValue::Float64(number) if !number.is_finite() => "null".into(),
        AnyValue::List(series) => {
            let parts: Vec<String> = series.iter().map(|part| json_cell(&part)).collect();
            format!("[{}]", parts.join(","))
        }
        value => json_cell(value),
    });
    let names: Vec<String> =
        frame.columns().iter().map(|column| serde_json::Value::from(column.name().as_str()).to_string()).collect();
    let mut text = String::new();
    for row in 0..frame.height() {
        let cells: Vec<String> =
            names.iter().zip(&columns).map(|(name, column)| format!("{name}:{}", column[row])).collect();
        let _ = writeln!(text, "{{{}}}", cells.join(","));
    }
    text
}

fn json_cell(value: &AnyValue<'_>) -> String {
    let number = matches!(value.dtype(), DataType::Boolean) || value.dtype().is_numeric();
    if number { plain(value) } else { serde_json::Value::from(plain(value)).to_string() }
}
