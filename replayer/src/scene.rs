//! What there is to say of a place in a run.

use crate::Cursor;
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

/// The general registers by their numbers.
const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Their numbers in the order that is shown.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

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
            let gpr = guest.registers.as_ref().map_or([0; 16], |registers| registers.gpr);
            let rsp = guest.vmcs.get(vmcs::GUEST_RSP);
            registers.extend(ORDER.map(|number| (GPR[number], if number == 4 { rsp } else { gpr[number] })));
            registers.push(("rip", guest.vmcs.get(vmcs::GUEST_RIP)));
            registers.push(("rflags", guest.vmcs.get(vmcs::GUEST_RFLAGS)));
            registers.push(("cr0", guest.vmcs.row(vmcs::GUEST_CR0.index())));
            registers.push(("cr3", guest.vmcs.row(vmcs::GUEST_CR3.index())));
            registers.push(("cr4", guest.vmcs.row(vmcs::GUEST_CR4.index())));
            registers.push(("cs", guest.vmcs.row(vmcs::GUEST_CS_SELECTOR.index())));
            registers.push(("ss", guest.vmcs.row(vmcs::GUEST_SS_SELECTOR.index())));
        }
        let rip = guest.as_ref().map_or(0, |guest| guest.vmcs.get(vmcs::GUEST_RIP));
        let next = guest.as_ref().and_then(|guest| crate::part::text(machine, guest));
        let state = machine.silicon().digest();
        Scene { event, instruction, vcpu, pcpu, level, rip, registers, next, state }
    }
}
