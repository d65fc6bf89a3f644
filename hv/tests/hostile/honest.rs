//! A hostile L2 below an honest L1: whatever L2 does, and under whichever policy, L1's memory outside what EPT12 lets L2
//! write stays as it was.

use super::case::Case;
use super::contents::{self, Piece, words};
use super::dice::Dice;
use super::layout::*;
use super::{Guard, actions};
use hv::l0::{L0_MEMORY, Ran};
use hv::silicon::Silicon;
use hv_defs::addr::Hpa;
use hv_defs::event::{StopKind, What};
use hv_defs::vmcs;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where L2 sees L1's first 2 MiB, which it may read.
const READ_ONLY: usize = 2;

/// VMXON, a fresh vmcs12, and each exit is an instruction that is skipped, something that L2 goes on after, or else L2 is
/// begun anew.
fn hypervisor() -> Result<(Vec<u8>, Vec<u8>), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.vmxon(qword_ptr(POINTERS + 8 * VMCSS))?;
    begin_l2(&mut a)?;
    a.out(0xf4, al)?; // it does not fail
    let start = a.assemble(DRIVER)?;

    let mut a = CodeAssembler::new(64)?;
    let [mut anew, mut on] = core::array::from_fn(|_| a.create_label());
    // An interrupt that waits is taken here.
    a.sti()?;
    a.nop()?;
    a.cli()?;
    a.mov(eax, vmcs::EXIT_REASON.field().0)?;
    a.vmread(rcx, rax)?;
    for reason in [1u32, 7, 37, 52] {
        a.cmp(ecx, reason as i32)?;
        a.je(on)?;
    }
    for reason in [0u32, 2, 9, 43, 44, 48, 49, 54, 56] {
        a.cmp(ecx, reason as i32)?;
        a.je(anew)?;
    }
    a.test(ecx, ecx)?;
    a.js(anew)?;
    a.mov(eax, vmcs::GUEST_RIP.field().0)?;
    a.vmread(rcx, rax)?;
    a.mov(edx, vmcs::EXIT_INSTRUCTION_LENGTH.field().0)?;
    a.vmread(rbx, rdx)?;
    a.add(rcx, rbx)?;
    a.vmwrite(rax, rcx)?;
    a.set_label(&mut on)?;
    a.vmresume()?;
    a.set_label(&mut anew)?;
    begin_l2(&mut a)?;
    a.out(0xf4, al)?;
    Ok((start, a.assemble(RESUMER)?))
}

/// What lies in memory, and which pages L2, or L0 on its behalf, may write.
fn memory(dice: &mut Dice, allowed: &contents::Allowed) -> (Vec<Piece>, Vec<bool>) {
    let mut pieces = vec![(0x8_0000, vec![0xcc; (RAM - 0x8_0000) as usize])];
    let mut tables = contents::common();
    for number in 0..CHUNKS {
        tables.push((CODE + number * CHUNK as u64, actions::chunk(dice)));
    }
    let own: Vec<Piece> = tables.iter().map(|(at, bytes)| (L2 + at, bytes.clone())).collect();
    pieces.extend(tables);
    pieces.extend(own);
    let (start, resumer) = hypervisor().expect("code that assembles");
    pieces.extend([(DRIVER, start), (RESUMER, resumer), (HANDLER, vec![0x48, 0xcf])]);
    pieces.push((POINTERS, words((0..VMCSS).map(vmcs12).chain([VMXON, SHADOW_VMCS]))));
    pieces.push((L2 + POINTERS, words((0..VMCSS).map(vmcs12).chain([VMXON, SHADOW_VMCS]))));
    pieces.push((VMXON, words([hv::vmcs::REVISION.into()])));
    let mut shadow = hv::vmcs::Vmcs::default();
    shadow.revision |= hv::vmcs::SHADOW;
    pieces.push((SHADOW_VMCS, shadow.to_bytes().to_vec()));

    let mut writable = vec![false; (RAM >> 12) as usize];
    let mut allow = |at: u64| writable[(at >> 12) as usize] = true;
    [vmcs12(0), SHADOW_VMCS, STACK - 0x1000, FAULT_STACK - 0x1000, VIRTUAL_APIC, APIC_ACCESS]
        .into_iter()
        .for_each(&mut allow);
    let mut tables = [[0u64; 512]; 4];
    tables[0][0] = (EPT12 + 0x1000) | 7;
    tables[1][0] = (EPT12 + 0x2000) | 7;
    tables[2][0] = (EPT12 + 0x3000) | 7;
    tables[2][READ_ONLY] = 0xb5;
    for (page, entry) in tables[3].iter_mut().enumerate() {
        let at = L2 + 0x1000 * page as u64;
        let rights = dice.pick(&[7, 7, 7, 7, 7, 7, 5, 1, 3, 0]);
        let driver = (DRIVER >> 12) as usize == page || page < 0x10;
        let rights = if driver { 7 } else { rights };
        *entry = if rights == 0 { 0 } else { at | 0x30 | rights };
        if rights & 2 != 0 {
            allow(at);
        }
    }
    for (level, table) in tables.iter().enumerate() {
        pieces.push((EPT12 + 0x1000 * level as u64, words(*table)));
    }

    let mut v = contents::good(dice);
    // L1 keeps to itself what would reach beyond L2's memory.
    v.set(vmcs::EPT_POINTER, hv_defs::ept::Eptp::from_bits(EPT12 | 0x1e));
    let raw = |field: hv_defs::vmcs::VmcsField, v: &hv::vmcs::Vmcs| v.read(field).unwrap_or(0);
    let primary = raw(vmcs::PRIMARY_CONTROLS.field(), &v) & !(1 << 25 | 1 << 28) | 1 << 24 | 1 << 7 | 1 << 31;
    let secondary = raw(vmcs::SECONDARY_CONTROLS.field(), &v) & !(1 << 13 | 1 << 17) | 1 << 1 | 1 << 7;
    v.write(vmcs::PRIMARY_CONTROLS.field(), primary);
    v.write(vmcs::SECONDARY_CONTROLS.field(), secondary);
    v.write(vmcs::PIN_BASED_CONTROLS.field(), raw(vmcs::PIN_BASED_CONTROLS.field(), &v) & !0xc0 | 9);
    for count in [vmcs::VM_ENTRY_MSR_LOAD_COUNT, vmcs::VM_EXIT_MSR_STORE_COUNT, vmcs::VM_EXIT_MSR_LOAD_COUNT] {
        v.set(count, 0);
    }
    v.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
    v.set(vmcs::HOST_RIP, RESUMER);
    contents::repair(&mut v, allowed);
    pieces.push((template(0), v.to_bytes().to_vec()));
    (pieces, writable)
}

impl Case {
    /// A digest of the pages that nobody may write.
    fn kept(&mut self, writable: &[bool]) -> Vec<u64> {
        let mut bytes = [0; 4096];
        let mut digests = Vec::new();
        for (page, _) in writable.iter().enumerate().filter(|(_, writable)| !**writable) {
            self.l0.silicon.silicon.read(Hpa(L0_MEMORY + 0x1000 * page as u64), &mut bytes);
            let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
            let digest =
                words.fold(page as u64, |sum, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
            digests.push(digest);
        }
        digests
    }
}

impl Case {
    fn compare(&mut self, writable: &[bool], before: &[u64]) {
        let now = self.kept(writable);
        let pages = (0..writable.len()).filter(|page| !writable[*page]);
        let changed: Vec<String> = pages
            .zip(before.iter().zip(now))
            .filter(|(_, (before, now))| *before != now)
            .map(|(page, _)| format!("{:#x}", page << 12))
            .collect();
        assert!(changed.is_empty(), "L2 has changed {}, which it may not write", changed.join(", "));
    }
}

fn run(seed: u64, steps: u64) -> u64 {
    let _guard = Guard("NVMX_HOSTILE_HONEST", seed);
    let mut case = Case::bare(Dice::new(seed), seed, true);
    let allowed = case.probe();
    let (pieces, writable) = memory(&mut case.dice, &allowed);
    for (at, bytes) in &pieces {
        case.put(*at, bytes);
    }
    case.begin();
    let before = case.kept(&writable);
    let mut exits = 0;
    for step in 0..steps {
        let until = case.l0.silicon.retired() + 1 + case.dice.below(500);
        if case.dice.once_in(50) {
            case.bus.vector[0] = Some(0x40);
        }
        let cpu = case.dice.below(case.pcpus as u64) as usize;
        let ran = case.l0.run_vcpu(0, cpu, &mut case.bus, &mut case.log, until);
        let l2 = |what: &What| matches!(what, What::Exit(exit) if exit.level == 2);
        exits += case.log.events.iter().filter(|event| l2(&event.what)).count() as u64;
        case.log.events.clear();
        if let Ran::Stop(stop) = &ran {
            assert_eq!(stop.kind, StopKind::Unsupported, "L1 is honest: {stop:?}");
            break;
        }
        if ran == Ran::Halted {
            case.bus.vector[0] = Some(0x40);
        }
        if step % 1000 == 999 {
            case.compare(&writable, &before);
        }
    }
    case.compare(&writable, &before);
    exits
}

#[test]
fn l2_reaches_nothing_that_ept12_does_not_give_it() {
    let first = super::number("NVMX_HOSTILE_HONEST").unwrap_or(0);
    let exits: u64 = (first..first + 24).map(|seed| run(seed, 3000)).sum();
    assert!(exits > 10_000, "{exits} exits of L2's: not much of a test");
}
