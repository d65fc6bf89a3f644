//! What can go wrong with an analysis.

use std::io;
use std::path::PathBuf;

/// Why a trace could not be analysed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trace could not be read.
    #[error(transparent)]
    Trace(#[from] traces::Error),
    /// A query names a table that there is none of.
    #[error("there is no table '{table}': the tables are {}", crate::tables::names())]
    NoTable {
        /// The name in the query.
        table: String,
    },
    /// A query is not understood or cannot be carried out.
    #[error("{why}{}", place.map(|(line, column)| format!(" (line {line}, column {column})")).unwrap_or_default())]
    Query {
        /// What is wrong, in one line.
        why: String,
        /// Line and column in the query, from 1, where they are known.
        place: Option<(u64, u64)>,
    },
    /// A table could not be built.
    #[error("cannot build the table '{table}': {why}")]
    Table {
        /// Its name.
        table: String,
        /// Why.
        why: String,
    },
    /// A file of an export could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What stands where an export is to go is none.
    #[error("{} is in the way: {why}", path.display())]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}
