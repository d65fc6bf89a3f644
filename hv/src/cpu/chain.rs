//! How ops follow one another: the functions behind them end in a call of the next op's, which compiles to a jump.
//!
//! Ops lie in a row, and behind every op there is, sooner or later, an end: an op that goes nowhere. That is what makes
//! it sound to step from one op to the next without a look at where the row ends, and what bounds the depth of calls
//! where they are not jumps.

#![allow(unsafe_code)] // Steps from op to op in a row whose last one never steps.

use super::op::{Flow, Op};
use super::state::{Cpu, Halt};
use crate::memory::Memory;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
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

    /// The op behind it.
    ///
    /// # Safety
    /// It is not the row's last.
    #[inline(always)]
    unsafe fn next(self) -> Self {
        // SAFETY: the op behind it is in the row, too.
        Self(unsafe { self.0.add(1) }, PhantomData)
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
    let act: F = unsafe { MaybeUninit::uninit().assume_init() };
    let op = at.op();
    match act(cpu, memory, op) {
        Ok(Flow::Next) => {
            // SAFETY: the last op of all is an end, and this is none.
            let next = unsafe { at.next() };
            (next.op().run.0)(cpu, memory, next)
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
    let act: F = unsafe { MaybeUninit::uninit().assume_init() };
    let op = at.op();
    match act(cpu, memory, op) {
        Ok(Flow::Next) => {
            // SAFETY: the last op of all is an end, and this is none.
            let next = unsafe { at.next() };
            (next.op().run.0)(cpu, memory, next)
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

fn end(cpu: &mut Cpu, _: &mut Memory, at: At) -> Result<Flow, Halt> {
    let op = at.op();
    cpu.rip = op.rip(cpu);
    cpu.exec.now += u64::from(op.before);
    Ok(Flow::Fall)
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
        assert!(ops.last().is_some_and(is_end), "a row ends");
        match self.0.get_mut(at as usize..at as usize + ops.len()) {
            Some(place) => place.copy_from_slice(ops),
            None => {
                assert!(at as usize == self.len(), "a row begins where another did, or behind all");
                self.0.extend_from_slice(ops);
            }
        }
    }

    /// Changes what an op that is an end holds for others.
    #[inline(always)]
    pub(in crate::cpu) fn note(&mut self, at: u32, change: impl FnOnce(&mut Op)) {
        let op = &mut self.0[at as usize];
        change(op);
        op.run = Run::END;
    }

    /// Runs the row that begins at an index.
    #[inline(always)]
    pub(in crate::cpu) fn run(&self, cpu: &mut Cpu, memory: &mut Memory, at: u32) -> Result<Flow, Halt> {
        // The last of all is an end.
        run(cpu, memory, &self.0[at as usize..])
    }
}

/// Runs a row by itself.
#[cold]
pub(in crate::cpu) fn run_alone(cpu: &mut Cpu, memory: &mut Memory, row: &[Op]) -> Result<Flow, Halt> {
    assert!(row.last().is_some_and(is_end), "a row ends");
    run(cpu, memory, row)
}

/// Runs ops, whose last is an end.
#[inline(always)]
fn run(cpu: &mut Cpu, memory: &mut Memory, row: &[Op]) -> Result<Flow, Halt> {
    (row[0].run.0)(cpu, memory, At(NonNull::from(row).cast(), PhantomData))
}

fn is_end(op: &Op) -> bool {
    core::ptr::fn_addr_eq(op.run.0, Run::END.0)
}
