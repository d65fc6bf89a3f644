//! A report in Markdown, as for an issue.

use super::document::{Cell, Document, Part, Table, Tone};
use super::sparks;
use crate::findings::Severity;
use std::fmt::Write as _;

/// Draws a document.
pub(super) fn draw(document: &Document) -> String {
    let mut text = String::new();
    if !document.title.is_empty() {
        let _ = writeln!(text, "# {}\n", escape(&document.title));
    }
    for section in &document.sections {
        let mark = if section.tone == Tone::Bad { "🔴 " } else { "" };
        let _ = writeln!(text, "## {mark}{}\n", escape(&section.title));
        for part in &section.parts {
            match part {
                Part::Facts(facts) => {
                    for (name, cell) in facts {
                        let name = if name.is_empty() { "" } else { &format!("{name}: ") };
                        let _ = writeln!(text, "- {name}{}", shown(cell));
                    }
                }
                Part::Advice(advice) => {
                    for advice in advice {
                        let mark = match advice.severity {
                            Severity::Wrong => "🔴 **wrong**",
                            Severity::Waste => "**waste**",
                            Severity::Note => "note",
                        };
                        let _ = writeln!(text, "- {mark}: {}", escape(&advice.text));
                    }
                }
                Part::Table(table) => draw_table(&mut text, table),
                Part::Heading(name) => {
                    let _ = writeln!(text, "### {}", escape(name));
                }
                Part::Note(note) => {
                    let _ = writeln!(text, "{}", escape(note));
                }
                Part::Sparks(of) => {
                    let _ = writeln!(text, "{}\n\n```text\n{}\n```", escape(&of.title), sparks::lines(of).join("\n"));
                }
                // Their numbers stand in the tables.
                Part::Curves(_) | Part::Flame(_) => continue,
            }
            text.push('\n');
        }
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn escape(text: &str) -> String {
    // Backticks are kept: reports use them for names.
    let mut escaped = String::with_capacity(text.len());
    for c in traces::plain(text).chars() {
        if matches!(c, '|' | '<' | '*' | '_' | '\\' | '[') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn shown(cell: &Cell) -> String {
    if cell.tone == Tone::Bad { format!("**{}**", escape(&cell.text)) } else { escape(&cell.text) }
}

fn draw_table(text: &mut String, table: &Table) {
    let right = |at: usize| table.numeric(at);
    let _ = writeln!(text, "| {} |", table.columns.join(" | "));
    let rules: Vec<&str> = (0..table.columns.len()).map(|at| if right(at) { "--:" } else { ":--" }).collect();
    let _ = writeln!(text, "| {} |", rules.join(" | "));
    for row in &table.rows {
        let _ = writeln!(text, "| {} |", row.iter().map(shown).collect::<Vec<_>>().join(" | "));
    }
    if !table.note.is_empty() {
        let _ = writeln!(text, "\n{}", escape(&table.note));
    }
}
