//! Structures as Parquet's metadata has them: Apache Thrift's compact protocol, what of it a writer needs.
//! See: Apache Thrift, "Thrift Compact protocol encoding".

use super::bits::{varint, zigzag};

/// What a field is, by its number in the protocol.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    True = 1,
    False = 2,
    I8 = 3,
    I16 = 4,
    I32 = 5,
    I64 = 6,
    Binary = 8,
    List = 9,
    Struct = 12,
}

/// A structure while it is written. Fields are added in the order of their numbers.
#[derive(Default)]
pub(crate) struct Struct {
    bytes: Vec<u8>,
    last: i16,
}

impl Struct {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn field(&mut self, number: i16, kind: Kind) {
        let step = number - self.last;
        self.last = number;
        if (1..16).contains(&step) {
            self.bytes.push((step as u8) << 4 | kind as u8);
        } else {
            self.bytes.push(kind as u8);
            varint(&mut self.bytes, zigzag(number.into()));
        }
    }

    pub(crate) fn flag(mut self, number: i16, value: bool) -> Self {
        self.field(number, if value { Kind::True } else { Kind::False });
        self
    }

    pub(crate) fn i8(mut self, number: i16, value: i8) -> Self {
        self.field(number, Kind::I8);
        self.bytes.push(value as u8);
        self
    }

    pub(crate) fn i16(mut self, number: i16, value: i16) -> Self {
        self.field(number, Kind::I16);
        varint(&mut self.bytes, zigzag(value.into()));
        self
    }

    pub(crate) fn i32(mut self, number: i16, value: i32) -> Self {
        self.field(number, Kind::I32);
        varint(&mut self.bytes, zigzag(value.into()));
        self
    }

    pub(crate) fn i64(mut self, number: i16, value: i64) -> Self {
        self.field(number, Kind::I64);
        varint(&mut self.bytes, zigzag(value));
        self
    }

    pub(crate) fn binary(mut self, number: i16, value: &[u8]) -> Self {
        self.field(number, Kind::Binary);
        varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn inner(mut self, number: i16, value: Self) -> Self {
        self.field(number, Kind::Struct);
        self.bytes.extend(value.end());
        self
    }

    pub(crate) fn i32s(mut self, number: i16, values: &[i32]) -> Self {
        self.list(number, Kind::I32, values.len());
        values.iter().for_each(|&value| varint(&mut self.bytes, zigzag(value.into())));
        self
    }

    pub(crate) fn binaries(mut self, number: i16, values: &[&[u8]]) -> Self {
        self.list(number, Kind::Binary, values.len());
        for value in values {
            varint(&mut self.bytes, value.len() as u64);
            self.bytes.extend_from_slice(value);
        }
        self
    }

    /// A list of structures, each written already.
    pub(crate) fn inners<'a>(mut self, number: i16, values: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        self.list(number, Kind::Struct, values.len());
        values.for_each(|value| self.bytes.extend_from_slice(value));
        self
    }

    fn list(&mut self, number: i16, kind: Kind, len: usize) {
        self.field(number, Kind::List);
        if len < 15 {
            self.bytes.push((len as u8) << 4 | kind as u8);
        } else {
            self.bytes.push(0xf0 | kind as u8);
            varint(&mut self.bytes, len as u64);
        }
    }

    /// The whole structure.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}
