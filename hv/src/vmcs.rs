//! A VMCS: every field of the table, dense, in the layout that it has in memory.
//!
//! The silicon keeps VMCSs like this in their regions, and L0 keeps vmcs12 so in L1's memory. The layout is our own and
//! [`REVISION`] names it; it changes when the table of fields does.

use core::mem::size_of;
use hv_defs::vmcs::{COUNT, Field, FieldValue, MASKS, TABLE, VmcsField};
use serde::{Deserialize, Serialize};

/// The VMCS revision identifier of this layout: what IA32_VMX_BASIC shows. Its low half is the number of fields.
pub const REVISION: u32 = 0x4e56_0000 | COUNT as u32;

/// Bit 31 of the first word of a region: it holds a shadow VMCS.
pub const SHADOW: u32 = 1 << 31;

/// Bytes of a VMCS that hold anything; the rest of its 4 KiB region is not touched.
pub const SIZE: usize = size_of::<Vmcs>();

/// A VMCS.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Vmcs {
    /// The revision identifier, and [`SHADOW`].
    pub revision: u32,
    /// The VMX-abort indicator.
    pub abort: u32,
    /// The launch state: 0 clear, 1 launched.
    pub launched: u32,
    /// For the owner's use: what was written since the last entry.
    pub dirty: u32,
    #[serde(with = "crate::stored::words")]
    values: [u64; COUNT],
}

impl core::fmt::Debug for Vmcs {
    /// The fields that are not zero, by name.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let fields = TABLE.iter().zip(&self.values).filter(|(_, value)| **value != 0);
        f.debug_map().entries(fields.map(|(row, value)| (row.field, value))).finish()
    }
}

impl Default for Vmcs {
    fn default() -> Self {
        Self { revision: REVISION, abort: 0, launched: 0, dirty: 0, values: [0; COUNT] }
    }
}

impl Vmcs {
    /// A field's value.
    #[inline(always)]
    pub fn get<T: FieldValue>(&self, field: Field<T>) -> T {
        T::from_raw(self.values[field.index()])
    }

    /// Sets a field.
    #[inline(always)]
    pub fn set<T: FieldValue>(&mut self, field: Field<T>, value: T) {
        self.values[field.index()] = value.into_raw();
    }

    /// The value in a row of the table.
    ///
    /// # Panics
    /// When the table has no such row.
    #[inline(always)]
    pub fn row(&self, index: usize) -> u64 {
        self.values[index]
    }

    /// Whether every field is 0, as in a region that nothing was written to.
    pub fn is_blank(&self) -> bool {
        self.values.iter().all(|value| *value == 0)
    }

    /// Sets the value in a row of the table, cut to the field's width.
    ///
    /// # Panics
    /// As [`Vmcs::row`].
    #[inline(always)]
    pub fn set_row(&mut self, index: usize, value: u64) {
        self.values[index] = value & MASKS[index];
    }

    /// What VMREAD of `field` gives, high halves included; `None` for a field that the table does not have.
    pub fn read(&self, field: VmcsField) -> Option<u64> {
        if field.is_high() {
            let index = high_half(field)?;
            return Some(self.values[index] >> 32);
        }
        Some(self.values[field.index()?])
    }

    /// What VMWRITE to `field` does, high halves included. Returns the value before; `None`, and nothing is changed, for
    /// a field that the table does not have.
    pub fn write(&mut self, field: VmcsField, value: u64) -> Option<u64> {
        if field.is_high() {
            let index = high_half(field)?;
            let old = self.values[index];
            self.values[index] = old & 0xffff_ffff | value << 32;
            return Some(old >> 32);
        }
        let index = field.index()?;
        let old = self.values[index];
        self.set_row(index, value);
        Some(old)
    }

    /// Where the value in a row of the table lies, in bytes from the start of the region.
    pub const fn offset(index: usize) -> usize {
        16 + index * size_of::<u64>()
    }

    /// The layout in memory.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        for (word, at) in [self.revision, self.abort, self.launched, self.dirty].into_iter().zip((0..).step_by(4)) {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (value, at) in bytes[16..].chunks_exact_mut(8).zip(&self.values) {
            value.copy_from_slice(&at.to_le_bytes());
        }
        bytes
    }

    /// From the layout in memory, whatever its revision. Values are cut to their fields' widths.
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut vmcs =
            Self { revision: word(0), abort: word(4), launched: word(8), dirty: word(12), values: [0; COUNT] };
        for index in 0..COUNT {
            let at = Self::offset(index);
            vmcs.set_row(index, u64::from(word(at)) | u64::from(word(at + 4)) << 32);
        }
        vmcs
    }
}

/// The row of the 64-bit field whose high half `field` names.
fn high_half(field: VmcsField) -> Option<usize> {
    match field.width() {
        hv_defs::vmcs::Width::W64 => field.full().index(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::addr::PAGE_SIZE;
    use hv_defs::vmcs::*;

    #[test]
    fn every_row_survives_the_way_through_bytes() {
        let mut vmcs = Vmcs { launched: 1, abort: 2, dirty: 3, ..Vmcs::default() };
        for index in 0..COUNT {
            vmcs.set_row(index, 0x0123_4567_89ab_cdef ^ (index as u64) << 8);
        }
        assert_eq!(Vmcs::from_bytes(&vmcs.to_bytes()), vmcs);
        let rip = Vmcs::offset(GUEST_RIP.index());
        assert_eq!(vmcs.to_bytes()[rip..rip + 8], vmcs.get(GUEST_RIP).to_le_bytes());
        const { assert!(SIZE <= PAGE_SIZE as usize && REVISION & SHADOW == 0) };
    }

    #[test]
    fn bytes_of_anyone_make_values_that_fit_their_fields() {
        let vmcs = Vmcs::from_bytes(&[0xff; SIZE]);
        assert_eq!(vmcs.get(VPID), 0xffff);
        assert_eq!(vmcs.row(VPID.index()), 0xffff);
        assert_eq!(vmcs.row(EXCEPTION_BITMAP.index()), 0xffff_ffff);
    }

    #[test]
    fn halves_and_strangers() {
        let mut vmcs = Vmcs::default();
        let check = |vmcs: &Vmcs, field, value| assert_eq!(vmcs.read(VmcsField(field)), value, "{field:#x}");
        assert_eq!(vmcs.write(VmcsField(0x201a), 0x1111_1111_2222_2222), Some(0));
        assert_eq!(vmcs.write(VmcsField(0x201b), 0x3333_3333), Some(0x1111_1111));
        check(&vmcs, 0x201a, Some(0x3333_3333_2222_2222));
        check(&vmcs, 0x201b, Some(0x3333_3333));
        check(&vmcs, 0x4003, None);
        check(&vmcs, 0x681f, None);
        check(&vmcs, 0x4026, None);
        assert_eq!(vmcs.write(VmcsField(0x0800), 0x12_3456), Some(0));
        check(&vmcs, 0x0800, Some(0x3456));
        assert_eq!(vmcs.write(VmcsField(0x7ffe), 1), None);
    }
}
