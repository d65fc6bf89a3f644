//! Address translation: the guest's paging structures, EPT, and the TLB that caches what they say.
//!
//! A linear address is looked for in the front cache, then in the TLB, then walked. Nothing is dropped from the TLB but by
//! what the architecture lets drop it, so a flush that a hypervisor forgets shows.
//!
//! Final translations are cached, and guest-physical ones in a TLB of their own; entries of paging structures are not.

mod adversary;
mod confront;
mod ept;
mod fault;
mod flush;
mod front;
#[cfg(test)]
mod tests;
mod tlb;
mod walk;

pub use adversary::{Adversary, Finding, Part, Stale};
pub use ept::is_misconfigured;
pub use fault::{Access, Fault};
pub use flush::InvpcidType;
pub use tlb::{PageSize, Tag};

use crate::memory::Memory;
use crate::vmx::controls::Controls;
use ept::{Ept, Use};
use front::Front;
use hv_defs::addr::Hpa;
use hv_defs::controls::SecondaryControls;
use hv_defs::ept::Eptp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tlb::{TagId, Tlb, flag};
use walk::Mode;

/// Bits of a physical address: what CPUID must show and what entries of paging structures may use.
pub const PHYSICAL_BITS: u32 = 46;

/// Counters of one physical CPU. They count up for ever and wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Linear addresses found in the TLB. Those that the front cache answered are not counted.
    pub hits: u64,
    /// Linear addresses that were not.
    pub misses: u64,
    /// Walks of the guest's paging structures.
    pub walks: u64,
    /// Translations cached again that a flush had dropped.
    pub refills: u64,
    /// Live entries that had to go for others.
    pub evictions: u64,
    /// Guest-physical addresses found cached.
    pub physical_hits: u64,
    /// Guest-physical addresses that EPT had to be walked for.
    pub physical_misses: u64,
    /// Guest-physical translations cached again that a flush had dropped.
    pub physical_refills: u64,
}

impl Statistics {
    /// The sum of two CPUs' counts.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            hits: self.hits.wrapping_add(other.hits),
            misses: self.misses.wrapping_add(other.misses),
            walks: self.walks.wrapping_add(other.walks),
            refills: self.refills.wrapping_add(other.refills),
            evictions: self.evictions.wrapping_add(other.evictions),
            physical_hits: self.physical_hits.wrapping_add(other.physical_hits),
            physical_misses: self.physical_misses.wrapping_add(other.physical_misses),
            physical_refills: self.physical_refills.wrapping_add(other.physical_refills),
        }
    }
}

/// One cached translation, for an inspector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached {
    /// What it is tagged with.
    pub tag: Tag,
    /// Whether it translates guest-physical addresses.
    pub guest_physical: bool,
    /// The page's first address.
    pub address: u64,
    /// Its size.
    pub size: PageSize,
    /// Where it lies.
    pub target: Hpa,
    /// Whether writes are permitted, by all that was walked.
    pub writable: bool,
    /// Whether fetches are.
    pub executable: bool,
    /// Whether user mode may use it.
    pub user: bool,
}

/// A page as EPT maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Where its first byte lies.
    pub at: Hpa,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written, and nobody is to be told.
    pub writable: bool,
}

/// What decides how a linear address is translated, but for privilege, and which cached translations serve it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Context {
    key: u64,
    mode: Mode,
    pcid: u16,
    local: TagId,
    global: TagId,
    local_epoch: u32,
    global_epoch: u32,
    physical_epoch: u32,
    /// Tags the front cache's lines.
    number: u64,
}

/// A pair of VPID and EP4TA in use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Space {
    vpid: u16,
    ep4ta: Option<u64>,
    physical: TagId,
}

/// Contexts and spaces kept before all are made anew.
const MAX_CONTEXTS: usize = 256;

/// The address translation of one physical CPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mmu {
    #[serde(skip)]
    reads: Front,
    #[serde(skip)]
    writes: Front,
    #[serde(skip)]
    fetches: Front,
    /// The running context's number and class of privilege.
    context: front::Tag,
    /// The front cache is not asked.
    watched: bool,
    /// Pages that it does not hold, by their first linear addresses, in order.
    #[serde(skip)]
    guarded: Vec<u64>,
    user: bool,
    ac: bool,
    tlb: Tlb,
    guest_physical: Tlb,
    now: Context,
    contexts: Vec<Context>,
    /// Where the running context is among them, if it still is, and where the one before it, which often is the next.
    index: usize,
    before: usize,
    #[serde(with = "crate::stored::map")]
    by_key: HashMap<u64, usize>,
    spaces: Vec<Space>,
    space: usize,
    numbers: u64,
    root: u64,
    pdptes: [u64; 4],
    pkru: u32,
    ept: Option<Ept>,
    physical_tag: TagId,
    apic_access: Option<Hpa>,
    pml_index: Option<u16>,
    write_epoch: u64,
    #[serde(skip)]
    flush_count: u64,
    /// The TLB that keeps everything, for who judges flushes.
    #[serde(skip)]
    adversary: Option<Box<Adversary>>,
    /// What has been counted.
    pub statistics: Statistics,
}

impl Mmu {
    /// With a TLB of `entries` entries (rounded down to whole sets of four), and a quarter of that for guest-physical
    /// translations.
    pub fn new(entries: u32) -> Self {
        let mut mmu = Self {
            reads: Front::default(),
            writes: Front::default(),
            fetches: Front::default(),
            context: front::Tag::default(),
            watched: false,
            guarded: Vec::new(),
            user: false,
            ac: false,
            tlb: Tlb::new(entries),
            guest_physical: Tlb::new((entries / 4).max(16)),
            now: Context {
                key: u64::MAX,
                mode: Mode::default(),
                pcid: 0,
                local: 0,
                global: 0,
                local_epoch: 0,
                global_epoch: 0,
                physical_epoch: 0,
                number: 0,
            },
            contexts: Vec::new(),
            index: 0,
            before: 0,
            by_key: HashMap::new(),
            spaces: Vec::new(),
            space: 0,
            numbers: 0,
            root: 0,
            pdptes: [0; 4],
            pkru: 0,
            ept: None,
            physical_tag: 0,
            apic_access: None,
            pml_index: None,
            write_epoch: 0,
            flush_count: 0,
            adversary: None,
            statistics: Statistics::default(),
        };
        mmu.enter_space(0, None);
        mmu.set_context(0, 0, 0, 0, &[0; 4]);
        mmu
    }

    /// Where an access of `bytes` in one page goes that needs no further check and no flag to be set, if that is known. `None` says nothing:
    /// ask [`Mmu::translate`].
    #[inline(always)]
    pub fn fast(&self, access: Access, gva: u64, bytes: u64) -> Option<Hpa> {
        let front = match access {
            Access::Read => &self.reads,
            Access::Write => &self.writes,
            Access::Fetch => &self.fetches,
        };
        front.get(gva, bytes, self.context).map(Hpa)
    }

    /// Translates a linear address, which is canonical (or of 32 bits), for an access of user mode or not; `ac` is
    /// RFLAGS.AC, where it lifts SMAP. Sets accessed and dirty flags. For a write, the page counts as written, and a
    /// plain store may follow where [`Memory::flags`] says so.
    ///
    /// # Errors
    /// What the access raises instead.
    pub fn translate(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        access: Access,
        user: bool,
        ac: bool,
    ) -> Result<Hpa, Fault> {
        let at = match self.adversary {
            None => self.translate_now(memory, gva, access, user, ac)?,
            Some(_) => self.translate_judged(memory, gva, access, user, ac)?,
        };
        if !self.watched && !self.is_guarded(gva) && class(self.now.mode, user, ac) == self.context.class() {
            match access {
                Access::Fetch => self.fetches.fill(gva, self.context, at.0),
                Access::Read if self.context.class() == CHECKED => {}
                Access::Write if self.context.class() == CHECKED => {
                    memory.prepare_stores(at);
                }
                Access::Read => self.reads.fill(gva, self.context, at.0),
                Access::Write => {
                    if memory.prepare_stores(at) {
                        self.writes.fill(gva, self.context, at.0);
                    }
                    self.reads.fill(gva, self.context, at.0);
                }
            }
        } else if access == Access::Write {
            memory.prepare_stores(at);
        }
        Ok(at)
    }

    #[inline]
    fn translate_now(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        access: Access,
        user: bool,
        ac: bool,
    ) -> Result<Hpa, Fault> {
        if self.now.mode.paging() {
            self.translate_paged(memory, gva, access, user, ac)
        } else {
            self.translate_unpaged(memory, gva, access)
        }
    }

    fn translate_paged(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        access: Access,
        user: bool,
        ac: bool,
    ) -> Result<Hpa, Fault> {
        if let Some(slot) = self.tlb.find(gva, self.now.local, self.now.global) {
            let entry = *self.tlb.entry(slot);
            if self.usable(entry.flags, access, user, ac) {
                self.statistics.hits += 1;
                return self.at(entry.flags, entry.target + (gva & (entry.size().bytes() - 1)));
            }
            // It may have become permitted: a CPU may let go of what it cached and look again.
            self.tlb.kill(slot);
            self.forget_lines(entry.address(), entry.size());
            self.note_kill(false, gva);
        }
        self.statistics.misses += 1;
        let leaf = self.walk(memory, gva, access, user, ac)?;
        let frame = self.physical(memory, leaf.gpa, Use::of(access, gva, leaf.flags))?;
        let target = frame.at(leaf.gpa);
        let mut size = match leaf.shift {
            12..21 => PageSize::Small,
            21..30 => PageSize::Large,
            _ => PageSize::Huge,
        }
        .min(frame.size);
        let mut flags = leaf.flags | frame.flags;
        if self.ept.is_none() && self.is_apic_page(target) {
            flags |= flag::APIC;
            size = PageSize::Small;
        }
        if size.shift() < leaf.shift {
            flags |= leaf.shift << flag::WHOLE_SHIFT;
        }
        let tag = if flags & flag::GLOBAL != 0 { self.now.global } else { self.now.local };
        let done = self.tlb.insert(tag, gva, size, target, flags);
        self.note_walk(false, flags & flag::GLOBAL != 0, (gva, size), (target, leaf.gpa, flags));
        self.statistics.refills += u64::from(done.refill);
        if let Some((address, size)) = done.evicted {
            self.statistics.evictions += 1;
            self.forget_lines(address, size);
        }
        self.at(flags, target)
    }

    /// Without paging, linear addresses are guest-physical ones.
    fn translate_unpaged(&mut self, memory: &mut Memory, gva: u64, access: Access) -> Result<Hpa, Fault> {
        let page = flag::USER | flag::WRITE;
        let frame = self.physical(memory, gva, Use::of(access, gva, page))?;
        let target = frame.at(gva);
        let apic = if self.ept.is_none() && self.is_apic_page(target) { flag::APIC } else { 0 };
        self.at(frame.flags | apic, target)
    }

    /// Where a translation leads, unless it is to the APIC-access page. What was cached of that page counts for nothing
    /// once there is none.
    #[inline]
    fn at(&self, flags: u32, target: u64) -> Result<Hpa, Fault> {
        if flags & flag::APIC != 0 && self.apic_access.is_some() {
            return Err(Fault::ApicAccess { offset: target as u16 & 0xfff, physical: false });
        }
        Ok(Hpa(target))
    }

    fn usable(&self, flags: u32, access: Access, user: bool, ac: bool) -> bool {
        if self.now.mode.permits(flags, access, user, ac, self.pkru).is_err() {
            return false;
        }
        let needed = match access {
            Access::Read => flag::EPT_READ,
            Access::Write => flag::EPT_WRITE | flag::EPT_DIRTY | flag::DIRTY,
            Access::Fetch if flags & flag::USER != 0 && self.ept.is_some_and(|ept| ept.mode_based) => {
                flag::EPT_USER_EXECUTE
            }
            Access::Fetch => flag::EPT_EXECUTE,
        };
        flags & needed == needed
    }

    /// Takes the controls that translation depends on: VPID, EPT, the APIC-access page and the page-modification log
    /// with its index. [`Mmu::set_context`] follows.
    pub fn set_controls(&mut self, controls: &Controls, pml_index: u16) {
        self.ept = controls.eptp.map(|pointer| Ept {
            pointer,
            mode_based: controls.secondary(SecondaryControls::MODE_BASED_EXECUTE),
            pml: controls.pml,
        });
        self.pml_index = controls.pml.map(|_| pml_index);
        if self.apic_access != controls.apic_access {
            // Lines know nothing of the page: they are made for accesses that do not need to.
            self.apic_access = controls.apic_access;
        }
        self.enter_space(controls.vpid, controls.eptp.map(Eptp::ep4ta));
    }

    /// Loads another EPT pointer, as VM function 0 does. [`Mmu::set_context`] follows.
    pub fn set_eptp(&mut self, pointer: Eptp) {
        if let Some(ept) = &mut self.ept {
            ept.pointer = pointer;
            let vpid = self.spaces[self.space].vpid;
            self.enter_space(vpid, Some(pointer.ep4ta()));
        }
    }

    /// Where a guest-physical address lies by the EPT in use, with nothing set and nothing cached: the first byte of its page,
    /// the page's size, and whether the page may be read and written with nothing to be told of it. `None` where EPT maps
    /// nothing there or is off, and for the APIC-access page.
    pub fn mapped(&self, memory: &Memory, gpa: u64) -> Option<Mapped> {
        let ept = self.ept.as_ref()?;
        let frame = self.with_apic_page(ept::look(memory, ept, gpa)?, gpa);
        if frame.flags & flag::APIC != 0 {
            return None;
        }
        Some(Mapped {
            at: Hpa(frame.base),
            size: frame.size.bytes(),
            readable: frame.flags & flag::EPT_READ != 0,
            writable: frame.flags & flag::EPT_WRITE != 0 && !ept.pointer.accessed_dirty(),
        })
    }

    /// Changes whenever linear translations may have been dropped. No two CPUs of a machine have the same.
    pub fn flush_count(&self) -> u64 {
        self.flush_count
    }

    /// Has [`Mmu::flush_count`] begin at the physical CPU's own numbers.
    pub(crate) fn count_flushes_as(&mut self, cpu: u16) {
        self.flush_count = u64::from(cpu) << 48;
    }

    /// The index of the page-modification log, as the VMCS is to hold it; `None` where the log is off.
    pub fn pml_index(&self) -> Option<u16> {
        self.pml_index
    }

    fn enter_space(&mut self, vpid: u16, ep4ta: Option<u64>) {
        let here = |space: &Space| space.vpid == vpid && space.ep4ta == ep4ta;
        if let Some(space) = self.spaces.get(self.space)
            && here(space)
        {
            return;
        }
        if let Some(number) = self.spaces.iter().position(here) {
            self.space = number;
            self.physical_tag = self.spaces[number].physical;
            return;
        }
        if self.spaces.len() == MAX_CONTEXTS {
            self.forget_contexts();
        }
        let tag = Tag { vpid: 0, pcid: None, ep4ta };
        let (physical, renumbered) = self.guest_physical.intern(tag);
        if renumbered {
            self.forget_contexts();
        }
        self.spaces.push(Space { vpid, ep4ta, physical });
        self.space = self.spaces.len() - 1;
        self.physical_tag = physical;
    }

    /// Forgets what is derived from tags; the tags' entries stay.
    fn forget_contexts(&mut self) {
        self.contexts.clear();
        self.by_key.clear();
        self.spaces.clear();
        self.space = 0;
        self.now.key = u64::MAX;
        self.clear_lines();
        self.numbers = 0;
    }

    /// Takes the registers that translation depends on. Nothing is dropped: that is what [`Mmu::cr0_written`] and its
    /// like do.
    pub fn set_context(&mut self, cr0: u64, cr3: u64, cr4: u64, efer: u64, pdptes: &[u64; 4]) {
        self.root = cr3;
        self.pdptes = *pdptes;
        let mode = Mode::of(cr0, cr4, efer);
        let pcid = if mode.pcids() { cr3 as u16 & 0xfff } else { 0 };
        let key = (self.space as u64) << 32 | u64::from(pcid) << 16 | u64::from(mode.0);
        if key != self.now.key {
            let here = core::mem::replace(&mut self.before, self.index);
            self.index = match self.contexts.get(here) {
                Some(context) if context.key == key => here,
                _ => self.find_context(key, mode, pcid),
            };
            self.now = self.contexts[self.index];
        }
        self.set_privilege(self.user, self.ac);
    }

    /// Where the context of a key is.
    fn find_context(&mut self, key: u64, mode: Mode, pcid: u16) -> usize {
        match self.by_key.get(&key) {
            Some(&index) => index,
            None => self.new_context(mode, pcid),
        }
    }

    #[cold]
    fn new_context(&mut self, mode: Mode, pcid: u16) -> usize {
        if self.contexts.len() == MAX_CONTEXTS {
            let here = self.spaces[self.space];
            self.forget_contexts();
            self.enter_space(here.vpid, here.ep4ta);
        }
        let Space { vpid, ep4ta, physical } = self.spaces[self.space];
        let (local, renumbered) = self.tlb.intern(Tag { vpid, pcid: Some(pcid), ep4ta });
        let (global, again) = self.tlb.intern(Tag { vpid, pcid: None, ep4ta });
        if renumbered || again {
            self.forget_contexts();
            self.enter_space(vpid, ep4ta);
        }
        let context = Context {
            key: (self.space as u64) << 32 | u64::from(pcid) << 16 | u64::from(mode.0),
            mode,
            pcid,
            local,
            global,
            local_epoch: self.tlb.epoch(local),
            global_epoch: self.tlb.epoch(global),
            physical_epoch: self.guest_physical.epoch(physical),
            number: self.fresh_number(),
        };
        self.by_key.insert(context.key, self.contexts.len());
        self.contexts.push(context);
        self.contexts.len() - 1
    }

    /// A number that no line of the front cache has.
    fn fresh_number(&mut self) -> u64 {
        if self.numbers + 1 == front::NUMBERS {
            self.clear_lines();
            self.numbers = 0;
            for context in &mut self.contexts {
                self.numbers += 1;
                context.number = self.numbers;
                if context.key == self.now.key {
                    self.now.number = self.numbers;
                }
            }
        }
        self.numbers += 1;
        self.numbers
    }

    /// Says at which privilege the next accesses through [`Mmu::fast`] are: user mode or not, and RFLAGS.AC.
    #[inline]
    pub fn set_privilege(&mut self, user: bool, ac: bool) {
        self.user = user;
        self.ac = ac;
        self.context = match self.watched {
            false => front::Tag::new(self.now.number, class(self.now.mode, user, ac)),
            true => front::Tag::NONE,
        };
    }

    /// Whether every access is to come by [`Mmu::translate`]: [`Mmu::fast`] answers nothing then.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched || self.adversary.as_ref().is_some_and(|adversary| adversary.sees_all());
        self.set_privilege(self.user, self.ac);
    }

    /// Has every access to these pages of linear addresses come by [`Mmu::translate`]. The pages are given by their first
    /// addresses, in order.
    pub fn set_guarded(&mut self, pages: Vec<u64>) {
        self.guarded = pages;
        self.clear_lines();
    }

    /// Whether an address is in one of them.
    #[inline]
    pub fn is_guarded(&self, gva: u64) -> bool {
        !self.guarded.is_empty() && self.guarded.binary_search(&(gva & !0xfff)).is_ok()
    }

    /// Takes the rights of protection keys for user pages.
    #[inline]
    pub fn set_pkru(&mut self, pkru: u32) {
        if self.pkru != pkru {
            self.pkru = pkru;
            self.clear_lines();
        }
    }

    /// Gives up the fast ways to write, when memory has changed what a store may need since the last call. To be called
    /// after [`Memory::set_code`], and before a CPU runs that has not run since.
    #[inline]
    pub fn follow(&mut self, memory: &Memory) {
        if self.write_epoch != memory.write_epoch() {
            self.write_epoch = memory.write_epoch();
            self.writes.clear();
        }
    }

    /// Every cached translation: linear and combined ones first, then guest-physical ones.
    pub fn cached(&self) -> impl Iterator<Item = Cached> {
        let of = |guest_physical: bool| {
            move |(tag, entry): (&Tag, &tlb::Entry)| {
                let has = |bits: u32| entry.flags & bits == bits;
                Cached {
                    tag: *tag,
                    guest_physical,
                    address: entry.address(),
                    size: entry.size(),
                    target: Hpa(entry.target),
                    writable: has(flag::EPT_WRITE) && (guest_physical || has(flag::WRITE)),
                    executable: has(flag::EPT_EXECUTE) && (guest_physical || !has(flag::NX)),
                    user: guest_physical || has(flag::USER),
                }
            }
        };
        self.tlb.iter().map(of(false)).chain(self.guest_physical.iter().map(of(true)))
    }

    /// Cached translations.
    pub fn live(&self) -> u32 {
        self.tlb.live() + self.guest_physical.live()
    }
}

/// The class of privilege whose data accesses the front cache never has: their alignment may have to be checked.
const CHECKED: u64 = 3;

/// The class of privilege: 0 supervisor, 1 user, 2 supervisor with SMAP lifted, 3 user with RFLAGS.AC.
#[inline(always)]
fn class(mode: Mode, user: bool, ac: bool) -> u64 {
    if user {
        if ac { CHECKED } else { 1 }
    } else if ac && mode.smap() {
        2
    } else {
        0
    }
}
