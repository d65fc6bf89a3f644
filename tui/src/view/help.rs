//! The help screen, drawn from the table of keys.

use super::Pen;
use super::side::wrap;
use crate::describe::Piece;
use crate::keys::{Action, COMPARE, Group, action_in};
use crate::theme::{Role, letter};
use crossterm::event::KeyEvent;
use hv_defs::event::Kind;
use ratatui::layout::Rect;

/// What a key does to the help screen of a terminal of that size: the first line to show, or `None` to leave it.
pub(crate) fn scroll(groups: &[Group], line: usize, (width, height): (u16, u16), key: &KeyEvent) -> Option<usize> {
    let last = lines(groups, width).len().saturating_sub(usize::from(height.saturating_sub(4)));
    let page = usize::from(height / 2);
    let line = match action_in(groups, key)? {
        Action::Down => line + 1,
        Action::Up => line.saturating_sub(1),
        Action::PageDown | Action::HalfDown => line + page,
        Action::PageUp | Action::HalfUp => line.saturating_sub(page),
        Action::Home => 0,
        Action::End => last,
        Action::Redraw => line,
        _ => return None,
    };
    Some(line.min(last))
}

/// The help screen's lines.
fn lines(groups: &[Group], width: u16) -> Vec<Vec<Piece>> {
    let mut lines = Vec::new();
    for group in groups {
        lines.push(vec![(Role::Strong, format!(" {}", group.name))]);
        for (at, row) in group.bindings.iter().enumerate().filter(|(_, row)| !row.help.is_empty()) {
            // A row that says nothing is of the row before, the other way round.
            let back = group.bindings[at + 1..].iter().take_while(|row| row.help.is_empty());
            let keys = row.keys.iter().chain(back.flat_map(|row| row.keys));
            let keys: Vec<String> = keys.map(|key| key.name()).collect();
            lines.push(vec![(Role::Key, format!("   {:<20}", keys.join("  "))), (Role::Plain, row.help.to_owned())]);
        }
        lines.push(Vec::new());
    }
    lines.push(vec![(Role::Strong, " Letters in the list".into())]);
    for four in Kind::ALL.chunks(4) {
        let mut line = vec![(Role::Plain, "  ".to_owned())];
        for &kind in four {
            line.push((Role::Kind(kind), format!(" {} ", letter(kind))));
            line.push((Role::Plain, format!("{:<14}", kind.name())));
        }
        lines.push(line);
    }
    lines.push(Vec::new());
    if std::ptr::eq(groups, COMPARE) {
        let notes = [
            "Marks: ~ differs, at the right in which fields; - only A has it; + only B has it; ? by order only.",
            "A difference is a stretch of such lines. Differ: how much of each part of A is in one, a dot: not compared yet.",
        ];
        lines.extend(paragraphs(&notes, width));
        return lines;
    }
    let notes = [
        "Filters: names are those of the Event pane; == != < <= > >= in a..b in {a, b}, ~ contains,",
        "& has these bits; and, or, not, ( ). exit.rip says whose field; none is no address. Tab completes.",
        "Timeline: 0-3 the level that ran, F flush, P pool miss, # phase marker, ! failed entry, a-z bookmarks.",
        "VMCS: * changed by this event, + since the last exit, a dot where no event tells.",
        "Cost: r VMREADs, w VMWRITEs, = of those without effect, F flushes, E changes of EPT02, I injections.",
    ];
    lines.extend(paragraphs(&notes, width));
    lines
}

/// Texts, each broken into lines of which all but the first are set in.
fn paragraphs(texts: &[&str], width: u16) -> Vec<Vec<Piece>> {
    let room = usize::from(width.saturating_sub(5));
    let broken = texts.iter().map(|text| wrap(text, room));
    let set = broken.flat_map(|lines| {
        let indents = std::iter::once(" ").chain(std::iter::repeat("   "));
        lines.into_iter().zip(indents).map(|(line, indent)| vec![(Role::Dim, format!("{indent}{line}"))])
    });
    set.collect()
}

/// ```text
/// ── Help ───────────────────────────── j k scroll, other keys leave ──
///  Move
///    j  Down             next line
/// ```
pub(super) fn draw(groups: &[Group], first: usize, pen: &mut Pen, area: Rect) {
    let right = [(Role::Dim, " j k scroll, any other key leaves ".to_owned())];
    let inner = pen.titled(area, &[(Role::Title(true), " Help ".to_owned())], &right);
    for (row, line) in lines(groups, area.width).iter().skip(first).take(usize::from(inner.height)).enumerate() {
        pen.line(Pen::row(inner, row), line);
    }
}
