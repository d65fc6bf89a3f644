//! `nvmx query`: SQL over the tables of a trace, or of a folder of traces.

use super::fail::{Failure, Result, Status, say};
use super::folder::{self, Named};
use super::print::{Print, of};
use super::study::{failure, verdicts};
use super::trace::open;
use super::words::{JudgeArgs, QueryArgs, QueryFormat};
use super::written::Written;
use analyzer::query::{Out, tables_of, write, write_parquet};
use analyzer::tables::Verdicts;
use analyzer::{Error, Format, Tables, schema};
use hv_defs::config::Log;
use hv_defs::event::Kind;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::PathBuf;
use std::sync::Arc;
use traces::Reader;

/// `nvmx query`.
pub fn query(args: &QueryArgs, print: &Print) -> Result<Status> {
    let path = &args.trace;
    let files = if path.is_dir() { folder::traces(std::slice::from_ref(path))? } else { Vec::new() };
    let reader = if path.is_dir() { None } else { Some(open(path, print)?) };
    let Some(sql) = &args.sql else {
        return super::study::give(args.output.as_deref(), listing(reader.as_ref(), files.len()).as_bytes());
    };
    if args.format == QueryFormat::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        let what = format!("cannot print the answer of {}", path.display());
        return Err(Failure::new(Status::Usage, what, "Parquet is no text", "name a file with -o"));
    }
    // A second execution is a long answer to a question about something else.
    let judged = sql.to_ascii_lowercase().contains("flushes");
    let why_not = reader.as_ref().map(|reader| reader.header().clone());
    let tables = match reader {
        Some(mut reader) => {
            let tried = if judged { verdicts(&args.judge, path, &mut reader, print)? } else { None };
            let given = tried.map(|tried| -> Verdicts { Arc::new(move |_| Ok(Some(tried.verdicts.clone()))) });
            Tables::read(reader).with_verdicts(given)
        }
        None => Tables::of_files(files.iter().map(named)).with_verdicts(judged.then(|| replays(&args.judge, &files))),
    };
    answer(&tables, sql, args)?;
    for table in tables_of(sql).into_iter().filter(|table| tables.is_empty(table)) {
        print.note(format_args!("the table {} has no rows in this trace: {}", table.name, absent(table, &why_not)));
    }
    let broken = tables.broken();
    for (trace, why) in &broken {
        say(&format!("{} is passed over: {why}", files[*trace].path.display()));
    }
    if !broken.is_empty() {
        say(&format!("{} of {} are not in the answer", broken.len(), of(files.len() as u64, "trace")));
    }
    Ok(if broken.is_empty() { Status::Done } else { Status::No })
}

/// Why a trace has no rows of a table.
fn absent(table: &schema::Table, header: &Option<traces::Header>) -> String {
    let Some(header) = header else { return "nothing of the kind happened".into() };
    match (&header.origin, table.kind, header.config.log) {
        (Some(origin), ..) => format!("it was {}, which may not tell of them", origin.whence()),
        (None, Kind::Vmcs, Log::Exits) => "it was recorded with --log exits".into(),
        (None, Kind::Answer, Log::Exits | Log::Vmcs) => "only --log l0 records them".into(),
        (None, Kind::Registers, _) => "only imported traces have them".into(),
        _ => "nothing of the kind happened".into(),
    }
}

/// A trace of a folder, with what the column `trace` has of it.
fn named(one: &Named) -> (String, PathBuf) {
    let ending = format!(".{}", folder::ENDING);
    (one.name.strip_suffix(&ending).unwrap_or(&one.name).to_owned(), one.path.clone())
}

/// The tables and their columns.
fn listing(reader: Option<&Reader>, files: usize) -> String {
    let mut text = String::new();
    if let Some(origin) = reader.and_then(|reader| reader.header().origin.as_ref()) {
        text.push_str(&format!(
            "-- The trace was {}: `instruction` counts {}.\n-- What the source does not tell of has no rows.\n",
            origin.whence(),
            origin.clock
        ));
    }
    if reader.is_none() {
        text.push_str(&format!("-- {}: each table has the rows of all.\n", of(files as u64, "trace")));
    }
    for table in schema::TABLES {
        text.push_str(&format!("{}: {}\n", table.name, table.about));
        for column in reader.is_none().then_some(schema::TRACE).into_iter().chain(table.columns()) {
            text.push_str(&format!("    {:<16} {:<8} {}\n", column.name, column.form, column.about));
        }
    }
    text
}

/// Second executions of the traces of a folder, each when its flushes are asked for.
fn replays(args: &JudgeArgs, files: &[Named]) -> Verdicts {
    let (args, files) = (args.clone(), files.to_vec());
    Arc::new(move |trace| {
        let path = &files[trace].path;
        let mut reader = Reader::open(path)?;
        let tried = verdicts(&args, path, &mut reader, &Print::silent())
            .map_err(|failure| Error::Table { table: "flushes".into(), why: failure.cause() })?;
        Ok(tried.map(|tried| tried.verdicts))
    })
}

/// Answers the query to where it is to go.
fn answer(tables: &Tables, sql: &str, args: &QueryArgs) -> Result<()> {
    let to = |out: &mut dyn Out| match args.format {
        QueryFormat::Table => write(tables, sql, Format::Table, out),
        QueryFormat::Csv => write(tables, sql, Format::Csv, out),
        QueryFormat::Json => write(tables, sql, Format::Json, out),
        QueryFormat::Parquet => write_parquet(tables, sql, out),
    };
    let wrong = |error: Error| {
        let place = error.place();
        let failure = failure(&args.trace, error);
        match place {
            Some(place) => failure.with_picture(picture(sql, place)),
            None => failure,
        }
    };
    match &args.output {
        None => {
            let mut out = Printed { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), begun: false };
            to(&mut out).map_err(wrong)?;
            out.flush()?;
        }
        Some(path) => {
            let failed = |error: io::Error| {
                let what = format!("cannot write {}", path.display());
                Failure::new(Status::Failed, what, error, "make room, or name a file that can be written")
            };
            let mut out = Written::create(path).map_err(failed)?;
            let written = to(&mut out).and_then(|_| out.finish().map_err(Error::Output));
            match written {
                Err(Error::Output(error)) => return Err(failed(error)),
                written => written.map_err(wrong)?,
            }
        }
    }
    Ok(())
}

/// The line of a query with what is wrong, and a mark under the place.
fn picture(sql: &str, (line, column): (u64, u64)) -> String {
    let Some(text) = sql.lines().nth(line as usize - 1) else { return String::new() };
    let blank: String = text.chars().take(column as usize - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
    format!("    {text}\n    {blank}^")
}

/// Stdout.
struct Printed {
    out: BufWriter<StdoutLock<'static>>,
    begun: bool,
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun |= !bytes.is_empty();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Out for Printed {
    fn rewind(&mut self) -> io::Result<bool> {
        Ok(!self.begun)
    }
}
