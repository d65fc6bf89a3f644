//! Random system code, for L1 and for its L2s alike: what it does is in both cases the same bytes, at the same addresses.

use super::code::*;
use super::dice::Dice;
use super::layout::*;
use hv_defs::vmcs::{self, Class, TABLE, VmcsField};

const VMLAUNCH: &[u8] = &[0x0f, 0x01, 0xc2];
const VMCALL: &[u8] = &[0x0f, 0x01, 0xc1];
const VMFUNC: &[u8] = &[0x0f, 0x01, 0xd4];
const VMXOFF: &[u8] = &[0x0f, 0x01, 0xc4];
const CPUID: &[u8] = &[0x0f, 0xa2];

/// One chunk.
pub(crate) fn chunk(dice: &mut Dice) -> Vec<u8> {
    let mut code = Code::default();
    let most = CHUNK - 16;
    loop {
        let before = code.0.len();
        action(&mut code, dice);
        if code.0.len() > most {
            code.0.truncate(before);
            break;
        }
        if dice.once_in(5) {
            break;
        }
    }
    code.jump(DRIVER);
    code.0
}

fn action(code: &mut Code, dice: &mut Dice) {
    match dice.below(24) {
        0..=4 => enter(code, dice),
        5 => resume_as_it_is(code, dice),
        6 => vmx(code, dice),
        7..=8 => access(code, dice),
        9 => invalidate(code, dice),
        10..=11 => store(code, dice),
        12 => control_registers(code, dice),
        13 => msrs(code, dice),
        14 => ports(code, dice),
        15 => devices(code, dice),
        16 => code.put(CPUID),
        17 => interrupts(code, dice),
        18 => tables(code, dice),
        19 => vm_functions(code, dice),
        20 => strings(code, dice),
        21 => touches(code, dice),
        22 => code.put(dice.pick(SMALL)),
        _ => odd(code, dice),
    }
}

/// Instructions of no operands that may exit.
const SMALL: &[&[u8]] = &[
    CPUID,
    VMCALL,
    &[0x0f, 0x31],             // rdtsc
    &[0x0f, 0x01, 0xf9],       // rdtscp
    &[0x0f, 0x33],             // rdpmc
    &[0xf3, 0x90],             // pause
    &[0x0f, 0x08],             // invd
    &[0x0f, 0x09],             // wbinvd
    &[0x0f, 0x06],             // clts
    &[0x0f, 0x01, 0xd0],       // xgetbv
    &[0x0f, 0x01, 0xd1],       // xsetbv
    &[0x0f, 0x01, 0xc8],       // monitor
    &[0x0f, 0x01, 0xc9],       // mwait
    &[0x48, 0x0f, 0xc7, 0xf0], // rdrand rax
    &[0x48, 0x0f, 0xc7, 0xf8], // rdseed rax
    &[0x0f, 0x37],             // getsec
    &[0x0f, 0x01, 0xcf],       // encls
    &[0x0f, 0x0b],             // ud2
    &[0xcc],                   // int3
    &[0xf1],                   // int1
    &[0xfa],                   // cli
    &[0xfb],                   // sti
    &[0xfb, 0xf4],             // sti; hlt
    &[0x0f, 0x01, 0xf8],       // swapgs
    &[0x48, 0xcf],             // iretq
    &[0x48, 0xcb],             // retf
    &[0x0f, 0x05],             // syscall
    &[0x48, 0x0f, 0x07],       // sysret
    &[0x0f, 0x34],             // sysenter
    &[0x48, 0x0f, 0x35],       // sysexit
    &[0x9d],                   // popf
    &[0x0f, 0xaa],             // rsm
    &[0x0f, 0x01, 0xca],       // clac
];

/// From a fresh vmcs12 that was good before a few fields were changed, to L2.
fn enter(code: &mut Code, dice: &mut Dice) {
    let number = dice.below(VMCSS);
    let pointer = POINTERS + 8 * number;
    if dice.once_in(4) {
        code.vmxon(POINTERS + 8 * VMCSS);
    }
    code.vmclear(pointer);
    code.load(RSI, template(dice.below(TEMPLATES)));
    code.load(RDI, vmcs12(number));
    code.load(RCX, hv::vmcs::SIZE as u64 / 8);
    code.put(&[0xf3, 0x48, 0xa5]); // rep movsq
    code.vmptrld(pointer);
    for _ in 0..dice.below(2) * dice.below(4) {
        let (field, value) = change(dice);
        code.vmwrite(field, value);
    }
    code.at(&[], &[0xc7], 0, RESUMES); // mov dword [RESUMES], imm32
    code.put(&(dice.below(40) as u32).to_le_bytes());
    code.put(VMLAUNCH);
}

/// Whatever the current vmcs12 is now.
fn resume_as_it_is(code: &mut Code, dice: &mut Dice) {
    if dice.once_in(2) {
        code.vmptrld(POINTERS + 8 * dice.below(VMCSS));
    }
    for _ in 0..dice.below(3) {
        let (field, value) = change(dice);
        code.vmwrite(field, value);
    }
    if dice.once_in(2) {
        code.vmwrite(vmcs::GUEST_RIP.field(), CODE + dice.below(CHUNKS) * CHUNK as u64);
    }
    code.put(if dice.once_in(4) { VMLAUNCH } else { VMRESUME });
}

/// A field and a value for it, that may or may not go together.
pub(crate) fn change(dice: &mut Dice) -> (VmcsField, u64) {
    if dice.once_in(3) {
        return plausible(dice);
    }
    let mut row = &TABLE[dice.below(TABLE.len() as u64) as usize];
    let area = row.name.contains("msr") && !row.name.contains("bitmap");
    if (row.field.class() == Class::Host || area) && !dice.once_in(20) {
        row = &TABLE[0]; // L1 seldom survives what it does to its own state
    }
    let name = row.name;
    let address = name.ends_with("_address") || name.contains("bitmap") || name.contains("pointer");
    let value = if address || dice.once_in(4) { address_of(dice) } else { dice.number() };
    (row.field, value)
}

/// A change after which the vmcs12 may well be good still, and asks for something else.
fn plausible(dice: &mut Dice) -> (VmcsField, u64) {
    let page = |dice: &mut Dice| dice.pick(PAGES);
    match dice.below(22) {
        0 => (vmcs::EPT_POINTER.field(), eptp(dice)),
        1 => (vmcs::VPID.field(), 1 + dice.below(70)),
        2 => (vmcs::GUEST_CR3.field(), address_of(dice)),
        3 => (vmcs::EXCEPTION_BITMAP.field(), dice.number()),
        4 => (vmcs::VIRTUAL_APIC_ADDRESS.field(), page(dice)),
        5 => (vmcs::APIC_ACCESS_ADDRESS.field(), page(dice)),
        6 => (vmcs::PML_ADDRESS.field(), page(dice)),
        7 => (vmcs::MSR_BITMAP.field(), page(dice)),
        8 => (vmcs::EPTP_LIST_ADDRESS.field(), page(dice)),
        9 => (vmcs::VMCS_LINK_POINTER.field(), dice.pick(&[u64::MAX, SHADOW_VMCS, vmcs12(0), vmcs12(1)])),
        10 => (vmcs::VMREAD_BITMAP.field(), page(dice)),
        11 => (vmcs::VMWRITE_BITMAP.field(), page(dice)),
        12 => (vmcs::HOST_RIP.field(), dice.pick(&[DRIVER, RESUMER, AGAIN, HANDLER])),
        13 => (vmcs::GUEST_RIP.field(), CODE + dice.below(CHUNKS) * CHUNK as u64),
        14 => {
            let info = 1 << 31 | dice.below(8) << 8 | dice.below(2) << 11 | dice.below(256);
            (vmcs::ENTRY_INTERRUPTION_INFO.field(), info)
        }
        15 => (vmcs::GUEST_ACTIVITY_STATE.field(), dice.below(4)),
        16 => (vmcs::GUEST_INTERRUPTIBILITY.field(), dice.below(32)),
        17 => (vmcs::PREEMPTION_TIMER_VALUE.field(), dice.below(100)),
        18 => (vmcs::TPR_THRESHOLD.field(), dice.below(16)),
        19 => (vmcs::PML_INDEX.field(), dice.pick(&[0, 1, 511, 512, 0xffff])),
        20 => {
            let count = dice.pick(&[
                vmcs::VM_ENTRY_MSR_LOAD_COUNT,
                vmcs::VM_EXIT_MSR_STORE_COUNT,
                vmcs::VM_EXIT_MSR_LOAD_COUNT,
            ]);
            let long = dice.once_in(30);
            (count.field(), if long { dice.pick(&[511, 512, 513, 0xffff_ffff]) } else { dice.below(4) })
        }
        _ => (vmcs::SECONDARY_CONTROLS.field(), 0xa2 | 1 << dice.below(32)),
    }
}

fn vmx(code: &mut Code, dice: &mut Dice) {
    let pointer = POINTERS + 8 * dice.below(POINTER_COUNT);
    match dice.below(10) {
        0..=1 => code.vmxon(pointer),
        2 => code.put(VMXOFF),
        3..=4 => code.vmclear(pointer),
        5..=7 => code.vmptrld(pointer),
        8 => code.at(&[], &[0x0f, 0xc7], 7, address_of(dice) & 0x7fff_ffff), // vmptrst
        _ => code.put(dice.pick(&[VMCALL, VMFUNC, VMLAUNCH, VMRESUME])),
    }
}

fn access(code: &mut Code, dice: &mut Dice) {
    let (field, value) = change(dice);
    match dice.below(4) {
        0 => code.vmread(field),
        1 => {
            // To and from memory, by the field's high half too.
            code.load(RAX, u64::from(field.0 | dice.below(2) as u32));
            let opcode = dice.pick(&[0x78, 0x79]);
            code.at(&[], &[0x0f, opcode], RAX, address_of(dice) & 0x7fff_ffff);
        }
        2 => {
            code.load(RAX, dice.number());
            code.put(&[0x0f, dice.pick(&[0x78, 0x79]), 0xc2]);
        }
        _ => code.vmwrite(field, value),
    }
}

fn invalidate(code: &mut Code, dice: &mut Dice) {
    let kind = if dice.once_in(8) { dice.number() } else { dice.below(5) };
    code.load(RAX, kind);
    let opcode = dice.pick(&[0x80, 0x81, 0x81, 0x82]); // invept, invvpid, invpcid
    let descriptor = if dice.once_in(8) { address_of(dice) & 0x7fff_ffff } else { DESCRIPTORS + 16 * dice.below(16) };
    code.at(&[0x66], &[0x0f, 0x38, opcode], RAX, descriptor);
}

/// Into tables, code, regions, bitmaps: whatever lies there.
fn store(code: &mut Code, dice: &mut Dice) {
    let (at, value) = match dice.below(3) {
        0 => (EPT12 + dice.below(TABLES) * 0x1000 + 8 * dice.pick(&[0, 1, 2, 3, 4, 8, 255, 511]), entry(dice)),
        1 => (vmcs12(dice.below(VMCSS)) + 8 * dice.below(hv::vmcs::SIZE as u64 / 8), dice.number()),
        _ => (address_of(dice).wrapping_add(8 * dice.below(512)), dice.number()),
    };
    code.load(RDI, at);
    code.load(RAX, value);
    code.put(dice.pick(&[&[0x48, 0x89, 0x07], &[0xf0, 0x48, 0x31, 0x07], &[0x48, 0x87, 0x07]])); // mov, lock xor, xchg
}

fn control_registers(code: &mut Code, dice: &mut Dice) {
    let (register, value) = match dice.below(6) {
        0 => (0, 0x8000_0033 ^ ((1 << dice.below(32)) * dice.below(2))),
        1 => (3, if dice.once_in(60) { address_of(dice) } else { PML4 }),
        2 => (4, 0x2020 ^ ((1 << dice.below(24)) * dice.below(2))),
        3 => (8, dice.below(17)),
        4 => (2, dice.number()),
        _ if dice.once_in(20) => (dice.below(5) as u8, dice.number()),
        _ => (8, dice.number()),
    };
    match dice.below(6) {
        0 => code.put(&[if register == 8 { 0x44 } else { 0x48 }, 0x0f, 0x20, 0xc0 | (register & 7) << 3]),
        1 => {
            code.load(RAX, dice.number());
            code.put(&[0x0f, dice.pick(&[0x21, 0x23]), 0xc0 | (dice.below(8) as u8) << 3]); // dr
        }
        2 => code.put(&[0x0f, 0x01, 0xf0]), // lmsw ax
        3 => code.put(&[0x0f, 0x01, 0xe0]), // smsw eax
        _ => {
            code.load(RAX, value);
            code.put(&[if register == 8 { 0x44 } else { 0x48 }, 0x0f, 0x22, 0xc0 | (register & 7) << 3]);
        }
    }
}

/// MSRs that mean something, and others.
const MSRS: &[u32] = &[
    0x10,
    0x1b,
    0x3a,
    0x3b,
    0x48,
    0x49,
    0x79,
    0x8b,
    0xfe,
    0x122,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x1a0,
    0x1d9,
    0x200,
    0x201,
    0x250,
    0x277,
    0x2ff,
    0x38d,
    0x38f,
    0x480,
    0x481,
    0x482,
    0x483,
    0x484,
    0x485,
    0x486,
    0x487,
    0x488,
    0x489,
    0x48a,
    0x48b,
    0x48c,
    0x48d,
    0x48e,
    0x48f,
    0x490,
    0x491,
    0x492,
    0x493,
    0x6e0,
    0x800,
    0x802,
    0x808,
    0x80b,
    0x80f,
    0x828,
    0x830,
    0x832,
    0x838,
    0x83f,
    0xda0,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

pub(crate) fn msr(dice: &mut Dice) -> u32 {
    match dice.below(8) {
        0 => dice.below(1 << 32) as u32,
        1 => dice.below(0x2000) as u32,
        2 => 0xc000_0000 | dice.below(0x2000) as u32,
        _ => dice.pick(MSRS),
    }
}

fn msrs(code: &mut Code, dice: &mut Dice) {
    code.load(RCX, msr(dice).into());
    if dice.once_in(2) {
        code.put(&[0x0f, 0x32]);
    } else {
        code.load(RAX, u64::from(dice.number() as u32));
        code.load(RDX, u64::from(dice.number() as u32) * dice.below(2));
        code.put(&[0x0f, 0x30]);
    }
}

/// Ports of the board, and others; those that end the run seldom.
pub(crate) fn port(dice: &mut Dice) -> u16 {
    const PORTS: &[u16] = &[
        0x20,
        0x21,
        0x40,
        0x41,
        0x42,
        0x43,
        0x60,
        0x61,
        0x70,
        0x71,
        0x80,
        0xa0,
        0xa1,
        0x3f8,
        0x3f9,
        0x3fa,
        0x3fb,
        0x3fc,
        0x3fd,
        0x3fe,
        0x3ff,
        0x4d0,
        0x4d1,
        0x510,
        0x511,
        0x514,
        0x518,
        0x600,
        0x604,
        0x608,
        0xcf8,
        0xcfc,
        0xe9a,
        REFRESH_PORT,
    ];
    match dice.below(8) {
        0 => dice.below(0x1_0000) as u16,
        1 if dice.once_in(100) => dice.pick(&[0x92, 0xf4, 0xcf9, 0x64]),
        _ => dice.pick(PORTS),
    }
}

fn ports(code: &mut Code, dice: &mut Dice) {
    code.load(RDX, port(dice).into());
    code.load(RAX, u64::from(dice.number() as u32));
    code.put(dice.pick(&[&[0xec], &[0xed], &[0x66, 0xed], &[0xee], &[0xef], &[0x66, 0xef]]));
}

fn devices(code: &mut Code, dice: &mut Dice) {
    let base = DEVICES + dice.pick(&[0x3ee0_0000u64, 0x3ee0_0000, 0x3ec0_0000, 0x2000_0000]);
    code.load(RDI, base + (dice.below(0x400) & dice.pick(&[!15, !3, !0])));
    if dice.once_in(3) {
        code.load(RDI, DEVICES + 0x3ee0_0300); // the interrupt command
    }
    code.load(RAX, u64::from(dice.number() as u32));
    // Most of what L0 does not carry out for a guest ends the run.
    let odd = dice.once_in(2000);
    code.put(match odd {
        false => dice.pick(&[
            &[0x89, 0x07][..],   // mov [rdi], eax
            &[0x8b, 0x07],       // mov eax, [rdi]
            &[0x48, 0x89, 0x07], // mov [rdi], rax
            &[0x88, 0x07],       // mov [rdi], al
            &[0x66, 0x89, 0x07], // mov [rdi], ax
            &[0x0f, 0xb7, 0x07], // movzx eax, word [rdi]
            &[0x09, 0x07],       // or [rdi], eax
            &[0x87, 0x07],       // xchg [rdi], eax
        ]),
        true => dice.pick(&[
            &[0xf0, 0x0f, 0xb1, 0x0f][..], // lock cmpxchg [rdi], ecx
            &[0x0f, 0x11, 0x07],           // movups [rdi], xmm0
            &[0xab],                       // stosd
            &[0xff, 0x37],                 // push qword [rdi]
            &[0x0f, 0xc7, 0x0f],           // cmpxchg8b [rdi]
            &[0xc5, 0xfe, 0x6f, 0x07],     // vmovdqu ymm0, [rdi]
            &[0x0f, 0xae, 0x07],           // fxsave [rdi]
            &[0xff, 0xe7],                 // jmp rdi
            &[0x0f, 0x01, 0x17],           // lgdt [rdi]
            &[0x48, 0x0f, 0xc3, 0x07],     // movnti [rdi], rax
        ]),
    });
}

fn interrupts(code: &mut Code, dice: &mut Dice) {
    match dice.below(6) {
        0 => code.put(&[0xcd, dice.below(0x100) as u8]),
        1 => {
            // A frame for IRETQ.
            code.put(&[0x6a, 0x18, 0x68]);
            code.put(&(STACK as u32).to_le_bytes());
            code.put(&[0x68]);
            code.put(&(dice.number() as u32 & 0x7f_ffff).to_le_bytes());
            code.put(&[0x6a, 0x10, 0x68]);
            code.put(&(DRIVER as u32).to_le_bytes());
            code.put(&[0x48, 0xcf]);
        }
        2 => {
            // A far return, perhaps to compatibility mode or through a gate.
            code.put(&[0x6a, dice.pick(&[0x10, 0x08, 0x20, 0x28, 0x30, 0x38]), 0x68]);
            code.put(&(DRIVER as u32).to_le_bytes());
            code.put(&[0x48, 0xcb]);
        }
        3 => code.put(&[0xfb, 0x90, 0x90]),
        4 => code.put(&[0x8e, dice.pick(&[0xd0, 0xd8, 0xc0, 0xe0, 0xe8])]), // mov sreg, eax
        _ => code.put(&[0x6a, 0x18, 0x17 - 0x17 * dice.below(2) as u8]),
    }
}

fn tables(code: &mut Code, dice: &mut Dice) {
    let wrong = dice.once_in(60);
    match dice.below(7) {
        0 => code.at(&[], &[0x0f, 0x01], 2, if wrong { TABLE_OPERANDS + 32 } else { TABLE_OPERANDS }), // lgdt
        1 => code.at(&[], &[0x0f, 0x01], 3, if wrong { POINTERS } else { TABLE_OPERANDS + 16 }),       // lidt
        2 => code.at(&[], &[0x0f, 0x01], dice.below(2) as u8, SCRATCH),                                // sgdt, sidt
        3 => {
            code.load(RAX, dice.pick(&[0x20, 0x28, 0x30, 0]));
            code.put(&[0x0f, 0x00, 0xd0 | (dice.below(2) as u8) << 3]); // lldt, ltr
        }
        4 => code.put(&[0x0f, 0x00, 0xc0 | (dice.below(2) as u8) << 3]), // sldt, str
        5 => {
            code.load(RDI, address_of(dice));
            code.put(&[0x0f, 0x01, 0x3f]); // invlpg [rdi]
        }
        _ => code.put(&[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]), // mov rax, cr3; mov cr3, rax
    }
}

fn vm_functions(code: &mut Code, dice: &mut Dice) {
    code.load(RAX, if dice.once_in(6) { dice.number() } else { 0 });
    code.load(RCX, if dice.once_in(6) { dice.number() } else { dice.below(16) });
    code.put(VMFUNC);
}

fn strings(code: &mut Code, dice: &mut Dice) {
    let near_end = dice.once_in(3);
    code.load(RSI, address_of(dice).wrapping_add(if near_end { 0xffe } else { 0 }));
    code.load(RDI, address_of(dice).wrapping_add(if near_end { 0xffd } else { 0 }));
    code.load(RCX, dice.below(40));
    code.load(RDX, port(dice).into());
    if dice.once_in(2) {
        code.put(&[0xf3]);
    }
    code.put(dice.pick(&[
        &[0x6c][..],   // insb
        &[0x6d],       // insd
        &[0x66, 0x6d], // insw
        &[0x6e],       // outsb
        &[0x6f],       // outsd
        &[0x67, 0x6e], // outsb by 32-bit addresses
        &[0xa4],       // movsb
        &[0x48, 0xa5], // movsq
        &[0x48, 0xab], // stosq
        &[0xa6],       // cmpsb
    ]));
}

/// Memory that EPT12 may or may not have.
fn touches(code: &mut Code, dice: &mut Dice) {
    for _ in 0..1 + dice.below(4) {
        let far = dice.pick(&[0, 0, 0x20_0000, 0x4000_0000, 0x8000_0000u64, 0xc000_0000]);
        code.load(RDI, far + address_of(dice) % RAM_END);
        code.put(dice.pick(&[
            &[0x8a, 0x07][..],
            &[0x88, 0x07],
            &[0x48, 0xff, 0x07],
            &[0x0f, 0xae, 0x3f],
            &[0xff, 0xd7],
        ]));
    }
}

/// Any bytes at all.
fn odd(code: &mut Code, dice: &mut Dice) {
    match dice.below(5) {
        0 => {
            let count = 1 + dice.below(12) as usize;
            let bytes = dice.bytes(count);
            code.put(&bytes);
        }
        1 => code.out_dword(REFRESH_PORT, 0),
        2 => code.load(dice.below(8) as u8, address_of(dice)),
        3 if dice.once_in(20) => code.put(&[0xeb, 0xfe]), // jmp $
        _ => {
            code.load(RBX, address_of(dice));
            code.put(&[0x0f, dice.below(0x100) as u8, dice.below(0x100) as u8]);
        }
    }
}
