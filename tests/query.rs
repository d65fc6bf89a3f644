//! `nvmx query` from end to end: folders of traces, answers in every form, and what is wrong with a query.

mod common;

use common::{command, folder, nvmx, record, word};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

/// The trips of `flush-storm` and of `pool-thrash`: see the guests.
const TRIPS: &str = "SELECT trace, COUNT(*) AS trips FROM exits WHERE level = 2 AND reason = 'VMCALL' GROUP BY trace \
                     ORDER BY trace";

fn csv(folder: &Path, sql: &str) -> String {
    nvmx(&["query", word(folder), sql, "--format", "csv"]).expect(0).out
}

#[test]
fn a_folder_is_one_dataset() {
    let folder = folder("query-folder");
    // In the order of names, whatever the order of their making.
    let thrash = record(&folder, "thrash.nvmx", "pool-thrash", "");
    record(&folder, "storm.nvmx", "flush-storm", "");
    std::fs::write(folder.join("notes.txt"), "not looked at").unwrap();
    std::fs::create_dir(folder.join("deeper")).unwrap();
    std::fs::copy(&thrash, folder.join("deeper/again.nvmx")).unwrap();
    assert_eq!(csv(&folder, TRIPS), "trace,trips\ndeeper/again,45\nstorm,34\nthrash,45\n");
    assert_eq!(csv(&folder, "SELECT trace, event FROM stops ORDER BY trace LIMIT 1").lines().count(), 2);
    // Rows of one trace after another's, each in the order of events.
    let rows = csv(&folder, "SELECT trace, event FROM exits");
    let rows: Vec<(&str, u64)> =
        rows.lines().skip(1).map(|row| row.split_once(',').unwrap()).map(|(a, b)| (a, b.parse().unwrap())).collect();
    assert!(rows.is_sorted() && rows[0].0 == "deeper/again" && rows.last().unwrap().0 == "thrash");
    // What one trace tells, it tells in a folder.
    let sql = "SELECT op, COUNT(*) AS n FROM pool GROUP BY op ORDER BY op";
    let of_one = csv(&folder, &sql.replace("pool GROUP", "pool WHERE trace = 'thrash' GROUP"));
    assert_eq!(of_one, csv(&thrash, sql));
    let verdicts = "SELECT trace, verdict, COUNT(*) AS n FROM flushes GROUP BY trace, verdict ORDER BY trace, verdict";
    assert!(csv(&folder, verdicts).contains("storm,redundant,"));
    let replayed = nvmx(&["query", word(&folder), verdicts, "--format", "csv", "--judge", "replay"]).expect(0).out;
    assert!(replayed.contains("storm,redundant,"), "{replayed}");
    let listing = nvmx(&["query", word(&folder)]).expect(0).out;
    assert!(listing.contains("3 traces") && listing.contains("    trace            text"));
}

#[test]
fn broken_traces_are_passed_over() {
    let folder = folder("query-broken");
    record(&folder, "a.nvmx", "flush-storm", "");
    std::fs::write(folder.join("b.nvmx"), "no trace").unwrap();
    let whole = record(&folder, "c.nvmx", "pool-thrash", "");
    let mut bytes = std::fs::read(&whole).unwrap();
    let at = bytes.len() - 4000;
    bytes[at] ^= 0x40;
    std::fs::write(folder.join("d.nvmx"), bytes).unwrap();
    let asked = nvmx(&["query", word(&folder), TRIPS, "--format", "csv"]).expect(1);
    assert_eq!(asked.out, "trace,trips\na,34\nc,45\n");
    let lines: Vec<&str> = asked.err.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("b.nvmx is passed over: ") && lines[1].contains("d.nvmx is passed over: "));
    assert!(lines[2].contains("2 of 4 traces are not in the answer"), "{lines:?}");
}

#[test]
fn a_folder_without_traces() {
    let folder = folder("query-empty");
    std::fs::write(folder.join("notes.txt"), "").unwrap();
    nvmx(&["query", word(&folder), "SELECT 1 FROM exits"]).expect(2).one_line(&[word(&folder), "ends in .nvmx"]);
    nvmx(&["query", word(&folder)]).expect(2).one_line(&["ends in .nvmx"]);
}

#[test]
fn tables_that_a_trace_does_not_have() {
    let folder = folder("query-absent");
    let check = |trace: &Path, table: &str, says: &str| {
        let asked = nvmx(&["query", word(trace), &format!("SELECT COUNT(*) AS n FROM {table}"), "--format", "csv"]);
        let asked = asked.expect(0);
        assert_eq!(asked.out, "n\n0\n");
        asked.one_line(&[table, "has no rows", says]);
    };
    let exits = record(&folder, "exits.nvmx", "flush-storm", "--log exits");
    check(&exits, "vmcs", "--log exits");
    check(&exits, "answers", "--log l0");
    check(&exits, "registers", "imported");
    check(&exits, "migrations", "nothing of the kind");
    let asked = nvmx(&["query", word(&exits), "SELECT COUNT(*) AS n FROM exits"]).expect(0);
    assert_eq!(asked.err, "");
}

#[test]
fn the_first_rows_by_several_columns() {
    let folder = folder("query-first");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let all = csv(&trace, "SELECT field, value, event FROM vmcs ORDER BY field DESC, value, event");
    let some =
        csv(&trace, "SELECT field, value, event FROM vmcs ORDER BY field DESC, value, event LIMIT 70 OFFSET 900");
    assert_eq!(some.lines().skip(1).collect::<Vec<_>>(), all.lines().skip(901).take(70).collect::<Vec<_>>());
    let named =
        csv(&trace, "SELECT event AS number FROM vmcs WHERE op = 'write' ORDER BY value DESC, event DESC LIMIT 3");
    let by_hand = csv(&trace, "SELECT event FROM vmcs WHERE op = 'write' ORDER BY value DESC, event DESC");
    assert_eq!(named.lines().skip(1).collect::<Vec<_>>(), by_hand.lines().skip(1).take(3).collect::<Vec<_>>());
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = folder("query-pipe");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    for format in ["csv", "json", "table", "parquet"] {
        let mut run = command()
            .args(["query", word(&trace), "SELECT a.* FROM vmcs AS a CROSS JOIN marks", "--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 10];
        run.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let done = run.wait_with_output().unwrap();
        assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""), "{format}");
    }
}

#[test]
fn what_is_wrong_with_a_query() {
    let folder = folder("query-wrong");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let check = |sql: &str, says: &[&str]| nvmx(&["query", word(&trace), sql]).expect(2).one_line(says);
    check("SELECT * FROM exit", &["no table 'exit' (line 1, column 15); did you mean 'exits'?", "vmcs"]);
    check(
        "SELECT event,\n  resaon FROM exits",
        &["no column 'resaon' (line 2, column 3); did you mean 'reason'?", "qualification"],
    );
    check("SELECT e.resaon FROM exits AS e", &["no column 'resaon' (line 1, column 10); did you mean 'reason'?"]);
    check("SELECT gpa FROM entries", &["no column 'gpa' (line 1, column 8)", "a column of exits, ept"]);
    check("SELECT trace FROM exits", &["no column 'trace' (line 1, column 8)"]);
    check("SELECT event FROM exits WHERE", &["line 1, column 30"]);
    check("SELECT nonesuch(event) FROM exits", &["nonesuch"]);
}
