//! Stores of images: which one is meant, what is put there and found there, and `nvmx store`.

use super::fail::{Failure, Result, Status};
use super::print::{Print, bytes, count, of};
use super::trace::unreadable;
use super::words::{StoreArgs, StoreGcArgs, StoreListArgs, StoreToolArgs, StoreWord};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;
use traces::{Hash, Image, Object, Reader, Store, StoreError};

/// The folder of the store that is meant: the one asked for, or the one that `NVMX_STORE` names.
pub fn folder(asked: &StoreArgs) -> Option<PathBuf> {
    let named = || std::env::var_os("NVMX_STORE").filter(|name| !name.is_empty()).map(PathBuf::from);
    asked.store.clone().or_else(named)
}

/// Puts images into the store that is meant, if one is.
pub fn keep(images: &mut [Image], asked: &StoreArgs) -> Result<()> {
    let Some(folder) = folder(asked).filter(|_| !images.is_empty()) else { return Ok(()) };
    let kept = Store::create(&folder).and_then(|store| images.iter_mut().try_for_each(|image| store.put_image(image)));
    kept.map_err(|error| failure(format!("cannot keep the images in the store {}", folder.display()), error))
}

/// The store that is meant, if one is and an image of the trace is not in it.
fn needed(reader: &Reader, asked: &StoreArgs) -> std::result::Result<Option<Store>, StoreError> {
    let elsewhere = reader.header().images.iter().any(|image| image.elsewhere);
    folder(asked).filter(|_| elsewhere).map(Store::open).transpose()
}

/// Gets the images that a trace lacks, to do with it what `what` says.
pub fn find(reader: &mut Reader, what: &str, asked: &StoreArgs) -> Result<()> {
    let found = needed(reader, asked).and_then(|store| reader.find_images(store.as_ref()));
    found.map_err(|error| failure(what, error))
}

/// Something that could not be done with a store, and what to do about it.
fn failure(what: impl std::fmt::Display, error: StoreError) -> Failure {
    let full = [ErrorKind::StorageFull, ErrorKind::FileTooLarge, ErrorKind::QuotaExceeded];
    let (status, hint) = match &error {
        StoreError::Open { .. } => (Status::Usage, "name the folder of a store by --store"),
        StoreError::Elsewhere { .. } => (Status::Usage, "name the store that has them by --store or NVMX_STORE"),
        StoreError::Image { .. } => (Status::Usage, "name another store that has them by --store or NVMX_STORE"),
        StoreError::Missing { .. } => (Status::Usage, "`nvmx store list` says what is there"),
        StoreError::Damaged { .. } => (Status::No, "to record with the same image again mends it"),
        StoreError::Trace { .. } => (Status::No, "`nvmx verify` says what is whole"),
        StoreError::Read { .. } => (Status::Usage, "name a store that can be read"),
        StoreError::Write { source, .. } if full.contains(&source.kind()) => {
            (Status::Failed, "make room and try again")
        }
        StoreError::Write { .. } => (Status::Usage, "name a store that can be written to"),
    };
    Failure::new(status, what, error, hint)
}

/// Where a trace's image is, as `nvmx info` has it: a word, and a text.
pub fn place(reader: &Reader, image: &Image, asked: &StoreArgs) -> (&'static str, String) {
    if !image.elsewhere {
        return ("trace", image.bytes.as_ref().map_or("in the trace".into(), |held| bytes(held.len())));
    }
    let store = match needed(reader, asked) {
        Ok(Some(store)) => store,
        Ok(None) => return ("elsewhere", "not in the trace".into()),
        Err(error) => return ("elsewhere", format!("not in the trace, and {error}")),
    };
    match store.has(Hash(image.hash)) {
        Ok(true) => ("store", format!("in the store {}", store.folder().display())),
        Ok(false) => ("elsewhere", format!("neither in the trace nor in the store {}", store.folder().display())),
        Err(error) => ("elsewhere", format!("not in the trace, and {error}")),
    }
}

/// What the store that is meant has of a trace's images: a line about each that it lacks or that is damaged, and a few words
/// on the others.
pub fn check(reader: &Reader, asked: &StoreArgs) -> (Vec<String>, String) {
    let elsewhere: Vec<&Image> = reader.header().images.iter().filter(|image| image.elsewhere).collect();
    if elsewhere.is_empty() {
        return (Vec::new(), String::new());
    }
    let images = of(elsewhere.len() as u64, "image");
    let store = match needed(reader, asked) {
        Ok(Some(store)) => store,
        Ok(None) => return (Vec::new(), format!("; {images} elsewhere, not looked for: --store names where")),
        Err(error) => return (vec![error.to_string()], String::new()),
    };
    let wrong = |image: &&Image| {
        let error = store.get_image(&mut (**image).clone()).err()?;
        Some(format!("{} '{}': {error}", image.kind, image.name))
    };
    let wrong: Vec<String> = elsewhere.iter().filter_map(wrong).collect();
    let whole = if wrong.is_empty() { format!("; {images} whole in the store") } else { String::new() };
    (wrong, whole)
}

/// `nvmx store`.
pub fn store(args: &StoreToolArgs, print: &Print) -> Result<Status> {
    match &args.what {
        StoreWord::List(args) => list(args, print),
        StoreWord::Gc(args) => collect(args, print),
    }
}

fn open(asked: &StoreArgs) -> Result<Store> {
    let what = "cannot look into the store";
    let named = folder(asked);
    let named = named.ok_or_else(|| Failure::new(Status::Usage, what, "none is named", "use --store or NVMX_STORE"))?;
    Store::open(named).map_err(|error| failure(what, error))
}

fn total(objects: &[Object]) -> String {
    bytes(objects.iter().map(|object| object.stored).sum())
}

fn list(args: &StoreListArgs, print: &Print) -> Result<Status> {
    let store = open(&args.store)?;
    let objects = store.list().map_err(|error| failure("cannot list the store", error))?;
    let mut out = print.out();
    for object in &objects {
        writeln!(out, "{} {:>12}{}", object.hash, object.stored, if object.compressed { " zstd" } else { "" })?;
    }
    out.flush()?;
    print.note(format!("{}, {}", of(objects.len() as u64, "object"), total(&objects)));
    Ok(Status::Done)
}

fn collect(args: &StoreGcArgs, print: &Print) -> Result<Status> {
    let store = open(&args.store)?;
    let mut needed = BTreeSet::new();
    // All of them before anything is removed.
    for path in traces_in(&args.traces)? {
        let reader = Reader::open(&path).map_err(|error| unreadable(&path, error).after("nothing is removed"))?;
        let elsewhere = reader.header().images.iter().filter(|image| image.elsewhere);
        needed.extend(elsewhere.map(|image| Hash(image.hash)));
    }
    let young = Duration::from_secs(args.young.saturating_mul(60));
    let done = store.collect(&needed, young, args.dry_run);
    let done = done.map_err(|error| failure("cannot remove what nobody needs", error))?;
    let mut out = print.out();
    for object in done.removed.iter().filter(|_| args.dry_run) {
        writeln!(out, "{} {:>12}", object.hash, object.stored)?;
    }
    writeln!(
        out,
        "{} {}, {}; needed {}; too young {}",
        if args.dry_run { "would remove" } else { "removed" },
        of(done.removed.len() as u64, "object"),
        total(&done.removed),
        count(done.needed as u64),
        count(done.young as u64)
    )?;
    out.flush()?;
    Ok(Status::Done)
}

/// The files that are named, and those that end in `.nvmx` in the folders that are named.
fn traces_in(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = named.to_vec();
    while let Some(path) = left.pop() {
        if !path.is_dir() {
            found.push(path);
            continue;
        }
        let what = format!("cannot look for traces in {}: nothing is removed", path.display());
        let failed = |error| Failure::new(Status::Usage, &what, error, "name folders that can be read");
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            // A link to a folder may lead back here.
            if entry.is_dir() && !entry.is_symlink() || entry.extension().is_some_and(|ending| ending == "nvmx") {
                left.push(entry);
            }
        }
    }
    Ok(found)
}
