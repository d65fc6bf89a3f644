//! EPT entries and pointers, and the operands of INVEPT and INVVPID.

use crate::addr::PAGE_SIZE;
use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

/// The extended-page-table pointer. See: SDM "Extended-Page-Table Pointer (EPTP)".
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Eptp {
    /// 0 uncacheable, 6 write-back.
    #[bits(3)]
    pub memory_type: u8,
    /// Page-walk length less one: 3, or 4 with 5-level EPT.
    #[bits(3)]
    pub walk_length_less_one: u8,
    pub accessed_dirty: bool,
    pub supervisor_shadow_stack: bool,
    #[bits(4)]
    __: u8,
    #[bits(40)]
    pub pfn: u64,
    #[bits(12)]
    __: u16,
}

impl Eptp {
    /// The tag of the translations made under it: bits 51:12, and nothing of its other bits.
    pub const fn ep4ta(self) -> u64 {
        self.pfn() * PAGE_SIZE
    }
}

/// An entry of any EPT paging structure. Which bits mean something depends on its level and on bit 7.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct EptEntry {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    /// Leaf only.
    #[bits(3)]
    pub memory_type: u8,
    /// Leaf only.
    pub ignore_pat: bool,
    /// Maps a 1 GiB or 2 MiB page, in a PDPTE or a PDE.
    pub large: bool,
    pub accessed: bool,
    /// Leaf only.
    pub dirty: bool,
    /// With mode-based execute control.
    pub user_execute: bool,
    __: bool,
    #[bits(40)]
    pub pfn: u64,
    #[bits(11)]
    __: u16,
    pub suppress_ve: bool,
}

impl EptEntry {
    /// Whether any of the read, write and execute bits is set (not counting mode-based execute).
    pub const fn present(self) -> bool {
        self.into_bits() & 7 != 0
    }

    /// Whether it is present: any of those bits is set, or with mode-based execute control (`mode_based`) that for
    /// user-mode addresses.
    pub const fn present_in(self, mode_based: bool) -> bool {
        self.present() || mode_based && self.user_execute()
    }

    /// The physical address that it points to.
    pub const fn address(self) -> u64 {
        self.pfn() * PAGE_SIZE
    }
}

/// INVVPID's types. See: SDM "INVVPID—Invalidate Translations Based on VPID".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum InvvpidType {
    Address = 0,
    Single = 1,
    All = 2,
    RetainGlobals = 3,
}

impl InvvpidType {
    /// The type of that number, if there is one.
    pub const fn new(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Address),
            1 => Some(Self::Single),
            2 => Some(Self::All),
            3 => Some(Self::RetainGlobals),
            _ => None,
        }
    }
}

/// INVEPT's types. See: SDM "INVEPT—Invalidate Translations Derived from EPT".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum InveptType {
    Single = 1,
    All = 2,
}

impl InveptType {
    /// The type of that number, if there is one.
    pub const fn new(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Single),
            2 => Some(Self::All),
            _ => None,
        }
    }
}

/// INVVPID's 128-bit memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InvvpidDescriptor {
    /// The VPID.
    pub vpid: u16,
    /// Bits 63:16, which must be zero.
    pub reserved: u64,
    /// The guest-linear address, for [`InvvpidType::Address`].
    pub address: u64,
}

impl InvvpidDescriptor {
    /// The operand as it lies in memory.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { vpid: words[0] as u16, reserved: words[0] >> 16, address: words[1] }
    }
}

/// INVEPT's 128-bit memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InveptDescriptor {
    /// The EPT pointer.
    pub eptp: Eptp,
    /// The upper half, which must be zero.
    pub reserved: u64,
}

impl InveptDescriptor {
    /// The operand as it lies in memory.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { eptp: Eptp::from_bits(words[0]), reserved: words[1] }
    }
}
