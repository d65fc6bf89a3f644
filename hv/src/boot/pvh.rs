//! Kernels with a PVH entry point: entered in protected mode without paging, EBX pointing to what the loader has to tell.
//! QEMU starts an uncompressed Linux so. See: Xen "x86/HVM direct boot ABI".

use super::elf::Elf;
use super::{CODE_32, DATA, Error, Kernel, LOW_END, Loaded, firmware, gdt, place_initrd, quads, text, words};
use crate::l0::Start;
use hv_defs::addr::Gpa;

const MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u32 = 1;

const INFORMATION: u64 = 0x9000;
const MODULES: u64 = INFORMATION + 0x100;
const MAP: u64 = INFORMATION + 0x200;
const COMMAND_LINE: u64 = INFORMATION + 0x1000;
const COMMAND_LINE_LIMIT: usize = 4095;
const _: () = assert!(COMMAND_LINE + (COMMAND_LINE_LIMIT as u64) < LOW_END);

pub(super) fn load(kernel: &Kernel<'_>, elf: Elf, entry: u32) -> Result<Loaded, Error> {
    let got = kernel.append.len();
    if got > COMMAND_LINE_LIMIT {
        return Err(Error::CommandLine { got, limit: COMMAND_LINE_LIMIT });
    }
    let told_end = COMMAND_LINE + got as u64 + 1;
    if elf.segments.iter().any(|(at, bytes)| at.0 < told_end && at.0 + bytes.len() as u64 > INFORMATION) {
        return Err(Error::Unsupported("it wants to lie where the boot information goes"));
    }
    let mut memory = elf.segments;
    let mut modules = Vec::new();
    if let Some(initrd) = kernel.initrd {
        let at = place_initrd(kernel, initrd, elf.end, u64::from(u32::MAX))?;
        modules = quads([at, initrd.len() as u64, 0, 0]);
        memory.push((Gpa(at), initrd.to_vec()));
    }
    let map = kernel.map().rows();
    let mut information = words([MAGIC, VERSION, 0, (modules.len() / 32) as u32]);
    let modules_at = if modules.is_empty() { 0 } else { MODULES };
    information.extend(quads([modules_at, COMMAND_LINE, firmware::RSDP, MAP]));
    information.extend(words([map.len() as u32, 0]));
    memory.push((Gpa(INFORMATION), information));
    memory.push((Gpa(MODULES), modules));
    memory.push((Gpa(MAP), quads(map.into_iter().flat_map(|(from, to, kind)| [from, to - from, u64::from(kind)]))));
    memory.push((Gpa(COMMAND_LINE), text(kernel.append)));
    let (table, gdtr) = gdt(&[CODE_32, DATA]);
    memory.push(table);
    let mut start = Start::protected_mode(entry, 0x08, 0x10, gdtr);
    start.gpr[3] = INFORMATION;
    Ok(Loaded { memory, start, items: Vec::new() })
}
