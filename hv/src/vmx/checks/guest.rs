//! Checks on guest state, segment registers apart.

use super::{Subject, canonical, fits, page, pat, rows};
use crate::mmu::PHYSICAL_BITS;
use crate::vmcs::{REVISION, SHADOW};
use hv_defs::controls::{ActivityState, EntryControls, Interruptibility, PinBased, SecondaryControls};
use hv_defs::event::NO_ADDRESS;
use hv_defs::exit::EventType;
use hv_defs::vmcs::*;
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer, Rflags, Vector};

rows! {
    /// The rows on control registers, debug registers and MSRs, in the SDM's order.
    GUEST_REGISTERS:
    "guest-cr0" => |s| {
        let free = if s.unrestricted() { (Cr0::PE | Cr0::PG).bits() } else { 0 };
        let (cr0, must) = (s.get(GUEST_CR0), s.capabilities.cr0_fixed0 & !free);
        cr0 & must == must && cr0 & !s.capabilities.cr0_fixed1 == 0
    };
    "guest-cr0-paging-unprotected" => |s| {
        let cr0 = Cr0::from_bits_retain(s.get(GUEST_CR0));
        !cr0.contains(Cr0::PG) || cr0.contains(Cr0::PE)
    };
    "guest-cr4" => |s| {
        let (cr4, caps) = (s.get(GUEST_CR4), s.capabilities);
        cr4 & caps.cr4_fixed0 == caps.cr4_fixed0 && cr4 & !caps.cr4_fixed1 == 0
    };
    "guest-debugctl-reserved" => |s| {
        !s.entry(EntryControls::LOAD_DEBUG_CONTROLS) || s.get(GUEST_DEBUGCTL) & !DEBUGCTL == 0
    };
    "guest-long-mode-without-paging" => |s| !s.long_mode_guest() || s.get(GUEST_CR0) & Cr0::PG.bits() != 0;
    "guest-long-mode-without-pae" => |s| !s.long_mode_guest() || s.get(GUEST_CR4) & Cr4::PAE.bits() != 0;
    "guest-pcide-outside-long-mode" => |s| s.long_mode_guest() || s.get(GUEST_CR4) & Cr4::PCIDE.bits() == 0;
    "guest-cr3" hot => |s| fits(s.get(GUEST_CR3));
    "guest-dr7-high" => |s| !s.entry(EntryControls::LOAD_DEBUG_CONTROLS) || s.get(GUEST_DR7) >> 32 == 0;
    "guest-sysenter-esp" => |s| canonical(s, s.get(GUEST_SYSENTER_ESP));
    "guest-sysenter-eip" => |s| canonical(s, s.get(GUEST_SYSENTER_EIP));
    "guest-pat" => |s| !s.entry(EntryControls::LOAD_PAT) || pat(s.get(GUEST_PAT));
    "guest-efer-reserved" => |s| !s.entry(EntryControls::LOAD_EFER) || s.get(GUEST_EFER) & !Efer::all().bits() == 0;
    "guest-efer-lma" => |s| {
        !s.entry(EntryControls::LOAD_EFER)
            || (s.get(GUEST_EFER) & Efer::LMA.bits() != 0) == s.long_mode_guest()
    };
    "guest-efer-lme" => |s| {
        let efer = Efer::from_bits_retain(s.get(GUEST_EFER));
        !s.entry(EntryControls::LOAD_EFER)
            || s.get(GUEST_CR0) & Cr0::PG.bits() == 0
            || efer.contains(Efer::LME) == efer.contains(Efer::LMA)
    };
}

rows! {
    /// The rows on descriptor tables, RIP, RFLAGS and state that is no register, in the SDM's order.
    GUEST:
    // descriptor-table registers
    "guest-gdtr-base" => |s| canonical(s, s.get(GUEST_GDTR_BASE));
    "guest-idtr-base" => |s| canonical(s, s.get(GUEST_IDTR_BASE));
    "guest-gdtr-limit" => |s| s.get(GUEST_GDTR_LIMIT) >> 16 == 0;
    "guest-idtr-limit" => |s| s.get(GUEST_IDTR_LIMIT) >> 16 == 0;
    // RIP and RFLAGS
    "guest-rip-high" hot => |s| code64(s) || s.get(GUEST_RIP) >> 32 == 0;
    // Not quite canonical: an instruction at the end of the lower half leaves the first address behind it.
    "guest-rip-identical" hot => |s| !code64(s) || {
        let shift = if s.linear_57() { 57 } else { 48 };
        matches!((s.get(GUEST_RIP) as i64) >> shift, 0 | -1)
    };
    "guest-rflags-reserved" hot => |s| s.get(GUEST_RFLAGS) & !Rflags::all().bits() == 0;
    "guest-rflags-one" hot => |s| flag(s, Rflags::ONE);
    "guest-rflags-vm" hot => |s| {
        !flag(s, Rflags::VM) || !s.long_mode_guest() && s.get(GUEST_CR0) & Cr0::PE.bits() != 0
    };
    "guest-rflags-if" hot => |s| flag(s, Rflags::IF) || !s.injects(EventType::ExternalInterrupt);
    // activity state
    "guest-activity-state" hot => |s| s.capabilities.has_activity_state(s.get(GUEST_ACTIVITY_STATE));
    "guest-activity-halted-above-ring-0" hot => |s| {
        activity(s) != Some(ActivityState::Hlt)
            || AccessRights::from_bits(s.get(GUEST_SS_ACCESS_RIGHTS)).dpl() == 0
    };
    "guest-activity-blocked" hot => |s| {
        activity(s) == Some(ActivityState::Active)
            || !blocked(s, Interruptibility::STI) && !blocked(s, Interruptibility::MOV_SS)
    };
    "guest-activity-injection" hot => |s| s.injected().is_none_or(|info| {
        let kind = info.kind();
        match activity(s) {
            Some(ActivityState::Hlt) => match kind {
                EventType::ExternalInterrupt | EventType::Nmi | EventType::Other => true,
                EventType::HardwareException => matches!(Vector(info.vector()), Vector::DB | Vector::MC),
                _ => false,
            },
            Some(ActivityState::Shutdown) => {
                kind == EventType::Nmi || kind == EventType::HardwareException && Vector(info.vector()) == Vector::MC
            }
            Some(ActivityState::WaitForSipi) => false,
            _ => true,
        }
    });
    // interruptibility state
    "guest-interruptibility-reserved" hot => |s| s.get(GUEST_INTERRUPTIBILITY) >> 5 == 0;
    "guest-interruptibility-sti-and-mov-ss" hot => |s| {
        !(blocked(s, Interruptibility::STI) && blocked(s, Interruptibility::MOV_SS))
    };
    "guest-interruptibility-sti-without-if" hot => |s| !blocked(s, Interruptibility::STI) || flag(s, Rflags::IF);
    "guest-interruptibility-interrupt" hot => |s| {
        !s.injects(EventType::ExternalInterrupt)
            || !blocked(s, Interruptibility::STI) && !blocked(s, Interruptibility::MOV_SS)
    };
    "guest-interruptibility-nmi-mov-ss" hot => |s| {
        !s.injects(EventType::Nmi) || !blocked(s, Interruptibility::MOV_SS)
    };
    "guest-interruptibility-smi" hot => |s| !blocked(s, Interruptibility::SMI);
    // Left to each processor; this one requires it.
    "guest-interruptibility-nmi-sti" hot qualification(3) => |s| {
        !s.injects(EventType::Nmi) || !blocked(s, Interruptibility::STI)
    };
    "guest-interruptibility-virtual-nmi" hot => |s| {
        !s.pin(PinBased::VIRTUAL_NMIS) || !s.injects(EventType::Nmi) || !blocked(s, Interruptibility::NMI)
    };
    "guest-interruptibility-enclave" hot => |s| !blocked(s, Interruptibility::ENCLAVE);
    // pending debug exceptions
    "guest-pending-debug-reserved" hot => |s| s.get(GUEST_PENDING_DEBUG_EXCEPTIONS) & !PENDING_DEBUG == 0;
    "guest-pending-debug-single-step" hot => |s| {
        let waits = blocked(s, Interruptibility::STI)
            || blocked(s, Interruptibility::MOV_SS)
            || activity(s) == Some(ActivityState::Hlt);
        let steps = flag(s, Rflags::TF) && s.get(GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0;
        !waits || (s.get(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_BS != 0) == steps
    };
    // No CPU of ours has RTM.
    "guest-pending-debug-rtm" hot => |s| s.get(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_RTM == 0;
    // the VMCS link pointer
    "guest-link-pointer-address" qualification(4) => |s| link(s).is_none_or(page);
    "guest-link-pointer-revision" qualification(4) => |s| link(s).is_none_or(|link| {
        let shadow = if s.secondary(SecondaryControls::VMCS_SHADOWING) { SHADOW } else { 0 };
        s.memory.read_u32(link) == REVISION | shadow
    });
    "guest-link-pointer-current" qualification(4) => |s| link(s) != Some(s.address);
    // page-directory-pointer-table entries
    "guest-pdptes" qualification(2) => |s| {
        !pae(s) || !s.secondary(SecondaryControls::EPT)
            || [GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3].iter().all(|&field| pdpte(s.get(field)))
    };
    "guest-pdptes-in-memory" hot qualification(2) => |s| {
        !pae(s) || s.secondary(SecondaryControls::EPT)
            || pdptes_in_memory(s).into_iter().all(pdpte)
    };
}

/// Whether the hot fields are as they are at most entries, which spares the rows that depend on them: 64-bit code with
/// nothing injected, blocked or pending. Where this holds, all hot rows do.
#[inline]
pub fn is_plain(s: &Subject<'_>) -> bool {
    // The task priority, which the threshold is compared with, lies in memory.
    let plain_flags = Rflags::all().difference(Rflags::VM.union(Rflags::ONE)).bits();
    code64(s)
        && s.injected().is_none()
        && s.get(TPR_THRESHOLD) == 0
        && s.get(GUEST_INTERRUPTIBILITY) == 0
        && s.get(GUEST_ACTIVITY_STATE) == ActivityState::Active as u32
        && s.get(GUEST_PENDING_DEBUG_EXCEPTIONS) == 0
        && s.get(GUEST_RFLAGS) & !plain_flags == Rflags::ONE.bits()
        && canonical(s, s.get(GUEST_RIP))
        && fits(s.get(GUEST_CR3))
}

/// Bits of IA32_DEBUGCTL that WRMSR takes: LBR and BTF.
const DEBUGCTL: u64 = 3;
const DEBUGCTL_BTF: u64 = 2;
/// Bits of the pending debug exceptions that exist: B3 to B0, enabled breakpoint, BS and RTM.
const PENDING_DEBUG: u64 = 0x1_500f;
const PENDING_BS: u64 = 1 << 14;
const PENDING_RTM: u64 = 1 << 16;

fn code64(s: &Subject<'_>) -> bool {
    s.long_mode_guest() && AccessRights::from_bits(s.get(GUEST_CS_ACCESS_RIGHTS)).long()
}

fn flag(s: &Subject<'_>, flag: Rflags) -> bool {
    s.get(GUEST_RFLAGS) & flag.bits() != 0
}

fn activity(s: &Subject<'_>) -> Option<ActivityState> {
    ActivityState::new(s.get(GUEST_ACTIVITY_STATE))
}

fn blocked(s: &Subject<'_>, by: Interruptibility) -> bool {
    s.get(GUEST_INTERRUPTIBILITY) & by.bits() != 0
}

/// The VMCS link pointer, if it points anywhere.
fn link(s: &Subject<'_>) -> Option<u64> {
    Some(s.get(VMCS_LINK_POINTER)).filter(|&link| link != NO_ADDRESS)
}

fn pae(s: &Subject<'_>) -> bool {
    s.get(GUEST_CR0) & Cr0::PG.bits() != 0 && s.get(GUEST_CR4) & Cr4::PAE.bits() != 0 && !s.long_mode_guest()
}

/// The page-directory-pointer-table entries that CR3 points to.
fn pdptes_in_memory(s: &Subject<'_>) -> [u64; 4] {
    let table = s.get(GUEST_CR3) & 0xffff_ffe0;
    [0, 8, 16, 24].map(|at| {
        let (low, high) = (s.memory.read_u32(table + at), s.memory.read_u32(table + at + 4));
        u64::from(high) << 32 | u64::from(low)
    })
}

/// Whether a page-directory-pointer-table entry has no reserved bit set, if it is present.
fn pdpte(entry: u64) -> bool {
    entry & 1 == 0 || entry & (0x1e6 | !0 << PHYSICAL_BITS) == 0
}
