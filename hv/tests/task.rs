//! Hardware task switches of a 32-bit guest: by CALL, by JMP through a task gate, by an exception with an error code, and
//! back by IRET. Each step's outcome is a mark with one exact value.

#[path = "support/collect.rs"]
mod collect;

use collect::{Run, run_in};
use hv::machine::Image;
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::{StopKind, What};
use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction};

const LOAD: u32 = 0x10_0000;
/// The code of each task, and the operands of LGDT and LIDT.
const CODE: [u32; 4] = [LOAD + 0x40, LOAD + 0x800, LOAD + 0xa00, LOAD + 0xc00];
const POINTERS: u32 = LOAD + 0x1f00;
const GDT: u32 = LOAD + 0x2000;
const IDT: u32 = LOAD + 0x3000;
/// The task that begins, that which is called, and that which takes the exception.
const TASKS: [u32; 3] = [LOAD + 0x4000, LOAD + 0x4100, LOAD + 0x4200];
/// A task of 16 bits.
const SHORT: u32 = LOAD + 0x4300;
const STACKS: [u32; 3] = [0x20_0000, 0x21_0000, 0x22_0000];
const END: u32 = LOAD + 0x5000;

const CODE_SELECTOR: u16 = 0x08;
const DATA: u16 = 0x10;
const TASK: [u16; 3] = [0x18, 0x20, 0x28];
const GATE: u16 = 0x30;
const SHORT_TASK: u16 = 0x38;
const SHORT_CODE: u16 = 0x40;
/// A selector beyond the table.
const BAD: u32 = 0x100;

type Asm = Result<(), IcedError>;

fn mark(a: &mut CodeAssembler, value: u32) -> Asm {
    a.mov(eax, value)?;
    mark_eax(a)
}

fn mark_eax(a: &mut CodeAssembler) -> Asm {
    a.mov(edx, 0xe9a)?;
    a.out(dx, eax)
}

/// The type byte of a task's descriptor.
fn mark_type(a: &mut CodeAssembler, selector: u16) -> Asm {
    a.movzx(eax, byte_ptr(GDT + u32::from(selector) + 5))?;
    mark_eax(a)
}

fn far(a: &mut CodeAssembler, code: Code, selector: u16) -> Asm {
    a.add_instruction(Instruction::with_far_branch(code, selector, 0)?)
}

/// Assembles one task's code.
fn code(at: u32, f: impl Fn(&mut CodeAssembler) -> Asm) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).expect("a mode");
    f(&mut a).expect("the program assembles");
    a.assemble(at.into()).expect("the program assembles")
}

fn begins(a: &mut CodeAssembler) -> Asm {
    a.lgdt(fword_ptr(POINTERS))?;
    // Both are of seven bytes.
    a.add_instruction(Instruction::with_far_branch(Code::Jmp_ptr1632, CODE_SELECTOR, CODE[0] + 14)?)?;
    a.lidt(fword_ptr(POINTERS + 8))?;
    a.mov(eax, u32::from(DATA))?;
    for segment in [ds, es, ss, fs, gs] {
        a.mov(segment, eax)?;
    }
    a.mov(esp, STACKS[0])?;
    a.mov(eax, u32::from(TASK[0]))?;
    a.ltr(ax)?;
    a.mov(ebx, 0x1234)?;
    far(a, Code::Call_ptr1632, TASK[1])?;
    mark(a, 0x11)?;
    a.mov(eax, ebx)?;
    mark_eax(a)?;
    mark_type(a, TASK[1])?;
    far(a, Code::Jmp_ptr1632, GATE)?;
    mark(a, 0x12)?;
    mark_type(a, TASK[1])?;
    // An exception whose gate is a task's.
    a.mov(eax, BAD)?;
    a.mov(fs, eax)?;
    mark(a, 0x13)?;
    a.mov(eax, cr0)?;
    a.and(eax, 8)?;
    mark_eax(a)?;
    far(a, Code::Call_ptr1632, SHORT_TASK)?;
    mark(a, 0x14)?;
    a.xor(eax, eax)?;
    a.out(0xf4, al)
}

fn called(a: &mut CodeAssembler) -> Asm {
    mark(a, 0x21)?;
    a.movzx(eax, word_ptr(TASKS[1]))?;
    mark_eax(a)?;
    a.pushfd()?;
    a.pop(eax)?;
    a.and(eax, 0x4000)?;
    mark_eax(a)?;
    a.mov(eax, esp)?;
    mark_eax(a)?;
    mark_type(a, TASK[0])?;
    mark_type(a, TASK[1])?;
    a.mov(ebx, 0x5678)?;
    a.iretd()?;
    // Entered again, by a jump.
    mark(a, 0x22)?;
    mark_type(a, TASK[0])?;
    a.mov(eax, ebx)?;
    mark_eax(a)?;
    far(a, Code::Jmp_ptr1632, TASK[0])
}

fn taken(a: &mut CodeAssembler) -> Asm {
    a.pop(eax)?;
    mark_eax(a)?;
    // Over the MOV to FS.
    a.add(dword_ptr(TASKS[0] + 32), 2)?;
    a.iretd()
}

/// Of 16 bits: MOV AX, 0x16; MOV DX, 0xe9a; OUT DX, EAX; IRET.
const SHORT_PROGRAM: [u8; 9] = [0xb8, 0x16, 0x00, 0xba, 0x9a, 0x0e, 0x66, 0xef, 0xcf];

fn put(image: &mut [u8], at: u32, bytes: &[u8]) {
    let at = (at - LOAD) as usize;
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn image() -> Vec<u8> {
    let mut image = vec![0; (END - LOAD) as usize];
    let header = [0x1bad_b002, 0x1_0000, 0xe451_4ffe, LOAD, LOAD, END, END, CODE[0]];
    assert_eq!(header[..3].iter().fold(0u32, |sum, word| sum.wrapping_add(*word)), 0);
    for (at, word) in header.into_iter().enumerate() {
        put(&mut image, LOAD + 4 * at as u32, &word.to_le_bytes());
    }
    put(&mut image, CODE[0], &code(CODE[0], begins));
    put(&mut image, CODE[1], &code(CODE[1], called));
    put(&mut image, CODE[2], &code(CODE[2], taken));
    put(&mut image, CODE[3], &SHORT_PROGRAM);
    for (at, base) in [(POINTERS, GDT), (POINTERS + 8, IDT)] {
        put(&mut image, at, &0x7fu16.to_le_bytes());
        put(&mut image, at + 2, &base.to_le_bytes());
    }
    let task = |base: u32, kind: u64, limit: u64| limit | u64::from(base) << 16 | kind << 40;
    let gate = |selector: u16| u64::from(selector) << 16 | 0x85 << 40;
    let descriptors = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        task(TASKS[0], 0x89, 0x67),
        task(TASKS[1], 0x89, 0x67),
        task(TASKS[2], 0x89, 0x67),
        gate(TASK[1]),
        task(SHORT, 0x81, 43),
        // 16-bit code from where the program is.
        0x0000_9b00_0000_ffff | u64::from(LOAD) << 16,
    ];
    for (at, descriptor) in descriptors.into_iter().enumerate() {
        put(&mut image, GDT + 8 * at as u32, &descriptor.to_le_bytes());
    }
    put(&mut image, IDT + 8 * 13, &gate(TASK[2]).to_le_bytes());
    for number in [1, 2] {
        let (task, stack) = (TASKS[number], STACKS[number]);
        put(&mut image, task + 32, &CODE[number].to_le_bytes());
        put(&mut image, task + 36, &2u32.to_le_bytes());
        put(&mut image, task + 56, &stack.to_le_bytes());
        for (number, selector) in [DATA, CODE_SELECTOR, DATA, DATA, 0, 0].into_iter().enumerate() {
            put(&mut image, task + 72 + 4 * number as u32, &selector.to_le_bytes());
        }
    }
    put(&mut image, SHORT + 14, &((CODE[3] - LOAD) as u16).to_le_bytes());
    put(&mut image, SHORT + 16, &2u16.to_le_bytes());
    put(&mut image, SHORT + 26, &0xf000u16.to_le_bytes());
    for (number, selector) in [DATA, SHORT_CODE, DATA, DATA].into_iter().enumerate() {
        put(&mut image, SHORT + 34 + 2 * number as u32, &selector.to_le_bytes());
    }
    image
}

#[test]
fn tasks_are_switched_as_the_tables_say() {
    let config = Config {
        memory: 16 << 20,
        max_instructions: Some(1_000_000),
        ..Config::new(Guest::Kernel { name: "tasks".into(), append: String::new() })
    };
    let run = run_in(
        &config,
        &[Image { kind: ImageKind::Kernel, name: "tasks".to_owned(), bytes: image().into() }],
        Run::default(),
    );
    let stop = run.stop.expect("the run ended");
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, 1), "{stop:?}");
    let marks: Vec<u32> = run
        .events
        .iter()
        .filter_map(|event| if let What::Mark(mark) = event.what { Some(mark) } else { None })
        .collect();
    let called = [0x21, TASK[0].into(), 0x4000, STACKS[1], 0x8b, 0x8b];
    let returned = [0x11, 0x1234, 0x89];
    let jumped = [0x22, 0x89, 0x5678, 0x12, 0x89];
    let taken = [BAD, 0x13, 8];
    let short = [0x16, 0x14];
    assert_eq!(marks, [&called[..], &returned, &jumped, &taken, &short].concat());
}
