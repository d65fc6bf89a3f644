//! `multiplication`: an L1 that answers each kind of its L2's exits with a number of exits of its own that is known, so that
//! what an exit of L2 multiplies to can be worked out. L2 goes through five phases, says VMCALL at the end of each, and L1
//! then sets a mark:
//!
//! | phase | L2 does | times | what L1 does for it beside serving it |
//! | --- | --- | --- | --- |
//! | 1 | CPUID | 8 | a CPUID of its own |
//! | 2 | OUT to port 0x80 | 6 | reads the serial port's line status twice |
//! | 3 | RDMSR | 5 | reads three more fields of its vmcs12, and writes two of them back |
//! | 4 | HLT | 4 | INVEPT of L2's EPT pointer, INVVPID of its VPID |
//! | 5 | VMREAD, of a field of a shadow VMCS | 3 | nothing, where it sees it at all |
//! | | VMCALL | 5 | the mark, an OUT |
//!
//! On paper: to serve an exit L1 reads its reason (a VMREAD), the RIP, the instruction's length and the interruptibility (3
//! more), writes the new RIP and, before it enters L2 again, its own RSP (2 VMWRITEs), and enters it (VMRESUME): 7 exits of L1,
//! as none of its VMX instructions runs without L0. So much silicon does for one exit of L2, itself included:
//!
//! | exit of L2 | VMREAD | VMWRITE | VMRESUME | else | exits of L1 | factor |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | CPUID | 4 | 2 | 1 | CPUID 1 | 8 | 9 |
//! | IO_INSTRUCTION | 4 | 2 | 1 | IO_INSTRUCTION 2 | 9 | 10 |
//! | RDMSR | 7 | 4 | 1 | | 12 | 13 |
//! | HLT | 4 | 2 | 1 | INVEPT 1, INVVPID 1 | 9 | 10 |
//! | VMREAD that L1 sees | 4 | 2 | 1 | | 7 | 8 |
//! | VMCALL | 4 | 2 | 1 | IO_INSTRUCTION 1 | 8 | 9 |
//!
//! The last VMCALL ends the guest: L2 is not entered again, and what L1 does after it is for nothing. L0 maps L2's pages by
//! itself, as L2 first touches them: EPT violations cause no exit of L1. Where L2's VMREADs go depends on VMCS shadowing:
//!
//! | `--shadowing` | VMREAD exits of L2 | of L1 for them | exits of L2 that L1 serves | L1's exits for those resumed |
//! | --- | --- | --- | --- | --- |
//! | `off` | 3: all go to L1 | 21 | 8 + 6 + 5 + 4 + 3 + 5 = 31 | 64 + 54 + 60 + 36 + 21 + 4 × 8 = 267 |
//! | `emulated` | 3: L0 serves them | 0 | 28 | 246 |
//! | `virtualized` | 0: silicon does | 0 | 28 | 246 |

use super::kit::Asm;
use super::l2::L2;
use super::vmx::{Hypervisor, POINTER, REVISION, ept, eptp, memory, registers, vmcs as region};
use crate::boot::Loaded;
use crate::device::{MARK_PORT, SERIAL_PORT};
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::ept::{InveptType, InvvpidType};
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use hv_defs::x86::msr;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// How often L2 does each, phase by phase.
const TIMES: [u32; 5] = [8, 6, 5, 4, 3];

/// The VMCSs: L2's, and the one whose fields it reads.
const SECOND: u64 = 0;
const SHADOW: u64 = 1;
/// L2's VPID.
const VPID: u16 = 1;
/// Where L2 writes to.
const PORT: i32 = 0x80;

pub(super) fn build() -> Result<Loaded, IcedError> {
    let needed = EptVpidCap::INVEPT | EptVpidCap::INVEPT_SINGLE | EptVpidCap::INVVPID | EptVpidCap::INVVPID_SINGLE;
    let mut l1 = Hypervisor::new("multiplication", needed)?;
    l1.place(memory(0), l2_image()?);
    l1.ept(0, memory(0))?;
    l1.vmcs(SECOND, 0, VPID)?;
    shadow(&mut l1)?;
    // R12 counts the phases, R13 the exits of L2.
    l1.xor(r12d, r12d)?;
    l1.xor(r13d, r13d)?;
    l1.mark(0)?;
    serve(&mut l1)?;
    l1.print("multiplication: L1 served ")?;
    l1.mov(rax, r13)?;
    l1.print_decimal()?;
    l1.print(" exits of L2\n")?;
    l1.turn_off(2)?;
    l1.exit(0)?;
    l1.finish()
}

/// Gives L2 a shadow VMCS, where the machine has VMCS shadowing. All zeroes, its bitmaps want no field to be seen.
/// See: SDM "VMCS Shadowing".
fn shadow(l1: &mut Hypervisor) -> Asm {
    let (failed, mut without) = (l1.failed(), l1.create_label());
    l1.mov(ecx, msr::VMX_PROCBASED_CTLS2)?;
    l1.rdmsr()?;
    l1.test(edx, SecondaryControls::VMCS_SHADOWING.bits())?;
    l1.jz(without)?;
    l1.mov(eax, dword_ptr(REVISION))?;
    l1.or(eax, i32::MIN)?;
    l1.mov(dword_ptr(region(SHADOW)), eax)?;
    l1.mov(qword_ptr(POINTER), region(SHADOW) as i32)?;
    l1.vmclear(qword_ptr(POINTER))?;
    l1.jbe(failed)?;
    l1.get_field(rax, vmcs::SECONDARY_CONTROLS)?;
    l1.or(eax, SecondaryControls::VMCS_SHADOWING.bits() as i32)?;
    l1.set_field_from(vmcs::SECONDARY_CONTROLS, rax)?;
    l1.set_field(vmcs::VMREAD_BITMAP, ept(6))?;
    l1.set_field(vmcs::VMWRITE_BITMAP, ept(7))?;
    l1.set_field(vmcs::VMCS_LINK_POINTER, region(SHADOW))?;
    l1.set_label(&mut without)
}

/// Runs L2 and serves its exits, until its last VMCALL.
fn serve(l1: &mut Hypervisor) -> Asm {
    let [mut again, mut done] = core::array::from_fn(|_| l1.create_label());
    let mut served: [(Reason, CodeLabel); 6] =
        [Reason::CPUID, Reason::IO_INSTRUCTION, Reason::RDMSR, Reason::HLT, Reason::VMREAD, Reason::VMCALL]
            .map(|reason| (reason, l1.create_label()));
    let unexpected = l1.unexpected();
    l1.set_label(&mut again)?;
    l1.mov(edi, registers(SECOND) as u32)?;
    l1.run_rdi()?;
    l1.inc(r13d)?;
    l1.get_field(rax, vmcs::EXIT_REASON)?;
    for (reason, label) in &served {
        l1.cmp(eax, i32::from(reason.0))?;
        l1.je(*label)?;
    }
    l1.jmp(unexpected)?;
    for (reason, label) in &mut served {
        l1.set_label(label)?;
        match *reason {
            Reason::CPUID => {
                l1.xor(eax, eax)?;
                l1.cpuid()?;
            }
            Reason::IO_INSTRUCTION => {
                l1.mov(edx, u32::from(SERIAL_PORT) + 5)?;
                l1.in_(al, dx)?;
                l1.in_(al, dx)?;
            }
            Reason::RDMSR => {
                l1.get_field(rax, vmcs::GUEST_CR3)?;
                l1.get_field(rax, vmcs::GUEST_RSP)?;
                l1.set_field_from(vmcs::GUEST_RSP, rax)?;
                l1.get_field(rax, vmcs::GUEST_RFLAGS)?;
                l1.set_field_from(vmcs::GUEST_RFLAGS, rax)?;
            }
            Reason::HLT => {
                l1.invalidate_ept(InveptType::Single, eptp(0))?;
                l1.invalidate_vpid(InvvpidType::Single, VPID, 0)?;
            }
            Reason::VMCALL => {
                l1.inc(r12d)?;
                l1.mov(eax, r12d)?;
                l1.mov(edx, u32::from(MARK_PORT))?;
                l1.out(dx, eax)?;
                l1.cmp(r12d, TIMES.len() as i32)?;
                l1.je(done)?;
            }
            _ => {}
        }
        l1.advance()?;
        l1.jmp(again)?;
    }
    l1.set_label(&mut done)?;
    l1.nop()
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    for (phase, times) in TIMES.into_iter().enumerate() {
        let mut again = l2.create_label();
        l2.mov(r15d, times)?;
        l2.set_label(&mut again)?;
        match phase {
            0 => {
                l2.xor(eax, eax)?;
                l2.cpuid()?;
            }
            1 => l2.out(PORT, al)?,
            2 => {
                l2.mov(ecx, msr::FEATURE_CONTROL)?;
                l2.rdmsr()?;
            }
            3 => l2.hlt()?,
            _ => {
                l2.mov(edx, vmcs::GUEST_RSP.field().0)?;
                l2.vmread(rax, rdx)?;
            }
        }
        l2.dec(r15d)?;
        l2.jnz(again)?;
        l2.vmcall()?;
    }
    // No one runs it any more.
    let mut rest = l2.create_label();
    l2.set_label(&mut rest)?;
    l2.hlt()?;
    l2.jmp(rest)?;
    l2.finish()
}
