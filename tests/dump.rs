//! `nvmx dump --json`: every event can be made again of its line.

mod common;

use common::{folder, nvmx, record, word};
use hv_defs::event::{Event, Kind, NO_ADDRESS, Stamp, What};
use hv_defs::exit::Reason;
use hv_defs::fields::{Form, MAX_COLUMNS, Texts};
use hv_defs::vmcs::TABLE;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use traces::Reader;

fn bits(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// The number of a column by what a line says of it.
fn number(form: Form, value: &Value, texts: &mut Texts) -> Option<u64> {
    match form {
        Form::Number => value.as_u64(),
        Form::Hex => {
            if value.is_null() {
                Some(0)
            } else {
                bits(value)
            }
        }
        Form::HexOrNone => {
            if value.is_null() {
                Some(0)
            } else {
                bits(value).filter(|bits| *bits != 0)
            }
        }
        Form::Address => {
            if value.is_null() {
                Some(NO_ADDRESS)
            } else {
                bits(value)
            }
        }
        Form::Flag => value.as_bool().map(u64::from),
        Form::Word(words) => words.iter().position(|word| Some(*word) == value.as_str()).map(|at| at as u64),
        Form::VmcsField => match value.as_str() {
            None => Some(0),
            Some(name) => {
                let known = TABLE.iter().find(|row| row.field.name() == Some(name)).map(|row| u64::from(row.field.0));
                known.or_else(|| u64::from_str_radix(name.strip_prefix("field_0x")?, 16).ok())
            }
        },
        Form::Text => Some(value.as_str().map_or(0, |text| texts.number(text))),
        // Other fields have the whole of these columns.
        Form::Reason | Form::Vector | Form::EventType => None,
    }
}

/// The event that a line tells of.
fn event(line: &Value) -> Option<Event> {
    let kind = Kind::by_name(line["kind"].as_str()?)?;
    let (mut row, mut texts, mut whole) = ([0; MAX_COLUMNS], Texts::default(), BTreeSet::new());
    for field in kind.fields() {
        let key = if field.name == "kind" { format!("{}_kind", kind.name()) } else { field.name.to_owned() };
        let value = line.get(&key)?;
        if let Some(number) = number(field.form, value, &mut texts) {
            row[field.column] = number;
            whole.insert(field.column);
        }
    }
    if whole.len() < kind.columns().len() {
        return None;
    }
    let number = |key: &str| line[key].as_u64();
    let cpu = |key: &str| u16::try_from(number(key)?).ok();
    let at = Stamp { instruction: number("instruction")?, vcpu: cpu("vcpu")?, pcpu: cpu("pcpu")? };
    Some(Event { at, what: What::from_row(kind, &row[..kind.columns().len()], &texts)? })
}

/// Makes every event of a trace again of its line. Returns the kinds that it had.
fn check(trace: &Path) -> BTreeSet<&'static str> {
    let reader = Reader::open(trace).expect("it opens");
    let lines = nvmx(&["dump", "--json", word(trace)]).expect(0).out;
    let mut kinds = BTreeSet::new();
    let mut count = 0;
    for (line, recorded) in lines.lines().zip(reader.events(0)) {
        let (object, recorded): (Value, _) = (serde_json::from_str(line).expect("JSON"), recorded.expect("sound"));
        assert_eq!(object["event"], count, "{line}");
        assert_eq!(event(&object).as_ref(), Some(&recorded), "{line}");
        if let What::Exit(exit) = &recorded.what {
            let reason: Reason = exit.basic();
            assert_eq!(object["reason"], reason.to_string(), "{line}");
        }
        kinds.insert(recorded.what.kind().name());
        count += 1;
    }
    assert_eq!(count, reader.len(), "{}", trace.display());
    kinds
}

#[test]
fn every_event_can_be_made_again_of_its_line() {
    let folder = folder("dump-json");
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/tests/data/iris-20-exits.txt");
    let imported = folder.join("seeds.nvmx");
    nvmx(&["import", seeds, "--from", "iris", "-o", word(&imported)]).expect(0);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/golden/v1.nvmx");
    let mut kinds = check(&record(&folder, "demo.nvmx", "demo", "--cpus 2 --pcpus 2"));
    kinds.extend(check(&record(&folder, "l0.nvmx", "demo", "--log l0")));
    kinds.extend(check(&imported));
    kinds.extend(check(&golden));
    let never: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).filter(|kind| !kinds.contains(kind)).collect();
    // Our own sources lose nothing.
    assert!(never.iter().all(|kind| *kind == "lost"), "no trace here has: {never:?}");
}
