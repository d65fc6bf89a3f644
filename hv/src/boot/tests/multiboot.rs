//! Multiboot kernels, by the addresses in their headers and by ELF's.

use super::elf::elf32;
use super::*;

/// An image with a header at 0x20 and 0x100 bytes behind it: flags; header, load, load end, bss end, entry.
pub(super) struct Image {
    pub(super) flags: u32,
    pub(super) addresses: [u32; 5],
}

const AT: u32 = 0x10_0000;

impl Default for Image {
    fn default() -> Self {
        Self { flags: 1 << 16 | 3, addresses: [AT + 0x20, AT, 0, 0, AT + 0x40] }
    }
}

fn header(flags: u32) -> Vec<u8> {
    [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)].map(u32::to_le_bytes).concat()
}

impl Image {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0x11; 0x20];
        image.extend(header(self.flags));
        image.extend(self.addresses.map(u32::to_le_bytes).concat());
        image.resize(0x120, 0x22);
        image
    }
}

/// A 32-bit ELF with a header in its contents.
fn elf(machine: u16) -> Vec<u8> {
    let mut image = elf32(machine);
    image[0x200..0x20c].copy_from_slice(&header(3));
    image
}

#[test]
fn a_kernel_is_told_of_its_machine() {
    for image in [Image::default().bytes(), elf(3)] {
        let loaded = load(&Kernel { initrd: Some(b"a module"), ..kernel(&image) }).expect("a multiboot kernel");
        let start = &loaded.start;
        assert_eq!((start.gpr[0], start.cr0, start.segments[1].selector), (0x2bad_b002, 0x11, 8));
        let info = start.gpr[3];
        let word = |at: u64| u32_in(&loaded, info + at);
        assert_eq!(word(0), 0x24f);
        assert_eq!((word(4), word(8), word(12)), (639, (63 * MIB as u32 - 0x2_0000) >> 10, 0x8000_ffff));
        assert_eq!(text_in(&loaded, word(16).into()), "kernel quiet");
        assert_eq!(text_in(&loaded, word(64).into()), "qemu");
        assert_eq!(word(20), 1);
        let module = |at: u64| u32_in(&loaded, u64::from(word(24)) + at);
        assert_eq!(text_in(&loaded, module(0).into()), "a module");
        assert_eq!((module(0) % 4096, module(4) - module(0)), (0, 8));
        assert_eq!(text_in(&loaded, module(8).into()), "initrd");
        // The memory map: each row behind its length.
        let (length, mut at) = (u64::from(word(44)), u64::from(word(48)));
        let end = at + length;
        let mut rows = Vec::new();
        while at < end {
            rows.push((u64_in(&loaded, at + 4), u64_in(&loaded, at + 12), u32_in(&loaded, at + 20)));
            at += 4 + u64::from(u32_in(&loaded, at));
        }
        assert_eq!((rows.len(), rows[3]), (6, (MIB, 63 * MIB - 0x2_0000, 1)));

        let bare = Kernel { append: "", ..kernel(&image) };
        let loaded = load(&bare).expect("a multiboot kernel");
        assert_eq!(u32_in(&loaded, info + 20), 0, "no module");
        assert_eq!(text_in(&loaded, u32_in(&loaded, info + 16).into()), "kernel ");
    }
}

#[test]
fn addresses_in_the_header() {
    let check = |addresses: [u32; 5], from: u64, bytes: usize, entry: u64| {
        let image = Image { addresses, ..Image::default() }.bytes();
        let loaded = load(&kernel(&image)).expect("a multiboot kernel");
        let offset = image.len() - bytes.max(0x100);
        assert_eq!(loaded.start.rip, entry);
        assert_eq!(read(&loaded, from, bytes), image[offset.min(0x20)..][..bytes]);
    };
    check([AT + 0x20, AT, 0, 0, AT + 0x40], AT.into(), 0x120, (AT + 0x40).into());
    check([AT, AT, 0, AT + 0x9000, AT], AT.into(), 0x100, AT.into());
    check([AT, AT, AT + 0x100, 0, AT], AT.into(), 0x100, AT.into());
}

#[test]
fn kernels_that_are_refused() {
    let check = |addresses: [u32; 5], says: &str| {
        check_refused(&kernel(&Image { addresses, ..Image::default() }.bytes()), says);
    };
    const WRONG: &str = "the addresses in its multiboot header";
    check([AT, AT + 1, 0, 0, AT], WRONG);
    check([AT + 0x21, AT, 0, 0, AT], WRONG);
    check([AT, AT, AT + 0x101, 0, AT], WRONG);
    check([AT, AT, AT - 1, 0, AT], WRONG);
    check([AT, AT, 0, AT + 0xff, AT], "end before the loaded bytes");
    check([AT, AT, 0, 0x0400_0000, AT], "the kernel needs");
    check([0xffff_ff80, 0xffff_ff80, 0, 0, 0], "the kernel needs");
    check([0x9000, 0x9000, 0, 0, 0x9000], "where the multiboot information goes");
    check_refused(&kernel(&elf(62)), "multiboot wants a 32-bit one");
    check_refused(&kernel(&Image { flags: 3, ..Image::default() }.bytes()), "has no addresses, and it is no ELF");
    // A wish for a video mode is not granted, and nothing to refuse it for.
    load(&kernel(&Image { flags: 1 << 16 | 7, ..Image::default() }.bytes())).expect("a multiboot kernel");
    let good = Image::default().bytes();
    check_refused(&kernel(&good[..0x30]), WRONG);
    let big = vec![0; 63 * MIB as usize];
    check_refused(&Kernel { initrd: Some(&big), ..kernel(&good) }, "the initrd behind the kernel needs");
}
