//! Random cases of a form: operands, encoded, and a state in which the memory operand lies in the window most of the
//! time. Faults are results too: an operand or the stack may reach over the page's end or a segment's limit, the
//! instruction over the end of the code, and prefixes may be there that mean nothing or another instruction.

use super::dice::Dice;
use super::host::{CODE, Case, DATA, NONE, PAGE, State, WINDOW};
use super::segments::{self, ANY, CODE16, CODE32, CODE64, FLAT, GOOD, NEAR};
use hv_defs::x86::Seg;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, MemorySize, Mnemonic, OpCodeOperandKind as Operand, OpKind,
    Register,
};

/// A case on its way.
struct Builder<'a> {
    bits: u32,
    instruction: Instruction,
    state: State,
    window: u64,
    /// Where the memory operand lies, linear.
    target: Option<u64>,
    dice: &'a mut Dice,
}

const BYTE_REGISTERS: [Register; 20] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
    Register::AH,
    Register::CH,
    Register::DH,
    Register::BH,
    Register::SPL,
    Register::BPL,
    Register::SIL,
    Register::DIL,
    Register::R8L,
    Register::R9L,
    Register::R10L,
    Register::R11L,
    Register::R12L,
    Register::R13L,
    Register::R14L,
    Register::R15L,
];

const SEGMENT_REGISTERS: [Register; 6] =
    [Register::ES, Register::CS, Register::SS, Register::DS, Register::FS, Register::GS];

/// A random case of `code` in code of `bits` bits, and the instruction that its bytes are, which a prefix may have made
/// another than `code`; `None` where the dice named operands that do not go together.
pub fn case(code: Code, bits: u32, dice: &mut Dice) -> Option<(Instruction, Case)> {
    let info = code.op_code();
    let (state, window) = random_state(bits, dice);
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let mut builder = Builder { bits, instruction, state, window, target: None, dice };
    for at in 0..info.op_count() {
        builder.operand(at, info.op_kind(at))?;
    }
    let Builder { mut instruction, mut state, target, dice, .. } = builder;
    if info.can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory && dice.once_in(4) {
        instruction.set_has_lock_prefix(true);
    }
    if info.can_use_repne_prefix() && dice.once_in(3) {
        instruction.set_has_repne_prefix(true);
    } else if info.can_use_rep_prefix() && dice.once_in(2) {
        instruction.set_has_rep_prefix(true);
    }
    let code_base = if bits == 64 { 0 } else { segments::base(state.selectors[Seg::Cs as usize]) };
    let mut encoder = Encoder::new(bits);
    encoder.encode(&instruction, state.rip).ok()?;
    let mut encoded = encoder.take_buffer();
    if dice.once_in(6) {
        mutate(&mut encoded, bits, dice);
    }
    let mut bytes = [0xcc; 16];
    let room = encoded.len().min(15);
    bytes[..room].copy_from_slice(&encoded[..room]);
    let instruction = Decoder::with_ip(bits, &bytes[..15], state.rip, DecoderOptions::NONE).decode();
    let length = if instruction.is_invalid() { room } else { instruction.len() };
    let mut case = Case {
        state,
        bytes,
        length: length as u8,
        code: state.rip.wrapping_add(code_base),
        window,
        repeats: instruction.is_string_instruction()
            && (instruction.has_rep_prefix() || instruction.has_repne_prefix()),
        vector: NONE,
        error_code: 0,
        address: 0,
    };
    state = case.state;
    if case.repeats {
        state.gpr[1] = if dice.once_in(8) { dice.below(300) } else { dice.below(6) };
    }
    if holds_traps(&instruction) {
        case.bytes[length] = 0x90;
    }
    fill(&instruction, &mut state, window, target, bits, dice);
    case.state = state;
    Some((instruction, case))
}

/// Whether the trap after this instruction waits until the next is done too.
pub fn holds_traps(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop) && instruction.op0_register() == Register::SS
}

/// Adds a prefix, or changes a bit.
fn mutate(bytes: &mut Vec<u8>, bits: u32, dice: &mut Dice) {
    let prefixes = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0];
    if dice.once_in(4) {
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.below(8);
        return;
    }
    let legacy = bytes.iter().take_while(|byte| prefixes.contains(byte)).count();
    if bits == 64 && dice.once_in(3) {
        bytes.insert(legacy, 0x40 | dice.below(16) as u8);
    } else {
        bytes.insert(dice.below(legacy as u64 + 1) as usize, dice.pick(&prefixes));
    }
}

/// Registers and memory, and where the window is.
fn random_state(bits: u32, dice: &mut Dice) -> (State, u64) {
    let mut state = State {
        extended: [0; 832],
        gpr: [0; 16],
        rip: 0,
        rflags: 0,
        bases: [0; 2],
        selectors: [FLAT; 6],
        memory: [0; WINDOW],
    };
    for register in &mut state.gpr {
        *register = dice.value();
    }
    let window = match dice.below(12) {
        0 => DATA,
        1 => DATA + PAGE - WINDOW as u64,
        _ => DATA + (PAGE - WINDOW as u64) / 2,
    };
    selectors(&mut state, bits, dice);
    let code = match dice.below(32) {
        0 => CODE,
        1 => CODE + PAGE - dice.below(16) - 1,
        _ => CODE + PAGE / 2,
    };
    let at = |state: &State, register: Seg, linear: u64| {
        let base = if bits == 64 { 0 } else { segments::base(state.selectors[register as usize]) };
        linear.wrapping_sub(base)
    };
    state.rip = at(&state, Seg::Cs, code);
    // Strings lie in the window, and are short.
    state.gpr[6] = at(&state, Seg::Ds, target(window, dice));
    state.gpr[7] = at(&state, Seg::Es, target(window, dice));
    if dice.once_in(2) {
        state.gpr[1] = dice.below(6);
    }
    let stack = match dice.below(16) {
        0 => target(window, dice),
        1 if window == DATA => DATA + 2 * dice.below(10),
        _ => window + WINDOW as u64 / 2 + 8 * dice.below(8),
    };
    state.gpr[4] = at(&state, Seg::Ss, stack);
    if dice.once_in(2) {
        state.gpr[5] = at(&state, Seg::Ss, stack.wrapping_add(8 * dice.below(8)).wrapping_sub(32));
    }
    if bits != 64 {
        for register in &mut state.gpr {
            *register &= 0xffff_ffff;
        }
        state.gpr[8..].fill(0);
    }
    // The six arithmetic flags and DF: all zero, all one, or any.
    let arithmetic = 0x8d5;
    state.rflags = 0x202
        | match dice.below(3) {
            0 => 0,
            1 => arithmetic,
            _ => dice.roll() & arithmetic,
        }
        | if dice.once_in(8) { 0x400 } else { 0 }
        | if dice.once_in(24) { 0x4_0000 } else { 0 };
    for (number, chunk) in state.memory.chunks_exact_mut(8).enumerate() {
        let lane = if number % 4 == 0 { dice.lane() } else { dice.roll() };
        chunk.copy_from_slice(&lane.to_le_bytes());
    }
    floats(&mut state, dice);
    (state, window)
}

fn selectors(state: &mut State, bits: u32, dice: &mut Dice) {
    let [es, cs, ss, ds, fs, gs] = &mut state.selectors;
    (*fs, *gs) = (0, 0);
    let any_base = super::host::has_bases();
    match bits {
        64 => *cs = CODE64,
        32 => {
            *cs = CODE32;
            for selector in [es, ds] {
                *selector = if dice.once_in(6) { dice.pick(&GOOD[..5]) } else { FLAT };
            }
            *ss = dice.pick(&[FLAT, FLAT, FLAT, NEAR]);
        }
        _ => {
            *cs = CODE16;
            for selector in [es, ds] {
                *selector = if dice.once_in(6) { dice.pick(&GOOD[..5]) } else { NEAR };
            }
            *ss = dice.pick(&[FLAT, NEAR]);
        }
    }
    if any_base {
        for (selector, base) in [fs, gs].into_iter().zip(&mut state.bases) {
            *selector = if dice.once_in(if bits == 64 { 8 } else { 2 }) { dice.pick(&GOOD) } else { 0 };
            *base = if segments::has_any_base(*selector) {
                dice.pick(&[0, DATA, DATA - 0x1234_5678, 0x7fff_0000_1000, 0x10_0000])
            } else {
                segments::base(*selector)
            };
        }
    }
}

/// The x87 and SSE state.
fn floats(state: &mut State, dice: &mut Dice) {
    let image = &mut state.extended;
    let rounding = dice.below(4) as u16;
    let masks = if dice.once_in(6) { dice.below(64) as u16 } else { 0x3f };
    let control = 0x40 | masks | dice.pick(&[0, 1, 2, 3, 3, 3]) << 8 | rounding << 10;
    image[..2].copy_from_slice(&control.to_le_bytes());
    let top = dice.below(8) as u16;
    let sticky = if dice.once_in(3) { dice.below(128) as u16 } else { 0 };
    // Mostly without an exception that is pending already: every waiting instruction would do nothing but raise it.
    let sticky = if dice.once_in(4) { sticky } else { sticky & (masks | 0x40) };
    let summary = if sticky & !masks & 0x3f != 0 { 0x8080 } else { 0 };
    let conditions = dice.roll() as u16 & 0x4700;
    image[2..4].copy_from_slice(&(top << 11 | conditions | sticky | summary).to_le_bytes());
    image[4] = if dice.once_in(3) { dice.roll() as u8 } else { 0xff };
    let mxcsr = (dice.below(4) as u32) << 13
        | if dice.once_in(6) { dice.below(64) as u32 } else { 0x3f } << 7
        | if dice.once_in(4) { dice.below(64) as u32 } else { 0 }
        | if dice.once_in(6) { dice.roll() as u32 & 0x8040 } else { 0 };
    image[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for register in 0..8 {
        image[32 + 16 * register..][..10].copy_from_slice(&dice.f80());
    }
    for chunk in image[160..416].chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.lane().to_le_bytes());
    }
    for chunk in image[576..832].chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.lane().to_le_bytes());
    }
    image[512] = 7;
}

/// Where an operand may lie: about the window's middle, or about the page's end that the window is at.
fn target(window: u64, dice: &mut Dice) -> u64 {
    let aligned = dice.below(4) != 0;
    let at = match dice.below(2) {
        0 if window == DATA => DATA.wrapping_add(dice.below(24)).wrapping_sub(16),
        0 if window == DATA + PAGE - WINDOW as u64 => DATA + PAGE - dice.below(48),
        _ => window + WINDOW as u64 / 2 + dice.below(128),
    };
    // Aligned more often than not: what SSE wants.
    if aligned { at & !31 } else { at }
}

impl Builder<'_> {
    fn operand(&mut self, at: u32, kind: Operand) -> Option<()> {
        use Operand::*;
        let only = matches!(kind, mem | mem_offs | sibmem);
        let may =
            matches!(kind, r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem | ymm_or_mem);
        if only || may && self.target.is_none() && self.dice.once_in(2) {
            return self.memory(at, kind == mem_offs);
        }
        match kind {
            mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y => return self.gather(at, kind),
            imm8_const_1 => {
                self.instruction.set_op_kind(at, OpKind::Immediate8);
                self.instruction.set_immediate_u64(at, 1);
            }
            imm8 if at == 1 && self.instruction.code().mnemonic() == Mnemonic::Enter => {
                self.instruction.set_op_kind(at, OpKind::Immediate8_2nd);
                self.instruction.set_immediate8_2nd(self.dice.below(40) as u8);
            }
            imm8 | imm4_m2z => self.immediate(at, OpKind::Immediate8),
            imm8sex16 => self.immediate(at, OpKind::Immediate8to16),
            imm8sex32 => self.immediate(at, OpKind::Immediate8to32),
            imm8sex64 => self.immediate(at, OpKind::Immediate8to64),
            imm16 => self.immediate(at, OpKind::Immediate16),
            imm32 => self.immediate(at, OpKind::Immediate32),
            imm32sex64 => self.immediate(at, OpKind::Immediate32to64),
            imm64 => self.immediate(at, OpKind::Immediate64),
            seg_rSI => self.string(at, [OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI]),
            es_rDI => self.string(at, [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI]),
            seg_rDI => self.string(at, [OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI]),
            seg_rBX_al => self.table(at),
            br16_1 | br16_2 => {
                let to = self.branch_target() as u16;
                self.instruction.set_op_kind(at, OpKind::NearBranch16);
                self.instruction.set_near_branch16(to);
            }
            br32_1 | br32_4 => {
                let to = self.branch_target() as u32;
                self.instruction.set_op_kind(at, OpKind::NearBranch32);
                self.instruction.set_near_branch32(to);
            }
            br64_1 | br64_4 => {
                let to = self.branch_target();
                self.instruction.set_op_kind(at, OpKind::NearBranch64);
                self.instruction.set_near_branch64(to);
            }
            farbr2_2 | farbr4_2 => {
                let (selector, offset) = code_pointer(self.dice);
                self.instruction.set_far_branch_selector(selector);
                if kind == farbr2_2 {
                    self.instruction.set_op_kind(at, OpKind::FarBranch16);
                    self.instruction.set_far_branch16(offset as u16);
                } else {
                    self.instruction.set_op_kind(at, OpKind::FarBranch32);
                    self.instruction.set_far_branch32(offset as u32);
                }
            }
            _ => {
                let register = self.register(kind)?;
                self.instruction.set_op_kind(at, OpKind::Register);
                self.instruction.set_op_register(at, register);
                if kind == seg_reg || kind == r16_or_mem && self.dice.once_in(4) {
                    self.selector_in_registers();
                }
            }
        }
        Some(())
    }

    /// A selector that can be loaded, in every register: one of them is the operand.
    fn selector_in_registers(&mut self) {
        let selector = if self.dice.once_in(2) { self.dice.pick(&GOOD) } else { self.dice.pick(&ANY) };
        for register in [0, 1, 2, 3] {
            self.state.gpr[register] = self.state.gpr[register] & !0xffff | u64::from(selector);
        }
    }

    fn branch_target(&mut self) -> u64 {
        let distance = self.dice.below(200).wrapping_sub(100);
        self.state.rip.wrapping_add(distance)
    }

    fn register(&mut self, operand: Operand) -> Option<Register> {
        use Operand::*;
        let number = self.dice.below(if self.bits == 64 { 16 } else { 8 }) as u32;
        Some(match operand {
            r8_or_mem | r8_reg | r8_opcode => {
                BYTE_REGISTERS[self.dice.below(if self.bits == 64 { 20 } else { 8 }) as usize]
            }
            r16_or_mem | r16_reg | r16_reg_mem | r16_rm | r16_opcode => Register::AX + number,
            r32_or_mem | r32_or_mem_mpx | r32_reg | r32_reg_mem | r32_rm | r32_opcode | r32_vvvv => {
                Register::EAX + number
            }
            r64_or_mem | r64_or_mem_mpx | r64_reg | r64_reg_mem | r64_rm | r64_opcode | r64_vvvv => {
                Register::RAX + number
            }
            mm_or_mem | mm_reg | mm_rm => Register::MM0 + number % 8,
            xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 => Register::XMM0 + number,
            ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 => Register::YMM0 + number,
            cr_reg => Register::CR0 + self.dice.pick(&[0, 2, 3, 4]),
            dr_reg => Register::DR0 + number % 8,
            tr_reg => Register::TR0 + number % 8,
            seg_reg => self.dice.pick(&SEGMENT_REGISTERS),
            es => Register::ES,
            cs => Register::CS,
            ss => Register::SS,
            ds => Register::DS,
            fs => Register::FS,
            gs => Register::GS,
            al => Register::AL,
            cl => Register::CL,
            ax => Register::AX,
            dx => Register::DX,
            eax => Register::EAX,
            rax => Register::RAX,
            st0 => Register::ST0,
            sti_opcode => Register::ST0 + number % 8,
            _ => return Option::None,
        })
    }

    fn immediate(&mut self, at: u32, kind: OpKind) {
        let immediate = self.dice.value();
        let value = match kind {
            OpKind::Immediate8 => immediate & 0xff,
            OpKind::Immediate8to16 => immediate as i8 as u16 as u64,
            OpKind::Immediate8to32 => immediate as i8 as u32 as u64,
            OpKind::Immediate8to64 => immediate as i8 as u64,
            OpKind::Immediate16 => immediate & 0xffff,
            OpKind::Immediate32 => immediate & 0xffff_ffff,
            OpKind::Immediate32to64 => immediate as i32 as u64,
            _ => immediate,
        };
        self.instruction.set_op_kind(at, kind);
        self.instruction.set_immediate_u64(at, value);
    }

    /// Bits of the address: mostly what the mode has.
    fn address_bits(&mut self) -> u32 {
        match self.bits {
            64 if self.dice.once_in(8) => 32,
            32 if self.dice.once_in(8) => 16,
            16 if self.dice.once_in(2) => 32,
            bits => bits,
        }
    }

    fn string(&mut self, at: u32, kinds: [OpKind; 3]) {
        let mut size = self.address_bits();
        // Both operands of one instruction have one size.
        if at == 1 {
            size = match self.instruction.op0_kind() {
                OpKind::MemorySegSI | OpKind::MemoryESDI => 16,
                OpKind::MemorySegESI | OpKind::MemoryESEDI => 32,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => 64,
                _ => size,
            };
        }
        self.instruction.set_op_kind(at, kinds[size.trailing_zeros() as usize - 4]);
        if self.instruction.code().op_code().op_kind(at) != Operand::es_rDI && self.dice.once_in(4) {
            let segment = self.dice.pick(&SEGMENT_REGISTERS);
            self.instruction.set_segment_prefix(segment);
        }
    }

    /// XLAT's operand.
    fn table(&mut self, at: u32) {
        let size = self.address_bits();
        let base = [Register::BX, Register::EBX, Register::RBX][size.trailing_zeros() as usize - 4];
        self.instruction.set_op_kind(at, OpKind::Memory);
        self.instruction.set_memory_base(base);
        self.instruction.set_memory_index(Register::AL);
        self.instruction.set_memory_index_scale(1);
        let target = target(self.window, self.dice);
        let offset = target.wrapping_sub(self.segment_base(Register::DS)).wrapping_sub(self.state.gpr[0] & 0xff);
        self.set_address(3, offset, size);
        self.target = Some(target);
    }

    fn segment_base(&self, register: Register) -> u64 {
        match (register, self.bits) {
            (Register::FS, _) => self.state.bases[0],
            (Register::GS, _) => self.state.bases[1],
            (_, 64) => 0,
            (other, _) => segments::base(self.state.selectors[other.number()]),
        }
    }

    /// Sets as many bits of a register as the address has.
    fn set_address(&mut self, register: usize, value: u64, bits: u32) {
        let mask = u64::MAX >> (64 - bits);
        let kept = if self.bits == 64 { self.dice.roll() } else { self.dice.roll() & 0xffff_ffff };
        self.state.gpr[register] = kept & !mask | value & mask;
    }

    /// A memory operand, and the register values that bring it to where it is to be.
    fn memory(&mut self, at: u32, direct: bool) -> Option<()> {
        let large = matches!(
            self.instruction.code().op_code().memory_size(),
            MemorySize::Fxsave_512Byte
                | MemorySize::Fxsave64_512Byte
                | MemorySize::Xsave
                | MemorySize::Xsave64
                | MemorySize::FpuState94
                | MemorySize::FpuState108
        );
        let target = match large {
            true if !self.dice.once_in(8) => self.window + 64,
            _ => target(self.window, self.dice),
        };
        self.target = Some(target);
        let size = self.address_bits();
        let sp = Register::RSP.number();
        let (base, index) = match size {
            _ if direct => (None, None),
            16 => self.dice.pick(&[
                (Some(3), Some(6)),
                (Some(3), Some(7)),
                (Some(5), Some(6)),
                (Some(5), Some(7)),
                (Some(6), None),
                (Some(7), None),
                (Some(5), None),
                (Some(3), None),
                (None, None),
            ]),
            _ => {
                let count = if self.bits == 64 { 16 } else { 8 };
                let index = self.dice.below(count) as usize;
                let index = (self.dice.once_in(3) && index != sp).then_some(index);
                let base = (!self.dice.once_in(6)).then_some(self.dice.below(count) as usize);
                (base, index.filter(|index| Some(*index) != base))
            }
        };
        let default = if base == Some(4) || base == Some(5) { Register::SS } else { Register::DS };
        let segment = if self.dice.once_in(4) {
            let segment = self.dice.pick(&SEGMENT_REGISTERS);
            self.instruction.set_segment_prefix(segment);
            segment
        } else {
            default
        };
        let offset = target.wrapping_sub(self.segment_base(segment));
        let file = [Register::AX, Register::EAX, Register::RAX][size.trailing_zeros() as usize - 4];
        let i = &mut self.instruction;
        i.set_op_kind(at, OpKind::Memory);
        i.set_memory_index_scale(1);
        let full = size / 8;
        if base.is_none() && index.is_none() {
            if self.bits == 64 && !direct && self.dice.once_in(2) {
                i.set_memory_base(if size == 64 { Register::RIP } else { Register::EIP });
            }
            i.set_memory_displacement64(offset & u64::MAX >> (64 - size));
            i.set_memory_displ_size(full);
            return Some(());
        }
        let scale = if size == 16 { 1 } else { 1u64 << self.dice.below(4) };
        let small = self.dice.once_in(2);
        let displacement = match small {
            true => self.dice.roll() as i8 as i64,
            false => self.dice.roll() as i32 as i64,
        };
        if let Some(base) = base {
            i.set_memory_base(file + base as u32);
        }
        let mut rest = offset.wrapping_sub(displacement as u64);
        if let Some(index) = index {
            i.set_memory_index(file + index as u32);
            i.set_memory_index_scale(scale as u32);
            let count = if base.is_some() { self.dice.roll() & 0xf_ffff } else { rest / scale };
            self.set_address(index, count, size);
            rest = rest.wrapping_sub(count.wrapping_mul(scale));
        }
        if let Some(base) = base {
            self.set_address(base, rest, size);
        }
        let encoded = match size {
            64 => displacement as u64,
            32 => u64::from(displacement as u32),
            _ => u64::from(displacement as u16),
        };
        let short = small && (base.is_some() || size == 16);
        self.instruction.set_memory_displacement64(encoded);
        self.instruction.set_memory_displ_size(if short { 1 } else { full });
        Some(())
    }

    /// A gather's operand: indices that stay near its base.
    fn gather(&mut self, at: u32, kind: Operand) -> Option<()> {
        use Operand::*;
        let size = self.bits.max(32);
        let number = self.dice.below(if self.bits == 64 { 16 } else { 8 }) as usize;
        let file = if matches!(kind, mem_vsib32x | mem_vsib64x) { Register::XMM0 } else { Register::YMM0 };
        let lane = if matches!(kind, mem_vsib32x | mem_vsib32y) { 4 } else { 8 };
        for half in [160, 576] {
            for at in (half + 16 * number..half + 16 * number + 16).step_by(lane) {
                let index = self.dice.below(64).wrapping_sub(32).to_le_bytes();
                self.state.extended[at..at + lane].copy_from_slice(&index[..lane]);
            }
        }
        let target = target(self.window, self.dice);
        let base = self.dice.pick(&[0, 1, 2, 3, 6, 7]);
        self.set_address(base, target.wrapping_sub(self.segment_base(Register::DS)), size);
        let i = &mut self.instruction;
        i.set_op_kind(at, OpKind::Memory);
        i.set_memory_base(if size == 64 { Register::RAX } else { Register::EAX } + base as u32);
        i.set_memory_index(file + number as u32);
        i.set_memory_index_scale(1 << self.dice.below(4));
        i.set_memory_displ_size(0);
        self.target = Some(target);
        Some(())
    }
}

/// A far pointer to code, of a selector that may not do.
fn code_pointer(dice: &mut Dice) -> (u16, u64) {
    let selector = if dice.once_in(3) { dice.pick(&ANY) } else { dice.pick(&[CODE16, CODE32, CODE64, 0x2f]) };
    let to = CODE + PAGE / 2 + dice.below(512);
    let base = if selector == CODE64 { 0 } else { segments::base(selector) };
    (selector, if dice.once_in(8) { dice.value() } else { to.wrapping_sub(base) })
}

/// What an instruction finds in memory and in registers where any value would only fault.
fn fill(instruction: &Instruction, state: &mut State, window: u64, target: Option<u64>, bits: u32, dice: &mut Dice) {
    use Mnemonic::*;
    let put = |memory: &mut [u8; WINDOW], at: u64, bytes: &[u8]| {
        let at = at.wrapping_sub(window) as usize;
        if let Some(place) = at.checked_add(bytes.len()).and_then(|end| memory.get_mut(at..end)) {
            place.copy_from_slice(bytes);
        }
    };
    let at = target.unwrap_or(0);
    let offset_bytes = match instruction.memory_size() {
        MemorySize::SegPtr16 => 2,
        MemorySize::SegPtr32 => 4,
        MemorySize::SegPtr64 => 8,
        _ => 0,
    };
    if offset_bytes != 0 {
        let (selector, offset) = if matches!(instruction.mnemonic(), Jmp | Call) {
            code_pointer(dice)
        } else {
            (if dice.once_in(2) { dice.pick(&GOOD) } else { dice.pick(&ANY) }, dice.roll())
        };
        put(&mut state.memory, at, &offset.to_le_bytes()[..offset_bytes]);
        put(&mut state.memory, at + offset_bytes as u64, &selector.to_le_bytes());
    }
    let stack = state.gpr[4].wrapping_add(if bits == 64 { 0 } else { segments::base(state.selectors[2]) });
    let slot = match instruction.code() {
        Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
        Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
        _ => 0,
    };
    if slot != 0 {
        let (selector, offset) = code_pointer(dice);
        let flags = dice.roll() & 0x20_0cd5 | 0x102;
        let outer = if dice.once_in(2) { dice.pick(&ANY) } else { FLAT };
        let words = [offset, u64::from(selector), flags, dice.roll(), u64::from(outer)];
        for (number, word) in words.iter().enumerate() {
            put(&mut state.memory, stack.wrapping_add(slot as u64 * number as u64), &word.to_le_bytes()[..slot]);
        }
    }
    match instruction.mnemonic() {
        Pop | Mov if instruction.op0_register().is_segment_register() => {
            let selector = dice.pick(&ANY).to_le_bytes();
            put(&mut state.memory, stack, &selector);
            put(&mut state.memory, at, &selector);
        }
        Lsl if target.is_none() => {
            // One limit is the number of the CPU.
            for register in &mut state.gpr {
                *register = if *register & 0xfff8 == 0x78 { FLAT.into() } else { *register };
            }
        }
        Lar | Lsl | Verr | Verw if target.is_some() => put(&mut state.memory, at, &dice.pick(&ANY).to_le_bytes()),
        Ldmxcsr | Vldmxcsr if !dice.once_in(8) => put(&mut state.memory, at + 2, &[0; 2]),
        Fxrstor | Fxrstor64 if !dice.once_in(8) => put(&mut state.memory, at + 26, &[0; 2]),
        Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 => {
            state.gpr[0] &= 7;
            state.gpr[2] = 0;
            if !dice.once_in(8) {
                put(&mut state.memory, at + 26, &[0; 2]);
                let compact = if dice.once_in(2) { 1u64 << 63 | dice.below(8) } else { 0 };
                let present = dice.below(8) & if compact != 0 { compact } else { 7 };
                put(&mut state.memory, at + 512, &[0; 64]);
                put(&mut state.memory, at + 512, &present.to_le_bytes());
                put(&mut state.memory, at + 520, &compact.to_le_bytes());
            }
        }
        _ => {}
    }
}
