//! The real board, to which interrupts, NMIs and INITs come out of nowhere and whose devices write L1's memory.

use super::contents::{self, Allowed};
use super::dice::Dice;
use super::layout::REFRESH_PORT;
use hv::device::Board;
use hv::l0::{Bus, BusEvent, Ram, Signals};
use hv_defs::addr::Gpa;

pub(crate) struct Wild {
    pub(crate) board: Board,
    pub(crate) dice: Dice,
    /// By vCPU: what waits for it.
    pub(crate) vector: Vec<Option<u8>>,
    pub(crate) signals: Vec<Signals>,
    told: bool,
    pub(crate) allowed: Allowed,
    memory: u64,
}

impl Wild {
    pub(crate) fn new(memory: u64, vcpus: u16, dice: Dice) -> Self {
        let count = usize::from(vcpus);
        let board = Board::new(memory, vcpus);
        Self {
            board,
            dice,
            vector: vec![None; count],
            signals: vec![Signals::default(); count],
            told: false,
            allowed: Allowed::default(),
            memory,
        }
    }
}

impl Bus for Wild {
    fn io_in(&mut self, port: u16, size: u8, now: u64) -> u32 {
        self.board.io_in(port, size, now)
    }

    fn io_out(&mut self, port: u16, size: u8, value: u32, now: u64) -> Option<BusEvent> {
        if port == REFRESH_PORT {
            return Some(BusEvent::Dma(Gpa(u64::MAX)));
        }
        self.board.io_out(port, size, value, now)
    }

    fn mmio_read(&mut self, vcpu: u16, at: Gpa, size: u8, now: u64) -> Option<u64> {
        self.board.mmio_read(vcpu, at, size, now)
    }

    fn mmio_write(&mut self, vcpu: u16, at: Gpa, size: u8, value: u64, now: u64) -> bool {
        self.board.mmio_write(vcpu, at, size, value, now)
    }

    fn dma(&mut self, at: Gpa, ram: &mut dyn Ram) {
        if at.0 != u64::MAX {
            return self.board.dma(at, ram);
        }
        if self.dice.once_in(4) {
            // What waits there for an EOI that never comes is gone.
            self.board = Board::new(self.memory, self.signals.len() as u16);
        }
        for (at, bytes) in contents::some(&mut self.dice, &self.allowed) {
            ram.write(Gpa(at), &bytes);
        }
    }

    fn interrupt(&mut self, vcpu: u16, now: u64) -> Option<u8> {
        let mine = self.vector[usize::from(vcpu)];
        self.told = mine.is_some();
        mine.or_else(|| self.board.interrupt(vcpu, now))
    }

    fn acknowledge(&mut self, vcpu: u16, now: u64) {
        if self.told {
            self.vector[usize::from(vcpu)] = None;
        } else {
            self.board.acknowledge(vcpu, now);
        }
    }

    fn signals(&mut self, vcpu: u16) -> Signals {
        let (mine, theirs) = (self.signals[usize::from(vcpu)], self.board.signals(vcpu));
        Signals {
            nmi: mine.nmi || theirs.nmi,
            init: mine.init || theirs.init,
            start_up: mine.start_up.or(theirs.start_up),
        }
    }

    fn take_nmi(&mut self, vcpu: u16) {
        self.signals[usize::from(vcpu)].nmi = false;
        self.board.take_nmi(vcpu);
    }

    fn take_init(&mut self, vcpu: u16, reset: bool) {
        self.signals[usize::from(vcpu)].init = false;
        self.board.take_init(vcpu, reset);
    }

    fn take_start_up(&mut self, vcpu: u16) {
        self.signals[usize::from(vcpu)].start_up = None;
        self.board.take_start_up(vcpu);
    }

    fn read_apic_msr(&mut self, vcpu: u16, index: u32, now: u64) -> Option<u64> {
        self.board.read_apic_msr(vcpu, index, now)
    }

    fn write_apic_msr(&mut self, vcpu: u16, index: u32, value: u64, now: u64) -> bool {
        self.board.write_apic_msr(vcpu, index, value, now)
    }

    fn tsc_moved(&mut self, vcpu: u16, offset: u64, now: u64) {
        self.board.tsc_moved(vcpu, offset, now);
    }

    fn cr8(&mut self, vcpu: u16) -> u8 {
        self.board.cr8(vcpu)
    }

    fn set_cr8(&mut self, vcpu: u16, cr8: u8) {
        self.board.set_cr8(vcpu, cr8);
    }

    fn held_by_tpr(&mut self, vcpu: u16) -> bool {
        self.board.held_by_tpr(vcpu)
    }
}
