//! The machine around kernels of a few instructions: what they are given at the start, what the board does for them, how
//! runs end, and what cannot be built.

#[path = "support/collect.rs"]
mod collect;
#[path = "support/elf.rs"]
mod image;

use collect::{Run, run_in};
use hv::machine::{Image, Machine};
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::{Input, InputKind, StopKind, What};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use image::{AT, kernel};
use std::collections::VecDeque;

type Asm = Result<(), IcedError>;

/// A 64-bit ELF of this code.
fn elf(code: fn(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    code(&mut a).expect("instructions that are there");
    let code = a.assemble(AT).expect("code that assembles");
    image::elf(&code)
}

/// A 32-bit multiboot image of this code, placed by the addresses in its header.
fn multiboot(code: fn(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).expect("32 bits");
    code(&mut a).expect("instructions that are there");
    let code = a.assemble(AT + 32).expect("code that assembles");
    let flags = 1u32 << 16 | 3;
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let at = AT as u32;
    let mut image = Vec::new();
    for word in [0x1bad_b002, flags, checksum, at, at, 0, 0, at + 32] {
        image.extend(word.to_le_bytes());
    }
    image.extend(code);
    image
}

fn config() -> Config {
    let guest = Guest::Kernel { name: "kernel".to_owned(), append: "one two".to_owned() };
    Config { memory: 16 << 20, max_instructions: Some(100_000_000), ..Config::new(guest) }
}

fn boot(bytes: Vec<u8>) -> Run {
    run_in(&config(), &kernel(bytes), Run::default())
}

/// Prints the text at RSI (ESI), which a zero ends.
fn puts(a: &mut CodeAssembler) -> Asm {
    let (mut next, mut done) = (a.create_label(), a.create_label());
    a.mov(edx, 0x3f8u32)?;
    a.set_label(&mut next)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.jz(done)?;
    a.out(dx, al)?;
    a.jmp(next)?;
    a.set_label(&mut done)?;
    a.zero_bytes()
}

/// Ends the run with AL.
fn leave(a: &mut CodeAssembler) -> Asm {
    a.out(0xf4, al)
}

#[test]
fn a_64_bit_kernel_finds_its_command_line_and_its_initrd() {
    let image = elf(|a| {
        a.mov(rbx, rsi)?;
        a.mov(esi, dword_ptr(rbx + 0x228))?;
        puts(a)?;
        a.mov(esi, dword_ptr(rbx + 0x218))?;
        puts(a)?;
        a.mov(eax, dword_ptr(rbx + 0x21c))?;
        leave(a)
    });
    let mut images = kernel(image);
    images.push(Image {
        kind: ImageKind::Initrd,
        name: "initrd".to_owned(),
        bytes: b" and an initrd\0".as_slice().into(),
    });
    let run = run_in(&config(), &images, Run::default());
    assert_eq!(run.console, "one two and an initrd");
    let stop = run.stop.unwrap();
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 15 << 1 | 1), "the initrd's length");
}

#[test]
fn a_multiboot_kernel_finds_its_name_its_command_line_and_its_module() {
    let image = multiboot(|a| {
        let mut wrong = a.create_label();
        a.cmp(eax, 0x2bad_b002u32 as i32)?;
        a.jne(wrong)?;
        a.mov(esi, dword_ptr(ebx + 16))?;
        puts(a)?;
        a.mov(edi, dword_ptr(ebx + 24))?;
        a.mov(esi, dword_ptr(edi))?;
        puts(a)?;
        // KiB above 1 MiB: 15 MiB of them, less 128 for the firmware's tables.
        a.mov(eax, dword_ptr(ebx + 8))?;
        a.shr(eax, 10u32)?;
        leave(a)?;
        a.set_label(&mut wrong)?;
        a.mov(al, 99)?;
        leave(a)
    });
    let mut images = kernel(image);
    images.push(Image { kind: ImageKind::Initrd, name: "initrd".to_owned(), bytes: b", a module\0".as_slice().into() });
    let run = run_in(&config(), &images, Run::default());
    assert_eq!(run.console, "kernel one two, a module");
    let stop = run.stop.unwrap();
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 14 << 1 | 1));
}

#[test]
fn the_configuration_device_copies_into_memory() {
    let run = boot(elf(|a| {
        // A request at 0x3000, big-endian: select the number of CPUs and read 2 bytes of it to 0x3100.
        a.mov(dword_ptr(0x3000), 0x0a00_0500)?;
        a.mov(dword_ptr(0x3004), 0x0200_0000)?;
        a.mov(dword_ptr(0x3008), 0)?;
        a.mov(dword_ptr(0x300c), 0x0031_0000)?;
        a.mov(edx, 0x514u32)?;
        a.xor(eax, eax)?;
        a.out(dx, eax)?;
        a.mov(edx, 0x518u32)?;
        a.mov(eax, 0x0030_0000u32)?;
        a.out(dx, eax)?;
        // The request is done when its first word is 0.
        a.mov(al, byte_ptr(0x3100))?;
        a.or(al, byte_ptr(0x3000))?;
        leave(a)
    }));
    let stop = run.stop.unwrap();
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 1 << 1 | 1));
}

#[test]
fn memory_goes_on_behind_the_hole_below_4_gib() {
    let image = elf(|a| {
        // Two pages of 1 GiB each: the fourth GiB is the hole, the fifth the rest of the RAM.
        a.mov(dword_ptr(0xa018), 0xc000_0083u32 as i32)?;
        a.mov(dword_ptr(0xa01c), 0)?;
        a.mov(dword_ptr(0xa020), 0x83)?;
        a.mov(dword_ptr(0xa024), 1)?;
        a.mov(rbx, 0x1_0000_0000u64)?;
        a.mov(rcx, 0xd000_0000u64)?;
        a.mov(byte_ptr(rbx + 5), 21)?;
        a.mov(byte_ptr(rcx), 1)?;
        a.mov(al, byte_ptr(rbx + 5))?;
        // What is no RAM reads as all ones.
        a.mov(dl, byte_ptr(rcx))?;
        a.inc(dl)?;
        a.or(al, dl)?;
        leave(a)
    });
    let config = Config { memory: (3 << 30) + (1 << 20), ..config() };
    let run = run_in(&config, &kernel(image), Run::default());
    let stop = run.stop.unwrap();
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 21 << 1 | 1), "{stop:?}");
}

#[test]
fn a_guest_that_fails_ends_with_where_it_was() {
    let check = |code: fn(&mut CodeAssembler) -> Asm, kind: StopKind, says: &[&str]| {
        let stop = boot(elf(code)).stop.unwrap();
        assert_eq!(stop.kind, kind, "{stop:?}");
        for words in says {
            assert!(stop.text.contains(words), "'{}' does not say '{words}'", stop.text);
        }
    };
    check(|a| a.ud2(), StopKind::TripleFault, &["triple fault", "L1 at 0x100000 [0f 0b", "last exit TRIPLE_FAULT"]);
    check(
        |a| {
            a.cpuid()?;
            a.cli()?;
            a.hlt()
        },
        StopKind::Halted,
        &["halted with its interrupts off", "L1 at 0x100004", "last exit HLT"],
    );
    // A jump to where the page tables map nothing.
    check(
        |a| {
            a.mov(rax, 0x7fff_0000_0000u64)?;
            a.jmp(rax)
        },
        StopKind::TripleFault,
        &["L1 at 0x7fff00000000 [not mapped]", "last exit TRIPLE_FAULT"],
    );
    // And to where there is no RAM.
    check(
        |a| {
            a.mov(eax, 0xe000_0000u32)?;
            a.jmp(rax)
        },
        StopKind::Unsupported,
        &["0xe0000000, which is no RAM", "L1 at 0xe0000000 [ff ff", "last exit EPT_VIOLATION"],
    );
}

fn check_end(code: fn(&mut CodeAssembler) -> Asm, kind: StopKind) {
    let run = boot(elf(code));
    let stop = run.stop.unwrap();
    assert_eq!(stop.kind, kind, "{stop:?}");
    assert_eq!(run.events.last().map(|event| event.what.clone()), Some(What::Stop(stop)));
}

#[test]
fn runs_end_in_every_way_that_guests_have() {
    check_end(|a| a.out(0xf4, al), StopKind::DebugExit);
    check_end(
        |a| {
            a.mov(al, 0xfeu32)?;
            a.out(0x64, al)
        },
        StopKind::Reset,
    );
    check_end(
        |a| {
            a.mov(al, 6)?;
            a.mov(edx, 0xcf9u32)?;
            a.out(dx, al)
        },
        StopKind::Reset,
    );
    // There is no IDT.
    check_end(|a| a.ud2(), StopKind::TripleFault);
    check_end(
        |a| {
            a.cli()?;
            a.hlt()
        },
        StopKind::Halted,
    );
    check_end(
        |a| {
            a.sti()?;
            a.hlt()
        },
        StopKind::Idle,
    );
    check_end(
        |a| {
            a.mov(edx, 0x604u32)?;
            a.mov(ax, 0x2000)?;
            a.out(dx, ax)
        },
        StopKind::PowerOff,
    );
    check_end(
        |a| {
            let mut here = a.create_label();
            a.set_label(&mut here)?;
            a.jmp(here)
        },
        StopKind::MaxInstructions,
    );
}

#[test]
fn the_number_of_instructions_is_kept_exactly() {
    let spin = elf(|a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.inc(rax)?;
        a.jmp(here)
    });
    for max in [1, 2, 12_345, 3_000_001] {
        let config = Config { max_instructions: Some(max), slice: 1_000, digest_interval: 10_000, ..config() };
        let run = run_in(&config, &kernel(spin.clone()), Run::default());
        let last = run.events.last().unwrap();
        assert_eq!((last.at.instruction, run.stop.unwrap().kind), (max, StopKind::MaxInstructions));
        let digests = run.events.iter().filter(|event| matches!(event.what, What::Digest(_))).count() as u64;
        assert_eq!(digests, (max - 1) / 10_000 + 1, "one each 10000 instructions and one at the end, of {max}");
    }
}

#[test]
fn the_text_to_stop_on_may_come_in_pieces() {
    let image = elf(|a| {
        let mut text = a.create_label();
        a.lea(rsi, ptr(text))?;
        puts(a)?;
        leave(a)?;
        a.set_label(&mut text)?;
        a.db(b"a line\nlogin: and more\0")
    });
    let config = Config { stop_on: Some("login:".to_owned()), ..config() };
    let run = run_in(&config, &kernel(image), Run::default());
    assert_eq!(run.stop.unwrap().kind, StopKind::StopOn);
    assert_eq!(run.console, "a line\nlogin:");
}

/// An IDT at 0x1000 whose gate 0x20 + `line` leads to the label, PICs at 0x20 with only that line open.
fn interrupts(a: &mut CodeAssembler, line: u8, handler: CodeLabel) -> Asm {
    let gate = 0x1000 + (0x20 + i64::from(line)) * 16;
    a.lea(rax, ptr(handler))?;
    a.mov(word_ptr(gate), ax)?;
    a.mov(dword_ptr(gate + 2), 0x8e00_0010u32 as i32)?;
    a.shr(eax, 16u32)?;
    a.mov(word_ptr(gate + 6), ax)?;
    a.mov(dword_ptr(gate + 8), 0)?;
    a.mov(word_ptr(0x3000), 0xfff)?;
    a.mov(qword_ptr(0x3002), 0x1000)?;
    a.lidt(tbyte_ptr(0x3000))?;
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, !(1u32 << line) & 0xff)] {
        a.mov(al, value)?;
        a.out(port, al)?;
    }
    Ok(())
}

#[test]
fn a_halted_machine_goes_on_to_the_timers_next_tick() {
    let run = boot(elf(|a| {
        let mut handler = a.create_label();
        let mut wait = a.create_label();
        interrupts(a, 0, handler)?;
        // A tick each 11932 of 1193182 Hz.
        for (port, value) in [(0x43, 0x34), (0x40, 11932 & 0xff), (0x40, 11932 >> 8)] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.xor(ebx, ebx)?;
        a.sti()?;
        a.set_label(&mut wait)?;
        a.hlt()?;
        a.cmp(ebx, 3)?;
        a.jb(wait)?;
        a.mov(eax, ebx)?;
        leave(a)?;
        a.set_label(&mut handler)?;
        a.inc(ebx)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iretq()
    }));
    let last = run.events.last().unwrap().at.instruction;
    let stop = run.stop.unwrap();
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 3 << 1 | 1));
    // Three ticks of 10.00015 ms each, and the few instructions of set-up and handlers.
    assert!((30_000_453..30_001_000).contains(&last), "{last}");
}

/// A kernel that waits for what is typed, prints it, and leaves at a dot.
fn echo() -> Vec<u8> {
    elf(|a| {
        let [mut handler, mut wait] = core::array::from_fn(|_| a.create_label());
        interrupts(a, 4, handler)?;
        a.mov(edx, 0x3f9u32)?;
        a.mov(al, 1)?;
        a.out(dx, al)?;
        a.sti()?;
        a.set_label(&mut wait)?;
        a.hlt()?;
        a.jmp(wait)?;
        let [mut done, mut on] = core::array::from_fn(|_| a.create_label());
        a.set_label(&mut handler)?;
        a.mov(edx, 0x3fdu32)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.jz(done)?;
        a.mov(edx, 0x3f8u32)?;
        a.in_(al, dx)?;
        a.out(dx, al)?;
        a.cmp(al, i32::from(b'.'))?;
        a.jne(on)?;
        leave(a)?;
        a.set_label(&mut on)?;
        a.jmp(handler)?;
        a.set_label(&mut done)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iretq()
    })
}

fn keys(text: &str) -> VecDeque<(InputKind, u64)> {
    text.bytes().map(|byte| (InputKind::Console, byte.into())).collect()
}

#[test]
fn what_is_typed_reaches_the_guest_and_the_events() {
    let world = Run { answers: keys("typed."), ..Run::default() };
    let run = run_in(&config(), &kernel(echo()), world);
    assert_eq!(run.console, "typed.");
    assert_eq!(run.stop.unwrap().kind, StopKind::DebugExit);
    let inputs: Vec<u8> = run
        .events
        .iter()
        .filter_map(|event| match event.what {
            What::Input(Input { kind: InputKind::Console, value, .. }) => Some(value as u8),
            _ => None,
        })
        .collect();
    assert_eq!(inputs, b"typed.");
}

#[test]
fn more_than_the_port_holds_may_be_typed_ahead() {
    let text = format!("{}.", "0123456789".repeat(20));
    let spin = Config { slice: 50, ..config() };
    let world = Run { answers: keys(&text), eager: true, ..Run::default() };
    let run = run_in(&spin, &kernel(echo()), world);
    assert_eq!(run.console, text);
}

#[test]
fn the_world_ends_a_run_by_input_and_by_refusing_more() {
    let asked = Run { answers: [(InputKind::Stop, 0)].into(), ..Run::default() };
    let run = run_in(&config(), &kernel(echo()), asked);
    let stop = run.stop.unwrap();
    assert_eq!(stop.kind, StopKind::World);
    assert_eq!(run.events.last().map(|event| event.what.clone()), Some(What::Stop(stop)));

    let refuses = Run { enough: Some(5), ..Run::default() };
    let run = run_in(&config(), &kernel(echo()), refuses);
    assert_eq!(run.stop.unwrap().kind, StopKind::World);
    assert!(run.events.iter().all(|event| !matches!(event.what, What::Stop(_))));
}

fn check_refused(config: &Config, images: &[Image], expected: &str) {
    let got = Machine::new(config, images).map(|_| ()).expect_err(expected).to_string();
    assert!(got.contains(expected), "'{got}' does not say '{expected}'");
}

#[test]
fn what_cannot_be_built_says_why() {
    let guest = |name: &str| collect::config(name, "mapped");
    check_refused(&guest("demos"), &[], "there is no built-in guest 'demos'; there are demo, flush-storm");
    check_refused(&Config { memory: 8 << 20, ..guest("demo") }, &[], "needs 16777216 bytes of memory");
    check_refused(&Config { memory: 0, ..guest("demo") }, &[], "needs 16777216 bytes of memory");
    check_refused(&Config { memory: 65 << 30, ..guest("demo") }, &[], "the guest's memory is 69793218560");
    check_refused(&Config { memory: (16 << 20) + 1, ..guest("demo") }, &[], "a multiple of 4096");
    check_refused(&Config { pcpus: 0, ..guest("demo") }, &[], "the number of physical CPUs is 0");
    check_refused(&Config { pcpus: 65, ..guest("demo") }, &[], "from 1 to 64");
    check_refused(&Config { vcpus: 0, ..guest("demo") }, &[], "the number of vCPUs is 0");
    check_refused(&Config { slice: 0, ..guest("demo") }, &[], "the slice is 0");
    check_refused(&Config { tlb_entries: 15, ..guest("demo") }, &[], "from 16");
    check_refused(&config(), &[], "there is no image of it");
    check_refused(&config(), &kernel(b"#!/bin/sh".to_vec()), "cannot boot 'kernel': it is no kernel");
    check_refused(&config(), &kernel(Vec::new()), "the file is empty");
    let good = elf(leave);
    check_refused(&config(), &kernel(good[..0x1000].to_vec()), "the file ends within an ELF segment");
    check_refused(&config(), &kernel(good[..70].to_vec()), "the file ends within its ELF headers");
    let mut images = kernel(good);
    images.push(Image { kind: ImageKind::Initrd, name: "initrd".to_owned(), bytes: vec![0; 17 << 20].into() });
    check_refused(&config(), &images, "the initrd behind the kernel needs");
    let long = Config { guest: Guest::Kernel { name: String::new(), append: "x".repeat(5000) }, ..config() };
    check_refused(&long, &images, "the command line has 5000 bytes");
}

#[test]
fn damaged_kernels_are_refused_or_run_but_never_break_the_machine() {
    let good = [elf(leave), multiboot(leave)];
    let mut random = 0x1234_5678_9abc_def0u64;
    for _ in 0..500 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut image = good[(random >> 63) as usize].clone();
        let headers = if image[0] == 0x7f { 120 } else { 32 };
        image[(random >> 33) as usize % headers] ^= 1 << (random >> 60 & 7);
        let config = Config { memory: 2 << 20, max_instructions: Some(1_000), ..config() };
        if let Ok(mut machine) = Machine::new(&config, &kernel(image)) {
            // What L0 carries out for the guest is no instruction of the guest's, and zeroes are stores to no RAM.
            machine.run(&mut Run { enough: Some(10_000), ..Run::default() });
        }
    }
}
