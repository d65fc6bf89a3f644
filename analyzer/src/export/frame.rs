//! A query's result as a Parquet file.

use super::GROUP;
use crate::Error;
use columns::{Column, Field, Format, Rows, Sink, Type, Words};
use polars::prelude::{AnyValue, DataFrame, DataType, Schema};
use std::io::Write;

/// A query's rows on their way into a Parquet file. Narrow integers become those of 64 bits.
pub(crate) struct ParquetRows {
    rows: Rows,
    sink: Sink<Vec<u8>>,
}

impl ParquetRows {
    /// A file of such columns.
    ///
    /// # Errors
    /// A column holds something else than numbers, truth values and texts.
    pub(crate) fn new(schema: &Schema) -> Result<Self, Error> {
        let fields = schema.iter().map(|(name, kind)| {
            let written = type_of(kind).ok_or_else(|| {
                let why =
                    format!("the column '{name}' holds {kind}, and Parquet is given numbers, truth values and texts");
                Error::Query { why, place: None }
            })?;
            Ok(Field::new(name.as_str(), written))
        });
        let rows = Rows::new(fields.collect::<Result<_, Error>>()?, |_| Words::default());
        let sink = Sink::new(Vec::new(), Format::Parquet, &rows).map_err(Error::Output)?;
        Ok(Self { rows, sink })
    }

    /// Adds rows, and writes those that make up a group.
    pub(crate) fn add(&mut self, frame: &DataFrame, out: &mut dyn Write) -> Result<(), Error> {
        let mut first = 0;
        while first < frame.height() {
            let part = frame.slice(first as i64, GROUP - self.rows.len());
            first += part.height();
            for (from, to) in part.columns().iter().zip(self.rows.columns_mut()) {
                from.as_materialized_series().rechunk().iter().for_each(|value| add(to, &value));
            }
            if self.rows.len() == GROUP {
                self.sink.write(&self.rows).map_err(Error::Output)?;
                self.rows.clear();
                out.write_all(self.sink.out()).map_err(Error::Output)?;
                self.sink.out().clear();
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self, out: &mut dyn Write) -> Result<(), Error> {
        self.sink.write(&self.rows).map_err(Error::Output)?;
        let rest = self.sink.finish(&self.rows).map_err(Error::Output)?;
        out.write_all(&rest).map_err(Error::Output)
    }
}

fn type_of(kind: &DataType) -> Option<Type> {
    Some(match kind {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Type::Signed,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Type::Bits,
        DataType::Float32 | DataType::Float64 => Type::Float,
        DataType::Boolean => Type::Flag,
        // What is null in every row has no other type.
        DataType::String | DataType::Null => Type::Text,
        _ => return None,
    })
}

fn add(to: &mut Column, value: &AnyValue<'_>) {
    match *value {
        AnyValue::Int8(number) => to.signed(Some(number.into())),
        AnyValue::Int16(number) => to.signed(Some(number.into())),
        AnyValue::Int32(number) => to.signed(Some(number.into())),
        AnyValue::Int64(number) => to.signed(Some(number)),
        AnyValue::UInt8(number) => to.bits(Some(number.into())),
        AnyValue::UInt16(number) => to.bits(Some(number.into())),
        AnyValue::UInt32(number) => to.bits(Some(number.into())),
        AnyValue::UInt64(number) => to.bits(Some(number)),
        AnyValue::Float32(number) => to.float(Some(number.into())),
        AnyValue::Float64(number) => to.float(Some(number)),
        AnyValue::Boolean(flag) => to.flag(Some(flag)),
        AnyValue::String(text) => to.text(Some(text)),
        AnyValue::StringOwned(ref text) => to.text(Some(text)),
        // A null, whatever the column.
        _ => to.text(None),
    }
}
