//! The interactive inspector: `nvmx tui FILE`.
//!
//! A model, messages that change it, a view of it, and effects. `update` and `view` are pure; only `work` reads the
//! trace, on worker threads and in pieces, so that no key waits for it. See docs/inspector.md for its keys.

mod act;
mod decode;
mod describe;
mod filter;
mod findings;
mod hits;
mod keys;
mod layout;
mod line;
mod model;
mod panes;
mod prompt;
mod round;
mod state;
mod strip;
mod terminal;
#[cfg(test)]
mod tests;
mod theme;
mod update;
mod view;
mod work;

use hv_defs::config::Guest;
use model::About;
use std::io;
use std::path::Path;
use traces::Reader;

/// Why the inspector could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trace could not be opened.
    #[error(transparent)]
    Trace(#[from] traces::Error),
    /// Standard input or output is not a terminal.
    #[error("the inspector needs a terminal, and standard input or output is none")]
    NoTerminal,
    /// The terminal could not be used.
    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),
}

/// Shows the trace in a file on this terminal until the user leaves. Blocks; the terminal is given back on return, on
/// an error, on SIGTERM, and on a panic.
///
/// # Errors
/// The trace cannot be opened, there is no terminal, or writing to it fails.
pub fn run(path: &Path) -> Result<(), Error> {
    let reader = Reader::open(path)?;
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    terminal::run(reader, name)
}

fn about(reader: &Reader, name: String) -> About {
    let config = &reader.header().config;
    let guest = match &config.guest {
        Guest::BuiltIn(name) => name,
        Guest::Kernel { name, .. } => name,
    };
    About {
        name,
        machine: format!("{guest}, policy {}", config.policy.name().unwrap_or("of its own")),
        len: reader.len(),
        firsts: reader.blocks().iter().map(|block| block.first).collect(),
        // A header may claim more than a screen could show.
        vcpus: config.vcpus.clamp(1, 64),
        truncated: reader.truncated(),
    }
}
