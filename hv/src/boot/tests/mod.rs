//! Loaders, each on images made by hand; the tables, read back as an operating system reads them.

mod acpi;
mod elf;
mod linux;
mod multiboot;

use super::{Error, Kernel, Loaded, load};
use hv_defs::addr::Gpa;

const MIB: u64 = 1 << 20;

/// A kernel for a machine of 64 MiB, without initrd, its command line "quiet".
fn kernel(image: &[u8]) -> Kernel<'_> {
    let memory = 64 * MIB;
    Kernel { name: "kernel", image, initrd: None, initrd_name: "initrd", append: "quiet", memory, cpus: 2 }
}

/// What a guest reads at `at`.
fn read(loaded: &Loaded, at: u64, length: usize) -> Vec<u8> {
    let byte = |at: u64| {
        let piece = |(from, bytes): &(Gpa, Vec<u8>)| bytes.get(usize::try_from(at.checked_sub(from.0)?).ok()?).copied();
        loaded.memory.iter().rev().find_map(piece).unwrap_or(0)
    };
    (at..at + length as u64).map(byte).collect()
}

fn u32_in(loaded: &Loaded, at: u64) -> u32 {
    u32::from_le_bytes(read(loaded, at, 4).try_into().expect("four bytes"))
}

fn u64_in(loaded: &Loaded, at: u64) -> u64 {
    u64::from_le_bytes(read(loaded, at, 8).try_into().expect("eight bytes"))
}

/// The text that begins at `at`.
fn text_in(loaded: &Loaded, at: u64) -> String {
    let bytes = read(loaded, at, 4096);
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[track_caller]
fn check_refused(kernel: &Kernel<'_>, says: &str) {
    let error = load(kernel).expect_err(says).to_string();
    assert!(error.contains(says), "'{error}' does not say '{says}'");
}

#[test]
fn what_is_no_kernel() {
    check_refused(&kernel(b""), "the file is empty");
    check_refused(&kernel(b"#!/bin/sh\n"), "it is no kernel");
    check_refused(&kernel(&[0; 0x4000]), "it is no kernel");
    check_refused(&kernel(b"\x7fELF"), "ELF class");
    for memory in [0, 4096, MIB, 2 * MIB - 4096] {
        check_refused(&Kernel { memory, ..kernel(b"MZ") }, "a PC needs 0x200000 bytes of memory");
    }
}

#[test]
fn the_device_tells_of_the_kernel() {
    use crate::device::fw_cfg::item;
    let image = linux::Image::default().bytes();
    let loaded = load(&Kernel { initrd: Some(b"an initrd"), ..kernel(&image) }).expect("a kernel");
    let loaded = loaded.with_initrd(Some(b"an initrd".as_slice().into()));
    let check = |number: u16, expected: &[u8]| {
        let got = loaded.items.iter().rev().find(|(item, _)| *item == number).map(|(_, bytes)| &**bytes);
        assert_eq!(got, Some(expected), "item {number:#x}");
    };
    check(item::COMMAND_LINE_DATA, b"quiet\0");
    check(item::COMMAND_LINE_SIZE, &[6, 0, 0, 0]);
    check(item::COMMAND_LINE_ADDRESS, &[0, 0, 2, 0]);
    check(item::INITRD_DATA, b"an initrd");
    check(item::INITRD_SIZE, &[9, 0, 0, 0]);
    check(item::SETUP_DATA, &image[..1024]);
    check(item::KERNEL_DATA, &image[1024..]);
}

#[test]
fn damaged_images_are_refused_or_loaded_within_the_memory() {
    let images = [linux::Image::default().bytes(), elf::Elf64::default().bytes(), multiboot::Image::default().bytes()];
    let mut random = 0x1234_5678_9abc_def0u64;
    for round in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut image = images[round % images.len()].clone();
        let headers = image.len().min(0x270);
        for shift in [8, 24] {
            image[(random >> shift) as usize % headers] ^= (random >> 56) as u8;
        }
        image.truncate(image.len() - (random >> 40) as usize % 2 * 100);
        let kernel = Kernel { memory: 4 * MIB, initrd: Some(b"initrd"), ..kernel(&image) };
        if let Ok(loaded) = load(&kernel) {
            assert!(loaded.extent() <= kernel.memory);
        }
    }
}

/// The errors that tell how much memory there should be tell enough.
#[test]
fn the_memory_asked_for_is_enough() {
    let big = vec![7u8; 3 * MIB as usize];
    for image in [linux::Image::default().bytes(), elf::Elf64::default().bytes(), multiboot::Image::default().bytes()] {
        let with = |memory| Kernel { memory, initrd: Some(&big), ..kernel(&image) };
        let needed = match load(&with(3 * MIB)) {
            Err(Error::Memory { needed, .. }) => needed,
            other => panic!("{other:?}"),
        };
        load(&with(needed.next_multiple_of(4096))).expect("enough memory");
    }
}
