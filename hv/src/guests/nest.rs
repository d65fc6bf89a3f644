//! `nest`: an L1 whose L2 is a small hypervisor itself, with an L3. L1 gives L2 a shadow VMCS where the machine has VMCS
//! shadowing, and else carries out each of L2's VMREADs and VMWRITEs, as all VMX instructions of L2's exit to L1.
//!
//! L2 turns VMX on, loads its VMCS, writes five fields, and reads back one of them, an access-rights field that it wrote as
//! all ones: CPUs keep the defined bits. Then L3 runs, in the same memory, and says VMCALL [`TRIPS`] times. Each time L2
//! reads why and where it exited and how long the instruction was, and writes where it is to go on. So in all:
//!
//! | | VMREADs | VMWRITEs |
//! | --- | --- | --- |
//! | of L2 | 1 + 3 × 8 = 25 | 5 + 8 = 13 |
//! | that L1 wants to see where it has a choice: of the instruction length, of RSP | 8 | 1 |
//!
//! L1 counts those that it sees: all without VMCS shadowing, and with it those of the last line. What L2 finds is the same.
//! See: SDM "VMCS Shadowing", "Software Use of Shadow VMCSs".

use super::kit::{Asm, GLOBALS};
use super::l2::{self, L2};
use super::vmx::{Hypervisor, POINTER, REVISION, ept, memory, registers, vmcs as region};
use crate::boot::Loaded;
use hv_defs::controls::{EptVpidCap, SecondaryControls};
use hv_defs::exit::Reason;
use hv_defs::vmcs::{self, VmcsField};
use hv_defs::x86::msr;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// How often L3 exits.
const TRIPS: u32 = 8;

/// The VMCSs: L2's, L3's, and the one that L2 has for L3.
const SECOND: u64 = 0;
const THIRD: u64 = 1;
const SHADOW: u64 = 2;

/// L1's bitmaps of what it wants to see.
const READS: u64 = ept(6);
const WRITES: u64 = ept(7);

/// Bits of an access-rights field that a VMCS keeps.
const RIGHTS: u32 = 0x1_f0ff;

// L2's memory: its VMXON region and VMCS, and what it found: the rights, and the exits that were VMCALLs.
const L2_VMXON: u64 = l2::DATA + 0x1000;
const L2_VMCS: u64 = l2::DATA + 0x2000;
const L2_POINTER: u64 = l2::DATA;
const L2_RIGHTS: u64 = l2::DATA + 8;
const L2_EXITS: u64 = l2::DATA + 16;
/// L3 counts here.
const L3_COUNT: u64 = l2::DATA + 24;
const L3_STACK: u64 = 0x7000;

/// Registers of an L2 as they are kept: RAX and RDX, which its VMREADs and VMWRITEs use.
const VALUE: u64 = registers(SECOND);
const ENCODING: u64 = registers(SECOND) + 16;

/// What L2 reads of L3's exit that a VMCS may not let L1 write, and where L1 keeps it.
const TOLD: [(VmcsField, u64); 2] =
    [(vmcs::EXIT_REASON.field(), GLOBALS), (vmcs::EXIT_INSTRUCTION_LENGTH.field(), GLOBALS + 8)];

pub(super) fn build() -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("nest", EptVpidCap::empty())?;
    l1.place(memory(0), l2_image()?);
    for (bitmap, field) in [(READS, vmcs::EXIT_INSTRUCTION_LENGTH.field()), (WRITES, vmcs::GUEST_RSP.field())] {
        let mut bytes = vec![0; 0x1000];
        bytes[field.0 as usize / 8] = 1 << (field.0 % 8);
        l1.place(bitmap, bytes);
    }
    l1.ept(0, memory(0))?;
    l1.vmcs(SECOND, 0, 1)?;
    l1.vmcs(THIRD, 0, 2)?;

    // EBP: the shadow indicator of a revision, where the machine has VMCS shadowing; else 0.
    let mut plain = l1.create_label();
    l1.mov(ecx, msr::VMX_PROCBASED_CTLS2)?;
    l1.rdmsr()?;
    l1.xor(ebp, ebp)?;
    l1.test(edx, SecondaryControls::VMCS_SHADOWING.bits())?;
    l1.jz(plain)?;
    l1.mov(ebp, 1u32 << 31)?;
    load(&mut l1, SECOND)?;
    l1.get_field(rax, vmcs::SECONDARY_CONTROLS)?;
    l1.or(eax, SecondaryControls::VMCS_SHADOWING.bits() as i32)?;
    l1.set_field_from(vmcs::SECONDARY_CONTROLS, rax)?;
    l1.set_field(vmcs::VMREAD_BITMAP, READS)?;
    l1.set_field(vmcs::VMWRITE_BITMAP, WRITES)?;
    l1.set_label(&mut plain)?;
    l1.mov(eax, dword_ptr(REVISION))?;
    l1.or(eax, ebp)?;
    l1.mov(dword_ptr(region(SHADOW)), eax)?;
    clear(&mut l1, SHADOW)?;
    load(&mut l1, SECOND)?;

    // R12 and R13 count L2's VMREADs and VMWRITEs that L1 sees, R14 the exits of L3.
    for register in [r12d, r13d, r14d] {
        l1.xor(register, register)?;
    }
    serve(&mut l1)?;

    l1.print("nest: L2 saw ")?;
    l1.mov(rax, qword_ptr(memory(0) + L2_EXITS))?;
    l1.print_decimal()?;
    l1.print(" of ")?;
    l1.mov(rax, r14)?;
    l1.print_decimal()?;
    l1.print(" exits of L3, which counted ")?;
    l1.mov(rax, qword_ptr(memory(0) + L3_COUNT))?;
    l1.print_decimal()?;
    l1.print(", and keeps access rights 0x")?;
    l1.mov(rax, qword_ptr(memory(0) + L2_RIGHTS))?;
    l1.print_hex()?;
    l1.print("\nnest: L1 saw ")?;
    l1.mov(rax, r12)?;
    l1.print_decimal()?;
    l1.print(" VMREADs and ")?;
    l1.mov(rax, r13)?;
    l1.print_decimal()?;
    l1.print(" VMWRITEs of L2\n")?;
    l1.turn_off(3)?;
    l1.exit(0)?;
    l1.finish()
}

/// Makes a VMCS current.
fn load(l1: &mut Hypervisor, number: u64) -> Asm {
    l1.mov(rax, region(number))?;
    l1.load_rax()
}

/// VMCLEAR.
fn clear(l1: &mut Hypervisor, number: u64) -> Asm {
    let failed = l1.failed();
    l1.mov(qword_ptr(POINTER), region(number) as i32)?;
    l1.vmclear(qword_ptr(POINTER))?;
    l1.jbe(failed)
}

/// Has L2 go on behind a VMX instruction that succeeded.
fn succeed(l1: &mut Hypervisor) -> Asm {
    l1.advance()?;
    l1.set_field(vmcs::GUEST_RFLAGS, 2)
}

/// Runs L2 and serves its exits, until it says VMCALL.
fn serve(l1: &mut Hypervisor) -> Asm {
    let [mut again, mut done] = core::array::from_fn(|_| l1.create_label());
    let mut served: [(Reason, CodeLabel); 8] = [
        Reason::VMREAD,
        Reason::VMWRITE,
        Reason::VMLAUNCH,
        Reason::VMRESUME,
        Reason::VMPTRLD,
        Reason::VMXON,
        Reason::VMCLEAR,
        Reason::VMXOFF,
    ]
    .map(|reason| (reason, l1.create_label()));
    let unexpected = l1.unexpected();
    l1.set_label(&mut again)?;
    l1.mov(edi, registers(SECOND) as u32)?;
    l1.run_rdi()?;
    l1.get_field(rax, vmcs::EXIT_REASON)?;
    for (reason, label) in &served {
        l1.cmp(eax, i32::from(reason.0))?;
        l1.je(*label)?;
    }
    l1.cmp(eax, i32::from(Reason::VMCALL.0))?;
    l1.jne(unexpected)?;
    l1.jmp(done)?;
    for (reason, label) in &mut served {
        l1.set_label(label)?;
        match *reason {
            Reason::VMREAD => access(l1, false)?,
            Reason::VMWRITE => access(l1, true)?,
            Reason::VMLAUNCH | Reason::VMRESUME => third(l1)?,
            Reason::VMPTRLD => {
                l1.test(ebp, ebp)?;
                let mut without = l1.create_label();
                l1.jz(without)?;
                l1.set_field(vmcs::VMCS_LINK_POINTER, region(SHADOW))?;
                l1.set_label(&mut without)?;
                succeed(l1)?;
            }
            _ => succeed(l1)?,
        }
        l1.jmp(again)?;
    }
    l1.set_label(&mut done)?;
    l1.nop()
}

/// L2's VMREAD to RAX, or VMWRITE from it, of the field that RDX names, on the VMCS that it has for L3.
fn access(l1: &mut Hypervisor, write: bool) -> Asm {
    let failed = l1.failed();
    let [mut whole, mut told] = core::array::from_fn(|_| l1.create_label());
    l1.inc(if write { r13d } else { r12d })?;
    load(l1, SHADOW)?;
    l1.mov(rdx, qword_ptr(ENCODING))?;
    if write {
        l1.mov(rax, qword_ptr(VALUE))?;
        l1.cmp(edx, vmcs::GUEST_CS_ACCESS_RIGHTS.field().0 as i32)?;
        l1.jne(whole)?;
        l1.and(eax, RIGHTS as i32)?;
        l1.set_label(&mut whole)?;
        l1.vmwrite(rdx, rax)?;
        l1.jbe(failed)?;
    } else {
        for (field, at) in TOLD {
            l1.mov(rax, qword_ptr(at))?;
            l1.cmp(edx, field.0 as i32)?;
            l1.je(told)?;
        }
        l1.vmread(rax, rdx)?;
        l1.jbe(failed)?;
        l1.set_label(&mut told)?;
        l1.mov(qword_ptr(VALUE), rax)?;
    }
    clear(l1, SHADOW)?;
    load(l1, SECOND)?;
    succeed(l1)
}

/// Copies the general registers from one guest's to another's.
fn copy_registers(l1: &mut Hypervisor, from: u64, to: u64) -> Asm {
    l1.mov(esi, registers(from) as u32)?;
    l1.mov(edi, registers(to) as u32)?;
    l1.mov(ecx, 16u32)?;
    l1.rep().movsq()
}

/// L2 enters L3, which runs until it says VMCALL: an exit to L2.
fn third(l1: &mut Hypervisor) -> Asm {
    load(l1, SHADOW)?;
    l1.get_field(rbx, vmcs::GUEST_RIP)?;
    l1.get_field(rax, vmcs::GUEST_RSP)?;
    l1.push(rax)?;
    clear(l1, SHADOW)?;
    load(l1, THIRD)?;
    l1.set_field_from(vmcs::GUEST_RIP, rbx)?;
    l1.pop(rax)?;
    l1.set_field_from(vmcs::GUEST_RSP, rax)?;
    copy_registers(l1, SECOND, THIRD)?;
    l1.run_until(THIRD, Reason::VMCALL)?;
    l1.inc(r14d)?;
    copy_registers(l1, THIRD, SECOND)?;
    let (failed, mut plain) = (l1.failed(), l1.create_label());
    for (field, at) in TOLD {
        l1.mov(edx, field.0)?;
        l1.vmread(rax, rdx)?;
        l1.jbe(failed)?;
        l1.mov(qword_ptr(at), rax)?;
    }
    l1.get_field(rbx, vmcs::GUEST_RIP)?;
    l1.get_field(rax, vmcs::GUEST_RSP)?;
    l1.push(rax)?;
    load(l1, SHADOW)?;
    l1.set_field_from(vmcs::GUEST_RIP, rbx)?;
    l1.pop(rax)?;
    l1.set_field_from(vmcs::GUEST_RSP, rax)?;
    // A machine with VMCS shadowing lets all fields be written. Without it L2's VMREADs all come here.
    l1.test(ebp, ebp)?;
    l1.jz(plain)?;
    l1.mov(rax, qword_ptr(TOLD[0].1))?;
    l1.set_field_from(vmcs::EXIT_REASON, rax)?;
    l1.set_label(&mut plain)?;
    l1.get_field(rbx, vmcs::HOST_RIP)?;
    l1.get_field(rax, vmcs::HOST_RSP)?;
    l1.push(rax)?;
    clear(l1, SHADOW)?;
    load(l1, SECOND)?;
    l1.set_field_from(vmcs::GUEST_RIP, rbx)?;
    l1.pop(rax)?;
    l1.set_field_from(vmcs::GUEST_RSP, rax)?;
    l1.set_field(vmcs::GUEST_RFLAGS, 2)
}

/// L2, and behind its code L3's.
fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    for (at, value) in [(L2_POINTER, 0), (L2_RIGHTS, 0), (L2_EXITS, 0), (L3_COUNT, 0), (L2_VMXON, 0), (L2_VMCS, 0)] {
        l2.place(at, value);
    }
    let [mut exited, mut done, mut failed, mut inner] = core::array::from_fn(|_| l2.create_label());
    l2.mov(rax, L2_VMXON)?;
    l2.mov(qword_ptr(L2_POINTER), rax)?;
    l2.vmxon(qword_ptr(L2_POINTER))?;
    l2.jbe(failed)?;
    l2.mov(rax, L2_VMCS)?;
    l2.mov(qword_ptr(L2_POINTER), rax)?;
    l2.vmclear(qword_ptr(L2_POINTER))?;
    l2.jbe(failed)?;
    l2.vmptrld(qword_ptr(L2_POINTER))?;
    l2.jbe(failed)?;
    let write = |l2: &mut L2, field: VmcsField| {
        l2.mov(edx, field.0)?;
        l2.vmwrite(rdx, rax)?;
        l2.jbe(failed)
    };
    let read = |l2: &mut L2, field: VmcsField| {
        l2.mov(edx, field.0)?;
        l2.vmread(rax, rdx)?;
        l2.jbe(failed)
    };
    l2.lea(rax, ptr(inner))?;
    write(&mut l2, vmcs::GUEST_RIP.field())?;
    l2.mov(eax, L3_STACK as u32)?;
    write(&mut l2, vmcs::GUEST_RSP.field())?;
    l2.lea(rax, ptr(exited))?;
    write(&mut l2, vmcs::HOST_RIP.field())?;
    l2.mov(eax, l2::STACK_TOP as u32)?;
    write(&mut l2, vmcs::HOST_RSP.field())?;
    l2.mov(eax, u32::MAX)?;
    write(&mut l2, vmcs::GUEST_CS_ACCESS_RIGHTS.field())?;
    read(&mut l2, vmcs::GUEST_CS_ACCESS_RIGHTS.field())?;
    l2.mov(qword_ptr(L2_RIGHTS), rax)?;
    l2.xor(eax, eax)?;
    l2.vmlaunch()?;
    l2.jmp(failed)?;

    l2.set_label(&mut exited)?;
    let mut other = l2.create_label();
    read(&mut l2, vmcs::EXIT_REASON.field())?;
    l2.cmp(eax, i32::from(Reason::VMCALL.0))?;
    l2.jne(other)?;
    l2.inc(qword_ptr(L2_EXITS))?;
    l2.set_label(&mut other)?;
    read(&mut l2, vmcs::GUEST_RIP.field())?;
    l2.mov(rbx, rax)?;
    read(&mut l2, vmcs::EXIT_INSTRUCTION_LENGTH.field())?;
    l2.add(rax, rbx)?;
    write(&mut l2, vmcs::GUEST_RIP.field())?;
    l2.cmp(dword_ptr(L3_COUNT), TRIPS as i32)?;
    l2.jae(done)?;
    l2.vmresume()?;
    l2.jmp(failed)?;
    l2.set_label(&mut done)?;
    l2.vmxoff()?;
    l2.vmcall()?;
    l2.set_label(&mut failed)?;
    l2.ud2()?;

    // L3.
    l2.set_label(&mut inner)?;
    l2.inc(qword_ptr(L3_COUNT))?;
    l2.vmcall()?;
    l2.jmp(inner)?;
    l2.finish()
}
