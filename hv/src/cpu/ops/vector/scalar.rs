//! Single elements, masks, tests, widenings, string comparisons, and blends by a mask register.

use super::moves::{by_vex, store};
use super::{Encoding, encoding, memory_source, plain, vex};
use crate::cpu::decode::Form;
use crate::cpu::lanes;
use crate::cpu::op::{Flow, Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use iced_x86::{Instruction, Mnemonic};

/// PINSRB, PINSRW, PINSRD and PINSRQ, of `BITS`.
fn insert<const BITS: u32>(form: &mut Form) -> Option<Run> {
    fn with<const BITS: u32>(value: u128, lane: u8, element: u64) -> u128 {
        let mask = u128::from(u64::MAX >> (64 - BITS));
        let at = u32::from(lane) % (128 / BITS) * BITS;
        value & !(mask << at) | (u128::from(element) & mask) << at
    }
    let in_memory = memory_source(form);
    let mmx = encoding(form) == Encoding::Mmx;
    let source = form.instruction.op_count() - 2;
    if !in_memory {
        form.op.index = form.register(source);
    }
    form.op.rm = if vex(form) { form.register(1) } else { form.op.reg };
    form.op.extra = BITS / 8;
    Some(match (mmx, in_memory) {
        (true, true) => Run::new(|cpu, memory, op| {
            cpu.mmx()?;
            let element = cpu.read_small(memory, op, 2)?;
            cpu.enter_mmx();
            cpu.set_mm(op.reg, with::<BITS>(cpu.mm(op.reg).into(), op.imm as u8 & 3, element) as u64);
            Ok(Flow::Next)
        }),
        (true, false) => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            let element = cpu.regs.gpr[usize::from(op.index & 15)];
            cpu.enter_mmx();
            cpu.set_mm(op.reg, with::<BITS>(cpu.mm(op.reg).into(), op.imm as u8 & 3, element) as u64);
            Ok(Flow::Next)
        }),
        (false, true) => by_vex!(form, |cpu, memory, op| {
            let element = cpu.read_small(memory, op, op.extra.into())?;
            (with::<BITS>(cpu.xmm(op.rm), op.imm as u8, element), 0)
        }),
        (false, false) => by_vex!(form, |cpu, _memory, op| {
            let element = cpu.regs.gpr[usize::from(op.index & 15)];
            (with::<BITS>(cpu.xmm(op.rm), op.imm as u8, element), 0)
        }),
    })
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ and EXTRACTPS, of `BITS`.
fn extract<const BITS: u32>(form: &mut Form) -> Option<Run> {
    fn of<const BITS: u32>(value: u128, lane: u8) -> u64 {
        let at = u32::from(lane) % (128 / BITS) * BITS;
        (value >> at) as u64 & (u64::MAX >> (64 - BITS))
    }
    form.op.extra = BITS / 8;
    Some(match (encoding(form) == Encoding::Mmx, memory_source(form)) {
        (true, _) => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            cpu.enter_mmx();
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<BITS>(cpu.mm(op.rm).into(), op.imm as u8 & 3);
            Ok(Flow::Next)
        }),
        (false, true) => store!(form, |cpu, memory, op| {
            let value = of::<BITS>(cpu.xmm(op.reg), op.imm as u8);
            cpu.write_small(memory, op, op.extra.into(), value)?;
        }),
        (false, false) => store!(form, |cpu, _memory, op| {
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<BITS>(cpu.xmm(op.rm), op.imm as u8);
        }),
    })
}

fn insertps(form: &mut Form) -> Option<Run> {
    let in_memory = memory_source(form);
    // A VEX form names its first source apart from its destination.
    let apart = u32::from(vex(form));
    if !in_memory {
        form.op.index = form.register(1 + apart);
    }
    form.op.rm = form.register(apart);
    Some(if in_memory {
        by_vex!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, 4)? as u32;
            (lanes::insertps_value(cpu.xmm(op.rm), value, op.imm as u8), 0)
        })
    } else {
        by_vex!(form, |cpu, _memory, op| { (lanes::insertps(cpu.xmm(op.rm), cpu.xmm(op.index), op.imm as u8), 0) })
    })
}

/// PMOVMSKB (0), MOVMSKPS (1) and MOVMSKPD (2).
fn mask<const KIND: u8>(form: &mut Form) -> Option<Run> {
    fn of<const KIND: u8>(value: u128) -> u64 {
        u64::from(match KIND {
            0 => lanes::pmovmskb(value),
            1 => lanes::movmskps(value),
            _ => lanes::movmskpd(value),
        })
    }
    Some(match encoding(form) {
        Encoding::Mmx => Run::new(|cpu, _, op| {
            cpu.mmx()?;
            cpu.enter_mmx();
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<KIND>(cpu.mm(op.rm).into());
            Ok(Flow::Next)
        }),
        Encoding::Legacy => Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<KIND>(cpu.xmm(op.rm));
            Ok(Flow::Next)
        }),
        Encoding::Vex128 => Run::new(|cpu, _, op| {
            cpu.avx()?;
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<KIND>(cpu.xmm(op.rm));
            Ok(Flow::Next)
        }),
        Encoding::Vex256 => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let shift = [16, 4, 2][usize::from(KIND)];
            let high = of::<KIND>(cpu.ymm_high(op.rm)) << shift;
            cpu.regs.gpr[usize::from(op.reg & 15)] = of::<KIND>(cpu.xmm(op.rm)) | high;
            Ok(Flow::Next)
        }),
    })
}

/// PTEST, and VTESTPS and VTESTPD, which look at the lanes' top bits alone (`SIGNS`).
fn test<const SIGNS: u32>(form: &mut Form) -> Option<Run> {
    fn finish<const SIGNS: u32>(cpu: &mut Cpu, a: (u128, u128), b: (u128, u128)) {
        let only = match SIGNS {
            32 => 0x8000_0000_8000_0000_8000_0000_8000_0000,
            64 => 0x8000_0000_0000_0000_8000_0000_0000_0000,
            _ => u128::MAX,
        };
        let zf = (a.0 & b.0 | a.1 & b.1) & only == 0;
        let cf = (!a.0 & b.0 | !a.1 & b.1) & only == 0;
        let flags = u64::from(zf) << 6 | u64::from(cf);
        cpu.set_rflags(cpu.rflags() & !0x8d5 | flags);
    }
    Some(match (encoding(form), memory_source(form)) {
        (Encoding::Legacy, in_memory) => {
            if in_memory {
                Run::new(|cpu, memory, op| {
                    cpu.sse()?;
                    let b = cpu.read128(memory, op, true)?;
                    finish::<SIGNS>(cpu, (cpu.xmm(op.reg), 0), (b, 0));
                    Ok(Flow::Next)
                })
            } else {
                Run::new(|cpu, _, op| {
                    cpu.sse()?;
                    finish::<SIGNS>(cpu, (cpu.xmm(op.reg), 0), (cpu.xmm(op.rm), 0));
                    Ok(Flow::Next)
                })
            }
        }
        (Encoding::Vex256, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let b = cpu.read256(memory, op)?;
            finish::<SIGNS>(cpu, (cpu.xmm(op.reg), cpu.ymm_high(op.reg)), b);
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let a = (cpu.xmm(op.reg), cpu.ymm_high(op.reg));
            finish::<SIGNS>(cpu, a, (cpu.xmm(op.rm), cpu.ymm_high(op.rm)));
            Ok(Flow::Next)
        }),
        (_, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let b = cpu.read128(memory, op, false)?;
            finish::<SIGNS>(cpu, (cpu.xmm(op.reg), 0), (b, 0));
            Ok(Flow::Next)
        }),
        (_, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            finish::<SIGNS>(cpu, (cpu.xmm(op.reg), 0), (cpu.xmm(op.rm), 0));
            Ok(Flow::Next)
        }),
    })
}

/// A widening of the lowest lanes: `BYTES` of source for 16 of destination.
trait Widen: 'static {
    const BYTES: u32;
    fn eval(a: u128) -> u128;
}

macro_rules! widens {
    ($($name:ident: $bytes:literal, $f:path;)*) => {
        $(
            enum $name {}
            impl Widen for $name {
                const BYTES: u32 = $bytes;
                fn eval(a: u128) -> u128 {
                    $f(a)
                }
            }
        )*
    };
}

widens! {
    Sxbw: 8, lanes::pmovsxbw;
    Sxbd: 4, lanes::pmovsxbd;
    Sxbq: 2, lanes::pmovsxbq;
    Sxwd: 8, lanes::pmovsxwd;
    Sxwq: 4, lanes::pmovsxwq;
    Sxdq: 8, lanes::pmovsxdq;
    Zxbw: 8, lanes::pmovzxbw;
    Zxbd: 4, lanes::pmovzxbd;
    Zxbq: 2, lanes::pmovzxbq;
    Zxwd: 8, lanes::pmovzxwd;
    Zxwq: 4, lanes::pmovzxwq;
    Zxdq: 8, lanes::pmovzxdq;
}

fn widen<W: Widen>(form: &mut Form) -> Option<Run> {
    Some(match (encoding(form), memory_source(form)) {
        (Encoding::Vex256, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let value = if W::BYTES == 8 {
                cpu.read128(memory, op, false)?
            } else {
                cpu.read_small(memory, op, u64::from(2 * W::BYTES))?.into()
            };
            cpu.set_vex(op.reg, W::eval(value), W::eval(value >> (8 * W::BYTES)));
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let value = cpu.xmm(op.rm);
            cpu.set_vex(op.reg, W::eval(value), W::eval(value >> (8 * W::BYTES)));
            Ok(Flow::Next)
        }),
        (_, true) => by_vex!(form, |cpu, memory, op| {
            let value = cpu.read_small(memory, op, W::BYTES.into())?;
            (W::eval(value.into()), 0)
        }),
        (_, false) => by_vex!(form, |cpu, _memory, op| { (W::eval(cpu.xmm(op.rm)), 0) }),
    })
}

/// PBLENDVB (8), BLENDVPS (32) and BLENDVPD (64) by XMM0, and their VEX forms by any register; SHA256RNDS2 is alike in
/// taking XMM0.
fn blend<const BITS: u32>(form: &mut Form) -> Option<Run> {
    fn of<const BITS: u32>(a: u128, b: u128, mask: u128) -> u128 {
        match BITS {
            8 => lanes::pblendvb(a, b, mask),
            32 => lanes::blendvps(a, b, mask),
            64 => lanes::blendvpd(a, b, mask),
            _ => lanes::sha256rnds2(a, b, mask),
        }
    }
    let in_memory = memory_source(form);
    let encoding = encoding(form);
    if matches!(encoding, Encoding::Vex128 | Encoding::Vex256) {
        let registers: Vec<u8> = (0..4).map(|operand| form.register(operand)).collect();
        form.op.rm = registers[1];
        // The mask is the last operand.
        form.op.extra = u32::from(registers[3]);
        if !in_memory {
            form.op.index = registers[2];
        }
    } else {
        if !in_memory {
            form.op.index = form.op.rm;
        }
        form.op.rm = form.op.reg;
    }
    Some(match (encoding, in_memory) {
        (Encoding::Vex256, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let (low, high) = cpu.read256(memory, op)?;
            vex_blend(cpu, op, low, high, of::<BITS>);
            Ok(Flow::Next)
        }),
        (Encoding::Vex256, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let (low, high) = (cpu.xmm(op.index), cpu.ymm_high(op.index));
            vex_blend(cpu, op, low, high, of::<BITS>);
            Ok(Flow::Next)
        }),
        (Encoding::Vex128, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let b = cpu.read128(memory, op, false)?;
            let value = of::<BITS>(cpu.xmm(op.rm), b, cpu.xmm(op.extra as u8));
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
        (Encoding::Vex128, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let value = of::<BITS>(cpu.xmm(op.rm), cpu.xmm(op.index), cpu.xmm(op.extra as u8));
            cpu.set_vex(op.reg, value, 0);
            Ok(Flow::Next)
        }),
        (_, true) => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let b = cpu.read128(memory, op, true)?;
            cpu.set_xmm(op.reg, of::<BITS>(cpu.xmm(op.reg), b, cpu.xmm(0)));
            Ok(Flow::Next)
        }),
        (_, false) => Run::new(|cpu, _, op| {
            cpu.sse()?;
            cpu.set_xmm(op.reg, of::<BITS>(cpu.xmm(op.reg), cpu.xmm(op.index), cpu.xmm(0)));
            Ok(Flow::Next)
        }),
    })
}

fn vex_blend(cpu: &mut Cpu, op: &Op, low: u128, high: u128, of: fn(u128, u128, u128) -> u128) {
    let mask = op.extra as u8;
    let lower = of(cpu.xmm(op.rm), low, cpu.xmm(mask));
    let upper = of(cpu.ymm_high(op.rm), high, cpu.ymm_high(mask));
    cpu.set_vex(op.reg, lower, upper);
}

/// PCMPESTRI, PCMPESTRM (`EXPLICIT`), PCMPISTRI and PCMPISTRM; `MASK` for those that leave a mask in XMM0.
fn string<const EXPLICIT: bool, const MASK: bool>(form: &mut Form) -> Option<Run> {
    fn finish<const EXPLICIT: bool, const MASK: bool>(cpu: &mut Cpu, op: &Op, b: u128, vex: bool) {
        let control = op.imm as u8;
        let a = cpu.xmm(op.reg);
        let found = if EXPLICIT {
            let length = |value: u64| if op.extra == 8 { value as i64 } else { i64::from(value as i32) };
            lanes::compare_explicit(a, length(cpu.regs.gpr[0]), b, length(cpu.regs.gpr[2]), control)
        } else {
            lanes::compare_implicit(a, b, control)
        };
        if MASK {
            let mask = found.expanded(control);
            if vex { cpu.set_vex(0, mask, 0) } else { cpu.set_xmm(0, mask) }
        } else {
            cpu.regs.gpr[1] = found.index.into();
        }
        let flags = u64::from(found.mask != 0)
            | u64::from(found.source_ends) << 6
            | u64::from(found.destination_ends) << 7
            | u64::from(found.mask & 1) << 11;
        cpu.set_rflags(cpu.rflags() & !0x8d5 | flags);
    }
    use Mnemonic as M;
    let wide =
        matches!(form.instruction.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64 | M::Vpcmpestri64 | M::Vpcmpestrm64);
    form.op.extra = if wide { 8 } else { 4 };
    // Memory operands need no alignment here.
    Some(match (vex(form), memory_source(form)) {
        (false, false) => Run::new(|cpu, _, op| {
            cpu.sse()?;
            let b = cpu.xmm(op.rm);
            finish::<EXPLICIT, MASK>(cpu, op, b, false);
            Ok(Flow::Next)
        }),
        (false, true) => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let b = cpu.read128(memory, op, false)?;
            finish::<EXPLICIT, MASK>(cpu, op, b, false);
            Ok(Flow::Next)
        }),
        (true, false) => Run::new(|cpu, _, op| {
            cpu.avx()?;
            let b = cpu.xmm(op.rm);
            finish::<EXPLICIT, MASK>(cpu, op, b, true);
            Ok(Flow::Next)
        }),
        (true, true) => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let b = cpu.read128(memory, op, false)?;
            finish::<EXPLICIT, MASK>(cpu, op, b, true);
            Ok(Flow::Next)
        }),
    })
}

/// MASKMOVDQU and MASKMOVQ: bytes of the first operand, where the second's top bits are set, to where RDI points.
fn maskmov(form: &mut Form) -> Option<Run> {
    fn write(cpu: &mut Cpu, memory: &mut Memory, op: &Op, value: u128, mask: u32, bytes: u32) -> Result<(), Halt> {
        use crate::cpu::op::W8;
        let bits = u32::from(op.address_bits);
        let base = cpu.regs.gpr[7] & (u64::MAX >> (64 - bits.clamp(16, 64)));
        // All bytes that are to be written are, or none.
        for at in (0..bytes).filter(|at| mask >> at & 1 != 0) {
            let linear = cpu.linear(op.seg(), base.wrapping_add(at.into()), 1, true)?;
            cpu.probe(memory, op.seg(), linear, 1)?;
        }
        for at in (0..bytes).filter(|at| mask >> at & 1 != 0) {
            cpu.write_seg::<W8>(memory, op.seg(), base.wrapping_add(at.into()), (value >> (8 * at)) as u64 & 0xff)?;
        }
        Ok(())
    }
    // Operands: the destination by RDI, the value, the mask.
    form.op.reg = form.register(1);
    form.op.rm = form.register(2);
    Some(match encoding(form) {
        Encoding::Mmx => Run::new(|cpu, memory, op| {
            cpu.mmx()?;
            let mask = lanes::pmovmskb(cpu.mm(op.rm).into());
            write(cpu, memory, op, cpu.mm(op.reg).into(), mask, 8)?;
            cpu.enter_mmx();
            Ok(Flow::Next)
        }),
        Encoding::Legacy => Run::new(|cpu, memory, op| {
            cpu.sse()?;
            let mask = lanes::pmovmskb(cpu.xmm(op.rm));
            write(cpu, memory, op, cpu.xmm(op.reg), mask, 16)?;
            Ok(Flow::Next)
        }),
        _ => Run::new(|cpu, memory, op| {
            cpu.avx()?;
            let mask = lanes::pmovmskb(cpu.xmm(op.rm));
            write(cpu, memory, op, cpu.xmm(op.reg), mask, 16)?;
            Ok(Flow::Next)
        }),
    })
}

pub(super) fn row(i: &Instruction) -> Option<Row> {
    use Mnemonic as M;
    let build: fn(&mut Form) -> Option<Run> = match i.mnemonic() {
        M::Pinsrb | M::Vpinsrb => insert::<8>,
        M::Pinsrw | M::Vpinsrw => insert::<16>,
        M::Pinsrd | M::Vpinsrd => insert::<32>,
        M::Pinsrq | M::Vpinsrq => insert::<64>,
        M::Pextrb | M::Vpextrb => extract::<8>,
        M::Pextrw | M::Vpextrw => extract::<16>,
        M::Pextrd | M::Vpextrd | M::Extractps | M::Vextractps => extract::<32>,
        M::Pextrq | M::Vpextrq => extract::<64>,
        M::Insertps | M::Vinsertps => insertps,
        M::Pmovmskb | M::Vpmovmskb => mask::<0>,
        M::Movmskps | M::Vmovmskps => mask::<1>,
        M::Movmskpd | M::Vmovmskpd => mask::<2>,
        M::Ptest | M::Vptest => test::<0>,
        M::Vtestps => test::<32>,
        M::Vtestpd => test::<64>,
        M::Pmovsxbw | M::Vpmovsxbw => widen::<Sxbw>,
        M::Pmovsxbd | M::Vpmovsxbd => widen::<Sxbd>,
        M::Pmovsxbq | M::Vpmovsxbq => widen::<Sxbq>,
        M::Pmovsxwd | M::Vpmovsxwd => widen::<Sxwd>,
        M::Pmovsxwq | M::Vpmovsxwq => widen::<Sxwq>,
        M::Pmovsxdq | M::Vpmovsxdq => widen::<Sxdq>,
        M::Pmovzxbw | M::Vpmovzxbw => widen::<Zxbw>,
        M::Pmovzxbd | M::Vpmovzxbd => widen::<Zxbd>,
        M::Pmovzxbq | M::Vpmovzxbq => widen::<Zxbq>,
        M::Pmovzxwd | M::Vpmovzxwd => widen::<Zxwd>,
        M::Pmovzxwq | M::Vpmovzxwq => widen::<Zxwq>,
        M::Pmovzxdq | M::Vpmovzxdq => widen::<Zxdq>,
        M::Pblendvb | M::Vpblendvb => blend::<8>,
        M::Blendvps | M::Vblendvps => blend::<32>,
        M::Blendvpd | M::Vblendvpd => blend::<64>,
        M::Sha256rnds2 => blend::<0>,
        M::Pcmpestri | M::Pcmpestri64 | M::Vpcmpestri | M::Vpcmpestri64 => string::<true, false>,
        M::Pcmpestrm | M::Pcmpestrm64 | M::Vpcmpestrm | M::Vpcmpestrm64 => string::<true, true>,
        M::Pcmpistri | M::Vpcmpistri => string::<false, false>,
        M::Pcmpistrm | M::Vpcmpistrm => string::<false, true>,
        M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq => maskmov,
        _ => return None,
    };
    plain(build)
}
