//! Arrow's file format: a schema, groups of rows column by column, each buffer compressed with zstd, the words of columns
//! of words apart, and a footer that says where each is. See: Apache Arrow, "Arrow Columnar Format", "Serialization and
//! Interprocess Communication (IPC)"; `Schema.fbs`, `Message.fbs` and `File.fbs` for the numbers of the fields.

use super::flat::{Flat, Place, Value};
use super::rows::{Cells, Column, Field, Rows, Type};
use super::words::Words;
use std::io::{self, Write};
use zstd::bulk::Compressor;

const MAGIC: &[u8] = b"ARROW1";
/// Version 5 of the metadata.
const V5: Value = Value::I16(4);
/// What goes before each message, and with a length of 0 behind the last.
const CONTINUED: [u8; 4] = [0xff; 4];
const ALIGN: usize = 8;

/// A file while it is written.
pub(crate) struct Arrow {
    zstd: Compressor<'static>,
    /// Bytes written.
    at: u64,
    /// For each column, how many of its words are written.
    words: Vec<usize>,
    /// Where the words and the groups are, as the footer has them.
    dictionaries: Vec<[i64; 3]>,
    groups: Vec<[i64; 3]>,
}

impl Arrow {
    /// Begins a file for such rows.
    pub(crate) fn new(out: &mut impl Write, rows: &Rows, level: i32) -> io::Result<Self> {
        let words = vec![0; rows.fields().len()];
        let mut file =
            Self { zstd: Compressor::new(level)?, at: 0, words, dictionaries: Vec::new(), groups: Vec::new() };
        file.put(out, MAGIC)?;
        file.put(out, &[0; 2])?;
        let mut flat = Flat::new();
        let schema = schema(&mut flat, rows.fields());
        file.message(out, flat, (1, schema), &[])?;
        for (at, column) in rows.columns().iter().enumerate() {
            if let Cells::Word(_, words) = column.cells() {
                file.dictionary(out, at, words)?;
            }
        }
        Ok(file)
    }

    fn put(&mut self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        out.write_all(bytes)
    }

    /// Writes a message with a body. `header` is its kind, by number, and what it says. Returns where it is.
    fn message(
        &mut self,
        out: &mut impl Write,
        mut flat: Flat,
        header: (u8, Place),
        body: &[u8],
    ) -> io::Result<[i64; 3]> {
        let (kind, header) = header;
        let fields = [V5, Value::U8(kind), Value::At(header), Value::I64(body.len() as i64)];
        let root = flat.table(&fields);
        let head = flat.finish(root);
        let place = [self.at as i64, (CONTINUED.len() + 4 + head.len()) as i64, body.len() as i64];
        self.put(out, &CONTINUED)?;
        self.put(out, &(head.len() as u32).to_le_bytes())?;
        self.put(out, &head)?;
        self.put(out, body)?;
        Ok(place)
    }

    /// Writes those words of a column that are not written yet.
    fn dictionary(&mut self, out: &mut impl Write, column: usize, words: &Words) -> io::Result<()> {
        let before = self.words[column];
        let new = &words.texts()[before..];
        self.words[column] += new.len();
        let mut body = Body::new(&mut self.zstd);
        let (mut offsets, mut all) = (vec![0_u8; 4], String::new());
        for word in new {
            all.push_str(word);
            offsets.extend(offset(all.len())?);
        }
        body.node(new.len(), 0);
        body.buffer(&[])?;
        body.buffer(&offsets)?;
        body.buffer(all.as_bytes())?;
        let mut flat = Flat::new();
        let data = body.batch(&mut flat, new.len());
        let header = flat.table(&[Value::I64(column as i64), Value::At(data), Value::U8((before > 0).into())]);
        let bytes = body.bytes;
        let place = self.message(out, flat, (2, header), &bytes)?;
        self.dictionaries.push(place);
        Ok(())
    }

    /// Writes a group of rows.
    pub(crate) fn group(&mut self, out: &mut impl Write, rows: &Rows) -> io::Result<()> {
        for (at, column) in rows.columns().iter().enumerate() {
            let Cells::Word(_, words) = column.cells() else { continue };
            if words.forgot() {
                return Err(io::Error::other(format!(
                    "the column '{}' has too many words for an Arrow file",
                    rows.fields()[at].name
                )));
            }
            if words.texts().len() > self.words[at] {
                self.dictionary(out, at, words)?;
            }
        }
        let mut body = Body::new(&mut self.zstd);
        for column in rows.columns() {
            body.column(column, rows.len())?;
        }
        let mut flat = Flat::new();
        let header = body.batch(&mut flat, rows.len());
        let bytes = body.bytes;
        let place = self.message(out, flat, (3, header), &bytes)?;
        self.groups.push(place);
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self, out: &mut impl Write, fields: &[Field]) -> io::Result<()> {
        self.put(out, &CONTINUED)?;
        self.put(out, &[0; 4])?;
        let mut flat = Flat::new();
        let schema = schema(&mut flat, fields);
        let [dictionaries, groups] = [&self.dictionaries, &self.groups].map(|places| flat.words(places));
        let fields = [V5, Value::At(schema), Value::At(dictionaries), Value::At(groups)];
        let root = flat.table(&fields);
        let footer = flat.finish(root);
        self.put(out, &footer)?;
        self.put(out, &(footer.len() as u32).to_le_bytes())?;
        self.put(out, MAGIC)
    }
}

/// An end of a text in its buffer.
fn offset(end: usize) -> io::Result<[u8; 4]> {
    let end = i32::try_from(end)
        .map_err(|_| io::Error::other("the texts of a group of rows are larger than Arrow allows"))?;
    Ok(end.to_le_bytes())
}

fn schema(flat: &mut Flat, fields: &[Field]) -> Place {
    let places: Vec<Place> = fields.iter().enumerate().map(|(at, field)| column_of(flat, at, field)).collect();
    let fields = flat.places(&places);
    flat.table(&[Value::I16(0), Value::At(fields)])
}

fn column_of(flat: &mut Flat, at: usize, field: &Field) -> Place {
    let integer = |flat: &mut Flat, bits, signed: bool| flat.table(&[Value::I32(bits), Value::U8(signed.into())]);
    let (kind, of_kind) = match field.kind {
        Type::Signed => (2, integer(flat, 64, true)),
        Type::Bits => (2, integer(flat, 64, false)),
        Type::Float => (3, flat.table(&[Value::I16(2)])),
        Type::Word | Type::Text => (5, flat.table(&[])),
        Type::Flag => (6, flat.table(&[])),
    };
    let dictionary = match field.kind {
        Type::Word => {
            let keys = integer(flat, 32, true);
            Value::At(flat.table(&[Value::I64(at as i64), Value::At(keys), Value::U8(0)]))
        }
        _ => Value::None,
    };
    let name = flat.text(&field.name);
    let children = flat.places(&[]);
    flat.table(&[
        Value::At(name),
        Value::U8(field.nullable.into()),
        Value::U8(kind),
        Value::At(of_kind),
        dictionary,
        Value::At(children),
    ])
}

/// The buffers of a group of rows.
struct Body<'a> {
    zstd: &'a mut Compressor<'static>,
    bytes: Vec<u8>,
    /// For each column, its rows and how many of them are null.
    nodes: Vec<[i64; 2]>,
    /// Where each buffer is, and its length.
    buffers: Vec<[i64; 2]>,
}

impl<'a> Body<'a> {
    fn new(zstd: &'a mut Compressor<'static>) -> Self {
        Self { zstd, bytes: Vec::new(), nodes: Vec::new(), buffers: Vec::new() }
    }

    fn node(&mut self, rows: usize, nulls: usize) {
        self.nodes.push([rows as i64, nulls as i64]);
    }

    /// Adds a buffer: the length that it has without compression, and what it is compressed to.
    fn buffer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.bytes.len();
        if !bytes.is_empty() {
            let packed = self.zstd.compress(bytes)?;
            self.bytes.extend((bytes.len() as u64).to_le_bytes());
            self.bytes.extend(packed);
        }
        self.buffers.push([start as i64, (self.bytes.len() - start) as i64]);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        Ok(())
    }

    fn column(&mut self, column: &Column, rows: usize) -> io::Result<()> {
        let valid = column.valid().unwrap_or_default();
        self.node(rows, valid.iter().filter(|valid| !**valid).count());
        self.buffer(&bitmap(valid))?;
        match column.cells() {
            Cells::Signed(cells) => self.buffer(&cells.iter().flat_map(|cell| cell.to_le_bytes()).collect::<Vec<_>>()),
            Cells::Bits(cells) => self.buffer(&cells.iter().flat_map(|cell| cell.to_le_bytes()).collect::<Vec<_>>()),
            Cells::Float(cells) => self.buffer(&cells.iter().flat_map(|cell| cell.to_le_bytes()).collect::<Vec<_>>()),
            Cells::Word(keys, _) => self.buffer(&keys.iter().flat_map(|key| key.to_le_bytes()).collect::<Vec<_>>()),
            Cells::Flag(cells) => self.buffer(&bitmap(cells)),
            Cells::Text(texts, ends) => {
                let mut offsets = vec![0; 4];
                for &end in ends {
                    offsets.extend(offset(end)?);
                }
                self.buffer(&offsets)?;
                self.buffer(texts.as_bytes())
            }
        }
    }

    /// What a message says of them.
    fn batch(&self, flat: &mut Flat, rows: usize) -> Place {
        // Zstandard, buffer by buffer.
        let compression = flat.table(&[Value::U8(1), Value::U8(0)]);
        let buffers = flat.words(&self.buffers);
        let nodes = flat.words(&self.nodes);
        flat.table(&[Value::I64(rows as i64), Value::At(nodes), Value::At(buffers), Value::At(compression)])
    }
}

/// A bit a cell, from the lowest bit up.
fn bitmap(cells: &[bool]) -> Vec<u8> {
    let mut bytes = vec![0; cells.len().div_ceil(8)];
    cells.iter().enumerate().for_each(|(row, &set)| bytes[row / 8] |= u8::from(set) << (row % 8));
    bytes
}
