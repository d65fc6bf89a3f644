//! The folder that a dataset is: what lies where, and that nothing lies there half-written.

use super::fill::fill;
use super::flushes::flushes;
use super::{GROUP, empty, facts, is_judged};
use crate::Error;
use crate::schema::{TABLES, Table};
use columns::{Format, Rows, Sink, Type};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use traces::Reader;

/// Says of a folder that it is ours, and of what kind. Readers of datasets pass over names that begin with a line.
const MANIFEST: &str = "_nvmx.json";
/// The version of the layout.
const LAYOUT: u64 = 1;
/// Bytes of a trace's name that are kept.
const NAME: usize = 120;

/// A dataset that traces are added to.
#[derive(Debug)]
pub struct Dataset {
    root: PathBuf,
    format: Format,
    names: BTreeSet<String>,
}

/// What was added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// The trace's name in the dataset.
    pub name: String,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Whether a trace of that name was there, which is gone.
    pub replaced: bool,
}

impl Dataset {
    /// Opens the dataset in a folder, or makes it.
    ///
    /// # Errors
    /// There is something else in the folder's place or in the folder, or it cannot be written to.
    pub fn open(root: &Path, format: Format) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: root.to_owned(), source };
        let foreign = |why: String| Error::NotOurs { path: root.to_owned(), why };
        let manifest = root.join(MANIFEST);
        match fs::read(&manifest) {
            Ok(text) => check_manifest(&text, format).map_err(foreign)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(root).map_err(failed)?;
                if fs::read_dir(root).map_err(failed)?.next().is_some() {
                    return Err(foreign("it is not empty, and no export".into()));
                }
                let text = format!("{:#}\n", manifest_of(format));
                traces::write_whole(&manifest, text.as_bytes()).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(foreign("it is a file".into())),
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { root: root.to_owned(), format, names: BTreeSet::new() })
    }

    /// Adds a trace. Its name is that of its file without the ending, with what may not stand in a path left out; a second
    /// trace of one name gets a number, and one that was there before this dataset was opened is replaced. `seen` is told
    /// from time to time how many events were read.
    ///
    /// # Errors
    /// The trace is damaged, or a file cannot be written. The dataset is then as it was, as far as this trace goes.
    pub fn add(&mut self, file: &Path, reader: &Reader, seen: impl FnMut(u64)) -> Result<Added, Error> {
        let name = self.name(file);
        let staging = Staging::new(self.root.join(format!("_unfinished-{name}")))?;
        let mut parts = Vec::new();
        for table in TABLES {
            parts.push(Part::create(&staging, self.format, table.name, empty(table))?);
        }
        read_tables(reader, &mut parts, seen)?;
        let base = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        // It comes last, so that a trace that it names is all there.
        parts.push(Part::create(&staging, self.format, facts::TABLE, facts::row(&base, reader)?)?);
        let mut added = Added { name: name.clone(), rows: 0, bytes: 0, replaced: false };
        let tables = TABLES.iter().map(|table| table.name).chain([facts::TABLE]);
        let mut places = Vec::new();
        for (table, part) in tables.zip(parts) {
            let (rows, bytes) = part.close()?;
            (added.rows, added.bytes) = (added.rows + rows, added.bytes + bytes);
            let folder = self.root.join(table).join(format!("trace={name}"));
            places.push((staging.0.join(table), folder));
        }
        for (made, folder) in places {
            let place = folder.join(format!("part-0.{}", self.format.name()));
            let failed = |source| Error::Write { path: place.clone(), source };
            fs::create_dir_all(&folder).map_err(failed)?;
            added.replaced |= place.exists();
            fs::rename(made, &place).map_err(failed)?;
        }
        self.names.insert(name.to_lowercase());
        Ok(added)
    }

    /// A name that no other trace of this run has, also where case makes no difference.
    fn name(&self, file: &Path) -> String {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
        let mut name: String = stem.chars().map(plain).take(NAME).collect();
        if name.is_empty() {
            name.push_str("trace");
        }
        let others = (2..).map(|number| format!("{name}-{number}"));
        let free = |name: &String| !self.names.contains(&name.to_lowercase());
        std::iter::once(name.clone()).chain(others).find(free).unwrap_or_default()
    }
}

/// A folder for files that are not whole yet. It goes when what it was for has ended, well or not.
struct Staging(PathBuf);

impl Staging {
    fn new(path: PathBuf) -> Result<Self, Error> {
        // Left by a run that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A table's file, and the rows that it does not have yet.
pub(super) struct Part {
    path: PathBuf,
    pub(super) rows: Rows,
    sink: Sink<BufWriter<File>>,
    written: u64,
}

impl Part {
    fn create(staging: &Staging, format: Format, name: &str, rows: Rows) -> Result<Self, Error> {
        let path = staging.0.join(name);
        let sink = File::create(&path).and_then(|file| Sink::new(BufWriter::new(file), format, &rows));
        match sink {
            Ok(sink) => Ok(Self { path, rows, sink, written: 0 }),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// Writes the rows if they are enough for a group.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.rows.len() >= GROUP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.rows.is_empty() {
            self.written += self.rows.len() as u64;
            self.sink.write(&self.rows).map_err(|source| Error::Write { path: self.path.clone(), source })?;
            self.rows.clear();
        }
        Ok(())
    }

    /// Ends the file. Returns its rows and its bytes.
    fn close(mut self) -> Result<(u64, u64), Error> {
        self.flush()?;
        let ended = self.sink.finish(&self.rows).and_then(|file| Ok(file.get_ref().metadata()?.len()));
        let bytes = ended.map_err(|source| Error::Write { path: self.path, source })?;
        Ok((self.written, bytes))
    }
}

/// Reads the trace into its tables: the judge's on one thread, all others on another.
fn read_tables(reader: &Reader, parts: &mut [Part], mut seen: impl FnMut(u64)) -> Result<(), Error> {
    let (mut judged, mut plain): (Vec<_>, Vec<(&Table, &mut Part)>) =
        TABLES.iter().zip(parts).partition(|(table, _)| is_judged(table));
    std::thread::scope(|scope| {
        let judge = move || judged.iter_mut().try_for_each(|(_, part)| flushes(reader.into(), part));
        let judge = std::thread::Builder::new().name("judge".into()).spawn_scoped(scope, judge);
        let judge = judge.map_err(traces::Error::Thread)?;
        let mut rows = traces::Rows::default();
        let read = (0..reader.blocks().len()).try_for_each(|block| {
            for (table, part) in &mut plain {
                reader.block_columns_into(block, table.kind, None, &mut rows)?;
                fill(&mut part.rows, table, &rows);
                part.settle()?;
            }
            let info = &reader.blocks()[block];
            seen(info.first + u64::from(info.events));
            Ok(())
        });
        let judge = judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.and(judge)
    })
}

fn manifest_of(format: Format) -> Value {
    let columns = |rows: Rows| -> Value {
        let of = |kind| match kind {
            Type::Signed => "int64",
            Type::Bits => "uint64",
            Type::Flag => "boolean",
            Type::Float => "float64",
            Type::Word | Type::Text => "string",
        };
        let pairs = rows.fields().iter().map(|field| (field.name.clone(), of(field.kind).into()));
        pairs.collect::<Map<_, _>>().into()
    };
    let mut tables: Map<_, _> = TABLES.iter().map(|table| (table.name.to_owned(), columns(empty(table)))).collect();
    tables.insert(facts::TABLE.into(), columns(facts::empty()));
    json!({ "export": "nvmx", "layout": LAYOUT, "format": format.name(), "tables": tables })
}

fn check_manifest(text: &[u8], format: Format) -> Result<(), String> {
    let manifest: Value = serde_json::from_slice(text).map_err(|_| format!("its {MANIFEST} is not ours"))?;
    if manifest["export"] != "nvmx" || manifest["layout"] != LAYOUT {
        return Err("it is an export of another version".into());
    }
    match manifest["format"].as_str() {
        Some(other) if other != format.name() => Err(format!("it is an export to {other}")),
        _ => Ok(()),
    }
}
