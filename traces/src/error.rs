//! What can go wrong with a trace.

use std::io;
use std::path::PathBuf;

/// Why a trace could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read the trace: {0}")]
    Read(io::Error),
    /// The trace could not be written on.
    #[error("cannot write the trace: {0}")]
    Write(io::Error),
    /// There can be no thread to write the trace beside what is recorded.
    #[error("there can be no more threads: {0}")]
    Thread(io::Error),
    /// A write failed earlier, and nothing was written since.
    #[error("the trace ended when an earlier write failed")]
    Ended,
    /// What was to be written does not fit the format.
    #[error("the trace cannot hold {0}")]
    TooLarge(String),
    /// The file does not begin as a trace does.
    #[error("not an nvmx trace")]
    NotATrace,
    /// The trace's format is of a newer major version than this reader knows.
    #[error("the trace has format version {major}.{minor}, and this program reads up to {}", crate::VERSION.0)]
    Newer {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The header, without which nothing else can be read, is cut short.
    #[error("the trace ends within its header")]
    HeaderCut,
    /// The header is damaged.
    #[error("the trace's header is damaged: {0}")]
    Header(String),
    /// A block is damaged.
    #[error("block {block} at byte {offset} is damaged: {why}")]
    Block {
        /// The block's number, from 0.
        block: usize,
        /// Where it begins in the file.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such event.
    #[error("there is no event {event}: the trace has {len}")]
    NoEvent {
        /// The number asked for.
        event: u64,
        /// How many events the trace has.
        len: u64,
    },
    /// There is no such block.
    #[error("there is no block {block}: the trace has {blocks}")]
    NoBlock {
        /// The number asked for.
        block: usize,
        /// How many blocks the trace has.
        blocks: usize,
    },
    /// The event is of a kind that a newer minor version added, or has a word that it added.
    /// [`Reader::stored`](crate::Reader::stored) has its numbers.
    #[error("event {event} of the kind '{table}' is newer than this program")]
    NewerKind {
        /// The event's number.
        event: u64,
        /// The name of its kind's table.
        table: String,
    },
}
