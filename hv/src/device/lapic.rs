//! A local APIC: its registers, the priorities of what it holds, and its timer. What a write sends out is returned as an
//! [`Effect`], for it concerns the other APICs.
//!
//! Registers go by number, as x2APIC has them: a sixteenth of the offset in the page, what an MSR is above 0x800.
//! See: SDM "Advanced Programmable Interrupt Controller (APIC)".

mod timer;

#[cfg(test)]
mod tests;

use super::message::{Destination, Kind, Message, Shorthand};
use serde::{Deserialize, Serialize};
use timer::{Mode, Timer};

/// IA32_APIC_BASE: the first vCPU's.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
/// Where the page is after a reset.
const BASE_ADDRESS: u64 = 0xfee0_0000;

const ID: u8 = 0x02;
const VERSION: u8 = 0x03;
const TPR: u8 = 0x08;
const APR: u8 = 0x09;
const PPR: u8 = 0x0a;
const EOI: u8 = 0x0b;
const LDR: u8 = 0x0d;
const DFR: u8 = 0x0e;
const SVR: u8 = 0x0f;
const ISR: u8 = 0x10;
const TMR: u8 = 0x18;
const IRR: u8 = 0x20;
const IRR_LAST: u8 = 0x27;
const ESR: u8 = 0x28;
const ICR: u8 = 0x30;
const ICR_HIGH: u8 = 0x31;
const LVT_FIRST: u8 = 0x32;
const LVT_LAST: u8 = 0x37;
const INITIAL: u8 = 0x38;
const CURRENT: u8 = 0x39;
const DIVIDE: u8 = 0x3e;
const SELF_IPI: u8 = 0x3f;

/// An integrated APIC with six LVT entries.
const VERSION_VALUE: u32 = 5 << 16 | 0x14;

// LVT entries, and what may be written to each.
const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;
const WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const MASKED: u32 = 1 << 16;
/// The LVT entry that takes the PIC's vectors, and the one for NMIs, as firmware leaves them on the first vCPU.
const LVT_EXT_INT: u32 = 0x700;
const LVT_NMI: u32 = 0x400;

const SVR_ENABLED: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x3ff;
const SVR_RESET: u32 = 0xff;

// Bits of the error status register.
const SENT_ILLEGAL_VECTOR: u32 = 1 << 5;
const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
const ILLEGAL_REGISTER: u32 = 1 << 7;

/// What may be written to the interrupt command register in x2APIC mode.
const ICR_WRITABLE: u64 = 0xffff_ffff_000c_cfff;

/// 256 bits, a vector each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let word = &mut self.0[usize::from(vector >> 5)];
        let bit = 1 << (vector & 31);
        *word = if on { *word | bit } else { *word & !bit };
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word * 32 + 31 - self.0[word].leading_zeros() as usize) as u8)
    }
}

/// What a write does beyond the APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// An interprocessor interrupt is sent.
    Send(Message),
    /// A level-triggered interrupt has ended: the IOAPIC hears of it.
    End(u8),
}

/// How far a write to a register of the x2APIC got.
pub(super) type Written = Option<Effect>;

/// What waits for a vCPU beside interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pins {
    pub(super) nmi: bool,
    pub(super) init: bool,
    pub(super) start_up: Option<u8>,
}

/// The local APIC of one vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lapic {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// The error status register as software reads it, and what gathers until it writes it.
    esr: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
    pins: Pins,
    /// Its CPU waits for a start-up IPI.
    dormant: bool,
    /// Something came that the machine has not been told of.
    news: bool,
}

impl Lapic {
    /// As firmware leaves it: the first vCPU's is enabled and takes the PIC's interrupts, the others wait to be started.
    pub(super) fn new(id: u16) -> Self {
        let first = id == 0;
        let mut lapic = Self {
            id: id.into(),
            base: BASE_ADDRESS | BASE_ENABLE | if first { BASE_BSP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [0; 6],
            timer: Timer::default(),
            pins: Pins::default(),
            dormant: !first,
            news: false,
        };
        lapic.reset();
        if first {
            lapic.svr |= SVR_ENABLED;
            lapic.lvt[LINT0] = LVT_EXT_INT;
            lapic.lvt[LINT1] = LVT_NMI;
        }
        lapic
    }

    /// See: SDM "Local APIC State After It Receives an INIT-Deassert/INIT-Assert".
    fn reset(&mut self) {
        self.tpr = 0;
        (self.ldr, self.dfr, self.svr) = (0, u32::MAX, SVR_RESET);
        (self.isr, self.tmr, self.irr) = Default::default();
        (self.esr, self.errors, self.icr) = (0, 0, 0);
        self.lvt = [MASKED; 6];
        self.timer.reset();
    }

    // Modes.

    const fn on(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Whether it is in x2APIC mode.
    pub(super) const fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Whether it takes interrupts: enabled in IA32_APIC_BASE and by software.
    const fn enabled(&self) -> bool {
        self.on() && self.svr & SVR_ENABLED != 0
    }

    /// The page that it answers at, if it does.
    pub(super) fn page(&self) -> Option<u64> {
        (self.on() && !self.x2apic()).then_some(self.base & !0xfff)
    }

    /// IA32_APIC_BASE.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. `false` is #GP(0). See: SDM "x2APIC State Transitions".
    pub(super) fn set_base(&mut self, value: u64) -> bool {
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        let reserved = !(BASE_BSP | BASE_X2APIC | BASE_ENABLE | !0xfff);
        let good = match (mode(self.base), mode(value)) {
            // x2APIC mode without the APIC is no state; it is reached from xAPIC mode, and left by disabling alone.
            (_, (false, true)) | ((false, _), (true, true)) | ((true, true), (true, false)) => false,
            _ => value & reserved == 0,
        };
        if !good {
            return false;
        }
        let (was_on, was_x2) = mode(self.base);
        self.base = value;
        if was_on && !self.on() {
            self.reset();
        } else if self.x2apic() && !was_x2 {
            self.icr &= 0xffff_ffff;
        }
        true
    }

    // What it holds.

    pub(super) const fn pins(&self) -> Pins {
        self.pins
    }

    /// The CPU takes the NMI.
    pub(super) fn take_nmi(&mut self) {
        self.pins.nmi = false;
    }

    /// The CPU takes the INIT; `reset` unless it exits for it.
    pub(super) fn take_init(&mut self, reset: bool) {
        self.pins.init = false;
        if reset {
            self.reset();
            self.dormant = true;
        }
    }

    /// The CPU takes the start-up IPI.
    pub(super) fn take_start_up(&mut self) {
        self.pins.start_up = None;
        self.dormant = false;
    }

    /// Whether something came since the last call.
    pub(super) fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.news)
    }

    pub(super) const fn priority(&self) -> u8 {
        self.tpr
    }

    /// CR8.
    pub(super) const fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    pub(super) fn set_cr8(&mut self, cr8: u8) {
        self.tpr = cr8 << 4;
    }

    fn ppr(&self) -> u8 {
        let service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 { self.tpr } else { service & 0xf0 }
    }

    /// The vector to deliver now.
    pub(super) fn pending(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (self.on() && vector >> 4 > self.ppr() >> 4).then_some(vector)
    }

    /// Whether nothing but the task priority holds an interrupt back.
    pub(super) fn held_by_tpr(&self) -> bool {
        let service = self.isr.highest().unwrap_or(0);
        self.on() && self.pending().is_none() && self.irr.highest().is_some_and(|vector| vector >> 4 > service >> 4)
    }

    /// The CPU takes the interrupt.
    pub(super) fn acknowledge(&mut self, vector: u8) {
        self.irr.set(vector, false);
        self.isr.set(vector, true);
    }

    /// The end of the interrupt in service.
    pub(super) fn end(&mut self) -> Effect {
        self.write(EOI, 0, 0).unwrap_or(Effect::None)
    }

    /// Whether the PIC's interrupts come through.
    pub(super) const fn takes_ext_int(&self) -> bool {
        !self.on() || self.lvt[LINT0] & (MASKED | LVT_EXT_INT) == LVT_EXT_INT
    }

    /// The PIC's output has risen, which is wired to LINT0.
    pub(super) fn lint0(&mut self) {
        self.fire(LINT0);
        self.news |= self.takes_ext_int();
    }

    /// Takes an interrupt that arrives.
    pub(super) fn accept(&mut self, vector: u8, level: bool) {
        if !self.enabled() {
            return;
        }
        if vector < 16 {
            self.error(RECEIVED_ILLEGAL_VECTOR);
            return;
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
        self.news = true;
    }

    /// Takes a message that is meant for it. Fixed and lowest-priority interrupts come here too.
    pub(super) fn receive(&mut self, message: &Message) {
        if !self.on() {
            return;
        }
        match message.kind {
            Kind::Fixed | Kind::LowestPriority => self.accept(message.vector, message.level),
            Kind::Nmi => self.nmi(),
            Kind::Init => {
                self.pins.init = true;
                self.pins.start_up = None;
                self.news = true;
            }
            // One that is awake and not about to be put to sleep ignores it.
            Kind::StartUp if self.dormant || self.pins.init => {
                self.pins.start_up = Some(message.vector);
                self.news = true;
            }
            Kind::StartUp | Kind::Other => {}
        }
    }

    fn nmi(&mut self) {
        self.pins.nmi = true;
        self.news = true;
    }

    /// Whether a message of that destination is meant for it.
    pub(super) fn is_target(&self, to: Destination) -> bool {
        if !self.on() {
            return false;
        }
        let all = if to.wide { to.id == u32::MAX } else { to.id & 0xff == 0xff };
        match (to.logical, self.x2apic()) {
            (false, _) => all || self.id == to.id,
            (true, true) => {
                let own = self.logical_id();
                to.wide && all || to.id >> 16 == own >> 16 && to.id & own & 0xffff != 0
            }
            (true, false) => {
                let (own, to) = (self.ldr >> 24, to.id & 0xff);
                match self.dfr >> 28 {
                    0xf => own & to != 0,
                    0 => to == 0xff || own >> 4 == to >> 4 && own & to & 0xf != 0,
                    _ => false,
                }
            }
        }
    }

    /// The logical x2APIC ID.
    const fn logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }

    // The local sources.

    /// Carries the timer on to `now`.
    pub(super) fn advance(&mut self, now: u64) {
        if self.timer.advance(now) {
            self.fire(TIMER);
        }
    }

    /// When the timer interrupts next.
    pub(super) fn deadline(&self) -> Option<u64> {
        if !self.enabled() || self.lvt[TIMER] & MASKED != 0 {
            return None;
        }
        self.timer.expiry()
    }

    /// The TSC was moved.
    pub(super) fn set_tsc_offset(&mut self, offset: u64, now: u64) {
        self.timer.set_tsc_offset(offset, now);
    }

    /// IA32_TSC_DEADLINE.
    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.timer.deadline()
    }

    /// Writes IA32_TSC_DEADLINE.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, now: u64) {
        self.timer.set_deadline(tsc, now);
        self.advance(now);
    }

    /// A local source interrupts.
    fn fire(&mut self, source: usize) {
        let lvt = self.lvt[source];
        if lvt & MASKED != 0 {
            return;
        }
        // Timer and error have no delivery mode: the bits read 0, which is fixed.
        match lvt >> 8 & 7 {
            0 => self.accept(lvt as u8, false),
            4 => self.nmi(),
            _ => {}
        }
    }

    fn error(&mut self, error: u32) {
        // An error of the error's own vector is told by the register alone.
        let first = self.errors & error == 0;
        self.errors |= error;
        if first {
            self.fire(ERROR);
        }
    }

    // Registers.

    /// Reads a register. `None` where there is none.
    fn read(&self, register: u8, now: u64) -> Option<u32> {
        Some(match register {
            ID if self.x2apic() => self.id,
            ID => self.id << 24,
            VERSION => VERSION_VALUE,
            TPR => self.tpr.into(),
            PPR => self.ppr().into(),
            LDR if self.x2apic() => self.logical_id(),
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.0[usize::from(register - ISR)],
            TMR..IRR => self.tmr.0[usize::from(register - TMR)],
            IRR..=IRR_LAST => self.irr.0[usize::from(register - IRR)],
            ESR => self.esr,
            ICR => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            LVT_FIRST..=LVT_LAST => self.lvt[usize::from(register - LVT_FIRST)],
            INITIAL => self.timer.initial(),
            CURRENT => self.timer.current(now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Reads `size` bytes of the page. What is no register reads 0.
    pub(super) fn read_page(&mut self, offset: u16, size: u8, now: u64) -> u64 {
        let register = (offset >> 4) as u8;
        // The end of an interrupt, and what is only of old APICs, read 0 without an error.
        let value = self.read(register, now).or(matches!(register, APR | EOI).then_some(0));
        if value.is_none() {
            self.error(ILLEGAL_REGISTER);
        }
        let shift = u32::from(offset & 15) * 8;
        let value = u64::from(value.unwrap_or(0)).checked_shr(shift).unwrap_or(0);
        value & u64::MAX >> (64 - u32::from(size) * 8)
    }

    /// Writes to the page. Only whole registers are written.
    pub(super) fn write_page(&mut self, offset: u16, size: u8, value: u64, now: u64) -> Effect {
        if offset & 15 != 0 || size < 4 {
            return Effect::None;
        }
        let (register, value) = ((offset >> 4) as u8, value as u32);
        match register {
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            ICR => return self.command(self.icr & !0xffff_ffff | u64::from(value & ICR_WRITABLE as u32)),
            // There since the first APICs, or for reading alone.
            ID | VERSION | APR | PPR | ISR..=IRR_LAST | CURRENT => {}
            _ => match self.write(register, value, now) {
                Some(effect) => return effect,
                None => self.error(ILLEGAL_REGISTER),
            },
        }
        Effect::None
    }

    /// RDMSR of a register; `None` is #GP(0). See: SDM "x2APIC Register Address Space".
    pub(super) fn read_msr(&self, register: u8, now: u64) -> Option<u64> {
        match register {
            _ if !self.x2apic() => None,
            DFR | ICR_HIGH => None,
            ICR => Some(self.icr),
            _ => self.read(register, now).map(u64::from),
        }
    }

    /// WRMSR of a register; `None` is #GP(0).
    pub(super) fn write_msr(&mut self, register: u8, value: u64, now: u64) -> Written {
        if !self.x2apic() {
            return None;
        }
        let permitted = match register {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => u64::from(SVR_WRITABLE),
            ICR => ICR_WRITABLE,
            LVT_FIRST..=LVT_LAST => {
                // The status bits are ignored where they are.
                u64::from(WRITABLE[usize::from(register - LVT_FIRST)] | 0x5000)
            }
            INITIAL => 0xffff_ffff,
            DIVIDE => 0xb,
            _ => return None,
        };
        if value & !permitted != 0 {
            return None;
        }
        match register {
            ICR => Some(self.command(value)),
            SELF_IPI => Some(Effect::Send(Message {
                shorthand: Shorthand::Own,
                ..Message::fixed(value as u8, Destination::physical(self.id))
            })),
            _ => self.write(register, value as u32, now),
        }
    }

    /// Writes a register that both ways of access have in common.
    fn write(&mut self, register: u8, value: u32, now: u64) -> Written {
        match register {
            TPR => self.tpr = value as u8,
            EOI => {
                let Some(vector) = self.isr.highest() else { return Some(Effect::None) };
                self.isr.set(vector, false);
                if self.tmr.has(vector) {
                    return Some(Effect::End(vector));
                }
            }
            SVR => {
                self.svr = value & SVR_WRITABLE;
                if self.svr & SVR_ENABLED == 0 {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= MASKED);
                }
            }
            ESR => self.esr = core::mem::take(&mut self.errors),
            LVT_FIRST..=LVT_LAST => {
                let entry = usize::from(register - LVT_FIRST);
                let masked = if self.svr & SVR_ENABLED == 0 { MASKED } else { 0 };
                self.lvt[entry] = value & WRITABLE[entry] | masked;
                if entry == TIMER {
                    self.timer.set_mode(Mode::of(value));
                }
            }
            INITIAL => self.timer.set_initial(value, now),
            DIVIDE => self.timer.set_divide(value, now),
            _ => return None,
        }
        Some(Effect::None)
    }

    /// The interrupt command register was written.
    fn command(&mut self, value: u64) -> Effect {
        self.icr = value;
        let level_assert = value >> 14 & 1 != 0;
        let kind = match value >> 8 & 7 {
            0 => Kind::Fixed,
            1 => Kind::LowestPriority,
            4 => Kind::Nmi,
            // The de-assert is from the days of the bus, and does nothing.
            5 if value >> 15 & 1 != 0 && !level_assert => return Effect::None,
            5 => Kind::Init,
            6 => Kind::StartUp,
            _ => return Effect::None,
        };
        let vector = value as u8;
        if matches!(kind, Kind::Fixed | Kind::LowestPriority) && vector < 16 {
            self.error(SENT_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let shorthand = match value >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Own,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        let wide = self.x2apic();
        let id = if wide { (value >> 32) as u32 } else { (value >> 56) as u32 };
        let to = Destination { id, logical: value >> 11 & 1 != 0, wide };
        Effect::Send(Message { kind, vector, level: false, to, shorthand })
    }
}
