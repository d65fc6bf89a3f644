//! Small charts of bars: a row of them in a page, a line of blocks on a terminal.

use super::document::{Spark, Sparks};
use super::svg::escape;
use crate::number::grouped;
use std::fmt::Write as _;

/// A line of blocks as high as the values, the highest of them full; what is not 0 can be seen.
pub(super) fn line(values: impl Iterator<Item = u64> + Clone) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().max().unwrap_or(0);
    let block = |value: u64| match value {
        0 => ' ',
        value => BLOCKS[(u128::from(value) * 8).div_ceil(u128::from(most)) as usize - 1],
    };
    values.map(block).collect()
}

/// The rows of a chart as lines of text: name, from where, blocks, to where, the most.
pub(super) fn lines(of: &Sparks) -> Vec<String> {
    let wide = |pick: fn(&Spark) -> &str| of.rows.iter().map(|row| pick(row).chars().count()).max().unwrap_or(0);
    let (names, froms) = (wide(|row| &row.name), wide(|row| &row.from));
    let bars = of.rows.iter().map(|row| row.bars.len()).max().unwrap_or(0);
    let row = |row: &Spark| {
        let blocks = line(row.bars.iter().map(|bar| bar.0));
        format!("{:<names$}  {:>froms$} ▕{blocks:<bars$}▏ {}  {}", row.name, row.from, row.to, row.about)
    };
    of.rows.iter().map(row).collect()
}

/// The chart for a page: each row an SVG that is as wide as there is room.
pub(super) fn draw(of: &Sparks) -> String {
    let mut html = format!(
        "<figure class=\"sparks{}\"><figcaption>{}</figcaption><div>\n",
        if of.side_by_side { " beside" } else { "" },
        escape(&of.title)
    );
    for row in &of.rows {
        let count = row.bars.len().max(1);
        let most = row.bars.iter().map(|bar| bar.0).max().unwrap_or(0).max(1);
        let _ = write!(
            html,
            "<div class=\"spark\"><p><b>{}</b> {}</p><svg viewBox=\"0 0 {count} 40\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{}\">",
            escape(&row.name),
            escape(&row.about),
            escape(&row.name),
        );
        for (at, (value, title)) in row.bars.iter().enumerate().filter(|(_, bar)| bar.0 > 0) {
            let high = (*value as f64 / most as f64 * 38.0).max(0.8);
            let _ = write!(
                html,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\".84\" height=\"{high:.2}\"><title>{}: {}</title></rect>",
                at as f64 + 0.08,
                40.0 - high,
                escape(title),
                grouped(*value),
            );
        }
        for (place, name) in &of.marks {
            let x = place * count as f64;
            let _ = write!(
                html,
                "<line class=\"mark\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"0\" y2=\"40\"><title>{}</title></line>",
                escape(name)
            );
        }
        let _ = writeln!(
            html,
            "</svg><p class=\"ends\"><span>{}</span><span>{}</span></p></div>",
            escape(&row.from),
            escape(&row.to)
        );
    }
    html += "</div></figure>\n";
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_high_as_their_values() {
        let check = |values: &[u64], expected: &str| assert_eq!(line(values.iter().copied()), expected);
        check(&[], "");
        check(&[0, 0], "  ");
        check(&[0, 1, 4, 8, 1000], " ▁▁▁█");
        check(&[1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█");
        check(&[u64::MAX, 1], "█▁");
    }
}
