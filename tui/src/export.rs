//! What is shown, as text: for a file, in pieces, or for the clipboard.

use crate::columns::{Column, shown};
use crate::filter::Plan;
use crate::layout::{Pane, areas};
use crate::model::{Ask, Model, Side};
use crate::prompt;
use crate::scan::{Room, on_all_cores, scan_block};
use crate::theme::Role;
use crate::work::{PIECE, threads};
use hv_defs::event::Event;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use traces::Reader;

/// What is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// The events that a plan holds for, or all, by columns; with commas, or set apart by spaces.
    Events { plan: Option<Arc<Plan>>, columns: Vec<Column>, commas: bool },
    /// A text.
    Text(String),
}

/// Something being written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Export {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    /// A file that is there may be replaced.
    pub(crate) replace: bool,
    pub(crate) what: Arc<What>,
    /// The block to go on with.
    pub(crate) next: usize,
    pub(crate) lines: u64,
}

/// What came of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Written up to this block, in all so many lines.
    On(usize, u64),
    /// All is written.
    Done(u64),
    /// A file of the name is there.
    Exists,
    Failed(String),
}

/// Asks for the name of a file to save what is shown in.
pub(crate) fn ask(model: &mut Model) {
    let name = if model.in_side { model.side.name().to_lowercase() } else { "events".to_owned() };
    let stem = model.about.name.trim_end_matches(".nvmx");
    let ending = if model.in_side { "txt" } else { "csv" };
    prompt::open(model, Ask::Save, &format!("{stem}-{name}.{ending}"));
}

/// Begins to save under a name that was typed; one that ends in `!` may replace a file.
pub(crate) fn begin(model: &mut Model, name: &str) {
    let (name, replace) = match name.strip_suffix('!') {
        Some(name) => (name.trim_end(), true),
        None => (name, false),
    };
    if name.is_empty() {
        return;
    }
    let what = if model.in_side {
        What::Text(pane_text(model))
    } else {
        let width = areas(model).and_then(|areas| areas.of(Pane::List)).map_or(80, |list| list.width);
        let commas = Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        let plan = model.filter.as_ref().map(|filter| filter.plan.clone());
        What::Events { plan, columns: shown(model, width), commas }
    };
    let id = model.fresh_id();
    model.export = Some(Export { id, path: name.into(), replace, what: Arc::new(what), next: 0, lines: 0 });
}

/// Takes in what came of a piece.
pub(crate) fn stepped(model: &mut Model, id: u64, step: Step) {
    let Some(export) = model.export.as_mut().filter(|export| export.id == id) else { return };
    let name = export.path.display().to_string();
    let note = match step {
        Step::On(next, lines) => {
            (export.next, export.lines) = (next, lines);
            return;
        }
        Step::Done(lines) => {
            let lines =
                if lines == 1 { "1 line".into() } else { format!("{} lines", crate::describe::thousands(lines)) };
            (Role::Notice, format!("Saved {name}, {lines}."))
        }
        Step::Exists => {
            model.export = None;
            prompt::open(model, Ask::Save, &name);
            model.note = Some((Role::Bad, format!("{name} is there already: {name}! replaces it.")));
            return;
        }
        Step::Failed(error) => (Role::Bad, format!("Cannot save {name}: {error}")),
    };
    model.export = None;
    model.note = Some(note);
}

/// The pane that has the keys, all of it, as text.
pub(crate) fn pane_text(model: &Model) -> String {
    const ROWS: u16 = 1500;
    let mut tall = model.clone();
    // Of memory there is what was looked at, and no more.
    let whole = tall.in_side && tall.side != Side::Memory;
    tall.zoomed = whole || tall.zoomed;
    if whole {
        // Beside its sides at least: what is drawn is cut where the screen is.
        tall.size = (tall.size.0.max(160), ROWS);
    }
    let lines = crate::view::pane_lines(&tall);
    // What stands at a tall pane's foot is brought up to the rest.
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let ends = line.is_empty() && lines[at + 1..].iter().take(2).all(String::is_empty);
        let goes_on = line.is_empty() && at > 0 && lines[at - 1].is_empty();
        if !ends && !goes_on {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The file that is written until all is there.
pub(crate) fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    name.into()
}

/// Drops what was written of a file that is not to be.
pub(crate) fn cancel(path: &Path) {
    let _ = fs::remove_file(part(path));
}

/// Does a piece.
pub(crate) fn step(reader: &Reader, export: &Export) -> Step {
    if export.next == 0 && !export.replace && export.path.symlink_metadata().is_ok() {
        return Step::Exists;
    }
    let done = write(reader, export);
    done.unwrap_or_else(|error| {
        cancel(&export.path);
        Step::Failed(error)
    })
}

fn write(reader: &Reader, export: &Export) -> Result<Step, String> {
    let part = part(&export.path);
    let mut options = OpenOptions::new();
    let options = if export.next == 0 { options.write(true).create(true).truncate(true) } else { options.append(true) };
    let file = options.open(&part).map_err(|error| plain(&error))?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let (next, lines) = match &*export.what {
        What::Text(text) => {
            out.write_all(text.as_bytes()).map_err(|error| plain(&error))?;
            (None, text.lines().count() as u64)
        }
        What::Events { plan, columns, commas } => {
            let mut table = Table { out: &mut out, columns, commas: *commas, lines: export.lines };
            if export.next == 0 {
                table.head().map_err(|error| plain(&error))?;
            }
            let next = blocks(reader, export.next, plan.as_deref(), &mut table)?;
            (next, table.lines)
        }
    };
    out.flush().map_err(|error| plain(&error))?;
    match next {
        Some(next) => Ok(Step::On(next, lines)),
        None => {
            drop(out);
            if !export.replace && export.path.symlink_metadata().is_ok() {
                cancel(&export.path);
                return Ok(Step::Exists);
            }
            fs::rename(&part, &export.path).map_err(|error| plain(&error))?;
            Ok(Step::Done(lines))
        }
    }
}

/// Writes the events of blocks from one on as far as time allows; the block to go on with, if any.
fn blocks(
    reader: &Reader,
    first: usize,
    plan: Option<&Plan>,
    table: &mut Table<impl Write>,
) -> Result<Option<usize>, String> {
    let began = Instant::now();
    let (mut next, all) = (first, reader.blocks().len());
    while next < all && (next == first || began.elapsed() < PIECE) {
        let some = threads().min(all - next);
        let (columns, commas) = (table.columns, table.commas);
        let done = on_all_cores(some, PIECE, |at, room| {
            let mut out = Vec::new();
            let mut part = Table { out: &mut out, columns, commas, lines: 0 };
            block(reader, next + at, plan, room, &mut part).map(|()| part.lines).map(|lines| (out, lines))
        });
        for done in done {
            let (text, lines) = done.ok_or("internal error: a part of the trace could not be written")??;
            table.out.write_all(&text).map_err(|error| plain(&error))?;
            table.lines += lines;
            next += 1;
        }
    }
    Ok((next < all).then_some(next))
}

/// Writes the events of a block.
fn block(
    reader: &Reader,
    block: usize,
    plan: Option<&Plan>,
    room: &mut Room,
    table: &mut Table<Vec<u8>>,
) -> Result<(), String> {
    let info = reader.blocks()[block];
    let wants_before = table.columns.contains(&Column::Delta);
    let mut before = if wants_before { last_before(reader, block, plan, room) } else { None };
    let hits = plan.map(|plan| scan_block(reader, plan, block, room)).transpose().map_err(|error| error.to_string())?;
    let mut row = |number: u64, event: Result<Event, traces::Error>| match event {
        Ok(event) => {
            table.row(number, &event, before.as_ref()).map_err(|error| plain(&error))?;
            before = Some(event);
            Ok(())
        }
        Err(traces::Error::NewerKind { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    match hits {
        None => {
            let numbers = info.first..info.first + u64::from(info.events);
            numbers.zip(reader.events(info.first)).try_for_each(|(number, event)| row(number, event))
        }
        Some(hits) => {
            let mut place = 0;
            while let Some(at) = hits.at_or_after(place) {
                let number = info.first + at as u64;
                row(number, reader.event(number))?;
                place = at + 1;
            }
            Ok(())
        }
    }
}

/// The last event before a block that the plan holds for.
fn last_before(reader: &Reader, block: usize, plan: Option<&Plan>, room: &mut Room) -> Option<Event> {
    for block in (0..block).rev() {
        let info = reader.blocks()[block];
        let place = match plan {
            Some(plan) => scan_block(reader, plan, block, room).ok()?.at_or_before(info.events as usize),
            None => (info.events as usize).checked_sub(1),
        };
        if let Some(place) = place {
            return reader.event(info.first + place as u64).ok();
        }
    }
    None
}

/// Lines of events by columns.
struct Table<'a, W> {
    out: &'a mut W,
    columns: &'a [Column],
    commas: bool,
    lines: u64,
}

impl<W: Write> Table<'_, W> {
    fn head(&mut self) -> io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|column| column.name().to_owned()).collect();
        self.cells(&names)
    }

    fn row(&mut self, number: u64, event: &Event, before: Option<&Event>) -> io::Result<()> {
        let cells: Vec<String> = self.columns.iter().map(|column| column.plain(number, event, before)).collect();
        self.lines += 1;
        self.cells(&cells)
    }

    fn cells(&mut self, cells: &[String]) -> io::Result<()> {
        for (at, (cell, column)) in cells.iter().zip(self.columns).enumerate() {
            let last = at + 1 == cells.len();
            if self.commas {
                self.out.write_all(quoted(cell).as_bytes())?;
                self.out.write_all(if last { b"\n" } else { b"," })?;
            } else if last {
                writeln!(self.out, "{cell}")?;
            } else {
                // As on the screen; a column that takes the rest there has no width of its own.
                let width = column.text_width();
                if column.right() {
                    write!(self.out, "{cell:>width$} ")?;
                } else {
                    write!(self.out, "{cell:<width$} ")?;
                }
            }
        }
        Ok(())
    }
}

/// A cell of a table with commas: RFC 4180.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// An error of the file system without what programs say of it.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
