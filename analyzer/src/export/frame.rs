//! A query's result as a Parquet file.

use super::GROUP;
use crate::Error;
use columns::{Column, Field, Format, Rows, Sink, Type, Words};
use polars::prelude::{AnyValue, DataFrame, DataType};

/// A result as a Parquet file. Narrow integers become those of 64 bits.
///
/// # Errors
/// A column holds something else than numbers, truth values and texts.
pub fn parquet(frame: &DataFrame) -> Result<Vec<u8>, Error> {
    let fields = frame.columns().iter().map(|column| {
        let kind = type_of(column.dtype()).ok_or_else(|| {
            let (name, kind) = (column.name(), column.dtype());
            let why = format!("the column '{name}' holds {kind}, and Parquet is given numbers, truth values and texts");
            Error::Query { why, place: None }
        })?;
        Ok(Field::new(column.name().as_str(), kind))
    });
    let mut rows = Rows::new(fields.collect::<Result<_, Error>>()?, |_| Words::default());
    let failed = |why: std::io::Error| Error::Query { why: why.to_string(), place: None };
    let mut sink = Sink::new(Vec::new(), Format::Parquet, &rows).map_err(failed)?;
    for first in (0..frame.height()).step_by(GROUP) {
        let part = frame.slice(first as i64, GROUP);
        for (from, to) in part.columns().iter().zip(rows.columns_mut()) {
            from.as_materialized_series().iter().for_each(|value| add(to, &value));
        }
        sink.write(&rows).map_err(failed)?;
        rows.clear();
    }
    sink.finish(&rows).map_err(failed)
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
