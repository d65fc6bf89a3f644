//! The language in which events are picked: `kind == exit and level == 2 and rip in 0x1000..0x2000`.
//!
//! Names are those of the trace's tables and words are those that the screen shows, so that what is seen can be typed.

pub(crate) mod complete;
mod held;
mod parse;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use parse::{Error, number};
pub(crate) use plan::Plan;

/// Which of some words a mistyped one was meant to be: the one that takes the fewest edits, if few.
fn nearest(word: &str, known: Vec<&'static str>) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let best = known.into_iter().map(|name| (edits(&lower, &name.to_ascii_lowercase()), name)).min()?;
    (best.0 <= 1 + word.len() / 3).then_some(best.1)
}

/// How many insertions, removals and replacements of a byte turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    // Only short words are compared; a long one is nobody's neighbour.
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
