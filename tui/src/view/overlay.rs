//! What lies over the panes: the chooser of columns and the list of bookmarks.

use super::Pen;
use crate::columns;
use crate::describe::{Piece, describe, thousands};
use crate::layout::top;
use crate::model::Model;
use crate::theme::Role;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// The columns in their order, with a cross before those that are shown.
///
/// ```text
/// ── Columns ────────────────────────────────────────
///  [x] event       its number in the trace
///  [ ] time        instructions so far
/// ```
pub(super) fn columns(model: &Model, selected: usize, pen: &mut Pen, area: Rect) {
    let all = columns::all(model, area.width);
    let lines = all.iter().map(|(column, on)| {
        let cross = if *on { " [x] " } else { " [ ] " };
        vec![
            (Role::Strong, cross.to_owned()),
            (Role::Plain, format!("{:<12}", column.name())),
            (Role::Dim, column.help().to_owned()),
        ]
    });
    let order = if model.columns.is_some() { "chosen" } else { "by the width" };
    // Nothing else sorts them: what came first stands first.
    let right = " events stand in the order of their arrival ";
    draw(pen, area, (&format!(" Columns, {order} "), right), lines.collect(), selected);
}

/// The bookmarks by their letters, with their events and what was said of them.
///
/// ```text
/// ── Bookmarks ──────────────────────────────────────
///  a       1,024  the flush that is missing
///  b       9,999  EPT_VIOLATION w 0x5000 to L1  rip 0x401000
/// ```
pub(super) fn marks(model: &Model, selected: usize, pen: &mut Pen, area: Rect) {
    let lines = model.marks.iter().map(|(letter, event)| {
        let mut line: Vec<Piece> =
            vec![(Role::Strong, format!(" {letter} ")), (Role::Dim, format!("{:>13}  ", thousands(*event)))];
        match (model.mark_notes.get(letter), model.events.get(event)) {
            (Some(note), _) => line.push((Role::Plain, note.clone())),
            (None, Some(Ok(event))) => line.extend(describe(event)),
            _ => {}
        }
        line
    });
    draw(pen, area, (" Bookmarks ", ""), lines.collect(), selected);
}

/// Lines over the lower part of an area, under a title with something at its right.
fn draw(pen: &mut Pen, area: Rect, (title, right): (&str, &str), lines: Vec<Vec<Piece>>, selected: usize) {
    let rows = (lines.len() as u16 + 1).min(area.height);
    let width = if area.width < 100 { area.width } else { 76 };
    let area = Rect { x: area.x + (area.width - width) / 2, y: area.bottom() - rows, width, height: rows };
    for row in 0..usize::from(rows) {
        pen.line(Pen::row(area, row), &[(Role::Plain, " ".repeat(usize::from(width)))]);
    }
    let inner = pen.titled(area, &[(Role::Title(true), title.to_owned())], &[(Role::Dim, right.to_owned())]);
    let shown = usize::from(inner.height);
    let first = top(selected, shown, lines.len());
    for (at, line) in lines.iter().enumerate().skip(first).take(shown) {
        let row = Pen::row(inner, at - first);
        let over = if at == selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if at == selected {
            pen.styled(row, &[(Role::Plain, " ".repeat(usize::from(row.width)))], over);
        }
        pen.styled(row, line, over);
    }
}
