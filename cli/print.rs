//! What is printed, and how much of it.

use super::fail::{Result, say};
use super::words::Manner;
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

/// The manner of speaking that the command line asked for.
pub struct Print {
    quiet: bool,
    verbose: bool,
    /// Whether stdout is coloured.
    pub color: bool,
    /// What `--color` says, if it does.
    pub color_asked: Option<bool>,
}

impl Print {
    /// As `manner` says.
    pub fn new(manner: &Manner) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match manner.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stdout().is_terminal() && !plain,
        };
        let color_asked = match manner.color {
            ColorChoice::Always => Some(true),
            ColorChoice::Never => Some(false),
            ColorChoice::Auto => None,
        };
        Self { quiet: manner.quiet, verbose: manner.verbose, color, color_asked }
    }

    /// One that says nothing.
    pub fn silent() -> Self {
        Self { quiet: true, verbose: false, color: false, color_asked: None }
    }

    /// Stdout, buffered: flush it at the end, for a drop hides errors.
    pub fn out(&self) -> BufWriter<StdoutLock<'static>> {
        BufWriter::with_capacity(1 << 16, io::stdout().lock())
    }

    /// A line on stdout, unless the user wants quiet.
    pub fn line(&self, line: impl fmt::Display) -> Result<()> {
        if !self.quiet {
            writeln!(io::stdout(), "{line}")?;
        }
        Ok(())
    }

    /// A note on stderr, unless the user wants quiet.
    pub fn note(&self, line: impl fmt::Display) {
        if !self.quiet {
            say(&line.to_string());
        }
    }

    /// A note on stderr, if the user wants to know more.
    pub fn detail(&self, line: impl fmt::Display) {
        if self.verbose {
            say(&line.to_string());
        }
    }

    /// A progress bar, drawn only on a terminal, for `length` steps of what `what` names.
    pub fn progress(&self, what: &'static str, length: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
        if self.quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{msg:>12} [{bar:30}] {human_pos}/{human_len} {eta}")
            .expect("the template is a constant, and right");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what);
        bar
    }
}

/// Bytes as people read them: `45.2 KiB`.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A number with its thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `n` and what there is of it, in the plural where it must be.
pub fn of(number: u64, one: &str) -> String {
    let end = match one.as_bytes().last() {
        _ if number == 1 => "",
        Some(b's' | b'h') => "es",
        _ => "s",
    };
    format!("{} {one}{end}", count(number))
}

/// Lines under one heading.
pub fn list(out: &mut impl Write, heading: &str, lines: &[&str]) -> Result<()> {
    for (number, line) in lines.iter().enumerate() {
        let blank = " ".repeat(heading.len());
        writeln!(out, "{}{line}", if number == 0 { heading } else { &blank })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        let check = |got: String, want: &str| assert_eq!(got, want);
        check(count(0), "0");
        check(count(999), "999");
        check(count(1000), "1,000");
        check(count(1234567), "1,234,567");
        check(bytes(1023), "1023 B");
        check(bytes(1536), "1.5 KiB");
        check(of(1, "event"), "1 event");
        check(of(2, "event"), "2 events");
        check(of(0, "flush"), "0 flushes");
    }
}
