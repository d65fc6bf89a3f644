//! Each translation beside what the adversarial TLB would have made of it.

use super::adversary::{Adversary, Found, Part};
use super::ept::{Ept, Frame, Use, look, needed};
use super::tlb::{PageSize, Tag, flag};
use super::walk::Looked;
use super::{Access, Fault, Mmu};
use crate::memory::Memory;
use hv_defs::addr::Hpa;

impl Mmu {
    /// Has an adversarial TLB stand beside this one from now on.
    pub fn set_adversary(&mut self, adversary: Adversary) {
        self.adversary = Some(Box::new(adversary));
        self.clear_lines();
        self.set_watched(self.watched);
    }

    /// The adversarial TLB, if there is one.
    pub fn adversary(&mut self) -> Option<&mut Adversary> {
        self.adversary.as_deref_mut()
    }

    /// A guest is entered: what L0 did meanwhile is to be seen, so that no access is served unseen by what was checked
    /// before.
    pub(crate) fn entered(&mut self, entry: u64) {
        if let Some(adversary) = &mut self.adversary {
            adversary.entered(entry);
            self.clear_lines();
        }
    }

    /// The next drops are this flush's, by number; `None`: the guest's own.
    pub(crate) fn flushing(&mut self, flush: Option<u64>) {
        if let Some(adversary) = &mut self.adversary {
            adversary.flushing(flush);
        }
    }

    fn linear_tags(&self) -> [Tag; 2] {
        let space = self.spaces[self.space];
        [Some(self.now.pcid), None].map(|pcid| Tag { vpid: space.vpid, pcid, ep4ta: space.ep4ta })
    }

    fn physical_tag(&self) -> Tag {
        Tag { vpid: 0, pcid: None, ep4ta: self.spaces[self.space].ep4ta }
    }

    /// Tells the adversarial TLB of a translation that was walked.
    #[inline]
    pub(super) fn note_walk(
        &mut self,
        guest_physical: bool,
        global: bool,
        place: (u64, PageSize),
        to: (u64, u64, u32),
    ) {
        if self.adversary.is_some() {
            let tag = if guest_physical { self.physical_tag() } else { self.linear_tags()[usize::from(global)] };
            if let Some(adversary) = &mut self.adversary {
                adversary.insert(guest_physical, tag, place, to);
            }
        }
    }

    /// Tells it of one that is given up since it did not serve.
    #[inline]
    pub(super) fn note_kill(&mut self, guest_physical: bool, address: u64) {
        if self.adversary.is_some() {
            let tags = if guest_physical { [self.physical_tag(); 2] } else { self.linear_tags() };
            if let Some(adversary) = &mut self.adversary {
                adversary.kill(guest_physical, tags, address);
            }
        }
    }

    /// Whether a translation leads to the APIC-access page, so that the access exits.
    fn is_apic(&self, flags: u32) -> bool {
        flags & flag::APIC != 0 && self.apic_access.is_some()
    }

    /// [`Mmu::translate`], looked at.
    pub(super) fn translate_judged(
        &mut self,
        memory: &mut Memory,
        gva: u64,
        access: Access,
        user: bool,
        ac: bool,
    ) -> Result<Hpa, Fault> {
        if !self.now.mode.paging() {
            let found = self.translate_now(memory, gva, access, user, ac);
            self.note_translation(gva, access, &found);
            return found;
        }
        let tags = self.linear_tags();
        if let Some(live) = self.kept(false, false, tags, gva).first()
            && self.usable(live.held.flags, access, user, ac)
        {
            self.hold_to_tables(memory, gva, access, user, ac, live);
        }
        let found = self.translate_now(memory, gva, access, user, ac);
        self.note_translation(gva, access, &found);
        for ghost in self.kept(false, true, tags, gva) {
            let serves = self.usable(ghost.held.flags, access, user, ac);
            let same = match &found {
                Ok(at) => !self.is_apic(ghost.held.flags) && ghost.at(gva) == at.0,
                Err(Fault::ApicAccess { physical: false, .. }) => self.is_apic(ghost.held.flags),
                // The log of modified pages is no matter of where a page lies.
                Err(Fault::PmlFull) => true,
                Err(_) => false,
            };
            let now = found.as_ref().ok().map(|at| at.0 & !(ghost.size().bytes() - 1));
            self.lay(false, &ghost, serves, same, now);
        }
        found
    }

    fn note_translation(&mut self, gva: u64, access: Access, found: &Result<Hpa, Fault>) {
        if access != Access::Fetch
            && let Some(adversary) = &mut self.adversary
        {
            adversary.translated(gva, access as u64, found.as_ref().ok().map(|at| at.0));
        }
    }

    fn kept(&self, guest_physical: bool, ghost: bool, tags: [Tag; 2], address: u64) -> Vec<Found> {
        self.adversary.as_ref().map_or_else(Vec::new, |one| one.find(guest_physical, ghost, tags, address))
    }

    /// What comes of a ghost at an access.
    fn lay(&mut self, guest_physical: bool, ghost: &Found, serves: bool, same: bool, now: Option<u64>) {
        let Some(adversary) = &mut self.adversary else { return };
        match (serves, same) {
            (false, _) => adversary.lay(guest_physical, ghost),
            (true, true) => adversary.agrees(ghost),
            (true, false) => adversary.proves(guest_physical, ghost, now),
        }
    }

    /// Holds what the TLB may serve an access by to what the tables say now.
    fn hold_to_tables(&mut self, memory: &Memory, gva: u64, access: Access, user: bool, ac: bool, live: &Found) {
        let offset = gva & (live.size().bytes() - 1);
        let mode = self.now.mode;
        let (part, now) = match self.look(memory, gva) {
            Looked::TableGone => (Some(Part::Ept), None),
            Looked::Nowhere => (Some(Part::Guest), None),
            Looked::At(leaf) if mode.permits(leaf.flags, access, user, ac, self.pkru).is_err() => {
                (Some(Part::Guest), None)
            }
            Looked::At(leaf) => {
                let frame = match &self.ept {
                    None => Some(Frame { base: leaf.gpa & !0xfff, size: PageSize::Small, flags: flag::EPT_ALL }),
                    Some(ept) => look(memory, ept, leaf.gpa).map(|frame| self.with_apic_page(frame, leaf.gpa)),
                };
                let frame = frame.filter(|frame| self.usable(leaf.flags | frame.flags, access, user, ac));
                let now = frame.map(|frame| frame.at(leaf.gpa));
                let apic = |flags: u32| self.ept.is_some() && self.is_apic(flags);
                let same =
                    now == Some(live.at(gva)) && frame.is_some_and(|frame| apic(frame.flags) == apic(live.held.flags));
                match same {
                    true => (None, now),
                    false if leaf.gpa != live.held.gpa + offset => (Some(Part::Guest), now),
                    false => (Some(Part::Ept), now),
                }
            }
        };
        if let (Some(part), Some(adversary)) = (part, &mut self.adversary) {
            adversary.misses(false, live, part, now.map(|now| now & !(live.size().bytes() - 1)));
        }
    }

    /// As [`Mmu::translate_judged`], of guest-physical mappings.
    pub(super) fn translate_by_ept_judged(
        &mut self,
        memory: &mut Memory,
        ept: Ept,
        gpa: u64,
        wanted: Use,
    ) -> Result<Frame, Fault> {
        let needed = needed(&ept, wanted);
        let tags = [self.physical_tag(); 2];
        // Paging structures are read through the APIC-access page's mapping as through any other.
        let apic = |mmu: &Self, flags: u32| wanted.page.is_some() && mmu.is_apic(flags);
        if let Some(live) = self.kept(true, false, tags, gpa).first().filter(|live| live.held.flags & needed == needed)
        {
            let frame = look(memory, &ept, gpa).map(|frame| self.with_apic_page(frame, gpa));
            let frame = frame.filter(|frame| frame.flags & needed == needed);
            let same = frame.is_some_and(|frame| {
                frame.at(gpa) == live.at(gpa) && apic(self, frame.flags) == apic(self, live.held.flags)
            });
            if let (false, Some(adversary)) = (same, &mut self.adversary) {
                let now = frame.map(|frame| frame.at(gpa) & !(live.size().bytes() - 1));
                adversary.misses(true, live, Part::Ept, now);
            }
        }
        let found = self.translate_by_ept(memory, ept, gpa, wanted);
        for ghost in self.kept(true, true, tags, gpa) {
            let serves = ghost.held.flags & needed == needed;
            let same = match &found {
                Ok(frame) => frame.at(gpa) == ghost.at(gpa) && apic(self, frame.flags) == apic(self, ghost.held.flags),
                Err(Fault::PmlFull) => true,
                Err(_) => false,
            };
            let now = found.as_ref().ok().map(|frame| frame.at(gpa) & !(ghost.size().bytes() - 1));
            self.lay(true, &ghost, serves, same, now);
        }
        found
    }
}
