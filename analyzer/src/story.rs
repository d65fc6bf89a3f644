//! Traces told event by event, for tests. A story has one vCPU on one CPU unless it says otherwise, and every event is
//! ten instructions after the one before.

use hv_defs::event::*;
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs::{SECONDARY_CONTROLS, VPID, VmcsField};

/// L1's EPT pointer and tag in stories; L2's follow by number.
pub(crate) const EPTP01: u64 = 0x1000_001e;
/// The VPID of L1.
pub(crate) const VPID01: u16 = 1;

/// L1's EPT pointer for its guest of that number.
pub(crate) const fn eptp12(number: u64) -> u64 {
    0x20_001e + (number << 12)
}

/// Silicon's EPT pointer for L2 of that number.
pub(crate) const fn eptp02(number: u64) -> u64 {
    0x3000_001e + (number << 12)
}

/// The vmcs12 of that number.
pub(crate) const fn vmcs12(number: u64) -> u64 {
    0x8000 + (number << 12)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) events: Vec<Event>,
    at: Stamp,
}

impl Story {
    /// What comes is of another vCPU or on another CPU.
    pub(crate) fn on(mut self, vcpu: u16, pcpu: u16) -> Self {
        (self.at.vcpu, self.at.pcpu) = (vcpu, pcpu);
        self
    }

    pub(crate) fn event(mut self, what: What) -> Self {
        self.at.instruction += 10;
        self.events.push(Event { at: self.at, what });
        self
    }

    fn entry(self, level: u8, vmcs12: u64, vpid: u16, eptp: u64) -> Self {
        let injected = InterruptionInfo::default();
        let vmcs02 = 0x5000 + u64::from(level);
        let (failed, fields_written, launch) = (None, 0, false);
        self.event(What::Entry(Entry { level, launch, vmcs12, vmcs02, vpid, eptp, injected, failed, fields_written }))
    }

    /// A guest is entered, under tags that nobody tells.
    pub(crate) fn entry_untold(self) -> Self {
        let (injected, failed, fields_written, launch) = (InterruptionInfo::default(), None, 0, false);
        let (vmcs12, vmcs02) = (NO_ADDRESS, NO_ADDRESS);
        let entry = Entry { level: 1, launch, vmcs12, vmcs02, vpid: 0, eptp: 0, injected, failed, fields_written };
        self.event(What::Entry(entry))
    }

    /// L1 is entered.
    pub(crate) fn l1(self) -> Self {
        self.entry(1, NO_ADDRESS, VPID01, EPTP01)
    }

    /// The L2 of a number is entered under a VPID.
    pub(crate) fn l2(self, number: u64, vpid02: u16) -> Self {
        self.entry(2, vmcs12(number), vpid02, eptp02(number))
    }

    /// The guest of the L2 of a number is entered under a VPID.
    pub(crate) fn l3(self, number: u64, vpid02: u16) -> Self {
        self.entry(3, vmcs12(number + 8), vpid02, eptp02(number + 8))
    }

    /// The L2 of a number is entered under a VPID and another's EPT02.
    pub(crate) fn l2_under(self, number: u64, vpid02: u16, root: u64) -> Self {
        self.entry(2, vmcs12(number), vpid02, eptp02(root))
    }

    pub(crate) fn exit(self, level: u8, reason: Reason, handled_by: Actor) -> Self {
        let vmcs12 = if level == 1 { NO_ADDRESS } else { vmcs12(0) };
        self.event(What::Exit(Exit {
            level,
            reason: ExitReason::of(reason),
            qualification: 0,
            rip: 0x1000,
            length: 3,
            gpa: 0,
            gla: 0,
            intr_info: InterruptionInfo::default(),
            vmcs12,
            handled_by,
        }))
    }

    /// L1 writes a field of a vmcs12 that was 0.
    pub(crate) fn write12(self, number: u64, field: VmcsField, value: u64) -> Self {
        let (actor, which, address, op) = (Actor::L1, Which::Vmcs12, vmcs12(number), VmcsOp::Write);
        self.event(What::Vmcs(VmcsAccess { actor, which, address, op, field, old: 0, value }))
    }

    /// L1 enables VPID for its guest, with this value; 0 disables it.
    pub(crate) fn vpid12(self, number: u64, vpid: u16) -> Self {
        let bit = if vpid == 0 { 0 } else { 1 << 5 };
        self.write12(number, SECONDARY_CONTROLS.field(), bit).write12(number, VPID.field(), vpid.into())
    }

    pub(crate) fn flush(self, kind: FlushKind, cause: Cause, vpid: u16, eptp: u64) -> Self {
        let (actor, address, dropped) = (if cause == Cause::Guest { Actor::L1 } else { Actor::L0 }, 0, 0);
        self.event(What::Flush(Flush { kind, cause, actor, vpid, eptp, address, dropped }))
    }

    /// The 4 KiB entry of the EPT02 of a number changes.
    pub(crate) fn ept(self, op: EptOp, number: u64, gpa: u64, old: u64, new: u64) -> Self {
        let (eptp12, eptp02) = (eptp12(number), eptp02(number));
        self.event(What::Ept(EptChange { op, eptp12, eptp02, gpa, size: 4096, old, new }))
    }

    pub(crate) fn pool(self, op: PoolOp, number: u64, slot: u16, written: u16, skipped: u16) -> Self {
        self.event(What::Pool(Pool { op, vmcs12: vmcs12(number), slot, written, skipped }))
    }
}
