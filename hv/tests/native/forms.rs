//! Instruction forms and random cases of them.
//!
//! A form is one of iced-x86's opcodes; a case is that form with operands, encoded, and a state in which its memory
//! operand lies in the window (most of the time: faults are results too).

use crate::host::{CODE, Case, NONE, State, WINDOW, WINDOW_AT};
use iced_x86::{
    Code, CpuidFeature, Encoder, Instruction, MemoryOperand, Mnemonic, OpCodeInfo, OpCodeOperandKind as Operand,
    OpKind, Register,
};

/// A seeded generator (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// A value that arithmetic finds interesting more often than chance does.
    fn value(&mut self) -> u64 {
        match self.below(10) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            3 => self.below(256),
            4 => u64::from(self.roll() as u32),
            5 => self.roll() as i32 as u64,
            6 => self.roll() & 0x8000_8000_8000_8080,
            _ => self.roll(),
        }
    }

    fn float64(&mut self) -> u64 {
        match self.below(8) {
            0 => self.value(),
            1 => (self.roll() as i32 as f64).to_bits(),
            2 => self.below(2) << 63 | [0, 0x7ff, 0x7ff, 1, 0x7fe][self.below(5) as usize] << 52 | self.below(3) << 50,
            _ => (self.below(2) << 63) | (1023 - 40 + self.below(80)) << 52 | self.roll() >> 12,
        }
    }

    fn float32(&mut self) -> u64 {
        match self.below(8) {
            0 => self.value() & 0xffff_ffff,
            1 => u64::from((self.roll() as i16 as f32).to_bits()),
            2 => self.below(2) << 31 | [0, 0xff, 0xff, 1, 0xfe][self.below(5) as usize] << 23 | self.below(3) << 21,
            _ => (self.below(2) << 31) | (127 - 20 + self.below(40)) << 23 | self.roll() >> 41,
        }
    }

    /// Eight bytes of a vector register or of memory.
    fn lane(&mut self) -> u64 {
        match self.below(4) {
            0 => self.float64(),
            1 => self.float32() | self.float32() << 32,
            _ => self.value(),
        }
    }

    fn f80(&mut self) -> [u8; 10] {
        let sign = (self.below(2) << 15) as u16;
        let (exponent, significand) = match self.below(12) {
            0 => (0, 0),
            1 => (0x7fff, 1 << 63),
            2 => (0x7fff, self.roll() | 1 << 63),
            3 => (0, self.roll() >> 1),
            4 => (self.below(0x8000) as u16, self.roll()),
            _ => (0x3fff - 40 + self.below(80) as u16, self.roll() | 1 << 63),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }
}

/// Features whose instructions the machine's CPU is to have.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::POPCNT,
    CpuidFeature::LZCNT,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::ADX,
    CpuidFeature::MOVBE,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::FMA,
    CpuidFeature::F16C,
];

/// Instructions whose result is the machine's own affair, or that leave user mode.
fn is_out_of_scope(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Int | Int1
            | Int3
            | Into
            | Syscall
            | Sysenter
            | Cpuid
            | Rdtsc
            | Rdtscp
            | Rdpmc
            | Rdrand
            | Rdseed
            | Hlt
            | Lar
            | Lsl
            | Verr
            | Verw
            | Sldt
            | Str
            | Smsw
            | Sgdt
            | Sidt
            | Arpl
            | Iret
            | Iretd
            | Iretq
            | In
            | Out
            | Insb
            | Insw
            | Insd
            | Outsb
            | Outsw
            | Outsd
            | Cli
            | Sti
            | Popf
            | Popfq
            | Pushf
            | Pushfq
            | Retf
            | Enter
            | Fxsave
            | Fxrstor
            | Fxsave64
            | Fxrstor64
            | Xsave
            | Xrstor
            | Fsave
            | Frstor
            | Fnsave
            | Fnstenv
            | Fstenv
            | Fldenv
            | Lss
            | Lfs
            | Lgs
            | Wait
            | Ud0
            | Ud1
            | Ud2
            | Fstpnce
    )
}

/// Every form in scope, in the order of its number.
pub fn all() -> Vec<Code> {
    Code::values()
        .filter(|code| {
            let info = code.op_code();
            info.is_instruction()
                && info.mode64()
                && info.cpl3()
                && !info.is_privileged()
                && !matches!(info.mnemonic(), Mnemonic::INVALID)
                && !is_out_of_scope(info.mnemonic())
                && !code.is_jmp_far()
                && !code.is_jmp_far_indirect()
                && !code.is_call_far()
                && !code.is_call_far_indirect()
                && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
                && (0..info.op_count()).all(|operand| is_buildable(info.op_kind(operand)))
        })
        .collect()
}

fn is_buildable(operand: Operand) -> bool {
    use Operand::*;
    !matches!(
        operand,
        farbr2_2
            | farbr4_2
            | mem_offs
            | mem_mpx
            | mem_mib
            | mem_vsib32x
            | mem_vsib64x
            | mem_vsib32y
            | mem_vsib64y
            | mem_vsib32z
            | mem_vsib64z
            | seg_reg
            | cr_reg
            | dr_reg
            | tr_reg
            | bnd_reg
            | xbegin_2
            | xbegin_4
            | sibmem
            | tmm_reg
            | tmm_rm
            | tmm_vvvv
            | k_reg
            | k_rm
            | k_vvvv
            | kp1_reg
            | zmm_reg
            | zmm_rm
            | zmm_vvvv
            | es
            | cs
            | ss
            | ds
            | fs
            | gs
    )
}

const BYTE_REGISTERS: [Register; 20] = [
    Register::AL,
    Register::CL,
    Register::DL,
    Register::BL,
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
    Register::AH,
    Register::CH,
    Register::DH,
    Register::BH,
];

fn register(operand: Operand, dice: &mut Dice) -> Option<Register> {
    use Operand::*;
    let number = dice.below(16) as u32;
    Some(match operand {
        r8_or_mem | r8_reg | r8_opcode => BYTE_REGISTERS[dice.below(20) as usize],
        r16_or_mem | r16_reg | r16_reg_mem | r16_rm | r16_opcode => Register::AX + number,
        r32_or_mem | r32_or_mem_mpx | r32_reg | r32_reg_mem | r32_rm | r32_opcode | r32_vvvv => Register::EAX + number,
        r64_or_mem | r64_or_mem_mpx | r64_reg | r64_reg_mem | r64_rm | r64_opcode | r64_vvvv => Register::RAX + number,
        mm_or_mem | mm_reg | mm_rm => Register::MM0 + number % 8,
        xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 => Register::XMM0 + number,
        ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 => Register::YMM0 + number,
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

fn may_be_memory(operand: Operand) -> bool {
    use Operand::*;
    matches!(operand, mem | r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem | ymm_or_mem)
}

/// A memory operand, and the register values that bring it into the window.
fn memory_operand(state: &mut State, dice: &mut Dice) -> MemoryOperand {
    let target = WINDOW_AT + 64 + dice.below(128) - if dice.below(2) == 0 { 0 } else { dice.below(8) };
    // Aligned more often than not: what SSE wants.
    let target = if dice.below(4) != 0 { target & !31 } else { target };
    let base = Register::RAX + dice.below(16) as u32;
    match dice.below(5) {
        0 => MemoryOperand::with_base_displ_size(Register::RIP, target as i64, 8),
        1 => {
            let index = loop {
                let index = Register::RAX + dice.below(16) as u32;
                if index != Register::RSP && index != base {
                    break index;
                }
            };
            let scale = 1 << dice.below(4);
            let displacement = dice.roll() as i8;
            let count = dice.below(1 << 20).wrapping_sub(1 << 19);
            state.gpr[index.number()] = count;
            let offset = count.wrapping_mul(u64::from(scale as u32)).wrapping_add(displacement as u64);
            state.gpr[base.number()] = target.wrapping_sub(offset);
            MemoryOperand::with_base_index_scale_displ_size(base, index, scale as u32, displacement.into(), 1)
        }
        _ => {
            let (displacement, size) =
                if dice.below(2) == 0 { (i64::from(dice.roll() as i8), 1) } else { (i64::from(dice.roll() as i32), 8) };
            state.gpr[base.number()] = target.wrapping_sub(displacement as u64);
            MemoryOperand::with_base_displ_size(base, displacement, size)
        }
    }
}

fn random_state(dice: &mut Dice) -> State {
    let mut state = State { extended: [0; 832], gpr: [0; 16], rip: CODE, rflags: 0, memory: [0; WINDOW] };
    for register in &mut state.gpr {
        *register = dice.value();
    }
    // Strings lie in the window, and are short.
    state.gpr[6] = WINDOW_AT + 64 + dice.below(64);
    state.gpr[7] = WINDOW_AT + 64 + dice.below(64);
    if dice.below(2) == 0 {
        state.gpr[1] = dice.below(6);
    }
    state.gpr[4] = WINDOW_AT + 128 + 8 * dice.below(4);
    state.gpr[5] = if dice.below(2) == 0 { WINDOW_AT + 96 } else { state.gpr[5] };
    // The six arithmetic flags and DF: all zero, all one, or any.
    let arithmetic = 0x8d5;
    state.rflags = 0x202
        | match dice.below(3) {
            0 => 0,
            1 => arithmetic,
            _ => dice.roll() & arithmetic,
        }
        | if dice.below(8) == 0 { 0x400 } else { 0 };
    for chunk in state.memory.chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.lane().to_le_bytes());
    }
    let rounding = dice.below(4) as u16;
    let control = 0x7f | [0, 2, 3, 3][dice.below(4) as usize] << 8 | rounding << 10;
    state.extended[..2].copy_from_slice(&control.to_le_bytes());
    let top = dice.below(8) as u16;
    let conditions = dice.roll() as u16 & 0x4700;
    state.extended[2..4].copy_from_slice(&(top << 11 | conditions).to_le_bytes());
    state.extended[4] = if dice.below(3) == 0 { dice.roll() as u8 } else { 0xff };
    let mxcsr =
        0x1f80 | (dice.below(4) as u32) << 13 | if dice.below(6) == 0 { dice.roll() as u32 & 0x8040 } else { 0 };
    state.extended[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for register in 0..8 {
        state.extended[32 + 16 * register..][..10].copy_from_slice(&dice.f80());
    }
    for chunk in state.extended[160..416].chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.lane().to_le_bytes());
    }
    for chunk in state.extended[576..832].chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.lane().to_le_bytes());
    }
    state.extended[512] = 7;
    state
}

fn operand(
    instruction: &mut Instruction,
    at: u32,
    kind: Operand,
    state: &mut State,
    memory_taken: &mut bool,
    dice: &mut Dice,
) -> Option<()> {
    use Operand::*;
    if may_be_memory(kind) && !*memory_taken && (kind == mem || dice.below(2) == 0) {
        *memory_taken = true;
        let memory = memory_operand(state, dice);
        instruction.set_op_kind(at, OpKind::Memory);
        instruction.set_memory_base(memory.base);
        instruction.set_memory_index(memory.index);
        instruction.set_memory_index_scale(memory.scale);
        instruction.set_memory_displacement64(memory.displacement as u64);
        instruction.set_memory_displ_size(memory.displ_size);
        return Some(());
    }
    let immediate = dice.value();
    let kind = match kind {
        imm8 | imm4_m2z => OpKind::Immediate8,
        imm8_const_1 => {
            instruction.set_op_kind(at, OpKind::Immediate8);
            instruction.set_immediate_u64(at, 1);
            return Some(());
        }
        imm8sex16 => OpKind::Immediate8to16,
        imm8sex32 => OpKind::Immediate8to32,
        imm8sex64 => OpKind::Immediate8to64,
        imm16 => OpKind::Immediate16,
        imm32 => OpKind::Immediate32,
        imm32sex64 => OpKind::Immediate32to64,
        imm64 => OpKind::Immediate64,
        seg_rSI => OpKind::MemorySegRSI,
        es_rDI => OpKind::MemoryESRDI,
        seg_rDI => OpKind::MemorySegRDI,
        seg_rBX_al => return Option::None,
        br64_1 | br64_4 => {
            instruction.set_op_kind(at, OpKind::NearBranch64);
            let distance = if dice.below(2) == 0 { dice.below(100) } else { 0u64.wrapping_sub(dice.below(100)) };
            instruction.set_near_branch64(CODE.wrapping_add(distance));
            return Some(());
        }
        _ => {
            let register = register(kind, dice)?;
            instruction.set_op_kind(at, OpKind::Register);
            instruction.set_op_register(at, register);
            return Some(());
        }
    };
    instruction.set_op_kind(at, kind);
    if matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    ) {
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
        instruction.set_immediate_u64(at, value);
    }
    Some(())
}

/// A random case of `code`; `None` where the dice named operands that do not go together.
pub fn case(code: Code, dice: &mut Dice) -> Option<(Instruction, Case)> {
    let info: &OpCodeInfo = code.op_code();
    let mut state = random_state(dice);
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let mut memory_taken = false;
    for at in 0..info.op_count() {
        operand(&mut instruction, at, info.op_kind(at), &mut state, &mut memory_taken, dice)?;
    }
    let reads_memory = memory_taken && info.op_kind(0) != Operand::mem;
    let _ = reads_memory;
    if info.can_use_lock_prefix() && memory_taken && instruction.op0_kind() == OpKind::Memory && dice.below(4) == 0 {
        instruction.set_has_lock_prefix(true);
    }
    if info.can_use_repne_prefix() && dice.below(3) == 0 {
        instruction.set_has_repne_prefix(true);
    } else if info.can_use_rep_prefix() && dice.below(2) == 0 {
        instruction.set_has_rep_prefix(true);
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        state.gpr[1] = dice.below(6);
    }
    let mut encoder = Encoder::new(64);
    let length = encoder.encode(&instruction, CODE).ok()?;
    let encoded = encoder.take_buffer();
    if length > 15 {
        return None;
    }
    let mut bytes = [0xcc; 16];
    bytes[..length].copy_from_slice(&encoded);
    Some((instruction, Case { state, bytes, length: length as u8, vector: NONE, error_code: 0, address: 0 }))
}
