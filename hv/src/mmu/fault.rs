//! What is asked of a translation, and why it may fail.

use hv_defs::exit::EptViolation;

/// How memory is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Access {
    /// A data read.
    Read = 0,
    /// A data write, or a read that a write to the same bytes follows.
    Write = 1,
    /// An instruction fetch.
    Fetch = 2,
}

/// Why a linear address could not be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A page fault of the guest's.
    Page {
        /// Its error code.
        code: u32,
        /// The linear address, for CR2.
        address: u64,
    },
    /// An EPT violation.
    EptViolation {
        /// The exit qualification, but for NMI unblocking and asynchrony.
        qualification: EptViolation,
        /// The guest-physical address.
        gpa: u64,
        /// The linear address, where the qualification says that there is one.
        gla: u64,
    },
    /// An EPT misconfiguration.
    EptMisconfig {
        /// The guest-physical address.
        gpa: u64,
    },
    /// A dirty flag of EPT was to be set, and the page-modification log has no room.
    PmlFull,
    /// The page is the APIC-access page: the access is to be virtualized, or exits.
    ApicAccess {
        /// The byte in the page.
        offset: u16,
        /// It is no access to what a linear address translates to, but to the guest's paging structures through EPT.
        physical: bool,
    },
}
