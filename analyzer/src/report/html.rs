//! A report as one HTML page that needs no network: style, script and charts are in it.

use super::document::{Cell, Document, Flame, Part, Section, Table, Tone};
use super::svg::{self, escape};
use super::{flame, sparks};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Draws documents one after another on one page.
pub(super) fn draw(documents: &[Document]) -> String {
    let title = match documents.first() {
        Some(first) if !first.title.is_empty() => format!("{} · nvmx report", first.title),
        _ => "nvmx report".into(),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n",
        escape(&title),
        flame::style()
    );
    for (number, document) in documents.iter().enumerate() {
        let _ = writeln!(
            page,
            "<h1>{}</h1>",
            if document.title.is_empty() { "nvmx report".into() } else { escape(&document.title) }
        );
        page += "<nav>";
        for section in &document.sections {
            let _ = write!(page, "<a href=\"#{}-{number}\">{}</a>", section.id, escape(&section.title));
        }
        page += "</nav>\n";
        for section in &document.sections {
            draw_section(&mut page, section, number);
        }
    }
    let _ = write!(page, "</main>\n<script>\n{SCRIPT}{}</script>\n</body>\n</html>\n", flame::script());
    page
}

const fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Bad => "bad",
        Tone::Warn => "warn",
        Tone::Good => "good",
    }
}

/// Text whose backticks mark names.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (number, part) in text.split('`').enumerate() {
        let _ = if number % 2 == 1 {
            write!(html, "<code>{}</code>", escape(part))
        } else {
            write!(html, "{}", escape(part))
        };
    }
    html
}

fn draw_section(page: &mut String, section: &Section, number: usize) {
    let _ = writeln!(
        page,
        "<section id=\"{}-{number}\" class=\"{}\"><h2>{}</h2>",
        section.id,
        if section.tone == Tone::Bad { "bad" } else { "" },
        escape(&section.title)
    );
    for part in &section.parts {
        match part {
            Part::Facts(facts) => {
                page.push_str("<dl class=\"facts\">");
                for (name, cell) in facts {
                    let wide = if cell.text.chars().count() > 30 { " class=\"wide\"" } else { "" };
                    let _ = write!(
                        page,
                        "<div{wide}><dt>{}</dt><dd class=\"{}\">{}</dd></div>",
                        escape(name),
                        class(cell.tone),
                        escape(&cell.text)
                    );
                }
                page.push_str("</dl>\n");
            }
            Part::Advice(advice) => {
                page.push_str("<ul class=\"advice\">\n");
                for advice in advice {
                    let severity = advice.severity.name();
                    let _ = writeln!(page, "<li class=\"{severity}\"><b>{severity}</b>{}</li>", prose(&advice.text));
                }
                page.push_str("</ul>\n");
            }
            Part::Table(table) => draw_table(page, table),
            Part::Curves(of) => page.push_str(&svg::curves(of)),
            Part::Flame(of) => draw_flame(page, of),
            Part::Sparks(of) => page.push_str(&sparks::draw(of)),
            Part::Heading(name) => {
                let _ = writeln!(page, "<h3>{}</h3>", escape(name));
            }
            Part::Note(note) => {
                let _ = writeln!(page, "<p>{}</p>", prose(note));
            }
        }
    }
    page.push_str("</section>\n");
}

fn draw_flame(page: &mut String, of: &Flame) {
    if let Some((svg, _)) = flame::draw(of.stacks.clone(), of.unit, flame::DRAWN, 0) {
        let title = escape(&of.title);
        let _ = writeln!(
            page,
            "<figure class=\"wide\"><figcaption>{title}</figcaption>{svg}<p class=\"zoom\">A click on a frame, or Enter, zooms in \
             to it; on the top, or Escape, out.</p></figure>"
        );
    }
}

fn draw_cell(page: &mut String, cell: &Cell, right: bool) {
    let mut classes = Vec::new();
    if right {
        classes.push("n");
    }
    if cell.bar.is_some() {
        classes.push("bar");
    }
    if cell.tone != Tone::Plain {
        classes.push(class(cell.tone));
    }
    page.push_str("<td");
    if !classes.is_empty() {
        let _ = write!(page, " class=\"{}\"", classes.join(" "));
    }
    if let Some(key) = cell.key.filter(|key| key.is_finite()) {
        let _ = write!(page, " data-key=\"{key}\"");
    }
    if let Some(bar) = cell.bar {
        let _ = write!(page, " style=\"--w:{:.1}%\"", bar.clamp(0.0, 1.0) * 100.0);
    }
    let _ = match &cell.link {
        Some(link) => write!(page, "><a href=\"{}\">{}</a></td>", escape(link), escape(&cell.text)),
        None => write!(page, ">{}</td>", escape(&cell.text)),
    };
}

fn draw_table(page: &mut String, table: &Table) {
    let right = |at: usize| table.numeric(at);
    page.push_str("<div class=\"scroll\"><table><thead><tr>");
    for (at, name) in table.columns.iter().enumerate() {
        let class = if right(at) { " class=\"n\"" } else { "" };
        let _ = write!(page, "<th{class}><button type=\"button\">{}</button></th>", escape(name));
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            draw_cell(page, cell, right(at));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
    if !table.note.is_empty() {
        let _ = writeln!(page, "<p>{}</p>", prose(&table.note));
    }
}
