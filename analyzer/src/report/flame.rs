//! Flame graphs: what was done for what, as frames within frames, drawn with the whole on top; and the same as folded
//! stacks, a line each, for other tools.

use super::svg::escape;
use crate::findings::{Findings, Node};
use crate::number::{grouped, percent};
use hv_defs::config::Clock;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::Kind;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the width of a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// Modelled cycles.
    Cycles,
    /// Exits.
    Exits,
    /// A foreign trace's clock.
    Clock(Clock),
}

impl Unit {
    /// What the cost of a trace is measured in: in cycles where they are known, else in its clock, else in exits.
    pub(super) fn of(found: &Findings) -> Self {
        let overview = &found.overview;
        match overview.clock() {
            _ if overview.origin.is_none() => Self::Cycles,
            clock @ (Clock::Nanoseconds | Clock::Ticks) if overview.tells_of(Kind::Entry) => Self::Clock(clock),
            _ => Self::Exits,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "modelled cycles",
            Self::Exits => "exits",
            Self::Clock(clock) => clock.name(),
        }
    }
}

/// A stack of frames, the outermost first, and its size without those that go on from it.
pub(super) type Stack = (Vec<String>, u64);

/// What of a node counts in a unit, by the frame that it is in: none for the node's own.
fn parts(node: &Node, root: bool, unit: Unit, ours: bool) -> Vec<(Option<String>, u64)> {
    let ran = |level: u8| match level {
        0 if ours => "idle".to_owned(),
        0 => "host".to_owned(),
        level if ours => format!("L{level} instructions"),
        level => format!("L{level} runs"),
    };
    match unit {
        Unit::Exits if root => Vec::new(),
        Unit::Exits => vec![(None, node.exits)],
        Unit::Clock(_) => node.ran.iter().map(|&(level, time)| (Some(ran(level)), time)).collect(),
        Unit::Cycles => {
            let work = node
                .work
                .each()
                .map(|(work, count)| (Some(format!("L0 {}", work.name())), count * work.cycles(&COSTS)));
            let instructions = node.ran.iter().map(|&(level, count)| (Some(ran(level)), count * COSTS.instruction));
            work.chain(instructions).collect()
        }
    }
}

/// The stacks of a trace, the largest first.
pub(super) fn stacks(of: &Findings, unit: Unit) -> Vec<Stack> {
    let (tree, ours) = (&of.multiplication.tree, of.overview.origin.is_none());
    let mut stacks = Vec::new();
    for (at, node) in tree.nodes.iter().enumerate() {
        let path: Vec<String> = tree.path(at).iter().map(|(level, reason)| format!("L{level} {reason}")).collect();
        for (leaf, size) in parts(node, at == 0, unit, ours).into_iter().filter(|(_, size)| *size > 0) {
            stacks.push((path.iter().cloned().chain(leaf).collect(), size));
        }
    }
    stacks.sort_by(|a: &Stack, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    stacks
}

/// The stacks of several traces below the name of each.
fn all_stacks(of: &[Findings], unit: Unit) -> Vec<Stack> {
    match of {
        [one] => stacks(one, unit),
        several => several
            .iter()
            .flat_map(|one| {
                let below = |(stack, size): Stack| ([one.name.clone()].into_iter().chain(stack).collect(), size);
                stacks(one, unit).into_iter().map(below).collect::<Vec<Stack>>()
            })
            .collect(),
    }
}

/// The unit that all of some traces have.
fn common(of: &[Findings]) -> Unit {
    let mut units = of.iter().map(Unit::of);
    let first = units.next().unwrap_or(Unit::Cycles);
    if units.all(|unit| unit == first) { first } else { Unit::Exits }
}

/// Folded stacks: frames with semicolons between them, a blank, the size.
pub(super) fn folded(of: &[Findings]) -> String {
    let mut text = String::new();
    for (stack, size) in all_stacks(of, common(of)) {
        // Neither a semicolon nor a line's end is in any name of ours, but a file may have any.
        let frames: Vec<String> =
            stack.iter().map(|frame| frame.replace(|c: char| c == ';' || c.is_control(), "_")).collect();
        let _ = writeln!(text, "{} {size}", frames.join(";"));
    }
    text
}

/// A frame, with those in it by name.
#[derive(Debug, Default)]
struct Frame {
    size: u64,
    inner: BTreeMap<String, Frame>,
}

impl Frame {
    fn of(stacks: Vec<Stack>) -> Self {
        let mut whole = Self::default();
        for (stack, size) in stacks {
            whole.size += size;
            let mut at = &mut whole;
            for frame in stack {
                at = at.inner.entry(frame).or_default();
                at.size += size;
            }
        }
        whole
    }
}

/// A frame in its place.
struct Placed<'a> {
    name: &'a str,
    path: String,
    depth: usize,
    start: u64,
    size: u64,
    of: u64,
}

fn place<'a>(frame: &'a Frame, path: &str, depth: usize, start: u64, into: &mut Vec<Placed<'a>>) {
    let mut inner: Vec<(&String, &Frame)> = frame.inner.iter().collect();
    inner.sort_by_key(|(_, inner)| core::cmp::Reverse(inner.size));
    let mut at = start;
    for (name, inner) in inner {
        let path = if path.is_empty() { name.clone() } else { format!("{path} ▸ {name}") };
        place(inner, &path, depth + 1, at, into);
        into.push(Placed { name, path, depth, start: at, size: inner.size, of: frame.size });
        at += inner.size;
    }
}

/// Height of a frame, with the gap below it.
const ROW: usize = 22;
/// Frames that a page draws: smaller ones cannot be seen, and are in the folded stacks.
pub(super) const DRAWN: usize = 1200;

fn class(name: &str) -> &'static str {
    match name.get(..2) {
        _ if name == "host" => "l0",
        _ if name.ends_with(" instructions") || name.ends_with(" runs") => "ran",
        Some("L0") => "l0",
        Some("L1") => "l1",
        Some("L2") => "l2",
        Some("L3") => "l3",
        _ => "all",
    }
}

/// A graph as an SVG element whose frames are as wide as their share, whatever its width; with its height. None of nothing.
pub(super) fn draw(stacks: Vec<Stack>, unit: Unit, most: usize, y: usize) -> Option<(String, usize)> {
    let whole = Frame::of(stacks);
    if whole.size == 0 {
        return None;
    }
    let mut frames = Vec::new();
    place(&whole, "", 1, 0, &mut frames);
    frames.push(Placed { name: "all", path: "all".into(), depth: 0, start: 0, size: whole.size, of: whole.size });
    // What is left out is smaller than all that is drawn, so that no frame lacks the one around it.
    frames.sort_by_key(|frame| (core::cmp::Reverse(frame.size), frame.depth, frame.start));
    let left = frames.len().saturating_sub(most);
    frames.truncate(most);
    frames.sort_by_key(|frame| (frame.depth, frame.start));
    let depth = frames.iter().map(|frame| frame.depth).max().unwrap_or(0) + 1;
    let height = depth * ROW + if left > 0 { ROW } else { 0 };
    let place = if y > 0 { format!(" y=\"{y}\"") } else { String::new() };
    let mut svg = format!(
        "<svg class=\"flame\"{place} width=\"100%\" height=\"{height}\" role=\"img\" aria-label=\"flame graph in {}\">",
        unit.name()
    );
    let share = |part: u64| part as f64 * 100.0 / whole.size as f64;
    for frame in &frames {
        let width = share(frame.size);
        let focus = if width >= 1.0 { " tabindex=\"0\"" } else { "" };
        let within = if frame.of == whole.size {
            String::new()
        } else {
            format!(", {} of what it is in", escape(&percent(frame.size, frame.of)))
        };
        let _ = write!(
            svg,
            "<svg class=\"fr {}\" x=\"{:.4}%\" y=\"{}\" width=\"{width:.4}%\" height=\"{}\"{focus}><title>{}: {} {} ({} of \
             all{within})</title><rect width=\"100%\" height=\"100%\" rx=\"2\"/>",
            class(frame.name),
            share(frame.start),
            frame.depth * ROW,
            ROW - 1,
            escape(&frame.path),
            grouped(frame.size),
            unit.name(),
            escape(&percent(frame.size, whole.size)),
        );
        if width >= 0.4 {
            // Narrow ones have their names once the script has zoomed in to them.
            let narrow = if width < 6.0 { " class=\"narrow\"" } else { "" };
            let _ = write!(svg, "<text x=\"5\" y=\"15\"{narrow}>{}</text>", escape(frame.name));
        }
        svg += "</svg>\n";
    }
    if left > 0 {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"2\" y=\"{}\">{} smaller frames are not drawn.</text>",
            depth * ROW + 15,
            grouped(left as u64)
        );
    }
    svg += "</svg>";
    Some((svg, height))
}

const STYLE: &str = include_str!("flame.css");
const SCRIPT: &str = include_str!("flame.js");

/// What the page that graphs are on has for them.
pub(super) const fn style() -> &'static str {
    STYLE
}

/// What zooms in.
pub(super) const fn script() -> &'static str {
    SCRIPT
}

/// The graphs as a file of their own: by cost and, where that is another thing, by exits.
pub(super) fn file(of: &[Findings]) -> String {
    let unit = common(of);
    let units = if unit == Unit::Exits { vec![unit] } else { vec![unit, Unit::Exits] };
    let name = match of {
        [one] => one.name.clone(),
        several => format!("{} traces", several.len()),
    };
    let (mut body, mut y) = (String::new(), 12);
    for unit in units {
        let _ = write!(
            body,
            "<text class=\"cap\" x=\"12\" y=\"{}\">{}: {}</text>",
            y + 16,
            escape(&name),
            match unit {
                Unit::Exits => "exits, by the exit that caused them".into(),
                unit => format!("{}, by the exit that they were for", unit.name()),
            }
        );
        y += 26;
        match draw(all_stacks(of, unit), unit, 5 * DRAWN, y) {
            Some((svg, height)) => {
                body += &svg;
                y += height + 18;
            }
            None => {
                let _ = write!(body, "<text class=\"tick\" x=\"12\" y=\"{}\">The trace has none.</text>", y + 15);
                y += ROW + 18;
            }
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" id=\"sheet\" width=\"1200\" height=\"{y}\">\n<title>{} · nvmx flame \
         graph</title>\n<style>\n{STYLE}</style>\n<rect class=\"sheet\" width=\"100%\" height=\"100%\"/>\n{body}\n<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>\n",
        escape(&name)
    )
}
