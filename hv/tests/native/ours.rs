//! Runs the same single instruction on the software CPU.

use crate::host::{CODE, Case, DATA, NONE, State, WINDOW, WINDOW_AT};
use hv::cpu::{Blocks, Cpu, Segment, Table, Trap, run};
use hv::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::controls::PinBased;
use hv_defs::exit::Reason;
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer};

const SIZE: u64 = 1 << 20;
const TABLES: u64 = 0x1000;
const CODE_PAGE: u64 = 0x1_0000;
const DATA_PAGE: u64 = 0x2_0000;

/// A CPU in 64-bit user mode, with the two test pages mapped where the host has them and nothing else.
pub struct Ours {
    cpu: Cpu,
    memory: Memory,
    blocks: Blocks,
    clock: u64,
}

/// What became of a case.
pub enum Outcome {
    /// As the host reports it.
    Done(Box<Case>),
    /// The software CPU does not have it.
    Unsupported(String),
}

impl Ours {
    pub fn new() -> Self {
        let mut memory = Memory::new(SIZE);
        let mut next = TABLES + 0x1000;
        let mut map = |memory: &mut Memory, gva: u64, to: u64| {
            let mut table = TABLES;
            for level in [39, 30, 21] {
                let at = Hpa(table + 8 * (gva >> level & 511));
                if memory.read::<u64>(at) == 0 {
                    memory.write(at, next | 7);
                    next += 0x1000;
                }
                table = memory.read::<u64>(at) & !0xfff;
            }
            memory.write(Hpa(table + 8 * (gva >> 12 & 511)), to | 0x67);
        };
        map(&mut memory, CODE, CODE_PAGE);
        map(&mut memory, DATA, DATA_PAGE);
        let mut cpu = Cpu::new(64, 0);
        let segment =
            |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights: AccessRights::from(rights) };
        cpu.seg = [segment(0x2b, 0xc0f3); 6];
        cpu.seg[1] = segment(0x33, 0xa0fb);
        cpu.tr = segment(0x40, 0x8b);
        cpu.ldtr = segment(0, 0x1_0000);
        cpu.gdtr = Table::default();
        cpu.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG).bits();
        cpu.cr3 = TABLES;
        cpu.cr4 = (Cr4::VMXE | Cr4::PAE | Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::OSXMMEXCPT).bits();
        cpu.efer = (Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE).bits();
        cpu.regs.xcr0 = 7;
        cpu.controls.pin = PinBased::EXTERNAL_INTERRUPT_EXITING;
        cpu.controls.exception_bitmap = u32::MAX;
        cpu.mode_changed();
        Self { cpu, memory, blocks: Blocks::new(), clock: 0 }
    }

    pub fn run(&mut self, case: &Case) -> Outcome {
        let cpu = &mut self.cpu;
        cpu.regs.gpr = case.state.gpr;
        cpu.rip = CODE;
        cpu.set_rflags(case.state.rflags | 2);
        turn(&case.state.extended, &mut cpu.regs.extended.0, true);
        self.memory.write_bytes(Hpa(DATA_PAGE), &[0; 4096]);
        self.memory.write_bytes(Hpa(DATA_PAGE + (WINDOW_AT - DATA)), &case.state.memory);
        self.memory.write_bytes(Hpa(CODE_PAGE + (CODE & 0xfff)), &case.bytes);
        self.blocks.follow(&mut self.memory);
        cpu.interruptibility = hv_defs::controls::Interruptibility::empty();
        cpu.mode_changed();
        let until = self.clock + 1;
        let trap = run(cpu, &mut self.memory, &mut self.blocks, &mut self.clock, until);
        let mut after = *case;
        match trap {
            Trap::Unsupported(what) => return Outcome::Unsupported(what.what),
            Trap::Exit(exit) => match exit.reason.reason() {
                Reason::EXTERNAL_INTERRUPT => after.vector = NONE,
                Reason::EXCEPTION_NMI => {
                    self.clock = until;
                    after.vector = exit.intr_info.vector();
                    if after.vector == 14 {
                        after.error_code = exit.intr_error.into();
                        after.address = exit.qualification;
                    }
                }
                other => return Outcome::Unsupported(format!("exits with {other}")),
            },
        }
        let State { extended, gpr, rip, rflags, memory } = &mut after.state;
        *gpr = cpu.regs.gpr;
        *rip = cpu.rip;
        *rflags = cpu.rflags();
        turn(&cpu.regs.extended.0, extended, false);
        let from = Hpa(DATA_PAGE + (WINDOW_AT - DATA));
        memory.copy_from_slice(self.memory.bytes(from, WINDOW).expect("the window lies in memory"));
        Outcome::Done(Box::new(after))
    }
}

/// Copies an XSAVE image between the order of its x87 registers in memory (by stack) and in the CPU (by number).
fn turn(from: &[u8; 832], to: &mut [u8; 832], into_cpu: bool) {
    to.copy_from_slice(from);
    let top = usize::from(from[3] >> 3 & 7);
    for stack in 0..8 {
        let physical = (stack + top) & 7;
        let (source, target) = if into_cpu { (stack, physical) } else { (physical, stack) };
        to[32 + 16 * target..][..10].copy_from_slice(&from[32 + 16 * source..][..10]);
        to[32 + 16 * target + 10..][..6].fill(0);
    }
}
