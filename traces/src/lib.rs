//! The trace format: schema, writer, reader, index. docs/format.md describes the file for readers in other languages.
//!
//! A trace is a [`Header`], then blocks of events, then an index. Each block is a Cap'n Proto message of columns,
//! compressed, checked by a checksum and readable on its own, so that whatever was written before a crash is read.

mod batch;
mod block;
mod coding;
mod error;
mod frame;
mod header;
mod image;
mod narrow;
mod plain;
mod queue;
mod reader;
pub mod seek;
mod source;
mod store;
mod tables;
#[allow(clippy::all, missing_docs, unreachable_pub, unsafe_code, unused_qualifications)] // Generated.
#[rustfmt::skip]
mod trace_capnp;
mod values;
mod verify;
mod whole;
mod wire;
mod writer;

pub use batch::Batch;
pub use block::{Block, Column, Order, Rows, Stored};
pub use error::Error;
pub use frame::MAX_BLOCK_EVENTS;
pub use header::{Header, Image, Made, sha256};
pub use image::ImageBytes;
pub use plain::plain;
pub use queue::{Feed, beside};
pub use reader::{BlockInfo, Events, Growth, Reader};
pub use store::{Collected, Hash, Object, Store, StoreError};
pub use tables::Tables;
pub use values::{Iter, Values};
pub use verify::{Damage, Part, Salvaged, Verified, check, salvage, salvage_bytes, verify};
pub use whole::{WholeFile, write_whole};
pub use writer::{Summary, Writer};

/// The format's version: major and minor. A reader reads any minor version of its major version.
pub const VERSION: (u16, u16) = (1, 2);
