//! What a trace holds of text, for a terminal.

use std::borrow::Cow;

/// A text on one line that is no more than a text: control characters, which a terminal would obey, are escaped.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown.into()
}

#[test]
fn a_terminal_has_nothing_to_obey() {
    assert_eq!(plain("vmlinuz, with \"quiet\""), "vmlinuz, with \"quiet\"");
    assert_eq!(plain("a\x1b[2Jb\nc\u{9b}é"), "a\\u{1b}[2Jb\\nc\\u{9b}é");
}
