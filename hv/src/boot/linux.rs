//! Linux, by its 64-bit boot protocol: the kernel is entered in 64-bit mode with memory mapped one to one, RSI pointing to
//! the zero page. See: Linux "The Linux/x86 Boot Protocol".

use super::{Error, HIGH, Kernel, LOW_END, Loaded, elf, place_initrd, u16_at, u32_at, u64_at};
use crate::l0::Start;
use hv_defs::addr::Gpa;

// Where things lie below the kernel.
const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const STACK_TOP: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PDS: u64 = 0xb000;
const COMMAND_LINE: u64 = 0x2_0000;

// The setup header, which lies at the same place in the file and in the zero page.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const INITRD: usize = 0x218;
const HEAP_END: usize = 0x224;
const COMMAND_LINE_POINTER: usize = 0x228;
const INITRD_LIMIT: usize = 0x22c;
const ALIGNMENT: usize = 0x230;
const EXTENDED_LOAD_FLAGS: usize = 0x236;
const COMMAND_LINE_SIZE: usize = 0x238;
const PREFERRED: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820_COUNT: usize = 0x1e8;
const E820: usize = 0x2d0;

/// The protocol's version with the 64-bit entry point.
const WITH_64_BITS: u16 = 0x020c;
/// Extended load flag: there is a 64-bit entry point, 0x200 bytes behind the 32-bit one.
const HAS_64_BIT_ENTRY: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// Load flags: loaded high, and a heap may be used.
const FLAGS: u8 = 0x81;
/// A loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

pub(super) fn is_bzimage(image: &[u8]) -> bool {
    image.get(MAGIC..MAGIC + 4) == Some(b"HdrS") && u16_at(image, BOOT_FLAG) == Some(0xaa55)
}

/// Loads a bzImage: the setup code is left out, the rest goes where the kernel wants to be.
pub(super) fn bzimage(kernel: &Kernel<'_>) -> Result<Loaded, Error> {
    const SHORT: Error = Error::Damaged("the file ends within its setup header");
    let image = kernel.image;
    let version = u16_at(image, VERSION).ok_or(SHORT)?;
    let flags = u16_at(image, EXTENDED_LOAD_FLAGS).ok_or(SHORT)?;
    if version < WITH_64_BITS || flags & HAS_64_BIT_ENTRY == 0 {
        return Err(Error::Unsupported("it is a Linux kernel without a 64-bit entry point"));
    }
    let sectors = match image.get(SETUP_SECTORS) {
        Some(0) => 4,
        Some(count) => usize::from(*count),
        None => return Err(SHORT),
    };
    let code = image.get((sectors + 1) * 512..).filter(|code| !code.is_empty());
    let code = code.ok_or(Error::Damaged("the file ends within its setup code"))?;
    let at = u64_at(image, PREFERRED).ok_or(SHORT)?;
    let size = u64::from(u32_at(image, INIT_SIZE).ok_or(SHORT)?).max(code.len() as u64);
    let end = at.saturating_add(size);
    if at < HIGH || end > kernel.memory {
        return Err(Error::Memory { what: "the kernel", needed: end, got: kernel.memory });
    }
    let header_end = MAGIC + usize::from(*image.get(JUMP).ok_or(SHORT)?);
    let mut zero_page = vec![0; 4096];
    let header = image.get(SETUP_SECTORS..header_end.clamp(INIT_SIZE + 4, E820)).ok_or(SHORT)?;
    zero_page[SETUP_SECTORS..][..header.len()].copy_from_slice(header);
    let limits = Limits {
        command_line: u32_at(image, COMMAND_LINE_SIZE).ok_or(SHORT)? as usize,
        initrd: u64::from(u32_at(image, INITRD_LIMIT).ok_or(SHORT)?) + 1,
        end,
    };
    finish(kernel, zero_page, vec![(Gpa(at), code.to_vec())], at + ENTRY_64, &limits)
}

/// Loads an uncompressed kernel, or any other 64-bit ELF that wants to start so.
pub(super) fn vmlinux(kernel: &Kernel<'_>) -> Result<Loaded, Error> {
    let elf = elf::parse(kernel.image, kernel.memory)?;
    if !elf.wide {
        return Err(Error::Unsupported("it is a 32-bit ELF without a multiboot header"));
    }
    if elf.segments.iter().any(|(at, _)| at.0 < HIGH) {
        return Err(Error::Unsupported("it is an ELF that wants to lie below 1 MiB"));
    }
    let mut zero_page = vec![0; 4096];
    zero_page[MAGIC..][..4].copy_from_slice(b"HdrS");
    zero_page[BOOT_FLAG..][..2].copy_from_slice(&0xaa55u16.to_le_bytes());
    zero_page[VERSION..][..2].copy_from_slice(&WITH_64_BITS.to_le_bytes());
    zero_page[ALIGNMENT..][..4].copy_from_slice(&0x20_0000u32.to_le_bytes());
    let limits = Limits { command_line: 2047, initrd: 0x8000_0000, end: elf.end };
    finish(kernel, zero_page, elf.segments, elf.entry, &limits)
}

/// What a kernel can take.
struct Limits {
    /// Bytes of command line, its final zero not counted.
    command_line: usize,
    /// Where the initrd must end.
    initrd: u64,
    /// Where the kernel itself ends.
    end: u64,
}

fn finish(
    kernel: &Kernel<'_>,
    mut zero_page: Vec<u8>,
    mut memory: Vec<(Gpa, Vec<u8>)>,
    entry: u64,
    limits: &Limits,
) -> Result<Loaded, Error> {
    let got = kernel.append.len();
    if got > limits.command_line || got as u64 >= LOW_END - COMMAND_LINE {
        return Err(Error::CommandLine { got, limit: limits.command_line });
    }
    let mut put = |at: usize, bytes: &[u8]| zero_page[at..][..bytes.len()].copy_from_slice(bytes);
    put(LOADER, &[UNDEFINED_LOADER]);
    put(LOAD_FLAGS, &[FLAGS]);
    put(HEAP_END, &0xfe00u16.to_le_bytes());
    put(COMMAND_LINE_POINTER, &(COMMAND_LINE as u32).to_le_bytes());
    if let Some(initrd) = kernel.initrd {
        let at = place_initrd(kernel, limits.end, limits.initrd)?;
        put(INITRD, &(at as u32).to_le_bytes());
        put(INITRD + 4, &(initrd.len() as u32).to_le_bytes());
        memory.push((Gpa(at), initrd.to_vec()));
    }
    let map = e820(kernel.memory);
    put(E820_COUNT, &[map.len() as u8]);
    for (number, (from, to, kind)) in map.into_iter().enumerate() {
        let at = E820 + number * 20;
        put(at, &from.to_le_bytes());
        put(at + 8, &(to - from).to_le_bytes());
        put(at + 16, &kind.to_le_bytes());
    }
    memory.push((Gpa(ZERO_PAGE), zero_page));
    memory.push((Gpa(COMMAND_LINE), kernel.append.bytes().chain([0]).collect()));
    memory.push((Gpa(GDT), words([0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff])));
    memory.push((Gpa(PML4), words([PDPT | 3])));
    memory.push((Gpa(PDPT), words((0..4).map(|number| (PDS + number * 0x1000) | 3))));
    memory.push((Gpa(PDS), words((0..4 * 512u64).map(|number| number << 21 | 0x83))));
    let mut start = Start::long_mode(entry, STACK_TOP, PML4, (GDT, 31));
    start.gpr[6] = ZERO_PAGE;
    Ok(Loaded { memory, start })
}

fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The memory map: from, to, and 1 for RAM or 2 for reserved.
pub(super) fn e820(memory: u64) -> Vec<(u64, u64, u32)> {
    vec![(0, LOW_END, 1), (LOW_END, 0xa_0000, 2), (0xf_0000, HIGH, 2), (HIGH, memory.max(HIGH), 1)]
}
