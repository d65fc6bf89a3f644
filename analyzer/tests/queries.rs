//! The questions of docs/queries.md have the answers that stand there, and those that can be worked out on paper have that.

mod common;

use analyzer::{Format, Tables, query};
use common::{record, record_bytes};
use hv_defs::config::Config;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The guest, the policy and what changes the machine, out of words as `demo --policy mapped --pool 2`.
fn asked(words: &str) -> (String, String, impl Fn(&mut Config) + use<>) {
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let option = |name: &str| words.iter().position(|word| word == name).map(|at| words[at + 1].clone());
    let (guest, policy) = (words[0].clone(), option("--policy").expect("a policy"));
    let number = |name: &str| option(name).map(|number| number.parse().expect("a number"));
    let (pool, cpus, pcpus) = (number("--pool"), number("--cpus"), number("--pcpus"));
    let change = move |config: &mut Config| {
        config.policy.pool = pool.unwrap_or(config.policy.pool);
        config.vcpus = cpus.unwrap_or(config.vcpus);
        config.pcpus = pcpus.unwrap_or(config.pcpus);
    };
    (guest, policy, change)
}

/// The tables that a line of the page tells of; a folder's traces are called by their policies.
fn tables(line: &str) -> Tables {
    let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    if !line.contains("a folder") {
        let (guest, policy, change) = asked(quoted[0]);
        return Tables::read(record(&guest, &policy, change));
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("queries");
    std::fs::create_dir_all(&folder).unwrap();
    let files = quoted.iter().map(|words| {
        let (guest, policy, change) = asked(words);
        let path: PathBuf = folder.join(format!("{policy}.nvmx"));
        std::fs::write(&path, record_bytes(&guest, &policy, change)).unwrap();
        (policy, path)
    });
    Tables::of_files(files.collect::<Vec<_>>())
}

/// With UPDATE_DOCS set, the answers are written.
#[test]
fn the_page_has_the_answers() {
    let path = format!("{}/../docs/queries.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let (mut written, mut of, mut questions) = (String::new(), None, 0);
    let mut rest = page.as_str();
    while let Some((before, after)) = rest.split_once("```sql\n") {
        let (sql, after) = after.split_once("```\n").unwrap();
        if let Some(line) = before.lines().rfind(|line| line.starts_with("Asked of ")) {
            of = Some(tables(line));
        }
        let tables = of.as_ref().expect("a line that says what is asked");
        let frame = query(tables, sql).unwrap_or_else(|error| panic!("{sql}\n{error}"));
        assert!(frame.height() > 0, "{sql}");
        let answer = query::print(&frame, Format::Table);
        assert_eq!(query::print(&frame, Format::Csv).lines().count(), frame.height() + 1);
        for line in query::print(&frame, Format::Json).lines() {
            assert!(line.parse::<Value>().unwrap().is_object());
        }
        written += &format!("{before}```sql\n{sql}```\n```text\n{answer}```\n");
        rest = after.strip_prefix("```text\n").map_or(after, |after| after.split_once("```\n").unwrap().1);
        questions += 1;
    }
    written += rest;
    assert!(questions >= 10);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written, "UPDATE_DOCS=1 rewrites {path}");
}

/// What the guests' own documentation derives, in SQL.
#[test]
fn answers_that_follow_from_paper() {
    let check = |words: &str, sql: &str, expected: &[&str]| {
        let frame = query(&tables(&format!("Asked of `{words}`:")), sql).unwrap();
        let answer = query::print(&frame, Format::Csv);
        assert_eq!(answer.lines().skip(1).collect::<Vec<_>>(), expected, "{sql}");
    };
    // An L2 prints 138 characters, asks CPUID and halts three times each, faults on 12 pages and says goodbye; there are two.
    check(
        "demo --policy mapped",
        "SELECT reason, COUNT(*) FROM exits WHERE level = 2 AND handled_by = 'L1' GROUP BY reason ORDER BY reason",
        &["CPUID,6", "EPT_VIOLATION,24", "HLT,6", "IO_INSTRUCTION,276", "VMCALL,2"],
    );
    // Each page that L1 maps faults again, for L0 to take the mapping over.
    check(
        "demo --policy mapped",
        "SELECT COUNT(*) FROM (SELECT vmcs12, gpa FROM exits WHERE level = 2 AND reason = 'EPT_VIOLATION' \
         GROUP BY vmcs12, gpa HAVING COUNT(*) = 2)",
        &["24"],
    );
    // Depths of `pool-thrash`, by phase: 12 first or sixth; 6111; 16222222; 226333333; 456456 123456.
    let phases = "SELECT m.value, SUM(CASE WHEN p.op = 'hit' THEN 1 ELSE 0 END) AS hits, \
        SUM(CASE WHEN p.op = 'miss' THEN 1 ELSE 0 END) AS misses FROM pool AS p JOIN (SELECT value, event, \
        LEAD(event) OVER (ORDER BY event) AS next FROM marks) AS m ON p.event > m.event AND p.event < m.next \
        GROUP BY m.value ORDER BY m.value";
    check("pool-thrash --policy mapped --pool 2", phases, &["1,0,2", "2,3,0", "3,7,0", "4,2,0", "5,2,0"]);
    check("pool-thrash --policy mapped --pool 4", phases, &["1,0,4", "2,3,0", "3,7,0", "4,8,0", "5,6,0"]);
    // 34 trips, of which four are of a vmcs12 without VPID, and L1 stores its stack pointer before each: 33 times in vain.
    let causes = "SELECT cause, COUNT(*) FROM flushes WHERE actor = 'L0' GROUP BY cause ORDER BY cause";
    check(
        "flush-storm --policy mapped",
        causes,
        &[
            "invept-emulation,3",
            "invvpid-emulation,5",
            "nested-entry,4",
            "nested-exit,4",
            "vpid-free,2",
            "write-protect,4",
        ],
    );
    check(
        "flush-storm --policy mapped",
        "SELECT COUNT(*), SUM(CASE WHEN old = value THEN 1 ELSE 0 END) FROM vmcs \
         WHERE field = 'host_rsp' AND actor = 'L1' AND op = 'write'",
        &["34,33"],
    );
}
