//! The list of events.

use super::Pen;
use crate::columns::{self, Column};
use crate::describe::thousands;
use crate::model::{Mode, Model};
use crate::theme::Role;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// The events, the selected one in reverse: bookmark, number, the level as a place in a ladder, the kind's letter, and
/// what happened. `<` is an exit, `>` an entry, `v` a VMCS access; the help screen has the other letters.
///
/// ```text
/// ── Events ─────────────────────────────── filter: level == 2 ──
///        1,024   2  <  EPT_VIOLATION w 0x5000 to L1  rip 0x401000
///        1,025 0    v  L0 writes vmcs12.exit_reason  0x0 to 0x30
/// a      1,026  1   >  enter L1 by resume  vpid 1
/// ```
pub(super) fn draw(model: &Model, pen: &mut Pen, area: Rect) {
    let mut title = vec![(Role::Title(!model.in_side), " Events ".to_owned())];
    let mut right = Vec::new();
    if let Some(filter) = &model.filter {
        right.push((Role::Notice, format!(" filter: {} ", filter.text)));
        if filter.text.len() + 24 > usize::from(area.width) {
            right.clear();
            title.push((Role::Notice, " filtered ".into()));
        }
    }
    let inner = pen.titled(area, &title, &right);
    let window = model.window(inner.height);
    if window.is_empty() {
        let text = match &model.filter {
            Some(filter) if filter.hits.progress().0 < filter.hits.progress().1 => {
                "  Looking for events that match ..."
            }
            Some(_) => "  No event matches the filter. f edits it, F drops it.",
            None => "  The trace has no events.",
        };
        pen.line(inner, &[(Role::Dim, text.into())]);
    }
    let columns = columns::shown(model, inner.width);
    let widths = columns::widths(model, &columns, inner.width.saturating_sub(1), &window);
    heading(model, pen, area, &columns, &widths);
    let search = model.search.as_ref().filter(|_| !matches!(&model.mode, Mode::Help(_)));
    for (row, number) in window.into_iter().enumerate() {
        let line = Pen::row(inner, row);
        let selected = number == model.cursor;
        let over = if selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if selected {
            pen.styled(line, &[(Role::Plain, " ".repeat(usize::from(line.width)))], over);
        }
        let bookmark = model.marks.iter().find(|(_, event)| **event == number).map(|(letter, _)| *letter);
        let mut pieces = vec![(Role::Strong, bookmark.unwrap_or(' ').to_string())];
        match model.events.get(&number) {
            Some(Ok(event)) => {
                let hit = search.is_some_and(|(_, plan)| plan.holds(number, event));
                pieces.extend(columns::line(model, number, event, &columns, &widths, hit));
                let note = model.mark_notes.get(&bookmark.unwrap_or(' ')).filter(|_| bookmark.is_some());
                pieces.extend(note.map(|note| (Role::Strong, format!("  {} {note}", pen.theme.glyph("◂", "<")))));
            }
            Some(Err(error)) => {
                pieces.push((Role::Dim, format!("{:>11} ", thousands(number))));
                pieces.push((Role::Bad, error.clone()));
            }
            None => pieces.push((Role::Dim, format!("{:>11} ...", thousands(number)))),
        }
        pen.styled(line, &pieces, over);
    }
}

/// The names of the columns that were chosen, on the rule over the list, where there is room for them.
fn heading(model: &Model, pen: &mut Pen, area: Rect, columns: &[Column], widths: &[usize]) {
    if model.columns.is_none() || model.filter.is_some() {
        return;
    }
    let mut x = area.x + 1;
    for (column, &width) in columns.iter().zip(widths) {
        let (name, width) = (column.name(), u16::try_from(width).unwrap_or(u16::MAX));
        let end = x.saturating_add(width);
        if name.len() <= usize::from(width) && x > area.x + 10 && end < area.right() {
            let place = if column.right() { end - name.len() as u16 } else { x };
            pen.line(Rect { x: place, width, ..area }, &[(Role::Dim, name.to_owned())]);
        }
        x = end.saturating_add(1);
    }
}
