//! Where events come from: a trace on disk, or a list in memory.

use crate::Error;
use crate::chunk::{Chunk, Chunks};
use hv_defs::event::{Event, Kind};
use hv_defs::fields::{MAX_COLUMNS, Texts};
use std::ops::Range;
use traces::Reader;

/// A source of events. It is read again for each question, so that nothing is kept that was not asked for.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A trace.
    Trace(&'a Reader),
    /// Events in memory, numbered from 0.
    Events(&'a [Event]),
}

/// Rows of one kind, by columns; the columns are those of [`Kind::columns`].
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) event: Vec<u64>,
    pub(crate) instruction: Vec<u64>,
    pub(crate) vcpu: Vec<u16>,
    pub(crate) pcpu: Vec<u16>,
    /// Which of the last three were asked for; the others stay empty.
    pub(crate) stamps: [bool; 3],
    /// Empty where the column was not asked for.
    pub(crate) columns: Vec<Vec<u64>>,
    pub(crate) texts: Texts,
}

impl Source<'_> {
    /// How many events there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Trace(reader) => reader.len(),
            Self::Events(events) => events.len() as u64,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every event with its number, in order. Events of kinds that this program does not know are passed over.
    ///
    /// # Errors
    /// A block of the trace is damaged.
    pub fn each(&self, mut see: impl FnMut(u64, &Event)) -> Result<(), Error> {
        match self {
            Self::Events(events) => (0..).zip(*events).for_each(|(number, event)| see(number, event)),
            Self::Trace(reader) => {
                for (number, event) in (0..).zip(reader.events(0)) {
                    match event {
                        Ok(event) => see(number, &event),
                        Err(traces::Error::NewerKind { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Every event, in order, some of them together: what a pass over many of them is made of. Events of kinds that this
    /// program does not know are passed over.
    ///
    /// # Errors
    /// A block of the trace is damaged.
    pub(crate) fn chunks(&self, mut see: impl FnMut(&Chunk)) -> Result<(), Error> {
        let mut chunks = Chunks::default();
        match self {
            Self::Events(events) => chunks.of_events(events, &mut see),
            Self::Trace(reader) => {
                (0..reader.blocks().len()).try_for_each(|block| chunks.of_block(reader, block, &mut see))?;
            }
        }
        Ok(())
    }

    /// Events by kind, in the order of [`Kind::ALL`].
    ///
    /// # Errors
    /// The trace has no index and a block of it is damaged.
    pub fn counts(&self) -> Result<Vec<(Kind, u64)>, Error> {
        let mut counts: Vec<(Kind, u64)> = Kind::ALL.iter().map(|&kind| (kind, 0)).collect();
        match self {
            Self::Events(events) => events.iter().for_each(|event| counts[event.what.kind() as usize].1 += 1),
            Self::Trace(reader) => {
                for (name, count) in reader.counts()? {
                    if let Some(kind) = Kind::by_name(&name) {
                        counts[kind as usize].1 += count;
                    }
                }
            }
        }
        Ok(counts)
    }

    /// Adds the rows of one kind, of a trace those in `blocks`. `wanted` says by index which columns to read; the others
    /// stay empty.
    ///
    /// # Errors
    /// A block of the trace is damaged: `rows` may have some more than before.
    pub(crate) fn rows(&self, kind: Kind, wanted: &[bool], blocks: Range<usize>, rows: &mut Rows) -> Result<(), Error> {
        let columns = kind.columns();
        match self {
            Self::Events(events) => {
                let mut row = [0; MAX_COLUMNS];
                for (number, event) in (0..).zip(*events).filter(|(_, event)| event.what.kind() == kind) {
                    event.what.row(&mut row, &mut rows.texts);
                    rows.event.push(number);
                    rows.instruction.push(event.at.instruction);
                    rows.vcpu.push(event.at.vcpu);
                    rows.pcpu.push(event.at.pcpu);
                    for (column, cell) in rows.columns.iter_mut().zip(row) {
                        column.push(cell);
                    }
                }
            }
            Self::Trace(reader) => {
                let names: Vec<&str> =
                    columns.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(column, _)| column.name).collect();
                let mut read = traces::Rows::default();
                for block in blocks {
                    reader.block_columns_into(block, kind, Some(&names), &mut read)?;
                    read.event.append_to(&mut rows.event);
                    if rows.stamps[0] {
                        read.instruction.append_to(&mut rows.instruction);
                    }
                    if rows.stamps[1] {
                        rows.vcpu.extend(read.vcpu.iter().map(|cpu| cpu as u16));
                    }
                    if rows.stamps[2] {
                        rows.pcpu.extend(read.pcpu.iter().map(|cpu| cpu as u16));
                    }
                    for (all, column) in rows.columns.iter_mut().zip(columns) {
                        let Some(values) = read.column(column.name) else { continue };
                        if column.form == hv_defs::fields::Form::Text {
                            let texts = &mut rows.texts;
                            // A block numbers its texts for itself.
                            all.extend(values.iter().map(|text| texts.number(read.texts.text(text).unwrap_or(""))));
                        } else {
                            values.append_to(all);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Rows {
    /// None yet, of that kind, with those of `instruction`, `vcpu` and `pcpu` that are wanted.
    pub(crate) fn new(kind: Kind, stamps: [bool; 3]) -> Self {
        Self { columns: vec![Vec::new(); kind.columns().len()], stamps, ..Self::default() }
    }

    /// Keeps the first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.event.truncate(rows);
        self.instruction.truncate(rows);
        self.vcpu.truncate(rows);
        self.pcpu.truncate(rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }
}

impl<'a> From<&'a Reader> for Source<'a> {
    fn from(reader: &'a Reader) -> Self {
        Self::Trace(reader)
    }
}

impl<'a> From<&'a [Event]> for Source<'a> {
    fn from(events: &'a [Event]) -> Self {
        Self::Events(events)
    }
}
