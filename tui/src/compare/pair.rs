//! The selected row in full: the fields of both events, those that differ first.

use super::Model;
use super::align::{Row, Sort};
use crate::decode::decode;
use crate::describe::{Piece, thousands};
use crate::theme::Role;
use hv_defs::event::Event;
use hv_defs::fields::Value;

/// The lines of the pane under the lists.
pub(crate) fn pair_lines(model: &Model) -> Vec<Vec<Piece>> {
    match model.selected() {
        Some((Row { events: [Some(_), Some(_)], sort, .. }, [Some(a), Some(b)])) => both(model, sort, a, b),
        Some((row, events)) => {
            let of = (0..2).find_map(|side| Some((side, row.events[side]?, events[side]?)));
            of.map_or_else(Vec::new, |(side, number, event)| alone(model, side, number, event))
        }
        None => Vec::new(),
    }
}

fn alone(model: &Model, side: usize, number: u64, event: &Event) -> Vec<Vec<Piece>> {
    let text = format!("Only {} has this event.", name(side));
    let text = match model.row(model.cursor).map(|row| row.sort) {
        Some(Sort::Alone) => text,
        _ => format!("Of {}.", name(side)),
    };
    let mut lines = vec![vec![(Role::Notice, text)]];
    lines.extend(decode(number, event, model.abouts[side].time));
    lines
}

/// What the traces are called.
pub(crate) const fn name(side: usize) -> &'static str {
    ["A", "B"][side]
}

fn both(model: &Model, sort: Sort, a: &Event, b: &Event) -> Vec<Vec<Piece>> {
    let kinds = [a, b].map(|event| event.what.kind());
    // Where the row is the same, whatever differs does not count.
    let differing = if sort == Sort::Same { Vec::new() } else { model.strict.differences(a, b) };
    let counts = |name: &str| differing.iter().any(|diff| diff.field == name);
    let ignored: Vec<_> = hv_defs::fields::differences(a, b).filter(|diff| !counts(diff.field)).collect();
    let what = match sort {
        Sort::Unlike => {
            "The traces did not come together near here: these stand side by side by order alone.".to_owned()
        }
        Sort::Same if ignored.is_empty() => "The same.".to_owned(),
        Sort::Same => "The same but for what does not count, in parentheses.".to_owned(),
        _ => format!("{} differ{}.", count(differing.len()), if differing.len() == 1 { "s" } else { "" }),
    };
    let mut lines = vec![vec![
        (Role::Kind(kinds[0]), format!("{} ", kinds[0].name().to_uppercase())),
        (if sort == Sort::Same { Role::Dim } else { Role::Notice }, what),
    ]];
    let row = |mark: &str, name: &str, role: Role, a: &Value, b: Option<&Value>| {
        let name = if mark == "(" { format!("({name})") } else { format!("{mark} {name}") };
        let mut line = vec![(role, format!("{name:<19}")), (role, format!("{:<24} ", a.to_string()))];
        line.extend(b.map(|b| (role, b.to_string())));
        line
    };
    for diff in &differing {
        lines.push(row("~", diff.field, Role::Changed, &diff.expected, Some(&diff.got)));
    }
    for diff in &ignored {
        lines.push(row("(", diff.field, Role::Dim, &diff.expected, Some(&diff.got)));
    }
    if kinds[0] == kinds[1] {
        let differs = |name: &str| differing.iter().chain(&ignored).any(|diff| diff.field == name);
        let equal = a.values().filter(|(field, _)| !differs(field.name) && field.name != "reason_code");
        lines.extend(equal.map(|(field, value)| row(" ", field.name, Role::Plain, &value, None)));
    }
    let stamp = |event: &Event| format!("{:<24} ", thousands(event.at.instruction));
    if a.at.instruction == b.at.instruction {
        lines.push(vec![(Role::Dim, format!("  {:<16} ", model.abouts[0].time)), (Role::Plain, stamp(a))]);
    }
    lines
}

fn count(fields: usize) -> String {
    format!("{fields} field{}", if fields == 1 { "" } else { "s" })
}
