//! The hypervisor in every built-in guest: VMX on, controls that the capability MSRs allow, VMCSs, EPT, and the way into
//! an L2 and back.

use super::kit::{
    Asm, CODE_SELECTOR, DATA_SELECTOR, GDT, GDT_LIMIT, GLOBALS, IDT, IDT_LIMIT, Kit, TSS, TSS_LIMIT, TSS_SELECTOR,
    words,
};
use super::l2;
use crate::boot::Loaded;
use core::ops::{Deref, DerefMut};
use hv_defs::controls::{EntryControls, EptVpidCap, ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{InveptType, InvvpidType};
use hv_defs::exit::Reason;
use hv_defs::vmcs::{self, Field, FieldValue};
use hv_defs::x86::{Cr4, msr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const VMXON: u64 = 0xa000;
const VARIABLES: u64 = GLOBALS + 0x800;
/// 12 where the "true" capability MSRs are to be asked, which lie so much higher; else 0.
const TRUE_OFFSET: u64 = VARIABLES;
const PIN: u64 = VARIABLES + 8;
const PRIMARY: u64 = VARIABLES + 16;
const SECONDARY: u64 = VARIABLES + 24;
const EXIT: u64 = VARIABLES + 32;
const ENTRY: u64 = VARIABLES + 40;
/// The revision of this machine's VMCSs.
pub(super) const REVISION: u64 = VARIABLES + 48;
const DESCRIPTOR: u64 = VARIABLES + 64;
/// The operand of instructions that take a pointer to a VMCS.
pub(super) const POINTER: u64 = VARIABLES + 80;

/// The region of a VMCS, by number from 0 to 15.
pub(super) const fn vmcs(number: u64) -> u64 {
    0x1_0000 + number * 0x1000
}

/// The four pages of an EPT, by number from 0 to 7.
pub(super) const fn ept(number: u64) -> u64 {
    0x2_0000 + number * 0x4000
}

/// The registers of an L2, by number from 0 to 15.
pub(super) const fn registers(number: u64) -> u64 {
    0x4_0000 + number * 0x100
}

/// The byte that says whether an L2 is to start with VMRESUME, by its number.
pub(super) const fn launched(number: u64) -> u64 {
    registers(number) + LAUNCHED as u64
}

/// The memory of an L2, by number from 0 to 12.
pub(super) const fn memory(number: u64) -> u64 {
    0x20_0000 + number * 0x10_0000
}

/// The EPT pointer for an EPT: write-back, four levels.
pub(super) const fn eptp(number: u64) -> u64 {
    ept(number) | 3 << 3 | 6
}

/// Read, write, execute.
const EPT_ALL: u64 = 7;
/// A leaf: all that and write-back.
pub(super) const EPT_LEAF: u64 = EPT_ALL | 6 << 3;

/// Where the launched flag lies behind the 16 registers.
const LAUNCHED: i32 = 0x80;

const SAVED: [(AsmRegister64, i32); 14] = [
    (rax, 0),
    (rcx, 8),
    (rdx, 16),
    (rbx, 24),
    (rbp, 40),
    (rsi, 48),
    (r8, 64),
    (r9, 72),
    (r10, 80),
    (r11, 88),
    (r12, 96),
    (r13, 104),
    (r14, 112),
    (r15, 120),
];
const RDI: i32 = 56;

const KEPT: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];

/// An L1 with VMX on.
pub(super) struct Hypervisor {
    kit: Kit,
    name: &'static str,
    adjust: CodeLabel,
    build_ept: CodeLabel,
    build_vmcs: CodeLabel,
    run: CodeLabel,
    exited: CodeLabel,
    advance: CodeLabel,
    failed: CodeLabel,
    unexpected: CodeLabel,
}

impl Deref for Hypervisor {
    type Target = Kit;

    fn deref(&self) -> &Kit {
        &self.kit
    }
}

impl DerefMut for Hypervisor {
    fn deref_mut(&mut self) -> &mut Kit {
        &mut self.kit
    }
}

impl Hypervisor {
    /// An L1 that has turned VMX on and goes on with what is assembled next. `needed` is what its EPT and VPID must be
    /// able to do, beside what all of them need.
    pub(super) fn new(name: &'static str, needed: EptVpidCap) -> Result<Self, IcedError> {
        let mut kit = Kit::new()?;
        let [adjust, build_ept, build_vmcs, run, exited, advance, failed, unexpected] =
            core::array::from_fn(|_| kit.create_label());
        let mut this = Self { kit, name, adjust, build_ept, build_vmcs, run, exited, advance, failed, unexpected };
        this.turn_on()?;
        this.choose_controls(needed)?;
        Ok(this)
    }

    /// An MSR, in RAX.
    fn read_msr(&mut self, number: u32) -> Asm {
        self.mov(ecx, number)?;
        self.rdmsr()?;
        self.shl(rdx, 32u32)?;
        self.or(rax, rdx)
    }

    /// Fails with a text unless the zero flag is clear.
    pub(super) fn need(&mut self, what: &str) -> Asm {
        let mut there = self.create_label();
        self.jnz(there)?;
        let text = format!("{}: this machine has no {what}\n", self.name);
        self.fail(&text)?;
        self.set_label(&mut there)
    }

    /// See: SDM "Enabling and Entering VMX Operation".
    fn turn_on(&mut self) -> Asm {
        self.mov(eax, 1u32)?;
        self.cpuid()?;
        self.bt(ecx, 5u32)?;
        self.sbb(eax, eax)?;
        self.test(eax, eax)?;
        self.need("VMX")?;
        // Firmware locks the feature control; where it has not, it is for us to do.
        let mut locked = self.create_label();
        self.read_msr(msr::FEATURE_CONTROL)?;
        self.test(al, 1)?;
        self.jnz(locked)?;
        self.or(eax, 5)?;
        self.wrmsr()?;
        self.set_label(&mut locked)?;
        self.mov(ecx, msr::FEATURE_CONTROL)?;
        self.rdmsr()?;
        self.test(al, 4)?;
        self.need("VMX outside SMX: firmware has locked it off")?;

        self.read_msr(msr::VMX_CR0_FIXED0)?;
        self.mov(rdi, cr0)?;
        self.or(rdi, rax)?;
        self.read_msr(msr::VMX_CR0_FIXED1)?;
        self.and(rdi, rax)?;
        self.mov(cr0, rdi)?;
        self.read_msr(msr::VMX_CR4_FIXED0)?;
        self.mov(rdi, cr4)?;
        self.or(rdi, rax)?;
        self.or(rdi, Cr4::VMXE.bits() as i32)?;
        self.read_msr(msr::VMX_CR4_FIXED1)?;
        self.and(rdi, rax)?;
        self.mov(cr4, rdi)?;

        let failed = self.failed;
        self.read_msr(msr::VMX_BASIC)?;
        self.mov(edx, eax)?;
        self.and(edx, i32::MAX)?;
        self.mov(dword_ptr(REVISION), edx)?;
        self.mov(dword_ptr(VMXON), edx)?;
        // Bit 55 tells of the "true" MSRs.
        self.shr(rax, 55u32)?;
        self.and(eax, 1)?;
        self.imul_3(eax, eax, 12)?;
        self.mov(qword_ptr(TRUE_OFFSET), rax)?;
        self.mov(qword_ptr(POINTER), VMXON as i32)?;
        self.vmxon(qword_ptr(POINTER))?;
        self.jbe(failed)
    }

    /// Asks the routine `adjust` for a control field.
    fn choose(&mut self, number: u32, has_true: bool, wanted: u32, to: u64) -> Asm {
        let adjust = self.adjust;
        self.mov(ecx, number)?;
        if has_true {
            self.add(ecx, dword_ptr(TRUE_OFFSET))?;
        }
        self.mov(r8d, wanted)?;
        self.call(adjust)?;
        self.mov(qword_ptr(to), rax)
    }

    fn choose_controls(&mut self, needed: EptVpidCap) -> Asm {
        let pin = PinBased::empty();
        let primary = PrimaryControls::HLT_EXITING
            | PrimaryControls::UNCONDITIONAL_IO_EXITING
            | PrimaryControls::ACTIVATE_SECONDARY;
        let secondary = SecondaryControls::EPT | SecondaryControls::VPID;
        self.choose(msr::VMX_PINBASED_CTLS, true, pin.bits(), PIN)?;
        self.choose(msr::VMX_PROCBASED_CTLS, true, primary.bits(), PRIMARY)?;
        self.choose(msr::VMX_PROCBASED_CTLS2, false, secondary.bits(), SECONDARY)?;
        self.choose(msr::VMX_EXIT_CTLS, true, ExitControls::HOST_ADDRESS_SPACE_SIZE.bits(), EXIT)?;
        self.choose(msr::VMX_ENTRY_CTLS, true, EntryControls::IA32E_MODE_GUEST.bits(), ENTRY)?;
        let needed = needed | EptVpidCap::WALK_LENGTH_4 | EptVpidCap::WRITE_BACK;
        self.read_msr(msr::VMX_EPT_VPID_CAP)?;
        self.mov(rdi, needed.bits())?;
        self.and(rax, rdi)?;
        self.cmp(rax, rdi)?;
        self.sete(al)?;
        self.test(al, al)?;
        self.need("EPT or VPID such as this guest needs")
    }

    /// Fails unless the machine allows these secondary controls.
    pub(super) fn need_secondary(&mut self, wanted: SecondaryControls) -> Asm {
        let adjust = self.adjust;
        self.mov(ecx, msr::VMX_PROCBASED_CTLS2)?;
        self.mov(r8d, wanted.bits())?;
        self.call(adjust)
    }

    /// Writes a field of the current VMCS.
    pub(super) fn set_field<T: FieldValue>(&mut self, field: Field<T>, value: T) -> Asm {
        self.mov(rax, value.into_raw())?;
        self.set_field_from(field, rax)
    }

    /// Writes a field of the current VMCS from a register other than RDX.
    pub(super) fn set_field_from<T>(&mut self, field: Field<T>, value: AsmRegister64) -> Asm {
        let failed = self.failed;
        self.mov(edx, field.field().0)?;
        self.vmwrite(rdx, value)?;
        self.jbe(failed)
    }

    /// Reads a field of the current VMCS to a register other than RDX.
    pub(super) fn get_field<T>(&mut self, to: AsmRegister64, field: Field<T>) -> Asm {
        let failed = self.failed;
        self.mov(edx, field.field().0)?;
        self.vmread(to, rdx)?;
        self.jbe(failed)
    }

    /// Builds an EPT that maps the first [`l2::PAGES`] pages of an L2 to `memory`.
    pub(super) fn ept(&mut self, number: u64, memory: u64) -> Asm {
        let build_ept = self.build_ept;
        self.mov(edi, ept(number) as u32)?;
        self.mov(esi, memory as u32)?;
        self.call(build_ept)
    }

    /// Prepares a VMCS for an L2 and makes it current.
    pub(super) fn vmcs(&mut self, number: u64, ept: u64, vpid: u16) -> Asm {
        let build_vmcs = self.build_vmcs;
        self.mov(edi, vmcs(number) as u32)?;
        self.call(build_vmcs)?;
        self.set_field(vmcs::EPT_POINTER, eptp(ept).into())?;
        self.set_field(vmcs::VPID, vpid)
    }

    /// Makes a VMCS current whose region is in RAX.
    pub(super) fn load_rax(&mut self) -> Asm {
        let failed = self.failed;
        self.mov(qword_ptr(POINTER), rax)?;
        self.vmptrld(qword_ptr(POINTER))?;
        self.jbe(failed)
    }

    /// Runs the L2 whose registers RDI points to, under the current VMCS, until it exits.
    pub(super) fn run_rdi(&mut self) -> Asm {
        let run = self.run;
        self.call(run)
    }

    /// Runs an L2 under the current VMCS until it exits, which must be for this reason.
    pub(super) fn run_until(&mut self, number: u64, reason: Reason) -> Asm {
        let unexpected = self.unexpected;
        self.mov(edi, registers(number) as u32)?;
        self.run_rdi()?;
        self.get_field(rax, vmcs::EXIT_REASON)?;
        self.cmp(eax, i32::from(reason.0))?;
        self.jne(unexpected)
    }

    /// The label to go to when an L2 exits for no reason that is known.
    pub(super) fn unexpected(&self) -> CodeLabel {
        self.unexpected
    }

    /// The label to go to with the flags of a VMX instruction that failed.
    pub(super) fn failed(&self) -> CodeLabel {
        self.failed
    }

    /// Has the L2 go on behind the instruction for which it exited.
    pub(super) fn advance(&mut self) -> Asm {
        let advance = self.advance;
        self.call(advance)
    }

    fn descriptor(&mut self, low: u64, high: u64) -> Asm {
        self.mov(rax, low)?;
        self.mov(qword_ptr(DESCRIPTOR), rax)?;
        self.mov(rax, high)?;
        self.mov(qword_ptr(DESCRIPTOR + 8), rax)
    }

    /// INVEPT.
    pub(super) fn invalidate_ept(&mut self, kind: InveptType, eptp: u64) -> Asm {
        let failed = self.failed;
        self.descriptor(eptp, 0)?;
        self.mov(eax, kind as u32)?;
        self.invept(rax, xmmword_ptr(DESCRIPTOR))?;
        self.jbe(failed)
    }

    /// INVVPID.
    pub(super) fn invalidate_vpid(&mut self, kind: InvvpidType, vpid: u16, address: u64) -> Asm {
        let failed = self.failed;
        self.descriptor(u64::from(vpid), address)?;
        self.mov(eax, kind as u32)?;
        self.invvpid(rax, xmmword_ptr(DESCRIPTOR))?;
        self.jbe(failed)
    }

    /// Leaves VMX operation, with the first `count` VMCSs cleared.
    pub(super) fn turn_off(&mut self, count: u64) -> Asm {
        let failed = self.failed;
        for number in 0..count {
            self.mov(qword_ptr(POINTER), vmcs(number) as i32)?;
            self.vmclear(qword_ptr(POINTER))?;
            self.jbe(failed)?;
        }
        self.vmxoff()?;
        self.jbe(failed)
    }

    /// VMCLEAR of one VMCS, whose L2 starts with VMLAUNCH next.
    pub(super) fn give_up(&mut self, number: u64) -> Asm {
        let failed = self.failed;
        self.mov(qword_ptr(registers(number) + LAUNCHED as u64), 0)?;
        self.mov(qword_ptr(POINTER), vmcs(number) as i32)?;
        self.vmclear(qword_ptr(POINTER))?;
        self.jbe(failed)
    }

    /// Enters VMX operation again. The first `count` L2s start with VMLAUNCH.
    pub(super) fn turn_on_again(&mut self, count: u64) -> Asm {
        let failed = self.failed;
        for number in 0..count {
            self.mov(qword_ptr(registers(number) + LAUNCHED as u64), 0)?;
        }
        self.mov(qword_ptr(POINTER), VMXON as i32)?;
        self.vmxon(qword_ptr(POINTER))?;
        self.jbe(failed)
    }

    /// Assembles all of it.
    pub(super) fn finish(mut self) -> Result<Loaded, IcedError> {
        self.adjust_routine()?;
        self.build_ept_routine()?;
        self.build_vmcs_routine()?;
        self.run_routine()?;
        self.advance_routine()?;
        self.failures()?;
        self.kit.finish()
    }

    /// The controls R8D as the capability MSR ECX allows them, in RAX. See: SDM "Algorithms for Determining VMX
    /// Capabilities".
    fn adjust_routine(&mut self) -> Asm {
        let mut label = self.adjust;
        self.set_label(&mut label)?;
        self.rdmsr()?;
        self.or(eax, r8d)?;
        self.and(eax, edx)?;
        self.mov(edx, eax)?;
        self.and(edx, r8d)?;
        self.cmp(edx, r8d)?;
        self.sete(dl)?;
        self.test(dl, dl)?;
        self.need("VMX control that this guest needs")?;
        self.ret()
    }

    /// Fills the four pages at RDI: the first pages of an L2 lie at RSI.
    fn build_ept_routine(&mut self) -> Asm {
        let [mut label, mut next] = [self.build_ept, self.create_label()];
        self.set_label(&mut label)?;
        self.mov(r8, rdi)?;
        self.xor(eax, eax)?;
        self.mov(ecx, 4 * 512u32)?;
        self.rep().stosq()?;
        for level in 0..3 {
            self.lea(rax, qword_ptr(r8 + ((level + 1) * 0x1000 + EPT_ALL as i32)))?;
            self.mov(qword_ptr(r8 + level * 0x1000), rax)?;
        }
        self.lea(rdi, qword_ptr(r8 + 0x3000))?;
        self.lea(rax, qword_ptr(rsi + EPT_LEAF as i32))?;
        self.mov(ecx, l2::PAGES as u32)?;
        self.set_label(&mut next)?;
        self.stosq()?;
        self.add(rax, 0x1000)?;
        self.dec(ecx)?;
        self.jnz(next)?;
        self.ret()
    }

    /// Prepares the VMCS in the region at RDI, all but EPT pointer and VPID.
    fn build_vmcs_routine(&mut self) -> Asm {
        let [mut label, mut next] = [self.build_vmcs, self.create_label()];
        let failed = self.failed;
        self.set_label(&mut label)?;
        self.mov(qword_ptr(POINTER), rdi)?;
        self.mov(eax, dword_ptr(REVISION))?;
        self.mov(dword_ptr(rdi), eax)?;
        self.vmclear(qword_ptr(POINTER))?;
        self.jbe(failed)?;
        self.vmptrld(qword_ptr(POINTER))?;
        self.jbe(failed)?;
        for (field, from) in [
            (vmcs::PIN_BASED_CONTROLS.field(), PIN),
            (vmcs::PRIMARY_CONTROLS.field(), PRIMARY),
            (vmcs::SECONDARY_CONTROLS.field(), SECONDARY),
            (vmcs::EXIT_CONTROLS.field(), EXIT),
            (vmcs::ENTRY_CONTROLS.field(), ENTRY),
        ] {
            self.mov(edx, field.0)?;
            self.vmwrite(rdx, qword_ptr(from))?;
            self.jbe(failed)?;
        }
        let constants = constants();
        let table = self.data(words(&constants.concat()));
        self.lea(rsi, ptr(table))?;
        self.mov(ecx, constants.len() as u32)?;
        self.set_label(&mut next)?;
        self.mov(rdx, qword_ptr(rsi))?;
        self.vmwrite(rdx, qword_ptr(rsi + 8))?;
        self.jbe(failed)?;
        self.add(rsi, 16)?;
        self.dec(ecx)?;
        self.jnz(next)?;
        self.mov(rax, cr0)?;
        self.set_field_from(vmcs::HOST_CR0, rax)?;
        self.set_field_from(vmcs::GUEST_CR0, rax)?;
        self.mov(rax, cr3)?;
        self.set_field_from(vmcs::HOST_CR3, rax)?;
        self.mov(rax, cr4)?;
        self.set_field_from(vmcs::HOST_CR4, rax)?;
        self.set_field_from(vmcs::GUEST_CR4, rax)?;
        let exited = self.exited;
        self.lea(rax, ptr(exited))?;
        self.set_field_from(vmcs::HOST_RIP, rax)?;
        self.ret()
    }

    fn run_routine(&mut self) -> Asm {
        let failed = self.failed;
        let [mut label, mut exited, mut resume] = [self.run, self.exited, self.create_label()];
        self.set_label(&mut label)?;
        for register in KEPT {
            self.push(register)?;
        }
        self.push(rdi)?;
        self.set_field_from(vmcs::HOST_RSP, rsp)?;
        self.cmp(byte_ptr(rdi + LAUNCHED), 0)?;
        for (register, at) in SAVED {
            self.mov(register, qword_ptr(rdi + at))?;
        }
        self.mov(rdi, qword_ptr(rdi + RDI))?;
        self.jne(resume)?;
        self.vmlaunch()?;
        self.jmp(failed)?;
        self.set_label(&mut resume)?;
        self.vmresume()?;
        self.jmp(failed)?;
        self.set_label(&mut exited)?;
        self.xchg(qword_ptr(rsp), rdi)?;
        for (register, at) in SAVED {
            self.mov(qword_ptr(rdi + at), register)?;
        }
        self.pop(rax)?;
        self.mov(qword_ptr(rdi + RDI), rax)?;
        self.mov(byte_ptr(rdi + LAUNCHED), 1)?;
        for register in KEPT.iter().rev() {
            self.pop(*register)?;
        }
        self.ret()
    }

    /// An instruction that is skipped ends the blocking of interrupts that STI and MOV SS began before it.
    fn advance_routine(&mut self) -> Asm {
        let [mut label, mut done] = [self.advance, self.create_label()];
        self.set_label(&mut label)?;
        self.get_field(rax, vmcs::GUEST_RIP)?;
        self.get_field(rcx, vmcs::EXIT_INSTRUCTION_LENGTH)?;
        self.add(rax, rcx)?;
        self.set_field_from(vmcs::GUEST_RIP, rax)?;
        self.get_field(rax, vmcs::GUEST_INTERRUPTIBILITY)?;
        self.test(al, 3)?;
        self.jz(done)?;
        self.and(eax, !3)?;
        self.set_field_from(vmcs::GUEST_INTERRUPTIBILITY, rax)?;
        self.set_label(&mut done)?;
        self.ret()
    }

    fn failures(&mut self) -> Asm {
        let name = self.name;
        let [mut failed, mut invalid, mut unexpected] = [self.failed, self.create_label(), self.unexpected];
        self.set_label(&mut failed)?;
        self.jc(invalid)?;
        self.mov(edx, vmcs::VM_INSTRUCTION_ERROR.field().0)?;
        self.vmread(rbx, rdx)?;
        self.print(&format!("{name}: a VMX instruction failed with error "))?;
        self.mov(rax, rbx)?;
        self.print_decimal()?;
        self.fail("\n")?;
        self.set_label(&mut invalid)?;
        self.fail(&format!("{name}: a VMX instruction failed with no current VMCS\n"))?;

        self.set_label(&mut unexpected)?;
        self.print(&format!("{name}: unexpected exit of L2, reason 0x"))?;
        for (field, next) in [
            (vmcs::EXIT_REASON.field(), ", qualification 0x"),
            (vmcs::EXIT_QUALIFICATION.field(), ", at 0x"),
            (vmcs::GUEST_RIP.field(), "\n"),
        ] {
            self.mov(edx, field.0)?;
            self.vmread(rax, rdx)?;
            self.print_hex()?;
            self.print(next)?;
        }
        self.fail("")
    }
}

/// Fields that are the same for every VMCS, and their values.
fn constants() -> Vec<[u64; 2]> {
    fn row<T: FieldValue>(field: Field<T>, value: T) -> [u64; 2] {
        [u64::from(field.field().0), value.into_raw()]
    }
    const FLAT: u32 = u32::MAX;
    const CODE_RIGHTS: u32 = 0xa09b;
    const DATA_RIGHTS: u32 = 0xc093;
    const UNUSABLE: u32 = 1 << 16;
    const BUSY_TSS: u32 = 0x8b;
    vec![
        row(vmcs::EXCEPTION_BITMAP, 0),
        row(vmcs::PAGE_FAULT_ERROR_CODE_MASK, 0),
        row(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, 0),
        row(vmcs::CR3_TARGET_COUNT, 0),
        row(vmcs::VM_EXIT_MSR_STORE_COUNT, 0),
        row(vmcs::VM_EXIT_MSR_LOAD_COUNT, 0),
        row(vmcs::VM_ENTRY_MSR_LOAD_COUNT, 0),
        row(vmcs::ENTRY_INTERRUPTION_INFO, 0.into()),
        row(vmcs::CR0_GUEST_HOST_MASK, 0),
        row(vmcs::CR4_GUEST_HOST_MASK, 0),
        row(vmcs::CR0_READ_SHADOW, 0),
        row(vmcs::CR4_READ_SHADOW, 0),
        row(vmcs::VMCS_LINK_POINTER, u64::MAX),
        row(vmcs::GUEST_DEBUGCTL, 0),
        row(vmcs::GUEST_CR3, l2::PML4),
        row(vmcs::GUEST_DR7, 0x400),
        row(vmcs::GUEST_RIP, l2::ENTRY),
        row(vmcs::GUEST_RSP, l2::STACK_TOP),
        row(vmcs::GUEST_RFLAGS, 2),
        row(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        row(vmcs::GUEST_INTERRUPTIBILITY, 0),
        row(vmcs::GUEST_ACTIVITY_STATE, 0),
        row(vmcs::GUEST_SYSENTER_CS, 0),
        row(vmcs::GUEST_SYSENTER_ESP, 0),
        row(vmcs::GUEST_SYSENTER_EIP, 0),
        row(vmcs::GUEST_CS_SELECTOR, CODE_SELECTOR),
        row(vmcs::GUEST_SS_SELECTOR, DATA_SELECTOR),
        row(vmcs::GUEST_DS_SELECTOR, DATA_SELECTOR),
        row(vmcs::GUEST_ES_SELECTOR, DATA_SELECTOR),
        row(vmcs::GUEST_FS_SELECTOR, DATA_SELECTOR),
        row(vmcs::GUEST_GS_SELECTOR, DATA_SELECTOR),
        row(vmcs::GUEST_LDTR_SELECTOR, 0),
        row(vmcs::GUEST_TR_SELECTOR, TSS_SELECTOR),
        row(vmcs::GUEST_CS_BASE, 0),
        row(vmcs::GUEST_SS_BASE, 0),
        row(vmcs::GUEST_DS_BASE, 0),
        row(vmcs::GUEST_ES_BASE, 0),
        row(vmcs::GUEST_FS_BASE, 0),
        row(vmcs::GUEST_GS_BASE, 0),
        row(vmcs::GUEST_LDTR_BASE, 0),
        row(vmcs::GUEST_TR_BASE, l2::TSS),
        row(vmcs::GUEST_CS_LIMIT, FLAT),
        row(vmcs::GUEST_SS_LIMIT, FLAT),
        row(vmcs::GUEST_DS_LIMIT, FLAT),
        row(vmcs::GUEST_ES_LIMIT, FLAT),
        row(vmcs::GUEST_FS_LIMIT, FLAT),
        row(vmcs::GUEST_GS_LIMIT, FLAT),
        row(vmcs::GUEST_LDTR_LIMIT, 0),
        row(vmcs::GUEST_TR_LIMIT, TSS_LIMIT),
        row(vmcs::GUEST_CS_ACCESS_RIGHTS, CODE_RIGHTS),
        row(vmcs::GUEST_SS_ACCESS_RIGHTS, DATA_RIGHTS),
        row(vmcs::GUEST_DS_ACCESS_RIGHTS, DATA_RIGHTS),
        row(vmcs::GUEST_ES_ACCESS_RIGHTS, DATA_RIGHTS),
        row(vmcs::GUEST_FS_ACCESS_RIGHTS, DATA_RIGHTS),
        row(vmcs::GUEST_GS_ACCESS_RIGHTS, DATA_RIGHTS),
        row(vmcs::GUEST_LDTR_ACCESS_RIGHTS, UNUSABLE),
        row(vmcs::GUEST_TR_ACCESS_RIGHTS, BUSY_TSS),
        row(vmcs::GUEST_GDTR_BASE, l2::GDT),
        row(vmcs::GUEST_GDTR_LIMIT, u32::from(GDT_LIMIT)),
        row(vmcs::GUEST_IDTR_BASE, l2::IDT),
        row(vmcs::GUEST_IDTR_LIMIT, u32::from(IDT_LIMIT)),
        row(vmcs::HOST_CS_SELECTOR, CODE_SELECTOR),
        row(vmcs::HOST_SS_SELECTOR, DATA_SELECTOR),
        row(vmcs::HOST_DS_SELECTOR, DATA_SELECTOR),
        row(vmcs::HOST_ES_SELECTOR, DATA_SELECTOR),
        row(vmcs::HOST_FS_SELECTOR, DATA_SELECTOR),
        row(vmcs::HOST_GS_SELECTOR, DATA_SELECTOR),
        row(vmcs::HOST_TR_SELECTOR, TSS_SELECTOR),
        row(vmcs::HOST_FS_BASE, 0),
        row(vmcs::HOST_GS_BASE, 0),
        row(vmcs::HOST_TR_BASE, TSS),
        row(vmcs::HOST_GDTR_BASE, GDT),
        row(vmcs::HOST_IDTR_BASE, IDT),
        row(vmcs::HOST_SYSENTER_CS, 0),
        row(vmcs::HOST_SYSENTER_ESP, 0),
        row(vmcs::HOST_SYSENTER_EIP, 0),
    ]
}
