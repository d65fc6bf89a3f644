//! The screen of two traces.

use super::Pen;
use crate::compare::align::{Row, Sort};
use crate::compare::layout::{Areas, areas};
use crate::compare::update::position;
use crate::compare::{Goal, Mode, Model, pair_lines, pair_name};
use crate::describe::{Piece, describe, level, thousands};
use crate::layout::LABEL;
use crate::strip;
use crate::theme::{Role, letter};
use hv_defs::event::Event;
use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};

/// Draws two traces.
///
/// ```text
///  nvmx  A old.nvmx  B new.nvmx   all fields                   1,234 | 1,240 events
///  differ  ▁   █▂▁
/// ── A old.nvmx ──────────────────────────────────────────────────────────────────
///        1,024 ~ ··2· < EPT_VIOLATION w 0x5000 to L1  rip 0x401000          rip, gpa
///              .
/// ── B new.nvmx ──────────────────────────────────────────────────────────────────
///        1,024 ~ ··2· < EPT_VIOLATION w 0x6000 to L1  rip 0x401004          rip, gpa
///        1,025 + 0··· v L0 writes vmcs12.exit_reason  0x0 to 0x30
/// ── Both ────────────────────────────────────────────────────────────────────────
///  EXIT 2 fields differ.
///  ~ rip              0x401000                 0x401004
///  difference 3, at event 1,024 | 1,024               37 differences so far, 12% compared
/// ```
pub(crate) fn draw(model: &Model, frame: &mut Frame) {
    let area = frame.area();
    if (area.width, area.height) != model.size {
        return;
    }
    let mut pen = Pen { buffer: frame.buffer_mut(), theme: model.theme };
    let Some(areas) = areas(model) else { return super::too_small(model.size, &mut pen, area) };
    if let Mode::Help(top) = model.mode {
        return super::help::draw(crate::keys::COMPARE, top, &mut pen, area);
    }
    title(model, &mut pen, areas.title);
    differences_strip(model, &mut pen, areas.strip);
    for (side, area) in areas.lists.into_iter().flatten().enumerate() {
        list(model, side, &mut pen, area);
    }
    if let Some(area) = areas.pair {
        pair(model, &mut pen, area);
    }
    let cursor = match &model.mode {
        Mode::GoTo(line) => {
            let label = format!(" go to event of {}: ", pair_name(model.side));
            Some(input(
                line,
                (&label, " 1234 an event, 50% a part of the trace; Enter goes, Esc stays"),
                &mut pen,
                &areas,
            ))
        }
        Mode::Save(line) => Some(input(
            line,
            (" save differences as: ", " text; ! behind the name replaces a file; Esc leaves it"),
            &mut pen,
            &areas,
        )),
        _ => {
            status(model, &mut pen, areas.status);
            hint(model, &mut pen, areas.hint);
            None
        }
    };
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

fn title(model: &Model, pen: &mut Pen, area: Rect) {
    let mut left = vec![(Role::Key, " nvmx ".to_owned())];
    for (side, about) in model.abouts.iter().enumerate() {
        left.push((Role::Key, format!("  {} ", pair_name(side))));
        left.push((Role::Strong, about.name.clone()));
    }
    left.push((Role::Dim, format!("   by {}", model.strict.name())));
    let end = pen.line(area, &left);
    let [a, b] = &model.abouts;
    pen.right(area, end + 1, &[(Role::Plain, format!("{} | {} events ", thousands(a.len), thousands(b.len)))]);
}

/// How much of each stretch of A differs. What is not compared yet is a dot.
fn differences_strip(model: &Model, pen: &mut Pen, area: Rect) {
    pen.line(area, &[(Role::Dim, " differ".into())]);
    let columns = area.width.saturating_sub(LABEL + 1);
    let window = (0, model.abouts[0].len);
    let at = model.row(model.cursor).and_then(|row| row.events[0]);
    let at = at.and_then(|event| strip::column_of(window, columns, event));
    for column in 0..columns {
        let (differing, rows) = model.density(strip::range(window, columns, column));
        let over = if at == Some(column) { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let piece = match (differing * 8).div_ceil(rows.max(1)) {
            _ if rows == 0 => (Role::Dim, pen.theme.glyph("·", ".").to_owned()),
            eighths => (Role::Notice, pen.theme.bar(eighths as u8).to_owned()),
        };
        pen.styled(Rect { x: area.x + LABEL + column, width: 1, ..area }, &[piece], over);
    }
}

fn list(model: &Model, side: usize, pen: &mut Pen, area: Rect) {
    let focused = model.side == side && !model.in_pair;
    let title = [
        (Role::Title(focused), format!(" {} {} ", pair_name(side), model.abouts[side].name)),
        (Role::Dim, format!(" {} ", model.abouts[side].machine)),
    ];
    let inner = pen.titled(area, &title, &[]);
    if model.len() == 0 {
        let text = match (&model.stuck, model.whole) {
            (Some(error), _) => (Role::Bad, format!(" {error}")),
            (None, true) => (Role::Dim, " Nothing to compare.".into()),
            (None, false) => (Role::Dim, " ...".into()),
        };
        pen.line(inner, &[text]);
    }
    for line in 0..inner.height {
        let number = model.top + u64::from(line);
        if number >= model.len() {
            break;
        }
        let area = Pen::row(inner, usize::from(line));
        let selected = number == model.cursor;
        let over = if selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if selected {
            pen.styled(area, &[(Role::Plain, " ".repeat(usize::from(area.width)))], over);
        }
        let Some(row) = model.row(number) else {
            pen.styled(area, &[(Role::Dim, format!("{:>12} ...", ""))], over);
            continue;
        };
        let names = differing(model, &row);
        // What differs keeps its place at the right; the event gives way.
        let width = (names.chars().count() as u16).min(area.width / 3);
        let room = Rect { width: area.width - if width > 0 { width + 2 } else { 0 }, ..area };
        pen.styled(room, &line_of(model, side, &row), over);
        if width > 0 {
            let names = Rect { x: area.right() - width - 1, width, ..area };
            pen.styled(names, &[(Role::Notice, differing(model, &row))], over);
        }
    }
}

/// The names of the fields in which a row's events differ.
fn differing(model: &Model, row: &Row) -> String {
    let [Some(a), Some(b)] = row.events else { return String::new() };
    if row.sort != Sort::Differs {
        return String::new();
    }
    let read = |side: usize, event: u64| model.events[side].get(&event).and_then(|read| read.as_ref().ok());
    let (Some(a), Some(b)) = (read(0, a), read(1, b)) else { return String::new() };
    let names: Vec<_> = model.strict.differences(a, b).iter().map(|diff| diff.field).collect();
    names.join(" ")
}

fn line_of(model: &Model, side: usize, row: &Row) -> Vec<Piece> {
    let Some(number) = row.events[side] else {
        let gap = model.theme.glyph("╌", "-").repeat(12);
        return vec![(Role::Dim, gap)];
    };
    let (role, mark) = match (row.sort, side) {
        (Sort::Same, _) => (Role::Plain, " "),
        (Sort::Differs, _) => (Role::Notice, "~"),
        (Sort::Alone, 0) => (Role::Bad, "-"),
        (Sort::Alone, _) => (Role::Notice, "+"),
        (Sort::Unlike, _) => (Role::Bad, "?"),
    };
    let mut pieces = vec![(Role::Dim, format!("{:>12} ", thousands(number))), (role, format!("{mark} "))];
    match model.events[side].get(&number) {
        Some(Ok(event)) => {
            pieces.extend(ladder(model, event));
            pieces.extend(describe(event));
        }
        Some(Err(error)) => pieces.push((Role::Bad, error.clone())),
        None => pieces.push((Role::Dim, "...".into())),
    }
    pieces
}

/// The level as a place in a ladder, and the kind's letter.
fn ladder(model: &Model, event: &Event) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if model.abouts.iter().any(|about| about.vcpus > 1) {
        pieces.push((Role::Plain, format!("{:>2} ", event.at.vcpu)));
    }
    let level = level(event);
    for step in 0..4 {
        let empty = model.theme.glyph("·", ".").to_owned();
        pieces.push(if step == level { (Role::Level(level), level.to_string()) } else { (Role::Dim, empty) });
    }
    let kind = event.what.kind();
    pieces.push((Role::Kind(kind), format!(" {} ", letter(kind))));
    pieces
}

fn pair(model: &Model, pen: &mut Pen, area: Rect) {
    let lines = pair_lines(model);
    let rows = usize::from(area.height.saturating_sub(1));
    let first = model.pair_top.min(lines.len().saturating_sub(rows));
    let more = lines.len().saturating_sub(first + rows);
    let right = match more {
        0 => Vec::new(),
        _ => vec![(Role::Dim, format!(" {more} more line{} ", if more == 1 { "" } else { "s" }))],
    };
    let inner = pen.titled(area, &[(Role::Title(model.in_pair), " Both ".to_owned())], &right);
    for (row, line) in lines.iter().skip(first).take(rows).enumerate() {
        let area = Pen::row(inner, row);
        pen.line(Rect { x: area.x + 1, width: area.width.saturating_sub(1), ..area }, line);
    }
}

fn status(model: &Model, pen: &mut Pen, area: Rect) {
    let left = match (&model.note, &model.goal) {
        (_, Some(goal)) => {
            let what = match goal {
                Goal::NextDifference => "Looking for the next difference".to_owned(),
                Goal::PreviousDifference => "Looking for the difference before".to_owned(),
                Goal::NextOther(_) | Goal::PreviousOther(_) => "Looking for a difference of another sort".to_owned(),
                Goal::Event(side, event) => format!("Going to event {} of {}", thousands(*event), pair_name(*side)),
                Goal::End => "Going to the end".to_owned(),
            };
            (Role::Notice, format!(" {what}: {}% compared; Esc stops", compared(model)))
        }
        (Some((role, text)), None) => (*role, format!(" {text}")),
        (None, None) if model.save.is_some() => {
            let told = model.save.iter().map(|save| {
                let (a, b) = save.from.unwrap_or((0, 0));
                let all = model.abouts[0].len + model.abouts[1].len;
                format!(" Saving {}: {}%; Esc stops", save.path.display(), (a + b) * 100 / all.max(1))
            });
            (Role::Notice, told.collect())
        }
        (None, None) => (Role::Plain, format!(" {}", position(model))),
    };
    let end = pen.line(area, &[left]);
    let hunks = model.hunks();
    let differences = match hunks {
        0 => "no difference".to_owned(),
        1 => "1 difference".to_owned(),
        _ => format!("{} differences", thousands(hunks)),
    };
    let right = match (&model.stuck, model.whole) {
        (Some(_), _) => (Role::Bad, format!("{differences}, then it goes no further ")),
        (None, true) => (Role::Notice, format!("{differences} ")),
        (None, false) => (Role::Notice, format!("{differences} so far, {}% compared ", compared(model))),
    };
    pen.right(area, end + 1, &[right]);
}

/// How much of both traces is aligned, in percent.
fn compared(model: &Model) -> u64 {
    let (a, b) = model.frontier();
    let all = u128::from(model.abouts[0].len) + u128::from(model.abouts[1].len);
    ((u128::from(a) + u128::from(b)) * 100 / all.max(1)) as u64
}

fn hint(model: &Model, pen: &mut Pen, area: Rect) {
    let keys: &[(&str, &str)] = if model.in_pair {
        &[("?", "help"), ("j k", "scroll"), ("z", "larger"), ("Esc", "back to the lists")]
    } else {
        &[
            ("?", "help"),
            ("d D", "differences"),
            ("e E", "of another sort"),
            ("t", "what counts"),
            (":", "go to"),
            ("Enter", "fields"),
            ("q", "quit"),
        ]
    };
    super::keys_line(pen, area, keys);
}

/// A line of input with its label, and what to type under it. Says where the cursor belongs.
fn input(line: &crate::line::Line, (label, help): (&str, &str), pen: &mut Pen, areas: &Areas) -> Position {
    let start = pen.line(areas.status, &[(Role::Key, label.to_owned())]);
    let room = usize::from(areas.status.right().saturating_sub(start + 1));
    let before = line.text()[..line.cursor()].chars().count();
    let first = before.saturating_sub(room);
    let shown: String = line.text().chars().skip(first).take(room).collect();
    pen.line(Rect { x: start, width: areas.status.right() - start, ..areas.status }, &[(Role::Plain, shown)]);
    pen.line(areas.hint, &[(Role::Dim, help.to_owned())]);
    Position::new(start + (before - first) as u16, areas.status.y)
}
