//! Linux, by its boot protocol: in 64-bit mode with memory mapped one to one where the kernel has an entry point for it,
//! else in protected mode without paging; RSI points to the zero page. The kernel's real-mode part, which asks a BIOS, is
//! left out: what it would have learnt is in the zero page. See: Linux "The Linux/x86 Boot Protocol".

use super::elf::Elf;
use super::{CODE_32, CODE_64, DATA, Error, GDT, HIGH, Kernel, LOW_END, Loaded, gdt, place_initrd};
use super::{map, quads, text, u16_at, u32_at, u64_at};
use crate::device::fw_cfg::{Items, item};
use crate::l0::Start;
use hv_defs::addr::Gpa;
use std::sync::Arc;

// Where things lie below a kernel that is loaded high.
const ZERO_PAGE: u64 = 0x7000;
const STACK_TOP: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PDS: u64 = 0xb000;
const COMMAND_LINE: u64 = 0x2_0000;
// And around one that is loaded low, or that seeks its command line near its zero page.
const OLD_ZERO_PAGE: u64 = 0x9_0000;
const OLD_COMMAND_LINE_END: u64 = 0x9_a000;
/// Where the real-mode part of a kernel that is loaded low moves the rest.
const LOW_KERNEL: u64 = 0x1000;

// The zero page, and the setup header, which lies at the same place in it and in the file.
const EXTENDED_MEMORY: usize = 0x02;
const OLD_COMMAND_LINE: usize = 0x20;
const MORE_MEMORY: usize = 0x1e0;
const E820_COUNT: usize = 0x1e8;
const SETUP_SECTORS: usize = 0x1f1;
const OLD_SIZE: usize = 0x1f4;
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
const RELOCATABLE: usize = 0x234;
const EXTENDED_LOAD_FLAGS: usize = 0x236;
const COMMAND_LINE_SIZE: usize = 0x238;
const PREFERRED: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820: usize = 0x2d0;

// Versions of the protocol, by what came with them.
const WITH_HEAP: u16 = 0x0201;
const WITH_COMMAND_LINE_POINTER: u16 = 0x0202;
const WITH_INITRD_LIMIT: u16 = 0x0203;
const WITH_COMMAND_LINE_SIZE: u16 = 0x0206;
const WITH_PREFERRED: u16 = 0x020a;
const WITH_64_BITS: u16 = 0x020c;

/// Load flags: loaded high, and a heap may be used.
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
/// Extended load flag: there is a 64-bit entry point, 0x200 bytes behind the 32-bit one.
const HAS_64_BIT_ENTRY: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// Extended load flag: all may lie above 4 GiB.
const ANYWHERE: u16 = 2;
/// The loader's number: QEMU's.
const QEMU: u8 = 0xb0;
/// Says that a command line in the old place is there.
const OLD_COMMAND_LINE_MAGIC: u16 = 0xa33f;
/// The last byte of an initrd for kernels that do not say.
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;
const OLD_COMMAND_LINE_LIMIT: usize = 255;

pub(super) fn is_bzimage(image: &[u8]) -> bool {
    image.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// How a kernel is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Bits32(u64),
    Bits64(u64),
}

/// What a kernel is, and what it can take.
struct Image {
    zero_page: Vec<u8>,
    version: u16,
    loads_high: bool,
    /// Its bytes.
    segments: Vec<(Gpa, Vec<u8>)>,
    entry: Entry,
    /// Bytes of command line, its final zero not counted.
    command_line: usize,
    /// The last byte that an initrd may have.
    initrd_max: u64,
    /// Where the kernel itself ends.
    end: u64,
    items: Items,
}

/// Loads a bzImage, or a zImage: the setup code is left out, the rest goes where the kernel wants to be.
pub(super) fn bzimage(kernel: &Kernel<'_>) -> Result<Loaded, Error> {
    const SHORT: Error = Error::Damaged("the file ends within its setup header");
    let image = kernel.image;
    let half = |at| u16_at(image, at).ok_or(SHORT);
    let word = |at| u32_at(image, at).ok_or(SHORT);
    let version = half(VERSION)?;
    if version < 0x0200 {
        return Err(Error::Damaged("its boot protocol is older than the first that has a version"));
    }
    let since = |first: u16| version >= first;
    let sectors = match image.get(SETUP_SECTORS) {
        Some(0) => 4,
        Some(count) => usize::from(*count),
        None => return Err(SHORT),
    };
    let code = image.get((sectors + 1) * 512..).filter(|code| !code.is_empty());
    let code = code.ok_or(Error::Damaged("the file ends within its setup code"))?;
    // In paragraphs of 16 bytes; what comes behind is padding, a checksum or a signature. Old kernels' is half as wide.
    let promised = if version >= 0x0204 { word(OLD_SIZE)? } else { u32::from(half(OLD_SIZE)?) };
    if (code.len() as u64) < u64::from(promised) * 16 {
        return Err(Error::Damaged("the file ends within the kernel"));
    }
    let loads_high = image.get(LOAD_FLAGS).ok_or(SHORT)? & LOADED_HIGH != 0;
    let flags = if since(WITH_64_BITS) { half(EXTENDED_LOAD_FLAGS)? } else { 0 };
    let (mut at, mut size) = (if loads_high { HIGH } else { LOW_KERNEL }, code.len() as u64);
    if loads_high && since(WITH_PREFERRED) {
        let preferred = u64_at(image, PREFERRED).ok_or(SHORT)?;
        size = size.max(word(INIT_SIZE)?.into());
        if preferred >= HIGH {
            at = preferred;
        }
    }
    let end = at.saturating_add(size);
    kernel.fits("the kernel", end)?;
    if !loads_high && end > OLD_ZERO_PAGE {
        return Err(Error::Damaged("it is loaded low, and is too large for it"));
    }
    let header_end = MAGIC + usize::from(*image.get(JUMP).ok_or(SHORT)?);
    let mut zero_page = vec![0; 4096];
    let header = image.get(SETUP_SECTORS..header_end.clamp(HEAP_END, E820)).ok_or(SHORT)?;
    zero_page[SETUP_SECTORS..][..header.len()].copy_from_slice(header);
    let entry = if flags & HAS_64_BIT_ENTRY != 0 { Entry::Bits64(at + ENTRY_64) } else { Entry::Bits32(at) };
    let size = |bytes: &[u8]| Arc::from((bytes.len() as u32).to_le_bytes());
    let setup = &image[..(sectors + 1) * 512];
    let items = vec![
        (item::KERNEL_ADDRESS, (at as u32).to_le_bytes().into()),
        (item::KERNEL_SIZE, size(code)),
        (item::KERNEL_DATA, code.into()),
        (item::SETUP_SIZE, size(setup)),
        (item::SETUP_DATA, setup.into()),
    ];
    let image = Image {
        zero_page,
        version,
        loads_high,
        segments: vec![(Gpa(at), code.to_vec())],
        entry,
        command_line: if since(WITH_COMMAND_LINE_SIZE) {
            word(COMMAND_LINE_SIZE)? as usize
        } else {
            OLD_COMMAND_LINE_LIMIT
        },
        initrd_max: if flags & ANYWHERE != 0 {
            u64::from(u32::MAX)
        } else if since(WITH_INITRD_LIMIT) {
            word(INITRD_LIMIT)?.into()
        } else {
            OLD_INITRD_MAX
        },
        end,
        items,
    };
    finish(kernel, image)
}

/// Loads an uncompressed kernel without a PVH entry point, or any other ELF that wants to start so.
pub(super) fn vmlinux(kernel: &Kernel<'_>, elf: Elf) -> Result<Loaded, Error> {
    if elf.segments.iter().any(|(at, _)| at.0 < HIGH) {
        return Err(Error::Unsupported(
            "it is an ELF that wants to lie below 1 MiB, and has neither a multiboot header nor a PVH entry point",
        ));
    }
    let mut zero_page = vec![0; 4096];
    zero_page[MAGIC..][..4].copy_from_slice(b"HdrS");
    zero_page[BOOT_FLAG..][..2].copy_from_slice(&0xaa55u16.to_le_bytes());
    zero_page[VERSION..][..2].copy_from_slice(&WITH_64_BITS.to_le_bytes());
    zero_page[LOAD_FLAGS] = LOADED_HIGH;
    zero_page[ALIGNMENT..][..4].copy_from_slice(&0x20_0000u32.to_le_bytes());
    zero_page[RELOCATABLE] = 0;
    let image = Image {
        zero_page,
        version: WITH_64_BITS,
        loads_high: true,
        segments: elf.segments,
        entry: if elf.wide { Entry::Bits64(elf.entry) } else { Entry::Bits32(elf.entry) },
        command_line: 2047,
        initrd_max: 0x7fff_ffff,
        end: elf.end,
        items: Vec::new(),
    };
    finish(kernel, image)
}

fn finish(kernel: &Kernel<'_>, image: Image) -> Result<Loaded, Error> {
    let Image { mut zero_page, version, segments: mut memory, .. } = image;
    let got = kernel.append.len();
    let old = !image.loads_high || version < WITH_COMMAND_LINE_POINTER;
    let room = (OLD_COMMAND_LINE_END - OLD_ZERO_PAGE - 0x1000).min(LOW_END - COMMAND_LINE) as usize - 16;
    let limit = image.command_line.min(if old { room } else { (LOW_END - COMMAND_LINE) as usize - 1 });
    if got > limit {
        return Err(Error::CommandLine { got, limit });
    }
    let (zero_page_at, command_line) = match old {
        true => (OLD_ZERO_PAGE, OLD_COMMAND_LINE_END - ((got as u64 + 16) & !15)),
        false => (ZERO_PAGE, COMMAND_LINE),
    };
    let mut put = |at: usize, bytes: &[u8]| zero_page[at..][..bytes.len()].copy_from_slice(bytes);
    put(LOADER, &[QEMU]);
    if version >= WITH_HEAP {
        let flags = if image.loads_high { LOADED_HIGH } else { 0 };
        put(LOAD_FLAGS, &[flags | CAN_USE_HEAP]);
        // Counted from the real-mode part, which QEMU has 64 KiB below the command line, and 0x200 bytes short of it.
        put(HEAP_END, &(if old { command_line - OLD_ZERO_PAGE - 0x200 } else { 0xfe00 } as u16).to_le_bytes());
    }
    if version >= WITH_COMMAND_LINE_POINTER {
        put(COMMAND_LINE_POINTER, &(command_line as u32).to_le_bytes());
    } else {
        put(OLD_COMMAND_LINE, &OLD_COMMAND_LINE_MAGIC.to_le_bytes());
        put(OLD_COMMAND_LINE + 2, &((command_line - zero_page_at) as u16).to_le_bytes());
    }
    let mut initrd_at = None;
    if let Some(initrd) = kernel.initrd {
        let at = place_initrd(kernel, initrd, image.end.max(HIGH), image.initrd_max)?;
        put(INITRD, &(at as u32).to_le_bytes());
        put(INITRD + 4, &(initrd.len() as u32).to_le_bytes());
        memory.push((Gpa(at), initrd.to_vec()));
        initrd_at = Some(at);
    }
    let map = kernel.map();
    put(EXTENDED_MEMORY, &(map.upper_kib().min(0xffff) as u16).to_le_bytes());
    put(MORE_MEMORY, &map.upper_kib().to_le_bytes());
    let rows = map.rows();
    put(E820_COUNT, &[rows.len() as u8]);
    put(E820, &map::bytes(&rows));
    memory.push((Gpa(zero_page_at), zero_page));
    memory.push((Gpa(command_line), text(kernel.append)));
    // The protocol wants the code segment at 0x10 and the data segment at 0x18.
    let mut start = match image.entry {
        Entry::Bits64(entry) => {
            memory.push(gdt(&[0, CODE_64, DATA]).0);
            memory.push((Gpa(PML4), quads([PDPT | 3])));
            memory.push((Gpa(PDPT), quads((0..4).map(|number| (PDS + number * 0x1000) | 3))));
            memory.push((Gpa(PDS), quads((0..4 * 512u64).map(|number| number << 21 | 0x83))));
            Start::long_mode(entry, STACK_TOP, PML4, (GDT, 31))
        }
        Entry::Bits32(entry) => {
            let (table, gdtr) = gdt(&[0, CODE_32, DATA]);
            memory.push(table);
            let entry = u32::try_from(entry).map_err(|_| Error::Damaged("its entry point is beyond 4 GiB"))?;
            Start::protected_mode(entry, 0x10, 0x18, gdtr)
        }
    };
    start.gpr[6] = zero_page_at;
    let mut items = image.items;
    items.push((item::COMMAND_LINE_ADDRESS, (command_line as u32).to_le_bytes().into()));
    items.extend(initrd_at.map(|at| (item::INITRD_ADDRESS, (at as u32).to_le_bytes().into())));
    Ok(Loaded { memory, start, items })
}
