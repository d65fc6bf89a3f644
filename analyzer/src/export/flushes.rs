//! The table of flushes, which the judge makes as it goes.

use super::dataset::Part;
use crate::judge::{Bench, Judged, Verdict};
use crate::{Error, Source};
use columns::Rows;
use hv_defs::event::{FlushKind, What};
use std::collections::{BTreeMap, BTreeSet};

/// Verdicts held back until those of earlier flushes are in. Beyond that, rows are written out of order.
const HELD: usize = 1 << 18;

/// Judges every flush and adds the rows to `part`, which is left with what is too little for a batch.
pub(super) fn flushes(source: Source<'_>, part: &mut Part) -> Result<(), Error> {
    let (mut bench, mut line) = (Bench::default(), Line::default());
    let mut failed = None;
    source.each(|number, event| {
        if failed.is_some() {
            return;
        }
        match event.what {
            What::Flush(_) => _ = line.waiting.insert(number),
            What::Entry(_) => line.entered = number,
            _ => {}
        }
        bench.see(number, event);
        bench.verdicts().for_each(|verdict| line.take(verdict));
        if number % (1 << 12) == 0 || line.ready.len() > HELD {
            line.release(&mut part.rows);
            failed = part.settle().err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    bench.close().for_each(|verdict| line.take(verdict));
    line.ready.values().flatten().for_each(|verdict| row(&mut part.rows, verdict));
    Ok(())
}

/// Verdicts that wait for earlier ones, so that rows come in the order of events.
#[derive(Debug, Default)]
struct Line {
    /// By event, missing flushes behind the event's own.
    ready: BTreeMap<(u64, bool), Vec<Judged>>,
    /// Flushes without a verdict.
    waiting: BTreeSet<u64>,
    /// The last entry: a flush may turn out to be missing before it.
    entered: u64,
}

impl Line {
    fn take(&mut self, verdict: Judged) {
        let missing = verdict.verdict == Verdict::Missing;
        if !missing {
            self.waiting.remove(&verdict.event);
        }
        self.ready.entry((verdict.event, missing)).or_default().push(verdict);
    }

    /// Gives what nothing can come before any more, or all where that is too much.
    fn release(&mut self, rows: &mut Rows) {
        let first = self.waiting.first().map_or(self.entered, |&first| first.min(self.entered));
        let mut given = std::mem::take(&mut self.ready);
        if given.len() <= HELD {
            self.ready = given.split_off(&(first, false));
        }
        given.values().flatten().for_each(|verdict| row(rows, verdict));
    }
}

/// A verdict as a row: the values of [`Tables`](crate::Tables).
fn row(rows: &mut Rows, judged: &Judged) {
    let flush = &judged.flush;
    let of_one_vpid =
        matches!(flush.kind, FlushKind::InvvpidAddress | FlushKind::InvvpidSingle | FlushKind::InvvpidRetainGlobals);
    let of_one_address = flush.kind == FlushKind::InvvpidAddress || flush.address != 0;
    // The columns of the schema, in its order.
    let [event, instruction, vcpu, pcpu, others @ ..] = rows.columns_mut() else { return };
    let [kind, cause, actor, vpid, eptp, address, dropped, verdict, judged_by, rule, narrower] = others else { return };
    event.bits(Some(judged.event));
    instruction.bits(Some(judged.at.instruction));
    vcpu.bits(Some(judged.at.vcpu.into()));
    pcpu.bits(Some(judged.at.pcpu.into()));
    kind.text(Some(flush.kind.name()));
    cause.text(Some(flush.cause.name()));
    actor.text(Some(flush.actor.name()));
    vpid.bits(of_one_vpid.then_some(flush.vpid.into()));
    eptp.bits((flush.kind == FlushKind::InveptSingle).then_some(flush.eptp));
    address.bits(of_one_address.then_some(flush.address));
    dropped.bits(Some(flush.dropped.into()));
    verdict.text(Some(judged.verdict.name()));
    judged_by.text(Some(judged.judged_by.name()));
    rule.text(Some(judged.rule.name()));
    narrower.text(judged.narrower);
}
