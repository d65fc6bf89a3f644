//! The tables of `nvmx bench`, as text.

use super::measure::{Budget, Row};
use super::peers::Peers;
use std::fmt::Write;

/// A figure with three digits that count.
pub fn figure(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table of the budgets.
pub fn rows(rows: &[Row]) -> String {
    let mut lines = vec![["", "", "figure", "floor", "ratio", "budget", "", "the floor"].map(str::to_owned)];
    for row in rows {
        let or_none = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
        let budget = match row.budget {
            None => "-".into(),
            Some(Budget::AtMost(limit)) => format!("<= {}", figure(limit)),
            Some(Budget::AtLeast(limit)) => format!(">= {}", figure(limit)),
        };
        let held = match row.held() {
            None => "",
            Some(true) => "held",
            Some(false) => "MISSED",
        };
        lines.push([
            row.what.into(),
            row.unit.into(),
            or_none(row.value),
            figure(row.floor),
            or_none(row.ratio()),
            budget,
            held.into(),
            row.floor_is.into(),
        ]);
    }
    align(&lines, &[2, 3, 4, 5])
}

/// The table of the other tools.
pub fn peers(peers: &Peers) -> String {
    let mut lines = vec![["", "bytes an event", "to text, M/s", "to columns, M/s"].map(str::to_owned)];
    for peer in &peers.peers {
        let or_none = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
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
