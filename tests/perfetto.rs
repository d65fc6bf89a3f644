//! `nvmx export --to perfetto`, held to Perfetto's own schema and to what `nvmx query` counts.
//!
//! The schema comes with the PyPI package `perfetto`. Without it these tests say so and check nothing; NVMX_PYTHON names
//! a Python that has it.

mod common;

use common::{folder, nvmx, record, word};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A Python that has the package.
fn python() -> Option<String> {
    let python = std::env::var("NVMX_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = "from perfetto.protos.perfetto.trace import perfetto_trace_pb2";
    let found = Command::new(&python).args(["-c", import]).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {python} has no package 'perfetto': NVMX_PYTHON names one that has it");
    }
    found.then_some(python)
}

/// What the export of a trace holds, as tests/check_perfetto.py counts it.
fn exported(python: &str, trace: &Path) -> Value {
    let [file, again] = ["pftrace", "again"].map(|ending| trace.with_extension(ending));
    for file in [&file, &again] {
        nvmx(&["export", word(trace), "--to", "perfetto", "-o", word(file)]).expect(0);
    }
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap(), "equal traces give equal bytes");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_perfetto.py");
    let output = Command::new(python).args([script, word(&file)]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The answer's rows: all columns but the last, with blanks between, and the last, a count.
fn counts(trace: &Path, sql: &str) -> BTreeMap<String, u64> {
    let answer = nvmx(&["query", word(trace), sql, "--format", "csv"]).expect(0).out;
    let rows = answer.lines().skip(1).map(|line| {
        let (key, count) = line.rsplit_once(',').unwrap_or(("", line));
        // A sum of nothing is null.
        let count = if count.is_empty() { 0 } else { count.parse().expect("a count") };
        (key.replace(',', " "), count)
    });
    rows.collect()
}

fn check(python: &str, trace: &Path) {
    let found = exported(python, trace);
    let keyed = |key: &str| -> BTreeMap<String, u64> {
        let of = found[key].as_object().expect("an object").iter();
        of.map(|(key, count)| (key.clone(), count.as_u64().expect("a count"))).collect()
    };
    let one = |sql: &str| counts(trace, sql).into_values().next().unwrap_or_default();
    let name = trace.display();
    let by = |table: &str, columns: &str| {
        counts(trace, &format!("SELECT {columns}, COUNT(*) AS n FROM {table} GROUP BY {columns}"))
    };
    assert_eq!(keyed("exits"), by("exits", "level, reason, handled_by"), "{name}");
    assert_eq!(keyed("flushes"), by("flushes", "kind"), "{name}");
    assert_eq!(keyed("verdicts"), by("flushes", "verdict"), "{name}");
    let runs = counts(trace, "SELECT level, COUNT(*) AS n FROM entries WHERE failed IS NULL GROUP BY level");
    let runs: BTreeMap<String, u64> = runs.into_iter().map(|(level, count)| (format!("L{level}"), count)).collect();
    assert_eq!(keyed("runs"), runs, "{name}");
    let marks =
        nvmx(&["query", word(trace), "SELECT value FROM marks ORDER BY event", "--format", "csv"]).expect(0).out;
    let marks: Vec<u64> = marks.lines().skip(1).map(|value| value.parse().expect("a number")).collect();
    assert_eq!(found["marks"], serde_json::json!(marks), "{name}");
    assert_eq!(found["injections"], one("SELECT COUNT(*) AS n FROM injections"), "{name}");
    assert_eq!(found["reflected"], one("SELECT COUNT(*) AS n FROM exits WHERE handled_by <> 'L0'"), "{name}");
    let counters = keyed("counters");
    for (counter, sql) in [
        ("exits of L1", "SELECT COUNT(*) AS n FROM exits WHERE level = 1"),
        ("exits of L2", "SELECT COUNT(*) AS n FROM exits WHERE level = 2"),
        ("VMREADs", "SELECT COUNT(*) AS n FROM vmcs WHERE op = 'read'"),
        ("VMWRITEs", "SELECT COUNT(*) AS n FROM vmcs WHERE op = 'write'"),
        ("pool hits", "SELECT COUNT(*) AS n FROM pool WHERE op = 'hit'"),
        ("pool misses", "SELECT COUNT(*) AS n FROM pool WHERE op = 'miss' OR op = 'recycle'"),
        ("TLB entries dropped", "SELECT CAST(SUM(dropped) AS BIGINT) AS n FROM flushes"),
    ] {
        assert_eq!(counters.get(counter).copied().unwrap_or_default(), one(sql), "{name}: {counter}");
    }
    // Those before the first exit belong to none.
    assert!(found["vmwrites"].as_u64() <= counters.get("VMWRITEs").copied().or(Some(0)), "{name}");
}

#[test]
fn perfetto_finds_what_query_counts() {
    let Some(python) = python() else { return };
    let folder = folder("perfetto");
    for (guest, options) in [
        ("demo", ""),
        ("flush-storm", "--policy kvm-2015"),
        ("pool-thrash", "--pool 2"),
        ("stale", ""),
        ("demo", "--log exits --cpus 2 --pcpus 2"),
    ] {
        let name = format!("{guest}{}.nvmx", options.replace(' ', ""));
        check(&python, &record(&folder, &name, guest, options));
    }
}

#[test]
fn an_imported_trace_says_what_its_times_are() {
    let Some(python) = python() else { return };
    let folder = folder("perfetto-import");
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    let trace = folder.join("seeds.nvmx");
    nvmx(&["import", seeds, "--from", "iris", "-o", word(&trace)]).expect(0);
    check(&python, &trace);
    let of = &exported(&python, &trace)["trace"];
    assert_eq!((&of["clock"], &of["imported_from"]), (&"exits".into(), &"iris".into()), "{of}");
    assert_eq!(of["policy"], Value::Null, "{of}");
}

#[test]
fn what_cannot_be_exported_is_refused_in_one_line() {
    let folder = folder("perfetto-refused");
    let trace = record(&folder, "stale.nvmx", "stale", "");
    let out = folder.join("out.pftrace");
    let two = nvmx(&["export", word(&trace), word(&trace), "--to", "perfetto", "-o", word(&out)]).expect(2);
    two.one_line(&["2 traces", "one by one"]);
    nvmx(&["export", word(&trace), "--to", "perfetto", "-o", word(&trace)]).expect(2).one_line(&["the trace itself"]);
    let nowhere = folder.join("none").join("out.pftrace");
    nvmx(&["export", word(&trace), "--to", "perfetto", "-o", word(&nowhere)]).expect(2).one_line(&["cannot write"]);
    // A damaged trace leaves no file that looks whole.
    let mut bytes = std::fs::read(&trace).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let damaged = folder.join("damaged.nvmx");
    std::fs::write(&damaged, bytes).unwrap();
    nvmx(&["export", word(&damaged), "--to", "perfetto", "-o", word(&out)]).expect(2);
    assert!(!out.exists());
}
