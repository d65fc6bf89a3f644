//! A block that is read back: whole, or the rows of one table.

use crate::coding::TILE;
use crate::narrow::Spare;
use crate::values::{Runs, Values};
use crate::wire::Word;
use crate::wire::{self, Wrong};
use hv_defs::event::{Event, Kind, Stamp, What};
use hv_defs::fields::{Form, MAX_COLUMNS, Texts};

/// One column of a table that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// A number a row. What it means is its kind's to say: see [`Kind::columns`].
    pub values: Values,
}

/// The rows of one kind of event in one block, by columns. All lists have a number for each row.
#[derive(Debug, Default)]
pub struct Rows {
    /// The events' numbers in the trace.
    pub event: Values,
    /// Their stamps: instructions retired.
    pub instruction: Values,
    /// Their stamps: virtual CPU. Below 2^16.
    pub vcpu: Values,
    /// Their stamps: physical CPU. Below 2^16.
    pub pcpu: Values,
    /// The columns that were asked for: those of [`Kind::columns`] in its order, then any that a newer version added.
    pub columns: Vec<Column>,
    /// What the numbers of text columns stand for.
    pub texts: Texts,
    /// Memory for the next rows that are read into it.
    spare: Spare,
}

impl Rows {
    /// Empties it, keeping its memory.
    fn clear(&mut self) {
        let stamps = [&mut self.event, &mut self.instruction, &mut self.vcpu, &mut self.pcpu];
        stamps.into_iter().for_each(|values| self.spare.keep(std::mem::take(values)));
        self.columns.drain(..).for_each(|column| self.spare.keep(column.values));
        self.texts.list.clear();
    }

    /// The column of that name, if it was asked for.
    pub fn column(&self, name: &str) -> Option<&Values> {
        self.columns.iter().find(|column| column.name == name).map(|column| &column.values)
    }

    /// Its columns row for row, into `cells`. Returns how many there are.
    pub fn cells_into(&self, cells: &mut Vec<u64>) -> usize {
        let rows = self.columns.first().map_or(0, |column| column.values.len());
        row_major(&self.columns, rows, cells);
        self.columns.len()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.event.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.event.is_empty()
    }
}

/// In what order the events of a block come, and when each happened.
#[derive(Debug, Default)]
pub struct Order {
    /// The number of the first event.
    pub first: u64,
    /// The kind of each event; `None` for one that a newer version added.
    pub kinds: Vec<Option<Kind>>,
    /// Of each run of events that share a stamp, the place in the block behind its last, and the stamp. Together they are of
    /// all events.
    pub stamps: Vec<(u32, Stamp)>,
}

/// A table of a block in memory.
#[derive(Debug)]
struct Table {
    name: String,
    /// `None` for a kind that a newer version added.
    kind: Option<Kind>,
    rows: u32,
    /// The names of its columns: those of [`Kind::columns`] first, in its order.
    columns: Vec<String>,
    /// The rows, one after another: who asks for an event wants all that there is of it.
    cells: Vec<u64>,
}

impl Table {
    fn row(&self, row: u32) -> &[u64] {
        let (row, width) = (row as usize, self.columns.len());
        &self.cells[row * width..(row + 1) * width]
    }
}

/// An event as it is stored: what there is of one that this program does not know, or not all of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// When and where.
    pub at: Stamp,
    /// The name of its kind's table.
    pub table: String,
    /// Its columns by name. Those of [`Kind::columns`] come first, in its order.
    pub columns: Vec<(String, u64)>,
}

/// A block in memory: the events of a stretch of the trace.
#[derive(Debug)]
pub struct Block {
    first: u64,
    order: Vec<u8>,
    /// For each event, its row in its table.
    rows: Vec<u32>,
    stamps: Vec<Stamp>,
    tables: Vec<Table>,
    texts: Texts,
}

/// A block's message, checked as far as tables go: the parts add up. Columns are decoded when they are asked for.
#[derive(Debug)]
pub(crate) struct Message {
    words: Vec<Word>,
    first: u64,
    /// For each event, its table.
    order: Vec<u8>,
    stamps: Stamps,
    /// Names and rows.
    tables: Vec<(String, u32)>,
    texts: Texts,
}

/// The stamps of a block's events.
#[derive(Debug)]
struct Stamps {
    /// Of each run of events that share a stamp, the place behind its last.
    ends: Vec<u32>,
    /// The stamps of each run: instructions, virtual and physical CPUs.
    instruction: Values,
    vcpu: Values,
    pcpu: Values,
}

impl Message {
    /// Reads a block's message. `head` is what its frame says: the first event's number and how many there are.
    pub(crate) fn read(words: Vec<Word>, head: (u64, u32)) -> Result<Self, Wrong> {
        let wire::BlockIn { first, order, stamps, runs, tables, texts } =
            wire::read_block(&words, &mut Spare::default())?;
        if (first, order.len()) != (head.0, head.1 as usize) {
            return Err(format!("its frame and its message differ on its events: {} and {first}", head.0));
        }
        let counts = count(&order);
        if let Some(table) = (tables.len()..counts.len()).find(|&table| counts[table] > 0) {
            return Err(format!("an event belongs to table {table} of {}", tables.len()));
        }
        for (at, ((name, rows), counted)) in tables.iter().zip(counts).enumerate() {
            if *rows != counted {
                return Err(format!("table '{name}' has {rows} rows for {counted} events"));
            }
            if tables[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("it has two tables '{name}'"));
            }
        }
        let stamps = read_stamps(stamps, runs as usize, order.len())?;
        Ok(Self { words, first, order, stamps, tables, texts: Texts { list: texts } })
    }

    /// The memory that its words took.
    pub(crate) fn into_words(self) -> Vec<Word> {
        self.words
    }

    /// The names and rows of its tables.
    pub(crate) fn counts(&self) -> &[(String, u32)] {
        &self.tables
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let Stamps { ends, instruction, vcpu, pcpu } = &self.stamps;
        let stamps = ends.len() * 4 + instruction.bytes() + vcpu.bytes() + pcpu.bytes();
        self.words.len() * 8 + self.order.len() + stamps + text_bytes(&self.texts)
    }

    /// The order of the events, into `order`.
    pub(crate) fn order(&self, order: &mut Order) {
        let mut kinds = [None; 256];
        kinds.iter_mut().zip(&self.tables).for_each(|(kind, (name, _))| *kind = Kind::by_name(name));
        order.first = self.first;
        order.kinds.clear();
        order.kinds.extend(self.order.iter().map(|&table| kinds[usize::from(table)]));
        let Stamps { ends, instruction, vcpu, pcpu } = &self.stamps;
        let stamps = instruction.iter().zip(vcpu.iter().zip(pcpu));
        order.stamps.clear();
        // CPUs are below 2^16, as was seen when they were read.
        order.stamps.extend(ends.iter().zip(stamps).map(|(&end, (instruction, (vcpu, pcpu)))| {
            (end, Stamp { instruction, vcpu: vcpu as u16, pcpu: pcpu as u16 })
        }));
    }

    /// The columns of one table into `rows`, all or those that are named, which get no numbers and no stamps.
    pub(crate) fn cells(&self, name: &str, columns: Option<&[&str]>, rows: &mut Rows) -> Result<(), Wrong> {
        rows.clear();
        let Some(at) = self.tables.iter().position(|(table, _)| table == name) else { return Ok(()) };
        let wanted = |column: &str| columns.is_none_or(|names| names.contains(&column));
        self.columns(at, &wanted, &mut rows.columns, &mut rows.spare)?;
        if rows.columns.iter().any(|column| has_texts(name, column)) {
            rows.texts.clone_from(&self.texts);
        }
        Ok(())
    }

    /// How many rows a table has.
    pub(crate) fn rows_of(&self, name: &str) -> u32 {
        self.tables.iter().find(|(table, _)| table == name).map_or(0, |(_, rows)| *rows)
    }

    /// The places in the block of the rows of one table, into `list`.
    pub(crate) fn places(&self, name: &str, list: &mut Vec<u32>) {
        list.clear();
        let Some(at) = self.tables.iter().position(|(table, _)| table == name) else { return };
        let count = self.tables[at].1 as usize;
        // As for `rows`.
        list.resize(count + 1, 0);
        places(&self.order, at as u8, list);
        list.truncate(count);
    }

    /// The rows of one table, with all columns or those that are named, into `rows`.
    pub(crate) fn rows(&self, name: &str, columns: Option<&[&str]>, rows: &mut Rows) -> Result<(), Wrong> {
        rows.clear();
        let Some(at) = self.tables.iter().position(|(table, _)| table == name) else { return Ok(()) };
        let wanted = |column: &str| columns.is_none_or(|names| names.contains(&column));
        self.columns(at, &wanted, &mut rows.columns, &mut rows.spare)?;
        if rows.columns.iter().any(|column| has_texts(name, column)) {
            rows.texts.clone_from(&self.texts);
        }
        let count = self.tables[at].1 as usize;
        // Room for one more, so that each place can be written before it is known whether it is kept.
        let mut list = rows.spare.u32.take_of(count + 1);
        places(&self.order, at as u8, &mut list);
        list.truncate(count);
        [rows.instruction, rows.vcpu, rows.pcpu] = self.stamps.of(&list, &mut rows.spare);
        rows.event = Values::Above { base: self.first, list };
        Ok(())
    }

    /// The columns of a table that are wanted: those of [`Kind::columns`] in its order, then the others.
    fn columns(
        &self,
        at: usize,
        wanted: &dyn Fn(&str) -> bool,
        columns: &mut Vec<Column>,
        spare: &mut Spare,
    ) -> Result<(), Wrong> {
        let (name, rows) = &self.tables[at];
        let mut found = wire::read_table(&self.words, at, (name, *rows), wanted, spare)?;
        for known in Kind::by_name(name).into_iter().flat_map(Kind::columns) {
            let at = found.iter().position(|(name, _)| name == known.name);
            let values = at.and_then(|at| found.remove(at).1);
            if wanted(known.name) {
                // A column that was left out is all zeros.
                let values = values.unwrap_or(Values::Same { value: 0, rows: *rows as usize });
                columns.push(Column { name: known.name.into(), values });
            } else {
                // One that another refers to.
                values.into_iter().for_each(|values| spare.keep(values));
            }
        }
        let newer = found.into_iter().filter(|(name, _)| wanted(name));
        columns.extend(newer.filter_map(|(name, values)| Some(Column { name, values: values? })));
        Ok(())
    }

    fn table(&self, at: usize, spare: &mut Spare) -> Result<Table, Wrong> {
        let (name, rows) = &self.tables[at];
        let mut columns = Vec::new();
        self.columns(at, &|_| true, &mut columns, spare)?;
        let mut cells = Vec::new();
        row_major(&columns, *rows as usize, &mut cells);
        let columns = columns.into_iter().map(|column| {
            spare.keep(column.values);
            column.name
        });
        let columns = columns.collect();
        Ok(Table { name: name.clone(), kind: Kind::by_name(name), rows: *rows, columns, cells })
    }
}

/// Puts columns of so many rows into `cells`, row for row.
fn row_major(columns: &[Column], rows: usize, cells: &mut Vec<u64>) {
    let (width, mut wide) = (columns.len(), [0; TILE]);
    cells.resize(width * rows, 0);
    for (tile, cells) in cells.chunks_mut((width * TILE).max(1)).enumerate() {
        for (at, column) in columns.iter().enumerate() {
            let wide = &mut wide[..cells.len() / width];
            column.values.widen(tile * TILE, wide);
            cells.chunks_exact_mut(width).zip(wide).for_each(|(row, number)| row[at] = *number);
        }
    }
}

/// Bytes of memory that texts take.
fn text_bytes(texts: &Texts) -> usize {
    texts.list.iter().map(|text| text.len() + size_of::<String>()).sum()
}

/// Whether a column of a table may stand for texts.
fn has_texts(table: &str, column: &Column) -> bool {
    let known = Kind::by_name(table).and_then(|kind| kind.columns().iter().find(|known| known.name == column.name));
    known.is_none_or(|known| known.form == Form::Text)
}

/// How often each number occurs.
fn count(order: &[u8]) -> [u32; 256] {
    // Four counts of each, since equal numbers follow one another and would wait for one another.
    let mut counts = [[0_u32; 256]; 4];
    let mut fours = order.chunks_exact(4);
    for four in &mut fours {
        four.iter().zip(&mut counts).for_each(|(&table, counts)| counts[usize::from(table)] += 1);
    }
    fours.remainder().iter().for_each(|&table| counts[0][usize::from(table)] += 1);
    std::array::from_fn(|table| counts.iter().map(|counts| counts[table]).sum())
}

/// The places of a table's events in their block, into the front of `places`, which has room for one more than there are.
fn places(order: &[u8], table: u8, places: &mut [u32]) {
    let mut found = 0;
    if places.len() * 4 > order.len() {
        for (&of, place) in order.iter().zip(0..) {
            places[found] = place;
            found += usize::from(of == table);
        }
    } else {
        // Where there are few, eight at a time are passed over.
        let eights = order.chunks_exact(8);
        let (rest, last) = (eights.remainder(), order.len() - eights.remainder().len());
        for (eight, from) in eights.zip((0..).step_by(8)) {
            let mut found_in = eight.iter().zip(0..).fold(0_u8, |set, (&of, bit)| set | u8::from(of == table) << bit);
            while found_in != 0 {
                places[found] = from + found_in.trailing_zeros();
                found += 1;
                found_in &= found_in - 1;
            }
        }
        for (&of, place) in rest.iter().zip(last as u32..) {
            places[found] = place;
            found += usize::from(of == table);
        }
    }
}

impl Block {
    /// Decodes all of a block's message.
    pub(crate) fn read(message: &Message) -> Result<Self, Wrong> {
        let mut spare = Spare::default();
        let tables = (0..message.tables.len()).map(|at| message.table(at, &mut spare));
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        let mut next = vec![0_u32; tables.len()];
        let mut rows = Vec::with_capacity(message.order.len());
        for &table in &message.order {
            let row = &mut next[usize::from(table)];
            rows.push(*row);
            *row += 1;
        }
        let stamps = message.stamps.each(message.order.len());
        let (first, order, texts) = (message.first, message.order.clone(), message.texts.clone());
        Ok(Self { first, order, rows, stamps, tables, texts })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let cells: usize = self.tables.iter().map(|table| table.cells.len() * 8).sum();
        cells + self.order.len() * (1 + size_of::<u32>() + size_of::<Stamp>()) + text_bytes(&self.texts)
    }

    /// The number of its first event.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Its tables' names and rows, those of kinds that this program does not know included.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.tables.iter().map(|table| (&table.name[..], table.rows))
    }

    /// The event at a place in the block, or what is wrong with it.
    pub(crate) fn event(&self, place: usize) -> Result<Event, Refused> {
        let table = &self.tables[usize::from(self.order[place])];
        let kind = table.kind.ok_or_else(|| Refused::NewerKind(table.name.clone()))?;
        let what = What::from_row(kind, table.row(self.rows[place]), &self.texts);
        let what = what.ok_or_else(|| Refused::OutOfRange(self.first + place as u64, table.name.clone()))?;
        Ok(Event { at: self.stamps[place], what })
    }

    /// The event at a place in the block, as it is stored.
    pub(crate) fn stored(&self, place: usize) -> Stored {
        let table = &self.tables[usize::from(self.order[place])];
        let columns = table.columns.iter().cloned().zip(table.row(self.rows[place]).iter().copied()).collect();
        Stored { at: self.stamps[place], table: table.name.clone(), columns }
    }

    /// Whether the event at a place is `event`, as far as that can be told by its numbers: an event with a text is none.
    #[inline]
    pub(crate) fn is(&self, place: usize, event: &Event) -> bool {
        let table = &self.tables[usize::from(self.order[place])];
        if table.kind != Some(event.what.kind()) || self.stamps[place] != event.at {
            return false;
        }
        let (mut row, mut texts) = ([0; MAX_COLUMNS], Texts::default());
        event.what.row(&mut row, &mut texts);
        let same = table.row(self.rows[place]).iter().zip(row).take(event.what.kind().columns().len());
        same.fold(true, |same, (cell, number)| same & (*cell == number)) && texts.list.is_empty()
    }

    /// The kind of the event at a place; `None` for one that this program does not know.
    pub fn kind(&self, place: usize) -> Option<Kind> {
        self.tables.get(usize::from(*self.order.get(place)?))?.kind
    }

    /// The kind and the columns of the event at a place, in the order of [`Kind::columns`]: what [`What::from_row`] makes
    /// the event of. Numbers may be out of range. `None` for one that this program does not know.
    #[inline]
    pub fn row(&self, place: usize) -> Option<(Kind, &[u64])> {
        let table = self.tables.get(usize::from(*self.order.get(place)?))?;
        Some((table.kind?, table.row(self.rows[place])))
    }

    /// The text of that number in a text column; `None` for none.
    pub fn text(&self, number: u64) -> Option<&str> {
        self.texts.text(number)
    }

    /// The stamp of the event at a place.
    pub fn stamp(&self, place: usize) -> Option<Stamp> {
        self.stamps.get(place).copied()
    }
}

/// Why a row does not make an event.
pub(crate) enum Refused {
    /// Its table is one that this program does not know.
    NewerKind(String),
    /// A number is out of its column's range: the event's number and its table.
    OutOfRange(u64, String),
}

/// The stamps of a block's events. `runs` is how many there are.
fn read_stamps(table: wire::Columns, runs: usize, events: usize) -> Result<Stamps, Wrong> {
    let mut columns = table;
    let mut column = |name: &str| {
        let at = columns.iter().position(|(known, _)| known == name);
        at.and_then(|at| columns.swap_remove(at).1).unwrap_or(Values::Same { value: 0, rows: runs })
    };
    let (counts, instructions, vcpus, pcpus) =
        (column("events"), column("instruction"), column("vcpu"), column("pcpu"));
    for cpus in [&vcpus, &pcpus].into_iter().filter(|cpus| !matches!(cpus, Values::U8(_) | Values::U16(_))) {
        if let Some(cpu) = cpus.iter().find(|&cpu| cpu > u16::MAX.into()) {
            return Err(format!("a stamp names CPU {cpu}"));
        }
    }
    let (mut ends, mut end) = (Vec::with_capacity(runs), 0);
    for count in &counts {
        // Of what is within the block's events, no sum is beyond a number.
        end += count.min(events as u64 + 1 - end);
        if end > events as u64 {
            return Err("it has more stamps than events".into());
        }
        ends.push(end as u32);
    }
    if end < events as u64 {
        return Err(format!("it has {end} stamps for {events} events"));
    }
    Ok(Stamps { ends, instruction: instructions, vcpu: vcpus, pcpu: pcpus })
}

impl Stamps {
    /// The stamps of each of a block's events.
    fn each(&self, events: usize) -> Vec<Stamp> {
        let cpus = self.vcpu.iter().zip(&self.pcpu).map(|(vcpu, pcpu)| (vcpu as u16, pcpu as u16));
        let stamps = self.instruction.iter().zip(cpus);
        let stamps = stamps.map(|(instruction, (vcpu, pcpu))| Stamp { instruction, vcpu, pcpu });
        let mut each = Vec::with_capacity(events);
        self.ends.iter().zip(stamps).for_each(|(&end, stamp)| each.resize(end as usize, stamp));
        each
    }

    /// The stamps of the events at those places, which rise: instructions, virtual and physical CPUs.
    fn of(&self, places: &[u32], spare: &mut Spare) -> [Values; 3] {
        let (mut ends, mut numbers, mut row) = (spare.u32.take(), spare.u64.take(), 0);
        for (&end, number) in self.ends.iter().zip(&self.instruction) {
            let begin = row;
            while row < places.len() && places[row] < end {
                row += 1;
            }
            if row > begin {
                ends.push(row as u32);
                numbers.push(number);
            }
        }
        let cpus = |of: &Values, spare: &mut Spare| match of {
            Values::Same { value, .. } => Values::Same { value: *value, rows: places.len() },
            of => {
                let (mut all, mut run) = (spare.u16.take(), 0);
                all.extend(places.iter().map(|&place| {
                    while self.ends[run] <= place {
                        run += 1;
                    }
                    of.at(run) as u16
                }));
                Values::U16(all)
            }
        };
        let (vcpu, pcpu) = (cpus(&self.vcpu, spare), cpus(&self.pcpu, spare));
        [Values::Runs(Runs { ends, numbers }), vcpu, pcpu]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::frame::{Head, Tag};
    use crate::narrow::Narrow;
    use crate::wire::{BlockOut, ColumnOut, TableOut};

    /// A block with one `mark` event, whose table has a column that this version does not know, and one event of a kind
    /// that it does not know.
    fn newer(order: &[u64], mark_value: u64) -> Result<Vec<Word>, Wrong> {
        let column = |name, numbers: &[u64]| {
            let mut stored = Narrow::new(numbers.len());
            stored.push(numbers, &mut Spare::default());
            ColumnOut { name, coding: Coding::Plain, keys: &[], stored: stored.end() }
        };
        let table = |name, columns| TableOut { name, rows: 1, columns };
        let stamps = vec![column("events", &[order.len() as u64]), column("instruction", &[5])];
        let out = BlockOut {
            first: 10,
            events: order.len() as u32,
            order: column("order", order),
            stamps: table("stamps", stamps),
            tables: vec![
                table("teleport", vec![column("distance", &[300])]),
                table("mark", vec![column("colour", &[4]), column("value", &[mark_value])]),
            ],
            texts: &[],
        };
        let (mut words, mut message, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        wire::write_block(&out, &mut words, &mut message);
        let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
        let head: Head = crate::frame::pack(Tag::Block, (10, out.events), &message, &mut compressor, &mut stored)
            .expect("a small message");
        crate::frame::unpack(&head, &stored)
    }

    #[test]
    fn tables_and_columns_of_newer_versions_are_kept() {
        let message = newer(&[1, 0], 7).and_then(|words| Message::read(words, (10, 2))).expect("a sound block");
        let block = Block::read(&message).expect("a sound block");
        let mark = Event { at: Stamp { instruction: 5, vcpu: 0, pcpu: 0 }, what: What::Mark(7) };
        assert!(matches!(block.event(0), Ok(event) if event == mark));
        assert!(matches!(block.event(1), Err(Refused::NewerKind(name)) if name == "teleport"));
        assert_eq!((block.kind(0), block.kind(1)), (Some(Kind::Mark), None));
        let columns = |name: &str| -> Vec<(String, Vec<u64>)> {
            let mut rows = Rows::default();
            message.rows(name, None, &mut rows).expect("a sound block");
            rows.columns.into_iter().map(|column| (column.name, column.values.into_vec())).collect()
        };
        assert_eq!(columns("mark"), [("value".into(), vec![7]), ("colour".into(), vec![4])]);
        assert_eq!(columns("teleport"), [("distance".into(), vec![300])]);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        for (order, why) in [
            (&[1, 2][..], "an event belongs to table 2 of 2"),
            (&[1, 1], "table 'teleport' has 1 rows for 0 events"),
            (&[1], "table 'mark' claims 1 rows"),
            (&[1, 0, 0], "its tables hold 2 rows for 3 events"),
        ] {
            let message = newer(order, 7).expect("a message");
            assert_eq!(Message::read(message, (10, order.len() as u32)).err().as_deref(), Some(why));
        }
        let message = newer(&[1, 0], 1 << 32).and_then(|words| Message::read(words, (10, 2))).expect("it adds up");
        let block = Block::read(&message).expect("it adds up");
        assert!(matches!(block.event(0), Err(Refused::OutOfRange(10, table)) if table == "mark"));
    }
}
