//! The tool that made a binary trace prints it as text: its own reader knows every version of its format.

use super::ImportError;
use hv_defs::config::Source;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};

/// The most that is kept of what a tool says on its standard error.
const SAID: u64 = 4096;

/// A foreign trace.
pub(super) enum Opened {
    /// It is text.
    Text(File),
    /// Its tool prints it.
    Printed(Printing),
}

/// A tool at work.
pub(super) struct Printing {
    command: String,
    child: Child,
    said: Option<JoinHandle<String>>,
}

/// Opens a trace of `trace-cmd` or `perf`: the binary file, or the text of `trace-cmd report` or `perf script`.
pub(super) fn open(path: &Path, source: Source) -> Result<Opened, ImportError> {
    let mut file = File::open(path).map_err(ImportError::Read)?;
    let mut magic = Vec::new();
    (&mut file).take(10).read_to_end(&mut magic).map_err(ImportError::Read)?;
    let trace_dat = magic.starts_with(b"\x17\x08\x44tracing");
    let perf_data = magic.starts_with(b"PERFILE2") || magic.starts_with(b"2ELIFREP");
    let (mut command, shown) = match source {
        Source::TraceCmd if trace_dat => {
            let mut command = Command::new("trace-cmd");
            // In the kernel's own words (-N), which say in which base a number is. trace-cmd's plugins and its raw numbers
            // (-R) do not, and both differ from version to version.
            command.args(["report", "-N", "-t", "-i"]).arg(path);
            (command, "trace-cmd report")
        }
        Source::Perf if perf_data => {
            let mut command = Command::new("perf");
            // The process tells virtual machines apart.
            command
                .args(["script", "--ns", "--show-lost-events", "-F", "comm,pid,tid,cpu,time,event,trace", "-i"])
                .arg(path);
            (command, "perf script")
        }
        _ if trace_dat || perf_data => {
            let other = if trace_dat { Source::TraceCmd } else { Source::Perf };
            return Err(ImportError::Nothing(format!("it is a file of {other}")));
        }
        _ => {
            file.rewind().map_err(ImportError::Read)?;
            return Ok(Opened::Text(file));
        }
    };
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| ImportError::Tool {
        command: shown.into(),
        why: format!("cannot be run: {error}; install it, or import the text that it prints elsewhere"),
    })?;
    // Read beside, so that the tool never waits for it.
    let listen = |mut stderr: ChildStderr| {
        thread::Builder::new().name("tool".into()).spawn(move || {
            let mut said = Vec::new();
            let _ = (&mut stderr).take(SAID).read_to_end(&mut said);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&said).into_owned()
        })
    };
    let said = child.stderr.take().map(listen).transpose().map_err(|error| {
        let _ = child.kill().and_then(|()| child.wait());
        ImportError::Trace(traces::Error::Thread(error))
    })?;
    Ok(Opened::Printed(Printing { command: shown.into(), child, said }))
}

impl Printing {
    /// What it prints. There is one.
    pub(super) fn output(&mut self) -> Result<Box<dyn Read>, ImportError> {
        match self.child.stdout.take() {
            Some(stdout) => Ok(Box::new(stdout)),
            None => Err(self.failed("prints nothing".into())),
        }
    }

    /// Waits for its end. Whoever read its output is through with it, or has dropped it.
    pub(super) fn end(mut self) -> Result<(), ImportError> {
        let status = self.child.wait().map_err(ImportError::Read)?;
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        // A tool whose output was dropped dies of SIGPIPE, and then the reader has the reason.
        if status.success() || status.code().is_none() {
            return Ok(());
        }
        let last =
            said.lines().map(str::trim_ascii).rfind(|line| !line.is_empty()).unwrap_or("says nothing").to_owned();
        Err(self.failed(format!("failed: {last}")))
    }

    fn failed(&self, why: String) -> ImportError {
        ImportError::Tool { command: self.command.clone(), why }
    }
}
