//! `nvmx export`: traces as files for other tools.

use super::fail::{Failure, Result, Status};
use super::perfetto;
use super::print::{Print, bytes, of};
use super::study::failure;
use super::trace::open;
use super::words::{ExportArgs, To};
use analyzer::export::{Dataset, Format};
use std::path::Path;

/// `nvmx export`.
pub fn export(args: &ExportArgs, print: &Print) -> Result<Status> {
    match args.to {
        To::Parquet => dataset(args, Format::Parquet, print),
        To::Arrow => dataset(args, Format::Arrow, print),
        To::Csv => dataset(args, Format::Csv, print),
        To::Perfetto => perfetto::export(&args.traces, &args.output, print),
    }
}

/// A folder with the tables of all traces.
fn dataset(args: &ExportArgs, format: Format, print: &Print) -> Result<Status> {
    let inside = |path: &Path| path.canonicalize().ok().zip(args.output.canonicalize().ok());
    if let Some(path) = args.traces.iter().find(|path| inside(path).is_some_and(|(a, b)| a == b)) {
        let what = format!("cannot export {}", path.display());
        return Err(Failure::new(Status::Usage, what, "-o is the trace itself", "name a folder"));
    }
    // A trace that is none is found before anything is made. Images are hashed at each opening: one trace is opened once.
    let [first, others @ ..] = &args.traces[..] else { return Ok(Status::Done) };
    let mut opened = Some(open(first, print)?);
    for path in others {
        open(path, &Print::silent())?;
    }
    let mut dataset = Dataset::open(&args.output, format).map_err(|error| failure(&args.output, error))?;
    for path in &args.traces {
        let reader = match opened.take() {
            Some(reader) => reader,
            None => open(path, print)?,
        };
        let bar = print.progress("exporting", reader.len());
        let added =
            dataset.add(path, &reader, |events| bar.set_position(events)).map_err(|error| failure(path, error))?;
        bar.finish_and_clear();
        print.note(format!(
            "exported {} to {}, as trace={}{}: {}, {}",
            path.display(),
            args.output.display(),
            added.name,
            if added.replaced { ", in the place of another" } else { "" },
            of(added.rows, "row"),
            bytes(added.bytes)
        ));
    }
    Ok(Status::Done)
}
