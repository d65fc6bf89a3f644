//! The lines of input: filter, search, place, field.

use crate::act::go_to_mark;
use crate::export;
use crate::filter::{self, Plan, complete::complete};
use crate::line::Line;
use crate::model::{Ask, Mode, Model, Prompt};
use crate::panes::{StateRow, state_row, state_rows};
use crate::replay::{self, Base, MemoryView, rows};
use crate::theme::Role;
use crate::update::{find_from, go_to, set_filter};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hv_defs::event::What;
use replayer::look::Space;
use std::sync::Arc;

/// Lines that are remembered of each prompt.
const REMEMBERED: usize = 100;

/// Opens a prompt.
pub(crate) fn open(model: &mut Model, ask: Ask, text: &str) {
    let mut prompt = Prompt {
        ask,
        line: Line::new(text),
        error: None,
        completions: complete("", 0),
        chosen: None,
        past: None,
        origin: model.cursor,
    };
    look(&mut prompt);
    model.mode = Mode::Prompt(prompt);
}

/// Looks at the line anew.
fn look(prompt: &mut Prompt) {
    if prompt.ask != Ask::Filter {
        return;
    }
    let text = prompt.line.text();
    prompt.completions = complete(text, prompt.line.cursor());
    // What merely ends too early is no error while it is typed.
    prompt.error = Plan::of(text).err().filter(|error| error.expected.is_none());
    // Nor is the word that is being typed, while it can still become one.
    let typing = prompt.error.as_ref().is_some_and(|error| error.at.end == text.len());
    if typing && prompt.line.cursor() == text.len() && !prompt.completions.words.is_empty() {
        prompt.error = None;
    }
    prompt.chosen = None;
}

/// A key in a prompt.
pub(crate) fn key(model: &mut Model, key: &KeyEvent) {
    let Mode::Prompt(mut prompt) = std::mem::replace(&mut model.mode, Mode::Browse) else { return };
    let cancel = key.code == KeyCode::Esc
        || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
        || (key.code == KeyCode::Backspace && prompt.line.text().is_empty());
    if cancel {
        if prompt.ask == Ask::Search {
            model.find = None;
            if model.cursor != prompt.origin {
                go_to(model, prompt.origin, false);
            }
        }
        return;
    }
    match key.code {
        KeyCode::Enter => return accept(model, prompt),
        KeyCode::Tab => choose(&mut prompt, true),
        KeyCode::BackTab => choose(&mut prompt, false),
        KeyCode::Up | KeyCode::Down => {
            let past = model.past.get(&prompt.ask).map_or(&[][..], |past| past);
            let at = match (key.code, prompt.past) {
                (KeyCode::Up, None) => Some(0),
                (KeyCode::Up, Some(at)) => Some((at + 1).min(past.len().saturating_sub(1))),
                (_, at) => at.and_then(|at| at.checked_sub(1)),
            };
            let text = at.and_then(|at| past.iter().rev().nth(at));
            prompt.line = Line::new(text.map_or("", |text| text));
            prompt.past = text.and(at);
            look(&mut prompt);
        }
        _ => {
            if prompt.line.key(key).is_some() {
                look(&mut prompt);
            }
        }
    }
    let (ask, text, origin) = (prompt.ask, prompt.line.text().to_owned(), prompt.origin);
    model.mode = Mode::Prompt(prompt);
    match ask {
        Ask::Search => search(model, &text, origin),
        Ask::Field => {
            model.state.query = text;
            find_field(model, true, true);
        }
        Ask::Row => {
            model.replay.query = text;
            find_row(model, true, true);
        }
        Ask::Filter | Ask::GoTo | Ask::Address | Ask::Save | Ask::Mark => {}
    }
}

/// Puts the next completion in the place of the word.
fn choose(prompt: &mut Prompt, forward: bool) {
    let words = &prompt.completions.words;
    if words.is_empty() {
        return;
    }
    let at = match prompt.chosen {
        None if forward => 0,
        None => words.len() - 1,
        Some(at) if forward => (at + 1) % words.len(),
        Some(at) => (at + words.len() - 1) % words.len(),
    };
    let (start, word) = (prompt.completions.start, words[at]);
    prompt.line.replace_from(start, word);
    prompt.error = Plan::of(prompt.line.text()).err().filter(|error| error.expected.is_none());
    prompt.chosen = Some(at);
    // A lone completion is done with: what follows it is asked for next.
    if prompt.completions.words.len() == 1 {
        prompt.line.replace_from(prompt.line.cursor(), " ");
        look(prompt);
    }
}

/// Goes to the first hit at or after the place where the search began.
fn search(model: &mut Model, text: &str, origin: u64) {
    if model.search.as_ref().is_some_and(|(known, _)| known == text) {
        return;
    }
    if text.trim().is_empty() {
        (model.search, model.find) = (None, None);
        return go_to(model, origin, false);
    }
    let plan = Arc::new(Plan::of_search(text));
    model.search = Some((text.to_owned(), plan.clone()));
    find_from(model, plan, origin, true, format!("'{text}'"), false);
}

/// Selects the next field whose name has what was typed.
pub(crate) fn find_field(model: &mut Model, forward: bool, stay: bool) {
    let rows = state_rows(model);
    let query = model.state.query.to_ascii_lowercase();
    let at = state_row(&rows, model.state.row);
    let len = rows.len();
    let order = (usize::from(!stay)..=len)
        .map(|by| if forward { (at + by) % len.max(1) } else { (at + len - by) % len.max(1) });
    let fits =
        |row: &usize| matches!(rows.get(*row), Some(StateRow::Field(field, _)) if field.to_string().contains(&query));
    match order.take(len).find(fits) {
        Some(row) => model.state.row = row,
        None => model.note = Some((Role::Notice, format!("No field shown has '{query}' in its name."))),
    }
}

/// Selects the next line of the pane that has what was typed.
pub(crate) fn find_row(model: &mut Model, forward: bool, stay: bool) {
    let (side, query) = (model.side, model.replay.query.to_lowercase());
    let at = model.replay.selected(side);
    let lines = rows::lines(model, side);
    let len = lines.len();
    let at = at.min(len.saturating_sub(1));
    let mut order = (usize::from(!stay)..=len)
        .map(|by| if forward { (at + by) % len.max(1) } else { (at + len - by) % len.max(1) });
    let found = if query.is_empty() { None } else { order.find(|row| lines.has(*row, &query)) };
    match found {
        Some(row) => *model.replay.row(side) = row,
        None if query.is_empty() => {}
        None => model.note = Some((Role::Notice, format!("No line has '{query}' in it."))),
    }
}

/// Shows memory at an address that was typed.
fn to_address(model: &mut Model, text: &str) {
    if text.is_empty() {
        return;
    }
    let text = text.to_lowercase();
    // What the exit was about is in the exiting guest's own view.
    let of_exit = match model.selected().map(|event| &event.what) {
        Some(What::Exit(exit)) if text == "gpa" => Some((Space::Physical(exit.level), exit.gpa)),
        Some(What::Exit(exit)) if text == "gla" => Some((Space::Linear(exit.level), exit.gla)),
        _ => None,
    };
    let space = of_exit.map(|(space, _)| space).or(model.replay.memory.space);
    match of_exit.map(|(_, at)| (Base::Zero, at)).or_else(|| parse_address(model, &text)) {
        Some((base, offset)) => model.replay.memory = MemoryView::at(space, base, offset),
        None => {
            let help = "An address is hexadecimal, a register as rsp, cr3 or gdtr, with + or - a number, or gpa or gla of an exit.";
            model.note = Some((Role::Bad, help.into()));
        }
    }
}

/// An address: a number in hexadecimal or a register's name, and perhaps what to add.
fn parse_address(model: &Model, text: &str) -> Option<(Base, u64)> {
    let split = text.find(['+', '-']).unwrap_or(text.len());
    let (first, rest) = (text[..split].trim(), &text[split..]);
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let added = match rest.split_at_checked(1) {
        None => 0,
        Some(("-", number)) => hexadecimal(number)?.wrapping_neg(),
        Some((_, number)) => hexadecimal(number)?,
    };
    let known = replay::guest(model).map_or(&[][..], |guest| &guest.values);
    match known.iter().find(|(name, _)| *name == first) {
        Some((name, _)) => Some((Base::Register(name), added)),
        None => Some((Base::Zero, hexadecimal(first)?.wrapping_add(added))),
    }
}

fn accept(model: &mut Model, mut prompt: Prompt) {
    let text = prompt.line.text().trim().to_owned();
    if !text.is_empty() {
        let past = model.past.entry(prompt.ask).or_default();
        past.retain(|known| *known != text);
        past.push(text.clone());
        if past.len() > REMEMBERED {
            past.remove(0);
        }
    }
    match prompt.ask {
        Ask::Filter if text.is_empty() => {
            model.dropped = model.filter.take().map(|filter| filter.text).or(model.dropped.take())
        }
        Ask::Filter => match Plan::of(prompt.line.text()) {
            Ok(plan) => set_filter(model, &text, plan),
            Err(error) => {
                prompt.error = Some(error);
                model.mode = Mode::Prompt(prompt);
            }
        },
        Ask::Search => {
            if model.cursor != prompt.origin {
                model.jumps.push(prompt.origin);
                model.undone.clear();
            }
        }
        Ask::GoTo => go(model, &text),
        Ask::Field | Ask::Row => {}
        Ask::Address => to_address(model, &text),
        Ask::Save => export::begin(model, &text),
        Ask::Mark => {
            if let Some(letter) = model.renamed.take().filter(|letter| model.marks.contains_key(letter)) {
                match text.is_empty() {
                    true => drop(model.mark_notes.remove(&letter)),
                    false => drop(model.mark_notes.insert(letter, text)),
                }
                model.keep_now = true;
            }
        }
    }
}

/// Goes to a place that was typed.
fn go(model: &mut Model, text: &str) {
    let digits = text.replace(',', "");
    let wrong = |model: &mut Model| {
        let help = "A place is an event's number, @ and an instruction's, a percentage as 50%, or ' and a bookmark.";
        model.note = Some((Role::Bad, help.into()));
    };
    let mut characters = digits.chars();
    match characters.next() {
        None => {}
        Some('@') => match filter::number(characters.as_str().trim()) {
            Some(instruction) => model.locate = Some(instruction),
            None => wrong(model),
        },
        Some('\'') => match characters.next() {
            Some(letter) => go_to_mark(model, letter),
            None => wrong(model),
        },
        _ => match (digits.strip_suffix('%').map(str::parse::<f64>), filter::number(&digits)) {
            (Some(Ok(percent)), _) if (0.0..=100.0).contains(&percent) => {
                go_to(model, (model.about.len as f64 * percent / 100.0) as u64, true);
            }
            (None, Some(event)) => {
                if event >= model.about.len {
                    let text = format!("The last event is {}.", model.about.len.saturating_sub(1));
                    model.note = Some((Role::Notice, text));
                }
                let note = model.note.take();
                go_to(model, event, true);
                model.note = note.or(model.note.take());
            }
            _ => wrong(model),
        },
    }
}
