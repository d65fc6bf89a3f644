//! What a machine holds before its first instruction: bytes in L1's memory and the state of its first vCPU.

use crate::l0::Start;
use hv_defs::addr::Gpa;

/// A guest in memory, ready to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Bytes, and the L1-physical addresses where they lie. All other memory is zero.
    pub memory: Vec<(Gpa, Vec<u8>)>,
    /// The first vCPU's state.
    pub start: Start,
}

impl Loaded {
    /// Bytes of memory that the guest takes at least: up to the end of the highest piece.
    pub fn extent(&self) -> u64 {
        self.memory.iter().map(|(at, bytes)| at.0.saturating_add(bytes.len() as u64)).max().unwrap_or(0)
    }
}
