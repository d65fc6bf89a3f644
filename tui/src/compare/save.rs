//! All differences of two traces as text in a file, written in pieces.

use super::Model;
use super::align::{Row, Sort, Strict, piece, rows};
use super::pair::name;
use crate::columns::text;
use crate::describe::{describe, thousands};
use crate::export::{Step, cancel, part, plain};
use crate::theme::Role;
use crate::work::PIECE;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;
use traces::Reader;

/// Differences being written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Save {
    pub(crate) path: PathBuf,
    /// A file that is there may be replaced.
    pub(crate) replace: bool,
    pub(crate) strict: Strict,
    /// The events to go on with; `None` before the first piece.
    pub(crate) from: Option<(u64, u64)>,
    /// The last row that was looked at is part of a difference.
    pub(crate) open: bool,
    /// Lines so far.
    pub(crate) lines: u64,
}

/// Begins to save under a name that was typed; one that ends in `!` may replace a file.
pub(crate) fn begin(model: &mut Model, name: &str) {
    let (name, replace) = match name.strip_suffix('!') {
        Some(name) => (name.trim_end(), true),
        None => (name, false),
    };
    if !name.is_empty() {
        let (path, strict) = (name.into(), model.strict);
        model.save = Some(Save { path, replace, strict, from: None, open: false, lines: 0 });
    }
}

/// Takes in what came of a piece: how far it got, or how it ended.
pub(crate) fn saved(model: &mut Model, next: Result<Save, Step>) {
    let Some(save) = model.save.take() else { return };
    let path = save.path.display();
    match next {
        Ok(next) => model.save = Some(next),
        Err(Step::Exists) => {
            model.note = Some((Role::Bad, format!("{path} is there already: {path}! replaces it.")));
        }
        Err(Step::Failed(error)) => model.note = Some((Role::Bad, format!("Cannot save {path}: {error}"))),
        Err(Step::Done(lines) | Step::On(_, lines)) => {
            model.note = Some((Role::Notice, format!("Saved {path}, {} lines.", thousands(lines))));
        }
    }
}

/// Does a piece.
pub(crate) fn step(readers: [&Reader; 2], save: Save) -> Result<Save, Step> {
    let path = save.path.clone();
    if save.from.is_none() && !save.replace && path.symlink_metadata().is_ok() {
        return Err(Step::Exists);
    }
    let next = write(readers, save).and_then(|(next, whole)| {
        if !whole {
            return Ok(next);
        }
        if !next.replace && path.symlink_metadata().is_ok() {
            return Err(Step::Exists);
        }
        fs::rename(part(&path), &path).map_err(|error| Step::Failed(plain(&error)))?;
        Err(Step::Done(next.lines))
    });
    if matches!(next, Err(Step::Exists | Step::Failed(_))) {
        cancel(&path);
    }
    next
}

/// Writes the differences of some pieces of the alignment; whether they were the last.
fn write(readers: [&Reader; 2], mut save: Save) -> Result<(Save, bool), Step> {
    let failed = |error: io::Error| Step::Failed(plain(&error));
    let unread = |error: traces::Error| Step::Failed(error.to_string());
    let mut options = OpenOptions::new();
    let options = match save.from {
        None => options.write(true).create(true).truncate(true),
        Some(_) => options.append(true),
    };
    let mut out = BufWriter::with_capacity(1 << 16, options.open(part(&save.path)).map_err(failed)?);
    let mut from = save.from.unwrap_or((0, 0));
    let began = Instant::now();
    let mut whole = false;
    while began.elapsed() < PIECE {
        let Some((piece, end)) = piece(readers, from, save.strict).map_err(unread)? else {
            whole = true;
            break;
        };
        if piece.differing == 0 {
            save.open = false;
        } else {
            for row in rows(readers, from, save.strict).map_err(unread)?.0 {
                let differs = row.sort != Sort::Same;
                if differs {
                    if !save.open {
                        writeln!(out, "@@ {} | {} @@", place(&row, 0), place(&row, 1)).map_err(failed)?;
                        save.lines += 1;
                    }
                    save.lines += line(readers, &row, save.strict, &mut out).map_err(failed)?;
                }
                save.open = differs;
            }
        }
        from = end;
    }
    out.flush().map_err(failed)?;
    save.from = Some(from);
    Ok((save, whole))
}

fn place(row: &Row, side: usize) -> String {
    row.events[side].map_or_else(|| "-".to_owned(), |event| event.to_string())
}

/// A row that is not the same: a line for each event that it has. Says how many.
fn line(readers: [&Reader; 2], row: &Row, strict: Strict, out: &mut impl Write) -> io::Result<u64> {
    let read = |side: usize| row.events[side].map(|number| (number, readers[side].event(number)));
    let both = [read(0), read(1)];
    let mark = match row.sort {
        Sort::Same => " ",
        Sort::Differs => "~",
        Sort::Alone if row.events[0].is_some() => "-",
        Sort::Alone => "+",
        Sort::Unlike => "?",
    };
    let fields = match &both {
        [Some((_, Ok(a))), Some((_, Ok(b)))] if row.sort == Sort::Differs => {
            let names: Vec<_> = strict.differences(a, b).iter().map(|diff| diff.field).collect();
            format!("  [{}]", names.join(" "))
        }
        _ => String::new(),
    };
    let mut lines = 0;
    for (side, read) in both.iter().enumerate() {
        let Some((number, event)) = read else { continue };
        let what = match event {
            Ok(event) => text(&describe(event)),
            Err(error) => error.to_string(),
        };
        writeln!(out, "{mark} {} {number} {what}{fields}", name(side))?;
        lines += 1;
    }
    Ok(lines)
}
