//! VMCS fields that are watched: their accesses are found in the trace, not by running.

use crate::{Error, Place};
use hv_defs::event::{Kind, VmcsOp, Which};
use hv_defs::vmcs::VmcsField;
use traces::Reader;

/// Which accesses of a field count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum On {
    /// VMWRITE.
    Writes,
    /// VMREAD.
    Reads,
    /// Both.
    Both,
}

/// A field that is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FieldWatch {
    pub(super) field: VmcsField,
    pub(super) on: On,
    /// Of which VMCSs; `None` for all.
    pub(super) which: Option<Which>,
    /// Of the VMCS at this address, host-physical for L0's own and L1-physical for L1's; `None` for all.
    pub(super) address: Option<u64>,
}

impl FieldWatch {
    fn sees(&self, [field, op, which, address]: [u64; 4]) -> bool {
        let wanted = match self.on {
            On::Writes => op == VmcsOp::Write as u64,
            On::Reads => op == VmcsOp::Read as u64,
            On::Both => op == VmcsOp::Write as u64 || op == VmcsOp::Read as u64,
        };
        // The high half of a field is the field's.
        wanted
            && field & !1 == u64::from(self.field.full().0)
            && self.which.is_none_or(|wanted| wanted as u64 == which)
            && self.address.is_none_or(|wanted| wanted == address)
    }
}

/// An access: its event, and the place right behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Access {
    pub(super) event: u64,
    pub(super) place: Place,
}

/// The accesses of one block, in order.
fn of_block(reader: &Reader, block: usize, watches: &[FieldWatch]) -> Result<Vec<Access>, Error> {
    let event = reader.blocks()[block].first;
    const COLUMNS: [&str; 4] = ["field", "op", "which", "address"];
    let rows = reader.block_columns_of(block, Kind::Vmcs, &COLUMNS).map_err(|source| Error::Trace { event, source })?;
    // A column that the block does not have is all zeros.
    let columns = COLUMNS.map(|name| rows.column(name));
    let row = |at: usize| columns.map(|column| column.map_or(0, |column| column.at(at)));
    let all = rows.event.iter().zip(&rows.instruction).enumerate();
    let seen = all.filter(|(at, _)| {
        let row = row(*at);
        watches.iter().any(|watch| watch.sees(row))
    });
    let access = |event: u64, instruction: u64| Access { event, place: Place { instruction, event: event + 1 } };
    Ok(seen.map(|(_, (event, instruction))| access(event, instruction)).collect())
}

/// The first access from `event` on.
pub(super) fn next(reader: &Reader, watches: &[FieldWatch], event: u64) -> Result<Option<Access>, Error> {
    if watches.is_empty() || event >= reader.len() {
        return Ok(None);
    }
    let first = reader.block_of(event).map_err(|source| Error::Trace { event, source })?;
    for block in first..reader.blocks().len() {
        if let Some(found) = of_block(reader, block, watches)?.into_iter().find(|access| access.event >= event) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The last access before `event`.
pub(super) fn last(reader: &Reader, watches: &[FieldWatch], event: u64) -> Result<Option<Access>, Error> {
    let Some(before) = event.min(reader.len()).checked_sub(1).filter(|_| !watches.is_empty()) else { return Ok(None) };
    let first = reader.block_of(before).map_err(|source| Error::Trace { event, source })?;
    for block in (0..=first).rev() {
        if let Some(found) = of_block(reader, block, watches)?.into_iter().rfind(|access| access.event < event) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
