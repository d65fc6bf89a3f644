//! A report for a terminal.

use super::document::{Document, Part, Section, Table, Tone};
use super::sparks;
use crate::findings::Severity;
use std::fmt::Write as _;
use traces::plain;

/// Draws a document. With `color`, missing flushes are red, waste yellow.
pub(super) fn draw(document: &Document, color: bool) -> String {
    let mut text = String::new();
    if !document.title.is_empty() {
        let _ = writeln!(text, "{}\n", paint(&document.title, "1", color));
    }
    for section in &document.sections {
        draw_section(&mut text, section, color);
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn paint(text: &str, code: &str, color: bool) -> String {
    let text = plain(text);
    if color && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into_owned() }
}

fn code(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Bad => "1;31",
        Tone::Warn => "33",
        Tone::Good => "32",
    }
}

fn draw_section(text: &mut String, section: &Section, color: bool) {
    let heading = if section.tone == Tone::Bad { code(Tone::Bad) } else { "1" };
    let _ = writeln!(text, "{}", paint(&section.title, heading, color));
    for part in &section.parts {
        match part {
            Part::Facts(facts) => {
                let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
                for (name, cell) in facts {
                    let _ = writeln!(text, "  {name:<width$}  {}", paint(&cell.text, code(cell.tone), color));
                }
            }
            Part::Advice(advice) => {
                for advice in advice {
                    let (mark, tone) = match advice.severity {
                        Severity::Wrong => ("!!", Tone::Bad),
                        Severity::Waste => (" *", Tone::Warn),
                        Severity::Note => (" -", Tone::Plain),
                    };
                    for (at, line) in wrap(&advice.text, 96).iter().enumerate() {
                        let mark = if at == 0 { paint(mark, code(tone), color) } else { "  ".into() };
                        let _ = writeln!(text, "  {mark} {}", plain(line));
                    }
                }
            }
            Part::Table(table) => draw_table(text, table, color),
            Part::Heading(name) => {
                let _ = writeln!(text, "\n  {}", paint(name, "1", color));
            }
            Part::Note(note) => wrap(note, 100).iter().for_each(|line| {
                let _ = writeln!(text, "  {}", paint(line, "2", color));
            }),
            Part::Sparks(of) => {
                let _ = writeln!(text, "  {}", paint(&of.title, "2", color));
                sparks::lines(of).iter().for_each(|line| {
                    let _ = writeln!(text, "  {}", line.trim_end());
                });
            }
            // Their numbers stand in the tables.
            Part::Curves(_) | Part::Flame(_) => {}
        }
    }
    text.push('\n');
}

/// A bar of eight blocks.
fn bar(part: f64) -> String {
    let eighths = (part.clamp(0.0, 1.0) * 64.0).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if let Some(rest) = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'].get(eighths % 8).filter(|_| !eighths.is_multiple_of(8))
    {
        text.push(*rest);
    }
    text
}

fn draw_table(text: &mut String, table: &Table, color: bool) {
    let cell_text = |cell: &super::document::Cell| match cell.bar {
        Some(part) => format!("{:<8} {:>7}", bar(part), cell.text),
        None => cell.text.clone(),
    };
    let columns = table.columns.len();
    let rows: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(cell_text).collect()).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([table.columns[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let right = |at: usize| table.numeric(at);
    let pad = |at: usize, cell: &str| {
        let space = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
        if right(at) { format!("{space}{cell}") } else { format!("{cell}{space}") }
    };
    let names: Vec<String> = table.columns.iter().enumerate().map(|(at, name)| pad(at, name)).collect();
    let _ = writeln!(text, "  {}", paint(names.join("  ").trim_end(), "2", color));
    for (row, cells) in table.rows.iter().zip(&rows) {
        let cells =
            row.iter().zip(cells).enumerate().map(|(at, (cell, shown))| paint(&pad(at, shown), code(cell.tone), color));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    for line in wrap(&table.note, 100) {
        let _ = writeln!(text, "  {}", paint(&line, "2", color));
    }
}

/// Lines of at most `width` characters, broken between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
