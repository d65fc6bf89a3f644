//! Multiboot kernels, version 1: entered in protected mode without paging, EAX the magic number, EBX pointing to what the
//! loader has to tell. The command line begins with the kernel's file name, the initrd is the first module.
//! See: "Multiboot Specification version 0.6.96".

use super::{Error, HIGH, Kernel, LOW_END, Loaded, elf, linux, u32_at};
use crate::l0::Start;
use hv_defs::addr::{Gpa, PAGE_SIZE};

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies within these first bytes.
const SEARCHED: usize = 8192;

/// Header flag: the addresses in the header count, whatever the file's format.
const WITH_ADDRESSES: u32 = 1 << 16;
/// Header flags that a loader must understand or refuse: page-aligned modules, memory information, a video mode.
const REQUIRED: u32 = 0xffff;
const UNDERSTOOD: u32 = 3;

// What is told: memory sizes, boot device, command line, modules, memory map, loader's name.
const TOLD: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
const FIRST_HARD_DISK: u32 = 0x8000_ffff;

const INFORMATION: u64 = 0x9000;
const MODULES: u64 = INFORMATION + 0x100;
const MAP: u64 = INFORMATION + 0x200;
const LOADER_NAME: u64 = INFORMATION + 0x400;
const COMMAND_LINE: u64 = INFORMATION + 0x1000;

/// A multiboot header.
#[derive(Debug)]
pub(super) struct Header {
    at: usize,
    flags: u32,
}

/// Finds the header.
pub(super) fn find(image: &[u8]) -> Option<Header> {
    (0..image.len().min(SEARCHED)).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (u32_at(image, at)?, u32_at(image, at + 4)?, u32_at(image, at + 8)?);
        let good = magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0;
        good.then_some(Header { at, flags })
    })
}

pub(super) fn load(kernel: &Kernel<'_>, header: &Header) -> Result<Loaded, Error> {
    if header.flags & REQUIRED & !UNDERSTOOD != 0 {
        return Err(Error::Unsupported("its multiboot header asks for a video mode, which this machine does not have"));
    }
    let (mut memory, entry, end) = if header.flags & WITH_ADDRESSES != 0 {
        by_addresses(kernel, header)?
    } else if elf::is_elf(kernel.image) {
        let elf = elf::parse(kernel.image, kernel.memory)?;
        let entry = u32::try_from(elf.entry).map_err(|_| Error::Damaged("its entry point is beyond 4 GiB"))?;
        (elf.segments, entry, elf.end)
    } else {
        return Err(Error::Damaged("its multiboot header has no addresses, and it is no ELF"));
    };
    let line =
        if kernel.append.is_empty() { kernel.name.to_owned() } else { format!("{} {}", kernel.name, kernel.append) };
    let limit = (LOW_END - COMMAND_LINE) as usize - 1;
    if line.len() > limit {
        return Err(Error::CommandLine { got: line.len(), limit });
    }
    let told_end = COMMAND_LINE + line.len() as u64 + 1;
    if memory.iter().any(|(at, bytes)| at.0 < told_end && at.0 + bytes.len() as u64 > INFORMATION) {
        return Err(Error::Unsupported("it wants to lie where the multiboot information goes"));
    }
    let mut modules = Vec::new();
    if let Some(initrd) = kernel.initrd {
        let at = end.max(HIGH).next_multiple_of(PAGE_SIZE);
        let needed = at + initrd.len() as u64;
        if needed > kernel.memory {
            return Err(Error::Memory { what: "the initrd behind the kernel", needed, got: kernel.memory });
        }
        modules = words(&[at as u32, needed as u32, COMMAND_LINE as u32, 0]);
        memory.push((Gpa(at), initrd.to_vec()));
    }
    let mut map = Vec::new();
    for (from, to, kind) in linux::e820(kernel.memory) {
        map.extend(20u32.to_le_bytes());
        map.extend(from.to_le_bytes());
        map.extend((to - from).to_le_bytes());
        map.extend(kind.to_le_bytes());
    }
    let upper = (kernel.memory.saturating_sub(HIGH) >> 10) as u32;
    let mut information = words(&[TOLD, (LOW_END >> 10) as u32, upper, FIRST_HARD_DISK, COMMAND_LINE as u32]);
    information.extend(words(&[(modules.len() / 16) as u32, MODULES as u32, 0, 0, 0, 0]));
    information.extend(words(&[map.len() as u32, MAP as u32, 0, 0, 0, LOADER_NAME as u32]));
    memory.push((Gpa(INFORMATION), information));
    memory.push((Gpa(MODULES), modules));
    memory.push((Gpa(MAP), map));
    memory.push((Gpa(LOADER_NAME), b"nvmx\0".to_vec()));
    memory.push((Gpa(COMMAND_LINE), line.bytes().chain([0]).collect()));
    let mut start = Start::protected_mode(entry);
    start.gpr[0] = LOADER_MAGIC;
    start.gpr[3] = INFORMATION;
    Ok(Loaded { memory, start })
}

/// Pieces of memory, the entry point, and where the kernel ends.
type Placed = (Vec<(Gpa, Vec<u8>)>, u32, u64);

/// Loads what the header's addresses say.
fn by_addresses(kernel: &Kernel<'_>, header: &Header) -> Result<Placed, Error> {
    const WRONG: Error = Error::Damaged("the addresses in its multiboot header do not fit the file");
    let field = |number: usize| u32_at(kernel.image, header.at + 12 + number * 4).ok_or(WRONG);
    let (header_at, from, to, bss, entry) = (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    let skipped = header_at.checked_sub(from).ok_or(WRONG)?;
    let offset = header.at.checked_sub(skipped as usize).ok_or(WRONG)?;
    let rest = kernel.image.get(offset..).ok_or(WRONG)?;
    let bytes = match to {
        0 => rest,
        to => rest.get(..to.checked_sub(from).ok_or(WRONG)? as usize).ok_or(WRONG)?,
    };
    let end = (u64::from(from) + bytes.len() as u64).max(u64::from(bss));
    if end > kernel.memory {
        return Err(Error::Memory { what: "the kernel", needed: end, got: kernel.memory });
    }
    Ok((vec![(Gpa(from.into()), bytes.to_vec())], entry, end))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
