//! Rows of a kind of event as columns of a frame.

use crate::schema::Table;
use crate::source::Rows;
use hv_defs::event::{Kind, NO_ADDRESS, VmcsOp};
use hv_defs::exit::{EventType, ExitReason};
use hv_defs::fields::Form;
use hv_defs::vmcs::VmcsField;
use polars::prelude::{
    BooleanChunked, ChunkTake, Column, IdxCa, IdxSize, Int64Chunked, IntoColumn, NamedFrom, NewChunkedArray, Series,
    StringChunked, UInt64Chunked,
};
use std::borrow::Cow;
use std::collections::HashMap;

const MAX_I64: u64 = i64::MAX as u64;

/// Which stored columns of a table's kind are to be read for the columns that are wanted.
pub(super) fn needed(table: &Table, wanted: &impl Fn(&str) -> bool) -> Vec<bool> {
    let kind = table.kind;
    let mut needed = vec![false; kind.columns().len()];
    for field in kind.fields().iter().filter(|field| wanted(field.name)) {
        needed[field.column] = true;
        // A VMCS access has a field only when it is a read or a write.
        if masked(kind, field.name) {
            op(kind).into_iter().for_each(|op| needed[op] = true);
        }
    }
    needed
}

fn masked(kind: Kind, name: &str) -> bool {
    kind == Kind::Vmcs && matches!(name, "field" | "old" | "value")
}

fn op(kind: Kind) -> Option<usize> {
    kind.columns().iter().position(|column| column.name == "op")
}

/// The columns of a table that are wanted, in its order.
pub(super) fn columns(table: &Table, rows: Rows, wanted: &impl Fn(&str) -> bool) -> Vec<Column> {
    let (kind, height) = (table.kind, rows.event.len());
    let mut columns = stamp(rows.event, rows.instruction, &rows.vcpu, &rows.pcpu, wanted);
    if table.constant_kind && wanted("kind") {
        let none = std::iter::repeat_n(0, height);
        columns.push(words("kind", none, |_| Some(kind.name().into())));
    }
    let touched = op(kind).map(|op| &rows.columns[op][..]);
    for field in kind.fields().iter().filter(|field| wanted(field.name)) {
        let values = &rows.columns[field.column][..];
        let (name, values_of) = (field.name, values.iter().copied());
        columns.push(match touched.filter(|_| masked(kind, name)) {
            Some(ops) if field.form == Form::VmcsField => {
                // Both in one number: no encoding is beyond 32 bits.
                let both = ops.iter().zip(values).map(|(&op, &field)| if touches(op) { field } else { u64::MAX });
                words(name, both, field_name)
            }
            Some(ops) => optional(name, values.to_vec(), ops.iter().map(|&op| touches(op))),
            None => match field.form {
                Form::Number => signed(name, values_of),
                Form::Vector => signed(name, values_of.map(|info| info & 0xff)),
                Form::Hex => UInt64Chunked::from_vec(name.into(), values.to_vec()).into_column(),
                Form::HexOrNone => optional(name, values.to_vec(), values_of.map(|bits| bits != 0)),
                Form::Address => optional(name, values.to_vec(), values_of.map(|address| address != NO_ADDRESS)),
                Form::Flag => flags(name, values_of.map(|flag| flag != 0)).into_column(),
                Form::Word(list) => words(name, values_of, |word| {
                    usize::try_from(word).ok().and_then(|word| list.get(word)).map(|word| Cow::Borrowed(*word))
                }),
                Form::Reason => words(name, values_of, |code| {
                    let reason = ExitReason::from(code as u32).reason();
                    Some(reason.name().map_or_else(|| reason.to_string().into(), Cow::Borrowed))
                }),
                Form::VmcsField => words(name, values_of, field_name),
                Form::EventType => words(name, values_of.map(|info| info >> 8 & 7), |bits| {
                    Some(EventType::from_bits(bits as u8).name().into())
                }),
                Form::Text => words(name, values_of, |text| rows.texts.text(text).map(Cow::Borrowed)),
            },
        });
    }
    columns
}

/// Whether a VMCS access has a field and values.
fn touches(op: u64) -> bool {
    op == VmcsOp::Read as u64 || op == VmcsOp::Write as u64
}

fn field_name(encoding: u64) -> Option<Cow<'static, str>> {
    if encoding == u64::MAX {
        return None;
    }
    let field = VmcsField(u32::try_from(encoding).unwrap_or(u32::MAX));
    Some(field.name().map_or_else(|| field.to_string().into(), Cow::Borrowed))
}

/// The columns that every table has, as far as they are wanted.
pub(super) fn stamp(
    event: Vec<u64>,
    instruction: Vec<u64>,
    vcpu: &[u16],
    pcpu: &[u16],
    wanted: &impl Fn(&str) -> bool,
) -> Vec<Column> {
    // The first column is always there, so that a table keeps its height.
    let mut columns = vec![signed("event", event.into_iter())];
    if wanted("instruction") {
        columns.push(signed("instruction", instruction.into_iter()));
    }
    for (name, cpus) in [("vcpu", vcpu), ("pcpu", pcpu)] {
        if wanted(name) {
            columns.push(signed(name, cpus.iter().map(|&cpu| cpu.into())));
        }
    }
    columns
}

pub(super) fn signed(name: &str, values: impl Iterator<Item = u64>) -> Column {
    let values = values.map(|number| number.min(MAX_I64) as i64).collect();
    Int64Chunked::from_vec(name.into(), values).into_column()
}

fn flags(name: &str, values: impl Iterator<Item = bool>) -> BooleanChunked {
    BooleanChunked::from_iter_values(name.into(), values)
}

/// Bits that are null where `valid` says no.
fn optional(name: &str, values: Vec<u64>, valid: impl Iterator<Item = bool>) -> Column {
    let valid = flags(name, valid);
    let valid = valid.downcast_iter().next().map(|valid| valid.values().clone());
    UInt64Chunked::from_vec_validity(name.into(), values, valid.filter(|valid| valid.unset_bits() > 0)).into_column()
}

/// Numbers below this have their words looked up by place, others by search.
const LOW: usize = 1 << 15;

/// Words by numbers, each made once and then shared by all rows that have it.
pub(super) fn words<'a>(
    name: &str,
    numbers: impl Iterator<Item = u64>,
    word: impl Fn(u64) -> Option<Cow<'a, str>>,
) -> Column {
    // By number, the place in the list plus 1; the first word of it stands for null.
    let mut list: Vec<Option<Cow<'a, str>>> = vec![None];
    let (mut low, mut high) = (vec![0 as IdxSize; LOW], HashMap::<u64, IdxSize>::new());
    let mut some = false;
    let places: Vec<IdxSize> = numbers
        .map(|number| {
            let known =
                if number < LOW as u64 { low[number as usize] } else { high.get(&number).copied().unwrap_or(0) };
            if known != 0 {
                return known - 1;
            }
            let place = word(number).map_or(0, |word| {
                list.push(Some(word));
                list.len() - 1
            }) as IdxSize;
            some |= place == 0;
            if number < LOW as u64 {
                low[number as usize] = place + 1;
            } else {
                high.insert(number, place + 1);
            }
            place
        })
        .collect();
    share(name, &list, places)
}

/// A text for each row, by its place in a list.
fn share(name: &str, list: &[Option<Cow<'_, str>>], places: Vec<IdxSize>) -> Column {
    let list = StringChunked::from_slice_options(name.into(), list);
    let places = IdxCa::from_vec(name.into(), places);
    match list.take(&places) {
        Ok(texts) => texts.into_column(),
        // Every place is one of the list: this cannot be, and is no reason to fall over.
        Err(_) => Series::new(name.into(), vec![None::<&str>; places.len()]).into_column(),
    }
}

/// The column of traces' names: `of` has for each stretch its trace and how many rows.
pub(super) fn trace<'a>(of: &[(usize, usize)], name: impl Fn(usize) -> &'a String) -> Column {
    let list: Vec<_> = of.iter().map(|&(trace, _)| Some(Cow::Borrowed(name(trace).as_str()))).collect();
    let places = of.iter().zip(0..).flat_map(|(&(_, rows), place)| std::iter::repeat_n(place, rows));
    share(crate::schema::TRACE.name, &list, places.collect())
}
