//! Where two machines part: the one that a trace describes, and one of another configuration that is given the same inputs.
//!
//! Both run side by side, and now and then all that their guests can see is compared: the registers of every vCPU, and L1's
//! memory. L0's own memory is left out, since another L0 may well keep it otherwise. Once they differ, the place is found by
//! halving, to the instruction behind which the first difference shows.

use crate::checkpoint::Checkpoints;
use crate::recorded::{Progress, inputs};
use crate::{Error, images, look};
use core::ops::ControlFlow;
use hv::l0::{Guest, L0_MEMORY};
use hv::machine::{Advance, Machine};
use hv::world::World;
use hv_defs::config::Config;
use hv_defs::event::{Event, Input, InputKind, Kind, VmcsAccess, VmcsOp, What, Which};
use hv_defs::vmcs::{self, Class, TABLE, VmcsField};
use std::collections::BTreeMap;
use std::sync::Arc;
use traces::Reader;

/// The least and the most instructions between two comparisons.
const STRIDE: (u64, u64) = (1 << 12, 1 << 24);
/// Comparisons of a run, if it is long enough for them.
const COMPARISONS: u64 = 256;
/// The most bytes that the checkpoints of one machine may take.
const MOST: usize = 1 << 28;
const PAGE: usize = 4096;

/// Something that differs, as each machine has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differs {
    /// What: a register, a field of a VMCS, a word of L1's memory.
    pub what: String,
    /// The recorded machine's.
    pub recorded: u64,
    /// The other's.
    pub other: u64,
}

/// The first difference that a guest can see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parting {
    /// Instructions retired at the last place where nothing differed.
    pub instruction: u64,
    /// Instructions retired where something does: one more, or where an idle machine's clock has gone on to.
    pub behind: u64,
    /// The last event of the recorded machine before that.
    pub event: Option<u64>,
    /// The vCPU whose turn it was, and the guest that it ran: 1 or 2.
    pub vcpu: usize,
    /// Its level.
    pub level: u8,
    /// RIP of the guest that ran.
    pub rip: u64,
    /// The instruction there; `None` where it cannot be read.
    pub instruction_text: Option<String>,
    /// Registers and other state of a vCPU that differ.
    pub registers: Vec<Differs>,
    /// 64-bit words of L1's memory that differ, by L1-physical address: the first few.
    pub memory: Vec<Differs>,
    /// How many pages of L1's memory differ.
    pub pages: u64,
    /// Fields of the vCPU's vmcs12 and vmcs02 that differ.
    pub fields: Vec<Differs>,
    /// The last event that wrote the first of those fields, with its number, as the recorded machine did.
    pub writer: Option<(u64, Event)>,
}

/// Words of memory that are shown.
const WORDS: usize = 16;

/// The world of a machine that is not compared: it answers from the trace.
struct Given<'a> {
    inputs: &'a [Input],
    next: usize,
    events: u64,
}

impl World for Given<'_> {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        self.events += events.len() as u64;
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, poll: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        let left = &self.inputs[self.next..];
        self.next += left.iter().take_while(|input| input.poll < poll).count();
        let input = self.inputs.get(self.next).filter(|input| input.poll == poll)?;
        self.next += 1;
        Some((input.kind, input.value))
    }
}

/// One of the two.
struct Twin<'a> {
    machine: Machine,
    world: Given<'a>,
    kept: Checkpoints,
    initial: BTreeMap<u32, Arc<[u8]>>,
    ended: bool,
}

impl<'a> Twin<'a> {
    fn new(reader: &Reader, config: &Config, inputs: &'a [Input]) -> Result<Self, Error> {
        let mut machine = Machine::new(config, &images(reader.header())?)?;
        let first = machine.changed_pages(&mut Vec::new());
        let initial = first.into_iter().map(|(page, bytes)| (page, Arc::from(bytes))).collect();
        let kept = Checkpoints::new(&mut machine, MOST);
        let mut world = Given { inputs, next: 0, events: 0 };
        machine.tell(&mut world);
        let mut twin = Self { machine, world, kept, initial, ended: false };
        twin.keep();
        Ok(twin)
    }

    fn keep(&mut self) {
        let progress = Progress::of_inputs(self.world.events, self.world.next);
        self.kept.take(&mut self.machine, progress);
    }

    fn run_to(&mut self, instruction: u64) {
        if !self.ended {
            let ran = self.machine.run_to(&mut self.world, instruction);
            self.ended = matches!(ran, Advance::Ended(_) | Advance::BrokenOff);
        }
    }

    /// Goes back to what was kept at or before an instruction. `false` where that cannot be done.
    fn back_to(&mut self, instruction: u64) -> bool {
        let Some(number) = self.kept.find(|kept| kept.instruction <= instruction) else { return false };
        let initial = &self.initial;
        let Some(progress) = self.kept.restore(number, &mut self.machine, |page| initial.get(&page).cloned()) else {
            return false;
        };
        (self.world.events, self.world.next, self.ended) = (progress.events, progress.inputs_given(), false);
        true
    }

    fn l1_pages(&mut self) -> &[u64] {
        let own = (L0_MEMORY / PAGE as u64) as usize;
        self.machine.page_digests().get(own..).unwrap_or_default()
    }
}

/// What a guest can see of itself, by name.
fn visible(guest: &Guest, names: &mut Vec<(String, u64)>) {
    if let Some(registers) = &guest.registers {
        const GPR: [&str; 16] =
            ["rax", "rcx", "rdx", "rbx", "", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
        let gpr = GPR.iter().zip(registers.gpr).filter(|(name, _)| !name.is_empty());
        names.extend(gpr.map(|(name, value)| ((*name).to_owned(), value)));
        let others = [
            ("cr2", registers.cr2),
            ("dr6", registers.dr6),
            ("xcr0", registers.xcr0),
            ("star", registers.star),
            ("lstar", registers.lstar),
            ("cstar", registers.cstar),
            ("fmask", registers.fmask),
            ("kernel_gs_base", registers.kernel_gs_base),
            ("tsc_aux", registers.tsc_aux),
        ];
        names.extend(others.map(|(name, value)| (name.to_owned(), value)));
        let extended = registers.extended.0.as_chunks::<8>().0.iter().enumerate();
        names.extend(extended.map(|(at, word)| (format!("xsave+{:#x}", at * 8), u64::from_le_bytes(*word))));
    }
    names.extend(SEEN.map(|field| {
        let name = field.name().unwrap_or("field").trim_start_matches("guest_").to_owned();
        (name, field.index().map_or(0, |row| guest.vmcs.row(row)))
    }));
}

/// Fields of a VMCS that are its guest's registers, as the guest has them.
const SEEN: [VmcsField; 22] = [
    vmcs::GUEST_RIP.field(),
    vmcs::GUEST_RSP.field(),
    vmcs::GUEST_RFLAGS.field(),
    vmcs::GUEST_CR3.field(),
    vmcs::GUEST_ES_SELECTOR.field(),
    vmcs::GUEST_CS_SELECTOR.field(),
    vmcs::GUEST_SS_SELECTOR.field(),
    vmcs::GUEST_DS_SELECTOR.field(),
    vmcs::GUEST_FS_SELECTOR.field(),
    vmcs::GUEST_GS_SELECTOR.field(),
    vmcs::GUEST_LDTR_SELECTOR.field(),
    vmcs::GUEST_TR_SELECTOR.field(),
    vmcs::GUEST_FS_BASE.field(),
    vmcs::GUEST_GS_BASE.field(),
    vmcs::GUEST_GDTR_BASE.field(),
    vmcs::GUEST_IDTR_BASE.field(),
    vmcs::GUEST_GDTR_LIMIT.field(),
    vmcs::GUEST_IDTR_LIMIT.field(),
    vmcs::GUEST_DR7.field(),
    vmcs::GUEST_SYSENTER_EIP.field(),
    vmcs::GUEST_SYSENTER_ESP.field(),
    vmcs::GUEST_PAT.field(),
];

/// All that the guest which a vCPU runs can see of itself.
fn seen(machine: &Machine, vcpu: usize) -> Vec<(String, u64)> {
    let level = machine.l0().level(vcpu);
    let mut names = vec![("level".to_owned(), level.into())];
    if let Some(guest) = machine.l0().guest(vcpu, level) {
        visible(&guest, &mut names);
    }
    names
}

fn same(a: &mut Twin<'_>, b: &mut Twin<'_>) -> bool {
    a.ended == b.ended
        && a.machine.now() == b.machine.now()
        && a.machine.turn().0 == b.machine.turn().0
        && (0..a.machine.l0().vcpus()).all(|vcpu| seen(&a.machine, vcpu) == seen(&b.machine, vcpu))
        && a.l1_pages() == b.l1_pages()
}

/// Runs the machine of a trace and one of another configuration, and finds the first difference that a guest can see. `None`
/// where there is none up to the recording's end. `progress` is told how many instructions have been compared.
///
/// # Errors
/// A machine cannot be built, or the trace's inputs cannot be read.
pub fn part(reader: &Reader, other: &Config, progress: &mut dyn FnMut(u64)) -> Result<Option<Parting>, Error> {
    let Some(last) = reader.len().checked_sub(1) else { return Ok(None) };
    let end = reader.event(last).map_err(|source| Error::Trace { event: last, source })?.at.instruction;
    let inputs = inputs(reader)?;
    let mut a = Twin::new(reader, &reader.header().config, &inputs)?;
    let mut b = Twin::new(reader, other, &inputs)?;
    let stride = (end / COMPARISONS).clamp(STRIDE.0, STRIDE.1);
    let mut equal = 0;
    while same(&mut a, &mut b) {
        equal = a.machine.now();
        progress(equal.min(end));
        if a.ended || equal >= end {
            return Ok(None);
        }
        if equal > 0 {
            a.keep();
            b.keep();
        }
        a.run_to(equal + stride);
        b.run_to(equal + stride);
    }
    // Equal at the one, different at the other: the place is between them.
    let mut differs = a.machine.now().max(b.machine.now()).max(equal + 1);
    while differs - equal > 1 {
        let middle = equal + (differs - equal) / 2;
        if !(a.back_to(equal) && b.back_to(equal)) {
            break;
        }
        a.run_to(middle);
        b.run_to(middle);
        if same(&mut a, &mut b) {
            // A halted machine's clock may have passed the middle.
            equal = a.machine.now().min(differs - 1).max(middle);
            a.keep();
            b.keep();
        } else {
            differs = middle;
        }
    }
    let mut found = None;
    if a.back_to(equal) && b.back_to(equal) {
        a.run_to(equal);
        b.run_to(equal);
        found = Some(before(&a.machine, equal));
    }
    a.run_to(differs);
    b.run_to(differs);
    let mut found = found.unwrap_or_else(|| before(&a.machine, equal));
    behind(&mut found, &mut a, &mut b);
    found.event = found.event.map(|nth| number_in(reader, nth)).transpose()?;
    if let Some(event) = found.event {
        let field = found.fields.first().and_then(|differs| field_of(&differs.what));
        if let Some((which, field)) = field {
            found.writer = last_writer(reader, event + 1, which, None, field)?;
        }
    }
    Ok(Some(found))
}

/// The number in the trace of the event that is the `nth`, from 0, of those that are no answers of silicon's: machines that are
/// run here tell none.
fn number_in(reader: &Reader, nth: u64) -> Result<u64, Error> {
    let mut left = nth;
    for (block, info) in reader.blocks().iter().enumerate() {
        let broken = |source| Error::Trace { event: info.first, source };
        let answers = reader.block_columns(block, Kind::Answer).map_err(broken)?;
        let others = u64::from(info.events) - answers.len() as u64;
        if left < others {
            let before = |at: u64, answer: usize| if answers.event.at(answer) <= at { at + 1 } else { at };
            return Ok((0..answers.len()).fold(info.first + left, before));
        }
        left -= others;
    }
    Ok(reader.len() + left)
}

/// What was there where nothing differed yet.
fn before(machine: &Machine, instruction: u64) -> Parting {
    let vcpu = machine.turn().0;
    let level = machine.l0().level(vcpu);
    let guest = machine.l0().guest(vcpu, level);
    let rip = guest.as_ref().map_or(0, |guest| guest.vmcs.get(vmcs::GUEST_RIP));
    Parting {
        instruction,
        behind: instruction,
        event: None,
        vcpu,
        level,
        rip,
        instruction_text: guest.as_ref().and_then(|guest| look::text_at(machine.l0(), guest, rip)),
        registers: Vec::new(),
        memory: Vec::new(),
        pages: 0,
        fields: Vec::new(),
        writer: None,
    }
}

/// What differs.
fn behind(found: &mut Parting, a: &mut Twin<'_>, b: &mut Twin<'_>) {
    found.behind = a.machine.now().max(b.machine.now());
    found.event = a.world.events.checked_sub(1);
    let times = (a.machine.now(), b.machine.now());
    if times.0 != times.1 {
        found.registers.push(Differs { what: "instructions retired".into(), recorded: times.0, other: times.1 });
    }
    let count = a.machine.l0().vcpus();
    for vcpu in 0..count {
        let (ours, theirs) = (seen(&a.machine, vcpu), seen(&b.machine, vcpu));
        let theirs: BTreeMap<&str, u64> = theirs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        for (name, recorded) in ours {
            if let Some(&other) = theirs.get(name.as_str()).filter(|other| **other != recorded) {
                let what = if count > 1 { format!("vcpu {vcpu} {name}") } else { name };
                found.registers.push(Differs { what, recorded, other });
            }
        }
    }
    let own = (L0_MEMORY / PAGE as u64) as usize;
    let pages: Vec<usize> = {
        let theirs = b.l1_pages().to_vec();
        a.l1_pages().iter().zip(theirs).enumerate().filter(|(_, (a, b))| **a != *b).map(|(page, _)| page).collect()
    };
    found.pages = pages.len() as u64;
    for page in pages {
        let ram = a.machine.config().memory;
        let (Some(ours), Some(theirs)) = (a.machine.page(own + page), b.machine.page(own + page)) else { continue };
        let (ours, theirs) = (ours.as_chunks::<8>().0, theirs.as_chunks::<8>().0);
        for (word, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            if ours != theirs && found.memory.len() < WORDS {
                let at = (page * PAGE + word * 8) as u64;
                let what = format!("memory {:#x}", physical(ram, at));
                let (recorded, other) = (u64::from_le_bytes(*ours), u64::from_le_bytes(*theirs));
                found.memory.push(Differs { what, recorded, other });
            }
        }
    }
    let (ours, theirs) = (a.machine.l0(), b.machine.l0());
    let vcpu = found.vcpu;
    let twelve = (ours.vmcs12(vcpu).map(|(_, fields)| fields), theirs.vmcs12(vcpu).map(|(_, fields)| fields));
    let two = (ours.vmcs02(vcpu).map(|(_, fields)| fields), theirs.vmcs02(vcpu).map(|(_, fields)| fields));
    for (which, pair) in [(Which::Vmcs12, twelve), (Which::Vmcs02, two)] {
        let (Some(ours), Some(theirs)) = pair else { continue };
        for (row, entry) in TABLE.iter().enumerate() {
            let (recorded, other) = (ours.row(row), theirs.row(row));
            if recorded != other && entry.field.class() != Class::Host {
                let what = format!("{} {}", which.name(), entry.field.name().unwrap_or("field"));
                found.fields.push(Differs { what, recorded, other });
            }
        }
    }
}

/// The L1-physical address of an offset into L1's RAM: see [`hv::l0::ram`].
fn physical(memory: u64, offset: u64) -> u64 {
    let low = memory.min(hv::l0::LOW_RAM_LIMIT);
    if offset < low { offset } else { hv::l0::HIGH_RAM + (offset - low) }
}

fn field_of(what: &str) -> Option<(Which, VmcsField)> {
    let (which, name) = what.split_once(' ')?;
    let which = [Which::Vmcs12, Which::Vmcs02].into_iter().find(|one| one.name() == which)?;
    let field = TABLE.iter().map(|row| row.field).find(|field| field.name() == Some(name))?;
    Some((which, field))
}

/// The last event before event `before` that wrote a field of a VMCS, with its number; of any VMCS of that kind, where no
/// address is given. `None` where none did, or the trace does not tell.
///
/// # Errors
/// A block of the trace cannot be read.
pub fn last_writer(
    reader: &Reader,
    before: u64,
    which: Which,
    address: Option<u64>,
    field: VmcsField,
) -> Result<Option<(u64, Event)>, Error> {
    for block in (0..reader.blocks().len()).rev() {
        let info = reader.blocks()[block];
        if info.first >= before {
            continue;
        }
        let broken = |source| Error::Trace { event: info.first, source };
        let rows = reader.block_columns(block, Kind::Vmcs).map_err(broken)?;
        for row in (0..rows.len()).rev().filter(|&row| rows.event.at(row) < before) {
            let cells: Vec<u64> = rows.columns.iter().map(|column| column.values.at(row)).collect();
            let Some(What::Vmcs(access)) = What::from_row(Kind::Vmcs, &cells, &rows.texts) else { continue };
            let VmcsAccess { which: of, address: at, op, field: written, .. } = access;
            if of == which && op == VmcsOp::Write && written == field && address.is_none_or(|address| address == at) {
                let number = rows.event.at(row);
                return Ok(Some((number, reader.event(number).map_err(broken)?)));
            }
        }
    }
    Ok(None)
}

/// The last digest of the machine's state before an event, and the first at or behind it, by their events' numbers. What of the
/// trace cannot be read has none.
pub fn digests_around(reader: &Reader, event: u64) -> (Option<u64>, Option<u64>) {
    let (mut before, mut behind) = (None, None);
    for block in 0..reader.blocks().len() {
        let Ok(rows) = reader.block_columns_of(block, Kind::Digest, &[]) else { continue };
        before = rows.event.iter().filter(|&digest| digest < event).max().or(before);
        behind = behind.or(rows.event.iter().find(|&digest| digest >= event));
        if behind.is_some() {
            break;
        }
    }
    (before, behind)
}
