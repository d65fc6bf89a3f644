//! The help screen, drawn from the table of keys.

use super::Pen;
use crate::describe::Piece;
use crate::keys::GROUPS;
use crate::theme::{Role, letter};
use hv_defs::event::Kind;
use ratatui::layout::Rect;

/// The help screen's lines.
pub(crate) fn lines() -> Vec<Vec<Piece>> {
    let mut lines = Vec::new();
    for group in GROUPS {
        lines.push(vec![(Role::Strong, format!(" {}", group.name))]);
        for row in group.bindings {
            let keys: Vec<String> = row.keys.iter().map(|key| key.name()).collect();
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
    let notes = [
        "Filters: names are those of the Event pane; == != < <= > >= in a..b in {a, b}, ~ contains,",
        "& has these bits; and, or, not, ( ). exit.rip says whose field; none is no address. Tab completes.",
        "Timeline: 0-3 the level that ran, F flush, P pool miss, # phase marker, ! failed entry, a-z bookmarks.",
        "VMCS: * changed by this event, + since the last exit, a dot where no event tells.",
        "Cost: r VMREADs, w VMWRITEs, = of those without effect, F flushes, E changes of EPT02, I injections.",
    ];
    lines.extend(notes.map(|note| vec![(Role::Dim, format!(" {note}"))]));
    lines
}

/// ```text
/// ── Help ───────────────────────────── j k scroll, other keys leave ──
///  Move
///    j  Down             next line
/// ```
pub(super) fn draw(first: usize, pen: &mut Pen, area: Rect) {
    let right = [(Role::Dim, " j k scroll, any other key leaves ".to_owned())];
    let inner = pen.titled(area, &[(Role::Title(true), " Help ".to_owned())], &right);
    for (row, line) in lines().iter().skip(first).take(usize::from(inner.height)).enumerate() {
        pen.line(Pen::row(inner, row), line);
    }
}
