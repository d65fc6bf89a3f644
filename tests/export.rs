//! `nvmx export` and `nvmx query --format parquet` from end to end: what lies where, what is refused, and that tools that
//! are none of ours read what the traces say.

mod common;

use common::{command, finish, folder, nvmx, record, word};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/golden/v1.nvmx");

/// Every file below a folder, with its bytes.
fn files(below: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(below).expect("it lies below").to_owned();
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn export(traces: &[&Path], to: &str, out: &Path) -> common::Ran {
    let mut words: Vec<&str> = vec!["export"];
    words.extend(traces.iter().map(|path| word(path)));
    words.extend(["--to", to, "-o", word(out)]);
    nvmx(&words)
}

#[test]
fn a_dataset_has_a_folder_a_table_and_in_it_a_folder_a_trace() {
    let folder = folder("export-layout");
    let demo = record(&folder, "demo.nvmx", "demo", "");
    // Names that are no good in a path, and names that are the same but for the case of letters.
    std::fs::create_dir(folder.join("other")).unwrap();
    let (odd, same) = (folder.join("a run=1, of 2.nvmx"), folder.join("other/DEMO.nvmx"));
    std::fs::copy(GOLDEN, &odd).unwrap();
    std::fs::copy(GOLDEN, &same).unwrap();
    for to in ["parquet", "arrow", "csv"] {
        let out = folder.join(to);
        export(&[&demo, &odd, &same], to, &out).expect(0);
        let found = files(&out);
        for table in ["exits", "entries", "vmcs", "flushes", "pool", "registers", "lost", "traces"] {
            for name in ["demo", "a_run_1__of_2", "DEMO-2"] {
                let path = PathBuf::from(format!("{table}/trace={name}/part-0.{to}"));
                assert!(found.get(&path).is_some_and(|bytes| !bytes.is_empty()), "{path:?}");
            }
        }
        assert!(found.keys().all(|path| !path.to_string_lossy().contains("unfinished")), "{:?}", found.keys());
        assert_eq!(found.keys().filter(|path| !path.starts_with("_nvmx.json")).count() % 3, 0);
        // A second time, and to the same place: the same bytes.
        let again = export(&[&demo, &odd, &same], to, &out).expect(0);
        assert!(again.err.contains("in the place of another"), "{}", again.err);
        assert_eq!(files(&out), found, "{to}");
        let elsewhere = folder.join(format!("{to}-2"));
        export(&[&demo], to, &elsewhere).expect(0);
        export(&[&odd], to, &elsewhere).expect(0);
        let added = files(&elsewhere);
        let before = found.iter().filter(|(path, _)| !path.to_string_lossy().contains("DEMO-2"));
        assert!(before.eq(added.iter()), "{to}: added one by one");
    }
}

#[test]
fn what_cannot_be_exported_is_refused_in_one_line() {
    let folder = folder("export-refused");
    let golden = Path::new(GOLDEN);
    let check = |ran: common::Ran, status, words: &[&str]| ran.expect(status).one_line(words);
    let file = folder.join("file");
    std::fs::write(&file, "mine").unwrap();
    check(export(&[golden], "csv", &file), 2, &["cannot export to", "it is a file", "name a folder"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    check(export(&[golden], "csv", &folder), 2, &["not empty", "name a folder"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    check(export(&[golden], "csv", &file.join("below")), 2, &["cannot", "name a"]);
    check(export(&[golden], "csv", Path::new("/proc/nvmx")), 2, &["/proc/nvmx", "name a place"]);
    let out = folder.join("out");
    export(&[golden], "csv", &out).expect(0);
    let whole = files(&out);
    check(export(&[golden], "parquet", &out), 2, &["it is an export to csv"]);
    let none = folder.join("none");
    check(export(&[golden, &folder.join("missing.nvmx")], "csv", &none), 2, &["missing.nvmx"]);
    assert!(!none.exists(), "nothing is made when a trace cannot be opened");
    nvmx(&["export", GOLDEN, "--to", "tables", "-o", word(&none)]).expect(2);
    // A trace that is damaged in the middle leaves nothing behind, and what was there stays.
    let mut bytes = std::fs::read(GOLDEN).unwrap();
    let middle = bytes.windows(4).position(|four| four == b"EVTS").expect("a block") + 40;
    bytes[middle] ^= 0xff;
    let damaged = folder.join("damaged.nvmx");
    std::fs::write(&damaged, bytes).unwrap();
    check(export(&[&damaged], "csv", &out), 2, &["damaged", "verify"]);
    assert_eq!(files(&out), whole);
}

#[test]
fn a_disk_that_is_full_leaves_nothing_half_written() {
    let folder = folder("export-full");
    let demo = record(&folder, "demo.nvmx", "demo", "");
    for to in ["parquet", "arrow", "csv"] {
        let out = folder.join(to);
        // Files of at most so many blocks of 512 bytes; the signal that says so is turned off, so that the write fails.
        let script = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
        let binary = command().get_program().to_owned();
        let words = ["export", word(&demo), "--to", to, "-o", word(&out)];
        let ran = finish(Command::new("sh").args(["-c", script, "sh"]).arg(binary).args(words));
        ran.expect(3).one_line(&["cannot write", "make room"]);
        assert!(files(&out).keys().all(|path| path == Path::new("_nvmx.json")), "{:?}", files(&out).keys());
    }
}

#[test]
fn a_query_answers_as_parquet() {
    let folder = folder("export-query");
    let out = folder.join("answer.parquet");
    let sql = "SELECT reason, COUNT(*) AS n, AVG(rip) AS mean, rip > 0 AS some, NULL AS nothing FROM exits GROUP BY reason, rip > 0";
    nvmx(&["query", GOLDEN, sql, "--format", "parquet", "-o", word(&out)]).expect(0);
    let bytes = std::fs::read(&out).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let printed = command().args(["query", GOLDEN, sql, "--format", "parquet"]).output().unwrap();
    assert!(printed.stdout.starts_with(b"PAR1"), "{}", String::from_utf8_lossy(&printed.stderr));
    let lists = "SELECT ARRAY_AGG(rip) AS rips FROM exits";
    nvmx(&["query", GOLDEN, lists, "--format", "parquet", "-o", word(&folder.join("lists"))])
        .expect(2)
        .one_line(&["'rips'", "list"]);
    let elsewhere = folder.join("none/answer.parquet");
    nvmx(&["query", GOLDEN, sql, "--format", "parquet", "-o", word(&elsewhere)]).expect(3).one_line(&["cannot write"]);
}

#[test]
fn other_tools_read_what_the_traces_say() {
    let folder = folder("export-tools");
    let python = std::env::var("NVMX_PYTHON").unwrap_or_else(|_| "python3".into());
    let golden = folder.join("v1.nvmx");
    std::fs::copy(GOLDEN, &golden).unwrap();
    let demo = record(&folder, "demo.nvmx", "demo", "");
    let thrash = record(&folder, "thrash.nvmx", "pool-thrash", "--policy kvm-2015");
    let seeds = folder.join("seeds.nvmx");
    let iris = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    nvmx(&["import", iris, "--from", "iris", "-o", word(&seeds)]).expect(0);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/export.py");
    let binary = command().get_program().to_owned();
    let out = folder.join("out");
    let mut check = Command::new(&python);
    check.arg(script).arg(binary).arg(&out).args([&golden, &demo, &thrash, &seeds]);
    let Ok(output) = check.output() else {
        eprintln!("SKIPPED: `{python}` is not installed, so no other tool read an export; NVMX_PYTHON names another");
        return;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        eprintln!("{}; so no other tool read an export. NVMX_PYTHON names a Python that has it", complaints.trim());
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 traces compared: 0 differ"), "{said}\n{complaints}");
}
