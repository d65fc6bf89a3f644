//! What each kind of event is made of: one table, from which traces take their columns, and `dump`, `diff`, replay, the
//! inspector and the analyzer their names and how to show a value.
//!
//! A [`Column`] is what is stored: a number. A [`Field`] is what is shown: one column read in one way. A column may be
//! shown in two ways, as the exit reason is by its name and by its number.

use crate::event::{
    Actor, Answer, AnswerOf, Cause, Check, EptChange, EptOp, Event, Exit, Flush, FlushKind, Injection, Input,
    InputKind, Kind, Migration, NO_ADDRESS, Pool, PoolOp, Registers, Stamp, Stop, StopKind, VmcsAccess, VmcsOp, What,
    Which,
};
use crate::event::{Entry, Vpid, VpidOp};
use crate::exit::{EventType, ExitReason, InterruptionInfo};
use crate::vmcs::VmcsField;
use core::fmt;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// How a column's number is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A count, a length or a code, shown in decimal.
    Number,
    /// Bits, shown in hexadecimal.
    Hex,
    /// Bits of which 0 means none.
    HexOrNone,
    /// An address of which [`NO_ADDRESS`] means none.
    Address,
    /// 0 or 1.
    Flag,
    /// One of the words of a list, by its place there.
    Word(&'static [&'static str]),
    /// The exit-reason field, as the SDM's name of the basic reason.
    Reason,
    /// A VMCS field's encoding, as the field's name.
    VmcsField,
    /// Interruption information, as its vector.
    Vector,
    /// Interruption information, as the name of its event type.
    EventType,
    /// A text's number in [`Texts`]: 0 means none.
    Text,
}

/// A stored column of a kind's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name, unique in its table.
    pub name: &'static str,
    /// How its numbers are read.
    pub form: Form,
}

/// A shown field of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name, unique among its kind's fields, as the tables of `nvmx query` call it.
    pub name: &'static str,
    /// Its column, as an index into [`Kind::columns`].
    pub column: usize,
    /// How the column is read.
    pub form: Form,
}

/// The most columns that any kind has.
pub const MAX_COLUMNS: usize = 15;

/// The value of a field. Two numbers of one field that differ give values that differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// There is none.
    None,
    /// A number to show in decimal.
    Unsigned(u64),
    /// An address or bits, to show in hexadecimal.
    Hex(u64),
    /// A name from a list.
    Word(Cow<'static, str>),
    /// Free text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("-"),
            Self::Unsigned(number) => fmt::Display::fmt(number, f),
            Self::Hex(bits) => f.pad(&format!("{bits:#x}")),
            Self::Word(word) => f.pad(word),
            Self::Text(text) => f.pad(text),
        }
    }
}

/// Texts by number, from 1; 0 stands for none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Texts {
    /// Text number 1 and on, each once.
    pub list: Vec<String>,
}

impl Texts {
    /// The number of `text`, which is added when it is new. The empty text is none.
    pub fn number(&mut self, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let at = self.list.iter().position(|known| known == text).unwrap_or_else(|| {
            self.list.push(text.to_owned());
            self.list.len() - 1
        });
        at as u64 + 1
    }

    /// The text of that number; `None` for 0 and for a number that was never given.
    pub fn text(&self, number: u64) -> Option<&str> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.list.get(at).map(String::as_str)
    }
}

impl Form {
    /// A column's number, read this way. A number outside the form's list shows as a number.
    pub fn value(self, number: u64, texts: &Texts) -> Value {
        match self {
            Self::Number => Value::Unsigned(number),
            Self::Hex => Value::Hex(number),
            Self::HexOrNone if number == 0 => Value::None,
            Self::HexOrNone => Value::Hex(number),
            Self::Address if number == NO_ADDRESS => Value::None,
            Self::Address => Value::Hex(number),
            Self::Flag => match number {
                0 => Value::Word("false".into()),
                1 => Value::Word("true".into()),
                _ => Value::Unsigned(number),
            },
            Self::Word(words) => match usize::try_from(number).ok().and_then(|at| words.get(at)) {
                Some(word) => Value::Word((*word).into()),
                None => Value::Unsigned(number),
            },
            Self::Reason => {
                let reason = ExitReason::from(number as u32).reason();
                Value::Word(reason.name().map_or_else(|| reason.to_string().into(), Cow::Borrowed))
            }
            Self::VmcsField => match u32::try_from(number) {
                Ok(encoding) => {
                    let field = VmcsField(encoding);
                    Value::Word(field.name().map_or_else(|| field.to_string().into(), Cow::Borrowed))
                }
                Err(_) => Value::Hex(number),
            },
            Self::Vector => Value::Unsigned(number & 0xff),
            Self::EventType => Value::Word(EventType::from_bits((number >> 8 & 7) as u8).name().into()),
            Self::Text => match texts.text(number) {
                Some(text) => Value::Text(text.to_owned()),
                None => Value::None,
            },
        }
    }
}

/// A part of an event that fits a column.
trait Cell: Sized {
    /// How many bytes its number takes at most.
    const BYTES: usize;
    fn put(&self, texts: &mut Texts) -> u64;
    fn get(number: u64, texts: &Texts) -> Option<Self>;

    /// Puts its number at a place in a row. Returns the place behind it.
    #[inline(always)]
    fn pack(&self, row: &mut [u8; MAX_ROW], at: usize, texts: &mut Texts) -> usize {
        let end = at + Self::BYTES;
        row[at..end].copy_from_slice(&self.put(texts).to_le_bytes()[..Self::BYTES]);
        end
    }
}

macro_rules! number_cells {
    ($($type:ty),*) => {$(
        impl Cell for $type {
            const BYTES: usize = size_of::<Self>();
            #[inline]
            fn put(&self, _: &mut Texts) -> u64 {
                u64::from(*self)
            }
            #[inline]
            fn get(number: u64, _: &Texts) -> Option<Self> {
                <$type>::try_from(number).ok()
            }
        }
    )*};
}
number_cells!(u8, u16, u32, u64);

macro_rules! word_cells {
    ($($type:ident),*) => {$(
        impl Cell for $type {
            const BYTES: usize = 1;
            #[inline]
            fn put(&self, _: &mut Texts) -> u64 {
                *self as u64
            }
            #[inline]
            fn get(number: u64, _: &Texts) -> Option<Self> {
                $type::from_number(u8::try_from(number).ok()?)
            }
        }
    )*};
}
word_cells!(AnswerOf, Actor, Which, VmcsOp, FlushKind, Cause, PoolOp, VpidOp, EptOp, InputKind, StopKind);

macro_rules! bits_cells {
    ($($type:ident),*) => {$(
        impl Cell for $type {
            const BYTES: usize = 4;
            #[inline]
            fn put(&self, _: &mut Texts) -> u64 {
                u64::from(u32::from(*self))
            }
            #[inline]
            fn get(number: u64, _: &Texts) -> Option<Self> {
                u32::try_from(number).ok().map($type::from)
            }
        }
    )*};
}
bits_cells!(ExitReason, InterruptionInfo);

impl Cell for VmcsField {
    const BYTES: usize = 4;
    #[inline]
    fn put(&self, _: &mut Texts) -> u64 {
        u64::from(self.0)
    }
    #[inline]
    fn get(number: u64, _: &Texts) -> Option<Self> {
        u32::try_from(number).ok().map(VmcsField)
    }
}

impl Cell for bool {
    const BYTES: usize = 1;
    #[inline]
    fn put(&self, _: &mut Texts) -> u64 {
        u64::from(*self)
    }
    #[inline]
    fn get(number: u64, _: &Texts) -> Option<Self> {
        (number <= 1).then_some(number == 1)
    }
}

impl Cell for String {
    const BYTES: usize = 4;
    fn put(&self, texts: &mut Texts) -> u64 {
        texts.number(self)
    }
    fn get(number: u64, texts: &Texts) -> Option<Self> {
        if number == 0 { Some(Self::new()) } else { texts.text(number).map(str::to_owned) }
    }
}

impl Cell for Option<Check> {
    const BYTES: usize = 4;
    fn put(&self, texts: &mut Texts) -> u64 {
        self.map_or(0, |check| texts.number(check.name()))
    }
    fn get(number: u64, texts: &Texts) -> Option<Self> {
        if number == 0 { Some(None) } else { Check::known(texts.text(number)?).map(Some) }
    }
}

impl Check {
    /// The check of a name that was read from elsewhere. Each distinct name is kept until the program ends, so names
    /// longer than 80 bytes and names beyond the 1,000th are refused.
    pub fn known(name: &str) -> Option<Self> {
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut names = NAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return Some(Self::new(known));
        }
        if name.is_empty() || name.len() > 80 || names.len() >= 1000 {
            return None;
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        names.insert(kept);
        Some(Self::new(kept))
    }
}

/// The names of a list of words, for [`Form::Word`].
macro_rules! names {
    ($type:ident) => {
        Form::Word(
            const {
                &{
                    let mut names = [""; $type::ALL.len()];
                    let mut at = 0;
                    while at < names.len() {
                        names[at] = $type::ALL[at].name();
                        at += 1;
                    }
                    names
                }
            },
        )
    };
}

/// A column's own name and form, then those of the further fields that read it.
type Readings = &'static [(&'static str, Form)];

const fn columns<const N: usize>(table: &[Readings]) -> [Column; N] {
    let mut columns = [Column { name: "", form: Form::Number }; N];
    let mut at = 0;
    while at < N {
        columns[at] = Column { name: table[at][0].0, form: table[at][0].1 };
        at += 1;
    }
    columns
}

const fn count_fields(table: &[Readings]) -> usize {
    let (mut count, mut column) = (0, 0);
    while column < table.len() {
        count += table[column].len();
        column += 1;
    }
    count
}

const fn fields<const N: usize>(table: &[Readings]) -> [Field; N] {
    let mut fields = [Field { name: "", column: 0, form: Form::Number }; N];
    let (mut at, mut column) = (0, 0);
    while column < table.len() {
        let mut reading = 0;
        while reading < table[column].len() {
            let (name, form) = table[column][reading];
            fields[at] = Field { name, column, form };
            at += 1;
            reading += 1;
        }
        column += 1;
    }
    fields
}

/// The most bytes that [`What::pack`] makes of an event.
pub const MAX_ROW: usize = MAX_COLUMNS * 8;

const fn width<S, T: Cell>(_: fn(&S) -> &T) -> usize {
    T::BYTES
}

const fn lone_width<T: Cell>(_: fn(T) -> What) -> usize {
    T::BYTES
}

/// A kind is either a struct, one column a member in the order given here, or a lone number. After a column's own form
/// stand the further fields that show it.
macro_rules! kinds {
    ($($kind:ident $shape:ident { $($column:ident: $form:expr $(, $shown:ident: $shown_form:expr)*;)* })*) => {
        impl Kind {
            /// The stored columns of this kind, in the order of [`What::row`].
            pub const fn columns(self) -> &'static [Column] {
                match self {
                    $(Self::$kind => const { &columns::<{ table(Kind::$kind).len() }>(table(Kind::$kind)) },)*
                }
            }

            /// The fields of this kind, in the order in which they are shown and compared.
            pub const fn fields(self) -> &'static [Field] {
                match self {
                    $(Self::$kind => const { &fields::<{ count_fields(table(Kind::$kind)) }>(table(Kind::$kind)) },)*
                }
            }
        }

        impl Kind {
            /// The bytes that each column takes in a row that [`What::pack`] made: 1, 2, 4 or 8.
            pub const fn widths(self) -> &'static [usize] {
                match self {
                    $(Self::$kind => const { &[$(kinds!(@width $shape $kind $column)),*] },)*
                }
            }
        }

        const fn table(kind: Kind) -> &'static [Readings] {
            match kind {
                $(Kind::$kind => const { &[$(&[
                    (stringify!($column), $form)
                    $(, (stringify!($shown), $shown_form))*
                ]),*] },)*
            }
        }

        impl What {
            /// This event's columns, into the front of `row`, in the order of [`Kind::columns`].
            #[inline]
            pub fn row(&self, row: &mut [u64; MAX_COLUMNS], texts: &mut Texts) {
                match self {
                    $(Self::$kind(of) => {
                        let cells = [$(kinds!(@part $shape of $column).put(texts)),*];
                        row[..cells.len()].copy_from_slice(&cells);
                    })*
                }
            }

            /// As [`What::row`], onto the end of a list of rows.
            #[inline]
            pub fn push_row(&self, rows: &mut Vec<u64>, texts: &mut Texts) {
                match self {
                    $(Self::$kind(of) => rows.extend_from_slice(&[$(kinds!(@part $shape of $column).put(texts)),*]),)*
                }
            }

            /// This event's columns, into the front of `row`, one after another in as many bytes each as
            /// [`Kind::widths`] says, little-endian. Returns how many bytes that are.
            #[inline]
            pub fn pack(&self, row: &mut [u8; MAX_ROW], texts: &mut Texts) -> usize {
                let mut at = 0;
                match self {
                    $(Self::$kind(of) => {
                        $(at = kinds!(@part $shape of $column).pack(row, at, texts);)*
                    })*
                }
                at
            }

            /// The event of `kind` whose columns are `row`; `None` when a number is out of its column's range or the
            /// row has too few.
            #[inline]
            pub fn from_row(kind: Kind, row: &[u64], texts: &Texts) -> Option<Self> {
                let mut row = row.iter();
                Some(match kind {
                    $(Kind::$kind => Self::$kind(kinds!(@make $shape $kind row texts $($column)*)),)*
                })
            }
        }
    };
    (@part lone $of:ident $column:ident) => { $of };
    (@part $type:ident $of:ident $column:ident) => { $of.$column };
    (@width lone $kind:ident $column:ident) => { lone_width(What::$kind) };
    (@width $type:ident $kind:ident $column:ident) => { width(|of: &$type| &of.$column) };
    (@make lone $kind:ident $row:ident $texts:ident $column:ident) => { Cell::get(*$row.next()?, $texts)? };
    (@make $type:ident $kind:ident $row:ident $texts:ident $($column:ident)*) => {
        $type { $($column: Cell::get(*$row.next()?, $texts)?),* }
    };
}

kinds! {
    Exit Exit {
        level: Form::Number;
        reason: Form::Reason, reason_code: Form::Number;
        qualification: Form::Hex;
        rip: Form::Hex;
        length: Form::Number;
        gpa: Form::Hex;
        gla: Form::Hex;
        intr_info: Form::HexOrNone;
        vmcs12: Form::Address;
        handled_by: names!(Actor);
    }
    Entry Entry {
        level: Form::Number;
        launch: Form::Flag;
        vmcs12: Form::Address;
        vmcs02: Form::Address;
        vpid: Form::Number;
        eptp: Form::HexOrNone;
        injected: Form::HexOrNone;
        failed: Form::Text;
        fields_written: Form::Number;
    }
    Vmcs VmcsAccess {
        actor: names!(Actor);
        which: names!(Which);
        address: Form::Address;
        op: names!(VmcsOp);
        field: Form::VmcsField;
        old: Form::Hex;
        value: Form::Hex;
    }
    Flush Flush {
        kind: names!(FlushKind);
        cause: names!(Cause);
        actor: names!(Actor);
        vpid: Form::Number;
        eptp: Form::HexOrNone;
        address: Form::Hex;
        dropped: Form::Number;
    }
    Pool Pool {
        op: names!(PoolOp);
        vmcs12: Form::Address;
        slot: Form::Number;
        written: Form::Number;
        skipped: Form::Number;
    }
    Vpid Vpid {
        op: names!(VpidOp);
        vpid12: Form::Number;
        vpid02: Form::Number;
    }
    Ept EptChange {
        op: names!(EptOp);
        eptp12: Form::Hex;
        eptp02: Form::Hex;
        gpa: Form::Hex;
        size: Form::Hex;
        old: Form::Hex;
        new: Form::Hex;
    }
    Injection Injection {
        level: Form::Number;
        info: Form::Hex, vector: Form::Vector, type: Form::EventType;
        error_code: Form::Hex;
    }
    Input Input {
        poll: Form::Number;
        kind: names!(InputKind);
        value: Form::Number;
    }
    Migration Migration {
        from: Form::Number;
    }
    Mark lone {
        value: Form::Number;
    }
    Digest lone {
        value: Form::Hex;
    }
    Lost lone {
        value: Form::Number;
    }
    Stop Stop {
        kind: names!(StopKind);
        code: Form::Number;
        text: Form::Text;
    }
    Registers Registers {
        rax: Form::Hex;
        rbx: Form::Hex;
        rcx: Form::Hex;
        rdx: Form::Hex;
        rsi: Form::Hex;
        rdi: Form::Hex;
        rbp: Form::Hex;
        r8: Form::Hex;
        r9: Form::Hex;
        r10: Form::Hex;
        r11: Form::Hex;
        r12: Form::Hex;
        r13: Form::Hex;
        r14: Form::Hex;
        r15: Form::Hex;
    }
    Answer Answer {
        of: names!(AnswerOf);
        place: Form::Hex;
        value: Form::Hex;
    }
}

/// The names of the fields that every event has, before its kind's own: the stamp's.
pub const STAMP: [&str; 3] = ["instruction", "vcpu", "pcpu"];

impl Event {
    /// The kind's fields with their values, in order. The stamp is not among them.
    pub fn values(&self) -> impl Iterator<Item = (&'static Field, Value)> {
        let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        self.what.row(&mut row, &mut texts);
        self.what.kind().fields().iter().map(move |field| (field, field.form.value(row[field.column], &texts)))
    }

    /// The value of the kind's field of that name, or of the stamp's.
    pub fn value(&self, name: &str) -> Option<Value> {
        let stamp = stamp_values(&self.at).into_iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        stamp.or_else(|| self.values().find(|(field, _)| field.name == name).map(|(_, value)| value))
    }
}

fn stamp_values(at: &Stamp) -> [(&'static str, Value); 3] {
    let [instruction, vcpu, pcpu] = STAMP;
    [
        (instruction, Value::Unsigned(at.instruction)),
        (vcpu, Value::Unsigned(at.vcpu.into())),
        (pcpu, Value::Unsigned(at.pcpu.into())),
    ]
}

/// A difference between two events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldDiff {
    /// The field's name: one of the kind's, of [`STAMP`], or `kind`.
    pub field: &'static str,
    /// Its value in the first event.
    pub expected: Value,
    /// Its value in the second.
    pub got: Value,
}

/// The first field in which two events differ: the kind, then the stamp, then the kind's fields in order.
pub fn compare(expected: &Event, got: &Event) -> Option<FieldDiff> {
    if expected == got { None } else { differences(expected, got).next() }
}

/// All fields in which two events differ, in the order of [`compare`]. Events of two kinds differ in `kind`, and beyond
/// that in fields of the stamp only.
pub fn differences(expected: &Event, got: &Event) -> impl Iterator<Item = FieldDiff> {
    let kinds = [expected, got].map(|event| event.what.kind());
    let alike = kinds[0] == kinds[1];
    let [kind_expected, kind_got] = kinds.map(|kind| Value::Word(kind.name().into()));
    let kind = [FieldDiff { field: "kind", expected: kind_expected, got: kind_got }];
    let stamps = stamp_values(&expected.at).into_iter().zip(stamp_values(&got.at));
    let stamps = stamps.map(|((field, expected), (_, got))| FieldDiff { field, expected, got });
    let values = alike.then(|| expected.values().zip(got.values())).into_iter().flatten();
    let values = values.map(|((field, expected), (_, got))| FieldDiff { field: field.name, expected, got });
    kind.into_iter().chain(stamps).chain(values).filter(|diff| diff.expected != diff.got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Reason;

    fn exit() -> Exit {
        Exit {
            level: 2,
            reason: ExitReason::of(Reason::EPT_VIOLATION),
            qualification: 0x181,
            rip: 0x1000,
            length: 0,
            gpa: 0x5000,
            gla: 0,
            intr_info: InterruptionInfo::default(),
            vmcs12: NO_ADDRESS,
            handled_by: Actor::L1,
        }
    }

    fn event(what: What) -> Event {
        Event { at: Stamp { instruction: 7, vcpu: 1, pcpu: 2 }, what }
    }

    #[track_caller]
    fn check(expected: What, got: What, diff: Option<(&str, &str, &str)>) {
        let found = compare(&event(expected), &event(got));
        let found = found.map(|diff| (diff.field, diff.expected.to_string(), diff.got.to_string()));
        assert_eq!(found, diff.map(|(field, expected, got)| (field, expected.to_owned(), got.to_owned())));
    }

    #[test]
    fn names_are_unique_and_tables_fit() {
        for &kind in Kind::ALL {
            assert!(!kind.columns().is_empty() && kind.columns().len() <= MAX_COLUMNS, "{kind}");
            let names: BTreeSet<_> = kind.fields().iter().map(|field| field.name).chain(STAMP).collect();
            assert_eq!(names.len(), kind.fields().len() + STAMP.len(), "{kind}");
            for field in kind.fields() {
                assert!(field.column < kind.columns().len(), "{kind} {}", field.name);
            }
        }
    }

    #[test]
    fn shows_each_form() {
        let shown: Vec<String> =
            event(What::Exit(exit())).values().map(|(field, value)| format!("{}={value}", field.name)).collect();
        assert_eq!(
            shown.join(" "),
            "level=2 reason=EPT_VIOLATION reason_code=48 qualification=0x181 rip=0x1000 length=0 gpa=0x5000 gla=0x0 \
             intr_info=- vmcs12=- handled_by=L1"
        );
        let info = InterruptionInfo::from(0x8000_0b0e);
        let shown: Vec<String> = event(What::Injection(Injection { level: 1, info, error_code: 2 }))
            .values()
            .map(|(field, value)| format!("{}={value}", field.name))
            .collect();
        assert_eq!(shown.join(" "), "level=1 info=0x80000b0e vector=14 type=hardware-exception error_code=0x2");
    }

    #[test]
    fn names_the_first_difference() {
        check(What::Exit(exit()), What::Exit(exit()), None);
        check(What::Exit(exit()), What::Exit(Exit { gpa: 0x6000, ..exit() }), Some(("gpa", "0x5000", "0x6000")));
        let failed = ExitReason::of(Reason::EPT_VIOLATION).with_entry_failure(true);
        check(
            What::Exit(exit()),
            What::Exit(Exit { reason: failed, ..exit() }),
            Some(("reason_code", "48", "2147483696")),
        );
        check(What::Mark(1), What::Mark(2), Some(("value", "1", "2")));
        check(What::Mark(1), What::Lost(1), Some(("kind", "mark", "lost")));
        let stop = |text: &str| What::Stop(Stop { kind: StopKind::Idle, code: 0, text: text.into() });
        check(stop("here"), stop("there"), Some(("text", "here", "there")));
        check(stop("here"), stop(""), Some(("text", "here", "-")));
    }

    #[test]
    fn names_all_differences() {
        let other =
            Event { at: Stamp { pcpu: 3, ..event(What::Mark(1)).at }, what: What::Exit(Exit { gpa: 1, ..exit() }) };
        let names = |a: &Event, b: &Event| differences(a, b).map(|diff| diff.field).collect::<Vec<_>>().join(" ");
        assert_eq!(names(&event(What::Exit(exit())), &other), "pcpu gpa");
        assert_eq!(names(&event(What::Mark(1)), &other), "kind pcpu");
        assert_eq!(names(&other, &other), "");
    }

    #[test]
    fn rows_go_back_and_out_of_range_is_refused() {
        let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        let what = What::Exit(exit());
        what.row(&mut row, &mut texts);
        assert_eq!(What::from_row(Kind::Exit, &row, &texts).as_ref(), Some(&what));
        let mut packed = [0; MAX_ROW];
        let length = what.pack(&mut packed, &mut texts);
        let mut at = 0;
        for (width, cell) in Kind::Exit.widths().iter().zip(row) {
            assert_eq!(packed[at..at + width], cell.to_le_bytes()[..*width]);
            at += width;
        }
        assert_eq!((at, length), (51, 51));
        row[0] = 256;
        assert_eq!(What::from_row(Kind::Exit, &row, &texts), None);
        assert_eq!(What::from_row(Kind::Mark, &[], &texts), None);
        assert_eq!(What::from_row(Kind::Entry, &[2, 2, 0, 0, 0, 0, 0, 0, 0], &texts), None);
        assert_eq!(What::from_row(Kind::Entry, &[2, 1, 0, 0, 0, 0, 0, 1, 0], &texts), None);
    }
}
