//! Cells by columns, in memory.

use super::words::Words;

/// What a column's cells are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Signed integers of 64 bits.
    Signed,
    /// Unsigned integers of 64 bits.
    Bits,
    /// Truth values.
    Flag,
    /// Floating-point numbers of 64 bits.
    Float,
    /// Texts of which there are few, each stored once.
    Word,
    /// Any texts.
    Text,
}

/// A column's name and type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What its cells are.
    pub kind: Type,
    /// Whether a cell may be null.
    pub nullable: bool,
    /// Whether its numbers mostly grow by little, so that their differences are what is best stored.
    pub grows: bool,
}

impl Field {
    /// A column whose cells may be null.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        Self { name: name.into(), kind, nullable: true, grows: false }
    }
}

/// The cells of a column. A null has a cell too, of no meaning.
#[derive(Clone, Debug)]
pub enum Cells {
    /// For [`Type::Signed`].
    Signed(Vec<i64>),
    /// For [`Type::Bits`].
    Bits(Vec<u64>),
    /// For [`Type::Flag`].
    Flag(Vec<bool>),
    /// For [`Type::Float`].
    Float(Vec<f64>),
    /// For [`Type::Word`]: keys.
    Word(Vec<u32>, Words),
    /// For [`Type::Text`]: all texts on end, and where each ends.
    Text(String, Vec<usize>),
}

/// A column of rows.
#[derive(Clone, Debug)]
pub struct Column {
    cells: Cells,
    /// Which cells are no nulls; empty while none is null.
    valid: Vec<bool>,
}

impl Column {
    /// An empty column. `words` are those that are known beforehand.
    fn new(kind: Type, words: Words) -> Self {
        let cells = match kind {
            Type::Signed => Cells::Signed(Vec::new()),
            Type::Bits => Cells::Bits(Vec::new()),
            Type::Flag => Cells::Flag(Vec::new()),
            Type::Float => Cells::Float(Vec::new()),
            Type::Word => Cells::Word(Vec::new(), words),
            Type::Text => Cells::Text(String::new(), Vec::new()),
        };
        Self { cells, valid: Vec::new() }
    }

    /// Its cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Which cells are no nulls; `None` when none is null.
    pub fn valid(&self) -> Option<&[bool]> {
        (!self.valid.is_empty()).then_some(&self.valid)
    }

    /// Whether the cell of that row is no null.
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.get(row).copied().unwrap_or(true)
    }

    fn len(&self) -> usize {
        match &self.cells {
            Cells::Signed(cells) => cells.len(),
            Cells::Bits(cells) => cells.len(),
            Cells::Flag(cells) => cells.len(),
            Cells::Float(cells) => cells.len(),
            Cells::Word(keys, _) => keys.len(),
            Cells::Text(_, ends) => ends.len(),
        }
    }

    /// Says of the cell that was added last whether it is null.
    #[inline]
    fn note(&mut self, valid: bool) {
        if !valid && self.valid.is_empty() {
            self.valid = vec![true; self.len() - 1];
            self.valid.push(false);
        } else if !self.valid.is_empty() {
            self.valid.push(valid);
        }
    }

    /// Adds a number; in a column of bits or of truth values, its bits or whether it is not 0.
    pub fn signed(&mut self, value: Option<i64>) {
        match &mut self.cells {
            Cells::Signed(cells) => cells.push(value.unwrap_or_default()),
            Cells::Bits(cells) => cells.push(value.unwrap_or_default() as u64),
            Cells::Float(cells) => cells.push(value.unwrap_or_default() as f64),
            Cells::Flag(cells) => cells.push(value.is_some_and(|value| value != 0)),
            Cells::Word(..) | Cells::Text(..) => return self.text(value.map(|value| value.to_string()).as_deref()),
        }
        self.note(value.is_some());
    }

    /// Adds bits; in a column of signed numbers, at most the greatest of these.
    pub fn bits(&mut self, value: Option<u64>) {
        match &mut self.cells {
            Cells::Bits(cells) => {
                cells.push(value.unwrap_or_default());
                self.note(value.is_some());
            }
            _ => self.signed(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))),
        }
    }

    /// Adds a truth value.
    pub fn flag(&mut self, value: Option<bool>) {
        self.signed(value.map(i64::from));
    }

    /// Adds a floating-point number; in a column of integers, cut to one.
    pub fn float(&mut self, value: Option<f64>) {
        match &mut self.cells {
            Cells::Float(cells) => {
                cells.push(value.unwrap_or_default());
                self.note(value.is_some());
            }
            _ => self.signed(value.map(|value| value as i64)),
        }
    }

    /// Adds a text or a word; in a column of anything else, a null.
    pub fn text(&mut self, value: Option<&str>) {
        match &mut self.cells {
            Cells::Word(keys, words) => keys.push(value.map(|word| words.key(word)).unwrap_or_default()),
            Cells::Text(texts, ends) => {
                texts.push_str(value.unwrap_or_default());
                ends.push(texts.len());
            }
            _ => return self.signed(None),
        }
        self.note(value.is_some());
    }

    /// Adds what `each` makes of each value, to a column of signed numbers; none is null.
    pub fn extend_signed(&mut self, values: impl Iterator<Item = u64>) {
        if let Cells::Signed(cells) = &mut self.cells {
            cells.extend(values.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
            self.fill_valid();
        } else {
            values.for_each(|value| self.bits(Some(value)));
        }
    }

    /// Adds bits to a column of such; none is null.
    pub fn extend_bits(&mut self, values: impl Iterator<Item = u64>) {
        if let Cells::Bits(cells) = &mut self.cells {
            cells.extend(values);
            self.fill_valid();
        } else {
            values.for_each(|value| self.bits(Some(value)));
        }
    }

    /// Adds bits to a column of such, where `valid` says so, else nulls.
    pub fn extend_bits_if(&mut self, values: impl Iterator<Item = u64>, valid: impl Fn(usize, u64) -> bool) {
        if let Cells::Bits(cells) = &mut self.cells {
            let first = cells.len();
            cells.extend(values);
            let valid = cells[first..].iter().enumerate().map(|(row, &value)| valid(row, value));
            note_all(&mut self.valid, first, valid);
        } else {
            values.enumerate().for_each(|(row, value)| self.bits(valid(row, value).then_some(value)));
        }
    }

    /// Adds words by what `key` makes of each value: a key, or `None` for null.
    pub fn extend_words(
        &mut self,
        values: impl Iterator<Item = u64>,
        key: impl Fn(&mut Words, usize, u64) -> Option<u32>,
    ) {
        const NULL: u32 = u32::MAX;
        if let Cells::Word(keys, words) = &mut self.cells {
            let first = keys.len();
            keys.extend(values.enumerate().map(|(row, value)| key(words, row, value).unwrap_or(NULL)));
            note_all(&mut self.valid, first, keys[first..].iter().map(|&key| key != NULL));
            keys[first..].iter_mut().filter(|key| **key == NULL).for_each(|key| *key = 0);
        } else {
            values.for_each(|value| self.bits(Some(value)));
        }
    }

    /// Notes that all cells that are new are no nulls.
    fn fill_valid(&mut self) {
        if !self.valid.is_empty() {
            let len = self.len();
            self.valid.resize(len, true);
        }
    }

    fn clear(&mut self) {
        match &mut self.cells {
            Cells::Signed(cells) => cells.clear(),
            Cells::Bits(cells) => cells.clear(),
            Cells::Flag(cells) => cells.clear(),
            Cells::Float(cells) => cells.clear(),
            Cells::Word(keys, words) => {
                keys.clear();
                words.relieve();
            }
            Cells::Text(texts, ends) => {
                texts.clear();
                ends.clear();
            }
        }
        self.valid.clear();
    }
}

/// Notes of the cells from `first` on which are nulls.
fn note_all(all: &mut Vec<bool>, first: usize, mut valid: impl ExactSizeIterator<Item = bool> + Clone) {
    if all.is_empty() && valid.clone().all(|valid| valid) {
        return;
    }
    all.resize(first, true);
    all.extend(&mut valid);
}

/// Rows of a table that are not written yet.
#[derive(Clone, Debug)]
pub struct Rows {
    fields: Vec<Field>,
    columns: Vec<Column>,
}

impl Rows {
    /// None yet, of a table with these columns. `words` gives the words of a column that are known beforehand.
    pub fn new(fields: Vec<Field>, words: impl Fn(&Field) -> Words) -> Self {
        let columns = fields.iter().map(|field| Column::new(field.kind, words(field))).collect();
        Self { fields, columns }
    }

    /// What the columns are.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns, to add cells to: as many to one as to the other.
    pub fn columns_mut(&mut self) -> &mut [Column] {
        &mut self.columns
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, Column::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the rows. The words stay, unless there are more than 2^16 of a column: then those stay that were known
    /// beforehand.
    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(Column::clear);
    }
}
