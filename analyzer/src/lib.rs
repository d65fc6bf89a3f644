//! A trace to dataframes, to findings, to reports.

pub mod check;
mod chunk;
pub mod curve;
mod error;
pub mod export;
pub mod findings;
pub mod histogram;
pub mod judge;
mod number;
pub mod query;
pub mod report;
pub mod schema;
mod source;
pub mod state;
#[cfg(test)]
mod story;
pub mod tables;

pub use check::{Checked, Limits, check};
pub use error::Error;
pub use findings::{Findings, Study, findings, findings_with};
pub use query::{Format, query};
pub use source::Source;
pub use tables::Tables;
