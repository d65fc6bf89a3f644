//! Findings as sections of a document.

mod exits;
mod flushes;
mod memory;
mod overview;
mod phases;
mod pool;
mod time;
mod vmcs;
mod wrong;

use super::document::{Cell, Document, Part, Section, Tone};
use crate::findings::Findings;
use crate::histogram::Histogram;
use crate::judge::Verdict;

/// Rows that a table shows before it sums up the rest.
const TOP: usize = 20;

/// The document of one trace.
pub(super) fn document(of: &Findings) -> Document {
    let all = [
        overview::overview(of),
        overview::untold(of),
        wrong::missing(of),
        wrong::mistakes(of),
        overview::advice(of),
        exits::exits(of),
        exits::multiplication(of),
        time::time(of),
        flushes::flushes(of),
        pool::pools(of),
        vmcs::vmcs(of),
        memory::ept(of),
        memory::vpids(of),
        phases::injections(of),
        phases::phases(of),
        overview::about(of),
    ];
    Document { title: of.name.clone(), sections: all.into_iter().flatten().collect() }
}

fn section(id: &'static str, title: impl Into<String>, parts: Vec<Part>) -> Option<Section> {
    Some(Section { id, title: title.into(), tone: Tone::Plain, parts })
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Missing => Tone::Bad,
        Verdict::Redundant | Verdict::TooBroad => Tone::Warn,
        Verdict::Required => Tone::Good,
        Verdict::Unknown => Tone::Plain,
    }
}

fn percentiles(of: &Histogram) -> [Cell; 4] {
    let cell = |number| if of.count() == 0 { Cell::text("-") } else { Cell::count(number) };
    [cell(of.percentile(50)), cell(of.percentile(90)), cell(of.percentile(99)), cell(of.max())]
}
