//! VMCS fields that are watched: their accesses are found in the trace, not by running.

use crate::{Error, Place};
use hv_defs::event::{Kind, VmcsOp};
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
}

impl FieldWatch {
    fn sees(&self, field: u64, op: u64) -> bool {
        let wanted = match self.on {
            On::Writes => op == VmcsOp::Write as u64,
            On::Reads => op == VmcsOp::Read as u64,
            On::Both => op == VmcsOp::Write as u64 || op == VmcsOp::Read as u64,
        };
        // The high half of a field is the field's.
        wanted && field & !1 == u64::from(self.field.full().0)
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
    let rows = reader.block_columns(block, Kind::Vmcs).map_err(|source| Error::Trace { event, source })?;
    let (Some(fields), Some(ops)) = (rows.column("field"), rows.column("op")) else { return Ok(Vec::new()) };
    let all = rows.event.iter().zip(&rows.instruction).zip(fields.iter().zip(ops));
    let seen = all.filter(|(_, (field, op))| watches.iter().any(|watch| watch.sees(*field, *op)));
    let access = |event: u64, instruction: u64| Access { event, place: Place { instruction, event: event + 1 } };
    Ok(seen.map(|((event, instruction), _)| access(event, instruction)).collect())
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
