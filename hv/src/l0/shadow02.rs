//! VMCS shadowing, virtualized: vmcs02 itself runs with VMCS shadowing, so that silicon serves L2's VMREADs and VMWRITEs
//! from a shadow VMCS of L0's, the shadow vmcs02. L0 brings it in line with L1's shadow vmcs12 before L2 runs, and the
//! shadow vmcs12 in line with it when L2 has run. See: SDM "VMCS Shadowing".
//!
//! What costs is kept small: which fields can be served is found out once; the bitmaps are merged again only where L1's
//! have changed; there is no copy of the shadow vmcs12 beside the one in L1's memory; a field that the shadow vmcs02 holds
//! already is not written.

use super::cx::Cx;
use super::fields::FieldSet;
use super::saved::SavedVmcs;
use super::vmcs12::PRESENT;
use crate::silicon::Silicon;
use crate::vmcs::{REVISION, SHADOW, SIZE, Vmcs};
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::controls::SecondaryControls;
use hv_defs::event::Which;
use hv_defs::instruction_error::InstructionError;
use hv_defs::policy::Shadowing;
use hv_defs::vmcs::{self, Field, TABLE, VmcsField, Width};
use serde::{Deserialize, Serialize};

/// 64 encodings of a bitmap, by the number of the word, of which some can be served.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Word {
    number: usize,
    served: u64,
}

/// What silicon can serve of L1's VMCSs: found out once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Servable {
    words: Vec<Word>,
    /// By row: its bit, and the one of its high half, as word and bit.
    bits: Vec<(usize, VmcsField, Option<VmcsField>)>,
}

impl Servable {
    /// Where the list lies.
    #[cfg(test)]
    pub(super) fn words(&self) -> *const () {
        self.words.as_ptr().cast()
    }

    /// Every field of L1's VMCSs.
    pub(super) fn new() -> Self {
        let mut all = [0u64; PAGE_SIZE as usize / 8];
        let mut bits = Vec::new();
        for row in PRESENT.rows() {
            let field = TABLE[row].field;
            let high = (field.width() == Width::W64).then_some(VmcsField(field.0 | 1));
            for field in [Some(field), high].into_iter().flatten() {
                all[field.0 as usize / 64] |= 1 << (field.0 % 64);
            }
            bits.push((row, field, high));
        }
        let words = all.into_iter().enumerate().filter(|(_, served)| *served != 0);
        Self { words: words.map(|(number, served)| Word { number, served }).collect(), bits }
    }
}

/// One of vmcs02's bitmaps.
#[derive(Debug, Serialize, Deserialize)]
struct Bitmap {
    page: Hpa,
    /// The words of [`Servable::words`] as they are in the page.
    words: Vec<u64>,
    /// The fields that it lets pass, in whole or by a half.
    passes: FieldSet,
}

impl Bitmap {
    fn bit(&self, servable: &Servable, field: VmcsField) -> bool {
        let place = servable.words.iter().position(|word| word.number == field.0 as usize / 64);
        place.is_none_or(|place| self.words[place] >> (field.0 % 64) & 1 != 0)
    }
}

/// What a vmcs02 needs for VMCS shadowing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shadow02 {
    /// The shadow vmcs02, by number among the vCPU's VMCSs.
    pub(super) saved: usize,
    read: Bitmap,
    write: Bitmap,
    /// L1's shadow VMCS; `None` while L2's accesses all exit.
    link: Option<Gpa>,
}

/// What goes into vmcs02's fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shadowed {
    pub(super) link: u64,
    pub(super) read: u64,
    pub(super) write: u64,
}

impl<S: Silicon> Cx<'_, S> {
    /// Has the vmcs02 in a slot of the pool ready to serve L2's accesses, if the policy, L1 and its shadow VMCS are so.
    /// `None` when L0's memory is used up. Leaves some VMCS current.
    pub(super) fn enter_shadow(&mut self, slot: usize) -> Option<()> {
        if let Some(shadow) = &mut self.vcpu.pool.slots[slot].shadow {
            shadow.link = None;
        }
        let link = Gpa(self.vcpu.vmcs12.get(vmcs::VMCS_LINK_POINTER));
        if self.shared.policy.shadowing != Shadowing::Virtualized
            || !self.secondary12().contains(SecondaryControls::VMCS_SHADOWING)
            || self.ram(link, PAGE_SIZE).is_none()
        {
            return Some(());
        }
        let mut shadow = match self.vcpu.pool.slots[slot].shadow.take() {
            Some(shadow) => shadow,
            None => Box::new(self.new_shadow02()?),
        };
        let servable = core::mem::take(&mut self.shared.servable);
        if let Some(servable) = &servable {
            self.merge_bitmap(servable, &mut shadow.read, vmcs::VMREAD_BITMAP);
            self.merge_bitmap(servable, &mut shadow.write, vmcs::VMWRITE_BITMAP);
        }
        self.shared.servable = servable;
        self.load_shadow02(shadow.saved, link, shadow.read.passes.union(shadow.write.passes));
        shadow.link = Some(link);
        self.vcpu.pool.slots[slot].shadow = Some(shadow);
        Some(())
    }

    fn new_shadow02(&mut self) -> Option<Shadow02> {
        let (region, read, write) =
            (self.shared.frames.take()?, self.shared.frames.take()?, self.shared.frames.take()?);
        let words = self.shared.servable.get_or_insert_with(Servable::new).words.len();
        self.silicon.write(region, &[0; PAGE_SIZE as usize]);
        self.silicon.write(region, &(REVISION | SHADOW).to_le_bytes());
        self.vcpu.saved.push(SavedVmcs::new(region, Which::Shadow02));
        let saved = self.vcpu.saved.len() - 1;
        self.clear_vmcs(saved);
        let bitmap = |cx: &mut Self, page: Hpa| {
            cx.silicon.write(page, &[0xff; PAGE_SIZE as usize]);
            Bitmap { page, words: vec![u64::MAX; words], passes: FieldSet::EMPTY }
        };
        Some(Shadow02 { saved, read: bitmap(self, read), write: bitmap(self, write), link: None })
    }

    /// Brings one of vmcs02's bitmaps in line with L1's, where that has changed.
    fn merge_bitmap(&mut self, servable: &Servable, bitmap: &mut Bitmap, field12: Field<u64>) {
        let mut theirs = [0; PAGE_SIZE as usize];
        let at = Gpa(self.vcpu.vmcs12.get(field12));
        self.read_gpa(at, &mut theirs);
        let mut changed = false;
        for (word, now) in servable.words.iter().zip(&mut bitmap.words) {
            let bytes = core::array::from_fn(|byte| theirs[word.number * 8 + byte]);
            let merged = u64::from_le_bytes(bytes) | !word.served;
            if merged != *now {
                *now = merged;
                changed = true;
                self.silicon.write(bitmap.page.offset(word.number as u64 * 8), &merged.to_le_bytes());
            }
        }
        if changed {
            bitmap.passes = FieldSet::EMPTY;
            for (row, field, high) in &servable.bits {
                let open = |field: VmcsField| !bitmap.bit(servable, field);
                if open(*field) || high.is_some_and(open) {
                    bitmap.passes.add_row(*row);
                }
            }
        }
    }

    /// Brings the shadow vmcs02 in line with the shadow vmcs12 at `link`, as to `rows`.
    fn load_shadow02(&mut self, saved: usize, link: Gpa, rows: FieldSet) {
        let mut region = [0; SIZE];
        self.read_gpa(link, &mut region);
        let mut writes = Vec::new();
        for row in rows.rows() {
            let value = row_of(&region, row);
            if self.vcpu.saved[saved].known(row) != Some(value) {
                writes.push((row, value));
            }
        }
        if writes.is_empty() {
            return;
        }
        self.load_vmcs(saved);
        self.update_rows(&writes);
        // What a link pointer names must not be active. See: SDM "Software Use of Shadow VMCSs".
        self.clear_vmcs(saved);
    }

    /// What the vmcs02 in a slot is to say of shadowing; `None` without.
    pub(super) fn shadowed(&self, slot: usize) -> Option<Shadowed> {
        let shadow = self.vcpu.pool.slots[slot].shadow.as_ref()?;
        shadow.link?;
        let link = self.vcpu.saved[shadow.saved].hpa.0;
        Some(Shadowed { link, read: shadow.read.page.0, write: shadow.write.page.0 })
    }

    /// L2 has run: what it wrote goes to L1's shadow VMCS. Leaves some VMCS of L2's current.
    pub(super) fn leave_shadow(&mut self) {
        let slot = self.vcpu.vmx.slot;
        let Some(shadow) = &mut self.vcpu.pool.slots[slot].shadow else { return };
        let Some(link) = shadow.link.take() else { return };
        let (saved, rows) = (shadow.saved, shadow.write.passes);
        if rows.is_empty() {
            return;
        }
        let before: Vec<Option<u64>> = rows.rows().map(|row| self.vcpu.saved[saved].known(row)).collect();
        self.vcpu.saved[saved].unlearn(rows);
        self.load_vmcs(saved);
        for (row, before) in rows.rows().zip(before) {
            let value = self.get_row(row);
            if before != Some(value) {
                self.write_gpa(link.offset(Vmcs::offset(row) as u64), &value.to_le_bytes());
            }
        }
        self.clear_vmcs(saved);
    }

    /// L0 has put a VM-instruction error into L1's shadow VMCS while L2 runs: silicon's copy has it too.
    pub(super) fn note_shadow_error(&mut self, error: InstructionError) {
        let Some(shadow) = &self.vcpu.pool.slots[self.vcpu.vmx.slot].shadow else { return };
        if shadow.link.is_none() {
            return;
        }
        let (saved, vmcs02) = (shadow.saved, self.vcpu.current);
        self.load_vmcs(saved);
        self.set(vmcs::VM_INSTRUCTION_ERROR, error.0);
        self.clear_vmcs(saved);
        self.load_vmcs(vmcs02);
    }
}

/// The value of a row in a region.
fn row_of(region: &[u8; SIZE], row: usize) -> u64 {
    let at = Vmcs::offset(row);
    u64::from_le_bytes(core::array::from_fn(|byte| region[at + byte])) & TABLE[row].field.mask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_l1_s_vmcss_can_be_served_with_their_high_halves() {
        let servable = Servable::new();
        let bit = |field: u32| {
            let word = servable.words.iter().find(|word| word.number == field as usize / 64);
            word.is_some_and(|word| word.served >> (field % 64) & 1 != 0)
        };
        assert!(bit(vmcs::GUEST_RIP.field().0) && bit(0x201a) && bit(0x201b));
        assert!(!bit(0x4026) && !bit(0x681f) && !bit(vmcs::TERTIARY_CONTROLS.field().0));
        assert_eq!(servable.bits.len(), usize::from(PRESENT.len()));
    }
}
