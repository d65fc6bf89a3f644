//! A block of which columns are decoded as they are asked for.

use crate::block::{Message, Order, Rows};
use crate::error::Error;
use crate::reader::Reader;
use hv_defs::event::Kind;

/// A block whose columns are decoded as they are asked for: see [`Reader::tables`]. Nothing of it is kept by the reader,
/// so that threads which take blocks in turn do not put one another's out.
#[derive(Debug)]
pub struct Tables<'a> {
    reader: &'a Reader,
    block: usize,
    /// There until this is dropped.
    message: Option<Message>,
}

impl<'a> Tables<'a> {
    pub(crate) fn open(reader: &'a Reader, block: usize) -> Result<Self, Error> {
        Ok(Self { reader, block, message: Some(reader.message(block)?) })
    }

    /// How many events of a kind the block has.
    pub fn rows(&self, kind: Kind) -> u32 {
        self.message.as_ref().map_or(0, |message| message.rows_of(kind.name()))
    }

    /// The places in the block of the events of a kind, into `places`: one for each row, rising.
    pub fn places_into(&self, kind: Kind, places: &mut Vec<u32>) {
        match &self.message {
            Some(message) => message.places(kind.name(), places),
            None => places.clear(),
        }
    }

    /// The named columns of a kind, into `rows`, without the numbers and stamps of the events.
    pub fn cells_into(&self, kind: Kind, columns: &[&str], rows: &mut Rows) -> Result<(), Error> {
        self.read(|message| message.cells(kind.name(), Some(columns), rows))
    }

    /// As [`Tables::cells_into`], with the numbers and stamps of the events.
    pub fn columns_into(&self, kind: Kind, columns: &[&str], rows: &mut Rows) -> Result<(), Error> {
        self.read(|message| message.rows(kind.name(), Some(columns), rows))
    }

    /// In what order the block's events come and when, into `order`.
    pub fn order_into(&self, order: &mut Order) {
        self.message.iter().for_each(|message| message.order(order));
    }

    fn read(&self, read: impl FnOnce(&Message) -> Result<(), String>) -> Result<(), Error> {
        self.message.as_ref().map_or(Ok(()), read).map_err(|why| self.reader.damaged(self.block, why))
    }
}

impl Drop for Tables<'_> {
    fn drop(&mut self) {
        self.message.take().into_iter().for_each(|message| self.reader.keep_words(message));
    }
}
