//! Random descriptors, selectors, paging structures, limits, gates and register values, by seed.

use crate::kit::*;
use crate::known::Deviation;
use hv::cpu::Segment;
use hv_defs::x86::{AccessRights, Seg};
use iced_x86::code_asm::*;

/// Numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A family: how it makes a case.
pub type Family = fn(&mut Dice) -> Case;

/// The families, each with its name.
pub const FAMILIES: [(&str, Family); 9] = [
    ("segment loads", loads),
    ("far branches", branches),
    ("system descriptors", systems),
    ("segment limits", limits),
    ("pages", pages),
    ("registers", registers),
    ("gates", gates),
    ("port permissions", ports),
    ("real mode", real),
];

/// Modes with descriptors.
const PROTECTED: [Mode; 4] = [Mode::Protected16, Mode::Protected32, Mode::Compatibility, Mode::Long];

/// A code or data descriptor, mostly present, mostly of a level that could do.
fn random_segment(dice: &mut Dice) -> u64 {
    let mut rights = 0x90 | dice.below(16);
    rights |= dice.pick(&[0u64, 0, 0x20, 0x40, 0x60, 0x60]);
    if dice.once_in(8) {
        rights &= !0x80;
    }
    if dice.once_in(8) {
        rights &= !0x10;
    }
    rights |= dice.below(16) << 12;
    let base = dice.pick(&[0, 0, DATA, DATA + 0x123, 0xfff0_0000]);
    let any = dice.next() & 0xf_ffff;
    let limit = dice.pick(&[0xf_ffff, 0xffff, 0xfff, 0x2_ffff, 0, any]);
    descriptor(base, limit, rights)
}

/// A selector of the case's random descriptor, or of anything.
fn random_selector(dice: &mut Dice, local: bool) -> u16 {
    let rpl = dice.pick(&[0u16, 0, 1, 2, 3, 3]);
    match dice.below(12) {
        0 => rpl,
        1 => dice.pick(&[CODE64, FLAT, CODE32, CODE16, DATA16, USER64, USER_FLAT, USER32, TASK, LOCAL]) & !3 | rpl,
        2 => dice.pick(&[0x7f8, 0x800, 0xfff8, 0xfc, 0x104, 0x7fc]) & !3 | rpl,
        3 => 4 | rpl,
        _ if local => 0x0c | rpl,
        _ => FREE | rpl,
    }
}

/// A case with a random code or data descriptor and a selector, both told in the name.
fn with_descriptor(dice: &mut Dice, mode: Mode, user: bool, what: &str) -> (Case, u16, u64) {
    let mut case = Case::new(mode);
    if user {
        case = case.user();
    }
    let local = dice.once_in(3);
    let value = random_segment(dice);
    let selector = random_selector(dice, local);
    if local {
        case.put(LDT + 8, value);
    } else {
        case.descriptor(FREE, value);
    }
    if dice.once_in(12) {
        case.state.ldtr = Segment { selector: 0, rights: AccessRights::from(0x1_0082), ..case.state.ldtr };
    }
    case.name = format!("{what} {selector:#x}, {value:#018x} ({mode:?}{})", if user { ", user" } else { "" });
    (case, selector, value)
}

fn put_code(case: &mut Case, code: &[u8]) {
    case.bytes(CODE, code);
    case.bytes(CODE + code.len() as u64, &[0xf4]);
}

fn loads(dice: &mut Dice) -> Case {
    let mode = dice.pick(&PROTECTED);
    let user = matches!(mode, Mode::Protected32 | Mode::Compatibility) && dice.once_in(3);
    let how = dice.below(6);
    let register = dice.pick(&[0u8, 2, 3, 4, 5]);
    let what = match how {
        0..=2 => format!("MOV to segment {register}"),
        3 => "POP FS".to_owned(),
        4 => "LFS".to_owned(),
        _ => "LSS".to_owned(),
    };
    let (mut case, selector, _) = with_descriptor(dice, mode, user, &what);
    case.state.gpr[0] = selector.into();
    let at = if mode.bits() == 16 { 0x100 } else { DATA + 0x100 };
    let code = match how {
        0..=2 => vec![0x8e, 0xc0 | register << 3],
        3 => vec![0x50, 0x0f, 0xa1],
        _ => assemble(mode.bits(), 0, |a| match (how, mode.bits()) {
            (4, 16) => a.lfs(ax, dword_ptr(at)),
            (4, _) => a.lfs(eax, fword_ptr(at)),
            (_, 16) => a.lss(ax, dword_ptr(at)),
            (..) => a.lss(eax, fword_ptr(at)),
        }),
    };
    let size = if mode.bits() == 16 { 2 } else { 4 };
    case.put32(DATA + 0x100, 0x1122);
    case.put16(DATA + 0x100 + size, selector);
    put_code(&mut case, &code);
    case
}

fn branches(dice: &mut Dice) -> Case {
    let mode = dice.pick(&PROTECTED);
    let user = matches!(mode, Mode::Protected32 | Mode::Compatibility) && dice.once_in(4);
    let how = dice.below(3);
    let what = ["JMP", "CALL", "RETF"][how as usize];
    let (mut case, selector, value) = with_descriptor(dice, mode, user, what);
    // Code of whatever base: a HLT where each could come out.
    for page in [DATA, DATA + 0x123] {
        case.bytes(page + 0x800, &[0xf4]);
    }
    let offset: u64 = if dice.once_in(6) { 0x7_0000 } else { 0x800 };
    case.bytes(0x800, &[0xf4]);
    case.bytes(CODE + 0x800, &[0xf4]);
    case.put32(DATA + 0x100, offset as u32);
    let code = match (how, mode.bits()) {
        (2, 64) => {
            case.put(case.state.gpr[4], offset);
            case.put(case.state.gpr[4] + 8, selector.into());
            vec![0x48, 0xcb]
        }
        (2, 32) => {
            case.put32(case.state.gpr[4], offset as u32);
            case.put32(case.state.gpr[4] + 4, selector.into());
            vec![0xcb]
        }
        (2, _) => {
            case.put16(case.state.gpr[4], offset as u16);
            case.put16(case.state.gpr[4] + 2, selector);
            vec![0xcb]
        }
        (_, 16) => {
            case.put16(DATA + 0x102, selector);
            assemble(16, 0, |a| if how == 0 { a.jmp(dword_ptr(0x100)) } else { a.call(dword_ptr(0x100)) })
        }
        (_, bits) => {
            case.put16(DATA + 0x104, selector);
            let at = DATA + 0x100;
            assemble(bits, 0, |a| if how == 0 { a.jmp(fword_ptr(at)) } else { a.call(fword_ptr(at)) })
        }
    };
    let pages = if value >> 55 & 1 != 0 { 12 } else { 0 };
    let units = (value & 0xffff | value >> 32 & 0xf_0000) + 1;
    let limit = (units << pages) - 1;
    case.deviates = (offset > limit).then_some(Deviation::FarLimit);
    put_code(&mut case, &code);
    case
}

fn systems(dice: &mut Dice) -> Case {
    let mode = dice.pick(&PROTECTED);
    let task = dice.once_in(2);
    let mut case = Case::new(mode);
    let kind = if dice.once_in(2) { if task { 9 } else { 2 } } else { dice.below(16) };
    let mut rights = 0x80 | kind | dice.below(4) << 5 | dice.below(16) << 12;
    for bit in [0x80, 0x10] {
        if dice.once_in(6) {
            rights ^= bit;
        }
    }
    let value = descriptor(dice.pick(&[TSS2, LDT, 0xfff0_0000]), dice.pick(&[0xff, 0x67, 0xf_ffff]), rights);
    let high = dice.pick(&[0, 0, 0, 0xffff_ffff, 0x8000, 0x1_0000, 0x1f00_0000_0000, 0x100_0000_0000]);
    case.descriptor(FREE, value);
    case.descriptor(FREE + 8, high);
    let selector = if dice.once_in(4) { random_selector(dice, false) } else { FREE | dice.below(4) as u16 };
    case.name = format!("{} {selector:#x}, {high:#x} {value:#018x} ({mode:?})", if task { "LTR" } else { "LLDT" });
    case.state.gpr[0] = selector.into();
    // What the paravirtual KVM does not look at.
    let unseen =
        mode.wide() && (task && kind & 13 == 1 || high >> 40 & 0x1f != 0 || mode == Mode::Compatibility && high != 0);
    case.deviates = match selector & 4 {
        0 => (unseen || mode == Mode::Compatibility).then_some(Deviation::SystemDescriptors),
        _ => Some(Deviation::LocalSelector),
    };
    put_code(&mut case, &[0x0f, 0x00, if task { 0xd8 } else { 0xd0 }]);
    case
}

fn limits(dice: &mut Dice) -> Case {
    let mode = dice.pick(&[Mode::Protected16, Mode::Protected32, Mode::Compatibility, Mode::Real]);
    let mut case = Case::new(mode);
    let number = dice.pick(&[0usize, 3, 4, 5]);
    let down = dice.once_in(3) && mode != Mode::Real;
    let any = dice.next() as u32 & 0xffff;
    let limit = dice.pick(&[0xfff, 0xffff, 0x7fff, any]);
    let mut rights = 0x93u32 | if dice.once_in(2) { 0x4000 } else { 0 } | if down { 4 } else { 0 };
    if mode != Mode::Real {
        rights = match dice.below(8) {
            0 => rights & !2,
            1 => 0x409b,
            2 => 0x4099,
            _ => rights,
        };
    }
    case.state.seg[number].limit = limit;
    case.state.seg[number].base = DATA;
    case.state.seg[number].rights = AccessRights::from(rights);
    if dice.once_in(12) && mode != Mode::Real {
        case.state.seg[number].selector = 0;
        case.state.seg[number].rights = AccessRights::from(rights | 0x1_0000);
    }
    let size = dice.pick(&[1u64, 2, 4]);
    let near = u64::from(limit).wrapping_add(dice.below(12)).wrapping_sub(6);
    let offset = match dice.below(6) {
        0 => dice.below(0x1_0000),
        1 => dice.below(8),
        2 => 0xffff_fffe,
        _ => near,
    } & 0xffff_ffff;
    case.state.gpr[3] = offset;
    case.deviates = (offset + size > 1 << 32).then_some(Deviation::Wrap);
    let write = dice.once_in(2);
    // A prefix for the segment, one for the operand, one for the address: [ebx] in any mode.
    let mut code = vec![[0x26, 0, 0, 0x3e, 0x64, 0x65][number]];
    if mode.bits() == 16 {
        code.push(0x67);
    }
    if size != 1 && (size == 2) == (mode.bits() == 32) {
        code.push(0x66);
    }
    code.push(if write { 0x88 } else { 0x8a } | u8::from(size != 1));
    code.push(0x0b);
    case.name = format!(
        "{} of {size} at {offset:#x}, segment of limit {limit:#x} and rights {rights:#x} ({mode:?})",
        if write { "write" } else { "read" }
    );
    put_code(&mut case, &code);
    case
}

fn pages(dice: &mut Dice) -> Case {
    let mut case = Case::new(Mode::Long);
    let user = dice.once_in(3);
    if user {
        case = case.user();
    }
    // One path of its own: the sixth entry at each level, in free pages of the data area.
    let tables = [ROOT, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000];
    let index = 6u64;
    let mut address = 0;
    let mut words = Vec::new();
    for (level, &table) in tables.iter().enumerate() {
        let next = tables.get(level + 1).copied().unwrap_or(DATA + 0x4000);
        let mut entry = next | 7;
        if dice.once_in(6) {
            entry &= !(1 << dice.below(3));
        }
        if dice.once_in(5) {
            entry ^= 1 << dice.pick(&[0u32, 1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 12, 46, 47, 50, 51, 52, 58, 59, 62, 63, 63]);
        }
        if dice.once_in(10) && level > 0 {
            entry |= 0x80;
        }
        // A large page is where memory is, if it is where it should be.
        if entry & 0x80 != 0 && level == 2 {
            entry &= !0x1f_f000 | 0x2000 & dice.next();
        }
        if entry & 0x80 != 0 && level == 1 {
            entry &= !0x3fff_f000;
        }
        case.put(table + 8 * index, entry);
        address |= index << (39 - 9 * level);
        words.push(entry);
    }
    // Whichever level ends it, the offset lies in memory.
    let end = words.iter().position(|word| word & 0x80 != 0).filter(|level| (1..3).contains(level));
    let address = match end {
        Some(level) => address >> (39 - 9 * level) << (39 - 9 * level) | DATA | 0x4008,
        None => address | 8,
    };
    case = case.needs(crate::known::for_entries(words[0], &words[1..]));
    if words[1] & 0x80 != 0 {
        case = case.needs(crate::known::Features::GIGABYTE_PAGES);
    }
    if dice.once_in(3) {
        case.state.cr0 |= 0x1_0000;
    }
    if dice.once_in(6) {
        case.state.efer &= !0x800;
    }
    let smap = dice.once_in(10);
    let smep = dice.once_in(10);
    let kind = dice.below(3);
    if smap || smep {
        use crate::known::Features;
        case = case.needs(if smap { Features::SMAP } else { Features::empty() });
        case = case.needs(if smep { Features::SMEP } else { Features::empty() });
        case.state.cr4 |= u64::from(smap) << 21 | u64::from(smep) << 20;
        if smap && !smep && kind == 2 && !user {
            case.deviates = Some(Deviation::SmapFetch);
        }
        if !user {
            (0..(MEMORY >> 12) as u64).for_each(|page| case.put(PAGE_TABLE + 8 * page, page << 12 | 3));
        } else {
            // The handlers and the tables are the system's.
            (0..16).for_each(|page| case.put(PAGE_TABLE + 8 * page, page << 12 | 3));
        }
        if dice.once_in(3) {
            case.state.rflags |= 0x4_0000;
        }
    }
    case.state.gpr[3] = address;
    case.bytes(DATA + 0x4008, &[0x0f, 0x0b]);
    case.name = format!(
        "{} by {} at {address:#x} through {words:x?}, CR0 {:#x}, CR4 {:#x}, EFER {:#x}, RFLAGS {:#x}",
        ["read", "write", "jump"][kind as usize],
        if user { "user" } else { "system" },
        case.state.cr0,
        case.state.cr4,
        case.state.efer,
        case.state.rflags
    );
    put_code(&mut case, [&[0x8b, 0x03][..], &[0x89, 0x03], &[0xff, 0xe3]][kind as usize]);
    // User code ends with UD2: HLT is not its to run.
    let end = CODE + 2;
    case.bytes(end, &[0x0f, 0x0b]);
    case
}

fn registers(dice: &mut Dice) -> Case {
    let mut case = Case::new(Mode::Long);
    let value = match dice.below(4) {
        0 => 1 << dice.below(64),
        1 => dice.next() & dice.next() & dice.next(),
        2 => dice.next() & 0xffff_ffff,
        _ => dice.next() & dice.next() & 0xff_ffff,
    };
    let (name, code): (&str, &[u8]) = dice.pick(&[
        ("CR0", &[0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc3]),
        ("CR4", &[0x0f, 0x22, 0xe0, 0x0f, 0x20, 0xe3]),
        ("DR7", &[0x0f, 0x23, 0xf8, 0x0f, 0x21, 0xfb]),
        ("DR6", &[0x0f, 0x23, 0xf0, 0x0f, 0x21, 0xf3]),
        ("DR2", &[0x0f, 0x23, 0xd0, 0x0f, 0x21, 0xd3]),
        ("EFER", &[0x0f, 0x30, 0x0f, 0x32]),
        ("RFLAGS", &[0x50, 0x9d, 0x9c, 0x5b]),
        ("GDTR", &[0x0f, 0x01, 0x16, 0x0f, 0x01, 0x07]),
        ("IDTR", &[0x0f, 0x01, 0x1e, 0x0f, 0x01, 0x0f]),
        ("FS base", &[0x0f, 0x30, 0x0f, 0x32]),
        ("LMSW", &[0x0f, 0x01, 0xf0, 0x0f, 0x20, 0xc3]),
    ]);
    let mut value = value;
    match name {
        "CR0" => value |= 0x21 | if dice.once_in(4) { 0 } else { 0x8000_0000 },
        // What is not common to both CPUs: features.
        "CR4" => value = value & !0x00c5_d9cf_0000_0000 & !0x1ff_f840 | if dice.once_in(4) { 0 } else { 0x20 },
        "RFLAGS" => value &= !0x100,
        "LMSW" => value |= 0x20,
        _ => {}
    }
    case.deviates = (matches!(name, "CR0" | "CR4") && value >> 32 != 0).then_some(Deviation::HighBits);
    case.name = format!("{name} {value:#x}");
    case.state.gpr[0] = value;
    if name == "EFER" || name == "FS base" {
        case.state.gpr[0] = value & 0xffff_ffff;
        case.state.gpr[2] = value >> 32;
        case.state.gpr[1] = if name == "EFER" { 0xc000_0080 } else { 0xc000_0100 };
    }
    case.state.gpr[6] = DATA;
    case.state.gpr[7] = DATA + 0x100;
    case.put16(DATA, value as u16);
    case.put(DATA + 2, dice.next() >> dice.below(64));
    put_code(&mut case, code);
    case
}

fn gates(dice: &mut Dice) -> Case {
    let mode = dice.pick(&[Mode::Protected32, Mode::Compatibility, Mode::Long]);
    let mut case = Case::new(mode);
    let user = dice.once_in(2);
    if user {
        case = case.user();
    }
    let (name, vector, code): (&str, u8, &[u8]) = dice.pick(&[
        ("#UD", 6, &[0x0f, 0x0b]),
        ("#DE", 0, &[0x31, 0xc9, 0xf7, 0xf1]),
        ("#GP", 13, &[0x8e, 0xd8]),
        ("#PF", 14, &[0x8b, 0x03]),
    ]);
    let (name, vector, code) =
        if vector == 14 && mode == Mode::Protected32 { ("#UD", 6, &[0x0f, 0x0b][..]) } else { (name, vector, code) };
    case.state.gpr[0] = 0x80 | dice.below(3);
    case.state.gpr[3] = 0x10_0000 + dice.below(0x1000);
    let handler = HANDLERS + 16 * u64::from(vector);
    let ist = if mode.wide() { dice.below(3) } else { 0 };
    let target = match (mode.wide(), dice.below(4)) {
        (true, _) => CODE64,
        (false, 0) => USER32 & !3,
        (false, 1) => CONFORMING32,
        (false, _) => CODE32,
    };
    // To code of an outer level, or of the same: what is delivered then is #GP.
    let rights = dice.pick(&[0x8e, 0x8f, 0xee, 0xef]);
    case.gate(vector, target, handler, rights, ist);
    if !user {
        case.state.gpr[4] -= dice.below(32);
    }
    if mode.wide() {
        case.put(TSS + 4, STACK0 - dice.below(40));
        case.put(TSS + 0x24, IST1 - dice.below(40));
    } else {
        case.put32(TSS + 4, (STACK0 - dice.below(40)) as u32);
    }
    let flags = dice.next() & 0x20_4cd5 | dice.below(2) << 9 | 2;
    case.state.rflags = flags;
    if target != CODE64 && target != CODE32 {
        case.deviates = Some(Deviation::Delivery);
    }
    case.name = format!(
        "{name} through a gate {rights:#x} to {target:#x}, IST {ist}, RFLAGS {flags:#x} ({mode:?}{})",
        if user { ", user" } else { "" }
    );
    if user && mode == Mode::Long {
        // IOPL, NT and the like are not the host's to take.
        case.deviates = Some(Deviation::NativeUser);
    }
    put_code(&mut case, code);
    case
}

fn ports(dice: &mut Dice) -> Case {
    let mode = dice.pick(&[Mode::Protected32, Mode::Compatibility, Mode::Long]);
    let mut case = Case::new(mode).user();
    let bitmap = dice.pick(&[0u64, 0x68, 0x80, 0x1f0, 0x1ff, 0x200]);
    case.put16(TSS + 102, bitmap as u16);
    for at in 0..0x1f0 - 0x68 {
        let byte = (dice.next() & dice.next() & 0xff) as u8;
        case.bytes(TSS + 0x68 + at, &[byte]);
    }
    case.state.tr.limit = dice.pick(&[0x1ff, 0x1ff, 0x1ff, 0x67, 0x66, 0x65, 0x90, 0x8f]);
    let port = dice.below(0xd00);
    case.state.gpr[2] = port;
    let iopl = if dice.once_in(5) { dice.below(4) } else { 0 };
    case.state.rflags |= iopl << 12;
    let (name, code): (&str, &[u8]) = dice.pick(&[
        ("IN AL", &[0xec]),
        ("IN AX", &[0x66, 0xed]),
        ("IN EAX", &[0xed]),
        ("OUT AL", &[0xee]),
        ("OUT AX", &[0x66, 0xef]),
        ("OUT EAX", &[0xef]),
    ]);
    case.name = format!(
        "{name}, port {port:#x}, bitmap at {bitmap:#x}, limit {:#x}, IOPL {iopl} ({mode:?})",
        case.state.tr.limit
    );
    if bitmap + port / 8 == u64::from(case.state.tr.limit) {
        case.deviates = Some(Deviation::PortLimit);
    }
    if mode == Mode::Long && iopl != 0 {
        case.deviates = Some(Deviation::NativeUser);
    }
    case.bytes(CODE, code);
    case.bytes(CODE + code.len() as u64, &[0x0f, 0x0b]);
    case
}

fn real(dice: &mut Dice) -> Case {
    let mut case = Case::new(Mode::Real);
    let (name, code): (&str, &[u8]) = dice.pick(&[
        ("MOV DS", &[0x8e, 0xd8, 0x8b, 0x0f]),
        ("PUSH", &[0x50]),
        ("PUSHAD", &[0x66, 0x60]),
        ("POP", &[0x59]),
        ("MOV from ES", &[0x26, 0x8b, 0x0f]),
        ("MOV to SS", &[0x36, 0x89, 0x0f]),
        ("MOV of a dword", &[0x66, 0x8b, 0x0f]),
        ("REP MOVSB", &[0xf3, 0xa4]),
        ("STOSD", &[0x66, 0xab]),
        ("JMP FAR", &[0xff, 0x2f]),
        ("CALL NEAR", &[0xff, 0xd3]),
        ("LIDT", &[0x0f, 0x01, 0x1f]),
        ("LGDT", &[0x66, 0x0f, 0x01, 0x17]),
        ("MOV from CR0", &[0x0f, 0x20, 0xc0]),
        ("LLDT", &[0x0f, 0x00, 0xd0]),
        ("ARPL", &[0x63, 0xc3]),
    ]);
    let edge = [0u64, 1, 2, 0x7ffe, 0xfffc, 0xfffd, 0xfffe, 0xffff];
    case.state.gpr[0] = dice.pick(&[0x2000, 0x1000, 0x3000, 0x2345]);
    case.state.gpr[3] = dice.pick(&edge);
    case.state.gpr[4] = dice.pick(&edge);
    case.state.gpr[6] = dice.pick(&edge);
    case.state.gpr[7] = dice.pick(&edge);
    case.state.gpr[1] = dice.below(5);
    case.state.seg[Seg::Es as usize] = segment(0x3000, 0x93, MORE, 0xffff);
    case.put32(DATA, 0x0b00_0060);
    // Wherever a near call goes there is a HLT.
    for at in edge {
        case.bytes(CODE + 0x100 + at % 0x10, &[0xf4]);
    }
    case.name = format!("{name}, registers {:x?} (Real)", &case.state.gpr[..8]);
    if name == "CALL NEAR" {
        case.state.gpr[3] |= 0x100;
    }
    put_code(&mut case, code);
    for at in [0x7ffe, 0xfffc, 0xfffd, 0xfffe, 0xffff] {
        case.bytes(CODE + at, &[0xf4]);
    }
    case
}
