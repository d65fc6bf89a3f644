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
        Command::Info(args) => trace::info(&args, print),
        Command::Verify(args) => trace::verify(&args, print),
        Command::Store(args) => store::store(&args, print),
        Command::Attach(args) => attach::attach(&args, print),
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
    let (what, why) = ("this nvmx cannot do that", "it was built without the feature `analysis`");
    Err(fail::Failure::new(Status::Usage, what, why, "take the trace to a full build"))
}
