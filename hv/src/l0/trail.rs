//! Walks of paging structures, for a look from outside: each entry on the way, and where the way ends. Nothing is set in
//! them, and no TLB is asked: this is what the structures say now, not what a CPU may have cached.
//!
//! See: SDM "Paging" and "The Extended Page Table Mechanism (EPT)".

use super::L0;
use super::ept12::{index, is_leaf, is_misconfigured, leaf_base, span};
use super::look::Guest;
use crate::mmu;
use crate::soft::SoftSilicon;
use hv_defs::addr::{Gpa, Hpa, is_canonical};
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::vmcs;
use hv_defs::x86::{Cr0, Cr4, Efer, Pte};

/// An entry that a walk read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The level of its table: 1 for the last, 4 or 5 for the root's.
    pub level: u8,
    /// Where it lies, by the physical addresses of whoever made the structures.
    pub at: u64,
    /// What it holds.
    pub entry: u64,
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// At a page of `bytes` bytes, or where there is nothing to walk: the address leads to `address`.
    At {
        /// Where it leads.
        address: u64,
        /// Bytes of the page; 0 where nothing was walked.
        bytes: u64,
    },
    /// At an entry that is not present.
    NotPresent,
    /// At an EPT entry that the SDM calls misconfigured.
    Misconfigured,
    /// At a table that is in no memory: beyond it, or not mapped by EPT12.
    NoTable,
    /// Before it began: the address is not canonical.
    NotCanonical,
}

/// A walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trail {
    /// The entries that it read, the root's first.
    pub steps: Vec<Step>,
    /// How it ended.
    pub ended: Ended,
}

impl Ended {
    fn address(self) -> Option<u64> {
        match self {
            Self::At { address, .. } => Some(address),
            _ => None,
        }
    }
}

/// Keeps the entries of a walk.
fn kept(walk: impl FnOnce(&mut dyn FnMut(Step)) -> Ended) -> Trail {
    let mut steps = Vec::new();
    let ended = walk(&mut |step| steps.push(step));
    Trail { steps, ended }
}

/// Walks EPT paging structures, whose entries `read` reads and `wrong` judges.
fn walk_ept(
    root: u64,
    at: u64,
    mode_based: bool,
    read: impl Fn(u64) -> Option<u64>,
    wrong: impl Fn(EptEntry, u8) -> bool,
    step: &mut dyn FnMut(Step),
) -> Ended {
    let mut table = root;
    for level in (1..=4u8).rev() {
        let place = table.wrapping_add(index(at, level) * 8);
        let Some(bits) = read(place) else { return Ended::NoTable };
        step(Step { level, at: place, entry: bits });
        let entry = EptEntry::from_bits(bits);
        if !entry.present_in(mode_based) {
            return Ended::NotPresent;
        }
        if wrong(entry, level) {
            return Ended::Misconfigured;
        }
        if is_leaf(entry, level) {
            let bytes = span(level);
            return Ended::At { address: leaf_base(entry, level) | at & (bytes - 1), bytes };
        }
        table = entry.address();
    }
    Ended::NoTable
}

impl L0<SoftSilicon> {
    /// The L1-physical address of a guest's physical one; `None` where EPT12 maps nothing.
    pub fn look_physical(&self, guest: &Guest, at: u64) -> Option<Gpa> {
        self.walk_physical(guest, at, &mut |_| {}).address().map(Gpa)
    }

    /// The physical address, as the guest has it, of one of its linear addresses; `None` where its paging structures map
    /// nothing. Rights are not looked at: it is not the guest who looks.
    pub fn look_linear(&self, guest: &Guest, gva: u64) -> Option<u64> {
        self.walk_linear(guest, gva, &mut |_| {}).address()
    }

    /// The walk of EPT12 for a guest's physical address. L1 and a guest without EPT have none: there is nothing to walk.
    pub fn trail_physical(&self, guest: &Guest, at: u64) -> Trail {
        kept(|step| self.walk_physical(guest, at, step))
    }

    /// The walk of a guest's paging structures for a linear address, by the guest's physical addresses.
    pub fn trail_linear(&self, guest: &Guest, gva: u64) -> Trail {
        kept(|step| self.walk_linear(guest, gva, step))
    }

    /// The walk of an EPT that silicon walks, EPT01 or an EPT02, by host-physical addresses.
    pub fn trail_silicon(&self, eptp: Eptp, mode_based: bool, at: u64) -> Trail {
        let read = |at: u64| Some(u64::from_le_bytes(self.silicon.bytes(Hpa(at), 8)?.try_into().ok()?));
        let wrong =
            |entry: EptEntry, level: u8| mmu::is_misconfigured(entry.into_bits(), u32::from(level) - 1, mode_based);
        kept(|step| walk_ept(eptp.ep4ta(), at, mode_based, read, wrong, step))
    }

    fn walk_physical(&self, guest: &Guest, at: u64, step: &mut dyn FnMut(Step)) -> Ended {
        let Some(eptp12) = guest.eptp12 else { return Ended::At { address: at, bytes: 0 } };
        let wrong = |entry: EptEntry, level: u8| {
            is_misconfigured(entry, level, self.shared.execute_only, self.shared.address_bits)
        };
        let read = |at: u64| self.look_word(Gpa(at), 8);
        walk_ept(eptp12.ep4ta(), at, guest.mode_based, read, wrong, step)
    }

    fn walk_linear(&self, guest: &Guest, gva: u64, step: &mut dyn FnMut(Step)) -> Ended {
        let cr0 = Cr0::from_bits_retain(guest.vmcs.get(vmcs::GUEST_CR0));
        let cr4 = Cr4::from_bits_retain(guest.vmcs.get(vmcs::GUEST_CR4));
        let cr3 = guest.vmcs.get(vmcs::GUEST_CR3);
        if !cr0.contains(Cr0::PG) {
            return Ended::At { address: gva & u64::from(u32::MAX), bytes: 0 };
        }
        let long = guest.efer() & Efer::LMA.bits() != 0;
        let wide = long || cr4.contains(Cr4::PAE);
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        let (levels, mut table): (u8, u64) = match (long, wide) {
            (true, _) => (if cr4.contains(Cr4::LA57) { 5 } else { 4 }, cr3 & ADDRESS),
            (false, true) => (3, cr3 & 0xffff_ffe0),
            (false, false) => (2, cr3 & 0xffff_f000),
        };
        if long && !is_canonical(gva, levels == 5) {
            return Ended::NotCanonical;
        }
        let gva = if long { gva } else { gva & u64::from(u32::MAX) };
        let (bits, size) = if wide { (9, 8) } else { (10, 4) };
        for level in (1..=levels).rev() {
            let shift = 12 + bits * (u32::from(level) - 1);
            let at = table + (gva >> shift & ((1 << bits) - 1)) * size;
            let host = self.look_physical(guest, at);
            let Some(raw) = host.and_then(|host| self.look_word(host, size as usize)) else { return Ended::NoTable };
            step(Step { level, at, entry: raw });
            let entry = Pte::from_bits_retain(raw);
            if !entry.contains(Pte::PRESENT) {
                return Ended::NotPresent;
            }
            let maps = match level {
                1 => true,
                2 => entry.contains(Pte::LARGE) && (wide || cr4.contains(Cr4::PSE)),
                3 => entry.contains(Pte::LARGE) && long,
                _ => false,
            };
            if maps {
                let bytes = 1u64 << shift;
                let within = bytes - 1;
                let base = match (wide, level) {
                    (true, _) => raw & ADDRESS,
                    (false, 1) => raw & 0xffff_f000,
                    (false, _) => raw & 0xffc0_0000 | (raw >> 13 & 0xff) << 32,
                };
                return Ended::At { address: base & !within | gva & within, bytes };
            }
            table = raw & if wide { ADDRESS } else { 0xffff_f000 };
        }
        Ended::NoTable
    }
}
