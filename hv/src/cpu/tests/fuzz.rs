//! Any bytes, in any mode, end in executed instructions, a fault, an exit or a report.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, MEMORY, Machine, Mode, STACK, USER_CODE, USER_DATA};
use hv_defs::addr::Hpa;
use hv_defs::exit::Reason;
use hv_defs::x86::{AccessRights, Rflags, Seg};
use iced_x86::{Decoder, DecoderOptions};

/// A generator of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

fn any_bytes(mode: Mode, cases: u32) {
    let mut numbers = Numbers(mode as u64);
    let mut machine = Machine::new(mode, &[]);
    let fresh = Machine::new(mode, &[]);
    let mut executed = 0;
    for _ in 0..cases {
        let code: [u8; 32] = core::array::from_fn(|_| numbers.next() as u8);
        machine.memory.write_bytes(Hpa(CODE), &code);
        machine.cpu.reset_like(&fresh.cpu);
        for register in &mut machine.cpu.regs.gpr {
            *register = match numbers.next() % 3 {
                0 => DATA + numbers.next() % 0x8_0000,
                1 => numbers.next() % 256,
                _ => numbers.next(),
            };
        }
        machine.cpu.regs.gpr[1] &= 0xfff;
        let before = machine.clock;
        let trap = machine.run(4);
        assert!(machine.clock - before <= 4 + 4, "{code:x?}");
        executed += machine.clock - before;
        if let Trap::Unsupported(report) = trap {
            assert!(!report.what.is_empty() && report.bytes.len() <= 15, "{report:x?}");
        }
    }
    // A generator that only ever faulted would test little.
    assert!(executed > u64::from(cases), "{mode:?}: {executed} of {cases}");
}

#[test]
fn any_bytes_in_64_bit_mode() {
    any_bytes(Mode::Long, 60_000);
}

#[test]
fn any_bytes_in_compatibility_mode() {
    any_bytes(Mode::Compatibility, 30_000);
}

#[test]
fn any_bytes_in_protected_mode() {
    any_bytes(Mode::Protected32, 30_000);
    any_bytes(Mode::Protected16, 30_000);
}

#[test]
fn any_bytes_in_real_mode() {
    any_bytes(Mode::Real, 30_000);
}

/// How many times as many cases as by default: `NVMX_FUZZ_ROUNDS`.
fn rounds() -> u32 {
    std::env::var("NVMX_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Who runs the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Kernel,
    User,
    Virtual8086,
}

/// The machine's CPU as it begins a case, but for its registers.
fn prepare(machine: &mut Machine, who: Who) {
    let cpu = &mut machine.cpu;
    if who == Who::Kernel {
        return;
    }
    for segment in &mut cpu.seg {
        let rights = u32::from(segment.rights) | 0x60;
        segment.rights = AccessRights::from(rights);
        segment.selector = USER_DATA;
    }
    cpu.seg[Seg::Cs as usize].selector = USER_CODE;
    if who == Who::Virtual8086 {
        for segment in &mut cpu.seg {
            segment.rights = AccessRights::from(0xf3);
            segment.limit = 0xffff;
            segment.selector = (CODE >> 4) as u16;
            segment.base = CODE;
        }
        cpu.rip = 0;
        cpu.set_rflags(Rflags::VM.bits() | 2);
    }
}

/// Instructions of which most decode, with short jumps back and forth among them.
fn code(numbers: &mut Numbers, bits: u32) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..10 + numbers.next() % 30 {
        match numbers.next() % 10 {
            0 => {
                let jump = [0xeb, 0x70, 0x75, 0x74, 0x7c, 0xe2, 0xe0, 0xe3][numbers.next() as usize % 8];
                code.extend([jump, (numbers.next() % 48) as u8 ^ [0, 0xff][numbers.next() as usize % 2]]);
            }
            // A store to the code itself, through a register that points into it.
            1 => code.extend([0x88, 0x80 | (numbers.next() as u8 & 0x3f), numbers.next() as u8 & 0x7f, 0, 0, 0]),
            _ => {
                for _ in 0..8 {
                    let bytes: [u8; 15] = core::array::from_fn(|_| numbers.next() as u8);
                    let mut decoder = Decoder::new(bits, &bytes, DecoderOptions::NONE);
                    let instruction = decoder.decode();
                    if !instruction.is_invalid() && !instruction.is_privileged() {
                        code.extend(&bytes[..instruction.len()]);
                        break;
                    }
                }
            }
        }
    }
    code
}

/// Gives both machines the same registers.
fn registers(numbers: &mut Numbers, machines: [&mut Machine; 2]) {
    let mut gpr = [0; 16];
    for register in &mut gpr {
        *register = match numbers.next() % 8 {
            0 => CODE + numbers.next() % 64,
            1..5 => DATA + numbers.next() % 0x3000,
            5 => numbers.next() % 256,
            6 => DATA + 0xff0 + numbers.next() % 32,
            _ => numbers.next(),
        };
    }
    gpr[1] &= 0x3f;
    gpr[4] = STACK;
    let flags = numbers.next() & 0xcd5 | if numbers.next().is_multiple_of(16) { 0x100 } else { 0 };
    for machine in machines {
        machine.cpu.regs.gpr = gpr;
        let kept = machine.cpu.rflags() & Rflags::VM.bits();
        machine.cpu.set_rflags(flags | kept | 2);
        machine.cpu.mode_changed();
    }
}

/// What of two machines differs.
fn difference(a: &Machine, b: &Machine, all: bool) -> Option<String> {
    let (x, y) = (&a.cpu, &b.cpu);
    let told = |name: &str, x: &dyn core::fmt::Debug, y: &dyn core::fmt::Debug| {
        let (x, y) = (format!("{x:x?}"), format!("{y:x?}"));
        (x != y).then(|| format!("{name}: {x} in blocks, {y} in steps"))
    };
    let memory = |from: u64, bytes: usize| {
        (a.memory.bytes(Hpa(from), bytes) != b.memory.bytes(Hpa(from), bytes)).then(|| format!("memory at {from:#x}"))
    };
    told("clock", &a.clock, &b.clock)
        .or_else(|| told("rip", &x.rip, &y.rip))
        .or_else(|| told("registers", &x.regs.gpr, &y.regs.gpr))
        .or_else(|| told("rflags", &x.rflags(), &y.rflags()))
        .or_else(|| told("segments", &x.seg, &y.seg))
        .or_else(|| told("control registers", &[x.cr0, x.regs.cr2, x.cr3, x.cr4], &[y.cr0, y.regs.cr2, y.cr3, y.cr4]))
        .or_else(|| told("extended state", &x.regs.extended.0, &y.regs.extended.0))
        .or_else(|| {
            let blocking = (x.interruptibility.bits(), x.pending_debug);
            told("blocking", &blocking, &(y.interruptibility.bits(), y.pending_debug))
        })
        .or_else(|| if all { memory(0, MEMORY as usize) } else { memory(CODE, 4096).or_else(|| memory(DATA, 0x4000)) })
}

/// Random instructions end alike, to the count, whether they run in blocks or one at a time.
fn blocks_are_steps(mode: Mode, who: Who, cases: u32) {
    let seed = (mode as u64) << 8 | who as u64;
    let mut numbers = Numbers(0xb10c_0000 | seed);
    let (mut blocks, mut steps) = (Machine::new(mode, &[]), Machine::new(mode, &[]));
    let fresh = Machine::new(mode, &[]);
    let bits = match mode {
        Mode::Long => 64,
        Mode::Protected32 | Mode::Compatibility if who != Who::Virtual8086 => 32,
        _ => 16,
    };
    let mut executed = 0;
    for case in 0..cases * rounds() {
        let bytes = code(&mut numbers, bits);
        // Near the page's end now and then, so that an instruction crosses it.
        let at = if numbers.next().is_multiple_of(4) { 4096 - numbers.next() % 40 } else { 0 };
        for machine in [&mut blocks, &mut steps] {
            machine.cpu.reset_like(&fresh.cpu);
            prepare(machine, who);
            machine.cpu.rip += at;
            // Tables that a case may have written are as before.
            let tables = fresh.memory.bytes(Hpa(0), 0xb000).expect("tables lie in memory").to_vec();
            machine.memory.write_bytes(Hpa(0), &tables);
            machine.memory.write_bytes(Hpa(CODE + at), &bytes);
            machine.cpu.seed = 1;
        }
        registers(&mut numbers, [&mut blocks, &mut steps]);
        let most = 1 + numbers.next() % 120;
        let start = blocks.clock;
        let whole = blocks.run(most);
        let mut step = steps.run(1);
        while matches!(&step, Trap::Exit(exit) if exit.reason.reason() == Reason::EXTERNAL_INTERRUPT)
            && steps.clock < start + most
        {
            step = steps.run(1);
        }
        executed += blocks.clock - start;
        let reason = |trap: &Trap| match trap {
            Trap::Exit(exit) => format!("{:?}", exit.reason.reason()),
            Trap::Unsupported(report) => report.what.clone(),
            Trap::Paused => "paused".to_owned(),
        };
        let clocks = (blocks.clock - start, steps.clock - start);
        let told = (whole != step)
            .then(|| format!("{} in blocks, {} in steps, clocks {clocks:?}", reason(&whole), reason(&step)));
        let told = told.or_else(|| difference(&blocks, &steps, case % 64 == 63));
        if let Some(told) = told {
            panic!("{mode:?} {who:?}, case {case}, {most} instructions: {told}, of {bytes:02x?} at {at:#x}");
        }
    }
    // A generator that only ever faulted would test little.
    assert!(executed > 4 * u64::from(cases), "{mode:?} {who:?}: {executed} of {cases}");
}

#[test]
fn blocks_are_steps_in_64_bit_mode() {
    blocks_are_steps(Mode::Long, Who::Kernel, 4000);
    blocks_are_steps(Mode::Long, Who::User, 4000);
}

#[test]
fn blocks_are_steps_in_32_bit_code() {
    blocks_are_steps(Mode::Compatibility, Who::Kernel, 2000);
    blocks_are_steps(Mode::Compatibility, Who::User, 2000);
    blocks_are_steps(Mode::Protected32, Who::Kernel, 2000);
    blocks_are_steps(Mode::Protected32, Who::User, 2000);
}

#[test]
fn blocks_are_steps_in_16_bit_code() {
    blocks_are_steps(Mode::Real, Who::Kernel, 2000);
    blocks_are_steps(Mode::Protected16, Who::Kernel, 2000);
    blocks_are_steps(Mode::Protected32, Who::Virtual8086, 2000);
}
