//! Where snippets live: a mode to begin in, descriptor tables, gates, task states, paging structures and code.
//!
//! The layout is the same in every mode. Each vector's handler is a HLT of its own, so that the address where a run ends
//! says what was delivered, and the stack says how.

use crate::known::{Deviation, Features};
use hv::cpu::{Segment, Table};
use hv_defs::x86::{AccessRights, Seg};
use hv_kvm::State;
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

/// Bytes of memory. All of it is mapped at its own address, for both privilege levels, in pages of 4 KiB.
pub const MEMORY: usize = 0x4_0000;
/// The top of the paging structures; two pages follow for the levels between.
pub const ROOT: u64 = 0x1000;
/// The page table: an entry for each page of memory, the rest free.
pub const PAGE_TABLE: u64 = 0x4000;
pub const GDT: u64 = 0x6000;
pub const LDT: u64 = 0x7000;
pub const IDT: u64 = 0x8000;
pub const TSS: u64 = 0x9000;
/// A second task.
pub const TSS2: u64 = 0xa000;
/// A HLT for each vector, sixteen bytes apart.
pub const HANDLERS: u64 = 0xb000;
/// The stack of privilege level 0 that the task names.
pub const STACK0: u64 = 0xd000;
/// Those of levels 1 and 2.
pub const STACK1: u64 = 0xc800;
pub const STACK2: u64 = 0xc400;
/// The first two stacks of the interrupt stack table.
pub const IST1: u64 = 0xe000;
pub const IST2: u64 = 0xf000;
/// Where the snippet is; 16-bit code has its base here.
pub const CODE: u64 = 0x1_0000;
/// Data; 16-bit data and stacks have their base here.
pub const DATA: u64 = 0x2_0000;
/// The stack pointer, less [`DATA`] in 16-bit modes.
pub const STACK: u64 = 0x2_8000;
/// More code, for a row that needs it.
pub const MORE: u64 = 0x3_0000;

pub const CODE64: u16 = 0x08;
pub const FLAT: u16 = 0x10;
pub const CODE32: u16 = 0x18;
pub const CODE16: u16 = 0x20;
pub const DATA16: u16 = 0x28;
pub const USER64: u16 = 0x33;
pub const USER_FLAT: u16 = 0x3b;
pub const USER32: u16 = 0x43;
pub const TASK: u16 = 0x48;
pub const LOCAL: u16 = 0x58;
pub const TASK2: u16 = 0x68;
pub const CONFORMING32: u16 = 0x78;
/// 16-bit data from address 0, for stacks.
pub const STACK16: u16 = 0x80;
/// The first selector that is free, for rows: a descriptor of sixteen bytes fits too.
pub const FREE: u16 = 0x90;

/// The modes that snippets begin in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Real,
    /// Virtual-8086 mode under 32-bit protected mode without paging.
    Virtual,
    Protected16,
    Protected32,
    /// 32-bit code with 32-bit paging.
    Paged,
    /// 32-bit code with PAE paging.
    Pae,
    Compatibility,
    Long,
}

impl Mode {
    /// The width of its code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual | Self::Protected16 => 16,
            Self::Long => 64,
            _ => 32,
        }
    }

    /// Whether gates and task states are those of IA-32e mode.
    pub fn wide(self) -> bool {
        matches!(self, Self::Long | Self::Compatibility)
    }

    fn segmented(self) -> bool {
        self.bits() == 16
    }
}

/// A snippet with all that it needs.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub mode: Mode,
    pub state: State,
    pub memory: Vec<u8>,
    /// An external interrupt to deliver as soon as it may be.
    pub interrupt: Option<u8>,
    /// Features of the CPU that it is about.
    pub needs: Features,
    /// What KVM is known to do otherwise here, where it is the paravirtual one.
    pub deviates: Option<Deviation>,
}

pub fn segment(selector: u16, rights: u32, base: u64, limit: u32) -> Segment {
    Segment { selector, base, limit, rights: AccessRights::from(rights) }
}

/// An eight-byte descriptor. `rights` are a segment's as the VMCS has them; the limit is in bytes, or pages with the
/// granularity bit.
pub fn descriptor(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (rights & 0xf0ff) << 40
        | (limit >> 16 & 15) << 48
        | (base >> 24 & 0xff) << 56
}

/// A 16- or 32-bit gate: its type, DPL and present bit in `rights`.
pub fn gate(selector: u16, offset: u64, rights: u64, count: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | (rights & 0xff) << 40 | (offset >> 16 & 0xffff) << 48 | count << 32
}

/// An entry of real mode's interrupt vector table.
fn far_pointer(segment: u64, offset: u32) -> u32 {
    (segment as u32) << 16 | offset
}

/// Assembles a snippet for an address.
pub fn assemble(bits: u32, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("a mode");
    f(&mut a).expect("the snippet assembles");
    a.assemble(at).expect("the snippet assembles")
}

impl Case {
    /// A case at privilege level 0 whose code is a HLT.
    pub fn new(mode: Mode) -> Self {
        let state = State { rflags: 2, dr6: 0xffff_0ff0, dr7: 0x400, cr0: 0x30, ..State::default() };
        let mut case = Self {
            name: String::new(),
            mode,
            state,
            memory: vec![0; MEMORY],
            interrupt: None,
            needs: Features::empty(),
            deviates: None,
        };
        case.tables();
        case.paging();
        case.registers();
        case.memory[CODE as usize] = 0xf4;
        case
    }

    /// A row: a name, a mode, and code that a HLT follows.
    pub fn row(name: &str, mode: Mode, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut case = Self::new(mode);
        case.name = format!("{name} ({mode:?})");
        let at = if mode.segmented() { 0 } else { CODE };
        let mut code = assemble(mode.bits(), at, f);
        code.push(0xf4);
        case.bytes(CODE, &code);
        case
    }

    /// A row of plain bytes.
    pub fn raw(name: &str, mode: Mode, code: &[u8]) -> Self {
        let mut case = Self::new(mode);
        case.name = format!("{name} ({mode:?})");
        case.bytes(CODE, code);
        case.bytes(CODE + code.len() as u64, &[0xf4]);
        case
    }

    /// Says what KVM is known to do otherwise.
    pub fn deviates(mut self, deviation: Deviation) -> Self {
        self.deviates = Some(deviation);
        self
    }

    /// Says that it is about user code, which may run natively in 64-bit mode.
    pub fn native(self) -> Self {
        if self.mode == Mode::Long { self.deviates(Deviation::NativeUser) } else { self }
    }

    /// Says what features it is about.
    pub fn needs(mut self, features: Features) -> Self {
        self.needs |= features;
        self
    }

    /// Changes what the row begins with.
    pub fn with(mut self, f: impl FnOnce(&mut Self)) -> Self {
        f(&mut self);
        self
    }

    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn put(&mut self, at: u64, value: u64) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn put32(&mut self, at: u64, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn put16(&mut self, at: u64, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn get(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.memory[at as usize..][..8].try_into().expect("eight bytes"))
    }

    /// Code at another place, a HLT behind it.
    pub fn code(&mut self, bits: u32, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let base = if bits == 16 { at & !0xffff } else { 0 };
        let mut code = assemble(bits, at - base, f);
        code.push(0xf4);
        self.bytes(at, &code);
    }

    /// Writes a descriptor of the GDT, by its selector.
    pub fn descriptor(&mut self, selector: u16, value: u64) {
        self.put(GDT + u64::from(selector & !7), value);
    }

    /// Writes a vector's gate. `rights`: 0x8e is an interrupt gate, 0x8f a trap gate; `count` the stack of the IST.
    pub fn gate(&mut self, vector: u8, selector: u16, offset: u64, rights: u64, count: u64) {
        let value = gate(selector, offset, rights, count);
        if self.mode.wide() {
            self.put(IDT + 16 * u64::from(vector), value);
            self.put(IDT + 16 * u64::from(vector) + 8, offset >> 32);
        } else {
            self.put(IDT + 8 * u64::from(vector), value);
        }
    }

    fn tables(&mut self) {
        for (selector, value) in [
            (CODE64, 0x00af_9b00_0000_ffff),
            (FLAT, 0x00cf_9300_0000_ffff),
            (CODE32, 0x00cf_9b00_0000_ffff),
            (CODE16, descriptor(CODE, 0xffff, 0x9b)),
            (DATA16, descriptor(DATA, 0xffff, 0x93)),
            (USER64, 0x00af_fb00_0000_ffff),
            (USER_FLAT, 0x00cf_f300_0000_ffff),
            (USER32, 0x00cf_fb00_0000_ffff),
            (TASK, descriptor(TSS, 0x1ff, 0x8b)),
            (LOCAL, descriptor(LDT, 0xff, 0x82)),
            (TASK2, descriptor(TSS2, 0x1ff, 0x89)),
            (CONFORMING32, 0x00cf_9f00_0000_ffff),
            (STACK16, 0x0000_9300_0000_ffff),
        ] {
            self.descriptor(selector, value);
        }
        for vector in 0..=255u8 {
            let handler = HANDLERS + 16 * u64::from(vector);
            self.memory[handler as usize] = 0xf4;
            if self.mode == Mode::Real {
                self.put32(4 * u64::from(vector), far_pointer(HANDLERS >> 4, 16 * u32::from(vector)));
            } else {
                let code = if self.mode.wide() { CODE64 } else { CODE32 };
                let rights = if matches!(vector, 3 | 4 | 0x80..) { 0xee } else { 0x8e };
                self.gate(vector, code, handler, rights, 0);
            }
        }
        if self.mode.wide() {
            for (offset, stack) in [(4, STACK0), (12, STACK1), (20, STACK2), (0x24, IST1), (0x2c, IST2)] {
                self.put(TSS + offset, stack);
            }
        } else {
            self.put32(TSS + 4, STACK0 as u32);
            self.put32(TSS + 8, u32::from(FLAT));
        }
        // No bitmap of ports.
        self.put16(TSS + 102, 0x200);
    }

    fn paging(&mut self) {
        let pages = (MEMORY >> 12) as u64;
        match self.mode {
            Mode::Paged => {
                self.put32(ROOT, PAGE_TABLE as u32 | 7);
                (0..pages).for_each(|page| self.put32(PAGE_TABLE + 4 * page, (page << 12) as u32 | 7));
                self.state.cr3 = ROOT;
            }
            Mode::Pae => {
                self.put(ROOT, 0x3001);
                self.put(0x3000, PAGE_TABLE | 7);
                (0..pages).for_each(|page| self.put(PAGE_TABLE + 8 * page, page << 12 | 7));
                self.state.cr3 = ROOT;
                self.state.cr4 = 0x20;
            }
            Mode::Compatibility | Mode::Long => {
                self.put(ROOT, 0x2007);
                self.put(0x2000, 0x3007);
                self.put(0x3000, PAGE_TABLE | 7);
                (0..pages).for_each(|page| self.put(PAGE_TABLE + 8 * page, page << 12 | 7));
                self.state.cr3 = ROOT;
                self.state.cr4 = 0x20;
                self.state.efer = 0xd01;
            }
            _ => {}
        }
        if self.state.cr3 != 0 {
            self.state.cr0 |= 0x8000_0000;
        }
        if self.mode != Mode::Real {
            self.state.cr0 |= 1;
        }
    }

    fn registers(&mut self) {
        let state = &mut self.state;
        let data = match self.mode {
            Mode::Real => segment((DATA >> 4) as u16, 0x93, DATA, 0xffff),
            Mode::Virtual => segment((DATA >> 4) as u16, 0xf3, DATA, 0xffff),
            Mode::Protected16 => segment(DATA16, 0x93, DATA, 0xffff),
            _ => segment(FLAT, 0xc093, 0, u32::MAX),
        };
        state.seg = [data; 6];
        state.seg[Seg::Cs as usize] = match self.mode {
            Mode::Real => segment((CODE >> 4) as u16, 0x9b, CODE, 0xffff),
            Mode::Virtual => segment((CODE >> 4) as u16, 0xf3, CODE, 0xffff),
            Mode::Protected16 => segment(CODE16, 0x9b, CODE, 0xffff),
            Mode::Long => segment(CODE64, 0xa09b, 0, u32::MAX),
            _ => segment(CODE32, 0xc09b, 0, u32::MAX),
        };
        if self.mode == Mode::Virtual {
            state.rflags |= 1 << 17;
        }
        let base = if self.mode.segmented() { (CODE, DATA) } else { (0, 0) };
        state.rip = CODE - base.0;
        for (number, register) in state.gpr.iter_mut().enumerate() {
            let value = 0x0102_0304_0506_0708 * number as u64;
            *register = if self.mode.bits() == 64 { value } else { value & 0xffff_ffff };
            if self.mode.bits() != 64 && number >= 8 {
                *register = 0;
            }
        }
        state.gpr[4] = STACK - base.1;
        if self.mode == Mode::Protected16 {
            state.seg[Seg::Ss as usize] = segment(STACK16, 0x93, 0, 0xffff);
            state.gpr[4] = IST2 + 0x1000 - 16;
        }
        state.gdtr = Table { base: GDT, limit: 0x7ff };
        state.idtr = Table { base: IDT, limit: 0xfff };
        if self.mode == Mode::Real {
            state.idtr = Table { base: 0, limit: 0x3ff };
        }
        state.tr = segment(TASK, 0x8b, TSS, 0x1ff);
        state.ldtr = segment(LOCAL, 0x82, LDT, 0xff);
    }

    /// Whether it begins at privilege level 3.
    pub fn is_user(&self) -> bool {
        self.state.seg[Seg::Ss as usize].rights.dpl() == 3
    }

    /// Begins at privilege level 3.
    pub fn user(mut self) -> Self {
        let code = match self.mode {
            Mode::Long => segment(USER64, 0xa0fb, 0, u32::MAX),
            _ => segment(USER32, 0xc0fb, 0, u32::MAX),
        };
        self.state.seg = [segment(USER_FLAT, 0xc0f3, 0, u32::MAX); 6];
        self.state.seg[Seg::Cs as usize] = code;
        self.name.push_str(" by user");
        self
    }
}
