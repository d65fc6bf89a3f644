//! The run as the protocol's library sees it.

use super::fields::FieldWatch;
use super::registers::{Values, X86};
use super::run::{Action, runner, thread};
use crate::{Cursor, Error, Runner, look};
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::*;
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use gdbstub::target::ext::breakpoints::*;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps, output, outputln};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use hv::cpu::Watch;
use std::time::{Duration, Instant};

/// The error numbers of replies, which GDB shows as such.
const EACCES: u8 = 13;
const EFAULT: u8 = 14;
const ESRCH: u8 = 3;

/// Bytes that one watchpoint is on at most.
const WATCHED: u64 = 1 << 20;

/// Between two signs of life while a command runs.
const BEAT: Duration = Duration::from_millis(500);

/// How a breakpoint was asked for. They are the same but in the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    Software,
    Hardware,
}

/// A run under a debugger.
pub(super) struct Debugged<'c, 't, 's> {
    pub(super) cursor: &'c mut Cursor<'t>,
    told: &'s mut dyn FnMut(&str),
    /// As often as they were set.
    pub(super) breakpoints: Vec<(Stop, u64)>,
    pub(super) watches: Vec<Watch>,
    pub(super) fields: Vec<FieldWatch>,
    /// The level that breakpoints and watchpoints are of; `None` for all.
    pub(super) level: Option<u8>,
    /// Those of them, by address, that are of another.
    pub(super) levels: Vec<(u64, u8)>,
    /// The guests that were resumed, so far; and, if no others are to, the guests that alone are stopped in.
    resumed: Vec<Runner>,
    pub(super) alone: Option<Vec<Runner>>,
    pub(super) action: Action,
    /// The access of a watched field that it stopped behind.
    pub(super) why: Option<u64>,
}

impl<'c, 't, 's> Debugged<'c, 't, 's> {
    pub(super) fn new(cursor: &'c mut Cursor<'t>, told: &'s mut dyn FnMut(&str)) -> Self {
        Self {
            cursor,
            told,
            breakpoints: Vec::new(),
            watches: Vec::new(),
            fields: Vec::new(),
            level: None,
            levels: Vec::new(),
            resumed: Vec::new(),
            alone: None,
            action: Action::default(),
            why: None,
        }
    }

    /// Tells whoever waits at the terminal.
    pub(super) fn tell(&mut self, text: &str) {
        (self.told)(text);
    }

    /// The guests that there are, the running one first.
    fn guests(&mut self) -> Vec<Runner> {
        let running = self.cursor.runner();
        let all = look::guests(self.cursor.machine().l0()).map(|(runner, _)| runner);
        let others = all.filter(|it| *it != running);
        std::iter::once(running).chain(others).collect()
    }

    fn guest(&mut self, tid: Tid) -> TargetResult<hv::l0::Guest, Self> {
        let Runner { vcpu, level } = runner(tid);
        self.cursor.machine().l0().guest(vcpu, level).ok_or(TargetError::Errno(ESRCH))
    }

    fn refuse(&mut self, what: &str) -> TargetError<Error> {
        self.tell(&format!("the debugger was refused a write to {what}: this is a recording"));
        TargetError::Errno(EACCES)
    }

    fn watch(address: u64, bytes: u64, kind: WatchKind) -> Watch {
        let (reads, writes) = match kind {
            WatchKind::Write => (false, true),
            WatchKind::Read => (true, false),
            WatchKind::ReadWrite => (true, true),
        };
        Watch { address, bytes, reads, writes }
    }
}

/// Takes one of a list away. Returns whether it was there.
fn remove<T: PartialEq>(list: &mut Vec<T>, it: &T) -> bool {
    let found = list.iter().position(|other| other == it);
    found.map(|at| list.remove(at)).is_some()
}

impl Target for Debugged<'_, '_, '_> {
    type Arch = X86;
    type Error = Error;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Error> {
        BaseOps::MultiThread(self)
    }

    /// Breakpoints are no code: GDB need not write any.
    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debugged<'_, '_, '_> {
    fn read_registers(&mut self, registers: &mut Values, tid: Tid) -> TargetResult<(), Self> {
        *registers = Values::of(&self.guest(tid)?);
        Ok(())
    }

    fn write_registers(&mut self, _: &Values, _: Tid) -> TargetResult<(), Self> {
        Err(self.refuse("a register"))
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let guest = self.guest(tid)?;
        match self.cursor.machine().l0().look_at(&guest, start, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(EFAULT)),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, _: u64, data: &[u8], _: Tid) -> TargetResult<(), Self> {
        // A probe of whether the packet is known.
        if data.is_empty() { Ok(()) } else { Err(self.refuse("memory")) }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Error> {
        self.guests().into_iter().map(thread).for_each(active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Debugged<'_, '_, '_> {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Error> {
        let it = runner(tid);
        let runs = if it == self.cursor.runner() { ", runs" } else { "" };
        let text = format!("L{} of vCPU {}{runs}", it.level, it.vcpu);
        let count = text.len().min(buffer.len());
        buffer[..count].copy_from_slice(&text.as_bytes()[..count]);
        Ok(count)
    }
}

impl MultiThreadResume for Debugged<'_, '_, '_> {
    fn resume(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Error> {
        self.action = Action::Continue;
        self.resumed.clear();
        self.alone = None;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.resumed.push(runner(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSchedulerLocking for Debugged<'_, '_, '_> {
    /// Others run when they did, but are not stopped in.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Error> {
        self.alone = Some(core::mem::take(&mut self.resumed));
        Ok(())
    }
}

impl MultiThreadSingleStep for Debugged<'_, '_, '_> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.action = Action::Step(runner(tid));
        self.resumed.push(runner(tid));
        Ok(())
    }
}

impl ReverseCont<Tid> for Debugged<'_, '_, '_> {
    fn reverse_cont(&mut self) -> Result<(), Error> {
        self.action = Action::ContinueBack;
        self.alone = None;
        Ok(())
    }
}

impl ReverseStep<Tid> for Debugged<'_, '_, '_> {
    fn reverse_step(&mut self, tid: Tid) -> Result<(), Error> {
        self.action = Action::StepBack(runner(tid));
        self.alone = None;
        Ok(())
    }
}

impl Breakpoints for Debugged<'_, '_, '_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged<'_, '_, '_> {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.push((Stop::Software, at));
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.breakpoints, &(Stop::Software, at)))
    }
}

impl HwBreakpoint for Debugged<'_, '_, '_> {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoints.push((Stop::Hardware, at));
        Ok(true)
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.breakpoints, &(Stop::Hardware, at)))
    }
}

impl HwWatchpoint for Debugged<'_, '_, '_> {
    fn add_hw_watchpoint(&mut self, at: u64, bytes: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let fits = (1..=WATCHED).contains(&bytes);
        if fits {
            self.watches.push(Self::watch(at, bytes, kind));
        }
        Ok(fits)
    }

    fn remove_hw_watchpoint(&mut self, at: u64, bytes: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.watches, &Self::watch(at, bytes, kind)))
    }
}

impl MonitorCmd for Debugged<'_, '_, '_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Error> {
        let text = String::from_utf8_lossy(command).into_owned();
        // GDB waits for some seconds alone, unless it is shown something.
        let mut told = Instant::now();
        let lines = self.monitor(&text, &mut || {
            if told.elapsed() >= BEAT {
                told = Instant::now();
                output!(out, ".");
                out.flush();
            }
        });
        for line in lines {
            outputln!(out, "{line}");
        }
        Ok(())
    }
}
