//! Kernels and initrds of any content: a machine that boots, or one line that says why not.

use super::dice::Dice;
use core::ops::ControlFlow;
use hv::boot::Kernel;
use hv::machine::{Image, Machine, MachineError};
use hv::world::World;
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::{Event, InputKind, What};
use std::sync::Arc;

/// Nobody: of all that happens, the last digest is kept.
#[derive(Default)]
struct Last(u64);

impl World for Last {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            if let What::Digest(digest) = event.what {
                self.0 = digest;
            }
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..][..bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of one setup sector, which is not the same twice.
fn linux(dice: &mut Dice) -> Vec<u8> {
    let mut image = vec![0; 1024];
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &0x40u32.to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &dice.pick(&[0x200u16, 0x201, 0x202, 0x203, 0x206, 0x20a, 0x20c, 0x20f]).to_le_bytes());
    put(&mut image, 0x211, &[dice.below(2) as u8]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x236, &(dice.below(4) as u16).to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x20_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x1_0000u32.to_le_bytes());
    image.extend(dice.bytes(0x400));
    image
}

/// An ELF of either class with two segments, perhaps one of them notes that name a PVH entry point.
fn elf(dice: &mut Dice) -> Vec<u8> {
    let wide = dice.once_in(2);
    let (class, header, entry_size) = if wide { (2, 64usize, 56usize) } else { (1, 52, 32) };
    let mut image = vec![0; 0x400];
    put(&mut image, 0, &[0x7f, b'E', b'L', b'F', class, 1, 1]);
    put(&mut image, 16, &[2, 0, if wide { 62 } else { 3 }, 0, 1]);
    let word = |image: &mut [u8], at: usize, value: u64| match wide {
        true => put(image, at, &value.to_le_bytes()),
        false => put(image, at, &(value as u32).to_le_bytes()),
    };
    word(&mut image, 24, 0x10_0000);
    word(&mut image, if wide { 32 } else { 28 }, header as u64);
    put(&mut image, if wide { 54 } else { 42 }, &[entry_size as u8, 0, 2, 0]);
    let notes = dice.once_in(2);
    let at = if dice.once_in(8) { dice.number() } else { 0x10_0000 };
    for (number, kind, physical, offset) in [(0, 1u32, at, 0x200u64), (1, if notes { 4 } else { 1 }, 0x20_0000, 0x300)]
    {
        let base = header + number * entry_size;
        put(&mut image, base, &kind.to_le_bytes());
        let fields = if wide { [8, 24, 32, 40] } else { [4, 12, 16, 20] };
        for (field, value) in fields.into_iter().zip([offset, physical, 0x100, 0x180]) {
            word(&mut image, base + field, value);
        }
    }
    let code = dice.bytes(0x100);
    put(&mut image, 0x200, &code);
    for (number, word) in [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000].into_iter().enumerate() {
        put(&mut image, 0x300 + 4 * number, &word.to_le_bytes());
    }
    image
}

/// A multiboot kernel by addresses, or in an ELF.
fn multiboot(dice: &mut Dice) -> Vec<u8> {
    let addresses = dice.once_in(2);
    let mut image = if addresses { dice.bytes(0x400) } else { elf(dice) };
    let flags = u32::from(addresses) << 16 | dice.below(8) as u32;
    let at = 0x80 * (1 + dice.below(6) as usize);
    let base = 0x10_0000u32;
    let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let words = [0x1bad_b002, flags, sum, base + at as u32, base, base + 0x400, base + 0x800, base + 0x100];
    for (number, word) in words.into_iter().enumerate() {
        put(&mut image, at + 4 * number, &word.to_le_bytes());
    }
    image
}

/// One to eight mistakes in it.
fn spoil(image: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..dice.below(9) {
        let at = match dice.below(3) {
            0 => dice.below(image.len().max(1) as u64),
            1 => 0x1f0 + dice.below(0x80),
            _ => dice.below(0x100),
        } as usize;
        let width = dice.pick(&[1usize, 2, 4, 8]);
        let value = dice.number().to_le_bytes();
        if at + width <= image.len() {
            put(image, at, &value[..width]);
        }
    }
    if dice.once_in(8) {
        let length = dice.below(image.len() as u64 + 1) as usize;
        image.truncate(length);
    }
}

/// A kernel that may be one.
pub(crate) fn kernel(dice: &mut Dice) -> Vec<u8> {
    let mut kernel = match dice.below(4) {
        0 => linux(dice),
        1 => elf(dice),
        2 => multiboot(dice),
        _ => {
            let length = dice.below(0x500) as usize;
            dice.bytes(length)
        }
    };
    spoil(&mut kernel, dice);
    kernel
}

/// Boots a kernel with what the dice decide beside it. Returns a digest of the machine at its end, if there was one.
pub(crate) fn boot(kernel: Vec<u8>, dice: &mut Dice) -> Option<u64> {
    let length = dice.pick(&[0usize, 1, 4095, 0x2000, 3 << 20]);
    let append = if dice.once_in(8) { 5000 } else { 20 };
    let append = "x".repeat(append);
    let memory = dice.pick(&[4096, 1 << 20, 2 << 20, (4 << 20) + 4096, 16 << 20]);
    let initrd: Arc<[u8]> = vec![0x5a; length].into();
    look(&Kernel {
        name: "kernel",
        image: &kernel,
        initrd: (length > 0).then_some(&*initrd),
        initrd_name: "initrd",
        append: &append,
        memory,
        cpus: 1,
    });
    let guest = Guest::Kernel { name: "kernel".to_owned(), append };
    let config = Config { memory, max_instructions: Some(3000), ..Config::new(guest) };
    let mut images = vec![Image { kind: ImageKind::Kernel, name: "kernel".to_owned(), bytes: kernel.into() }];
    if length > 0 {
        images.push(Image { kind: ImageKind::Initrd, name: "initrd".to_owned(), bytes: initrd });
    }
    match Machine::new(&config, &images) {
        Ok(mut machine) => {
            let mut last = Last::default();
            let stop = machine.run(&mut last);
            assert!(!stop.text.is_empty() && !stop.text.contains('\n'), "{stop:?}");
            Some(last.0)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text}");
            assert!(matches!(error, MachineError::Kernel { .. } | MachineError::Memory { .. }), "{error}");
            None
        }
    }
}

/// What a loader puts into memory lies in it, and is no more than the files, what they ask to be zeros, and the tables.
fn look(kernel: &Kernel<'_>) {
    let Ok(loaded) = hv::boot::load(kernel) else { return };
    for (at, bytes) in &loaded.memory {
        let inside = hv::l0::ram(kernel.memory, *at, bytes.len() as u64).is_some();
        assert!(inside, "{} bytes at {:#x} of {:#x}", bytes.len(), at.0, kernel.memory);
    }
    let total: usize = loaded.memory.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total as u64 <= 2 * kernel.memory + (1 << 20), "{total} bytes for {:#x}", kernel.memory);
    let items: usize = loaded.items.iter().map(|(_, bytes)| bytes.len()).sum();
    let files = kernel.image.len() + kernel.initrd.map_or(0, <[u8]>::len) + kernel.append.len();
    assert!(items <= 2 * files + 4096, "{items} bytes of items for {files}");
}

#[cfg(test)]
fn seeded(seed: u64) -> Option<u64> {
    let mut dice = Dice::new(seed);
    let kernel = kernel(&mut dice);
    boot(kernel, &mut dice)
}

#[test]
fn any_file_boots_or_is_refused_in_words() {
    let cases = super::number("NVMX_HOSTILE_IMAGES").unwrap_or(400);
    let booted = (0..cases).filter(|seed| seeded(*seed).is_some()).count() as u64;
    assert!(booted > cases / 20 && booted < cases - cases / 20, "{booted} of {cases} boot: not much of a test");
}

/// A multiboot kernel of this 32-bit code.
#[cfg(test)]
fn multiboot_of(code: &[u8]) -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002u32, 1u32 << 16, 0x10_0000u32);
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let end = base + 0x20 + code.len() as u32;
    let words = [magic, flags, sum, base, base, end, end, base + 0x20];
    words.into_iter().flat_map(u32::to_le_bytes).chain(code.iter().copied()).collect()
}

#[test]
fn time_goes_on_when_a_guest_does_nothing_but_exit() {
    // mov ecx, -1; rep outsb: 4 GiB of exits, between which no instruction is executed.
    let kernel = multiboot_of(&[0xb9, 0xff, 0xff, 0xff, 0xff, 0xf3, 0x6e]);
    let guest = Guest::Kernel { name: "kernel".to_owned(), append: String::new() };
    let config = Config { memory: 4 << 20, max_instructions: Some(500), ..Config::new(guest) };
    let images = [Image { kind: ImageKind::Kernel, name: "kernel".to_owned(), bytes: kernel.into() }];
    let stop = Machine::new(&config, &images).expect("a kernel").run(&mut Last::default());
    assert_eq!(stop.kind, hv_defs::event::StopKind::MaxInstructions, "{stop:?}");
}
