//! Shell completions and manual pages, both made from the words themselves.

use super::fail::{Fails, Result, Status};
use super::words::{Cli, CompletionsArgs, EXIT_STATUS, ManArgs};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::io::{self, Write};
use std::path::Path;

/// `nvmx completions`.
pub fn completions(args: &CompletionsArgs) -> Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nvmx", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Status::Done)
}

/// `nvmx man`.
pub fn man(args: &ManArgs) -> Result<Status> {
    let mut nvmx = Cli::command();
    nvmx.build();
    let Some(folder) = &args.output else {
        io::stdout().write_all(&page(&nvmx)?.1)?;
        return Ok(Status::Done);
    };
    let what = format!("cannot write manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).and_then(|()| pages(&nvmx, folder)).or_hint(
        Status::Failed,
        what,
        "name a folder that can be written to",
    )?;
    Ok(Status::Done)
}

/// Writes the pages of a command and of those below it.
fn pages(command: &Command, folder: &Path) -> io::Result<()> {
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| pages(below, folder))?;
    let (name, page) = page(command)?;
    std::fs::write(folder.join(name), page)
}

/// A page's file name and text. Examples stand as they are, and not as a paragraph, which is what clap_mangen makes of them.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone().after_help(None));
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut rest = Roff::new();
    for paragraph in more.split("\n\n").filter(|paragraph| *paragraph != EXIT_STATUS) {
        match paragraph.strip_prefix("Examples:\n") {
            Some(examples) => {
                rest.control("SH", ["EXAMPLES"]).control("nf", []);
                examples.lines().for_each(|line| _ = rest.text([roman(line.trim_start())]));
                rest.control("fi", []);
            }
            None => _ = rest.control("PP", []).text([roman(paragraph)]),
        }
    }
    let (_, status) = EXIT_STATUS.split_once(": ").unwrap_or_default();
    rest.control("SH", ["EXIT STATUS"]).text([roman(status)]);
    if command.get_name() != "nvmx" {
        rest.control("SH", ["SEE ALSO"]).text([roman("nvmx(1)")]);
    }
    rest.to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}
