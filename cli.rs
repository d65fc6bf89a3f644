//! The command line: the words that `nvmx` takes, and which function each leads to.
//!
//! Parsing, dispatch and printing live here and in the files beside; what the words mean is the libraries'.

pub mod fail;
#[cfg(feature = "analysis")]
mod folder;
pub mod machine;
pub mod memory;
pub mod print;
pub mod words;

#[cfg(feature = "live")]
mod attach;
#[cfg(feature = "analysis")]
mod batch;
#[cfg(feature = "analysis")]
mod bench;
#[cfg(feature = "analysis")]
mod check;
mod console;
#[cfg(feature = "analysis")]
mod demo;
mod diff;
mod dump;
#[cfg(feature = "analysis")]
mod export;
mod guests;
#[cfg(feature = "live")]
mod host;
mod import;
mod l0;
mod manual;
mod part;
#[cfg(feature = "analysis")]
mod perfetto;
#[cfg(feature = "analysis")]
mod query;
mod record;
mod replay;
mod seek;
mod store;
#[cfg(feature = "analysis")]
mod study;
mod trace;
#[cfg(feature = "analysis")]
mod whatif;
#[cfg(feature = "analysis")]
mod written;

use clap::CommandFactory;
use fail::{Result, Status};
use print::Print;
use words::{Cli, Command};

/// Parses `args`, does what they say and returns the exit status.
pub fn run(args: Vec<std::ffi::OsString>) -> Status {
    let command = Cli::command().color(words::color_of(&args));
    let cli = match command
        .try_get_matches_from(args)
        .and_then(|matches| <Cli as clap::FromArgMatches>::from_arg_matches(&matches))
    {
        Ok(cli) => cli,
        Err(error) => return fail::usage(&error),
    };
    let print = Print::new(&cli.manner);
    match dispatch(cli.command, &print) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command, print: &Print) -> Result<Status> {
    match command {
        Command::Guests => guests::guests(print),
        Command::Run(args) => record::run(&args, print),
        Command::Record(args) => record::record(&args, print),
        Command::Replay(args) => replay::replay(&args, print),
        Command::Diff(args) => diff::diff(&args, print),
        Command::Dump(args) => dump::dump(&args, print),
        Command::Info(args) => match &args.trace {
            Some(path) => trace::info(path, &args, print),
            None => host(args.json, print),
        },
        Command::Verify(args) => trace::verify(&args, print),
        Command::Store(args) => store::store(&args, print),
        Command::Attach(args) => attach(&args, print),
        Command::Import(args) => import::import(&args, print),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        command => analyse(command, print),
    }
}

/// The commands that need the analyzer.
#[cfg(feature = "analysis")]
fn analyse(command: Command, print: &Print) -> Result<Status> {
    match command {
        Command::Demo(args) => demo::demo(&args, print),
        Command::Whatif(args) => whatif::whatif(&args, print),
        Command::Report(args) => study::report(&args, print),
        Command::Query(args) => query::query(&args, print),
        Command::Check(args) => check::check(&args, print),
        Command::Tui(args) => study::tui(&args, print),
        Command::Export(args) => export::export(&args, print),
        Command::Bench(args) => bench::bench(&args, print),
        _ => unreachable!("every other command is dispatched"),
    }
}

/// That they are left out.
#[cfg(not(feature = "analysis"))]
fn analyse(_: Command, _: &Print) -> Result<Status> {
    left_out("analysis", "take the trace to a full build")
}

/// KVM on this host, recorded.
#[cfg(feature = "live")]
fn attach(args: &words::AttachArgs, print: &Print) -> Result<Status> {
    attach::attach(args, print)
}

/// That it is left out.
#[cfg(not(feature = "live"))]
fn attach(_: &words::AttachArgs, _: &Print) -> Result<Status> {
    left_out("live", "take a build with it, which Linux on x86-64 can have")
}

/// What this host can do.
#[cfg(feature = "live")]
fn host(json: bool, print: &Print) -> Result<Status> {
    host::info(json, print)
}

/// That nothing can be asked of it.
#[cfg(not(feature = "live"))]
fn host(_: bool, _: &Print) -> Result<Status> {
    left_out("live", "name a trace, or take a build with it, which Linux on x86-64 can have")
}

/// What a smaller build says of what it lacks.
#[cfg(not(all(feature = "analysis", feature = "live")))]
fn left_out(feature: &str, way_out: &str) -> Result<Status> {
    let (what, why) = ("this nvmx cannot do that", format!("it was built without the feature `{feature}`"));
    Err(fail::Failure::new(Status::Usage, what, why, way_out))
}
