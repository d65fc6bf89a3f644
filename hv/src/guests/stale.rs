//! `stale`: an L1 that owes an INVEPT and forgets it.
//!
//! L2 reads a quadword of its page 0x10, again and again, and gives it to L1 by VMCALL.
//!
//! | mark | L1 first | L2 reads |
//! | --- | --- | --- |
//! | 1 | maps the page to one that holds 1111 | 1111 |
//! | 2 | maps it to one that holds 2222, without INVEPT | what the TLB holds: 1111 if nothing flushed in between, as hardware may do |
//! | 3 | executes INVEPT | 2222 |
//!
//! In phase 2 the entry changes its address, which needs an INVEPT. With the policies that keep EPT roots and flush
//! nothing at a transition, `mapped` among them, the TLB still holds the old translation and L2 reads 1111. `kvm-2011`
//! and `kvm-2015` flush the EPT at each load of a root, which hides the mistake: L2 reads 2222.
//! See: SDM "Guidelines for Use of the INVEPT Instruction".

use super::kit::Asm;
use super::l2::{self, L2};
use super::vmx::{EPT_LEAF, Hypervisor, ept, eptp, memory, registers};
use crate::boot::Loaded;
use hv_defs::controls::EptVpidCap;
use hv_defs::ept::InveptType;
use hv_defs::exit::Reason;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const OLD: u64 = 1111;
const NEW: u64 = 2222;
/// Where the new page lies in L1's memory: in the L2's, beyond what the EPT maps.
const NEW_PAGE: u64 = memory(0) + 0x3_0000;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("stale", EptVpidCap::INVEPT | EptVpidCap::INVEPT_SINGLE)?;
    l1.place(memory(0), l2_image()?);
    l1.place(NEW_PAGE, NEW.to_le_bytes().to_vec());
    l1.ept(0, memory(0))?;
    l1.vmcs(0, 0, 1)?;

    l1.mark(1)?;
    read(&mut l1, "at first")?;
    l1.mark(2)?;
    l1.mov(rax, NEW_PAGE | EPT_LEAF)?;
    l1.mov(qword_ptr(ept(0) + 0x3000 + (l2::DATA >> 12) * 8), rax)?;
    read(&mut l1, "after the change, without INVEPT,")?;
    l1.mov(rbx, rax)?;
    l1.mark(3)?;
    l1.invalidate_ept(InveptType::Single, eptp(0))?;
    read(&mut l1, "after INVEPT")?;

    l1.mark(4)?;
    l1.turn_off(1)?;
    let mut fresh = l1.create_label();
    let mut done = l1.create_label();
    l1.cmp(rbx, OLD as i32)?;
    l1.jne(fresh)?;
    l1.print("stale: the forgotten INVEPT showed\n")?;
    l1.jmp(done)?;
    l1.set_label(&mut fresh)?;
    l1.print("stale: the forgotten INVEPT did not show\n")?;
    l1.set_label(&mut done)?;
    l1.exit(0)?;
    l1.finish()
}

/// Has L2 read, prints what it read, and leaves it in RAX.
fn read(l1: &mut Hypervisor, when: &str) -> Asm {
    l1.run_until(0, Reason::VMCALL)?;
    l1.advance()?;
    l1.print(&format!("stale: {when} L2 reads "))?;
    l1.mov(rax, qword_ptr(registers(0)))?;
    l1.print_decimal()?;
    l1.print("\n")?;
    l1.mov(rax, qword_ptr(registers(0)))
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    l2.place(l2::DATA, OLD);
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    l2.mov(rax, qword_ptr(l2::DATA))?;
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}
