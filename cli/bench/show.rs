//! The tables of `nvmx bench`, as text.

use super::super::print::count;
use super::budgets::Line;
use super::peers::Peers;
use super::row::{Budget, Row};
use std::fmt::Write;

/// A figure with three digits that count.
pub fn figure(value: f64) -> String {
    match value.abs() {
        of if of >= 10_000.0 => count(value.round() as u64),
        of if of >= 100.0 => format!("{value:.0}"),
        of if of >= 10.0 => format!("{value:.1}"),
        of if of > 0.0 && of < 0.095 => format!("{value:.3}"),
        _ => format!("{value:.2}"),
    }
}

/// A figure of that unit: exits are whole.
fn of_unit(value: f64, unit: &str) -> String {
    if unit == "exits" { count(value as u64) } else { figure(value) }
}

fn or_none(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), figure)
}

fn limit(budget: Option<Budget>) -> String {
    match budget {
        None => "-".into(),
        Some(Budget::AtMost(limit)) => format!("<= {}", figure(limit)),
        Some(Budget::AtLeast(limit)) => format!(">= {}", figure(limit)),
        Some(Budget::Floor) => ">= the floor".into(),
        Some(Budget::TimesBochs(times)) => format!(">= {} x Bochs", figure(times)),
    }
}

/// Rows with their peers below them, and why there is no figure.
pub fn rows(rows: &[Row]) -> String {
    let head = ["", "figure", "", "spread", "floor", "ratio", "budget", "stretch", "", "the floor"].map(str::to_owned);
    let (mut lines, mut notes) = (vec![head], vec![Vec::new()]);
    for row in rows {
        let verdict = match (row.held(), &row.value, row.budget) {
            (Some(true), ..) => "held",
            (Some(false), ..) => "MISSED",
            (None, Ok(_), Some(_)) => "OPEN",
            (None, Err(_), _) => "not measured",
            (None, Ok(_), None) => "",
        };
        lines.push([
            row.what.clone(),
            row.value.as_ref().map_or_else(|_| "-".into(), |value| of_unit(*value, row.unit)),
            row.unit.into(),
            row.more("spread").map(|spread| format!("{:.0} %", spread * 100.0)).unwrap_or_default(),
            row.floor.map_or_else(|| "-".into(), |floor| of_unit(floor, row.unit)),
            or_none(row.ratio()),
            limit(row.budget),
            limit(row.stretch),
            verdict.into(),
            row.floor_is.into(),
        ]);
        let mut below = Vec::new();
        if let Err(why) = &row.value {
            below.push(format!("    not measured: {why}"));
        }
        for peer in &row.peers {
            below.push(match &peer.value {
                Ok(value) => {
                    let times = row.times(peer).map(|times| format!(", nvmx is {} times that", figure(times)));
                    let ours = peer.beside.map(|ours| format!(" (nvmx on the same: {})", figure(ours)));
                    let times = times.unwrap_or_default();
                    format!("    {}: {}{}{times}", peer.what, figure(*value), ours.unwrap_or_default())
                }
                Err(why) => format!("    {}: {why}", peer.what),
            });
        }
        let open = row.held().is_none() && row.value.is_ok() && matches!(row.budget, Some(Budget::TimesBochs(_)));
        if open {
            below.push("    open: the budget is of a Bochs without its debugger, which NVMX_BOCHS names".into());
        }
        notes.push(below);
    }
    let table = align(&lines, &[1, 3, 4, 5, 6, 7]);
    let mut text = String::new();
    for (line, notes) in table.lines().zip(notes) {
        text.push_str(line);
        text.push('\n');
        notes.iter().for_each(|note| text.extend([note, "\n"]));
    }
    text
}

/// The table of all budgets.
pub fn budgets(lines: &[Line]) -> String {
    let all: Vec<Row> = lines
        .iter()
        .map(|line| {
            let on = if line.on.is_empty() { String::new() } else { format!(" ({})", line.on) };
            Row { what: format!("{}{on}", line.row.what), ..line.row.clone() }
        })
        .collect();
    rows(&all)
}

/// The table of the other tools.
pub fn peers(peers: &Peers) -> String {
    let mut lines = vec![["", "bytes an event", "to text, M/s", "to columns, M/s"].map(str::to_owned)];
    for peer in &peers.peers {
        let bytes = peer.bytes.clone().map_or_else(|why| why, figure);
        lines.push([peer.what.clone(), bytes, or_none(peer.text), or_none(peer.columns)]);
    }
    align(&lines, &[1, 2, 3])
}

/// Lines in columns; those of `right` end at one place.
pub fn align<const N: usize>(lines: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = match right.contains(&column) {
                true => write!(row, "{cell:>width$}  "),
                false => write!(row, "{cell:<width$}  "),
            };
        }
        text.push_str(row.trim_ascii_end());
        text.push('\n');
    }
    text
}
