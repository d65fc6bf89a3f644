//! Which instructions KVM is trusted with.
//!
//! One that is must do the same on every x86 CPU, touch nothing that a hypervisor may intercept, and be undone with ease
//! when the page that it stores to turns out not to be mapped: KVM says so only behind the instruction. All others are the
//! software CPU's: that is how they exit, whatever KVM itself can intercept.

use hv::features::is_absent;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

/// How an instruction that KVM is trusted with ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// At the next one.
    Next,
    /// At the next one or at this address.
    Branch(u64),
    /// At this address alone.
    Jump(u64),
    /// Wherever memory or a register says.
    Anywhere,
}

/// An instruction that KVM is trusted with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    /// Where it is.
    pub(super) at: u64,
    /// How it ends.
    pub(super) flow: Flow,
    /// Where it leads when no branch is taken, if that is one place.
    pub(super) next: u64,
    /// It stores to memory, and reads none.
    pub(super) stores: bool,
    /// What it subtracts from RSP then.
    pub(super) pushed: u64,
    /// It stores to memory that it has read before.
    pub(super) modifies: bool,
}

/// What KVM may be trusted with of `instruction`; `None` for what is the software CPU's.
pub(super) fn plain(instruction: &Instruction, info: &mut InstructionInfoFactory) -> Option<Plain> {
    // What the guest's CPU has not got is #UD, whether the host has it or not.
    if !is_trusted(instruction) || is_absent(instruction) {
        return None;
    }
    let flow = match instruction.flow_control() {
        FlowControl::Next => Flow::Next,
        FlowControl::ConditionalBranch => Flow::Branch(instruction.near_branch_target()),
        FlowControl::UnconditionalBranch | FlowControl::Call => Flow::Jump(instruction.near_branch_target()),
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return => Flow::Anywhere,
        _ => return None,
    };
    let accesses = info.info(instruction).used_memory();
    let access = match accesses {
        [] => OpAccess::None,
        [one] => one.access(),
        // Whether the first of two was done when the second cannot be, nobody could tell.
        _ => return None,
    };
    let modifies = matches!(access, OpAccess::ReadWrite | OpAccess::ReadCondWrite);
    let stores = access == OpAccess::Write;
    let pushed = if stores { u64::from(instruction.stack_pointer_increment().min(0).unsigned_abs()) } else { 0 };
    let next = match flow {
        Flow::Jump(to) => to,
        Flow::Next | Flow::Branch(_) | Flow::Anywhere => instruction.next_ip(),
    };
    Some(Plain { at: instruction.ip(), flow, next, stores, pushed, modifies })
}

/// Whether it is one of those that are the same everywhere, with operands that are. LZCNT and TZCNT are not: a CPU without them
/// takes them for BSR and BSF. What else a CPU lacks it raises #UD for, and then it is the software CPU's.
fn is_trusted(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let known = matches!(
        instruction.mnemonic(),
        Adc | Adcx
            | Add
            | Adox
            | And
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bsf
            | Bsr
            | Bswap
            | Bt
            | Btc
            | Btr
            | Bts
            | Bzhi
            | Call
            | Cbw
            | Cdq
            | Cdqe
            | Clc
            | Cld
            | Cmc
            | Cmova
            | Cmovae
            | Cmovb
            | Cmovbe
            | Cmove
            | Cmovg
            | Cmovge
            | Cmovl
            | Cmovle
            | Cmovne
            | Cmovno
            | Cmovnp
            | Cmovns
            | Cmovo
            | Cmovp
            | Cmovs
            | Cmp
            | Cmpxchg
            | Cqo
            | Crc32
            | Cwd
            | Cwde
            | Dec
            | Div
            | Endbr64
            | Idiv
            | Imul
            | Inc
            | Ja
            | Jae
            | Jb
            | Jbe
            | Je
            | Jecxz
            | Jg
            | Jge
            | Jl
            | Jle
            | Jmp
            | Jne
            | Jno
            | Jnp
            | Jns
            | Jo
            | Jp
            | Jrcxz
            | Js
            | Lahf
            | Lea
            | Leave
            | Lfence
            | Loop
            | Loope
            | Loopne
            | Mfence
            | Mov
            | Movbe
            | Movnti
            | Movsx
            | Movsxd
            | Movzx
            | Mul
            | Mulx
            | Neg
            | Nop
            | Not
            | Or
            | Pdep
            | Pext
            | Pop
            | Popcnt
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchnta
            | Prefetchw
            | Push
            | Pushfq
            | Rcl
            | Rcr
            | Ret
            | Rol
            | Ror
            | Rorx
            | Sahf
            | Sal
            | Sar
            | Sarx
            | Sbb
            | Seta
            | Setae
            | Setb
            | Setbe
            | Sete
            | Setg
            | Setge
            | Setl
            | Setle
            | Setne
            | Setno
            | Setnp
            | Setns
            | Seto
            | Setp
            | Sets
            | Sfence
            | Shl
            | Shld
            | Shlx
            | Shr
            | Shrd
            | Shrx
            | Stc
            | Std
            | Sub
            | Test
            | Xadd
            | Xchg
            | Xor
    );
    let system = |register: Register| register.is_segment_register() || register.is_cr() || register.is_dr();
    known
        && (0..instruction.op_count()).all(|operand| {
            instruction.op_kind(operand) != OpKind::Register || !system(instruction.op_register(operand))
        })
        && !matches!(instruction.flow_control(), FlowControl::Return if instruction.code() != Code::Retnq)
        && !matches!(instruction.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
        && !is_far(instruction)
}

/// Whether an instruction that these bytes begin with does otherwise on CPUs that are not Intel's: where the operand size
/// counts for near branches, a prefix for LOOPcc, and in flags that are left undefined, which guests see all the same. That logic
/// clears AF, all agree.
pub(super) fn is_other_elsewhere(instruction: &Instruction, bytes: &[u8]) -> bool {
    use Mnemonic::{And, Loope, Loopne, Or, Test, Xor};
    if matches!(instruction.mnemonic(), Loope | Loopne) {
        return true;
    }
    let flags = instruction.rflags_undefined() != 0 && !matches!(instruction.mnemonic(), And | Or | Test | Xor);
    flags || Decoder::with_ip(64, bytes, instruction.ip(), DecoderOptions::AMD).decode() != *instruction
}

fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}
