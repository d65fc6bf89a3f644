//! A recorded run under GDB: its remote protocol over a [`Cursor`], forwards and backwards.
//!
//! The guests of each vCPU are threads: L1, and L2 and L3 while there are such; each has its own registers and its own view of memory,
//! through its own paging and EPT. Breakpoints and watchpoints are the replay's own: no guest's code or debug register is
//! touched, and nothing can be written. What GDB has no word for (VMCSs, the TLB, events) are its `monitor` commands.
//!
//! [`serve`] goes on listening when a debugger goes, or sends what makes no sense. `docs/replay.md` is for users.

mod fields;
mod link;
mod monitor;
mod registers;
mod run;
mod target;

pub use link::Address;

use crate::Cursor;
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use link::{Door, Link};
use std::io;
use target::Debugged;

/// Bytes of a packet at most: a `g` reply takes some 1,500, a read of a page twice as many as it has.
const PACKET: usize = 16 << 10;

/// Why no debugger can be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {at}: {source}")]
pub struct ListenError {
    /// Where.
    pub at: String,
    /// Why.
    pub source: io::Error,
}

/// Serves debuggers, one at a time, at this place of the run. It returns when no more can come: at standard input when that
/// ends, elsewhere never. `told` is given lines for whoever waits at the terminal.
///
/// # Errors
/// The address cannot be listened at.
pub fn serve(cursor: &mut Cursor, address: &Address, told: &mut dyn FnMut(&str)) -> Result<(), ListenError> {
    let at = match address {
        Address::Tcp(at) => at.clone(),
        Address::Unix(path) => path.display().to_string(),
        Address::Stdio => "standard input".to_owned(),
    };
    let mut door = Door::open(address).map_err(|source| ListenError { at, source })?;
    if *address != Address::Stdio {
        told(&format!("listening at {}", door.at));
    }
    while let Some(link) = door.next() {
        let mut target = Debugged::new(cursor, told);
        let ended = session(link, &mut target);
        told(&format!("the debugger {ended}"));
        if *address == Address::Stdio {
            break;
        }
    }
    Ok(())
}

/// Serves one debugger. Returns how that ended, in words.
fn session(link: Link, target: &mut Debugged) -> String {
    let stub = match GdbStub::<Debugged, Link>::builder(link).packet_buffer_size(PACKET).build() {
        Ok(stub) => stub,
        Err(error) => return format!("was not served: {error}"),
    };
    match talk(stub, target) {
        Ok(ended) => ended,
        Err(error) => format!("was sent away: {error}"),
    }
}

type Wrong = gdbstub::stub::GdbStubError<crate::Error, io::Error>;

fn talk<'c, 't, 's>(
    stub: GdbStub<Debugged<'c, 't, 's>, Link>,
    target: &mut Debugged<'c, 't, 's>,
) -> Result<String, Wrong> {
    let gone = || Ok("has gone".to_owned());
    let mut machine = stub.run_state_machine(target)?;
    loop {
        machine = match machine {
            GdbStubStateMachine::Idle(mut idle) => match idle.borrow_conn().next() {
                Some(byte) => idle.incoming_data(target, byte)?,
                None => return gone(),
            },
            GdbStubStateMachine::Running(mut running) => {
                let stopped = target.carry_out(&mut || running.borrow_conn().stirs());
                match stopped {
                    Ok(Some(reason)) => running.report_stop(target, reason)?,
                    // It wants something, or has gone.
                    Ok(None) => match running.borrow_conn().next() {
                        Some(byte) => running.incoming_data(target, byte)?,
                        None => return gone(),
                    },
                    Err(error) => {
                        target.tell(&error.to_string());
                        let signal = Signal::SIGABRT;
                        let tid = target.running_thread();
                        running.report_stop(target, MultiThreadStopReason::SignalWithThread { tid, signal })?
                    }
                }
            }
            GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
                let signal = Signal::SIGINT;
                let tid = target.running_thread();
                interrupted.interrupt_handled(target, Some(MultiThreadStopReason::SignalWithThread { tid, signal }))?
            }
            GdbStubStateMachine::Disconnected(ended) => {
                return Ok(match ended.get_reason() {
                    DisconnectReason::Disconnect => "has detached",
                    DisconnectReason::Kill => "has ended its session",
                    DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => "has gone",
                }
                .to_owned());
            }
        };
    }
}
