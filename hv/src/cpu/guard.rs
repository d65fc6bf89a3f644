//! What stands before an instruction: whether it may run at all, then whether it exits.

use super::op::{Flow, Op, Run};
use super::state::{Cpu, Halt};
use crate::memory::Memory;
use crate::vmx::exit::ExitInfo;
use hv_defs::controls::{PrimaryControls, SecondaryControls};
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::x86::Cr4;

macro_rules! legal {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Who may run an instruction. The exceptions are raised before any exit is considered.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(super) enum Legal {
            $($(#[$doc])* $name,)*
        }

        impl Legal {
            /// All of them, by their numbers.
            const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

legal! {
    /// Anyone.
    Any,
    /// Privilege level 0, else #GP.
    Cpl0,
    /// Privilege level 0, else #UD.
    Supervisor,
    /// Privilege level 0, and #GP in virtual-8086 mode; anyone unless CR4.UMIP.
    Umip,
    /// Protected mode, else #UD.
    Protected,
    /// Protected mode and privilege level 0, else #UD and #GP.
    ProtectedCpl0,
    /// Protected mode, CR4.UMIP clear or privilege level 0.
    ProtectedUmip,
    /// 64-bit mode and privilege level 0.
    LongCpl0,
    /// 64-bit mode and CR4.FSGSBASE.
    FsGsBase,
    /// CR4.TSD clear or privilege level 0.
    TimeStamp,
    /// CR4.PCE set or privilege level 0.
    Counter,
    /// CR4.OSXSAVE, else #UD.
    Xsave,
    /// CR4.OSXSAVE and privilege level 0.
    XsaveCpl0,
    /// VMX instructions in non-root operation: outside protected mode and in compatibility mode #UD, then they exit,
    /// and only then does the privilege level count, save that above 0 they exit too.
    Vmx,
    /// CR4.SMXE, else #UD.
    Smx,
    /// CR4.PKE, else #UD.
    Pku,
}

/// When an instruction exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Intercept {
    /// Never, or it is for the op to find out.
    Never,
    /// Always.
    Always(Reason),
    /// Under a primary processor-based control.
    Primary(PrimaryControls, Reason),
    /// Under a secondary processor-based control.
    Secondary(SecondaryControls, Reason),
    /// #UD without the secondary control; with it, an exit under the primary one.
    Enabled(SecondaryControls, PrimaryControls, Reason),
}

/// Both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Guard {
    pub(super) legal: Legal,
    pub(super) intercept: Intercept,
}

impl Guard {
    /// No guard.
    pub(super) const NONE: Self = Self { legal: Legal::Any, intercept: Intercept::Never };

    /// The op that stands before `instruction`. What it looks at is in fields that guards have no operands for.
    pub(super) fn op(self, instruction: &Op) -> Op {
        let none = (PrimaryControls::empty(), SecondaryControls::empty());
        let (kind, (primary, secondary), reason) = match self.intercept {
            Intercept::Never => (NEVER, none, Reason(0)),
            Intercept::Always(reason) => (ALWAYS, none, reason),
            Intercept::Primary(control, reason) => (PRIMARY, (control, none.1), reason),
            Intercept::Secondary(control, reason) => (SECONDARY, (none.0, control), reason),
            Intercept::Enabled(enable, control, reason) => (ENABLED, (control, enable), reason),
        };
        Op {
            run: Run::new(guarded),
            imm: primary.bits().into(),
            disp: secondary.bits().into(),
            extra: reason.0.into(),
            reg: self.legal as u8,
            rm: kind,
            ..*instruction
        }
    }

    /// The guard that an op of [`Guard::op`] is.
    fn of(op: &Op) -> Self {
        let primary = PrimaryControls::from_bits_retain(op.imm as u32);
        let secondary = SecondaryControls::from_bits_retain(op.disp as u32);
        let reason = Reason(op.extra as u16);
        let intercept = match op.rm {
            NEVER => Intercept::Never,
            ALWAYS => Intercept::Always(reason),
            PRIMARY => Intercept::Primary(primary, reason),
            SECONDARY => Intercept::Secondary(secondary, reason),
            _ => Intercept::Enabled(secondary, primary, reason),
        };
        Self { legal: Legal::ALL[usize::from(op.reg)], intercept }
    }
}

/// Which [`Intercept`] a guard's op has.
const NEVER: u8 = 0;
const ALWAYS: u8 = 1;
const PRIMARY: u8 = 2;
const SECONDARY: u8 = 3;
const ENABLED: u8 = 4;

impl Cpu {
    fn legal(&mut self, legal: Legal) -> Result<(), Halt> {
        let cpl0 = self.cpl() == 0;
        let protected = self.protected() && !self.v86();
        let undefined = match legal {
            Legal::Protected | Legal::ProtectedCpl0 | Legal::ProtectedUmip => !protected,
            Legal::Supervisor => !cpl0,
            Legal::Vmx => !protected || self.long_mode() && !self.code64(),
            Legal::LongCpl0 => !self.code64(),
            Legal::FsGsBase => !self.code64() || !self.has_cr4(Cr4::FSGSBASE),
            Legal::Xsave | Legal::XsaveCpl0 => !self.has_cr4(Cr4::OSXSAVE),
            Legal::Smx => !self.has_cr4(Cr4::SMXE),
            Legal::Pku => !self.has_cr4(Cr4::PKE),
            _ => false,
        };
        if undefined {
            return self.ud();
        }
        let denied = match legal {
            Legal::Cpl0 | Legal::ProtectedCpl0 | Legal::LongCpl0 | Legal::XsaveCpl0 => !cpl0,
            Legal::Umip | Legal::ProtectedUmip => !cpl0 && self.has_cr4(Cr4::UMIP),
            Legal::TimeStamp => !cpl0 && self.has_cr4(Cr4::TSD),
            Legal::Counter => !cpl0 && !self.has_cr4(Cr4::PCE),
            _ => false,
        };
        if denied { self.gp() } else { Ok(()) }
    }

    /// Whether all bits of `bits` are set in CR4.
    #[inline(always)]
    pub(super) fn has_cr4(&self, bits: Cr4) -> bool {
        self.cr4 & bits.bits() == bits.bits()
    }

    /// An exit of the instruction's own, with nothing to tell but its length.
    pub(super) fn plain_exit<T>(&mut self, op: &Op, reason: Reason) -> Result<T, Halt> {
        self.exit_with(op, reason, 0, 0)
    }

    /// An exit of the instruction's own.
    pub(super) fn exit_with<T>(&mut self, op: &Op, reason: Reason, qualification: u64, info: u32) -> Result<T, Halt> {
        self.exit(ExitInfo {
            reason: ExitReason::of(reason),
            qualification,
            length: u32::from(op.len),
            instruction_info: info,
            ..ExitInfo::default()
        })
    }

    fn intercept(&mut self, op: &Op, intercept: Intercept) -> Result<(), Halt> {
        let reason = match intercept {
            Intercept::Never => return Ok(()),
            Intercept::Always(reason) => reason,
            Intercept::Primary(control, reason) if self.controls.primary.contains(control) => reason,
            Intercept::Secondary(control, reason) if self.controls.secondary.contains(control) => reason,
            Intercept::Enabled(enable, ..) if !self.controls.secondary.contains(enable) => return self.ud(),
            Intercept::Enabled(_, control, reason) if self.controls.primary.contains(control) => reason,
            _ => return Ok(()),
        };
        self.plain_exit(op, reason)
    }
}

/// What stands before an instruction with a guard.
fn guarded(cpu: &mut Cpu, _: &mut Memory, op: &Op) -> Result<Flow, Halt> {
    let guard = Guard::of(op);
    cpu.legal(guard.legal)?;
    cpu.intercept(op, guard.intercept)?;
    Ok(Flow::Next)
}

/// More than fifteen bytes.
pub(super) fn too_long(cpu: &mut Cpu, _: &mut Memory, _: &Op) -> Result<Flow, Halt> {
    cpu.gp()
}
