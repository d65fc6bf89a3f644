//! What the reports find, held to numbers worked out on paper.

mod common;

use common::{folder, nvmx, record, word};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn report(trace: &Path) -> Value {
    nvmx(&["report", word(trace), "--format", "json"]).expect(0).json()
}

/// Flushes that were made, by cause; those of L1's own instructions under `guest`.
fn flushes(report: &Value) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for row in report["flushes"]["by_cause"].as_array().expect("a list") {
        if row["verdict"] != "missing" {
            *sums.entry(row["cause"].as_str().expect("a word").to_owned()).or_default() +=
                row["count"].as_u64().unwrap();
        }
    }
    sums
}

/// `flush-storm` makes 34 round trips of L1 to L2 and back, in six phases: 8 plain ones; 8 with vpid12 2, 1, 2, 1, …; 4
/// with an INVVPID before each (address, single, all, single but globals); 8 with EPT pointer B, A, B, A, …; 2 with an
/// INVEPT before each (single for A, all); 4 with "enable VPID" off. It begins with vpid12 1 and EPT pointer A.
///
/// - *nested-entry, nested-exit.* kvm-2011 flushes the one VPID at every entry and every exit: 34 and 34. The others
///   flush only where vmcs12 has no VPID, which the architecture promises a flush: 4 and 4.
/// - *vpid12-change.* kvm-2015 flushes vpid02 when vpid12 is not the last one: the very first entry, and each of the 8 of
///   phase 2; phase 2 ends with 1 and nothing changes it after: 9. kvm-2011 has no vpid02 and `mapped` one for each
///   vpid12: 0.
/// - *root-load.* kvm-2011 and kvm-2015 flush the EPT root that they load, EPT02 at an entry and EPT01 at an exit:
///   34 + 34 = 68. `mapped` keeps its roots: 0.
/// - *invvpid-emulation.* One INVVPID of a vpid02 for each of L1's four; but when L1 flushes all, `mapped` holds a vpid02
///   for vpid12 1 and one for 2, which are two: 4, 4 and 5.
/// - *invept-emulation.* L1's single INVEPT for A is one root, its INVEPT of all is two, A's and B's: 3.
/// - *write-protect.* L0 makes a page of L1's EPT12 read-only when it first shadows it: each of A and B has its root, which
///   is shadowed when the root is made, and three tables below it, when L2 first misses. A flush for each batch: 4.
/// - *vpid-free.* At VMXOFF: kvm-2011 has no vpid02, kvm-2015 one, `mapped` two.
/// - *guest.* L1's own four INVVPIDs and two INVEPTs: 6.
#[test]
fn flush_storm_flushes_as_worked_out_on_paper() {
    let folder = folder("flush-storm");
    let check = |policy: &str, want: &[(&str, u64)]| {
        let trace = record(&folder, &format!("{policy}.nvmx"), "flush-storm", &format!("--policy {policy}"));
        let report = report(&trace);
        let want: BTreeMap<String, u64> = want.iter().map(|&(cause, count)| (cause.to_owned(), count)).collect();
        assert_eq!(flushes(&report), want, "{policy}");
        assert_eq!(report["flushes"]["total"].as_u64(), Some(want.values().sum()), "{policy}");
        assert_eq!(report["flushes"]["missing"], 0, "{policy}: L0 and this L1 forget nothing");
    };
    let common = [("guest", 6), ("invept-emulation", 3), ("write-protect", 4)];
    let with = |own: &[(&'static str, u64)]| [&common, own].concat();
    check("kvm-2011", &with(&[("nested-entry", 34), ("nested-exit", 34), ("root-load", 68), ("invvpid-emulation", 4)]));
    check(
        "kvm-2015",
        &with(&[
            ("nested-entry", 4),
            ("nested-exit", 4),
            ("vpid12-change", 9),
            ("root-load", 68),
            ("invvpid-emulation", 4),
            ("vpid-free", 1),
        ]),
    );
    check("mapped", &with(&[("nested-entry", 4), ("nested-exit", 4), ("invvpid-emulation", 5), ("vpid-free", 2)]));
}

/// `pool-thrash` enters six vmcs12s, A to F, in the order ABCDEF ABCDEF AAAA ABABABAB ABCABCABC FEDCBA ABCDEF: 45 entries.
/// A pool of n slots that recycles the least recently used holds a vmcs12 that is among the last n distinct ones: its
/// depth in their stack, latest first. The depths, - for a first entry:
///
/// ABCDEF ABCDEF: `------ 666666`, the stack is then FEDCBA; AAAA: `6111`, AFEDCB; ABABABAB: `16222222`, BAFEDC;
/// ABCABCABC: `226333333`, CBAFED; FEDCBA ABCDEF: `456456 123456`.
///
/// So depth 1 comes 5 times, 2 comes 9 times, 3 comes 7, 4 and 5 come 3 each, 6 comes 12 times, and 6 are first entries.
/// Hits are the depths up to n; of the others, the first n take a free slot and the rest recycle one:
/// n = 1: 5 and 40, 39 of them recycled; n = 2: 5+9 = 14 and 31, 29; n = 4: 5+9+7+3 = 24 and 21, 17;
/// n = 8: 5+9+7+3+3+12 = 39 and 6, 0.
#[test]
fn pool_thrash_misses_as_worked_out_on_paper() {
    let folder = folder("pool-thrash");
    let check = |size: u64, hits: u64, misses: u64, recycled: u64| {
        let trace = record(&folder, &format!("{size}.nvmx"), "pool-thrash", &format!("--pool {size}"));
        let pool = &report(&trace)["pool"];
        let got = ["requests", "hits", "misses", "recycles"].map(|key| pool[key].as_u64().unwrap());
        assert_eq!(got, [45, hits, misses, recycled], "a pool of {size}");
        // The miss curve of any one run says what the runs at other sizes find.
        for (slots, lru) in [(1, 40), (2, 31), (4, 21)] {
            let curve = pool["by_vcpu"][0]["curve"].as_array().unwrap();
            let at = curve.iter().find(|row| row["slots"] == slots).unwrap();
            assert_eq!(at["lru"], lru, "the curve at {slots}, from a pool of {size}");
        }
    };
    check(1, 5, 40, 39);
    check(2, 14, 31, 29);
    check(4, 24, 21, 17);
    check(8, 39, 6, 0);
}

/// `multiplication` has an L1 that serves each exit of its L2 with 4 VMREADs (the reason, RIP, the instruction's length,
/// interruptibility), 2 VMWRITEs (RIP, its own RSP) and a VMRESUME, all exits to L0, and beside that:
///
/// - CPUID, 8 times: a CPUID: 8 × 8 = 64 exits of L1;
/// - OUT, 6 times: 2 INs: 6 × 9 = 54;
/// - RDMSR, 5 times: 3 more VMREADs and 2 VMWRITEs: 5 × 12 = 60;
/// - HLT, 4 times: INVEPT and INVVPID: 4 × 9 = 36;
/// - VMREAD, 3 times: nothing: 3 × 7 = 21. With VMCS shadowing L1 sees none: `emulated` has L0 serve the 3 exits, and under
///   `virtualized` there are none;
/// - VMCALL, 5 times, of which 4 are followed by an entry of L2: an OUT that sets a mark: 4 × 8 = 32.
///
/// L0 serves L2's EPT violations by itself, however many: none causes an exit of L1.
#[test]
fn multiplication_multiplies_as_worked_out_on_paper() {
    let folder = folder("multiplication");
    let check = |shadowing: &str, l2_reads: u64, l1_exits: u64, seen: bool| {
        let options = format!("--shadowing {shadowing}");
        let trace = record(&folder, &format!("{shadowing}.nvmx"), "multiplication", &options);
        let report = report(&trace);
        let rows = report["multiplication"]["by_reason"].as_array().unwrap();
        let served = |reason: &str, count: u64, resumed: u64, each: &[(&str, u64)]| {
            let row = rows.iter().find(|row| row["reason"] == reason);
            let Some(row) = row else { return assert_eq!(count, 0, "{reason} under {shadowing}") };
            assert_eq!(
                (&row["count"], &row["resumed"]),
                (&count.into(), &resumed.into()),
                "{reason} under {shadowing}"
            );
            let caused = row["caused"].as_array().unwrap().iter();
            let caused: BTreeMap<&str, u64> =
                caused.map(|one| (one["reason"].as_str().unwrap(), one["count"].as_u64().unwrap())).collect();
            let want: BTreeMap<&str, u64> = each.iter().map(|&(reason, times)| (reason, times * resumed)).collect();
            assert_eq!(caused, want, "{reason} under {shadowing}");
            let factor = 1 + each.iter().map(|(_, times)| times).sum::<u64>();
            assert_eq!(row["exits_per_exit"].as_f64(), Some(factor as f64), "{reason} under {shadowing}");
        };
        let with = |other: &[(&'static str, u64)]| [&[("VMREAD", 4), ("VMWRITE", 2), ("VMRESUME", 1)], other].concat();
        served("CPUID", 8, 8, &with(&[("CPUID", 1)]));
        served("IO_INSTRUCTION", 6, 6, &with(&[("IO_INSTRUCTION", 2)]));
        served("RDMSR", 5, 5, &[("VMREAD", 7), ("VMWRITE", 4), ("VMRESUME", 1)]);
        served("HLT", 4, 4, &with(&[("INVEPT", 1), ("INVVPID", 1)]));
        served(
            "VMREAD",
            l2_reads,
            l2_reads,
            if seen { &[("VMREAD", 4), ("VMWRITE", 2), ("VMRESUME", 1)] } else { &[] },
        );
        served("VMCALL", 5, 4, &with(&[("IO_INSTRUCTION", 1)]));
        let violations = rows.iter().find(|row| row["reason"] == "EPT_VIOLATION").expect("L2's pages");
        served("EPT_VIOLATION", violations["count"].as_u64().unwrap(), violations["count"].as_u64().unwrap(), &[]);
        let all = &report["multiplication"];
        let resumed = 27 + l2_reads + violations["count"].as_u64().unwrap();
        assert_eq!((&all["resumed"], &all["l1_exits_caused"]), (&resumed.into(), &l1_exits.into()), "{shadowing}");
        let factor = (resumed + l1_exits) as f64 / resumed as f64;
        assert_eq!(all["exits_per_l2_exit"].as_f64(), Some(factor), "{shadowing}");
        // The tree's leaves are all that was done: an exit is 700 cycles, an entry 600.
        let sum = |rows: &Value, key: &str| {
            rows.as_array().unwrap().iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(sum(&all["tree"], "cycles"), report["cycles"].as_u64().unwrap(), "{shadowing}");
        assert_eq!(sum(&all["tree"], "exits"), report["exits"]["total"].as_u64().unwrap(), "{shadowing}");
        let time = &report["time"];
        assert_eq!(
            sum(&time["levels"], "ran") + time["l0_cycles"].as_u64().unwrap(),
            report["cycles"].as_u64().unwrap()
        );
        assert_eq!(sum(&time["slices"], "l0_cycles"), time["l0_cycles"].as_u64().unwrap(), "{shadowing}");
        let folded = nvmx(&["report", "--format", "folded", word(&trace)]).expect(0).out;
        let sizes = folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        assert_eq!(sizes.sum::<u64>(), report["cycles"].as_u64().unwrap(), "{shadowing}");
        for (stack, exits) in [
            ("L2 CPUID;L1 VMREAD", 8 * 4),
            ("L2 CPUID;L1 CPUID", 8),
            ("L2 RDMSR;L1 VMWRITE", 5 * 4),
            ("L2 HLT;L1 INVEPT", 4),
            ("L2 IO_INSTRUCTION;L1 IO_INSTRUCTION", 6 * 2),
        ] {
            for line in [format!("{stack};L0 exit {}", exits * 700), format!("{stack};L0 entry {}", exits * 600)] {
                assert!(folded.lines().any(|other| other == line), "{line} is not in: {folded}");
            }
        }
        // The same frames in the graph.
        let graph = nvmx(&["report", "--format", "flame", word(&trace)]).expect(0).out;
        assert!(graph.starts_with("<svg ") && graph.ends_with("</svg>\n"), "{graph}");
        for line in folded.lines() {
            let frame = line.rsplit_once(' ').unwrap().0.replace(';', " ▸ ");
            assert!(graph.contains(&format!("<title>{frame}: ")), "{frame} is not in: {graph}");
        }
        // A phase counts what was served in it: the VMCALL whose mark it begins at, and what L2 did then. Of OUTs 8 + 54 exits
        // for 1 + 6 of L2, of RDMSRs 8 + 60 for 1 + 5.
        let phases = report["phases"].as_array().unwrap();
        let marks: Vec<_> = phases.iter().map(|phase| phase["mark"].as_u64()).collect();
        assert_eq!(marks, [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)], "{shadowing}");
        assert_eq!(phases[2]["exits_per_l2_exit"].as_f64(), Some((7 + 62) as f64 / 7.0), "{shadowing}");
        assert_eq!(phases[3]["exits_per_l2_exit"].as_f64(), Some((6 + 68) as f64 / 6.0), "{shadowing}");
        assert_eq!(sum(&report["phases"], "l0_cycles"), time["l0_cycles"].as_u64().unwrap(), "{shadowing}");
    };
    check("off", 3, 64 + 54 + 60 + 36 + 21 + 32, true);
    check("emulated", 3, 64 + 54 + 60 + 36 + 32, false);
    check("virtualized", 0, 64 + 54 + 60 + 36 + 32, false);
}

/// `stale` changes an EPT entry from a page that holds 1111 to one that holds 2222, and forgets the INVEPT. Where nothing
/// else flushes, the TLB still has the old translation and L2 reads 1111; the report names the flush that is missing. The
/// policies that flush each root they load hide the mistake, but it is one all the same.
#[test]
fn stale_reads_what_it_should_not_and_the_report_says_why() {
    let folder = folder("stale");
    let check = |policy: &str, reads: u64| {
        let trace = folder.join(format!("{policy}.nvmx"));
        let ran = nvmx(&["record", "stale", "--policy", policy, "-o", word(&trace)]).expect(0);
        assert!(ran.out.contains("at first L2 reads 1111"), "{policy}: {}", ran.out);
        assert!(ran.out.contains(&format!("without INVEPT, L2 reads {reads}")), "{policy}: {}", ran.out);
        assert!(ran.out.contains("after INVEPT L2 reads 2222"), "{policy}: {}", ran.out);
        trace
    };
    check("kvm-2011", 2222);
    check("kvm-2015", 2222);
    let trace = check("mapped", 1111);
    let report = report(&trace);
    assert_eq!(report["flushes"]["missing"], 1, "{}", report["flushes"]);
    let missing = &report["flushes"]["missing_list"][0];
    assert_eq!((&missing["owner"], &missing["kind"]), (&"L1".into(), &"invept-single".into()), "{missing}");
    // L2's page 0x10, as the guest's listing has it.
    assert_eq!(missing["gpa"], 0x10000, "{missing}");
    let text = nvmx(&["report", word(&trace)]).expect(0).out;
    assert!(text.contains("missing"), "{text}");
    // The gate closes.
    let gate = nvmx(&["check", "--json", "--max-missing-flushes", "0", word(&trace)]).expect(1).json();
    assert_eq!((&gate["passed"], &gate["gates"][0]["value"]), (&false.into(), &1.into()), "{gate}");
    nvmx(&["check", "--max-missing-flushes", "1", word(&trace)]).expect(0);
}

/// A recording of exits alone says what it cannot say.
#[test]
fn what_was_left_out_is_said() {
    let folder = folder("left-out");
    let trace = record(&folder, "exits.nvmx", "demo", "--log exits");
    let json = report(&trace);
    assert_eq!(json["untold"], serde_json::json!(["vmcs"]));
    assert_eq!(json["vmcs"], Value::Null);
    let text = nvmx(&["report", word(&trace)]).expect(0).out;
    assert!(text.contains("recorded with `--log exits`") && text.contains("which fields to shadow"), "{text}");
    let whole = record(&folder, "whole.nvmx", "demo", "");
    assert_eq!(report(&whole)["untold"], serde_json::json!([]));
}

#[test]
fn the_gate() {
    let folder = folder("gate");
    let trace = record(&folder, "pool.nvmx", "pool-thrash", "--pool 4");
    let check = |limits: &str, status: i32| {
        let mut words = vec!["check", word(&trace)];
        words.extend(limits.split(' '));
        nvmx(&words).expect(status)
    };
    check("--max-pool-misses 21", 0);
    let no = check("--max-pool-misses 20", 1);
    assert!(no.out.contains("21") && no.out.contains("20"), "{}", no.out);
    check("--max-missing-flushes 0 --max-pool-misses 21", 0);
    check("--max-missing-flushes 0 --max-pool-misses 20", 1);
    check("--max-exits-per-l2-exit 1000", 0);
    check("--max-exits-per-l2-exit 0.5", 1);
}

#[test]
fn every_form_of_report() {
    let folder = folder("forms");
    let (a, b) = (record(&folder, "a.nvmx", "demo", ""), record(&folder, "b.nvmx", "demo", "--policy kvm-2011"));
    let check = |format: &str, begins: &str| {
        for traces in [vec![word(&a)], vec![word(&a), word(&b)]] {
            let ran = nvmx(&[&["report", "--format", format], &traces[..]].concat()).expect(0);
            assert!(ran.out.trim_start().starts_with(begins), "{format}: {}", ran.out);
            assert_eq!(ran.err, "");
            // The same into a file.
            let file = folder.join("report");
            nvmx(&[&["report", "--format", format, "-o", word(&file)], &traces[..]].concat()).expect(0);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), ran.out, "{format}");
        }
    };
    check("text", "");
    check("md", "#");
    check("html", "<!doctype html>");
    check("json", "{");
    check("csv", "trace,");
    check("flame", "<svg ");
    check("folded", "");
    let html = nvmx(&["report", "--format", "html", word(&a)]).expect(0).out;
    for needs in ["http://", "https://", "src="] {
        assert!(!html.contains(needs), "the page needs nothing else, but has {needs}");
    }
}

#[test]
fn queries() {
    let folder = folder("queries");
    let trace = record(&folder, "demo.nvmx", "demo", "");
    let listing = nvmx(&["query", word(&trace)]).expect(0).out;
    for table in [
        "exits",
        "entries",
        "vmcs",
        "flushes",
        "pool",
        "vpids",
        "ept",
        "injections",
        "inputs",
        "marks",
        "digests",
        "lost",
    ] {
        assert!(listing.lines().any(|line| line.starts_with(&format!("{table}:"))), "{table} is listed");
        // Every table has the columns that say when and where.
        let sql = format!("SELECT event, instruction, vcpu, pcpu FROM {table} LIMIT 1");
        let csv = nvmx(&["query", word(&trace), &sql, "--format", "csv"]).expect(0).out;
        assert_eq!(csv.lines().next(), Some("event,instruction,vcpu,pcpu"), "{table}");
    }
    // What the guest's two L2s do, worked out beside their code: 276 bytes of output, one exit each, 2 * 3 CPUID and HLT, 2
    // VMCALL and 2 * 12 pages touched for the first time.
    let sql =
        "SELECT reason, COUNT(*) AS n FROM exits WHERE level = 2 AND handled_by = 'L1' GROUP BY reason ORDER BY reason";
    let csv = nvmx(&["query", word(&trace), sql, "--format", "csv"]).expect(0).out;
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(
        rows,
        ["reason,n", "CPUID,6", "EPT_VIOLATION,24", "HLT,6", "IO_INSTRUCTION,276", "VMCALL,2"],
        "what the L2s do"
    );
    for (sql, says) in
        [("SELEC 1", "nvmx query"), ("SELECT * FROM nonesuch", "exits"), ("SELECT nonesuch FROM exits", "nonesuch")]
    {
        nvmx(&["query", word(&trace), sql]).expect(2).one_line(&[says]);
    }
}
