//! L0's look at a guest's linear addresses: a walk of the guest's own paging structures, with the faults that the guest
//! would take. See: SDM "4-Level Paging and 5-Level Paging", "32-Bit Paging", "PAE Paging".

use super::cx::Cx;
use super::ept12::{READ, WRITE};
use super::next::Fault;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, L2Gpa, PAGE_SIZE};
use hv_defs::controls::SecondaryControls;
use hv_defs::vmcs;
use hv_defs::x86::{Cr0, Cr4, Efer, PageFaultCode, Pte, Rflags};

/// How a guest-linear address is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Use {
    pub(super) write: bool,
    pub(super) fetch: bool,
    /// At privilege level 3.
    pub(super) user: bool,
}

impl Use {
    /// A supervisor's read.
    pub(super) const READ: Self = Self { write: false, fetch: false, user: false };
    /// A supervisor's write.
    pub(super) const WRITE: Self = Self { write: true, ..Self::READ };
}

/// Why a guest-linear address cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The guest takes this fault.
    Fault(Fault),
    /// EPT12 does not let L2 reach this address.
    Ept12(L2Gpa),
}

impl<S: Silicon> Cx<'_, S> {
    /// From the running guest's physical address to L1's.
    pub(super) fn guest_physical(&mut self, at: u64, access: u8) -> Result<Gpa, Failure> {
        if self.vcpu.level != 2 || !self.secondary12().contains(SecondaryControls::EPT) {
            return Ok(Gpa(at));
        }
        let eptp12 = self.vcpu.vmcs12.get(vmcs::EPT_POINTER);
        self.translate_l2(eptp12, L2Gpa(at), access).ok_or(Failure::Ept12(L2Gpa(at)))
    }

    fn read_entry(&mut self, at: u64, bytes: usize) -> Result<u64, Failure> {
        let gpa = self.guest_physical(at, READ)?;
        let mut entry = [0; 8];
        self.read_gpa(gpa, &mut entry[..bytes]);
        Ok(u64::from_le_bytes(entry))
    }

    /// Walks the guest's paging structures to the guest-physical address of `gva`.
    pub(super) fn translate(&mut self, gva: u64, wanted: Use) -> Result<u64, Failure> {
        let cr0 = Cr0::from_bits_retain(self.get(vmcs::GUEST_CR0));
        if !cr0.contains(Cr0::PG) {
            return Ok(gva & u64::from(u32::MAX));
        }
        let cr4 = Cr4::from_bits_retain(self.get(vmcs::GUEST_CR4));
        let efer = Efer::from_bits_retain(self.get(vmcs::GUEST_EFER));
        let cr3 = self.get(vmcs::GUEST_CR3);
        let (mut level, mut table, wide) = if efer.contains(Efer::LMA) {
            (if cr4.contains(Cr4::LA57) { 5 } else { 4 }, cr3 & 0x000f_ffff_ffff_f000, true)
        } else if cr4.contains(Cr4::PAE) {
            (3, cr3 & 0xffff_ffe0, true)
        } else {
            (2, cr3 & 0xffff_f000, false)
        };
        let legacy_pae = wide && !efer.contains(Efer::LMA);
        let nx = efer.contains(Efer::NXE) && wide;
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, wanted.write);
        code.set(PageFaultCode::USER, wanted.user);
        code.set(PageFaultCode::FETCH, wanted.fetch && (nx || cr4.contains(Cr4::SMEP)));
        let fault = |code: PageFaultCode| Failure::Fault(Fault::page(code.bits(), gva));
        let (mut writable, mut user, mut executable) = (true, true, true);
        loop {
            let (bits, size) = if wide { (9, 8) } else { (10, 4) };
            let shift = 12 + bits * (level - 1);
            let index = gva >> shift & ((1 << bits) - 1);
            let at = table + index * size;
            let raw = self.read_entry(at, size as usize)?;
            let entry = Pte::from_bits_retain(raw);
            if !entry.contains(Pte::PRESENT) {
                return Err(fault(code));
            }
            let reserved = if !wide { 0 } else { self.shared.reserved_address_bits | if nx { 0 } else { 1 << 63 } };
            let pdpte = legacy_pae && level == 3;
            if raw & reserved != 0 || level >= 4 && entry.contains(Pte::LARGE) {
                return Err(fault(code | PageFaultCode::PRESENT | PageFaultCode::RESERVED));
            }
            if !pdpte {
                writable &= entry.contains(Pte::WRITE);
                user &= entry.contains(Pte::USER);
                executable &= !(nx && entry.contains(Pte::NX));
            }
            let large = entry.contains(Pte::LARGE)
                && match level {
                    3 => !pdpte,
                    2 => wide || cr4.contains(Cr4::PSE),
                    _ => false,
                };
            let leaf = level == 1 || large;
            if leaf && !self.permitted(cr0, cr4, wanted, (writable, user, executable)) {
                return Err(fault(code | PageFaultCode::PRESENT));
            }
            let mut marked = if pdpte { entry } else { entry | Pte::ACCESSED };
            if leaf && wanted.write {
                marked |= Pte::DIRTY;
            }
            if marked != entry {
                let gpa = self.guest_physical(at, READ | WRITE)?;
                self.write_gpa(gpa, &marked.bits().to_le_bytes()[..size as usize]);
            }
            if leaf {
                let span = 1u64 << shift;
                let mut base = raw & 0x000f_ffff_ffff_f000;
                if !wide {
                    base &= 0xffff_f000;
                    if large {
                        base |= (raw >> 13 & 0xff) << 32;
                    }
                }
                return Ok(base & !(span - 1) | gva & (span - 1));
            }
            table = raw & if wide { 0x000f_ffff_ffff_f000 } else { 0xffff_f000 };
            level -= 1;
        }
    }

    fn permitted(&mut self, cr0: Cr0, cr4: Cr4, wanted: Use, (writable, user, executable): (bool, bool, bool)) -> bool {
        if wanted.fetch && !executable || wanted.user && !user {
            return false;
        }
        if wanted.write && !writable && (wanted.user || cr0.contains(Cr0::WP)) {
            return false;
        }
        if !wanted.user && user {
            if wanted.fetch {
                return !cr4.contains(Cr4::SMEP);
            }
            if cr4.contains(Cr4::SMAP) {
                return Rflags::from_bits_retain(self.get(vmcs::GUEST_RFLAGS)).contains(Rflags::AC);
            }
        }
        true
    }

    /// Reads the guest's linear memory.
    pub(super) fn read_linear(&mut self, gva: u64, into: &mut [u8], wanted: Use) -> Result<(), Failure> {
        let mut done = 0;
        while done < into.len() {
            let from = gva.wrapping_add(done as u64);
            let count = (into.len() - done).min((PAGE_SIZE - from % PAGE_SIZE) as usize);
            let physical = self.translate(from, wanted)?;
            let gpa = self.guest_physical(physical, READ)?;
            self.read_gpa(gpa, &mut into[done..done + count]);
            done += count;
        }
        Ok(())
    }

    /// Writes the guest's linear memory. Nothing is written when any byte cannot be.
    pub(super) fn write_linear(&mut self, gva: u64, bytes: &[u8], wanted: Use) -> Result<(), Failure> {
        let wanted = Use { write: true, ..wanted };
        let first = bytes.len().min((PAGE_SIZE - gva % PAGE_SIZE) as usize);
        let mut parts = [(Gpa(0), 0..first), (Gpa(0), first..bytes.len())];
        for (gpa, range) in &mut parts {
            if range.start < range.end {
                let physical = self.translate(gva.wrapping_add(range.start as u64), wanted)?;
                *gpa = self.guest_physical(physical, READ | WRITE)?;
            }
        }
        for (gpa, range) in parts {
            self.write_gpa(gpa, &bytes[range]);
        }
        Ok(())
    }
}
