//! The border between L0 and what runs the instructions.
//!
//! What crosses it is what crosses it on hardware: VMCSs are cleared, loaded, read, written and entered, translations
//! are invalidated, physical memory is read and written. The software CPU, KVM and a recorded trace answer at it.
//!
//! Not here: what any exit means. That is L0's.

use hv_defs::addr::Hpa;
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Check, Event, Stamp, VmcsAccess, What};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::{Field, FieldValue, TABLE, VmcsField};
use serde::{Deserialize, Serialize};

/// A physical CPU, by number from 0.
pub type Pcpu = usize;

/// Registers that VMX transitions neither save nor load: they stay in the CPU, whichever guest runs on it, and L0 swaps
/// them when it schedules another vCPU. RSP, RIP and RFLAGS are the VMCS's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, (RSP, unused while in the VMCS), RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// CR2.
    pub cr2: u64,
    /// CR8, the task priority, where no TPR shadow is in use.
    pub cr8: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// Protection-key rights of user pages.
    pub pkru: u32,
    /// The x87, SSE and AVX state, as XSAVE's standard format lays it out.
    pub extended: Box<Extended>,
}

/// The x87, SSE and AVX registers: 512 bytes of FXSAVE image, 64 of XSAVE header, 256 of upper YMM halves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct Extended(#[serde(with = "crate::stored::bytes")] pub [u8; 832]);

/// One of [`Registers`], but for the extended state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// A general register, by its number below 16.
    Gpr(u8),
    /// CR2.
    Cr2,
    /// CR8.
    Cr8,
    /// A debug register, by its number below 4.
    Dr(u8),
    /// DR6.
    Dr6,
    /// XCR0.
    Xcr0,
    /// IA32_XSS.
    Xss,
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_KERNEL_GS_BASE.
    KernelGsBase,
    /// IA32_TSC_AUX.
    TscAux,
    /// Protection-key rights of user pages.
    Pkru,
}

impl Registers {
    /// What a register holds.
    #[inline(always)]
    pub fn get(&self, register: Register) -> u64 {
        match register {
            Register::Gpr(number) => self.gpr[usize::from(number & 15)],
            Register::Cr2 => self.cr2,
            Register::Cr8 => self.cr8,
            Register::Dr(number) => self.dr[usize::from(number & 3)],
            Register::Dr6 => self.dr6,
            Register::Xcr0 => self.xcr0,
            Register::Xss => self.xss,
            Register::Star => self.star,
            Register::Lstar => self.lstar,
            Register::Cstar => self.cstar,
            Register::Fmask => self.fmask,
            Register::KernelGsBase => self.kernel_gs_base,
            Register::TscAux => self.tsc_aux,
            Register::Pkru => self.pkru.into(),
        }
    }

    /// Sets a register.
    #[inline(always)]
    pub fn set(&mut self, register: Register, value: u64) {
        let place = match register {
            Register::Gpr(number) => &mut self.gpr[usize::from(number & 15)],
            Register::Cr2 => &mut self.cr2,
            Register::Cr8 => &mut self.cr8,
            Register::Dr(number) => &mut self.dr[usize::from(number & 3)],
            Register::Dr6 => &mut self.dr6,
            Register::Xcr0 => &mut self.xcr0,
            Register::Xss => &mut self.xss,
            Register::Star => &mut self.star,
            Register::Lstar => &mut self.lstar,
            Register::Cstar => &mut self.cstar,
            Register::Fmask => &mut self.fmask,
            Register::KernelGsBase => &mut self.kernel_gs_base,
            Register::TscAux => &mut self.tsc_aux,
            Register::Pkru => return self.pkru = value as u32,
        };
        *place = value;
    }
}

impl Default for Registers {
    /// As after a reset: all zero, but for DR6, XCR0, FCW and MXCSR.
    fn default() -> Self {
        let mut extended = Extended([0; 832]);
        extended.0[..2].copy_from_slice(&0x037fu16.to_le_bytes());
        extended.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        Self {
            gpr: [0; 16],
            cr2: 0,
            cr8: 0,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            xcr0: 1,
            xss: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            pkru: 0,
            extended: Box::new(extended),
        }
    }
}

/// What became of a VM entry that silicon carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The guest ran and exited; the VMCS's exit-information fields say why.
    Exited(Exited),
    /// A check on guest state failed, or an MSR could not be loaded: an exit with the entry-failure bit set, after
    /// which the VMCS's exit-information fields say why and the guest has not run.
    EntryFailed(Check),
    /// The guest did what this silicon does not have. Nothing can be made of the VMCS now.
    Unsupported(Unsupported),
    /// Whoever watches silicon wanted it stopped here. The guest is still inside and has noticed nothing; the next
    /// [`Silicon::enter`] on this CPU is none, but goes on with it.
    Paused,
}

/// An exit, beside what the VMCS says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exited {
    /// Cached translations that the VM entry dropped, for want of a VPID.
    pub dropped_by_entry: u32,
    /// Cached translations that the VM exit dropped, for want of a VPID.
    pub dropped_by_exit: u32,
}

/// A VM entry that silicon refused before it touched guest state: VMfail. The VM-instruction error field holds the number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The number; `None` for VMfailInvalid, when no VMCS is current.
    pub error: Option<InstructionError>,
    /// The check that failed, for errors 7 and 8.
    pub check: Option<Check>,
}

/// What silicon met and does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// Where the guest was.
    pub rip: u64,
    /// The instruction's bytes, as far as they could be fetched.
    pub bytes: Vec<u8>,
    /// What it is, disassembled or in words.
    pub what: String,
}

/// Silicon that runs guests in VMX non-root operation.
///
/// Every physical CPU is in VMX root operation from the start. Each has a current VMCS, set by [`Silicon::vmptrld`];
/// a VMCS may be active on one CPU at a time, and L0 sees to that as on hardware. Misuse that hardware answers with
/// VMfail is L0's own bug here, and is asserted.
pub trait Silicon {
    /// The value of a VMX capability MSR (IA32_VMX_BASIC to IA32_VMX_VMFUNC): what this silicon offers L0.
    fn capability(&self, msr: u32) -> u64;

    /// Bytes of physical memory.
    fn memory_size(&self) -> u64;

    /// Reads physical memory.
    ///
    /// # Panics
    /// When the bytes lie beyond memory: L0 checks guests' addresses before it asks.
    fn read(&mut self, at: Hpa, into: &mut [u8]);

    /// Writes physical memory. Decoded instructions of the pages written are dropped.
    ///
    /// # Panics
    /// As [`Silicon::read`].
    fn write(&mut self, at: Hpa, bytes: &[u8]);

    /// Makes a VMCS inactive and clear. It is initialised, whatever the region held.
    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa);

    /// Makes a VMCS active and current on `cpu`.
    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa);

    /// Reads a field of the current VMCS; `field` is one of the table's.
    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64;

    /// Writes a field of the current VMCS; `field` is one of the table's, read-only ones included.
    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64);

    /// As [`Silicon::vmread`], by row of the field table: for silicon that finds a field faster so.
    fn vmread_row(&mut self, cpu: Pcpu, row: usize) -> u64 {
        self.vmread(cpu, TABLE[row].field)
    }

    /// As [`Silicon::vmwrite`], by row of the field table.
    fn vmwrite_row(&mut self, cpu: Pcpu, row: usize, value: u64) {
        self.vmwrite(cpu, TABLE[row].field, value);
    }

    /// [`Silicon::vmwrite_row`] of several rows with their values, in order.
    fn vmwrite_rows(&mut self, cpu: Pcpu, writes: &[(usize, u64)]) {
        for (row, value) in writes {
            self.vmwrite_row(cpu, *row, *value);
        }
    }

    /// The registers that transitions leave alone.
    fn registers(&mut self, cpu: Pcpu) -> &mut Registers;

    /// One of [`Silicon::registers`]. L0 asks for single ones wherever it can, so that what it learns is known.
    #[inline(always)]
    fn register(&mut self, cpu: Pcpu, register: Register) -> u64 {
        self.registers(cpu).get(register)
    }

    /// Sets one of [`Silicon::registers`].
    #[inline(always)]
    fn set_register(&mut self, cpu: Pcpu, register: Register, value: u64) {
        self.registers(cpu).set(register, value);
    }

    /// Tells the log what L0 has learned of silicon since the last call and could not have known, if anyone notes that
    /// down. It is called before each entry, and at a run's end.
    #[inline(always)]
    fn tell_answers(&mut self, _log: &mut Vec<Event>, _at: Stamp) {}

    /// Hears of what happens before the log is told, and says whether that need not be: silicon out of a recording may know
    /// that it had to come. `false` from all other silicon.
    #[inline(always)]
    fn hears(&mut self, _at: Stamp, _what: &What) -> bool {
        false
    }

    /// As [`Silicon::hears`], of an access to a VMCS.
    #[inline(always)]
    fn hears_access(&mut self, _at: Stamp, _access: &VmcsAccess) -> bool {
        false
    }

    /// As [`Silicon::hears`], of an exit whose event comes here and will be told when all that it leads to has happened: then
    /// [`Silicon::hears_exit`] is called.
    #[inline(always)]
    fn hears_of_exit(&mut self, _at: Stamp) -> bool {
        false
    }

    /// The event of the exit that silicon has heard of with [`Silicon::hears_of_exit`].
    #[inline(always)]
    fn hears_exit(&mut self, _what: &What) {}

    /// VMLAUNCH or VMRESUME of the current VMCS: runs its guest until an exit. When [`Silicon::retired`] reaches `until`
    /// an external interrupt arrives from the host's timer and the guest exits for it, exactly there (or at the first
    /// instruction boundary after, when `until` has passed already).
    ///
    /// # Errors
    /// When the entry was refused with VMfail.
    fn enter(&mut self, cpu: Pcpu, launch: bool, until: u64) -> Result<Outcome, Refused>;

    /// INVVPID. Returns how many cached translations of `cpu` were dropped.
    fn invvpid(&mut self, cpu: Pcpu, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32;

    /// INVEPT. Returns how many cached translations of `cpu` were dropped.
    fn invept(&mut self, cpu: Pcpu, kind: InveptType, descriptor: InveptDescriptor) -> u32;

    /// Instructions retired so far, on all CPUs together: the machine's clock.
    fn retired(&self) -> u64;

    /// Passes time while every CPU waits: the clock goes on to `to`, nothing is executed.
    fn skip(&mut self, to: u64);

    /// A digest of registers, active VMCSs and memory. Equal states give equal digests, on every host.
    fn digest(&mut self) -> u64;
}

/// [`Silicon::vmread`] and [`Silicon::vmwrite`] by typed field.
pub trait SiliconExt: Silicon {
    /// Reads a field of the current VMCS.
    fn get<T: FieldValue>(&mut self, cpu: Pcpu, field: Field<T>) -> T {
        T::from_raw(self.vmread(cpu, field.field()))
    }

    /// Writes a field of the current VMCS.
    fn set<T: FieldValue>(&mut self, cpu: Pcpu, field: Field<T>, value: T) {
        self.vmwrite(cpu, field.field(), value.into_raw());
    }
}

impl<S: Silicon + ?Sized> SiliconExt for S {}
