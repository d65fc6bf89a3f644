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
    #[error("there is no table '{table}'{}{} the tables are {}", at(*place), meant(*near), crate::tables::names())]
    NoTable {
        /// The name in the query.
        table: String,
        /// The table that is meant, if one is much like it.
        near: Option<&'static str>,
        /// Line and column in the query, from 1, where they are known.
        place: Option<(u64, u64)>,
    },
    /// A query names a column that its tables do not have.
    #[error("there is no column '{column}'{}{}{} {columns}", at(*place), of_others(elsewhere), meant(*near))]
    NoColumn {
        /// The name in the query.
        column: String,
        /// The column that is meant, if one is much like it.
        near: Option<&'static str>,
        /// The tables that have such a column.
        elsewhere: Vec<&'static str>,
        /// The columns that there are, for a reader.
        columns: String,
        /// Line and column in the query, from 1, where they are known.
        place: Option<(u64, u64)>,
    },
    /// A query is not understood or cannot be carried out.
    #[error("{why}{}", at(*place))]
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
    /// An answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
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

fn at(place: Option<(u64, u64)>) -> String {
    place.map(|(line, column)| format!(" (line {line}, column {column})")).unwrap_or_default()
}

fn meant(name: Option<&str>) -> String {
    name.map_or_else(|| ":".into(), |name| format!("; did you mean '{name}'?"))
}

fn of_others(tables: &[&str]) -> String {
    if tables.is_empty() { String::new() } else { format!("; it is a column of {}", tables.join(", ")) }
}

impl Error {
    /// Line and column in the query, from 1, of what is wrong with it.
    pub fn place(&self) -> Option<(u64, u64)> {
        match self {
            Self::NoTable { place, .. } | Self::NoColumn { place, .. } | Self::Query { place, .. } => *place,
            _ => None,
        }
    }
}
