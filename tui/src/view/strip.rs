//! The timeline.

use super::Pen;
use crate::describe::short;
use crate::layout::{LABEL, bands};
use crate::model::Model;
use crate::strip::{Cell, column_of, shown_level};
use crate::theme::Role;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// One lane a vCPU with the level that ran (on tall terminals the parts that L2 and L1 ran), then how dense exits are, then what happened once: bookmarks, failed
/// entries, phase markers, pool misses, flushes. The selected event's column stands out.
///
/// ```text
/// vcpu 0  1111111122222111112222222111111100011111
/// exits   ▁▁▁▂▂▂▅▅▅███▅▅▂▂▁▁▁▁▁▂▂▂▂▂▂▂
/// 12-99k    a   F  #   P      !
/// ```
pub(super) fn draw(model: &Model, pen: &mut Pen, area: Rect) {
    let lanes = usize::from(area.height.saturating_sub(2));
    let strip = &model.strip;
    let (window, columns) = strip.asked;
    let at = column_of(window, columns, model.cursor);
    let bands = usize::from(bands(model));
    for lane in 0..lanes / bands {
        if bands == 1 {
            level_lane(model, pen, Pen::row(area, lane), lane, at);
        } else {
            share_lanes(model, pen, (Pen::row(area, lane * 2), Pen::row(area, lane * 2 + 1)), lane, at);
        }
    }
    let (exits, notes) = (Pen::row(area, lanes), Pen::row(area, lanes + 1));
    pen.line(exits, &[(Role::Dim, " exits".into())]);
    let scale =
        if window == (0, model.about.len) { " all".to_owned() } else { format!(" {} ev", short(window.1 - window.0)) };
    pen.line(notes, &[(Role::Dim, scale)]);
    let densest = strip.cells.iter().map(density).max().unwrap_or(0).max(1);
    for (column, cell) in (0..columns).zip(strip.cells.iter().map(Some).chain(std::iter::repeat(None))) {
        let over = if at == Some(column) { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let eighths = cell.map_or(0, |cell| (density(cell) * 8).div_ceil(densest) as u8);
        let bar = pen.theme.bar(eighths).to_owned();
        pen.styled(place(exits, column), &[(Role::Plain, bar)], over);
        let note = cell.map_or((Role::Dim, ".".to_owned()), |cell| note(model, cell));
        pen.styled(place(notes, column), &[note], over);
    }
}

/// A lane in one row: the level that ran, as a digit on a band.
fn level_lane(model: &Model, pen: &mut Pen, row: Rect, lane: usize, at: Option<u16>) {
    pen.line(row, &[(Role::Dim, format!(" vcpu {lane}"))]);
    let mut last = None;
    for (column, cell) in (0..).zip(&model.strip.cells) {
        // Where nothing of the vCPU is seen, it goes on as before.
        last = cell.lanes.get(lane).and_then(shown_level).or(last);
        let Some(level) = last else { continue };
        let band = if level > 0 && at != Some(column) { Modifier::REVERSED } else { Modifier::empty() };
        let over = Style::new().add_modifier(band);
        pen.styled(place(row, column), &[(Role::Level(level), level.to_string())], over);
    }
}

/// A lane in two rows: the parts of the instructions that L2 (and deeper) and L1 ran.
///
/// ```text
/// v0  L2     ▂▃▅▅▅▃▁     ▇
/// v0  L1  ████▇▆▄▄▄▆█████▂
/// ```
fn share_lanes(model: &Model, pen: &mut Pen, (deep, first): (Rect, Rect), lane: usize, at: Option<u16>) {
    pen.line(deep, &[(Role::Dim, format!(" v{lane:<2} ")), (Role::Level(2), "L2".into())]);
    pen.line(first, &[(Role::Dim, format!(" v{lane:<2} ")), (Role::Level(1), "L1".into())]);
    for (column, cell) in (0..).zip(&model.strip.cells) {
        let Some([_, l1, l2, l3]) = cell.lanes.get(lane).copied() else { continue };
        let ran = l1 + l2 + l3;
        let eighths = |part: u64| (part * 8).div_ceil(ran.max(1)) as u8;
        let mark = if at == Some(column) { Modifier::REVERSED } else { Modifier::empty() };
        let over = Style::new().add_modifier(mark);
        // Within L2's row, what L3 ran has its own colour where it is the larger part.
        let deeper = if l3 > l2 { 3 } else { 2 };
        for (row, level, part) in [(deep, deeper, l2 + l3), (first, 1, l1)] {
            let bar = pen.theme.bar(eighths(part)).to_owned();
            pen.styled(place(row, column), &[(Role::Level(level), bar)], over);
        }
    }
}

fn place(row: Rect, column: u16) -> Rect {
    Rect { x: row.x + LABEL + column, width: 1, ..row }
}

/// Exits in a thousand events.
fn density(cell: &Cell) -> u64 {
    (cell.exits * 1000).checked_div(cell.seen).unwrap_or(0)
}

/// The most notable thing of a column.
fn note(model: &Model, cell: &Cell) -> (Role, String) {
    let events = cell.events.0..cell.events.1;
    let bookmark = model.marks.iter().find(|(_, event)| events.contains(event));
    match bookmark {
        Some((letter, _)) => (Role::Strong, letter.to_string()),
        None if cell.bad > 0 => (Role::Bad, "!".into()),
        None if cell.mark.is_some() => (Role::Strong, "#".into()),
        None if cell.misses > 0 => (Role::Notice, "P".into()),
        None if cell.flushes > 0 => (Role::Kind(hv_defs::event::Kind::Flush), "F".into()),
        None => (Role::Plain, " ".into()),
    }
}
