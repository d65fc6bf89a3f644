//! Charts as SVG. Colours come from the page's style, so that light and dark need one drawing.

use super::document::Curves;
use crate::number::grouped;
use std::fmt::Write as _;

/// Text for markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 680.0;

/// A round number not below `value`, for the end of an axis.
fn ceiling(value: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for factor in [1, 2, 5] {
            let end = step.saturating_mul(factor);
            if end >= value || end == u64::MAX {
                return end;
            }
        }
        step = step.saturating_mul(10);
    }
}

/// Lines over a common axis, with a legend.
pub(super) fn curves(of: &Curves) -> String {
    const LEFT: f64 = 64.0;
    const TOP: f64 = 12.0;
    const HEIGHT: f64 = 220.0;
    let points = || of.series.iter().flat_map(|(_, points)| points);
    let (first, last) =
        (points().map(|point| point.0).min().unwrap_or(0), points().map(|point| point.0).max().unwrap_or(1));
    let most = ceiling(points().map(|point| point.1).max().unwrap_or(1).max(1));
    let span = (last - first).max(1) as f64;
    let x = |value: u64| LEFT + (value - first.min(value)) as f64 / span * (WIDTH - LEFT - 16.0);
    let y = |value: u64| TOP + HEIGHT - value as f64 / most as f64 * HEIGHT;
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        escape(&of.title),
        HEIGHT + TOP + 44.0,
        escape(&of.title)
    );
    for quarter in 0..=4 {
        let value = most * quarter / 4;
        if quarter > 0 && value == most * (quarter - 1) / 4 {
            continue;
        }
        let at = y(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{}\" \
             y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 16.0,
            LEFT - 8.0,
            at + 4.0,
            grouped(value),
        );
    }
    let every = (last - first).div_ceil(12).max(1);
    for value in (first..=last).filter(|value| (value - first).is_multiple_of(every)) {
        let at = x(value);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            TOP + HEIGHT + 18.0,
        );
    }
    let _ = write!(
        svg,
        "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - 16.0) / 2.0,
        TOP + HEIGHT + 38.0,
        of.x
    );
    if let Some((place, name)) = &of.mark {
        let at = x(*place);
        let (anchor, shift) = if at > WIDTH * 0.8 { ("end", -6.0) } else { ("start", 6.0) };
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text class=\"label\" x=\"{:.1}\" \
             y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            TOP + HEIGHT,
            at + shift,
            TOP + 12.0,
            escape(name)
        );
    }
    for (number, (name, points)) in of.series.iter().enumerate() {
        let path: Vec<String> = points.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
        let _ = write!(svg, "<polyline class=\"line s{number}\" points=\"{}\"/>", path.join(" "));
        for &(at, value) in points.iter().filter(|_| points.len() <= 64) {
            let _ = write!(
                svg,
                "<circle class=\"dot s{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {} {at}: {} {}</title></circle>",
                x(at),
                y(value),
                escape(name),
                of.x,
                grouped(value),
                of.y
            );
        }
    }
    svg += "</svg><p class=\"legend\">";
    for (number, (name, _)) in of.series.iter().enumerate() {
        let _ = write!(svg, "<span class=\"key s{number}\">{}</span>", escape(name));
    }
    svg += "</p></figure>\n";
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        let check = |value, end| assert_eq!(ceiling(value), end);
        check(1, 1);
        check(3, 5);
        check(51, 100);
        check(u64::MAX, u64::MAX);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
