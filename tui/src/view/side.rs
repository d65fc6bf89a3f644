//! The panes beside the list: the event in full, what an exit of L2 cost, findings.

use super::{Pen, ROUND_HEAD};
use crate::describe::{Piece, describe, thousands};
use crate::findings::Finding;
use crate::layout::{Pane, areas, top};
use crate::model::{Model, Side};
use crate::panes::{FindingLine, detail_lines, finding_line, finding_lines, finding_rows};
use crate::round::{Round, Row};
use crate::theme::Role;
use analyzer::findings::Severity;
use hv_defs::event::What;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// The title of a side pane: its tabs with their keys.
pub(super) fn tabs(model: &Model, side: Side) -> Vec<Piece> {
    let alone =
        |pane: Side| areas(model).is_some_and(|areas| side != Side::Detail && areas.of(Pane::Side(pane)).is_some());
    let focused = model.in_side && model.side == side;
    let mut pieces = Vec::new();
    for (key, tab) in (1..).zip(Side::ALL) {
        if tab == side {
            pieces.push((Role::Title(focused), format!(" {key} {} ", tab.name())));
        } else if side != Side::Detail && tab == Side::Detail && alone(Side::Detail) {
            // It has a place of its own.
        } else if side == Side::Detail && model.size.0 >= 150 && !model.zoomed {
            // The others have one.
        } else {
            // Where it is narrow, there is room for what a title says at its end.
            let narrow = model.size.0 < 100;
            let text = if narrow { format!(" {key} {}", tab.short()) } else { format!(" {key} {} ", tab.name()) };
            pieces.push((Role::Dim, text));
        }
    }
    if model.size.0 < 100 {
        pieces.push((Role::Dim, " ".into()));
    }
    pieces
}

/// Draws a side pane.
pub(super) fn draw(model: &Model, side: Side, pen: &mut Pen, area: Rect) {
    match side {
        Side::Detail => detail(model, pen, area),
        Side::Round => round(model, pen, area),
        Side::Findings => findings(model, pen, area),
        Side::State | Side::Regs | Side::Tlb | Side::Pool | Side::Memory => {}
    }
}

/// Every field of the event, with what its bits say in the SDM's words.
///
/// ```text
/// ── 1 Event  2 VMCS  3 Cost  4 Findings ───────────── 5 more lines ──
/// EXIT   event 1,024  instruction 123,456  vcpu 0  pcpu 0
/// reason          EPT_VIOLATION  EPT paging structures did not allow the access
/// qualification   0x182
///                   access: data write
/// ```
fn detail(model: &Model, pen: &mut Pen, area: Rect) {
    let lines = detail_lines(model);
    let rows = usize::from(area.height.saturating_sub(1));
    let first = model.detail_top.min(lines.len().saturating_sub(rows));
    let more = lines.len().saturating_sub(first + rows);
    let right = if more > 0 {
        vec![(Role::Dim, format!(" {more} more line{} ", if more == 1 { "" } else { "s" }))]
    } else {
        Vec::new()
    };
    let inner = pen.titled(area, &tabs(model, Side::Detail), &right);
    for (row, line) in lines.iter().skip(first).take(rows).enumerate() {
        let area = Pen::row(inner, row);
        pen.line(Rect { x: area.x + 1, width: area.width.saturating_sub(1), ..area }, line);
    }
    if lines.is_empty() && model.about.len > 0 {
        let text = match model.events.get(&model.cursor) {
            Some(Err(error)) => (Role::Bad, format!(" {error}")),
            _ => (Role::Dim, " ...".into()),
        };
        pen.line(inner, &[text]);
    }
}

/// The exit of L2 that the event belongs to, and all exits until L2 ran again; where none is handled, the exit of L1.
///
/// ```text
/// ── 1 Event  2 VMCS  3 Cost  4 Findings ───────────────────────────
///  EPT_VIOLATION of L2 at event 1,024 cost 14 exits, 13 of them L1's, and 812 instructions of L1
///  L0 made 61 VMREADs and 70 VMWRITEs, 50 without effect; 2 flushes, 1 change of EPT02
///  VMREAD 6  VMWRITE 4  INVEPT 1  VMRESUME 1  WRMSR 1
///     1,024 2 EPT_VIOLATION w 0x5000 to L1          r 12 w 30
///     1,060   1 VMREAD                       +120   r 4
/// ```
fn round(model: &Model, pen: &mut Pen, area: Rect) {
    let inner = pen.titled(area, &tabs(model, Side::Round), &[]);
    let Some(round) = &model.round else {
        pen.line(inner, &[(Role::Dim, " ...".into())]);
        return;
    };
    let Some((began, event)) = &round.began else {
        let text = [
            " A guest runs here: no exit is being handled.",
            " r and e go to the next exit; % from an entry to its exit.",
        ];
        for (row, text) in text.into_iter().enumerate().take(usize::from(inner.height)) {
            pen.line(Pen::row(inner, row), &[(Role::Dim, text.into())]);
        }
        return;
    };
    let What::Exit(exit) = &event.what else { return };
    for (row, line) in summary(round, *began, &exit.basic().to_string(), exit.level).into_iter().enumerate() {
        if row < usize::from(inner.height) {
            pen.line(Pen::row(inner, row), &line);
        }
    }
    let list = usize::from(inner.height).saturating_sub(ROUND_HEAD);
    let selected = model.round_row.min(round.rows.len().saturating_sub(1));
    let first = top(selected, list, round.rows.len());
    for (at, row) in round.rows.iter().enumerate().skip(first).take(list) {
        let line = Pen::row(inner, ROUND_HEAD + at - first);
        let over = if at == selected && model.in_side {
            Style::new().add_modifier(Modifier::REVERSED)
        } else if row.number == model.cursor {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        // What L0 did keeps its place; the rest gives way.
        let work = row.work.letters();
        let room = Rect { width: line.width.saturating_sub(work.chars().count() as u16), ..line };
        pen.styled(room, &round_row(row), over);
        pen.styled(Rect { x: room.right(), width: line.right() - room.right(), ..line }, &[(Role::Dim, work)], over);
    }
}

fn summary(round: &Round, began: u64, reason: &str, level: u8) -> [Vec<Piece>; ROUND_HEAD] {
    let plain = |text: String| (Role::Plain, text);
    let number = |number: u64| (Role::Strong, thousands(number));
    let mut first = vec![
        plain(format!(" {reason} of L{level} at {} cost ", thousands(began))),
        number(round.exits),
        plain(if round.exits == 1 { " exit".into() } else { " exits".into() }),
    ];
    // An exit of L1 alone is handled by L0.
    if level >= 2 {
        first.push(plain(" and ".into()));
        first.push(number(round.instructions));
        first.push(plain(" instructions of L1".into()));
    }
    if round.ended.is_none() {
        first.push((Role::Notice, format!("; no entry to L{level} follows")));
    }
    let done = round.work.words();
    let second = vec![if done.is_empty() {
        (Role::Dim, " L0 did nothing that is logged".into())
    } else {
        plain(format!(" {done}"))
    }];
    let mut third = vec![plain(" ".into())];
    for (reason, count) in round.reasons() {
        third.push((Role::Kind(hv_defs::event::Kind::Exit), reason));
        third.push(plain(format!(" {count}  ")));
    }
    [first, second, third]
}

fn round_row(row: &Row) -> Vec<Piece> {
    let level = match &row.event.what {
        What::Exit(exit) => exit.level,
        _ => 0,
    };
    let mut pieces = vec![
        (Role::Dim, format!("{:>11} ", thousands(row.number))),
        (Role::Dim, format!("{:>8} ", if row.ran > 0 { format!("+{}", thousands(row.ran)) } else { String::new() })),
        (Role::Level(level), if level >= 2 { format!("{level} ") } else { format!("  {level} ") }),
    ];
    let mut what = describe(&row.event);
    if let Some(access) = &row.access {
        // The field says more than where the instruction is, so it comes first.
        let at = what.len().min(1);
        what.splice(at..at, [(Role::Plain, format!(" {} {:#x}", access.field, access.value))]);
    }
    pieces.extend(what);
    pieces
}

/// What the analyzer found, in groups, the weightiest first; the selected one in full below.
///
/// ```text
/// ── 1 Event  2 VMCS  3 Cost  4 Findings ─────────────────────
///  To change
///  waste 37 of 90 flushes are redundant     saves 12k cycles
///  The single exits that cost most
///    EPT_VIOLATION of L2 at 1,024 cost 14 exits   31k cycles
///  It caused VMREAD 6, VMWRITE 4, INVEPT 1.
/// ```
fn findings(model: &Model, pen: &mut Pen, area: Rect) {
    let inner = pen.titled(area, &tabs(model, Side::Findings), &[]);
    let found = match &model.findings {
        None => {
            let done = model.analysed.min(model.about.len) * 100 / model.about.len.max(1);
            pen.line(inner, &[(Role::Dim, format!(" The analyzer reads the whole trace: {done} %"))]);
            return;
        }
        Some(Err(error)) => {
            pen.line(inner, &[(Role::Bad, format!(" {error}"))]);
            return;
        }
        Some(Ok(found)) if found.findings.is_empty() => {
            pen.line(inner, &[(Role::Dim, " The analyzer finds nothing to report.".into())]);
            return;
        }
        Some(Ok(found)) => found,
    };
    let selected = model.finding_row.min(found.findings.len() - 1);
    let lines = finding_lines(model);
    let height = usize::from(inner.height);
    let rows = finding_rows(height);
    let first = top(finding_line(&lines, selected), rows, lines.len());
    for (row, shown) in lines.iter().skip(first).take(rows).enumerate() {
        let line = Pen::row(inner, row);
        match shown {
            FindingLine::Group(name) => {
                pen.line(line, &[(Role::Strong, format!(" {name}"))]);
            }
            FindingLine::Finding(at) => finding(pen, line, &found.findings[*at], *at == selected),
        }
    }
    // The selected one is told in full at the end.
    let width = usize::from(inner.width.saturating_sub(2));
    for (row, part) in wrap(&found.findings[selected].text, width).into_iter().take(height - rows).enumerate() {
        pen.line(Pen::row(inner, rows + row), &[(Role::Dim, format!(" {part}"))]);
    }
}

fn finding(pen: &mut Pen, line: Rect, finding: &Finding, selected: bool) {
    let over = if selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    let (role, mark) = match finding.severity {
        Some(Severity::Wrong) => (Role::Bad, "wrong "),
        Some(Severity::Waste) => (Role::Notice, "waste "),
        Some(Severity::Note) => (Role::Strong, "note  "),
        None => (Role::Dim, "  "),
    };
    // The weight keeps its place; the title gives way.
    let weight = finding.weight.chars().count() as u16 + 2;
    let room = Rect { width: line.width.saturating_sub(weight), ..line };
    let pieces = [(role, format!(" {mark}")), (Role::Plain, finding.title.clone())];
    if selected {
        pen.styled(line, &[(Role::Plain, " ".repeat(usize::from(line.width)))], over);
    }
    pen.styled(room, &pieces, over);
    let area = Rect { x: room.right(), width: line.right() - room.right(), ..line };
    pen.styled(area, &[(Role::Notice, format!(" {} ", finding.weight))], over);
}

/// A text in lines of at most `width` characters, broken at spaces.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}
