//! A trace to dataframes, to findings, to reports.

mod error;
pub mod judge;
pub mod query;
pub mod schema;
mod source;
pub mod tables;

pub use error::Error;
pub use query::{Format, query};
pub use source::Source;
pub use tables::Tables;
