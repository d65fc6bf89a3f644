//! A file that takes rows.

use super::csv;
use super::rows::{Field, Rows};
use std::io::{self, Write};

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Comma-separated values under a line of names; nulls are empty.
    Csv,
}

impl Format {
    /// Its name, which is the usual ending of its files' names too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
        }
    }
}

/// Writes rows of a table to `out`.
#[derive(Debug)]
pub struct Sink<W> {
    out: W,
    format: Format,
}

impl<W: Write> Sink<W> {
    /// Begins a file with these columns.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn new(mut out: W, format: Format, fields: &[Field]) -> io::Result<Self> {
        match format {
            Format::Csv => out.write_all(csv::head(fields).as_bytes())?,
        }
        Ok(Self { out, format })
    }

    /// Writes rows behind those before.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn write(&mut self, rows: &Rows) -> io::Result<()> {
        match self.format {
            Format::Csv => {
                let mut text = Vec::new();
                csv::lines(rows, &mut text);
                self.out.write_all(&text)
            }
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}
