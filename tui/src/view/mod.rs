//! The screen, drawn from the model and nothing else.
//!
//! ```text
//!  title     nvmx  boot.nvmx  demo, policy kvm-2020                1,234,567 events
//!  strip     vcpu 0  1112222211110000
//!            exits   ▂▃▅█▂▁
//!            notes     F  P #
//!  list      ── Events ────────
//!  side      ── 1 Event  2 VMCS  3 Cost  4 Findings ──
//!  status    event 12 of 1,234,567  0%  instruction 99,999
//!  hint      ? help  f filter  / search
//! ```

mod compare;
pub(crate) mod help;
mod list;
mod overlay;
mod prompt;
pub(crate) mod replay;
mod side;
mod state;
mod strip;

use crate::describe::{Piece, Pieces, thousands};
use crate::layout::{Pane, SMALLEST, areas};
use crate::model::{Mode, Model, Side};
use crate::theme::{Role, Theme};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

pub(crate) use compare::draw as compare;

/// Lines above the rows of the cost pane.
pub(crate) const ROUND_HEAD: usize = 3;

/// Draws the model.
pub(crate) fn view(model: &Model, frame: &mut Frame) {
    let area = frame.area();
    // What is drawn for another size than the frame has would be out of its bounds.
    if (area.width, area.height) != model.size {
        return;
    }
    let mut pen = Pen { buffer: frame.buffer_mut(), theme: model.theme };
    let Some(areas) = areas(model) else { return too_small(model.size, &mut pen, area) };
    if let Mode::Help(top) = model.mode {
        return help::draw(crate::keys::GROUPS, top, &mut pen, area);
    }
    title(model, &mut pen, areas.title);
    strip::draw(model, &mut pen, areas.strip);
    drawn(model, &mut pen, areas.strip);
    for (pane, area) in &areas.panes {
        draw_pane(model, *pane, &mut pen, *area);
    }
    let under = Rect { y: areas.strip.bottom(), height: areas.status.y - areas.strip.bottom(), ..areas.status };
    match &model.mode {
        Mode::Columns(row) => overlay::columns(model, *row, &mut pen, under),
        Mode::Marks(row) => overlay::marks(model, *row, &mut pen, under),
        _ => {}
    }
    match &model.mode {
        Mode::Prompt(prompt) => {
            let cursor = prompt::draw(prompt, &mut pen, areas.status, areas.hint);
            frame.set_cursor_position(cursor);
        }
        _ => {
            status(model, &mut pen, areas.status);
            hint(model, &mut pen, areas.hint);
        }
    }
}

fn draw_pane(model: &Model, pane: Pane, pen: &mut Pen, area: Rect) {
    match pane {
        Pane::List => list::draw(model, pen, area),
        Pane::Side(Side::State) => state::draw(model, pen, area),
        Pane::Side(Side::Memory) => replay::memory(model, pen, area),
        Pane::Side(side @ (Side::Regs | Side::Tlb | Side::Pool)) => replay::draw(model, side, pen, area),
        Pane::Side(side) => side::draw(model, side, pen, area),
    }
}

/// The lines of the pane that has the keys, as they would be drawn.
pub(crate) fn pane_lines(model: &Model) -> Vec<String> {
    let pane = if model.in_side { Pane::Side(model.side) } else { Pane::List };
    let Some(area) = areas(model).and_then(|areas| areas.of(pane)) else { return Vec::new() };
    let mut buffer = Buffer::empty(Rect::new(0, 0, model.size.0, model.size.1));
    draw_pane(model, pane, &mut Pen { buffer: &mut buffer, theme: model.theme }, area);
    let rows = area.y + 1..area.bottom();
    let text =
        |y| (area.x..area.right()).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect::<String>();
    rows.map(|y| text(y).trim_end().to_owned()).collect()
}

/// The tab that stands at a column of a side pane's title.
pub(crate) fn tab_at(model: &Model, side: Side, area: Rect, column: u16) -> Option<Side> {
    let mut x = area.x + 2;
    for (_, text) in side::tabs(model, side) {
        let width = text.chars().count() as u16;
        if (x..x + width).contains(&column) {
            let text = text.trim();
            return Side::ALL.into_iter().find(|side| text.ends_with(side.name()) || text.ends_with(side.short()));
        }
        x += width;
    }
    None
}

/// The stretch of the timeline that the mouse was drawn over.
fn drawn(model: &Model, pen: &mut Pen, area: Rect) {
    let Some((from, to)) = model.drawn.filter(|(from, to)| from != to) else { return };
    let (first, last) = (from.min(to), from.max(to));
    let stretch = Rect { x: area.x + crate::layout::LABEL + first, width: last - first + 1, ..area };
    pen.buffer.set_style(stretch.intersection(area), Style::new().add_modifier(Modifier::REVERSED));
}

/// Writes into the buffer, never over an edge: what is cut there ends in an ellipsis.
pub(crate) struct Pen<'a> {
    buffer: &'a mut Buffer,
    theme: Theme,
}

impl Pen<'_> {
    /// Writes pieces into an area's first row, and says at which column it stopped.
    fn line(&mut self, area: Rect, pieces: &[Piece]) -> u16 {
        self.styled(area, pieces, Style::new())
    }

    /// As [`Pen::line`], with a style on top of the pieces' own.
    fn styled(&mut self, area: Rect, pieces: &[Piece], over: Style) -> u16 {
        let mut x = area.x;
        for (role, text) in pieces {
            let room = usize::from(area.right().saturating_sub(x));
            if room == 0 {
                break;
            }
            let style = self.theme.style(*role).patch(over);
            // What cannot be shown would move the rest of the line.
            let clean: String = text.chars().map(|c| if c.is_control() { '.' } else { c }).collect();
            let cut = clean.trim_end().chars().count() > room;
            x = self.buffer.set_stringn(x, area.y, clean, room, style).0;
            if cut && let Some(cell) = self.buffer.cell_mut((area.right() - 1, area.y)) {
                cell.set_symbol(self.theme.glyph("…", "~"));
            }
        }
        x
    }

    /// Writes pieces at the right end of an area's first row, if they fit behind column `after`.
    fn right(&mut self, area: Rect, after: u16, pieces: &[Piece]) {
        let width: usize = pieces.iter().map(|(_, text)| text.chars().count()).sum();
        let width = u16::try_from(width).unwrap_or(u16::MAX);
        if width < area.right().saturating_sub(after) {
            self.line(Rect { x: area.right() - width, width, ..area }, pieces);
        }
    }

    /// A row of an area, by its place from the top.
    fn row(area: Rect, row: usize) -> Rect {
        Rect { y: area.y + row as u16, height: 1, ..area }
    }

    /// A pane's title line: a rule with pieces on it, and the rest of the area.
    fn titled(&mut self, area: Rect, left: &[Piece], right: &[Piece]) -> Rect {
        let rule = self.theme.glyph("─", "-").repeat(usize::from(area.width));
        self.line(area, &[(Role::Dim, rule)]);
        let end = self.line(Rect { x: area.x + 2, width: area.width.saturating_sub(2), ..area }, left);
        let inner = Rect { width: area.width.saturating_sub(2), ..area };
        self.right(inner, end + 1, right);
        Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }
    }
}

/// ```text
/// This terminal is 40 by 10.
/// The inspector needs 60 by 16:
/// make it larger, or q quits.
/// ```
fn too_small(size: (u16, u16), pen: &mut Pen, area: Rect) {
    let lines = [
        format!("This terminal is {} by {}.", size.0, size.1),
        format!("The inspector needs {} by {}:", SMALLEST.0, SMALLEST.1),
        "make it larger, or q quits.".to_owned(),
    ];
    for (row, line) in lines.into_iter().enumerate().take(usize::from(area.height)) {
        pen.line(Pen::row(area, row), &[(Role::Strong, line)]);
    }
}

/// ```text
///  nvmx  boot.nvmx  demo, policy kvm-2020                             1,234,567 events
/// ```
fn title(model: &Model, pen: &mut Pen, area: Rect) {
    let about = &model.about;
    let left = [
        (Role::Key, " nvmx ".to_owned()),
        (Role::Strong, format!(" {} ", about.name)),
        (Role::Dim, format!(" {}", about.machine)),
    ];
    let end = pen.line(area, &left);
    let mut right = vec![(Role::Plain, format!("{} events ", thousands(about.len)))];
    if model.live {
        right.insert(0, (Role::Notice, if model.follow { "live, followed  " } else { "live  " }.into()));
    } else if about.truncated {
        right.insert(0, (Role::Notice, "cut short  ".into()));
    }
    pen.right(area, end + 1, &right);
}

/// ```text
///  event 1,234 of 99,999  1%  instruction 123,456            filter: reason == CPUID  12 hits
/// ```
fn status(model: &Model, pen: &mut Pen, area: Rect) {
    let left = match (&model.note, &model.find) {
        (None, None) if model.export.is_some() => {
            let export = model.export.iter().map(|export| {
                let part = export.next * 100 / model.about.firsts.len().max(1);
                let path = export.path.display();
                (Role::Notice, format!(" Saving {path}: {part}%, {} lines; Esc stops", thousands(export.lines)))
            });
            export.collect()
        }
        (Some((role, text)), _) => vec![(*role, format!(" {text}"))],
        (None, Some(find)) => {
            let at = find.from as f64 * 100.0 / model.about.len.max(1) as f64;
            vec![(Role::Notice, format!(" Looking for the next {}: {at:.0}%; Esc stops", find.what))]
        }
        (None, None) => position(model),
    };
    let mut right = Vec::new();
    if let Some(filter) = &model.filter {
        let (done, all) = filter.hits.progress();
        let part = if done < all { format!(", {}% done", done * 100 / all.max(1)) } else { String::new() };
        let count = filter.hits.count();
        let at = if filter.hits.has(model.cursor) {
            format!("hit {} of {}", thousands(filter.hits.before(model.cursor) + 1), thousands(count))
        } else {
            format!("{} hits", thousands(count))
        };
        right.push((Role::Notice, format!("{at}{part} ")));
    } else if let Some((text, _)) = &model.search {
        right.push((Role::Dim, format!("search: {text}  n next  N previous ")));
    }
    // What a filter lets through is told whatever its event's numbers: those go first, from the last on.
    let width = |pieces: &[Piece]| pieces.iter().map(|(_, text)| text.chars().count()).sum::<usize>();
    let mut left = left;
    while model.note.is_none() && left.len() > 4 && width(&left) + 2 + width(&right) > usize::from(area.width) {
        left.truncate(left.len() - 2);
    }
    let end = pen.line(area, &left);
    pen.right(area, end + 1, &right);
}

fn position(model: &Model) -> Vec<Piece> {
    if model.about.len == 0 {
        return vec![(Role::Notice, " The trace has no events.".into())];
    }
    let percent = (model.cursor + 1) as f64 * 100.0 / model.about.len as f64;
    let mut line = Pieces::default()
        .add(Role::Dim, " event ")
        .add(Role::Strong, thousands(model.cursor))
        .add(Role::Dim, format!(" of {}, {percent:.0}%", thousands(model.about.len)));
    if let Some(event) = model.selected() {
        line = line.field(model.about.time, thousands(event.at.instruction)).field("vcpu", event.at.vcpu.to_string());
    }
    line.0
}

/// ```text
///  ? help  f filter  / search  : go to  1-8 panes  Enter read  +- timeline  q quit
/// ```
fn hint(model: &Model, pen: &mut Pen, area: Rect) {
    let keys: &[(&str, &str)] = match (&model.mode, model.in_side.then_some(model.side)) {
        (Mode::SetMark, _) => &[("a-z", "set this bookmark"), ("Esc", "none")],
        (Mode::GoMark, _) => &[("a-z", "go to this bookmark"), ("Esc", "stay")],
        (Mode::Columns(_), _) => {
            &[("Space", "show or hide"), ("J K", "move down, up"), ("0", "as the width allows"), ("Esc", "done")]
        }
        (Mode::Marks(_), _) => {
            &[("Enter", "go to it"), ("r", "say something of it"), ("x", "drop it"), ("Esc", "back")]
        }
        (_, None) => &[
            ("?", "help"),
            ("f", "filter"),
            ("/", "search"),
            (":", "go to"),
            ("r", "alike"),
            ("1-8", "panes"),
            ("+-", "timeline"),
            ("q", "quit"),
        ],
        (_, Some(Side::State)) => &[
            ("?", "help"),
            ("/", "field"),
            ("w W", "next, previous access"),
            ("Enter", "to the change"),
            ("a", "all"),
            ("z", "larger"),
            ("Esc", "back"),
        ],
        (_, Some(Side::Detail)) => &[("?", "help"), ("j k", "scroll"), ("z", "larger"), ("Esc", "back to the events")],
        (_, Some(Side::Memory)) => {
            &[("?", "help"), ("/", "address"), ("x", "view"), ("j k", "scroll"), ("z", "larger"), ("Esc", "back")]
        }
        (_, Some(Side::Regs)) => {
            &[("?", "help"), ("/", "find"), ("x", "other guest"), ("j k", "move"), ("z", "larger"), ("Esc", "back")]
        }
        (_, Some(Side::Tlb)) => {
            &[("?", "help"), ("/", "find"), ("x", "other CPU"), ("j k", "move"), ("z", "larger"), ("Esc", "back")]
        }
        (_, Some(Side::Pool)) => {
            &[("?", "help"), ("/", "find"), ("x", "other vCPU"), ("j k", "move"), ("z", "larger"), ("Esc", "back")]
        }
        (_, Some(Side::Round | Side::Findings)) => {
            &[("?", "help"), ("j k", "move"), ("Enter", "to the event"), ("z", "larger"), ("Esc", "back to the events")]
        }
    };
    keys_line(pen, area, keys);
}

/// Keys and what they do, in a line.
fn keys_line(pen: &mut Pen, area: Rect, keys: &[(&str, &str)]) {
    let mut pieces = vec![(Role::Plain, " ".to_owned())];
    let mut room = usize::from(area.width).saturating_sub(1);
    for (key, what) in keys {
        // Half a hint is none.
        let Some(left) = room.checked_sub(key.chars().count() + what.chars().count() + 1) else { break };
        room = left.saturating_sub(2);
        pieces.push((Role::Key, (*key).to_owned()));
        pieces.push((Role::Dim, format!(" {what}  ")));
    }
    pen.line(area, &pieces);
}
