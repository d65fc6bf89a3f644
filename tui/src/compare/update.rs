//! What each message does to the model of two traces, and what is to be done next. Pure.

use super::align::{Signs, Sort, Strict};
use super::layout::{areas, list_rows, pair_rows};
use super::pair::{name, pair_lines};
use super::{Effect, Goal, Mode, Model, Msg, Placed, Reply, save};
use crate::describe::thousands;
use crate::keys::{Action, COMPARE, action_in};
use crate::layout::LABEL;
use crate::line::Line;
use crate::strip;
use crate::theme::Role;
use crate::view::help;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Position;
use std::sync::Arc;

/// Events of one trace, and pieces' rows, that are kept at most.
const KEPT_EVENTS: usize = 10_000;
const KEPT_ROWS: usize = 64;

/// Pieces of an alignment that are kept at most. What has more is told to be too much.
const MOST_PIECES: usize = 1_000_000;

/// Takes in a message and says what is to be done. [`Msg::Idle`] asks again, until there is nothing.
pub(crate) fn update(model: &mut Model, msg: Msg) -> Option<Effect> {
    match msg {
        Msg::Key(key) if key.kind == KeyEventKind::Release => {}
        Msg::Key(key) => {
            model.note = None;
            press(model, &key);
        }
        Msg::Mouse(event) => mouse(model, &event),
        Msg::Resize(width, height) => model.size = (width, height),
        Msg::Done(lane, reply) => {
            model.busy[lane] = false;
            done(model, reply);
        }
        Msg::Idle => {}
    }
    pursue(model);
    settle(model);
    want(model)
}

fn note(model: &mut Model, text: impl Into<String>) {
    model.note = Some((Role::Notice, text.into()));
}

fn done(model: &mut Model, reply: Reply) {
    match reply {
        Reply::Events(read) => {
            for (known, read) in model.events.iter_mut().zip(read) {
                if known.len() > KEPT_EVENTS {
                    known.clear();
                }
                known.extend(read);
            }
        }
        Reply::Rows { id, number, rows } if id == model.id => match rows {
            Ok(rows) => {
                if model.rows.len() > KEPT_ROWS {
                    model.rows.clear();
                }
                model.rows.insert(number, Arc::new(rows));
            }
            Err(error) => {
                // Known as empty, so that it is not asked for without end.
                model.rows.insert(number, Arc::new(Vec::new()));
                model.goal = None;
                model.note = Some((Role::Bad, error));
            }
        },
        Reply::Aligned { id, pieces, whole, error } if id == model.id => {
            for (piece, end) in pieces {
                let (row, hunks) = (model.len(), model.hunks());
                let differing = model.pieces.last().map_or(0, |last| last.differing + last.piece.differing);
                model.pieces.push(Placed { piece, end, row, hunks, differing });
            }
            model.whole = whole;
            if let Some(error) = &error {
                model.note = Some((Role::Bad, error.clone()));
            }
            model.stuck = error;
            if model.pieces.len() > MOST_PIECES {
                model.stuck = Some("the traces differ in too many places to go on".into());
            }
        }
        Reply::Rows { .. } | Reply::Aligned { .. } | Reply::Unsaved => {}
        Reply::Saved(next) => save::saved(model, *next),
        Reply::Copied(Ok(())) => model.note = Some((Role::Plain, "Copied.".into())),
        Reply::Copied(Err(error)) => model.note = Some((Role::Bad, format!("Cannot copy: {error}"))),
    }
}

/// What there is to find in the alignment so far.
enum Found {
    Row(u64),
    /// Not before this piece's rows are at hand.
    Needs(usize),
    /// Not in what is known.
    Nothing,
}

/// Whether a piece need not be looked at: no difference begins in it, or only such as have the sign.
fn passed(model: &Model, number: usize, sign: Option<u32>) -> bool {
    model.begun(number) == 0 || sign.is_some_and(|sign| model.pieces[number].piece.signs.within(Signs::of(sign)))
}

/// The next difference; with a sign, the next of another.
fn next_difference(model: &Model, sign: Option<u32>) -> Found {
    let from = model.cursor + 1;
    let first = model.piece_of(model.cursor).unwrap_or(0);
    for number in first..model.pieces.len() {
        if passed(model, number, sign) {
            continue;
        }
        let Some(rows) = model.rows.get(&number) else { return Found::Needs(number) };
        let base = model.pieces[number].row;
        let begins = |place: &usize| {
            base + *place as u64 >= from && model.begins(number, rows, *place) && sign != Some(rows[*place].sign)
        };
        if let Some(place) = (0..rows.len()).find(begins) {
            return Found::Row(base + place as u64);
        }
    }
    Found::Nothing
}

fn previous_difference(model: &Model, sign: Option<u32>) -> Found {
    let Some(last) = model.piece_of(model.cursor) else { return Found::Nothing };
    for number in (0..=last).rev() {
        if passed(model, number, sign) {
            continue;
        }
        let Some(rows) = model.rows.get(&number) else { return Found::Needs(number) };
        let base = model.pieces[number].row;
        let begins = |place: &usize| {
            base + (*place as u64) < model.cursor
                && model.begins(number, rows, *place)
                && sign != Some(rows[*place].sign)
        };
        if let Some(place) = (0..rows.len()).rev().find(begins) {
            return Found::Row(base + place as u64);
        }
    }
    Found::Nothing
}

/// The row of a trace's event, or of the first behind it.
fn row_of(model: &Model, side: usize, event: u64) -> Found {
    let of = |pair: (u64, u64)| if side == 0 { pair.0 } else { pair.1 };
    let number = model.pieces.partition_point(|placed| of(placed.end) <= event);
    let Some(placed) = model.pieces.get(number) else { return Found::Nothing };
    if placed.piece.plain {
        return Found::Row(placed.row + event.saturating_sub(of(placed.piece.from)));
    }
    let Some(rows) = model.rows.get(&number) else { return Found::Needs(number) };
    let place = rows.iter().position(|row| row.events[side].is_some_and(|at| at >= event));
    Found::Row(placed.row + place.unwrap_or(rows.len().saturating_sub(1)) as u64)
}

/// Goes where the goal is, as soon as that is known.
fn pursue(model: &mut Model) {
    model.needed = None;
    let Some(goal) = model.goal else { return };
    let found = match goal {
        Goal::NextDifference => next_difference(model, None),
        Goal::PreviousDifference => previous_difference(model, None),
        Goal::NextOther(sign) => next_difference(model, Some(sign)),
        Goal::PreviousOther(sign) => previous_difference(model, Some(sign)),
        Goal::Event(side, event) => row_of(model, side, event),
        Goal::End if model.whole || model.stuck.is_some() => Found::Row(model.len().saturating_sub(1)),
        Goal::End => Found::Nothing,
    };
    let ends =
        model.whole || model.stuck.is_some() || matches!(goal, Goal::PreviousDifference | Goal::PreviousOther(_));
    match found {
        Found::Row(row) => {
            model.goal = None;
            go_to(model, row);
        }
        Found::Needs(number) => model.needed = Some(number),
        Found::Nothing if ends => {
            model.goal = None;
            match goal {
                Goal::NextDifference if model.hunks() == 0 => {
                    let text =
                        format!("The traces do not differ ({}: {}).", model.strict.name(), model.strict.meaning());
                    note(model, text);
                }
                Goal::NextDifference => note(model, "No difference after this."),
                Goal::PreviousDifference => note(model, "No difference before this."),
                Goal::NextOther(_) => note(model, "No difference of another sort after this."),
                Goal::PreviousOther(_) => note(model, "No difference of another sort before this."),
                Goal::Event(..) | Goal::End => {
                    let last = model.len().saturating_sub(1);
                    go_to(model, last);
                }
            }
        }
        Found::Nothing => {}
    }
}

fn go_to(model: &mut Model, row: u64) {
    model.cursor = row;
    model.pair_top = 0;
    let rows = u64::from(list_rows(model));
    if row < model.top || row >= model.top + rows {
        model.top = row.saturating_sub(rows / 3);
    }
}

/// Keeps the cursor among the rows, and on the screen.
fn settle(model: &mut Model) {
    let rows = u64::from(list_rows(model));
    let len = model.len();
    model.cursor = model.cursor.min(len.saturating_sub(1));
    model.top = model.top.min(model.cursor).max((model.cursor + 1).saturating_sub(rows)).min(len.saturating_sub(1));
}

/// The most urgent effect whose lane is free.
fn want(model: &mut Model) -> Option<Effect> {
    let effect = screen(model).or_else(|| align(model)).or_else(|| saving(model))?;
    model.busy[effect.lane()] = true;
    Some(effect)
}

fn screen(model: &mut Model) -> Option<Effect> {
    if model.busy[0] {
        return None;
    }
    if let Some(text) = model.copy.take() {
        return Some(Effect::Copy(text));
    }
    if let Some(path) = model.unsaved.take() {
        return Some(Effect::Unsave(path));
    }
    let (id, strict) = (model.id, model.strict);
    let rows =
        |model: &Model, number: usize| Effect::Rows { id, number, from: model.pieces[number].piece.from, strict };
    let height = u64::from(list_rows(model));
    // A page before and behind, so that the next key finds its rows there.
    let seen = model.top.saturating_sub(height)..(model.top + 2 * height).min(model.len());
    if let (Some(first), Some(last)) =
        (model.piece_of(seen.start), seen.end.checked_sub(1).and_then(|at| model.piece_of(at)))
    {
        let missing = |number: &usize| !model.pieces[*number].piece.plain && !model.rows.contains_key(number);
        if let Some(number) = (first..=last).find(missing) {
            return Some(rows(model, number));
        }
    }
    let mut wanted = [Vec::new(), Vec::new()];
    for row in seen.filter_map(|at| model.row(at)) {
        for (side, wanted) in wanted.iter_mut().enumerate() {
            wanted.extend(row.events[side].filter(|event| !model.events[side].contains_key(event)));
        }
    }
    if wanted.iter().any(|wanted| !wanted.is_empty()) {
        return Some(Effect::Fetch(wanted));
    }
    let number = model.needed.filter(|number| !model.rows.contains_key(number))?;
    Some(rows(model, number))
}

/// Differences are saved once nothing is to be aligned for the screen.
fn saving(model: &Model) -> Option<Effect> {
    let save = model.save.as_ref().filter(|_| !model.busy[1])?;
    Some(Effect::Save(Box::new(save.clone())))
}

fn align(model: &Model) -> Option<Effect> {
    let goes_on = !model.busy[1] && !model.whole && model.stuck.is_none();
    // What the screen shows is aligned even when the rest waits.
    let short = model.top + 2 * u64::from(list_rows(model)) >= model.len();
    let background = !model.paused && model.save.is_none();
    (goes_on && (background || model.goal.is_some() || short)).then(|| Effect::Align {
        id: model.id,
        from: model.frontier(),
        strict: model.strict,
    })
}

// --- Keys ---

fn press(model: &mut Model, key: &KeyEvent) {
    match &mut model.mode {
        Mode::Browse => {
            if let Some(action) = action_in(COMPARE, key) {
                act(model, action);
            }
        }
        Mode::Help(line) => {
            let line = *line;
            match help::scroll(COMPARE, line, model.size, key) {
                Some(line) => model.mode = Mode::Help(line),
                None => model.mode = Mode::Browse,
            }
        }
        Mode::GoTo(line) | Mode::Save(line) => match key.code {
            KeyCode::Esc => model.mode = Mode::Browse,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => model.mode = Mode::Browse,
            KeyCode::Enter => {
                let text = line.text().trim().to_owned();
                match std::mem::replace(&mut model.mode, Mode::Browse) {
                    Mode::Save(_) => save::begin(model, &text),
                    _ => place(model, &text.replace(',', "")),
                }
            }
            _ => {
                line.key(key);
            }
        },
    }
}

/// Goes to a place that was typed: an event of the chosen trace, or a part of it.
fn place(model: &mut Model, text: &str) {
    let len = model.abouts[model.side].len;
    let part =
        text.strip_suffix('%').and_then(|part| part.parse::<f64>().ok()).filter(|part| (0.0..=100.0).contains(part));
    let event = match part {
        Some(part) => Some((len as f64 * part / 100.0) as u64),
        None => crate::filter::number(text),
    };
    match event {
        Some(event) => begin(model, Goal::Event(model.side, event.min(len.saturating_sub(1)))),
        None if text.is_empty() => {}
        None => model.note = Some((Role::Bad, "A place is an event's number, or a percentage as 50%.".into())),
    }
}

fn begin(model: &mut Model, goal: Goal) {
    model.paused = false;
    model.goal = Some(goal);
}

fn act(model: &mut Model, action: Action) {
    let rows = if model.in_pair { pair_rows(model) as i64 } else { i64::from(list_rows(model)) };
    match action {
        Action::Down => step(model, 1),
        Action::Up => step(model, -1),
        Action::PageDown => step(model, rows),
        Action::PageUp => step(model, -rows),
        Action::HalfDown => step(model, rows / 2),
        Action::HalfUp => step(model, -rows / 2),
        Action::Home => step(model, i64::MIN),
        Action::End if model.in_pair => step(model, i64::MAX),
        Action::End => begin(model, Goal::End),
        Action::GoTo => model.mode = Mode::GoTo(Line::default()),
        Action::NextDifference => begin(model, Goal::NextDifference),
        Action::PreviousDifference => begin(model, Goal::PreviousDifference),
        Action::NextKind | Action::PreviousKind => {
            let next = action == Action::NextKind;
            begin(
                model,
                match (model.sign_of(model.cursor), next) {
                    (Some(sign), true) => Goal::NextOther(sign),
                    (Some(sign), false) => Goal::PreviousOther(sign),
                    (None, true) => Goal::NextDifference,
                    (None, false) => Goal::PreviousDifference,
                },
            );
        }
        Action::Suspend => model.suspend = true,
        Action::Strictness | Action::StrictnessBack => {
            let at = Strict::ALL.iter().position(|strict| *strict == model.strict).unwrap_or(0);
            let by = if action == Action::Strictness { 1 } else { Strict::ALL.len() - 1 };
            restart(model, Strict::ALL[(at + by) % Strict::ALL.len()]);
        }
        Action::Focus | Action::FocusBack => {
            model.side = 1 - model.side;
            let text = format!("{}: {}.", name(model.side), model.abouts[model.side].name);
            note(model, text);
        }
        Action::Enter => model.in_pair = !model.in_pair,
        Action::Zoom => model.zoomed = !model.zoomed,
        Action::Escape => escape(model),
        Action::Copy => {
            let event = model.row(model.cursor).and_then(|row| row.events[model.side]);
            let read = event.and_then(|event| Some((event, model.events[model.side].get(&event)?.as_ref().ok()?)));
            match read {
                Some((number, event)) => model.copy = Some(crate::alike::as_text(number, event)),
                None => {
                    let text = format!("{} has no event here.", name(model.side));
                    note(model, text);
                }
            }
        }
        Action::Save => {
            let [a, b] = [0, 1].map(|side: usize| {
                let file = model.abouts[side].name.rsplit('/').next().unwrap_or_default();
                file.trim_end_matches(".nvmx").to_owned()
            });
            model.mode = Mode::Save(Line::new(&format!("{a}-{b}-differences.txt")));
        }
        Action::Redraw => model.redraw = true,
        Action::Help => model.mode = Mode::Help(0),
        Action::Quit => model.quit = true,
        _ => {}
    }
}

/// Aligns anew, and keeps the place.
fn restart(model: &mut Model, strict: Strict) {
    let events = model.row(model.cursor).map_or([None, None], |row| row.events);
    let place = (0..2).find_map(|side| Some(Goal::Event(side, events[side]?)));
    model.strict = strict;
    model.id += 1;
    model.pieces.clear();
    model.rows.clear();
    (model.whole, model.stuck) = (false, None);
    (model.cursor, model.top) = (0, 0);
    if let Some(goal) = place {
        begin(model, goal);
    }
    note(model, format!("What counts: {}; {}.", strict.name(), strict.meaning()));
}

fn escape(model: &mut Model) {
    if let Some(save) = model.save.take() {
        note(model, format!("Stopped: {} is not saved.", save.path.display()));
        model.unsaved = Some(save.path);
        return;
    }
    if model.goal.take().is_some()
        || (!model.in_pair && !model.zoomed && !model.whole && model.stuck.is_none() && !model.paused)
    {
        model.paused = true;
        note(model, "Stopped; d and G go on.");
    } else if model.zoomed {
        model.zoomed = false;
    } else {
        model.in_pair = false;
    }
}

fn step(model: &mut Model, by: i64) {
    if model.in_pair {
        let last = pair_lines(model).len().saturating_sub(pair_rows(model));
        model.pair_top = (model.pair_top as i64).saturating_add(by).clamp(0, last as i64) as usize;
        return;
    }
    let last = model.len().saturating_sub(1);
    let row =
        if by < 0 { model.cursor.saturating_sub(by.unsigned_abs()) } else { model.cursor.saturating_add(by as u64) };
    model.goal = None;
    model.cursor = row.min(last);
    model.pair_top = 0;
}

fn mouse(model: &mut Model, mouse: &MouseEvent) {
    if let Mode::Help(line) = model.mode {
        let code = match mouse.kind {
            MouseEventKind::ScrollDown => KeyCode::Down,
            MouseEventKind::ScrollUp => KeyCode::Up,
            _ => return,
        };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        model.mode = Mode::Help(help::scroll(COMPARE, line, model.size, &key).unwrap_or(line));
        return;
    }
    let Some(areas) = areas(model).filter(|_| model.mode == Mode::Browse) else { return };
    let at = Position::new(mouse.column, mouse.row);
    let by = match mouse.kind {
        MouseEventKind::ScrollDown => 3,
        MouseEventKind::ScrollUp => -3,
        MouseEventKind::Down(MouseButton::Left) => 0,
        _ => return,
    };
    model.note = None;
    if areas.strip.contains(at) && by == 0 {
        let columns = areas.strip.width.saturating_sub(LABEL + 1);
        if let Some(column) = mouse.column.checked_sub(LABEL).filter(|column| *column < columns) {
            let event = strip::range((0, model.abouts[0].len), columns, column).0;
            begin(model, Goal::Event(0, event));
        }
        return;
    }
    let list =
        areas.lists.and_then(|lists| (0..2).find(|side| lists[*side].contains(at)).map(|side| (side, lists[side])));
    if let Some((side, list)) = list {
        model.in_pair = false;
        if by != 0 {
            return step(model, by);
        }
        model.side = side;
        if let Some(line) = (mouse.row - list.y).checked_sub(1) {
            let row = model.top + u64::from(line);
            if row < model.len() {
                model.cursor = row;
                model.pair_top = 0;
            }
        }
    } else if areas.pair.is_some_and(|pair| pair.contains(at)) {
        model.in_pair = true;
        step(model, by);
    }
}

/// Where the cursor is, for the status line.
pub(crate) fn position(model: &Model) -> String {
    let Some(row) = model.row(model.cursor) else { return String::new() };
    let event = |side: usize| row.events[side].map_or_else(|| "-".to_owned(), thousands);
    let place = format!("event {} | {}", event(0), event(1));
    match model.hunk_of(model.cursor) {
        Some(hunk) => {
            let what = match row.sort {
                Sort::Alone => format!(", only in {}", name(usize::from(row.events[0].is_none()))),
                Sort::Unlike => ", by order only".to_owned(),
                Sort::Same | Sort::Differs => String::new(),
            };
            format!("difference {}, at {place}{what}", thousands(hunk))
        }
        None => place,
    }
}
