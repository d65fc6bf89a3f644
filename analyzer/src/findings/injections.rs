//! Events injected into guests.

use hv_defs::event::Injection;
use hv_defs::exit::EventType;
use std::collections::BTreeMap;

/// Injections of one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InjectionRow {
    /// The guest.
    pub level: u8,
    /// The type.
    pub kind: EventType,
    /// The vector.
    pub vector: u8,
    /// How many.
    pub count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Fold {
    counts: BTreeMap<(u8, u8, u8), u64>,
}

impl Fold {
    pub(super) fn see(&mut self, injection: &Injection) {
        let key = (injection.level, injection.info.kind().into_bits(), injection.info.vector());
        *self.counts.entry(key).or_default() += 1;
    }

    pub(super) fn finish(self) -> Vec<InjectionRow> {
        let rows = self.counts.into_iter().map(|((level, kind, vector), count)| InjectionRow {
            level,
            kind: EventType::from_bits(kind),
            vector,
            count,
        });
        let mut rows: Vec<InjectionRow> = rows.collect();
        rows.sort_by_key(|row| core::cmp::Reverse(row.count));
        rows
    }
}
