//! Kernels and initrds of any content: a machine that boots, or one line that says why not.

use super::dice::Dice;
use core::ops::ControlFlow;
use hv::machine::{Image, Machine, MachineError};
use hv::world::World;
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::{Event, InputKind};

/// Nobody.
struct Void;

impl World for Void {
    fn events(&mut self, _: &[Event]) -> ControlFlow<()> {
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

/// Boots it. Returns whether there was a machine.
fn boot(seed: u64) -> bool {
    let mut dice = Dice::new(seed);
    let mut kernel = match dice.below(4) {
        0 => linux(&mut dice),
        1 => elf(&mut dice),
        2 => multiboot(&mut dice),
        _ => {
            let length = dice.below(0x500) as usize;
            dice.bytes(length)
        }
    };
    spoil(&mut kernel, &mut dice);
    let length = dice.pick(&[0usize, 1, 4095, 0x2000, 3 << 20]);
    let append = if dice.once_in(8) { 5000 } else { 20 };
    let guest = Guest::Kernel { name: "kernel".to_owned(), append: "x".repeat(append) };
    let memory = dice.pick(&[4096, 1 << 20, 2 << 20, (4 << 20) + 4096, 16 << 20]);
    let config = Config { memory, max_instructions: Some(3000), ..Config::new(guest) };
    let mut images = vec![Image { kind: ImageKind::Kernel, name: "kernel".to_owned(), bytes: kernel.into() }];
    if length > 0 {
        images.push(Image { kind: ImageKind::Initrd, name: "initrd".to_owned(), bytes: vec![0x5a; length].into() });
    }
    match Machine::new(&config, &images) {
        Ok(mut machine) => {
            let stop = machine.run(&mut Void);
            assert!(!stop.text.is_empty() && !stop.text.contains('\n'), "seed {seed}: {stop:?}");
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "seed {seed}: {text}");
            assert!(matches!(error, MachineError::Kernel { .. } | MachineError::Memory { .. }), "seed {seed}: {error}");
            false
        }
    }
}

#[test]
fn any_file_boots_or_is_refused_in_words() {
    let cases = super::number("NVMX_HOSTILE_IMAGES").unwrap_or(400);
    let booted = (0..cases).filter(|seed| boot(*seed)).count() as u64;
    assert!(booted > cases / 20 && booted < cases - cases / 20, "{booted} of {cases} boot: not much of a test");
}
