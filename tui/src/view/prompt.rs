//! The lines of input.

use super::Pen;
use crate::model::{Ask, Prompt};
use crate::theme::Role;
use ratatui::layout::{Position, Rect};
use ratatui::style::Modifier;

/// The line, and under it what is wrong, at its place, or what the word could become. Says where the cursor belongs.
///
/// ```text
///  filter: kind == exit and reasn == CPUID
///                           ^^^^^ no event has a field 'reasn'; is it 'reason'?
/// ```
pub(super) fn draw(prompt: &Prompt, pen: &mut Pen, line: Rect, under: Rect) -> Position {
    let label = match prompt.ask {
        Ask::Filter => " filter: ",
        Ask::Search => " search: ",
        Ask::GoTo => " go to: ",
        Ask::Field => " field: ",
        Ask::Save => " save as: ",
        Ask::Mark => " say of it: ",
        Ask::Row => " find: ",
        Ask::Address => " address: ",
    };
    let text = prompt.line.text();
    let room = usize::from(line.width).saturating_sub(label.len() + 1);
    // A place within a character, which an error may point at, counts as behind it.
    let columns = |bytes: usize| text.char_indices().take_while(|(at, _)| *at < bytes).count();
    // A line that is too long scrolls so that its cursor is seen.
    let first = columns(prompt.line.cursor()).saturating_sub(room);
    let shown: String = text.chars().skip(first).take(room).collect();
    let start = pen.line(line, &[(Role::Key, label.into())]);
    let end = pen.line(Rect { x: start, width: line.width - start, ..line }, &[(Role::Plain, shown)]);
    let cursor = start + (columns(prompt.line.cursor()) - first) as u16;
    if let Some(word) = ghost(prompt) {
        pen.line(Rect { x: end, width: line.right().saturating_sub(end), ..line }, &[(Role::Ghost, word)]);
    }
    match &prompt.error {
        Some(error) => {
            let from = start + columns(error.at.start.min(text.len())).saturating_sub(first) as u16;
            let length =
                columns(error.at.end.min(text.len())).saturating_sub(columns(error.at.start.min(text.len()))).max(1);
            // The words themselves are marked too: where the message has little room it lies over what is under them.
            let wrong = Rect { x: from, width: (length as u16).min(line.right().saturating_sub(from)), ..line };
            let style = pen.theme.style(Role::Bad).add_modifier(Modifier::UNDERLINED | Modifier::REVERSED);
            pen.buffer.set_style(wrong, style);
            let carets = "^".repeat(length.min(usize::from(under.right().saturating_sub(from))));
            let message = error.to_string();
            let after = from + carets.len() as u16 + 1;
            pen.line(Rect { x: from, width: under.right().saturating_sub(from), ..under }, &[(Role::Bad, carets)]);
            if usize::from(under.right().saturating_sub(after)) >= message.chars().count() {
                let area = Rect { x: after, width: under.right().saturating_sub(after), ..under };
                pen.line(area, &[(Role::Bad, message)]);
            } else {
                // No room behind the place: in front of it, or over it where that is short too.
                let width = message.chars().count() as u16;
                let x = from.saturating_sub(width + 1);
                pen.line(Rect { x, width: under.right() - x, ..under }, &[(Role::Bad, message)]);
            }
        }
        None => help(prompt, pen, under),
    }
    Position::new(cursor.min(line.right().saturating_sub(1)), line.y)
}

/// The rest of the first completion, where the cursor is at the end.
fn ghost(prompt: &Prompt) -> Option<String> {
    let text = prompt.line.text();
    if prompt.ask != Ask::Filter || prompt.chosen.is_some() || prompt.line.cursor() != text.len() {
        return None;
    }
    let typed = &text[prompt.completions.start.min(text.len())..];
    let word = prompt.completions.words.first().filter(|_| !typed.is_empty())?;
    let begins = word.get(..typed.len()).is_some_and(|start| start.eq_ignore_ascii_case(typed));
    begins.then(|| word[typed.len()..].to_owned())
}

fn help(prompt: &Prompt, pen: &mut Pen, under: Rect) {
    let text = match prompt.ask {
        Ask::Search => " a name, or a number's first digits in hexadecimal; Enter keeps the place, Esc goes back",
        Ask::GoTo => " 1234 an event, @1234 an instruction, 50% a part of the trace, 'a a bookmark",
        Ask::Field => " a part of a field's name; n and N go on",
        Ask::Save => " .csv with commas, else text; Esc leaves it",
        Ask::Mark => " a line about the bookmark; Esc leaves it as it was",
        Ask::Row => " a part of a line; n and N go on",
        Ask::Address => " hexadecimal, a register as rsp+40 or cr3, or the gpa or gla of an exit",
        Ask::Filter => "",
    };
    if !text.is_empty() {
        pen.line(under, &[(Role::Dim, text.into())]);
        return;
    }
    let mut pieces = vec![(Role::Key, " Tab".to_owned()), (Role::Dim, " ".to_owned())];
    for (at, word) in prompt.completions.words.iter().enumerate().take(40) {
        let chosen = prompt.chosen == Some(at);
        pieces.push((if chosen { Role::Selected } else { Role::Dim }, format!(" {word} ")));
    }
    if prompt.completions.words.is_empty() {
        pieces = vec![(Role::Dim, " Enter filters, Esc leaves".to_owned())];
    }
    pen.line(under, &pieces);
}
