//! Reports: findings drawn for a terminal, for an issue, for a browser, for programs.
//!
//! One trace gives a whole report, several a comparison. The `json` form's keys are stable: docs/json.md lists them.

mod batch;
mod compare;
mod csv;
mod document;
mod flame;
mod html;
mod json;
mod markdown;
mod sections;
mod sparks;
mod svg;
mod text;
mod waste;
pub mod whatif;

pub use batch::{Batch, Line};
pub use json::value as json_value;

use crate::Findings;
use document::Document;

/// A report for a terminal; with `color`, in ANSI colours.
pub fn text(of: &[Findings], color: bool) -> String {
    documents(of).iter().map(|document| text::draw(document, color)).collect::<Vec<_>>().join("\n")
}

/// A report in Markdown, as for an issue.
pub fn markdown(of: &[Findings]) -> String {
    documents(of).iter().map(markdown::draw).collect::<Vec<_>>().join("\n")
}

/// A report as one HTML page that needs nothing else: the comparison, where there are several traces, then each trace.
pub fn html(of: &[Findings]) -> String {
    let mut documents = documents(of);
    if of.len() > 1 {
        documents.extend(of.iter().map(sections::document));
    }
    html::draw(&documents)
}

/// A report as one JSON object on one line: the findings of a trace, or `traces`, a list of them, for several.
pub fn json(of: &[Findings]) -> String {
    json::value(of).to_string() + "\n"
}

/// A report as CSV with the columns trace, section, item, measure and value: a number a line.
pub fn csv(of: &[Findings]) -> String {
    csv::draw(of)
}

/// What was done for what as a flame graph: an SVG that stands alone and whose frames can be zoomed in to.
pub fn flame(of: &[Findings]) -> String {
    flame::file(of)
}

/// The same as folded stacks, a line each, for other tools: frames with semicolons between them, a blank and modelled
/// cycles; of imported traces time or, where that is not known, exits.
pub fn folded(of: &[Findings]) -> String {
    flame::folded(of)
}

fn documents(of: &[Findings]) -> Vec<Document> {
    match of {
        [one] => vec![sections::document(one)],
        [] => Vec::new(),
        several => vec![compare::document(several)],
    }
}
