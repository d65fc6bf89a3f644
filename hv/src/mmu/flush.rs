//! What drops cached translations, and exactly which.
//!
//! See: SDM "Operations that Invalidate TLBs and Paging-Structure Caches" and "Operations that Invalidate Cached
//! Mappings".

use super::Mmu;
use super::tlb::{PageSize, Tag};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::x86::{Cr0, Cr4};

/// INVPCID's types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum InvpcidType {
    /// One address of one PCID, globals excepted.
    Address = 0,
    /// One PCID, globals excepted.
    Single = 1,
    /// All PCIDs, globals included.
    All = 2,
    /// All PCIDs, globals excepted.
    RetainGlobals = 3,
}

impl InvpcidType {
    /// The type of that number, if there is one.
    pub const fn new(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Address),
            1 => Some(Self::Single),
            2 => Some(Self::All),
            3 => Some(Self::RetainGlobals),
            _ => None,
        }
    }
}

impl Mmu {
    /// INVVPID. Returns how many translations were dropped: linear and combined ones.
    pub fn invvpid(&mut self, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32 {
        let vpid = descriptor.vpid;
        match kind {
            InvvpidType::Address => self.drop_address(descriptor.address, true, |tag| tag.vpid == vpid),
            InvvpidType::Single => self.drop_tags(|tag| tag.vpid == vpid),
            InvvpidType::All => self.drop_tags(|tag| tag.vpid != 0),
            InvvpidType::RetainGlobals => self.drop_tags(|tag| tag.vpid == vpid && tag.pcid.is_some()),
        }
    }

    /// INVEPT. Returns how many translations were dropped: guest-physical and combined ones.
    pub fn invept(&mut self, kind: InveptType, descriptor: InveptDescriptor) -> u32 {
        let ep4ta = descriptor.eptp.ep4ta();
        let which = |tag: &Tag| match kind {
            InveptType::Single => tag.ep4ta == Some(ep4ta),
            InveptType::All => tag.ep4ta.is_some(),
        };
        if let Some(adversary) = &mut self.adversary {
            adversary.drop_tags(true, which);
            adversary.drop_tags(false, which);
        }
        let dropped = self.guest_physical.flush(which) + self.tlb.flush(which);
        if dropped != 0 {
            self.renew_contexts();
        }
        dropped
    }

    /// INVPCID in a guest. Returns how many translations were dropped, all of the current VPID.
    pub fn invpcid(&mut self, kind: InvpcidType, pcid: u16, address: u64) -> u32 {
        let vpid = self.vpid();
        match kind {
            InvpcidType::Address => self.drop_address(address, true, |tag| tag.vpid == vpid && tag.pcid == Some(pcid)),
            InvpcidType::Single => self.drop_tags(|tag| tag.vpid == vpid && tag.pcid == Some(pcid)),
            InvpcidType::All => self.drop_tags(|tag| tag.vpid == vpid),
            InvpcidType::RetainGlobals => self.drop_tags(|tag| tag.vpid == vpid && tag.pcid.is_some()),
        }
    }

    /// INVLPG in a guest. Returns how many translations were dropped.
    pub fn invlpg(&mut self, address: u64) -> u32 {
        let (vpid, pcid) = (self.vpid(), self.now.pcid);
        self.drop_address(address, true, |tag| tag.vpid == vpid && tag.pcid.is_none_or(|tag| tag == pcid))
    }

    /// MOV to CR3 in a guest, or a task switch: `value` is the operand, bit 63 included. Returns how many translations
    /// were dropped. [`Mmu::set_context`] follows.
    pub fn cr3_written(&mut self, value: u64) -> u32 {
        let vpid = self.vpid();
        let pcid = match self.now.mode.pcids() {
            true if value >> 63 != 0 => return 0,
            true => value as u16 & 0xfff,
            false => 0,
        };
        self.drop_tags(|tag| tag.vpid == vpid && tag.pcid == Some(pcid))
    }

    /// MOV to CR0 in a guest. Returns how many translations were dropped. [`Mmu::set_context`] follows.
    pub fn cr0_written(&mut self, old: u64, new: u64) -> u32 {
        match old & !new & Cr0::PG.bits() {
            0 => 0,
            _ => self.drop_vpid(),
        }
    }

    /// MOV to CR4 in a guest. Returns how many translations were dropped. [`Mmu::set_context`] follows.
    pub fn cr4_written(&mut self, old: u64, new: u64) -> u32 {
        let changed = old ^ new;
        if changed & Cr4::PGE.bits() != 0 || old & !new & Cr4::PCIDE.bits() != 0 {
            return self.drop_vpid();
        }
        if changed & Cr4::PAE.bits() != 0 || new & !old & Cr4::SMEP.bits() != 0 {
            let (vpid, pcid) = (self.vpid(), self.now.pcid);
            return self.drop_tags(|tag| tag.vpid == vpid && tag.pcid.is_none_or(|tag| tag == pcid));
        }
        0
    }

    /// What a VM entry or a VM exit drops when the VMCS does not enable VPID: linear and combined mappings of VPID 0.
    /// Returns how many.
    pub fn transition(&mut self) -> u32 {
        self.drop_tags(|tag| tag.vpid == 0)
    }

    fn vpid(&self) -> u16 {
        self.spaces[self.space].vpid
    }

    fn drop_vpid(&mut self) -> u32 {
        let vpid = self.vpid();
        self.drop_tags(|tag| tag.vpid == vpid)
    }

    /// What a page fault or an EPT violation at a linear address drops.
    pub(super) fn drop_current(&mut self, address: u64) {
        self.note_kill(false, address);
        let (local, global) = (self.now.local, self.now.global);
        while let Some(slot) = self.tlb.find(address, local, global) {
            let entry = *self.tlb.entry(slot);
            self.tlb.kill(slot);
            self.forget_lines(entry.address(), entry.size());
        }
    }

    fn drop_tags(&mut self, which: impl Fn(&Tag) -> bool) -> u32 {
        self.flush_count += 1;
        if let Some(adversary) = &mut self.adversary {
            adversary.drop_tags(false, &which);
        }
        let dropped = self.tlb.flush(which);
        if dropped != 0 {
            self.renew_contexts();
        }
        dropped
    }

    fn drop_address(&mut self, address: u64, parts: bool, which: impl Fn(&Tag) -> bool) -> u32 {
        self.flush_count += 1;
        if let Some(adversary) = &mut self.adversary {
            adversary.drop_address(address, &which);
        }
        let (reads, writes, fetches) = (&mut self.reads, &mut self.writes, &mut self.fetches);
        self.tlb.flush_address(address, parts, which, |address, size| {
            for front in [&mut *reads, &mut *writes, &mut *fetches] {
                front.drop_page(address, size);
            }
        })
    }

    /// Gives the contexts whose tags were flushed new numbers, so that the front cache knows nothing of them.
    fn renew_contexts(&mut self) {
        for index in 0..self.contexts.len() {
            let context = self.contexts[index];
            let physical = self.spaces[(context.key >> 32) as usize].physical;
            let (local_epoch, global_epoch) = (self.tlb.epoch(context.local), self.tlb.epoch(context.global));
            let physical_epoch = self.guest_physical.epoch(physical);
            if local_epoch != context.local_epoch
                || global_epoch != context.global_epoch
                || physical_epoch != context.physical_epoch && !context.mode.paging()
            {
                let number = self.fresh_number();
                self.contexts[index] = super::Context { local_epoch, global_epoch, physical_epoch, number, ..context };
                if context.key == self.now.key {
                    self.now = self.contexts[index];
                }
            }
        }
        self.set_privilege(self.user, self.ac);
    }

    /// Clears what the front cache knows of a page.
    pub(super) fn forget_lines(&mut self, address: u64, size: PageSize) {
        for front in [&mut self.reads, &mut self.writes, &mut self.fetches] {
            front.drop_page(address, size);
        }
    }

    /// Clears the front cache.
    pub(super) fn clear_lines(&mut self) {
        for front in [&mut self.reads, &mut self.writes, &mut self.fetches] {
            front.clear();
        }
    }
}
