//! Any bytes, in any mode, end in executed instructions, a fault, an exit or a report.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use hv_defs::addr::Hpa;

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
