//! What the mouse does.

use crate::act::{help_key, note, step, step_list, zoom};
use crate::describe::thousands;
use crate::layout::{LABEL, Pane, areas, list_rows, side_rows, top};
use crate::model::{Mode, Model, Side};
use crate::overlay;
use crate::panes::{FindingLine, finding_line, finding_lines, finding_rows, state_row, state_rows};
use crate::replay::rows;
use crate::strip;
use crate::update::{go_to, moved};
use crate::view::replay::head_rows;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Position;

/// The mouse: a click selects, the wheel moves what is under it.
pub(crate) fn mouse(model: &mut Model, mouse: &MouseEvent) {
    if let Mode::Help(line) = model.mode {
        let wheel = match mouse.kind {
            MouseEventKind::ScrollDown => KeyCode::Down,
            MouseEventKind::ScrollUp => KeyCode::Up,
            _ => return,
        };
        return help_key(model, line, &KeyEvent::new(wheel, KeyModifiers::NONE));
    }
    let Some(areas) = areas(model).filter(|_| model.mode == Mode::Browse) else { return };
    let at = Position::new(mouse.column, mouse.row);
    let (window, columns) = (model.strip.window, areas.columns());
    let by = match (mouse.kind, model.drawn) {
        (MouseEventKind::ScrollDown, _) => 3,
        (MouseEventKind::ScrollUp, _) => -3,
        (MouseEventKind::Down(MouseButton::Left), _) => 0,
        (MouseEventKind::Drag(MouseButton::Left), Some((from, _))) => {
            let column = mouse.column.saturating_sub(LABEL).min(columns.saturating_sub(1));
            model.drawn = Some((from, column));
            if column != from {
                let (first, last) = (from.min(column), from.max(column));
                let (from, to) = (strip::range(window, columns, first).0, strip::range(window, columns, last).1);
                note(
                    model,
                    format!("Let go to zoom to events {} to {}.", thousands(from), thousands(to.saturating_sub(1))),
                );
            }
            return;
        }
        (MouseEventKind::Up(_), Some((from, to))) => {
            model.drawn = None;
            model.note = None;
            if from != to {
                let (first, last) = (from.min(to), from.max(to));
                stretch(
                    model,
                    (strip::range(window, columns, first).0, strip::range(window, columns, last).1),
                    columns,
                );
            }
            return;
        }
        _ => return,
    };
    model.note = None;
    model.drawn = None;
    if areas.strip.contains(at) {
        if by != 0 {
            return zoom(model, by < 0);
        }
        if let Some(column) = mouse.column.checked_sub(LABEL).filter(|column| *column < columns) {
            go_to(model, strip::range(window, columns, column).0, true);
            model.drawn = Some((column, column));
        }
        return;
    }
    let Some((pane, area)) = areas.panes.iter().find(|(_, area)| area.contains(at)).copied() else { return };
    let line = (mouse.row - area.y).checked_sub(1).map(usize::from);
    match pane {
        Pane::List => {
            if by != 0 {
                return step_list(model, by);
            }
            model.in_side = false;
            if line.is_none() {
                // The names of the columns are there.
                return if mouse.column > area.x + 10 {
                    overlay::choose_columns(model)
                };
            }
            let window = model.window(list_rows(model));
            if let Some((line, event)) = line.and_then(|line| Some((line, *window.get(line)?))) {
                model.cursor = event;
                model.anchor = line as u16;
                moved(model);
            }
        }
        Pane::Side(side) => {
            let tab =
                if by == 0 && line.is_none() { crate::view::tab_at(model, side, area, mouse.column) } else { None };
            model.in_side = true;
            model.side = tab.unwrap_or(side);
            if tab.is_some() {
                return;
            }
            if by != 0 {
                return step(model, by);
            }
            click_side(model, side, line);
        }
    }
}

/// Shows a stretch of events on the timeline, of an event a column at least.
fn stretch(model: &mut Model, (from, to): (u64, u64), columns: u16) {
    let length = (to - from).max(u64::from(columns)).min(model.about.len);
    let from = from.min(model.about.len - length);
    model.strip.window = (from, from + length);
    if !(from..from + length).contains(&model.cursor) {
        go_to(model, from, false);
    }
}

fn click_side(model: &mut Model, side: Side, line: Option<usize>) {
    let Some(line) = line else { return };
    let rows = side_rows(model, side);
    match side {
        Side::Detail | Side::Memory => {}
        Side::Regs | Side::Tlb | Side::Pool => {
            let head = head_rows(model, side);
            let len = rows::lines(model, side).len();
            let row = model.replay.selected(side);
            let first = top(row, rows.saturating_sub(head), len);
            if let Some(at) = line.checked_sub(head).map(|line| first + line).filter(|at| *at < len) {
                *model.replay.row(side) = at;
            }
        }
        Side::State => {
            // One line more is the heading of the columns.
            let known = state_rows(model);
            let first = top(state_row(&known, model.state.row), rows.saturating_sub(1), known.len());
            if let Some(at) = line.checked_sub(1).map(|line| first + line).filter(|at| *at < known.len()) {
                model.state.row = at;
            }
        }
        Side::Round => {
            let len = model.round.as_ref().map_or(0, |round| round.rows.len());
            let list = rows.saturating_sub(crate::view::ROUND_HEAD);
            let first = top(model.round_row, list, len);
            if let Some(at) = line.checked_sub(crate::view::ROUND_HEAD).map(|line| first + line).filter(|at| *at < len)
            {
                model.round_row = at;
            }
        }
        Side::Findings => {
            let lines = finding_lines(model);
            let (rows, selected) = (finding_rows(rows), finding_line(&lines, model.finding_row));
            if let Some(FindingLine::Finding(at)) = lines.get(top(selected, rows, lines.len()) + line) {
                model.finding_row = *at;
            }
        }
    }
}
