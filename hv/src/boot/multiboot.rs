//! Multiboot kernels, version 1: entered in protected mode without paging, EAX the magic number, EBX pointing to what the
//! loader has to tell. The command line begins with the kernel's file name, the initrd is the first module.
//!
//! Texts and the list of modules lie behind the kernel, the initrd behind them, as QEMU places them.
//! See: "Multiboot Specification version 0.6.96".

use super::{CODE_32, DATA, Error, HIGH, Kernel, LOW_END, Loaded, elf, gdt, text, u32_at, words};
use crate::l0::Start;
use hv_defs::addr::{Gpa, PAGE_SIZE};

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies within these first bytes, all twelve of its words.
const SEARCHED: usize = 8192;
const HEADER: usize = 48;

/// Header flag: the addresses in the header count, whatever the file's format.
const WITH_ADDRESSES: u32 = 1 << 16;

// What is told: memory sizes, boot device, command line, modules, memory map, loader's name.
const TOLD: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
const FIRST_HARD_DISK: u32 = 0x8000_ffff;
/// A kernel built for QEMU may look for it.
const LOADER: &str = "qemu";

const MAP: u64 = 0x9000;
const INFORMATION: u64 = MAP + 0x500;
const INFORMATION_END: u64 = INFORMATION + 88;

/// A multiboot header.
#[derive(Debug)]
pub(super) struct Header {
    at: usize,
    flags: u32,
}

/// Finds the header.
pub(super) fn find(image: &[u8]) -> Option<Header> {
    (0..image.len().min(SEARCHED - HEADER)).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (u32_at(image, at)?, u32_at(image, at + 4)?, u32_at(image, at + 8)?);
        let good = magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0;
        good.then_some(Header { at, flags })
    })
}

pub(super) fn load(kernel: &Kernel<'_>, header: &Header) -> Result<Loaded, Error> {
    // A wish for a video mode is left unanswered, as the information's flags say.
    let (mut memory, entry, end) = if header.flags & WITH_ADDRESSES != 0 {
        by_addresses(kernel, header)?
    } else if elf::is_elf(kernel.image) {
        if elf::machine(kernel.image) == Some(elf::MACHINE_X86_64) {
            return Err(Error::Unsupported("it is a multiboot kernel in a 64-bit ELF; multiboot wants a 32-bit one"));
        }
        let elf = elf::parse(kernel)?;
        let entry = u32::try_from(elf.entry).map_err(|_| Error::Damaged("its entry point is beyond 4 GiB"))?;
        (elf.segments, entry, elf.end)
    } else {
        return Err(Error::Damaged("its multiboot header has no addresses, and it is no ELF"));
    };
    let line = format!("{} {}", kernel.name, kernel.append);
    // The list of one module, then the texts: the module's, the kernel's, the loader's name.
    let modules = end.next_multiple_of(PAGE_SIZE);
    let module_text = modules + 16;
    let line_at = module_text + if kernel.initrd.is_some() { kernel.initrd_name.len() as u64 + 1 } else { 0 };
    let loader = line_at + line.len() as u64 + 1;
    let initrd = (loader + LOADER.len() as u64 + 1).next_multiple_of(PAGE_SIZE);
    let initrd_end = initrd + kernel.initrd.map_or(0, <[u8]>::len) as u64;
    let what = if kernel.initrd.is_some() { "the initrd behind the kernel" } else { "the kernel" };
    kernel.fits(what, initrd_end)?;
    let told = |at: u64, end: u64| at < INFORMATION_END && end > MAP;
    if memory.iter().any(|(at, bytes)| told(at.0, at.0 + bytes.len() as u64)) || told(modules, initrd_end) {
        return Err(Error::Unsupported("it wants to lie where the multiboot information goes"));
    }
    if modules < HIGH && initrd_end > LOW_END {
        let needed = HIGH + initrd_end - LOW_END;
        return Err(Error::Memory { what, needed, got: LOW_END });
    }
    if let Some(bytes) = kernel.initrd {
        memory.push((Gpa(modules), words([initrd as u32, initrd_end as u32, module_text as u32, 0])));
        memory.push((Gpa(module_text), text(kernel.initrd_name)));
        memory.push((Gpa(initrd), bytes.to_vec()));
    }
    memory.push((Gpa(line_at), text(&line)));
    memory.push((Gpa(loader), text(LOADER)));
    let mut map = Vec::new();
    for (from, to, kind) in kernel.map().rows() {
        map.extend(20u32.to_le_bytes());
        map.extend(from.to_le_bytes());
        map.extend((to - from).to_le_bytes());
        map.extend(kind.to_le_bytes());
    }
    let (lower, upper) = ((LOW_END >> 10) as u32, kernel.map().upper_kib());
    let mut information = words([TOLD, lower, upper, FIRST_HARD_DISK, line_at as u32]);
    information.extend(words([u32::from(kernel.initrd.is_some()), modules as u32, 0, 0, 0, 0]));
    information.extend(words([map.len() as u32, MAP as u32, 0, 0, 0, loader as u32]));
    memory.push((Gpa(MAP), map));
    memory.push((Gpa(INFORMATION), information));
    let (table, gdtr) = gdt(&[CODE_32, DATA]);
    memory.push(table);
    let mut start = Start::protected_mode(entry, 0x08, 0x10, gdtr);
    start.gpr[0] = LOADER_MAGIC;
    start.gpr[3] = INFORMATION;
    Ok(Loaded { memory, start, items: Vec::new() })
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
    let loaded = u64::from(from) + bytes.len() as u64;
    if bss != 0 && u64::from(bss) < loaded {
        return Err(Error::Damaged("its multiboot header has the zeroed memory end before the loaded bytes"));
    }
    let end = loaded.max(u64::from(bss));
    kernel.fits("the kernel", end)?;
    Ok((vec![(Gpa(from.into()), bytes.to_vec())], entry, end))
}
