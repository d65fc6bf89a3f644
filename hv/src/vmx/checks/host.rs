//! Checks on host state.

use super::{Subject, canonical, fits, pat, rows};
use hv_defs::addr::is_canonical;
use hv_defs::controls::{EntryControls, ExitControls};
use hv_defs::vmcs::*;
use hv_defs::x86::{Cr4, Efer};

rows! {
    /// The rows, in the SDM's order.
    HOST:
    // control registers and MSRs
    "host-cr0" => |s| {
        let (cr0, caps) = (s.get(HOST_CR0), s.capabilities);
        cr0 & caps.cr0_fixed0 == caps.cr0_fixed0 && cr0 & !caps.cr0_fixed1 == 0
    };
    "host-cr4" => |s| {
        let (cr4, caps) = (s.get(HOST_CR4), s.capabilities);
        cr4 & caps.cr4_fixed0 == caps.cr4_fixed0 && cr4 & !caps.cr4_fixed1 == 0
    };
    "host-cr3" => |s| fits(s.get(HOST_CR3));
    "host-sysenter-esp" => |s| canonical(s, s.get(HOST_SYSENTER_ESP));
    "host-sysenter-eip" => |s| canonical(s, s.get(HOST_SYSENTER_EIP));
    "host-pat" => |s| !s.exit(ExitControls::LOAD_PAT) || pat(s.get(HOST_PAT));
    "host-efer-reserved" => |s| !s.exit(ExitControls::LOAD_EFER) || s.get(HOST_EFER) & !Efer::all().bits() == 0;
    "host-efer-mode" => |s| {
        let both = (Efer::LMA | Efer::LME).bits();
        !s.exit(ExitControls::LOAD_EFER) || s.get(HOST_EFER) & both == if long(s) { both } else { 0 }
    };
    // segment and descriptor-table registers
    "host-cs-selector" => |s| s.get(HOST_CS_SELECTOR) & 7 == 0;
    "host-ss-selector" => |s| s.get(HOST_SS_SELECTOR) & 7 == 0;
    "host-ds-selector" => |s| s.get(HOST_DS_SELECTOR) & 7 == 0;
    "host-es-selector" => |s| s.get(HOST_ES_SELECTOR) & 7 == 0;
    "host-fs-selector" => |s| s.get(HOST_FS_SELECTOR) & 7 == 0;
    "host-gs-selector" => |s| s.get(HOST_GS_SELECTOR) & 7 == 0;
    "host-tr-selector" => |s| s.get(HOST_TR_SELECTOR) & 7 == 0;
    "host-cs-null" => |s| s.get(HOST_CS_SELECTOR) != 0;
    "host-tr-null" => |s| s.get(HOST_TR_SELECTOR) != 0;
    "host-ss-null" => |s| long(s) || s.get(HOST_SS_SELECTOR) != 0;
    "host-fs-base" => |s| canonical(s, s.get(HOST_FS_BASE));
    "host-gs-base" => |s| canonical(s, s.get(HOST_GS_BASE));
    "host-gdtr-base" => |s| canonical(s, s.get(HOST_GDTR_BASE));
    "host-idtr-base" => |s| canonical(s, s.get(HOST_IDTR_BASE));
    "host-tr-base" => |s| canonical(s, s.get(HOST_TR_BASE));
    // address-space size
    "host-long-mode-guest" => |s| s.long_mode_host || !s.entry(EntryControls::IA32E_MODE_GUEST);
    "host-address-space-size" => |s| s.long_mode_host == long(s);
    "host-32-bit-long-mode-guest" => |s| long(s) || !s.entry(EntryControls::IA32E_MODE_GUEST);
    "host-32-bit-pcide" => |s| long(s) || s.get(HOST_CR4) & Cr4::PCIDE.bits() == 0;
    "host-32-bit-rip" => |s| long(s) || s.get(HOST_RIP) >> 32 == 0;
    "host-64-bit-pae" => |s| !long(s) || s.get(HOST_CR4) & Cr4::PAE.bits() != 0;
    "host-64-bit-rip" => |s| !long(s) || is_canonical(s.get(HOST_RIP), s.get(HOST_CR4) & Cr4::LA57.bits() != 0);
}

fn long(s: &Subject<'_>) -> bool {
    s.exit(ExitControls::HOST_ADDRESS_SPACE_SIZE)
}
