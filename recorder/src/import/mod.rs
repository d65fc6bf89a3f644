//! Foreign traces in, a trace of ours out.
//!
//! One file for each source says what its records mean; here is what they share. A source is read as a stream, so that
//! memory does not grow with it. What a source does not tell is left at its "none", never made up, and what has no
//! counterpart among our events is counted by name.

mod iris;
mod kvm;
mod line;
mod tool;

use hv_defs::config::{Clock, Config, Guest, Origin, Source};
use hv_defs::event::Event;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use traces::{Header, Summary, WholeFile, Writer};

/// Why a foreign trace could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file could not be read.
    #[error("{0}")]
    Read(io::Error),
    /// A line does not say what it should.
    #[error("line {line}: {why}")]
    Line {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The tool that prints the file could not be run, or failed.
    #[error("`{command}` {why}")]
    Tool {
        /// Its command line.
        command: String,
        /// What went wrong.
        why: String,
    },
    /// There is nothing in it to import.
    #[error("{0}")]
    Nothing(String),
    /// The trace and the file to import are the same file.
    #[error("it is the file to import")]
    SameFile,
    /// The trace could not be created.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The trace could not be written.
    #[error("{0}")]
    Trace(#[from] traces::Error),
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// What was written.
    pub summary: Summary,
    /// Records without a counterpart among our events, by name.
    pub unmapped: BTreeMap<String, u64>,
}

/// Imports the foreign trace `from` into `to`, which is replaced when the new one is whole.
pub fn import(from: &Path, source: Source, to: &Path) -> Result<Imported, ImportError> {
    let mut tool = None;
    let input: Box<dyn Read> = match source {
        Source::Iris => Box::new(File::open(from).map_err(ImportError::Read)?),
        Source::TraceCmd | Source::Perf => match tool::open(from, source)? {
            tool::Opened::Text(file) => Box::new(file),
            tool::Opened::Printed(mut printing) => {
                let printed = printing.output()?;
                tool = Some(printing);
                printed
            }
        },
    };
    let same = |path: &Path| path.canonicalize().ok();
    if same(from).is_some() && same(from) == same(to) {
        return Err(ImportError::SameFile);
    }
    let create = |source| ImportError::Create { path: to.to_owned(), source };
    // A part of a trace would be taken for the whole.
    let mut file = WholeFile::create(to).map_err(create)?;
    let name = from.file_name().unwrap_or(from.as_os_str()).to_string_lossy().into_owned();
    let imported = import_text(input, source, &name, BufWriter::new(&mut file));
    // What the tool complains of says more than what is missing from its text.
    let imported = match tool {
        Some(tool) => tool.end().and(imported),
        None => imported,
    };
    let imported = imported?;
    file.finish().map_err(|source| ImportError::Trace(traces::Error::Write(source)))?;
    Ok(imported)
}

/// Imports what a foreign trace says as text: of trace-cmd and perf, what their own tools print. `name` is the file's.
pub fn import_text(from: impl Read, source: Source, name: &str, out: impl io::Write) -> Result<Imported, ImportError> {
    let lines = Lines::new(from);
    match source {
        Source::Iris => iris::import(lines, name, out),
        Source::TraceCmd | Source::Perf => kvm::import(lines, source, name, out),
    }
}

/// The header of a trace that was imported: its configuration names the file, and says nothing else.
pub(crate) fn header(source: &str, name: &str, clock: Clock, note: &str) -> Header {
    let config = Config::new(Guest::Kernel { name: name.to_owned(), append: String::new() });
    let origin = Origin { source: source.into(), name: name.into(), clock, note: note.into() };
    Header { origin: Some(origin), ..Header::new(config, Vec::new()) }
}

/// Writes the events, and counts what none was made of.
struct Sink<W: io::Write> {
    writer: Writer<W>,
    unmapped: BTreeMap<String, u64>,
}

impl<W: io::Write> Sink<W> {
    fn create(out: W, header: &Header) -> Result<Self, ImportError> {
        Ok(Self { writer: Writer::create(out, header)?, unmapped: BTreeMap::new() })
    }

    fn push(&mut self, event: &Event) -> Result<(), ImportError> {
        Ok(self.writer.push(event)?)
    }

    fn finish(mut self) -> Result<Imported, ImportError> {
        Ok(Imported { summary: self.writer.finish()?, unmapped: self.unmapped })
    }
}

/// Lines of at most [`Lines::LONGEST`] bytes, counted.
struct Lines<R> {
    from: BufReader<R>,
    number: u64,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Longer than any line of any source.
    const LONGEST: u64 = 1 << 16;

    fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(1 << 18, from), number: 0, line: Vec::new() }
    }

    /// The next line without its end; `None` behind the last. What is not UTF-8 in it is replaced.
    fn next(&mut self) -> Result<Option<std::borrow::Cow<'_, str>>, ImportError> {
        self.line.clear();
        let read = (&mut self.from).take(Self::LONGEST).read_until(b'\n', &mut self.line).map_err(ImportError::Read)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 == Self::LONGEST {
            return Err(self.wrong(format!("it is longer than {} bytes", Self::LONGEST)));
        }
        Ok(Some(String::from_utf8_lossy(self.line.trim_ascii_end())))
    }

    /// That the line read last is wrong.
    fn wrong(&self, why: impl Into<String>) -> ImportError {
        ImportError::Line { line: self.number, why: why.into() }
    }
}
