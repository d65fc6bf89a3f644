//! `nvmx bench` from end to end, and the README's figures, which are made of what it printed.

mod common;
#[path = "common/guest.rs"]
mod guest;
#[path = "../examples/figures/section.rs"]
mod section;

use common::{command, finish, folder, line, nvmx, record, word};
use guest::or_skip;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The budgets, in their order.
const BUDGETS: [&str; 15] = [
    "cpu",
    "round-trip",
    "cpuid",
    "out",
    "recording",
    "event",
    "bytes-vmcs",
    "bytes-exit",
    "replay",
    "replay-l0",
    "seek",
    "analysis",
    "inspector",
    "memory",
    "clone",
];

/// The parts.
const PARTS: [&str; 9] = ["cpu", "nested", "record", "trace", "replay", "seek", "analysis", "inspector", "clone"];

/// The rows of `nvmx bench trace`, by their keys.
const ROWS: [&str; 7] =
    ["hand-over", "encode", "decode", "decode-decompressed", "bytes-vmcs", "bytes-exit", "bytes-event"];

/// `nvmx bench` with these words, on a machine with a C compiler and no other program, and without a guest.
fn alone(words: &[&str]) -> Command {
    let tools = folder(&format!("bench-path-{}", words.join("-").replace(['/', ' '], "-")));
    for tool in ["sh", "cc", "as", "ld", "rm", "cp", "truncate", "dirname"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.is_file());
        std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("there is no {tool}")), tools.join(tool)).unwrap();
    }
    let mut command = command();
    command.arg("bench").args(words).env("PATH", tools);
    for variable in ["NVMX_LINUX_GUEST", "NVMX_BOCHS", "NVMX_QEMU"] {
        command.env_remove(variable);
    }
    command
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn named<'a>(rows: &'a Value, name: &str) -> &'a Value {
    list(rows).iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}: {rows}"))
}

/// A row's own sums: its ratio, whether its budget held, its peers.
fn check(row: &Value) {
    let Some(value) = row["value"].as_f64() else {
        assert!(row["missing"].as_str().is_some_and(|why| !why.is_empty()), "{row}");
        assert_eq!(row["held"], Value::Null, "{row}");
        return;
    };
    assert!(value.is_finite() && row["missing"].is_null(), "{row}");
    let (unit, floor) = (row["unit"].as_str().expect("a unit"), row["floor"].as_f64());
    let rate = unit.ends_with("/s");
    if let Some(floor) = floor {
        assert!(!row["floor_is"].as_str().expect("what the floor is").is_empty(), "{row}");
        let ratio = match unit {
            "%" => (100.0 + value) / (100.0 + floor),
            _ if rate => floor / value,
            _ => value / floor,
        };
        assert!((row["ratio"].as_f64().expect("a ratio") / ratio - 1.0).abs() < 1e-9, "{row}");
    }
    let held = match (row["at_most"].as_f64(), row["at_least"].as_f64(), row["times_bochs"].as_f64()) {
        (Some(limit), None, None) => Value::Bool(value <= limit),
        (None, Some(limit), None) => Value::Bool(value >= limit),
        (None, None, None) => Value::Null,
        // Of a Bochs without its debugger, which the tests do not count on.
        (None, None, Some(_)) => row["held"].clone(),
        several => panic!("several budgets: {several:?}"),
    };
    assert_eq!(row["held"], held, "{row}");
    for peer in list(&row["peers"]) {
        match peer["value"].as_f64() {
            Some(theirs) => {
                let ours = peer["beside"].as_f64().unwrap_or(value);
                let times = if rate { ours / theirs } else { theirs / ours };
                assert!((peer["times"].as_f64().expect("how many times") / times - 1.0).abs() < 1e-9, "{peer}");
            }
            None => assert!(peer["missing"].as_str().is_some_and(|why| !why.is_empty()), "{peer}"),
        }
    }
}

/// Every row of every part, and that `held` says whether none is missed.
fn check_all(said: &Value) {
    let mut held = true;
    for part in PARTS {
        for row in list(&said[part]).iter().flat_map(|of| list(&of["rows"])) {
            check(row);
            held &= row["held"] != Value::Bool(false);
        }
    }
    list(&said["budgets"]).iter().for_each(check);
    assert_eq!(said["held"], Value::Bool(held));
}

#[test]
fn every_budget_has_its_line_and_every_part_its_rows() {
    let folder = folder("bench-all");
    let file = folder.join("figures.json");
    let ran = finish(&mut alone(&["--quick", "--long", "200000", "-o", word(&file)])).expect(0);
    let said: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).expect("JSON");
    let names: Vec<_> = list(&said["budgets"]).iter().map(|row| row["name"].as_str().expect("a key")).collect();
    assert_eq!(names, BUDGETS);
    check_all(&said);
    assert_eq!(said["quick"], Value::Bool(true));
    for key in ["cpus", "model", "kernel", "memory_mib"] {
        assert!(said["machine"].get(key).is_some(), "{}", said["machine"]);
    }
    // What needs a Linux guest or builds for minutes says so, all else has a figure on the built-in guests.
    for row in list(&said["budgets"]) {
        let needs = match row["name"].as_str() {
            Some("cpu" | "cpuid" | "out") => "--guest DIR",
            Some("clone") => "--source DIR",
            _ => "",
        };
        match needs {
            "" => assert!(row["value"].is_number() && (row["floor"].is_number()), "{row}"),
            needs => assert!(row["missing"].as_str().is_some_and(|why| why.contains(needs)), "{row}"),
        }
    }
    for part in PARTS {
        let measured = list(&said[part]);
        assert!(!measured.is_empty() && measured.iter().all(|of| !list(&of["rows"]).is_empty()), "{part}");
    }
    // Programs that are not there are said to be so, with what brings them.
    let missing = |row: &Value, name: &str, package: &str| {
        let peers = &row["peers"];
        let why = named(peers, name)["missing"].as_str().expect("why there is none");
        assert_eq!(why, format!("not installed: apt-get install {package}"), "{peers}");
    };
    missing(named(&said["budgets"], "round-trip"), "bochs", "bochs bochsbios vgabios");
    missing(named(&said["budgets"], "bytes-exit"), "trace-cmd-6", "trace-cmd");
    missing(named(&said["budgets"], "bytes-exit"), "perf", "linux-perf");
    missing(named(&said["budgets"], "analysis"), "trace-cmd", "trace-cmd");
    missing(named(&said["budgets"], "analysis"), "perf", "linux-perf");
    // The derived counts of the guest `nest`: hv/src/guests/nest.rs.
    let nested = &said["nested"][0]["rows"];
    for (way, by_l1) in [("off", 38.0), ("emulated", 9.0), ("virtualized", 9.0)] {
        assert_eq!(named(nested, &format!("shadowing-{way}"))["value"].as_f64(), Some(by_l1), "{nested}");
    }
    // The same for people: a line for each budget, why there is no figure, and who is missing.
    for words in
        ["one event recorded", "not measured: it needs a Linux guest", "Bochs: not installed: apt-get install bochs"]
    {
        assert!(ran.out.contains(words), "'{words}' is not in: {}", ran.out);
    }
    // Nothing of it names a file of this machine.
    assert!(!said.to_string().contains(word(&folder)), "{said}");
}

#[test]
fn a_linux_guest_gives_the_figures_that_need_one() {
    let made = guest::linux().and_then(|linux| Ok((guest::kvm(&linux)?, linux)));
    let Some((kvm, linux)) = or_skip(&made) else { return };
    let folder = folder("bench-linux");
    let link = |name: &str, to: &Path| {
        std::os::unix::fs::symlink(to.canonicalize().expect("it is there"), folder.join(name)).expect("a link");
    };
    link("vmlinuz", &linux.kernel());
    link("initrd.img", &linux.initrd());
    link("host", &linux.folder.join("host"));
    link("kvm.img", kvm);
    let words = ["cpu", "nested", "record", "replay", "--quick", "--json", "--guest", word(&folder)];
    let said = finish(&mut alone(&words)).expect(0).json();
    check_all(&said);
    for name in ["cpu", "round-trip", "cpuid", "out", "recording", "replay", "replay-l0"] {
        assert!(named(&said["budgets"], name)["value"].is_number(), "{}", said["budgets"]);
    }
    let (plain, all) = (named(&said["cpu"][0]["rows"], "plain"), named(&said["cpu"][0]["rows"], "all"));
    assert!(plain["floor"].as_f64() > plain["value"].as_f64(), "the host's own CPU is slower: {plain}");
    assert!(all["more"]["millions"].as_f64() > plain["more"]["millions"].as_f64(), "{all}");
    for peer in list(&plain["peers"]) {
        assert!(peer["missing"].is_string(), "{peer}");
    }
    assert_eq!(said["record"][0]["name"], "Linux with KVM");
}

/// A checkout that takes less long to build than nvmx: what counts is that it is cloned, built and run.
#[test]
fn a_fresh_clone_is_built_and_its_demo_run() {
    let source = folder("bench-source");
    let write = |name: &str, text: &str| std::fs::write(source.join(name), text).expect("it can be written");
    write(
        "Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\n[[bin]]\nname = \"tiny\"\npath = \"main.rs\"\n",
    );
    write("Cargo.lock", "version = 4\n[[package]]\nname = \"tiny\"\nversion = \"0.1.0\"\n");
    write("main.rs", "fn main() { assert!(std::env::args().nth(1).as_deref() == Some(\"demo\")) }\n");
    let git = |words: &[&str]| {
        let named = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"];
        Command::new("git")
            .args(named)
            .arg("-C")
            .arg(&source)
            .args(words)
            .output()
            .is_ok_and(|ran| ran.status.success())
    };
    if !(git(&["init", "--quiet"]) && git(&["add", "."]) && git(&["commit", "--quiet", "-m", "tiny"])) {
        eprintln!("SKIPPED, there is no git");
        return;
    }
    let said = nvmx(&["bench", "clone", "--json", "--source", word(&source)]).expect(0).json();
    let row = named(&said["budgets"], "clone");
    assert!(row["value"].as_f64() > Some(0.0) && row["held"] == Value::Bool(true), "{row}");
    // One that does not build, and one that is none.
    write("main.rs", "fn main() { nothing }\n");
    assert!(git(&["commit", "--quiet", "-am", "broken"]));
    nvmx(&["bench", "clone", "--source", word(&source)]).expect(3).one_line(&["the build failed"]);
    nvmx(&["bench", "clone", "--source", word(&source.join("none"))]).expect(3).one_line(&["git clone failed"]);
}

#[test]
fn the_trace_format_has_a_figure_for_each_budget() {
    let folder = folder("bench");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "--log vmcs");
    let said = nvmx(&["bench", "trace", word(&trace), "--json", "--peers"]).expect(0).json();
    let of = &said["trace"][0];
    let rows = list(&of["rows"]);
    assert_eq!(rows.iter().map(|row| row["name"].as_str().expect("a key")).collect::<Vec<_>>(), ROWS);
    assert!(rows.iter().all(|row| row["value"].as_f64() > Some(0.0) && row["floor"].as_f64() > Some(0.0)), "{rows:?}");
    check_all(&said);
    // Budgets are of the parts that were named.
    let names: Vec<_> = list(&said["budgets"]).iter().map(|row| row["name"].as_str().expect("a key")).collect();
    assert_eq!(names, ["event", "bytes-vmcs", "bytes-exit"]);
    // What a whole trace takes for an event is not far from what its file does.
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!(of["events"], info["events"]);

    let files = list(&of["peers"]["files"]);
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
    let rows = list(&of["rows"]);
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().expect("a key")).collect();
    assert_eq!(names, ["report", "decode", "query", "memory"]);
    assert!(rows.iter().all(|row| row["value"].as_f64() > Some(0.0)), "{rows:?}");
    check_all(&said);
    let counters = list(&of["counters"]);
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
    let ran = nvmx(&["bench", "trace", word(&trace), "--events", "2000", "--gate", "--json"]);
    let held = ran.json()["held"].as_bool().expect("true or false");
    assert_eq!(ran.status, i32::from(!held), "{}", ran.err);
    // Of 172 VMCS accesses, the block's head alone takes more than 1.5 bytes each: missed on any machine.
    let short = record(&folder, "short.nvmx", "demo", "--log vmcs --max-instructions 50");
    let bytes = |ran: &common::Ran| named(&ran.json()["budgets"], "bytes-vmcs")["held"].clone();
    let ran = nvmx(&["bench", "trace", word(&short), "--json"]).expect(0);
    assert_eq!(bytes(&ran), Value::Bool(false), "{}", ran.out);
    assert_eq!(bytes(&nvmx(&["bench", "trace", word(&short), "--gate", "--json"]).expect(1)), Value::Bool(false));
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
    line("bench startup").expect(2).one_line(&["startup", "inspector"]);
    let trace = record(&folder, "demo.nvmx", "demo", "--log exits");
    nvmx(&["bench", "record", word(&trace)]).expect(2).one_line(&["record", "demo.nvmx"]);
    nvmx(&["bench", "cpu", "--guest", word(&folder)]).expect(2).one_line(&["vmlinuz", "linux.sh"]);
    let (none, trace) = (folder.join("none").join("out.json"), word(&trace));
    nvmx(&["bench", "trace", trace, "--events", "1000", "-o", word(&none)]).expect(3).one_line(&["out.json"]);
}

/// The texts in it that have a file's whole path.
fn paths(value: &Value) -> Vec<String> {
    match value {
        Value::String(text)
            if text.split([' ', '\'', '(']).any(|word| word.starts_with('/') && word[1..].contains('/')) =>
        {
            vec![text.clone()]
        }
        Value::Array(values) => values.iter().flat_map(paths).collect(),
        Value::Object(values) => values.values().flat_map(paths).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_readme_has_the_figures_of_the_file() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).expect("it can be read");
    let figures: Value = serde_json::from_str(&read("benches/figures.json")).expect("JSON");
    let readme = read("README.md");
    let (_, rest) = readme.split_once(section::BEGIN).expect("where the figures begin");
    let (there, _) = rest.split_once(section::END).expect("where they end");
    let made = format!("\n{}", section::section(&figures));
    assert!(there == made, "run `cargo run --release --example figures`, which makes:{made}and not:{there}");
    // Every budget is in it, and nothing that names a machine's files.
    let names: Vec<_> = list(&figures["budgets"]).iter().map(|row| row["name"].as_str().expect("a key")).collect();
    assert_eq!(names, BUDGETS);
    for row in list(&figures["budgets"]) {
        assert!(there.contains(row["what"].as_str().expect("what it is")), "{row}");
        check(row);
    }
    assert_eq!(paths(&figures), Vec::<String>::new());
}
