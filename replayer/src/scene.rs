//! What there is to say of a place in a run.

use crate::{Cursor, look};
use hv::silicon::Silicon;
use hv_defs::vmcs;

/// Where a cursor stands, and what runs there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scene {
    /// The last event that has happened; `None` before the first.
    pub event: Option<u64>,
    /// Instructions retired.
    pub instruction: u64,
    /// The vCPU whose turn it is.
    pub vcpu: usize,
    /// The physical CPU that it has.
    pub pcpu: usize,
    /// The guest that it runs: 1 or 2.
    pub level: u8,
    /// That guest's RIP.
    pub rip: u64,
    /// Its registers by name, in the order in which debuggers have them.
    pub registers: Vec<(&'static str, u64)>,
    /// The instruction at RIP, which comes next; `None` where memory there cannot be read.
    pub next: Option<String>,
    /// A digest of the machine's registers and memory: equal states have equal ones.
    pub state: u64,
}

impl Cursor<'_> {
    /// What there is to say of this place.
    pub fn scene(&mut self) -> Scene {
        let (event, instruction) = (self.event().checked_sub(1), self.instruction());
        let machine = self.machine();
        let (vcpu, pcpu) = machine.turn();
        let level = machine.l0().level(vcpu);
        let guest = machine.l0().guest(vcpu, level);
        let mut registers = Vec::new();
        if let Some(guest) = &guest {
            registers.extend(look::general(guest).map(|(name, value)| (name, value.unwrap_or(0))));
            registers.push(("cr0", guest.vmcs.row(vmcs::GUEST_CR0.index())));
            registers.push(("cr3", guest.vmcs.row(vmcs::GUEST_CR3.index())));
            registers.push(("cr4", guest.vmcs.row(vmcs::GUEST_CR4.index())));
            registers.push(("cs", guest.vmcs.row(vmcs::GUEST_CS_SELECTOR.index())));
            registers.push(("ss", guest.vmcs.row(vmcs::GUEST_SS_SELECTOR.index())));
        }
        let rip = guest.as_ref().map_or(0, |guest| guest.vmcs.get(vmcs::GUEST_RIP));
        let next = guest.as_ref().and_then(|guest| look::text_at(machine.l0(), guest, rip));
        let state = machine.silicon().digest();
        Scene { event, instruction, vcpu, pcpu, level, rip, registers, next, state }
    }
}
