//! Instructions on single flags: CLC to STD, LAHF and SAHF. Those on IF are privileged: see `system`.

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W8, Width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::x86::Rflags;

macro_rules! flag_ops {
    ($($name:ident |$cpu:ident| $body:block)*) => {$(
        pub(in crate::cpu) fn $name(_: &mut Form) -> Option<Run> {
            fn run($cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
                $body
                Ok(Flow::Next)
            }
            Some(Run::new(run))
        }
    )*};
}

/// What LAHF and SAHF move: SF, ZF, AF, PF, CF.
const LOW: u64 = 0xd5;

flag_ops! {
    clc |cpu| { cpu.flags.set_cf(false); }
    stc |cpu| { cpu.flags.set_cf(true); }
    cmc |cpu| {
        let cf = cpu.flags.cf();
        cpu.flags.set_cf(!cf);
    }
    cld |cpu| { cpu.flags.put(Rflags::DF, false); }
    std |cpu| { cpu.flags.put(Rflags::DF, true); }
    lahf |cpu| {
        let low = cpu.flags.arithmetic() & LOW | 2;
        W8::set(cpu, 16, low);
    }
    sahf |cpu| {
        let keep = cpu.flags.arithmetic() & !LOW;
        let low = W8::get(cpu, 16) & LOW;
        cpu.flags.set_arithmetic(keep | low);
    }
    salc |cpu| {
        let cf = cpu.flags.cf();
        W8::set(cpu, 0, if cf { 0xff } else { 0 });
    }
}
