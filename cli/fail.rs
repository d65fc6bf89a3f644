//! Errors as a user meets them: one line that says what was attempted, why it failed and what to do.

use super::memory;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Done, and all held.
    Done,
    /// The answer is no: diverged, gate failed, damaged.
    No,
    /// Wrong usage or unreadable input.
    Usage,
    /// The guest or the machine failed.
    Failed,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// An error with its exit status.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    error: anyhow::Error,
    hint: Option<String>,
    /// Lines for who looks at a terminal, behind the one.
    picture: Option<String>,
}

/// What a command comes to.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// What was attempted, why it failed, and what to do.
    pub fn new(status: Status, what: impl fmt::Display, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self { status, error: anyhow::anyhow!("{what}: {why}"), hint: Some(hint.into()), picture: None }
    }

    /// The same, after something else that is worth knowing.
    pub fn after(self, first: impl fmt::Display) -> Self {
        Self { error: self.error.context(first.to_string()), ..self }
    }

    /// The same, with lines that show the mistake, for who looks at a terminal.
    pub fn with_picture(self, picture: String) -> Self {
        Self { picture: Some(picture), ..self }
    }

    /// What was attempted and why it failed, in one line, without what to do.
    pub fn cause(&self) -> String {
        // A cause often repeats the words of the one above it.
        let mut line = String::new();
        for cause in self.error.chain().map(|cause| cause.to_string()) {
            if !line.ends_with(&cause) {
                if !line.is_empty() {
                    line.push_str(": ");
                }
                line.push_str(&cause);
            }
        }
        line
    }

    /// Prints the line, unless it is only that nobody reads on; returns the exit status.
    pub fn report(self) -> Status {
        let quiet = self.error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        });
        if quiet {
            return Status::Done;
        }
        let mut line = self.cause();
        if let Some(hint) = &self.hint {
            line.push_str(": ");
            line.push_str(hint);
        }
        say(&line);
        if let Some(picture) = self.picture.filter(|_| io::stderr().is_terminal()) {
            let _ = writeln!(io::stderr(), "{picture}");
        }
        self.status
    }
}

/// Gives an error its status and, if there is something to do about it, a hint.
pub trait Fails<T> {
    /// The exit status, and what was attempted.
    fn or_fail(self, status: Status, what: impl fmt::Display) -> Result<T>;
    /// As [`Fails::or_fail`], and what to do about it.
    fn or_hint(self, status: Status, what: impl fmt::Display, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Fails<T> for std::result::Result<T, E> {
    fn or_fail(self, status: Status, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure {
            status,
            error: error.into().context(what.to_string()),
            hint: None,
            picture: None,
        })
    }

    fn or_hint(self, status: Status, what: impl fmt::Display, hint: impl Into<String>) -> Result<T> {
        self.or_fail(status, what).map_err(|failure| Failure { hint: Some(hint.into()), ..failure })
    }
}

impl From<io::Error> for Failure {
    /// Of what is printed to stdout; all else says what was attempted.
    fn from(error: io::Error) -> Self {
        let error = anyhow::Error::from(error).context("cannot write the output");
        Self { status: Status::Failed, error, hint: None, picture: None }
    }
}

/// What it means that something could not be written, and what to do: another name will do for a place that cannot be written
/// to, and on a disk that is full there is none.
pub fn of_writing(error: &io::Error) -> (Status, &'static str) {
    use io::ErrorKind;
    let place = matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::ResourceBusy
    );
    if place {
        (Status::Usage, "name a place that can be written to")
    } else {
        (Status::Failed, "make room and try again")
    }
}

/// What to do where there is no more memory.
pub const MEMORY: &str = "raise the limit on memory (`ulimit -v`) or end other programs";

/// What to do where there can be no more threads.
pub const THREADS: &str = "raise the limits on processes and memory (`ulimit -u`, `ulimit -v`) or end other programs";

/// Prints one line on stderr. What cannot be written there cannot be told anywhere.
pub fn say(line: &str) {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    // At once, so that nothing comes between.
    let _ = io::stderr().write_all(format!("nvmx: {}\n", traces::plain(&line)).as_bytes());
}

/// Prints help where it was asked for, else the mistake in one line.
pub fn usage(error: &clap::Error) -> Status {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => Status::Done,
            Err(error) => Failure::from(error).report(),
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Status::Usage;
    }
    // clap's first paragraph is the mistake, then come tips, the usage and a pointer to the help.
    let text = error.to_string();
    let mut parts = text.split("\n\n").map(str::trim);
    let mistake = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let tip = parts.clone().find_map(|part| part.strip_prefix("tip: "));
    let usage = parts.find_map(|part| part.strip_prefix("Usage: ")).unwrap_or("nvmx");
    let command: Vec<_> = usage.split(' ').take(2).filter(|word| word.starts_with(char::is_lowercase)).collect();
    let tip = tip.map(|tip| format!("{tip}, or ")).unwrap_or_default();
    say(&format!("{mistake}: {tip}see `{} --help`", command.join(" ")));
    Status::Usage
}

/// The signals that end a recording in order: of a user, of a system that goes down, and of a terminal that goes away, unless
/// whoever started us has that passed over, as `nohup` does.
pub fn ending_signals() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let hangup = 1 << (SIGHUP - 1);
    match ignored.is_some_and(|ignored| ignored & hangup != 0) {
        true => vec![SIGINT, SIGTERM],
        false => vec![SIGINT, SIGTERM, SIGHUP],
    }
}

/// Has a write beyond the limit on a file's size (`ulimit -f`) fail, as on a full disk. By default its signal kills.
pub fn outlive_full_files() {
    let noted = std::sync::Arc::default();
    // Where it cannot be, the signal kills as ever.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, noted);
}

/// Says that there is not enough of something to go on, unless that was said: what falls over behind it says nothing. Takes no
/// memory. It is said when this returns, or soon, by whoever was first.
pub fn say_the_end(line: fmt::Arguments<'_>) {
    if !ENDING.swap(true, Ordering::SeqCst) {
        let mut text = [0; 300];
        let mut rest = &mut text[..];
        // What does not fit is left out.
        let _ = writeln!(rest, "nvmx: cannot go on: {line}");
        let left = rest.len();
        let _ = io::stderr().write_all(&text[..text.len() - left]);
        SAID.store(true, Ordering::SeqCst);
    }
    // Another thread may be about to.
    for _ in 0..100 {
        if SAID.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

static ENDING: AtomicBool = AtomicBool::new(false);
static SAID: AtomicBool = AtomicBool::new(false);

/// Turns a panic, which is a bug of ours, into one line.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref().copied());
        let what = text.unwrap_or("no message");
        if what.contains("Resource temporarily unavailable") {
            // Others' crates start threads in ways that have no other answer.
            say_the_end(format_args!("there can be no more threads: {THREADS}"));
            return;
        }
        // zstd asks C's allocator and panics where that says no, as others do where the kernel says so.
        if what.starts_with("zstd returned null pointer") || what.contains("Cannot allocate memory") {
            memory::end_for_want_of(format_args!("what is to be done"));
        }
        if ENDING.load(Ordering::SeqCst) {
            return;
        }
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        say(&format!(
            "internal error{place}: {what}: this is a bug in nvmx {}; please report it with the command line",
            env!("CARGO_PKG_VERSION")
        ));
    }));
}
