//! Disks that are full or may not be written to, under all commands that write: one line each, the right exit status, nothing
//! half-written and nothing left behind. What a recording has on a disk that fills up is in `outputs.rs`.

mod common;
#[path = "common/disk.rs"]
mod disk;

use common::{folder, nvmx, record, word};
use disk::{Disk, FULL};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");

/// All files below a folder, and their lengths.
fn files(folder: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            let length = path.metadata().unwrap().len();
            found.insert((path, length));
        }
    }
    found
}

/// Commands that write, with what they write to in the place of `OUT` and a trace on the disk in that of `HERE`.
const COMMANDS: &[&[&str]] = &[
    &["import", SEEDS, "--from", "iris", "-o", "OUT"],
    &["verify", "TRACE", "--salvage", "OUT"],
    &["report", "TRACE", "--format", "html", "-o", "OUT"],
    &["report", "TRACE", "--format", "json", "-o", "OUT"],
    &["report", "FOLDER", "--format", "html", "-o", "OUT"],
    &["report", "FOLDER", "--format", "html", "--each", "OUT"],
    &["query", "TRACE", "SELECT * FROM vmcs", "--format", "csv", "-o", "OUT"],
    &["query", "TRACE", "SELECT * FROM vmcs", "--format", "parquet", "-o", "OUT"],
    &["query", "FOLDER", "SELECT * FROM vmcs", "--format", "json", "-o", "OUT"],
    &["query", "TRACE", "-o", "OUT"],
    &["export", "TRACE", "--to", "perfetto", "-o", "OUT"],
    &["export", "TRACE", "--to", "parquet", "-o", "OUT"],
    &["export", "TRACE", "--to", "arrow", "-o", "OUT"],
    &["export", "TRACE", "--to", "csv", "-o", "OUT"],
    &["replay", "HERE", "--checkpoints"],
    &["demo", "-o", "OUT"],
];

/// Runs all of them; each must end with one of these statuses and one line that says `why`, and leave the disk as it was, but
/// for the file that it went on from, which a batch keeps, and for folders.
fn check(disk: &Disk, statuses: &[i32], why: &str) {
    let elsewhere = folder(&format!("beside-{}", disk.file("").file_name().unwrap().to_string_lossy()));
    let (trace, here, out) = (record(&elsewhere, "t.nvmx", "demo", ""), disk.file("here.nvmx"), disk.file("out"));
    let before = files(&disk.file(""));
    for words in COMMANDS {
        let words = words.iter().map(|one| match *one {
            "TRACE" => word(&trace),
            "FOLDER" => word(&elsewhere),
            "HERE" => word(&here),
            "OUT" => word(&out),
            one => one,
        });
        let words: Vec<&str> = ["-q"].into_iter().chain(words).collect();
        let ran = nvmx(&words);
        assert!(statuses.contains(&ran.status), "{words:?}: {} {}", ran.status, ran.err);
        if ran.status != 0 {
            ran.one_line(&["cannot", why]);
        }
        let after: BTreeSet<_> = files(&disk.file("")).into_iter().collect();
        let left: Vec<_> = after.difference(&before).filter(|(path, _)| ran.status != 0 && !is_kept(path)).collect();
        assert!(left.is_empty() && before.is_subset(&after), "{words:?} leaves {left:?}");
        for (path, _) in after.difference(&before) {
            fs::remove_file(path).unwrap();
        }
        let _ = fs::remove_dir_all(&out);
    }
}

/// What may be left: what a batch goes on from, the recording of a demonstration, which can be read as far as it goes, and what
/// says of a folder that it is an export.
fn is_kept(path: &Path) -> bool {
    ["out.journal", "demo.nvmx", "_nvmx.json"].iter().any(|name| path.file_name().is_some_and(|file| file == *name))
}

#[test]
fn a_full_disk() {
    let Some(disk) = Disk::new("full-disk") else { return };
    record(&disk.file(""), "here.nvmx", "demo", "");
    disk.leave(0);
    check(&disk, &[3], FULL);
    // So little that it is too little in the midst of most.
    disk.leave(8192);
    check(&disk, &[0, 3], FULL);
}

#[test]
fn checkpoints_that_cannot_be_kept_do_a_recording_no_harm() {
    let folder = folder("no-checkpoints");
    let trace = folder.join("t.nvmx");
    fs::create_dir(folder.join("t.nvmx.seek")).unwrap();
    let ran = nvmx(&["record", "demo", "--checkpoints", "-o", word(&trace)]).expect(0);
    assert!(ran.err.contains("cannot keep checkpoints in") && ran.err.contains("Is a directory"), "{}", ran.err);
    assert!(nvmx(&["verify", word(&trace)]).expect(0).out.starts_with("whole"));
    let says = ["t.nvmx.seek", "Is a directory", "kept beside the trace"];
    nvmx(&["replay", "--checkpoints", word(&trace)]).expect(2).one_line(&says);
}

#[test]
fn a_disk_that_may_not_be_written_to() {
    let Some(disk) = Disk::new("read-only-disk") else { return };
    record(&disk.file(""), "here.nvmx", "demo", "");
    disk.remount("ro");
    check(&disk, &[2, 3], "Read-only file system");
    let trace = disk.file("t.nvmx");
    let says = &["t.nvmx", "Read-only file system", "name a file that can be written"];
    nvmx(&["record", "demo", "-o", word(&trace)]).expect(2).one_line(says);
    disk.remount("rw");
}
