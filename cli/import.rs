//! `nvmx import`: what another tool recorded, as a trace.

use super::fail::{Failure, Result, Status};
use super::print::{Print, bytes, count, of};
use super::words::ImportArgs;
use recorder::import::ImportError;

/// `nvmx import`.
pub fn import(args: &ImportArgs, print: &Print) -> Result<Status> {
    let imported =
        recorder::import::import(&args.file, args.from, &args.output).map_err(|error| failure(args, error))?;
    let summary = &imported.summary;
    print.note(format!(
        "imported {} to {}, {}",
        of(summary.events, "event"),
        args.output.display(),
        bytes(summary.bytes)
    ));
    if !imported.unmapped.is_empty() {
        let names: Vec<_> =
            imported.unmapped.iter().map(|(name, records)| format!("{name} {}", count(*records))).collect();
        print.note(format!("without a counterpart among our events, and left out: {}", names.join(", ")));
    }
    Ok(Status::Done)
}

fn failure(args: &ImportArgs, error: ImportError) -> Failure {
    let what = format!("cannot import {}", args.file.display());
    let (status, hint) = match &error {
        ImportError::Read(_) => (Status::Usage, "name a file that can be read"),
        ImportError::Line { .. } | ImportError::Nothing(_) => {
            (Status::Usage, "see --from, and docs/import.md for what each reads")
        }
        ImportError::Tool { .. } => (Status::Usage, "its own tool reads the file for us"),
        ImportError::SameFile => (Status::Usage, "name another -o"),
        ImportError::Create { .. } => (Status::Usage, "name a file that can be written"),
        ImportError::Trace(traces::Error::Thread(_)) => (Status::Failed, super::fail::THREADS),
        ImportError::Trace(_) => (Status::Failed, "make room and import again"),
    };
    Failure::new(status, what, error, hint)
}
