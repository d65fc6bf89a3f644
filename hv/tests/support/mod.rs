//! A guest in 64-bit mode on the software silicon, with as little around it as the architecture allows.

#![allow(dead_code)] // Each user of this module uses part of it.

use hv::silicon::{Outcome, Silicon, SiliconExt};
use hv::soft::SoftSilicon;
use hv_defs::addr::Hpa;
use hv_defs::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::Eptp;
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::vmcs::*;
use hv_defs::x86::msr;

/// Where the guest's memory begins, and EPT maps guest-physical 0 to.
pub(crate) const RAM: u64 = 0x10_0000;
/// Bytes of it.
pub(crate) const RAM_SIZE: u64 = 0x20_0000;
/// The guest's page tables: linear addresses are guest-physical ones, in 4 KiB pages.
pub(crate) const PML4: u64 = 0x1_0000;
/// The first page table.
pub(crate) const PT: u64 = PML4 + 0x3000;
/// Where code goes.
pub(crate) const CODE: u64 = 0x2000;
/// Host-physical: the EPT paging structures, the last of them the page table.
pub(crate) const EPT: u64 = 0x1_0000;
/// The EPT page table.
pub(crate) const EPT_PT: u64 = EPT + 0x3000;

/// The EPT pointer of [`EPT`].
pub(crate) fn eptp() -> Eptp {
    Eptp::new().with_memory_type(6).with_walk_length_less_one(3).with_pfn(EPT >> 12)
}

/// Writes 64-bit words.
pub(crate) fn poke(silicon: &mut SoftSilicon, at: u64, words: &[u64]) {
    for (number, word) in words.iter().enumerate() {
        silicon.write(Hpa(at + 8 * number as u64), &word.to_le_bytes());
    }
}

/// Reads a 64-bit word.
pub(crate) fn peek(silicon: &mut SoftSilicon, at: u64) -> u64 {
    let mut bytes = [0; 8];
    silicon.read(Hpa(at), &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Silicon with the guest's memory, its page tables and EPT, and `code` in it.
pub(crate) fn silicon(code: &[u8]) -> SoftSilicon {
    let mut silicon = SoftSilicon::new(RAM + RAM_SIZE, 2, 64, 0);
    for (table, user) in [(RAM + PML4, 7), (EPT, 7)] {
        let next = |level: u64| (table + 0x1000 * level) - if table == EPT { 0 } else { RAM };
        poke(&mut silicon, table, &[next(1) | user]);
        poke(&mut silicon, table + 0x1000, &[next(2) | user]);
        poke(&mut silicon, table + 0x2000, &[next(3) | user]);
        for page in 0..RAM_SIZE >> 12 {
            let entry = if table == EPT { (RAM + (page << 12)) | 0x37 } else { page << 12 | 7 };
            poke(&mut silicon, table + 0x3000 + 8 * page, &[entry]);
        }
    }
    silicon.write(Hpa(RAM + CODE), code);
    silicon
}

/// A VMCS at `at`, cleared, loaded on CPU 0 and filled in for the guest.
pub(crate) fn vmcs(silicon: &mut SoftSilicon, at: u64, vpid: u16) {
    silicon.vmclear(0, Hpa(at));
    silicon.vmptrld(0, Hpa(at));
    let allowed = |silicon: &SoftSilicon, number: u32, wanted: u32| {
        let allowed = silicon.capability(number);
        (wanted | allowed as u32) & (allowed >> 32) as u32
    };
    let pin = allowed(silicon, msr::VMX_TRUE_PINBASED_CTLS, PinBased::EXTERNAL_INTERRUPT_EXITING.bits());
    silicon.set(0, PIN_BASED_CONTROLS, PinBased::from_bits_retain(pin));
    let wanted = PrimaryControls::HLT_EXITING | PrimaryControls::ACTIVATE_SECONDARY;
    let primary = allowed(silicon, msr::VMX_TRUE_PROCBASED_CTLS, wanted.bits());
    silicon.set(0, PRIMARY_CONTROLS, PrimaryControls::from_bits_retain(primary));
    let mut secondary = SecondaryControls::EPT | SecondaryControls::UNRESTRICTED_GUEST;
    secondary.set(SecondaryControls::VPID, vpid != 0);
    silicon.set(0, SECONDARY_CONTROLS, secondary);
    silicon.set(0, VPID, vpid);
    silicon.set(0, EPT_POINTER, eptp());
    let wanted = ExitControls::HOST_ADDRESS_SPACE_SIZE | ExitControls::SAVE_EFER | ExitControls::LOAD_EFER;
    let exit = allowed(silicon, msr::VMX_TRUE_EXIT_CTLS, wanted.bits());
    silicon.set(0, EXIT_CONTROLS, ExitControls::from_bits_retain(exit));
    let wanted = EntryControls::IA32E_MODE_GUEST | EntryControls::LOAD_EFER;
    let entry = allowed(silicon, msr::VMX_TRUE_ENTRY_CTLS, wanted.bits());
    silicon.set(0, ENTRY_CONTROLS, EntryControls::from_bits_retain(entry));
    silicon.set(0, VMCS_LINK_POINTER, u64::MAX);

    silicon.set(0, HOST_CR0, 0x8000_0033);
    silicon.set(0, HOST_CR4, 0x2020);
    silicon.set(0, HOST_EFER, 0x500);
    for (field, value) in [(HOST_CS_SELECTOR, 8), (HOST_SS_SELECTOR, 16), (HOST_TR_SELECTOR, 24)] {
        silicon.set(0, field, value);
    }

    silicon.set(0, GUEST_CR0, 0x8001_0033);
    silicon.set(0, GUEST_CR3, PML4);
    silicon.set(0, GUEST_CR4, 0x20a0 | 1 << 9);
    silicon.set(0, GUEST_EFER, 0xd01);
    silicon.set(0, GUEST_RFLAGS, 2);
    silicon.set(0, GUEST_RIP, CODE);
    silicon.set(0, GUEST_RSP, 0x8000);
    silicon.set(0, GUEST_DR7, 0x400);
    silicon.set(0, GUEST_CS_SELECTOR, 8);
    silicon.set(0, GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    silicon.set(0, GUEST_CS_LIMIT, u32::MAX);
    for (selector, rights, limit) in [
        (GUEST_SS_SELECTOR, GUEST_SS_ACCESS_RIGHTS, GUEST_SS_LIMIT),
        (GUEST_DS_SELECTOR, GUEST_DS_ACCESS_RIGHTS, GUEST_DS_LIMIT),
        (GUEST_ES_SELECTOR, GUEST_ES_ACCESS_RIGHTS, GUEST_ES_LIMIT),
        (GUEST_FS_SELECTOR, GUEST_FS_ACCESS_RIGHTS, GUEST_FS_LIMIT),
        (GUEST_GS_SELECTOR, GUEST_GS_ACCESS_RIGHTS, GUEST_GS_LIMIT),
    ] {
        silicon.set(0, selector, 16);
        silicon.set(0, rights, 0xc093);
        silicon.set(0, limit, u32::MAX);
    }
    silicon.set(0, GUEST_TR_ACCESS_RIGHTS, 0x8b);
    silicon.set(0, GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000);
}

/// Enters the current VMCS of CPU 0, which must be entered and exit.
pub(crate) fn enter(silicon: &mut SoftSilicon, launch: bool) -> ExitReason {
    enter_until(silicon, launch, u64::MAX)
}

/// As [`enter`], until an instruction.
pub(crate) fn enter_until(silicon: &mut SoftSilicon, launch: bool, until: u64) -> ExitReason {
    match silicon.enter(0, launch, until) {
        Ok(Outcome::Exited(_)) => silicon.get(0, EXIT_REASON),
        other => panic!("{other:?}"),
    }
}

/// Moves RIP behind the instruction that exited.
pub(crate) fn skip(silicon: &mut SoftSilicon) {
    let rip = silicon.get(0, GUEST_RIP) + u64::from(silicon.get(0, EXIT_INSTRUCTION_LENGTH));
    silicon.set(0, GUEST_RIP, rip);
}

/// Whether an exit is an ordinary one for `reason`.
pub(crate) fn is(exit: ExitReason, reason: Reason) -> bool {
    exit == ExitReason::of(reason)
}
