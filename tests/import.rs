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
    nvmx(&["report", word(&trace)]).expect(0);
    let replay = nvmx(&["replay", word(&trace)]).expect(2);
    assert_eq!(replay.err.lines().count(), 1, "{}", replay.err);
    assert!(replay.err.contains("imported from iris"), "{}", replay.err);
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
