//! Traces as files for other tools: a dataset of Parquet, Arrow or CSV files, a folder a table and in it a folder a
//! trace; and a file for [`perfetto`]. docs/export.md describes them for those who read them.
//!
//! A trace is read block by block, and what is held is a batch of rows a table, whatever the trace's length. Names, types
//! and values are those of [`Tables`](crate::Tables); the tests hold the two together.

mod dataset;
mod facts;
mod fill;
mod flushes;
mod frame;
pub mod perfetto;

pub use columns::Format;
pub use dataset::{Added, Dataset};
pub use facts::FACTS;
pub(crate) use frame::ParquetRows;

use crate::judge::{JudgedBy, Rule, Verdict};
use crate::schema::{self, Table};
use columns::{Field, Rows, Type, Words};
use hv_defs::event::{FlushKind, Kind};
use hv_defs::exit::{EventType, Reason};
use hv_defs::fields::Form;
use hv_defs::vmcs;

/// Rows of a table that are held before they are written as a group.
const GROUP: usize = 1 << 18;

/// A table without rows, whose columns are those that [`schema`] gives it. A text that is free is no word of a list.
fn empty(table: &Table) -> Rows {
    let form = |name: &str| table.kind.fields().iter().find(|field| field.name == name).map(|field| field.form);
    let stamp = |name: &str| schema::STAMP.iter().any(|column| column.name == name);
    let fields = table.columns().into_iter().map(|column| Field {
        nullable: !stamp(column.name),
        grows: matches!(column.name, "event" | "instruction"),
        ..Field::new(column.name, type_of(column.form, form(column.name)))
    });
    Rows::new(fields.collect(), |field| words(table, &field.name, form(&field.name)))
}

fn type_of(written: &str, form: Option<Form>) -> Type {
    match written {
        "integer" => Type::Signed,
        "bits" => Type::Bits,
        "boolean" => Type::Flag,
        _ if form == Some(Form::Text) => Type::Text,
        _ => Type::Word,
    }
}

/// The words of a column that are known beforehand, so that all traces have the same ones in one order.
fn words(table: &Table, name: &str, form: Option<Form>) -> Words {
    match (form, name) {
        (Some(Form::Word(list)), _) => Words::of(list.iter().copied()),
        (Some(Form::Reason), _) => Words::of(Reason::ALL.iter().filter_map(|reason| reason.name())),
        (Some(Form::VmcsField), _) => Words::of(vmcs::TABLE.iter().map(|row| row.name)),
        (Some(Form::EventType), _) => Words::of((0..8).map(|bits| EventType::from_bits(bits).name())),
        (None, "verdict") => Words::of(Verdict::ALL.iter().map(|verdict| verdict.name())),
        (None, "judged_by") => Words::of(JudgedBy::ALL.iter().map(|ground| ground.name())),
        (None, "rule") => Words::of(Rule::ALL.iter().map(|rule| rule.name())),
        (None, "narrower") => Words::of(FlushKind::ALL.iter().map(|kind| kind.name())),
        (None, "kind") if table.constant_kind => Words::of([table.kind.name()]),
        _ => Words::default(),
    }
}

/// Whether a table's rows are made by the judge rather than read.
fn is_judged(table: &Table) -> bool {
    table.kind == Kind::Flush
}
