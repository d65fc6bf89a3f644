//! `resync`: an L1 that gives its L2 a permission more, which owes no INVEPT, and lets the next entry under another VPID
//! bring it about.
//!
//! L2 reads a quadword of its page 0x10, gives it to L1 by VMCALL, writes it one larger, and again. In each of [`ROUNDS`]
//! rounds:
//!
//! | mark | L1 first | L2 |
//! | --- | --- | --- |
//! | 1 | takes the permission to write from the page's EPT entry, with INVEPT | reads |
//! | 2 | gives the permission back, without INVEPT, and gives L2 the other one of two VPIDs | writes |
//!
//! In phase 2 the processor may at most find that the entry it has cached does not permit the write, and walk again. Where
//! a policy has L0 bring EPT02 in line with EPT12 when a root is loaded, or when vpid12 is new, that walk finds the
//! permission; where L0 forgets it, the write exits to L0, which L1 is not told of.
//! See: SDM "Guidelines for Use of the INVEPT Instruction".

use super::l2::{self, L2};
use super::vmx::{EPT_LEAF, Hypervisor, ept, eptp, memory, registers};
use crate::boot::Loaded;
use hv_defs::controls::EptVpidCap;
use hv_defs::ept::InveptType;
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const ROUNDS: u16 = 8;
const WRITE: u64 = 2;
/// Where L1 finds the EPT's leaf for the page.
const LEAF: u64 = ept(0) + 0x3000 + (l2::DATA >> 12) * 8;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("resync", EptVpidCap::INVEPT | EptVpidCap::INVEPT_SINGLE)?;
    l1.place(memory(0), l2_image()?);
    l1.ept(0, memory(0))?;
    l1.vmcs(0, 0, 1)?;
    for round in 0..ROUNDS {
        l1.mark(1)?;
        l1.mov(rax, (memory(0) + l2::DATA) | EPT_LEAF & !WRITE)?;
        l1.mov(qword_ptr(LEAF), rax)?;
        l1.invalidate_ept(InveptType::Single, eptp(0))?;
        l1.run_until(0, Reason::VMCALL)?;
        l1.advance()?;
        l1.mark(2)?;
        l1.mov(rax, (memory(0) + l2::DATA) | EPT_LEAF)?;
        l1.mov(qword_ptr(LEAF), rax)?;
        l1.set_field(vmcs::VPID, 2 - round % 2)?;
        l1.run_until(0, Reason::VMCALL)?;
        l1.advance()?;
    }
    l1.print("resync: L2 has counted to ")?;
    l1.mov(rax, qword_ptr(registers(0)))?;
    l1.print_decimal()?;
    l1.print("\n")?;
    l1.turn_off(1)?;
    l1.exit(0)?;
    l1.finish()
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    l2.place(l2::DATA, 0);
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    l2.mov(rax, qword_ptr(l2::DATA))?;
    l2.vmcall()?;
    l2.inc(rax)?;
    l2.mov(qword_ptr(l2::DATA), rax)?;
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}
