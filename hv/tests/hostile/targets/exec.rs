//! Bytes as code, in any mode, on silicon alone. What they do in blocks they do instruction by instruction, and again when the
//! blocks have been decoded before: to the same exits at the same instructions, with the same memory and registers.

use super::super::dice::Dice;
use super::support::{CODE, PML4, RAM, RAM_SIZE, peek, poke, silicon, vmcs};
use hv::silicon::{Outcome, Registers, Silicon, SiliconExt};
use hv::soft::SoftSilicon;
use hv_defs::addr::Hpa;
use hv_defs::controls::{EntryControls, PrimaryControls, SecondaryControls};
use hv_defs::ept::{InveptDescriptor, InveptType};
use hv_defs::exit::Reason;
use hv_defs::vmcs::*;
use std::collections::BTreeMap;

const VMCS: u64 = 0x2000;
const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
const TSS: u64 = 0x5000;
const HANDLER: u64 = 0x5800;
/// Page tables of 32-bit and PAE paging.
const PD32: u64 = 0x6000;
const PDPT: u64 = 0x7000;
const DATA: u64 = 0x4_0000;
const STACK: u64 = 0x3_0000;

/// Bytes of code at most.
const LONGEST: usize = 256;
/// Exits at most, and instructions between two of them.
const EXITS: usize = 12;
const SLICE: u64 = 48;

/// What one run has come to.
#[derive(PartialEq, Eq, Debug)]
struct Ran {
    /// Of each exit: instructions since the beginning, reason, qualification and RIP.
    exits: Vec<[u64; 4]>,
    /// What else ended it.
    end: String,
    memory: u64,
    registers: Registers,
}

/// The modes: real, virtual-8086, 16-bit, 32-bit without paging and with, PAE, compatibility, 64-bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mode {
    Real,
    Virtual8086,
    Protected16,
    Flat32,
    Paged32,
    Pae,
    Compatibility,
    Long,
}

const MODES: &[Mode] = &[
    Mode::Long,
    Mode::Real,
    Mode::Virtual8086,
    Mode::Protected16,
    Mode::Flat32,
    Mode::Paged32,
    Mode::Pae,
    Mode::Compatibility,
];

/// What a case begins with.
struct Setting {
    mode: Mode,
    user: bool,
    registers: Registers,
    rflags: u64,
    cr4: u64,
    at: u64,
    code: Vec<u8>,
}

fn setting(data: &[u8]) -> Setting {
    let mut dice = Dice::of(data);
    let mode = dice.pick(MODES);
    let options = dice.below(0x100);
    let user = options & 1 != 0 && !matches!(mode, Mode::Real | Mode::Virtual8086);
    let at = if options & 2 != 0 { CODE + 0xff8 } else { CODE };
    let mut registers = Registers { xcr0: 7, ..Registers::default() };
    for register in &mut registers.gpr {
        *register = match dice.below(8) {
            0 => dice.roll(),
            1 => CODE + dice.below(0x100),
            2 => DATA + 0xff0 + dice.below(0x20),
            3 => dice.below(0x100),
            other => DATA + other * 0x100,
        };
    }
    let rflags = 2 | dice.below(0x4_0000) & 0x4_4dd5;
    let cr4 = [0, 0, 1 << 20 | 1 << 21, 1 << 11, 3 << 16, 0x3][dice.below(6) as usize];
    let rest = dice.rest();
    Setting { mode, user, registers, rflags, cr4, at, code: rest[..rest.len().min(LONGEST)].to_vec() }
}

impl Setting {
    /// Memory, but for what EPT needs.
    fn memory(&self, silicon: &mut SoftSilicon) {
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff, // 64-bit code
            0x00cf_9300_0000_ffff, // data
            0x00cf_9b00_0000_ffff, // 32-bit code
            0x0000_9b00_0000_ffff, // 16-bit code
            0x0000_9300_0000_ffff, // 16-bit data
            0x00af_fb00_0000_ffff, // 64-bit code of level 3
            0x00cf_f300_0000_ffff, // data of level 3
            0x0000_8b00_0000_0067 | TSS << 16,
            0,
            0x0000_ec00_0008_0000 | HANDLER & 0xffff, // a call gate
            0,
            0x00cf_fb00_0000_ffff, // 32-bit code of level 3
        ];
        poke(silicon, RAM + GDT, &descriptors);
        let wide = self.mode >= Mode::Compatibility;
        let mut gates = Vec::new();
        for vector in 0..if wide { 128u64 } else { 256 } {
            let code = if wide { 0x08 } else { 0x18 };
            let kind = [0xee, 0xee, 0x8e, 0xef][vector as usize % 4];
            gates.push(HANDLER & 0xffff | code << 16 | kind << 40);
            if wide {
                gates.push(0);
            }
        }
        poke(silicon, RAM + IDT, &gates);
        let mut task = [0u8; 0x68];
        for stack in if wide { vec![4, 0x24, 0x2c] } else { vec![4, 0xc] } {
            task[stack..stack + 4].copy_from_slice(&(STACK as u32 - 0x800).to_le_bytes());
        }
        task[8] = 0x10;
        silicon.write(Hpa(RAM + TSS), &task);
        // VMCALL, which the case goes on behind; then back, for who returns.
        silicon.write(Hpa(RAM + HANDLER), &[0x0f, 0x01, 0xc1, 0xcf]);
        // 4 MiB pages; and 2 MiB pages of PAE.
        poke(silicon, RAM + PD32, &[0x0040_0087_0000_0087]);
        poke(silicon, RAM + PDPT, &[(PDPT + 0x1000) | 1, (PDPT + 0x1000) | 1, 0, 0]);
        poke(silicon, RAM + PDPT + 0x1000, &[0x87, 0x20_0087]);
        silicon.write(Hpa(RAM + self.at), &self.code);
    }

    /// The VMCS and the registers.
    fn state(&self, silicon: &mut SoftSilicon) {
        vmcs(silicon, VMCS, 1);
        let secondary = silicon.get(0, SECONDARY_CONTROLS)
            | SecondaryControls::RDRAND_EXITING
            | SecondaryControls::RDSEED_EXITING
            | SecondaryControls::RDTSCP
            | SecondaryControls::INVPCID
            | SecondaryControls::XSAVES;
        silicon.set(0, SECONDARY_CONTROLS, secondary);
        // Time and counters are not the same in a second run.
        let primary = silicon.get(0, PRIMARY_CONTROLS)
            | PrimaryControls::RDTSC_EXITING
            | PrimaryControls::RDPMC_EXITING
            | PrimaryControls::MWAIT_EXITING
            | PrimaryControls::UNCONDITIONAL_IO_EXITING;
        silicon.set(0, PRIMARY_CONTROLS, primary);
        let wide = self.mode >= Mode::Compatibility;
        if !wide {
            let entry = silicon.get(0, ENTRY_CONTROLS).difference(EntryControls::IA32E_MODE_GUEST);
            silicon.set(0, ENTRY_CONTROLS, entry);
            silicon.set(0, GUEST_EFER, 0);
        }
        let (cr0, cr3, cr4) = match self.mode {
            Mode::Real => (0x30, 0, 0),
            Mode::Virtual8086 | Mode::Protected16 | Mode::Flat32 => (0x31, 0, 0),
            Mode::Paged32 => (0x8001_0031, PD32, 0x10),
            Mode::Pae => (0x8001_0031, PDPT, 0x20),
            Mode::Compatibility | Mode::Long => (0x8001_0031, PML4, 0x20),
        };
        silicon.set(0, GUEST_CR0, cr0);
        silicon.set(0, GUEST_CR3, cr3);
        silicon.set(0, GUEST_CR4, 0x4_2600 | cr4 | self.cr4);
        if self.mode == Mode::Pae {
            let entry = peek(silicon, RAM + PDPT);
            silicon.set(0, GUEST_PDPTE0, entry);
            silicon.set(0, GUEST_PDPTE1, entry);
        }
        let (mut cs, code, data, limit) = match self.mode {
            Mode::Real => (0, 0x9b, 0x93, 0xffff),
            Mode::Virtual8086 => (0, 0xf3, 0xf3, 0xffff),
            Mode::Protected16 => (0x20, 0x9b, 0x93, 0xffff),
            Mode::Flat32 | Mode::Paged32 | Mode::Pae | Mode::Compatibility => (0x18, 0xc09b, 0xc093, u32::MAX),
            Mode::Long => (0x08, 0xa09b, 0xc093, u32::MAX),
        };
        let level = if self.user { 0x60 } else { 0 };
        let mut data_selector = if cs == 0 { 0 } else { 0x10 };
        if self.user {
            (cs, data_selector) = (if self.mode == Mode::Long { 0x33 } else { 0x63 }, 0x3b);
        }
        silicon.set(0, GUEST_CS_SELECTOR, cs);
        silicon.set(0, GUEST_CS_ACCESS_RIGHTS, code | level);
        silicon.set(0, GUEST_CS_LIMIT, limit);
        for (selector, rights, to) in [
            (GUEST_SS_SELECTOR, GUEST_SS_ACCESS_RIGHTS, GUEST_SS_LIMIT),
            (GUEST_DS_SELECTOR, GUEST_DS_ACCESS_RIGHTS, GUEST_DS_LIMIT),
            (GUEST_ES_SELECTOR, GUEST_ES_ACCESS_RIGHTS, GUEST_ES_LIMIT),
            (GUEST_FS_SELECTOR, GUEST_FS_ACCESS_RIGHTS, GUEST_FS_LIMIT),
            (GUEST_GS_SELECTOR, GUEST_GS_ACCESS_RIGHTS, GUEST_GS_LIMIT),
        ] {
            silicon.set(0, selector, data_selector);
            silicon.set(0, rights, data | level);
            silicon.set(0, to, limit);
        }
        for base in [GUEST_CS_BASE, GUEST_SS_BASE, GUEST_DS_BASE, GUEST_ES_BASE, GUEST_FS_BASE, GUEST_GS_BASE] {
            silicon.set(0, base, 0);
        }
        silicon.set(0, GUEST_GDTR_BASE, GDT);
        silicon.set(0, GUEST_GDTR_LIMIT, 0x67);
        silicon.set(0, GUEST_IDTR_BASE, if self.mode == Mode::Real { 0 } else { IDT });
        silicon.set(0, GUEST_IDTR_LIMIT, 0x7ff);
        silicon.set(0, GUEST_TR_SELECTOR, 0x40);
        silicon.set(0, GUEST_TR_BASE, TSS);
        silicon.set(0, GUEST_TR_LIMIT, 0x67);
        let vm = if self.mode == Mode::Virtual8086 { 1 << 17 } else { 0 };
        silicon.set(0, GUEST_RFLAGS, self.rflags | vm);
        silicon.set(0, GUEST_RIP, self.at);
        silicon.set(0, GUEST_RSP, if limit == 0xffff { 0xf000 } else { STACK });
        silicon.set(0, GUEST_INTERRUPTIBILITY, 0);
        silicon.set(0, GUEST_ACTIVITY_STATE, 0);
        silicon.set(0, GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
        silicon.set(0, GUEST_DR7, 0x400);
        *silicon.registers(0) = self.registers.clone();
    }

    /// Runs it, pausing between all instructions if `steps`.
    fn run(&self, silicon: &mut SoftSilicon, steps: bool) -> Ran {
        let begin = silicon.retired();
        let (mut exits, mut end, mut launch, mut places) = (Vec::new(), String::new(), true, 1u64);
        for _ in 0..EXITS {
            let start = silicon.retired();
            let outcome = loop {
                silicon.pause_at(steps.then_some(silicon.retired() + 1));
                match silicon.enter(0, launch, start + SLICE) {
                    Ok(Outcome::Paused) => assert!(steps, "nobody asked for a pause"),
                    outcome => break outcome,
                }
            };
            // An instruction, its software interrupt and the debug exception behind that are not parted.
            assert!(silicon.retired() <= start + SLICE + 2, "{} instructions", silicon.retired() - start);
            launch = false;
            match outcome {
                Ok(Outcome::Exited(_)) => {}
                Ok(Outcome::EntryFailed(check)) => {
                    end = format!("refused by {}", check.name());
                    break;
                }
                Ok(Outcome::Unsupported(report)) => {
                    assert!(!report.what.is_empty() && report.bytes.len() <= 15, "{report:x?}");
                    end = format!("{report:x?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
            let (exit, rip) = (silicon.get(0, EXIT_REASON), silicon.get(0, GUEST_RIP));
            let qualification = silicon.get(0, EXIT_QUALIFICATION);
            exits.push([silicon.retired() - begin, exit.reason().0.into(), qualification, rip]);
            let next = match exit.reason() {
                Reason::EXTERNAL_INTERRUPT => continue,
                Reason::TRIPLE_FAULT => {
                    end = "triple fault".to_owned();
                    break;
                }
                Reason::VMCALL if rip == HANDLER => {
                    // Somewhere further on, with the stack that there was.
                    places += 5;
                    self.at + places % self.code.len().max(1) as u64
                }
                _ => rip.wrapping_add(silicon.get(0, EXIT_INSTRUCTION_LENGTH).into()),
            };
            let long = silicon.get(0, GUEST_CS_ACCESS_RIGHTS) >> 13 & 1 != 0;
            silicon.set(0, GUEST_RIP, if long { next } else { next & 0xffff_ffff });
            silicon.set(0, GUEST_ACTIVITY_STATE, 0);
            silicon.set(0, GUEST_INTERRUPTIBILITY, 0);
            silicon.set(0, ENTRY_INTERRUPTION_INFO, 0.into());
        }
        silicon.pause_at(None);
        // What is not the same in a second run: the clock, which the digest has.
        let memory = silicon.digest_of_memory();
        Ran { exits, end, memory, registers: silicon.registers(0).clone() }
    }
}

/// A digest of memory with what the CPU holds of the guest in it.
trait DigestOfMemory {
    fn digest_of_memory(&mut self) -> u64;
}

impl DigestOfMemory for SoftSilicon {
    fn digest_of_memory(&mut self) -> u64 {
        let _ = self.digest(); // saves what the VMCS is not right about
        self.memory().digest()
    }
}

pub(super) fn target(data: &[u8]) {
    let setting = setting(data);
    if setting.code.is_empty() {
        return;
    }
    let new = || {
        let mut silicon = silicon(&[]);
        setting.memory(&mut silicon);
        setting.state(&mut silicon);
        silicon
    };
    let mut blocks = new();
    let digests = blocks.memory().page_digests().to_vec();
    let pages = (0..RAM_SIZE).step_by(0x1000).map(|page| RAM + page);
    let used = pages.clone().filter(|page| digests[(page >> 12) as usize] != 0);
    let before: BTreeMap<u64, Vec<u8>> =
        used.map(|page| (page, blocks.bytes(Hpa(page), 0x1000).expect("RAM").to_vec())).collect();
    let in_blocks = setting.run(&mut blocks, false);
    let mut steps = new();
    let in_steps = setting.run(&mut steps, true);
    assert_eq!(in_blocks, in_steps, "{:?}: in blocks, and in steps", setting.mode);

    // Which entry of the TLB goes next is the TLB's own, and no flush resets it: who owes itself a flush can see it.
    if blocks.tlb_statistics().evictions > 0 {
        return;
    }
    // All is as it was, but for the pages that nobody has written, of which blocks may be known.
    let now = blocks.memory().page_digests().to_vec();
    for page in pages.filter(|page| now[(page >> 12) as usize] != digests[(page >> 12) as usize]) {
        blocks.write(Hpa(page), before.get(&page).map_or(&[0; 0x1000], |bytes| bytes));
    }
    setting.state(&mut blocks);
    blocks.invept(0, InveptType::All, InveptDescriptor::default());
    let again = setting.run(&mut blocks, false);
    assert_eq!(in_blocks, again, "{:?}: with no block known, and with some", setting.mode);
}
