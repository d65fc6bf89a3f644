//! The documents that scripts rely on say what the code does.

mod common;

use analyzer::{Source, Tables, findings, query, report, schema};
use common::{of, record};
use hv_defs::slip::{Slip, Slips};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Compares a document with what the code says; with UPDATE_DOCS set, writes it.
#[track_caller]
fn check(path: &str, expected: &str) {
    let path = format!("{}/../docs/{path}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "UPDATE_DOCS=1 rewrites {path}");
}

#[test]
fn every_column_and_rule_is_documented() {
    let mut text = String::from(
        "# The tables of `nvmx query`\nEvery row is an event of the trace, but for the `missing` rows of `flushes`. Integers are \
         signed and of 64 bits, bits are\nunsigned and of 64 bits (shown in hexadecimal by `--format table`, in decimal by `csv` \
         and `json`). The first four columns\nare those of every table. In a folder of traces, each table has a column `trace` before all others. A test prints this\npage from the code and compares.\n\nTexts are texts: of few words or many, they compare, sort and join as such. Each word is in memory once, however many\nrows have it.\n",
    );
    for table in schema::TABLES {
        text += &format!("\n## {}\n{}\n\n| column | form | holds |\n| --- | --- | --- |\n", table.name, table.about);
        for column in table.columns() {
            assert!(!column.about.is_empty(), "{}.{}", table.name, column.name);
            text += &format!("| {} | {} | {} |\n", column.name, column.form, column.about);
        }
    }
    text += "\n## Rules of the judge\nWhat the column `rule` of `flushes` names. A rule gives one verdict.\n\n| rule | verdict | says |\n| --- | --- | --- |\n";
    for rule in analyzer::judge::Rule::ALL {
        text += &format!("| {} | {} | {} |\n", rule.name(), rule.verdict().name(), rule.why());
    }
    check("tables.md", &text);
}

#[test]
fn tables_have_the_documented_columns() {
    let full = Arc::new(record("flush-storm", "mapped", |_| {}));
    for table in schema::TABLES {
        let columns: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
        for tables in [Tables::read(full.clone()), Tables::of(Vec::new())] {
            let frame = tables.table(table.name).unwrap();
            let names: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
            assert_eq!(names, columns, "{}", table.name);
            for (column, of) in frame.columns().iter().zip(table.columns()) {
                let form = match column.dtype().to_string().as_str() {
                    "i64" => "integer",
                    "u64" => "bits",
                    "str" => "text",
                    "bool" => "boolean",
                    other => panic!("{}.{} is {other}", table.name, of.name),
                };
                assert_eq!(form, of.form, "{}.{}", table.name, of.name);
            }
        }
    }
}

/// The paths of all keys, with `[]` for the elements of a list. `counts` and `failed_entries` have keys of their own.
fn paths(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(of) => {
            for (key, value) in of {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                into.insert(path.clone());
                if !matches!(path.as_str(), "counts" | "failed_entries") {
                    paths(value, &path, into);
                }
            }
        }
        Value::Array(of) => of.iter().for_each(|value| paths(value, &format!("{at}[]"), into)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_json_report_is_documented() {
    let mut keys = BTreeSet::new();
    for (guest, policy) in [("demo", "mapped"), ("stale", "mapped"), ("pool-thrash", "kvm-2015")] {
        paths(&report::json_value(&[of(&record(guest, policy, |_| {}))]), "", &mut keys);
    }
    let moved = record("handover", "mapped", |config| (config.vcpus, config.pcpus) = (2, 3));
    paths(&report::json_value(&[of(&moved)]), "", &mut keys);
    let leaky = record("witness", "mapped", |config| config.slips = Slips::default().with(Slip::VpidLeaked));
    paths(&report::json_value(&[of(&leaky)]), "", &mut keys);
    let path = format!("{}/../docs/report-json.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    let (missing, stale): (Vec<_>, Vec<_>) =
        (keys.difference(&documented).collect(), documented.difference(&keys).collect());
    assert!(missing.is_empty() && stale.is_empty(), "not in {path}: {missing:#?}; not in a report: {stale:#?}");
}

#[test]
fn an_empty_trace_gives_an_empty_report() {
    let found = [findings("empty", Source::Events(&[])).unwrap()];
    assert!(report::text(&found, false).contains("The trace has no events."));
    assert!(report::html(&found).ends_with("</html>\n"));
    assert!(report::markdown(&found).starts_with("# empty\n"));
    assert_eq!(report::json_value(&found)["events"], 0);
    assert!(found[0].flushes.rows.is_empty() && found[0].exits.is_empty());
}

#[test]
fn wrong_queries_say_what_and_where() {
    let check = |sql: &str, expected: &str| {
        let error = query(&Tables::of(Vec::new()), sql).unwrap_err().to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    };
    check("SELEC 1", "(line 1, column 1)");
    check("SELECT *\nFROM exits WHER level = 2 AND", "line 2");
    check(
        "SELECT * FROM exit",
        "there is no table 'exit' (line 1, column 15); did you mean 'exits'? the tables are exits, entries",
    );
    check("SELECT rsn FROM exits", "handled_by");
}
