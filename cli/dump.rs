//! `nvmx dump`: a trace's events, a line each. docs/json.md says what the lines of `--json` hold.

use super::fail::{Failure, Result, Status};
use super::print::{Print, of};
use super::trace::{open, unreadable};
use super::words::DumpArgs;
use hv_defs::event::{Event, Kind, NO_ADDRESS, Stamp, VmcsOp};
use hv_defs::exit::{EventType, ExitReason};
use hv_defs::fields::{Form, MAX_COLUMNS, Texts};
use hv_defs::vmcs::VmcsField;
use std::io::Write;
use traces::{Error, Stored};

/// Lines are handed on when they come to so many bytes.
const BATCH: usize = 1 << 16;

/// `nvmx dump`.
pub fn dump(args: &DumpArgs, print: &Print) -> Result<Status> {
    let path = &args.trace.trace;
    let reader = open(path, print)?;
    if args.from > reader.len() {
        let what = format!("cannot dump {} from event {}", path.display(), args.from);
        return Err(Failure::new(
            Status::Usage,
            what,
            format!("it has {}", of(reader.len(), "event")),
            "use a smaller --from",
        ));
    }
    let mut out = print.out();
    let mut lines = Lines::new(args.json);
    let mut left = args.count.unwrap_or(u64::MAX);
    let newer = reader.header().version > traces::VERSION;
    for (number, event) in (args.from..).zip(reader.events(args.from)) {
        if left == 0 {
            break;
        }
        let event = match event {
            Ok(event) => Some(event),
            Err(Error::NewerKind { .. }) => None,
            Err(error) => {
                // What was read goes out before the error does.
                let _ = out.write_all(&lines.text).and_then(|()| out.flush());
                return Err(unreadable(path, error));
            }
        };
        let kind = event.as_ref().map(|event| event.what.kind());
        if !args.kind.is_empty() && kind.is_none_or(|kind| !args.kind.contains(&kind)) {
            continue;
        }
        left -= 1;
        let stored = match newer || event.is_none() {
            true => Some(reader.stored(number).map_err(|error| unreadable(path, error))?),
            false => None,
        };
        match (&event, &stored) {
            (Some(event), stored) => {
                lines.event(number, event);
                stored.iter().for_each(|stored| lines.newer(stored, event.what.kind()));
            }
            (None, Some(stored)) => lines.unknown(number, stored),
            (None, None) => {}
        }
        lines.end();
        if lines.text.len() >= BATCH {
            out.write_all(&lines.text)?;
            lines.text.clear();
        }
    }
    out.write_all(&lines.text)?;
    out.flush()?;
    Ok(Status::Done)
}

/// An event in one line, for a reader.
pub fn line_of(number: u64, event: &Event) -> String {
    let mut lines = Lines::new(false);
    lines.event(number, event);
    String::from_utf8_lossy(&lines.text).into_owned()
}

/// An event as the object that `nvmx dump --json` has for it.
pub fn json_of(number: u64, event: &Event) -> serde_json::Value {
    let mut lines = Lines::new(true);
    lines.event(number, event);
    lines.end();
    serde_json::from_slice(&lines.text).unwrap_or_default()
}

/// Lines on their way out. What a line needs is there from the line before, so that none allots memory, but for texts and
/// names that are not known.
struct Lines {
    text: Vec<u8>,
    json: bool,
    row: [u64; MAX_COLUMNS],
    texts: Texts,
}

impl Lines {
    fn new(json: bool) -> Self {
        Self { text: Vec::with_capacity(BATCH + 4096), json, row: [0; MAX_COLUMNS], texts: Texts::default() }
    }

    /// A line but for its end.
    fn event(&mut self, number: u64, event: &Event) {
        let kind = event.what.kind();
        self.begin(number, &event.at, kind.name());
        self.texts.list.clear();
        event.what.row(&mut self.row, &mut self.texts);
        // A field is read and written, and no other operation on a VMCS has one.
        let op = kind.columns().iter().position(|column| column.name == "op").map(|op| self.row[op]);
        let touches = kind != Kind::Vmcs || op.is_none_or(|op| op == VmcsOp::Read as u64 || op == VmcsOp::Write as u64);
        for field in kind.fields() {
            let value = self.row[field.column];
            let none = value == 0 && !touches && matches!(field.name, "field" | "old" | "value");
            if self.json {
                self.key(kind.name(), field.name);
                if none { self.word(b"null") } else { self.value(field.form, value) }
            } else if !none && !is_none(field.form, value) {
                self.key(kind.name(), field.name);
                self.value(field.form, value);
            }
        }
    }

    /// What a newer version of the format added to an event: columns, as numbers.
    fn newer(&mut self, stored: &Stored, kind: Kind) {
        let known = kind.columns();
        for (name, value) in stored.columns.iter().filter(|(name, _)| known.iter().all(|column| column.name != name)) {
            self.key(&stored.table, name);
            self.decimal(*value);
        }
    }

    /// An event of a kind that a newer version of the format added: all its columns, as numbers.
    fn unknown(&mut self, number: u64, stored: &Stored) {
        self.begin(number, &stored.at, &stored.table);
        for (name, value) in &stored.columns {
            self.key(&stored.table, name);
            self.decimal(*value);
        }
    }

    fn end(&mut self) {
        self.text.extend_from_slice(if self.json { b"}\n" } else { b"\n" });
    }

    fn begin(&mut self, number: u64, at: &Stamp, kind: &str) {
        if self.json {
            self.word(b"{\"event\":");
            self.decimal(number);
            self.word(b",\"instruction\":");
            self.decimal(at.instruction);
            self.word(b",\"vcpu\":");
            self.decimal(at.vcpu.into());
            self.word(b",\"pcpu\":");
            self.decimal(at.pcpu.into());
            self.word(b",\"kind\":");
            self.quoted(kind);
            return;
        }
        self.aligned(number, 8);
        self.text.push(b' ');
        self.aligned(at.instruction, 12);
        self.text.push(b' ');
        self.decimal(at.vcpu.into());
        self.text.push(b'/');
        self.decimal(at.pcpu.into());
        self.text.push(b' ');
        self.word(kind.as_bytes());
        self.text.resize(self.text.len() + 9_usize.saturating_sub(kind.len()), b' ');
    }

    /// What stands before a value. A column whose name the line has already has the name of its kind before its own.
    fn key(&mut self, kind: &str, name: &str) {
        let taken = self.json && matches!(name, "event" | "instruction" | "vcpu" | "pcpu" | "kind");
        if !self.json {
            self.text.push(b' ');
            self.word(name.as_bytes());
            self.text.push(b'=');
            return;
        }
        self.text.push(b',');
        if taken {
            self.quoted(&format!("{kind}_{name}"));
        } else {
            self.quoted(name);
        }
        self.text.push(b':');
    }

    /// A column's number in the way that its form is shown; [`Form::value`] says the same.
    fn value(&mut self, form: Form, value: u64) {
        match form {
            _ if is_none(form, value) => self.word(if self.json { b"null" } else { b"-" }),
            Form::Number => self.decimal(value),
            Form::Hex | Form::HexOrNone | Form::Address => self.hex(value),
            Form::Flag => match value {
                0 => self.word(b"false"),
                1 => self.word(b"true"),
                _ => self.decimal(value),
            },
            Form::Word(words) => match usize::try_from(value).ok().and_then(|at| words.get(at)) {
                Some(word) => self.name(word),
                None => self.decimal(value),
            },
            Form::Reason => {
                let reason = ExitReason::from(value as u32).reason();
                match reason.name() {
                    Some(name) => self.name(name),
                    None => self.name(&reason.to_string()),
                }
            }
            Form::VmcsField => match u32::try_from(value).map(VmcsField) {
                Ok(field) => match field.name() {
                    Some(name) => self.name(name),
                    None => self.name(&field.to_string()),
                },
                Err(_) => self.hex(value),
            },
            Form::Vector => self.decimal(value & 0xff),
            Form::EventType => self.name(EventType::from_bits((value >> 8 & 7) as u8).name()),
            Form::Text => {
                let text = self.texts.text(value).unwrap_or_default().to_owned();
                if self.json { self.quoted(&text) } else { self.plain(&text) }
            }
        }
    }

    /// A text for a terminal: on one line, and no more than a text.
    fn plain(&mut self, text: &str) {
        self.word(traces::plain(text).as_bytes());
    }

    fn word(&mut self, word: &[u8]) {
        self.text.extend_from_slice(word);
    }

    /// One of our own words, in which nothing needs an escape.
    fn name(&mut self, name: &str) {
        if self.json {
            self.text.push(b'"');
            self.word(name.as_bytes());
            self.text.push(b'"');
        } else {
            self.word(name.as_bytes());
        }
    }

    /// A string of JSON.
    fn quoted(&mut self, text: &str) {
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.name(text);
        } else {
            self.text.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        }
    }

    fn decimal(&mut self, number: u64) {
        self.aligned(number, 0);
    }

    /// A number, aligned to the right.
    fn aligned(&mut self, mut number: u64, width: usize) {
        let (mut digits, mut at) = ([b' '; 20], 20);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text.extend_from_slice(&digits[at.min(20 - width)..]);
    }

    fn hex(&mut self, mut bits: u64) {
        let (mut digits, mut at) = ([0; 16], 16);
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(bits & 0xf) as usize];
            bits >>= 4;
            if bits == 0 {
                break;
            }
        }
        self.word(if self.json { b"\"0x" } else { b"0x" });
        self.text.extend_from_slice(&digits[at..]);
        if self.json {
            self.text.push(b'"');
        }
    }
}

/// Whether a column's number stands for none.
fn is_none(form: Form, value: u64) -> bool {
    match form {
        Form::HexOrNone | Form::Text => value == 0,
        Form::Address => value == NO_ADDRESS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::event::{Actor, Stop, StopKind, VmcsAccess, What, Which};
    use hv_defs::fields::Value;

    fn event(what: What) -> Event {
        Event { at: Stamp { instruction: 1_234_567, vcpu: 1, pcpu: 2 }, what }
    }

    /// One row of each kind, all of whose columns are that number; those of a range that it is not in are left out.
    fn of_each_kind(number: u64) -> Vec<Event> {
        let texts = Texts { list: vec!["a \"text\"\nof two lines".into(), "other".into()] };
        let of = |kind: &Kind| What::from_row(*kind, &[number; MAX_COLUMNS][..kind.columns().len()], &texts);
        Kind::ALL.iter().filter_map(of).map(event).collect()
    }

    #[test]
    fn a_line_says_what_the_events_values_say() {
        for number in [0, 1, 2] {
            for event in of_each_kind(number) {
                let line = line_of(7, &event);
                let (beginning, rest) = line.split_at(8 + 1 + 12 + 1 + 3 + 1 + 9);
                let kind = event.what.kind();
                assert_eq!(beginning, format!("{:>8} {:>12} 1/2 {:<9}", 7, 1_234_567, kind.name()));
                let mut expected = String::new();
                for (field, value) in event.values().filter(|(_, value)| *value != Value::None) {
                    expected.push_str(&format!(" {}={value}", field.name).replace('\n', "\\n"));
                }
                assert_eq!(rest, expected);
            }
        }
    }

    #[test]
    fn every_field_of_every_kind_is_in_the_object() {
        for number in [0, 1] {
            let events = of_each_kind(number);
            assert_eq!(events.len(), Kind::ALL.len());
            for event in events {
                let (kind, object) = (event.what.kind(), json_of(7, &event));
                assert_eq!(object["kind"], kind.name());
                assert_eq!((&object["event"], &object["instruction"]), (&7.into(), &1_234_567.into()));
                assert_eq!((&object["vcpu"], &object["pcpu"]), (&1.into(), &2.into()));
                let own = kind.fields().len();
                assert_eq!(object.as_object().expect("an object").len(), 5 + own, "{object}");
                for (field, value) in event.values() {
                    let key =
                        if field.name == "kind" { format!("{}_kind", kind.name()) } else { field.name.to_owned() };
                    let expected = match value {
                        Value::None => serde_json::Value::Null,
                        Value::Unsigned(number) => number.into(),
                        Value::Word(word) if field.form == Form::Flag => (word == "true").into(),
                        Value::Text(text) => text.into(),
                        other => other.to_string().into(),
                    };
                    assert_eq!(object.get(&key), Some(&expected), "{kind} {key}");
                }
            }
        }
    }

    #[test]
    fn what_touches_no_field_has_none() {
        let access = VmcsAccess {
            actor: Actor::L1,
            which: Which::Vmcs12,
            address: 0x1000,
            op: VmcsOp::Load,
            field: VmcsField(0),
            old: 0,
            value: 0,
        };
        let object = json_of(0, &event(What::Vmcs(access)));
        assert_eq!((&object["op"], &object["field"]), (&"load".into(), &serde_json::Value::Null));
        assert!(
            line_of(0, &event(What::Vmcs(access))).ends_with(" vmcs      actor=L1 which=vmcs12 address=0x1000 op=load")
        );
    }

    #[test]
    fn numbers_of_all_lengths() {
        let check = |number: u64| {
            let stop = Stop { kind: StopKind::Idle, code: number as u32, text: String::new() };
            let object = json_of(number, &event(What::Stop(stop)));
            assert_eq!((&object["event"], &object["code"]), (&number.into(), &(number as u32).into()));
            assert_eq!(json_of(0, &event(What::Digest(number)))["value"], format!("{number:#x}"));
            let line = line_of(number, &event(What::Digest(number)));
            assert!(
                line.starts_with(&format!("{number:>8} ")) && line.ends_with(&format!(" value={number:#x}")),
                "{line}"
            );
        };
        [0, 9, 10, 99_999_999, 100_000_000, u64::MAX].into_iter().for_each(check);
    }
}
