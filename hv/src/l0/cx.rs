//! What a handler works on: one vCPU on one physical CPU, at one moment. Every access to a VMCS and every flush goes
//! through here, and is told to the log here.

use super::Shared;
use super::bus::{Bus, Ram};
use super::ept02::Ept02;
use super::vcpu::Vcpu;
use crate::silicon::{Pcpu, Register, Silicon};
use core::ops::{Deref, DerefMut};
use hv_defs::addr::{Gpa, Hpa, PAGE_SIZE};
use hv_defs::ept::{Eptp, InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Actor, Cause, Event, Flush, FlushKind, Stamp, VmcsAccess, VmcsOp, What, Which};
use hv_defs::vmcs::{self, Field, FieldValue, TABLE, VmcsField};

/// One vCPU on one physical CPU, and all that is shared.
pub(super) struct Cx<'a, S: Silicon> {
    pub(super) silicon: &'a mut S,
    pub(super) vcpu: &'a mut Vcpu,
    pub(super) shared: &'a mut Shared,
    pub(super) ept02: &'a mut Ept02,
    pub(super) bus: Asked<'a>,
    /// When the board was looked at last, nothing waited there.
    pub(super) calm: bool,
    pub(super) log: &'a mut Vec<Event>,
    pub(super) cpu: Pcpu,
    pub(super) at: Stamp,
}

/// The board, which notes that it was asked for anything.
pub(super) struct Asked<'a> {
    bus: &'a mut dyn Bus,
    asked: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(bus: &'a mut dyn Bus) -> Self {
        Self { bus, asked: false }
    }

    /// Whether it was asked for anything since it was made, or since [`Asked::forget`].
    pub(super) fn was_asked(&self) -> bool {
        self.asked
    }

    pub(super) fn forget(&mut self) {
        self.asked = false;
    }
}

impl<'a> Deref for Asked<'a> {
    type Target = dyn Bus + 'a;

    fn deref(&self) -> &Self::Target {
        self.bus
    }
}

impl DerefMut for Asked<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.asked = true;
        self.bus
    }
}

/// Fields that [`Cx::update_rows`] writes together, at most.
const TOGETHER: usize = 32;

impl<S: Silicon> Cx<'_, S> {
    /// Tells the log.
    pub(super) fn emit(&mut self, what: What) {
        self.emit_at(self.at, what);
    }

    /// Tells the log of what happened elsewhere, or before.
    #[inline]
    pub(super) fn emit_at(&mut self, at: Stamp, what: What) {
        if !self.silicon.hears(at, &what) {
            self.log.push(Event { at, what });
        }
    }

    /// Tells the log of a VMCS access, if it wants to know.
    pub(super) fn emit_vmcs(&mut self, access: VmcsAccess) {
        if self.shared.log_vmcs {
            self.emit_access(self.at, access);
        }
    }

    #[inline]
    fn emit_access(&mut self, at: Stamp, access: VmcsAccess) {
        if !self.silicon.hears_access(at, &access) {
            self.log.push(Event { at, what: What::Vmcs(access) });
        }
    }

    fn access(&self, op: VmcsOp, field: VmcsField, old: u64, value: u64) -> VmcsAccess {
        let saved = &self.vcpu.saved[self.vcpu.current];
        VmcsAccess { actor: Actor::L0, which: saved.which, address: saved.hpa.0, op, field, old, value }
    }

    /// Reads a field of the current VMCS: VMREAD, unless L0 knows what it holds.
    #[inline(always)]
    pub(super) fn get<T: FieldValue>(&mut self, field: Field<T>) -> T {
        T::from_raw(self.get_row(field.index()))
    }

    /// As [`Cx::get`], by row.
    #[inline(always)]
    pub(super) fn get_row(&mut self, row: usize) -> u64 {
        match self.vcpu.saved[self.vcpu.current].known(row) {
            Some(value) => value,
            None => self.read_row(row),
        }
    }

    #[inline(never)]
    fn read_row(&mut self, row: usize) -> u64 {
        let value = self.silicon.vmread_row(self.cpu, row);
        self.vcpu.saved[self.vcpu.current].learn(row, value);
        if self.shared.log_vmcs {
            let access = self.access(VmcsOp::Read, TABLE[row].field, value, value);
            self.emit_access(self.at, access);
        }
        value
    }

    /// Writes a field of the current VMCS.
    #[inline]
    pub(super) fn set<T: FieldValue>(&mut self, field: Field<T>, value: T) {
        self.set_row(field.index(), value.into_raw());
    }

    /// As [`Cx::set`], by row.
    pub(super) fn set_row(&mut self, row: usize, value: u64) {
        if self.shared.log_vmcs {
            // What the log says of the old value costs L0 no VMREAD: it is the log's own look.
            let known = self.vcpu.saved[self.vcpu.current].known(row);
            let old = known.unwrap_or_else(|| self.silicon.vmread_row(self.cpu, row));
            let access = self.access(VmcsOp::Write, TABLE[row].field, old, value);
            self.emit_access(self.at, access);
        }
        self.silicon.vmwrite_row(self.cpu, row, value);
        let saved = &mut self.vcpu.saved[self.vcpu.current];
        saved.learn(row, value);
        saved.written = saved.written.saturating_add(1);
    }

    /// Writes a field of the current VMCS unless L0 knows that it holds this value. Returns whether it wrote.
    #[inline]
    pub(super) fn update<T: FieldValue>(&mut self, field: Field<T>, value: T) -> bool {
        self.update_row(field.index(), value.into_raw())
    }

    /// As [`Cx::update`], by row.
    #[inline]
    pub(super) fn update_row(&mut self, row: usize, value: u64) -> bool {
        if self.vcpu.saved[self.vcpu.current].known(row) == Some(value) {
            return false;
        }
        self.set_row(row, value);
        true
    }

    /// [`Cx::update_row`] of several rows with their values, in order.
    pub(super) fn update_rows(&mut self, writes: &[(usize, u64)]) {
        if self.shared.log_vmcs {
            for (row, value) in writes {
                self.update_row(*row, *value);
            }
            return;
        }
        let saved = &mut self.vcpu.saved[self.vcpu.current];
        let mut wanted = [(0, 0); TOGETHER];
        for some in writes.chunks(TOGETHER) {
            let count = saved.learn_news(some, &mut wanted);
            saved.written = saved.written.saturating_add(count as u16);
            self.silicon.vmwrite_rows(self.cpu, &wanted[..count]);
        }
    }

    /// Makes one of the vCPU's VMCSs current.
    pub(super) fn load_vmcs(&mut self, index: usize) {
        self.vcpu.current = index;
        let saved = &mut self.vcpu.saved[index];
        debug_assert!(saved.cpu.is_none_or(|cpu| cpu == self.cpu), "active elsewhere");
        saved.cpu = Some(self.cpu);
        self.silicon.vmptrld(self.cpu, saved.hpa);
        let access = self.access(VmcsOp::Load, VmcsField(0), 0, 0);
        self.emit_vmcs(access);
    }

    /// VMCLEAR of one of the vCPU's VMCSs on the CPU where it is active, by cross-call if need be.
    pub(super) fn clear_vmcs(&mut self, index: usize) {
        let saved = &mut self.vcpu.saved[index];
        let cpu = saved.cpu.unwrap_or(self.cpu);
        saved.cleared();
        self.silicon.vmclear(cpu, saved.hpa);
        let access = VmcsAccess {
            actor: Actor::L0,
            which: saved.which,
            address: saved.hpa.0,
            op: VmcsOp::Clear,
            field: VmcsField(0),
            old: 0,
            value: 0,
        };
        if self.shared.log_vmcs {
            let at = Stamp { pcpu: cpu as u16, ..self.at };
            self.emit_access(at, access);
        }
    }

    /// An access of L1's to a vmcs12.
    pub(super) fn emit_vmcs12(&mut self, op: VmcsOp, address: u64, field: VmcsField, old: u64, value: u64) {
        self.emit_vmcs(VmcsAccess { actor: Actor::L1, which: Which::Vmcs12, address, op, field, old, value });
    }

    fn emit_flush(&mut self, cpu: Pcpu, flush: Flush) {
        let at = Stamp { pcpu: cpu as u16, ..self.at };
        self.emit_at(at, What::Flush(flush));
    }

    /// INVVPID of one VPID, here.
    pub(super) fn invvpid(&mut self, kind: InvvpidType, vpid: u16, address: u64, cause: Cause) {
        self.invvpid_on(self.cpu, kind, vpid, address, cause);
    }

    /// INVVPID of one VPID on any CPU, by cross-call if need be.
    pub(super) fn invvpid_on(&mut self, cpu: Pcpu, kind: InvvpidType, vpid: u16, address: u64, cause: Cause) {
        let dropped = self.silicon.invvpid(cpu, kind, InvvpidDescriptor { vpid, reserved: 0, address });
        if kind == InvvpidType::Single {
            self.shared.vpids.flushed(vpid, cpu);
        }
        let kind = flush_kind(kind);
        self.emit_flush(cpu, Flush { kind, cause, actor: Actor::L0, vpid, eptp: 0, address, dropped });
    }

    /// INVEPT of one EPT pointer, here.
    pub(super) fn invept(&mut self, eptp: Eptp, cause: Cause) {
        self.invept_on(self.cpu, eptp, cause);
    }

    /// INVEPT of one EPT pointer on any CPU.
    pub(super) fn invept_on(&mut self, cpu: Pcpu, eptp: Eptp, cause: Cause) {
        let dropped = self.silicon.invept(cpu, InveptType::Single, InveptDescriptor { eptp, reserved: 0 });
        let flush = Flush {
            kind: FlushKind::InveptSingle,
            cause,
            actor: Actor::L0,
            vpid: 0,
            eptp: eptp.into_bits(),
            address: 0,
            dropped,
        };
        self.emit_flush(cpu, flush);
    }

    /// INVEPT of one EPT pointer on every CPU.
    pub(super) fn invept_everywhere(&mut self, eptp: Eptp, cause: Cause) {
        for cpu in 0..self.shared.pcpus {
            self.invept_on(cpu, eptp, cause);
        }
    }

    /// INVEPT of all EPT pointers on one CPU.
    pub(super) fn invept_all_on(&mut self, cpu: Pcpu, cause: Cause) {
        let dropped = self.silicon.invept(cpu, InveptType::All, InveptDescriptor::default());
        let flush =
            Flush { kind: FlushKind::InveptAll, cause, actor: Actor::L0, vpid: 0, eptp: 0, address: 0, dropped };
        self.emit_flush(cpu, flush);
    }

    /// A general register; RSP is the VMCS's.
    pub(super) fn gpr(&mut self, number: u8) -> u64 {
        match number & 15 {
            4 => self.get(vmcs::GUEST_RSP),
            other => self.silicon.register(self.cpu, Register::Gpr(other)),
        }
    }

    /// Writes a general register, all 64 bits.
    pub(super) fn set_gpr(&mut self, number: u8, value: u64) {
        match number & 15 {
            4 => self.set(vmcs::GUEST_RSP, value),
            other => self.silicon.set_register(self.cpu, Register::Gpr(other), value),
        }
    }

    /// Where an L1-physical page lies; `None` where there is no RAM.
    pub(super) fn ram(&self, at: Gpa, bytes: u64) -> Option<Hpa> {
        super::ram(self.shared.ram, at, bytes)
    }

    /// L1's memory.
    fn l1_ram(&mut self) -> L1Ram<'_, S> {
        L1Ram { silicon: self.silicon, ept02: self.ept02, size: self.shared.ram }
    }

    /// Reads L1-physical memory. What is no RAM reads as all ones.
    pub(super) fn read_gpa(&mut self, at: Gpa, into: &mut [u8]) {
        self.l1_ram().read(at, into);
    }

    /// Eight bytes of L1-physical memory.
    pub(super) fn read_gpa_u64(&mut self, at: Gpa) -> u64 {
        let mut bytes = [0; 8];
        self.read_gpa(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Writes L1-physical memory on L1's behalf. What is no RAM is dropped; a page that L0 shadows becomes unsync.
    pub(super) fn write_gpa(&mut self, at: Gpa, bytes: &[u8]) {
        self.l1_ram().write(at, bytes);
    }

    /// Lets a device reach L1's memory.
    pub(super) fn dma(&mut self, at: Gpa) {
        let mut ram = L1Ram { silicon: self.silicon, ept02: self.ept02, size: self.shared.ram };
        self.bus.dma(at, &mut ram);
    }
}

/// L1's memory, page by page.
struct L1Ram<'a, S> {
    silicon: &'a mut S,
    ept02: &'a mut Ept02,
    /// Bytes of it.
    size: u64,
}

impl<S: Silicon> Ram for L1Ram<'_, S> {
    fn read(&mut self, at: Gpa, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let from = Gpa(at.0.wrapping_add(done as u64));
            let count = (into.len() - done).min((PAGE_SIZE - from.page_offset()) as usize);
            let part = &mut into[done..done + count];
            match super::ram(self.size, from, count as u64) {
                Some(hpa) => self.silicon.read(hpa, part),
                None => part.fill(0xff),
            }
            done += count;
        }
    }

    fn write(&mut self, at: Gpa, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let to = Gpa(at.0.wrapping_add(done as u64));
            let count = (bytes.len() - done).min((PAGE_SIZE - to.page_offset()) as usize);
            if let Some(hpa) = super::ram(self.size, to, count as u64) {
                self.ept02.written(to);
                self.silicon.write(hpa, &bytes[done..done + count]);
            }
            done += count;
        }
    }
}

/// The event's word for an INVVPID type.
pub(super) const fn flush_kind(kind: InvvpidType) -> FlushKind {
    match kind {
        InvvpidType::Address => FlushKind::InvvpidAddress,
        InvvpidType::Single => FlushKind::InvvpidSingle,
        InvvpidType::All => FlushKind::InvvpidAll,
        InvvpidType::RetainGlobals => FlushKind::InvvpidRetainGlobals,
    }
}
