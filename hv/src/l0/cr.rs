//! Control registers: MOV to CR, CLTS and LMSW that touch a bit which L0 keeps.

use super::capabilities::{CR0_FIXED0, CR4_FIXED0};
use super::cx::Cx;
use super::exit::Exit;
use super::next::{Fault, Next, unsupported};
use crate::silicon::{Register, Silicon};
use hv_defs::controls::{EntryControls, SecondaryControls};
use hv_defs::exit::{CrAccess, CrAccessKind};
use hv_defs::vmcs::{self, Field};
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer};

/// Bits of CR0 that are defined.
const CR0_DEFINED: u64 = Cr0::all().bits();

impl<S: Silicon> Cx<'_, S> {
    /// CR0 as the running guest sees it.
    pub(super) fn l1_cr0(&mut self) -> u64 {
        let mask = self.get(vmcs::CR0_GUEST_HOST_MASK);
        self.get(vmcs::GUEST_CR0) & !mask | self.get(vmcs::CR0_READ_SHADOW) & mask
    }

    /// CR4 as the running guest sees it.
    pub(super) fn l1_cr4(&mut self) -> u64 {
        let mask = self.get(vmcs::CR4_GUEST_HOST_MASK);
        self.get(vmcs::GUEST_CR4) & !mask | self.get(vmcs::CR4_READ_SHADOW) & mask
    }

    /// A control-register access that is L0's to carry out, for L1 or for an L2 whose L1 does not ask for it.
    pub(super) fn handle_cr(&mut self, exit: &Exit) -> Next {
        let access = CrAccess::from_bits(exit.qualification);
        match (access.kind(), access.cr()) {
            (CrAccessKind::MovTo, 0) => {
                let value = self.cr_operand(access);
                self.write_cr0(value)
            }
            (CrAccessKind::MovTo, 4) => {
                let value = self.cr_operand(access);
                self.write_cr4(value)
            }
            (CrAccessKind::MovTo, 8) => {
                let value = self.gpr(access.gpr());
                if value & !15 != 0 {
                    return Next::Raise(Fault::GP);
                }
                self.silicon.set_register(self.cpu, Register::Cr8, value);
                self.forget_held();
                Next::Skip
            }
            (CrAccessKind::MovFrom, 8) => {
                let value = self.silicon.register(self.cpu, Register::Cr8);
                self.set_gpr(access.gpr(), value);
                Next::Skip
            }
            (CrAccessKind::Clts, _) => {
                let value = self.l1_cr0() & !Cr0::TS.bits();
                self.write_cr0(value)
            }
            (CrAccessKind::Lmsw, _) => {
                // PE may be set, not cleared; MP, EM and TS are loaded.
                let source = u64::from(access.lmsw_source());
                let value = self.l1_cr0() & !0xe | source & 0xf;
                self.write_cr0(value)
            }
            (kind, cr) => unsupported(format!("{kind:?} of CR{cr} at {:#x}", exit.rip)),
        }
    }

    /// What MOV to a control register has in its register.
    pub(super) fn cr_operand(&mut self, access: CrAccess) -> u64 {
        let value = self.gpr(access.gpr());
        if self.is_long() { value } else { value & u64::from(u32::MAX) }
    }

    /// The bits of a control register that L1 keeps from the L2 that runs, and what they are; none while L1 runs. L2 writes
    /// there what it reads there, or L1 would have been asked.
    fn kept_by_l1(&self, mask: Field<u64>, register: Field<u64>) -> (u64, u64) {
        match self.vcpu.level {
            2 => (self.vcpu.vmcs12.get(mask), self.vcpu.vmcs12.get(register)),
            _ => (0, 0),
        }
    }

    /// Bits of CR0 that cannot be cleared where VMX operation has its say.
    fn cr0_fixed(&self) -> u64 {
        let unrestricted = self.secondary12().contains(SecondaryControls::UNRESTRICTED_GUEST);
        match (self.vcpu.level, self.vcpu.vmx.vmxon) {
            (1, None) => 0,
            (1, Some(_)) => CR0_FIXED0,
            _ if unrestricted => CR0_FIXED0 & !(Cr0::PE | Cr0::PG).bits(),
            _ => CR0_FIXED0,
        }
    }

    fn write_cr0(&mut self, value: u64) -> Next {
        let (mask, own) = self.kept_by_l1(vmcs::CR0_GUEST_HOST_MASK, vmcs::GUEST_CR0);
        let old = Cr0::from_bits_retain(own & mask | self.l1_cr0() & !mask);
        if value >> 32 != 0 {
            return Next::Raise(Fault::GP);
        }
        let shown = value & CR0_DEFINED | Cr0::ET.bits();
        let value = own & mask & CR0_DEFINED | shown & !mask | Cr0::ET.bits();
        let new = Cr0::from_bits_retain(value);
        let broken = new.contains(Cr0::PG) && !new.contains(Cr0::PE) || new.contains(Cr0::NW) && !new.contains(Cr0::CD);
        let fixed = self.cr0_fixed();
        if broken || value & fixed != fixed {
            return Next::Raise(Fault::GP);
        }
        let (mask4, own4) = self.kept_by_l1(vmcs::CR4_GUEST_HOST_MASK, vmcs::GUEST_CR4);
        let cr4 = Cr4::from_bits_retain(own4 & mask4 | self.l1_cr4() & !mask4);
        let efer = Efer::from_bits_retain(self.get(vmcs::GUEST_EFER));
        if (old ^ new).contains(Cr0::PG) {
            if new.contains(Cr0::PG) {
                if efer.contains(Efer::LME) {
                    let code = AccessRights::from_bits(self.get(vmcs::GUEST_CS_ACCESS_RIGHTS));
                    if !cr4.contains(Cr4::PAE) || code.long() {
                        return Next::Raise(Fault::GP);
                    }
                    self.set_long_mode(true);
                } else if cr4.contains(Cr4::PAE) {
                    let cr3 = self.get(vmcs::GUEST_CR3);
                    if !self.load_pdptes(cr3) {
                        return Next::Raise(Fault::GP);
                    }
                }
            } else {
                if cr4.contains(Cr4::PCIDE) || self.is_long() {
                    return Next::Raise(Fault::GP);
                }
                if efer.contains(Efer::LMA) {
                    self.set_long_mode(false);
                }
            }
        }
        let real = value & !(Cr0::CD | Cr0::NW).bits() | Cr0::NE.bits();
        self.update(vmcs::GUEST_CR0, real);
        let shadow = self.get(vmcs::CR0_READ_SHADOW) & mask | shown & !mask;
        self.update(vmcs::CR0_READ_SHADOW, shadow);
        Next::Skip
    }

    fn set_long_mode(&mut self, on: bool) {
        let mut efer = Efer::from_bits_retain(self.get(vmcs::GUEST_EFER));
        efer.set(Efer::LMA, on);
        self.set(vmcs::GUEST_EFER, efer.bits());
        let mut entry = self.get(vmcs::ENTRY_CONTROLS);
        entry.set(EntryControls::IA32E_MODE_GUEST, on);
        self.set(vmcs::ENTRY_CONTROLS, entry);
    }

    fn write_cr4(&mut self, value: u64) -> Next {
        let (mask, own) = self.kept_by_l1(vmcs::CR4_GUEST_HOST_MASK, vmcs::GUEST_CR4);
        let old = Cr4::from_bits_retain(own & mask | self.l1_cr4() & !mask);
        let shown = value;
        let value = own & mask | value & !mask;
        let new = Cr4::from_bits_retain(value);
        if value & !self.shared.capabilities.cr4_fixed1 != 0 {
            return Next::Raise(Fault::GP);
        }
        let in_vmx = self.vcpu.level == 2 || self.vcpu.vmx.vmxon.is_some();
        if in_vmx && value & CR4_FIXED0 != CR4_FIXED0 {
            return Next::Raise(Fault::GP);
        }
        let long = self.get(vmcs::GUEST_EFER) & Efer::LMA.bits() != 0;
        let cr3 = self.get(vmcs::GUEST_CR3);
        if long && (!new.contains(Cr4::PAE) || (old ^ new).contains(Cr4::LA57)) {
            return Next::Raise(Fault::GP);
        }
        if new.contains(Cr4::PCIDE) && !old.contains(Cr4::PCIDE) && (!long || cr3 & 0xfff != 0) {
            return Next::Raise(Fault::GP);
        }
        let (mask0, own0) = self.kept_by_l1(vmcs::CR0_GUEST_HOST_MASK, vmcs::GUEST_CR0);
        let paging = (own0 & mask0 | self.l1_cr0() & !mask0) & Cr0::PG.bits() != 0;
        let reloads = Cr4::PSE | Cr4::PAE | Cr4::PGE | Cr4::SMEP;
        if paging && !long && new.contains(Cr4::PAE) && (old ^ new).intersects(reloads) && !self.load_pdptes(cr3) {
            return Next::Raise(Fault::GP);
        }
        self.update(vmcs::GUEST_CR4, value | Cr4::VMXE.bits());
        let shadow = self.get(vmcs::CR4_READ_SHADOW) & mask | shown & !mask;
        self.update(vmcs::CR4_READ_SHADOW, shadow);
        if (old ^ new).intersects(Cr4::PGE | Cr4::PAE | Cr4::PSE | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP | Cr4::LA57) {
            self.flush_guest_linear();
        }
        Next::Skip
    }

    /// The running guest changed its own paging in a way that drops its linear translations, and L0 emulated it.
    pub(super) fn flush_guest_linear(&mut self) {
        let vpid = self.get(vmcs::VPID);
        if vpid != 0 {
            let cause = hv_defs::event::Cause::GuestPaging;
            self.invvpid(hv_defs::ept::InvvpidType::Single, vpid, 0, cause);
        }
    }
}
