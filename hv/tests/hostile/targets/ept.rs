//! EPT12 tables of any content below an honest L1, and what L2 reads, writes and fetches through them. What becomes of each
//! access is what a plain walk of EPT12 says: the byte that lies there, a violation with its address, or a misconfiguration.
//! At the end every leaf of EPT02 is one of EPT12's, with no right more. `Watched` sees that none of them is L0's memory.

use super::super::case::Case;
use super::super::contents::{self, words};
use super::super::dice::Dice;
use super::super::layout::*;
use hv::l0::{L0_MEMORY, Ran};
use hv::silicon::Silicon;
use hv_defs::addr::Hpa;
use hv_defs::event::StopKind;
use hv_defs::vmcs;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// EPT12's tables: a PML4, a PDPT, a PD and the PT of L2's own 2 MiB; then tables that are anything.
const TABLE_COUNT: u64 = 7;
/// What L1 notes of each exit, 32 bytes each; then where the next goes, and registers of L2's.
const NOTES: u64 = 0x7_8000;
const NEXT_NOTE: u64 = 0x7_7000;
const SAVED: u64 = 0x7_7100;
/// Pages that L2 may be given.
const DATA: u64 = 0x40_0000;
const DATA_END: u64 = 0x60_0000;
/// Where a page of them has a RET.
const RETURN: u64 = 0x40;

const SLOT: u64 = 32;
/// Accesses of an input at most.
const ACCESSES: u64 = 24;

const VIOLATION: u64 = 48;
const MISCONFIGURATION: u64 = 49;
const VMCALL: u64 = 18;

/// What L2 does, and the values of an entry's and of a qualification's lowest bits for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read = 1,
    Write = 2,
    Fetch = 4,
}

/// L1: it notes each exit and has L2 go on with the next access.
fn hypervisor() -> Result<(Vec<u8>, Vec<u8>), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.vmxon(qword_ptr(POINTERS + 8 * VMCSS))?;
    begin_l2(&mut a)?;
    a.mov(eax, 1)?; // it is refused
    a.out(0xf4, al)?;
    let start = a.assemble(DRIVER)?;

    let mut a = CodeAssembler::new(64)?;
    let mut on = a.create_label();
    for (at, register) in (SAVED..).step_by(8).zip([rax, rcx, rdx, rbx]) {
        a.mov(qword_ptr(at), register)?;
    }
    a.mov(rbx, qword_ptr(NEXT_NOTE))?;
    a.mov(qword_ptr(rbx + 8), rax)?;
    for (field, at) in [
        (vmcs::EXIT_REASON.field(), 0),
        (vmcs::GUEST_PHYSICAL_ADDRESS.field(), 16),
        (vmcs::EXIT_QUALIFICATION.field(), 24),
    ] {
        a.mov(eax, field.0)?;
        a.vmread(rcx, rax)?;
        a.mov(qword_ptr(rbx + at), rcx)?;
    }
    a.add(rbx, 32)?;
    a.mov(qword_ptr(NEXT_NOTE), rbx)?;
    a.mov(rcx, qword_ptr(rbx - 32))?;
    for reason in [VIOLATION, MISCONFIGURATION, VMCALL] {
        a.cmp(rcx, reason as i32)?;
        a.je(on)?;
    }
    a.mov(eax, 0)?; // the end
    a.out(0xf4, al)?;
    a.set_label(&mut on)?;
    // The note's number is the access's.
    a.sub(rbx, (NOTES - CODE) as i32)?;
    a.mov(eax, vmcs::GUEST_RIP.field().0)?;
    a.vmwrite(rax, rbx)?;
    for (at, register) in (SAVED..).step_by(8).zip([rax, rcx, rdx, rbx]) {
        a.mov(register, qword_ptr(at))?;
    }
    a.vmresume()?;
    Ok((start, a.assemble(RESUMER)?))
}

/// An entry that may be anything.
fn entry(dice: &mut Dice) -> u64 {
    let table = EPT12 + 0x1000 * dice.below(TABLE_COUNT);
    let page = DATA + 0x1000 * dice.below((DATA_END - DATA) >> 12);
    let rights = dice.below(8);
    match dice.below(12) {
        0 => dice.roll(),
        1 | 2 => table | 7,
        3 => table | rights,
        4 => table | rights | 1 << dice.below(64),
        5 => DATA | 0xb0 | rights,
        6 => 0x80 | 0x30 | rights,
        7 => page | 0x30 | rights,
        8 => page | 0x30 | rights | 1 << dice.below(64),
        9 => dice.pick(PAGES) & !0xfff | 0x30 | rights | dice.below(2) << 7,
        10 => page | dice.below(0x1000),
        _ => page | 0x37,
    }
}

/// What the bytes decide.
struct Setting {
    tables: Vec<[u64; 512]>,
    accesses: Vec<(u64, Kind)>,
    eptp: u64,
    /// Mode-based execute control.
    mode_based: bool,
}

fn setting(dice: &mut Dice) -> Setting {
    let mut tables = vec![[0u64; 512]; TABLE_COUNT as usize];
    let at = |number: u64| EPT12 + 0x1000 * number;
    tables[0][0] = at(1) | 7;
    tables[1][0] = at(2) | 7;
    tables[1][1] = at(4) | 7;
    tables[2][0] = at(3) | 7;
    for page in 0..512 {
        tables[3][page as usize] = (L2 + 0x1000 * page) | 0x37;
        tables[5][page as usize] = (DATA + 0x1000 * page) | 0x37;
    }
    tables[4][0] = at(5) | 7;
    tables[4][1] = at(6) | 7;
    tables[4][2] = DATA | 0xb7;
    let options = dice.below(0x100);
    const INDICES: &[usize] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 510, 511];
    for _ in 0..dice.below(32) {
        let table = dice.pick(&[0, 1, 1, 2, 4, 4, 5, 6]);
        let index = dice.pick(INDICES);
        let value = entry(dice);
        // What L2 itself stands on stays.
        if table == 4 || table >= 5 || index != 0 {
            tables[table][index] = value;
        }
    }
    let mut accesses = Vec::new();
    for _ in 0..1 + dice.below(ACCESSES) {
        let gib = dice.pick(&[1u64, 1, 1, 0, 2, 3, 4, 5, 511]);
        let large = dice.pick(INDICES) as u64;
        let page = dice.pick(INDICES) as u64;
        let kind = dice.pick(&[Kind::Read, Kind::Write, Kind::Fetch]);
        let offset = if kind == Kind::Fetch { RETURN } else { dice.pick(&[0, 8, 0x80, 0xff8]) };
        // Its own first 2 MiB are where its code and tables lie.
        let large = if gib == 0 && large == 0 { 1 } else { large };
        accesses.push((gib << 30 | large << 21 | page << 12 | offset, kind));
    }
    Setting { tables, accesses, eptp: EPT12 | if options & 1 != 0 { 0x5e } else { 0x1e }, mode_based: options & 6 == 6 }
}

/// What a walk finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walked {
    NotPresent,
    Misconfigured,
    /// An L1-physical address and what all entries permit.
    To(u64, u64),
    /// A table that is not in RAM.
    Elsewhere,
}

/// A plain walk of EPT12, of L1's memory as `read` has it.
/// See: SDM "EPT Translation Mechanism", "EPT Misconfigurations".
fn walk(setting: &Setting, gpa: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Walked {
    let (mut table, mut rights) = (setting.eptp & !0xfff, 7);
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let Some(entry) = read(table + 8 * (gpa >> shift & 511)) else { return Walked::Elsewhere };
        if entry & 7 == 0 && !(setting.mode_based && entry >> 10 & 1 != 0) {
            return Walked::NotPresent;
        }
        let leaf = level == 0 || level < 3 && entry & 0x80 != 0;
        let kind = entry >> 3 & 7;
        let within = (1u64 << shift) - 0x1000;
        // Execute-only translations are there.
        let wrong = entry & 3 == 2
            || entry & 0x000f_c000_0000_0000 != 0
            || !leaf && entry & 0x78 != 0
            || level == 3 && entry & 0x80 != 0
            || leaf && (matches!(kind, 2 | 3 | 7) || entry & within != 0);
        if wrong {
            return Walked::Misconfigured;
        }
        rights &= entry;
        table = entry & 0x000f_ffff_ffff_f000;
        if leaf {
            return Walked::To(table | gpa & ((1 << shift) - 1), rights & 7);
        }
    }
    unreachable!("level 0 is a leaf")
}

/// The vmcs12 of a 64-bit L2.
fn vmcs12_of(setting: &Setting, case: &Case) -> Vec<u8> {
    let mut v = (0..)
        .map(|seed| contents::good(&mut Dice::new(seed)))
        .find(|v| v.get(vmcs::GUEST_CR3) == PML4 && v.get(vmcs::ENTRY_CONTROLS).bits() & 1 << 9 != 0)
        .expect("one of 64 bits");
    for (field, value) in [
        (vmcs::PIN_BASED_CONTROLS.field(), 0x1f),
        (vmcs::PRIMARY_CONTROLS.field(), 0x8400_61f2),
        (vmcs::SECONDARY_CONTROLS.field(), 0xa2 | u64::from(setting.mode_based) << 22),
        (vmcs::EXCEPTION_BITMAP.field(), 0xffff_ffff),
        (vmcs::EPT_POINTER.field(), setting.eptp),
        (vmcs::HOST_RIP.field(), RESUMER),
        (vmcs::GUEST_RIP.field(), CODE),
        (vmcs::GUEST_RFLAGS.field(), 2),
        (vmcs::GUEST_CR0.field(), 0x8001_0033),
        (vmcs::GUEST_CR4.field(), 0x2020),
    ] {
        v.write(field, value);
    }
    for count in [vmcs::VM_ENTRY_MSR_LOAD_COUNT, vmcs::VM_EXIT_MSR_STORE_COUNT, vmcs::VM_EXIT_MSR_LOAD_COUNT] {
        v.set(count, 0);
    }
    contents::repair(&mut v, &case.bus.allowed);
    v.to_bytes().to_vec()
}

/// L2's code: the accesses, each in a slot of its own, and then the end.
fn script(accesses: &[(u64, Kind)]) -> Vec<u8> {
    let mut code = Vec::new();
    for (number, (at, kind)) in accesses.iter().enumerate() {
        code.extend([0x48, 0xbf]); // mov rdi, imm64
        code.extend(at.to_le_bytes());
        code.push(0xb9); // mov ecx, imm32
        code.extend((0x5a00_0000 + number as u32).to_le_bytes());
        code.extend(match kind {
            Kind::Read => &[0x48, 0x8b, 0x07][..],  // mov rax, [rdi]
            Kind::Write => &[0x48, 0x89, 0x0f][..], // mov [rdi], rcx
            Kind::Fetch => &[0xff, 0xd7][..],       // call rdi
        });
        code.extend([0x0f, 0x01, 0xc1]); // vmcall
        code.resize((number + 1) * SLOT as usize, 0x90);
    }
    code.extend([0x0f, 0xa2]); // cpuid
    code
}

/// L1's memory before the run.
fn fill(case: &mut Case, setting: &Setting) {
    let common = contents::common();
    for world in [0, L2] {
        for (at, bytes) in &common {
            case.put(world + at, bytes);
        }
    }
    let (start, resumer) = hypervisor().expect("code that assembles");
    case.put(DRIVER, &start);
    case.put(RESUMER, &resumer);
    case.put(POINTERS, &words((0..VMCSS).map(vmcs12).chain([VMXON])));
    case.put(VMXON, &words([hv::vmcs::REVISION.into()]));
    case.put(NEXT_NOTE, &words([NOTES]));
    for (number, table) in (0..).zip(&setting.tables) {
        case.put(EPT12 + 0x1000 * number, &words(*table));
    }
    let template12 = vmcs12_of(setting, case);
    case.put(template(0), &template12);
    // Linear addresses are L2-physical ones, 512 GiB of them; fetches are the supervisor's.
    case.put(L2 + PML4, &words([PDPT | 0x63]));
    case.put(L2 + PDPT, &words((0..512).map(|gib| gib << 30 | 0xe3)));
    case.put(L2 + CODE, &script(&setting.accesses));
    for page in (DATA..DATA_END).step_by(0x1000) {
        case.put(page, &words([page * 5, page * 7]));
        case.put(page + RETURN, &[0xc3]);
    }
}

fn read(case: &mut Case, at: u64) -> Option<u64> {
    if at >= RAM {
        return None;
    }
    let mut bytes = [0; 8];
    case.l0.silicon.silicon.read(Hpa(L0_MEMORY + at), &mut bytes);
    Some(u64::from_le_bytes(bytes))
}

/// Holds what L1 noted to what a plain walk says. Returns how many accesses could be compared, and whether that was all.
fn compare(case: &mut Case, setting: &Setting, ended: bool) -> (usize, bool) {
    let noted = ((read(case, NEXT_NOTE).expect("RAM") - NOTES) / 32) as usize;
    // What L2 writes to its pages, on top of what they held.
    let mut written = std::collections::BTreeMap::new();
    for (number, (gpa, kind)) in setting.accesses.iter().copied().enumerate() {
        let walked = walk(setting, gpa, |at| {
            let at = at.checked_sub(EPT12)?;
            setting.tables.get((at >> 12) as usize).map(|table| table[(at >> 3 & 511) as usize])
        });
        // A table that is none of those may lie anywhere, and may change.
        if walked == Walked::Elsewhere {
            return (number, false);
        }
        let what = || format!("access {number}, {kind:?} of {gpa:#x}, walked to {walked:x?}");
        let permitted = matches!(walked, Walked::To(_, rights) if rights & kind as u64 == kind as u64);
        let target = if let Walked::To(target, _) = walked { target } else { 0 };
        let data = (DATA..DATA_END).contains(&target);
        if permitted && !data && (target >= RAM || kind != Kind::Read) {
            // A device, or something that L1 or L2 stands on.
            return (number, false);
        }
        assert!(number < noted, "{}: nothing came of it, {ended}", what());
        let [reason, value, address, qualification] =
            [0, 8, 16, 24].map(|at| read(case, NOTES + 32 * number as u64 + at).expect("RAM"));
        let expected = match walked {
            Walked::Misconfigured => MISCONFIGURATION,
            _ if permitted => VMCALL,
            _ => VIOLATION,
        };
        assert_eq!(reason, expected, "{}", what());
        match expected {
            VIOLATION => {
                let rights = if let Walked::To(_, rights) = walked { rights } else { 0 };
                assert_eq!((address, qualification & 0x3f), (gpa, kind as u64 | rights << 3), "{}", what());
            }
            MISCONFIGURATION => assert_eq!(address, gpa, "{}", what()),
            _ if data && kind == Kind::Write => {
                written.insert(target, 0x5a00_0000 + number as u64);
            }
            _ if data && kind == Kind::Read => {
                let page = target & !0xfff;
                let held = match target & 0xfff {
                    0 => page * 5,
                    8 => page * 7,
                    _ => 0,
                };
                assert_eq!(value, written.get(&target).copied().unwrap_or(held), "{}", what());
            }
            _ => {}
        }
    }
    for (at, value) in &written {
        assert_eq!(read(case, *at), Some(*value), "at {at:#x}");
    }
    assert!(ended, "L2 does not come to its end");
    (setting.accesses.len(), true)
}

/// Every leaf of every EPT02 is one of EPT12's, with no right more. Returns how many pages were looked at.
fn look_at_ept02(case: &mut Case, setting: &Setting) -> usize {
    let mut leaves = Vec::new();
    for root in case.l0.ept_roots() {
        let mut tables = vec![(root.eptp02 & !0xfff, 3u32, 0u64, 7u64)];
        while let Some((table, level, base, above)) = tables.pop() {
            let mut bytes = [0; 4096];
            case.l0.silicon.silicon.read(Hpa(table), &mut bytes);
            for (index, word) in (0u64..).zip(bytes.chunks_exact(8)) {
                let entry = u64::from_le_bytes(word.try_into().expect("8 bytes"));
                let gpa = base | index << (12 + 9 * level);
                if entry & 7 == 0 {
                    continue;
                }
                let rights = above & entry;
                if level == 0 || entry & 0x80 != 0 {
                    leaves.push((gpa, entry, 12 + 9 * level, rights));
                } else {
                    tables.push((entry & 0x000f_ffff_ffff_f000, level - 1, gpa, rights));
                }
            }
        }
    }
    for (gpa, entry, shift, given) in &leaves {
        let last = (1u64 << shift) - 0x1000;
        for offset in [0, last] {
            let walked = walk(setting, gpa + offset, |at| read(case, at));
            let Walked::To(target, rights) = walked else { panic!("EPT02 maps {gpa:#x} by {entry:#x}: {walked:?}") };
            let mapped = (entry & 0x000f_ffff_ffff_f000 & !last) + offset;
            assert_eq!(mapped, L0_MEMORY + target, "EPT02 maps {gpa:#x} by {entry:#x}");
            assert_eq!(given & !rights, 0, "EPT02 maps {gpa:#x} by {entry:#x}, EPT12 permits {rights}");
        }
    }
    leaves.len()
}

fn run(data: &[u8]) -> u64 {
    let mut case = Case::bare(Dice::of(data), 1, true);
    let allowed = case.probe();
    case.bus.allowed = allowed;
    let mut setting = setting(&mut case.dice);
    setting.mode_based &= allowed.secondary >> 54 & 1 != 0;
    fill(&mut case, &setting);
    case.begin();
    let mut ended = false;
    for _ in 0..2000 {
        let until = case.l0.silicon.retired() + 500;
        let ran = case.l0.run_vcpu(0, 0, &mut case.bus, &mut case.log, until);
        case.log.events.clear();
        if let Ran::Stop(stop) = ran {
            assert!(!stop.text.contains("silicon"), "{stop:?}");
            let refused = stop.kind == StopKind::DebugExit && stop.code == 3;
            assert!(!refused, "L1 cannot launch L2");
            ended = stop.kind == StopKind::DebugExit;
            break;
        }
    }
    let (compared, all) = compare(&mut case, &setting, ended);
    let pages = if all { look_at_ept02(&mut case, &setting) } else { 0 };
    case.l0.silicon.digest() ^ compared as u64 ^ (pages as u64) << 32
}

pub(super) fn target(data: &[u8]) {
    super::same_again(data, || run(data));
}
