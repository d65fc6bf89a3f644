//! FlatBuffers, what of them Arrow's messages need: tables, structures, vectors and texts, each before what it refers to.
//! See: FlatBuffers, "FlatBuffer Internals".

/// Where something begins: its distance from the end of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(usize);

/// A field of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// Left out.
    None,
    U8(u8),
    I16(i16),
    I32(i32),
    I64(i64),
    At(Place),
}

/// A buffer while it is written: from its end to its beginning, so the bytes are held in reverse.
#[derive(Default)]
pub(crate) struct Flat {
    reversed: Vec<u8>,
}

impl Flat {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    /// Fills up so that what is written in `bytes` bytes from now begins at a multiple of `align`.
    fn align(&mut self, align: usize, bytes: usize) {
        let filled = (self.reversed.len() + bytes).next_multiple_of(align) - bytes;
        self.reversed.resize(filled, 0);
    }

    fn here(&self) -> Place {
        Place(self.reversed.len())
    }

    /// A reference to `place`, which is behind it.
    fn refer(&mut self, place: Place) {
        let distance = self.reversed.len() + 4 - place.0;
        self.put(&(distance as u32).to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) -> Place {
        self.align(4, text.len() + 1);
        self.put(&[0]);
        self.put(text.as_bytes());
        self.put(&(text.len() as u32).to_le_bytes());
        self.here()
    }

    /// A vector of references.
    pub(crate) fn places(&mut self, places: &[Place]) -> Place {
        self.align(4, places.len() * 4);
        places.iter().rev().for_each(|&place| self.refer(place));
        self.put(&(places.len() as u32).to_le_bytes());
        self.here()
    }

    /// A vector of structures of `N` 64-bit words.
    pub(crate) fn words<const N: usize>(&mut self, structures: &[[i64; N]]) -> Place {
        self.align(8, structures.len() * N * 8);
        structures.iter().rev().flat_map(|words| words.iter().rev()).for_each(|word| self.put(&word.to_le_bytes()));
        self.put(&(structures.len() as u32).to_le_bytes());
        self.here()
    }

    /// A table with these fields, by their numbers from 0.
    pub(crate) fn table(&mut self, fields: &[Value]) -> Place {
        let end = self.reversed.len();
        let mut places = vec![None; fields.len()];
        for (field, place) in fields.iter().zip(&mut places).rev() {
            match *field {
                Value::None => continue,
                Value::U8(value) => self.put(&[value]),
                Value::I16(value) => {
                    self.align(2, 2);
                    self.put(&value.to_le_bytes());
                }
                Value::I32(value) => {
                    self.align(4, 4);
                    self.put(&value.to_le_bytes());
                }
                Value::I64(value) => {
                    self.align(8, 8);
                    self.put(&value.to_le_bytes());
                }
                Value::At(to) => {
                    self.align(4, 4);
                    self.refer(to);
                }
            }
            *place = Some(self.reversed.len());
        }
        // The table begins with the distance of its list of fields, which is put right when that is written.
        self.align(4, 4);
        self.put(&[0; 4]);
        let start = self.reversed.len();
        for place in places.iter().rev() {
            self.put(&place.map_or(0, |place| (start - place) as u16).to_le_bytes());
        }
        self.put(&((start - end) as u16).to_le_bytes());
        self.put(&(4 + 2 * fields.len() as u16).to_le_bytes());
        let distance = (self.reversed.len() - start) as i32;
        let bytes = distance.to_be_bytes();
        self.reversed[start - 4..start].copy_from_slice(&bytes);
        Place(start)
    }

    /// The buffer, whose root is that table; a multiple of 8 bytes.
    pub(crate) fn finish(mut self, root: Place) -> Vec<u8> {
        self.align(8, 4);
        self.refer(root);
        self.reversed.reverse();
        self.reversed
    }
}
