//! What a machine holds before its first instruction: bytes in L1's memory and the state of its first vCPU.
//!
//! Kernels are put there as QEMU's `-kernel`, `-initrd` and `-append` put them: a Linux bzImage or a 64-bit ELF by
//! Linux's 64-bit boot protocol, a multiboot kernel by multiboot's.

mod elf;
mod linux;
pub mod mptable;
mod multiboot;

use crate::l0::Start;
use hv_defs::addr::{Gpa, PAGE_SIZE};

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

/// Why a kernel cannot be booted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is none.
    #[error("it is no kernel: neither a Linux bzImage nor an ELF nor a multiboot image")]
    Unknown,
    /// It is one that this machine does not start.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Its headers contradict themselves or the file.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It does not fit.
    #[error("{what} needs {needed:#x} bytes of memory and the machine has {got:#x}")]
    Memory {
        /// The kernel or the initrd.
        what: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        got: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line has {got} bytes and the kernel takes {limit}")]
    CommandLine {
        /// Its length.
        got: usize,
        /// The longest.
        limit: usize,
    },
}

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The kernel's file name, which a multiboot kernel's command line begins with.
    pub name: &'a str,
    /// The kernel.
    pub image: &'a [u8],
    /// The initrd.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub append: &'a str,
    /// Bytes of memory.
    pub memory: u64,
}

/// Loads a kernel, whatever its format.
///
/// # Errors
/// When it is none, or does not fit.
pub fn load(kernel: &Kernel<'_>) -> Result<Loaded, Error> {
    if let Some(header) = multiboot::find(kernel.image) {
        multiboot::load(kernel, &header)
    } else if linux::is_bzimage(kernel.image) {
        linux::bzimage(kernel)
    } else if elf::is_elf(kernel.image) {
        linux::vmlinux(kernel)
    } else {
        Err(Error::Unknown)
    }
}

/// Where the memory below 1 MiB that a kernel may use ends.
const LOW_END: u64 = 0x9_fc00;
/// Where the memory above 1 MiB begins.
const HIGH: u64 = 0x10_0000;

/// Where an initrd lies: as high as it can, at a page's beginning, and not below `from`.
fn place_initrd(kernel: &Kernel<'_>, from: u64, limit: u64) -> Result<u64, Error> {
    let length = kernel.initrd.map_or(0, <[u8]>::len) as u64;
    let top = kernel.memory.min(limit);
    match top.checked_sub(length).map(|at| at & !(PAGE_SIZE - 1)) {
        Some(at) if at >= from => Ok(at),
        _ => Err(Error::Memory { what: "the initrd behind the kernel", needed: from + length, got: top }),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}
