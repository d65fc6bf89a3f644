//! A run of instructions that KVM is trusted with, as far as it is known where it ends.

use super::plain::{Flow, Plain, is_other_elsewhere, plain};
use hv::cpu::Cpu;
use hv_defs::addr::PAGE_SIZE;
use hv_defs::x86::Seg;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};

/// The most instructions of a block.
const LONGEST: usize = 64;
/// Where a guest may be stopped: as many places as there are debug registers.
const STOPS: usize = 4;

/// Instructions that follow one another when no branch among them is taken, and where the guest is stopped wherever it
/// goes.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The instructions, in order. No two are at one address.
    pub(super) code: Vec<Plain>,
    /// Where the guest is to stop, which is at none of them, and how many were executed when it does: the last for who took
    /// no branch. None, when the block is one instruction that may lead anywhere.
    pub(super) stops: Vec<(u64, usize)>,
}

/// Makes blocks of bytes.
pub(super) struct Looker {
    info: InstructionInfoFactory,
    instruction: Instruction,
    /// Whether the host's CPU is Intel's, as the guest's is.
    intel: bool,
}

impl Looker {
    pub(super) fn new(intel: bool) -> Self {
        Self { info: InstructionInfoFactory::new(), instruction: Instruction::default(), intel }
    }

    /// The block that begins at `rip`, of at most `most` instructions, all of them in one page, whose bytes these are.
    pub(super) fn look(&mut self, block: &mut Block, page: &[u8], rip: u64, most: u64) {
        block.code.clear();
        block.stops.clear();
        let most = usize::try_from(most).unwrap_or(LONGEST).min(LONGEST);
        let mut at = rip;
        while block.code.len() < most && at / PAGE_SIZE == rip / PAGE_SIZE {
            if let Some(&(_, executed)) = block.stops.iter().find(|(stop, _)| *stop == at) {
                // A branch leads to where its other way leads too: who stops there may have come by either. It ends the block.
                block.code.truncate(executed);
                block.stops.retain(|(_, before)| *before <= executed);
                at = block.code[executed - 1].next;
                break;
            }
            let Some(bytes) = page.get((at % PAGE_SIZE) as usize..) else { break };
            Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode_out(&mut self.instruction);
            let other = self.instruction.is_invalid() || !self.intel && is_other_elsewhere(&self.instruction, bytes);
            let plain = if other { None } else { plain(&self.instruction, &mut self.info) };
            let Some(plain) = plain else { break };
            let alone = match plain.flow {
                Flow::Next => false,
                // Where a block that leads into itself goes on, it would stop on its way already.
                Flow::Branch(to) | Flow::Jump(to) => to == at || block.index(to).is_some(),
                Flow::Anywhere => true,
            };
            if alone {
                if block.code.is_empty() {
                    block.code.push(plain);
                    return;
                }
                break;
            }
            if let Flow::Branch(to) = plain.flow {
                // One place is for who takes no branch at all.
                if block.stops.len() + 1 == STOPS || block.stops.iter().any(|(stop, _)| *stop == to) {
                    break;
                }
                block.stops.push((to, block.code.len() + 1));
            }
            at = plain.next;
            block.code.push(plain);
        }
        if !block.code.is_empty() {
            block.stops.push((at, block.code.len()));
        }
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

    /// How many instructions were executed when the guest has stopped where it was to, at this address.
    pub(super) fn executed(&self, rip: u64) -> Option<usize> {
        if self.is_step() {
            return Some(1);
        }
        self.stops.iter().find(|(stop, _)| *stop == rip).map(|(_, executed)| *executed)
    }

    /// Which instruction it was that stored something and led to this address.
    pub(super) fn stored(&self, rip: u64) -> Option<usize> {
        match self.is_step() {
            true => Some(0),
            false => self.code.iter().position(|plain| plain.stores && plain.next == rip),
        }
    }
}
