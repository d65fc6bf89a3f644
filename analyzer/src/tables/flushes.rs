//! The table of flushes, which the judge makes.

use super::rows::{signed, stamp};
use crate::judge::Judged;
use hv_defs::event::FlushKind;
use polars::prelude::{Column, NamedFrom, Series};

fn word<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> Column {
    Series::new(name.into(), values.collect::<Vec<_>>()).into()
}

fn optional(name: &str, values: impl Iterator<Item = Option<u64>>) -> Column {
    Series::new(name.into(), values.collect::<Vec<_>>()).into()
}

/// Flushes as those columns that are wanted.
pub(super) fn columns(judged: &[Judged], wanted: &impl Fn(&str) -> bool) -> Vec<Column> {
    let (event, instruction) = judged.iter().map(|row| (row.event, row.at.instruction)).unzip();
    let (vcpu, pcpu): (Vec<u16>, Vec<u16>) = judged.iter().map(|row| (row.at.vcpu, row.at.pcpu)).unzip();
    let mut columns = stamp(event, instruction, &vcpu, &pcpu, wanted);
    let mut add = |name: &str, column: &dyn Fn(&str) -> Column| {
        if wanted(name) {
            columns.push(column(name));
        }
    };
    let single_vpid =
        |kind| matches!(kind, FlushKind::InvvpidAddress | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals);
    let each = || judged.iter();
    add("kind", &|name| word(name, each().map(|row| Some(row.flush.kind.name()))));
    add("cause", &|name| word(name, each().map(|row| Some(row.flush.cause.name()))));
    add("actor", &|name| word(name, each().map(|row| Some(row.flush.actor.name()))));
    add("vpid", &|name| {
        let vpids = each().map(|row| single_vpid(row.flush.kind).then_some(i64::from(row.flush.vpid)));
        Series::new(name.into(), vpids.collect::<Vec<_>>()).into()
    });
    add("eptp", &|name| {
        optional(name, each().map(|row| (row.flush.kind == FlushKind::InveptSingle).then_some(row.flush.eptp)))
    });
    add("address", &|name| {
        let has = |row: &Judged| row.flush.kind == FlushKind::InvvpidAddress || row.flush.address != 0;
        optional(name, each().map(|row| has(row).then_some(row.flush.address)))
    });
    add("dropped", &|name| signed(name, each().map(|row| row.flush.dropped.into())));
    add("verdict", &|name| word(name, each().map(|row| Some(row.verdict.name()))));
    add("judged_by", &|name| word(name, each().map(|row| Some(row.judged_by.name()))));
    add("rule", &|name| word(name, each().map(|row| Some(row.rule.name()))));
    add("narrower", &|name| word(name, each().map(|row| row.narrower)));
    columns
}
