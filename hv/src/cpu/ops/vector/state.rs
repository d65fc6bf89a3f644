//! MXCSR, FXSAVE and FXRSTOR, XSAVE in all its forms, EMMS.
//!
//! The x87 registers lie in the image by their physical numbers, as instructions find them; FXSAVE's memory image has
//! them in stack order, so both directions turn them by the stack's top.

use super::{Encoding, MXCSR, X87, XMM, YMM_HIGH, encoding, plain};
use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W32, W64};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use crate::xsave::{self, PKRU};
use hv_defs::x86::{Cr0, Cr4, Vector};
use iced_x86::{Instruction, Mnemonic};

/// MXCSR bits that may be set.
const MXCSR_MASK: u32 = 0xffff;

fn ldmxcsr(form: &mut Form) -> Option<Run> {
    fn load(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        let value = cpu.read_small(memory, op, 4)? as u32;
        if value & !MXCSR_MASK != 0 {
            return cpu.gp();
        }
        cpu.set_mxcsr(value);
        Ok(Flow::Next)
    }
    Some(if encoding(form) == Encoding::Legacy {
        Run::new(|cpu, memory, op| {
            cpu.sse()?;
            load(cpu, memory, op)
        })
    } else {
        Run::new(|cpu, memory, op| {
            cpu.avx()?;
            load(cpu, memory, op)
        })
    })
}

fn stmxcsr(form: &mut Form) -> Option<Run> {
    fn store(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        let value = cpu.mxcsr();
        cpu.write_small(memory, op, 4, value.into())?;
        Ok(Flow::Next)
    }
    Some(if encoding(form) == Encoding::Legacy {
        Run::new(|cpu, memory, op| {
            cpu.sse()?;
            store(cpu, memory, op)
        })
    } else {
        Run::new(|cpu, memory, op| {
            cpu.avx()?;
            store(cpu, memory, op)
        })
    })
}

fn emms(_: &mut Form) -> Option<Run> {
    Some(Run::new(|cpu, _, _| {
        cpu.mmx()?;
        cpu.enter_mmx();
        cpu.regs.extended.0[4] = 0;
        Ok(Flow::Next)
    }))
}

/// Notes whether a form keeps pointers of 64 bits; the others keep 32, and selectors, which are zero.
fn pointer_size(form: &mut Form) {
    use Mnemonic as M;
    let long = matches!(
        form.instruction.mnemonic(),
        M::Fxsave64
            | M::Fxrstor64
            | M::Xsave64
            | M::Xsaveopt64
            | M::Xsavec64
            | M::Xsaves64
            | M::Xrstor64
            | M::Xrstors64
    );
    form.op.extra = u32::from(long);
}

/// Clears what a form with pointers of 32 bits does not keep of them.
fn cut_pointers(image: &mut [u8; 512], op: &Op) {
    if op.extra == 0 {
        image[12..16].fill(0);
        image[20..24].fill(0);
    }
}

/// The legacy region as memory has it (x87 registers in stack order).
fn legacy_image(cpu: &Cpu, op: &Op) -> [u8; 512] {
    let mut image = [0; 512];
    image.copy_from_slice(&cpu.regs.extended.0[..512]);
    for stack in 0..8 {
        let physical = (stack + cpu.x87_top()) & 7;
        image[X87 + 16 * stack..][..10].copy_from_slice(&cpu.regs.extended.0[X87 + 16 * physical..][..10]);
        image[X87 + 16 * stack + 10..][..6].fill(0);
    }
    image[5] = 0;
    image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    image[416..].fill(0);
    cut_pointers(&mut image, op);
    image
}

/// Sets the x87 part from a legacy region.
fn set_x87(cpu: &mut Cpu, image: &[u8; 512]) {
    cpu.regs.extended.0[..24].copy_from_slice(&image[..24]);
    let control = u16::from_le_bytes([image[0], image[1]]) & 0x1f3f | 0x40;
    cpu.regs.extended.0[..2].copy_from_slice(&control.to_le_bytes());
    cpu.regs.extended.0[5] = 0;
    cpu.regs.extended.0[7] &= 7;
    let top = cpu.x87_top();
    for stack in 0..8 {
        let physical = (stack + top) & 7;
        cpu.regs.extended.0[X87 + 16 * physical..][..10].copy_from_slice(&image[X87 + 16 * stack..][..10]);
    }
    cpu.x87_refresh();
}

/// The x87 part as FNINIT leaves it.
fn init_x87(cpu: &mut Cpu) {
    cpu.regs.extended.0[..24].fill(0);
    cpu.regs.extended.0[..2].copy_from_slice(&0x037fu16.to_le_bytes());
    cpu.regs.extended.0[X87..XMM].fill(0);
}

fn registers(cpu: &Cpu) -> usize {
    if cpu.code64() { 16 } else { 8 }
}

fn read_block(cpu: &mut Cpu, memory: &mut Memory, op: &Op, at: u64, into: &mut [u8]) -> Result<(), Halt> {
    for (index, chunk) in into.chunks_exact_mut(8).enumerate() {
        let value = cpu.load::<W64>(memory, op.seg(), at.wrapping_add(8 * index as u64))?;
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

fn write_block(cpu: &mut Cpu, memory: &mut Memory, op: &Op, at: u64, from: &[u8]) -> Result<(), Halt> {
    for (index, chunk) in from.chunks_exact(8).enumerate() {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        cpu.store::<W64>(memory, op.seg(), at.wrapping_add(8 * index as u64), u64::from_le_bytes(word))?;
    }
    Ok(())
}

fn available(cpu: &mut Cpu) -> Result<(), Halt> {
    if cpu.cr0 & (Cr0::EM | Cr0::TS).bits() != 0 { cpu.fault(Vector::NM, None) } else { Ok(()) }
}

fn fxsave(form: &mut Form) -> Option<Run> {
    pointer_size(form);
    Some(Run::new(|cpu, memory, op| {
        available(cpu)?;
        let at = cpu.operand(op, 512, true)?;
        if at & 15 != 0 {
            return cpu.gp();
        }
        cpu.probe(memory, op.seg(), at, 512)?;
        let image = legacy_image(cpu, op);
        let end = if cpu.has_cr4(Cr4::OSFXSR) { XMM + 16 * registers(cpu) } else { XMM };
        write_block(cpu, memory, op, at, &image[..end])?;
        Ok(Flow::Next)
    }))
}

fn fxrstor(form: &mut Form) -> Option<Run> {
    pointer_size(form);
    Some(Run::new(|cpu, memory, op| {
        available(cpu)?;
        let at = cpu.operand(op, 512, false)?;
        if at & 15 != 0 {
            return cpu.gp();
        }
        let mut image = [0; 512];
        read_block(cpu, memory, op, at, &mut image)?;
        cut_pointers(&mut image, op);
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
        let sse = cpu.has_cr4(Cr4::OSFXSR);
        if sse && mxcsr & !MXCSR_MASK != 0 {
            return cpu.gp();
        }
        set_x87(cpu, &image);
        if sse {
            cpu.set_mxcsr(mxcsr);
            let end = XMM + 16 * registers(cpu);
            cpu.regs.extended.0[XMM..end].copy_from_slice(&image[XMM..end]);
        }
        Ok(Flow::Next)
    }))
}

fn xsave_checks(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Halt> {
    if !cpu.has_cr4(Cr4::OSXSAVE) {
        return cpu.ud();
    }
    if cpu.cr0 & Cr0::TS.bits() != 0 {
        return cpu.fault(Vector::NM, None);
    }
    let at = cpu.operand(op, 576, write)?;
    if at & 63 != 0 { cpu.gp() } else { Ok(at) }
}

/// The instruction's mask: EDX:EAX.
fn requested(cpu: &Cpu) -> u64 {
    cpu.regs.gpr[2] << 32 | cpu.regs.gpr[0] & 0xffff_ffff
}

/// Whether bytes, whose number is a multiple of eight, are all zero.
fn zero(bytes: &[u8]) -> bool {
    let word = |chunk: &[u8]| chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    bytes.chunks_exact(8).map(word).fold(0, |all, word| all | word) == 0
}

/// XSAVE, and the forms that save only what is in use (`OPTIMIZE`), compact (`COMPACT`) and supervisor state
/// (`SUPERVISOR`, of which there is none).
fn xsave<const OPTIMIZE: bool, const COMPACT: bool, const SUPERVISOR: bool>(form: &mut Form) -> Option<Run> {
    pointer_size(form);
    Some(Run::new(|cpu, memory, op| {
        if SUPERVISOR {
            cpu.xsaves_allowed(op, true)?;
        }
        let at = xsave_checks(cpu, op, true)?;
        let mask = requested(cpu) & cpu.regs.xcr0;
        let used = cpu.components_in_use();
        let count = registers(cpu);
        let image = legacy_image(cpu, op);
        let total = if COMPACT { xsave::compacted_size(mask) } else { xsave::standard_size(mask) };
        cpu.operand(op, total.into(), true)?;
        cpu.probe(memory, op.seg(), at, total.into())?;
        let saved = if OPTIMIZE { mask & used } else { mask };
        if saved & 1 != 0 {
            write_block(cpu, memory, op, at, &image[..24])?;
            write_block(cpu, memory, op, at + X87 as u64, &image[X87..XMM])?;
        }
        // MXCSR goes with SSE and, in the standard format, with AVX.
        if saved & 2 != 0 || !COMPACT && mask & 6 != 0 {
            write_block(cpu, memory, op, at + MXCSR as u64, &image[MXCSR..MXCSR + 8])?;
        }
        if saved & 2 != 0 {
            write_block(cpu, memory, op, at + XMM as u64, &image[XMM..XMM + 16 * count])?;
        }
        if saved & 4 != 0 {
            let high = cpu.regs.extended.clone();
            write_block(cpu, memory, op, at + YMM_HIGH as u64, &high.0[YMM_HIGH..YMM_HIGH + 16 * count])?;
        }
        if saved & PKRU != 0 {
            let place = if COMPACT { xsave::compacted_at(mask, 9) } else { xsave::standard_size(PKRU) - 8 };
            let pkru = cpu.regs.pkru;
            cpu.store::<W64>(memory, op.seg(), at + u64::from(place), pkru.into())?;
        }
        let old = cpu.load::<W64>(memory, op.seg(), at + 512)?;
        if COMPACT {
            // What is in use by INIT's measure counts MXCSR with SSE.
            cpu.store::<W64>(memory, op.seg(), at + 512, mask & used)?;
            cpu.store::<W64>(memory, op.seg(), at + 520, 1 << 63 | mask)?;
        } else {
            let present = used & mask;
            cpu.store::<W64>(memory, op.seg(), at + 512, old & !mask | present)?;
        }
        Ok(Flow::Next)
    }))
}

/// XRSTOR, and with `SUPERVISOR` XRSTORS, which takes the compacted format alone.
fn xrstor<const SUPERVISOR: bool>(form: &mut Form) -> Option<Run> {
    pointer_size(form);
    Some(Run::new(|cpu, memory, op| {
        if SUPERVISOR {
            cpu.xsaves_allowed(op, false)?;
        }
        let at = xsave_checks(cpu, op, false)?;
        let mask = requested(cpu) & cpu.regs.xcr0;
        let mut header = [0; 64];
        read_block(cpu, memory, op, at + 512, &mut header)?;
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[8 * index..][..8]);
            u64::from_le_bytes(bytes)
        };
        let (present, layout) = (word(0), word(1));
        let compact = layout >> 63 != 0;
        let known = cpu.regs.xcr0;
        let bad = if compact {
            let components = layout & !(1 << 63);
            components & !known != 0 || present & !components != 0 || header[16..].iter().any(|&byte| byte != 0)
        } else {
            SUPERVISOR || present & !known != 0 || header[8..24].iter().any(|&byte| byte != 0)
        };
        if bad {
            return cpu.gp();
        }
        let mut image = [0; 512];
        read_block(cpu, memory, op, at, &mut image[..416])?;
        cut_pointers(&mut image, op);
        let mut high = [0; 256];
        let with_avx = mask & present & 4 != 0;
        if with_avx {
            cpu.operand(op, 832, false)?;
            read_block(cpu, memory, op, at + YMM_HIGH as u64, &mut high)?;
        }
        let mut pkru = 0;
        if mask & present & PKRU != 0 {
            let place = if compact { xsave::compacted_at(layout, 9) } else { xsave::standard_size(PKRU) - 8 };
            pkru = cpu.load::<W32>(memory, op.seg(), at + u64::from(place))? as u32;
        }
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
        let takes_mxcsr = if compact { mask & present & 2 != 0 } else { mask & 6 != 0 };
        if takes_mxcsr && mxcsr & !MXCSR_MASK != 0 {
            return cpu.gp();
        }
        if mask & 1 != 0 {
            if present & 1 != 0 { set_x87(cpu, &image) } else { init_x87(cpu) }
        }
        if takes_mxcsr {
            cpu.set_mxcsr(mxcsr);
        } else if compact && mask & 2 != 0 {
            cpu.set_mxcsr(0x1f80);
        }
        let end = 16 * registers(cpu);
        if mask & 2 != 0 {
            let there = present & 2 != 0;
            let from = if there { &image[XMM..XMM + end] } else { &[0; 256][..end] };
            cpu.regs.extended.0[XMM..XMM + end].copy_from_slice(from);
        }
        if mask & 4 != 0 {
            cpu.regs.extended.0[YMM_HIGH..YMM_HIGH + end].copy_from_slice(&high[..end]);
        }
        if mask & PKRU != 0 && cpu.regs.pkru != pkru {
            cpu.regs.pkru = pkru;
            cpu.mode_changed();
        }
        Ok(Flow::Next)
    }))
}

impl Cpu {
    /// Components that are not in their initial configuration. See: SDM "Processor Tracking of XSAVE-Managed State".
    /// MXCSR counts with SSE.
    pub(in crate::cpu) fn components_in_use(&self) -> u64 {
        let image = &self.regs.extended.0;
        let end = 16 * registers(self);
        let x87 = image[..2] != 0x037fu16.to_le_bytes()
            || image[2..8] != [0; 6]
            || !zero(&image[8..24])
            || !zero(&image[X87..XMM]);
        let sse = !zero(&image[XMM..XMM + end]) || self.mxcsr() != 0x1f80;
        let avx = !zero(&image[YMM_HIGH..YMM_HIGH + end]);
        let keys = self.regs.pkru != 0;
        u64::from(x87) | u64::from(sse) << 1 | u64::from(avx) << 2 | u64::from(keys) << 9
    }

    /// XSAVES and XRSTORS: #UD without the control that enables them, #GP above privilege level 0, and an exit for
    /// components in the XSS-exiting bitmap.
    fn xsaves_allowed(&mut self, op: &Op, save: bool) -> Result<(), Halt> {
        use hv_defs::controls::SecondaryControls;
        use hv_defs::exit::Reason;
        if !self.controls.secondary.contains(SecondaryControls::XSAVES) || !self.has_cr4(Cr4::OSXSAVE) {
            return self.ud();
        }
        if self.cpl() != 0 {
            return self.gp();
        }
        if requested(self) & self.regs.xss & self.controls.xss_bitmap != 0 {
            return self.plain_exit(op, if save { Reason::XSAVES } else { Reason::XRSTORS });
        }
        Ok(())
    }
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Ldmxcsr | M::Vldmxcsr => ldmxcsr,
        M::Stmxcsr | M::Vstmxcsr => stmxcsr,
        M::Emms => emms,
        M::Fxsave | M::Fxsave64 => fxsave,
        M::Fxrstor | M::Fxrstor64 => fxrstor,
        M::Xsave | M::Xsave64 => xsave::<false, false, false>,
        M::Xsaveopt | M::Xsaveopt64 => xsave::<true, false, false>,
        M::Xsavec | M::Xsavec64 => xsave::<true, true, false>,
        M::Xsaves | M::Xsaves64 => xsave::<true, true, true>,
        M::Xrstor | M::Xrstor64 => xrstor::<false>,
        M::Xrstors | M::Xrstors64 => xrstor::<true>,
        _ => return None,
    };
    plain(build)
}
