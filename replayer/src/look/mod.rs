//! What there is at a place of a run, as plain data: registers, VMCSs, cached translations, the vmcs02 pool, the VPID map;
//! and memory, walks and instructions on demand. Looking changes nothing: no flag is set and no TLB filled.

mod code;
mod memory;

pub use code::{Instruction, code, text_at};
pub use memory::{Space, Stage, Structure, memory, walk};

use crate::{Cursor, Runner};
use hv::l0::{DEEPEST, L0};
pub use hv::l0::{Ended, EptRoot, Guest, PoolSlot, Step, Trail, VpidMap};
use hv::machine::Machine;
pub use hv::mmu::{Cached, PageSize, Tag};
use hv::soft::SoftSilicon;
pub use hv::vmcs::Vmcs;
use hv_defs::event::{VmcsAccess, VmcsOp, Which};
use hv_defs::vmcs::{self, Field};

/// What there is at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// How many events have happened: the number of the next one.
    pub events: u64,
    /// Instructions retired.
    pub instruction: u64,
    /// The guest that runs, or that would.
    pub runner: Runner,
    /// The physical CPU that it is on.
    pub pcpu: usize,
    /// The guests that there are, by vCPU and level.
    pub guests: Vec<Registers>,
    /// By vCPU.
    pub vcpus: Vec<Kept>,
    /// The cached translations of each physical CPU: see [`tlb`].
    pub tlbs: Vec<Vec<Cached>>,
    /// The EPT pointer that L1 runs under.
    pub eptp01: u64,
    /// The EPT02s, the one loaded last first.
    pub roots: Vec<EptRoot>,
}

/// What L0 keeps for a vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// vmcs01 and its host-physical address.
    pub vmcs01: (u64, Box<Vmcs>),
    /// The current vmcs12 and its L1-physical address, if there is one.
    pub vmcs12: Option<(u64, Box<Vmcs>)>,
    /// Its vmcs02 and its host-physical address, if it has one.
    pub vmcs02: Option<(u64, Box<Vmcs>)>,
    /// The vmcs02 pool in its order of recycling: see [`L0::pool`].
    pub pool: Vec<PoolSlot>,
    /// The VPIDs.
    pub vpids: VpidMap,
}

/// A guest's registers, and the code around its RIP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Which guest.
    pub runner: Runner,
    /// Whether its vCPU runs it. Of one that it does not run, nobody may keep the general registers.
    pub runs: bool,
    /// Its vmcs12's L1-physical address; `None` for L1.
    pub vmcs12: Option<u64>,
    /// The EPT pointer that L1 gave it, if any.
    pub eptp12: Option<u64>,
    /// RAX to R15, RIP, RFLAGS, control and debug registers, MSRs, by name; `None` for what nobody keeps.
    pub values: Vec<(&'static str, Option<u64>)>,
    /// The segment registers.
    pub segments: [Segment; 8],
    /// Instructions around RIP, in their order.
    pub code: Vec<Instruction>,
}

/// A segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Its name.
    pub name: &'static str,
    /// Its selector.
    pub selector: u16,
    /// The segment's first linear address.
    pub base: u64,
    /// Its last offset.
    pub limit: u32,
    /// Its access rights, as the VMCS has them.
    pub rights: u32,
}

impl Registers {
    /// A register by its name in lower case.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|(known, _)| *known == name)?.1
    }
}

/// Instructions shown before RIP and from it on.
const AROUND: (usize, usize) = (8, 24);

impl State {
    /// What there is at a cursor's place.
    pub fn of(cursor: &mut Cursor<'_>) -> Self {
        let (events, instruction, runner) = (cursor.event(), cursor.instruction(), cursor.runner());
        let machine = cursor.machine();
        let pcpu = machine.turn().1;
        let tlbs = (0..machine.config().pcpus.into()).map(|pcpu| tlb(machine, pcpu)).collect();
        let l0 = machine.l0();
        let registers = |(runner, guest): (Runner, Guest)| Registers {
            runner,
            runs: guest.runs,
            vmcs12: guest.vmcs12.map(|at| at.0),
            eptp12: guest.eptp12.map(|eptp| eptp.into_bits()),
            values: general(&guest).chain(system(&guest)).collect(),
            segments: segments(&guest),
            code: code(l0, &guest, guest.vmcs.get(vmcs::GUEST_RIP), AROUND),
        };
        let kept = |vcpu: usize| Kept {
            vmcs01: (l0.vmcs01_at(vcpu).0, Box::new(l0.vmcs01(vcpu))),
            vmcs12: l0.vmcs12(vcpu).map(|(at, vmcs)| (at.0, Box::new(vmcs))),
            vmcs02: l0.vmcs02(vcpu).map(|(at, vmcs)| (at.0, Box::new(vmcs))),
            pool: l0.pool(vcpu),
            vpids: l0.vpids(vcpu),
        };
        Self {
            events,
            instruction,
            runner,
            pcpu,
            guests: guests(l0).map(registers).collect(),
            vcpus: (0..l0.vcpus()).map(kept).collect(),
            tlbs,
            eptp01: l0.eptp01(),
            roots: l0.ept_roots(),
        }
    }

    /// Takes back a write to a field of a VMCS: it holds `old` again. For who wants to know what was before some of the
    /// events that one exit brought, all of which have happened here.
    pub fn take_back(&mut self, access: &VmcsAccess) {
        if access.op != VmcsOp::Write {
            return;
        }
        for kept in &mut self.vcpus {
            let held = match access.which {
                Which::Vmcs01 => Some(&mut kept.vmcs01),
                Which::Vmcs12 => kept.vmcs12.as_mut(),
                Which::Vmcs02 => kept.vmcs02.as_mut(),
                Which::Shadow12 | Which::Shadow02 => None,
            };
            if let Some((_, vmcs)) = held.filter(|(at, _)| *at == access.address) {
                vmcs.write(access.field, access.old);
            }
        }
    }

    /// Gives a guest that has just left to its hypervisor the general registers that it left: nobody keeps them, but the
    /// hypervisor, which runs next, has not changed them yet. For who knows that it is so; a guest that has its own keeps
    /// them.
    pub fn just_left(&mut self, runner: Runner) {
        let runs = self.guests.iter().find(|guest| guest.runs && guest.runner.vcpu == runner.vcpu);
        let Some(held) = runs.map(|guest| guest.values.clone()) else { return };
        let left = self.guests.iter_mut().filter(|guest| guest.runner == runner && !guest.runs);
        for (name, value) in left.flat_map(|guest| &mut guest.values).filter(|(name, _)| GPR.contains(name)) {
            let still = held.iter().find(|(known, _)| known == name).and_then(|(_, value)| *value);
            *value = value.or(still);
        }
    }

    /// A guest's registers.
    pub fn guest(&self, runner: Runner) -> Option<&Registers> {
        self.guests.iter().find(|guest| guest.runner == runner)
    }
}

/// The guests that there are, by vCPU and level.
pub fn guests(l0: &L0<SoftSilicon>) -> impl Iterator<Item = (Runner, Guest)> {
    let all = (0..l0.vcpus()).flat_map(|vcpu| (1..=DEEPEST).map(move |level| Runner { vcpu, level }));
    all.filter_map(|runner| Some((runner, l0.guest(runner.vcpu, runner.level)?)))
}

/// The cached translations of a physical CPU: linear ones by VPID, PCID, EP4TA and address, then guest-physical ones.
///
/// # Panics
/// When there is no such CPU.
pub fn tlb(machine: &mut Machine, pcpu: usize) -> Vec<Cached> {
    let mut rows: Vec<_> = machine.silicon().mmu(pcpu).cached().collect();
    rows.sort_unstable_by_key(|it| (it.guest_physical, it.tag.vpid, it.tag.pcid, it.tag.ep4ta, it.address));
    rows
}

/// The general registers by their numbers, and those in the order that is shown.
const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

/// A guest's general registers, RIP and RFLAGS, by name in the order in which debuggers have them.
pub(crate) fn general(guest: &Guest) -> impl Iterator<Item = (&'static str, Option<u64>)> {
    let gpr = |number: usize| guest.registers.as_ref().map(|registers| registers.gpr[number]);
    let rsp = Some(guest.vmcs.get(vmcs::GUEST_RSP));
    ORDER
        .into_iter()
        .map(move |number| (GPR[number], if number == 4 { rsp } else { gpr(number) }))
        .chain([("rip", Some(guest.vmcs.get(vmcs::GUEST_RIP))), ("rflags", Some(guest.vmcs.get(vmcs::GUEST_RFLAGS)))])
}

/// Its control and debug registers, table registers and MSRs.
fn system(guest: &Guest) -> impl Iterator<Item = (&'static str, Option<u64>)> {
    let held = |field: Field<u64>| Some(guest.vmcs.get(field));
    let row = |index: usize| Some(guest.vmcs.row(index));
    let registers = guest.registers.as_deref();
    [
        ("cr0", held(vmcs::GUEST_CR0)),
        ("cr2", registers.map(|registers| registers.cr2)),
        ("cr3", held(vmcs::GUEST_CR3)),
        ("cr4", held(vmcs::GUEST_CR4)),
        ("cr8", registers.map(|registers| registers.cr8)),
        ("efer", Some(guest.efer())),
        ("gdtr", held(vmcs::GUEST_GDTR_BASE)),
        ("idtr", held(vmcs::GUEST_IDTR_BASE)),
        ("dr6", registers.map(|registers| registers.dr6)),
        ("dr7", held(vmcs::GUEST_DR7)),
        ("kernel_gs_base", registers.map(|registers| registers.kernel_gs_base)),
        ("lstar", registers.map(|registers| registers.lstar)),
        ("star", registers.map(|registers| registers.star)),
        ("pat", row(vmcs::GUEST_PAT.index())),
        ("xcr0", registers.map(|registers| registers.xcr0)),
        ("tsc_aux", registers.map(|registers| registers.tsc_aux)),
    ]
    .into_iter()
}

macro_rules! segment {
    ($guest:ident, $name:literal, $selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        Segment {
            name: $name,
            selector: $guest.vmcs.row(vmcs::$selector.index()) as u16,
            base: $guest.vmcs.row(vmcs::$base.index()),
            limit: $guest.vmcs.row(vmcs::$limit.index()) as u32,
            rights: $guest.vmcs.row(vmcs::$rights.index()) as u32,
        }
    };
}

fn segments(guest: &Guest) -> [Segment; 8] {
    [
        segment!(guest, "cs", GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS),
        segment!(guest, "ss", GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS),
        segment!(guest, "ds", GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS),
        segment!(guest, "es", GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS),
        segment!(guest, "fs", GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS),
        segment!(guest, "gs", GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS),
        segment!(guest, "ldtr", GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS),
        segment!(guest, "tr", GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS),
    ]
}
