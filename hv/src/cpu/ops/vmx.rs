//! VMX instructions in non-root operation. They exit, with what the hypervisor needs to emulate them; VMREAD and VMWRITE
//! may be served from the VMCS that the link pointer names, with VMCS shadowing.
//! See: SDM "Information for VM Exits Due to Instruction Execution".

use crate::cpu::decode::Form;
use crate::cpu::op::{Flow, Op, Run, W32, W64, Width};
use crate::cpu::state::{Cpu, Halt};
use crate::memory::Memory;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::exit::{InstructionInfo, Reason};
use hv_defs::vmcs::{GUEST_ES_ACCESS_RIGHTS, GUEST_TR_ACCESS_RIGHTS, VmcsField};

/// The instruction information of a memory operand, but for the second register.
pub(in crate::cpu) fn operand_info(form: &Form) -> InstructionInfo {
    let op = &form.op;
    let size = match form.address_size() {
        2 => 0,
        4 => 1,
        _ => 2,
    };
    InstructionInfo::new()
        .with_scale(op.scale)
        .with_address_size(size)
        .with_segment(op.seg)
        .with_index(op.index)
        .with_no_index(!op.has(Op::INDEX))
        .with_base(op.base)
        .with_no_base(!op.has(Op::BASE))
}

/// The displacement of a memory operand, which is the qualification: relative to RIP's zero for RIP-relative ones.
pub(in crate::cpu) fn displacement(cpu: &Cpu, op: &Op) -> u64 {
    op.disp.wrapping_add(if op.has(Op::RIP) { cpu.rip } else { 0 })
}

macro_rules! exits {
    ($($name:ident $reason:ident;)*) => {$(
        pub(in crate::cpu) fn $name(form: &mut Form) -> Option<Run> {
            fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
                let at = displacement(cpu, op);
                cpu.exit_with(op, Reason::$reason, at, op.extra)
            }
            form.op.extra = operand_info(form).with_reg2(form.op.reg).into();
            Some(Run::new(run))
        }
    )*};
}

exits! {
    vmxon VMXON;
    vmclear VMCLEAR;
    vmptrld VMPTRLD;
    vmptrst VMPTRST;
    invept INVEPT;
    invvpid INVVPID;
}

pub(in crate::cpu) fn vmcall(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        cpu.plain_exit(op, Reason::VMCALL)
    }
    Some(Run::new(run))
}

pub(in crate::cpu) fn vmfunc(_: &mut Form) -> Option<Run> {
    fn run(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
        use hv_defs::controls::SecondaryControls;
        let function = cpu.regs.gpr[0] as u32;
        if !cpu.controls.secondary(SecondaryControls::VM_FUNCTIONS) || function > 63 {
            return cpu.ud();
        }
        // A function that is off, or an argument that names no EPT pointer, exits.
        if cpu.controls.vm_functions >> function & 1 == 0 {
            return cpu.plain_exit(op, Reason::VMFUNC);
        }
        cpu.unsupported("a VM function")
    }
    Some(Run::new(run))
}

/// VMfailInvalid, VMfailValid and VMsucceed leave the other arithmetic flags clear.
fn finish(cpu: &mut Cpu, flags: u64) {
    cpu.flags.set_arithmetic(flags);
}

const FAIL_INVALID: u64 = 1;
const FAIL_VALID: u64 = 1 << 6;

fn encoding<W: Width>(cpu: &Cpu, register: u8) -> u64 {
    W::get(cpu, register)
}

/// VMREAD (`WRITE` false) and VMWRITE, of 32 or 64 bits. `extra` is the instruction information.
fn access<const WRITE: bool, W: Width>(cpu: &mut Cpu, memory: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let info = InstructionInfo::from(op.extra);
    let field = encoding::<W>(cpu, info.reg2());
    let exits =
        if WRITE { cpu.controls.exits_on_vmwrite(memory, field) } else { cpu.controls.exits_on_vmread(memory, field) };
    if exits {
        let reason = if WRITE { Reason::VMWRITE } else { Reason::VMREAD };
        let at = if info.is_register() { 0 } else { displacement(cpu, op) };
        return cpu.exit_with(op, reason, at, op.extra);
    }
    if cpu.cpl() > 0 {
        return cpu.gp();
    }
    if WRITE {
        let value = if info.is_register() {
            W::get(cpu, info.reg1())
        } else {
            let at = cpu.operand(op, W::BYTES, false)?;
            cpu.load::<W>(memory, op.seg(), at)?
        };
        let outcome = cpu.shadow_write(memory, field, value);
        finish(cpu, outcome);
    } else {
        match cpu.shadow_read(memory, field) {
            Ok(value) => {
                if info.is_register() {
                    W::set(cpu, info.reg1(), value & W::MASK);
                } else {
                    let at = cpu.operand(op, W::BYTES, true)?;
                    cpu.store::<W>(memory, op.seg(), at, value & W::MASK)?;
                }
                finish(cpu, 0);
            }
            Err(flags) => finish(cpu, flags),
        }
    }
    cpu.checked(op)
}

/// Bits of an access-rights field that a shadow VMCS keeps: the defined ones.
const ACCESS_RIGHTS: u64 = 0x1_f0ff;

fn is_access_rights(field: VmcsField) -> bool {
    (GUEST_ES_ACCESS_RIGHTS.field()..=GUEST_TR_ACCESS_RIGHTS.field()).contains(&field)
}

impl Cpu {
    /// The VMCS that the link pointer names; VM entry checked that it is one.
    fn shadow_vmcs(&self, memory: &Memory) -> Option<Hpa> {
        let at = Hpa(self.controls.vmcs_link_pointer);
        (at.is_page_aligned() && memory.holds(at, PAGE_SIZE)).then_some(at)
    }

    /// A field of the shadow VMCS, or the flags that VMREAD leaves.
    fn shadow_read(&self, memory: &Memory, field: u64) -> Result<u64, u64> {
        let vmcs = self.shadow_vmcs(memory).ok_or(FAIL_INVALID)?;
        // The exit let encodings of 15 bits through.
        memory.vmcs(vmcs).read(VmcsField(field as u32)).ok_or(FAIL_VALID)
    }

    /// Writes a field of the shadow VMCS. The flags that VMWRITE leaves.
    fn shadow_write(&self, memory: &mut Memory, field: u64, value: u64) -> u64 {
        let field = VmcsField(field as u32);
        let value = if is_access_rights(field) { value & ACCESS_RIGHTS } else { value };
        match self.shadow_vmcs(memory) {
            None => FAIL_INVALID,
            Some(vmcs) if memory.vmcs_mut(vmcs).write(field, value).is_some() => 0,
            Some(_) => FAIL_VALID,
        }
    }
}

/// For VMREAD the first operand is the value, for VMWRITE the second; the other is the field.
fn vmcs_access<const WRITE: bool>(form: &mut Form) -> Option<Run> {
    let (value, field) = if WRITE { (1, 0) } else { (0, 1) };
    let in_register = form.kind(value) == iced_x86::OpKind::Register;
    let info = if in_register {
        InstructionInfo::new().with_is_register(true).with_reg1(form.register(value))
    } else {
        operand_info(form)
    };
    form.op.extra = info.with_reg2(form.register(field)).into();
    Some(if form.mode.long() { Run::new(access::<WRITE, W64>) } else { Run::new(access::<WRITE, W32>) })
}

pub(in crate::cpu) fn vmread(form: &mut Form) -> Option<Run> {
    vmcs_access::<false>(form)
}

pub(in crate::cpu) fn vmwrite(form: &mut Form) -> Option<Run> {
    vmcs_access::<true>(form)
}
