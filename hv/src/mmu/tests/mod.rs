//! What each flush leaves, and what walks answer.

mod flushes;
mod walks;

use hv_defs::x86::{Cr0, Cr4, Efer};

// 64-bit paging with all that it can have.
const CR0: u64 = Cr0::PE.bits() | Cr0::PG.bits() | Cr0::WP.bits();
const CR4: u64 = Cr4::PAE.bits() | Cr4::PGE.bits() | Cr4::PCIDE.bits();
const EFER: u64 = Efer::LMA.bits() | Efer::LME.bits() | Efer::NXE.bits();
