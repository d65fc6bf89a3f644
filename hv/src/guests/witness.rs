//! `witness`: an L1 that does all that it owes, and says what its L2s see. Whatever it tells beyond "all true" is L0's fault.
//!
//! Two L2s, numbers 0 and 1, run the same code in the same memory under one EPT: number 0 under VPID 1 with page tables
//! that map [`DATA`] to itself, number 1 under VPID 2 with page tables of its own that map it to a page of its own. Each
//! reads a quadword there and gives it to L1 by VMCALL, with its RSP. In each of [`ROUNDS`] rounds:
//!
//! | test | L1 | then |
//! | --- | --- | --- |
//! | `invept` | maps the data page elsewhere in EPT, and back, each time with INVEPT | number 0 reads 2222, then 1111 |
//! | `invvpid` | maps it elsewhere in number 1's page tables, and back, each time with INVVPID | number 1 reads 4444, then 3333 |
//! | `vpid` | runs the two in turn | each reads its own |
//! | `vmcs` | writes number 0's RSP, runs number 1, then number 0 | number 0 has the new RSP |
//! | `tag` | runs a third one, which has neither VPID nor EPT and maps the page to one that holds 5555, then to one that holds 3333 | it reads 5555, then 3333 |
//! | `own` | changes a page-table entry of its own without INVLPG, before it runs the third one | it reads by the new entry, and its own page where the third has another |
//! | `apic` | reads a page and runs a fourth one, which has a VPID but no EPT, and that page for its APIC-access page | the fourth's read of it exits |
//!
//! Then L1 leaves VMX operation, enters it again, and the first two read once more what they read before.
//!
//! See: SDM "Operations that Invalidate Cached Mappings".

use super::kit::{Asm, PD as PAGE_DIRECTORY};
use super::l2::{self, DATA, L2};
use super::vmx::{EPT_LEAF, Hypervisor, ept, eptp, memory, registers, vmcs as region};
use crate::boot::Loaded;
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::ept::{InveptType, InvvpidType};
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const ROUNDS: u32 = 16;

// Pages of the L2s' memory, and what each data page holds.
const PML4: u64 = 0x1_1000;
const PDPT: u64 = 0x1_2000;
const PD: u64 = 0x1_3000;
const PT: u64 = 0x1_4000;
const OWN: u64 = 0x1_5000;
const OTHER: u64 = 0x1_6000;
/// Beyond what the EPT maps from the start.
const ELSEWHERE: u64 = 0x3_0000;
const VALUES: [(u64, u64); 4] = [(DATA, 1111), (ELSEWHERE, 2222), (OWN, 3333), (OTHER, 4444)];

/// The memory of number 2, in which its page tables name L1's addresses.
const THIRD: u64 = memory(2);

/// A page of THIRD's memory that number 3 has for its APIC-access page, and its page tables.
const APIC: u64 = THIRD + 0x8_0000;
const FOURTH_PML4: u64 = THIRD + 0x4_0000;

/// Linear addresses of L1's that it maps to the L2s' memory, and the entry of its page directory for them.
const WINDOW: u64 = 64 << 20;
const WINDOW_ENTRY: u64 = PAGE_DIRECTORY + (WINDOW >> 21) * 8;

/// Where L1 finds the EPT's leaf for the data page, and number 1's page-table entry for it.
const LEAF: u64 = ept(0) + 0x3000 + (DATA >> 12) * 8;
const ENTRY: u64 = memory(0) + PT + (DATA >> 12) * 8;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let needed = EptVpidCap::INVEPT
        | EptVpidCap::INVEPT_SINGLE
        | EptVpidCap::INVVPID
        | EptVpidCap::INVVPID_SINGLE
        | EptVpidCap::INVVPID_ADDRESS;
    let mut l1 = Hypervisor::new("witness", needed)?;
    l1.place(memory(0), l2_image()?);
    l1.place(memory(0) + ELSEWHERE, 2222u64.to_le_bytes().to_vec());
    l1.ept(0, memory(0))?;
    l1.vmcs(0, 0, 1)?;
    l1.vmcs(1, 0, 2)?;
    l1.set_field(vmcs::GUEST_CR3, PML4)?;

    let mut third = l2_image()?;
    for (at, entry) in third_tables() {
        third[at as usize..][..8].copy_from_slice(&entry.to_le_bytes());
    }
    l1.place(THIRD, third);
    l1.vmcs(2, 0, 0)?;
    l1.set_field(vmcs::SECONDARY_CONTROLS, SecondaryControls::empty())?;
    l1.set_field(vmcs::GUEST_CR3, THIRD + PML4)?;
    l1.place(THIRD + ELSEWHERE, 7777u64.to_le_bytes().to_vec());

    for (at, entry) in fourth_tables() {
        l1.place(at, entry.to_le_bytes().to_vec());
    }
    l1.place(APIC, 6666u64.to_le_bytes().to_vec());
    let controls = SecondaryControls::VPID | SecondaryControls::VIRTUALIZE_APIC_ACCESSES;
    l1.need_secondary(controls)?;
    l1.vmcs(3, 0, 3)?;
    l1.set_field(vmcs::SECONDARY_CONTROLS, controls)?;
    l1.set_field(vmcs::GUEST_CR3, FOURTH_PML4)?;
    l1.set_field(vmcs::APIC_ACCESS_ADDRESS, APIC)?;

    // R12 counts what was not true, R13 the rounds.
    l1.xor(r12d, r12d)?;
    l1.xor(r13d, r13d)?;
    let mut round = l1.create_label();
    l1.set_label(&mut round)?;
    l1.mark(1)?;
    for (page, value) in [(ELSEWHERE, 2222), (DATA, 1111)] {
        map(&mut l1, LEAF, (memory(0) + page) | EPT_LEAF)?;
        l1.invalidate_ept(InveptType::Single, eptp(0))?;
        reads(&mut l1, 0, value, "after INVEPT")?;
    }
    l1.mark(2)?;
    for (page, value, kind) in [(OTHER, 4444, InvvpidType::Address), (OWN, 3333, InvvpidType::Single)] {
        map(&mut l1, ENTRY, page | 3)?;
        l1.invalidate_vpid(kind, 2, if kind == InvvpidType::Address { DATA } else { 0 })?;
        reads(&mut l1, 1, value, "after INVVPID")?;
    }
    l1.mark(3)?;
    for (number, value) in [(0, 1111), (1, 3333), (0, 1111)] {
        reads(&mut l1, number, value, "under a VPID of its own")?;
    }
    l1.mark(4)?;
    l1.mov(rbx, r13)?;
    l1.shl(rbx, 3)?;
    l1.add(rbx, 0x7000)?;
    l1.set_field_from(vmcs::GUEST_RSP, rbx)?;
    reads(&mut l1, 1, 3333, "while the other's VMCS waits")?;
    reads(&mut l1, 0, 1111, "when its VMCS is back")?;
    let (mut same, mut told) = (l1.create_label(), l1.create_label());
    l1.mov(rax, qword_ptr(registers(0) + 3 * 8))?;
    l1.cmp(rax, rbx)?;
    l1.je(same)?;
    l1.print("witness: a VMWRITE of RSP did not reach L2\n")?;
    l1.inc(r12d)?;
    l1.set_label(&mut same)?;
    l1.mark(5)?;
    l1.mov(rbx, qword_ptr(DATA))?;
    map(&mut l1, WINDOW_ENTRY, memory(0) | 0x83)?;
    l1.invlpg(qword_ptr(WINDOW + ELSEWHERE))?;
    l1.mov(rax, qword_ptr(WINDOW + ELSEWHERE))?;
    map(&mut l1, WINDOW_ENTRY, THIRD | 0x83)?;
    for (page, value) in [(OTHER, 5555), (OWN, 3333)] {
        // Its exits and entries drop what was cached of this.
        map(&mut l1, THIRD + PT + (DATA >> 12) * 8, (THIRD + page) | 3)?;
        reads(&mut l1, 2, value, "without VPID and EPT")?;
    }
    let mut new = l1.create_label();
    l1.mov(rax, qword_ptr(WINDOW + ELSEWHERE))?;
    l1.cmp(rax, 7777)?;
    l1.je(new)?;
    l1.print("witness: L1 reads by a translation older than an exit without VPID\n")?;
    l1.inc(r12d)?;
    l1.set_label(&mut new)?;
    let mut own = l1.create_label();
    l1.cmp(rbx, qword_ptr(DATA))?;
    l1.je(own)?;
    l1.print("witness: L1 reads a page of L2's\n")?;
    l1.inc(r12d)?;
    l1.set_label(&mut own)?;

    let mut virtualized = l1.create_label();
    l1.mov(rax, qword_ptr(APIC))?;
    l1.mov(rax, region(3))?;
    l1.load_rax()?;
    l1.mov(edi, registers(3) as u32)?;
    l1.run_rdi()?;
    l1.get_field(rax, vmcs::EXIT_REASON)?;
    l1.cmp(eax, i32::from(Reason::APIC_ACCESS.0))?;
    l1.je(virtualized)?;
    l1.print("witness: L2 reads behind its APIC-access page\n")?;
    l1.advance()?;
    l1.inc(r12d)?;
    l1.set_label(&mut virtualized)?;
    l1.inc(r13d)?;
    l1.cmp(r13d, ROUNDS as i32)?;
    l1.jb(round)?;

    l1.mark(6)?;
    l1.turn_off(4)?;
    l1.turn_on_again(2)?;
    for (number, value) in [(0, 1111), (1, 3333)] {
        reads(&mut l1, number, value, "in VMX operation again")?;
    }
    l1.turn_off(2)?;
    l1.mark(7)?;
    l1.test(r12d, r12d)?;
    l1.jz(told)?;
    l1.print("witness: not true: ")?;
    l1.mov(rax, r12)?;
    l1.print_decimal()?;
    l1.print("\n")?;
    l1.exit(1)?;
    l1.set_label(&mut told)?;
    l1.print("witness: all true\n")?;
    l1.exit(0)?;
    l1.finish()
}

/// Writes an entry of a paging structure.
fn map(l1: &mut Hypervisor, at: u64, entry: u64) -> Asm {
    l1.mov(rax, entry)?;
    l1.mov(qword_ptr(at), rax)
}

/// Runs an L2, which must read `expected`.
fn reads(l1: &mut Hypervisor, number: u64, expected: u64, when: &str) -> Asm {
    let mut good = l1.create_label();
    l1.mov(rax, region(number))?;
    l1.load_rax()?;
    l1.run_until(number, Reason::VMCALL)?;
    l1.advance()?;
    l1.mov(rax, qword_ptr(registers(number)))?;
    l1.cmp(rax, expected as i32)?;
    l1.je(good)?;
    l1.print(&format!("witness: {when} L2 number {number} reads "))?;
    l1.mov(rax, qword_ptr(registers(number)))?;
    l1.print_decimal()?;
    l1.print(&format!(", not {expected}\n"))?;
    l1.inc(r12d)?;
    l1.set_label(&mut good)
}

/// Number 2's page tables, by offset in its memory: its code and its data, and nothing that L1 has a use for.
fn third_tables() -> Vec<(u64, u64)> {
    let mut tables: Vec<(u64, u64)> =
        [(PML4, PDPT), (PDPT, PD), (PD, PT)].map(|(at, next)| (at, (THIRD + next) | 3)).to_vec();
    for page in 0..l2::PAGES {
        let entry = match page << 12 {
            l2::ENTRY => (THIRD + l2::ENTRY) | 3,
            DATA => (THIRD + OTHER) | 3,
            _ => 0,
        };
        tables.push((PT + page * 8, entry));
    }
    tables.push((OTHER, 5555));
    tables
}

/// Number 3's page tables, by address: the third's code, and its APIC-access page for the data.
fn fourth_tables() -> Vec<(u64, u64)> {
    let tables = [0, 0x1000, 0x2000].map(|at| (FOURTH_PML4 + at, (FOURTH_PML4 + at + 0x1000) | 3));
    let leaf = |page: u64, target: u64| (FOURTH_PML4 + 0x3000 + (page >> 12) * 8, target | 3);
    tables.into_iter().chain([leaf(l2::ENTRY, THIRD + l2::ENTRY), leaf(DATA, APIC)]).collect()
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    for (at, value) in VALUES.into_iter().filter(|(at, _)| *at != ELSEWHERE) {
        l2.place(at, value);
    }
    for (at, entry) in [(PML4, PDPT | 3), (PDPT, PD | 3), (PD, PT | 3)] {
        l2.place(at, entry);
    }
    for page in 0..l2::PAGES {
        let target = if page << 12 == DATA { OWN } else { page << 12 };
        l2.place(PT + page * 8, target | 3);
    }
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    l2.mov(rax, qword_ptr(DATA))?;
    l2.mov(rbx, rsp)?;
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}
