//! A guest's registers as GDB knows them: the description, and the bytes of a `g` packet.

use gdbstub::arch::{Arch, RegId, Registers};
use hv::l0::Guest;
use hv_defs::vmcs::{self, Field};

/// The registers' names, sizes and order.
const DESCRIPTION: &str = include_str!("target.xml");

/// A guest of 64 bits, with what its hypervisor sees of it.
#[derive(Debug)]
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Values;
    type BreakpointKind = usize;
    type RegId = Never;

    fn target_description_xml() -> Option<&'static str> {
        Some(DESCRIPTION)
    }
}

/// No register is asked for by itself.
#[derive(Debug)]
pub(super) enum Never {}

impl RegId for Never {
    fn from_raw_id(_: usize) -> Option<(Self, Option<std::num::NonZeroUsize>)> {
        None
    }
}

/// The bytes of all registers in the description's order; `None` for those that nobody keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Values {
    rip: u64,
    bytes: Vec<Option<u8>>,
}

impl Registers for Values {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.bytes.iter().for_each(|byte| write_byte(*byte));
    }

    /// Registers are not written: it is a recording.
    fn gdb_deserialize(&mut self, _: &[u8]) -> Result<(), ()> {
        Ok(())
    }
}

/// Where the parts of an FXSAVE image are.
mod fxsave {
    pub(super) const FCW: usize = 0;
    pub(super) const FSW: usize = 2;
    pub(super) const FTW: usize = 4;
    pub(super) const FOP: usize = 6;
    pub(super) const FIP: usize = 8;
    pub(super) const FDP: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
}

impl Values {
    /// Of a guest. One that does not run has those that its VMCS holds.
    pub(super) fn of(guest: &Guest) -> Self {
        let mut values = Self { rip: guest.vmcs.get(vmcs::GUEST_RIP), bytes: Vec::new() };
        let registers = guest.registers.as_deref();
        let image = registers.map(|registers| &registers.extended.0);
        let part = |at: usize, bytes: usize| image.map(|image| &image[at..at + bytes]);
        let word = |at: usize| part(at, 2).map(|bytes| u64::from(u16::from_le_bytes([bytes[0], bytes[1]])));
        // GDB's order is not the encoding's: RBX, RCX and RDX, RSI, RDI and RBP change places.
        for number in [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15] {
            let value = match number {
                4 => Some(guest.vmcs.get(vmcs::GUEST_RSP)),
                other => registers.map(|registers| registers.gpr[other]),
            };
            values.put(value, 8);
        }
        values.put(Some(values.rip), 8);
        values.put(Some(guest.vmcs.get(vmcs::GUEST_RFLAGS)), 4);
        const SELECTORS: [Field<u16>; 6] = [
            vmcs::GUEST_CS_SELECTOR,
            vmcs::GUEST_SS_SELECTOR,
            vmcs::GUEST_DS_SELECTOR,
            vmcs::GUEST_ES_SELECTOR,
            vmcs::GUEST_FS_SELECTOR,
            vmcs::GUEST_GS_SELECTOR,
        ];
        for selector in SELECTORS {
            values.put(Some(guest.vmcs.get(selector).into()), 4);
        }
        for number in 0..8 {
            values.put_bytes(part(fxsave::ST + 16 * number, 10), 10);
        }
        values.put(word(fxsave::FCW), 4);
        values.put(word(fxsave::FSW), 4);
        values.put(image.map(tags), 4);
        values.put(word(fxsave::FIP + 4), 4);
        values.put_bytes(part(fxsave::FIP, 4), 4);
        values.put(word(fxsave::FDP + 4), 4);
        values.put_bytes(part(fxsave::FDP, 4), 4);
        values.put(word(fxsave::FOP), 4);
        for number in 0..16 {
            values.put_bytes(part(fxsave::XMM + 16 * number, 16), 16);
        }
        values.put_bytes(part(fxsave::MXCSR, 4), 4);
        let system = [
            Some(guest.vmcs.get(vmcs::GUEST_FS_BASE)),
            Some(guest.vmcs.get(vmcs::GUEST_GS_BASE)),
            Some(guest.vmcs.get(vmcs::GUEST_CR0)),
            registers.map(|registers| registers.cr2),
            Some(guest.vmcs.get(vmcs::GUEST_CR3)),
            Some(guest.vmcs.get(vmcs::GUEST_CR4)),
            registers.map(|registers| registers.cr8),
            Some(guest.efer()),
            registers.map(|registers| registers.kernel_gs_base),
            Some(guest.vmcs.get(vmcs::GUEST_GDTR_BASE)),
            Some(guest.vmcs.get(vmcs::GUEST_IDTR_BASE)),
            Some(guest.vmcs.get(vmcs::GUEST_TR_BASE)),
            Some(guest.vmcs.get(vmcs::GUEST_DR7)),
        ];
        for value in system {
            values.put(value, 8);
        }
        values
    }

    fn put(&mut self, value: Option<u64>, bytes: usize) {
        self.put_bytes(value.map(u64::to_le_bytes).as_ref().map(|word| &word[..bytes]), bytes);
    }

    fn put_bytes(&mut self, part: Option<&[u8]>, bytes: usize) {
        match part {
            Some(part) => self.bytes.extend(part.iter().copied().map(Some)),
            None => self.bytes.extend(std::iter::repeat_n(None, bytes)),
        }
    }
}

/// The x87 tag word: two bits a register, of which an FXSAVE image keeps one. See: SDM "FXSAVE Area".
fn tags(image: &[u8; 832]) -> u64 {
    let top = usize::from(image[fxsave::FSW + 1] >> 3 & 7);
    (0..8).fold(0, |tags, physical| {
        let st = &image[fxsave::ST + 16 * ((physical + 8 - top) % 8)..];
        let significand = u64::from_le_bytes([st[0], st[1], st[2], st[3], st[4], st[5], st[6], st[7]]);
        let exponent = u16::from_le_bytes([st[8], st[9]]) & 0x7fff;
        let tag = match (image[fxsave::FTW] >> physical & 1, exponent, significand >> 63) {
            (0, ..) => 3,
            (_, 0, _) if significand == 0 => 1,
            (_, 0 | 0x7fff, _) | (_, _, 0) => 2,
            _ => 0,
        };
        tags | tag << (2 * physical)
    })
}
