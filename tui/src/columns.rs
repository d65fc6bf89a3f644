//! The columns of the list of events: which there are, what stands in them, and which are shown.

use crate::describe::{Piece, describe, level, thousands};
use crate::model::Model;
use crate::theme::{Role, letter};
use hv_defs::event::{Event, Kind};
use hv_defs::fields::Value;

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Column {
    Number,
    Time,
    Delta,
    Vcpu,
    Cpu,
    Level,
    Letter,
    Kind,
    What,
    Reason,
    Rip,
    Vmcs,
    Field,
    Handled,
}

impl Column {
    pub(crate) const ALL: [Self; 14] = [
        Self::Number,
        Self::Time,
        Self::Delta,
        Self::Vcpu,
        Self::Cpu,
        Self::Level,
        Self::Letter,
        Self::Kind,
        Self::What,
        Self::Reason,
        Self::Rip,
        Self::Vmcs,
        Self::Field,
        Self::Handled,
    ];

    /// Its name, as it is kept beside the trace and heads a table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Number => "event",
            Self::Time => "time",
            Self::Delta => "delta",
            Self::Vcpu => "vcpu",
            Self::Cpu => "pcpu",
            Self::Level => "level",
            Self::Letter => "letter",
            Self::Kind => "kind",
            Self::What => "what",
            Self::Reason => "reason",
            Self::Rip => "rip",
            Self::Vmcs => "vmcs",
            Self::Field => "field",
            Self::Handled => "handled_by",
        }
    }

    /// What stands in it, for the reader.
    pub(crate) const fn help(self) -> &'static str {
        match self {
            Self::Number => "its number in the trace",
            Self::Time => "instructions so far, or the trace's own time",
            Self::Delta => "time since the event above",
            Self::Vcpu => "virtual CPU of L1",
            Self::Cpu => "physical CPU",
            Self::Level => "whose it is, as a place in a ladder",
            Self::Letter => "the kind's letter",
            Self::Kind => "the kind's name",
            Self::What => "what happened, in a line",
            Self::Reason => "why a guest was left",
            Self::Rip => "where a guest was left",
            Self::Vmcs => "which VMCS",
            Self::Field => "which field of it",
            Self::Handled => "who handles the exit, or who did it",
        }
    }

    /// How wide it is; `None` where it takes what is left.
    pub(crate) fn width(self, model: &Model) -> Option<usize> {
        match self {
            Self::Number => Some(thousands(model.about.len.saturating_sub(1)).len().max(11)),
            Self::What => None,
            _ => Some(self.text_width()),
        }
    }

    /// How wide it is in a file.
    pub(crate) const fn text_width(self) -> usize {
        match self {
            Self::Number => 11,
            Self::Time => 15,
            Self::Delta => 11,
            Self::Vcpu => 2,
            Self::Cpu => 2,
            Self::Level => 4,
            Self::Letter => 1,
            Self::Kind => 9,
            Self::What => 60,
            Self::Reason => 20,
            Self::Rip => 18,
            Self::Vmcs => 15,
            Self::Field => 26,
            Self::Handled => 10,
        }
    }

    /// Whether it stands at the right of its width.
    pub(crate) const fn right(self) -> bool {
        matches!(self, Self::Number | Self::Time | Self::Delta | Self::Vcpu | Self::Cpu)
    }

    /// What stands in it, as it is written to a file: without signs that only the screen needs.
    pub(crate) fn plain(self, number: u64, event: &Event, before: Option<&Event>) -> String {
        let value = |names: &[&str]| {
            let found = names.iter().find_map(|name| event.value(name)).filter(|value| *value != Value::None);
            found.map_or_else(String::new, |value| value.to_string())
        };
        match self {
            Self::Number => number.to_string(),
            Self::Time => event.at.instruction.to_string(),
            Self::Delta => before.map_or_else(String::new, |before| {
                (i128::from(event.at.instruction) - i128::from(before.at.instruction)).to_string()
            }),
            Self::Vcpu => event.at.vcpu.to_string(),
            Self::Cpu => event.at.pcpu.to_string(),
            Self::Level => level(event).to_string(),
            Self::Letter => letter(event.what.kind()).to_owned(),
            Self::Kind => event.what.kind().name().to_owned(),
            Self::What => text(&describe(event)),
            Self::Reason if event.what.kind() == Kind::Exit => value(&["reason"]),
            Self::Reason if event.what.kind() == Kind::Flush => value(&["cause"]),
            Self::Reason => String::new(),
            Self::Rip => value(&["rip"]),
            Self::Vmcs => {
                let (which, address) = (value(&["which"]), value(&["vmcs12", "address"]));
                match (event.what.kind(), which.is_empty(), address.is_empty()) {
                    (Kind::Vmcs, ..) => format!("{which} {}", address.trim_start_matches("0x")),
                    (Kind::Flush | Kind::Ept, ..) | (_, _, true) => String::new(),
                    _ => format!("vmcs12 {}", address.trim_start_matches("0x")),
                }
            }
            Self::Field if event.what.kind() == Kind::Vmcs => value(&["field"]),
            Self::Field => String::new(),
            Self::Handled => value(&["handled_by", "actor"]),
        }
    }
}

/// A line's text without its roles.
pub(crate) fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|(_, text)| text.as_str()).collect()
}

/// The columns that a list of this width shows, in their order: those that were chosen, else those that fit.
pub(crate) fn shown(model: &Model, width: u16) -> Vec<Column> {
    if let Some(chosen) = &model.columns {
        return chosen.iter().filter(|(_, on)| *on).map(|(column, _)| *column).collect();
    }
    let (wide, several) = (width >= 100, model.about.vcpus > 1);
    let fits = |column: &Column| match column {
        Column::Number | Column::Level | Column::Letter | Column::What => true,
        Column::Time => wide,
        Column::Vcpu => several,
        Column::Cpu => wide && several,
        _ => false,
    };
    Column::ALL.into_iter().filter(fits).collect()
}

/// All columns in their order with whether they are shown: what the chooser begins with.
pub(crate) fn all(model: &Model, width: u16) -> Vec<(Column, bool)> {
    match &model.columns {
        Some(chosen) => chosen.clone(),
        None => {
            let shown = shown(model, width);
            Column::ALL.into_iter().map(|column| (column, shown.contains(&column))).collect()
        }
    }
}

/// What a line takes at least for what happened.
const LEAST: usize = 24;

/// How wide each column is in a list of `width` columns of the terminal that shows these events: as wide as it is meant to
/// be, or where that does not fit, as wide as what stands in it. What happened takes the rest.
pub(crate) fn widths(model: &Model, columns: &[Column], width: u16, events: &[u64]) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.width(model).unwrap_or(LEAST)).collect();
    let sum = |widths: &[usize]| widths.iter().sum::<usize>() + widths.len();
    if sum(&widths) > usize::from(width) {
        let read = events.iter().filter_map(|number| Some((*number, model.events.get(number)?.as_ref().ok()?)));
        let mut needed = vec![1; columns.len()];
        for (number, event) in read {
            let before = before(model, number);
            for (needed, &column) in needed.iter_mut().zip(columns).filter(|(_, column)| **column != Column::What) {
                let mut pieces = Vec::new();
                cell(model, column, number, event, before, &mut pieces);
                *needed = (*needed).max(pieces.iter().map(|(_, text)| text.chars().count()).sum());
            }
        }
        for ((width, needed), column) in widths.iter_mut().zip(needed).zip(columns) {
            if *column != Column::What {
                *width = (*width).min(needed);
            }
        }
    }
    let rest = usize::from(width).saturating_sub(sum(&widths));
    if let Some(at) = columns.iter().position(|column| *column == Column::What) {
        widths[at] += rest;
    }
    widths
}

/// The event above one in the list, if it was read.
fn before(model: &Model, number: u64) -> Option<&Event> {
    model.events.get(&model.before(number)?)?.as_ref().ok()
}

/// The pieces of an event's line, each column so wide.
pub(crate) fn line(
    model: &Model,
    number: u64,
    event: &Event,
    columns: &[Column],
    widths: &[usize],
    hit: bool,
) -> Vec<Piece> {
    let before = before(model, number);
    let mut pieces = Vec::new();
    for (at, (&column, &room)) in columns.iter().zip(widths).enumerate() {
        let last = at + 1 == columns.len();
        let start = pieces.len();
        cell(model, column, number, event, before, &mut pieces);
        let used: usize = pieces[start..].iter().map(|(_, text)| text.chars().count()).sum();
        if column.right() && used < room {
            pieces.insert(start, (Role::Plain, " ".repeat(room - used)));
        } else if used > room && !last {
            shorten(&mut pieces, start, room, model.theme.glyph("…", "~"));
        } else if !last {
            pieces.push((Role::Plain, " ".repeat(room.saturating_sub(used))));
        }
        // A hit of the search is marked behind the first column.
        let behind = if at == 0 && hit { (Role::Notice, "*") } else { (Role::Plain, " ") };
        if !last {
            pieces.push((behind.0, behind.1.into()));
        }
    }
    pieces
}

/// Cuts the pieces from `start` on to `room` characters, the last of them a sign that something is cut.
fn shorten(pieces: &mut Vec<Piece>, start: usize, room: usize, sign: &str) {
    let mut left = room.saturating_sub(1);
    let mut at = start;
    while at < pieces.len() {
        let length = pieces[at].1.chars().count();
        if length > left {
            pieces[at].1 = pieces[at].1.chars().take(left).collect();
            pieces.truncate(at + 1);
            pieces.push((Role::Dim, sign.to_owned()));
            return;
        }
        left -= length;
        at += 1;
    }
}

fn cell(model: &Model, column: Column, number: u64, event: &Event, before: Option<&Event>, pieces: &mut Vec<Piece>) {
    match column {
        Column::Number => pieces.push((Role::Dim, thousands(number))),
        Column::Time => pieces.push((Role::Dim, thousands(event.at.instruction))),
        Column::Delta => {
            let since = before.and_then(|before| event.at.instruction.checked_sub(before.at.instruction));
            let text = since.filter(|since| *since > 0).map_or(String::new(), |since| format!("+{}", thousands(since)));
            pieces.push((Role::Plain, text));
        }
        Column::Level => {
            let level = level(event);
            let empty = model.theme.glyph("·", ".");
            pieces.extend((0..4).map(|step| match step == level {
                true => (Role::Level(level), level.to_string()),
                false => (Role::Dim, empty.to_owned()),
            }));
        }
        Column::Letter | Column::Kind => {
            pieces.push((Role::Kind(event.what.kind()), column.plain(number, event, None)));
        }
        Column::What => pieces.extend(describe(event)),
        Column::Cpu => pieces.push((Role::Dim, event.at.pcpu.to_string())),
        _ => pieces.push((Role::Plain, column.plain(number, event, None))),
    }
}
