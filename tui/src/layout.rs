//! Where the panes are: for drawing them, and to know what the mouse points at.

use crate::model::{Model, Side};
use ratatui::layout::Rect;

/// The smallest terminal that the inspector is drawn on.
pub(crate) const SMALLEST: (u16, u16) = (60, 16);

/// From this width on, panes stand beside the list rather than under it.
const WIDE: u16 = 150;

/// Columns of the timeline's labels.
pub(crate) const LABEL: u16 = 8;

/// A pane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pane {
    List,
    Side(Side),
}

/// The screen's parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Areas {
    pub(crate) title: Rect,
    pub(crate) strip: Rect,
    /// The panes with their title lines.
    pub(crate) panes: Vec<(Pane, Rect)>,
    pub(crate) status: Rect,
    pub(crate) hint: Rect,
}

/// The parts of the screen; `None` where it is too small.
pub(crate) fn areas(model: &Model) -> Option<Areas> {
    let (width, height) = model.size;
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return None;
    }
    let row = |y: u16, rows: u16| Rect::new(0, y, width, rows);
    let strip = row(1, Lanes::of(model).rows() + 2);
    let top = strip.bottom();
    let rest = row(top, height - 2 - top);
    let focused = if model.in_side { Pane::Side(model.side) } else { Pane::List };
    let panes = if model.zoomed {
        vec![(focused, rest)]
    } else if width >= WIDE {
        let left = width * 11 / 20;
        let upper = rest.height * 2 / 5;
        let right = |y: u16, rows: u16| Rect::new(left + 1, y, width - left - 1, rows);
        let lower = if model.side == Side::Detail { Side::State } else { model.side };
        vec![
            (Pane::List, Rect::new(0, rest.y, left, rest.height)),
            (Pane::Side(Side::Detail), right(rest.y, upper)),
            (Pane::Side(lower), right(rest.y + upper, rest.height - upper)),
        ]
    } else {
        let list = if model.side == Side::Detail { rest.height * 11 / 20 } else { rest.height * 2 / 5 };
        vec![
            (Pane::List, Rect::new(0, rest.y, width, list)),
            (Pane::Side(model.side), Rect::new(0, rest.y + list, width, rest.height - list)),
        ]
    };
    Some(Areas { title: row(0, 1), strip, panes, status: row(height - 2, 1), hint: row(height - 1, 1) })
}

/// The rows of the timeline above those of exits and of what happened once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lanes {
    /// The first vCPU that is shown, and how many are, with a lane each.
    pub(crate) first: u16,
    pub(crate) shown: u16,
    /// How many others there are, which have a lane together.
    pub(crate) others: u16,
    /// The deepest level that has a row of its own in each lane, if each level has one; else a lane is one row.
    pub(crate) deepest: Option<u8>,
    /// Whether a row of event numbers stands under them.
    pub(crate) ruler: bool,
}

impl Lanes {
    pub(crate) fn of(model: &Model) -> Self {
        let (height, vcpus) = (model.size.1, model.about.vcpus.max(1));
        let levels = u16::from(model.strip.deepest()) + 1;
        // A row each where the events keep most of the screen.
        let deepest = (height >= 36 && vcpus.saturating_mul(levels) <= height / 5).then_some(model.strip.deepest());
        let most = if deepest.is_some() { vcpus } else { (height / 12).clamp(1, 8) };
        let shown = if vcpus <= most { vcpus } else { most - 1 };
        // The lane of the selected event is among those that are shown.
        let vcpu = model.selected().map_or(0, |event| event.at.vcpu);
        let first = (vcpu + 1).saturating_sub(shown).min(vcpus - shown);
        Self { first, shown, others: vcpus - shown, deepest, ruler: height >= 30 }
    }

    /// Rows of one lane.
    pub(crate) fn each(&self) -> u16 {
        self.deepest.map_or(1, |deepest| u16::from(deepest) + 1)
    }

    fn rows(&self) -> u16 {
        (self.shown + u16::from(self.others > 0)) * self.each() + u16::from(self.ruler)
    }
}

impl Areas {
    /// Where a pane is, if it is shown.
    pub(crate) fn of(&self, pane: Pane) -> Option<Rect> {
        self.panes.iter().find(|(shown, _)| *shown == pane).map(|(_, area)| *area)
    }

    /// Columns of the timeline.
    pub(crate) fn columns(&self) -> u16 {
        self.strip.width.saturating_sub(LABEL + 1)
    }
}

/// Rows of the list that show events: all but its heading. A usual number where the list is not shown.
pub(crate) fn list_rows(model: &Model) -> u16 {
    let area = areas(model).and_then(|areas| areas.of(Pane::List));
    area.map_or(20, |area| area.height.saturating_sub(1)).max(1)
}

/// Lines of a side pane under its title, and as above where it is not shown.
pub(crate) fn side_rows(model: &Model, side: Side) -> usize {
    let area = areas(model).and_then(|areas| areas.of(Pane::Side(side)));
    usize::from(area.map_or(20, |area| area.height.saturating_sub(1)).max(1))
}

/// The first of `len` lines that a pane of `rows` rows shows, so that `selected` is in its middle where it can be.
pub(crate) fn top(selected: usize, rows: usize, len: usize) -> usize {
    selected.saturating_sub(rows / 2).min(len.saturating_sub(rows))
}
