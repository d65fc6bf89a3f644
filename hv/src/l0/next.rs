//! What comes after an exit was handled.

use super::monitor::Wait;
use hv_defs::event::{Stop, StopKind};
use hv_defs::exit::{EventType, InterruptionInfo};
use hv_defs::x86::Vector;

/// An exception to be raised in the guest that exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) vector: Vector,
    pub(super) error_code: Option<u32>,
    /// CR2's new value, for a page fault.
    pub(super) address: Option<u64>,
}

impl Fault {
    /// #UD.
    pub(super) const UD: Self = Self { vector: Vector::UD, error_code: None, address: None };
    /// #GP(0).
    pub(super) const GP: Self = Self { vector: Vector::GP, error_code: Some(0), address: None };
    /// #SS(0).
    pub(super) const SS: Self = Self { vector: Vector::SS, error_code: Some(0), address: None };

    /// #PF.
    pub(super) const fn page(error_code: u32, address: u64) -> Self {
        Self { vector: Vector::PF, error_code: Some(error_code), address: Some(address) }
    }

    /// As it is injected.
    pub(super) const fn info(&self) -> InterruptionInfo {
        InterruptionInfo::new()
            .with_vector(self.vector.0)
            .with_kind(EventType::HardwareException)
            .with_has_error_code(self.error_code.is_some())
            .with_valid(true)
    }
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Next {
    /// The guest goes on where it was.
    Resume,
    /// The guest goes on behind the instruction.
    Skip,
    /// The guest takes an exception.
    Raise(Fault),
    /// The guest goes on behind the instruction, which says that it spins.
    Spin,
    /// The guest goes on behind the instruction once what it waits for comes.
    Wait(Wait),
    /// The exit goes to L1 as it came.
    Reflect,
    /// The run is over.
    Stop(Stop),
}

/// L0 met what it does not have.
pub(super) fn unsupported(text: String) -> Next {
    Next::Stop(Stop { kind: StopKind::Unsupported, code: 0, text })
}
