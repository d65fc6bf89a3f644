//! A line of input and its cursor.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A line that is being edited.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Line {
    text: String,
    /// In bytes, at a character's first.
    cursor: usize,
}

/// The longest line that is taken, in bytes.
const LONGEST: usize = 1000;

impl Line {
    /// A line with its cursor at the end.
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), cursor: text.len() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Replaces what stands from byte `start` to the cursor.
    pub(crate) fn replace_from(&mut self, start: usize, word: &str) {
        self.text.replace_range(start..self.cursor, word);
        self.cursor = start + word.len();
    }

    /// Does what a key does to a line. Whether the text changed; `None` when the key means nothing to a line.
    pub(crate) fn key(&mut self, key: &KeyEvent) -> Option<bool> {
        let before = self.text.len();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = self.text.len(),
            KeyCode::Char('u') if control => self.replace_from(0, ""),
            KeyCode::Char('k') if control => self.text.truncate(self.cursor),
            KeyCode::Char('w') if control => {
                let kept = self.text[..self.cursor].trim_end();
                let start = kept.rfind(' ').map_or(0, |space| space + 1);
                self.replace_from(start, "");
            }
            KeyCode::Char(character) if !control && !key.modifiers.contains(KeyModifiers::ALT) => {
                if character.is_control() || self.text.len() >= LONGEST {
                    return Some(false);
                }
                self.text.insert(self.cursor, character);
                self.cursor += character.len_utf8();
            }
            KeyCode::Backspace => {
                let start = self.before();
                self.replace_from(start, "");
            }
            KeyCode::Delete => {
                if let Some(character) = self.text[self.cursor..].chars().next() {
                    self.text.replace_range(self.cursor..self.cursor + character.len_utf8(), "");
                }
            }
            KeyCode::Left => self.cursor = self.before(),
            KeyCode::Right => self.cursor += self.text[self.cursor..].chars().next().map_or(0, char::len_utf8),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            _ => return None,
        }
        Some(self.text.len() != before)
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[(KeyCode, KeyModifiers)], text: &str, cursor: usize) {
        let mut line = Line::new("reason == é");
        for (code, modifiers) in keys {
            line.key(&KeyEvent::new(*code, *modifiers));
        }
        assert_eq!((line.text(), line.cursor()), (text, cursor));
    }

    #[test]
    fn edits_by_characters_and_words() {
        const N: KeyModifiers = KeyModifiers::NONE;
        const C: KeyModifiers = KeyModifiers::CONTROL;
        check(&[], "reason == é", 12);
        check(&[(KeyCode::Backspace, N)], "reason == ", 10);
        check(&[(KeyCode::Left, N), (KeyCode::Char('x'), N)], "reason == xé", 11);
        check(&[(KeyCode::Left, N), (KeyCode::Delete, N), (KeyCode::Delete, N)], "reason == ", 10);
        check(&[(KeyCode::Char('w'), C)], "reason == ", 10);
        check(&[(KeyCode::Char('w'), C), (KeyCode::Char('w'), C)], "reason ", 7);
        check(&[(KeyCode::Char('u'), C)], "", 0);
        check(&[(KeyCode::Home, N), (KeyCode::Backspace, N), (KeyCode::Char('k'), C)], "", 0);
        check(&[(KeyCode::Home, N), (KeyCode::Left, N), (KeyCode::Right, N)], "reason == é", 1);
        check(&[(KeyCode::End, N), (KeyCode::Right, N)], "reason == é", 12);
    }
}
