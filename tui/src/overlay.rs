//! What lies over the panes: the chooser of columns and the list of bookmarks. Their keys.

use crate::act::go_to_mark;
use crate::columns;
use crate::keys::{Action, action};
use crate::layout::{Pane, areas};
use crate::model::{Ask, Mode, Model};
use crate::prompt;
use crate::theme::Role;
use crossterm::event::{KeyCode, KeyEvent};

/// Opens the chooser of columns.
pub(crate) fn choose_columns(model: &mut Model) {
    model.mode = Mode::Columns(0);
}

/// Opens the list of bookmarks, at the one nearest to the cursor.
pub(crate) fn list_marks(model: &mut Model) {
    if model.marks.is_empty() {
        model.note = Some((Role::Notice, "There are no bookmarks; m and a letter sets one.".into()));
        return;
    }
    let near = model.marks.values().enumerate().min_by_key(|(_, event)| event.abs_diff(model.cursor));
    model.mode = Mode::Marks(near.map_or(0, |(row, _)| row));
}

/// The row that a key moves to among `len`; `None` for a key that does not move.
fn moved(row: usize, len: usize, key: &KeyEvent) -> Option<usize> {
    let last = len.saturating_sub(1);
    Some(match action(key)? {
        Action::Down => (row + 1).min(last),
        Action::Up => row.saturating_sub(1),
        Action::Home | Action::PageUp | Action::HalfUp => 0,
        // Space is a key of the chooser's own.
        Action::End | Action::HalfDown => last,
        Action::PageDown if key.code != KeyCode::Char(' ') => last,
        _ => return None,
    })
}

/// Columns of the list as it is drawn.
fn list_width(model: &Model) -> u16 {
    areas(model).and_then(|areas| areas.of(Pane::List)).map_or(model.size.0, |list| list.width)
}

/// A key in the chooser of columns.
pub(crate) fn columns_key(model: &mut Model, row: usize, key: &KeyEvent) {
    let mut all = columns::all(model, list_width(model));
    if let Some(row) = moved(row, all.len(), key) {
        model.mode = Mode::Columns(row);
        return;
    }
    match key.code {
        KeyCode::Char(' ' | 'x') => {
            all[row].1 = !all[row].1;
            // A list without columns shows nothing that could be chosen again.
            if all.iter().any(|(_, on)| *on) {
                model.columns = Some(all);
            }
        }
        KeyCode::Char('J') if row + 1 < all.len() => {
            all.swap(row, row + 1);
            model.columns = Some(all);
            model.mode = Mode::Columns(row + 1);
        }
        KeyCode::Char('K') if row > 0 => {
            all.swap(row, row - 1);
            model.columns = Some(all);
            model.mode = Mode::Columns(row - 1);
        }
        KeyCode::Char('J' | 'K') => {}
        KeyCode::Char('0') => model.columns = None,
        _ => model.mode = Mode::Browse,
    }
}

/// A key in the list of bookmarks.
pub(crate) fn marks_key(model: &mut Model, row: usize, key: &KeyEvent) {
    if let Some(row) = moved(row, model.marks.len(), key) {
        model.mode = Mode::Marks(row);
        return;
    }
    let letter = model.marks.keys().nth(row).copied();
    model.mode = Mode::Browse;
    let Some(letter) = letter else { return };
    match key.code {
        KeyCode::Enter => go_to_mark(model, letter),
        KeyCode::Char('r' | 'e') => {
            model.renamed = Some(letter);
            let text = model.mark_notes.get(&letter).cloned().unwrap_or_default();
            prompt::open(model, Ask::Mark, &text);
        }
        KeyCode::Char('x') | KeyCode::Delete => {
            model.marks.remove(&letter);
            model.mark_notes.remove(&letter);
            model.keep_now = true;
            if !model.marks.is_empty() {
                model.mode = Mode::Marks(row.min(model.marks.len() - 1));
            }
        }
        KeyCode::Char(known) if model.marks.contains_key(&known) => go_to_mark(model, known),
        _ => {}
    }
}
