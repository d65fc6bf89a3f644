//! A look at guests from outside, between two runs: the state and the memory of each level, as a debugger or an inspector
//! shows them. Nothing is disturbed: no accessed flag is set, no TLB filled, no event told.
//!
//! L1's guest and that one's guest (L3) have a vmcs12 of L1's each. The one that is not current lies in L1's memory.

use super::L0;
use super::depth::DEEPEST;
use super::vcpu::{VMCS01, Vcpu};
use crate::silicon::Registers;
use crate::soft::SoftSilicon;
use crate::vmcs::{REVISION, SIZE, Vmcs};
use core::cmp::Ordering;
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::controls::{EntryControls, PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::vmcs;
use hv_defs::x86::Efer;

/// A guest's state at this moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// 1 for L1, 2 for its guest, 3 for that one's guest, as far as there are any.
    pub level: u8,
    /// Whether it is this guest that the vCPU executes, or would.
    pub runs: bool,
    /// The VMCS whose guest state is its own: vmcs01, vmcs02 while it runs itself, else vmcs12. It is right about all of it.
    pub vmcs: Box<Vmcs>,
    /// The registers that no VMCS holds; `None` for a guest that does not run, whose hypervisor keeps them or nobody.
    pub registers: Option<Box<Registers>>,
    /// The EPT pointer that L1 gave it; `None` for L1, and for an L2 without EPT.
    pub eptp12: Option<Eptp>,
    /// Its vmcs12's L1-physical address; `None` for L1.
    pub vmcs12: Option<Gpa>,
    /// Whether EPT12 has mode-based execute control.
    pub(super) mode_based: bool,
}

impl Guest {
    /// IA32_EFER, with the mode that the VMCS says.
    pub fn efer(&self) -> u64 {
        let long = self.vmcs.get(vmcs::ENTRY_CONTROLS).contains(EntryControls::IA32E_MODE_GUEST);
        let efer = self.vmcs.get(vmcs::GUEST_EFER) & !Efer::LMA.bits();
        if long { efer | Efer::LMA.bits() | Efer::LME.bits() } else { efer }
    }
}

impl L0<SoftSilicon> {
    /// How many vCPUs L1 has.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// The guest that a vCPU runs: 1 for L1, 2 for its guest, 3 for that one's guest, and 4 for all that is deeper.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn level(&self, vcpu: usize) -> u8 {
        self.vcpus[vcpu].shown_level()
    }

    /// A vCPU's vmcs01, as it would be had its guest just exited.
    ///
    /// # Panics
    /// As [`L0::level`].
    pub fn vmcs01(&self, vcpu: usize) -> Vmcs {
        self.silicon.vmcs_now(self.vcpus[vcpu].saved[VMCS01].hpa)
    }

    /// The current vmcs12 with its L1-physical address; `None` when L1 has none.
    ///
    /// # Panics
    /// As [`L0::level`].
    pub fn vmcs12(&self, vcpu: usize) -> Option<(Gpa, Vmcs)> {
        let vcpu = &self.vcpus[vcpu];
        if !vcpu.vmx.current {
            return None;
        }
        let vmcs12 = &vcpu.vmcs12;
        let mut fields = (*vmcs12.fields).clone();
        if let Some(slot) = vcpu.pool.find(vmcs12.gpa).filter(|_| !vmcs12.lazy.is_empty()) {
            let vmcs02 = self.silicon.vmcs_now(vcpu.saved[vcpu.pool.slots[slot].saved].hpa);
            for row in vmcs12.lazy.rows() {
                fields.set_row(row, vmcs02.row(row));
            }
        }
        Some((vmcs12.gpa, fields))
    }

    /// The vmcs02 of the current vmcs12 with its host-physical address; `None` when it has none, or there is none.
    ///
    /// # Panics
    /// As [`L0::level`].
    pub fn vmcs02(&self, vcpu: usize) -> Option<(Hpa, Vmcs)> {
        let vcpu = &self.vcpus[vcpu];
        let number = match vcpu.level {
            2 => vcpu.current,
            _ if vcpu.vmx.current => vcpu.pool.slots[vcpu.pool.find(vcpu.vmcs12.gpa)?].saved,
            _ => return None,
        };
        let hpa = vcpu.saved[number].hpa;
        Some((hpa, self.silicon.vmcs_now(hpa)))
    }

    /// The vmcs12 of the guest of a level below L1, with its L1-physical address: of the one that runs or is the next to,
    /// or of whose guest that is, or of the guest that was entered last for it. `None` when L1 has not launched it.
    fn vmcs12_of(&self, it: &Vcpu, number: usize, level: u8) -> Option<(Gpa, Vmcs)> {
        let depths = &self.shared.depths;
        let current = (it.vmx.current && (it.level == 2 || it.vmcs12.launched)).then_some(it.vmcs12.gpa);
        let mut at = current.or_else(|| it.used.last().filter(|_| it.vmx.vmxon.is_some()))?;
        for _ in 0..DEEPEST {
            at = match depths.depth(at).cmp(&level) {
                Ordering::Equal => break,
                Ordering::Greater => depths.parent(at)?,
                Ordering::Less => depths.child(at)?,
            };
        }
        if depths.depth(at) != level {
            return None;
        }
        if current == Some(at) {
            return self.vmcs12(number);
        }
        let hpa = super::ram(self.shared.ram, at, SIZE as u64)?;
        let vmcs12 = Vmcs::from_bytes(self.silicon.bytes(hpa, SIZE)?.try_into().ok()?);
        (vmcs12.revision == REVISION && vmcs12.launched != 0).then_some((at, vmcs12))
    }

    /// The state of a vCPU's guest; `None` when there is no such guest: a vCPU that was not started, a guest that L1 has not
    /// launched.
    pub fn guest(&self, vcpu: usize, level: u8) -> Option<Guest> {
        let it = self.vcpus.get(vcpu).filter(|it| it.started)?;
        let runs = it.shown_level() == level;
        let (vmcs, vmcs12) = match level {
            0 => return None,
            1 => (self.vmcs01(vcpu), None),
            _ if runs => (self.vmcs02(vcpu)?.1, self.vmcs12(vcpu)),
            _ => {
                let vmcs12 = self.vmcs12_of(it, vcpu, level)?;
                (vmcs12.1.clone(), Some(vmcs12))
            }
        };
        let registers = runs.then(|| match it.pcpu.filter(|_| it.resident) {
            Some(pcpu) => self.silicon.cpu(pcpu).regs.clone(),
            None => it.registers.clone(),
        });
        let (mut eptp12, mut mode_based) = (None, false);
        if let Some((_, fields)) = &vmcs12 {
            let on = fields.get(vmcs::PRIMARY_CONTROLS).contains(PrimaryControls::ACTIVATE_SECONDARY);
            let secondary = fields.get(vmcs::SECONDARY_CONTROLS);
            eptp12 = (on && secondary.contains(SecondaryControls::EPT)).then(|| fields.get(vmcs::EPT_POINTER));
            mode_based = secondary.contains(SecondaryControls::MODE_BASED_EXECUTE);
        }
        let vmcs12 = vmcs12.map(|(gpa, _)| gpa);
        Some(Guest {
            level,
            runs,
            vmcs: Box::new(vmcs),
            registers: registers.map(Box::new),
            eptp12,
            vmcs12,
            mode_based,
        })
    }

    /// Reads a guest's linear memory up to the first byte that is not mapped, or is not in L1's RAM. Returns how many bytes
    /// it read.
    pub fn look_at(&self, guest: &Guest, gva: u64, into: &mut [u8]) -> usize {
        self.look_by(gva, into, |from| self.look_linear(guest, from).and_then(|at| self.look_physical(guest, at)))
    }

    /// As [`L0::look_at`], of the guest's physical memory.
    pub fn look_at_physical(&self, guest: &Guest, at: u64, into: &mut [u8]) -> usize {
        self.look_by(at, into, |from| self.look_physical(guest, from))
    }

    /// Reads memory page by page, up to the first page of which `place` says that it is nowhere.
    fn look_by(&self, at: u64, into: &mut [u8], place: impl Fn(u64) -> Option<Gpa>) -> usize {
        let mut done = 0;
        while done < into.len() {
            let from = at.wrapping_add(done as u64);
            let count = (into.len() - done).min((PAGE_SIZE - from % PAGE_SIZE) as usize);
            let found = place(from);
            let hpa = found.and_then(|at| super::ram(self.shared.ram, at, count as u64));
            let Some(bytes) = hpa.and_then(|hpa| self.silicon.bytes(hpa, count)) else { break };
            into[done..done + count].copy_from_slice(bytes);
            done += count;
        }
        done
    }

    /// Bytes of L1's RAM as a number; `None` where there is none.
    pub(super) fn look_word(&self, at: Gpa, bytes: usize) -> Option<u64> {
        let hpa = super::ram(self.shared.ram, at, bytes as u64)?;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(self.silicon.bytes(hpa, bytes)?);
        Some(u64::from_le_bytes(word))
    }
}
