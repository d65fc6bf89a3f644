//! How a vCPU of L1 starts: what firmware or a boot loader would leave in its registers.

use hv_defs::x86::AccessRights;

/// A segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Linear address of its first byte.
    pub base: u64,
    /// Its last byte's offset.
    pub limit: u32,
    /// As the VMCS holds them.
    pub rights: AccessRights,
}

impl Segment {
    /// A flat segment of 4 GiB, with a selector and access rights as the VMCS holds them.
    pub const fn flat(selector: u16, rights: u32) -> Self {
        Self { selector, base: 0, limit: u32::MAX, rights: AccessRights::from_bits(rights) }
    }
}

/// A vCPU's state before its first instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4, without CR4.VMXE.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR: base and limit.
    pub gdtr: (u64, u16),
    /// IDTR: base and limit.
    pub idtr: (u64, u16),
}

impl Start {
    /// 64-bit mode at `rip`, flat segments as the Linux boot protocol wants them (CS 0x10, the others 0x18), paging on
    /// under the tables at `cr3`, interrupts off, no IDT. The GDT is the loader's to put at `gdt`.
    pub fn long_mode(rip: u64, rsp: u64, cr3: u64, gdt: (u64, u16)) -> Self {
        let data = Segment::flat(0x18, 0xc093);
        let mut gpr = [0; 16];
        gpr[4] = rsp;
        Self {
            gpr,
            rip,
            rflags: 2,
            cr0: 0x8000_0033,
            cr3,
            cr4: 0x20,
            efer: 0x501,
            segments: [data, Segment::flat(0x10, 0xa09b), data, data, data, data],
            ldtr: Segment { selector: 0, base: 0, limit: 0, rights: AccessRights::from_bits(0x1_0000) },
            tr: Segment { selector: 0, base: 0, limit: 0xffff, rights: AccessRights::from_bits(0x8b) },
            gdtr: gdt,
            idtr: (0, 0),
        }
    }

    /// Protected mode without paging at `eip`, flat segments with these selectors, interrupts off, no IDT. The GDT is the
    /// loader's to put at `gdt`.
    pub fn protected_mode(eip: u32, code: u16, data: u16, gdt: (u64, u16)) -> Self {
        let data = Segment::flat(data, 0xc093);
        Self {
            cr0: 0x11,
            cr3: 0,
            cr4: 0,
            efer: 0,
            segments: [data, Segment::flat(code, 0xc09b), data, data, data, data],
            ..Self::long_mode(u64::from(eip), 0, 0, gdt)
        }
    }

    /// Real mode at page `vector` of the first MiB, as after an INIT and a start-up IPI. EDX tells the CPU's signature.
    /// See: SDM "Processor State After Reset" and "Typical AP Initialization Sequence".
    pub fn start_up(vector: u8, signature: u32) -> Self {
        let mut start = Self::reset();
        start.gpr[2] = signature.into();
        start.rip = 0;
        start.segments[1].selector = u16::from(vector) << 8;
        start.segments[1].base = u64::from(vector) << 12;
        start
    }

    /// Real mode at the reset vector, as after power-on.
    pub fn reset() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, rights: AccessRights::from_bits(0x93) };
        let code =
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, rights: AccessRights::from_bits(0x9b) };
        Self {
            rip: 0xfff0,
            cr0: 0x6000_0010,
            cr3: 0,
            cr4: 0,
            efer: 0,
            segments: [data, code, data, data, data, data],
            ldtr: Segment { selector: 0, base: 0, limit: 0xffff, rights: AccessRights::from_bits(0x82) },
            gdtr: (0, 0xffff),
            idtr: (0, 0xffff),
            ..Self::long_mode(0, 0, 0, (0, 0))
        }
    }
}
