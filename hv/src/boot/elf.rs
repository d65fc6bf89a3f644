//! ELF executables: their segments by physical address, and the PVH entry point that a note may name.

use super::{Error, Kernel, u16_at, u32_at, u64_at};
use hv_defs::addr::Gpa;

pub(super) const MACHINE_386: u16 = 3;
pub(super) const MACHINE_X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// The note that names the entry point of the PVH boot protocol: its owner and its type.
/// See: Xen "x86/HVM direct boot ABI".
const PVH_OWNER: &[u8] = b"Xen\0";
const PVH_ENTRY: u32 = 18;

/// An executable.
#[derive(Debug)]
pub(super) struct Elf {
    /// It is of the 64-bit class.
    pub(super) wide: bool,
    pub(super) entry: u64,
    /// The entry point of the PVH boot protocol.
    pub(super) pvh_entry: Option<u32>,
    /// Segments with bytes in the file, by physical address.
    pub(super) segments: Vec<(Gpa, Vec<u8>)>,
    /// Where the highest segment ends in memory, its zeroes included.
    pub(super) end: u64,
}

pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// The machine that an ELF is for.
pub(super) fn machine(image: &[u8]) -> Option<u16> {
    u16_at(image, 18)
}

/// Reads an x86 executable that fits the kernel's memory.
pub(super) fn parse(kernel: &Kernel<'_>) -> Result<Elf, Error> {
    const SHORT: Error = Error::Damaged("the file ends within its ELF headers");
    let image = kernel.image;
    let wide = match image.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Err(Error::Damaged("its ELF class is neither 32 nor 64 bits")),
    };
    if image.get(5) != Some(&1) || !matches!(machine(image), Some(MACHINE_386 | MACHINE_X86_64)) {
        return Err(Error::Unsupported("it is an ELF for another machine than x86"));
    }
    let half = |at| u16_at(image, at).ok_or(SHORT);
    let word = |at| u32_at(image, at).map(u64::from).ok_or(SHORT);
    let either = |at32: usize, at64: usize| if wide { u64_at(image, at64).ok_or(SHORT) } else { word(at32) };
    let (entry, table) = (either(24, 24)?, either(28, 32)?);
    let (size, count) = if wide { (half(54)?, half(56)?) } else { (half(42)?, half(44)?) };
    if usize::from(size) < if wide { 56 } else { 32 } {
        return Err(Error::Damaged("its ELF program headers are too small"));
    }
    let (mut found, mut taken, mut pvh_entry) = (Vec::new(), Vec::new(), None);
    // Thousands of segments may be the same bytes of the file: what is looked at is no more than the file has.
    let mut notes_left = image.len();
    for number in 0..u64::from(count) {
        let at = table.checked_add(number * u64::from(size)).and_then(|at| usize::try_from(at).ok()).ok_or(SHORT)?;
        if at > image.len() {
            return Err(SHORT);
        }
        let kind = u32_at(image, at).ok_or(SHORT)?;
        if !matches!(kind, LOAD | NOTE) {
            continue;
        }
        let (offset, physical) = (either(at + 4, at + 8)?, either(at + 12, at + 24)?);
        let (in_file, in_memory) = (either(at + 16, at + 32)?, either(at + 20, at + 40)?);
        let bytes = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(in_file).ok())
            .and_then(|(offset, length)| image.get(offset..offset.checked_add(length)?))
            .ok_or(Error::Damaged("the file ends within an ELF segment"))?;
        if kind == NOTE {
            if let (None, Some(left)) = (pvh_entry, notes_left.checked_sub(bytes.len())) {
                (pvh_entry, notes_left) = (find_pvh_entry(bytes), left);
            }
            continue;
        }
        let Some(end) = physical.checked_add(in_memory.max(in_file)) else {
            return Err(Error::Damaged("one of its ELF segments goes beyond the last address"));
        };
        kernel.fits("the kernel", end)?;
        if end > physical {
            taken.push((physical, end));
        }
        if !bytes.is_empty() {
            found.push((Gpa(physical), bytes));
        }
    }
    if found.is_empty() {
        return Err(Error::Damaged("it has no ELF segment to load"));
    }
    taken.sort_unstable();
    if taken.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::Damaged("two of its ELF segments overlap"));
    }
    let end = taken.last().map_or(0, |(_, end)| *end);
    // Only now, when they are known to be no more than fits the memory.
    let segments = found.into_iter().map(|(at, bytes)| (at, bytes.to_vec())).collect();
    Ok(Elf { wide, entry, pvh_entry, segments, end })
}

/// Looks for the PVH entry point among a segment's notes: each the lengths of its owner and of its contents, its type, and
/// both, each padded to four bytes.
fn find_pvh_entry(notes: &[u8]) -> Option<u32> {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
    let mut at = 0usize;
    loop {
        let (owner, contents, kind) = (u32_at(notes, at)?, u32_at(notes, at + 4)?, u32_at(notes, at + 8)?);
        let owner_at = at + 12;
        let contents_at = owner_at.checked_add(padded(owner)?)?;
        if kind == PVH_ENTRY && notes.get(owner_at..owner_at + 4) == Some(PVH_OWNER) && owner == 4 {
            return match contents {
                8 => u64_at(notes, contents_at)?.try_into().ok(),
                _ => u32_at(notes, contents_at),
            };
        }
        at = contents_at.checked_add(padded(contents)?)?;
    }
}
