//! Where things lie in L1's memory, and in each L2's.

use super::dice::Dice;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Bytes of L1's RAM: not a whole number of large pages, so that EPT01 ends in small ones.
pub(crate) const RAM: u64 = (8 << 20) + 0x3000;
pub(crate) const RAM_END: u64 = RAM;

pub(crate) const PML4: u64 = 0x1000;
pub(crate) const PDPT: u64 = 0x2000;
pub(crate) const PD: u64 = 0xa000;
pub(crate) const PT: u64 = 0xe000;
/// Where the devices are in linear addresses: all else that is no RAM is not mapped.
pub(crate) const DEVICES: u64 = 0x40_c000_0000;
/// PAE and 32-bit tables, for L2s that use them.
pub(crate) const PAE_PDPT: u64 = 0x3000;
pub(crate) const PAE_PD: u64 = 0x8000;
pub(crate) const PD32: u64 = 0x9000;
pub(crate) const GDT: u64 = 0x4000;
pub(crate) const IDT: u64 = 0x5000;
pub(crate) const TSS: u64 = 0x6000;
pub(crate) const COUNTER: u64 = 0x7000;
pub(crate) const RESUMES: u64 = 0x7008;
pub(crate) const TABLE_OPERANDS: u64 = 0x7100;
/// Addresses of VMCSs, of a VMXON region, and others.
pub(crate) const POINTERS: u64 = 0x7200;
pub(crate) const POINTER_COUNT: u64 = 24;
/// Descriptors for INVEPT and INVVPID.
pub(crate) const DESCRIPTORS: u64 = 0x7400;
pub(crate) const SCRATCH: u64 = 0x7600;
pub(crate) const STACK: u64 = 0xc000;
pub(crate) const FAULT_STACK: u64 = 0xd000;

pub(crate) const VMCSS: u64 = 7;
pub(crate) const VMXON: u64 = 0x1_7000;
/// Where vmcs12 `number` lies.
pub(crate) const fn vmcs12(number: u64) -> u64 {
    0x1_0000 + number * 0x1000
}

pub(crate) const MSR_BITMAP: u64 = 0x1_a000;
pub(crate) const IO_BITMAP_A: u64 = 0x1_b000;
pub(crate) const IO_BITMAP_B: u64 = 0x1_c000;
pub(crate) const VIRTUAL_APIC: u64 = 0x1_d000;
pub(crate) const APIC_ACCESS: u64 = 0x1_e000;
pub(crate) const PML: u64 = 0x1_f000;
pub(crate) const EPTP_LIST: u64 = 0x2_0000;
pub(crate) const VMREAD_BITMAP: u64 = 0x2_1000;
pub(crate) const VMWRITE_BITMAP: u64 = 0x2_2000;
pub(crate) const SHADOW_VMCS: u64 = 0x2_3000;
pub(crate) const MSR_AREA: u64 = 0x2_4000;
pub(crate) const POSTED: u64 = 0x2_8000;

/// Good vmcs12s.
pub(crate) const TEMPLATES: u64 = 8;
pub(crate) const fn template(number: u64) -> u64 {
    0x3_0000 + number * 0x1000
}

/// EPT12 tables: four roots with a table of each level.
pub(crate) const EPT12: u64 = 0x4_0000;
pub(crate) const TABLES: u64 = 16;

pub(crate) const DRIVER: u64 = 0x5_0000;
pub(crate) const RESUMER: u64 = 0x5_0100;
pub(crate) const AGAIN: u64 = 0x5_0200;
pub(crate) const HANDLER: u64 = 0x5_0300;
pub(crate) const CODE: u64 = 0x6_0000;
pub(crate) const CHUNKS: u64 = 256;
pub(crate) const CHUNK_SHIFT: u8 = 8;
pub(crate) const CHUNK: usize = 1 << CHUNK_SHIFT;
/// L2's memory, where the same lies again.
pub(crate) const L2: u64 = 0x20_0000;

/// Where a write has the board change L1's memory, as a device would.
pub(crate) const REFRESH_PORT: u16 = 0x5a0;

/// L1's instructions that begin the L2 of the first template, from the first vmcs12. Those behind are for an entry that fails.
pub(crate) fn begin_l2(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.vmclear(qword_ptr(POINTERS))?;
    a.mov(esi, template(0) as u32)?;
    a.mov(edi, vmcs12(0) as u32)?;
    a.mov(ecx, hv::vmcs::SIZE as u32 / 8)?;
    a.rep().movsq()?;
    a.vmptrld(qword_ptr(POINTERS))?;
    a.vmlaunch()
}

/// Pages that are something.
pub(crate) const PAGES: &[u64] = &[
    0,
    0xb000,
    0x1_0000,
    0x1_1000,
    VMXON,
    MSR_BITMAP,
    IO_BITMAP_A,
    IO_BITMAP_B,
    VIRTUAL_APIC,
    APIC_ACCESS,
    PML,
    EPTP_LIST,
    VMREAD_BITMAP,
    VMWRITE_BITMAP,
    SHADOW_VMCS,
    MSR_AREA,
    0x2_5000,
    0x2_6000,
    POSTED,
    0x3_0000,
    EPT12,
    EPT12 + 0x1000,
    EPT12 + 0x2000,
    EPT12 + 0x3000,
    EPT12 + 0x4000,
    L2,
    0x30_0000,
    L2 + PML4,
    RAM_END - 0x1000,
    RAM_END - 0x3000,
    RAM_END,
    0x80_0000,
    0x60_0000,
    0xfee0_0000,
    0xfec0_0000,
    0xc000_0000,
    0x1_0000_0000,
    1 << 45,
    1 << 46,
    (1 << 52) - 0x1000,
    u64::MAX << 12,
];

/// What L1 itself lives by: it seldom survives a change there.
const VITAL: &[u64] = &[PML4, PDPT, PD, PT, GDT, IDT, TSS, 0x7000, FAULT_STACK - 0x1000, DRIVER, CODE, L2 + CODE];

/// An address that may be good for something.
pub(crate) fn address_of(dice: &mut Dice) -> u64 {
    match dice.below(12) {
        0 => dice.number(),
        1 => dice.pick(PAGES) | dice.below(0x1000),
        2 => (0x8_0000 + dice.below(RAM_END - 0x8_0000)) & !0xfff,
        3 if dice.once_in(20) => dice.pick(VITAL),
        _ => dice.pick(PAGES),
    }
}

/// An EPT pointer; mostly a good one.
pub(crate) fn eptp(dice: &mut Dice) -> u64 {
    let root = EPT12 + 0x4000 * dice.below(4);
    match dice.below(12) {
        0 => dice.number(),
        1 => address_of(dice) | 0x1e,
        2 => root | dice.below(0x1000),
        3..=5 => root | 0x5e,
        _ => root | 0x1e,
    }
}

/// An entry of an EPT table; mostly one that could be.
pub(crate) fn entry(dice: &mut Dice) -> u64 {
    let table = EPT12 + dice.below(TABLES) * 0x1000;
    match dice.below(10) {
        0 => 0,
        1 => dice.number(),
        2 => table | dice.below(8),
        3..=4 => table | 7,
        5 => dice.pick(&[0x20_0000, 0, 0x60_0000, 0x80_0000, 0x4000_0000, 0x20_1000]) | 0xb7,
        6 => address_of(dice) & !0xfff | 0xb7,
        7 => address_of(dice) & !0xfff | 0x30 | dice.below(8),
        8 => dice.pick(PAGES) | 0x37 | dice.below(2) << dice.below(64),
        _ => dice.pick(PAGES) | 0x37,
    }
}
