//! Where the parts of the screen of two traces are.

use super::Model;
use crate::layout::SMALLEST;
use ratatui::layout::Rect;

/// From this width on, the lists stand beside one another.
const WIDE: u16 = 120;

/// The screen's parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Areas {
    pub(crate) title: Rect,
    /// Where over the whole trace differences are.
    pub(crate) strip: Rect,
    /// The lists with their title lines; none where the pair fills the screen.
    pub(crate) lists: Option<[Rect; 2]>,
    /// The pair with its title line.
    pub(crate) pair: Option<Rect>,
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
    let rest = row(2, height - 4);
    let (lists, pair) = match (model.zoomed, model.in_pair) {
        (true, true) => (None, Some(rest)),
        (true, false) => (Some(rest), None),
        _ if width >= WIDE => {
            let upper = rest.height * 2 / 3;
            (Some(row(2, upper)), Some(row(2 + upper, rest.height - upper)))
        }
        _ => {
            // Both lists have as many rows.
            let upper = rest.height * 4 / 5 / 2 * 2;
            (Some(row(2, upper)), Some(row(2 + upper, rest.height - upper)))
        }
    };
    let halves = |area: Rect| {
        if width >= WIDE {
            let left = (area.width - 1) / 2;
            let right = Rect { x: area.x + left + 1, width: area.width - left - 1, ..area };
            [Rect { width: left, ..area }, right]
        } else {
            let upper = area.height / 2;
            [Rect { height: upper, ..area }, Rect { y: area.y + upper, height: upper, ..area }]
        }
    };
    Some(Areas {
        title: row(0, 1),
        strip: row(1, 1),
        lists: lists.map(halves),
        pair,
        status: row(height - 2, 1),
        hint: row(height - 1, 1),
    })
}

/// Rows of a list that show events; a usual number where none is shown.
pub(crate) fn list_rows(model: &Model) -> u16 {
    let lists = areas(model).and_then(|areas| areas.lists);
    lists.map_or(10, |lists| lists[0].height.saturating_sub(1)).max(1)
}

/// Lines of the pair under its title.
pub(crate) fn pair_rows(model: &Model) -> usize {
    let pair = areas(model).and_then(|areas| areas.pair);
    usize::from(pair.map_or(10, |pair| pair.height.saturating_sub(1)).max(1))
}
