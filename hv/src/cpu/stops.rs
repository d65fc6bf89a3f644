//! Where whoever watches the CPU wants it stopped: at instructions and at accesses to memory, by linear address.
//!
//! They are no breakpoints of the guest's, who notices nothing: no debug register is used and no code is changed. A page that
//! one lies in is left out of the front cache of translations, so that fetches from it and accesses to it come by here; those
//! to all other pages cost what they did. The instruction that does is run by itself.

use super::state::{Cpu, Halt, Stop};
use crate::mmu::Access;

/// Bytes that accesses are looked for at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Watch {
    /// The first one's linear address.
    pub address: u64,
    /// How many they are.
    pub bytes: u64,
    /// Whether reads count.
    pub reads: bool,
    /// Whether writes do.
    pub writes: bool,
}

impl Watch {
    /// Whether it is of this access.
    fn sees(&self, at: u64, bytes: u64, access: Access) -> bool {
        let wanted = match access {
            Access::Read => self.reads,
            Access::Write => self.writes,
            Access::Fetch => false,
        };
        // Differences, since the last byte may be the last of all.
        wanted && (at.wrapping_sub(self.address) < self.bytes || self.address.wrapping_sub(at) < bytes)
    }
}

/// Where to stop.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stops {
    /// Linear addresses of instructions: it stops before one is executed.
    pub code: Vec<u64>,
    /// Bytes of memory: it stops behind the instruction that accesses one.
    pub data: Vec<Watch>,
}

impl Stops {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.code.is_empty() && self.data.is_empty()
    }

    /// The pages that hold any of it, by their first addresses, in order.
    pub(crate) fn pages(&self) -> Vec<u64> {
        let code = self.code.iter().map(|at| at & !0xfff);
        let data = self.data.iter().flat_map(|watch| {
            let count = (watch.address & 0xfff).saturating_add(watch.bytes.max(1)).div_ceil(4096);
            (0..count).map(|page| (watch.address & !0xfff).wrapping_add(page * 4096))
        });
        let mut pages: Vec<u64> = code.chain(data).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

/// What it stopped at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// Before the instruction at this linear address.
    Code(u64),
    /// Behind an instruction that accessed this.
    Data(Watch),
}

/// The stops of a CPU, with what it needs to go by them.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    stops: Stops,
    /// The clock and the address at which it stopped, or began: it goes on there.
    passed: Option<(u64, u64)>,
    /// The instruction that runs was looked at.
    passing: bool,
    /// What the instruction that runs has accessed, and what one that completed has.
    touched: Option<Watch>,
    met: Option<Met>,
}

impl Cpu {
    /// Has [`super::run`] return [`super::Trap::Paused`] at these. If `passes`, it does not where it stands.
    pub(crate) fn set_stops(&mut self, stops: &Stops, passes: Option<u64>) {
        self.mmu.set_guarded(stops.pages());
        self.exec.stopping = (!stops.is_empty()).then(|| {
            let mut stops = stops.clone();
            stops.code.sort_unstable();
            let passed = passes.map(|clock| (clock, self.linear_rip()));
            Box::new(Stopping { stops, passed, ..Stopping::default() })
        });
    }

    /// What it has stopped at; it forgets it.
    pub(crate) fn take_met(&mut self) -> Option<Met> {
        self.exec.stopping.as_mut()?.met.take()
    }

    /// A fetch that the front cache did not answer. Where a stop is in its page, the instruction is to be looked at.
    pub(super) fn guard_fetch(&mut self, at: u64) -> Result<(), Halt> {
        match &self.exec.stopping {
            Some(stopping) if !stopping.passing && self.mmu.is_guarded(at) => {
                self.exec.stop = Stop::Guarded;
                Err(Halt)
            }
            _ => Ok(()),
        }
    }

    /// An access that the front cache did not answer. One that is watched for is made by an instruction by itself; the
    /// delivery of an event makes it in any case.
    pub(super) fn guard_access(&mut self, at: u64, bytes: u64, access: Access, delivers: bool) -> Result<(), Halt> {
        let Some(stopping) = &mut self.exec.stopping else { return Ok(()) };
        let Some(watch) = stopping.stops.data.iter().find(|watch| watch.sees(at, bytes, access)) else { return Ok(()) };
        if delivers {
            stopping.met = Some(Met::Data(*watch));
            self.pause_at(Some(0));
        } else if stopping.passing {
            stopping.touched.get_or_insert(*watch);
        } else {
            self.exec.stop = Stop::Guarded;
            return Err(Halt);
        }
        Ok(())
    }

    /// Whether it is to stop before the instruction at RIP.
    pub(super) fn stops_here(&mut self) -> bool {
        let here = (self.exec.now, self.linear_rip());
        let Some(stopping) = &mut self.exec.stopping else { return false };
        if stopping.passed == Some(here) || stopping.stops.code.binary_search(&here.1).is_err() {
            return false;
        }
        stopping.passed = Some(here);
        stopping.met = Some(Met::Code(here.1));
        true
    }

    /// Lets an instruction pass or no longer. Returns what it did before.
    pub(super) fn set_passing(&mut self, passing: bool) -> bool {
        self.exec.stopping.as_mut().is_some_and(|stopping| core::mem::replace(&mut stopping.passing, passing))
    }

    /// An instruction by itself begins.
    pub(super) fn begin_watching(&mut self) {
        if let Some(stopping) = &mut self.exec.stopping {
            stopping.touched = None;
        }
    }

    /// It is complete.
    pub(super) fn end_watching(&mut self) {
        if let Some(stopping) = &mut self.exec.stopping
            && let Some(watch) = stopping.touched.take()
        {
            stopping.met = Some(Met::Data(watch));
            // At the next boundary, as a guest can be stopped there alone.
            self.pause_at(Some(0));
        }
    }
}
