//! `flush-storm`: round trips that make each policy flush differently. Every trip is one VM entry to L2, which reads four
//! pages of its own and says VMCALL, and the exit back to L1. A mark begins each phase:
//!
//! | mark | trips | before each trip L1 |
//! | --- | --- | --- |
//! | 1 | 8 | does nothing: VPID 1, EPT pointer A throughout |
//! | 2 | 8 | gives L2 VPID 2, 1, 2, 1, … |
//! | 3 | 4 | executes INVVPID, of each type once: address, single, all, single but globals; VPID 1 |
//! | 4 | 8 | gives L2 EPT pointer B, A, B, A, … |
//! | 5 | 2 | executes INVEPT, single for A, then all |
//! | 6 | 4 | (once, before the first) turns "enable VPID" off in its VMCS |
//!
//! 34 trips. What L0 flushes for them, by cause, on a machine of one CPU:
//!
//! | cause | `kvm-2011` | `kvm-2015` | `mapped` | why |
//! | --- | --- | --- | --- | --- |
//! | `nested-entry` | 34 | 4 | 4 | 2011: every entry. The others: those of phase 6, for a vmcs12 without VPID is promised a flush |
//! | `nested-exit` | 34 | 4 | 4 | likewise |
//! | `vpid12-change` | 0 | 9 | 0 | 2015: the first entry and each of phase 2 names another vpid12 than the one before; phase 2 ends with 1, which phases 3 to 5 keep |
//! | `root-load` | 68 | 68 | 0 | 2011 and 2015 load a root at each entry and at each exit; mapped keeps them all |
//! | `invvpid-emulation` | 4 | 4 | 5 | one vpid02 to flush for each of L1's four; mapped holds two (for vpid12 1 and 2) when L1 flushes all |
//! | `invept-emulation` | 3 | 3 | 3 | one root for A; two, A's and B's, for all |
//! | `write-protect` | 4 | 4 | 4 | for each of A and B: its root's page when the root is made, the three tables below when L2 first misses |
//! | `vpid-free` | 0 | 1 | 2 | at VMXOFF: none, the one vpid02, the two of the map |
//!
//! and, of L1's own (cause `guest`), 4 INVVPIDs and 2 INVEPTs under every policy.

use super::kit::Asm;
use super::l2::{self, L2};
use super::vmx::{Hypervisor, eptp, memory};
use crate::boot::Loaded;
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::ept::{InveptType, InvvpidType};
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// The EPTs, by number.
const A: u64 = 0;
const B: u64 = 1;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let needed = EptVpidCap::INVEPT
        | EptVpidCap::INVEPT_SINGLE
        | EptVpidCap::INVEPT_ALL
        | EptVpidCap::INVVPID
        | EptVpidCap::INVVPID_ADDRESS
        | EptVpidCap::INVVPID_SINGLE
        | EptVpidCap::INVVPID_ALL
        | EptVpidCap::INVVPID_RETAIN_GLOBALS;
    let mut l1 = Hypervisor::new("flush-storm", needed)?;
    l1.place(memory(0), l2_image()?);
    l1.ept(A, memory(0))?;
    l1.ept(B, memory(0))?;
    l1.vmcs(0, A, 1)?;

    l1.mark(1)?;
    for _ in 0..8 {
        trip(&mut l1)?;
    }
    l1.print("flush-storm: 8 trips with the same VPID\n")?;
    l1.mark(2)?;
    for vpid in [2, 1].repeat(4) {
        l1.set_field(vmcs::VPID, vpid)?;
        trip(&mut l1)?;
    }
    l1.print("flush-storm: 8 trips with another VPID each\n")?;
    l1.mark(3)?;
    for kind in [InvvpidType::Address, InvvpidType::Single, InvvpidType::All, InvvpidType::RetainGlobals] {
        let (vpid, address) = match kind {
            InvvpidType::Address => (1, l2::DATA),
            InvvpidType::All => (0, 0),
            InvvpidType::Single | InvvpidType::RetainGlobals => (1, 0),
        };
        l1.invalidate_vpid(kind, vpid, address)?;
        trip(&mut l1)?;
    }
    l1.print("flush-storm: 4 trips, an INVVPID before each\n")?;
    l1.mark(4)?;
    for ept in [B, A].repeat(4) {
        l1.set_field(vmcs::EPT_POINTER, eptp(ept).into())?;
        trip(&mut l1)?;
    }
    l1.print("flush-storm: 8 trips with another EPT pointer each\n")?;
    l1.mark(5)?;
    l1.invalidate_ept(InveptType::Single, eptp(A))?;
    trip(&mut l1)?;
    l1.invalidate_ept(InveptType::All, 0)?;
    trip(&mut l1)?;
    l1.print("flush-storm: 2 trips, an INVEPT before each\n")?;
    l1.mark(6)?;
    l1.get_field(rax, vmcs::SECONDARY_CONTROLS)?;
    l1.and(eax, !SecondaryControls::VPID.bits() as i32)?;
    l1.set_field_from(vmcs::SECONDARY_CONTROLS, rax)?;
    for _ in 0..4 {
        trip(&mut l1)?;
    }
    l1.print("flush-storm: 4 trips without VPID\n")?;
    l1.mark(7)?;
    l1.turn_off(1)?;
    l1.print("flush-storm: done\n")?;
    l1.exit(0)?;
    l1.finish()
}

fn trip(l1: &mut Hypervisor) -> Asm {
    l1.run_until(0, Reason::VMCALL)?;
    l1.advance()
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    for page in 0..4 {
        l2.mov(rax, qword_ptr(l2::DATA + page * 0x1000))?;
    }
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}
