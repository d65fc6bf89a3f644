//! Rows by columns, written as Parquet, Arrow and CSV files that other tools read. It knows nothing of traces.
//!
//! [`Rows`] take cells until they are enough for a group; a [`Sink`] writes groups of rows to a file. What is held is one
//! group, whatever the length of the file. Only what our tables need is here: 64-bit integers, booleans, floating-point
//! numbers, texts and words (texts of which there are few), each nullable; no nesting.

mod arrow;
mod bits;
mod csv;
mod flat;
mod pages;
mod parquet;
mod rows;
mod sink;
#[cfg(test)]
mod tests;
mod thrift;
mod words;

pub use rows::{Cells, Column, Field, Rows, Type};
pub use sink::{Format, Sink};
pub use words::Words;
