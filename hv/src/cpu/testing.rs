//! Flat machines to run snippets in: state in, bytes, state out.

use super::{Blocks, Cpu, Segment, Table, Trap, run};
use crate::memory::Memory;
use crate::vmx::exit::ExitInfo;
use hv_defs::addr::Hpa;
use hv_defs::controls::{PinBased, PrimaryControls};
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer, Seg};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

/// Where the snippet is put.
pub(crate) const CODE: u64 = 0x10_0000;
/// Where data may be, from here to the end of memory.
pub(crate) const DATA: u64 = 0x20_0000;
/// The stack pointer's first value.
pub(crate) const STACK: u64 = 0x18_0000;
/// Bytes of memory; all of it is mapped at its own address, of both privilege levels.
pub(crate) const MEMORY: u64 = 4 << 20;

pub(crate) const TABLES: u64 = 0x1000;
/// Where the descriptor tables are.
pub(crate) const GDT: u64 = 0x8000;
/// Interrupt gates; none is present unless a test writes it.
pub(crate) const IDT: u64 = 0x9000;

/// Selectors of [`Machine`]'s GDT: 64-bit code, data, 32-bit code, 16-bit code, 16-bit data.
pub(crate) const CODE64: u16 = 0x08;
/// Flat data.
pub(crate) const FLAT: u16 = 0x10;
/// Flat 32-bit code.
pub(crate) const CODE32: u16 = 0x18;
/// 16-bit code from address 0.
pub(crate) const CODE16: u16 = 0x20;
/// 16-bit data from address 0.
pub(crate) const DATA16: u16 = 0x28;

/// 64-bit code and flat data of privilege level 3.
pub(crate) const USER_CODE: u16 = 0x33;
/// Flat data of privilege level 3.
pub(crate) const USER_DATA: u16 = 0x3b;
/// The task-state segment: zeros but for what a test writes.
pub(crate) const TSS: u64 = 0xa000;

/// A CPU with its memory.
pub(crate) struct Machine {
    /// The CPU.
    pub(crate) cpu: Cpu,
    /// Its memory.
    pub(crate) memory: Memory,
    /// Decoded blocks.
    pub(crate) blocks: Blocks,
    /// Instructions retired.
    pub(crate) clock: u64,
}

/// The modes that snippets can be run in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Real mode.
    Real,
    /// 16-bit protected mode, no paging.
    Protected16,
    /// 32-bit protected mode, no paging.
    Protected32,
    /// 32-bit code in IA-32e mode.
    Compatibility,
    /// 64-bit mode.
    Long,
}

fn segment(selector: u16, rights: u32, limit: u32) -> Segment {
    Segment { selector, base: 0, limit, rights: AccessRights::from(rights) }
}

impl Machine {
    /// A machine at privilege level 0, whose every intercept that can be off is off, with [`CODE`] to run.
    pub(crate) fn new(mode: Mode, code: &[u8]) -> Self {
        let mut memory = Memory::new(MEMORY);
        let mut put = |at: u64, value: u64| memory.write(Hpa(at), value);
        // One PDPT entry, a page directory of 2 MiB pages.
        put(TABLES, (TABLES + 0x1000) | 7);
        put(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for large in 0..MEMORY >> 21 {
            put(TABLES + 0x2000 + 8 * large, large << 21 | 0x87);
        }
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x0000_9b00_0000_ffff,
            0x0000_9300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x0000_8b00_0000_0067 | TSS << 16,
            0,
        ];
        for (at, descriptor) in (GDT..).step_by(8).zip(descriptors) {
            put(at, descriptor);
        }
        let mut cpu = Cpu::new(64, 0);
        cpu.gdtr = Table { base: GDT, limit: 0xff };
        cpu.idtr = Table { base: IDT, limit: 0xfff };
        cpu.tr = Segment { base: TSS, ..segment(0x40, 0x8b, 0x67) };
        cpu.ldtr = segment(0, 0x1_0000, 0);
        let (code_rights, data_rights, limit, selectors) = match mode {
            Mode::Real => (0x9b, 0x93, 0xffff, (0, 0)),
            Mode::Protected16 => (0x9b, 0x93, 0xffff, (CODE16, DATA16)),
            Mode::Protected32 | Mode::Compatibility => (0xc09b, 0xc093, u32::MAX, (CODE32, FLAT)),
            Mode::Long => (0xa09b, 0xc093, u32::MAX, (CODE64, FLAT)),
        };
        cpu.seg = [segment(selectors.1, data_rights, limit); 6];
        cpu.seg[Seg::Cs as usize] = segment(selectors.0, code_rights, limit);
        cpu.set_rflags(2);
        cpu.rip = CODE;
        cpu.regs.gpr[4] = STACK;
        if limit == 0xffff {
            // 64 KiB from where the code is, so that real mode reaches it.
            for seg in &mut cpu.seg {
                seg.base = CODE;
                if mode == Mode::Real {
                    seg.selector = (CODE >> 4) as u16;
                }
            }
            cpu.rip = 0;
            cpu.regs.gpr[4] = 0x8000;
        }
        cpu.cr0 = (Cr0::ET | Cr0::NE).bits() | if mode == Mode::Real { 0 } else { Cr0::PE.bits() };
        cpu.cr4 = (Cr4::VMXE | Cr4::PAE | Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::OSXMMEXCPT).bits();
        if matches!(mode, Mode::Long | Mode::Compatibility) {
            cpu.cr0 |= Cr0::PG.bits();
            cpu.cr3 = TABLES;
            cpu.efer = (Efer::LME | Efer::LMA | Efer::SCE).bits();
        }
        cpu.regs.xcr0 = 3;
        cpu.controls.pin = PinBased::EXTERNAL_INTERRUPT_EXITING;
        cpu.controls.primary = PrimaryControls::HLT_EXITING;
        cpu.mode_changed();
        memory.write_bytes(Hpa(CODE), code);
        Self { cpu, memory, blocks: Blocks::new(), clock: 0 }
    }

    /// Writes a 64-bit gate of the IDT: 14 is an interrupt gate, 15 a trap gate.
    pub(crate) fn gate64(&mut self, vector: u8, kind: u64, handler: u64, ist: u64) {
        let at = IDT + 16 * u64::from(vector);
        let low = handler & 0xffff | u64::from(CODE64) << 16 | ist << 32 | (0x80 | kind) << 40;
        self.memory.write(Hpa(at), low | (handler & 0xffff_0000) << 32);
        self.memory.write(Hpa(at + 8), handler >> 32);
    }

    /// The stack's slot of that number, of eight bytes.
    pub(crate) fn slot(&self, slot: u64) -> u64 {
        self.memory.read(Hpa(self.cpu.regs.gpr[4] + 8 * slot))
    }

    /// Runs until an exit, `most` instructions at most.
    pub(crate) fn run(&mut self, most: u64) -> Trap {
        let until = self.clock + most;
        run(&mut self.cpu, &mut self.memory, &mut self.blocks, &mut self.clock, until)
    }

    /// The exit that is the end of the next hundred instructions.
    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitInfo {
        match self.run(100) {
            Trap::Exit(info) => *info,
            other => panic!("{other:x?}"),
        }
    }
}

/// 64-bit code to run at [`CODE`].
pub(crate) fn assembled(f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    f(&mut a).expect("the snippet assembles");
    a.assemble(CODE).expect("the snippet assembles")
}

/// The exit of code in a machine that was prepared, and the machine then.
#[track_caller]
pub(crate) fn exit_in(mode: Mode, prepare: impl FnOnce(&mut Machine), code: &[u8]) -> (ExitInfo, Machine) {
    let mut machine = Machine::new(mode, code);
    prepare(&mut machine);
    (machine.exit(), machine)
}

/// As [`exit_in`], of 64-bit code that is assembled first.
#[track_caller]
pub(crate) fn exit(
    prepare: impl FnOnce(&mut Machine),
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (ExitInfo, Machine) {
    exit_in(Mode::Long, prepare, &assembled(f))
}

impl Cpu {
    /// Takes all of another CPU's state but its cached translations.
    pub(crate) fn reset_like(&mut self, other: &Self) {
        let mmu = core::mem::replace(&mut self.mmu, crate::mmu::Mmu::new(16));
        *self = Self {
            regs: other.regs.clone(),
            controls: other.controls.clone(),
            mmu,
            exec: super::state::Exec::default(),
            ..*other
        };
        self.mode_changed();
    }
}
