//! Both judges: every mistake of L0's is named, and they do not contradict one another.

mod common;

use analyzer::Source;
use analyzer::judge::{Rule, Verdict};
use common::{folder, line, nvmx, word};
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Actor, Event};
use hv_defs::policy::{PRESETS, Policy, Shadowing};
use hv_defs::slip::Slip;
use recorder::{NoKeys, Outside};
use replayer::judge::Need;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use traces::Reader;

/// What a report names as wrong or as made for something else, without the numbers.
fn named(trace: &Path, judge: &str) -> BTreeSet<String> {
    let report = nvmx(&["report", word(trace), "--judge", judge, "--format", "json"]).expect(0).json();
    let text = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    let rows = report["flushes"]["by_cause"].as_array().expect("a list");
    let flushes = rows.iter().filter_map(|row| {
        let direction = match (row["verdict"].as_str()?, row["rule"].as_str()?) {
            ("missing", _) => "missing",
            (_, "wrong-target") => "wrong-target, wasted",
            _ => return None,
        };
        assert!(row["first_event"].is_u64() && row["count"].as_u64() > Some(0), "{row}");
        Some(format!("{direction}: {} for {} by {}", text(&row["kind"]), text(&row["cause"]), text(&row["actor"])))
    });
    let mistakes = report["mistakes"].as_array().expect("a list").iter().map(|row| {
        assert!(row["first_event"].is_u64() && !text(&row["proof"]).is_empty(), "{row}");
        format!("{}: {}", text(&row["direction"]), text(&row["kind"]))
    });
    flushes.chain(mistakes).collect()
}

/// A mistake, a guest that shows it with the words of its recording, and what each judge says of it and of nothing else.
struct Row {
    slip: Slip,
    guest: &'static str,
    words: &'static str,
    rule: &'static [&'static str],
    replay: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row {
        slip: Slip::FlushLeftEptp,
        guest: "flush-storm",
        words: "--policy kvm-2015",
        rule: &["wrong-target: flush-wrong-target"],
        replay: &["wrong-target, wasted: invept-single for root-load by L0", "wrong-target: flush-wrong-target"],
    },
    Row {
        slip: Slip::InvvpidWrongVpid,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["wrong-target: flush-wrong-target"],
        replay: &[
            "missing: invvpid-single for invvpid-emulation by L0",
            "wrong-target, wasted: invvpid-address for invvpid-emulation by L0",
            "wrong-target, wasted: invvpid-single for invvpid-emulation by L0",
            "wrong-target: flush-wrong-target",
        ],
    },
    Row {
        slip: Slip::InvvpidAsInvept,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["wrong-target: flush-wrong-target"],
        replay: &[
            "missing: invvpid-single for invvpid-emulation by L0",
            "wrong-target, wasted: invept-single for invvpid-emulation by L0",
            "wrong-target: flush-wrong-target",
        ],
    },
    Row {
        slip: Slip::InveptAsInvvpid,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["missing: invept-single for ept-sync by L0", "wrong-target: flush-wrong-target"],
        replay: &[
            "missing: invept-single for ept-zap by L0",
            "wrong-target, wasted: invvpid-single for invept-emulation by L0",
            "wrong-target: flush-wrong-target",
        ],
    },
    Row {
        slip: Slip::Vpid12Unflushed,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["missing: invvpid-single for vpid12-change by L0"],
        replay: &["missing: invvpid-single for vpid12-change by L0"],
    },
    Row {
        slip: Slip::LastVpidKept,
        guest: "handover",
        words: "--cpus 2 --policy kvm-2018",
        rule: &["missing: invvpid-single for vpid-free by L0", "wrong-target: vpid-after-free"],
        replay: &["missing: invvpid-single for vpid-free by L0", "wrong-target: vpid-after-free"],
    },
    Row {
        slip: Slip::VpidFreedTwice,
        guest: "handover",
        words: "--cpus 2 --policy kvm-2018",
        rule: &["wrong-target: vpid-freed-twice"],
        replay: &["wrong-target: vpid-freed-twice"],
    },
    Row {
        slip: Slip::VpidFreedTwice,
        guest: "witness",
        words: "--policy mapped",
        rule: &["wrong-target: vpid-freed-twice"],
        replay: &["wrong-target: vpid-freed-twice"],
    },
    Row {
        slip: Slip::VpidLeaked,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["wasted: vpid-leaked"],
        replay: &["wasted: vpid-leaked"],
    },
    Row {
        slip: Slip::VpidLeaked,
        guest: "handover",
        words: "--cpus 2 --policy mapped",
        rule: &["wasted: vpid-leaked"],
        replay: &["wasted: vpid-leaked"],
    },
    Row {
        slip: Slip::VpidStaleCpu,
        guest: "handover",
        words: "--cpus 2 --pcpus 5 --slice 500 --policy kvm-2018",
        rule: &["missing: invvpid-single for vpid-free by L0"],
        replay: &["missing: invvpid-single for vpid-free by L0"],
    },
    Row {
        slip: Slip::MigrationUnflushed,
        guest: "witness",
        words: "--pcpus 2 --slice 500 --policy kvm-2018",
        rule: &["missing: invept-single for ept-sync by L0", "missing: invvpid-single for vpid12-change by L0"],
        replay: &["missing: invept-single for ept-zap by L0", "missing: invvpid-single for vpid12-change by L0"],
    },
    Row {
        slip: Slip::Ept02Unsynced,
        guest: "resync",
        words: "--policy kvm-2018",
        rule: &[],
        replay: &["missing: ept02-unsynced"],
    },
    Row {
        slip: Slip::Ept02Unsynced,
        guest: "stale",
        words: "--policy kvm-2015",
        rule: &[],
        replay: &["missing: ept02-unsynced"],
    },
    Row {
        slip: Slip::SharedTagUnflushed,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["missing: invvpid-single for nested-entry by L0"],
        replay: &["missing: invvpid-single for nested-entry by L0"],
    },
    Row {
        slip: Slip::RightsUnmasked,
        guest: "nest",
        words: "--shadowing emulated",
        rule: &["wrong-value: rights-unmasked"],
        replay: &["wrong-value: rights-unmasked"],
    },
    Row {
        slip: Slip::PoolStaleHit,
        guest: "witness",
        words: "--policy mapped",
        rule: &["missing: vmcs02-stale"],
        replay: &["missing: vmcs02-stale"],
    },
    Row {
        slip: Slip::Vpid12Unsynced,
        guest: "resync",
        words: "--policy kvm-2021",
        rule: &[],
        replay: &["missing: ept02-unsynced"],
    },
    Row {
        slip: Slip::ApicAccessUnflushed,
        guest: "witness",
        words: "--policy kvm-2018",
        rule: &["missing: invept-single for apic-access-page by L0"],
        replay: &["missing: invept-single for apic-access-page by L0"],
    },
];

const TITLE: &str = "| slip | recorded as | by rule | by replay |\n| --- | --- | --- | --- |\n";

#[test]
fn every_slip_is_named_in_its_direction_and_nothing_without_it() {
    let slips: BTreeSet<Slip> = ROWS.iter().map(|row| row.slip).collect();
    assert_eq!(slips.len(), Slip::ALL.len(), "each has its row");
    let folder = folder("judge-slips");
    let (mut wrong, mut table) = (Vec::new(), TITLE.to_owned());
    for Row { slip, guest, words, rule, replay } in ROWS {
        let trace = folder.join("trace.nvmx");
        line(&format!("record {guest} {words} -o {}", trace.display())).expect(0);
        for judge in ["rule", "replay"] {
            assert_eq!(named(&trace, judge), BTreeSet::new(), "{guest} {words} by {judge}, without {slip}");
        }
        // A guest that notices ends with a status of its own.
        let ran = line(&format!("record {guest} {words} --fault {slip} -o {}", trace.display()));
        assert!([0, 3].contains(&ran.status), "{guest} {words} --fault {slip}: {}", ran.err);
        let cell = |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>().join("; ");
        let got = ["rule", "replay"].map(|judge| named(&trace, judge));
        for (got, expected) in got.iter().zip([rule, replay]) {
            if !got.iter().eq(expected.iter()) {
                wrong.push(format!("{guest} {words} --fault {slip}: {got:?}, not {expected:?}"));
            }
        }
        let [rule, replay] = got.map(|got| cell(&got));
        table += &format!("| `{slip}` | `{guest} {words}` | {rule} | {replay} |\n");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = format!("{}/docs/judge.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(TITLE).expect("the table's title");
    let after = rest.find("\n\n").map_or("", |at| &rest[at + 1..]);
    let expected = format!("{before}{table}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert_eq!(page, expected, "UPDATE_DOCS=1 rewrites {path}");
    }
}

fn record(config: &Config) -> Reader {
    let (mut bytes, stop) = (Vec::new(), AtomicBool::new(false));
    let outside =
        Outside { console: &mut std::io::sink(), keys: &mut NoKeys, stop: &stop, watch: &mut |_: &[Event]| {} };
    recorder::record_to(config, &[], &mut bytes, outside).expect("recorded");
    Reader::from_bytes(bytes).expect("a sound trace")
}

/// Whether a verdict by rule and one by replay can both be true. The rules know no translations: what they call required
/// guards against what a guest could have cached, and a run may show that it had cached nothing of the kind. What they call
/// redundant must be so in every run, and what they call too broad may be needed whole only in so far as the run used what
/// is beyond. `unknown` says nothing.
fn agree(rule: Verdict, replay: Need) -> bool {
    match rule {
        Verdict::Required | Verdict::Unknown | Verdict::TooBroad => true,
        Verdict::Redundant => replay == Need::Redundant,
        Verdict::Missing => false,
    }
}

#[test]
fn the_judge_by_rule_never_contradicts_the_judge_by_replay() {
    let mut against: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut compared = BTreeMap::new();
    for guest in hv::guests::list() {
        for preset in PRESETS {
            for pcpus in [1, 2] {
                let mut config = Config::new(Guest::BuiltIn(guest.name.into()));
                config.memory = 16 << 20;
                config.policy = Policy::preset(preset.name).expect("a preset");
                if guest.name == "nest" {
                    config.policy.shadowing = Shadowing::Emulated;
                }
                config.vcpus = if guest.name == "handover" { 2 } else { 1 };
                (config.pcpus, config.slice) = (pcpus, if pcpus > 1 { 500 } else { 1_000_000 });
                config.max_instructions = Some(10_000_000);
                let reader = record(&config);
                let by_replay = replayer::judge::judge(&reader).expect("judged");
                assert_eq!(
                    (&by_replay.divergence, by_replay.out_of_line.len()),
                    (&None, 0),
                    "{} {}",
                    guest.name,
                    preset.name
                );
                let needs: BTreeMap<u64, Need> = by_replay
                    .flushes
                    .iter()
                    .filter(|one| one.need != Need::Missing)
                    .map(|one| (one.event, one.need))
                    .collect();
                for own in analyzer::judge::judge(Source::Trace(&reader)).expect("judged") {
                    if own.verdict == Verdict::Missing {
                        // The guest `stale` owes an INVEPT.
                        let is_stale = guest.name == "stale" && own.flush.actor == Actor::L1;
                        assert!(is_stale, "{} under {} on {pcpus}: {own:?}", guest.name, preset.name);
                    }
                    if own.flush.actor != Actor::L0 || own.verdict == Verdict::Missing {
                        continue;
                    }
                    let need = needs[&own.event];
                    *compared.entry((own.verdict.name(), format!("{need:?}"))).or_insert(0u64) += 1;
                    if !agree(own.verdict, need) {
                        let what = format!(
                            "{} under {} on {pcpus}: {} {} for {} is {need:?} by replay",
                            guest.name,
                            preset.name,
                            own.rule.name(),
                            own.flush.kind,
                            own.flush.cause
                        );
                        against.entry(what).or_insert((0, own.event)).0 += 1;
                    }
                }
            }
        }
    }
    println!("{compared:#?}");
    assert!(against.is_empty(), "{against:#?}");
    assert!(compared.iter().any(|((rule, need), _)| (*rule, need.as_str()) == ("redundant", "Redundant")));
    assert!(compared.iter().any(|((rule, need), _)| (*rule, need.as_str()) == ("required", "Required")));
}

/// What a rule says L0 could have known must not rest on what came after.
#[test]
fn what_only_the_rest_of_the_run_tells_is_not_advice() {
    assert!(!Rule::NotUsedAgain.is_known_then() && !Rule::NoAccessDiffers.is_known_then());
    let folder = folder("judge-advice");
    let trace = folder.join("trace.nvmx");
    line(&format!("record witness --policy kvm-2018 -o {}", trace.display())).expect(0);
    let report = nvmx(&["report", word(&trace), "--judge", "replay", "--format", "json"]).expect(0).json();
    let rows = report["flushes"]["by_cause"].as_array().expect("a list");
    let hindsight = |row: &&serde_json::Value| {
        row["verdict"] == "redundant" && row["judged_by"] == "replay" && row["known_by"].is_null()
    };
    let known = |row: &&serde_json::Value| row["verdict"] == "redundant" && !row["known_by"].is_null();
    assert!(rows.iter().any(|row| hindsight(&row)) && rows.iter().any(|row| known(&row)), "{rows:#?}");
    for row in rows.iter().filter(hindsight) {
        let about = format!(
            "for {} by {}, rule no-access-differs): ",
            row["cause"].as_str().unwrap(),
            row["actor"].as_str().unwrap()
        );
        let advice = report["advice"].as_array().unwrap();
        for advice in advice.iter().filter(|advice| advice["text"].as_str().unwrap().contains(&about)) {
            assert_eq!(
                (&advice["topic"], &advice["severity"], &advice["saves_cycles"]),
                (&"hindsight-flush".into(), &"note".into(), &0.into())
            );
            assert!(advice["text"].as_str().unwrap().contains("not to be dropped"));
        }
    }
}
