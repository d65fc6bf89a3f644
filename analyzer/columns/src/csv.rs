//! Comma-separated values under a line of names: RFC 4180, but for lines that end in a line feed alone. A null is empty.

use super::rows::{Cells, Column, Field, Rows};
use std::borrow::Cow;

/// A cell, quoted where it must be.
fn quoted(cell: &str) -> Cow<'_, str> {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\"")).into()
    } else {
        cell.into()
    }
}

/// The line of names.
pub(crate) fn head(fields: &[Field]) -> String {
    let names: Vec<_> = fields.iter().map(|field| quoted(&field.name)).collect();
    names.join(",") + "\n"
}

/// Adds the rows to `out`, a line each.
pub(crate) fn lines(rows: &Rows, out: &mut Vec<u8>) {
    let words: Vec<Vec<Cow<'_, str>>> = rows
        .columns()
        .iter()
        .map(|column| match column.cells() {
            Cells::Word(_, words) => words.texts().iter().map(|word| quoted(word)).collect(),
            _ => Vec::new(),
        })
        .collect();
    for row in 0..rows.len() {
        for (column, words) in rows.columns().iter().zip(&words) {
            if column.is_valid(row) {
                cell(column, words, row, out);
            }
            out.push(b',');
        }
        if let Some(last) = out.last_mut() {
            *last = b'\n';
        }
    }
}

fn cell(column: &Column, words: &[Cow<'_, str>], row: usize, out: &mut Vec<u8>) {
    match column.cells() {
        Cells::Signed(cells) => {
            if cells[row] < 0 {
                out.push(b'-');
            }
            digits(cells[row].unsigned_abs(), out);
        }
        Cells::Bits(cells) => digits(cells[row], out),
        Cells::Flag(cells) => out.extend_from_slice(if cells[row] { b"true" } else { b"false" }),
        Cells::Float(cells) => out.extend_from_slice(cells[row].to_string().as_bytes()),
        Cells::Word(keys, _) => out.extend_from_slice(words[keys[row] as usize].as_bytes()),
        Cells::Text(texts, ends) => {
            let start = row.checked_sub(1).map_or(0, |before| ends[before]);
            out.extend_from_slice(quoted(&texts[start..ends[row]]).as_bytes());
        }
    }
}

fn digits(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
