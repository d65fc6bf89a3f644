//! ELF kernels: through the PVH note, and by Linux's boot protocol.

use super::*;

/// A 64-bit ELF of these program headers (kind, offset, physical address, bytes in the file, bytes in memory), with
/// 256 bytes of contents from 0x200.
pub(super) struct Elf64 {
    pub(super) headers: Vec<(u32, u64, u64, u64, u64)>,
    pub(super) contents: Vec<u8>,
}

impl Default for Elf64 {
    fn default() -> Self {
        Self { headers: vec![(1, 0x200, MIB, 0x100, 0x2000)], contents: (0..=255).collect() }
    }
}

impl Elf64 {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [MIB + 0x10, 64, 0] {
            image.extend(word.to_le_bytes());
        }
        image.extend([0; 4]);
        for half in [64, 56, self.headers.len() as u16, 0, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        for (kind, offset, physical, in_file, in_memory) in &self.headers {
            image.extend(kind.to_le_bytes());
            image.extend(7u32.to_le_bytes());
            for word in [*offset, 0xffff_ffff_8100_0000, *physical, *in_file, *in_memory, 0x1000] {
                image.extend(word.to_le_bytes());
            }
        }
        image.resize(0x200, 0);
        image.extend(&self.contents);
        image
    }
}

/// A 32-bit ELF of 256 bytes at 1 MiB, entered there.
pub(super) fn elf32(machine: u16) -> Vec<u8> {
    let mut image = b"\x7fELF\x01\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2, 0]);
    image.extend(machine.to_le_bytes());
    for word in [1, MIB as u32, 52, 0, 0] {
        image.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    for word in [1, 0x200, 0xc010_0000, MIB as u32, 0x100, 0x2000, 7, 0x1000] {
        image.extend(word.to_le_bytes());
    }
    image.resize(0x200, 0);
    image.extend(0..=255);
    image
}

/// A note: owner, type, contents.
fn note(owner: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut note = [owner.len() as u32, contents.len() as u32, kind].map(u32::to_le_bytes).concat();
    for part in [owner, contents] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn with_notes(notes: &[Vec<u8>]) -> Vec<u8> {
    let notes = notes.concat();
    let headers = vec![(1, 0x200, MIB, 0x100, 0x2000), (4, 0x300, 0, notes.len() as u64, 0)];
    Elf64 { headers, contents: (0..=255).chain(notes).collect() }.bytes()
}

#[test]
fn an_elf_without_a_note_starts_by_linux_boot_protocol() {
    let image = Elf64::default().bytes();
    let loaded = load(&Kernel { initrd: Some(b"initrd"), ..kernel(&image) }).expect("an ELF");
    assert_eq!(read(&loaded, MIB, 256), (0..=255).collect::<Vec<u8>>());
    assert_eq!((loaded.start.rip, loaded.start.cr0), (MIB + 0x10, 0x8000_0033));
    let zero_page = loaded.start.gpr[6];
    assert_eq!(text_in(&loaded, u32_in(&loaded, zero_page + 0x228).into()), "quiet");
    assert_eq!(text_in(&loaded, u32_in(&loaded, zero_page + 0x218).into()), "initrd");

    let loaded = load(&kernel(&elf32(3))).expect("an ELF");
    assert_eq!((loaded.start.rip, loaded.start.cr0, loaded.start.efer), (MIB, 0x11, 0));
    assert_eq!(text_in(&loaded, u32_in(&loaded, loaded.start.gpr[6] + 0x228).into()), "quiet");
}

#[test]
fn a_pvh_note_names_the_entry_point() {
    let check = |notes: &[Vec<u8>], entry: Option<u64>| {
        let loaded = load(&kernel(&with_notes(notes))).expect("an ELF");
        let pvh = loaded.start.cr0 == 0x11;
        assert_eq!(pvh.then_some(loaded.start.rip), entry, "{notes:x?}");
    };
    let entry = |bytes: &[u8]| note(b"Xen\0", 18, bytes);
    check(&[entry(&[0x40, 0, 0x10, 0])], Some(0x10_0040));
    check(&[entry(&[0x40, 0, 0x10, 0, 0, 0, 0, 0])], Some(0x10_0040));
    check(&[note(b"GNU\0", 18, b"abc"), note(b"Xen\0", 5, b"x"), entry(&[0x40, 0, 0x10, 0])], Some(0x10_0040));
    check(&[entry(&[0x40, 0, 0x10, 0, 1, 0, 0, 0])], None);
    check(&[note(b"GNU\0", 18, &[0x40, 0, 0x10, 0])], None);
    check(&[vec![0xff; 16]], None);
}

#[test]
fn a_pvh_kernel_is_told_of_its_machine() {
    let image = with_notes(&[note(b"Xen\0", 18, &[0x40, 0, 0x10, 0])]);
    let loaded = load(&Kernel { initrd: Some(b"the initrd"), ..kernel(&image) }).expect("a PVH kernel");
    let info = loaded.start.gpr[3];
    assert_eq!([0, 4, 8, 12].map(|at| u32_in(&loaded, info + at)), [0x336e_c578, 1, 0, 1]);
    let [modules, line, rsdp, map] = [16, 24, 32, 40].map(|at| u64_in(&loaded, info + at));
    assert_eq!(text_in(&loaded, line), "quiet");
    assert_eq!(read(&loaded, rsdp, 8), b"RSD PTR ");
    let [initrd, length] = [0, 8].map(|at| u64_in(&loaded, modules + at));
    assert_eq!((text_in(&loaded, initrd), length), ("the initrd".to_owned(), 10));
    // As high as QEMU has it: 160 KiB and a byte below the end, at a page's beginning.
    assert_eq!(initrd, (64 * MIB - 0x2_8001 - 10) & !0xfff);
    assert_eq!(u32_in(&loaded, info + 48), 6);
    let rows: Vec<[u64; 3]> = (0..6).map(|row| [0, 8, 16].map(|at| u64_in(&loaded, map + row * 24 + at))).collect();
    assert_eq!(rows[0], [0, 0x9_fc00, 1]);
    assert_eq!(rows[3], [MIB, 63 * MIB - 0x2_0000, 1]);

    let loaded = load(&kernel(&image)).expect("a PVH kernel");
    assert_eq!([12, 16].map(|at| u32_in(&loaded, info + at)), [0, 0], "no module");
    let long = "x".repeat(4096);
    check_refused(&Kernel { append: &long, ..kernel(&image) }, "the command line has 4096 bytes");
}

#[test]
fn elves_that_are_refused() {
    let check = |headers: &[(u32, u64, u64, u64, u64)], says: &str| {
        let image = Elf64 { headers: headers.to_vec(), ..Elf64::default() }.bytes();
        check_refused(&kernel(&image), says);
    };
    let good = (1, 0x200, MIB, 0x100, 0x100);
    check(&[], "no ELF segment to load");
    check(&[(2, 0x200, MIB, 0x100, 0x100)], "no ELF segment to load");
    check(&[(1, 0x201, MIB, 0x100, 0x100)], "the file ends within an ELF segment");
    check(&[(1, u64::MAX, MIB, 0x100, 0x100)], "the file ends within an ELF segment");
    check(&[(1, 0x200, u64::MAX - 16, 0x100, 0x100)], "beyond the last address");
    check(&[(1, 0x200, MIB, 0x100, u64::MAX)], "beyond the last address");
    check(&[good, (1, 0x200, MIB + 0xff, 1, 1)], "two of its ELF segments overlap");
    check(&[(1, 0x200, MIB, 0x100, 0x2000), (1, 0x200, MIB + 0x1000, 1, 1)], "two of its ELF segments overlap");
    check(&[(1, 0x200, 64 * MIB - 0x100, 0x100, 0x100)], "the kernel needs 0x4020000 bytes of memory");
    check(&[(1, 0x200, 64 * MIB, 0x100, 0x100)], "the kernel needs");
    check(&[(1, 0x200, 4 << 30, 0x100, 0x100)], "the kernel needs");
    check(&[(1, 0x200, 0x8000, 0x100, 0x100)], "below 1 MiB");
    let image = Elf64::default().bytes();
    check_refused(&kernel(&image[..100]), "the file ends within its ELF headers");
    check_refused(&kernel(&image[..0x250]), "the file ends within an ELF segment");
    check_refused(&kernel(&elf32(40)), "another machine than x86");
    let big = vec![0; 64 * MIB as usize];
    check_refused(&Kernel { initrd: Some(&big), ..kernel(&image) }, "the initrd behind the kernel needs");
}

#[test]
fn segments_that_are_all_of_the_file_a_thousand_times_over_cost_nothing() {
    // Copied before they are found to overlap, or searched for notes each, they would be a hundred GiB.
    let check = |kind: u32, says: &str| {
        let (count, length) = (60_000u16, 2 * MIB);
        let mut image = Elf64::default().bytes();
        image.resize(length as usize, 0);
        let table = image.len() as u64;
        image[32..40].copy_from_slice(&table.to_le_bytes());
        image[56..58].copy_from_slice(&count.to_le_bytes());
        for _ in 0..count {
            image.extend([kind, 7].into_iter().flat_map(u32::to_le_bytes));
            image.extend([0, 0, MIB, length, length, 0x1000].into_iter().flat_map(u64::to_le_bytes));
        }
        check_refused(&kernel(&image), says);
    };
    check(1, "two of its ELF segments overlap");
    check(4, "no ELF segment to load");
}
