//! The command line: the words that `nvmx` takes, and which function each leads to.
//!
//! Parsing, dispatch and printing live here and in the files beside; what the words mean is the libraries'.

pub mod fail;
mod folder;
pub mod machine;
pub mod print;
pub mod words;

mod batch;
mod bench;
mod check;
mod console;
mod demo;
mod diff;
mod dump;
mod export;
mod import;
mod l0;
mod manual;
mod part;
mod perfetto;
mod query;
mod record;
mod replay;
mod seek;
mod store;
mod study;
mod trace;
mod whatif;
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
        Command::Demo(args) => demo::demo(&args, print),
        Command::Guests => demo::guests(print),
        Command::Run(args) => record::run(&args, print),
        Command::Record(args) => record::record(&args, print),
        Command::Replay(args) => replay::replay(&args, print),
        Command::Whatif(args) => whatif::whatif(&args, print),
        Command::Report(args) => study::report(&args, print),
        Command::Query(args) => query::query(&args, print),
        Command::Check(args) => check::check(&args, print),
        Command::Diff(args) => diff::diff(&args, print),
        Command::Tui(args) => study::tui(&args, print),
        Command::Dump(args) => dump::dump(&args, print),
        Command::Info(args) => trace::info(&args, print),
        Command::Verify(args) => trace::verify(&args, print),
        Command::Store(args) => store::store(&args, print),
        Command::Import(args) => import::import(&args, print),
        Command::Export(args) => export::export(&args, print),
        Command::Bench(args) => bench::bench(&args, print),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}
