//! What a machine holds before its first instruction: bytes in L1's memory and the state of its first vCPU.
//!
//! Kernels are put there as QEMU's `-kernel`, `-initrd` and `-append` put them, and asked in QEMU's order what they are:
//! a Linux bzImage, a multiboot kernel, an ELF with a PVH entry point. What firmware would have done by then is done: its
//! tables are in memory, and its code, of which there is none, has run. An ELF that is none of these, which QEMU refuses,
//! is started by Linux's boot protocol.

mod acpi;
mod elf;
mod firmware;
mod linux;
mod map;
mod mptable;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;

use crate::device::fw_cfg::{Items, item};
use crate::l0::Start;
use hv_defs::addr::{Gpa, PAGE_SIZE};
use map::{HIGH, LOW_END, Map};
use std::sync::Arc;

/// A guest in memory, ready to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Bytes, and the L1-physical addresses where they lie; where two overlap, the later. All other memory is zero.
    pub memory: Vec<(Gpa, Vec<u8>)>,
    /// The first vCPU's state.
    pub start: Start,
    /// What the firmware configuration device tells of the kernel, by QEMU's numbers of items.
    pub items: Vec<(u16, Arc<[u8]>)>,
}

impl Loaded {
    /// With the initrd's bytes for guests that ask the firmware configuration device for them. They may be many, so they are
    /// shared and not copied.
    #[must_use]
    pub fn with_initrd(mut self, initrd: Option<Arc<[u8]>>) -> Self {
        self.items.extend(initrd.map(|initrd| (item::INITRD_DATA, initrd)));
        self
    }

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
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// It is one that this machine does not start.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Its headers contradict themselves or the file.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It does not fit.
    #[error("{what} needs {needed:#x} bytes of memory and the machine has {got:#x}; give it more with --mem")]
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
    /// The initrd's file name, which is a multiboot module's string.
    pub initrd_name: &'a str,
    /// The command line.
    pub append: &'a str,
    /// Bytes of memory.
    pub memory: u64,
    /// CPUs.
    pub cpus: u16,
}

impl Kernel<'_> {
    fn map(&self) -> Map {
        Map::new(self.memory)
    }

    /// Whether something that needs the memory up to `end` fits.
    fn fits(&self, what: &'static str, end: u64) -> Result<(), Error> {
        if end <= self.map().tables().0 {
            return Ok(());
        }
        // What firmware keeps for itself is needed too.
        let kept = self.memory.saturating_sub(self.map().tables().0);
        Err(Error::Memory { what, needed: end.saturating_add(kept), got: self.memory })
    }
}

/// Loads a kernel, whatever its format, and the firmware's tables with it.
///
/// # Errors
/// When it is none, or does not fit.
pub fn load(kernel: &Kernel<'_>) -> Result<Loaded, Error> {
    if kernel.memory < LEAST {
        return Err(Error::Memory { what: "a PC", needed: LEAST, got: kernel.memory });
    }
    let loaded = if kernel.image.is_empty() {
        return Err(Error::Empty);
    } else if linux::is_bzimage(kernel.image) {
        linux::bzimage(kernel)?
    } else if let Some(header) = multiboot::find(kernel.image) {
        multiboot::load(kernel, &header)?
    } else if elf::is_elf(kernel.image) {
        let elf = elf::parse(kernel)?;
        match elf.pvh_entry {
            Some(entry) => pvh::load(kernel, elf, entry)?,
            None => linux::vmlinux(kernel, elf)?,
        }
    } else {
        return Err(Error::Unknown);
    };
    let mut items = items(kernel, &loaded);
    items.extend(loaded.items);
    let mut memory = firmware::tables(kernel);
    memory.extend(loaded.memory);
    Ok(Loaded { memory, items, start: loaded.start })
}

/// What the firmware configuration device tells of any kernel; what comes behind it counts more. The initrd's bytes are
/// added by [`Loaded::with_initrd`].
fn items(kernel: &Kernel<'_>, loaded: &Loaded) -> Items {
    let size = |bytes: &[u8]| Arc::from((bytes.len() as u32).to_le_bytes());
    let line = text(kernel.append);
    let mut items = vec![
        (item::KERNEL_ENTRY, (loaded.start.rip as u32).to_le_bytes().into()),
        (item::KERNEL_SIZE, size(kernel.image)),
        (item::KERNEL_DATA, kernel.image.into()),
        (item::COMMAND_LINE_SIZE, size(&line)),
        (item::COMMAND_LINE_DATA, line.into()),
    ];
    if let Some(initrd) = kernel.initrd {
        items.push((item::INITRD_SIZE, size(initrd)));
    }
    items
}

/// The machine's RAM in rows of the memory map, as the firmware configuration device has it.
pub(crate) fn memory_map(memory: u64) -> Vec<u8> {
    map::bytes(&Map::new(memory).ram())
}

/// Where the machine's RAM is, from and to.
pub(crate) fn ram_ranges(memory: u64) -> Vec<(u64, u64)> {
    Map::new(memory).ram().into_iter().map(|(from, to, _)| (from, to)).collect()
}

/// Bytes of memory that a machine with a kernel has at least: what lies below 1 MiB, and something behind it.
const LEAST: u64 = 2 << 20;

/// Where the GDT lies that a kernel starts with.
const GDT: u64 = 0x500;

/// A GDT of these descriptors behind the null descriptor, and what goes into GDTR.
fn gdt(descriptors: &[u64]) -> ((Gpa, Vec<u8>), (u64, u16)) {
    let bytes = quads([0].into_iter().chain(descriptors.iter().copied()));
    let limit = bytes.len() as u16 - 1;
    ((Gpa(GDT), bytes), (GDT, limit))
}

/// Descriptors of flat segments: 32-bit code, 64-bit code, data.
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Where an initrd lies whose last byte must not lie behind `max`: as high as it can, at a page's beginning, and not below
/// `from`.
fn place_initrd(kernel: &Kernel<'_>, initrd: &[u8], from: u64, max: u64) -> Result<u64, Error> {
    let (length, limit) = (initrd.len() as u64, kernel.map().initrd_max());
    let from = from.next_multiple_of(PAGE_SIZE);
    match max.min(limit).checked_sub(length).map(|at| at & !(PAGE_SIZE - 1)) {
        Some(at) if at >= from => Ok(at),
        _ if max < limit => Err(Error::Unsupported("the initrd is larger than the kernel can take")),
        _ => {
            let needed = (from + length + (kernel.memory - limit)).next_multiple_of(PAGE_SIZE);
            Err(Error::Memory { what: "the initrd behind the kernel", needed, got: kernel.memory })
        }
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

fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn quads(quads: impl IntoIterator<Item = u64>) -> Vec<u8> {
    quads.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// A text with the zero that ends it.
fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}
