//! Translation of guest-physical addresses through EPT.
//!
//! See: SDM "The Extended Page Table Mechanism (EPT)".

use super::tlb::{PageSize, flag};
use super::{Access, Fault, Mmu, PHYSICAL_BITS};
use crate::memory::Memory;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::exit::EptViolation;
use serde::{Deserialize, Serialize};

/// EPT as the running VMCS sets it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ept {
    pub(super) pointer: Eptp,
    /// Mode-based execute control.
    pub(super) mode_based: bool,
    /// The page-modification log, where it is on.
    pub(super) pml: Option<Hpa>,
}

/// What is done at a guest-physical address, and where the address came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) fetch: bool,
    /// The linear address that led here.
    pub(super) linear: Option<u64>,
    /// Of an access to what the linear address translates to, rather than to an entry of a paging structure: what the
    /// guest's paging structures say of the page, as flags of a TLB entry.
    pub(super) page: Option<u32>,
}

impl Use {
    /// An access through a linear address.
    pub(super) fn of(access: Access, linear: u64, page: u32) -> Self {
        Self {
            read: access == Access::Read,
            write: access == Access::Write,
            fetch: access == Access::Fetch,
            linear: Some(linear),
            page: Some(page),
        }
    }
}

/// A page of guest-physical addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Where its first byte lies.
    pub(super) base: u64,
    pub(super) size: PageSize,
    /// The EPT flags of a TLB entry.
    pub(super) flags: u32,
}

impl Frame {
    /// Where `gpa`, which lies in this page, is.
    pub(super) fn at(&self, gpa: u64) -> u64 {
        self.base + (gpa & (self.size.bytes() - 1))
    }
}

impl Mmu {
    /// The page that holds `gpa`, for a use that EPT permits. Without EPT, guest-physical is host-physical. Paging
    /// structures of the guest's that lie in the APIC-access page are not read.
    pub(super) fn physical(&mut self, memory: &mut Memory, gpa: u64, wanted: Use) -> Result<Frame, Fault> {
        let frame = self.translate_physical(memory, gpa, wanted)?;
        if let Some(page) = self.apic_access
            && wanted.page.is_none()
            && self.ept.is_some()
            && Hpa(frame.at(gpa)).page() == page
        {
            return Err(Fault::ApicAccess { offset: gpa as u16 & 0xfff, physical: true });
        }
        Ok(frame)
    }

    fn translate_physical(&mut self, memory: &mut Memory, gpa: u64, wanted: Use) -> Result<Frame, Fault> {
        let Some(ept) = self.ept else {
            return Ok(Frame { base: PageSize::Huge.base(gpa), size: PageSize::Huge, flags: flag::EPT_ALL });
        };
        match self.adversary {
            None => self.translate_by_ept(memory, ept, gpa, wanted),
            Some(_) => self.translate_by_ept_judged(memory, ept, gpa, wanted),
        }
    }

    #[inline]
    pub(super) fn translate_by_ept(
        &mut self,
        memory: &mut Memory,
        ept: Ept,
        gpa: u64,
        wanted: Use,
    ) -> Result<Frame, Fault> {
        let needed = needed(&ept, wanted);
        let tag = self.physical_tag;
        if let Some(slot) = self.guest_physical.find(gpa, tag, tag) {
            let entry = *self.guest_physical.entry(slot);
            if entry.flags & needed == needed {
                self.statistics.physical_hits += 1;
                return Ok(Frame { base: entry.target, size: entry.size(), flags: entry.flags });
            }
            self.guest_physical.kill(slot);
            self.forget_lines(entry.address(), entry.size());
            self.note_kill(true, gpa);
        }
        self.statistics.physical_misses += 1;
        let frame = match walk(memory, &ept, gpa, wanted, needed, self.pml_index.as_mut()) {
            Ok(frame) => self.with_apic_page(frame, gpa),
            Err(fault) => {
                self.drop_for_ept_fault(wanted);
                return Err(fault);
            }
        };
        let done = self.guest_physical.insert(tag, gpa, frame.size, frame.base, frame.flags);
        self.note_walk(true, false, (gpa, frame.size), (frame.base, gpa, frame.flags));
        self.statistics.physical_refills += u64::from(done.refill);
        if let Some((address, size)) = done.evicted {
            self.forget_lines(address, size);
        }
        Ok(frame)
    }

    /// A guest-physical mapping says whether it leads to the APIC-access page: who moves the page, or turns it on, owes an
    /// INVEPT. See: SDM "Guidelines for Use of the INVEPT Instruction".
    pub(super) fn with_apic_page(&self, frame: Frame, gpa: u64) -> Frame {
        let Some(apic) = self.apic_access.filter(|apic| frame.size.base(apic.0) == frame.base) else { return frame };
        // Of a larger page that holds it each small one is cached by itself.
        let base = PageSize::Small.base(frame.at(gpa));
        let apic = if base == apic.0 { flag::APIC } else { 0 };
        Frame { base, size: PageSize::Small, flags: frame.flags | apic }
    }

    /// Whether a host-physical address is in the APIC-access page.
    pub(super) fn is_apic_page(&self, target: u64) -> bool {
        self.apic_access == Some(Hpa(target & !0xfff))
    }

    /// An EPT violation drops the combined mappings of the linear address whose translation it is. The guest-physical
    /// ones were dropped on the way.
    fn drop_for_ept_fault(&mut self, wanted: Use) {
        if let (Some(linear), Some(_)) = (wanted.linear, wanted.page) {
            self.drop_current(linear);
        }
    }
}

/// The flags that a TLB entry must have to serve a use.
pub(super) fn needed(ept: &Ept, wanted: Use) -> u32 {
    let mut needed = 0;
    if wanted.read {
        needed |= flag::EPT_READ;
    }
    if wanted.write {
        needed |= flag::EPT_WRITE | flag::EPT_DIRTY;
    }
    if wanted.fetch {
        let user = ept.mode_based && wanted.page.is_some_and(|page| page & flag::USER != 0);
        needed |= if user { flag::EPT_USER_EXECUTE } else { flag::EPT_EXECUTE };
    }
    needed
}

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXECUTE: u64 = 4;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const USER_EXECUTE: u64 = 1 << 10;

/// Whether hardware takes a present entry that stands `level` levels above the last (0).
pub fn is_misconfigured(entry: u64, level: u32, mode_based: bool) -> bool {
    let permissions = entry & (READ | WRITE | EXECUTE) | if mode_based { entry & USER_EXECUTE } else { 0 };
    if permissions & WRITE != 0 && permissions & READ == 0 {
        return true;
    }
    let beyond = (!0 << PHYSICAL_BITS) & ((1 << 52) - 1);
    if entry & beyond != 0 {
        return true;
    }
    let leaf = level == 0 || level <= 2 && entry & LARGE != 0;
    if leaf {
        let low = PageSize::ALL[level as usize].bytes() - PAGE_SIZE;
        matches!(entry >> 3 & 7, 2 | 3 | 7) || entry & low != 0
    } else {
        let reserved = if level == 3 { 0xf8 } else { 0x78 };
        entry & reserved != 0
    }
}

fn walk(
    memory: &mut Memory,
    ept: &Ept,
    gpa: u64,
    wanted: Use,
    needed: u32,
    pml_index: Option<&mut u16>,
) -> Result<Frame, Fault> {
    let pointer = ept.pointer;
    let present = READ | WRITE | EXECUTE | if ept.mode_based { USER_EXECUTE } else { 0 };
    let mut rights = READ | WRITE | EXECUTE | USER_EXECUTE;
    let mut used = [(Hpa(0), 0u64); 4];
    let mut table = pointer.ep4ta();
    for level in (0..4u32).rev() {
        let at = Hpa(table + (gpa >> (12 + 9 * level) & 0x1ff) * 8);
        let entry: u64 = memory.read(at);
        used[level as usize] = (at, entry);
        if entry & present == 0 {
            return Err(violation(ept, gpa, wanted, 0));
        }
        if is_misconfigured(entry, level, ept.mode_based) {
            return Err(Fault::EptMisconfig { gpa });
        }
        rights &= entry;
        if level != 0 && (level == 3 || entry & LARGE == 0) {
            table = EptEntry::from_bits(entry).address();
            continue;
        }
        let size = PageSize::ALL[level as usize];
        let mut flags = 0;
        for (right, granted) in [
            (READ, flag::EPT_READ),
            (WRITE, flag::EPT_WRITE),
            (EXECUTE, flag::EPT_EXECUTE),
            (USER_EXECUTE, flag::EPT_USER_EXECUTE),
        ] {
            flags |= if rights & right != 0 { granted } else { 0 };
        }
        if flags & needed & !flag::EPT_DIRTY != needed & !flag::EPT_DIRTY {
            return Err(violation(ept, gpa, wanted, rights));
        }
        let mut dirty = entry & DIRTY != 0;
        if pointer.accessed_dirty() {
            if wanted.write && !dirty {
                if let (Some(log), Some(index)) = (ept.pml, pml_index) {
                    if *index >= 512 {
                        return Err(Fault::PmlFull);
                    }
                    memory.write(log.offset(u64::from(*index) * 8), gpa & !0xfff);
                    *index = index.wrapping_sub(1);
                }
                dirty = true;
            }
            for &(at, entry) in &used[level as usize..] {
                let leaf = at == used[level as usize].0;
                let now = entry | ACCESSED | if leaf && dirty { DIRTY } else { 0 };
                if now != entry {
                    memory.write(at, now);
                }
            }
        } else {
            dirty = true;
        }
        flags |= if dirty { flag::EPT_DIRTY } else { 0 };
        return Ok(Frame { base: size.base(EptEntry::from_bits(entry).address()), size, flags });
    }
    unreachable!("the last level's entries map pages")
}

/// What EPT says of a guest-physical address, with nothing set and nothing dropped; `None` where it maps nothing.
pub(super) fn look(memory: &Memory, ept: &Ept, gpa: u64) -> Option<Frame> {
    let present = READ | WRITE | EXECUTE | if ept.mode_based { USER_EXECUTE } else { 0 };
    let mut rights = READ | WRITE | EXECUTE | USER_EXECUTE;
    let mut table = ept.pointer.ep4ta();
    for level in (0..4u32).rev() {
        let entry: u64 = memory.read(Hpa(table + (gpa >> (12 + 9 * level) & 0x1ff) * 8));
        if entry & present == 0 || is_misconfigured(entry, level, ept.mode_based) {
            return None;
        }
        rights &= entry;
        if level != 0 && (level == 3 || entry & LARGE == 0) {
            table = EptEntry::from_bits(entry).address();
            continue;
        }
        let size = PageSize::ALL[level as usize];
        let granted = [
            (READ, flag::EPT_READ),
            (WRITE, flag::EPT_WRITE),
            (EXECUTE, flag::EPT_EXECUTE),
            (USER_EXECUTE, flag::EPT_USER_EXECUTE),
        ];
        let granted = granted.into_iter().filter(|(right, _)| rights & right != 0);
        let flags = granted.fold(flag::EPT_DIRTY, |flags, (_, granted)| flags | granted);
        return Some(Frame { base: size.base(EptEntry::from_bits(entry).address()), size, flags });
    }
    None
}

/// The exit qualification of a violation, where the entries used permitted `rights` together.
fn violation(ept: &Ept, gpa: u64, wanted: Use, rights: u64) -> Fault {
    let mut qualification = EptViolation::new()
        .with_read(wanted.read)
        .with_write(wanted.write)
        .with_fetch(wanted.fetch)
        .with_readable(rights & READ != 0)
        .with_writable(rights & WRITE != 0)
        .with_executable(rights & EXECUTE != 0)
        .with_user_executable(ept.mode_based && rights & USER_EXECUTE != 0)
        .with_gla_valid(wanted.linear.is_some())
        .with_gla_translated(wanted.page.is_some());
    if let Some(page) = wanted.page {
        qualification = qualification
            .with_user_page(page & flag::USER != 0)
            .with_writable_page(page & flag::WRITE != 0)
            .with_nx_page(page & flag::NX != 0);
    }
    Fault::EptViolation { qualification, gpa, gla: wanted.linear.unwrap_or(0) }
}
