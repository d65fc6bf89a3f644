//! What could be written next in a filter.

use super::parse::{Expected, in_word, parse};
use super::plan::{forms_of, names_of};
use hv_defs::event::Kind;
use hv_defs::fields::STAMP;
use std::collections::BTreeSet;

/// What the word under the cursor could become.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Completions {
    /// Where that word begins.
    pub(crate) start: usize,
    /// What it could be, sorted; what begins with it before what contains it.
    pub(crate) words: Vec<&'static str>,
}

/// Completes `text`, in which the cursor stands at byte `cursor`, a character's first.
pub(crate) fn complete(text: &str, cursor: usize) -> Completions {
    let before = &text[..cursor];
    let start = before.bytes().rposition(|byte| !in_word(byte)).map_or(0, |at| at + 1);
    // A range's end is a value of its own.
    let start = before[start..].rfind("..").map_or(start, |dots| start + dots + 2);
    let word = &before[start..];
    let candidates = match parse(&text[..start]) {
        Ok(_) => after_a_name(&text[..start], word),
        Err(error) => match error.expected {
            Some(Expected::Term) => terms(),
            Some(Expected::Operator) => vec!["=="],
            Some(Expected::Value(name)) => values(&name),
            Some(Expected::Connective) => vec!["and", "or"],
            None => Vec::new(),
        },
    };
    let lower = word.to_ascii_lowercase();
    let rank = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        if candidate.starts_with(&lower) { Some(0) } else { candidate.contains(&lower).then_some(1) }
    };
    let mut ranked: Vec<(u8, &'static str)> =
        candidates.into_iter().filter_map(|candidate| Some((rank(candidate)?, candidate))).collect();
    ranked.sort_unstable();
    ranked.dedup();
    Completions { start, words: ranked.into_iter().map(|(_, candidate)| candidate).collect() }
}

/// After a whole filter: what may follow it, which after a lone name is an operator too.
fn after_a_name(before: &str, word: &str) -> Vec<&'static str> {
    if before.trim().is_empty() {
        return terms();
    }
    let last = before.trim_end();
    let name = last.bytes().rposition(|byte| !in_word(byte)).map_or(last, |at| &last[at + 1..]);
    // `a == b`: b may have a field's name, but an operator stands before it.
    let alone = !last[..last.len() - name.len()].trim_end().ends_with(['=', '<', '>', '~', '&', '.', ',', '{']);
    if alone && word.is_empty() && !forms_of(name).is_empty() {
        return vec!["==", "!=", "<", ">=", "in", "~", "and", "or"];
    }
    if alone && !forms_of(name).is_empty() { vec!["and", "in", "or"] } else { vec!["and", "or"] }
}

fn terms() -> Vec<&'static str> {
    let mut terms = names();
    terms.extend(Kind::ALL.iter().map(|kind| kind.name()));
    terms.push("not");
    terms
}

/// The names of all fields.
pub(crate) fn names() -> Vec<&'static str> {
    let own = Kind::ALL.iter().flat_map(|kind| kind.fields()).map(|field| field.name);
    let names: BTreeSet<_> = own.chain(STAMP).chain(["event"]).collect();
    names.into_iter().collect()
}

/// The names that a field's values can have.
pub(crate) fn values(name: &str) -> Vec<&'static str> {
    let mut values: BTreeSet<_> = forms_of(name).into_iter().flat_map(names_of).collect();
    if name == "kind" {
        values.extend(Kind::ALL.iter().map(|kind| kind.name()));
    }
    if name.ends_with("level") {
        values.extend(["L1", "L2", "L3"]);
    }
    values.into_iter().collect()
}
