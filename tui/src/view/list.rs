//! The list of events.

use super::Pen;
use crate::describe::{Piece, describe, level, thousands};
use crate::model::{Mode, Model};
use crate::theme::{Role, letter};
use hv_defs::event::Event;
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
    let wide = model.wide_list || inner.width >= 100;
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
                let role = if hit { Role::Notice } else { Role::Dim };
                pieces.push((role, format!("{:>11}{}", thousands(number), if hit { "*" } else { " " })));
                pieces.extend(columns(model, event, wide));
                pieces.extend(describe(event));
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

/// The columns between an event's number and its description.
fn columns(model: &Model, event: &Event, wide: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if wide {
        pieces.push((Role::Dim, format!("{:>15} ", thousands(event.at.instruction))));
    }
    if model.about.vcpus > 1 {
        pieces.push((Role::Plain, format!("{:>2}", event.at.vcpu)));
        if wide {
            pieces.push((Role::Dim, format!("/{}", event.at.pcpu)));
        }
        pieces.push((Role::Plain, " ".into()));
    }
    let level = level(event);
    for step in 0..4 {
        let text = if step == level { level.to_string() } else { pieces_of_ladder(model).to_owned() };
        pieces.push((if step == level { Role::Level(level) } else { Role::Dim }, text));
    }
    let kind = event.what.kind();
    pieces.push((Role::Kind(kind), format!(" {} ", letter(kind))));
    pieces
}

fn pieces_of_ladder(model: &Model) -> &'static str {
    model.theme.glyph("·", ".")
}
