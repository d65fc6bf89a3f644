//! How deep in the nest the guest of each vmcs12 is: 2 for L1's own guest, 3 for the guest of that one, and so on. L0 needs it
//! for nothing that it does; it is what events and looks call the level.
//!
//! L0 sees no more than L1's VMCSs, and infers the rest from the order of things. A guest that is a hypervisor executes
//! VMLAUNCH or VMRESUME, which exits to L1, and L1 runs for it what it asked for, under another vmcs12. So:
//!
//! - A vmcs12 gets its depth when it is first entered. If the vmcs12 that was in use before it on that vCPU exited last by
//!   VMLAUNCH or VMRESUME and was not entered since, the new one is its guest's guest: one deeper. Else it is 2.
//! - It keeps that, wherever it is entered later: L1 switches between its guests when it likes, and so a switch says something
//!   of a new vmcs12 alone. VMCLEAR changes nothing, since KVM does it whenever a vCPU moves to another CPU.
//! - What L1 makes current with every field 0 is new: KVM makes its VMCSs of pages of zeros. So are those of a guest's guests
//!   once that guest executes VMXOFF, and all of them once no vCPU of L1 is in VMX operation.
//!
//! An L1 that has one vmcs12 for all that a guest of its runs (KVM does) shows L4 as L3: it is under the same VMCS.

use super::cx::Cx;
use crate::silicon::Silicon;
use hv_defs::addr::Gpa;
use hv_defs::event::Actor;
use hv_defs::exit::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The depth of L1's own guests.
const PLAIN: u8 = 2;

/// The level of guests that are as deep, or deeper.
pub const DEEPEST: u8 = 4;

/// As many vmcs12s are remembered; what is behind them is taken for L1's own.
const REMEMBERED: usize = 1 << 14;

/// What is known of a vmcs12 that L1 has entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Nested {
    depth: u8,
    /// Its guest has asked for a VM entry, and was not entered since.
    asks: bool,
    /// The vmcs12 of the guest whose guest it is.
    of: Option<Gpa>,
    /// The one that was last entered for its guest.
    child: Option<Gpa>,
}

/// What is known of the machine's vmcs12s. A vCPU of L1's guest may move from one vCPU of L1 to another.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Depths {
    known: BTreeMap<Gpa, Nested>,
    /// vCPUs in VMX operation.
    operating: u16,
}

/// The vmcs12s that a vCPU used last, of those that are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Used {
    last: Option<Gpa>,
    before: Option<Gpa>,
}

impl Used {
    fn now(&mut self, vmcs12: Gpa) {
        if self.last != Some(vmcs12) {
            *self = Self { last: Some(vmcs12), before: self.last };
        }
    }

    /// The one used last.
    pub(super) fn last(&self) -> Option<Gpa> {
        self.last
    }

    /// The one used before this one.
    fn other_than(&self, vmcs12: Gpa) -> Option<Gpa> {
        if self.last == Some(vmcs12) { self.before } else { self.last }
    }
}

impl Depths {
    /// The vmcs12 whose guest asks for what L1 enters with `vmcs12`.
    fn asking(&self, used: &Used, vmcs12: Gpa) -> Option<(Gpa, Nested)> {
        let other = used.other_than(vmcs12)?;
        self.known.get(&other).filter(|it| it.asks).map(|it| (other, *it))
    }

    /// How deep a vmcs12's guest is, or will be once it is entered.
    fn of(&self, used: &Used, vmcs12: Gpa) -> u8 {
        match (self.known.get(&vmcs12), self.asking(used, vmcs12)) {
            (Some(known), _) => known.depth,
            (None, Some((_, asking))) => (asking.depth + 1).min(DEEPEST),
            (None, None) => PLAIN,
        }
    }

    /// A vmcs12 is entered. Returns how deep its guest is.
    fn entered(&mut self, used: &mut Used, vmcs12: Gpa) -> u8 {
        let depth = self.of(used, vmcs12);
        let asking = self.asking(used, vmcs12).filter(|(_, it)| it.depth < depth).map(|(of, _)| of);
        if self.known.len() < REMEMBERED || self.known.contains_key(&vmcs12) {
            let it = self.known.entry(vmcs12).or_insert(Nested { depth, asks: false, of: asking, child: None });
            it.asks = false;
            it.of = asking.or(it.of);
            if let Some(of) = asking.and_then(|of| self.known.get_mut(&of)) {
                of.child = Some(vmcs12);
            }
            used.now(vmcs12);
        }
        depth
    }

    /// The guest of a vmcs12 exited to L1.
    fn exited(&mut self, vmcs12: Gpa, reason: Reason) {
        match reason {
            Reason::VMLAUNCH | Reason::VMRESUME => {
                if let Some(it) = self.known.get_mut(&vmcs12) {
                    it.asks = true;
                }
            }
            Reason::VMXOFF => self.forget_guests_of(vmcs12),
            _ => {}
        }
    }

    fn forget(&mut self, vmcs12: Gpa) {
        if self.known.remove(&vmcs12).is_some() {
            self.forget_guests_of(vmcs12);
        }
    }

    /// Forgets the guests of a vmcs12's guest, and theirs.
    fn forget_guests_of(&mut self, vmcs12: Gpa) {
        let mut gone = vec![vmcs12];
        while let Some(of) = gone.pop() {
            if let Some(it) = self.known.get_mut(&of) {
                it.child = None;
            }
            gone.extend(self.known.iter().filter(|(_, it)| it.of == Some(of)).map(|(guest, _)| *guest));
            self.known.retain(|_, it| it.of != Some(of));
        }
    }

    /// The vmcs12 of the guest whose guest this one's is.
    pub(super) fn parent(&self, vmcs12: Gpa) -> Option<Gpa> {
        self.known.get(&vmcs12)?.of
    }

    /// The vmcs12 that was entered last for the guest of this one.
    pub(super) fn child(&self, vmcs12: Gpa) -> Option<Gpa> {
        self.known.get(&vmcs12)?.child
    }

    /// How deep a vmcs12's guest is that has been entered; 2 of any other.
    pub(super) fn depth(&self, vmcs12: Gpa) -> u8 {
        self.known.get(&vmcs12).map_or(PLAIN, |it| it.depth)
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// The level of the guest that runs: 1 for L1, and else how deep it is.
    pub(super) fn level(&self) -> u8 {
        self.vcpu.shown_level()
    }

    /// The guest that runs, as one who does something.
    pub(super) fn actor(&self) -> Actor {
        match self.level() {
            1 => Actor::L1,
            2 => Actor::L2,
            _ => Actor::L3,
        }
    }

    /// The level of the guest that L1 enters now.
    pub(super) fn level_entered(&self) -> u8 {
        self.shared.depths.of(&self.vcpu.used, self.vcpu.vmcs12.gpa)
    }

    /// L1 enters the guest of its current vmcs12.
    pub(super) fn note_entered(&mut self) {
        self.vcpu.depth = self.shared.depths.entered(&mut self.vcpu.used, self.vcpu.vmcs12.gpa);
    }

    /// The guest of the current vmcs12 exited to L1.
    pub(super) fn note_left(&mut self, reason: Reason) {
        self.shared.depths.exited(self.vcpu.vmcs12.gpa, reason);
    }

    /// L1 made a vmcs12 current that was not.
    pub(super) fn note_loaded(&mut self) {
        let vmcs12 = self.vcpu.vmcs12.gpa;
        if !self.shared.depths.known.contains_key(&vmcs12) {
            return;
        }
        if self.vcpu.vmcs12.fields.is_blank() {
            self.shared.depths.forget(vmcs12);
        } else {
            self.vcpu.used.now(vmcs12);
        }
    }

    /// The vCPU has begun VMX operation.
    pub(super) fn note_vmxon(&mut self) {
        self.vcpu.used = Used::default();
        self.shared.depths.operating += 1;
    }

    /// The vCPU leaves VMX operation.
    pub(super) fn note_vmxoff(&mut self) {
        self.shared.depths.operating -= 1;
        if self.shared.depths.operating == 0 {
            self.shared.depths.known.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Gpa = Gpa(0x1000);
    const B: Gpa = Gpa(0x2000);
    const C: Gpa = Gpa(0x3000);

    /// Follows two vCPUs of L1: `0 A` enters A on vCPU 0, `0 A!` exits by VMRESUME, `0 A.` by CPUID, `0 A-` by VMXOFF, `0 A<`
    /// makes A current, `0 A*` as new. Returns the depths at the entries.
    fn depths(script: &str) -> Vec<u8> {
        let (mut depths, mut used, mut seen) = (Depths::default(), [Used::default(); 2], Vec::new());
        let mut words = script.split_whitespace();
        while let (Some(vcpu), Some(word)) = (words.next(), words.next()) {
            let used = &mut used[usize::from(vcpu == "1")];
            let it = Gpa(0x1000 * u64::from(word.as_bytes()[0] - b'A' + 1));
            match &word[1..] {
                "" => seen.push(depths.entered(used, it)),
                "!" => depths.exited(it, Reason::VMRESUME),
                "-" => depths.exited(it, Reason::VMXOFF),
                "<" if depths.known.contains_key(&it) => used.now(it),
                "*" => depths.forget(it),
                _ => depths.exited(it, Reason::CPUID),
            }
        }
        seen
    }

    #[test]
    fn a_guest_is_as_deep_as_who_asked_for_it() {
        let check = |script: &str, expected: &[u8]| assert_eq!(depths(script), expected, "{script}");
        check("0 A 0 A. 0 B", &[2, 2]);
        check("0 A 0 A! 0 B 0 B. 0 B 0 B. 0 A", &[2, 3, 3, 2]);
        // L1 refuses the entry, or another guest comes in between whose depth is known.
        check("0 A 0 A! 0 A 0 A. 0 B", &[2, 2, 2]);
        check("0 C 0 A 0 A! 0 C 0 C. 0 A< 0 B", &[2, 2, 2, 3]);
        // A vCPU of L1's guest moves to another vCPU, between asking and being served, or at any later time.
        check("0 A 0 A! 1 A< 1 B", &[2, 3]);
        check("0 A 0 A! 0 B 0 B. 1 B 1 B. 1 A", &[2, 3, 3, 2]);
        check("1 C 0 A 0 A! 1 C< 1 B", &[2, 2, 2]);
        // Deeper ones, where L1 has a VMCS for each.
        check("0 A 0 A! 0 B 0 B! 0 C", &[2, 3, 4]);
        check("0 A 0 A! 0 B 0 B! 0 C 0 C! 0 D", &[2, 3, 4, 4]);
        // The page becomes another VMCS.
        check("0 A 0 A! 0 B 0 B. 0 B* 0 C 0 B", &[2, 3, 2, 2]);
        check("0 A 0 A! 0 B 0 B. 0 A 0 A- 0 B", &[2, 3, 2, 2]);
        check("0 A 0 A! 0 B 0 B! 0 C 0 C. 0 A 0 A- 0 C 0 B", &[2, 3, 4, 2, 2, 2]);
    }

    #[test]
    fn who_is_whose_is_remembered() {
        let (mut depths, mut used) = (Depths::default(), Used::default());
        depths.entered(&mut used, A);
        depths.exited(A, Reason::VMLAUNCH);
        depths.entered(&mut used, B);
        assert_eq!((depths.parent(B), depths.child(A), depths.depth(B)), (Some(A), Some(B), 3));
        assert_eq!((depths.parent(A), depths.child(B), depths.depth(C)), (None, None, 2));
        depths.exited(A, Reason::VMXOFF);
        assert_eq!((depths.child(A), depths.depth(B)), (None, 2));
    }
}
