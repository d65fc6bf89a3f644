//! `nvmx whatif` and `--judge replay`, on the binary.

mod common;

use common::{folder, line, nvmx, record, word};
use serde_json::Value;
use std::path::Path;

const POLICIES: &str = "kvm-2011,kvm-2015,kvm-2018,kvm-2020,mapped,ideal";

fn variants(trace: &Path, words: &[&str]) -> Vec<Value> {
    let all = [&["whatif", word(trace), "--format", "json"], words].concat();
    nvmx(&all).expect(0).json()["variants"].as_array().expect("a list").clone()
}

fn flushes(trace: &Path, how: &str) -> Value {
    nvmx(&["report", word(trace), "--format", "json", "--judge", how]).expect(0).json()["flushes"].clone()
}

#[test]
fn a_row_has_the_counts_of_a_recording_under_its_policy() {
    let folder = folder("whatif-rows");
    let trace = record(&folder, "own.nvmx", "flush-storm", "");
    let rows = variants(&trace, &["--policy", POLICIES]);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let policy = row["policy"].as_str().expect("a word");
        let other = folder.join(format!("{policy}.nvmx"));
        nvmx(&["record", "flush-storm", "--policy", policy, "-o", word(&other)]).expect(0);
        let found = nvmx(&["report", word(&other), "--format", "json"]).expect(0).json();
        for (key, of) in [("flushes", "total"), ("redundant_flushes", "redundant"), ("missing_flushes", "missing")] {
            assert_eq!(row[key], found["flushes"][of], "{policy} {key}");
        }
        assert_eq!(row["pool_misses"].as_u64(), Some(found["pool"]["misses"].as_u64().unwrap()), "{policy}");
        assert_eq!(row["vmwrites"], found["vmcs"]["writes"], "{policy}");
        assert_eq!((&row["cycles"], &row["instructions"]), (&found["cycles"], &found["instructions"]), "{policy}");
        assert_eq!(row["guest_same"], true, "{policy}");
        assert_eq!(row["same_as_recorded"], if policy == "mapped" { true.into() } else { Value::Null }, "{policy}");
    }
    assert_eq!(variants(&trace, &["--policy", POLICIES, "--pool", "1,2,4,8"]).len(), 24);
    for format in ["text", "md", "csv"] {
        let shown = nvmx(&["whatif", word(&trace), "--policy", "kvm-2011", "--format", format]).expect(0).out;
        assert!(shown.contains("kvm-2011") && shown.contains("recorded"), "{shown}");
    }
}

#[test]
fn what_cannot_be_run_again_is_refused_in_one_line() {
    line("whatif nothing.nvmx").expect(2).one_line(&["nothing.nvmx"]);
    let folder = folder("whatif-refused");
    let trace = record(&folder, "own.nvmx", "demo", "");
    assert_eq!(nvmx(&["whatif", word(&trace), "--policy", "kvm-1999"]).status, 2);
    assert_eq!(nvmx(&["whatif", word(&trace), "--pool", "0"]).status, 2);
}

#[test]
fn verdicts_by_replay_take_the_place_of_those_by_rule() {
    let folder = folder("judge-verdicts");
    let trace = record(&folder, "own.nvmx", "flush-storm", "--policy kvm-2015");
    let (rule, replay) = (flushes(&trace, "rule"), flushes(&trace, "replay"));
    assert_eq!(rule["total"], replay["total"]);
    assert_eq!(replay["missing"], 0);
    let grounds = |of: &Value, ground: &str| {
        of["by_cause"].as_array().expect("a list").iter().filter(|row| row["judged_by"] == ground).count()
    };
    assert_eq!(grounds(&rule, "replay"), 0);
    assert!(grounds(&replay, "replay") > 0);
    let sql = "SELECT COUNT(*) AS n FROM flushes WHERE judged_by = 'replay' AND actor = 'L0'";
    let asked = nvmx(&["query", word(&trace), sql, "--judge", "replay", "--format", "csv"]).expect(0).out;
    let all = nvmx(&["query", word(&trace), "SELECT COUNT(*) AS n FROM flushes WHERE actor = 'L0'", "--format", "csv"]);
    assert_eq!(asked, all.expect(0).out);
    nvmx(&["check", word(&trace), "--judge", "replay", "--max-missing-flushes", "0"]).expect(0);
}

#[test]
fn a_gate_on_missing_flushes_sees_a_mistake_by_replay() {
    let folder = folder("judge-gate");
    let trace = folder.join("own.nvmx");
    // The guest notices, and says so by its exit status.
    let words = ["record", "witness", "--policy", "kvm-2018", "--fault", "vpid12-unflushed", "-o", word(&trace)];
    nvmx(&words).expect(3);
    nvmx(&["check", word(&trace), "--judge", "replay", "--max-missing-flushes", "0"]).expect(1);
}
