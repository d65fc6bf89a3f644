//! A block's rows, added to a table's: the one place that reads what [`traces::Rows`] hold.

use crate::schema::{STAMP, Table};
use columns::{Column, Rows};
use hv_defs::event::{Kind, NO_ADDRESS, VmcsOp};
use hv_defs::exit::{EventType, ExitReason};
use hv_defs::fields::{Form, Texts};
use hv_defs::vmcs::VmcsField;
use std::borrow::Cow;
use traces::Values;

/// Adds the rows of a block, all of whose columns were read.
pub(super) fn fill(rows: &mut Rows, table: &Table, read: &traces::Rows) {
    let (stamps, mut columns) = rows.columns_mut().split_at_mut(STAMP.len());
    stamps[0].extend_signed(read.event.iter());
    stamps[1].extend_signed(read.instruction.iter());
    stamps[2].extend_signed(read.vcpu.iter());
    stamps[3].extend_signed(read.pcpu.iter());
    if table.constant_kind {
        read.event.iter().for_each(|_| columns[0].text(Some(table.kind.name())));
        columns = &mut columns[1..];
    }
    // A VMCS access has a field only when it is a read or a write.
    let none = Values::default();
    let ops = read.column("op").unwrap_or(&none);
    let touches = |row: usize| [VmcsOp::Read, VmcsOp::Write].iter().any(|&op| ops.at(row) == op as u64);
    for (column, field) in columns.iter_mut().zip(table.kind.fields()) {
        let values = read.column(table.kind.columns()[field.column].name).unwrap_or(&none).iter();
        if table.kind == Kind::Vmcs && matches!(field.name, "old" | "value") {
            column.extend_bits_if(values, |row, _| touches(row));
        } else if table.kind == Kind::Vmcs && field.name == "field" {
            column.extend_words(values, |words, row, code| touches(row).then(|| words.coded(code, field_name)));
        } else {
            fill_column(column, field.form, values, &read.texts);
        }
    }
}

fn field_name(encoding: u64) -> Cow<'static, str> {
    let field = VmcsField(u32::try_from(encoding).unwrap_or(u32::MAX));
    field.name().map_or_else(|| field.to_string().into(), Cow::Borrowed)
}

fn reason_name(code: u64) -> Cow<'static, str> {
    let reason = ExitReason::from(code as u32).reason();
    reason.name().map_or_else(|| reason.to_string().into(), Cow::Borrowed)
}

fn event_type(bits: u64) -> Cow<'static, str> {
    EventType::from_bits(bits as u8).name().into()
}

fn fill_column(column: &mut Column, form: Form, values: impl Iterator<Item = u64>, texts: &Texts) {
    match form {
        Form::EventType => column.extend_words(values, |words, _, info| Some(words.coded(info >> 8 & 7, event_type))),
        // The basic reason is all that has a name.
        Form::Reason => column.extend_words(values, |words, _, code| Some(words.coded(code & 0xffff, reason_name))),
        Form::VmcsField => column.extend_words(values, |words, _, encoding| Some(words.coded(encoding, field_name))),
        Form::Word(list) => column.extend_words(values, |words, _, word| {
            let name = usize::try_from(word).ok().and_then(|word| list.get(word))?;
            Some(words.coded(word, |_| Cow::Borrowed(name)))
        }),
        Form::Number => column.extend_signed(values),
        Form::Vector => column.extend_signed(values.map(|info| info & 0xff)),
        Form::Hex => column.extend_bits(values),
        Form::HexOrNone => column.extend_bits_if(values, |_, bits| bits != 0),
        Form::Address => column.extend_bits_if(values, |_, address| address != NO_ADDRESS),
        Form::Flag => values.for_each(|flag| column.flag(Some(flag != 0))),
        Form::Text => values.for_each(|text| column.text(texts.text(text))),
    }
}
