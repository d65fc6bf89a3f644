//! Traces that are named by the folder they are in.

use super::fail::{Fails, Failure, Result, Status};
use std::path::{Path, PathBuf};

/// How the names of traces end.
pub const ENDING: &str = "nvmx";

/// A trace of several, and what to call it among them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Named {
    /// The path as given, or below the folder that was; with `/` between names.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The traces that paths name: a file is itself, and a folder stands for all files in it, and in folders in it, whose names
/// end in `.nvmx`, in the order of their names. With several folders, names begin with the folder's.
///
/// # Errors
/// A folder cannot be read, or has no trace in it.
pub fn traces(paths: &[PathBuf]) -> Result<Vec<Named>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(Named { name: path.display().to_string(), path: path.clone() });
            continue;
        }
        let mut found = Vec::new();
        walk(path, &mut found)?;
        if found.is_empty() {
            let what = format!("cannot find a trace in {}", path.display());
            return Err(Failure::new(
                Status::Usage,
                what,
                format!("it has no file that ends in .{ENDING}"),
                "name another folder, or the traces themselves",
            ));
        }
        let base = if paths.len() == 1 { path.as_path() } else { Path::new("") };
        let mut found: Vec<Named> = found.into_iter().map(|path| Named { name: below(base, &path), path }).collect();
        found.sort();
        all.append(&mut found);
    }
    Ok(all)
}

fn below(base: &Path, path: &Path) -> String {
    let rest = path.strip_prefix(base).unwrap_or(path);
    rest.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Folders that are links are not followed: they may lead round in a circle.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let what = || format!("cannot look for traces in {}", folder.display());
    let hint = "make the folder readable, or name the traces themselves";
    for entry in std::fs::read_dir(folder).or_hint(Status::Usage, what(), hint)? {
        let entry = entry.or_hint(Status::Usage, what(), hint)?;
        let (path, kind) = (entry.path(), entry.file_type().or_hint(Status::Usage, what(), hint)?);
        if kind.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == ENDING) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
