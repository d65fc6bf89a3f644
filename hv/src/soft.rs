//! The software silicon: physical CPUs, their memory, and the VMCSs that they run.
//!
//! A VMCS lies in its region as [`Vmcs`] lays it out, active or not, and VMPTRLD costs nothing. What a guest leaves in
//! the CPU stays there until another guest needs the place: a transition moves what changed, not what could have.

use crate::cpu::{self, Blocks, Cpu, Engine, Met, Stops, Trap, Vectors};
use crate::memory::Memory;
use crate::mmu::{Adversary, Mmu, Statistics};
use crate::silicon::{Exited, Outcome, Pcpu, Refused, Registers, Silicon};
use crate::vmcs::{REVISION, SHADOW, Vmcs};
use crate::vmx::capability::{Capabilities, PREEMPTION_TIMER_SHIFT};
use crate::vmx::checks::{self, Subject};
use crate::vmx::controls::Controls;
use crate::vmx::exit::ExitInfo;
use crate::vmx::{msr_area, state};
use hv_defs::addr::Hpa;
use hv_defs::config::{Backend, Config};
use hv_defs::controls::{ExitControls, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::ept::{InveptDescriptor, InveptType, InvvpidDescriptor, InvvpidType};
use hv_defs::event::Check;
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::instruction_error::InstructionError;
use hv_defs::vmcs::*;
use serde::{Deserialize, Serialize};

/// What was written to a VMCS since it was last entered, by whom it concerns.
mod dirty {
    /// Controls that checks depend on.
    pub(super) const CONTROLS: u32 = 1 << 0;
    /// Controls that none does.
    pub(super) const VALUES: u32 = 1 << 1;
    /// Host state.
    pub(super) const HOST: u32 = 1 << 2;
    /// Guest state.
    pub(super) const GUEST: u32 = 1 << 3;
    /// Fields that are written at almost every entry.
    pub(super) const HOT: u32 = 1 << 4;
    /// All of it.
    pub(super) const ALL: u32 = CONTROLS | VALUES | HOST | GUEST | HOT;
}

/// One physical CPU.
#[derive(Debug, Serialize, Deserialize)]
struct Physical {
    cpu: Cpu,
    current: Option<Hpa>,
    /// The VMCS whose guest's state is in the CPU.
    loaded: Option<Hpa>,
    /// That VMCS is not right about what [`state::save_cold`] saves.
    unsaved: bool,
    /// The controls of the VMCS that was loaded before, which often is the next one.
    before: (Option<Hpa>, Controls),
    /// The entry whose guest was stopped by who watches, and is still inside.
    paused: Option<Inside>,
}

/// A VM entry whose exit is yet to come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Inside {
    current: Hpa,
    dropped_by_entry: u32,
}

/// The software silicon.
#[derive(Debug, Serialize, Deserialize)]
pub struct SoftSilicon {
    /// Stored apart, page by page.
    #[serde(skip, default = "no_memory")]
    memory: Memory,
    #[serde(skip)]
    blocks: Blocks,
    /// Who executes plain instructions in the software CPU's place.
    #[serde(skip)]
    engine: Option<Box<dyn Engine>>,
    /// Whether flushes tell how many translations they dropped: an engine's cannot be counted.
    counts_drops: bool,
    cpus: Vec<Physical>,
    clock: u64,
    capabilities: Capabilities,
    /// VM entries and flushes so far, all CPUs together, and the flush that is left out.
    entries: u64,
    flushes: u64,
    left_out: Option<u64>,
    /// For each row of the table, what a write to it makes dirty; and whether a read of it needs the cold state saved.
    rows: Vec<(u32, bool)>,
}

fn no_memory() -> Memory {
    Memory::new(0)
}

impl SoftSilicon {
    /// `pcpus` physical CPUs with TLBs of `tlb_entries` entries, over `memory` bytes. `seed` decides what RDRAND and
    /// RDSEED give.
    pub fn new(memory: u64, pcpus: u16, tlb_entries: u32, seed: u64) -> Self {
        let cpu = |number: u16| {
            let mut cpu = Cpu::new(tlb_entries, seed ^ u64::from(number) << 48);
            cpu.mmu.count_flushes_as(number);
            cpu
        };
        let physical = |number: u16| Physical {
            cpu: cpu(number),
            current: None,
            loaded: None,
            unsaved: false,
            before: (None, Controls::default()),
            paused: None,
        };
        Self {
            memory: Memory::new(memory),
            blocks: Blocks::new(),
            engine: None,
            counts_drops: true,
            cpus: (0..pcpus.max(1)).map(physical).collect(),
            clock: 0,
            capabilities: Capabilities::SOFT,
            entries: 0,
            flushes: 0,
            left_out: None,
            rows: TABLE.iter().map(|row| (dirtied(row.field), is_cold(row.field))).collect(),
        }
    }

    /// The silicon of a machine's configuration.
    pub fn of(config: &Config) -> Self {
        let size = crate::machine::memory_size(config);
        let mut this = Self::new(size, config.pcpus, config.tlb_entries, config.seed).with_la57(config.la57);
        if config.backend == Backend::Kvm {
            this.capabilities = this.capabilities.without_ept_dirty();
            this.counts_drops = false;
        }
        this
    }

    /// Has an engine execute the plain instructions of a machine whose configuration says so. The events are those of the
    /// same machine without one.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.engine = Some(engine);
    }

    /// The engine that executes the plain instructions.
    pub fn engine(&self) -> Option<&dyn Engine> {
        self.engine.as_deref()
    }

    /// The same with 5-level paging, or without.
    pub fn with_la57(mut self, la57: bool) -> Self {
        self.capabilities = Capabilities::soft(la57);
        self.cpus.iter_mut().for_each(|physical| physical.cpu.la57 = la57);
        self
    }

    /// The same, offering something else.
    #[cfg(test)]
    pub(crate) fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Takes the memory of another silicon, and what was decoded of it.
    pub(crate) fn take_memory(&mut self, from: Self) {
        (self.memory, self.blocks) = (from.memory, from.blocks);
    }

    /// Whether it has as many CPUs as another, with the same capabilities.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.cpus.len() == other.cpus.len() && self.capabilities == other.capabilities
    }

    /// Host-physical memory.
    pub fn memory(&mut self) -> &mut Memory {
        if let Some(engine) = &mut self.engine {
            engine.tell_writes(&mut self.memory);
        }
        &mut self.memory
    }

    /// The address translation of a CPU, with its TLB and what it has counted.
    pub fn mmu(&mut self, cpu: Pcpu) -> &mut Mmu {
        &mut self.cpus[cpu].cpu.mmu
    }

    /// What the TLBs of all physical CPUs have counted.
    pub fn tlb_statistics(&self) -> Statistics {
        self.cpus.iter().fold(Statistics::default(), |sum, one| sum.plus(&one.cpu.mmu.statistics))
    }

    /// A CPU's architectural state, as the guest that ran on it last has left it.
    pub fn cpu(&self, cpu: Pcpu) -> &Cpu {
        &self.cpus[cpu].cpu
    }

    /// An external interrupt comes to a CPU's local APIC. The guest that runs there next meets it at once.
    pub fn interrupt(&mut self, cpu: Pcpu, vector: u8) {
        self.cpus[cpu].cpu.interrupts.add(vector);
    }

    /// Has [`Silicon::enter`] stop with [`Outcome::Paused`] at the first instruction boundary at which
    /// [`Silicon::retired`] is not below `clock`; `None` for never. Guests notice nothing, nor does L0.
    pub fn pause_at(&mut self, clock: Option<u64>) {
        self.cpus.iter_mut().for_each(|physical| physical.cpu.pause_at(clock));
    }

    /// Has [`Silicon::enter`] stop with [`Outcome::Paused`] at these too, on every CPU; if `passes`, not where a guest stands
    /// that was stopped. Guests notice nothing, nor does L0. They are no part of the state that is saved.
    pub fn set_stops(&mut self, stops: &Stops, passes: bool) {
        for physical in &mut self.cpus {
            physical.cpu.set_stops(stops, physical.paused.filter(|_| passes).map(|_| self.clock));
        }
    }

    /// What a CPU has stopped at; it forgets it.
    pub fn take_met(&mut self, cpu: Pcpu) -> Option<Met> {
        self.cpus[cpu].cpu.take_met()
    }

    /// A VMCS of L0's as it would be had its guest just exited, with nothing changed.
    pub(crate) fn vmcs_now(&self, at: Hpa) -> Vmcs {
        let mut vmcs = self.memory.vmcs(at).clone();
        if let Some(physical) = self.cpus.iter().find(|physical| physical.loaded == Some(at)) {
            let inside = physical.paused.is_some_and(|inside| inside.current == at);
            if inside {
                state::save_hot(&physical.cpu, &mut vmcs);
            }
            if inside || physical.unsaved {
                state::save_cold(&physical.cpu, &mut vmcs);
            }
        }
        vmcs
    }

    /// Bytes of host-physical memory; `None` where they are not all memory.
    pub fn bytes(&self, at: Hpa, count: usize) -> Option<&[u8]> {
        self.memory.bytes(at, count)
    }

    /// Has an adversarial TLB stand beside each CPU's: to be called before the first instruction.
    pub fn set_adversary(&mut self, new: impl Fn() -> Adversary) {
        self.cpus.iter_mut().for_each(|physical| physical.cpu.mmu.set_adversary(new()));
    }

    /// Has the TLBs ignore one flush, by number from 0: INVVPIDs, INVEPTs and what transitions drop are counted, all CPUs
    /// together. It is for who asks what would have come of it.
    pub fn leave_out_flush(&mut self, number: Option<u64>) {
        self.left_out = number;
    }

    /// Flushes that were carried out or left out.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    #[inline(always)]
    fn current(&self, cpu: Pcpu) -> Hpa {
        self.cpus[cpu].current.expect("a VMCS is current before it is accessed")
    }

    /// Makes the VMCS that is loaded on `cpu` right about all guest state.
    fn save(&mut self, cpu: Pcpu) {
        let physical = &mut self.cpus[cpu];
        if let Some(vmcs) = physical.loaded
            && core::mem::take(&mut physical.unsaved)
        {
            state::save_cold(&physical.cpu, self.memory.vmcs_mut(vmcs));
        }
    }

    /// The checks of a VM entry on what was written since the last one. An error refuses the entry; a value says that
    /// it failed after guest state was looked at.
    fn check(&mut self, current: Hpa, dirtied: u32) -> Result<Option<(Check, u64)>, Refused> {
        let subject = Subject {
            vmcs: self.memory.vmcs(current),
            address: current.0,
            capabilities: &self.capabilities,
            long_mode_host: true,
            memory: &self.memory,
        };
        if dirtied & (dirty::CONTROLS | dirty::HOST | dirty::GUEST) == 0 && checks::is_plain(&subject) {
            return Ok(None);
        }
        let refused = |error, check| Refused { error: Some(error), check: Some(check) };
        let controls = match dirtied & dirty::CONTROLS {
            0 => checks::hot_controls(&subject),
            _ => checks::controls(&subject),
        };
        if let Some(check) = controls {
            return Err(refused(InstructionError::ENTRY_INVALID_CONTROL_FIELD, check));
        }
        if dirtied & (dirty::CONTROLS | dirty::HOST) != 0
            && let Some(check) = checks::host(&subject)
        {
            return Err(refused(InstructionError::ENTRY_INVALID_HOST_STATE, check));
        }
        Ok(match dirtied & (dirty::CONTROLS | dirty::GUEST) {
            0 => checks::hot_guest(&subject),
            _ => checks::guest(&subject),
        })
    }

    /// Loads guest state and runs until an exit.
    fn carry_out(&mut self, number: Pcpu, current: Hpa, dirtied: u32, until: u64) -> Outcome {
        let switched = self.cpus[number].loaded != Some(current);
        if switched {
            self.save(number);
        }
        let Self { memory, blocks, engine, cpus, clock, entries, flushes, left_out, .. } = self;
        let Physical { cpu, loaded, before, .. } = &mut cpus[number];
        let vmcs = memory.vmcs(current);
        let mut stale = dirtied & (dirty::CONTROLS | dirty::VALUES) != 0;
        if switched {
            core::mem::swap(&mut before.1, &mut cpu.controls);
            stale |= core::mem::replace(&mut before.0, *loaded) != Some(current);
        }
        if stale {
            cpu.controls = Controls::of(vmcs);
        }
        if switched || dirtied & (dirty::CONTROLS | dirty::GUEST) != 0 {
            state::load(cpu, vmcs);
            if cpu.controls.eptp.is_none() && state::uses_pdptes(cpu) {
                cpu.pdptes = pdptes(memory, cpu.cr3);
            }
        } else {
            state::load_hot(cpu, vmcs);
        }
        let vmcs = memory.vmcs(current);
        *loaded = Some(current);
        let timer = cpu.controls.pin.contains(PinBased::PREEMPTION_TIMER);
        cpu.preemption_deadline = match timer {
            true => {
                ((*clock >> PREEMPTION_TIMER_SHIFT) + u64::from(vmcs.get(PREEMPTION_TIMER_VALUE)))
                    << PREEMPTION_TIMER_SHIFT
            }
            false => u64::MAX,
        };
        let tagged = cpu.controls.secondary(SecondaryControls::VPID);
        let injected = vmcs.get(ENTRY_INTERRUPTION_INFO);
        let (error, length) = (vmcs.get(ENTRY_EXCEPTION_ERROR_CODE), vmcs.get(ENTRY_INSTRUCTION_LENGTH));
        let (msr_count, msr_address) = (vmcs.get(VM_ENTRY_MSR_LOAD_COUNT), vmcs.get(VM_ENTRY_MSR_LOAD_ADDRESS));
        cpu.mmu.set_controls(&cpu.controls, vmcs.get(PML_INDEX));
        let dropped_by_entry = if tagged { 0 } else { flush(&mut cpu.mmu, flushes, *left_out, Mmu::transition) };
        if msr_count != 0
            && let Err(entry) = msr_area::load(cpu, memory, msr_address, msr_count)
        {
            // What the guest would have started with is still in the VMCS.
            *loaded = None;
            note_failure(memory.vmcs_mut(current), Reason::MSR_LOAD_FAIL, u64::from(entry));
            return Outcome::EntryFailed(Check::new("entry-msr-load"));
        }
        memory.vmcs_mut(current).launched = 1;
        cpu.mmu.entered(*entries);
        *entries += 1;
        blocks.follow(memory);
        cpu.mode_changed();
        let injection = match injected.valid() {
            true => cpu::inject(cpu, memory, injected, error, length),
            false => Ok(()),
        };
        let trap = match injection {
            Ok(()) => {
                if cpu.controls.primary(PrimaryControls::TPR_SHADOW) {
                    cpu.enter_virtual_apic(memory);
                }
                cpu::run_by(cpu, memory, blocks, asked(engine), clock, until)
            }
            Err(trap) => trap,
        };
        self.leave(number, Inside { current, dropped_by_entry }, trap)
    }

    /// Runs a guest that was paused on until an exit.
    fn go_on(&mut self, number: Pcpu, inside: Inside, until: u64) -> Outcome {
        let Self { memory, blocks, engine, cpus, clock, .. } = self;
        let trap = cpu::run_by(&mut cpus[number].cpu, memory, blocks, asked(engine), clock, until);
        self.leave(number, inside, trap)
    }

    /// Saves guest state and tells of the exit.
    #[inline]
    fn leave(&mut self, number: Pcpu, inside: Inside, trap: Trap) -> Outcome {
        let Self { memory, cpus, clock, flushes, left_out, counts_drops, .. } = self;
        let Physical { cpu, loaded, unsaved, paused, .. } = &mut cpus[number];
        let Inside { current, dropped_by_entry } = inside;
        let info = match trap {
            Trap::Exit(info) => info,
            Trap::Paused => {
                *paused = Some(inside);
                return Outcome::Paused;
            }
            Trap::Unsupported(report) => {
                *loaded = None;
                *unsaved = false;
                return Outcome::Unsupported(report);
            }
        };
        // The host takes what else has come, now that its guest is out.
        cpu.interrupts = Vectors::default();
        let vmcs = memory.vmcs_mut(current);
        state::save_hot(cpu, vmcs);
        *unsaved = true;
        if cpu.controls.exit.contains(ExitControls::SAVE_PREEMPTION_TIMER) {
            let left =
                (cpu.preemption_deadline >> PREEMPTION_TIMER_SHIFT).saturating_sub(*clock >> PREEMPTION_TIMER_SHIFT);
            vmcs.set(PREEMPTION_TIMER_VALUE, left as u32);
        }
        if let Some(index) = cpu.mmu.pml_index() {
            vmcs.set(PML_INDEX, index);
        }
        note_exit(vmcs, &info);
        vmcs.set(ENTRY_INTERRUPTION_INFO, vmcs.get(ENTRY_INTERRUPTION_INFO).with_valid(false));
        let tagged = cpu.controls.secondary(SecondaryControls::VPID);
        let dropped_by_exit = if tagged { 0 } else { flush(&mut cpu.mmu, flushes, *left_out, Mmu::transition) };
        let stores = vmcs.get(VM_EXIT_MSR_STORE_COUNT);
        let loads = vmcs.get(VM_EXIT_MSR_LOAD_COUNT);
        if stores | loads != 0 {
            let (store_at, load_at) = (vmcs.get(VM_EXIT_MSR_STORE_ADDRESS), vmcs.get(VM_EXIT_MSR_LOAD_ADDRESS));
            // The cold state goes to the VMCS before the host's MSRs take its place.
            state::save_cold(cpu, vmcs);
            *unsaved = false;
            *loaded = None;
            if !msr_area::store(cpu, memory, store_at, stores, *clock) {
                memory.vmcs_mut(current).abort = 1;
            } else if msr_area::load(cpu, memory, load_at, loads).is_err() {
                memory.vmcs_mut(current).abort = 4;
            }
        }
        cpu.reuse(info);
        match counts_drops {
            true => Outcome::Exited(Exited { dropped_by_entry, dropped_by_exit }),
            false => Outcome::Exited(Exited::default()),
        }
    }
}

/// An engine as the loop of the CPU takes it.
#[inline]
fn asked(engine: &mut Option<Box<dyn Engine>>) -> Option<&mut dyn Engine> {
    match engine {
        Some(engine) => Some(&mut **engine),
        None => None,
    }
}

/// Carries out a flush, unless it is the one to be left out. Returns how many cached translations were dropped.
#[inline]
fn flush(mmu: &mut Mmu, flushes: &mut u64, left_out: Option<u64>, flush: impl FnOnce(&mut Mmu) -> u32) -> u32 {
    let number = *flushes;
    *flushes += 1;
    if left_out == Some(number) {
        return 0;
    }
    mmu.flushing(Some(number));
    let dropped = flush(mmu);
    mmu.flushing(None);
    dropped
}

/// The page-directory-pointer-table entries that CR3 points to: what an entry without EPT loads.
fn pdptes(memory: &Memory, cr3: u64) -> [u64; 4] {
    let table = Hpa(cr3 & 0xffff_ffe0);
    [0, 8, 16, 24].map(|at| memory.read(table.offset(at)))
}

/// What a write to `field` makes dirty.
fn dirtied(field: VmcsField) -> u32 {
    if checks::is_hot(field) {
        return dirty::HOT;
    }
    match field.class() {
        Class::ExitInformation => 0,
        Class::Host => dirty::HOST,
        Class::Guest => dirty::GUEST,
        Class::Control => {
            let values = [
                EXCEPTION_BITMAP.field(),
                PAGE_FAULT_ERROR_CODE_MASK.field(),
                PAGE_FAULT_ERROR_CODE_MATCH.field(),
                TSC_OFFSET.field(),
                CR0_GUEST_HOST_MASK.field(),
                CR4_GUEST_HOST_MASK.field(),
                CR0_READ_SHADOW.field(),
                CR4_READ_SHADOW.field(),
                CR3_TARGET_0.field(),
                CR3_TARGET_1.field(),
                CR3_TARGET_2.field(),
                CR3_TARGET_3.field(),
            ];
            if values.contains(&field) { dirty::VALUES } else { dirty::CONTROLS | dirty::VALUES }
        }
    }
}

/// Writes a field, and notes what that makes dirty: nothing, if it writes what is there already, as hypervisors do more
/// often than not.
#[inline]
fn write_row(vmcs: &mut Vmcs, row: usize, dirtied: u32, value: u64) {
    let old = vmcs.row(row);
    vmcs.set_row(row, value);
    vmcs.dirty |= if vmcs.row(row) != old { dirtied } else { 0 };
}

/// Whether the VMCS may be wrong about a field while its guest's state is in the CPU.
fn is_cold(field: VmcsField) -> bool {
    field.class() == Class::Guest && !state::is_saved_at_exit(field)
}

/// Writes of the exit-information fields those two that an entry which failed after guest state was looked at changes.
fn note_failure(vmcs: &mut Vmcs, reason: Reason, qualification: u64) {
    vmcs.set(EXIT_REASON, ExitReason::of(reason).with_entry_failure(true));
    vmcs.set(EXIT_QUALIFICATION, qualification);
}

/// Writes the exit-information fields.
fn note_exit(vmcs: &mut Vmcs, info: &ExitInfo) {
    vmcs.set(EXIT_REASON, info.reason);
    vmcs.set(EXIT_QUALIFICATION, info.qualification);
    vmcs.set(EXIT_INSTRUCTION_LENGTH, info.length);
    vmcs.set(EXIT_INSTRUCTION_INFO, info.instruction_info);
    vmcs.set(GUEST_PHYSICAL_ADDRESS, info.gpa);
    vmcs.set(GUEST_LINEAR_ADDRESS, info.gla);
    vmcs.set(EXIT_INTERRUPTION_INFO, info.intr_info);
    vmcs.set(EXIT_INTERRUPTION_ERROR_CODE, info.intr_error);
    vmcs.set(IDT_VECTORING_INFO, info.idt_info);
    vmcs.set(IDT_VECTORING_ERROR_CODE, info.idt_error);
    vmcs.set(IO_RCX, info.io_rcx);
    vmcs.set(IO_RSI, info.io_rsi);
    vmcs.set(IO_RDI, info.io_rdi);
    vmcs.set(IO_RIP, info.io_rip);
}

impl Silicon for SoftSilicon {
    fn capability(&self, msr: u32) -> u64 {
        self.capabilities.msr(msr).expect("a VMX capability MSR")
    }

    fn memory_size(&self) -> u64 {
        self.memory.size()
    }

    fn read(&mut self, at: Hpa, into: &mut [u8]) {
        into.copy_from_slice(self.memory.bytes(at, into.len()).expect("L0 reads what is memory"));
    }

    fn write(&mut self, at: Hpa, bytes: &[u8]) {
        assert!(self.memory.write_bytes(at, bytes), "L0 writes what is memory");
    }

    fn vmclear(&mut self, cpu: Pcpu, vmcs: Hpa) {
        if self.cpus[cpu].loaded == Some(vmcs) {
            self.save(cpu);
            self.cpus[cpu].loaded = None;
        }
        let physical = &mut self.cpus[cpu];
        if physical.current == Some(vmcs) {
            physical.current = None;
        }
        let region = self.memory.vmcs_mut(vmcs);
        if region.revision & !SHADOW != REVISION {
            *region = Vmcs::default();
        }
        region.launched = 0;
        region.dirty = dirty::ALL;
    }

    fn vmptrld(&mut self, cpu: Pcpu, vmcs: Hpa) {
        let region = self.memory.vmcs(vmcs);
        assert_eq!(region.revision & !SHADOW, REVISION, "a VMCS is cleared before it is first loaded");
        self.cpus[cpu].current = Some(vmcs);
    }

    fn vmread(&mut self, cpu: Pcpu, field: VmcsField) -> u64 {
        let value = self.vmread_row(cpu, field.full().index().expect("a field of the table"));
        if field.is_high() { value >> 32 } else { value }
    }

    fn vmwrite(&mut self, cpu: Pcpu, field: VmcsField, value: u64) {
        let row = field.full().index().expect("a field of the table");
        let value = match field.is_high() {
            true => value << 32 | self.vmread_row(cpu, row) & 0xffff_ffff,
            false => value,
        };
        self.vmwrite_row(cpu, row, value);
    }

    #[inline]
    fn vmread_row(&mut self, cpu: Pcpu, row: usize) -> u64 {
        let current = self.current(cpu);
        if self.rows[row].1 && self.cpus[cpu].unsaved && self.cpus[cpu].loaded == Some(current) {
            self.save(cpu);
        }
        self.memory.vmcs(current).row(row)
    }

    #[inline]
    fn vmwrite_row(&mut self, cpu: Pcpu, row: usize, value: u64) {
        let current = self.current(cpu);
        let (dirtied, cold) = self.rows[row];
        if cold && self.cpus[cpu].unsaved && self.cpus[cpu].loaded == Some(current) {
            self.save(cpu);
        }
        write_row(self.memory.vmcs_mut(current), row, dirtied, value);
    }

    fn vmwrite_rows(&mut self, cpu: Pcpu, writes: &[(usize, u64)]) {
        let current = self.current(cpu);
        if self.cpus[cpu].unsaved
            && self.cpus[cpu].loaded == Some(current)
            && writes.iter().any(|(row, _)| self.rows[*row].1)
        {
            self.save(cpu);
        }
        let vmcs = self.memory.vmcs_mut(current);
        for &(row, value) in writes {
            write_row(vmcs, row, self.rows[row].0, value);
        }
    }

    fn registers(&mut self, cpu: Pcpu) -> &mut Registers {
        &mut self.cpus[cpu].cpu.regs
    }

    fn enter(&mut self, cpu: Pcpu, launch: bool, until: u64) -> Result<Outcome, Refused> {
        if let Some(inside) = self.cpus[cpu].paused.take() {
            return Ok(self.go_on(cpu, inside, until));
        }
        let Some(current) = self.cpus[cpu].current else {
            return Err(Refused { error: None, check: None });
        };
        let dirtied = self.memory.vmcs(current).dirty;
        if dirtied & (dirty::CONTROLS | dirty::GUEST) != 0 {
            // All of guest state is looked at and loaded again, what the guest left in the CPU too.
            self.save(cpu);
        }
        let vmcs = self.memory.vmcs(current);
        let error = match (launch, vmcs.launched != 0) {
            (true, true) => Some(InstructionError::VMLAUNCH_NONCLEAR_VMCS),
            (false, false) => Some(InstructionError::VMRESUME_NONLAUNCHED_VMCS),
            _ => None,
        };
        let refused = match error {
            Some(error) => Err(Refused { error: Some(error), check: None }),
            None => self.check(current, dirtied),
        };
        let vmcs = self.memory.vmcs_mut(current);
        match refused {
            Err(refused) => {
                if let Some(error) = refused.error {
                    vmcs.set(VM_INSTRUCTION_ERROR, error.0);
                }
                Err(refused)
            }
            Ok(Some((check, qualification))) => {
                note_failure(vmcs, Reason::INVALID_GUEST_STATE, qualification);
                Ok(Outcome::EntryFailed(check))
            }
            Ok(None) => {
                vmcs.dirty = 0;
                Ok(self.carry_out(cpu, current, dirtied, until))
            }
        }
    }

    fn invvpid(&mut self, cpu: Pcpu, kind: InvvpidType, descriptor: InvvpidDescriptor) -> u32 {
        let Self { cpus, flushes, left_out, .. } = self;
        let dropped = flush(&mut cpus[cpu].cpu.mmu, flushes, *left_out, |mmu| mmu.invvpid(kind, descriptor));
        if self.counts_drops { dropped } else { 0 }
    }

    fn invept(&mut self, cpu: Pcpu, kind: InveptType, descriptor: InveptDescriptor) -> u32 {
        let Self { engine, cpus, flushes, left_out, .. } = self;
        let dropped = flush(&mut cpus[cpu].cpu.mmu, flushes, *left_out, |mmu| mmu.invept(kind, descriptor));
        if let Some(engine) = engine {
            let ep4ta = (kind == InveptType::Single).then(|| descriptor.eptp.ep4ta());
            engine.invalidate(ep4ta);
        }
        if self.counts_drops { dropped } else { 0 }
    }

    fn retired(&self) -> u64 {
        self.clock
    }

    fn skip(&mut self, to: u64) {
        self.clock = self.clock.max(to);
    }

    fn digest(&mut self) -> u64 {
        for cpu in 0..self.cpus.len() {
            self.save(cpu);
        }
        let mut digest = self.memory().digest() ^ self.clock;
        for physical in &self.cpus {
            for word in words(&physical.cpu.regs) {
                digest = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
        }
        digest
    }
}

/// The registers that transitions leave alone, as words.
fn words(regs: &Registers) -> impl Iterator<Item = u64> + '_ {
    let extended = regs.extended.0.chunks_exact(8).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let others = [
        regs.cr2,
        regs.cr8,
        regs.dr6,
        regs.xcr0,
        regs.xss,
        regs.star,
        regs.lstar,
        regs.cstar,
        regs.fmask,
        regs.kernel_gs_base,
        regs.tsc_aux,
        u64::from(regs.pkru),
    ];
    regs.gpr.into_iter().chain(regs.dr).chain(others).chain(extended)
}
