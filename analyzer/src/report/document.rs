//! What a report says, before it is drawn: sections of facts, tables and charts. Every format draws this one document.

use super::flame::{Stack, Unit};
use crate::findings::Advice;

/// How a thing should strike the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Bad,
    Warn,
    Good,
}

/// A cell of a table.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    /// What it is sorted by; text when there is none.
    pub(super) key: Option<f64>,
    /// A bar behind it, as a part of 1.
    pub(super) bar: Option<f64>,
    pub(super) tone: Tone,
    /// Where a page has it lead.
    pub(super) link: Option<String>,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(super) fn count(number: u64) -> Self {
        Self { text: crate::number::grouped(number), key: Some(number as f64), ..Self::default() }
    }

    pub(super) fn number(text: impl Into<String>, key: f64) -> Self {
        Self { text: text.into(), key: Some(key), ..Self::default() }
    }

    /// A share of a whole, with a bar.
    pub(super) fn share(part: u64, whole: u64) -> Self {
        let of = crate::number::percent(part, whole);
        let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Self { text: of, key: Some(share), bar: Some(share), ..Self::default() }
    }

    pub(super) fn address(address: u64) -> Self {
        Self { text: format!("{address:#x}"), key: Some(address as f64), ..Self::default() }
    }

    pub(super) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// A table. A column whose cells have keys is aligned to the right.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// What is not in the rows, and what the columns mean.
    pub(super) note: String,
}

impl Table {
    /// Whether a column has numbers, and is aligned to the right.
    pub(super) fn numeric(&self, column: usize) -> bool {
        self.rows.iter().filter_map(|row| row.get(column)).any(|cell| cell.key.is_some())
    }
}

/// Lines over a common axis.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Curves {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) series: Vec<(&'static str, Vec<(u64, u64)>)>,
    /// A place on the axis worth naming.
    pub(super) mark: Option<(u64, String)>,
}

/// A flame graph.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Flame {
    pub(super) title: String,
    pub(super) unit: Unit,
    pub(super) stacks: Vec<Stack>,
}

/// Small charts of bars below one another.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Sparks {
    pub(super) title: String,
    pub(super) rows: Vec<Spark>,
    /// Places from 0 to 1 that have a line, with what is there.
    pub(super) marks: Vec<(f64, String)>,
    /// Whether each row has an axis of its own and may stand beside others.
    pub(super) side_by_side: bool,
}

/// A row of bars.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Spark {
    pub(super) name: String,
    /// How high, and what the bar is of.
    pub(super) bars: Vec<(u64, String)>,
    /// What the axis begins and ends at.
    pub(super) from: String,
    pub(super) to: String,
    /// Its numbers, in words.
    pub(super) about: String,
}

/// A part of a section.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Part {
    Facts(Vec<(&'static str, Cell)>),
    Advice(Vec<Advice>),
    Table(Table),
    Curves(Curves),
    Flame(Flame),
    Sparks(Sparks),
    Note(String),
    /// The name of what comes next, where a section has several of its kind.
    Heading(&'static str),
}

/// A section.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Section {
    /// A key for links and for programs.
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) tone: Tone,
    pub(super) parts: Vec<Part>,
}

/// A report.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Document {
    pub(super) title: String,
    pub(super) sections: Vec<Section>,
}
