//! Gathers: what a fault in the middle leaves, and registers that must differ. Their results are compared with the
//! host's own elsewhere.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use hv_defs::addr::Hpa;

/// VPGATHERDD xmm1, [rax + INDEX*4], MASK.
fn machine(index: u8, mask: u8) -> Machine {
    let code = [0xc4, 0xe2, (!mask & 15) << 3 | 1, 0x90, 1 << 3 | 4, 2 << 6 | index << 3];
    let mut machine = Machine::new(Mode::Long, &code);
    machine.cpu.regs.xcr0 = 7;
    machine.cpu.controls.exception_bitmap = u32::MAX;
    for at in 0..64u32 {
        machine.memory.write(Hpa(DATA + 4 * u64::from(at)), at + 0x100);
    }
    machine.cpu.regs.gpr[0] = DATA;
    machine
}

fn vector(elements: [u32; 4]) -> u128 {
    elements.into_iter().rev().fold(0, |all, element| all << 32 | u128::from(element))
}

#[track_caller]
fn exception(machine: &mut Machine) -> u8 {
    match machine.run(1) {
        Trap::Exit(info) => info.intr_info.vector(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn elements_come_from_where_the_indices_say() {
    let mut machine = machine(2, 3);
    machine.cpu.set_xmm(1, vector([1, 2, 3, 4]));
    machine.cpu.set_xmm(2, vector([5, 0, 63, 7]));
    machine.cpu.set_xmm(3, vector([1 << 31, 0, u32::MAX, 0x7fff_ffff]));
    machine.run(1);
    assert_eq!(machine.cpu.xmm(1), vector([0x105, 2, 0x13f, 4]));
    assert_eq!(machine.cpu.xmm(3), 0);
}

#[test]
fn a_fault_leaves_what_came_before_it() {
    let mut machine = machine(2, 3);
    machine.cpu.set_xmm(1, vector([1, 2, 3, 4]));
    // The third is beyond what is mapped.
    machine.cpu.set_xmm(2, vector([1, 2, 0x1000_0000, 3]));
    machine.cpu.set_xmm(3, vector([u32::MAX; 4]));
    assert_eq!(exception(&mut machine), 14);
    assert_eq!(machine.cpu.xmm(1), vector([0x101, 0x102, 3, 4]));
    assert_eq!(machine.cpu.xmm(3), vector([0, 0, u32::MAX, u32::MAX]));
    assert_eq!(machine.cpu.rip, CODE);
    // It goes on from there once the index is good.
    machine.cpu.set_xmm(2, vector([0, 0, 9, 3]));
    machine.run(1);
    assert_eq!(machine.cpu.xmm(1), vector([0x101, 0x102, 0x109, 0x103]));
}

#[test]
fn its_registers_must_differ() {
    assert_eq!(exception(&mut machine(1, 3)), 6);
    assert_eq!(exception(&mut machine(2, 1)), 6);
    assert_eq!(exception(&mut machine(2, 2)), 6);
}
