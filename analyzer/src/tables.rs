//! A trace as tables: one dataframe a kind of event, built when it is asked for and from the columns that are needed.
//!
//! Names and forms come from [`hv_defs::fields`], and what each column means from [`crate::schema`]. The `flushes` table
//! has the judge's columns too, and rows for flushes that are missing.

use crate::judge::{self, Judged};
use crate::schema::{self, Table};
use crate::source::Rows;
use crate::{Error, Source};
use hv_defs::event::{FlushKind, Kind, NO_ADDRESS, VmcsOp};
use hv_defs::exit::{EventType, ExitReason};
use hv_defs::fields::{Form, Texts};
use hv_defs::vmcs::VmcsField;
use polars::prelude::{Column, DataFrame, NamedFrom, Series};
use traces::Reader;

/// The tables of one trace. Nothing is read before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    source: Source<'a>,
    verdicts: Option<&'a [Judged]>,
}

/// The names of all tables, for messages.
pub(crate) fn names() -> String {
    schema::TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ")
}

impl<'a> Tables<'a> {
    /// The tables of a trace.
    pub fn read(reader: &'a Reader) -> Self {
        Self { source: reader.into(), verdicts: None }
    }

    /// The tables of a source of events.
    pub fn of(source: Source<'a>) -> Self {
        Self { source, verdicts: None }
    }

    /// The same, with verdicts on flushes from outside: see [`judge::Bench::with`].
    pub fn with_verdicts(self, verdicts: Option<&'a [Judged]>) -> Self {
        Self { verdicts, ..self }
    }

    /// Where the events come from.
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// A whole table.
    ///
    /// # Errors
    /// There is no such table, or the trace is damaged.
    pub fn table(&self, name: &str) -> Result<DataFrame, Error> {
        self.table_with(name, |_| true)
    }

    /// A table with those of its columns that are wanted.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub fn table_with(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<DataFrame, Error> {
        let table = schema::table(name).ok_or_else(|| Error::NoTable { table: name.into() })?;
        let columns = if table.kind == Kind::Flush {
            flushes(judge::judge_with(self.source, self.verdicts)?, &wanted)
        } else {
            plain(self.source, table, &wanted)?
        };
        let failed = |why: polars::prelude::PolarsError| Error::Table { table: name.into(), why: why.to_string() };
        DataFrame::new_infer_height(columns).map_err(failed)
    }
}

const MAX_I64: u64 = i64::MAX as u64;

fn signed(number: u64) -> i64 {
    number.min(MAX_I64) as i64
}

fn signed_column(name: &str, values: impl Iterator<Item = u64>) -> Column {
    Series::new(name.into(), values.map(signed).collect::<Vec<i64>>()).into()
}

fn optional_column(name: &str, values: impl Iterator<Item = Option<u64>>) -> Column {
    Series::new(name.into(), values.collect::<Vec<Option<u64>>>()).into()
}

fn word_column<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> Column {
    Series::new(name.into(), values.collect::<Vec<_>>()).into()
}

fn stamp_columns(rows: &Rows, wanted: &impl Fn(&str) -> bool) -> Vec<Column> {
    // The first column is always there, so that a table keeps its height.
    let mut columns = vec![signed_column("event", rows.event.iter().copied())];
    if wanted("instruction") {
        columns.push(signed_column("instruction", rows.instruction.iter().copied()));
    }
    if wanted("vcpu") {
        columns.push(signed_column("vcpu", rows.vcpu.iter().map(|&cpu| cpu.into())));
    }
    if wanted("pcpu") {
        columns.push(signed_column("pcpu", rows.pcpu.iter().map(|&cpu| cpu.into())));
    }
    columns
}

fn plain(source: Source<'_>, table: &Table, wanted: &impl Fn(&str) -> bool) -> Result<Vec<Column>, Error> {
    let kind = table.kind;
    let fields = kind.fields();
    let mut needed = vec![false; kind.columns().len()];
    for field in fields.iter().filter(|field| wanted(field.name)) {
        needed[field.column] = true;
    }
    // A VMCS access has a field only when it is a read or a write.
    let op = kind.columns().iter().position(|column| column.name == "op");
    let masked = |name: &str| kind == Kind::Vmcs && matches!(name, "field" | "old" | "value");
    if let Some(op) = op.filter(|_| kind == Kind::Vmcs) {
        needed[op] = true;
    }
    let rows = source.rows(kind, &needed)?;
    let mut columns = stamp_columns(&rows, wanted);
    if table.constant_kind && wanted("kind") {
        columns.push(word_column("kind", rows.event.iter().map(|_| Some(kind.name()))));
    }
    for field in fields.iter().filter(|field| wanted(field.name)) {
        let values = &rows.columns[field.column][..];
        columns.push(match op.filter(|_| masked(field.name)) {
            Some(op) => accessed_column(field.name, field.form, values, &rows.columns[op]),
            None => column(field.name, field.form, values, &rows.texts),
        });
    }
    Ok(columns)
}

/// A column of the `vmcs` table that is null unless a field was read or written.
fn accessed_column(name: &str, form: Form, values: &[u64], ops: &[u64]) -> Column {
    let touches = |op: u64| op == VmcsOp::Read as u64 || op == VmcsOp::Write as u64;
    let values = values.iter().zip(ops).map(|(&value, &op)| touches(op).then_some(value));
    if form == Form::VmcsField { field_names(name, values) } else { optional_column(name, values) }
}

fn field_names(name: &str, encodings: impl Iterator<Item = Option<u64>>) -> Column {
    let names = encodings.map(|encoding| {
        let field = VmcsField(u32::try_from(encoding?).unwrap_or(u32::MAX));
        Some(field.name().map_or_else(|| field.to_string().into(), std::borrow::Cow::Borrowed))
    });
    Series::new(name.into(), names.collect::<Vec<Option<std::borrow::Cow<'_, str>>>>()).into()
}

fn column(name: &str, form: Form, values: &[u64], texts: &Texts) -> Column {
    let values = values.iter().copied();
    match form {
        Form::Number => signed_column(name, values),
        Form::Vector => signed_column(name, values.map(|info| info & 0xff)),
        Form::Hex => Series::new(name.into(), values.collect::<Vec<u64>>()).into(),
        Form::HexOrNone => optional_column(name, values.map(|bits| (bits != 0).then_some(bits))),
        Form::Address => optional_column(name, values.map(|address| (address != NO_ADDRESS).then_some(address))),
        Form::Flag => Series::new(name.into(), values.map(|flag| flag != 0).collect::<Vec<bool>>()).into(),
        Form::Word(words) => {
            word_column(name, values.map(|word| usize::try_from(word).ok().and_then(|word| words.get(word)).copied()))
        }
        Form::Reason => {
            let names = values.map(|code| {
                let reason = ExitReason::from(code as u32).reason();
                reason.name().map_or_else(|| reason.to_string().into(), std::borrow::Cow::Borrowed)
            });
            Series::new(name.into(), names.collect::<Vec<std::borrow::Cow<'_, str>>>()).into()
        }
        Form::VmcsField => field_names(name, values.map(Some)),
        Form::EventType => {
            word_column(name, values.map(|info| Some(EventType::from_bits((info >> 8 & 7) as u8).name())))
        }
        Form::Text => word_column(name, values.map(|text| texts.text(text))),
    }
}

fn flushes(judged: Vec<Judged>, wanted: &impl Fn(&str) -> bool) -> Vec<Column> {
    let mut rows = Rows::default();
    for flush in &judged {
        rows.event.push(flush.event);
        rows.instruction.push(flush.at.instruction);
        rows.vcpu.push(flush.at.vcpu);
        rows.pcpu.push(flush.at.pcpu);
    }
    let mut columns = stamp_columns(&rows, wanted);
    let mut add = |name: &str, column: &dyn Fn(&str) -> Column| {
        if wanted(name) {
            columns.push(column(name));
        }
    };
    let single_vpid =
        |kind| matches!(kind, FlushKind::InvvpidAddress | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals);
    let each = || judged.iter();
    add("kind", &|name| word_column(name, each().map(|row| Some(row.flush.kind.name()))));
    add("cause", &|name| word_column(name, each().map(|row| Some(row.flush.cause.name()))));
    add("actor", &|name| word_column(name, each().map(|row| Some(row.flush.actor.name()))));
    add("vpid", &|name| {
        let vpids = each().map(|row| single_vpid(row.flush.kind).then_some(i64::from(row.flush.vpid)));
        Series::new(name.into(), vpids.collect::<Vec<_>>()).into()
    });
    add("eptp", &|name| {
        optional_column(name, each().map(|row| (row.flush.kind == FlushKind::InveptSingle).then_some(row.flush.eptp)))
    });
    add("address", &|name| {
        let has = |row: &Judged| row.flush.kind == FlushKind::InvvpidAddress || row.flush.address != 0;
        optional_column(name, each().map(|row| has(row).then_some(row.flush.address)))
    });
    add("dropped", &|name| signed_column(name, each().map(|row| row.flush.dropped.into())));
    add("verdict", &|name| word_column(name, each().map(|row| Some(row.verdict.name()))));
    add("judged_by", &|name| word_column(name, each().map(|row| Some(row.judged_by.name()))));
    add("rule", &|name| word_column(name, each().map(|row| Some(row.rule.name()))));
    add("narrower", &|name| word_column(name, each().map(|row| row.narrower)));
    columns
}
