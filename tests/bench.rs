//! `nvmx bench` from end to end.

mod common;

use common::{folder, nvmx, record, word};
use serde_json::Value;

/// The rows of `nvmx bench trace`, by their keys.
const ROWS: [&str; 7] =
    ["hand-over", "encode", "decode", "decode-decompressed", "bytes-vmcs", "bytes-exit", "bytes-event"];

#[test]
fn the_trace_format_has_a_figure_for_each_budget() {
    let folder = folder("bench");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "--log vmcs");
    let said = nvmx(&["bench", "trace", word(&trace), "--json", "--peers"]).expect(0).json();
    let of = &said["trace"][0];
    let rows = of["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| row["name"].as_str().expect("a key")).collect::<Vec<_>>(), ROWS);
    let mut all = true;
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        let (value, floor) = (number("value"), number("floor"));
        assert!(value > 0.0 && floor > 0.0, "{row}");
        let ratio = if row["unit"] == "M/s" { floor / value } else { value / floor };
        assert!((number("ratio") / ratio - 1.0).abs() < 1e-9, "{row}");
        let held = match (row["at_most"].as_f64(), row["at_least"].as_f64()) {
            (Some(limit), None) => Value::Bool(value <= limit),
            (None, Some(limit)) => Value::Bool(value >= limit),
            (None, None) => Value::Null,
            both => panic!("{both:?}"),
        };
        assert_eq!(row["held"], held, "{row}");
        all &= held != Value::Bool(false);
    }
    assert_eq!(said["held"], Value::Bool(all));
    // What a whole trace takes for an event is not far from what its file does.
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!(of["events"], info["events"]);

    let files = of["peers"]["files"].as_array().expect("files");
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().expect("a key")).collect();
    assert_eq!(names, ["nvmx", "trace-cmd-6", "trace-cmd-7-zstd", "perf"]);
    for file in files {
        match file["missing"].as_str() {
            Some(why) => eprintln!("SKIPPED: {}: {why}", file["what"]),
            None => assert!(file["bytes"].as_f64() > Some(0.0) && file["text"].as_f64() > Some(0.0), "{file}"),
        }
    }
    assert!(files[0]["columns"].as_f64() > Some(0.0), "{}", files[0]);
}

#[test]
fn an_analysis_has_its_figures_beside_its_floors() {
    let folder = folder("bench-analysis");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "--log vmcs");
    let words = ["bench", "analysis", word(&trace), "--json", "--peers", "--long", "50000"];
    let said = nvmx(&words).expect(0).json();
    let of = &said["analysis"][0];
    assert_eq!((&said["trace"], &of["events"]), (&Value::Array(Vec::new()), &50_000.into()));
    let rows = of["rows"].as_array().expect("rows");
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().expect("a key")).collect();
    assert_eq!(names, ["report", "decode", "query", "memory"]);
    assert!(rows.iter().all(|row| row["value"].as_f64() > Some(0.0)), "{rows:?}");
    let counters = of["counters"].as_array().expect("counters");
    let names: Vec<_> = counters.iter().map(|of| of["name"].as_str().expect("a key")).collect();
    assert_eq!(names, ["nvmx", "trace-cmd", "perf"]);
    assert!(counters[0]["rate"].as_f64() > Some(0.0), "{}", counters[0]);
    for of in &counters[1..] {
        match of["missing"].as_str() {
            Some(why) => eprintln!("SKIPPED: {}: {why}", of["what"]),
            None => assert_eq!(of["agrees"], Value::Bool(true), "{of}"),
        }
    }
}

#[test]
fn a_gate_is_the_exit_status() {
    let folder = folder("bench-gate");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "--log vmcs");
    let words = ["bench", "trace", word(&trace), "--events", "2000", "--gate", "--json"];
    let ran = nvmx(&words);
    let held = ran.json()["held"].as_bool().expect("true or false");
    assert_eq!(ran.status, i32::from(!held), "{}", ran.err);
}

#[test]
fn a_table_for_people_says_what_the_floor_is() {
    let folder = folder("bench-table");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "--log exits");
    let out = nvmx(&["bench", "trace", word(&trace), "--events", "2000"]).expect(0).out;
    for words in ["this machine: ", "zstd -1 over the columns", "memcpy", "a ring in memory", ">= 20.0", "<= 12.0"] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_line() {
    let folder = folder("bench-refused");
    let file = folder.join("file");
    std::fs::write(&file, "no trace\n").unwrap();
    nvmx(&["bench", "trace", word(&file)]).expect(2).one_line(&["file"]);
    nvmx(&["bench", "trace", word(&folder.join("none"))]).expect(2).one_line(&["none"]);
    nvmx(&["bench", "startup"]).expect(2).one_line(&["startup"]);
}
