//! The local APICs and the I/O APIC together: who hears which message, and what waits for whom.

use super::ioapic::Ioapic;
use super::lapic::{Effect, Lapic};
use super::message::{Kind, Message, Shorthand};
use crate::l0::Signals;
use hv_defs::addr::Gpa;
use hv_defs::x86::msr;
use serde::{Deserialize, Serialize};

/// Where the I/O APIC answers.
pub(super) const IOAPIC_ADDRESS: u64 = 0xfec0_0000;

/// The APICs of one machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Apics {
    locals: Vec<Lapic>,
    io: Ioapic,
    /// The first moment at which a local APIC's timer interrupts.
    deadline: Option<u64>,
    /// Something came to a local APIC that the machine has not been told of.
    news: bool,
}

/// The I/O APIC's ID on a machine of so many vCPUs: the first that no local APIC has, while it fits its four bits.
pub const fn ioapic_id(vcpus: u16) -> u8 {
    if vcpus < 15 { vcpus as u8 } else { 0 }
}

impl Apics {
    pub(super) fn new(vcpus: u16) -> Self {
        Self {
            locals: (0..vcpus).map(Lapic::new).collect(),
            io: Ioapic::new(ioapic_id(vcpus)),
            deadline: None,
            news: false,
        }
    }

    fn local(&mut self, vcpu: u16) -> &mut Lapic {
        &mut self.locals[usize::from(vcpu)]
    }

    /// When a timer interrupts next.
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    fn schedule(&mut self) {
        self.deadline = self.locals.iter().filter_map(Lapic::deadline).min();
    }

    /// Carries the timers on to `now`.
    pub(super) fn advance(&mut self, now: u64) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.locals.iter_mut().for_each(|local| local.advance(now));
            self.news = true;
            self.schedule();
        }
    }

    /// As [`Apics::advance`], for a vCPU that looks at its own: a timer that interrupts nobody has elapsed too.
    fn advance_own(&mut self, vcpu: u16, now: u64) {
        self.advance(now);
        self.local(vcpu).advance(now);
    }

    /// The vCPUs to which something came since the last call, in order.
    pub(super) fn take_news(&mut self) -> Vec<usize> {
        if !core::mem::take(&mut self.news) {
            return Vec::new();
        }
        let told = self.locals.iter_mut().enumerate();
        told.filter_map(|(vcpu, local)| local.take_news().then_some(vcpu)).collect()
    }

    /// Whether the PIC's interrupts reach the first vCPU.
    pub(super) fn takes_ext_int(&self) -> bool {
        self.locals[0].takes_ext_int()
    }

    /// The PIC's output has risen.
    pub(super) fn ext_int(&mut self) {
        self.locals[0].lint0();
        self.news = true;
    }

    /// Whether nothing can come of a pin of the I/O APIC's until the guest writes to it.
    pub(super) fn is_masked(&self, pin: u8) -> bool {
        self.io.is_masked(pin)
    }

    /// Whether a pin of the I/O APIC can make an NMI or an INIT.
    pub(super) fn sends_nmis(&self) -> bool {
        self.io.sends_nmis()
    }

    /// Sets a pin of the I/O APIC.
    pub(super) fn set_pin(&mut self, pin: u8, high: bool) {
        if let Some(message) = self.io.set(pin, high) {
            self.send(None, &message);
        }
    }

    /// Delivers a message from a vCPU, or from the I/O APIC.
    fn send(&mut self, from: Option<u16>, message: &Message) {
        self.news = true;
        let own = from.map(usize::from);
        let is_target = |vcpu: usize, local: &Lapic| match message.shorthand {
            Shorthand::None => local.is_target(message.to),
            Shorthand::Own => Some(vcpu) == own,
            Shorthand::All => true,
            Shorthand::Others => Some(vcpu) != own,
        };
        let mut targets: Vec<usize> =
            self.locals.iter().enumerate().filter(|(vcpu, local)| is_target(*vcpu, local)).map(|(at, _)| at).collect();
        if message.kind == Kind::LowestPriority {
            // Of equals the first, so that the choice depends on nothing but what the guest set.
            let lowest = targets.into_iter().min_by_key(|vcpu| (self.locals[*vcpu].priority(), *vcpu));
            targets = lowest.into_iter().collect();
        }
        for target in targets {
            self.locals[target].receive(message);
        }
    }

    fn carry_out(&mut self, vcpu: u16, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => self.send(Some(vcpu), &message),
            Effect::End(vector) => {
                for message in self.io.end(vector) {
                    self.send(None, &message);
                }
            }
        }
        self.schedule();
    }

    /// Where an address is in a vCPU's own APIC page.
    fn own_page(&self, vcpu: u16, at: Gpa) -> Option<u16> {
        let page = self.locals[usize::from(vcpu)].page()?;
        at.0.checked_sub(page).filter(|offset| *offset < 0x1000).map(|offset| offset as u16)
    }

    /// Reads memory that is an APIC's.
    pub(super) fn read(&mut self, vcpu: u16, at: Gpa, size: u8, now: u64) -> Option<u64> {
        self.advance_own(vcpu, now);
        if let Some(offset) = self.own_page(vcpu, at) {
            return Some(self.local(vcpu).read_page(offset, size, now));
        }
        let offset = io_offset(at)?;
        Some(u64::from(self.io.read(offset)) & u64::MAX >> (64 - u32::from(size) * 8))
    }

    /// Writes memory that is an APIC's.
    pub(super) fn write(&mut self, vcpu: u16, at: Gpa, size: u8, value: u64, now: u64) -> bool {
        self.advance_own(vcpu, now);
        if let Some(offset) = self.own_page(vcpu, at) {
            let effect = self.local(vcpu).write_page(offset, size, value, now);
            self.carry_out(vcpu, effect);
            return true;
        }
        let Some(offset) = io_offset(at) else { return false };
        for message in self.io.write(offset, value as u32) {
            self.send(None, &message);
        }
        true
    }

    /// RDMSR of one of the APIC's MSRs; `None` is #GP(0).
    pub(super) fn read_msr(&mut self, vcpu: u16, index: u32, now: u64) -> Option<u64> {
        self.advance_own(vcpu, now);
        let local = self.local(vcpu);
        match index {
            msr::APIC_BASE => Some(local.base()),
            msr::TSC_DEADLINE => Some(local.tsc_deadline()),
            _ => local.read_msr(x2apic_register(index)?, now),
        }
    }

    /// WRMSR of one of the APIC's MSRs; `false` is #GP(0).
    pub(super) fn write_msr(&mut self, vcpu: u16, index: u32, value: u64, now: u64) -> bool {
        self.advance_own(vcpu, now);
        let local = self.local(vcpu);
        let effect = match index {
            msr::APIC_BASE => local.set_base(value).then_some(Effect::None),
            msr::TSC_DEADLINE => {
                local.set_tsc_deadline(value, now);
                self.news = true;
                Some(Effect::None)
            }
            _ => x2apic_register(index).and_then(|register| local.write_msr(register, value, now)),
        };
        if let Some(effect) = effect {
            self.carry_out(vcpu, effect);
        }
        effect.is_some()
    }

    /// A vCPU's TSC was moved against the board's clock.
    pub(super) fn set_tsc_offset(&mut self, vcpu: u16, offset: u64, now: u64) {
        self.local(vcpu).set_tsc_offset(offset, now);
        self.schedule();
    }

    pub(super) fn cr8(&self, vcpu: u16) -> u8 {
        self.locals[usize::from(vcpu)].cr8()
    }

    pub(super) fn set_cr8(&mut self, vcpu: u16, cr8: u8) {
        self.local(vcpu).set_cr8(cr8);
    }

    pub(super) fn held_by_tpr(&self, vcpu: u16) -> bool {
        self.locals[usize::from(vcpu)].held_by_tpr()
    }

    pub(super) fn pending(&self, vcpu: u16) -> Option<u8> {
        self.locals[usize::from(vcpu)].pending()
    }

    pub(super) fn acknowledge(&mut self, vcpu: u16, vector: u8) {
        self.local(vcpu).acknowledge(vector);
    }

    /// The vCPU's local APIC is told that the interrupt in service is at its end.
    pub(super) fn end(&mut self, vcpu: u16) {
        let effect = self.local(vcpu).end();
        self.carry_out(vcpu, effect);
    }

    pub(super) fn signals(&self, vcpu: u16) -> Signals {
        let pins = self.locals[usize::from(vcpu)].pins();
        Signals { nmi: pins.nmi, init: pins.init, start_up: pins.start_up }
    }

    pub(super) fn take_nmi(&mut self, vcpu: u16) {
        self.local(vcpu).take_nmi();
    }

    pub(super) fn take_init(&mut self, vcpu: u16, reset: bool) {
        self.local(vcpu).take_init(reset);
        self.schedule();
    }

    pub(super) fn take_start_up(&mut self, vcpu: u16) {
        self.local(vcpu).take_start_up();
    }
}

fn x2apic_register(index: u32) -> Option<u8> {
    index.checked_sub(msr::X2APIC_FIRST).and_then(|register| u8::try_from(register).ok())
}

fn io_offset(at: Gpa) -> Option<u16> {
    at.0.checked_sub(IOAPIC_ADDRESS).filter(|offset| *offset < 0x1000).map(|offset| offset as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPIC: u64 = 0xfee0_0000;

    /// APICs that are all enabled, with logical IDs of a bit each.
    fn apics(vcpus: u16) -> Apics {
        let mut apics = Apics::new(vcpus);
        for vcpu in 0..vcpus {
            store(&mut apics, vcpu, 0xf0, 0x1ff);
            store(&mut apics, vcpu, 0xd0, 1 << (24 + vcpu));
        }
        apics.take_news();
        apics
    }

    fn store(apics: &mut Apics, vcpu: u16, offset: u64, value: u64) {
        assert!(apics.write(vcpu, Gpa(LAPIC + offset), 4, value, 0));
    }

    /// vCPU 1 of four sends an IPI; who gets it.
    fn check(high: u64, low: u64, expected: &[usize]) {
        let mut apics = apics(4);
        store(&mut apics, 2, 0x80, 0x10);
        store(&mut apics, 1, 0x310, high << 24);
        store(&mut apics, 1, 0x300, low);
        assert_eq!(apics.take_news(), expected, "{high:#x} {low:#x}");
        let got = |apics: &Apics, vcpu| apics.pending(vcpu).is_some() || apics.signals(vcpu).any();
        for vcpu in 0..4 {
            assert_eq!(got(&apics, vcpu), expected.contains(&usize::from(vcpu)), "{high:#x} {low:#x}: {vcpu}");
        }
    }

    #[test]
    fn ipis_reach_whom_they_are_for() {
        check(3, 0x40fb, &[3]);
        check(1, 0x40fb, &[1]);
        check(9, 0x40fb, &[]);
        check(0xff, 0x40fb, &[0, 1, 2, 3]);
        check(0x5, 0x48fb, &[0, 2]);
        // Of the first, the third and the fourth the first two differ in priority; of equals the first is taken.
        check(0xd, 0x49fb, &[0]);
        check(0xc, 0x49fb, &[3]);
        check(0, 0x4_40fb, &[1]);
        check(0, 0x8_40fb, &[0, 1, 2, 3]);
        check(0, 0xc_40fb, &[0, 2, 3]);
        check(0, 0xc_4400, &[0, 2, 3]);
        check(2, 0x4500, &[2]);
        check(2, 0x4608, &[2]);
        check(0, 0x4608, &[]);
    }

    #[test]
    fn x2apic_ipis_and_the_self_ipi() {
        let mut apics = apics(2);
        let base = apics.read_msr(0, msr::APIC_BASE, 0).unwrap();
        assert!(apics.write_msr(0, msr::APIC_BASE, base | 1 << 10, 0));
        assert_eq!(apics.read(0, Gpa(LAPIC + 0x20), 4, 0), None, "the page is gone");
        assert!(apics.write_msr(0, 0x830, 1 << 32 | 0x40fb, 0));
        assert!(apics.write_msr(0, 0x83f, 0x77, 0));
        assert_eq!((apics.pending(0), apics.pending(1)), (Some(0x77), Some(0xfb)));
        assert!(!apics.write_msr(1, 0x83f, 0x77, 0), "that one is in xAPIC mode");
    }

    #[test]
    fn the_first_timer_is_the_deadline() {
        let mut apics = apics(3);
        for (vcpu, count) in [(1, 500), (2, 200)] {
            store(&mut apics, vcpu, 0x320, 0xec);
            store(&mut apics, vcpu, 0x3e0, 0xb);
            store(&mut apics, vcpu, 0x380, count);
        }
        apics.take_news();
        assert_eq!(apics.deadline(), Some(8_000));
        apics.advance(8_000);
        assert_eq!((apics.take_news(), apics.deadline()), (vec![2], Some(20_000)));
        apics.advance(30_000);
        assert_eq!((apics.take_news(), apics.deadline()), (vec![1], None));
    }

    #[test]
    fn a_level_interrupt_s_end_reaches_the_ioapic() {
        let mut apics = apics(2);
        let io = |apics: &mut Apics, register: u64, value| {
            assert!(apics.write(0, Gpa(IOAPIC_ADDRESS), 4, register, 0));
            assert!(apics.write(0, Gpa(IOAPIC_ADDRESS + 0x10), 4, value, 0));
        };
        io(&mut apics, 0x10 + 2 * 20 + 1, 1 << 24);
        io(&mut apics, 0x10 + 2 * 20, 0x8044);
        apics.set_pin(20, true);
        assert_eq!(apics.pending(1), Some(0x44));
        apics.acknowledge(1, 0x44);
        assert_eq!(apics.pending(1), None);
        store(&mut apics, 1, 0xb0, 0);
        assert_eq!(apics.pending(1), Some(0x44), "the line is still high");
        apics.acknowledge(1, 0x44);
        apics.set_pin(20, false);
        store(&mut apics, 1, 0xb0, 0);
        assert_eq!(apics.pending(1), None);
    }
}
