//! The execute loop.

use super::access::read_bytes;
use super::block::{Blocks, NONE};
use super::chain::run_alone;
use super::decode::Mode;
use super::engine::Engine;
use super::event::Event;
use super::op::{Flow, Op};
use super::state::{CodeWrites, Cpu, Halt, Stop, Trap};
use crate::memory::Memory;
use crate::mmu::Access;
use crate::silicon::Unsupported;
use crate::vmx::exit::ExitInfo;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::controls::{ActivityState, Interruptibility, PrimaryControls};
use hv_defs::exit::{ExitReason, Reason};
use hv_defs::x86::{Rflags, Seg};

/// Instructions that blocks may run one behind the other without a return to the loop.
const AT_ONCE: u64 = 2048;

/// The bit of the pending debug exceptions for a single-step trap.
const SINGLE_STEP: u64 = 1 << 14;
/// Their bit that says that a breakpoint which hit was enabled.
const ENABLED_BREAKPOINT: u64 = 1 << 12;

/// Runs until a VM exit. Counts retired instructions exactly into `clock`; the delivery of an event through the IDT
/// counts as one too, so that no guest can keep the CPU from getting on. When `clock` reaches `until`, an external
/// interrupt arrives from the host and the guest exits for it, exactly there.
pub fn run(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks, clock: &mut u64, until: u64) -> Trap {
    run_by(cpu, memory, blocks, None, clock, until)
}

/// As [`run`], and an engine executes the plain instructions, if there is one.
pub fn run_by(
    cpu: &mut Cpu,
    memory: &mut Memory,
    blocks: &mut Blocks,
    mut engine: Option<&mut dyn Engine>,
    clock: &mut u64,
    until: u64,
) -> Trap {
    cpu.exec.now = *clock;
    cpu.begin(memory);
    let trap = loop {
        let engine = engine.as_mut().map(|engine| &mut **engine as &mut dyn Engine);
        if let Err(trap) = round(cpu, memory, blocks, engine, until) {
            break trap;
        }
    };
    *clock = cpu.exec.now;
    match &trap {
        Trap::Exit(info) => cpu.settle_rf(info),
        Trap::Paused => return trap,
        Trap::Unsupported(_) => {}
    }
    // One that is still pending is lost to the exit; an entry may inject another before it runs.
    cpu.exec.monitor_trap = false;
    cpu.leave_virtual_apic();
    trap
}

/// From one instruction boundary at which events count to the next.
fn round(
    cpu: &mut Cpu,
    memory: &mut Memory,
    blocks: &mut Blocks,
    engine: Option<&mut dyn Engine>,
    until: u64,
) -> Result<(), Trap> {
    let goal = cpu.boundary(memory, until)?;
    blocks.follow(memory);
    if cpu.activity != ActivityState::Active {
        return Ok(());
    }
    if cpu.exec.watched || cpu.has_breakpoints() {
        cpu.follow_breakpoints();
    }
    let ran = match engine {
        Some(engine) => by_engine(cpu, memory, blocks, engine, goal),
        None if cpu.steps() => one(cpu, memory, blocks),
        None => many(cpu, memory, blocks, goal),
    };
    match ran {
        Ok(()) => Ok(()),
        Err(Halt) => stopped(cpu, memory, blocks),
    }
}

/// Has an engine run up to `goal`, or to an instruction that is not for it, which is executed here.
#[cold]
fn by_engine(
    cpu: &mut Cpu,
    memory: &mut Memory,
    blocks: &mut Blocks,
    engine: &mut dyn Engine,
    goal: u64,
) -> Result<(), Halt> {
    let at = loop {
        let at = linear_rip(cpu, mode(cpu));
        let code = fetch(cpu, memory, at)?;
        if cpu.steps() {
            break code;
        }
        match engine.run(cpu, memory, code, goal - cpu.exec.now) {
            Ok(0) => break code,
            Ok(retired) => cpu.exec.now += retired,
            Err(why) => return cpu.unsupported(why),
        }
        if cpu.exec.now >= goal {
            return Ok(());
        }
    };
    // What the engine has written, decoded instructions know nothing of.
    blocks.drop_page(memory, at);
    one(cpu, memory, blocks)
}

/// What an op that did not complete asks for.
#[cold]
fn stopped(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks) -> Result<(), Trap> {
    match core::mem::take(&mut cpu.exec.stop) {
        Stop::None => Ok(()),
        Stop::Fault(vector, code) => cpu.raise(memory, Event::fault(vector, code)),
        Stop::PageFault(code, address) => cpu.raise(memory, Event::page_fault(code, address)),
        Stop::Software(event) => cpu.raise(memory, event),
        Stop::Exit(info) => Err(Trap::Exit(info)),
        Stop::CodeWrite(at) => {
            blocks.written(memory, Hpa(at), 64);
            cpu.exec.code_writes = CodeWrites::Allow(at);
            let ran = one(cpu, memory, blocks);
            cpu.exec.code_writes = CodeWrites::Refuse;
            // Whatever else it wrote, a string instruction may have written more than that.
            blocks.written(memory, Hpa(at), PAGE_SIZE - Hpa(at).page_offset());
            match ran {
                Ok(()) => Ok(()),
                Err(Halt) => stopped(cpu, memory, blocks),
            }
        }
        Stop::Apart => {
            cpu.exec.apart = true;
            let ran = match one(cpu, memory, blocks) {
                Ok(()) => Ok(()),
                Err(Halt) => stopped(cpu, memory, blocks),
            };
            cpu.exec.apart = false;
            ran
        }
        Stop::Guarded => guarded(cpu, memory, blocks),
        Stop::Unsupported(what) => Err(Trap::Unsupported(cpu.report(memory, what))),
    }
}

/// Looks at an instruction for who watches, and runs it.
fn guarded(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks) -> Result<(), Trap> {
    if cpu.stops_here() {
        return Err(Trap::Paused);
    }
    let before = cpu.set_passing(true);
    let ran = match one(cpu, memory, blocks) {
        Ok(()) => Ok(()),
        Err(Halt) => stopped(cpu, memory, blocks),
    };
    cpu.set_passing(before);
    ran
}

/// The mode that decides how code is decoded.
fn mode(cpu: &Cpu) -> Mode {
    let cs = cpu.seg[Seg::Cs as usize].rights;
    if cpu.long_mode() && cs.long() {
        Mode::Code64
    } else if cs.big() {
        Mode::Code32
    } else {
        Mode::Code16
    }
}

/// The linear address of the instruction at RIP.
#[inline(always)]
fn linear_rip(cpu: &Cpu, mode: Mode) -> u64 {
    if mode.long() { cpu.rip } else { u64::from((cpu.seg[Seg::Cs as usize].base as u32).wrapping_add(cpu.rip as u32)) }
}

/// Where the byte at a linear address of code lies.
#[inline(always)]
fn fetch(cpu: &mut Cpu, memory: &mut Memory, at: u64) -> Result<Hpa, Halt> {
    match cpu.mmu.fast(Access::Fetch, at, 1) {
        Some(hpa) => Ok(hpa),
        None => fetch_slow(cpu, memory, at),
    }
}

#[cold]
fn fetch_slow(cpu: &mut Cpu, memory: &mut Memory, at: u64) -> Result<Hpa, Halt> {
    cpu.guard_fetch(at)?;
    if !cpu.canonical(at) {
        return cpu.gp();
    }
    let (user, ac) = (cpu.user(), cpu.flags.has(Rflags::AC));
    match cpu.mmu.translate(memory, at, Access::Fetch, user, ac) {
        Ok(hpa) => Ok(hpa),
        Err(fault) => cpu.translation_fault(fault, Access::Fetch),
    }
}

/// The block at `hpa`, as [`Blocks::get`]. When its page had none before, stores to it are no longer plain.
#[inline(always)]
fn block_at(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks, hpa: Hpa, mode: Mode, linear: u64) -> u32 {
    let id = blocks.get(memory, hpa, mode, linear);
    cpu.mmu.follow(memory);
    id
}

/// Runs blocks until the clock is at `goal`, or until events are to be looked at.
fn many(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks, goal: u64) -> Result<(), Halt> {
    let mode = mode(cpu);
    let mut id = NONE;
    loop {
        if id == NONE {
            // The event that waits at the goal comes before a fault of the next instruction's fetch.
            if cpu.exec.now >= goal {
                return Ok(());
            }
            let at = linear_rip(cpu, mode);
            let hpa = fetch(cpu, memory, at)?;
            id = block_at(cpu, memory, blocks, hpa, mode, at);
            if id == NONE {
                // An instruction that crosses a page's end may be any.
                return one(cpu, memory, blocks);
            }
            if !mode.long() && over_limit(cpu, blocks.head(id).bytes()) {
                return one(cpu, memory, blocks);
            }
        }
        let left = goal.saturating_sub(cpu.exec.now);
        if left < blocks.head(id).count() {
            return some(cpu, memory, blocks, id, left);
        }
        let start = cpu.rip;
        cpu.exec.limit = goal.min(cpu.exec.now + AT_ONCE);
        let flow = blocks.run(cpu, memory, id)?;
        if !matches!(flow, Flow::Taken | Flow::Fall) {
            if flow == Flow::Check {
                return Ok(());
            }
            id = NONE;
            continue;
        }
        let from = id;
        id = blocks.follower(cpu, flow);
        if id == NONE && mode.long() && cpu.exec.now < goal {
            // A link stays in its page, linear and physical, so that following it needs no translation.
            let hpa = fetch(cpu, memory, cpu.rip)?;
            let left = blocks.left(cpu, from);
            id = block_at(cpu, memory, blocks, hpa, mode, cpu.rip);
            if cpu.rip / PAGE_SIZE == start / PAGE_SIZE {
                blocks.link(&left, flow, id);
            }
        }
    }
}

/// Whether a block at RIP reaches beyond CS's limit.
fn over_limit(cpu: &Cpu, bytes: u64) -> bool {
    cpu.rip.wrapping_add(bytes).wrapping_sub(1) > u64::from(cpu.seg[Seg::Cs as usize].limit)
}

/// Runs the first instructions of a block.
#[cold]
#[inline(never)]
fn some(cpu: &mut Cpu, memory: &mut Memory, blocks: &Blocks, id: u32, count: u64) -> Result<(), Halt> {
    if count > 0 {
        run_alone(cpu, memory, &blocks.first(id, count))?;
    }
    Ok(())
}

/// Runs one instruction.
#[cold]
fn one(cpu: &mut Cpu, memory: &mut Memory, blocks: &mut Blocks) -> Result<(), Halt> {
    let mode = mode(cpu);
    let shadow = cpu.interruptibility & (Interruptibility::STI | Interruptibility::MOV_SS);
    let resume = cpu.flags.has(Rflags::RF);
    let trap = cpu.flags.has(Rflags::TF);
    let at = linear_rip(cpu, mode);
    // Neither RF nor a shadow that holds back debug exceptions lets a breakpoint hit.
    if cpu.has_breakpoints() && !resume && !shadow.contains(Interruptibility::MOV_SS) {
        cpu.break_at(at)?;
    }
    cpu.exec.hits = 0;
    cpu.begin_watching();
    let hpa = fetch(cpu, memory, at)?;
    let id = block_at(cpu, memory, blocks, hpa, mode, at);
    let mut row = if id == NONE { Vec::new() } else { blocks.first(id, 1) };
    if row.last().is_none_or(|end| !mode.long() && over_limit(cpu, end.offset.into())) {
        row = across(cpu, memory, blocks, mode, at, hpa)?;
    }
    // What blocks events does so until this instruction is complete; it may do so anew.
    cpu.interruptibility.remove(shadow);
    cpu.flags.put(Rflags::RF, false);
    if run_alone(cpu, memory, &row).is_err() {
        cpu.interruptibility.insert(shadow);
        cpu.flags.put(Rflags::RF, resume);
        if let Stop::Exit(info) = &mut cpu.exec.stop
            && info.reason == ExitReason::of(Reason::APIC_ACCESS)
        {
            info.length = row.last().map_or(0, |end| end.offset.into());
        }
        return Err(Halt);
    }
    if !mode.long() {
        cpu.rip = u64::from(cpu.rip as u32);
    }
    if trap {
        cpu.pending_debug |= SINGLE_STEP;
    }
    if cpu.exec.hits != 0 {
        cpu.pending_debug |= cpu.exec.hits | ENABLED_BREAKPOINT;
    }
    cpu.after_step();
    cpu.end_watching();
    Ok(())
}

/// The row of the instruction at `at`, which may reach into another page, and beyond CS's limit.
#[cold]
fn across(
    cpu: &mut Cpu,
    memory: &mut Memory,
    blocks: &mut Blocks,
    mode: Mode,
    at: u64,
    first: Hpa,
) -> Result<Vec<Op>, Halt> {
    let mut bytes = [0; 15];
    let here = (PAGE_SIZE - at % PAGE_SIZE).min(15) as usize;
    let limit = u64::from(cpu.seg[Seg::Cs as usize].limit);
    let most = if mode.long() { 15 } else { limit.saturating_add(1).saturating_sub(cpu.rip).min(15) as usize };
    read_bytes(memory, first, &mut bytes[..here]);
    if let Some(row) = blocks.crossing(&bytes, here.min(most), mode) {
        return Ok(row);
    }
    if most <= here {
        return cpu.gp();
    }
    let next = at.wrapping_add(here as u64);
    let second = fetch(cpu, memory, if mode.long() { next } else { next & 0xffff_ffff })?;
    read_bytes(memory, second, &mut bytes[here..]);
    match blocks.crossing(&bytes, most, mode) {
        Some(row) => Ok(row),
        None => cpu.gp(),
    }
}

impl Cpu {
    /// Whether it is to run one instruction at a time.
    fn steps(&self) -> bool {
        self.flags.system & (Rflags::TF | Rflags::RF).bits() != 0
            || self.has_breakpoints()
            || self.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS)
            || self.controls.primary.contains(PrimaryControls::MONITOR_TRAP_FLAG)
    }

    /// Looks for events at an instruction boundary, by priority, and says how far it may run until the next look.
    #[inline]
    fn boundary(&mut self, memory: &mut Memory, until: u64) -> Result<u64, Trap> {
        if let Some((offset, _)) = self.exec.apic_write.take() {
            self.emulate_apic_write(memory, offset);
        }
        if let Some((reason, qualification)) = self.exec.after.take() {
            return Err(Trap::Exit(Box::new(ExitInfo { qualification, ..ExitInfo::of(reason) })));
        }
        if core::mem::take(&mut self.exec.monitor_trap) {
            return Err(exit(Reason::MONITOR_TRAP_FLAG));
        }
        let shadowed = self.interruptibility.intersects(Interruptibility::STI | Interruptibility::MOV_SS);
        if self.pending_debug != 0 && !self.interruptibility.contains(Interruptibility::MOV_SS) {
            self.take_pending_debug(memory)?;
        }
        let deadline = self.preemption_deadline;
        if self.exec.now >= deadline {
            return Err(exit(Reason::PREEMPTION_TIMER));
        }
        if self.controls.primary.contains(PrimaryControls::NMI_WINDOW_EXITING)
            && !shadowed
            && !self.interruptibility.contains(Interruptibility::NMI)
        {
            return Err(exit(Reason::NMI_WINDOW));
        }
        if self.controls.primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING)
            && !shadowed
            && self.flags.has(Rflags::IF)
        {
            return Err(exit(Reason::INTERRUPT_WINDOW));
        }
        if self.exec.virtual_interrupt && !shadowed && self.flags.has(Rflags::IF) {
            self.deliver_virtual_interrupt(memory)?;
            return self.boundary(memory, until);
        }
        if self.exec.now >= until || !self.interrupts.is_empty() {
            self.external_interrupt(memory)?;
            return self.boundary(memory, until);
        }
        if self.exec.now >= self.exec.pause.0 {
            return Err(Trap::Paused);
        }
        let goal = until.min(deadline).min(self.exec.pause.0);
        if self.activity != ActivityState::Active {
            // Nothing but time can end this, or whoever watches.
            self.exec.now = goal;
        }
        Ok(goal)
    }

    /// Leaves a monitor-trap exit pending after an instruction, or after the delivery of an event.
    pub(super) fn after_step(&mut self) {
        if self.controls.primary.contains(PrimaryControls::MONITOR_TRAP_FLAG) {
            self.exec.monitor_trap = true;
        }
    }

    /// The linear address of the instruction at RIP.
    pub(super) fn linear_rip(&self) -> u64 {
        linear_rip(self, mode(self))
    }

    /// Makes ready to run.
    fn begin(&mut self, memory: &mut Memory) {
        self.exec.stop = Stop::None;
        self.mmu.follow(memory);
    }

    /// Ends an op that changed what events or the mode depend on.
    #[inline]
    pub(super) fn checked(&mut self, op: &Op) -> Result<Flow, Halt> {
        let next = op.next(self);
        self.rip = if self.code64() { next } else { u64::from(next as u32) };
        Ok(Flow::Check)
    }

    /// What there is to say of the instruction at RIP.
    fn report(&mut self, memory: &mut Memory, what: String) -> Unsupported {
        self.set_passing(true);
        let mode = mode(self);
        let at = linear_rip(self, mode);
        let mut bytes = Vec::new();
        for offset in 0..15 {
            match fetch(self, memory, at.wrapping_add(offset)) {
                Ok(hpa) => bytes.push(memory.read::<u8>(hpa)),
                Err(Halt) => {
                    self.exec.stop = Stop::None;
                    break;
                }
            }
        }
        let (length, text) = super::decode::disassemble(&bytes, mode, self.rip);
        if length > 0 {
            bytes.truncate(length);
        }
        let what = if what.is_empty() { text } else { format!("{text}: {what}") };
        Unsupported { rip: self.rip, bytes, what }
    }
}

fn exit(reason: Reason) -> Trap {
    Trap::Exit(Box::new(ExitInfo { reason: ExitReason::of(reason), ..ExitInfo::default() }))
}
