//! What is kept of a trace's inspection from one time to the next: bookmarks, the place, the filter, what was typed, the
//! columns. A small file of JSON beside the trace, FILE.view; where the folder cannot be written, one in
//! `$XDG_STATE_HOME/nvmx`.
//!
//! The file is a convenience and may be removed at any time. One that is damaged, newer, or of another trace is not used,
//! and set aside as FILE.view.old before it is written over.

use crate::columns::Column;
use crate::filter::Plan;
use crate::model::{Ask, Model, Side};
use crate::update::set_filter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use traces::Reader;

/// The version of the file's form.
const VERSION: u32 = 1;

/// A file longer than this is none of ours.
const LONGEST: u64 = 1 << 20;

/// Lines of each prompt that are kept.
const LINES: usize = 50;

/// Where it is kept, and of which trace it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Beside the trace.
    beside: PathBuf,
    /// In the user's folder of states.
    away: Option<PathBuf>,
    /// What tells the trace from others.
    identity: String,
}

impl Place {
    /// The place of a trace. `get` reads a variable of the environment.
    pub(crate) fn of(path: &Path, reader: &Reader, get: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let beginning = reader.beginning().ok()?;
        let hash: String = beginning.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        // Recordings of one configuration begin alike; their first blocks do not.
        let identity = match reader.blocks().first() {
            Some(block) => format!("{hash}-{}-{}", block.bytes, block.events),
            None => hash.clone(),
        };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".view");
        let full = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let states = full("XDG_STATE_HOME").or_else(|| Some(full("HOME")?.join(".local/state")));
        let away = states.map(|states| states.join("nvmx").join(format!("{identity}.view")));
        Some(Self { beside: beside.into(), away, identity })
    }
}

/// A bookmark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Bookmark {
    letter: char,
    event: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
}

/// What is kept, as it is written.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    version: u32,
    trace: String,
    event: u64,
    bookmarks: Vec<Bookmark>,
    filter: Option<String>,
    search: Option<String>,
    typed: BTreeMap<String, Vec<String>>,
    columns: Option<Vec<(String, bool)>>,
    pane: String,
    timeline: Option<(u64, u64)>,
}

const PROMPTS: [(Ask, &str); 4] =
    [(Ask::Filter, "filter"), (Ask::Search, "search"), (Ask::GoTo, "place"), (Ask::Field, "field")];

impl Kept {
    /// What there is to keep.
    pub(crate) fn of(model: &Model) -> Self {
        let typed = PROMPTS.iter().filter_map(|(ask, name)| {
            let lines = model.past.get(ask).filter(|lines| !lines.is_empty())?;
            Some(((*name).to_owned(), lines[lines.len().saturating_sub(LINES)..].to_vec()))
        });
        let bookmark = |(&letter, &event): (&char, &u64)| Bookmark {
            letter,
            event,
            text: model.mark_notes.get(&letter).cloned().unwrap_or_default(),
        };
        let columns = model.columns.as_ref();
        Self {
            version: VERSION,
            trace: model.place.as_ref().map_or_else(String::new, |place| place.identity.clone()),
            event: model.cursor,
            bookmarks: model.marks.iter().map(bookmark).collect(),
            filter: model.filter.as_ref().map(|filter| filter.text.clone()),
            search: model.search.as_ref().map(|(text, _)| text.clone()),
            typed: typed.collect(),
            columns: columns.map(|all| all.iter().map(|(column, on)| (column.name().to_owned(), *on)).collect()),
            pane: model.side.name().to_owned(),
            timeline: Some(model.strip.window).filter(|window| *window != (0, model.about.len)),
        }
    }

    /// Whether another holds the same, of whatever trace.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        Self { trace: String::new(), ..self.clone() } == Self { trace: String::new(), ..other.clone() }
    }

    /// Has the model be as it was. What does not fit the trace is passed over.
    pub(crate) fn put(self, model: &mut Model) {
        let len = model.about.len;
        model.cursor = self.event.min(len.saturating_sub(1));
        for bookmark in self.bookmarks.into_iter().filter(|mark| mark.event < len && mark.letter.is_alphanumeric()) {
            if !bookmark.text.is_empty() {
                model.mark_notes.insert(bookmark.letter, bookmark.text);
            }
            model.marks.insert(bookmark.letter, bookmark.event);
        }
        if let Some((text, Ok(plan))) = self.filter.map(|text| (text.clone(), Plan::of(&text))) {
            set_filter(model, &text, plan);
        }
        model.search = self.search.map(|text| (text.clone(), Arc::new(Plan::of_search(&text))));
        for (ask, name) in PROMPTS {
            if let Some(lines) = self.typed.get(name) {
                model.past.insert(ask, lines.iter().take(LINES).cloned().collect());
            }
        }
        model.columns = self.columns.and_then(|columns| columns_of(&columns));
        if let Some(side) = Side::ALL.into_iter().find(|side| side.name() == self.pane) {
            model.side = side;
        }
        if let Some(window) = self.timeline.filter(|(from, to)| from < to && *to <= len) {
            model.strip.window = window;
        }
    }
}

/// The columns of these names, and those that are not named behind them; `None` where nothing would be shown.
fn columns_of(named: &[(String, bool)]) -> Option<Vec<(Column, bool)>> {
    let of = |name: &str| Column::ALL.into_iter().find(|column| column.name() == name);
    let mut all: Vec<(Column, bool)> = Vec::new();
    for (column, on) in named.iter().filter_map(|(name, on)| Some((of(name)?, *on))) {
        if !all.iter().any(|(known, _)| *known == column) {
            all.push((column, on));
        }
    }
    let missing = Column::ALL.into_iter().filter(|column| !all.iter().any(|(known, _)| known == column));
    let missing: Vec<_> = missing.map(|column| (column, false)).collect();
    all.extend(missing);
    all.iter().any(|(_, on)| *on).then_some(all)
}

/// What a file holds.
enum Held {
    Nothing,
    Ours(Kept),
    /// Why it is not used.
    Other(String),
}

/// Whether two identities are of one trace: that of a recording which had no block yet is the beginning of what it is now.
fn is_same(one: &str, other: &str) -> bool {
    let parts = |identity: &str| identity.split_once('-').map(|(hash, block)| (hash.to_owned(), block.to_owned()));
    match (parts(one), parts(other)) {
        (Some(one), Some(other)) => one == other,
        (Some((hash, _)), None) => hash == other,
        (None, Some((hash, _))) => hash == one,
        (None, None) => one == other,
    }
}

fn held(path: &Path, identity: &str) -> Held {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Held::Nothing,
        Err(error) => return Held::Other(format!("cannot be read: {error}")),
    }
    let kept: Kept = match serde_json::from_slice(&bytes) {
        Ok(kept) if bytes.len() as u64 <= LONGEST => kept,
        _ => return Held::Other("is damaged".into()),
    };
    if kept.version != VERSION {
        return Held::Other(format!("is of version {}, and this program reads {VERSION}", kept.version));
    }
    if !is_same(&kept.trace, identity) {
        return Held::Other("is of another trace".into());
    }
    Held::Ours(kept)
}

/// What was kept of a trace.
///
/// # Errors
/// There is a file that is not used; the text says which and why.
pub(crate) fn load(place: &Place) -> Result<Option<Kept>, String> {
    for path in std::iter::once(&place.beside).chain(&place.away) {
        match held(path, &place.identity) {
            Held::Nothing => {}
            Held::Ours(kept) => return Ok(Some(kept)),
            Held::Other(why) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(format!("{name} {why}: it is left aside."));
            }
        }
    }
    Ok(None)
}

/// Keeps it, beside the trace if that can be.
///
/// # Errors
/// Neither place can be written; the text says why.
pub(crate) fn save(place: &Place, kept: &Kept) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(kept).map_err(|error| error.to_string())?;
    text.push('\n');
    let beside = match write(&place.beside, &place.identity, &text) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let away = place.away.as_ref().map(|away| {
        away.parent().map_or(Ok(()), fs::create_dir_all)?;
        write(away, &place.identity, &text)
    });
    match away {
        Some(Ok(())) => Ok(()),
        _ => Err(format!("cannot keep bookmarks and the place in {}: {beside}", place.beside.display())),
    }
}

/// Writes a file whole or not at all. What is there and of another trace is set aside.
fn write(path: &Path, identity: &str, text: &str) -> io::Result<()> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let new = with(&format!(".{}", std::process::id()));
    let written = fs::write(&new, text).and_then(|()| {
        if matches!(held(path, identity), Held::Other(_)) {
            fs::rename(path, with(".old"))?;
        }
        fs::rename(&new, path)
    });
    if written.is_err() {
        // Nothing more can be done about it.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Session, sample};

    /// A folder of a test's own, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nvmx-tui-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a folder for tests");
            Self(path)
        }

        fn place(&self, bytes: &[u8]) -> Place {
            let trace = self.0.join("a.nvmx");
            fs::write(&trace, bytes).expect("it fits");
            let reader = Reader::open(&trace).expect("a trace");
            let state = self.0.join("state");
            Place::of(&trace, &reader, |name| (name == "XDG_STATE_HOME").then(|| state.clone().into())).expect("whole")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn session() -> Session {
        Session::of_sample((80, 24))
    }

    #[test]
    fn all_comes_back() {
        let folder = Folder::new("round");
        let place = Arc::new(folder.place(&sample::trace()));
        let mut session = session();
        session.model.place = Some(place.clone());
        session.keys(":57\nma'a:120\nmb/cpuid\nfexit and level == 2\nc \u{1b}2\u{1b}+");
        session.model.mark_notes.insert('b', "the slow one".into());
        let kept = Kept::of(&session.model);
        save(&place, &kept).expect("the folder can be written");
        let again = load(&place).expect("it is sound").expect("it is there");
        assert_eq!(again, kept);
        let mut fresh = self::session();
        fresh.model.place = Some(place);
        again.put(&mut fresh.model);
        assert_eq!(Kept::of(&fresh.model), kept);
        assert_eq!(fresh.model.marks, session.model.marks);
        assert!(fresh.model.filter.is_some() && fresh.model.columns.is_some() && kept.timeline.is_some());
    }

    #[test]
    fn what_is_not_ours_is_left_aside() {
        let folder = Folder::new("aside");
        let place = folder.place(&sample::trace());
        assert!(load(&place).expect("nothing is wrong").is_none());
        let check = |text: &str, why: &str| {
            fs::write(&place.beside, text).expect("it fits");
            let told = load(&place).expect_err("not ours");
            assert!(told.contains(why) && told.starts_with("a.nvmx.view "), "{told}");
        };
        check("{\"version\": 1, \"trace\": ", "is damaged");
        check("7", "is damaged");
        check("{\"version\": 1, \"trace\": 7}", "is damaged");
        check("{\"version\": 9}", "version 9");
        check("{\"version\": 1, \"trace\": \"00\"}", "of another trace");
        save(&place, &Kept::of(&session().model)).expect("the folder can be written");
        let old = fs::read_to_string(folder.0.join("a.nvmx.view.old")).expect("it was set aside");
        assert_eq!(old, "{\"version\": 1, \"trace\": \"00\"}");
    }

    #[test]
    fn a_recording_stays_itself() {
        let check = |one: &str, other: &str, same: bool| assert_eq!(is_same(one, other), same, "{one} {other}");
        check("ab", "ab", true);
        check("ab", "ab-7-9", true);
        check("ab-7-9", "ab", true);
        check("ab-7-9", "ab-7-9", true);
        check("ab-7-9", "ab-7-8", false);
        check("ac", "ab-7-9", false);
        check("", "ab", false);
    }

    #[test]
    fn another_trace_is_another() {
        let folder = Folder::new("other");
        let place = folder.place(&sample::trace());
        let other = folder.place(&sample::of(&sample::events()[..50]));
        assert_ne!(place.identity, other.identity);
        assert_eq!(place, folder.place(&sample::trace()));
    }

    #[test]
    fn what_makes_no_sense_does_no_harm() {
        let mut session = session();
        let kept = Kept {
            event: u64::MAX,
            bookmarks: vec![Bookmark { letter: 'z', event: u64::MAX, text: "far".into() }],
            filter: Some("reason ==".into()),
            columns: Some(vec![("nothing".into(), true), ("rip".into(), false)]),
            pane: "none".into(),
            timeline: Some((9, 3)),
            ..Kept::default()
        };
        kept.put(&mut session.model);
        let model = &session.model;
        assert_eq!(model.cursor, model.about.len - 1);
        assert!(model.marks.is_empty() && model.filter.is_none() && model.columns.is_none());
        assert_eq!(model.strip.window, (0, model.about.len));
    }

    #[test]
    fn where_the_folder_cannot_be_written_it_is_kept_elsewhere() {
        let folder = Folder::new("away");
        let mut place = folder.place(&sample::trace());
        place.beside = folder.0.join("missing/a.nvmx.view");
        let mut kept = Kept::of(&session().model);
        kept.trace = place.identity.clone();
        save(&place, &kept).expect("the other folder can be written");
        assert_eq!(load(&place).expect("it is sound"), Some(kept.clone()));
        place.away = None;
        assert!(save(&place, &kept).expect_err("nowhere").starts_with("cannot keep bookmarks"));
    }
}
