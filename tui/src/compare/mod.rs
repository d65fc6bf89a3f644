//! Two traces side by side: `nvmx tui A B`. A model, messages and effects of its own; the events' words, the colours and
//! the keys are those of the inspector.

pub(crate) mod align;
pub(crate) mod layout;
mod pair;
mod save;
mod screen;
#[cfg(test)]
mod tests;
pub(crate) mod update;
mod work;

pub(crate) use pair::{name as pair_name, pair_lines};
pub(crate) use screen::run;

use crate::export::Step;
use crate::line::Line;
use crate::model::About;
use crate::theme::{Role, Theme};
use align::{Piece, Row, Sort, Strict};
use crossterm::event::{KeyEvent, MouseEvent};
use hv_defs::event::Event;
use save::Save;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the keys go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Browse,
    /// The help screen, from this line on.
    Help(usize),
    /// An event of the chosen trace to go to.
    GoTo(Line),
    /// A file to save the differences in.
    Save(Line),
}

/// Where the cursor is to go as soon as the alignment is known so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    NextDifference,
    PreviousDifference,
    /// The next difference that begins with another sign.
    NextOther(u32),
    PreviousOther(u32),
    /// The row of an event of one trace.
    Event(usize, u64),
    End,
}

/// A piece with what comes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) piece: Piece,
    /// The events behind it.
    pub(crate) end: (u64, u64),
    /// Its first row.
    pub(crate) row: u64,
    /// Differences that begin before it.
    pub(crate) hunks: u64,
    /// Rows before it that are not the same.
    pub(crate) differing: u64,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) abouts: [About; 2],
    pub(crate) theme: Theme,
    pub(crate) size: (u16, u16),
    pub(crate) mode: Mode,
    pub(crate) strict: Strict,
    /// The alignment as far as it is known.
    pub(crate) pieces: Vec<Placed>,
    /// Whether that is all of it.
    pub(crate) whole: bool,
    /// Why it goes no further.
    pub(crate) stuck: Option<String>,
    /// The user stopped it.
    pub(crate) paused: bool,
    /// Which alignment it is: what is under way for another is dropped.
    pub(crate) id: u64,
    /// Rows of pieces that are not plain.
    pub(crate) rows: BTreeMap<usize, Arc<Vec<Row>>>,
    /// A piece whose rows a goal needs.
    pub(crate) needed: Option<usize>,
    pub(crate) goal: Option<Goal>,
    /// The selected row, and the first that is shown.
    pub(crate) cursor: u64,
    pub(crate) top: u64,
    /// The trace that the keys are about.
    pub(crate) side: usize,
    /// Whether the keys go to the pair's fields, and the first line that is shown of them.
    pub(crate) in_pair: bool,
    pub(crate) pair_top: usize,
    pub(crate) zoomed: bool,
    /// Events that were read, by trace and number.
    pub(crate) events: [BTreeMap<u64, Result<Event, String>>; 2],
    pub(crate) note: Option<(Role, String)>,
    pub(crate) copy: Option<String>,
    /// Differences that are being saved, and a file that is not to be after all.
    pub(crate) save: Option<Save>,
    pub(crate) unsaved: Option<PathBuf>,
    /// Effects under way: what the screen needs, and the alignment.
    pub(crate) busy: [bool; 2],
    pub(crate) redraw: bool,
    /// The terminal is to be given back until the process goes on.
    pub(crate) suspend: bool,
    pub(crate) quit: bool,
}

impl Model {
    /// The model of two traces that were just opened.
    pub(crate) fn new(abouts: [About; 2], theme: Theme, size: (u16, u16)) -> Self {
        let cut: Vec<&str> = (0..2).filter(|side| abouts[*side].truncated).map(pair_name).collect();
        let note = (!cut.is_empty()).then(|| {
            let text =
                format!("The recording of {} was cut short: this is up to its last whole block.", cut.join(" and "));
            (Role::Notice, text)
        });
        Self {
            abouts,
            theme,
            size,
            mode: Mode::Browse,
            strict: Strict::Exact,
            pieces: Vec::new(),
            whole: false,
            stuck: None,
            paused: false,
            id: 0,
            rows: BTreeMap::new(),
            needed: None,
            goal: None,
            cursor: 0,
            top: 0,
            side: 0,
            in_pair: false,
            pair_top: 0,
            zoomed: false,
            events: [BTreeMap::new(), BTreeMap::new()],
            note,
            copy: None,
            save: None,
            unsaved: None,
            busy: [false; 2],
            redraw: false,
            suspend: false,
            quit: false,
        }
    }

    /// Rows that are known.
    pub(crate) fn len(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.row + last.piece.rows)
    }

    /// The events from which the alignment goes on.
    pub(crate) fn frontier(&self) -> (u64, u64) {
        self.pieces.last().map_or((0, 0), |last| last.end)
    }

    /// Of the events `range` of the first trace, how many rows differ and how many there are, about: those of all pieces
    /// that reach into it. Nothing where they are not aligned yet.
    pub(crate) fn density(&self, range: (u64, u64)) -> (u64, u64) {
        let first = self.pieces.partition_point(|placed| placed.end.0 <= range.0);
        let behind = self.pieces.partition_point(|placed| placed.piece.from.0 < range.1).max(first + 1);
        let (Some(first), Some(last)) = (self.pieces.get(first), self.pieces.get(behind - 1)) else { return (0, 0) };
        let rows = last.row + last.piece.rows - first.row;
        (last.differing + last.piece.differing - first.differing, rows)
    }

    /// The piece that has a row.
    pub(crate) fn piece_of(&self, row: u64) -> Option<usize> {
        (row < self.len()).then(|| self.pieces.partition_point(|placed| placed.row <= row) - 1)
    }

    /// A row, if it is at hand.
    pub(crate) fn row(&self, row: u64) -> Option<Row> {
        let number = self.piece_of(row)?;
        let Placed { piece, row: first, .. } = self.pieces[number];
        let place = row - first;
        if piece.plain {
            let events = [Some(piece.from.0 + place), Some(piece.from.1 + place)];
            return Some(Row { events, sort: Sort::Same, sign: 0 });
        }
        self.rows.get(&number)?.get(usize::try_from(place).ok()?).copied()
    }

    /// Differences known so far, each a stretch of rows that are not the same.
    pub(crate) fn hunks(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.hunks + self.begun(self.pieces.len() - 1))
    }

    /// Differences that begin in a piece: not the one that goes on from the piece before.
    pub(crate) fn begun(&self, number: usize) -> u64 {
        let goes_on = number > 0 && self.pieces[number - 1].piece.open.1 && self.pieces[number].piece.open.0;
        self.pieces[number].piece.hunks - u64::from(goes_on)
    }

    /// Whether a difference begins at a row of a piece whose rows are at hand.
    pub(crate) fn begins(&self, number: usize, rows: &[Row], place: usize) -> bool {
        let before = match place.checked_sub(1) {
            Some(before) => rows[before].sort != Sort::Same,
            None => number > 0 && self.pieces[number - 1].piece.open.1,
        };
        rows[place].sort != Sort::Same && !before
    }

    /// The sign of the difference that a row is in: that of its first row, if it is at hand.
    pub(crate) fn sign_of(&self, row: u64) -> Option<u32> {
        let differs = |at: u64| self.row(at).filter(|row| row.sort != Sort::Same);
        let mut first = differs(row)?;
        for at in (0..row).rev() {
            let Some(before) = differs(at) else { break };
            first = before;
        }
        Some(first.sign)
    }

    /// The number of the difference that a row is in, from 1.
    pub(crate) fn hunk_of(&self, row: u64) -> Option<u64> {
        let number = self.piece_of(row)?;
        self.row(row).filter(|row| row.sort != Sort::Same)?;
        let rows = self.rows.get(&number)?;
        let place = usize::try_from(row - self.pieces[number].row).ok()?;
        let begun = (0..=place.min(rows.len() - 1)).filter(|&place| self.begins(number, rows, place)).count();
        Some(self.pieces[number].hunks + begun as u64)
    }

    /// The selected row's events, where they were read.
    pub(crate) fn selected(&self) -> Option<(Row, [Option<&Event>; 2])> {
        let row = self.row(self.cursor)?;
        let event = |side: usize| self.events[side].get(&row.events[side]?)?.as_ref().ok();
        Some((row, [event(0), event(1)]))
    }
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Msg {
    Key(KeyEvent),
    Mouse(MouseEvent),
    Resize(u16, u16),
    /// An effect of a lane is done.
    Done(usize, Reply),
    Idle,
}

/// Something to be done outside of the model.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Read these events of each trace.
    Fetch([Vec<u64>; 2]),
    /// Make the rows of a piece.
    Rows { id: u64, number: usize, from: (u64, u64), strict: Strict },
    /// Hand a text to the terminal's clipboard.
    Copy(String),
    /// Save the next piece of the differences.
    Save(Box<Save>),
    /// Drop what was saved of a file.
    Unsave(PathBuf),
    /// Go on with the alignment, as far as a short time allows.
    Align { id: u64, from: (u64, u64), strict: Strict },
}

impl Effect {
    /// What the screen needs does not wait for the alignment.
    pub(crate) const fn lane(&self) -> usize {
        match self {
            Self::Align { .. } | Self::Save(_) => 1,
            _ => 0,
        }
    }
}

/// An event as it was read, or why it was not.
pub(crate) type Read = (u64, Result<Event, String>);

/// What came of an effect.
#[derive(Debug)]
pub(crate) enum Reply {
    Events([Vec<Read>; 2]),
    Rows {
        id: u64,
        number: usize,
        rows: Result<Vec<Row>, String>,
    },
    Copied(Result<(), String>),
    /// How far it got, or how it ended.
    Saved(Box<Result<Save, Step>>),
    Unsaved,
    /// Pieces, each with the events behind it, and whether the traces end there or why it goes no further.
    Aligned {
        id: u64,
        pieces: Vec<(Piece, (u64, u64))>,
        whole: bool,
        error: Option<String>,
    },
}
