//! Sets of VMCS fields, by row of the field table.

use hv_defs::vmcs::{COUNT, Class, Field, TABLE};
use serde::{Deserialize, Serialize};

const WORDS: usize = COUNT.div_ceil(64);

/// A set of VMCS fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct FieldSet([u64; WORDS]);

impl FieldSet {
    pub(super) const EMPTY: Self = Self([0; WORDS]);

    /// All fields of the table.
    pub(super) const ALL: Self = {
        let mut set = Self::EMPTY;
        let mut row = 0;
        while row < COUNT {
            set = set.with_row(row);
            row += 1;
        }
        set
    };

    pub(super) const fn with_row(mut self, row: usize) -> Self {
        self.0[row / 64] |= 1 << (row % 64);
        self
    }

    pub(super) const fn with<T>(self, field: Field<T>) -> Self {
        self.with_row(field.index())
    }

    /// The fields of `class`.
    pub(super) const fn class(class: Class) -> Self {
        let mut set = Self::EMPTY;
        let mut row = 0;
        while row < COUNT {
            if TABLE[row].field.class() as u8 == class as u8 {
                set = set.with_row(row);
            }
            row += 1;
        }
        set
    }

    pub(super) const fn union(mut self, other: Self) -> Self {
        let mut word = 0;
        while word < WORDS {
            self.0[word] |= other.0[word];
            word += 1;
        }
        self
    }

    pub(super) const fn without(mut self, other: Self) -> Self {
        let mut word = 0;
        while word < WORDS {
            self.0[word] &= !other.0[word];
            word += 1;
        }
        self
    }

    pub(super) const fn common(mut self, other: Self) -> Self {
        let mut word = 0;
        while word < WORDS {
            self.0[word] &= other.0[word];
            word += 1;
        }
        self
    }

    #[inline(always)]
    pub(super) const fn has_row(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 != 0
    }

    #[cfg(test)]
    pub(super) const fn has<T>(&self, field: Field<T>) -> bool {
        self.has_row(field.index())
    }

    #[inline(always)]
    pub(super) fn add_row(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    #[inline(always)]
    pub(super) fn remove_row(&mut self, row: usize) {
        self.0[row / 64] &= !(1 << (row % 64));
    }

    pub(super) const fn is_empty(&self) -> bool {
        let mut word = 0;
        while word < WORDS {
            if self.0[word] != 0 {
                return false;
            }
            word += 1;
        }
        true
    }

    #[cfg(test)]
    pub(super) const fn intersects(&self, other: &Self) -> bool {
        !self.common(*other).is_empty()
    }

    /// How many fields it holds.
    pub(super) const fn len(&self) -> u16 {
        let mut count = 0;
        let mut word = 0;
        while word < WORDS {
            count += self.0[word].count_ones();
            word += 1;
        }
        count as u16
    }

    /// Its rows, rising.
    pub(super) fn rows(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, mut bits)| {
            core::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }
}

/// A const set from typed fields.
macro_rules! field_set {
    ($($field:ident),* $(,)?) => {
        $crate::l0::fields::FieldSet::EMPTY$(.with(hv_defs::vmcs::$field))*
    };
}
pub(super) use field_set;

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::vmcs;

    #[test]
    fn sets_hold_what_was_put_in() {
        const SET: FieldSet = field_set!(GUEST_RIP, VPID, HOST_INTERRUPT_SSP_TABLE);
        assert_eq!(SET.len(), 3);
        assert!(SET.has(vmcs::GUEST_RIP) && !SET.has(vmcs::GUEST_RSP));
        let rows: Vec<usize> = SET.rows().collect();
        assert_eq!(rows, [vmcs::VPID.index(), vmcs::GUEST_RIP.index(), COUNT - 1]);
        assert_eq!(FieldSet::ALL.len() as usize, COUNT);
        assert_eq!(FieldSet::ALL.without(SET).len() as usize, COUNT - 3);
        let classes = [Class::Control, Class::ExitInformation, Class::Guest, Class::Host].map(FieldSet::class);
        assert_eq!(classes.iter().fold(FieldSet::EMPTY, |all, set| all.union(*set)), FieldSet::ALL);
    }
}
