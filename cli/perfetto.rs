//! `nvmx export --to perfetto`: a trace for ui.perfetto.dev.

use super::fail::{Failure, Result, Status};
use super::print::{Print, bytes, of};
use super::study::failure;
use super::trace::open;
use super::written::Written;
use analyzer::export::perfetto::{self, PerfettoError};
use std::io;
use std::path::Path;

/// Writes one file of one trace. What cannot be written whole is not left behind.
pub fn export(traces: &[impl AsRef<Path>], output: &Path, print: &Print) -> Result<Status> {
    let [path] = traces else {
        let what = format!("cannot export {} to {}", of(traces.len() as u64, "trace"), output.display());
        return Err(Failure::new(Status::Usage, what, "Perfetto's files hold one", "export them one by one"));
    };
    let path = path.as_ref();
    let reader = open(path, print)?;
    let same = |path: &Path| path.canonicalize().ok();
    if same(path).is_some() && same(path) == same(output) {
        let what = format!("cannot export {}", path.display());
        return Err(Failure::new(Status::Usage, what, "-o is the trace itself", "name another file"));
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let file = Written::create(output).map_err(|error| refused(output, &error))?;
    let written = write(&name, &reader, file).map_err(|error| match error {
        PerfettoError::Read(error) => failure(path, error),
        PerfettoError::Write(error) => refused(output, &error),
    })?;
    print.note(format!(
        "exported {} to {}, {}: open it at https://ui.perfetto.dev",
        of(written.events, "event"),
        output.display(),
        bytes(written.bytes)
    ));
    Ok(Status::Done)
}

fn write(
    name: &str,
    reader: &traces::Reader,
    mut to: Written,
) -> std::result::Result<perfetto::Written, PerfettoError> {
    let written = perfetto::write(name, reader.into(), &mut to)?;
    to.finish()?;
    Ok(written)
}

fn refused(output: &Path, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let (status, hint) = if full {
        (Status::Failed, "make room and export again")
    } else {
        (Status::Usage, "name a file that can be written")
    };
    Failure::new(status, format!("cannot write {}", output.display()), error, hint)
}
