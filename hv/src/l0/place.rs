//! Where a vCPU is: its first start, its coming to a physical CPU and its leaving it.

use super::bus::Bus;
use super::cx::Cx;
use super::start::Start;
use super::vcpu::VMCS01;
use super::{L0, Silicon};
use crate::silicon::Pcpu;
use crate::world::Log;
use hv_defs::ept::InvvpidType;
use hv_defs::event::{Cause, Migration, What};
use hv_defs::slip::Slip;

impl<S: Silicon> L0<S> {
    /// Gives a vCPU its state before its first instruction, on physical CPU `cpu`. What L0 does for it is told to `log`.
    ///
    /// # Panics
    /// When there is no such vCPU or physical CPU.
    pub fn start(&mut self, vcpu: usize, cpu: Pcpu, start: &Start, bus: &mut dyn Bus, log: &mut Log) {
        self.bring(vcpu, cpu, bus, log);
        self.cx(vcpu, cpu, bus, log).begin(start);
    }

    /// Ends a vCPU, on physical CPU `cpu`: whatever VMX operation took is given up as VMXOFF gives it up, and then its own
    /// VPID; each once, however often this is called. What L1 had in its current vmcs12 is written back. The vCPU does not
    /// run again.
    ///
    /// # Panics
    /// When there is no such vCPU or physical CPU.
    pub fn tear_down(&mut self, vcpu: usize, cpu: Pcpu, bus: &mut dyn Bus, log: &mut Log) {
        self.bring(vcpu, cpu, bus, log);
        self.cx(vcpu, cpu, bus, log).give_up();
    }

    /// Has a vCPU's registers and VMCSs on a physical CPU.
    pub(super) fn bring(&mut self, vcpu: usize, cpu: Pcpu, bus: &mut dyn Bus, log: &mut Log) {
        if self.residents[cpu] == Some(vcpu) {
            return;
        }
        if let Some(other) = self.residents[cpu].take() {
            core::mem::swap(&mut self.vcpus[other].registers, self.silicon.registers(cpu));
            self.vcpus[other].resident = false;
        }
        let from = self.vcpus[vcpu].pcpu;
        if let Some(from) = from
            && self.vcpus[vcpu].resident
        {
            core::mem::swap(&mut self.vcpus[vcpu].registers, self.silicon.registers(from));
            self.residents[from] = None;
        }
        core::mem::swap(&mut self.vcpus[vcpu].registers, self.silicon.registers(cpu));
        self.residents[cpu] = Some(vcpu);
        self.vcpus[vcpu].pcpu = Some(cpu);
        self.vcpus[vcpu].resident = true;
        let mut cx = self.cx(vcpu, cpu, bus, log);
        match from {
            Some(from) if from != cpu => cx.migrated(from),
            _ => {}
        }
        cx.vcpu.ran_on |= 1 << cpu;
        if cx.vcpu.started {
            cx.load_vmcs(cx.vcpu.current);
        }
    }
}

impl<S: Silicon> Cx<'_, S> {
    /// Gives the vCPU its state before its first instruction; `None` when L0's memory is used up.
    pub(super) fn begin(&mut self, start: &Start) -> Option<()> {
        let bitmap = match self.vcpu.bitmap {
            Some(bitmap) => bitmap,
            None => {
                let frame = self.shared.frames.take()?;
                self.put_own_bitmap(frame);
                self.clear_vmcs(VMCS01);
                self.load_vmcs(VMCS01);
                *self.vcpu.bitmap.insert(frame)
            }
        };
        self.write_vmcs01(start, bitmap.0);
        self.vcpu.started = true;
        self.vcpu.waits = None;
        self.vcpu.line = None;
        self.vcpu.waits_for_sipi = false;
        Some(())
    }

    fn give_up(&mut self) {
        if self.vcpu.started && self.vcpu.level == 2 {
            self.load_vmcs01();
        }
        if self.vcpu.vmx.vmxon.is_some() {
            self.leave_vmx_operation();
        }
        self.free_vpid01();
        for index in 0..self.vcpu.saved.len() {
            if self.vcpu.saved[index].cpu.is_some() {
                self.clear_vmcs(index);
            }
        }
        self.vcpu.started = false;
        self.vcpu.waits_for_sipi = true;
    }

    /// The vCPU came from another physical CPU: its VMCSs are cleared there, and what this CPU still holds of its
    /// VPIDs and EPT pointers from an earlier stay is dropped, since it may be out of date.
    fn migrated(&mut self, from: Pcpu) {
        self.emit(What::Migration(Migration { from: from as u16 }));
        for index in 0..self.vcpu.saved.len() {
            if self.vcpu.saved[index].cpu.is_some() {
                self.clear_vmcs(index);
            }
        }
        if self.vcpu.ran_on >> self.cpu & 1 != 0 && !self.shared.slips.has(Slip::MigrationUnflushed) {
            let needed = self.flushes_as_needed();
            for vpid in self.vcpu.tagging.held() {
                let vpids = &self.shared.vpids;
                let due = if needed { vpids.is_stale(vpid, self.cpu) } else { vpids.was_on(vpid, self.cpu) };
                if due {
                    self.invvpid(InvvpidType::Single, vpid, 0, Cause::Migration);
                }
            }
            if needed {
                self.flush_stale_roots();
            } else {
                self.invept_all_on(self.cpu, Cause::Migration);
            }
        }
        self.root_arrives();
    }
}
