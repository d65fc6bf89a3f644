//! How ops follow one another: the functions behind them end in a call of the next op's, which compiles to a jump.
//!
//! Ops lie in a row, and behind every op there is, sooner or later, an end: an op that goes nowhere. That is what makes
//! it sound to step from one op to the next without a look at where the row ends.
//!
//! The op that ends a block with a direct branch, or for want of room, may know the block that follows: it then goes on
//! there, while [`Exec::limit`](super::state::Exec::limit) allows. The limit bounds the depth of calls where they are not
//! jumps.

#![allow(unsafe_code)] // Steps from op to op in a row whose last one never steps.

use super::op::{Flow, Op};
use super::state::{Cpu, Halt};
use crate::memory::Memory;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// What an op does, and then what all those behind it do.
///
/// It answers how the row ended. RIP and the clock are then behind the last op that completed; where an op did not, at
/// it.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Run(for<'a> fn(&mut Cpu, &mut Memory, At<'a>) -> Result<Flow, Halt>);

/// An op in a row.
#[derive(Clone, Copy)]
struct At<'a>(NonNull<Op>, PhantomData<&'a [Op]>);

impl At<'_> {
    #[inline(always)]
    fn op(&self) -> &Op {
        // SAFETY: it points into a row that is borrowed for as long as it lives.
        unsafe { self.0.as_ref() }
    }

    /// The op that many behind it, or before it.
    ///
    /// # Safety
    /// There is one, in the same [`Rows`].
    #[inline(always)]
    unsafe fn offset(self, ops: i32) -> Self {
        // SAFETY: the pointer was made of all of the rows.
        Self(unsafe { self.0.offset(ops as isize) }, PhantomData)
    }
}

impl Run {
    /// What `act` does, unless something else follows from it the next op, and so on.
    pub(in crate::cpu) fn new<F>(_: F) -> Self
    where
        F: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
    {
        const { assert!(size_of::<F>() == 0, "a function, or a closure that captures nothing") };
        Self(act::<F>)
    }

    /// As [`Run::new`] of `first`, with `second` for when that answers [`Halt`], whatever its reason: it has left none.
    pub(in crate::cpu) fn tried<F, G>(_: F, _: G) -> Self
    where
        F: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
        G: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
    {
        const { assert!(size_of::<F>() == 0 && size_of::<G>() == 0, "functions, or closures that capture nothing") };
        Self(first::<F, G>)
    }

    /// Ends the row, with nothing done: RIP is at the op that would follow.
    pub(in crate::cpu) const END: Self = Self(end);
}

fn act<F>(cpu: &mut Cpu, memory: &mut Memory, at: At) -> Result<Flow, Halt>
where
    F: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
{
    // SAFETY: a type of no bytes, of which `Run::new` was given a value.
    let act: F = unsafe { NonNull::dangling().read() };
    let op = at.op();
    match act(cpu, memory, op) {
        Ok(Flow::Next) => {
            // SAFETY: the last op of all is an end, and this is none.
            let next = unsafe { at.offset(1) };
            (next.op().run.0)(cpu, memory, next)
        }
        Ok(flow @ (Flow::Taken | Flow::Fall)) => {
            cpu.exec.now += 1;
            leave(cpu, memory, at, flow)
        }
        Ok(flow) => {
            cpu.exec.now += u64::from(op.before) + 1;
            Ok(flow)
        }
        Err(Halt) => halted(cpu, op),
    }
}

/// [`act`], with a second try. Without a call but the next op's, it needs no frame.
fn first<F, G>(cpu: &mut Cpu, memory: &mut Memory, at: At) -> Result<Flow, Halt>
where
    F: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
    G: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
{
    // SAFETY: a type of no bytes, of which `Run::tried` was given a value.
    let act: F = unsafe { NonNull::dangling().read() };
    let op = at.op();
    match act(cpu, memory, op) {
        Ok(Flow::Next) => {
            // SAFETY: the last op of all is an end, and this is none.
            let next = unsafe { at.offset(1) };
            (next.op().run.0)(cpu, memory, next)
        }
        Ok(flow @ (Flow::Taken | Flow::Fall)) => {
            cpu.exec.now += 1;
            leave(cpu, memory, at, flow)
        }
        Ok(flow) => {
            cpu.exec.now += u64::from(op.before) + 1;
            Ok(flow)
        }
        Err(Halt) => second::<G>(cpu, memory, at),
    }
}

#[cold]
#[inline(never)]
fn second<G>(cpu: &mut Cpu, memory: &mut Memory, at: At) -> Result<Flow, Halt>
where
    G: Fn(&mut Cpu, &mut Memory, &Op) -> Result<Flow, Halt> + Copy + 'static,
{
    act::<G>(cpu, memory, at)
}

/// An op did not complete: RIP and the clock are at it.
#[cold]
#[inline(never)]
fn halted(cpu: &mut Cpu, op: &Op) -> Result<Flow, Halt> {
    cpu.rip = op.rip(cpu);
    cpu.exec.now += u64::from(op.before);
    Err(Halt)
}

fn end(cpu: &mut Cpu, memory: &mut Memory, at: At) -> Result<Flow, Halt> {
    cpu.rip = at.op().rip(cpu);
    leave(cpu, memory, at, Flow::Fall)
}

/// Goes on with the block that is known to follow, or else answers `flow`.
#[inline(always)]
fn leave(cpu: &mut Cpu, memory: &mut Memory, at: At, flow: Flow) -> Result<Flow, Halt> {
    let op = at.op();
    let now = cpu.exec.now + u64::from(op.before);
    cpu.exec.now = now;
    let link = link(op, flow);
    if link != 0 {
        // SAFETY: a link leads to a block's head, and behind that is an op: `Rows::link` saw to it, and nothing else
        // sets one. Rows by themselves have none.
        let head = unsafe { at.offset(link) };
        if now + u64::from(head.op().before) <= cpu.exec.limit {
            // SAFETY: as above.
            let first = unsafe { head.offset(1) };
            return (first.op().run.0)(cpu, memory, first);
        }
    }
    cpu.exec.left = at.0.addr().get();
    Ok(flow)
}

/// How many ops it is to the head of the block that follows after `flow`; 0 if that is not known.
#[inline(always)]
fn link(op: &Op, flow: Flow) -> i32 {
    match flow {
        _ if !op.has(Op::DIRECT) => 0,
        Flow::Taken => op.disp as i32,
        _ => (op.disp >> 32) as i32,
    }
}

/// Ops one behind the other, all of a machine's.
pub(in crate::cpu) struct Rows(Vec<Op>);

impl Rows {
    /// One op, an end.
    pub(in crate::cpu) fn new() -> Self {
        Self(vec![Op::end(0, 0)])
    }

    /// How many ops there are.
    pub(in crate::cpu) fn len(&self) -> usize {
        self.0.len()
    }

    /// The op at an index.
    #[inline(always)]
    pub(in crate::cpu) fn op(&self, at: u32) -> &Op {
        &self.0[at as usize]
    }

    /// The ops from an index on.
    pub(in crate::cpu) fn from(&self, at: u32) -> &[Op] {
        &self.0[at as usize..]
    }

    /// Puts ops at an index, or behind all others; the last of them is an end.
    pub(in crate::cpu) fn put(&mut self, at: u32, ops: &[Op]) {
        assert!(is_row(ops), "a row ends, and knows of no other");
        match self.0.get_mut(at as usize..at as usize + ops.len()) {
            Some(place) => place.copy_from_slice(ops),
            None => {
                assert!(at as usize == self.len(), "a row begins where another did, or behind all");
                self.0.extend_from_slice(ops);
            }
        }
    }

    /// Changes the key of the block whose head is at an index.
    pub(in crate::cpu) fn set_key(&mut self, head: u32, key: u64) {
        let op = &mut self.0[head as usize];
        if is_end(op) && !op.has(Op::DIRECT) {
            op.disp = key;
        }
    }

    /// The index of the op that a row was left at.
    #[inline(always)]
    pub(in crate::cpu) fn left(&self, cpu: &Cpu) -> u32 {
        (cpu.exec.left.wrapping_sub(self.0.as_ptr().addr()) / size_of::<Op>()) as u32
    }

    /// The head of the block that is known to follow after the op at an index and `flow`.
    #[inline(always)]
    pub(in crate::cpu) fn follower(&self, at: u32, flow: Flow) -> Option<u32> {
        let link = link(&self.0[at as usize], flow);
        (link != 0).then(|| at.wrapping_add_signed(link))
    }

    /// Makes the op at an index go on at the block whose head is at another after `flow`.
    pub(in crate::cpu) fn link(&mut self, at: u32, flow: Flow, head: u32) {
        assert!((head as usize) < self.len() - 1 && self.len() <= i32::MAX as usize, "there is an op behind a head");
        let op = &mut self.0[at as usize];
        if op.has(Op::DIRECT) {
            let link = u64::from(head.wrapping_sub(at));
            op.disp = match flow {
                Flow::Taken => op.disp & !0xffff_ffff | link,
                _ => op.disp & 0xffff_ffff | link << 32,
            };
        }
    }

    /// Runs the row that begins at an index.
    #[inline(always)]
    pub(in crate::cpu) fn run(&self, cpu: &mut Cpu, memory: &mut Memory, at: u32) -> Result<Flow, Halt> {
        assert!((at as usize) < self.len(), "a row begins at an op");
        // SAFETY: just checked. The last op of all is an end.
        let first = unsafe { At(NonNull::from(&self.0[..]).cast(), PhantomData).offset(at as i32) };
        (first.op().run.0)(cpu, memory, first)
    }
}

/// Runs a row by itself.
#[cold]
pub(in crate::cpu) fn run_alone(cpu: &mut Cpu, memory: &mut Memory, row: &[Op]) -> Result<Flow, Halt> {
    assert!(is_row(row), "a row ends, and knows of no other");
    (row[0].run.0)(cpu, memory, At(NonNull::from(row).cast(), PhantomData))
}

fn is_row(ops: &[Op]) -> bool {
    ops.last().is_some_and(is_end) && ops.iter().all(|op| !op.has(Op::DIRECT) || op.disp == 0)
}

fn is_end(op: &Op) -> bool {
    core::ptr::fn_addr_eq(op.run.0, Run::END.0)
}
