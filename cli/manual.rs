//! Shell completions and manual pages, both made from the words themselves.

use super::fail::{Fails, Result, Status};
use super::words::{Cli, CompletionsArgs, ManArgs};
use clap::CommandFactory;
use std::io::{self, Write};

/// `nvmx completions`.
pub fn completions(args: &CompletionsArgs) -> Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nvmx", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Status::Done)
}

/// `nvmx man`.
pub fn man(args: &ManArgs) -> Result<Status> {
    let Some(folder) = &args.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        io::stdout().write_all(&page)?;
        return Ok(Status::Done);
    };
    let what = format!("cannot write manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder)).or_hint(
        Status::Failed,
        what,
        "name a folder that can be written to",
    )?;
    Ok(Status::Done)
}
