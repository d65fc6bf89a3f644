//! The x87 FPU. What its functions compute is [`crate::cpu::float`]'s; here are the stack, the control, status and tag
//! words, and what a masked and an unmasked exception leave behind.
//!
//! The registers lie in the XSAVE image by their physical numbers, the tag word in its abridged form. The pointer to the
//! last instruction (FIP) is kept; that to its operand (FDP) is kept when an exception is unmasked, as CPUID says; the
//! selectors, which CPUID calls deprecated, and the opcode read as zero.

mod arith;
mod control;
mod data;

use crate::cpu::decode::Form;
use crate::cpu::float::{Env, F80, Format, NanRule, Raw, Rounding, flag};
use crate::cpu::guard::{Guard, Intercept, Legal};
use crate::cpu::op::{Op, Run};
use crate::cpu::rows::Row;
use crate::cpu::state::{Cpu, Halt};
use hv_defs::x86::{Cr0, Vector};
use iced_x86::Instruction;

/// The row of an x87 instruction, if it is there.
pub(in crate::cpu) fn row(i: &Instruction) -> Option<Row> {
    data::row(i).or_else(|| arith::row(i)).or_else(|| control::row(i))
}

/// A row of an instruction that anyone may run and that never exits.
fn plain(build: fn(&mut Form) -> Option<Run>) -> Option<Row> {
    Some(Row { guard: Guard { legal: Legal::Any, intercept: Intercept::Never }, build, ends: false })
}

/// Status word bits beyond the exception flags.
mod status {
    pub(super) const STACK_FAULT: u16 = 1 << 6;
    pub(super) const SUMMARY: u16 = 1 << 7;
    pub(super) const C0: u16 = 1 << 8;
    pub(super) const C1: u16 = 1 << 9;
    pub(super) const C2: u16 = 1 << 10;
    pub(super) const C3: u16 = 1 << 14;
    pub(super) const BUSY: u16 = 1 << 15;
}

/// Where the pointers to the last instruction and to its operand lie in the XSAVE image.
const FIP: usize = 8;
const FDP: usize = 16;

impl Cpu {
    fn x87_word(&self, at: usize) -> u16 {
        let image = &self.regs.extended.0;
        u16::from_le_bytes([image[at], image[at + 1]])
    }

    fn set_x87_word(&mut self, at: usize, value: u16) {
        self.regs.extended.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// The control word.
    fn x87_control(&self) -> u16 {
        self.x87_word(0)
    }

    /// The status word.
    fn x87_status(&self) -> u16 {
        self.x87_word(2)
    }

    fn set_x87_status(&mut self, value: u16) {
        self.set_x87_word(2, value);
    }

    /// The physical number of ST(0).
    pub(in crate::cpu) fn x87_top(&self) -> usize {
        usize::from(self.x87_status() >> 11 & 7)
    }

    fn set_x87_top(&mut self, top: usize) {
        self.set_x87_status(self.x87_status() & !(7 << 11) | (top as u16 & 7) << 11);
    }

    /// The summary and busy bits, from the flags and masks as they are now.
    pub(in crate::cpu) fn x87_refresh(&mut self) {
        let status = self.x87_status() & !(status::SUMMARY | status::BUSY);
        let pending = status & !self.x87_control() & 0x3f != 0;
        if pending && self.x87_status() & status::SUMMARY == 0 {
            let operand = core::mem::take(&mut self.exec.x87_operand);
            self.regs.extended.0[FDP..FDP + 8].copy_from_slice(&operand.to_le_bytes());
        }
        self.set_x87_status(if pending { status | status::SUMMARY | status::BUSY } else { status });
    }

    /// #NM where x87 instructions may not run.
    fn x87_available(&mut self) -> Result<(), Halt> {
        if self.cr0 & (Cr0::EM | Cr0::TS).bits() != 0 { self.fault(Vector::NM, None) } else { Ok(()) }
    }

    /// #MF for an exception that is pending.
    pub(in crate::cpu) fn x87_pending(&mut self) -> Result<(), Halt> {
        if self.x87_status() & status::SUMMARY != 0 { self.fault(Vector::MF, None) } else { Ok(()) }
    }

    /// What a waiting x87 instruction begins with.
    fn x87_ready(&mut self) -> Result<(), Halt> {
        self.x87_available()?;
        self.x87_pending()
    }

    /// What a waiting x87 instruction that is none of control begins with: the pointer to it is kept.
    fn x87_begin(&mut self, op: &Op) -> Result<(), Halt> {
        self.x87_ready()?;
        let rip = op.rip(self);
        self.regs.extended.0[FIP..FIP + 8].copy_from_slice(&rip.to_le_bytes());
        if self.x87_control() & 0x3f != 0x3f {
            self.exec.x87_operand = crate::cpu::op::offset(self, op);
        }
        Ok(())
    }

    /// ST(`index`); `None` when it is empty.
    fn st(&self, index: usize) -> Option<F80> {
        let physical = (self.x87_top() + index) & 7;
        if self.regs.extended.0[4] >> physical & 1 == 0 {
            return None;
        }
        Some(self.st_bits(index))
    }

    /// ST(`index`), empty or not.
    fn st_bits(&self, index: usize) -> F80 {
        let at = 32 + 16 * ((self.x87_top() + index) & 7);
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&self.regs.extended.0[at..at + 10]);
        F80::from_bytes(bytes)
    }

    fn set_st(&mut self, index: usize, value: F80) {
        let physical = (self.x87_top() + index) & 7;
        let at = 32 + 16 * physical;
        self.regs.extended.0[at..at + 10].copy_from_slice(&value.to_bytes());
        self.regs.extended.0[4] |= 1 << physical;
    }

    fn free_st(&mut self, index: usize) {
        let physical = (self.x87_top() + index) & 7;
        self.regs.extended.0[4] &= !(1 << physical);
    }

    fn x87_pop(&mut self) {
        self.free_st(0);
        self.set_x87_top(self.x87_top() + 1);
    }

    /// Condition bits; `which` is what of C0 to C3 is set, the others are cleared.
    fn x87_conditions(&mut self, which: u16) {
        let all = status::C0 | status::C1 | status::C2 | status::C3;
        self.set_x87_status(self.x87_status() & !all | which);
    }

    fn set_c1(&mut self, set: bool) {
        let status = self.x87_status() & !status::C1;
        self.set_x87_status(if set { status | status::C1 } else { status });
    }

    /// The environment that the control word gives.
    fn x87_env(&self) -> Env {
        let control = self.x87_control();
        Env {
            rounding: Rounding::from_bits((control >> 10) as u8),
            masked: control as u8 & 0x3f,
            wrap_exponent: true,
            ..Env::new(NanRule::LargerSignificand)
        }
    }

    /// Bits of precision that the control word asks for.
    fn x87_precision(&self) -> u32 {
        match self.x87_control() >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// Takes what an operation raised into the status word. Whether its result may be stored: not when an exception of
    /// its operands is unmasked.
    fn x87_raise(&mut self, env: &Env) -> bool {
        let early = flag::INVALID | flag::DENORMAL | flag::ZERO_DIVIDE;
        let stopped = env.flags & early & !env.masked != 0;
        let flags = if stopped { env.flags & early } else { env.flags };
        let c1 = env.rounded_up && !stopped && flags & flag::PRECISION != 0;
        self.set_x87_status(self.x87_status() | u16::from(flags));
        self.set_c1(c1);
        self.x87_refresh();
        !stopped
    }

    /// A stack fault: `overflow` of a push, else an empty register. Whether the masked response is to be given.
    fn x87_stack_fault(&mut self, overflow: bool) -> bool {
        self.set_x87_status(self.x87_status() | status::STACK_FAULT | u16::from(flag::INVALID));
        self.set_c1(overflow);
        self.x87_refresh();
        self.x87_control() & 1 != 0
    }

    /// Pushes what `value` gives, with the responses to a full stack.
    fn x87_push(&mut self, value: F80) {
        let below = (self.x87_top() + 7) & 7;
        if self.regs.extended.0[4] >> below & 1 != 0 {
            if self.x87_stack_fault(true) {
                self.set_x87_top(below);
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_x87_top(below);
        self.set_st(0, value);
    }

    /// Whether a push would find the stack full.
    fn x87_full(&self) -> bool {
        let below = (self.x87_top() + 7) & 7;
        self.regs.extended.0[4] >> below & 1 != 0
    }
}

/// Rounds a result to the register format at `precision`.
fn register(raw: Raw, precision: u32, env: &mut Env) -> F80 {
    F80::pack(raw.round(precision, Format::F80, env))
}
