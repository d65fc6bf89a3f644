//! The timeline.

use super::Pen;
use crate::describe::short;
use crate::layout::{LABEL, Lanes, list_rows};
use crate::model::Model;
use crate::strip::{Cell, column_of, shown_level};
use crate::theme::Role;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// One lane a vCPU with the level that ran, on tall terminals a row for each level; then how dense exits are, then what
/// happened once: bookmarks, failed entries, phase markers, pool misses, flushes; on tall terminals the events' numbers.
/// The selected event's column stands out.
///
/// ```text
/// vcpu 0  1111111122222111112222222111111100011111
/// exits   ▁▁▁▂▂▂▅▅▅███▅▅▂▂▁▁▁▁▁▂▂▂▂▂▂▂
/// 12.3k     a   F  #   P      !
///         ╵0        ╵3.1k      ▲6.2k     ╵9.3k
/// ```
pub(super) fn draw(model: &Model, pen: &mut Pen, area: Rect) {
    let strip = &model.strip;
    let (window, columns) = strip.asked;
    let lanes = Lanes::of(model);
    let at = column_of(window, columns, model.cursor);
    let mut row = 0;
    for lane in 0..lanes.shown + u16::from(lanes.others > 0) {
        let vcpu = (lane < lanes.shown).then_some(lanes.first + lane);
        let parts: Vec<[u64; 4]> = strip.cells.iter().map(|cell| lane_of(cell, vcpu, &lanes)).collect();
        match lanes.deepest {
            None => level_lane(pen, Pen::row(area, row), &one_row_label(vcpu, &lanes), &parts, at),
            Some(deepest) => {
                let area = Rect { y: area.y + row as u16, height: u16::from(deepest) + 1, ..area };
                level_rows(model, pen, area, vcpu.unwrap_or(0), &parts, at);
            }
        }
        row += usize::from(lanes.each());
    }
    let (exits, notes) = (Pen::row(area, row), Pen::row(area, row + 1));
    pen.line(exits, &[(Role::Dim, " exits".into())]);
    pen.line(notes, &[(Role::Dim, scale(model))]);
    let densest = strip.cells.iter().map(density).max().unwrap_or(0).max(1);
    for (column, cell) in (0..columns).zip(&strip.cells) {
        let over = if at == Some(column) { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let eighths = (density(cell) * 8).div_ceil(densest) as u8;
        let bar = pen.theme.bar(eighths).to_owned();
        pen.styled(place(exits, column), &[(Role::Plain, bar)], over);
        pen.styled(place(notes, column), &[note(model, cell)], over);
    }
    if lanes.ruler {
        ruler(model, pen, Pen::row(area, row + 2));
    }
}

/// What the timeline shows, in seven columns: how much of it was looked at so far, and then all or how many events.
fn scale(model: &Model) -> String {
    let (from, to) = model.strip.window;
    let events = short(to.saturating_sub(from));
    match model.strip.progress() {
        Some(percent) => format!(" {percent}%"),
        None if (from, to) == (0, model.about.len) => " all".into(),
        None if events.len() > 3 => format!(" {events}"),
        None => format!(" {events} ev"),
    }
}

/// The name of a lane of one row, in seven columns.
fn one_row_label(vcpu: Option<u16>, lanes: &Lanes) -> String {
    match vcpu {
        Some(vcpu @ 0..10) => format!(" vcpu {vcpu}"),
        Some(vcpu) => format!(" cpu{vcpu}"),
        None if lanes.shown == 0 => format!(" {}cpus", lanes.others),
        None => format!(" +{}", lanes.others),
    }
}

/// What a vCPU ran in a column; of those that are not shown, all together.
fn lane_of(cell: &Cell, vcpu: Option<u16>, lanes: &Lanes) -> [u64; 4] {
    let shown = usize::from(lanes.first)..usize::from(lanes.first + lanes.shown);
    match vcpu {
        Some(vcpu) => cell.lanes.get(usize::from(vcpu)).copied().unwrap_or_default(),
        None => {
            let others = cell.lanes.iter().enumerate().filter(|(lane, _)| !shown.contains(lane));
            others.fold([0; 4], |sum, (_, lane)| std::array::from_fn(|level| sum[level].saturating_add(lane[level])))
        }
    }
}

/// A lane in one row: the level that ran, as a digit on a band.
fn level_lane(pen: &mut Pen, row: Rect, label: &str, parts: &[[u64; 4]], at: Option<u16>) {
    pen.line(row, &[(Role::Dim, label.to_owned())]);
    let mut last = None;
    for (column, parts) in (0..).zip(parts) {
        // Where nothing of the vCPU is seen, it goes on as before.
        last = shown_level(parts).or(last);
        let Some(level) = last else { continue };
        let band = if level > 0 && at != Some(column) { Modifier::REVERSED } else { Modifier::empty() };
        let over = Style::new().add_modifier(band);
        pen.styled(place(row, column), &[(Role::Level(level), level.to_string())], over);
    }
}

/// A lane with a row for each level: the part of the guests' time that each ran, and of L0, which takes none of it, how
/// many events of its own there are to an instruction, beside the most of any column. Where L0 takes time, its part of
/// all time.
///
/// ```text
/// v0  L2      ▂▃▅▅▅▃▁     ▇
/// v0  L1  ████▇▆▄▄▄▆█████▂
/// v0  L0  ▂▂▂▂▃▅▅▅▆▅▂▂▂▂▂▃
/// ```
fn level_rows(model: &Model, pen: &mut Pen, area: Rect, vcpu: u16, parts: &[[u64; 4]], at: Option<u16>) {
    let deepest = area.height.saturating_sub(1);
    let guests = |parts: &[u64; 4]| parts[1..].iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
    let busy = |parts: &[u64; 4]| u128::from(parts[0]) * 1_000_000 / u128::from(guests(parts).max(1));
    let busiest = parts.iter().map(busy).max().unwrap_or(0);
    for level in 0..=deepest {
        let row = Pen::row(area, usize::from(deepest - level));
        let role = Role::Level(level as u8);
        pen.line(row, &[(Role::Dim, format!(" v{vcpu:<2} ")), (role, format!("L{level}"))]);
        for (column, parts) in (0..).zip(parts) {
            let (part, all) = match (level, model.about.timed) {
                (0, false) => (busy(parts), busiest),
                (_, false) => (parts[usize::from(level)].into(), guests(parts).into()),
                (_, true) => (parts[usize::from(level)].into(), guests(parts).saturating_add(parts[0]).into()),
            };
            let eighths = (part * 8).div_ceil(all.max(1)).min(8) as u8;
            let mark = if at == Some(column) { Modifier::REVERSED } else { Modifier::empty() };
            let bar = pen.theme.bar(eighths).to_owned();
            pen.styled(place(row, column), &[(role, bar)], Style::new().add_modifier(mark));
        }
    }
}

/// The number of the event at each quarter, and where the list's lines are.
fn ruler(model: &Model, pen: &mut Pen, row: Rect) {
    let (window, columns) = model.strip.asked;
    let tick = pen.theme.glyph("╵", "'");
    let shown = model.window(list_rows(model));
    let of = |event: Option<&u64>| event.and_then(|event| column_of(window, columns, *event));
    // Where all but a line or two is out of the stretch, nothing is marked.
    let list = of(shown.first()).zip(of(shown.last()));
    for quarter in 0..4 {
        let column = columns / 4 * quarter;
        let label = format!("{tick}{}", short(crate::strip::range(window, columns, column).0));
        let end = column + label.chars().count() as u16;
        // A number with a mark in it would be another number.
        if list.is_some_and(|(first, last)| first < end && last > column) {
            pen.line(place(row, column), &[(Role::Dim, tick.to_owned())]);
            continue;
        }
        let width = (columns / 4).saturating_sub(1);
        pen.line(Rect { x: row.x + LABEL + column, width, ..row }, &[(Role::Dim, label)]);
    }
    if let Some((first, last)) = list {
        for column in first..=last {
            pen.line(place(row, column), &[(Role::Key, pen.theme.glyph("▲", "^").to_owned())]);
        }
    }
}

fn place(row: Rect, column: u16) -> Rect {
    Rect { x: row.x + LABEL + column, width: 1, ..row }
}

/// Exits in a thousand events.
fn density(cell: &Cell) -> u64 {
    (cell.exits * 1000).checked_div(cell.counted).unwrap_or(0)
}

/// The most notable thing of a column; a dot where nothing is known of it yet.
fn note(model: &Model, cell: &Cell) -> (Role, String) {
    let events = cell.events.0..cell.events.1;
    let bookmark = model.marks.iter().find(|(_, event)| events.contains(event));
    match bookmark {
        Some((letter, _)) => (Role::Strong, letter.to_string()),
        None if cell.bad > 0 => (Role::Bad, "!".into()),
        None if cell.marks > 0 => (Role::Strong, "#".into()),
        None if cell.misses > 0 => (Role::Notice, "P".into()),
        None if cell.flushes > 0 => (Role::Kind(hv_defs::event::Kind::Flush), "F".into()),
        None if cell.counted == 0 && !events.is_empty() && model.strip.progress().is_some() => {
            (Role::Dim, ".".to_owned())
        }
        None => (Role::Plain, " ".into()),
    }
}
