//! The breakpoints of the debug registers.
//!
//! One on an instruction is a fault before it; one on data or a port is a trap behind the instruction that made the
//! access. While any is set the executor goes by single instructions, and while one on data is, the front cache of
//! translations answers nothing, so that every access passes by here.
//! See: SDM "Debug Address Registers (DR0-DR3)" and "Debug Control Register (DR7)".

use super::event::Event;
use super::state::{Cpu, Halt, Stop};
use crate::mmu::Access;
use hv_defs::x86::Cr4;

/// What a breakpoint is set on: its R/W field in DR7.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Execution,
    Writes,
    Ports,
    Accesses,
}

impl Cpu {
    /// Whether any breakpoint is set.
    #[inline]
    pub(super) fn has_breakpoints(&self) -> bool {
        self.dr7 & 0xff != 0
    }

    /// The breakpoints that are set: number, what on, address and bytes, aligned to as many.
    fn breakpoints(&self) -> impl Iterator<Item = (u32, On, u64, u64)> + use<> {
        let (dr7, dr) = (self.dr7, self.regs.dr);
        (0..4u32).filter(move |number| dr7 >> (2 * number) & 3 != 0).map(move |number| {
            let field = dr7 >> (16 + 4 * number);
            let on = [On::Execution, On::Writes, On::Ports, On::Accesses][(field & 3) as usize];
            let bytes = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            (number, on, dr[number as usize] & !(bytes - 1), bytes)
        })
    }

    /// Follows a change of DR7: whether accesses to memory are to be looked at.
    pub(super) fn follow_breakpoints(&mut self) {
        let watched = self.breakpoints().any(|(_, on, ..)| matches!(on, On::Writes | On::Accesses));
        if watched != self.exec.watched {
            self.exec.watched = watched;
            self.mmu.set_watched(watched);
        }
    }

    /// #DB if a breakpoint is on the instruction at this linear address.
    pub(super) fn break_at(&mut self, at: u64) -> Result<(), Halt> {
        let hits = self.breakpoints().filter(|&(_, on, address, _)| on == On::Execution && address == at);
        let hits = hits.fold(0, |hits, (number, ..)| hits | 1 << number);
        if hits == 0 {
            return Ok(());
        }
        self.exec.stop = Stop::Software(Event::debug(hits));
        Err(Halt)
    }

    /// Notes breakpoints on data that an access of `bytes` at `at` touches.
    #[cold]
    pub(super) fn note_access(&mut self, at: u64, bytes: u64, access: Access) {
        let touched = |address: u64, length: u64| at < address.wrapping_add(length) && address < at.wrapping_add(bytes);
        let hits = self.breakpoints().filter(|&(_, on, address, length)| {
            (on == On::Accesses && access != Access::Fetch || on == On::Writes && access == Access::Write)
                && touched(address, length)
        });
        self.exec.hits |= hits.fold(0, |hits, (number, ..)| hits | 1 << number);
    }

    /// Notes breakpoints on ports that an access of `bytes` touches.
    pub(super) fn note_port(&mut self, port: u16, bytes: u64) {
        if !self.has_breakpoints() || !self.has_cr4(Cr4::DE) {
            return;
        }
        let port = u64::from(port);
        let hits = self.breakpoints().filter(|&(_, on, address, length)| {
            on == On::Ports && port < address.wrapping_add(length) && address < port + bytes
        });
        self.exec.hits |= hits.fold(0, |hits, (number, ..)| hits | 1 << number);
    }
}
