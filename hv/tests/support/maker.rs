//! Who made the host's CPU.

/// Whether it is Intel's, as the software CPU is.
pub(crate) fn is_intel() -> bool {
    core::arch::x86_64::__cpuid(0).ecx == u32::from_le_bytes(*b"ntel")
}
