//! Runs the same single instruction on the software CPU.

use super::host::{CODE, Case, DATA, NONE, PAGE, State, WINDOW};
use super::segments::{self, GDT, LDT};
use hv::cpu::{Blocks, Cpu, Segment, Table, Trap, run};
use hv::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::controls::{Interruptibility, PinBased, SecondaryControls};
use hv_defs::exit::Reason;
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer};

const SIZE: u64 = 1 << 20;
const PAGE_TABLES: u64 = 0x1000;
const CODE_PAGE: u64 = 0x1_0000;
const DATA_PAGE: u64 = 0x2_0000;
/// The descriptor tables' page, linear as a kernel has it, and its place.
const TABLES: u64 = 0xffff_9000_0000_0000;
const TABLES_PAGE: u64 = 0x3_0000;
const TSS_AT: u64 = 0x200;
const LDT_AT: u64 = 0x400;
const IDT_AT: u64 = 0x800;

/// A CPU in user mode, with the test pages mapped where the host has them and nothing else but what a kernel has.
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

fn segment(selector: u16) -> Segment {
    let descriptor = segments::descriptor(selector);
    if selector < 4 || descriptor == 0 {
        return Segment { selector, rights: AccessRights::from(0x1_0000), ..Segment::default() };
    }
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let limit = if descriptor >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit };
    let rights = AccessRights::from((descriptor >> 40) as u32 & 0xf0ff);
    Segment { selector, base: segments::base(selector), limit, rights }
}

impl Ours {
    pub fn new() -> Self {
        let mut memory = Memory::new(SIZE);
        let mut next = PAGE_TABLES + PAGE;
        let mut map = |memory: &mut Memory, gva: u64, to: u64| {
            let mut table = PAGE_TABLES;
            for level in [39, 30, 21] {
                let at = Hpa(table + 8 * (gva >> level & 511));
                if memory.read::<u64>(at) == 0 {
                    memory.write(at, next | 7);
                    next += PAGE;
                }
                table = memory.read::<u64>(at) & !0xfff;
            }
            memory.write(Hpa(table + 8 * (gva >> 12 & 511)), to);
        };
        map(&mut memory, CODE, CODE_PAGE | 0x67);
        map(&mut memory, DATA, DATA_PAGE | 0x67);
        map(&mut memory, TABLES, TABLES_PAGE | 0x63);
        for (index, descriptor) in GDT.into_iter().enumerate() {
            memory.write(Hpa(TABLES_PAGE + 8 * index as u64), descriptor);
        }
        for (index, entry) in LDT.iter().enumerate() {
            memory.write(Hpa(TABLES_PAGE + LDT_AT + 8 * index as u64), entry.descriptor());
        }
        // Interrupt gates of privilege level 0, as far as the page reaches.
        for vector in 0..128 {
            memory.write(Hpa(TABLES_PAGE + IDT_AT + 16 * vector), 0x0000_8e00_0010_0000u64);
        }
        // The I/O map is beyond the task's limit.
        memory.write(Hpa(TABLES_PAGE + TSS_AT + 0x66), 0xffffu16);
        let mut cpu = Cpu::new(64, 0);
        cpu.tr = Segment { selector: 0x40, base: TABLES + TSS_AT, limit: 0x67, rights: AccessRights::from(0x8b) };
        let limit = 8 * LDT.len() as u32 - 1;
        cpu.ldtr = Segment { selector: 0x50, base: TABLES + LDT_AT, limit, rights: AccessRights::from(0x82) };
        cpu.gdtr = Table { base: TABLES, limit: 127 };
        cpu.idtr = Table { base: TABLES + IDT_AT, limit: 0x7ff };
        cpu.cr0 = (Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG).bits();
        cpu.cr3 = PAGE_TABLES;
        let bases = if super::host::has_bases() { Cr4::FSGSBASE } else { Cr4::empty() };
        cpu.cr4 = (Cr4::VMXE | Cr4::PAE | Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::OSXMMEXCPT | bases).bits();
        cpu.efer = (Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE).bits();
        cpu.regs.xcr0 = 7;
        cpu.controls.pin = PinBased::EXTERNAL_INTERRUPT_EXITING;
        cpu.controls.exception_bitmap = u32::MAX;
        cpu.controls.secondary = SecondaryControls::INVPCID | SecondaryControls::XSAVES | SecondaryControls::RDTSCP;
        cpu.mode_changed();
        Self { cpu, memory, blocks: Blocks::new(), clock: 0 }
    }

    /// The pages of a fresh process.
    pub fn clear(&mut self) {
        self.memory.write_bytes(Hpa(CODE_PAGE), &[0; 4096]);
    }

    /// Runs a case, for as many instructions as the host does: one, and a second where the first holds traps back.
    pub fn run(&mut self, case: &Case, instructions: u64, trap_flag: bool) -> Outcome {
        let cpu = &mut self.cpu;
        cpu.regs.gpr = case.state.gpr;
        cpu.rip = case.state.rip;
        cpu.seg = case.state.selectors.map(segment);
        for (register, base) in [4, 5].into_iter().zip(case.state.bases) {
            if segments::has_any_base(case.state.selectors[register]) {
                cpu.seg[register].base = base;
            }
        }
        cpu.set_rflags(case.state.rflags | 2 | u64::from(trap_flag) << 8);
        turn(&case.state.extended, &mut cpu.regs.extended.0, true);
        self.memory.write_bytes(Hpa(DATA_PAGE), &[0; 4096]);
        self.memory.write_bytes(Hpa(DATA_PAGE + (case.window - DATA)), &case.state.memory);
        let room = (CODE + PAGE - case.code).min(16) as usize;
        self.memory.write_bytes(Hpa(CODE_PAGE + (case.code - CODE)), &case.bytes[..room]);
        self.blocks.follow(&mut self.memory);
        cpu.interruptibility = Interruptibility::empty();
        cpu.pending_debug = 0;
        cpu.mode_changed();
        let until = self.clock + instructions;
        let trap = run(cpu, &mut self.memory, &mut self.blocks, &mut self.clock, until);
        self.memory.write_bytes(Hpa(CODE_PAGE + (case.code - CODE)), &[0; 16][..room]);
        self.clock = until;
        let mut after = *case;
        match trap {
            Trap::Unsupported(what) => return Outcome::Unsupported(what.what),
            Trap::Paused => unreachable!("nobody watches"),
            Trap::Exit(exit) => match exit.reason.reason() {
                Reason::EXTERNAL_INTERRUPT => after.vector = NONE,
                Reason::EXCEPTION_NMI if exit.intr_info.vector() == 1 => {
                    after.vector = NONE;
                    cpu.rip += u64::from(exit.length);
                }
                Reason::EXCEPTION_NMI => {
                    after.vector = exit.intr_info.vector();
                    if matches!(after.vector, 10..=14 | 17) {
                        after.error_code = exit.intr_error.into();
                    }
                    if after.vector == 14 {
                        after.address = exit.qualification;
                    }
                    // The host tells of a breakpoint and its like from behind the instruction.
                    if matches!(after.vector, 3 | 4) {
                        cpu.rip += u64::from(exit.length);
                    }
                }
                other => return Outcome::Unsupported(format!("exits with {other}")),
            },
        }
        let State { extended, gpr, rip, rflags, memory, bases, selectors } = &mut after.state;
        *gpr = cpu.regs.gpr;
        *rip = cpu.rip;
        *rflags = cpu.rflags();
        *selectors = cpu.seg.map(|segment| segment.selector);
        *bases = [cpu.seg[4].base, cpu.seg[5].base];
        turn(&cpu.regs.extended.0, extended, false);
        let from = Hpa(DATA_PAGE + (case.window - DATA));
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
