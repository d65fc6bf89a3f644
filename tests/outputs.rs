//! What cannot be written is said in one line, and what was written until then can be read: full disks and limits on them,
//! pipes that nobody reads, folders in place of files, and files that go away.

mod common;
#[path = "common/disk.rs"]
mod disk;
#[path = "common/guest.rs"]
mod guest;

use common::{Ran, command, finish, folder, kernel, nvmx, record, send, word};
use disk::{Disk, FULL};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `words` and wants that status and one line on stderr with all of `says` in it.
#[track_caller]
fn check(words: &[&str], status: i32, says: &[&str]) {
    nvmx(words).expect(status).one_line(says);
}

/// What is left of a recording can be read, and replays to its end.
#[track_caller]
fn readable(trace: &Path) {
    assert!(nvmx(&["verify", word(trace)]).expect(1).out.starts_with("cut short"));
    let replay = nvmx(&["replay", word(trace)]).expect(0);
    assert!(replay.out.starts_with("identical: "), "{}", replay.out);
}

#[test]
fn a_device_that_is_full() {
    check(&["record", "demo", "-o", "/dev/full"], 3, &["/dev/full", FULL]);
}

#[test]
fn a_disk_that_fills_up() {
    let elsewhere = folder("beside-the-disk");
    let (whole, cut) = (record(&elsewhere, "whole.nvmx", "demo", ""), elsewhere.join("cut.nvmx"));
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let image = elsewhere.join("image");
    fs::write(&image, kernel(&bytes)).unwrap();
    let Some(disk) = Disk::new("small-disk") else { return };
    let trace = disk.file("t.nvmx");

    // Not even the header, some blocks and not all, all blocks and no index.
    let length = bytes.len() as u64;
    for room in [0, length - 12_288, length - length % 4096] {
        disk.leave(room & !4095);
        check(&["record", "demo", "-o", word(&trace)], 3, &[FULL, "make room"]);
        match room {
            0 => check(&["info", word(&trace)], 2, &["t.nvmx"]),
            _ => readable(&trace),
        }
        fs::remove_file(&trace).unwrap();
    }

    disk.leave(0);
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    check(&["import", seeds, "--from", "iris", "-o", word(&trace)], 3, &[FULL, "make room"]);
    assert!(!trace.exists(), "a part of an import is not left");
    let salvage = nvmx(&["verify", word(&cut), "--salvage", word(&trace)]).expect(3);
    // The first line tells of the damage.
    assert!(salvage.err.lines().count() == 2 && salvage.err.contains(FULL), "{}", salvage.err);
    let _ = fs::remove_file(&trace);
    let page = disk.file("page.html");
    check(&["report", word(&whole), "--format", "html", "-o", word(&page)], 3, &["page.html", FULL, "make room"]);
    let _ = fs::remove_file(&page);
    let rows = disk.file("rows.csv");
    check(
        &["query", word(&whole), "SELECT * FROM exits", "--format", "csv", "-o", word(&rows)],
        3,
        &["rows.csv", FULL, "make room"],
    );
    let _ = fs::remove_file(&rows);
    let said = nvmx(&["demo", "-q", "-o", word(&disk.file("demo"))]).expect(3);
    assert!(said.err.lines().count() == 1 && said.err.contains(FULL), "{}", said.err);
    let _ = fs::remove_dir_all(disk.file("demo"));

    disk.leave(8192);
    let (store, trace) = (disk.file("store"), elsewhere.join("never.nvmx"));
    check(
        &["record", "--kernel", word(&image), "--mem", "16M", "--store", word(&store), "-o", word(&trace)],
        3,
        &["store", FULL, "make room"],
    );
    assert!(!trace.exists(), "nothing is recorded without its images");
    assert_eq!(fs::read_dir(store.join("tmp")).map_or(0, Iterator::count), 0, "nothing is left unfinished");

    // A disk that cannot be written to at all.
    let trace = disk.file("t.nvmx");
    disk.remount("ro");
    let says = &["Read-only file system"];
    check(&["record", "demo", "-o", word(&trace)], 2, says);
    check(&["import", seeds, "--from", "iris", "-o", word(&trace)], 2, says);
    check(&["report", word(&whole), "-o", word(&trace)], 3, says);
    check(
        &[
            "record",
            "--kernel",
            word(&image),
            "--mem",
            "16M",
            "--store",
            word(&store),
            "-o",
            word(&elsewhere.join("no")),
        ],
        2,
        says,
    );
    let salvage = nvmx(&["verify", word(&cut), "--salvage", word(&trace)]).expect(2);
    assert!(salvage.err.lines().count() == 2 && salvage.err.contains(says[0]), "{}", salvage.err);
}

#[test]
fn linux_fills_a_disk() {
    let made = guest::linux().and_then(|linux| Ok((linux.kernel(), guest::kvm(&linux)?)));
    let Some((vmlinuz, initrd)) = guest::or_skip(&made) else { return };
    let Some(disk) = Disk::new("linux-disk") else { return };
    let (trace, store) = (disk.file("linux.nvmx"), folder("linux-disk-store"));
    // Less than the recording takes, and more than its first blocks.
    disk.leave(256 << 10);
    let append = format!("{} nvmx.run=kvm nvmx.payload=cpuid=10000,out=1000,pages=500,mmio=200", guest::APPEND);
    let words = ["record", "-q", "--kernel", word(vmlinuz), "--initrd", word(initrd), "--append", &append];
    let more = ["--mem", "384M", "--store", word(&store), "-o", word(&trace)];
    check(&[&words[..], &more].concat(), 3, &[FULL, "up to its last whole block"]);
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert!(info["events"].as_u64().unwrap() > 50_000, "{info}");
    let replay = nvmx(&["replay", word(&trace), "--store", word(&store)]).expect(0);
    assert!(replay.out.starts_with("identical: "), "{}", replay.out);
}

/// Runs `nvmx` with a limit of 16 KiB on the size of its files.
fn limited(words: &[&str]) -> Ran {
    let binary = command().get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -f 32; exec \"$0\" \"$@\""]).arg(binary).args(words).stdin(Stdio::null());
    finish(&mut shell)
}

#[test]
fn a_limit_on_the_size_of_files() {
    let folder = folder("file-limit");
    let whole = record(&folder, "whole.nvmx", "demo", "");
    let (trace, out) = (folder.join("t.nvmx"), folder.join("out"));
    let too_large = "File too large";
    limited(&["record", "demo", "-o", word(&trace)]).expect(3).one_line(&[too_large, "make room"]);
    readable(&trace);
    limited(&["report", word(&whole), "--format", "html", "-o", word(&out)]).expect(3).one_line(&[too_large]);
    let image = folder.join("image");
    fs::write(&image, kernel(&fs::read(&whole).unwrap())).unwrap();
    let store = folder.join("store");
    let words = ["record", "--kernel", word(&image), "--mem", "16M", "--store", word(&store)];
    limited(&[&words[..], &["-o", word(&trace)]].concat()).expect(3).one_line(&[too_large, "make room"]);
}

#[test]
fn a_pipe_that_nobody_reads() {
    let folder = folder("pipes");
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()));
    let recording = command()
        .args(["record", "demo", "-o", word(&pipe)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It is opened and closed again without a byte being read.
    drop(fs::File::open(&pipe).unwrap());
    let output = recording.wait_with_output().unwrap();
    let ran = Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::new(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    ran.expect(3).one_line(&["Broken pipe"]);

    // A console that nobody sees ends the run, and its trace is whole.
    let trace = folder.join("t.nvmx");
    let mut recording = command()
        .args(["record", "demo", "-o", word(&trace)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    drop(recording.stdout.take());
    assert_eq!(recording.wait().unwrap().code(), Some(0));
    nvmx(&["verify", word(&trace)]).expect(0);
}

#[test]
fn folders_in_place_of_files_and_places_that_are_none() {
    let folder = folder("no-file");
    let whole = record(&folder, "whole.nvmx", "demo", "");
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    let cut = folder.join("cut.nvmx");
    fs::write(&cut, &fs::read(&whole).unwrap()[..20_000]).unwrap();
    for (output, says) in [(word(&folder), "Is a directory"), ("/nowhere/at/all", "No such file")] {
        check(&["record", "demo", "-o", output], 2, &[output, says]);
        check(&["import", seeds, "--from", "iris", "-o", output], 2, &[output, says]);
        check(&["report", word(&whole), "-o", output], 3, &[output, says]);
        check(&["query", word(&whole), "SELECT 1 AS a FROM exits", "-o", output], 3, &[output, says]);
        check(&["verify", word(&cut), "--salvage", output], 2, &[output, says]);
    }
    check(&["demo", "-o", "/dev/null/demo"], 2, &["/dev/null/demo"]);
}

#[test]
fn a_file_that_is_removed_while_it_is_written() {
    let folder = folder("removed");
    let (image, trace) = (folder.join("image"), folder.join("t.nvmx"));
    // It jumps to itself.
    fs::write(&image, kernel(&[0xeb, 0xfe])).unwrap();
    let run = |meanwhile: &dyn Fn()| {
        let _ = fs::remove_file(&trace);
        let recording = command()
            .args(["record", "--kernel", word(&image), "--mem", "16M", "-o", word(&trace)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        while fs::metadata(&trace).map_or(0, |about| about.len()) == 0 {
            std::thread::yield_now();
        }
        meanwhile();
        send("TERM", recording.id());
        let output = recording.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { status: output.status.code().unwrap_or(-1), out: String::new(), err }
    };
    run(&|| fs::remove_file(&trace).unwrap()).expect(3).one_line(&["t.nvmx", "removed or replaced", "record it again"]);
    assert!(!trace.exists());
    run(&|| {
        fs::remove_file(&trace).unwrap();
        fs::write(&trace, "another file").unwrap();
    })
    .expect(3)
    .one_line(&["removed or replaced"]);
    assert_eq!(fs::read(&trace).unwrap(), b"another file");
    run(&|| {}).expect(0);
    nvmx(&["replay", word(&trace)]).expect(0);
}
