//! The interactive inspector: `nvmx tui FILE`.
//!
//! A model, messages that change it, a view of it, and effects. `update` and `view` are pure; effects alone touch a trace, a
//! replay or a file, on worker threads and in pieces, so that no key waits for them. See docs/inspector.md for its keys.
//!
//! - `session` is the loop and its threads, `terminal` the terminal, `model` what is known and shown, `update` what
//!   messages do; `act`, `mouse`, `prompt` and `overlay` what keys and the mouse do where.
//! - `work` does effects: with `scan` for filters and searches, `survey` for the timeline, `round` for what an exit cost,
//!   `findings`, `replay/work` for what a replay shows, `export` for what is saved, `live` for a file that grows.
//! - `view` draws, in the roles that `theme` has looks for; `layout` says where, `panes` what rows there are.
//! - `compare` is the screen of two traces, a model and an update of its own.

mod act;
mod alike;
mod ansi;
mod columns;
mod compare;
mod decode;
mod describe;
mod export;
mod filter;
mod findings;
mod hits;
mod keep;
mod keys;
mod layout;
mod line;
mod live;
#[doc(hidden)]
pub mod measure;
mod model;
mod mouse;
mod overlay;
mod panes;
mod prompt;
mod replay;
mod round;
mod scan;
mod session;
mod state;
mod strip;
mod survey;
mod terminal;
#[cfg(test)]
mod tests;
mod theme;
mod trace;
mod update;
mod view;
mod work;

use hv_defs::config::{Clock, Guest};
use hv_defs::event::Kind;
use model::About;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strip::Counts;
use traces::{Order, Reader, Store};

/// Gives the terminal back if it is taken, for a program that ends in the midst of it.
pub fn give_back() {
    terminal::give_back();
}

/// Why the inspector could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trace could not be opened.
    #[error(transparent)]
    Trace(#[from] traces::Error),
    /// The second of two traces could not be opened.
    #[error(transparent)]
    Other(traces::Error),
    /// Standard input or output is not a terminal.
    #[error("the inspector needs a terminal, and standard input or output is none")]
    NoTerminal,
    /// A thread of the inspector panicked: what it said, and where.
    #[error("internal error: {0}")]
    Internal(String),
    /// The terminal could not be used.
    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),
}

/// How the inspector is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// With colours or without; `None` for what the environment asks for.
    pub color: Option<bool>,
    /// As if the trace had never been looked at, and nothing is kept.
    pub fresh: bool,
    /// The folder of the store that has the images which the trace has not: a replay needs them.
    pub store: Option<PathBuf>,
}

impl Options {
    fn theme(&self) -> theme::Theme {
        theme::Theme::from_environment(|name| std::env::var(name).ok(), self.color)
    }
}

/// Shows the trace in a file on this terminal until the user leaves. Blocks; the terminal is given back on return, on
/// an error, on SIGTERM, and on a panic.
///
/// # Errors
/// The trace cannot be opened, there is no terminal, or writing to it fails.
///
/// Bookmarks, the place and the like are kept beside the trace for the next time; where that could not be done, the text
/// that comes back says so.
pub fn run(path: &Path, options: &Options) -> Result<Option<String>, Error> {
    let mut reader = Reader::open(path)?;
    if let Some(store) = options.store.as_deref().and_then(|folder| Store::open(folder).ok()) {
        // What is not found there is missed, and told of, where a replay would need it.
        let _ = reader.find_images(Some(&store));
    }
    let place = match options.fresh {
        true => None,
        false => keep::Place::of(path, &reader, |name| std::env::var_os(name)),
    };
    session::run(reader, path, place, options.theme(), lately_written(path))
}

/// Shows two traces side by side, as [`run`] does one.
///
/// # Errors
/// As of [`run`]; [`Error::Other`] where it is the second trace that cannot be opened.
pub fn compare(a: &Path, b: &Path, options: &Options) -> Result<(), Error> {
    let readers = [Reader::open(a)?, Reader::open(b).map_err(Error::Other)?];
    let signals = session::prepare()?;
    let mut names = [a, b].map(name_of);
    if names[0] == names[1] {
        // Where the names do not tell them apart, the ways do.
        names = [a, b].map(|path| path.display().to_string());
    }
    let [name_a, name_b] = names;
    let abouts = [about(&readers[0], name_a), about(&readers[1], name_b)];
    let ended = compare::run(readers, abouts, options.theme(), &signals).map_err(Error::Terminal);
    terminal::last_panic().map_or(ended, |why| Err(Error::Internal(why)))
}

/// Whether a file was written to in the last seconds, as far as can be told.
fn lately_written(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|about| about.modified()).ok();
    modified.and_then(|then| then.elapsed().ok()).is_some_and(|since| since.as_secs() < 5)
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn about(reader: &Reader, name: String) -> About {
    let header = reader.header();
    let config = &header.config;
    let guest = match &config.guest {
        Guest::BuiltIn(name) => name,
        Guest::Kernel { name, .. } => name,
    };
    let (machine, vcpus) = match &header.origin {
        None => (format!("{guest}, policy {}", config.policy.name().unwrap_or("of its own")), config.vcpus),
        Some(origin) => (format!("{}, times are {}", origin.whence(), origin.clock), vcpus_seen(reader)),
    };
    About {
        name,
        machine,
        time: match header.clock() {
            Clock::Instructions => "instruction",
            Clock::Nanoseconds => "ns",
            Clock::Ticks => "tick",
            Clock::Exits => "exit",
        },
        len: reader.len(),
        firsts: reader.blocks().iter().map(|block| block.first).collect(),
        counts: counts(reader).map(Arc::new),
        // A header may claim more than a screen could show.
        vcpus: vcpus.clamp(1, strip::MAX_VCPUS as u16),
        timed: header.clock() != Clock::Instructions,
        truncated: reader.truncated(),
        pool: header.origin.is_none().then_some((config.policy.pool, config.policy.pool_recycle)),
    }
}

/// What the index counts in each block, if there is one.
fn counts(reader: &Reader) -> Option<Counts> {
    let of = |kind| (0..reader.blocks().len()).map(|block| reader.rows_in(block, kind)).collect::<Option<Vec<u32>>>();
    Some(Counts { exits: of(Kind::Exit)?, flushes: of(Kind::Flush)?, marks: of(Kind::Mark)?, lost: of(Kind::Lost)? })
}

/// How many vCPUs a trace has whose configuration does not say: what some of its blocks, all over it, show. The timeline
/// finds the others.
fn vcpus_seen(reader: &Reader) -> u16 {
    let step = (reader.blocks().len() / 16).max(1);
    let mut order = Order::default();
    let mut most = 0;
    for block in (0..reader.blocks().len()).step_by(step) {
        if reader.block_order_into(block, &mut order).is_ok() {
            most = order.stamps.iter().map(|(_, at)| at.vcpu).fold(most, u16::max);
        }
    }
    most.saturating_add(1)
}
