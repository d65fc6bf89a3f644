//! The rows of an export are those of [`Tables`], in every table.

mod common;

use analyzer::export::{Dataset, FACTS, Format};
use analyzer::{Tables, query, schema};
use std::path::Path;
use std::sync::Arc;
use traces::Reader;

fn check(name: &str, reader: Reader) {
    let reader = Arc::new(reader);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("export-{name}"));
    let _ = std::fs::remove_dir_all(&root);
    let mut dataset = Dataset::open(&root, Format::Csv).expect("a new folder");
    let added = dataset.add(Path::new(name), &reader, |_| {}).expect("exported");
    let mut rows = 1;
    for table in schema::TABLES {
        let frame = Tables::read(reader.clone()).table(table.name).expect(table.name);
        rows += frame.height() as u64;
        let path = root.join(table.name).join(format!("trace={name}/part-0.csv"));
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(text == query::print(&frame, query::Format::Csv), "{name}: {}", table.name);
    }
    assert_eq!(added.rows, rows, "{name}");
    let facts = std::fs::read_to_string(root.join(format!("traces/trace={name}/part-0.csv"))).expect("a file");
    assert_eq!(facts.lines().next().map(|head| head.split(',').count()), Some(FACTS.len()));
}

#[test]
fn every_table_has_the_rows_of_a_query() {
    let golden = include_bytes!("../../traces/golden/v1.nvmx");
    check("golden", Reader::from_bytes(golden.to_vec()).expect("a trace"));
    check("demo", common::record("demo", "mapped", |_| {}));
    check("flush-storm", common::record("flush-storm", "kvm-2015", |_| {}));
    check("stale", common::record("stale", "kvm-2021", |_| {}));
    check("handover", common::record("handover", "mapped", |config| (config.vcpus, config.pcpus) = (2, 2)));
}

#[test]
fn the_page_names_every_fact() {
    let page = include_str!("../../docs/export.md");
    for (name, _, about) in FACTS {
        let row = format!("| `{name}` | ");
        assert!(page.contains(&row) && page.contains(about), "docs/export.md lacks {row}{about}");
    }
}
