//! MONITOR and MWAIT, which both exit for every guest. MONITOR notes what its line of L1's memory holds; MWAIT goes on at
//! once if the line holds something else by then, and else waits until it does, or until what ends a HLT comes. A store
//! that leaves the line as it was is not seen. See: SDM "Monitor/Mwait Address Range Determination".

use super::L0;
use super::cx::Cx;
use super::exit::Exit;
use super::next::{Fault, Next};
use super::paging::{Failure, Use};
use crate::silicon::Silicon;
use hv_defs::addr::Hpa;
use hv_defs::event::Actor;
use hv_defs::exit::{EptViolation, ExitReason, InstructionInfo, Reason};
use hv_defs::vmcs;
use hv_defs::x86::AccessRights;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use serde::{Deserialize, Serialize};

/// Bytes of a monitored line, the smallest and the largest.
pub(super) const LINE: usize = 64;

/// A line of memory, as MONITOR found it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    at: Hpa,
    #[serde(with = "crate::stored::bytes")]
    was: [u8; LINE],
}

impl Line {
    fn new(silicon: &mut impl Silicon, at: Hpa) -> Self {
        let mut was = [0; LINE];
        silicon.read(at, &mut was);
        Self { at, was }
    }

    fn has_changed(&self, silicon: &mut impl Silicon) -> bool {
        Self::new(silicon, self.at) != *self
    }
}

/// What a vCPU waits for beside interrupts and their like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Wait {
    /// HLT: nothing.
    Halt,
    /// MWAIT: a store to the line; and interrupts end it even where they are masked, if `unmasked`.
    Store { line: Line, unmasked: bool },
}

impl<S: Silicon> L0<S> {
    /// Whether a vCPU waits in MWAIT for a store that has come.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn is_stored_to(&mut self, vcpu: usize) -> bool {
        match &self.vcpus[vcpu].waits {
            Some(Wait::Store { line, .. }) => line.has_changed(&mut self.silicon),
            _ => false,
        }
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// Ends an MWAIT whose line was stored to.
    pub(super) fn look_at_line(&mut self) {
        if let Some(Wait::Store { line, .. }) = &self.vcpu.waits
            && line.has_changed(self.silicon)
        {
            self.vcpu.waits = None;
        }
    }

    /// RCX in 64-bit mode, else ECX.
    fn extensions(&mut self) -> u64 {
        let width = if self.is_long() { u64::MAX } else { u64::from(u32::MAX) };
        self.gpr(1) & width
    }

    /// Where MONITOR's operand is in the guest's linear memory.
    fn monitored(&mut self) -> Result<u64, Failure> {
        let (bytes, count) = self.fetch()?;
        let big = AccessRights::from_bits(self.get(vmcs::GUEST_CS_ACCESS_RIGHTS)).big();
        let (bits, native) = if self.is_long() { (64, 2) } else { (if big { 32 } else { 16 }, u8::from(big)) };
        let instruction = Decoder::new(bits, &bytes[..count], DecoderOptions::NONE).decode();
        // Code that has changed since silicon fetched it is taken as an instruction without prefixes.
        let (size, segment) = if instruction.mnemonic() == Mnemonic::Monitor {
            let size = match instruction.op0_register() {
                Register::AX => 0,
                Register::EAX => 1,
                _ => 2,
            };
            (size, instruction.segment_prefix())
        } else {
            (native, Register::None)
        };
        let segment = if segment == Register::None { Register::DS } else { segment };
        let info = InstructionInfo::new()
            .with_address_size(size)
            .with_segment(segment.number() as u8)
            .with_base(0)
            .with_no_index(true);
        self.operand_address(&Exit::default(), info, 1, false).map_err(Failure::Fault)
    }

    fn arm(&mut self) -> Result<(), Failure> {
        let linear = self.monitored()?;
        let physical = self.translate(linear, Use::READ)?;
        let at = self.guest_physical(physical, super::ept12::READ)?;
        let line = hv_defs::addr::Gpa(at.0 & !(LINE as u64 - 1));
        // What is no RAM cannot be monitored, and MWAIT does not wait then.
        self.vcpu.line = match self.ram(line, LINE as u64) {
            Some(hpa) => Some(Line::new(self.silicon, hpa)),
            None => None,
        };
        Ok(())
    }

    /// MONITOR, by a guest whose hypervisor does not ask for it.
    pub(super) fn handle_monitor(&mut self, exit: &mut Exit) -> (Actor, Next) {
        if !self.vcpu.msrs.has_monitor() {
            return (Actor::L0, Next::Raise(Fault::UD));
        }
        if self.extensions() != 0 {
            return (Actor::L0, Next::Raise(Fault::GP));
        }
        match self.arm() {
            Ok(()) => (Actor::L0, Next::Skip),
            Err(Failure::Fault(fault)) => (Actor::L0, Next::Raise(fault)),
            Err(Failure::Ept12(at)) => {
                // The operand is where EPT12 has nothing: what L2 would have met on hardware.
                exit.reason = ExitReason::of(Reason::EPT_VIOLATION);
                exit.qualification = EptViolation::new().with_read(true).into_bits();
                exit.gpa = at.0;
                (Actor::L1, Next::Reflect)
            }
        }
    }

    /// MWAIT, likewise.
    pub(super) fn handle_mwait(&mut self) -> Next {
        if !self.vcpu.msrs.has_monitor() {
            return Next::Raise(Fault::UD);
        }
        let extensions = self.extensions();
        if extensions > 1 {
            return Next::Raise(Fault::GP);
        }
        match self.vcpu.line.take() {
            Some(line) if !line.has_changed(self.silicon) => {
                Next::Wait(Wait::Store { line, unmasked: extensions == 1 })
            }
            _ => Next::Skip,
        }
    }
}
