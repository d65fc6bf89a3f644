//! From bytes to [`Op`]s. iced-x86 parses; nothing of it is kept beyond this.

use super::guard::{self, Guard};
use super::op::{self, Op, Run};
use super::ops::fused::Part;
use super::rows;
use crate::features;
use hv_defs::x86::Seg;
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FastFormatter, Instruction, OpKind, Register};

/// What of the CPU's mode decides how bytes decode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Mode {
    Code16 = 0,
    Code32 = 1,
    Code64 = 2,
}

impl Mode {
    /// Whether it is 64-bit code.
    pub(super) fn long(self) -> bool {
        self == Self::Code64
    }

    /// Bits, as iced counts them.
    pub(super) fn bits(self) -> u32 {
        16 << self as u8
    }
}

/// Which of the [`op::Ea`]s a memory operand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EaKind {
    Base,
    Sib,
    Rip,
    Any64,
    Offset,
}

/// What an instruction's operands are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    None,
    Reg,
    Mem,
    Imm,
    /// A direct near branch.
    Near,
    /// A segment register.
    Seg,
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    RegRegImm,
    RegMemImm,
    Other,
}

/// An instruction on its way to an [`Op`]: what the builders in [`super::ops`] look at and complete.
pub(super) struct Form<'a> {
    /// As parsed. Its IP counts from the block's first instruction.
    pub(super) instruction: &'a Instruction,
    pub(super) mode: Mode,
    /// Bytes of the first operand.
    pub(super) width: u32,
    /// What the memory operand is, if there is one.
    pub(super) ea: EaKind,
    /// The op, with its operands in place.
    pub(super) op: Op,
    /// What it is to a fusion with its neighbour.
    pub(super) part: Part,
    prefixes: Prefixes,
}

/// Prefixes that iced's instruction does not tell of.
#[derive(Clone, Copy, Debug, Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    rex_w: bool,
}

impl Prefixes {
    fn new(bytes: &[u8], mode: Mode) -> Self {
        let mut prefixes = Self::default();
        for &byte in bytes {
            match byte {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
                0x40..=0x4f if mode.long() => {}
                _ => break,
            }
            // Only a REX prefix that comes last counts.
            prefixes.rex_w = mode.long() && byte & 0xf8 == 0x48;
        }
        prefixes
    }
}

/// A register's number in instruction encodings; 16 to 19 are AH, CH, DH, BH.
pub(super) fn number(register: Register) -> u8 {
    match register {
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        _ if register.is_gpr() => register.full_register().number() as u8,
        _ => register.number() as u8,
    }
}

impl<'a> Form<'a> {
    fn new(instruction: &'a Instruction, bytes: &[u8], mode: Mode, before: u8) -> Self {
        let run = Run::new(op::unsupported);
        let blank = Op { run, len: instruction.len() as u8, offset: instruction.ip() as u16, before, ..Op::BLANK };
        let prefixes = Prefixes::new(bytes, mode);
        let mut form = Self { instruction, mode, width: 0, ea: EaKind::Offset, op: blank, part: Part::None, prefixes };
        form.op.address_bits = 8 * form.address_size() as u8;
        let mut registers = 0;
        for operand in 0..instruction.op_count() {
            match instruction.op_kind(operand) {
                OpKind::Register => {
                    match registers {
                        0 => form.op.reg = form.register(operand),
                        1 => form.op.rm = form.register(operand),
                        _ => {}
                    }
                    registers += 1;
                }
                OpKind::Memory => form.memory(),
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {}
                OpKind::FarBranch16 | OpKind::FarBranch32 => {}
                kind if is_immediate(kind) => form.op.imm = instruction.immediate(operand),
                _ => form.op.seg = segment(instruction, mode, Register::None),
            }
        }
        form.width = form.size(0);
        form
    }

    fn memory(&mut self) {
        let i = self.instruction;
        let (base, index) = (i.memory_base(), i.memory_index());
        let op = &mut self.op;
        op.disp = i.memory_displacement64();
        op.seg = segment(i, self.mode, base);
        op.scale = i.memory_index_scale().trailing_zeros() as u8;
        if base == Register::RIP || base == Register::EIP {
            op.parts |= Op::RIP;
        } else if base != Register::None {
            op.parts |= Op::BASE;
            op.base = number(base);
        }
        if index != Register::None {
            op.parts |= Op::INDEX;
            op.index = number(index);
        }
        if self.mode.long() && op.seg >= 4 {
            op.parts |= Op::SEG;
        }
        const BASE_AND_INDEX: u8 = Op::BASE | Op::INDEX;
        self.ea = match (self.mode.long(), op.address_bits == 64, op.parts) {
            (false, ..) => EaKind::Offset,
            (true, true, Op::BASE) => EaKind::Base,
            (true, true, BASE_AND_INDEX) => EaKind::Sib,
            (true, true, Op::RIP) => EaKind::Rip,
            _ => EaKind::Any64,
        };
    }

    /// What an operand is.
    pub(super) fn kind(&self, operand: u32) -> OpKind {
        if operand < self.instruction.op_count() { self.instruction.op_kind(operand) } else { OpKind::Immediate8 }
    }

    /// A register operand's number; 0 when the operand is none.
    pub(super) fn register(&self, operand: u32) -> u8 {
        match self.kind(operand) {
            OpKind::Register => number(self.instruction.op_register(operand)),
            _ => 0,
        }
    }

    /// An immediate operand; 0 when the operand is none.
    pub(super) fn immediate(&self, operand: u32) -> u64 {
        if operand < self.instruction.op_count() && is_immediate(self.kind(operand)) {
            self.instruction.immediate(operand)
        } else {
            0
        }
    }

    /// Bytes of an operand; 0 when it has no size of its own.
    pub(super) fn size(&self, operand: u32) -> u32 {
        if operand >= self.instruction.op_count() {
            return 0;
        }
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.instruction.op_register(operand).size() as u32,
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => 0,
            kind if is_immediate(kind) => 0,
            _ => self.instruction.memory_size().size() as u32,
        }
    }

    /// Whether the second operand is a register.
    pub(super) fn second_is_register(&self) -> bool {
        self.instruction.op_count() > 1 && self.kind(1) == OpKind::Register
    }

    /// The shape of its operands.
    pub(super) fn shape(&self) -> Shape {
        let class = |operand| match self.instruction.op_kind(operand) {
            OpKind::Register if self.instruction.op_register(operand).is_segment_register() => 's',
            OpKind::Register => 'r',
            OpKind::Memory => 'm',
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => 'n',
            kind if is_immediate(kind) => 'i',
            _ => '?',
        };
        match self.instruction.op_count() {
            0 => Shape::None,
            1 => match class(0) {
                'r' => Shape::Reg,
                'm' => Shape::Mem,
                'i' => Shape::Imm,
                'n' => Shape::Near,
                's' => Shape::Seg,
                _ => Shape::Other,
            },
            2 => match (class(0), class(1)) {
                ('r', 'r') => Shape::RegReg,
                ('r', 'i') => Shape::RegImm,
                ('r', 'm') => Shape::RegMem,
                ('m', 'r') => Shape::MemReg,
                ('m', 'i') => Shape::MemImm,
                _ => Shape::Other,
            },
            3 => match (class(0), class(1), class(2)) {
                ('r', 'r', 'i') => Shape::RegRegImm,
                ('r', 'm', 'i') => Shape::RegMemImm,
                _ => Shape::Other,
            },
            _ => Shape::Other,
        }
    }

    /// The low four bits of a conditional instruction's opcode.
    pub(super) fn condition(&self) -> u8 {
        (self.instruction.condition_code() as u8).wrapping_sub(1) & 15
    }

    /// Bytes of a stack slot or of a return address, by mode and prefixes.
    pub(super) fn operand_size(&self) -> u32 {
        match (self.mode, self.prefixes.operand_size) {
            (Mode::Code64, true) if !self.prefixes.rex_w => 2,
            (Mode::Code64, _) => 8,
            (Mode::Code32, true) | (Mode::Code16, false) => 2,
            _ => 4,
        }
    }

    /// Bytes of an operand whose size is 32 bits in 64-bit code unless REX.W says else.
    pub(super) fn data_size(&self) -> u32 {
        match self.operand_size() {
            8 if !self.prefixes.rex_w => 4,
            size => size,
        }
    }

    /// Bytes of an address, by mode and prefixes.
    pub(super) fn address_size(&self) -> u32 {
        match (self.mode, self.prefixes.address_size) {
            (Mode::Code64, false) => 8,
            (Mode::Code64, true) | (Mode::Code32, false) | (Mode::Code16, true) => 4,
            _ => 2,
        }
    }

    /// Bytes of LOOP's and JrCXZ's counter.
    pub(super) fn counter_size(&self) -> u32 {
        self.address_size()
    }

    /// Sets a direct branch's target and mask, and tells the operand size in bytes.
    pub(super) fn branch(&mut self) -> Option<u32> {
        self.op.imm = self.instruction.near_branch_target();
        self.op.parts = Op::DIRECT;
        let (size, mask) = match self.kind(0) {
            OpKind::NearBranch16 => (2, 0xffff),
            OpKind::NearBranch32 => (4, u32::MAX),
            OpKind::NearBranch64 => (8, u32::MAX),
            _ => return None,
        };
        self.op.extra = mask;
        Some(size)
    }
}

/// The segment of a memory operand. 64-bit code ignores the prefixes for ES, CS, SS and DS.
fn segment(i: &Instruction, mode: Mode, base: Register) -> u8 {
    let number = number(i.memory_segment());
    match base.full_register() {
        _ if !mode.long() || number >= 4 => number,
        Register::RSP | Register::RBP => Seg::Ss as u8,
        _ => Seg::Ds as u8,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// What came of decoding one instruction.
pub(super) enum Decoded {
    /// An op.
    Op(Whole),
    /// The bytes end before the instruction does.
    Short,
}

/// A decoded instruction.
pub(super) struct Whole {
    /// What stands before it.
    pub(super) guard: Option<Op>,
    /// The instruction itself.
    pub(super) op: Op,
    /// What it is to a fusion.
    pub(super) part: Part,
    /// Whether it ends its block.
    pub(super) ends: bool,
}

impl Whole {
    fn last(op: Op) -> Decoded {
        Decoded::Op(Self { guard: None, op, part: Part::None, ends: true })
    }
}

/// Decodes the instruction at the beginning of `bytes`, which is at `offset` in its block with `before` instructions
/// before it.
pub(super) fn decode(bytes: &[u8], mode: Mode, offset: u16, before: u8) -> Decoded {
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, u64::from(offset), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.code() == Code::INVALID {
        // Fifteen bytes are as many as an instruction has: with as many at hand it is not for want of more.
        if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() < 15 {
            return Decoded::Short;
        }
        let mut form = Form::new(&instruction, bytes, mode, before);
        let long = bytes.len() >= 15 && too_long(bytes, mode);
        form.op.run = if long { Run::new(guard::too_long) } else { Run::new(op::undefined) };
        return Whole::last(form.op);
    }
    let mut form = Form::new(&instruction, bytes, mode, before);
    if features::is_absent(&instruction) {
        form.op.run = Run::new(op::undefined);
        return Whole::last(form.op);
    }
    let Some(row) = rows::row(&instruction) else { return Whole::last(form.op) };
    match (row.build)(&mut form) {
        Some(run) => form.op.run = run,
        None => return Whole::last(form.op),
    }
    let guard = (row.guard != Guard::NONE).then(|| row.guard.op(&form.op));
    Decoded::Op(Whole { guard, op: form.op, part: form.part, ends: row.ends })
}

/// Whether this CPU has the instruction that `bytes` begin with, in code of `bits` bits (16, 32 or 64): a row for it, and
/// a function for its form. What is there only to be #UD, as RSM is, counts.
pub fn has(bytes: &[u8], bits: u32) -> bool {
    let mode = match bits {
        16 => Mode::Code16,
        32 => Mode::Code32,
        _ => Mode::Code64,
    };
    let instruction = Decoder::new(mode.bits(), bytes, DecoderOptions::NONE).decode();
    let mut form = Form::new(&instruction, bytes, mode, 0);
    instruction.code() != Code::INVALID
        && !features::is_absent(&instruction)
        && rows::row(&instruction).is_some_and(|row| (row.build)(&mut form).is_some())
}

/// The length of the instruction that `bytes` begin with, 0 if it is none, and its text.
pub(super) fn disassemble(bytes: &[u8], mode: Mode, rip: u64) -> (usize, String) {
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.code() == Code::INVALID {
        return (0, "no instruction".into());
    }
    let mut text = String::new();
    FastFormatter::new().format(&instruction, &mut text);
    (instruction.len(), text)
}

/// Whether fifteen bytes are prefixes alone, so that the instruction is longer than any may be.
fn too_long(bytes: &[u8], mode: Mode) -> bool {
    let prefix = |byte: &u8| {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
            || mode.long() && matches!(byte, 0x40..=0x4f)
    };
    bytes.iter().take(15).all(prefix)
}
