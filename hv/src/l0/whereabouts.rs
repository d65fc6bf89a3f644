//! Where a vCPU is, in words for a reader, when a run has ended otherwise than it should.

use super::bus::Bus;
use super::cx::Cx;
use super::monitor::Wait;
use super::{L0, Silicon};
use crate::silicon::Pcpu;
use crate::world::Log;
use hv_defs::exit::Reason;
use hv_defs::vmcs;
use hv_defs::x86::Rflags;

impl<S: Silicon> L0<S> {
    /// The guest that a vCPU runs, its RIP, the bytes there and its last exit. What L0 reads for it is told to `log`.
    ///
    /// # Panics
    /// When there is no such vCPU or physical CPU.
    pub fn whereabouts(&mut self, vcpu: usize, cpu: Pcpu, bus: &mut dyn Bus, log: &mut Log) -> String {
        self.bring(vcpu, cpu, bus, log);
        self.cx(vcpu, cpu, bus, log).whereabouts()
    }

    /// Whether no interrupt can have a vCPU of L1 go on: it waits with its interrupts off, or was never started.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn is_deaf(&self, vcpu: usize) -> bool {
        let vcpu = &self.vcpus[vcpu];
        let flags = vcpu.saved[vcpu.current].known(vmcs::GUEST_RFLAGS.index());
        let off = flags.is_some_and(|flags| flags & Rflags::IF.bits() == 0);
        let deaf = match vcpu.waits {
            None => false,
            Some(Wait::Halt) => off,
            // Devices store to memory only when a vCPU has them do so: a store needs a vCPU that runs.
            Some(Wait::Store { unmasked, .. }) => off && !unmasked,
        };
        !vcpu.started || vcpu.waits_for_sipi || deaf && vcpu.level == 1
    }
}

impl<S: Silicon> Cx<'_, S> {
    fn whereabouts(&mut self) -> String {
        let rip = self.get(vmcs::GUEST_RIP);
        let bytes = match self.fetch() {
            Ok((bytes, count)) => bytes[..count].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
            Err(_) => "not mapped".to_owned(),
        };
        let last = self.vcpu.last_exit.map_or("none".to_owned(), |reason| Reason(reason.basic()).to_string());
        format!("L{} at {rip:#x} [{bytes}], last exit {last}", self.level())
    }
}
