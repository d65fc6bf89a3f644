//! Colours for terminals that have 16 of them. crossterm selects those by the sequences of the 256-colour palette, which such
//! terminals need not know: what is drawn is gathered up to the flush, and goes out in the sequences that all know.

use crate::theme::{Depth, Theme};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use std::io::{self, Stdout, Write};

/// The screen on standard output, in the colours of a theme.
pub(crate) fn screen(theme: Theme) -> io::Result<Terminal<CrosstermBackend<Ansi<Stdout>>>> {
    Terminal::new(CrosstermBackend::new(Ansi::new(
        io::stdout(),
        matches!(theme.depth, Depth::Ansi | Depth::AnsiOnLight),
    )))
}

/// A terminal's output, with colours below 16 in the sequences of 16-colour terminals.
#[derive(Debug)]
pub(crate) struct Ansi<W: Write> {
    out: W,
    /// Whether anything is changed.
    few: bool,
    held: Vec<u8>,
}

impl<W: Write> Ansi<W> {
    /// Writes to `out`; with more colours than a `few`, as it comes.
    fn new(out: W, few: bool) -> Self {
        Self { out, few, held: Vec::new() }
    }
}

impl<W: Write> Write for Ansi<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.few {
            return self.out.write(bytes);
        }
        self.held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let plain = plain(&self.held);
        self.held.clear();
        self.out.write_all(&plain)?;
        self.out.flush()
    }
}

/// The bytes with each `38;5;n` and `48;5;n` of n below 16 in its old form, among the parameters of `CSI m`.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|two| two == b"\x1b[") {
        let (before, sequence) = rest.split_at(at + 2);
        out.extend_from_slice(before);
        let length = sequence.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
        let (parameters, behind) = sequence.split_at(length);
        match str::from_utf8(parameters) {
            Ok(parameters) if behind.first() == Some(&b'm') => out.extend_from_slice(old_forms(parameters).as_bytes()),
            _ => out.extend_from_slice(parameters),
        }
        rest = behind;
    }
    out.extend_from_slice(rest);
    out
}

fn old_forms(parameters: &str) -> String {
    let all: Vec<&str> = parameters.split(';').collect();
    let (mut old, mut rest) = (Vec::new(), &all[..]);
    while let [first, more @ ..] = rest {
        let base = match *first {
            "38" => Some(30),
            "48" => Some(40),
            _ => None,
        };
        let colour = match more {
            ["5", number, ..] => number.parse::<u8>().ok().filter(|number| *number < 16),
            _ => None,
        };
        rest = match (base, colour) {
            (Some(base), Some(colour)) => {
                old.push((base + if colour < 8 { colour } else { 60 + colour - 8 }).to_string());
                &more[2..]
            }
            _ => {
                old.push((*first).to_owned());
                more
            }
        };
    }
    old.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_16_colours_have_an_old_form() {
        let check = |given: &str, wanted: &str| {
            let mut out = Ansi::new(Vec::new(), true);
            // As it comes in pieces.
            given.as_bytes().chunks(3).for_each(|piece| out.write_all(piece).expect("memory takes all"));
            out.flush().expect("memory takes all");
            assert_eq!(String::from_utf8_lossy(&out.out), wanted);
        };
        check("\x1b[38;5;6mred\x1b[0m", "\x1b[36mred\x1b[0m");
        check("\x1b[48;5;12m\x1b[38;5;0m", "\x1b[104m\x1b[30m");
        check("\x1b[38;5;16m\x1b[38;5;214m", "\x1b[38;5;16m\x1b[38;5;214m");
        check("\x1b[3;7H\x1b[1mtext 38;5;6m\x1b[", "\x1b[3;7H\x1b[1mtext 38;5;6m\x1b[");
        check("\x1b[38;5;6H", "\x1b[38;5;6H");
        check("\x1b[38;5;6;49m\x1b[1;38;5;200;48;5;1m\x1b[m", "\x1b[36;49m\x1b[1;38;5;200;41m\x1b[m");
    }
}
