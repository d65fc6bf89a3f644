//! Every budget, in one order, each with the figure that it is of.

use super::super::print::count;
use super::Measured;
use super::part::Part;
use super::row::Row;
use serde_json::{Value, json};

/// A budget: which figure it is of.
#[derive(Debug)]
pub struct Item {
    /// Its key.
    pub name: &'static str,
    /// What is promised.
    pub what: &'static str,
    part: Part,
    row: &'static str,
    /// Instead of that row, where it was measured.
    better: Option<&'static str>,
}

const fn item(name: &'static str, what: &'static str, part: Part, row: &'static str) -> Item {
    Item { name, what, part, row, better: None }
}

/// All of them.
pub const ALL: [Item; 15] = [
    item("cpu", "software CPU, plain Linux work", Part::Cpu, "plain"),
    item("round-trip", "L1 to L2 and back, empty round trip", Part::Nested, "round-trip"),
    item("cpuid", "an L2 CPUID exit handled by L1 Linux's KVM", Part::Nested, "cpuid"),
    item("out", "an L2 port I/O exit to L1's userspace", Part::Nested, "out"),
    item("recording", "recording's cost over running without", Part::Record, "cost"),
    item("event", "one event recorded", Part::Trace, "hand-over"),
    item("bytes-vmcs", "trace size, a VMCS access", Part::Trace, "bytes-vmcs"),
    item("bytes-exit", "trace size, an exit with its registers", Part::Trace, "bytes-exit"),
    item("replay", "replay, full, verifying", Part::Replay, "full"),
    item("replay-l0", "replay, L0 only, exits", Part::Replay, "l0"),
    item("seek", "seek to any event", Part::Seek, "longest"),
    item("analysis", "analysis from a compressed file", Part::Analysis, "report"),
    item("inspector", "inspector, from opening to the first screen", Part::Inspector, "first-screen"),
    Item { better: Some("memory-long"), ..item("memory", "memory of analysis", Part::Analysis, "memory") },
    item("clone", "fresh clone to the end of `nvmx demo`", Part::Clone, "demo"),
];

/// A budget with its figure.
#[derive(Debug)]
pub struct Line {
    /// Which.
    pub item: &'static Item,
    /// What it was measured on.
    pub on: String,
    /// The figure, or why there is none.
    pub row: Row,
}

/// The budgets of these parts, with the worst figure where there are several. `why` says why a part has none.
pub fn lines(parts: &[Part], measured: &[Measured], why: &dyn Fn(Part) -> String) -> Vec<Line> {
    let of_parts = ALL.iter().filter(|item| parts.contains(&item.part));
    of_parts.map(|item| line(item, measured, &why(item.part))).collect()
}

fn line(item: &'static Item, measured: &[Measured], why: &str) -> Line {
    let of_part = || measured.iter().filter(|of| of.part == item.part);
    let named = |name: &str| -> Vec<(&Measured, &Row)> {
        of_part().filter_map(|of| Some((of, of.rows.iter().find(|row| row.name == name)?))).collect()
    };
    let better = item.better.map(named).unwrap_or_default();
    let mut found = if better.is_empty() { named(item.row) } else { better };
    // The worst first, those without a figure last.
    found.sort_by(|(_, one), (_, other)| match (&one.value, &other.value) {
        (Ok(one_is), Ok(other_is)) if one.is_rate() => one_is.total_cmp(other_is),
        (Ok(one_is), Ok(other_is)) => other_is.total_cmp(one_is),
        (one, other) => one.is_err().cmp(&other.is_err()),
    });
    match found.first() {
        Some((of, row)) => {
            let events = row.more("events").or(of.events.map(|events| events as f64));
            let mut on = match item.part {
                // The row says it.
                Part::Nested | Part::Clone => String::new(),
                _ => of.name.clone(),
            };
            if let Some(events) = events {
                on += &format!(", {} events", count(events as u64));
            }
            if let Some(seconds) = row.more("replay_s") {
                on += &format!(", {} s to replay", super::show::figure(seconds));
            }
            if row.value.is_err() {
                on = String::new();
            }
            // It says whether there were registers.
            let what = if row.name == "bytes-exit" { format!("trace size, {}", row.what) } else { item.what.into() };
            Line { item, on, row: Row { what, ..(*row).clone() } }
        }
        None => Line { item, on: String::new(), row: Row::missing(item.row, item.what, "", why) },
    }
}

/// As JSON: docs/json.md.
pub fn object(line: &Line) -> Value {
    let Value::Object(row) = line.row.object() else { unreachable!("a row is an object") };
    let mut object =
        json!({ "name": line.item.name, "part": line.item.part.name(), "row": line.row.name, "on": line.on });
    let object_mut = object.as_object_mut().expect("it was made as one");
    object_mut.extend(row.into_iter().filter(|(key, _)| key != "name"));
    object
}
