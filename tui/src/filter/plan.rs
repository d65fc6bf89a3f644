//! A filter that is ready to run: for each kind of event, a test of that kind's columns.
//!
//! A comparison of a field that an event does not have does not hold. A kind that the filter can never hold for is never
//! read, and of the others only the columns that it asks for.

use super::held::Held;
use super::parse::{At, Error, Node, Op, Value, parse};
use hv_defs::event::{Event, Kind, NO_ADDRESS};
use hv_defs::exit::{EventType, Reason};
use hv_defs::fields::{Form, MAX_COLUMNS, Texts};
use hv_defs::vmcs;
use traces::{Rows, Values};

/// A compiled filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// In the order of [`Kind::ALL`].
    kinds: Vec<Test>,
    /// The names of the columns that are read of each kind, in the same order.
    columns: Vec<Vec<&'static str>>,
}

/// What is tested of one event of a known kind.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    Const(bool),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    Not(Box<Test>),
    Cell(Cell, Match),
}

/// Where the tested number comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Event,
    Instruction,
    Vcpu,
    Pcpu,
    /// A column of the kind, shifted right and masked.
    Column(usize, u32, u64),
}

/// What the number must be.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Match {
    /// At least the first, at most the second.
    Range(u64, u64),
    /// One of these, which are sorted.
    Set(Vec<u64>),
    /// All these bits are set.
    Bits(u64),
    /// These are its first digits in hexadecimal.
    Digits(u64),
    /// The number of a text that contains this, or is it when `true`.
    Text(String, bool),
}

impl Match {
    fn holds(&self, number: u64, texts: &Texts) -> bool {
        match self {
            Self::Range(from, to) => (*from..=*to).contains(&number),
            Self::Set(set) => set.binary_search(&number).is_ok(),
            Self::Bits(bits) => number & bits == *bits,
            Self::Digits(digits) => starts_with_digits(number, *digits),
            Self::Text(text, whole) => match texts.text(number) {
                Some(found) if *whole => found == text,
                Some(found) => contains(found, text),
                None => false,
            },
        }
    }
}

fn starts_with_digits(number: u64, digits: u64) -> bool {
    let length = |number: u64| (u64::BITS - number.leading_zeros()).div_ceil(4);
    match length(number).checked_sub(length(digits)) {
        Some(more) => number.checked_shr(more * 4).unwrap_or(0) == digits,
        None => false,
    }
}

fn contains(text: &str, part: &str) -> bool {
    text.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
}

impl Plan {
    /// The plan of a filter's text.
    pub(crate) fn of(text: &str) -> Result<Self, Error> {
        let node = parse(text)?;
        check_names(&node)?;
        let kinds = Kind::ALL.iter().map(|&kind| compile(&node, kind)).collect::<Result<_, _>>()?;
        Ok(Self::of_tests(kinds))
    }

    /// The plan of a search: events of which a name contains `text`, or of which a number is it or begins with its
    /// digits in hexadecimal.
    pub(crate) fn of_search(text: &str) -> Self {
        let text = text.trim();
        Self::of_tests(Kind::ALL.iter().map(|&kind| search(text, kind)).collect())
    }

    fn of_tests(kinds: Vec<Test>) -> Self {
        let columns = |(&kind, test): (&Kind, &Test)| {
            let mut wanted = [false; MAX_COLUMNS];
            test.visit(&mut |cell| {
                if let Cell::Column(at, ..) = cell {
                    wanted[at] = true;
                }
            });
            kind.columns().iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(column, _)| column.name).collect()
        };
        let columns = Kind::ALL.iter().zip(&kinds).map(columns).collect();
        Self { kinds, columns }
    }

    /// Whether an event of this kind can match at all.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.kinds[kind as usize] != Test::Const(false)
    }

    /// The names of the columns that are read of this kind.
    pub(crate) fn columns(&self, kind: Kind) -> &[&'static str] {
        &self.columns[kind as usize]
    }

    /// Whether an event matches. `number` is its own.
    pub(crate) fn holds(&self, number: u64, event: &Event) -> bool {
        let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        let kind = event.what.kind();
        if let Test::Const(constant) = self.kinds[kind as usize] {
            return constant;
        }
        event.what.row(&mut row, &mut texts);
        let cell = |cell| match cell {
            Cell::Event => number,
            Cell::Instruction => event.at.instruction,
            Cell::Vcpu => event.at.vcpu.into(),
            Cell::Pcpu => event.at.pcpu.into(),
            Cell::Column(at, shift, mask) => row[at] >> shift & mask,
        };
        self.kinds[kind as usize].holds(&cell, &texts)
    }

    /// Whether the numbers and stamps of a kind's events are asked for, besides columns.
    pub(crate) fn wants_stamps(&self, kind: Kind) -> bool {
        let mut wanted = false;
        self.kinds[kind as usize].visit(&mut |cell| wanted |= !matches!(cell, Cell::Column(..)));
        wanted
    }

    /// Which rows of a kind match, of so many. `rows` has at least the columns that [`Plan::columns`] names, and the
    /// events' numbers and stamps if [`Plan::wants_stamps`] says so.
    pub(crate) fn matches(&self, kind: Kind, rows: &Rows, count: usize) -> Held {
        self.kinds[kind as usize].over(kind, rows, count)
    }
}

impl Test {
    fn visit(&self, see: &mut impl FnMut(Cell)) {
        match self {
            Self::Const(_) => {}
            Self::And(a, b) | Self::Or(a, b) => {
                a.visit(see);
                b.visit(see);
            }
            Self::Not(a) => a.visit(see),
            Self::Cell(cell, _) => see(*cell),
        }
    }

    fn holds(&self, cell: &impl Fn(Cell) -> u64, texts: &Texts) -> bool {
        match self {
            Self::Const(constant) => *constant,
            Self::And(a, b) => a.holds(cell, texts) && b.holds(cell, texts),
            Self::Or(a, b) => a.holds(cell, texts) || b.holds(cell, texts),
            Self::Not(a) => !a.holds(cell, texts),
            Self::Cell(of, test) => test.holds(cell(*of), texts),
        }
    }

    fn over(&self, kind: Kind, rows: &Rows, count: usize) -> Held {
        match self {
            Self::Const(constant) => Held::constant(*constant),
            Self::And(a, b) => a.over(kind, rows, count).and(|| b.over(kind, rows, count)),
            Self::Or(a, b) => a.over(kind, rows, count).or(|| b.over(kind, rows, count)),
            Self::Not(a) => a.over(kind, rows, count).not(count),
            Self::Cell(cell, test) => {
                let (values, shift, mask) = match *cell {
                    Cell::Event => (Some(&rows.event), 0, u64::MAX),
                    Cell::Instruction => (Some(&rows.instruction), 0, u64::MAX),
                    Cell::Vcpu => (Some(&rows.vcpu), 0, u64::MAX),
                    Cell::Pcpu => (Some(&rows.pcpu), 0, u64::MAX),
                    Cell::Column(at, shift, mask) => (rows.column(kind.columns()[at].name), shift, mask),
                };
                // A column that is not there reads as zeros, which no reader gives for a column of a known kind.
                let Some(values) = values.filter(|values| values.len() == count) else {
                    return Held::constant(test.holds(0, &rows.texts));
                };
                over_column(values, shift, mask, test, &rows.texts)
            }
        }
    }
}

fn over_column(values: &Values, shift: u32, mask: u64, test: &Match, texts: &Texts) -> Held {
    let of = |number: u64| number >> shift & mask;
    // The tests that filters are mostly made of get loops of their own, which the compiler can vectorise.
    match (test, mask) {
        (Match::Range(from, to), u64::MAX) => Held::of(values, |number| (*from..=*to).contains(&number)),
        (Match::Range(from, to), _) => Held::of(values, |number| (*from..=*to).contains(&of(number))),
        (Match::Set(set), u64::MAX) if set.len() == 1 => Held::of(values, |number| number == set[0]),
        (Match::Set(set), _) if set.len() == 1 => Held::of(values, |number| of(number) == set[0]),
        _ => Held::of(values, |number| test.holds(of(number), texts)),
    }
}

fn and(a: Test, b: Test) -> Test {
    match (a, b) {
        (Test::Const(false), _) | (_, Test::Const(false)) => Test::Const(false),
        (Test::Const(true), other) | (other, Test::Const(true)) => other,
        (a, b) => Test::And(Box::new(a), Box::new(b)),
    }
}

fn or(a: Test, b: Test) -> Test {
    match (a, b) {
        (Test::Const(true), _) | (_, Test::Const(true)) => Test::Const(true),
        (Test::Const(false), other) | (other, Test::Const(false)) => other,
        (a, b) => Test::Or(Box::new(a), Box::new(b)),
    }
}

fn not(a: Test) -> Test {
    match a {
        Test::Const(constant) => Test::Const(!constant),
        Test::Not(inner) => *inner,
        other => Test::Not(Box::new(other)),
    }
}

fn compile(node: &Node, kind: Kind) -> Result<Test, Error> {
    Ok(match node {
        Node::And(a, b) => and(compile(a, kind)?, compile(b, kind)?),
        Node::Or(a, b) => or(compile(a, kind)?, compile(b, kind)?),
        Node::Not(a) => not(compile(a, kind)?),
        Node::Bare(name) => bare(name, kind),
        Node::Compare(name, op, value) => compare(name, *op, value, kind),
        Node::OneOf(name, values) => {
            values.iter().map(|value| compare(name, Op::Equal, value, kind)).fold(Test::Const(false), or)
        }
        Node::Within(name, from, to, inclusive) => {
            if let (Value::Number(low), Value::Number(high)) = (&from.of, &to.of)
                && (low > high || (low == high && !inclusive))
            {
                let at = from.at.start..to.at.end;
                return Err(Error { at, what: "the range is empty: it ends before it begins".into(), expected: None });
            }
            let last = if *inclusive { Op::AtMost } else { Op::Less };
            and(compare(name, Op::AtLeast, from, kind), compare(name, last, to, kind))
        }
    })
}

/// The field that a name means for a kind, with how it is read. A name is the field's own, or `kind.field`.
fn field_of(name: &str, kind: Kind) -> Option<(Cell, Form)> {
    let own = match name.split_once('.') {
        Some((of, field)) if of.eq_ignore_ascii_case(kind.name()) => field,
        Some(_) => return None,
        None => name,
    };
    let stamp = match own {
        "event" => Some(Cell::Event),
        "instruction" => Some(Cell::Instruction),
        "vcpu" => Some(Cell::Vcpu),
        "pcpu" => Some(Cell::Pcpu),
        _ => None,
    };
    if let Some(cell) = stamp {
        return Some((cell, Form::Number));
    }
    let field = kind.fields().iter().find(|field| field.name == own)?;
    let (shift, mask) = match field.form {
        Form::Reason => (0, 0xffff),
        Form::Vector => (0, 0xff),
        Form::EventType => (8, 7),
        _ => (0, u64::MAX),
    };
    Some((Cell::Column(field.column, shift, mask), field.form))
}

fn bare(name: &At<String>, kind: Kind) -> Test {
    if Kind::by_name(&name.of.to_ascii_lowercase()).is_some() {
        return Test::Const(name.of.eq_ignore_ascii_case(kind.name()));
    }
    match field_of(&name.of, kind) {
        None => Test::Const(false),
        Some((cell, Form::Address)) => Test::Cell(cell, Match::Range(0, NO_ADDRESS - 1)),
        Some((cell, _)) => Test::Cell(cell, Match::Range(1, u64::MAX)),
    }
}

fn compare(name: &At<String>, op: Op, value: &At<Value>, kind: Kind) -> Test {
    // `kind` is the event's, and of flushes, inputs and stops also the field of that name.
    if name.of == "kind"
        && let Value::Word(word) = &value.of
        && let Some(matched) = kind_test(word, op, kind)
    {
        return Test::Const(matched);
    }
    let Some((cell, form)) = field_of(&name.of, kind) else { return Test::Const(false) };
    match matching(&name.of, form, op, &value.of) {
        Matched::When(test) => Test::Cell(cell, test),
        Matched::Not(test) => not(Test::Cell(cell, test)),
        // A word that this kind's field never is: it differs from it always.
        Matched::Unknown | Matched::Wrong(_) => Test::Const(op == Op::Differs),
    }
}

fn kind_test(word: &str, op: Op, kind: Kind) -> Option<bool> {
    match op {
        Op::Equal => Kind::by_name(&word.to_ascii_lowercase()).map(|named| named == kind),
        Op::Differs => Kind::by_name(&word.to_ascii_lowercase()).map(|named| named != kind),
        Op::Contains if Kind::ALL.iter().any(|kind| contains(kind.name(), word)) => Some(contains(kind.name(), word)),
        _ => None,
    }
}

/// What a comparison of a field of some form comes to.
enum Matched {
    When(Match),
    Not(Match),
    /// The form has no such word.
    Unknown,
    /// The form cannot be compared so.
    Wrong(String),
}

fn matching(name: &str, form: Form, op: Op, value: &Value) -> Matched {
    use Matched::{Not, Unknown, When, Wrong};
    if form == Form::Text {
        let text = match value {
            Value::Word(word) if word == "none" => {
                return match op {
                    Op::Equal => When(Match::Set(vec![0])),
                    Op::Differs => Not(Match::Set(vec![0])),
                    _ => Wrong(format!("'{name}' is a text: compare it with ==, != or ~")),
                };
            }
            Value::Word(text) | Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
        };
        return match op {
            Op::Equal => When(Match::Text(text, true)),
            Op::Differs => Not(Match::Text(text, true)),
            Op::Contains => When(Match::Text(text, false)),
            _ => Wrong(format!("'{name}' is a text: compare it with ==, != or ~")),
        };
    }
    match value {
        Value::Number(number) => {
            if has_names(form) && !matches!(op, Op::Equal | Op::Differs) {
                return Wrong(format!("'{name}' has names: compare it with ==, != or ~"));
            }
            match op {
                Op::Equal => When(Match::Set(vec![*number])),
                Op::Differs => Not(Match::Set(vec![*number])),
                Op::Less if *number == 0 => When(Match::Set(Vec::new())),
                Op::Less => When(Match::Range(0, number - 1)),
                Op::AtMost => When(Match::Range(0, *number)),
                Op::More if *number == u64::MAX => When(Match::Set(Vec::new())),
                Op::More => When(Match::Range(number + 1, u64::MAX)),
                Op::AtLeast => When(Match::Range(*number, u64::MAX)),
                Op::Contains => When(Match::Digits(*number)),
                Op::Bits => When(Match::Bits(*number)),
            }
        }
        Value::Word(word) | Value::Text(word) => {
            if op == Op::Contains && has_names(form) {
                let set = named(form, |name| contains(name, word));
                return if set.is_empty() { Unknown } else { When(Match::Set(set)) };
            }
            let set = match form {
                Form::Address if word == "none" => vec![NO_ADDRESS],
                Form::HexOrNone if word == "none" => vec![0],
                Form::Number if name.ends_with("level") => match word.as_bytes() {
                    [b'L' | b'l', digit @ b'0'..=b'3'] => vec![u64::from(digit - b'0')],
                    _ => return Wrong(format!("a level is L0 to L3, not '{word}'")),
                },
                _ if has_names(form) => named(form, |name| name.eq_ignore_ascii_case(word)),
                _ => return Wrong(format!("'{name}' is a number, which '{word}' is not")),
            };
            match (op, set.is_empty()) {
                (_, true) => Unknown,
                (Op::Equal, _) => When(Match::Set(set)),
                (Op::Differs, _) => Not(Match::Set(set)),
                _ => Wrong(format!("'{name}' has names: compare it with ==, != or ~")),
            }
        }
    }
}

const fn has_names(form: Form) -> bool {
    matches!(form, Form::Reason | Form::VmcsField | Form::Word(_) | Form::EventType | Form::Flag)
}

/// The numbers of a form's names that are wanted, sorted.
fn named(form: Form, wanted: impl Fn(&str) -> bool) -> Vec<u64> {
    let mut numbers: Vec<u64> = match form {
        Form::Reason => {
            let known = Reason::ALL.iter().filter(|reason| reason.name().is_some_and(&wanted));
            known.map(|reason| reason.0.into()).collect()
        }
        Form::VmcsField => vmcs::TABLE.iter().filter(|row| wanted(row.name)).map(|row| row.field.0.into()).collect(),
        Form::Word(words) => (0..).zip(words).filter(|(_, word)| wanted(word)).map(|(number, _)| number).collect(),
        Form::EventType => (0..8).filter(|&bits| wanted(EventType::from_bits(bits).name())).map(u64::from).collect(),
        Form::Flag => [(0, "false"), (1, "true")].iter().filter(|(_, name)| wanted(name)).map(|(n, _)| *n).collect(),
        _ => Vec::new(),
    };
    numbers.sort_unstable();
    numbers
}

/// Every name that a form's values can have.
pub(crate) fn names_of(form: Form) -> Vec<&'static str> {
    match form {
        Form::Reason => Reason::ALL.iter().filter_map(|reason| reason.name()).collect(),
        Form::VmcsField => vmcs::TABLE.iter().map(|row| row.name).collect(),
        Form::Word(words) => words.to_vec(),
        Form::EventType => (0..8).map(|bits| EventType::from_bits(bits).name()).collect(),
        Form::Flag => vec!["true", "false"],
        Form::Address | Form::HexOrNone => vec!["none"],
        _ => Vec::new(),
    }
}

/// The forms that a field's name has in the kinds that have it.
pub(crate) fn forms_of(name: &str) -> Vec<Form> {
    Kind::ALL.iter().filter_map(|&kind| field_of(name, kind)).map(|(_, form)| form).collect()
}

/// Refuses names that no kind has, and values that no kind's field of that name can have.
fn check_names(node: &Node) -> Result<(), Error> {
    match node {
        Node::And(a, b) | Node::Or(a, b) => check_names(a).and_then(|()| check_names(b)),
        Node::Not(a) => check_names(a),
        Node::Bare(name) if Kind::by_name(&name.of.to_ascii_lowercase()).is_some() => Ok(()),
        Node::Bare(name) => check_name(name).map(drop),
        Node::Compare(name, op, value) => check_value(name, *op, value),
        Node::OneOf(name, values) => values.iter().try_for_each(|value| check_value(name, Op::Equal, value)),
        Node::Within(name, from, to, _) => {
            check_value(name, Op::AtLeast, from).and_then(|()| check_value(name, Op::AtMost, to))
        }
    }
}

fn check_name(name: &At<String>) -> Result<Vec<Form>, Error> {
    let forms = forms_of(&name.of);
    if !forms.is_empty() {
        return Ok(forms);
    }
    let hint =
        super::nearest(&name.of, super::complete::names()).map_or(String::new(), |near| format!("; is it '{near}'?"));
    Err(Error { at: name.at.clone(), what: format!("no event has a field '{}'{hint}", name.of), expected: None })
}

fn check_value(name: &At<String>, op: Op, value: &At<Value>) -> Result<(), Error> {
    if name.of == "kind"
        && let Value::Word(word) = &value.of
        && kind_test(word, op, Kind::Exit).is_some()
    {
        return Ok(());
    }
    let forms = check_name(name)?;
    let mut wrong = None;
    for &form in &forms {
        match matching(&name.of, form, op, &value.of) {
            Matched::When(_) | Matched::Not(_) => return Ok(()),
            Matched::Wrong(what) => wrong = Some(what),
            Matched::Unknown => {}
        }
    }
    let what = wrong.unwrap_or_else(|| {
        let (Value::Word(word) | Value::Text(word)) = &value.of else { return format!("'{}' is never that", name.of) };
        let near = super::nearest(word, super::complete::values(&name.of));
        let hint = near.map_or(String::new(), |near| format!("; is it '{near}'?"));
        format!("'{}' is never '{word}'{hint}", name.of)
    });
    Err(Error { at: value.at.clone(), what, expected: None })
}

fn search(text: &str, kind: Kind) -> Test {
    if text.is_empty() {
        return Test::Const(false);
    }
    if contains(kind.name(), text) {
        return Test::Const(true);
    }
    let decimal = text.replace(['_', ','], "").parse::<u64>().ok();
    let hex = text.strip_prefix("0x").unwrap_or(text);
    let hex = u64::from_str_radix(&hex.replace('_', ""), 16).ok();
    // A word such as `add` is all hexadecimal digits and means the word.
    let hex = hex.filter(|&digits| digits != 0 && (text.starts_with("0x") || text.bytes().any(|b| b.is_ascii_digit())));
    let tests = kind.fields().iter().filter_map(|field| {
        let (cell, form) = field_of(field.name, kind)?;
        let set =
            if has_names(form) && form != Form::Flag { named(form, |name| contains(name, text)) } else { Vec::new() };
        let test = match form {
            Form::Text => Match::Text(text.to_owned(), false),
            Form::Hex | Form::HexOrNone | Form::Address => Match::Digits(hex?),
            Form::Number | Form::Vector => Match::Set(vec![decimal?]),
            _ if set.is_empty() => return None,
            _ => Match::Set(set),
        };
        Some(Test::Cell(cell, test))
    });
    tests.fold(Test::Const(false), or)
}
