//! Filling EPT02 on EPT violations, and keeping it in line with what L1 writes to EPT12.
//!
//! A page that holds a table of L1's which L0 shadows is read-only for L1 in EPT01. L1's first write exits; from then on
//! it may write freely, and the shadow is unsync until L1 says INVEPT or the root is loaded. What L0 then changes in
//! EPT02 is L1's to flush, for it is L1's change: L0 does INVEPT only for what it takes away by its own wish.

use super::cx::Cx;
use super::ept01::{self, Change};
use super::ept02::{NONE, Root, Shape, Table};
use super::ept12::{self, Path, READ, WRITE, Walked};
use super::vpid;
use crate::silicon::Silicon;
use hv_defs::addr::{Gpa, Hpa, L2Gpa, PAGE_SIZE};
use hv_defs::controls::SecondaryControls;
use hv_defs::ept::{EptEntry, Eptp};
use hv_defs::event::{Cause, EptChange, EptOp, What};
use hv_defs::policy::RootLoad;
use hv_defs::slip::Slip;
use hv_defs::vmcs;

/// Roots that a vCPU keeps.
const ROOTS: usize = 16;

/// Frames that filling one translation and splitting pages of EPT01 for it may take.
const RESERVE: usize = 16;

/// What an EPT violation of L2's came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// EPT02 has the translation now.
    Done,
    /// EPT12 does not permit the access; what it does permit.
    Violation(u8),
    /// EPT12 is misconfigured there.
    Misconfigured,
    /// L1's page-modification log is full.
    LogFull,
    /// EPT12 maps it to what is no RAM of L1's.
    NoRam(Gpa),
    /// L0's memory is used up.
    NoFrame,
}

/// The bits of an EPT pointer that choose an EPT02.
pub(super) fn key(eptp12: Eptp) -> Eptp {
    Eptp::new()
        .with_pfn(eptp12.pfn())
        .with_walk_length_less_one(eptp12.walk_length_less_one())
        .with_accessed_dirty(eptp12.accessed_dirty())
        .with_memory_type(eptp12.memory_type())
}

impl<S: Silicon> Cx<'_, S> {
    fn emit_ept(&mut self, op: EptOp, root: usize, gpa: u64, size: u64, old: EptEntry, new: EptEntry) {
        let Some(root) = &self.ept02.roots[root] else { return };
        let (eptp12, eptp02) = (root.eptp12.into_bits(), root.eptp02.into_bits());
        let (old, new) = (old.into_bits(), new.into_bits());
        self.emit(What::Ept(EptChange { op, eptp12, eptp02, gpa, size, old, new }));
    }

    /// The EPT02 for L1's EPT pointer, as the policy keeps them; `None` when L0's memory is used up.
    pub(super) fn load_root(&mut self, eptp12: Eptp) -> Option<usize> {
        let eptp12 = key(eptp12);
        let vcpu = self.vcpu.id;
        let mode_based = self.secondary12().contains(SecondaryControls::MODE_BASED_EXECUTE);
        let mut sync = vpid::syncs_when_loaded(&self.shared.policy);
        let number = match self.ept02.find(vcpu, eptp12, mode_based) {
            Some(number) => number,
            None => {
                // Its first page is made read-only below, and may be written already when the root is loaded again.
                sync = true;
                let keep = match self.shared.policy.root_load {
                    RootLoad::Keep => 1,
                    RootLoad::Flush | RootLoad::Cached => ROOTS,
                };
                let roots = self.ept02.roots_of(vcpu);
                for root in roots.iter().take((roots.len() + 1).saturating_sub(keep)) {
                    self.free_root(*root);
                }
                self.reclaim(None)?;
                let frame = ept01::zeroed(self.silicon, &mut self.shared.frames)?;
                let number = self.ept02.roots.iter().position(Option::is_none).unwrap_or(self.ept02.roots.len());
                let shadows = Gpa(eptp12.ep4ta());
                let table = self.ept02.add(frame, 4, 0, Some(shadows), EptEntry::new(), number);
                let eptp02 = ept01::pointer(frame);
                let root = Root { vcpu, eptp12, mode_based, eptp02, table, used: 0, held: 0, stale: 0 };
                if number == self.ept02.roots.len() {
                    self.ept02.roots.push(Some(root));
                } else {
                    self.ept02.roots[number] = Some(root);
                }
                self.protect(&[shadows]);
                number
            }
        };
        self.ept02.loads += 1;
        let (loads, here) = (self.ept02.loads, 1 << self.cpu);
        if let Some(root) = &mut self.ept02.roots[number] {
            root.used = loads;
            root.held |= here;
        }
        if self.vcpu.root != Some(number) {
            self.vcpu.root = Some(number);
            self.emit_ept(EptOp::Switch, number, 0, 0, EptEntry::new(), EptEntry::new());
        }
        if sync && !self.shared.slips.has(Slip::Ept02Unsynced) {
            self.sync_root(number);
        }
        Some(number)
    }

    /// Carries out L1's INVEPT of an EPT02: here, where L1 said it. Other CPUs that the vCPU has been on owe it, until it
    /// comes back.
    pub(super) fn flush_root(&mut self, number: usize) {
        let needed = self.flushes_as_needed();
        let here = 1 << self.cpu;
        let Some(root) = &mut self.ept02.roots[number] else { return };
        let (eptp02, held) = (root.eptp02, root.held);
        root.held &= !here;
        root.stale = root.held;
        if !needed || held & here != 0 {
            self.invept(eptp02, Cause::InveptEmulation);
        }
    }

    /// The vCPU is back on a physical CPU where it ran before: what L1 has flushed meanwhile, on another, is flushed here.
    pub(super) fn flush_stale_roots(&mut self) {
        let here = 1 << self.cpu;
        for number in self.ept02.roots_of(self.vcpu.id) {
            let Some(root) = &mut self.ept02.roots[number] else { continue };
            if root.stale & here != 0 {
                root.held &= !here;
                root.stale &= !here;
                let eptp02 = root.eptp02;
                self.invept(eptp02, Cause::Migration);
            }
        }
    }

    /// The vCPU has come to a physical CPU, perhaps in the midst of L2.
    pub(super) fn root_arrives(&mut self) {
        let here = 1 << self.cpu;
        match self.shared.roots_in_use[usize::from(self.vcpu.id)] {
            Some(number) => {
                if let Some(root) = &mut self.ept02.roots[number] {
                    root.held |= here;
                }
            }
            None if self.vcpu.level == 2 => {
                self.load_root_without_ept();
            }
            None => {}
        }
    }

    /// The EPT pointer for an L2 that L1 has no EPT for.
    pub(super) fn load_root_without_ept(&mut self) -> Eptp {
        let page = match self.secondary12().contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES) {
            true => self.vcpu.vmcs12.get(vmcs::APIC_ACCESS_ADDRESS),
            false => 0,
        };
        match self.shared.ept01.load_for_l2(self.cpu, page) {
            Some((pointer, moved)) => {
                if moved {
                    self.invept(pointer, Cause::ApicAccessPage);
                }
                pointer
            }
            None => self.shared.ept01.pointer,
        }
    }

    /// Gives up an EPT02. Its frames wait for an INVEPT.
    pub(super) fn free_root(&mut self, number: usize) {
        let Some(root) = self.ept02.roots[number].take() else { return };
        self.free_table(root.table);
        if self.vcpu.root == Some(number) {
            self.vcpu.root = None;
        }
    }

    fn free_table(&mut self, number: u32) {
        let (frame, level) = (self.ept02.table(number).frame, self.ept02.table(number).level);
        if level > 1 {
            for entry in self.read_table(frame) {
                if entry.present_in(true) && !entry.large() {
                    let child = self.ept02.at(Hpa(entry.address()));
                    self.free_table(child);
                }
            }
        }
        self.ept02.remove(number);
        self.shared.frames.retire(frame);
    }

    fn read_table(&mut self, at: Hpa) -> [EptEntry; 512] {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.silicon.read(at, &mut bytes);
        core::array::from_fn(|index| {
            EptEntry::from_bits(u64::from_le_bytes(core::array::from_fn(|byte| bytes[index * 8 + byte])))
        })
    }

    /// Sees to it that there are frames for one more translation. `root` is in use.
    fn reclaim(&mut self, root: Option<usize>) -> Option<()> {
        let frames = |cx: &Self| cx.shared.frames.left() >= RESERVE;
        if frames(self) {
            return Some(());
        }
        self.release_retired();
        let unused = |cx: &Self| {
            let roots = cx.ept02.roots.iter().enumerate();
            let used = |number: &usize| cx.shared.roots_in_use.contains(&Some(*number)) || root == Some(*number);
            roots
                .filter_map(|(number, root)| Some((root.as_ref()?.used, number)))
                .filter(|(_, number)| !used(number))
                .min()
                .map(|(_, number)| number)
        };
        while !frames(self)
            && let Some(oldest) = unused(self)
        {
            self.free_root(oldest);
            self.release_retired();
        }
        if !frames(self)
            && let Some(number) = root
            && let Some(table) = self.ept02.roots[number].as_ref().map(|root| root.table)
        {
            for index in 0..512 {
                self.zap(table, index, false);
            }
            self.release_retired();
        }
        frames(self).then_some(())
    }

    /// INVEPT on every CPU, after which frames that held paging structures can be used again.
    fn release_retired(&mut self) {
        if self.shared.frames.any_retired() {
            for cpu in 0..self.shared.pcpus {
                self.invept_all_on(cpu, Cause::EptZap);
            }
            self.shared.frames.release_retired();
        }
    }

    /// Makes pages of L1's paging structures read-only for L1.
    fn protect(&mut self, pages: &[Gpa]) {
        let mut changed = false;
        for page in pages {
            let shared = &mut *self.shared;
            changed |= shared.ept01.set_writable(self.silicon, &mut shared.frames, *page, false) == Change::Done;
        }
        if changed {
            let eptp01 = self.shared.ept01.pointer;
            self.invept_everywhere(eptp01, Cause::WriteProtect);
            for second in self.shared.ept01.for_l2.into_iter().flatten() {
                for cpu in (0..self.shared.pcpus).filter(|cpu| second.ran_on >> cpu & 1 != 0) {
                    self.invept_on(cpu, second.pointer, Cause::WriteProtect);
                }
            }
        }
    }

    /// L1 wrote, or L2 wants to write, a page that may be read-only in EPT01. Returns whether it was.
    pub(super) fn unprotect(&mut self, at: Gpa) -> bool {
        self.ept02.written(at);
        let shared = &mut *self.shared;
        shared.ept01.set_writable(self.silicon, &mut shared.frames, at.page(), true) == Change::Done
    }

    /// Answers an EPT violation of L2's from EPT12.
    pub(super) fn fill(&mut self, number: usize, at: L2Gpa, access: u8) -> Filled {
        let Some(root) = &self.ept02.roots[number] else { return Filled::NoFrame };
        let (eptp12, shape) = (root.eptp12, root.shape());
        let mut path = match self.walk_ept12(eptp12, shape.mode_based, at) {
            Walked::Leaf(path) => path,
            Walked::NotPresent => return Filled::Violation(0),
            Walked::Misconfigured => return Filled::Misconfigured,
        };
        if access & !path.permitted != 0 {
            return Filled::Violation(path.permitted);
        }
        if shape.accessed_dirty {
            let dirties = access & WRITE != 0 && !path.entries[usize::from(path.level)].dirty();
            if dirties && !self.log_dirty(at) {
                return Filled::LogFull;
            }
            self.mark_ept12(&mut path, at, access & WRITE != 0);
        }
        let target = path.target(at);
        if self.ram(target.page(), PAGE_SIZE).is_none() {
            return Filled::NoRam(target);
        }
        if access & WRITE != 0 && self.ept02.is_shadowed(target) {
            self.unprotect(target);
        }
        if self.reclaim(Some(number)).is_none() {
            return Filled::NoFrame;
        }
        self.put_path(number, &path, at, shape);
        Filled::Done
    }

    /// Tells L1's page-modification log, if it has one, of a page that L2 makes dirty. `false`, and nothing is told, when
    /// it is full. See: SDM "Page-Modification Logging".
    fn log_dirty(&mut self, at: L2Gpa) -> bool {
        if !self.secondary12().contains(SecondaryControls::PML) {
            return true;
        }
        let index = self.vcpu.vmcs12.get(vmcs::PML_INDEX);
        if index >= 512 {
            return false;
        }
        let log = self.vcpu.vmcs12.get(vmcs::PML_ADDRESS);
        self.write_gpa(Gpa(log + u64::from(index) * 8), &(at.0 & !(PAGE_SIZE - 1)).to_le_bytes());
        self.vcpu.vmcs12.report(vmcs::PML_INDEX, index.wrapping_sub(1));
        true
    }

    /// Writes the translation of a path into EPT02.
    fn put_path(&mut self, number: usize, path: &Path, at: L2Gpa, shape: Shape) {
        let Some(mut table) = self.ept02.roots[number].as_ref().map(|root| root.table) else { return };
        let target = path.target(at);
        let source = plain(path.entries[usize::from(path.level)]);
        let last = if path.level > 1 && self.shared.ept01.is_large(target) { 2 } else { 1 };
        let mut protect = [Gpa(0); 4];
        let mut protects = 0;
        for level in ((last + 1)..=4u8).rev() {
            let frame = self.ept02.table(table).frame;
            let index = ept12::index(at.0, level);
            let old = ept01::get(self.silicon, frame, index);
            // Below L1's leaf the tables are L0's own.
            let shadows = (level > path.level).then(|| Gpa(path.entries[usize::from(level)].address()));
            if old.present_in(true) {
                let child = if old.large() { NONE } else { self.ept02.at(Hpa(old.address())) };
                let fits = child != NONE && {
                    let child = self.ept02.table(child);
                    child.shadows == shadows && (shadows.is_some() || child.source == source)
                };
                if fits {
                    table = child;
                    continue;
                }
                self.zap(table, index, true);
            }
            let Some(new) = ept01::zeroed(self.silicon, &mut self.shared.frames) else { return };
            let base = at.0 & !(ept12::span(level) - 1);
            let child = self.ept02.add(new, level - 1, base, shadows, source, number);
            let all = shape.permissions();
            let permissions = if shadows.is_some() { path.entries[usize::from(level)].into_bits() & all } else { all };
            let entry = EptEntry::from_bits(ept01::table(new).into_bits() & !all | permissions);
            ept01::put(self.silicon, frame, index, entry);
            if let Some(page) = shadows {
                protect[protects] = page;
                protects += 1;
            }
            table = child;
        }
        self.protect(&protect[..protects]);
        let frame = self.ept02.table(table).frame;
        let index = ept12::index(at.0, last);
        let old = ept01::get(self.silicon, frame, index);
        let page = Gpa(target.0 & !(ept12::span(last) - 1));
        // The tables that were just protected may have split the page of EPT01 that this leaf needs whole.
        if last == 2 && !self.shared.ept01.is_large(target) {
            return;
        }
        let new = self.leaf(path.entries[usize::from(path.level)], page, last, shape);
        if old.present_in(true) && last == 2 && !old.large() {
            self.zap(table, index, true);
        }
        if new != old {
            ept01::put(self.silicon, frame, index, new);
            let gpa = at.0 & !(ept12::span(last) - 1);
            let op = if old.present_in(true) { EptOp::Sync } else { EptOp::Map };
            self.emit_ept(op, number, gpa, ept12::span(last), old, new);
        }
    }

    /// The leaf of EPT02 for L1's leaf, composed with EPT01. `page` is RAM.
    fn leaf(&mut self, entry12: EptEntry, page: Gpa, level: u8, shape: Shape) -> EptEntry {
        let shared = &mut *self.shared;
        let writable = entry12.write()
            && (!shape.accessed_dirty || entry12.dirty())
            && shared.ept01.is_writable(self.silicon, page);
        EptEntry::new()
            .with_read(entry12.read())
            .with_write(writable)
            .with_execute(entry12.execute())
            .with_user_execute(shape.mode_based && entry12.user_execute())
            .with_memory_type(ept01::WRITE_BACK)
            .with_ignore_pat(entry12.ignore_pat())
            .with_large(level > 1)
            .with_pfn((super::L0_MEMORY + ept01::offset(page)) / PAGE_SIZE)
    }

    /// Removes an entry of a table, with all below it.
    fn zap(&mut self, table: u32, index: u64, tell: bool) {
        let (frame, level, root) = {
            let table = self.ept02.table(table);
            (table.frame, table.level, table.root)
        };
        let old = ept01::get(self.silicon, frame, index);
        if !old.present_in(true) {
            return;
        }
        ept01::put(self.silicon, frame, index, EptEntry::new());
        if level > 1 && !old.large() {
            let child = self.ept02.at(Hpa(old.address()));
            self.free_table(child);
        }
        if tell {
            let gpa = self.ept02.table(table).base + index * ept12::span(level);
            self.emit_ept(EptOp::Zap, root, gpa, ept12::span(level), old, EptEntry::new());
        }
    }

    /// Brings the unsync tables of an EPT02 in line with EPT12, and write-protects L1's pages again.
    pub(super) fn sync_root(&mut self, number: usize) {
        let unsync = self.ept02.take_unsync(number);
        if unsync.is_empty() {
            return;
        }
        let shape = self.ept02.roots[number].as_ref().map(Root::shape).unwrap_or_default();
        let mut pages = Vec::with_capacity(unsync.len());
        for table in unsync {
            // A table above it may have been zapped, and it with it.
            if self.ept02.table(table).unsync {
                pages.extend(self.ept02.table(table).shadows);
                self.sync_table(table, shape);
                self.ept02.synced(table);
            }
        }
        self.protect(&pages);
    }

    fn sync_table(&mut self, number: u32, shape: Shape) {
        let table = self.ept02.table(number).clone();
        let Some(page) = table.shadows else { return };
        let Some(hpa) = self.ram(page, PAGE_SIZE) else { return };
        let (entries12, entries02) = (self.read_table(hpa), self.read_table(table.frame));
        for (index, (entry12, old)) in entries12.into_iter().zip(entries02).enumerate() {
            if !old.present_in(true) {
                continue;
            }
            let index = index as u64;
            match self.expected(entry12, old, table.level, shape) {
                None => self.zap(number, index, true),
                Some(new) if new != old => {
                    ept01::put(self.silicon, table.frame, index, new);
                    let gpa = table.base + index * ept12::span(table.level);
                    self.emit_ept(EptOp::Sync, table.root, gpa, ept12::span(table.level), old, new);
                }
                Some(_) => {}
            }
        }
    }

    /// The entries of a table that are not what EPT12 says: their addresses, the bytes that each maps, what they are and
    /// what they must be, 0 where they must go.
    pub(super) fn out_of_line(&mut self, table: &Table, shape: Shape) -> Vec<(u64, u64, u64, u64)> {
        let Some(hpa) = table.shadows.and_then(|page| self.ram(page, PAGE_SIZE)) else { return Vec::new() };
        let (entries12, entries02) = (self.read_table(hpa), self.read_table(table.frame));
        let mut all = Vec::new();
        for (index, (entry12, entry)) in (0..).zip(entries12.into_iter().zip(entries02)) {
            if !entry.present_in(true) {
                continue;
            }
            let due = self.expected(entry12, entry, table.level, shape).unwrap_or_default();
            if due != entry {
                let size = ept12::span(table.level);
                all.push((table.base + index * size, size, entry.into_bits(), due.into_bits()));
            }
        }
        all
    }

    /// What an entry of EPT02 must be for what EPT12 says now; `None` when it must go.
    fn expected(&mut self, entry12: EptEntry, old: EptEntry, level: u8, shape: Shape) -> Option<EptEntry> {
        let (execute_only, bits) = (self.shared.execute_only, self.shared.address_bits);
        if !entry12.present_in(shape.mode_based)
            || ept12::is_misconfigured(entry12, level, execute_only, bits)
            || shape.accessed_dirty && !entry12.accessed()
        {
            return None;
        }
        let leaf12 = ept12::is_leaf(entry12, level);
        if level > 1 && !old.large() {
            let child = self.ept02.table(self.ept02.at(Hpa(old.address())));
            let fits = match child.shadows {
                Some(page) => !leaf12 && page.0 == entry12.address(),
                None => leaf12 && child.source == plain(entry12) && (!shape.accessed_dirty || entry12.dirty()),
            };
            let all = shape.permissions();
            let permissions = if leaf12 { all } else { entry12.into_bits() & all };
            return fits.then(|| EptEntry::from_bits(old.into_bits() & !all | permissions));
        }
        if !leaf12 {
            return None;
        }
        let page = Gpa(ept12::leaf_base(entry12, level));
        self.ram(page, ept12::span(level))?;
        if level > 2 || level == 2 && !self.shared.ept01.is_large(page) {
            return None;
        }
        Some(self.leaf(entry12, page, level, shape))
    }

    /// Whether EPT12 lets L2 reach an address in this way, and where it lies then. L2's memory, as L0 reads it.
    pub(super) fn translate_l2(&mut self, eptp12: Eptp, at: L2Gpa, access: u8) -> Option<Gpa> {
        let mode_based = self.secondary12().contains(SecondaryControls::MODE_BASED_EXECUTE);
        match self.walk_ept12(eptp12, mode_based, at) {
            Walked::Leaf(path) if (access | READ) & !path.permitted == 0 => Some(path.target(at)),
            _ => None,
        }
    }
}

/// An entry without its accessed and dirty flags.
fn plain(entry: EptEntry) -> EptEntry {
    entry.with_accessed(false).with_dirty(false)
}
