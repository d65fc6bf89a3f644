//! A file that takes rows.

use super::arrow::Arrow;
use super::csv;
use super::parquet::Parquet;
use super::rows::Rows;
use std::io::{self, Write};

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Apache Parquet, compressed with zstd.
    Parquet,
    /// Arrow's file format, also called Feather version 2, compressed with zstd.
    Arrow,
    /// Comma-separated values under a line of names; nulls are empty.
    Csv,
}

impl Format {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Parquet, Self::Arrow, Self::Csv];

    /// Its name, which is the usual ending of its files' names too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Csv => "csv",
        }
    }
}

/// Of zstd: levels above cost more time than they save bytes on columns of numbers.
const LEVEL: i32 = 1;

/// Writes rows of a table to `out`.
pub struct Sink<W> {
    out: W,
    file: File,
}

enum File {
    Parquet(Parquet),
    Arrow(Arrow),
    Csv,
}

impl<W: Write> Sink<W> {
    /// Begins a file for rows such as these, none of which are written.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn new(mut out: W, format: Format, rows: &Rows) -> io::Result<Self> {
        let file = match format {
            Format::Parquet => File::Parquet(Parquet::new(&mut out, LEVEL)?),
            Format::Arrow => File::Arrow(Arrow::new(&mut out, rows, LEVEL)?),
            Format::Csv => {
                out.write_all(csv::head(rows.fields()).as_bytes())?;
                File::Csv
            }
        };
        Ok(Self { out, file })
    }

    /// Writes rows behind those before, as one group.
    ///
    /// # Errors
    /// `out` takes no more, or the rows are more than a group of the format can hold.
    pub fn write(&mut self, rows: &Rows) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        match &mut self.file {
            File::Parquet(file) => file.group(&mut self.out, rows),
            File::Arrow(file) => file.group(&mut self.out, rows),
            File::Csv => {
                let mut text = Vec::new();
                csv::lines(rows, &mut text);
                self.out.write_all(&text)
            }
        }
    }

    /// Where the file goes. What was written there is not looked at again.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the file. `rows` are as those it was begun for.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn finish(mut self, rows: &Rows) -> io::Result<W> {
        match self.file {
            File::Parquet(file) => file.finish(&mut self.out, rows.fields())?,
            File::Arrow(file) => file.finish(&mut self.out, rows.fields())?,
            File::Csv => {}
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
