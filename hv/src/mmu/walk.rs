//! The guest's own paging structures: 32-bit, PAE, 4-level and 5-level.
//!
//! See: SDM "Paging".

use super::ept::Use;
use super::tlb::flag;
use super::{Access, Fault, Mmu, PHYSICAL_BITS};
use crate::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::x86::{Cr0, Cr4, Efer, PageFaultCode};
use serde::{Deserialize, Serialize};

/// How linear addresses are translated: the control bits that decide it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mode(pub(super) u16);

macro_rules! mode {
    ($($name:ident = $bit:literal,)*) => {
        impl Mode {
            $(const $name: u16 = 1 << $bit;)*
        }
    };
}

mode! {
    PAGING = 0, PAE = 1, LONG = 2, WP = 3, SMEP = 4, SMAP = 5, PKE = 6, NXE = 7, PSE = 8, PGE = 9, PCIDE = 10, LA57 = 11,
}

impl Mode {
    pub(super) fn of(cr0: u64, cr4: u64, efer: u64) -> Self {
        let mut bits = 0;
        for (word, mask, bit) in [
            (cr0, Cr0::PG.bits(), Self::PAGING),
            (cr4, Cr4::PAE.bits(), Self::PAE),
            (efer, Efer::LMA.bits(), Self::LONG),
            (cr0, Cr0::WP.bits(), Self::WP),
            (cr4, Cr4::SMEP.bits(), Self::SMEP),
            (cr4, Cr4::SMAP.bits(), Self::SMAP),
            (cr4, Cr4::PKE.bits(), Self::PKE),
            (efer, Efer::NXE.bits(), Self::NXE),
            (cr4, Cr4::PSE.bits(), Self::PSE),
            (cr4, Cr4::PGE.bits(), Self::PGE),
            (cr4, Cr4::PCIDE.bits(), Self::PCIDE),
        ] {
            bits |= if word & mask != 0 { bit } else { 0 };
        }
        // Outside IA-32e mode CR4.LA57 changes nothing.
        bits |= if cr4 & Cr4::LA57.bits() != 0 && bits & Self::LONG != 0 { Self::LA57 } else { 0 };
        Self(bits)
    }

    #[inline]
    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    #[inline]
    pub(super) fn paging(self) -> bool {
        self.has(Self::PAGING)
    }

    #[inline]
    pub(super) fn smap(self) -> bool {
        self.has(Self::SMAP)
    }

    #[inline]
    pub(super) fn pcids(self) -> bool {
        self.has(Self::PCIDE)
    }

    /// Whether a page with these flags may be accessed so; else the error code, but for its present bit.
    #[inline]
    pub(super) fn permits(self, flags: u32, access: Access, user: bool, ac: bool, pkru: u32) -> Result<(), u32> {
        let user_page = flags & flag::USER != 0;
        let denied = if user {
            !user_page
                || access == Access::Write && flags & flag::WRITE == 0
                || access == Access::Fetch && flags & flag::NX != 0 && self.has(Self::NXE)
        } else {
            match access {
                Access::Read => user_page && self.has(Self::SMAP) && !ac,
                Access::Write => {
                    user_page && self.has(Self::SMAP) && !ac || flags & flag::WRITE == 0 && self.has(Self::WP)
                }
                Access::Fetch => user_page && self.has(Self::SMEP) || flags & flag::NX != 0 && self.has(Self::NXE),
            }
        };
        if denied {
            return Err(self.code(access, user));
        }
        if user_page && self.has(Self::PKE) && self.has(Self::LONG) && access != Access::Fetch {
            let rights = pkru >> (2 * (flags >> flag::KEY_SHIFT & 15));
            if rights & 1 != 0 || rights & 2 != 0 && access == Access::Write && (user || self.has(Self::WP)) {
                return Err(self.code(access, user) | PageFaultCode::PROTECTION_KEY.bits());
            }
        }
        Ok(())
    }

    /// The part of a page fault's error code that says what the access was.
    fn code(self, access: Access, user: bool) -> u32 {
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, access == Access::Write);
        code.set(PageFaultCode::USER, user);
        let tells_fetches = self.has(Self::SMEP) || self.has(Self::NXE) && self.has(Self::PAE);
        code.set(PageFaultCode::FETCH, access == Access::Fetch && tells_fetches);
        code.bits()
    }
}

/// The shape of one level of paging structures.
struct Level {
    /// Where the index begins in the linear address.
    shift: u32,
    /// Bits of the index.
    index: u32,
    /// Bits that must be zero in an entry that points on.
    reserved: u64,
    /// The same in an entry that maps a page; `None` where none can.
    leaf: Option<u64>,
}

const BEYOND: u64 = (!0 << PHYSICAL_BITS) & ((1 << 52) - 1);

/// Of 5-level paging; 4-level paging begins at the second.
static LONG: [Level; 5] = [
    Level { shift: 48, index: 9, reserved: BEYOND | 1 << 7, leaf: None },
    Level { shift: 39, index: 9, reserved: BEYOND | 1 << 7, leaf: None },
    Level { shift: 30, index: 9, reserved: BEYOND, leaf: Some(BEYOND | 0x3fff_e000) },
    Level { shift: 21, index: 9, reserved: BEYOND, leaf: Some(BEYOND | 0x1f_e000) },
    Level { shift: 12, index: 9, reserved: 0, leaf: Some(BEYOND) },
];

/// Below the page-directory pointers, which are registers. Bits 62:52 are reserved here.
static PAE: [Level; 2] = [
    Level { shift: 21, index: 9, reserved: BEYOND | 0x7ff << 52, leaf: Some(BEYOND | 0x7ff << 52 | 0x1f_e000) },
    Level { shift: 12, index: 9, reserved: 0, leaf: Some(BEYOND | 0x7ff << 52) },
];

/// Entries of 32 bits. Bits 20:13 of a 4 MiB page are bits 39:32 of its address.
static BITS_32: [Level; 2] = [
    Level { shift: 22, index: 10, reserved: 0, leaf: Some(1 << 21) },
    Level { shift: 12, index: 10, reserved: 0, leaf: Some(0) },
];

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// What a walk of the guest's paging structures found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// The guest-physical address.
    pub(super) gpa: u64,
    /// log2 of the bytes of the guest's page.
    pub(super) shift: u32,
    /// The guest's flags of a TLB entry.
    pub(super) flags: u32,
}

/// What a look at the guest's paging structures found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Looked {
    /// They map the address.
    At(Leaf),
    /// They do not.
    Nowhere,
    /// EPT has no place for one of them.
    TableGone,
}

impl Mmu {
    /// Reads the four page-directory pointers that a load of CR3 with `cr3` takes into the CPU under PAE paging.
    ///
    /// # Errors
    /// The EPT violation or misconfiguration of the access.
    pub fn read_pdptes(&mut self, memory: &mut Memory, cr3: u64) -> Result<[u64; 4], Fault> {
        let table = cr3 & 0xffff_ffe0;
        let write = self.ept.is_some_and(|ept| ept.pointer.accessed_dirty());
        let reads = Use { read: true, write, fetch: false, linear: None, page: None };
        let frame = self.physical(memory, table, reads)?;
        let mut pdptes = [0; 4];
        for (at, pdpte) in (table..).step_by(8).zip(&mut pdptes) {
            *pdpte = memory.read::<u64>(Hpa(frame.at(at)));
        }
        Ok(pdptes)
    }

    /// Walks the guest's paging structures for an access that they permit, and sets accessed and dirty flags.
    pub(super) fn walk(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        access: Access,
        user: bool,
        ac: bool,
    ) -> Result<Leaf, Fault> {
        self.statistics.walks += 1;
        let mode = self.now.mode;
        let (levels, mut table): (&[Level], u64) = if mode.has(Mode::LONG) {
            (&LONG[usize::from(!mode.has(Mode::LA57))..], self.root & ((1 << PHYSICAL_BITS) - 1) & !0xfff)
        } else if mode.has(Mode::PAE) {
            let pointer = self.pdptes[(gva >> 30 & 3) as usize];
            if pointer & PRESENT == 0 {
                return Err(self.page_fault(gva, mode.code(access, user)));
            }
            (&PAE, pointer & ((1 << PHYSICAL_BITS) - 1) & !0xfff)
        } else {
            (&BITS_32, self.root & 0xffff_f000)
        };
        let wide = mode.has(Mode::PAE);
        let mut flags = flag::WRITE | flag::USER;
        let mut used = [(0u64, 0u64); 5];
        let reads = Use {
            read: true,
            write: self.ept.is_some_and(|ept| ept.pointer.accessed_dirty()),
            fetch: false,
            linear: Some(gva),
            page: None,
        };
        for (depth, level) in levels.iter().enumerate() {
            let index = (gva >> level.shift) & ((1 << level.index) - 1);
            let at = table + index * if wide { 8 } else { 4 };
            let frame = self.physical(memory, at, reads)?;
            let at_host = Hpa(frame.at(at));
            let entry = if wide { memory.read::<u64>(at_host) } else { u64::from(memory.read::<u32>(at_host)) };
            used[depth] = (at, entry);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(gva, mode.code(access, user)));
            }
            let last = depth == levels.len() - 1;
            let maps = last || entry & LARGE != 0 && level.leaf.is_some() && (wide || mode.has(Mode::PSE));
            let nx = if mode.has(Mode::NXE) || !wide { 0 } else { NX };
            let reserved = nx | if maps { level.leaf.unwrap_or(0) } else { level.reserved };
            if entry & reserved != 0 {
                let code = PageFaultCode::PRESENT | PageFaultCode::RESERVED;
                return Err(self.page_fault(gva, mode.code(access, user) | code.bits()));
            }
            if entry & WRITE == 0 {
                flags &= !flag::WRITE;
            }
            if entry & USER == 0 {
                flags &= !flag::USER;
            }
            if wide && entry & NX != 0 {
                flags |= flag::NX;
            }
            if !maps {
                table = if wide { entry & ((1 << PHYSICAL_BITS) - 1) & !0xfff } else { entry & 0xffff_f000 };
                continue;
            }
            if mode.has(Mode::LONG) {
                flags |= ((entry >> 59 & 15) as u32) << flag::KEY_SHIFT;
            }
            if entry & GLOBAL != 0 && mode.has(Mode::PGE) {
                flags |= flag::GLOBAL;
            }
            if let Err(code) = mode.permits(flags, access, user, ac, self.pkru) {
                return Err(self.page_fault(gva, code | PageFaultCode::PRESENT.bits()));
            }
            for (back, &(at, entry)) in used[..=depth].iter().enumerate() {
                let dirty = if back == depth && access == Access::Write { DIRTY } else { 0 };
                self.set_flags(memory, gva, (at, entry), ACCESSED | dirty, wide)?;
            }
            if entry & DIRTY != 0 || access == Access::Write {
                flags |= flag::DIRTY;
            }
            let bytes = 1u64 << level.shift;
            let base = match (wide, last) {
                (false, false) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
                _ => entry & ((1 << PHYSICAL_BITS) - 1) & !(bytes - 1),
            };
            return Ok(Leaf { gpa: base | gva & (bytes - 1), shift: level.shift, flags });
        }
        unreachable!("the last level's entries map pages")
    }

    /// What the guest's paging structures say of a linear address, with nothing set and nothing dropped: they are read
    /// where EPT says now that they lie.
    pub(super) fn look(&self, memory: &Memory, gva: u64) -> Looked {
        let mode = self.now.mode;
        let (levels, mut table): (&[Level], u64) = if mode.has(Mode::LONG) {
            (&LONG[usize::from(!mode.has(Mode::LA57))..], self.root & ((1 << PHYSICAL_BITS) - 1) & !0xfff)
        } else if mode.has(Mode::PAE) {
            let pointer = self.pdptes[(gva >> 30 & 3) as usize];
            if pointer & PRESENT == 0 {
                return Looked::Nowhere;
            }
            (&PAE, pointer & ((1 << PHYSICAL_BITS) - 1) & !0xfff)
        } else {
            (&BITS_32, self.root & 0xffff_f000)
        };
        let wide = mode.has(Mode::PAE);
        let mut flags = flag::WRITE | flag::USER | flag::DIRTY;
        for (depth, level) in levels.iter().enumerate() {
            let index = (gva >> level.shift) & ((1 << level.index) - 1);
            let at = table + index * if wide { 8 } else { 4 };
            let at = match &self.ept {
                None => Hpa(at),
                Some(ept) => match super::ept::look(memory, ept, at) {
                    Some(frame) => Hpa(frame.at(at)),
                    None => return Looked::TableGone,
                },
            };
            let entry = if wide { memory.read::<u64>(at) } else { u64::from(memory.read::<u32>(at)) };
            let last = depth == levels.len() - 1;
            let maps = last || entry & LARGE != 0 && level.leaf.is_some() && (wide || mode.has(Mode::PSE));
            let nx = if mode.has(Mode::NXE) || !wide { 0 } else { NX };
            let reserved = nx | if maps { level.leaf.unwrap_or(0) } else { level.reserved };
            if entry & PRESENT == 0 || entry & reserved != 0 {
                return Looked::Nowhere;
            }
            flags &= if entry & WRITE == 0 { !flag::WRITE } else { !0 };
            flags &= if entry & USER == 0 { !flag::USER } else { !0 };
            flags |= if wide && entry & NX != 0 { flag::NX } else { 0 };
            if !maps {
                table = if wide { entry & ((1 << PHYSICAL_BITS) - 1) & !0xfff } else { entry & 0xffff_f000 };
                continue;
            }
            if mode.has(Mode::LONG) {
                flags |= ((entry >> 59 & 15) as u32) << flag::KEY_SHIFT;
            }
            let bytes = 1u64 << level.shift;
            let base = match (wide, last) {
                (false, false) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
                _ => entry & ((1 << PHYSICAL_BITS) - 1) & !(bytes - 1),
            };
            return Looked::At(Leaf { gpa: base | gva & (bytes - 1), shift: level.shift, flags });
        }
        Looked::Nowhere
    }

    /// Sets accessed and dirty flags in an entry, a write to the guest's memory.
    fn set_flags(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        (at, entry): (u64, u64),
        set: u64,
        wide: bool,
    ) -> Result<(), Fault> {
        let now = entry | set;
        if now == entry {
            return Ok(());
        }
        let write = Use {
            read: self.ept.is_some_and(|ept| ept.pointer.accessed_dirty()),
            write: true,
            fetch: false,
            linear: Some(gva),
            page: None,
        };
        let at = Hpa(self.physical(memory, at, write)?.at(at));
        if wide {
            memory.write(at, now);
        } else {
            memory.write(at, now as u32);
        }
        Ok(())
    }

    /// A page fault drops what is cached of its address.
    fn page_fault(&mut self, gva: u64, code: u32) -> Fault {
        self.drop_current(gva);
        Fault::Page { code, address: gva }
    }
}
