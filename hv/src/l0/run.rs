//! One entry, one exit.

use super::cx::Cx;
use super::deliver::Ready;
use super::exit::Exit;
use super::next::Next;
use super::vmx::Report;
use super::{Bus, L0, Ran};
use crate::silicon::{Exited, Outcome, Pcpu, Refused, Register, Silicon};
use crate::world::Log;
use hv_defs::event::{self, Actor, Cause, Check, Entry, Flush, FlushKind, NO_ADDRESS, Stamp, Stop, StopKind, What};
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::policy::Tags;
use hv_defs::vmcs;

impl<S: Silicon> L0<S> {
    /// Runs a vCPU on physical CPU `cpu` until its next exit, `until` at the latest, and handles that exit.
    ///
    /// # Panics
    /// When there is no such vCPU or physical CPU.
    pub fn run_vcpu(&mut self, vcpu: usize, cpu: Pcpu, bus: &mut dyn Bus, log: &mut Log, until: u64) -> Ran {
        self.bring(vcpu, cpu, bus, log);
        self.cx(vcpu, cpu, bus, log).run(until)
    }

    /// As [`L0::run_vcpu`], of a vCPU that may be paused, and goes on for some dozens of exits while none of them concerns the board, and nothing waits
    /// there. Nothing is to become due there before `until`.
    ///
    /// # Panics
    /// As [`L0::run_vcpu`].
    pub fn run_turn(&mut self, vcpu: usize, cpu: Pcpu, bus: &mut dyn Bus, log: &mut Log, until: u64) -> Ran {
        let alone = if self.fine { 0 } else { ALONE };
        let paused = self.vcpus[vcpu].paused.is_some();
        if !paused {
            self.bring(vcpu, cpu, bus, log);
        }
        let mut cx = self.cx(vcpu, cpu, bus, log);
        let mut ran = if paused { cx.enter(until, until) } else { cx.run(until) };
        for _ in 0..alone {
            if ran != Ran::Ready || !cx.is_calm() || cx.at.instruction >= until {
                break;
            }
            ran = cx.enter(until, until);
        }
        ran
    }
}

impl<S: Silicon> L0<S> {
    /// Has [`L0::run_turn`] return after each exit.
    pub(crate) fn set_fine(&mut self, fine: bool) {
        self.fine = fine;
    }

    /// Whether it does.
    pub(crate) fn is_fine(&self) -> bool {
        self.fine
    }

    /// Whether silicon was stopped inside a vCPU's guest by who watches it.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn is_paused(&self, vcpu: usize) -> bool {
        self.vcpus[vcpu].paused.is_some()
    }
}

/// Exits that do not concern the board, one behind the other, at most.
const ALONE: u32 = 64;

/// Exits in a row between which no instruction was executed, after which each more counts as one. What has so many is a
/// string of INs or OUTs, or a guest that wants time to stand still.
const STILL: u32 = 1 << 16;

impl<S: Silicon> Cx<'_, S> {
    fn run(&mut self, end: u64) -> Ran {
        self.look_at_line();
        let until = match self.deliver() {
            Ready::Go => end,
            Ready::Briefly => self.at.instruction,
            Ready::Waits => return Ran::Halted,
            Ready::Ends(stop) => return Ran::Stop(stop),
        };
        self.enter(until, end)
    }

    /// Whether [`Cx::deliver`] would find what it found last: nothing to deliver. It did, and nobody has asked the board for
    /// anything since.
    fn is_calm(&mut self) -> bool {
        self.calm
            && !self.bus.was_asked()
            && self.vcpu.waits.is_none()
            && self.silicon.register(self.cpu, Register::Cr8) == 0
    }

    /// Enters and handles the exit. `until` is when the entry ends at the latest, `end` when the caller's turn does.
    fn enter(&mut self, until: u64, end: u64) -> Ran {
        let (entered_at, until, end) = self.vcpu.paused.take().unwrap_or((self.at, until, end));
        let saved = &self.vcpu.saved[self.vcpu.current];
        let launch = !saved.launched;
        let written = saved.written;
        let (vmcs02, vmcs12) = (saved.hpa.0, self.vmcs12_address());
        let vpid = self.get(vmcs::VPID);
        let eptp = self.get(vmcs::EPT_POINTER).into_bits();
        let injected = self.get(vmcs::ENTRY_INTERRUPTION_INFO);
        self.shared.vpids.used_on(vpid, self.cpu);
        self.silicon.tell_answers(self.log, self.at);
        let outcome = self.silicon.enter(self.cpu, launch, until);
        self.at.instruction = self.silicon.retired();
        if outcome == Ok(Outcome::Paused) {
            self.vcpu.paused = Some((entered_at, until, end));
            return Ran::Paused;
        }
        let failed = match &outcome {
            Ok(Outcome::EntryFailed(check)) => Some(*check),
            Err(refused) => Some(refused.check.unwrap_or(Check::new("refused"))),
            Ok(_) => None,
        };
        let level = self.level();
        let entry = Entry {
            level,
            launch,
            vmcs12,
            vmcs02,
            vpid,
            eptp,
            injected: if injected.valid() { injected } else { InterruptionInfo::new() },
            failed,
            fields_written: written,
        };
        self.emit_at(entered_at, What::Entry(entry));
        match outcome {
            Ok(Outcome::Exited(exited)) => {
                self.vcpu.saved[self.vcpu.current].ran();
                self.vcpu.entry_pending = false;
                let ran = self.exited(entered_at, exited);
                // An entry that was to be brief is no slice.
                if ran == Ran::Slice && self.at.instruction < end { Ran::Ready } else { ran }
            }
            Ok(Outcome::EntryFailed(_)) => self.entry_failed(),
            Ok(Outcome::Paused) => Ran::Paused,
            Ok(Outcome::Unsupported(what)) => Ran::Stop(Stop { kind: StopKind::Unsupported, code: 0, text: what.what }),
            Err(refused) => self.refused(refused),
        }
    }

    fn vmcs12_address(&self) -> u64 {
        if self.vcpu.level == 2 { self.vcpu.vmcs12.gpa.0 } else { NO_ADDRESS }
    }

    /// What the hardware dropped by itself.
    fn emit_transition(&mut self, at: Stamp, cause: Cause, dropped: u32) {
        if self.shared.policy.tags == Tags::Off {
            let kind = FlushKind::Transition;
            let flush = Flush { kind, cause, actor: Actor::L0, vpid: 0, eptp: 0, address: 0, dropped };
            self.emit_at(at, What::Flush(flush));
        }
    }

    /// What the log is told of an exit.
    fn told(&self, exit: &Exit, handled_by: Actor) -> event::Exit {
        event::Exit {
            level: self.level(),
            reason: exit.reason,
            qualification: exit.qualification,
            rip: exit.rip,
            length: exit.length as u8,
            gpa: exit.gpa,
            gla: exit.gla,
            intr_info: exit.shown_info(),
            vmcs12: self.vmcs12_address(),
            handled_by,
        }
    }

    /// An exit of L2's that silicon did not make: L0 takes L1 an interrupt, or an exception that it raises.
    pub(super) fn emit_synthetic_exit(&mut self, report: &Report) {
        let exit = Exit { reason: report.reason, intr: report.intr, rip: self.get(vmcs::GUEST_RIP), ..Exit::default() };
        let told = self.told(&exit, Actor::L1);
        self.emit(What::Exit(told));
    }

    fn exited(&mut self, entered_at: Stamp, exited: Exited) -> Ran {
        self.emit_transition(entered_at, Cause::HardwareEntry, exited.dropped_by_entry);
        // The exit's event comes before all that it leads to, and is filled in when it is known.
        let place = self.log.len();
        let heard = self.silicon.hears_of_exit(self.at);
        if !heard {
            self.log.push(event::Event { at: self.at, what: What::Lost(0) });
        }
        self.emit_transition(self.at, Cause::HardwareExit, exited.dropped_by_exit);
        let mut exit = self.read_exit();
        let seen = exit;
        self.vcpu.last_exit = Some(seen.reason);
        let level = self.vcpu.level;
        let told = self.told(&seen, Actor::L0);
        let (handled_by, next) = self.handle(&mut exit);
        let what = What::Exit(event::Exit { handled_by, ..told });
        if heard {
            self.silicon.hears_exit(&what);
        } else {
            self.log[place].what = what;
        }
        let slice = seen.basic() == Reason::EXTERNAL_INTERRUPT && handled_by == Actor::L0;
        let ran = self.carry_on(level, next, &exit, slice);
        self.keep_time(entered_at);
        ran
    }

    /// An exit takes no time, and a guest may do nothing but exit: the clock goes on nevertheless.
    fn keep_time(&mut self, entered_at: Stamp) {
        if self.at.instruction != entered_at.instruction {
            self.shared.still = 0;
            return;
        }
        self.shared.still = self.shared.still.saturating_add(1);
        if self.shared.still > STILL {
            self.silicon.skip(self.at.instruction + 1);
            self.at.instruction = self.silicon.retired();
        }
    }

    /// Does what comes next.
    fn carry_on(&mut self, level: u8, next: Next, exit: &Exit, slice: bool) -> Ran {
        match next {
            Next::Resume => {
                // An entry to L2 or a return to L1 has left the exit's own guest behind.
                if self.vcpu.level == level && exit.idt.valid() {
                    self.reinject(exit);
                } else if self.vcpu.level == level && exit.basic() == Reason::EPT_VIOLATION {
                    self.block_nmis_again(exit);
                }
            }
            Next::Skip => self.skip(exit),
            Next::Spin => {
                self.skip(exit);
                return Ran::Spins;
            }
            Next::Raise(fault) => {
                if let Some(report) = self.raise(fault, exit) {
                    self.emit_synthetic_exit(&report);
                    let next = self.leave(report);
                    return self.carry_on(1, next, &Exit::default(), slice);
                }
            }
            Next::Wait(wait) => {
                self.skip(exit);
                self.vcpu.waits = Some(wait);
            }
            Next::Reflect => {
                let report = self.report(exit);
                let next = self.leave(report);
                return self.carry_on(1, next, &Exit::default(), slice);
            }
            Next::Stop(stop) => return Ran::Stop(stop),
        }
        if slice { Ran::Slice } else { Ran::Ready }
    }

    /// Silicon found guest state wrong. L2's is L1's doing.
    fn entry_failed(&mut self) -> Ran {
        self.vcpu.saved[self.vcpu.current].failed();
        let exit = self.read_exit();
        if self.vcpu.level == 1 {
            let text = format!("silicon does not take L1's own state at {:#x}", exit.rip);
            return Ran::Stop(Stop { kind: StopKind::Unsupported, code: 0, text });
        }
        let report = Report { reason: exit.reason, qualification: exit.qualification, ..Report::default() };
        let next = self.leave_failed(report);
        self.carry_on(1, next, &Exit::default(), false)
    }

    /// Silicon found a vmcs01 or vmcs02 wrong that L0's own checks let pass. If it is L1's entry, L1 hears of it; else
    /// it is L0's doing.
    fn refused(&mut self, refused: Refused) -> Ran {
        if self.vcpu.entry_pending
            && let Some(error) = refused.error
        {
            return self.refuse_entry(error);
        }
        let which = if self.vcpu.level == 1 { "vmcs01" } else { "a vmcs02" };
        let check = refused.check.map_or("no check", Check::name);
        let error = refused.error.map_or("VMfailInvalid".to_owned(), |error| error.to_string());
        let text = format!("silicon refuses {which}: {error}, {check}");
        Ran::Stop(Stop { kind: StopKind::Unsupported, code: 0, text })
    }
}
