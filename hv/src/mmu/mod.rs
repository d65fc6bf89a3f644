//! Address translation: the guest's paging structures, EPT, and the TLB that caches what they say.

mod fault;

pub use fault::{Access, Fault};

/// Bits of a physical address: what CPUID must show and what entries of paging structures may use.
pub const PHYSICAL_BITS: u32 = 46;
