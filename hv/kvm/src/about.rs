//! What this host's KVM is, and what a machine on it goes without.

use crate::host::{HostError, available};
use crate::vm::Error;
use kvm_ioctls::Kvm;

/// The vendors' modules, of which one is loaded.
const MODULES: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm_pvm"];

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
