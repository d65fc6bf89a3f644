//! How an answer is printed: row by row, so that its text is never whole in memory.

use polars::prelude::{AnyValue, DataFrame, DataType, PlSmallStr};
use std::fmt::{self, Write as _};
use std::io;

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

/// A result as text.
pub fn print(frame: &DataFrame, format: Format) -> String {
    let mut text = Vec::new();
    // Nothing that is written to memory can fail.
    let _ = match format {
        Format::Table => table(frame, &mut text),
        Format::Csv | Format::Json => {
            let mut lines = Lines::new(format, frame.columns().iter().map(|column| column.name()));
            lines.head(&mut text).and_then(|()| lines.rows(frame, &mut text))
        }
    };
    String::from_utf8_lossy(&text).into_owned()
}

/// Text is handed on in pieces of about so many bytes.
const PIECE: usize = 1 << 16;

/// A cell, for reading.
struct Shown<'a, 'b>(&'a AnyValue<'b>);

impl fmt::Display for Shown<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            AnyValue::Null => f.write_str("-"),
            AnyValue::UInt64(bits) => write!(f, "{bits:#x}"),
            AnyValue::Float32(number) => write!(f, "{number:.3}"),
            AnyValue::Float64(number) => write!(f, "{number:.3}"),
            other => Plain(other).fmt(f),
        }
    }
}

/// A cell, for programs.
struct Plain<'a, 'b>(&'a AnyValue<'b>);

impl fmt::Display for Plain<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            AnyValue::Null => Ok(()),
            AnyValue::Boolean(flag) => flag.fmt(f),
            AnyValue::String(text) => f.write_str(text),
            AnyValue::StringOwned(text) => f.write_str(text),
            AnyValue::Int8(number) => number.fmt(f),
            AnyValue::Int16(number) => number.fmt(f),
            AnyValue::Int32(number) => number.fmt(f),
            AnyValue::Int64(number) => number.fmt(f),
            AnyValue::UInt8(number) => number.fmt(f),
            AnyValue::UInt16(number) => number.fmt(f),
            AnyValue::UInt32(number) => number.fmt(f),
            AnyValue::UInt64(number) => number.fmt(f),
            AnyValue::Float32(number) => number.fmt(f),
            AnyValue::Float64(number) => number.fmt(f),
            AnyValue::List(series) => {
                for (at, part) in series.rechunk().iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { ";" } else { "" }, Plain(&part))?;
                }
                Ok(())
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// Hands each row's cells to `see`, by column.
fn rows<E>(
    frame: &DataFrame,
    mut see: impl FnMut(&mut dyn Iterator<Item = AnyValue<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let mut frame = frame.clone();
    frame.rechunk_mut();
    let mut columns: Vec<_> = frame.columns().iter().map(|column| column.as_materialized_series().iter()).collect();
    for _ in 0..frame.height() {
        see(&mut columns.iter_mut().filter_map(Iterator::next))?;
    }
    Ok(())
}

/// Writes aligned columns under a line of names. The cells are made twice: to see how wide they are, and to be written.
pub(super) fn table(frame: &DataFrame, out: &mut dyn io::Write) -> io::Result<()> {
    let names: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
    let numeric: Vec<bool> = frame.columns().iter().map(|column| column.dtype().is_numeric()).collect();
    let mut widths: Vec<usize> = names.iter().map(|name| name.chars().count()).collect();
    let mut cell = String::new();
    rows(frame, |cells| {
        for (value, width) in cells.zip(&mut widths) {
            cell.clear();
            let _ = write!(cell, "{}", Shown(&value));
            *width = (*width).max(if cell.is_ascii() { cell.len() } else { cell.chars().count() });
        }
        io::Result::Ok(())
    })?;
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &dyn fmt::Display>| {
        for (at, value) in cells.enumerate() {
            cell.clear();
            let _ = write!(cell, "{value}");
            let width = widths[at];
            let _ = if numeric[at] { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        if text.len() < PIECE {
            return Ok(());
        }
        out.write_all(std::mem::take(&mut text).as_bytes())
    };
    line(&mut names.iter().map(|name| name as &dyn fmt::Display))?;
    rows(frame, |cells| {
        let values: Vec<AnyValue<'_>> = cells.collect();
        let shown: Vec<Shown<'_, '_>> = values.iter().map(Shown).collect();
        line(&mut shown.iter().map(|shown| shown as &dyn fmt::Display))
    })?;
    out.write_all(text.as_bytes())
}

/// A CSV cell, quoted where it must be.
pub(crate) fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.into() }
}

/// Answers that are printed as they come.
pub(super) struct Lines {
    format: Format,
    /// As they are written.
    names: Vec<String>,
}

impl Lines {
    /// Lines of columns with these names.
    pub(super) fn new<'a>(format: Format, names: impl Iterator<Item = &'a PlSmallStr>) -> Self {
        let written = |name: &PlSmallStr| match format {
            Format::Json => serde_json::Value::from(name.as_str()).to_string(),
            _ => quoted(name),
        };
        Self { format, names: names.map(written).collect() }
    }

    /// The line that comes before all rows, if there is one.
    pub(super) fn head(&self, out: &mut dyn io::Write) -> io::Result<()> {
        match self.format {
            Format::Json => Ok(()),
            _ => out.write_all((self.names.join(",") + "\n").as_bytes()),
        }
    }

    /// Rows, a line each.
    pub(super) fn rows(&mut self, frame: &DataFrame, out: &mut dyn io::Write) -> io::Result<()> {
        let mut text = String::new();
        rows(frame, |cells| {
            match self.format {
                Format::Json => {
                    text.push('{');
                    for (at, (name, value)) in self.names.iter().zip(cells).enumerate() {
                        text.push_str(if at > 0 { "," } else { "" });
                        text.push_str(name);
                        text.push(':');
                        json(&value, &mut text);
                    }
                    text.push_str("}\n");
                }
                _ => {
                    for (at, value) in cells.enumerate() {
                        text.push_str(if at > 0 { "," } else { "" });
                        csv(&value, &mut text);
                    }
                    text.push('\n');
                }
            }
            if text.len() < PIECE {
                return Ok(());
            }
            let written = out.write_all(text.as_bytes());
            text.clear();
            written
        })?;
        out.write_all(text.as_bytes())
    }
}

fn csv(value: &AnyValue<'_>, text: &mut String) {
    let from = text.len();
    let _ = write!(text, "{}", Plain(value));
    let free = matches!(value, AnyValue::String(_) | AnyValue::StringOwned(_) | AnyValue::List(_));
    if free && text[from..].contains([',', '"', '\n', '\r']) {
        let cell = quoted(&text[from..]);
        text.replace_range(from.., &cell);
    }
}

fn json(value: &AnyValue<'_>, text: &mut String) {
    match value {
        AnyValue::Null => text.push_str("null"),
        AnyValue::Float32(number) if !number.is_finite() => text.push_str("null"),
        AnyValue::Float64(number) if !number.is_finite() => text.push_str("null"),
        AnyValue::List(series) => {
            text.push('[');
            for (at, part) in series.rechunk().iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                json(&part, text);
            }
            text.push(']');
        }
        value if value.dtype() == DataType::Boolean || value.dtype().is_numeric() => {
            let _ = write!(text, "{}", Plain(value));
        }
        value => text.push_str(&serde_json::Value::from(Plain(value).to_string()).to_string()),
    }
}
