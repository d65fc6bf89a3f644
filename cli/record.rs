//! `nvmx run` and `nvmx record`: a guest with its console here.

use super::console::Console;
use super::fail::{Failure, MEMORY, Result, Status};
use super::machine::describe;
use super::print::{Print, bytes, of};
use super::words::{MachineArgs, RecordArgs, RunArgs};
use hv::machine::MachineError;
use hv_defs::config::{Config, Guest, Log};
use hv_defs::event::{Stop, StopKind};
use recorder::Error;
use std::path::{Path, PathBuf};

/// `nvmx run`.
pub fn run(args: &RunArgs, print: &Print) -> Result<Status> {
    let machine = describe(&args.machine, Log::Exits)?;
    let mut console = open(&args.machine)?;
    let ran = console.with(|outside| recorder::run(&machine.config, &machine.images, outside));
    let closed = console.close();
    let stop = ran.map_err(|error| failure(error, &machine.name, None))?;
    closed?;
    ended(&machine.config, &stop, print)
}

/// `nvmx record`.
pub fn record(args: &RecordArgs, print: &Print) -> Result<Status> {
    let mut machine = describe(&args.machine, args.log)?;
    super::store::keep(&mut machine.images, &args.store)?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.nvmx", machine.name)));
    let mut console = open(&args.machine)?;
    let keep =
        args.keep.checkpoints.map(|per_mille| recorder::Keep { path: replayer::beside::beside(&path), per_mille });
    let recorded = console
        .with(|outside| recorder::record_keeping(&machine.config, &machine.images, &path, keep.as_ref(), outside));
    let closed = console.close();
    let recorded = recorded.map_err(|error| failure(error, &machine.name, Some(&path)))?;
    closed?;
    let summary = &recorded.summary;
    print.note(format!("recorded {} in {}, {}", of(summary.events, "event"), path.display(), bytes(summary.bytes)));
    if let Some(by_kvm) = recorded.by_kvm {
        print.note(format!("the host's KVM executed {}, the software CPU the others", of(by_kvm, "instruction")));
    }
    recorded.notes.iter().for_each(|note| print.note(note));
    match (&keep, &recorded.checkpoints) {
        (Some(keep), Some(Ok(kept))) => print.note(super::replay::kept(&keep.path, kept)),
        (Some(keep), Some(Err(why))) => {
            print.note(format!("cannot keep checkpoints in {}: {why}", keep.path.display()))
        }
        _ => {}
    }
    ended(&machine.config, &recorded.stop, print)
}

fn open(args: &MachineArgs) -> Result<Console> {
    // Built-in guests have no use for Ctrl-C.
    Console::open(args.input.as_deref(), args.kernel.is_some())
}

/// Says how the run ended, and what that means for the exit status.
fn ended(config: &Config, stop: &Stop, print: &Print) -> Result<Status> {
    let failed = match stop.kind {
        // A guest that is built in gives 0 when all is well, which arrives as status 1. What others mean is theirs.
        StopKind::DebugExit => stop.code != 1 && matches!(config.guest, Guest::BuiltIn(_)),
        StopKind::TripleFault | StopKind::Unsupported | StopKind::Halted => true,
        StopKind::Reset
        | StopKind::PowerOff
        | StopKind::Idle
        | StopKind::MaxInstructions
        | StopKind::StopOn
        | StopKind::World => false,
    };
    if failed {
        super::fail::say(&format!(
            "the guest failed: {}: `nvmx record` and `nvmx dump` show how it came to it",
            stop.text
        ));
        return Ok(Status::Failed);
    }
    print.line(format!("nvmx: {}", stop.text))?;
    Ok(Status::Done)
}

/// What to do where the host's KVM cannot be had.
const KVM: &str =
    "load kvm, be root or in the group that may open it; or use --backend soft, which needs nothing of the host";

/// What went wrong with a run, and what to do about it.
pub fn failure(error: Error, guest: &str, path: Option<&Path>) -> Failure {
    let what = match path {
        Some(path) => format!("cannot record {guest} to {}", path.display()),
        None => format!("cannot run {guest}"),
    };
    match error {
        Error::Machine(error @ MachineError::Host { .. }) => {
            Failure::new(Status::Usage, what, error, format!("use less with --mem, or {MEMORY}"))
        }
        Error::Machine(error) => Failure::new(Status::Usage, what, error, "see `nvmx guests` and `nvmx run --help`"),
        Error::Host(error) => Failure::new(Status::Usage, what, error, KVM),
        Error::ImageMissing { .. } => Failure::new(Status::Usage, what, error, "name the store that has it by --store"),
        Error::Image(source) => Failure::new(Status::Usage, what, source, "`nvmx verify` says what is whole"),
        Error::Busy => {
            let hint = "name another file by -o, or end the other recording first";
            Failure::new(Status::Usage, what, error, hint)
        }
        Error::Gone => Failure::new(Status::Failed, what, error, "record it again, and leave the file where it is"),
        Error::Trace { source: source @ traces::Error::TooLarge(_), .. } => {
            Failure::new(Status::Usage, what, source, "keep the images in a store by --store")
        }
        Error::Thread(_) => Failure::new(Status::Failed, what, error, super::fail::THREADS),
        Error::Trace { source: source @ traces::Error::Thread(_), .. } => {
            Failure::new(Status::Failed, what, source, super::fail::THREADS)
        }
        Error::Create { source, .. } => Failure::new(Status::Usage, what, source, "name a file that can be written"),
        Error::Trace { events, source } => {
            // zstd says so.
            let hint = match source.to_string().contains("not enough memory") {
                true => MEMORY,
                false => "make room",
            };
            let left = match events {
                0 => String::new(),
                _ => "; up to its last whole block, the trace can be read".into(),
            };
            Failure::new(Status::Failed, what, source, format!("{hint} and record again{left}"))
        }
    }
}
