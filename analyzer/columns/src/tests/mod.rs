//! Files read back: by what is written here from the formats' own descriptions, and not by what wrote them.

mod arrow;
mod parquet;

use super::{Cells, Column, Field, Format, Rows, Sink, Type, Words};
use std::borrow::Cow;

/// A cell as text; a null as `-`.
type Table = Vec<Vec<String>>;

/// Every type, with nulls and without, in `len` rows from row `first` on.
fn rows(rows: &mut Rows, first: u64, len: u64) {
    for row in first..first + len {
        let [event, signed, bits, flag, float, word, text, nothing, many] = rows.columns_mut() else {
            panic!("columns")
        };
        event.bits(Some(row * 3 + row / 100));
        signed.signed((row % 7 != 0).then_some(row as i64 - 50));
        bits.bits((row % 5 != 0).then_some(u64::MAX - row % 9));
        flag.flag((row % 11 != 3).then_some(row % 3 == 0));
        float.float((row % 4 != 0).then_some(row as f64 / 8.0));
        word.text((row % 6 != 0).then_some(["yes", "no", "it depends", "naïve"][(row / 10 % 4) as usize]));
        text.text((row % 13 != 0).then(|| format!("line {row}, \"quoted\"")).as_deref());
        nothing.text(None);
        many.bits(Some(row.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

fn empty() -> Rows {
    let field = |name: &str, kind| Field::new(name, kind);
    let fields = vec![
        Field { nullable: false, grows: true, ..field("event", Type::Signed) },
        field("signed", Type::Signed),
        field("bits", Type::Bits),
        field("flag", Type::Flag),
        field("float", Type::Float),
        field("word", Type::Word),
        field("text", Type::Text),
        field("nothing", Type::Word),
        Field { nullable: false, ..field("many", Type::Bits) },
    ];
    Rows::new(fields, |field| if field.name == "word" { Words::of(["maybe", "no"]) } else { Words::default() })
}

/// A file of groups of so many rows, and what should be found there, by columns.
fn written(format: Format, groups: &[u64]) -> (Vec<u8>, Table) {
    let mut rows = empty();
    let mut sink = Sink::new(Vec::new(), format, &rows).expect("a list takes all");
    let mut want = vec![Vec::new(); rows.columns().len()];
    let mut first = 0;
    for &len in groups {
        self::rows(&mut rows, first, len);
        first += len;
        want.iter_mut().zip(rows.columns()).for_each(|(all, column)| all.extend(shown(column, len as usize)));
        sink.write(&rows).expect("a list takes all");
        rows.clear();
    }
    (sink.finish(&rows).expect("a list takes all"), want)
}

fn shown(column: &Column, len: usize) -> Vec<String> {
    let cell = |row: usize| match column.cells() {
        Cells::Signed(cells) => cells[row].to_string(),
        Cells::Bits(cells) => cells[row].to_string(),
        Cells::Flag(cells) => cells[row].to_string(),
        Cells::Float(cells) => cells[row].to_string(),
        Cells::Word(keys, words) => words.texts()[keys[row] as usize].clone(),
        Cells::Text(all, ends) => all[if row == 0 { 0 } else { ends[row - 1] }..ends[row]].to_owned(),
    };
    (0..len).map(|row| if column.is_valid(row) { cell(row) } else { "-".into() }).collect()
}

/// A column's values that are no nulls, with the nulls put among them.
fn with_nulls(valid: &[bool], values: Vec<String>) -> Vec<String> {
    let mut values = values.into_iter();
    valid.iter().map(|&valid| if valid { values.next().expect("a value") } else { "-".into() }).collect()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many bytes")
}

/// A bit a cell.
fn bit(bytes: &[u8], at: usize) -> bool {
    bytes[at / 8] >> (at % 8) & 1 == 1
}

#[test]
fn csv_is_quoted_where_it_must_be() {
    let mut rows = Rows::new(vec![Field::new("a,b", Type::Text), Field::new("n", Type::Signed)], |_| Words::default());
    for (text, number) in [(Some("plain"), Some(-1)), (None, Some(i64::MIN)), (Some("a \"b\",\nc"), None)] {
        rows.columns_mut()[0].text(text);
        rows.columns_mut()[1].signed(number);
    }
    let mut sink = Sink::new(Vec::new(), Format::Csv, &rows).expect("a list takes all");
    sink.write(&rows).expect("a list takes all");
    let text = String::from_utf8(sink.finish(&rows).expect("a list takes all")).expect("text");
    assert_eq!(text, "\"a,b\",n\nplain,-1\n,-9223372036854775808\n\"a \"\"b\"\",\nc\",\n");
}

#[test]
fn many_cells_at_once_are_what_they_are_one_by_one() {
    let (mut one, mut all) = (empty(), empty());
    for first in [0, 40, 80] {
        rows(&mut one, first, 40);
        let each = || first..first + 40;
        let name = |row: u64| Cow::Borrowed(["yes", "no", "it depends", "naïve"][(row / 10 % 4) as usize]);
        let columns = all.columns_mut();
        columns[0].extend_signed(each().map(|row| row * 3 + row / 100));
        columns[2]
            .extend_bits_if(each().map(|row| u64::MAX - row % 9), |row, _| !(first + row as u64).is_multiple_of(5));
        columns[5].extend_words(each(), |words, _, row| (row % 6 != 0).then(|| words.key(&name(row))));
        columns[8].extend_bits(each().map(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
    for at in [0, 2, 5, 8] {
        assert_eq!(shown(&one.columns()[at], 120), shown(&all.columns()[at], 120), "column {at}");
    }
}
