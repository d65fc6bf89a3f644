//! `nvmx diff`: where two traces part, and what they have more or less of.

use super::dump::{json_of, line_of};
use super::fail::{Result, Status};
use super::print::{Print, count, of};
use super::trace::{config_json, open, unreadable, whence};
use super::words::DiffArgs;
use hv_defs::event::{Actor, Event, Kind};
use hv_defs::exit::ExitReason;
use hv_defs::fields::{compare, differences};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;
use traces::Reader;

/// Kinds of exit that are shown, those that differ most.
const EXITS_SHOWN: usize = 20;

/// What differs by design between a machine whose instructions KVM executes and one in software: the kind of event and its
/// field. See docs/kvm.md.
const BY_DESIGN: [(Kind, &str); 1] = [(Kind::Flush, "dropped")];

/// The first difference: the events of that number, where there are any.
struct First {
    number: u64,
    a: Option<Event>,
    b: Option<Event>,
    /// The events before it, which are equal.
    before: VecDeque<(u64, Event)>,
    /// How many events before it differ by design, by the field.
    by_design: [u64; BY_DESIGN.len()],
}

/// `nvmx diff`.
pub fn diff(args: &DiffArgs, print: &Print) -> Result<Status> {
    let (a, b) = (open(&args.a, print)?, open(&args.b, print)?);
    let first = first(args, &a, &b, print)?;
    let equal = first.a.is_none() && first.b.is_none();
    let (in_a, in_b) = (whence(a.header()), whence(b.header()));
    let configs = match in_a == in_b && a.header().origin.is_none() {
        true => config_differences(&config_json(&a.header().config), &config_json(&b.header().config)),
        false => Vec::new(),
    };
    // What two equal traces have is the same.
    let (kinds, exits) = match equal {
        true => (Vec::new(), Vec::new()),
        false => (kinds(args, &a, &b)?, exits(args, &a, &b)?),
    };
    let mut out = print.out();
    if args.json {
        let field = first.a.as_ref().zip(first.b.as_ref()).and_then(|(a, b)| compare(a, b));
        let event = |event: &Option<Event>| event.as_ref().map(|event| json_of(first.number, event));
        let pair = |a: &Value, b: &Value| json!({ "a": a, "b": b });
        let configuration: Map<_, _> = configs.iter().map(|(key, a, b)| (key.clone(), pair(a, b))).collect();
        let counts: Map<_, _> = kinds.iter().map(|(kind, a, b)| ((*kind).into(), json!({ "a": a, "b": b }))).collect();
        let exits = exits.iter().map(|(exit, a, b)| {
            json!({ "level": exit.0, "reason": exit.reason(), "handled_by": exit.handler(), "a": a, "b": b })
        });
        let object = json!({
            "equal": equal,
            "origin": { "a": in_a, "b": in_b },
            "configuration": configuration,
            "events": { "a": a.len(), "b": b.len() },
            "first": (!equal).then(|| json!({
                "event": first.number,
                "field": field.map(|diff| diff.field),
                "a": event(&first.a),
                "b": event(&first.b),
            })),
            "counts": counts,
            "exits": exits.collect::<Vec<_>>(),
            "by_design": designed(&first).map(|(kind, field, events)| {
                json!({ "kind": kind.name(), "field": field, "events": events })
            }).collect::<Vec<_>>(),
        });
        writeln!(out, "{object:#}")?;
        out.flush()?;
        return Ok(if equal { Status::Done } else { Status::No });
    }
    match in_a == in_b {
        false => writeln!(out, "origin: {in_a} and {in_b}")?,
        true if a.header().origin.is_some() => writeln!(out, "origin: {in_a}, both")?,
        true => {}
    }
    for (key, in_a, in_b) in &configs {
        writeln!(out, "configuration: {key}: {in_a} and {in_b}")?;
    }
    for (number, event) in &first.before {
        writeln!(out, "  {}", line_of(*number, event))?;
    }
    let number = first.number;
    match (&first.a, &first.b) {
        (None, None) => {
            let but = if designed(&first).next().is_some() { ", but for what differs by design" } else { "" };
            writeln!(out, "all {} are equal{but}", of(number, "event"))?;
        }
        (Some(event_a), Some(event_b)) => {
            if let Some(diff) = compare(event_a, event_b) {
                writeln!(out, "event {number} differs in {}: {} and {}", diff.field, diff.expected, diff.got)?;
            }
            writeln!(out, "A {}\nB {}", line_of(number, event_a), line_of(number, event_b))?;
        }
        (Some(event), None) => {
            writeln!(out, "B ends after {}; A goes on\nA {}", of(number, "event"), line_of(number, event))?;
        }
        (None, Some(event)) => {
            writeln!(out, "A ends after {}; B goes on\nB {}", of(number, "event"), line_of(number, event))?;
        }
    }
    for (kind, field, events) in designed(&first) {
        writeln!(out, "by design, on KVM: {field} of {kind}, in {}", of(events, "event"))?;
    }
    if !equal {
        writeln!(out, "{:<44} {:>12} {:>12} {:>13}", "events", "A", "B", "B - A")?;
        let mut row = |name: &str, a: u64, b: u64| {
            let change = i128::from(b) - i128::from(a);
            let sign = if change < 0 { "-" } else { "+" };
            let change = format!("{sign}{}", count(change.unsigned_abs() as u64));
            writeln!(out, "{name:<44} {:>12} {:>12} {change:>13}", count(a), count(b))
        };
        for (kind, a, b) in &kinds {
            row(kind, *a, *b)?;
        }
        row("all", a.len(), b.len())?;
        for (exit, a, b) in exits.iter().take(EXITS_SHOWN) {
            row(&format!("  L{} {} by {}", exit.0, exit.reason(), exit.handler()), *a, *b)?;
        }
        if let Some(left) = exits.len().checked_sub(EXITS_SHOWN + 1) {
            writeln!(out, "  and {} of exit", of(left as u64 + 1, "other kind"))?;
        }
    }
    out.flush()?;
    Ok(if equal { Status::Done } else { Status::No })
}

/// What differs by design before the first difference that does not: kind, field, and in how many events.
fn designed(first: &First) -> impl Iterator<Item = (Kind, &'static str, u64)> + '_ {
    let all = BY_DESIGN.iter().zip(first.by_design).map(|(&(kind, field), events)| (kind, field, events));
    all.filter(|(.., events)| *events > 0)
}

/// Which of [`BY_DESIGN`] two events differ in, if in nothing else.
fn is_by_design(a: &Event, b: &Event) -> Option<usize> {
    let mut differences = differences(a, b);
    let found = differences.next()?;
    let of = |known: &(Kind, &str)| *known == (a.what.kind(), found.field);
    BY_DESIGN.iter().position(of).filter(|_| differences.next().is_none())
}

/// Whether one of two machines ran on KVM, and the other in software.
fn is_on_both(a: &Reader, b: &Reader) -> bool {
    let backend = |reader: &Reader| reader.header().origin.is_none().then_some(reader.header().config.backend);
    matches!((backend(a), backend(b)), (Some(a), Some(b)) if a != b)
}

fn first(args: &DiffArgs, a: &Reader, b: &Reader, print: &Print) -> Result<First> {
    let bar = print.progress("comparing", a.len().min(b.len()));
    let (mut events_a, mut events_b) = (a.events(0), b.events(0));
    let mut before = VecDeque::new();
    let mut by_design = [0; BY_DESIGN.len()];
    let on_both = is_on_both(a, b);
    let mut number = 0;
    loop {
        let next_a = events_a.next().transpose().map_err(|error| unreadable(&args.a, error))?;
        let next_b = events_b.next().transpose().map_err(|error| unreadable(&args.b, error))?;
        let pair = next_a.as_ref().zip(next_b.as_ref()).filter(|(a, b)| on_both && a != b);
        let excused = pair.and_then(|(a, b)| is_by_design(a, b));
        if let Some(field) = excused {
            by_design[field] += 1;
        } else if next_a != next_b || next_a.is_none() {
            bar.finish_and_clear();
            // Of equal traces there is nothing to see the way to.
            if next_a.is_none() && next_b.is_none() {
                before.clear();
            }
            return Ok(First { number, a: next_a, b: next_b, before, by_design });
        }
        if let Some(event) = next_a.filter(|_| args.context > 0) {
            if before.len() == args.context {
                before.pop_front();
            }
            before.push_back((number, event));
        }
        number += 1;
        if number % (1 << 16) == 0 {
            bar.set_position(number);
        }
    }
}

/// Kinds of event that one has more of than the other: how many each.
fn kinds(args: &DiffArgs, a: &Reader, b: &Reader) -> Result<Vec<(&'static str, u64, u64)>> {
    let counts_a = a.counts().map_err(|error| unreadable(&args.a, error))?;
    let counts_b = b.counts().map_err(|error| unreadable(&args.b, error))?;
    let of = |counts: &[(String, u64)], kind: &str| counts.iter().find(|(name, _)| name == kind).map_or(0, |(_, n)| *n);
    let kinds = Kind::ALL.iter().map(|kind| (kind.name(), of(&counts_a, kind.name()), of(&counts_b, kind.name())));
    Ok(kinds.filter(|(_, a, b)| a != b).collect())
}

/// A kind of exit: level, reason field without its flags, handler.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Exit(u64, u64, u64);

impl Exit {
    fn reason(self) -> String {
        ExitReason::from(self.1 as u32).reason().to_string()
    }

    fn handler(self) -> &'static str {
        Actor::ALL.get(self.2 as usize).map_or("?", |actor| actor.name())
    }
}

/// Kinds of exit that one has more of than the other, those that differ most first.
fn exits(args: &DiffArgs, a: &Reader, b: &Reader) -> Result<Vec<(Exit, u64, u64)>> {
    let mut all: BTreeMap<Exit, [u64; 2]> = BTreeMap::new();
    for (at, (reader, path)) in [(a, &args.a), (b, &args.b)].into_iter().enumerate() {
        for (exit, count) in exits_of(reader, path)? {
            all.entry(exit).or_default()[at] += count;
        }
    }
    let differ = all.into_iter().filter(|(_, [a, b])| a != b);
    let mut rows: Vec<_> = differ.map(|(exit, [a, b])| (exit, a, b)).collect();
    rows.sort_by_key(|(_, a, b)| std::cmp::Reverse(a.abs_diff(*b)));
    Ok(rows)
}

fn exits_of(reader: &Reader, path: &Path) -> Result<BTreeMap<Exit, u64>> {
    const BASIC: u64 = 0xffff;
    let mut counts = BTreeMap::new();
    for block in 0..reader.blocks().len() {
        let columns = ["level", "reason", "handled_by"];
        let rows = reader.block_columns_of(block, Kind::Exit, &columns).map_err(|error| unreadable(path, error))?;
        let [Some(levels), Some(reasons), Some(handlers)] = columns.map(|column| rows.column(column)) else { continue };
        for ((level, reason), handler) in levels.iter().zip(reasons.iter()).zip(handlers.iter()) {
            *counts.entry(Exit(level, reason & BASIC, handler)).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The leaves in which two objects of the same shape differ.
fn config_differences(a: &Value, b: &Value) -> Vec<(String, Value, Value)> {
    let (Some(in_a), Some(in_b)) = (a.as_object(), b.as_object()) else { return Vec::new() };
    let mut differences = Vec::new();
    for (key, value) in in_a {
        let Some(other) = in_b.get(key).filter(|&other| other != value) else { continue };
        if value.is_object() {
            let inner = config_differences(value, other).into_iter();
            differences.extend(inner.map(|(leaf, a, b)| (format!("{key}.{leaf}"), a, b)));
        } else {
            differences.push((key.clone(), value.clone(), other.clone()));
        }
    }
    differences
}
