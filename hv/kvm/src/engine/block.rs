//! A run of instructions that KVM is trusted with, as far as it is known where it ends.

use super::plain::{Flow, Plain, plain};
use hv::cpu::Cpu;
use hv_defs::x86::Seg;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};

/// The most instructions of a run.
const LONGEST: usize = 32;
/// Where guests may be stopped: as many as there are debug registers.
const STOPS: usize = 4;

/// Instructions that follow one another, and where the guest is stopped behind them.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The instructions, in order.
    pub(super) code: Vec<Plain>,
    /// The address behind the last.
    pub(super) end: u64,
    /// Where the guest is to stop; nowhere, when it is one instruction that may lead anywhere.
    pub(super) stops: Vec<u64>,
}

/// Makes blocks of bytes.
pub(super) struct Looker {
    info: InstructionInfoFactory,
    instruction: Instruction,
}

impl Default for Looker {
    fn default() -> Self {
        Self { info: InstructionInfoFactory::new(), instruction: Instruction::default() }
    }
}

impl Looker {
    /// The instructions at `rip`, whose bytes are known up to their page's end, and at most `most` of them.
    pub(super) fn look(&mut self, block: &mut Block, bytes: &[u8], rip: u64, most: u64) {
        block.code.clear();
        block.stops.clear();
        block.end = rip;
        let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
        let most = usize::try_from(most).unwrap_or(LONGEST).min(LONGEST);
        while block.code.len() < most && decoder.can_decode() {
            decoder.decode_out(&mut self.instruction);
            if self.instruction.is_invalid() {
                break;
            }
            let Some(plain) = plain(&self.instruction, &mut self.info) else { break };
            let next = self.instruction.next_ip();
            let within = |at: u64| at.wrapping_sub(rip) < next.wrapping_sub(rip);
            let ends = match plain.flow {
                Flow::Next => None,
                // Where a block that jumps into itself goes on, it would stop on its way already; and where some branches lead
                // nobody knows. Such a branch is one step.
                Flow::Branch(to) | Flow::Jump(to) if within(to) => Some(&[][..]),
                Flow::Anywhere => Some(&[][..]),
                Flow::Branch(to) => Some(&[to, next][..]),
                Flow::Jump(to) => Some(&[to][..]),
            };
            if ends.is_some_and(<[u64]>::is_empty) && !block.code.is_empty() {
                break;
            }
            block.code.push(plain);
            block.end = next;
            if let Some(ends) = ends {
                block.stops.extend_from_slice(ends);
                return;
            }
        }
        if !block.code.is_empty() {
            block.stops.push(block.end);
        }
        debug_assert!(block.stops.len() <= STOPS);
    }
}

/// The linear addresses of the first and the last byte that the instruction of `bytes` at `cpu`'s RIP accesses, if it
/// accesses any: of one that KVM is trusted with.
pub(super) fn accessed(bytes: &[u8], cpu: &Cpu) -> Option<[u64; 2]> {
    let instruction = Decoder::with_ip(64, bytes, cpu.rip, DecoderOptions::NONE).decode();
    let mut info = InstructionInfoFactory::new();
    let memory = info.info(&instruction).used_memory().first()?;
    let first = memory.virtual_address(0, |register, _, _| {
        Some(match register {
            Register::FS => cpu.seg[Seg::Fs as usize].base,
            Register::GS => cpu.seg[Seg::Gs as usize].base,
            Register::None | Register::ES | Register::CS | Register::SS | Register::DS => 0,
            register => {
                let full = cpu.regs.gpr[register.full_register().number() & 15];
                if register.size() == 4 { full & 0xffff_ffff } else { full }
            }
        })
    })?;
    let bytes = memory.memory_size().size().max(1) as u64;
    Some([first, first.wrapping_add(bytes - 1)])
}

impl Block {
    /// Whether it is one instruction that is run as a step, for want of a place to stop at.
    pub(super) fn is_step(&self) -> bool {
        self.stops.is_empty()
    }

    /// Which instruction is at an address.
    pub(super) fn index(&self, rip: u64) -> Option<usize> {
        self.code.iter().position(|plain| plain.at == rip)
    }
}
