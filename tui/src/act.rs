//! What keys do outside of input lines.

use crate::alike::{access_to, as_text, like_this, of_kind, of_reason, of_vmcs};
use crate::describe::thousands;
use crate::export;
use crate::filter::Plan;
use crate::findings::Target;
use crate::keys::{Action, GROUPS, action};
use crate::layout::{areas, list_rows, side_rows};
use crate::model::{Ask, Mode, Model, Side};
use crate::overlay;
use crate::panes::{FindingLine, StateRow, detail_lines, finding_lines, state_field, state_row, state_rows};
use crate::prompt;
use crate::replay::{self, rows};
use crate::round::Round;
use crate::theme::Role;
use crate::update::{find, find_from, go_to, moved, set_filter, shows};
use crate::view::help;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hv_defs::event::{Event, VmcsOp, What, Which};
use std::sync::Arc;

/// A key in any mode but a prompt's.
pub(crate) fn key(model: &mut Model, key: &KeyEvent) {
    let letter = match key.code {
        KeyCode::Char(letter)
            if letter.is_alphanumeric() && key.modifiers - KeyModifiers::SHIFT == KeyModifiers::NONE =>
        {
            Some(letter)
        }
        _ => None,
    };
    match (&model.mode, letter) {
        (Mode::SetMark, Some(letter)) => {
            model.mode = Mode::Browse;
            model.marks.insert(letter, model.cursor);
            // What was said of another event is not said of this one.
            model.mark_notes.remove(&letter);
            model.keep_now = true;
            note(model, format!("Bookmark {letter} is on event {}; M lists and names them.", thousands(model.cursor)));
        }
        (Mode::GoMark, Some(letter)) => {
            model.mode = Mode::Browse;
            go_to_mark(model, letter);
        }
        (Mode::SetMark | Mode::GoMark, None) => model.mode = Mode::Browse,
        (Mode::Columns(row), _) => overlay::columns_key(model, *row, key),
        (Mode::Marks(row), _) => overlay::marks_key(model, *row, key),
        (Mode::Help(line), _) => help_key(model, *line, key),
        _ => {
            if let Some(action) = action(key) {
                act(model, action);
            }
        }
    }
}

pub(crate) fn note(model: &mut Model, text: impl Into<String>) {
    model.note = Some((Role::Notice, text.into()));
}

/// Goes to a bookmark.
pub(crate) fn go_to_mark(model: &mut Model, letter: char) {
    match model.marks.get(&letter) {
        Some(&event) => go_to(model, event, true),
        None => note(model, format!("There is no bookmark {letter}; m{letter} sets it.")),
    }
}

pub(crate) fn help_key(model: &mut Model, line: usize, key: &KeyEvent) {
    model.redraw |= action(key) == Some(Action::Redraw);
    model.mode = help::scroll(GROUPS, line, model.size, key).map_or(Mode::Browse, Mode::Help);
}

/// Does what a key stands for.
pub(crate) fn act(model: &mut Model, action: Action) {
    let rows = if model.in_side { side_rows(model, model.side) } else { usize::from(list_rows(model)) } as i64;
    match action {
        Action::Down => step(model, 1),
        Action::Up => step(model, -1),
        Action::PageDown => step(model, rows),
        Action::PageUp => step(model, -rows),
        Action::HalfDown => step(model, rows / 2),
        Action::HalfUp => step(model, -rows / 2),
        Action::Home if model.in_side => step(model, i64::MIN),
        Action::End if model.in_side => step(model, i64::MAX),
        Action::Home => go_to_end(model, 0),
        Action::End => go_to_end(model, model.about.len.saturating_sub(1)),
        Action::GoTo => prompt::open(model, Ask::GoTo, ""),
        Action::Back => travel(model, false),
        Action::Forward => travel(model, true),
        Action::Partner => partner(model),
        Action::Cause => follow(model, Round::cause_of, "Nothing that was logged caused it."),
        Action::Effect => follow(model, Round::end_of, "No entry ends what it caused."),
        Action::NextKind => jump(model, true, of_kind),
        Action::PreviousKind => jump(model, false, of_kind),
        Action::NextReason => jump(model, true, of_reason),
        Action::PreviousReason => jump(model, false, of_reason),
        Action::NextVmcs => jump(model, true, of_vmcs),
        Action::PreviousVmcs => jump(model, false, of_vmcs),
        Action::NextField => jump_field(model, true),
        Action::PreviousField => jump_field(model, false),
        Action::NextGroup => to_group(model, true),
        Action::PreviousGroup => to_group(model, false),
        Action::NextFinding => to_finding(model, true),
        Action::PreviousFinding => to_finding(model, false),
        Action::NextPhase => jump(model, true, |_| Ok(("mark".into(), "phase marker".into()))),
        Action::PreviousPhase => jump(model, false, |_| Ok(("mark".into(), "phase marker".into()))),
        Action::SetMark => model.mode = Mode::SetMark,
        Action::GoMark => model.mode = Mode::GoMark,
        Action::Filter => {
            let text = model.filter.as_ref().map_or(String::new(), |filter| filter.text.clone());
            prompt::open(model, Ask::Filter, &text);
        }
        Action::FilterByThis => match model.selected().map(like_this) {
            Some(text) => prompt::open(model, Ask::Filter, &text),
            None => note(model, "The event is not read yet."),
        },
        Action::ClearFilter => clear_filter(model),
        Action::Search if model.in_side && model.side == Side::State => prompt::open(model, Ask::Field, ""),
        Action::Search if model.in_side && matches!(model.side, Side::Regs | Side::Tlb | Side::Pool) => {
            prompt::open(model, Ask::Row, "");
        }
        Action::Search if model.in_side && model.side == Side::Memory => prompt::open(model, Ask::Address, ""),
        Action::Search => prompt::open(model, Ask::Search, ""),
        Action::NextHit => next_hit(model, true),
        Action::PreviousHit => next_hit(model, false),
        Action::Focus => focus(model, 1),
        Action::FocusBack => focus(model, Side::ALL.len()),
        Action::Detail => show(model, Side::Detail),
        Action::State => show(model, Side::State),
        Action::Round => show(model, Side::Round),
        Action::Findings => show(model, Side::Findings),
        Action::Regs => show(model, Side::Regs),
        Action::Tlb => show(model, Side::Tlb),
        Action::Pool => show(model, Side::Pool),
        Action::Memory => show(model, Side::Memory),
        Action::Zoom => model.zoomed = !model.zoomed,
        Action::Enter => enter(model),
        Action::Escape => escape(model),
        Action::AllFields => {
            model.state.all = !model.state.all;
            let shown = if model.state.all { "All fields are shown." } else { "Only known fields are shown." };
            note(model, shown);
        }
        Action::NextAddress => next_address(model),
        Action::Columns => overlay::choose_columns(model),
        Action::Marks => overlay::list_marks(model),
        Action::Save => export::ask(model),
        Action::CopyPane => copy_pane(model),
        Action::ZoomIn => zoom(model, true),
        Action::ZoomOut => zoom(model, false),
        Action::ZoomWhole => model.strip.window = (0, model.about.len),
        Action::PanLeft => pan(model, false),
        Action::PanRight => pan(model, true),
        Action::Copy => match model.selected() {
            Some(event) => model.copy = Some(as_text(model.cursor, event)),
            None => note(model, "The event is not read yet."),
        },
        // Of two traces side by side.
        Action::NextDifference | Action::PreviousDifference | Action::Strictness | Action::StrictnessBack => {}
        Action::Redraw => model.redraw = true,
        Action::Help => model.mode = Mode::Help(0),
        Action::Suspend => model.suspend = true,
        Action::Quit => model.quit = true,
    }
}

/// Moves in the pane that has the keys.
pub(crate) fn step(model: &mut Model, by: i64) {
    if !model.in_side {
        return step_list(model, by);
    }
    let moved = |row: usize, len: usize| -> usize {
        let target = (row as i64).saturating_add(by).clamp(0, len.saturating_sub(1) as i64);
        target as usize
    };
    match model.side {
        Side::Detail => {
            let last = detail_lines(model).len().saturating_sub(side_rows(model, Side::Detail));
            model.detail_top = moved(model.detail_top, last + 1);
        }
        Side::State => {
            let rows = state_rows(model);
            let from = state_row(&rows, model.state.row);
            let mut to = moved(from, rows.len());
            // A heading is stepped over in the direction of the step.
            if matches!(rows.get(to), Some(StateRow::Group(_))) {
                to = if by < 0 && to > 0 { to - 1 } else { to + 1 };
            }
            model.state.row = to;
        }
        Side::Round => {
            let len = model.round.as_ref().map_or(0, |round| round.rows.len());
            model.round_row = moved(model.round_row, len);
        }
        Side::Findings => {
            let len = model.findings.iter().flatten().map(|found| found.findings.len()).sum();
            model.finding_row = moved(model.finding_row, len);
        }
        side @ (Side::Regs | Side::Tlb | Side::Pool) => {
            let len = rows::lines(model, side).len();
            let row = model.replay.row(side);
            *row = moved((*row).min(len.saturating_sub(1)), len);
        }
        Side::Memory => {
            // Memory has no end to go to: both ends are the address that was asked for.
            let ends = matches!(by, i64::MIN | i64::MAX);
            let scrolled = &mut model.replay.memory.scrolled;
            *scrolled = if ends { 0 } else { scrolled.wrapping_add_signed(by) };
        }
    }
}

pub(crate) fn step_list(model: &mut Model, by: i64) {
    let rows = list_rows(model);
    for _ in 0..by.unsigned_abs() {
        let next = if by > 0 { model.after(model.cursor) } else { model.before(model.cursor) };
        let Some(next) = next else { break };
        model.cursor = next;
        model.anchor = if by > 0 { (model.anchor + 1).min(rows - 1) } else { model.anchor.saturating_sub(1) };
    }
    moved(model);
}

/// Goes to the first or last event of the list.
fn go_to_end(model: &mut Model, event: u64) {
    let near = match &model.filter {
        Some(filter) => filter.hits.at_or_after(event).or_else(|| filter.hits.at_or_before(event)),
        None => Some(event),
    };
    go_to(model, near.unwrap_or(event), true);
}

fn travel(model: &mut Model, forward: bool) {
    let (from, to) =
        if forward { (&mut model.undone, &mut model.jumps) } else { (&mut model.jumps, &mut model.undone) };
    match from.pop() {
        Some(event) => {
            to.push(model.cursor);
            go_to(model, event, false);
        }
        None => note(
            model,
            if forward { "There is nothing to go forward to." } else { "There is no jump to go back from." },
        ),
    }
}

/// Jumps to the next event of the sort that `sort` says of the selected one: a filter and its name, or why there is none.
fn jump(model: &mut Model, forward: bool, sort: impl Fn(&Event) -> Result<(String, String), &'static str>) {
    let Some(event) = model.selected() else { return note(model, "The event is not read yet.") };
    match sort(event).map(|(text, what)| (Plan::of(&text), what)) {
        Ok((Ok(plan), what)) => find(model, Arc::new(plan), forward, what, true),
        Ok((Err(error), _)) => note(model, error.to_string()),
        Err(why) => note(model, why),
    }
}

fn jump_field(model: &mut Model, forward: bool) {
    if model.in_side && model.side == Side::State {
        return match state_field(model) {
            Some(field) => jump(model, forward, |_| Ok(access_to(field, None))),
            None => note(model, "No field is known here."),
        };
    }
    jump(model, forward, |event| match &event.what {
        What::Vmcs(access) if matches!(access.op, VmcsOp::Read | VmcsOp::Write) => {
            Ok(access_to(access.field, Some(access.which)))
        }
        _ => Err("Only a VMREAD or VMWRITE has a field; in the VMCS pane, w goes to the selected one."),
    });
}

fn partner(model: &mut Model) {
    let sort = |event: &Event| match &event.what {
        What::Exit(_) => Ok((format!("entry and vcpu == {}", event.at.vcpu), "entry on this vCPU".to_owned())),
        What::Entry(_) => Ok((format!("exit and vcpu == {}", event.at.vcpu), "exit on this vCPU".to_owned())),
        _ => Err("Only exits and entries have partners."),
    };
    let forward = !matches!(model.selected().map(|event| &event.what), Some(What::Entry(_)));
    jump(model, forward, sort);
}

/// Goes along the tree of exits.
fn follow(model: &mut Model, to: fn(&Round, u64) -> Option<u64>, none: &str) {
    let at = model.cursor;
    match model.round_here().map(|round| to(round, at)) {
        Some(Some(event)) => go_to(model, event, true),
        Some(None) => note(model, none),
        // Only a pane that shows it has it looked for.
        None if !shows(model, Side::Detail) && !shows(model, Side::Round) => {
            note(model, "Open the Event or the Cost pane (1, 3): they look for causes.");
        }
        None => note(model, "The event cannot be read."),
    }
}

/// Goes to the next group of rows in the pane that has the keys; among the events, to the next exit of a nested guest.
fn to_group(model: &mut Model, forward: bool) {
    // The first row of each group, as the number by which the pane knows it.
    let firsts = |heads: &mut dyn Iterator<Item = Option<usize>>| -> Vec<usize> {
        let mut firsts = Vec::new();
        let mut fresh = false;
        for row in heads {
            match row {
                None => fresh = true,
                Some(row) if std::mem::take(&mut fresh) => firsts.push(row),
                Some(_) => {}
            }
        }
        firsts
    };
    let next = |firsts: Vec<usize>, at: usize| match forward {
        true => firsts.into_iter().find(|first| *first > at),
        false => firsts.into_iter().rev().find(|first| *first < at),
    };
    match model.side {
        Side::State if model.in_side => {
            let rows = state_rows(model);
            let at = state_row(&rows, model.state.row);
            let mut heads = rows.iter().enumerate().map(|(at, row)| match row {
                StateRow::Group(_) => None,
                StateRow::Field(..) => Some(at),
            });
            model.state.row = next(firsts(&mut heads), at).unwrap_or(at);
        }
        Side::Findings if model.in_side => {
            let lines = finding_lines(model);
            let mut heads = lines.iter().map(|line| match line {
                FindingLine::Group(_) => None,
                FindingLine::Finding(at) => Some(*at),
            });
            model.finding_row = next(firsts(&mut heads), model.finding_row).unwrap_or(model.finding_row);
        }
        _ => jump(model, forward, |_| Ok(("exit and level >= 2".into(), "exit of L2 or deeper".into()))),
    }
}

/// Goes to the next event that something is found about, as soon as the analyzer is done.
pub(crate) fn to_finding(model: &mut Model, forward: bool) {
    let Some(found) = model.findings.clone() else {
        model.to_finding = Some(forward);
        return note(model, "The analyzer is at work; then the cursor goes there. Esc stays here.");
    };
    match found {
        Err(error) => model.note = Some((Role::Bad, error)),
        Ok(found) => match found.stop(model.cursor, forward) {
            Some(event) => {
                go_to(model, event, true);
                found.told(event).take(1).for_each(|text| note(model, text));
            }
            None => {
                note(model, if forward { "Nothing is found behind this." } else { "Nothing is found before this." })
            }
        },
    }
}

fn next_hit(model: &mut Model, forward: bool) {
    let listed = model.in_side && matches!(model.side, Side::Regs | Side::Tlb | Side::Pool);
    if listed && !model.replay.query.is_empty() {
        return prompt::find_row(model, forward, false);
    }
    if model.in_side && model.side == Side::State && !model.state.query.is_empty() {
        return prompt::find_field(model, forward, false);
    }
    match model.search.clone() {
        Some((text, plan)) => find(model, plan, forward, format!("'{text}'"), true),
        None => note(model, "There is no search; / begins one."),
    }
}

fn clear_filter(model: &mut Model) {
    if let Some(filter) = model.filter.take() {
        model.dropped = Some(filter.text);
        return note(model, "The filter is dropped; F brings it back.");
    }
    match model.dropped.take().map(|text| (Plan::of(&text), text)) {
        Some((Ok(plan), text)) => set_filter(model, &text, plan),
        _ => note(model, "There is no filter; f sets one."),
    }
}

fn focus(model: &mut Model, by: usize) {
    // The list, then the side panes in their order.
    let at = if model.in_side { 1 + Side::ALL.iter().position(|side| *side == model.side).unwrap_or(0) } else { 0 };
    let to = (at + by) % (Side::ALL.len() + 1);
    model.in_side = to > 0;
    if let Some(side) = to.checked_sub(1).and_then(|at| Side::ALL.get(at)) {
        model.side = *side;
    }
}

/// Shows a side pane and gives it the keys; the same key again gives them back to the list.
fn show(model: &mut Model, side: Side) {
    model.in_side = !(model.in_side && model.side == side);
    if !model.in_side {
        model.zoomed = false;
    }
    model.side = side;
}

fn enter(model: &mut Model) {
    let to_event = |model: &mut Model, event: Option<u64>| {
        if let Some(event) = event {
            go_to(model, event, true);
            model.in_side = false;
            model.zoomed = false;
        }
    };
    if !model.in_side {
        model.side = Side::Detail;
        model.in_side = true;
        return;
    }
    match model.side {
        Side::Detail => escape(model),
        Side::State => {
            let rows = state_rows(model);
            let held = match rows.get(state_row(&rows, model.state.row)) {
                Some(StateRow::Field(_, held)) => {
                    held.iter().flatten().map(|held| held.changed.unwrap_or(held.event)).max()
                }
                _ => None,
            };
            to_event(model, held);
        }
        Side::Round => {
            let row = model.round.as_ref().and_then(|round| round.rows.get(model.round_row)).map(|row| row.number);
            to_event(model, row);
        }
        Side::Findings => {
            let found = model.findings.as_ref().and_then(|found| found.as_ref().ok());
            let finding = found.and_then(|found| found.findings.get(model.finding_row)).cloned();
            match finding.map(|finding| (finding.target, finding.title)) {
                Some((Some(Target::Event(event)), _)) => to_event(model, Some(event)),
                Some((Some(Target::Filter(filter)), _)) => {
                    if let Ok(plan) = Plan::of(&filter) {
                        find_from(model, Arc::new(plan), 0, true, format!("event with {filter}"), true);
                        model.in_side = false;
                        model.zoomed = false;
                    }
                }
                _ => note(model, "This one is of no single event."),
            }
        }
        side @ (Side::Regs | Side::Tlb | Side::Pool) => {
            let row = model.replay.selected(side);
            let event = rows::lines(model, side).get(row).and_then(|line| line.event);
            match event {
                Some(event) => to_event(model, Some(event)),
                None => note(model, "This line is of no single event."),
            }
        }
        Side::Memory => prompt::open(model, Ask::Address, ""),
    }
}

/// As much as terminals take at once, about: xterm and its like stop at some 100 KB of base64.
const MOST_COPIED: usize = 70_000;

fn copy_pane(model: &mut Model) {
    let text = export::pane_text(model);
    if text.len() > MOST_COPIED {
        return note(model, "The pane is too long to be copied through a terminal; s saves it.");
    }
    model.copy = Some(text);
}

fn escape(model: &mut Model) {
    if let Some(export) = model.export.take() {
        note(model, format!("Stopped: {} is not saved.", export.path.display()));
        model.unsaved = Some(export.path);
        return;
    }
    if model.find.take().is_some() || model.to_finding.take().is_some() {
        note(model, "Stopped.");
    } else if replay::stop(model) {
        note(model, "The replay is stopped.");
    } else if model.zoomed {
        model.zoomed = false;
    } else if model.in_side {
        model.in_side = false;
    } else if model.search.take().is_none()
        && let Some(filter) = model.filter.take_if(|filter| filter.hits.progress().0 < filter.hits.progress().1)
    {
        model.dropped = Some(filter.text);
        note(model, "Stopped; F brings the filter back.");
    }
}

fn next_address(model: &mut Model) {
    if model.in_side && matches!(model.side, Side::Regs | Side::Tlb | Side::Pool | Side::Memory) {
        return match replay::next(model) {
            Some(text) => note(model, text),
            None => note(model, "A replay alone shows others."),
        };
    }
    let Some((_, fold)) = &model.state.whole else { return };
    let known = fold.addresses(Which::Vmcs12);
    let shown = crate::panes::addresses(model)[1];
    let at = known.iter().position(|address| Some(*address) == shown);
    match known.get(at.map_or(0, |at| (at + 1) % known.len().max(1))) {
        Some(&address) => {
            model.state.address = Some(address);
            note(model, format!("vmcs12 {address:#x}, of {} known.", known.len()));
        }
        None => note(model, "No vmcs12 is known here."),
    }
}

/// Zooms the timeline around the selected event.
pub(crate) fn zoom(model: &mut Model, closer: bool) {
    let (from, to) = model.strip.window;
    let len = model.about.len;
    let wanted = if closer { (to - from) / 4 } else { (to - from).saturating_mul(4) };
    // Down to one event a column.
    let least = areas(model).map_or(1, |areas| u64::from(areas.columns()));
    let length = wanted.max(least).min(len);
    let start = model.cursor.saturating_sub(length / 2).min(len - length);
    model.strip.window = (start, start + length);
}

fn pan(model: &mut Model, right: bool) {
    let (from, to) = model.strip.window;
    let length = to - from;
    let start = if right { (to).min(model.about.len - length) } else { from.saturating_sub(length) };
    if start == from {
        return note(model, if right { "The timeline ends here." } else { "The timeline begins here." });
    }
    model.strip.window = (start, start + length);
    // The cursor goes along, so that the list shows what the timeline does.
    let cursor = (model.cursor - from.min(model.cursor)).min(length.saturating_sub(1)) + start;
    go_to(model, cursor, false);
}
