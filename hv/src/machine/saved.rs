//! A machine's state as bytes, and back: what a checkpoint is made of.
//!
//! The state is all that is not memory and not the configuration; memory is read and set page by page. Its form is this
//! build's own: a checkpoint is a short cut to a state that a replay from the start would come to as well, and no more.

use super::{Advance, Doing, Machine};
use crate::device::Board;
use crate::l0::L0;
use crate::silicon::Pcpu;
use crate::soft::SoftSilicon;
use crate::world::World;
use core::ops::ControlFlow;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, InputKind};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Why a state could not be restored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bytes are no state, or another build's.
    #[error("the bytes are no state of a machine of this build: {0}")]
    NoState(postcard::Error),
    /// The state is of a machine with other CPUs.
    #[error("the state is of a machine with {saved} vCPUs, and this one has {ours}")]
    OtherMachine {
        /// vCPUs in the state.
        saved: usize,
        /// vCPUs of the machine.
        ours: usize,
    },
}

/// What the loop keeps, beside L0 and the board.
#[derive(Serialize, Deserialize)]
struct Loop {
    doing: Vec<Doing>,
    vcpu: usize,
    pcpu: Pcpu,
    turn_end: u64,
    yields: bool,
    poll_at: u64,
    polls: u64,
    next_digest: u64,
    shown: Vec<u8>,
}

impl Machine {
    /// The state, but for memory: see [`Machine::page`].
    ///
    /// Events that the world has not seen are no part of it: it is for a machine that has run, if only to pause. One that
    /// the world broke off, or whose run is over, has no state to go on from.
    pub fn save(&self) -> Vec<u8> {
        let around = Loop {
            doing: self.doing.clone(),
            vcpu: self.vcpu,
            pcpu: self.pcpu,
            turn_end: self.turn_end,
            yields: self.yields,
            poll_at: self.poll_at,
            polls: self.polls,
            next_digest: self.next_digest,
            shown: self.shown.clone(),
        };
        // Writing to memory does not fail, and every member has a form.
        postcard::to_stdvec(&(&self.l0, &self.board, around)).unwrap_or_default()
    }

    /// Takes on a state that [`Machine::save`] gave, of a machine of the same configuration and images. Memory stays as
    /// it is: see [`Machine::set_page`].
    ///
    /// # Errors
    /// The bytes are something else. The machine is as it was.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let (l0, board, around): (L0<SoftSilicon>, Board, Loop) =
            postcard::from_bytes(state).map_err(RestoreError::NoState)?;
        let (saved, ours) = (around.doing.len(), self.doing.len());
        if saved != ours || around.vcpu >= ours || !l0.fits(&self.l0) {
            return Err(RestoreError::OtherMachine { saved, ours });
        }
        let before = core::mem::replace(&mut self.l0, l0);
        self.l0.silicon.take_memory(before.silicon);
        let before = core::mem::replace(&mut self.board, board);
        self.board.take_firmware(before);
        let Loop { doing, vcpu, pcpu, turn_end, yields, poll_at, polls, next_digest, shown } = around;
        (self.doing, self.vcpu, self.pcpu, self.turn_end) = (doing, vcpu, pcpu, turn_end);
        (self.yields, self.poll_at, self.polls) = (yields, poll_at, polls);
        (self.next_digest, self.shown) = (next_digest, shown);
        self.log.events.clear();
        Ok(())
    }

    /// By number of the page of host-physical memory, a digest of what it holds: 0 for a page of zeros. Equal pages of one
    /// number have equal digests; different ones, but for a chance in 2^64, different ones.
    pub fn page_digests(&mut self) -> &[u64] {
        self.l0.silicon.memory().page_digests()
    }

    /// The bytes of a page of host-physical memory: 4096 of them. `None` for what is not memory.
    pub fn page(&mut self, number: usize) -> Option<&[u8]> {
        self.l0.silicon.memory().bytes(place(number), PAGE_SIZE as usize)
    }

    /// The pages of host-physical memory that are not as in `since`, by number and with their bytes. `since` holds
    /// [`Machine::page_digests`] of an earlier moment, and those of now afterwards; while it is empty, all pages count that are
    /// not zeros.
    pub fn changed_pages(&mut self, since: &mut Vec<u64>) -> Vec<(u32, Box<[u8]>)> {
        let now = self.page_digests().to_vec();
        since.resize(now.len(), 0);
        let differs = since.iter().zip(&now).enumerate().filter(|(_, (before, now))| before != now);
        let numbers: Vec<usize> = differs.map(|(page, _)| page).collect();
        *since = now;
        numbers.into_iter().filter_map(|page| Some((page as u32, self.page(page)?.into()))).collect()
    }

    /// Sets the bytes of a page of host-physical memory. `false`, and nothing is set, where it is not memory, or `bytes`
    /// are not 4096.
    pub fn set_page(&mut self, number: usize, bytes: &[u8]) -> bool {
        bytes.len() as u64 == PAGE_SIZE && self.l0.silicon.memory().write_bytes(place(number), bytes)
    }
}

fn place(number: usize) -> Hpa {
    Hpa(number as u64 * PAGE_SIZE)
}

/// A number for the form that this build gives to [`Machine::save`]d states: it is made of the state that a small machine has
/// come to, so that builds whose states look otherwise, or whose machines come to others, have other numbers.
pub fn state_form() -> u64 {
    static FORM: OnceLock<u64> = OnceLock::new();
    *FORM.get_or_init(|| {
        let config = Config { vcpus: 2, pcpus: 2, tlb_entries: 64, ..Config::new(Guest::BuiltIn("demo".into())) };
        let Ok(mut machine) = Machine::new(&config, &[]) else { return 0 };
        let mut ended = machine.run_to(&mut Deaf, FORMED);
        // A build whose guest ends sooner has a form too.
        while ended == Advance::On {
            ended = machine.advance(&mut Deaf);
        }
        let state = machine.save();
        let sum = state.iter().fold(machine.l0.silicon.memory().digest(), |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5)
        });
        sum | 1
    })
}

/// Instructions after which the small machine is looked at: its guest has entered L2 by then.
const FORMED: u64 = 20_000;

/// A world without input that looks at nothing.
struct Deaf;

impl World for Deaf {
    fn events(&mut self, _: &[Event]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}
