//! One column of a group of rows as Parquet has it: a dictionary of its values where there are few, then their places in
//! it, or else the values. See: Apache Parquet, "Data Pages", "Parquet encoding definitions".

use super::bits;
use super::rows::{Cells, Column, Field};
use super::thrift::Struct;
use std::borrow::Cow;
use std::io;
use zstd::bulk::Compressor;

/// Physical types, by Parquet's numbers.
pub(crate) const BOOLEAN: i32 = 0;
pub(crate) const INT64: i32 = 2;
pub(crate) const DOUBLE: i32 = 5;
pub(crate) const BYTE_ARRAY: i32 = 6;

const PLAIN: i32 = 0;
const RLE: i32 = 3;
const DELTA_BINARY_PACKED: i32 = 5;
const RLE_DICTIONARY: i32 = 8;

const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;

/// The most values of a dictionary.
const DISTINCT: usize = 1 << 15;
/// The longest text that is kept as the least or the greatest of a column.
const SHOWN: usize = 64;

/// A column's pages, and what a reader is told of them before it reads them.
pub(crate) struct Chunk {
    /// The pages with their heads.
    pub(crate) bytes: Vec<u8>,
    /// The length of the dictionary's page, which is the first.
    pub(crate) dictionary: Option<usize>,
    /// What the pages would come to without compression.
    pub(crate) plain_bytes: usize,
    pub(crate) encodings: Vec<i32>,
    pub(crate) nulls: usize,
    /// The least and the greatest value.
    pub(crate) range: Option<(Vec<u8>, Vec<u8>)>,
}

/// The values of a column that are no nulls, coded.
struct Coded {
    values: Vec<u8>,
    encoding: i32,
    /// How many values the dictionary has, and these.
    dictionary: Option<(usize, Vec<u8>)>,
    range: Option<(Vec<u8>, Vec<u8>)>,
}

/// The pages of a column of `rows` rows.
pub(crate) fn chunk(field: &Field, column: &Column, rows: usize, zstd: &mut Compressor<'_>) -> io::Result<Chunk> {
    let nulls = column.valid().map_or(0, |valid| valid.iter().filter(|valid| !**valid).count());
    let coded = code(field, column);
    let mut chunk = Chunk {
        bytes: Vec::new(),
        dictionary: None,
        plain_bytes: 0,
        encodings: vec![RLE, coded.encoding],
        nulls,
        range: coded.range,
    };
    if let Some((values, bytes)) = &coded.dictionary {
        chunk.encodings.push(PLAIN);
        let head = Struct::new().i32(1, count(*values)?).i32(2, PLAIN);
        chunk.page(DICTIONARY_PAGE, (7, head), bytes, zstd)?;
        chunk.dictionary = Some(chunk.bytes.len());
    }
    let mut page = Vec::new();
    if field.nullable {
        let levels = match column.valid() {
            Some(valid) => hybrid_of(&valid.iter().map(|&valid| u32::from(valid)).collect::<Vec<_>>(), 1),
            None => hybrid_of(&vec![1_u32; rows], 1),
        };
        page.extend(count(levels.len())?.to_le_bytes());
        page.extend(levels);
    }
    page.extend(coded.values);
    let head = Struct::new().i32(1, count(rows)?).i32(2, coded.encoding).i32(3, RLE).i32(4, RLE);
    chunk.page(DATA_PAGE, (5, head), &page, zstd)?;
    Ok(chunk)
}

impl Chunk {
    /// Adds a page. `head` is what its head says of its kind, and the number of that field.
    fn page(&mut self, kind: i32, head: (i16, Struct), bytes: &[u8], zstd: &mut Compressor<'_>) -> io::Result<()> {
        let packed = zstd.compress(bytes)?;
        let (number, of_kind) = head;
        let head = Struct::new().i32(1, kind).i32(2, count(bytes.len())?).i32(3, count(packed.len())?);
        let head = head.inner(number, of_kind).end();
        self.plain_bytes += head.len() + bytes.len();
        self.bytes.extend(head);
        self.bytes.extend(packed);
        Ok(())
    }
}

/// A count as the format has it.
fn count(count: usize) -> io::Result<i32> {
    i32::try_from(count).map_err(|_| io::Error::other("a column of a group of rows is larger than Parquet allows"))
}

fn hybrid_of(values: &[u32], width: u32) -> Vec<u8> {
    let mut out = Vec::new();
    bits::hybrid(&mut out, values, width);
    out
}

/// The cells of a column that are no nulls.
fn present<'a, T: Copy>(cells: &'a [T], column: &Column) -> Cow<'a, [T]> {
    match column.valid() {
        None => Cow::Borrowed(cells),
        Some(valid) => cells.iter().zip(valid).filter(|(_, valid)| **valid).map(|(cell, _)| *cell).collect(),
    }
}

fn code(field: &Field, column: &Column) -> Coded {
    match column.cells() {
        Cells::Signed(cells) => {
            let cells = present(cells, column);
            let range = cells.iter().min().zip(cells.iter().max());
            let range = range.map(|(least, most)| (least.to_le_bytes().into(), most.to_le_bytes().into()));
            numbers(field, &cells.iter().map(|&cell| cell as u64).collect::<Vec<_>>(), range)
        }
        Cells::Bits(cells) => {
            let cells = present(cells, column);
            let range = cells.iter().min().zip(cells.iter().max());
            numbers(field, &cells, range.map(|(least, most)| (least.to_le_bytes().into(), most.to_le_bytes().into())))
        }
        Cells::Flag(cells) => {
            let cells = present(cells, column);
            let mut values = vec![0_u8; cells.len().div_ceil(8)];
            cells.iter().enumerate().for_each(|(row, &flag)| values[row / 8] |= u8::from(flag) << (row % 8));
            let range = cells.iter().min().zip(cells.iter().max());
            let range = range.map(|(&least, &most)| (vec![least.into()], vec![most.into()]));
            Coded { values, encoding: PLAIN, dictionary: None, range }
        }
        Cells::Float(cells) => {
            let cells = present(cells, column);
            let values = cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
            Coded { values, encoding: PLAIN, dictionary: None, range: None }
        }
        Cells::Word(keys, words) => coded_words(&present(keys, column), words.texts()),
        Cells::Text(all, ends) => {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let texts = starts.zip(ends).map(|(start, &end)| &all[start..end]);
            let texts: Vec<&str> =
                texts.enumerate().filter(|(row, _)| column.is_valid(*row)).map(|(_, text)| text).collect();
            let mut values = Vec::new();
            texts.iter().for_each(|text| plain_text(&mut values, text));
            Coded { values, encoding: PLAIN, dictionary: None, range: range_of(texts.iter().copied()) }
        }
    }
}

fn plain_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The least and the greatest of some texts, if both are short.
fn range_of<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Option<(Vec<u8>, Vec<u8>)> {
    let (least, most) = texts.clone().min().zip(texts.max())?;
    (least.len().max(most.len()) <= SHOWN).then(|| (least.into(), most.into()))
}

fn numbers(field: &Field, values: &[u64], range: Option<(Vec<u8>, Vec<u8>)>) -> Coded {
    let mut coded = Vec::new();
    if field.grows {
        bits::deltas(&mut coded, values);
        return Coded { values: coded, encoding: DELTA_BINARY_PACKED, dictionary: None, range };
    }
    if let Some((distinct, keys)) = distinct(values) {
        let dictionary = distinct.iter().flat_map(|value| value.to_le_bytes()).collect();
        return Coded {
            values: coded_keys(&keys, distinct.len()),
            encoding: RLE_DICTIONARY,
            dictionary: Some((distinct.len(), dictionary)),
            range,
        };
    }
    coded.reserve(values.len() * 8);
    values.iter().for_each(|value| coded.extend_from_slice(&value.to_le_bytes()));
    Coded { values: coded, encoding: PLAIN, dictionary: None, range }
}

/// The width that keys of a dictionary of `len` values have, then the keys.
fn coded_keys(keys: &[u32], len: usize) -> Vec<u8> {
    let width = bits::width(len.saturating_sub(1) as u64).max(1);
    let mut out = vec![width as u8];
    bits::hybrid(&mut out, keys, width);
    out
}

/// The words that are used, and their places among these.
fn coded_words(keys: &[u32], words: &[String]) -> Coded {
    const NONE: u32 = u32::MAX;
    let (mut places, mut used) = (vec![NONE; words.len()], Vec::new());
    let keys: Vec<u32> = keys
        .iter()
        .map(|&key| {
            let place = &mut places[key as usize];
            if *place == NONE {
                *place = used.len() as u32;
                used.push(words[key as usize].as_str());
            }
            *place
        })
        .collect();
    if used.is_empty() {
        return Coded { values: Vec::new(), encoding: PLAIN, dictionary: None, range: None };
    }
    let mut dictionary = Vec::new();
    used.iter().for_each(|word| plain_text(&mut dictionary, word));
    Coded {
        values: coded_keys(&keys, used.len()),
        encoding: RLE_DICTIONARY,
        dictionary: Some((used.len(), dictionary)),
        range: range_of(used.iter().copied()),
    }
}

/// The distinct values in the order in which they come, and for each value its place among them; `None` where they are
/// none, or too many to be worth it.
fn distinct(values: &[u64]) -> Option<(Vec<u64>, Vec<u32>)> {
    /// Twice the slots that are used at most.
    const SLOTS: usize = DISTINCT * 2;
    const FREE: u32 = u32::MAX;
    let most = DISTINCT.min(values.len() / 4 + 1);
    let mut slots = vec![FREE; SLOTS];
    let (mut distinct, mut keys) = (Vec::new(), Vec::with_capacity(values.len()));
    for &value in values {
        let hash = (value ^ value >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (hash >> (u64::BITS - SLOTS.trailing_zeros())) as usize;
        let key = loop {
            match slots[slot] {
                FREE if distinct.len() >= most => return None,
                FREE => {
                    slots[slot] = distinct.len() as u32;
                    distinct.push(value);
                    break slots[slot];
                }
                key if distinct[key as usize] == value => break key,
                _ => slot = (slot + 1) % SLOTS,
            }
        };
        keys.push(key);
    }
    (!distinct.is_empty()).then_some((distinct, keys))
}
