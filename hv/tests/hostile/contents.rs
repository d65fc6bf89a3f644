//! What lies in L1's memory at first, and what a refresh puts there.

use super::actions::{self, change};
use super::code;
use super::dice::Dice;
use super::layout::*;
use hv::vmcs::{REVISION, SHADOW, Vmcs};
use hv_defs::vmcs::{self, VmcsField};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The controls that L1 may use: bits that must be one and bits that may be, as the capability MSRs have them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Allowed {
    pub(crate) pin: u64,
    pub(crate) primary: u64,
    pub(crate) secondary: u64,
    pub(crate) exit: u64,
    pub(crate) entry: u64,
}

/// Bytes for an address.
pub(crate) type Piece = (u64, Vec<u8>);

pub(crate) fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// All of it.
pub(crate) fn all(dice: &mut Dice, allowed: &Allowed) -> Vec<Piece> {
    // What is nothing else is INT3: whoever gets lost there comes back soon.
    let mut pieces = vec![(0x8_0000, vec![0xcc; (RAM - 0x8_0000) as usize])];
    pieces.extend(common());
    for number in 0..CHUNKS {
        pieces.push((CODE + number * CHUNK as u64, actions::chunk(dice)));
    }
    // L2 sees the same from 0 on, by EPT12's small pages or large ones.
    if dice.once_in(16) {
        pieces.push(open_tables());
    }
    let again: Vec<Piece> = pieces.iter().skip(1).map(|(at, bytes)| (L2 + at, bytes.clone())).collect();
    pieces.extend(again);
    for number in 0..TEMPLATES {
        pieces.push((template(number), prepared(dice, allowed).to_bytes().to_vec()));
    }
    for number in 0..VMCSS {
        pieces.push((vmcs12(number), prepared(dice, allowed).to_bytes().to_vec()));
    }
    pieces.push((VMXON, words([REVISION.into()])));
    let mut shadow = Vmcs::default();
    shadow.revision |= SHADOW;
    pieces.push((SHADOW_VMCS, shadow.to_bytes().to_vec()));
    for root in 0..4 {
        pieces.extend(ept12(dice, EPT12 + root * 0x4000));
    }
    for page in [MSR_BITMAP, IO_BITMAP_A, IO_BITMAP_B, VMREAD_BITMAP, VMWRITE_BITMAP, POSTED, APIC_ACCESS, VIRTUAL_APIC]
    {
        pieces.push((page, bitmap(dice)));
    }
    pieces.push((EPTP_LIST, words((0..16).map(|_| eptp(dice)))));
    pieces.extend((0..4).map(|number| msr_area(dice, number)));
    pieces.push(pointers(dice));
    pieces.push(descriptors(dice));
    pieces
}

/// Some of it anew.
pub(crate) fn some(dice: &mut Dice, allowed: &Allowed) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for _ in 0..1 + dice.below(8) {
        let world = dice.pick(&[0, L2]);
        match dice.below(12) {
            0..=4 => pieces.push((world + CODE + dice.below(CHUNKS) * CHUNK as u64, actions::chunk(dice))),
            5..=6 => pieces.push((template(dice.below(TEMPLATES)), prepared(dice, allowed).to_bytes().to_vec())),
            7 => {
                let root = EPT12 + dice.below(4) * 0x4000;
                pieces.extend(ept12(dice, root));
            }
            8 => pieces.push((
                dice.pick(&[MSR_BITMAP, IO_BITMAP_A, IO_BITMAP_B, VMREAD_BITMAP, VMWRITE_BITMAP]),
                bitmap(dice),
            )),
            9 => {
                let number = dice.below(4);
                pieces.push(msr_area(dice, number));
            }
            10 => pieces.extend([pointers(dice), descriptors(dice)]),
            // What keeps L1 going.
            _ => pieces.extend(common().into_iter().map(|(at, bytes)| (world + at, bytes))),
        }
    }
    pieces
}

/// Tables of L1's and of L2's own, and the code that drives them.
pub(crate) fn common() -> Vec<Piece> {
    let mut gates = Vec::new();
    for _ in 0..256 {
        gates.extend([HANDLER & 0xffff | 0x10 << 16 | 1 << 32 | 0x8e << 40 | (HANDLER >> 16) << 48, 0]);
    }
    let mut tss = vec![0; 0x68];
    tss[4..12].copy_from_slice(&FAULT_STACK.to_le_bytes());
    tss[0x24..0x2c].copy_from_slice(&FAULT_STACK.to_le_bytes());
    let tss_descriptor = 0x67 | TSS << 16 | 0x89 << 40;
    let mut operands = Vec::new();
    for (limit, base) in [(0x47u16, GDT), (0xfff, IDT), (0x17, GDT)] {
        operands.extend(limit.to_le_bytes());
        operands.extend(base.to_le_bytes());
        operands.resize(operands.len().next_multiple_of(16), 0);
    }
    let mut pieces = vec![
        (PML4, words([PDPT | 0x67])),
        (
            PDPT,
            words((0..512).map(|gib| {
                if gib == DEVICES >> 30 {
                    0xc000_00e7
                } else if gib == 0 {
                    PD | 0x67
                } else {
                    0
                }
            })),
        ),
        (PD, words([0, 1, 2, 3].map(|large: u64| large << 21 | 0xe7).into_iter().chain([PT | 0x67]))),
        (PT, words((0..3).map(|page| (0x80_0000 + page * 0x1000) | 0x67))),
        (PAE_PDPT, words([PAE_PD | 1, 0, 0, 0])),
        (PAE_PD, words((0..8).map(|large| large << 21 | 0x87))),
        (PD32, words([0x0040_0087_0000_0087, 0x00c0_0087_0080_0087])),
        // Code of 32 bits, code of 64, data, a task, a call gate, and rubbish.
        (
            GDT,
            words([
                0,
                0x00cf_9b00_0000_ffff,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                tss_descriptor,
                0,
                DRIVER & 0xffff | 0x10 << 16 | 0xec << 40 | (DRIVER >> 16) << 48,
                0,
                0xffff_ffff_ffff_ffff,
            ]),
        ),
        (IDT, words(gates)),
        (TSS, tss),
        (TABLE_OPERANDS, operands),
    ];
    pieces.extend(code::fixed());
    pieces
}

/// L1's and L2's own tables, if they map what is no RAM as well: an access there that L0 does not carry out ends the run.
fn open_tables() -> Piece {
    (PDPT, words([0, 1, 2, 3].map(|gib: u64| gib << 30 | 0x87)))
}

fn bitmap(dice: &mut Dice) -> Vec<u8> {
    match dice.below(4) {
        0 => vec![0; 4096],
        1 => vec![0xff; 4096],
        2 => dice.bytes(4096),
        _ => {
            let mut bytes = vec![0; 4096];
            for _ in 0..dice.below(20) {
                bytes[dice.below(4096) as usize] = dice.below(0x100) as u8;
            }
            bytes
        }
    }
}

fn msr_area(dice: &mut Dice, number: u64) -> Piece {
    let at = MSR_AREA + 0x1000 * number;
    let count = dice.pick(&[4, 16, 256]);
    let mut entries = Vec::new();
    for _ in 0..count {
        // Those that are good wherever they stand, more often than not.
        let (index, value) = match dice.below(400) {
            0 => (actions::msr(dice), dice.number()),
            _ => (dice.pick(&[0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0102]), dice.below(0x10_0000)),
        };
        let reserved = if dice.once_in(400) { dice.roll() << 32 } else { 0 };
        entries.extend([u64::from(index) | reserved, value]);
    }
    (at, words(entries))
}

fn pointers(dice: &mut Dice) -> Piece {
    let mut values: Vec<u64> = (0..VMCSS).map(vmcs12).collect();
    values.extend([VMXON, SHADOW_VMCS]);
    while values.len() < POINTER_COUNT as usize {
        values.push(address_of(dice));
    }
    if dice.once_in(4) {
        values[dice.below(VMCSS) as usize] = address_of(dice);
    }
    (POINTERS, words(values))
}

fn descriptors(dice: &mut Dice) -> Piece {
    let mut values = Vec::new();
    for number in 0..16 {
        let first = if number % 2 == 0 { eptp(dice) } else { dice.below(70) };
        let rubbish = dice.once_in(8);
        values.extend([first, if rubbish { dice.number() } else { address_of(dice).wrapping_mul(number & 1) }]);
    }
    (DESCRIPTORS, words(values))
}

/// A root with a table of each other level, and a few entries that are anything.
fn ept12(dice: &mut Dice, root: u64) -> Vec<Piece> {
    let mut tables = [[0u64; 512]; 4];
    tables[0][0] = (root + 0x1000) | 7;
    tables[1][0] = (root + 0x2000) | 7;
    // All of L1's RAM a GiB further up, then what is no RAM, and the devices.
    tables[1][1] = if dice.once_in(3) { 0xb7 } else { (root + 0x2000) | 7 };
    tables[1][2] = 0x8000_0000 | 0xb7;
    tables[1][3] = 0xc000_0000 | 0xb7;
    tables[2][0] = if dice.once_in(3) { L2 | 0xb7 } else { (root + 0x3000) | 7 };
    for large in 1..6 {
        tables[2][large as usize] = (large - 1) << 21 | 0xb7;
    }
    for (page, entry) in tables[3].iter_mut().enumerate() {
        *entry = (L2 + 0x1000 * page as u64) | 0x37;
    }
    for _ in 0..dice.below(6) {
        let index = dice.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 0x10, 0x40, 0x60, 0x61, 510, 511]);
        tables[dice.below(4) as usize][index] = entry(dice);
    }
    let at = |level: usize| root + 0x1000 * level as u64;
    tables.iter().enumerate().map(|(level, table)| (at(level), words(*table))).collect()
}

/// A vmcs12 that silicon would enter, of one kind or another, with up to eight fields changed.
fn prepared(dice: &mut Dice, allowed: &Allowed) -> Vmcs {
    let mut v = good(dice);
    let changes = match dice.below(4) {
        0..=1 => 0,
        2 => dice.below(3),
        _ => dice.below(9),
    };
    for _ in 0..changes {
        let (field, value) = change(dice);
        if dice.once_in(3) {
            if let Some(row) = field.index() {
                v.set_row(row, v.row(row) ^ 1 << dice.below(64));
            }
        } else {
            v.write(field, value);
        }
    }
    if !dice.once_in(5) {
        repair(&mut v, allowed);
    }
    if dice.once_in(64) {
        v.revision = dice.below(1 << 32) as u32;
    }
    v.launched = u32::from(dice.once_in(8));
    v
}

/// Makes controls that may be used together of any that are asked for.
/// See: SDM "Checks on VMX Controls".
pub(crate) fn repair(v: &mut Vmcs, allowed: &Allowed) {
    let mut controls = [
        (vmcs::PIN_BASED_CONTROLS.field(), allowed.pin),
        (vmcs::PRIMARY_CONTROLS.field(), allowed.primary),
        (vmcs::SECONDARY_CONTROLS.field(), allowed.secondary),
        (vmcs::EXIT_CONTROLS.field(), allowed.exit),
        (vmcs::ENTRY_CONTROLS.field(), allowed.entry),
    ]
    .map(|(field, allowed)| (field, (v.read(field).unwrap_or(0) | allowed & 0xffff_ffff) & allowed >> 32));
    let [pin, primary, secondary, exit, _] = controls.each_mut().map(|(_, value)| value);
    // One bit asks for another to be one, or to be zero.
    if *secondary & (1 << 4 | 1 << 8 | 1 << 9) != 0 && *primary & 1 << 21 == 0 {
        *secondary &= !(1 << 4 | 1 << 8 | 1 << 9);
    }
    if *secondary & 1 << 4 != 0 {
        *secondary &= !1;
    }
    if *secondary & 1 << 9 != 0 {
        *pin |= 1;
    }
    if *pin & 1 << 7 != 0 && (*secondary & 1 << 9 == 0 || *exit & 1 << 15 == 0) {
        *pin &= !(1 << 7);
    }
    if *pin & 1 << 6 == 0 {
        *exit &= !(1 << 22);
    }
    if *pin & 1 << 3 == 0 {
        *pin &= !(1 << 5);
    }
    if *pin & 1 << 5 == 0 {
        *primary &= !(1 << 22);
    }
    if *secondary & 2 == 0 {
        *secondary &= !(1 << 7 | 1 << 13 | 1 << 17 | 1 << 22 | 1 << 18);
    }
    for (field, value) in controls {
        v.write(field, value);
    }
    if v.get(vmcs::VPID) == 0 {
        v.set(vmcs::VPID, 1);
    }
    let link = if controls[2].1 >> 14 & 1 != 0 { SHADOW_VMCS } else { u64::MAX };
    v.set(vmcs::VMCS_LINK_POINTER, link);
    v.set(vmcs::VM_FUNCTION_CONTROLS, controls[2].1 >> 13 & 1);
}

pub(crate) fn good(dice: &mut Dice) -> Vmcs {
    let mut v = Vmcs::default();
    let mut put = |field: VmcsField, value: u64| {
        v.write(field, value);
    };
    let ept = !dice.once_in(4);
    let kind = if ept { dice.below(5) } else { 0 };
    let (mut secondary, mut primary) = (0x80 | u64::from(ept) << 1, 0x8400_6172 | dice.pick(&[0, 0x80]));
    if !ept {
        secondary &= !0x80;
    }
    // What L1 may ask for beside: shadow of the task priority, bitmaps, exits for this and that; and so on.
    for (odds, bit) in [(3, 1 << 21), (3, 1 << 28), (3, 1 << 25), (4, 1 << 24), (4, 1 << 3), (6, 1 << 27), (8, 1 << 30)]
    {
        primary |= if dice.once_in(odds) { bit } else { 0 };
    }
    for odds_and_bit in [
        (2, 5),
        (3, 0),
        (6, 4),
        (3, 8),
        (3, 9),
        (4, 3),
        (4, 12),
        (3, 13),
        (3, 14),
        (4, 17),
        (3, 20),
        (4, 25),
        (6, 10),
        (8, 2),
    ] {
        let (odds, bit) = odds_and_bit;
        secondary |= if dice.once_in(odds) { 1 << bit } else { 0 };
    }
    if !ept {
        secondary &= !(1 << 13 | 1 << 17);
    }
    for _ in 0..dice.below(2) * dice.below(3) {
        match dice.once_in(2) {
            true => primary ^= 1 << dice.below(32),
            false => secondary ^= 1 << dice.below(32),
        }
    }
    let pin = 0x16 | dice.pick(&[9, 9, 0x89, 0x29, 0xa9, 0x49, 0x69, 1, 0]);
    let (cr0, cr3, cr4, entry, cs): (u64, u64, u64, u64, u64) = match kind {
        0 | 1 => (0x8000_0033, PML4, 0x2020, 0x13ff, 0xa09b),
        2 => (0x30, 0, 0x2000, 0x11ff, 0x9b),
        3 => (0x31, 0, 0x2000, 0x11ff, 0xc09b),
        _ if dice.once_in(2) => (0x8000_0031, PD32, 0x2010, 0x11ff, 0xc09b),
        _ => (0x8000_0031, PAE_PDPT, 0x2020, 0x11ff, 0xc09b),
    };
    let real = kind == 2;
    let chunk = CODE + dice.below(CHUNKS) * CHUNK as u64;
    let base = if real { chunk } else { 0 };
    let limit = if real { 0xffff } else { 0xffff_ffff };
    let data = if real { 0x93 } else { 0xc093 };
    let handler = dice.pick(&[RESUMER, RESUMER, AGAIN, DRIVER]);
    for (field, value) in [
        (vmcs::PIN_BASED_CONTROLS.field(), pin),
        (vmcs::PRIMARY_CONTROLS.field(), primary),
        (vmcs::SECONDARY_CONTROLS.field(), secondary),
        (vmcs::EXIT_CONTROLS.field(), 0x0003_6fff | dice.pick(&[0, 1 << 15, 1 << 15, 1 << 22, 1 << 20, 1 << 18])),
        (vmcs::ENTRY_CONTROLS.field(), entry),
        (vmcs::VPID.field(), 1 + dice.below(70)),
        (vmcs::EPT_POINTER.field(), (EPT12 + 0x4000 * dice.below(4)) | dice.pick(&[0x1e, 0x1e, 0x5e])),
        (vmcs::VMCS_LINK_POINTER.field(), if secondary >> 14 & 1 != 0 { SHADOW_VMCS } else { u64::MAX }),
        (vmcs::MSR_BITMAP.field(), MSR_BITMAP),
        (vmcs::IO_BITMAP_A.field(), IO_BITMAP_A),
        (vmcs::IO_BITMAP_B.field(), IO_BITMAP_B),
        (vmcs::VIRTUAL_APIC_ADDRESS.field(), VIRTUAL_APIC),
        (vmcs::APIC_ACCESS_ADDRESS.field(), dice.pick(&[APIC_ACCESS, L2 + APIC_ACCESS, 0xfee0_0000])),
        (vmcs::PML_ADDRESS.field(), PML),
        (vmcs::PML_INDEX.field(), dice.pick(&[511, 2])),
        (vmcs::EPTP_LIST_ADDRESS.field(), EPTP_LIST),
        (vmcs::VM_FUNCTION_CONTROLS.field(), secondary >> 13 & 1),
        (vmcs::VMREAD_BITMAP.field(), VMREAD_BITMAP),
        (vmcs::VMWRITE_BITMAP.field(), VMWRITE_BITMAP),
        (vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS.field(), POSTED),
        (vmcs::POSTED_INTERRUPT_VECTOR.field(), 0x40),
        (vmcs::TSC_MULTIPLIER.field(), dice.pick(&[1 << 48, 3 << 47, 1, u64::MAX])),
        (vmcs::XSS_EXITING_BITMAP.field(), 0),
        (vmcs::VM_ENTRY_MSR_LOAD_ADDRESS.field(), MSR_AREA),
        (vmcs::VM_EXIT_MSR_STORE_ADDRESS.field(), MSR_AREA + 0x1000),
        (vmcs::VM_EXIT_MSR_LOAD_ADDRESS.field(), MSR_AREA + 0x2000),
        (vmcs::VM_ENTRY_MSR_LOAD_COUNT.field(), dice.below(2) * dice.below(4)),
        (vmcs::VM_EXIT_MSR_STORE_COUNT.field(), dice.below(2) * dice.below(4)),
        (vmcs::EXCEPTION_BITMAP.field(), dice.pick(&[0, 0, 1 << 14, 1 << 6 | 1 << 13, 0xffff_ffff])),
        (vmcs::PREEMPTION_TIMER_VALUE.field(), dice.below(50)),
        (vmcs::HOST_CR0.field(), 0x8000_0033),
        (vmcs::HOST_CR3.field(), PML4),
        (vmcs::HOST_CR4.field(), 0x2620),
        (vmcs::HOST_EFER.field(), 0x500),
        (vmcs::HOST_PAT.field(), 0x0007_0406_0007_0406),
        (vmcs::HOST_RIP.field(), handler),
        (vmcs::HOST_RSP.field(), STACK),
        (vmcs::HOST_GDTR_BASE.field(), GDT),
        (vmcs::HOST_IDTR_BASE.field(), IDT),
        (vmcs::HOST_TR_BASE.field(), TSS),
        (vmcs::HOST_CS_SELECTOR.field(), 0x10),
        (vmcs::HOST_SS_SELECTOR.field(), 0x18),
        (vmcs::HOST_DS_SELECTOR.field(), 0x18),
        (vmcs::HOST_ES_SELECTOR.field(), 0x18),
        (vmcs::HOST_TR_SELECTOR.field(), 0x20),
        (vmcs::GUEST_CR0.field(), cr0),
        (vmcs::GUEST_CR3.field(), cr3),
        (vmcs::GUEST_CR4.field(), cr4),
        (vmcs::GUEST_PDPTE0.field(), if cr3 == PAE_PDPT { PAE_PD | 1 } else { 0 }),
        (vmcs::GUEST_RIP.field(), if real { 0 } else { dice.pick(&[DRIVER, chunk, chunk]) }),
        (vmcs::GUEST_RSP.field(), STACK),
        (vmcs::GUEST_RFLAGS.field(), dice.pick(&[2, 2, 0x202, 0x3002, 0x102])),
        (vmcs::GUEST_DR7.field(), 0x400),
        (vmcs::GUEST_GDTR_BASE.field(), GDT),
        (vmcs::GUEST_GDTR_LIMIT.field(), 0x47),
        (vmcs::GUEST_IDTR_BASE.field(), IDT),
        (vmcs::GUEST_IDTR_LIMIT.field(), 0xfff),
        (vmcs::GUEST_TR_BASE.field(), TSS),
        (vmcs::GUEST_TR_SELECTOR.field(), 0x20),
        (vmcs::GUEST_TR_ACCESS_RIGHTS.field(), 0x8b),
        (vmcs::GUEST_TR_LIMIT.field(), 0x67),
        (vmcs::GUEST_LDTR_ACCESS_RIGHTS.field(), 0x1_0000),
        (vmcs::GUEST_CS_SELECTOR.field(), if real { base >> 4 } else { 0x10 }),
        (vmcs::GUEST_CS_BASE.field(), base),
        (vmcs::GUEST_CS_LIMIT.field(), limit),
        (vmcs::GUEST_CS_ACCESS_RIGHTS.field(), cs),
        (vmcs::GUEST_SS_LIMIT.field(), limit),
        (vmcs::GUEST_DS_LIMIT.field(), limit),
        (vmcs::GUEST_ES_LIMIT.field(), limit),
        (vmcs::GUEST_FS_LIMIT.field(), limit),
        (vmcs::GUEST_GS_LIMIT.field(), limit),
        (vmcs::GUEST_SS_ACCESS_RIGHTS.field(), data),
        (vmcs::GUEST_DS_ACCESS_RIGHTS.field(), data),
        (vmcs::GUEST_ES_ACCESS_RIGHTS.field(), data),
        (vmcs::GUEST_FS_ACCESS_RIGHTS.field(), data),
        (vmcs::GUEST_GS_ACCESS_RIGHTS.field(), data),
    ] {
        put(field, value);
    }
    v
}

/// A whole world that is always the same, and above it what the dice decide: few chunks of code, which take turns, two kinds of
/// vmcs12, and one EPT12.
pub(crate) fn few(dice: &mut Dice, allowed: &Allowed) -> Vec<Piece> {
    type Worlds = BTreeMap<[u64; 5], Arc<Vec<Piece>>>;
    static WORLDS: Mutex<Worlds> = Mutex::new(BTreeMap::new());
    let key = [allowed.pin, allowed.primary, allowed.secondary, allowed.exit, allowed.entry];
    let world = {
        let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
        let world = worlds.entry(key).or_insert_with(|| {
            let mut world = all(&mut Dice::new(1), allowed);
            // What nobody comes to stays as it is, which is zeros: it takes time to fill.
            world[0].1.truncate(L2 as usize + 0x18_0000);
            Arc::new(world)
        });
        Arc::clone(world)
    };
    let mut pieces = world.to_vec();
    let kinds = [0, 1].map(|_| prepared(dice, allowed).to_bytes().to_vec());
    for number in 0..TEMPLATES {
        pieces.push((template(number), kinds[number as usize % 2].clone()));
    }
    for number in 0..VMCSS {
        pieces.push((vmcs12(number), kinds[number as usize % 2].clone()));
    }
    pieces.extend(ept12(dice, EPT12));
    let count = 1 + dice.below(8);
    let chunks: Vec<Vec<u8>> = (0..count).map(|_| actions::chunk(dice)).collect();
    for number in 0..CHUNKS {
        let chunk = &chunks[(number % count) as usize];
        for world in [0, L2] {
            pieces.push((world + CODE + number * CHUNK as u64, chunk.clone()));
        }
    }
    pieces
}
