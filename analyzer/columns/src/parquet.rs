//! Apache Parquet: groups of rows, column by column, compressed with zstd, and behind them a footer that says where each
//! is and what it ranges over. See: Apache Parquet, "File Format", and `parquet.thrift` for the numbers of the fields.

use super::pages::{BOOLEAN, BYTE_ARRAY, DOUBLE, INT64, chunk};
use super::rows::{Field, Rows, Type};
use super::thrift::Struct;
use std::io::{self, Write};
use zstd::bulk::Compressor;

const MAGIC: &[u8] = b"PAR1";
const ZSTD: i32 = 6;
const REQUIRED: i32 = 0;
const OPTIONAL: i32 = 1;

/// A file while it is written.
pub(crate) struct Parquet {
    zstd: Compressor<'static>,
    /// Bytes written.
    at: u64,
    rows: u64,
    /// The groups, as the footer has them.
    groups: Vec<Vec<u8>>,
}

impl Parquet {
    /// Begins a file.
    pub(crate) fn new(out: &mut impl Write, level: i32) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { zstd: Compressor::new(level)?, at: MAGIC.len() as u64, rows: 0, groups: Vec::new() })
    }

    /// Writes a group of rows, of which there must be some.
    pub(crate) fn group(&mut self, out: &mut impl Write, rows: &Rows) -> io::Result<()> {
        let (mut columns, mut plain_bytes) = (Vec::new(), 0);
        let start = self.at;
        for (field, column) in rows.fields().iter().zip(rows.columns()) {
            let chunk = chunk(field, column, rows.len(), &mut self.zstd)?;
            out.write_all(&chunk.bytes)?;
            let first = self.at;
            self.at += chunk.bytes.len() as u64;
            plain_bytes += chunk.plain_bytes;
            let mut about = Struct::new()
                .i32(1, physical(field.kind))
                .i32s(2, &chunk.encodings)
                .binaries(3, &[field.name.as_bytes()])
                .i32(4, ZSTD)
                .i64(5, rows.len() as i64)
                .i64(6, chunk.plain_bytes as i64)
                .i64(7, chunk.bytes.len() as i64)
                .i64(9, first as i64 + chunk.dictionary.unwrap_or(0) as i64);
            if chunk.dictionary.is_some() {
                about = about.i64(11, first as i64);
            }
            let mut statistics = Struct::new().i64(3, chunk.nulls as i64);
            if let Some((least, most)) = &chunk.range {
                statistics = statistics.binary(5, most).binary(6, least);
            }
            columns.push(Struct::new().i64(2, first as i64).inner(3, about.inner(12, statistics)).end());
        }
        let group = Struct::new()
            .inners(1, columns.iter().map(Vec::as_slice))
            .i64(2, plain_bytes as i64)
            .i64(3, rows.len() as i64)
            .i64(5, start as i64)
            .i64(6, (self.at - start) as i64);
        // The number of a group is of 16 bits, and may be left out.
        let group = match i16::try_from(self.groups.len()) {
            Ok(number) => group.i16(7, number),
            Err(_) => group,
        };
        self.groups.push(group.end());
        self.rows += rows.len() as u64;
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(self, out: &mut impl Write, fields: &[Field]) -> io::Result<()> {
        let root = Struct::new().binary(4, b"schema").i32(5, fields.len() as i32).end();
        let schema: Vec<Vec<u8>> = std::iter::once(root).chain(fields.iter().map(element)).collect();
        // Each column is ordered as its type says.
        let orders = vec![Struct::new().inner(1, Struct::new()).end(); fields.len()];
        let footer = Struct::new()
            .i32(1, 1)
            .inners(2, schema.iter().map(Vec::as_slice))
            .i64(3, self.rows as i64)
            .inners(4, self.groups.iter().map(Vec::as_slice))
            .binary(6, concat!("nvmx version ", env!("CARGO_PKG_VERSION")).as_bytes())
            .inners(7, orders.iter().map(Vec::as_slice))
            .end();
        let length =
            u32::try_from(footer.len()).map_err(|_| io::Error::other("too many groups of rows for Parquet"))?;
        out.write_all(&footer)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(MAGIC)
    }
}

const fn physical(kind: Type) -> i32 {
    match kind {
        Type::Signed | Type::Bits => INT64,
        Type::Flag => BOOLEAN,
        Type::Float => DOUBLE,
        Type::Word | Type::Text => BYTE_ARRAY,
    }
}

/// A column of the schema, with its meaning in the older and in the newer way.
fn element(field: &Field) -> Vec<u8> {
    const UTF8: i32 = 0;
    const UINT_64: i32 = 14;
    const INT_64: i32 = 18;
    let repetition = if field.nullable { OPTIONAL } else { REQUIRED };
    let element = Struct::new().i32(1, physical(field.kind)).i32(3, repetition).binary(4, field.name.as_bytes());
    let integer = |signed| Struct::new().inner(10, Struct::new().i8(1, 64).flag(2, signed));
    match field.kind {
        Type::Signed => element.i32(6, INT_64).inner(10, integer(true)),
        Type::Bits => element.i32(6, UINT_64).inner(10, integer(false)),
        Type::Word | Type::Text => element.i32(6, UTF8).inner(10, Struct::new().inner(1, Struct::new())),
        Type::Flag | Type::Float => element,
    }
    .end()
}
