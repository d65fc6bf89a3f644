//! VMX non-root operation, as the software silicon carries it out: controls, entry checks, entries and exits.
//!
//! What runs between an entry and the exit that follows is [`crate::cpu`]'s.

pub mod capability;
pub mod checks;
pub mod controls;
pub mod exit;
pub(crate) mod msr_area;
pub mod state;
