//! What VMCSs held at an event, as far as the events before it tell: for traces that cannot be replayed, and for a first
//! look without a replay.

use crate::{Error, Source};
use hv_defs::event::{Event, Kind, VmcsAccess, VmcsOp, What, Which};
use hv_defs::vmcs::VmcsField;
use std::collections::BTreeMap;

/// A field's value with the event that told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The value.
    pub value: u64,
    /// The event of the last read or write.
    pub event: u64,
}

/// One VMCS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmcsState {
    /// The fields that were read or written.
    pub fields: BTreeMap<VmcsField, Known>,
    /// The event at which it was last loaded, written, read or cleared.
    pub touched: u64,
}

/// All VMCSs by kind and address, in order.
pub type Vmcss = BTreeMap<(Which, u64), VmcsState>;

/// What is known of each VMCS after all events before number `event`.
///
/// # Errors
/// The trace is damaged.
pub fn vmcs_at(source: Source<'_>, event: u64) -> Result<Vmcss, Error> {
    let mut all = Vmcss::new();
    match source {
        Source::Events(events) => {
            (0..event).zip(events).for_each(|(number, event)| see(&mut all, number, event));
        }
        Source::Trace(reader) => {
            for block in 0..reader.blocks().len() {
                if reader.blocks()[block].first >= event {
                    break;
                }
                let rows = reader.block_columns(block, Kind::Vmcs)?;
                let width = Kind::Vmcs.columns().len();
                let mut row = vec![0; width];
                for (at, number) in rows.event.iter().enumerate().take_while(|(_, number)| *number < event) {
                    for (cell, column) in row.iter_mut().zip(&rows.columns) {
                        *cell = column.values.at(at);
                    }
                    if let Some(What::Vmcs(access)) = What::from_row(Kind::Vmcs, &row, &rows.texts) {
                        fold(&mut all, number, &access);
                    }
                }
            }
        }
    }
    Ok(all)
}

fn see(all: &mut Vmcss, number: u64, event: &Event) {
    if let What::Vmcs(access) = &event.what {
        fold(all, number, access);
    }
}

/// Adds what one access tells.
pub fn fold(all: &mut Vmcss, number: u64, access: &VmcsAccess) {
    let state = all.entry((access.which, access.address)).or_default();
    state.touched = number;
    if matches!(access.op, VmcsOp::Read | VmcsOp::Write) {
        state.fields.insert(access.field, Known { value: access.value, event: number });
    }
}
