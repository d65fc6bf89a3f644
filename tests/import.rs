//! `nvmx import` from end to end: what the other commands make of an imported trace.

mod common;

use common::{folder, nvmx, word};

#[test]
fn imported_seeds_are_read_by_every_command_but_replay() {
    let folder = folder("import");
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    let trace = folder.join("seeds.nvmx");
    let import = nvmx(&["import", seeds, "--from", "iris", "-o", word(&trace)]).expect(0);
    assert!(import.err.contains("imported"), "{}", import.err);
    nvmx(&["verify", word(&trace)]).expect(0);
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!((&info["clock"], &info["origin"]["source"]), (&"exits".into(), &"iris".into()), "{info}");
    assert_eq!((&info["counts"]["exit"], &info["counts"]["registers"]), (&20.into(), &20.into()), "{info}");
    let shown = nvmx(&["info", word(&trace)]).expect(0).out;
    assert!(shown.contains("iris-20-exits.txt, from iris") && shown.contains("20 exits"), "{shown}");
    let query = "SELECT COUNT(*) AS n FROM registers WHERE rdx = 128";
    let answer = nvmx(&["query", word(&trace), query, "--format", "csv"]).expect(0).out;
    assert!(answer.starts_with("n\n") && answer != "n\n0\n", "{answer}");
    let replay = nvmx(&["replay", word(&trace)]).expect(2);
    assert_eq!(replay.err.lines().count(), 1, "{}", replay.err);
    assert!(replay.err.contains("imported from iris"), "{}", replay.err);
}

/// Seeds tell of exits and VMCS accesses alone, and have no time.
#[test]
fn commands_say_what_an_imported_trace_is_and_what_it_does_not_tell() {
    let folder = folder("import-untold");
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    let trace = folder.join("seeds.nvmx");
    nvmx(&["import", seeds, "--from", "iris", "-o", word(&trace)]).expect(0);
    let says = |words: &[&str], expected: &[&str], never: &[&str]| {
        let out = nvmx(words).expect(0).out;
        expected.iter().for_each(|text| assert!(out.contains(text), "{words:?}: no '{text}' in {out}"));
        never.iter().for_each(|text| assert!(!out.contains(text), "{words:?}: '{text}' in {out}"));
    };
    let trace = word(&trace);
    says(&["info", trace], &["from iris", "clock         exits"], &["policy", "machine", "memory", "instruction"]);
    let untold = ["from iris", "What cannot be judged", "Flushes: ", "The vmcs02 pool: ", "VM entries: "];
    for format in ["text", "md", "html"] {
        let never =
            ["redundant flushes", "missing flushes", "cycles p50", "run before", "policy", "VMCS accesses: redundant"];
        says(&["report", trace, "--format", format], &untold, &never);
        says(&["report", trace, trace, "--format", format], &["imported from iris, times are exits"], &[]);
    }
    says(
        &["report", trace, "--format", "csv"],
        &["overview,,l1_exits,20", "overview,,vmwrites,"],
        &["overview,,flushes", "overview,,redundant", "overview,,cycles", "overview,,pool", "overview,,instructions"],
    );
    let report = nvmx(&["report", trace, "--format", "json"]).expect(0).json();
    assert_eq!((&report["clock"], &report["origin"]["source"]), (&"exits".into(), &"iris".into()));
    assert_eq!(report["untold"], serde_json::json!(["entry", "flush", "pool", "vpid", "ept"]));
    for key in ["guest", "policy", "instructions", "cycles", "flushes", "pool", "vpids"] {
        assert!(report[key].is_null(), "{key} in {report}");
    }
    assert!(report["vmcs"]["writes"].as_u64() > Some(0), "{report}");
    let info = nvmx(&["info", "--json", trace]).expect(0).json();
    assert!(info["config"].is_null() && info["instructions"].is_null() && info["last"] == 20, "{info}");
    let gate = ["check", trace, "--max-redundant-flushes", "0", "--max-pool-misses", "0"];
    says(&gate, &["pass  redundant-flushes: the trace was imported from iris, which does not tell, limit 0"], &[]);
    let gates = nvmx(&[&gate[..], &["--json"]].concat()).expect(0).json();
    assert!(gates["gates"][0]["value"].is_null() && gates["gates"][1]["value"].is_null(), "{gates}");
    says(
        &["diff", trace, trace],
        &["origin: imported from iris, times are exits, both", "are equal"],
        &["configuration"],
    );
    says(&["query", trace], &["-- The trace was imported from iris: `instruction` counts exits.", "exits: "], &[]);
    let recorded = common::record(&folder, "stale.nvmx", "stale", "");
    let other = nvmx(&["diff", trace, word(&recorded)]).expect(1).out;
    assert!(other.starts_with("origin: imported from iris, times are exits and recorded by nvmx\n"), "{other}");
    assert!(!other.contains("configuration"), "{other}");
}

#[test]
fn what_cannot_be_imported_is_refused_in_one_line() {
    let folder = folder("import-refused");
    let (file, trace) = (folder.join("file"), folder.join("trace.nvmx"));
    std::fs::write(&file, "no seeds\n").unwrap();
    for source in ["iris", "trace-cmd", "perf"] {
        let refused = nvmx(&["import", word(&file), "--from", source, "-o", word(&trace)]).expect(2);
        assert_eq!(refused.err.lines().count(), 1, "{source}: {}", refused.err);
        assert!(!trace.exists(), "{source}");
    }
    let none = folder.join("none");
    nvmx(&["import", word(&none), "--from", "perf", "-o", word(&trace)]).expect(2);
    nvmx(&["import", word(&file), "--from", "other", "-o", word(&trace)]).expect(2);
}
