//! INVEPT and INVVPID: L1 says what its L2s' translations are no longer worth, and L0 says it to silicon in its own tags.

use super::super::cx::{Cx, flush_kind};
use super::super::exit::Exit;
use super::super::shadow;
use super::{Done, Ended};
use crate::silicon::Silicon;
use hv_defs::controls::EptVpidCap;
use hv_defs::ept::{Eptp, InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::{Actor, Cause, Flush, FlushKind, What};
use hv_defs::instruction_error::InstructionError;
use hv_defs::slip::Slip;

const INVALID: Ended = Ended::Fail(InstructionError::INVALID_INVEPT_INVVPID_OPERAND);

impl<S: Silicon> Cx<'_, S> {
    /// The type (a register) and the descriptor (in memory).
    fn invalidation(&mut self, exit: &Exit) -> Result<(u64, [u64; 2]), Ended> {
        let info = self.instruction_info();
        let width = if self.is_long() { u64::MAX } else { u64::from(u32::MAX) };
        let kind = self.gpr(info.reg2()) & width;
        let mut bytes = [0; 16];
        self.read_operand(exit, info, &mut bytes)?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        Ok((kind, [word(0), word(8)]))
    }

    fn emit_guest_flush(&mut self, kind: FlushKind, vpid: u16, eptp: u64, address: u64) {
        let (cause, actor) = (Cause::Guest, Actor::L1);
        self.emit(What::Flush(Flush { kind, cause, actor, vpid, eptp, address, dropped: 0 }));
    }

    pub(super) fn invept_instruction(&mut self, exit: &Exit) -> Done {
        if !self.shared.capabilities.ept_vpid.contains(EptVpidCap::INVEPT) {
            return Err(Ended::Fault(super::super::next::Fault::UD));
        }
        let (number, words) = self.invalidation(exit)?;
        let descriptor = InveptDescriptor::from_words(words);
        let Some(kind) = InveptType::new(number) else { return Ok(INVALID) };
        match kind {
            InveptType::Single => {
                if !self.is_eptp(descriptor.eptp) {
                    return Ok(INVALID);
                }
                self.emit_guest_flush(FlushKind::InveptSingle, 0, descriptor.eptp.into_bits(), 0);
                let wanted = shadow::key(descriptor.eptp).ep4ta();
                self.flush_roots(|eptp12| eptp12.ep4ta() == wanted);
            }
            InveptType::All => {
                self.emit_guest_flush(FlushKind::InveptAll, 0, 0, 0);
                self.flush_roots(|_| true);
            }
        }
        Ok(Ended::Succeed)
    }

    /// Syncs the EPT02s of the EPT12s that are meant, and drops silicon's translations of them.
    fn flush_roots(&mut self, meant: impl Fn(Eptp) -> bool) {
        for number in self.ept02.roots_of(self.vcpu.id) {
            let Some(root) = &self.ept02.roots[number] else { continue };
            if meant(root.eptp12) {
                self.sync_root(number);
                if self.shared.slips.has(Slip::InveptAsInvvpid) {
                    for vpid02 in self.vcpu.tagging.standing_for(self.shared.policy.tags, None) {
                        self.invvpid(InvvpidType::Single, vpid02, 0, Cause::InveptEmulation);
                    }
                } else {
                    self.flush_root(number);
                }
            }
        }
    }

    /// Whether VM entry would take this EPT pointer.
    pub(in crate::l0) fn is_eptp(&self, eptp: Eptp) -> bool {
        let caps = self.shared.capabilities.ept_vpid;
        let type_ok = match eptp.memory_type() {
            0 => caps.contains(EptVpidCap::UNCACHEABLE),
            6 => caps.contains(EptVpidCap::WRITE_BACK),
            _ => false,
        };
        type_ok
            && eptp.walk_length_less_one() == 3
            && (!eptp.accessed_dirty() || caps.contains(EptVpidCap::ACCESSED_DIRTY))
            && eptp.into_bits() & 0xf80 == 0
            && eptp.into_bits() >> self.shared.address_bits == 0
    }

    pub(super) fn invvpid_instruction(&mut self, exit: &Exit) -> Done {
        if !self.shared.capabilities.ept_vpid.contains(EptVpidCap::INVVPID) {
            return Err(Ended::Fault(super::super::next::Fault::UD));
        }
        let (number, words) = self.invalidation(exit)?;
        let descriptor = InvvpidDescriptor::from_words(words);
        let Some(kind) = InvvpidType::new(number) else { return Ok(INVALID) };
        let (vpid, address) = (descriptor.vpid, descriptor.address);
        let named = kind != InvvpidType::All;
        if descriptor.reserved != 0
            || named && vpid == 0
            || kind == InvvpidType::Address && !self.holds_canonical(address)
        {
            return Ok(INVALID);
        }
        let shown = |wanted, value| if wanted { value } else { 0 };
        let at = if kind == InvvpidType::Address { address } else { 0 };
        self.emit_guest_flush(flush_kind(kind), shown(named, u64::from(vpid)) as u16, 0, at);
        // L1's own translations are not silicon's to drop for "all": one INVVPID for each tag of an L2's.
        let each = if kind == InvvpidType::All { InvvpidType::Single } else { kind };
        let (tags, slips) = (self.shared.policy.tags, self.shared.slips);
        let meant = match (slips.has(Slip::InvvpidAsInvept), slips.has(Slip::InvvpidWrongVpid)) {
            (true, _) => {
                let eptp01 = self.shared.ept01.pointer;
                self.invept(eptp01, Cause::InvvpidEmulation);
                Vec::new()
            }
            (_, true) => vec![self.vcpu.tagging.vpid01],
            _ => self.vcpu.tagging.standing_for(tags, named.then_some(vpid)),
        };
        for vpid02 in meant {
            self.shared.vpids.outdated(vpid02, self.cpu);
            if !self.flushes_as_needed() || self.shared.vpids.is_held(vpid02, self.cpu) {
                self.invvpid(each, vpid02, at, Cause::InvvpidEmulation);
            }
        }
        Ok(Ended::Succeed)
    }
}
