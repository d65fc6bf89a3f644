//! ELF executables: their segments by physical address.

use super::{Error, u16_at, u32_at, u64_at};
use hv_defs::addr::Gpa;

const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const LOAD: u32 = 1;

/// An executable.
#[derive(Debug)]
pub(super) struct Elf {
    /// It is of the 64-bit class.
    pub(super) wide: bool,
    pub(super) entry: u64,
    /// Segments with bytes in the file, by physical address.
    pub(super) segments: Vec<(Gpa, Vec<u8>)>,
    /// Where the highest segment ends in memory, its zeroes included.
    pub(super) end: u64,
}

pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// Reads an x86 executable that fits `memory` bytes.
pub(super) fn parse(image: &[u8], memory: u64) -> Result<Elf, Error> {
    const SHORT: Error = Error::Damaged("the file ends within its ELF headers");
    let wide = match image.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Err(Error::Damaged("its ELF class is neither 32 nor 64 bits")),
    };
    if image.get(5) != Some(&1) || !matches!(u16_at(image, 18), Some(MACHINE_386 | MACHINE_X86_64)) {
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
    let (mut segments, mut end) = (Vec::new(), 0);
    for number in 0..u64::from(count) {
        let at = table.checked_add(number * u64::from(size)).and_then(|at| usize::try_from(at).ok()).ok_or(SHORT)?;
        if at > image.len() {
            return Err(SHORT);
        }
        if u32_at(image, at).ok_or(SHORT)? != LOAD {
            continue;
        }
        let (offset, physical) = (either(at + 4, at + 8)?, either(at + 12, at + 24)?);
        let (in_file, in_memory) = (either(at + 16, at + 32)?, either(at + 20, at + 40)?);
        let bytes = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(in_file).ok())
            .and_then(|(offset, length)| image.get(offset..offset.checked_add(length)?))
            .ok_or(Error::Damaged("the file ends within an ELF segment"))?;
        let needed = physical.saturating_add(in_memory.max(in_file));
        if needed > memory {
            return Err(Error::Memory { what: "the kernel", needed, got: memory });
        }
        end = end.max(needed);
        if !bytes.is_empty() {
            segments.push((Gpa(physical), bytes.to_vec()));
        }
    }
    if segments.is_empty() {
        return Err(Error::Damaged("it has no ELF segment to load"));
    }
    Ok(Elf { wide, entry, segments, end })
}
