//! The checks that a VM entry makes, each a named row: on controls, on host state, on guest state, in the SDM's order.
//!
//! The silicon runs them on the VMCS that it enters, L0 on a vmcs12. No row is here for what no VMX of ours offers, since
//! its control then is a reserved bit that must be clear: entries to and from SMM, Intel PT, CET, protection keys for
//! supervisor pages, performance counters, MPX, LBRs, user interrupts, sub-page permissions, and tertiary controls.
//!
//! See: SDM "VM Entries", "Checks on VMX Controls and Host-State Area" and "Checking and Loading Guest State".

mod controls;
mod guest;
mod host;
mod segments;
#[cfg(test)]
pub(crate) mod tests;

use super::capability::Capabilities;
use crate::memory::Memory;
use crate::mmu::PHYSICAL_BITS;
use crate::vmcs::Vmcs;
use hv_defs::addr::{Hpa, PAGE_SIZE, is_canonical};
use hv_defs::controls::{EntryControls, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::event::Check;
use hv_defs::exit::{EventType, InterruptionInfo};
use hv_defs::vmcs::*;
use hv_defs::x86::{Cr4, Rflags};

/// The physical memory that the addresses in a VMCS are of.
pub trait Physical {
    /// The 32 bits at an address that is a multiple of four; all ones where nothing answers.
    fn read_u32(&self, at: u64) -> u32;
}

impl Physical for Memory {
    fn read_u32(&self, at: u64) -> u32 {
        self.read(Hpa(at))
    }
}

/// What the checks look at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The VMCS.
    pub vmcs: &'a Vmcs,
    /// Its own address.
    pub address: u64,
    /// What the VMX offers that enters it.
    pub capabilities: &'a Capabilities,
    /// Whether the CPU that enters it is in IA-32e mode.
    pub long_mode_host: bool,
    /// The memory that its addresses are of.
    pub memory: &'a dyn Physical,
}

/// One check.
pub struct Row {
    /// Its name.
    pub check: Check,
    /// Whether it holds.
    pub holds: fn(&Subject<'_>) -> bool,
    /// It depends on a field that hypervisors write at almost every entry: [`is_hot`].
    pub hot: bool,
    /// For a check on guest state: the exit qualification when it does not hold.
    pub qualification: u64,
}

macro_rules! rows {
    ($(#[$doc:meta])* $table:ident: $($name:literal $($tag:ident $(($value:literal))?)* => $holds:expr;)*) => {
        $(#[$doc])*
        pub static $table: &[$crate::vmx::checks::Row] = &[
            $({
                #[allow(unused_mut)]
                let mut row = $crate::vmx::checks::Row {
                    check: hv_defs::event::Check::new($name),
                    holds: $holds,
                    hot: false,
                    qualification: 0,
                };
                $(rows!(@tag row $tag $(($value))?);)*
                row
            },)*
        ];
    };
    (@tag $row:ident hot) => { $row.hot = true; };
    (@tag $row:ident qualification($value:literal)) => { $row.qualification = $value; };
}
use rows;

pub use controls::CONTROLS;
pub use guest::{GUEST, is_plain};
pub use host::HOST;
pub use segments::SEGMENTS;

/// Whether a field is one that hypervisors write at almost every entry. Rows that are not hot do not depend on it, but for
/// RFLAGS.VM, which all that looks at segments depends on.
pub fn is_hot(field: VmcsField) -> bool {
    [
        GUEST_RIP.field(),
        GUEST_RSP.field(),
        GUEST_RFLAGS.field(),
        GUEST_CR3.field(),
        GUEST_INTERRUPTIBILITY.field(),
        GUEST_ACTIVITY_STATE.field(),
        GUEST_PENDING_DEBUG_EXCEPTIONS.field(),
        GUEST_INTERRUPT_STATUS.field(),
        ENTRY_INTERRUPTION_INFO.field(),
        ENTRY_EXCEPTION_ERROR_CODE.field(),
        ENTRY_INSTRUCTION_LENGTH.field(),
        PREEMPTION_TIMER_VALUE.field(),
        PML_INDEX.field(),
    ]
    .contains(&field)
}

/// The first check on VM-execution, VM-exit and VM-entry control fields that does not hold: VM-instruction error 7.
pub fn controls(subject: &Subject<'_>) -> Option<Check> {
    first(subject, &[CONTROLS]).map(|row| row.check)
}

/// The first check on host state that does not hold: VM-instruction error 8.
pub fn host(subject: &Subject<'_>) -> Option<Check> {
    first(subject, &[HOST]).map(|row| row.check)
}

/// The first check on guest state that does not hold, with the exit qualification of the failed entry.
pub fn guest(subject: &Subject<'_>) -> Option<(Check, u64)> {
    first(subject, GUEST_TABLES).map(|row| (row.check, row.qualification))
}

/// The first check among those that depend on a hot field that does not hold, of the controls.
pub fn hot_controls(subject: &Subject<'_>) -> Option<Check> {
    CONTROLS.iter().filter(|row| row.hot).find(|row| !(row.holds)(subject)).map(|row| row.check)
}

/// As [`hot_controls`], of guest state. Outside IA-32e mode RFLAGS.VM, which is hot, decides what segments may be, so that
/// all rows count.
pub fn hot_guest(subject: &Subject<'_>) -> Option<(Check, u64)> {
    let all = !subject.long_mode_guest() || subject.v86();
    some_guest(subject, GUEST_TABLES, all)
}

/// As [`guest()`] (`all`) and [`hot_guest`], but for the rows on segment registers: for a guest whose segment registers are as
/// an exit left them, and may not be in the VMCS.
pub fn guest_but_segments(subject: &Subject<'_>, all: bool) -> Option<(Check, u64)> {
    some_guest(subject, &[GUEST_REGISTERS, GUEST], all)
}

fn some_guest(subject: &Subject<'_>, tables: &[&[Row]], all: bool) -> Option<(Check, u64)> {
    let mut rows = tables.iter().copied().flatten().filter(|row| all || row.hot);
    rows.find(|row| !(row.holds)(subject)).map(|row| (row.check, row.qualification))
}

/// The tables of checks on guest state, in order.
pub const GUEST_TABLES: &[&[Row]] = &[GUEST_REGISTERS, SEGMENTS, GUEST];

pub use guest::GUEST_REGISTERS;

fn first<'a>(subject: &Subject<'_>, tables: &[&'a [Row]]) -> Option<&'a Row> {
    tables.iter().copied().flatten().find(|row| !(row.holds)(subject))
}

impl Subject<'_> {
    #[inline]
    fn get<T: FieldValue>(&self, field: Field<T>) -> T {
        self.vmcs.get(field)
    }

    #[inline]
    fn pin(&self, control: PinBased) -> bool {
        self.get(PIN_BASED_CONTROLS).contains(control)
    }

    #[inline]
    fn primary(&self, control: PrimaryControls) -> bool {
        self.get(PRIMARY_CONTROLS).contains(control)
    }

    #[inline]
    fn secondary(&self, control: SecondaryControls) -> bool {
        self.primary(PrimaryControls::ACTIVATE_SECONDARY) && self.get(SECONDARY_CONTROLS).contains(control)
    }

    fn exit(&self, control: ExitControls) -> bool {
        self.get(EXIT_CONTROLS).contains(control)
    }

    #[inline]
    fn entry(&self, control: EntryControls) -> bool {
        self.get(ENTRY_CONTROLS).contains(control)
    }

    #[inline]
    fn unrestricted(&self) -> bool {
        self.secondary(SecondaryControls::UNRESTRICTED_GUEST)
    }

    #[inline]
    fn long_mode_guest(&self) -> bool {
        self.entry(EntryControls::IA32E_MODE_GUEST)
    }

    /// Whether the CPU that is entered can have linear addresses of 57 bits.
    fn linear_57(&self) -> bool {
        self.capabilities.cr4_fixed1 & Cr4::LA57.bits() != 0
    }

    fn v86(&self) -> bool {
        self.get(GUEST_RFLAGS) & Rflags::VM.bits() != 0
    }

    /// What is injected, if anything is.
    #[inline]
    fn injected(&self) -> Option<InterruptionInfo> {
        Some(self.get(ENTRY_INTERRUPTION_INFO)).filter(|info| info.valid())
    }

    /// Whether an event of that type is injected.
    fn injects(&self, kind: EventType) -> bool {
        self.injected().is_some_and(|info| info.kind() == kind)
    }
}

/// Whether an address has no bits beyond the physical-address width.
fn fits(address: u64) -> bool {
    address >> PHYSICAL_BITS == 0
}

/// Whether an address is of a page.
fn page(address: u64) -> bool {
    address.is_multiple_of(PAGE_SIZE) && fits(address)
}

/// Whether a linear address is canonical, of as many bits as the CPU that is entered can have.
fn canonical(s: &Subject<'_>, address: u64) -> bool {
    is_canonical(address, s.linear_57())
}

/// Whether each of the eight types of a page-attribute table exists.
fn pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Whether an MSR area of `count` entries lies where one may.
fn msr_area(count: u32, address: u64) -> bool {
    count == 0
        || address.is_multiple_of(16)
            && fits(address)
            && address.checked_add(u64::from(count) * 16 - 1).is_some_and(fits)
}
