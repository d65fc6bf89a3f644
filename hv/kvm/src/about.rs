//! What this host's KVM is, and what a machine on it goes without.

use crate::host::{HostError, available};
use crate::vm::Error;
use kvm_ioctls::Kvm;

/// The vendors' modules, of which one is loaded.
const MODULES: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm_pvm"];

/// What a machine under our own L0 goes without where KVM executes its guests' plain instructions, a line each.
pub const NOT_OFFERED: [&str; 3] = [
    "accessed and dirty flags in EPT, which KVM sets for nobody: refused in IA32_VMX_EPT_VPID_CAP",
    "page-modification logging, for the same reason: refused among the secondary processor-based controls",
    "how many translations a flush drops: KVM does not tell, and traces have 0 there",
];

/// What never is left to KVM, since it would not be seen: the software CPU executes it, a line each.
pub const NOT_LEFT_TO_KVM: [&str; 5] = [
    "what may exit: CPUID, HLT, I/O, RDMSR, RDTSC, moves to and from control and debug registers, VMX, and all other system instructions",
    "what raises an exception, and its delivery",
    "code outside 64-bit mode, and under protection keys or 5-level paging",
    "x87, SSE and AVX, strings, and what accesses memory in two places",
    "what accesses guest-physical memory that EPT does not map for reading and writing both",
];

/// What this host's KVM is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The API's version, which has been 12 for ever.
    pub api: i32,
    /// The vendor's module, if it is one that is known and loaded as a module.
    pub module: Option<&'static str>,
    /// Its guests may be hypervisors, so that the kernel is L0.
    pub nested: bool,
}

/// Looks at this host's KVM.
///
/// # Errors
/// There is none, or it may not be opened or used.
pub fn about() -> Result<About, HostError> {
    let kvm = Kvm::new().map_err(|errno| Error::Open(std::io::Error::from_raw_os_error(errno.errno())))?;
    let loaded = |module: &&str| std::path::Path::new("/sys/module").join(module).exists();
    let module = MODULES.into_iter().find(loaded);
    Ok(About { api: kvm.get_api_version(), module, nested: available()? })
}
