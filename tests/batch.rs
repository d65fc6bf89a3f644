//! Many traces at once: `nvmx report` and `nvmx check` of a folder.

mod common;

use common::{command, folder, nvmx, record, word};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A folder with `a.nvmx` and `b.nvmx`, and `c.nvmx` in a folder in it.
fn three(name: &str) -> PathBuf {
    let folder = folder(name);
    record(&folder, "a.nvmx", "demo", "");
    record(&folder, "b.nvmx", "flush-storm", "--policy kvm-2015");
    fs::create_dir(folder.join("more")).unwrap();
    record(&folder.join("more"), "c.nvmx", "stale", "");
    folder
}

fn sum(rows: &Value, key: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[key].as_u64().unwrap_or(0)).sum()
}

/// The folder's numbers are those of the traces' own reports, added up.
#[test]
fn a_folder_is_the_sum_of_its_traces() {
    let folder = three("batch-sum");
    let batch = nvmx(&["report", word(&folder), "--format", "json"]).expect(0);
    assert_eq!(batch.err, "");
    let batch = batch.json();
    let rows = batch["comparison"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["trace"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.nvmx", "b.nvmx", "more/c.nvmx"]);
    for (row, file) in rows.iter().zip(["a.nvmx", "b.nvmx", "more/c.nvmx"]) {
        let file = folder.join(file);
        let own = nvmx(&["report", word(&file), "--format", "json"]).expect(0).json();
        assert_eq!(row["events"], own["events"]);
        assert_eq!(row["flushes"], own["flushes"]["total"]);
        assert_eq!(row["missing_flushes"], own["flushes"]["missing"]);
        assert_eq!(row["cycles"], own["cycles"]);
    }
    let sums = batch["batch"]["sums"].as_object().unwrap();
    assert!(sums.len() > 10, "{sums:?}");
    for (key, total) in sums {
        assert_eq!(total.as_u64(), Some(sum(&batch["comparison"], key)), "{key}");
    }
    assert!(!sums.contains_key("exits_per_l2_exit"), "a ratio is no sum");
    assert_eq!(sums["missing_flushes"], 1, "`stale` forgets one");
    // The same from one thread and from many, and named by a path with a dot.
    let dotted = format!("{}/.", word(&folder));
    for words in [vec!["--jobs", "1"], vec!["--jobs", "7"]] {
        let again = nvmx(&[&["report", &dotted, "--format", "json"], &words[..]].concat()).expect(0).json();
        assert_eq!(again, batch);
    }
}

#[test]
fn every_form_names_every_trace() {
    let folder = three("batch-forms");
    fs::write(folder.join("torn.nvmx"), b"nothing of ours").unwrap();
    let check = |format: &str, needs: &[&str]| {
        let ran = nvmx(&["report", "--format", format, word(&folder)]).expect(1);
        ran.one_line(&["torn.nvmx", "passed over", "not an nvmx trace"]);
        for needs in ["a.nvmx", "b.nvmx", "more/c.nvmx", "torn.nvmx"].iter().chain(needs) {
            assert!(ran.out.contains(needs), "{format} lacks {needs}: {}", ran.out);
        }
    };
    check("text", &["Broken traces: 1", "Traces with something wrong: 1", "By guest and policy"]);
    check("md", &["## 🔴 Broken traces: 1", "| a.nvmx |"]);
    check("html", &["<!doctype html>", "<table>"]);
    check("json", &["\"broken\":1", "\"why\":"]);
    check("csv", &["trace,section,item,measure,value", "a.nvmx,overview,,events,", "torn.nvmx,broken,"]);
}

/// `--each` writes the report of each trace, which the page of all leads to.
#[test]
fn each_trace_has_a_report_of_its_own() {
    let folder = three("batch-each");
    let (page, each) = (folder.join("all.html"), folder.join("pages of each"));
    nvmx(&["report", word(&folder), "--format", "html", "-o", word(&page), "--each", word(&each)]).expect(0);
    let all = fs::read_to_string(page).unwrap();
    for (trace, name) in [("a", "a.html"), ("b", "b.html"), ("more/c", "more/c.html")] {
        let own = nvmx(&["report", word(&folder.join(format!("{trace}.nvmx"))), "--format", "html"]).expect(0).out;
        let written = fs::read_to_string(each.join(name)).unwrap();
        // A trace of a folder is called by its place in it.
        let file = Path::new(trace).file_name().unwrap().to_str().unwrap();
        assert_eq!(written.replace(&format!("{trace}.nvmx"), &format!("{file}.nvmx")), own, "{name}");
        assert!(all.contains(&format!("href=\"pages%20of%20each/{name}\"")), "{name}");
    }
}

fn journal(output: &Path) -> PathBuf {
    PathBuf::from(format!("{}.journal", output.display()))
}

/// A batch that was killed goes on where it was: what it had read it does not read again, and what changed meanwhile it does.
#[test]
fn a_killed_batch_goes_on() {
    const TRACES: usize = 400;
    let folder = folder("batch-killed");
    let traces = folder.join("traces");
    fs::create_dir(&traces).unwrap();
    let small = record(&folder, "small.nvmx", "stale", "");
    for number in 0..TRACES {
        fs::copy(&small, traces.join(format!("{number:04}.nvmx"))).unwrap();
    }
    let output = folder.join("report.json");
    let words = ["report", word(&traces), "--format", "json", "--jobs", "1", "-o", word(&output)];
    let whole = {
        nvmx(&words).expect(0);
        assert!(!journal(&output).exists(), "it is gone when all is done");
        fs::read_to_string(&output).unwrap()
    };
    fs::remove_file(&output).unwrap();
    let mut child = command().args(words).stderr(Stdio::null()).spawn().unwrap();
    let lines = || fs::read_to_string(journal(&output)).map_or(0, |text| text.lines().count());
    let begun = Instant::now();
    while lines() < 20 && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it gets nowhere");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!output.exists(), "a report is whole or not there");
    let done = lines();
    assert!((20..TRACES).contains(&done), "{done} lines");
    // The first is spoilt behind our back, its size and its time as they were: nobody looks again. The second is spoilt for
    // all to see.
    let spoil = |name: &str, hidden: bool| {
        let path = traces.join(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let size = fs::metadata(&path).unwrap().len() as usize;
        fs::write(&path, vec![0; if hidden { size } else { size / 2 }]).unwrap();
        if hidden {
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
    };
    spoil("0000.nvmx", true);
    let ran = nvmx(&words).expect(0);
    assert_eq!(ran.err, "");
    assert_eq!(fs::read_to_string(&output).unwrap(), whole);
    // With nothing to go on with, it is seen.
    let ran = nvmx(&words).expect(1);
    ran.one_line(&["0000.nvmx", "passed over"]);
    // A journal with a torn end, and of a question that is another, does no harm.
    fs::copy(&small, traces.join("0000.nvmx")).unwrap();
    spoil("0001.nvmx", false);
    fs::write(journal(&output), "{\"nvmx\":\"0.0.1\"}\n{\"stamp\":[1,").unwrap();
    nvmx(&words).expect(1).one_line(&["0001.nvmx", "passed over"]);
}

#[test]
fn a_folder_that_has_no_trace_is_a_mistake() {
    let empty = folder("batch-empty");
    for command in [&["report"][..], &["check", "--max-missing-flushes", "0"]] {
        nvmx(&[command, &[word(&empty)]].concat()).expect(2).one_line(&["batch-empty", "no file that ends in .nvmx"]);
    }
    let absent = empty.join("absent");
    nvmx(&["report", word(&absent)]).expect(2).one_line(&["absent"]);
}

/// Thousands of traces; `NVMX_TRACES` says how many.
#[test]
fn thousands_of_traces() {
    let many: usize = std::env::var("NVMX_TRACES").map_or(500, |text| text.parse().expect("a number"));
    let folder = folder("batch-thousands");
    let small = record(&folder, "small.trace", "stale", "");
    for number in 0..many {
        // Some forty of a name: folders in the folder.
        let place = folder.join(format!("{:03}", number / 40));
        fs::create_dir_all(&place).unwrap();
        fs::hard_link(&small, place.join(format!("{number}.nvmx"))).unwrap();
    }
    let begun = Instant::now();
    let report = nvmx(&["report", word(&folder), "--format", "json"]).expect(0).json();
    println!("{many} traces: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(report["batch"]["traces"], many);
    let first = &report["comparison"][0];
    assert_eq!(report["batch"]["sums"]["events"].as_u64().unwrap(), first["events"].as_u64().unwrap() * many as u64);
    // Reports for readers stay readable.
    let text = nvmx(&["report", word(&folder)]).expect(0).out;
    assert!(text.lines().count() < 200 && text.contains("others"), "{}", text.lines().count());
    let page = nvmx(&["report", word(&folder), "--format", "html"]).expect(0).out;
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
}

#[test]
fn the_gate_of_a_folder_and_its_xml() {
    let folder = three("batch-gate");
    let xml = folder.join("gate.xml");
    let words = ["check", word(&folder), "--max-missing-flushes", "0", "--max-mistakes", "0", "--junit", word(&xml)];
    let ran = nvmx(&words).expect(1);
    assert!(ran.out.contains("pass  a.nvmx: missing-flushes: 0, limit 0"), "{}", ran.out);
    assert!(ran.out.contains("FAIL  more/c.nvmx: missing-flushes: 1 exceeds the limit of 0"), "{}", ran.out);
    let text = fs::read_to_string(&xml).unwrap();
    assert!(text.starts_with("<?xml version=\"1.0\""), "{text}");
    for needs in [
        "<testsuites name=\"nvmx check\" tests=\"6\" failures=\"1\" errors=\"0\" skipped=\"0\">",
        "<testsuite name=\"more/c.nvmx\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\">",
        "<testcase classname=\"a.nvmx\" name=\"mistakes\"/>",
        "<failure type=\"limit\" message=\"missing-flushes: 1 exceeds the limit of 0\"/>",
    ] {
        assert!(text.contains(needs), "{needs} is not in {text}");
    }
    // What cannot be read is no pass.
    fs::write(folder.join("<torn> & \"done\".nvmx"), b"").unwrap();
    let ran = nvmx(&[&words[..], &["--json"]].concat()).expect(2);
    ran.one_line(&["torn", "not checked"]);
    let json = ran.json();
    assert_eq!(json["passed"], false);
    assert_eq!(json["traces"].as_array().unwrap().len(), 4);
    assert!(json["traces"][0]["error"].is_string(), "{json}");
    let text = fs::read_to_string(&xml).unwrap();
    assert!(text.contains("errors=\"1\"") && text.contains("&lt;torn&gt; &amp; &quot;done&quot;.nvmx"), "{text}");
}
