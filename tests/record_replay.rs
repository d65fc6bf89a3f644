//! Record, replay, same events: the property that all else stands on.

mod common;

use common::{command, finish, folder, line, nvmx, record, word};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use traces::{Reader, Writer};

const GUESTS: &[&str] =
    &["demo", "flush-storm", "handover", "multiplication", "nest", "pool-thrash", "resync", "stale", "witness"];

#[test]
fn the_guests_are_listed() {
    let listed = line("guests").expect(0).out;
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, GUESTS);
    assert!(listed.lines().all(|line| line.len() > 20), "each has a line that says what it does: {listed}");
}

#[test]
fn two_recordings_are_the_same_bytes_and_replay_is_identical() {
    let folder = folder("same");
    for guest in GUESTS {
        for policy in ["kvm-2011", "kvm-2015", "mapped"] {
            for log in ["exits", "vmcs"] {
                let options = format!("--policy {policy} --log {log}");
                let a = record(&folder, "a.nvmx", guest, &options);
                let b = record(&folder, "b.nvmx", guest, &options);
                assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{guest} {options}: the same bytes");
                let same = nvmx(&["replay", word(&a)]).expect(0).out;
                assert!(same.starts_with("identical: "), "{guest} {options}: {same}");
                nvmx(&["diff", word(&a), word(&b)]).expect(0);
            }
        }
    }
}

#[test]
fn a_thousand_runs_and_one_digest() {
    let folder = folder("thousand");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let text = nvmx(&["replay", "--runs", "1000", word(&trace)]).expect(0).out;
    assert!(text.starts_with("1,000 identical runs") && text.contains("one digest"), "{text}");
    let once = nvmx(&["replay", "--json", word(&trace)]).expect(0).json();
    assert_eq!((&once["identical"], &once["runs"]), (&true.into(), &1.into()));
    assert!(text.contains(once["digest"].as_str().unwrap()), "the same digest each time");
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    for key in ["events", "instructions"] {
        assert_eq!(once[key], info[key], "{key}");
    }
    assert_eq!((&once["stop"]["kind"], &once["stop"]["code"]), (&"debug-exit".into(), &1.into()));
}

#[test]
fn a_trace_of_another_build_says_which_part_differs_before_it_is_replayed() {
    let folder = folder("build");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let parts = nvmx(&["info", "--json", word(&trace)]).expect(0).json()["parts"].clone();
    let parts = parts.as_object().expect("parts").clone();
    assert_eq!(parts.len(), 5, "{parts:?}");
    let own = nvmx(&["replay", "--json", word(&trace)]).expect(0);
    assert_eq!((own.err.as_str(), &own.json()["other_parts"]), ("", &json!([])));
    let reader = Reader::open(&trace).expect("a trace");
    let other = folder.join("other.nvmx");
    // Who made it, what it says of that, and whether an event is another too.
    for (made, differ, says, altered) in [
        (true, &["cpu"][..], "whose cpu is not this one's", false),
        (true, &["cpu", "l0", "guests"], "whose cpu, l0 and guests are not this one's", true),
        (false, &[], "does not say of what parts", true),
    ] {
        let mut header = reader.header().clone();
        if made {
            let others = header.parts.iter_mut().filter(|part| differ.contains(&&*part.name));
            others.for_each(|part| part.digest = "0".repeat(16));
        } else {
            header.parts.clear();
            header.build = "0.0.9".into();
        }
        let mut writer = Writer::create(fs::File::create(&other).expect("made"), &header).expect("begun");
        for (number, event) in reader.events(0).enumerate() {
            let mut event = event.expect("sound");
            event.at.pcpu += u16::from(altered && number == 100);
            writer.push(&event).expect("written");
        }
        writer.finish().expect("written");
        let replay = nvmx(&["replay", word(&other)]).expect(if altered { 1 } else { 0 });
        replay.one_line(&["was recorded by another build", says, "configuration, policy and inputs are the trace's"]);
        assert_eq!(altered, replay.out.contains(says), "{}", replay.out);
        let json = nvmx(&["replay", "-q", "--json", word(&other)]).json();
        assert_eq!(json["other_parts"], if made { json!(differ) } else { json!(null) });
    }
}

#[test]
fn replay_up_to_an_event() {
    let folder = folder("to");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    for to in [0, 1, 100] {
        let json = nvmx(&["replay", "--json", "--to", &to.to_string(), word(&trace)]).expect(0).json();
        assert_eq!((&json["identical"], &json["events"]), (&true.into(), &(to + 1).into()));
    }
    let len = nvmx(&["info", "--json", word(&trace)]).expect(0).json()["events"].as_u64().unwrap();
    nvmx(&["replay", "--to", &(len - 1).to_string(), word(&trace)]).expect(0);
    nvmx(&["replay", "--to", &len.to_string(), word(&trace)]).expect(2).one_line(&["--to", &len.to_string()][1..]);
}

#[test]
fn different_policies_differ_and_diff_says_where() {
    let folder = folder("policies");
    let a = record(&folder, "a.nvmx", "flush-storm", "--policy kvm-2011");
    let b = record(&folder, "b.nvmx", "flush-storm", "--policy mapped");
    let diff = nvmx(&["diff", word(&a), word(&b)]).expect(1).out;
    for says in ["configuration: policy.preset", "differs in", "flush"] {
        assert!(diff.contains(says), "'{says}' is not in: {diff}");
    }
    let json = nvmx(&["diff", "--json", word(&a), word(&b)]).expect(1).json();
    assert_eq!(json["configuration"]["policy.preset"], serde_json::json!({ "a": "kvm-2011", "b": "mapped" }));
    let first = json["first"]["event"].as_u64().unwrap();
    assert!(diff.contains(&format!("event {first} differs in {}", json["first"]["field"].as_str().unwrap())));
    for key in ["a", "b"] {
        assert_eq!(json["first"][key]["event"], first);
    }
}

/// The same guest but for one mistake at the end: the events before it are shown, and are in both.
#[test]
fn diff_shows_the_way_to_the_first_difference() {
    let folder = folder("diff-context");
    let a = record(&folder, "a.nvmx", "witness", "--policy kvm-2018");
    let b = record(&folder, "b.nvmx", "witness", "--policy kvm-2018 --fault vpid-leaked");
    let diff = nvmx(&["diff", "-c", "5", word(&a), word(&b)]).expect(1).out;
    let first = nvmx(&["diff", "--json", word(&a), word(&b)]).expect(1).json()["first"]["event"].as_u64().unwrap();
    assert!(first > 5);
    let lines = |trace| {
        let from = (first - 5).to_string();
        nvmx(&["dump", "--from", &from, "--count", "5", word(trace)]).expect(0).out
    };
    assert_eq!(lines(&a), lines(&b));
    let shown: String = lines(&a).lines().map(|line| format!("  {line}\n")).collect();
    assert!(diff.contains(&format!("{shown}event {first} differs")), "{diff}");
}

/// The one L1 moves data for its L2 by port I/O, and the other has flushes.
#[test]
fn diff_says_of_which_exits_there_are_more() {
    let folder = folder("diff-exits");
    let a = record(&folder, "a.nvmx", "demo", "");
    let b = record(&folder, "b.nvmx", "flush-storm", "");
    let exits = nvmx(&["diff", "--json", word(&a), word(&b)]).expect(1).json()["exits"].clone();
    let exits = exits.as_array().unwrap();
    assert!(exits.iter().any(|exit| exit["reason"] == "IO_INSTRUCTION" && exit["a"].as_u64() > exit["b"].as_u64()));
    assert!(exits.iter().any(|exit| exit["reason"] == "INVEPT" && exit["a"].as_u64() < exit["b"].as_u64()));
    for (trace, key) in [(&a, "a"), (&b, "b")] {
        let sql = "SELECT level, reason, handled_by, COUNT(*) AS n FROM exits GROUP BY level, reason, handled_by";
        let rows = nvmx(&["query", word(trace), sql, "--format", "json"]).expect(0).out;
        let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        for exit in exits {
            let same =
                |row: &&serde_json::Value| ["level", "reason", "handled_by"].iter().all(|key| row[*key] == exit[*key]);
            let counted = rows.iter().find(same).map_or(0, |row| row["n"].as_u64().unwrap());
            assert_eq!(exit[key], counted, "{exit}");
        }
    }
    let text = nvmx(&["diff", word(&a), word(&b)]).expect(1).out;
    assert!(text.contains("\n  L1 INVEPT by L0 "), "{text}");
}

#[test]
fn the_console_is_stdin_and_stdout() {
    // What it prints is derived beside its code: 130816 * 10 + 2048 * 65 in A's first round.
    let ran = line("run demo").expect(0);
    assert!(ran.out.contains("1441280") && ran.out.contains("5629440"), "{}", ran.out);
    let last = ran.out.lines().last().unwrap();
    assert!(last.contains("isa-debug-exit") && last.contains("status 1"), "{last}");
    assert_eq!(ran.err, "");
    // Recorded, it prints the same; with -q nothing but the console is printed.
    let folder = folder("console");
    let trace = folder.join("demo.nvmx");
    let recorded = nvmx(&["record", "demo", "-o", word(&trace)]).expect(0);
    assert_eq!(recorded.out, ran.out);
    let quiet = line("run -q demo").expect(0).out;
    assert_eq!(format!("{quiet}{last}\n"), ran.out);
    // It can be stopped by what it shows.
    let stopped = line("run demo --stop-on 1441280").expect(0).out;
    assert!(stopped.contains("1441280") && !stopped.contains("5629440"), "{stopped}");
    assert!(stopped.lines().last().unwrap().contains("the console showed"), "{stopped}");
}

#[test]
fn typed_input_is_recorded_and_replayed() {
    let folder = folder("input");
    let (trace, keys) = (folder.join("typed.nvmx"), folder.join("keys"));
    fs::write(&keys, "hello\n").unwrap();
    // The machine asks for input when a slice ends.
    let words = ["record", "demo", "--slice", "1000", "-o", word(&trace)];
    let by_file = nvmx(&[&words[..], &["--input", word(&keys)]].concat()).expect(0);
    let inputs = "SELECT kind, value FROM inputs";
    let typed = nvmx(&["query", word(&trace), inputs, "--format", "csv"]).expect(0).out;
    let want: String = "hello\n".bytes().map(|byte| format!("console,{byte}\n")).collect();
    assert_eq!(typed, format!("kind,value\n{want}"));
    nvmx(&["replay", word(&trace)]).expect(0);
    // Two recordings with the same input are the same too.
    let again = folder.join("again.nvmx");
    nvmx(&["record", "demo", "--slice", "1000", "--input", word(&keys), "-o", word(&again)]).expect(0);
    assert!(fs::read(&trace).unwrap() == fs::read(&again).unwrap());
    // From a pipe, when it comes is the world's business; that it replays is ours.
    let mut child =
        command().args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&out.stdout), by_file.out);
    nvmx(&["replay", word(&trace)]).expect(0);
    nvmx(&["run", "demo", "--input", "/nowhere/at/all"]).expect(2).one_line(&["/nowhere/at/all"]);
}

#[test]
fn the_limit_of_instructions_is_exact() {
    let folder = folder("limit");
    let trace = record(&folder, "short.nvmx", "demo", "--max-instructions 10000");
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!(info["instructions"], 10000);
    assert_eq!(info["config"]["max_instructions"], 10000);
    let replay = nvmx(&["replay", "--json", word(&trace)]).expect(0).json();
    assert_eq!(replay["stop"]["kind"], "max-instructions");
}

#[test]
fn dump_chooses() {
    let folder = folder("dump");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let all = nvmx(&["dump", word(&trace)]).expect(0).out;
    let all: Vec<_> = all.lines().collect();
    let info = nvmx(&["info", "--json", word(&trace)]).expect(0).json();
    assert_eq!(all.len() as u64, info["events"].as_u64().unwrap());
    let some = nvmx(&["dump", "--from", "50", "--count", "7", word(&trace)]).expect(0).out;
    assert_eq!(some.lines().collect::<Vec<_>>(), all[50..57]);
    let json = nvmx(&["dump", "--json", "--kind", "exit,pool", word(&trace)]).expect(0).out;
    let rows: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let count = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count() as u64;
    for kind in ["exit", "pool"] {
        assert_eq!(count(kind), info["counts"][kind].as_u64().unwrap(), "{kind}");
    }
    assert_eq!(count("exit") + count("pool"), rows.len() as u64);
    // A reader that leaves early is no error.
    let mut child =
        command().args(["dump", word(&trace)]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn the_demo_tells_what_it_found_and_where() {
    let folder = folder("demo");
    let tell = || finish(command().arg("demo").current_dir(&folder)).expect(0);
    let ran = tell();
    assert_eq!(ran.err, "", "quiet in a pipe");
    assert!(ran.out.lines().count() <= 16, "{}", ran.out);
    for says in ["Recorded", "Replayed", "identical", "Found", "nvmx-demo/report.html", "nvmx tui", "nvmx query"] {
        assert!(ran.out.contains(says), "'{says}' is not in: {}", ran.out);
    }
    let html = fs::read_to_string(folder.join("nvmx-demo/report.html")).unwrap();
    assert!(html.contains("</html>"));
    nvmx(&["replay", word(&folder.join("nvmx-demo/demo.nvmx"))]).expect(0);
    // A second one takes a fresh folder; with -o, that one.
    assert!(tell().out.contains("nvmx-demo-2/report.html"));
    let chosen = folder.join("a/b");
    nvmx(&["demo", "-o", word(&chosen)]).expect(0);
    assert!(chosen.join("report.html").exists() && chosen.join("demo.nvmx").exists());
}

#[test]
fn l0_alone_is_replayed_and_a_mistake_of_its_shows() {
    let folder = folder("l0");
    let trace = record(&folder, "l0.nvmx", "demo", "--policy kvm-2018 --log l0");
    let same = nvmx(&["replay", "--l0", word(&trace)]).expect(0).out;
    assert!(same.starts_with("identical: ") && same.contains("L0 alone"), "{same}");
    assert!(nvmx(&["replay", word(&trace)]).expect(0).out.starts_with("identical: "), "in full too");
    let object = nvmx(&["replay", "--l0", "--json", "--runs", "3", word(&trace)]).expect(0).json();
    assert_eq!((&object["identical"], &object["runs"], &object["failure"]), (&true.into(), &3.into(), &().into()));
    let changed = nvmx(&["replay", "--l0", "--fault", "ept02-unsynced", word(&trace)]).expect(1).out;
    assert!(changed.starts_with("event ") && changed.contains("\nreplayed "), "{changed}");
    let held = nvmx(&["replay", "--l0", "--mutate", "1", "--runs", "5", word(&trace)]).expect(0).out;
    assert!(held.starts_with("L0 held in 5 runs"), "{held}");
    let plain = record(&folder, "vmcs.nvmx", "demo", "");
    let refused = nvmx(&["replay", "--l0", word(&plain)]).expect(2).err;
    assert!(refused.contains("--log l0"), "{refused}");
}

#[test]
fn places_of_a_run() {
    let folder = folder("places");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let at = |place: &[&str]| {
        let mut words = vec!["replay", "--json", word(&trace)];
        words.extend(place);
        nvmx(&words).expect(0).json()
    };
    let there = at(&["--to-instruction", "2000"]);
    let place = &there["place"];
    assert_eq!((&place["instruction"], &place["vcpu"]), (&2000.into(), &0.into()));
    assert_eq!(place["rip"], place["registers"]["rip"]);
    assert!(place["next"].is_string() && place["level"].is_u64(), "{place}");
    let by_event = at(&["--to", &place["event"].to_string()]);
    assert!(by_event["place"]["instruction"].as_u64() <= Some(2000), "{by_event}");
    let marks = nvmx(&["dump", "--json", "--kind", "mark", word(&trace)]).expect(0).out;
    let mark: serde_json::Value = serde_json::from_str(marks.lines().next().expect("demo sets marks")).unwrap();
    let value = mark["value"].to_string().replace('"', "");
    let by_mark = at(&["--to-mark", &value]);
    assert!(by_mark["place"]["event"].as_u64() >= mark["event"].as_u64(), "{by_mark}");
    nvmx(&["replay", "--to-mark", "0xdeadbeef:3", word(&trace)]).expect(2).one_line(&["did not set that mark"]);
    nvmx(&["replay", "--to-instruction", "99999999999", word(&trace)]).expect(2).one_line(&["its run ends"]);
    nvmx(&["replay", "--to-mark", "x", word(&trace)]).expect(2);
    let text = nvmx(&["replay", "--to", "500", word(&trace)]).expect(0).out;
    for said in ["behind event 5", "runs L", "rax", "rflags", "state"] {
        assert!(text.contains(said), "'{said}' is not in: {text}");
    }
}

#[test]
fn checkpoints_beside_a_trace() {
    let folder = folder("checkpoints");
    let plain = record(&folder, "plain.nvmx", "demo", "");
    let trace = record(&folder, "demo.nvmx", "demo", "--checkpoints");
    assert_eq!(fs::read(&plain).unwrap(), fs::read(&trace).unwrap());
    let kept = folder.join("demo.nvmx.seek");
    fs::remove_file(&kept).expect("the recording made it");
    nvmx(&["replay", word(&trace), "--checkpoints=50"]).expect(0);
    assert!(kept.is_file());
    let seek = |to: &str| nvmx(&["-v", "replay", word(&trace), "--to", to]).expect(0);
    let checkpoints = || nvmx(&["info", "--json", word(&trace)]).expect(0).json()["checkpoints"].clone();
    // The run is shorter than the way from one to the next.
    assert_eq!((&checkpoints()["count"], &checkpoints()["left_aside"]), (&0.into(), &serde_json::Value::Null));
    assert!(checkpoints()["apart"].as_u64().is_some_and(|apart| apart > 100_000), "{}", checkpoints());
    let right = seek("900");
    assert!(right.err.contains("checkpoint"), "{}", right.err);
    fs::write(&kept, b"something else").unwrap();
    let left = seek("900");
    assert!(left.err.contains("left aside"), "{}", left.err);
    assert_eq!(right.out, left.out);
    assert_eq!(checkpoints()["left_aside"], "it is no file of checkpoints");
}

#[test]
fn another_l0_against_the_recording() {
    let folder = folder("another");
    let trace = record(&folder, "storm.nvmx", "flush-storm", "");
    let same = nvmx(&["replay", "--json", "--policy", "mapped", word(&trace)]).expect(0).json();
    assert_eq!((&same["identical"], &same["parting"]), (&true.into(), &serde_json::Value::Null));
    let other = nvmx(&["replay", "--policy", "kvm-2011", word(&trace)]).expect(1).out;
    assert!(other.contains("no guest can tell"), "{other}");
    let trace = record(&folder, "stale.nvmx", "stale", "");
    let seen = hv_defs::slip::Slip::ALL.iter().filter(|slip| {
        let json = nvmx(&["replay", "--json", "--fault", slip.name(), word(&trace)]).json();
        let parting = &json["parting"];
        assert!(parting.is_null() || json["reproduced"] == true && json["identical"] == false, "{json}");
        !parting.is_null()
    });
    assert!(seen.count() > 0, "no mistake shows");
}
