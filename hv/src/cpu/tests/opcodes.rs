//! Every encoding of what CPUID shows does something, and every encoding of what it does not show is #UD.

use crate::cpu::Trap;
use crate::cpu::testing::{CODE, DATA, Machine, Mode};
use crate::features::is_absent;
use hv_defs::addr::Hpa;
use hv_defs::exit::Reason;
use hv_defs::x86::Vector;
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// ModRM bytes to try: every digit, of a register and of memory at RAX; in VEX encoding, where few opcodes have digits, of
/// memory only two.
fn modrm(vex: bool) -> impl Iterator<Item = u8> {
    let memory = (0..8u8).take(if vex { 2 } else { 8 }).map(|digit| digit << 3);
    memory.chain((0..8u8).map(|digit| 0xc1 | digit << 3))
}

/// Opcodes of the legacy maps, with each prefix that may choose another instruction.
fn legacy(long: bool) -> Vec<Vec<u8>> {
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let mut all = Vec::new();
    for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3]] {
        for rex in [&[][..], &[0x48]].into_iter().take(if long { 2 } else { 1 }) {
            for map in maps {
                for opcode in 0..=255 {
                    all.push([prefix, rex, map, &[opcode]].concat());
                }
            }
        }
    }
    all
}

/// Opcodes of the VEX maps.
fn vex() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for map in 1..4u8 {
        for last in 0..16u8 {
            for opcode in 0..=255 {
                // W, vvvv of 1101 (register 2), L and pp.
                all.push(vec![0xc4, 0xe0 | map, (last & 8) << 4 | 0x68 | last & 7, opcode]);
            }
        }
    }
    all
}

fn check(mode: Mode, bits: u32, opcodes: &[Vec<u8>]) {
    let mut machine = Machine::new(mode, &[]);
    let mut fresh = Machine::new(mode, &[]);
    fresh.cpu.regs.xcr0 = 7;
    fresh.cpu.regs.gpr[..4].fill(DATA);
    fresh.cpu.regs.gpr[5..8].fill(DATA);
    fresh.cpu.controls.exception_bitmap = u32::MAX;
    let (mut there, mut missing) = (0, Vec::new());
    for opcode in opcodes {
        for modrm in modrm(opcode[0] == 0xc4) {
            let mut code = [0x01; 24];
            code[..opcode.len()].copy_from_slice(opcode);
            code[opcode.len()] = modrm;
            let instruction = Decoder::with_ip(bits, &code[..15], 0, DecoderOptions::NONE).decode();
            if instruction.is_invalid() {
                continue;
            }
            machine.memory.write_bytes(Hpa(CODE), &code);
            machine.cpu.reset_like(&fresh.cpu);
            let trap = machine.run(1);
            there += 1;
            if !fits(&instruction, &trap) {
                missing.push(format!("{instruction} [{:02x?}]: {trap:?}", &code[..opcode.len() + 1]));
            }
        }
    }
    assert!(there > opcodes.len() / 2, "{there} encodings");
    missing.dedup_by_key(|line| line.split(' ').next().map(str::to_owned));
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Whether running an instruction ended as its feature says.
fn fits(instruction: &Instruction, trap: &Trap) -> bool {
    match trap {
        Trap::Unsupported(_) | Trap::Paused => false,
        Trap::Exit(info) if is_absent(instruction) => {
            info.reason.reason() == Reason::EXCEPTION_NMI && info.intr_info.vector() == Vector::UD.0
        }
        Trap::Exit(_) => true,
    }
}

#[test]
fn every_opcode_in_64_bit_mode() {
    check(Mode::Long, 64, &legacy(true));
    check(Mode::Long, 64, &vex());
}

#[test]
fn every_opcode_in_protected_mode() {
    check(Mode::Protected32, 32, &legacy(false));
    check(Mode::Protected16, 16, &legacy(false));
}

#[test]
fn every_opcode_in_real_mode() {
    check(Mode::Real, 16, &legacy(false));
}
