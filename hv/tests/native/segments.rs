//! The descriptors that cases may name: those that Linux has in its global table for every process, and a local table
//! of our own, the same on the host and here.

use super::host::{CODE, DATA};

/// An entry of the local descriptor table.
pub struct Entry {
    pub base: u32,
    pub limit: u32,
    /// 0 data, 1 expand-down data, 2 code.
    pub contents: u32,
    pub big: bool,
    /// Read-only data, execute-only code.
    pub restricted: bool,
    pub present: bool,
}

impl Entry {
    /// The flags of the kernel's `user_desc`.
    pub fn description(&self) -> u32 {
        u32::from(self.big) | self.contents << 1 | u32::from(self.restricted) << 3 | u32::from(!self.present) << 5
    }

    /// The descriptor that the kernel makes of it.
    pub fn descriptor(&self) -> u64 {
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let kind = u64::from(!self.restricted) << 1 | u64::from(self.contents) << 2 | 1;
        let rights = 0x70 | kind | u64::from(self.present) << 7;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | rights << 40
            | (limit >> 16 & 0xf) << 48
            | u64::from(self.big) << 54
            | (base >> 24) << 56
    }
}

const fn data(limit: u32, contents: u32, restricted: bool, present: bool) -> Entry {
    Entry { base: DATA as u32, limit, contents, big: true, restricted, present }
}

/// The local descriptor table.
pub const LDT: [Entry; 7] = [
    Entry { base: CODE as u32, limit: 0xffff, contents: 2, big: false, restricted: false, present: true },
    data(0xffff, 0, false, true),
    data(2048 + 160, 0, false, true),
    data(2048 - 100, 1, false, true),
    data(0xffff, 0, true, true),
    Entry { base: CODE as u32, limit: 0xffff, contents: 2, big: true, restricted: true, present: true },
    data(0xffff, 0, false, false),
];

/// The global descriptor table, as far as Linux sets it up alike everywhere.
pub const GDT: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    // The task-state segment and the local table, 16 bytes each.
    0x0000_8b00_0000_2087,
    0,
    0x0000_8200_0000_0fff,
    0,
    0,
    0,
    0,
    // Of a limit that tells the CPU's number.
    0x0040_f500_0000_0000,
];

/// 64-bit code, 32-bit code and flat data, as the kernel has them.
pub const CODE64: u16 = 0x33;
pub const CODE32: u16 = 0x23;
pub const FLAT: u16 = 0x2b;
/// Of the local table: 16-bit code, and data at [`DATA`].
pub const CODE16: u16 = 0x07;
pub const NEAR: u16 = 0x0f;

/// Selectors to load: of data that can be, then of anything.
pub const GOOD: [u16; 6] = [FLAT, NEAR, 0x17, 0x1f, 0x27, 0];
pub const ANY: [u16; 20] = [
    FLAT, NEAR, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0, 1, CODE16, CODE32, CODE64, 0x28, 0x10, 0x18, 0x40, 0x3f, 0x60, 0xfff8,
    0xffff,
];

/// The descriptor of a selector, if its table has it.
pub fn descriptor(selector: u16) -> u64 {
    let index = usize::from(selector >> 3);
    let found = if selector & 4 != 0 { LDT.get(index).map(Entry::descriptor) } else { GDT.get(index).copied() };
    found.unwrap_or(0)
}

/// Where a segment begins, when its register has been loaded in the ordinary way.
pub fn base(selector: u16) -> u64 {
    let descriptor = descriptor(selector);
    descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24
}

/// Whether FS's or GS's base may be anything under this selector.
pub fn has_any_base(selector: u16) -> bool {
    selector < 4
}
