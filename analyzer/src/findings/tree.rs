//! What was done for what: a tree of exits, each below the exit that caused it, with L0's work and the guests' instructions
//! as leaves. Every unit of either is at one place, so that sums over the tree, grouped in any way, are the trace's totals.

use hv_defs::cost::Costs;
use hv_defs::exit::Reason;
use std::collections::HashMap;

#[cfg(test)]
mod tests;

/// A kind of L0's work, or of silicon's for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Work {
    /// VM exits.
    Exit,
    /// VM entries, refused ones among them.
    Entry,
    /// VMREADs.
    Vmread,
    /// VMWRITEs.
    Vmwrite,
    /// VMPTRLDs and VMCLEARs.
    Vmptrld,
    /// INVVPIDs.
    Invvpid,
    /// INVEPTs.
    Invept,
    /// Flushes that entries and exits without VPID make by themselves.
    TransitionFlush,
    /// Entries of EPT02s added, changed or removed, and switches.
    Ept02,
    /// Requests of the vmcs02 pool that found none. What they cost is in the VMWRITEs and VMPTRLDs.
    PoolMiss,
}

/// How many kinds of work there are.
const KINDS: usize = Work::ALL.len();

impl Work {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Exit,
        Self::Entry,
        Self::Vmread,
        Self::Vmwrite,
        Self::Vmptrld,
        Self::Invvpid,
        Self::Invept,
        Self::TransitionFlush,
        Self::Ept02,
        Self::PoolMiss,
    ];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Entry => "entry",
            Self::Vmread => "vmread",
            Self::Vmwrite => "vmwrite",
            Self::Vmptrld => "vmptrld",
            Self::Invvpid => "invvpid",
            Self::Invept => "invept",
            Self::TransitionFlush => "transition-flush",
            Self::Ept02 => "ept02",
            Self::PoolMiss => "pool-miss",
        }
    }

    /// Modelled cycles of one.
    pub const fn cycles(self, costs: &Costs) -> u64 {
        match self {
            Self::Exit => costs.exit,
            Self::Entry => costs.entry,
            Self::Vmread => costs.vmread,
            Self::Vmwrite => costs.vmwrite,
            Self::Vmptrld => costs.vmptrld,
            Self::Invvpid => costs.invvpid,
            Self::Invept => costs.invept,
            Self::TransitionFlush => costs.transition_flush,
            Self::Ept02 => costs.ept_entry,
            Self::PoolMiss => 0,
        }
    }
}

/// Counts by kind of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Works([u64; KINDS]);

impl Works {
    /// How many of a kind.
    pub const fn of(&self, work: Work) -> u64 {
        self.0[work as usize]
    }

    /// Counts more of a kind.
    pub fn add(&mut self, work: Work, count: u64) {
        self.0[work as usize] += count;
    }

    /// Adds others' counts.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// What was added since these were some others.
    pub fn since(&self, before: &Self) -> Self {
        Self(core::array::from_fn(|at| self.0[at] - before.0[at]))
    }

    /// Modelled cycles of all.
    pub fn cycles(&self, costs: &Costs) -> u64 {
        Work::ALL.iter().map(|&work| self.of(work) * work.cycles(costs)).sum()
    }

    /// The kinds that there are any of, with how many.
    pub fn each(&self) -> impl Iterator<Item = (Work, u64)> + '_ {
        Work::ALL.iter().map(|&work| (work, self.of(work))).filter(|(_, count)| *count > 0)
    }
}

/// An exit's kind at its place in the tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The node of the exit that caused it; itself for the root.
    pub parent: usize,
    /// The guest that exited; 0 for the root, which is no exit.
    pub level: u8,
    /// The reason of the exit.
    pub reason: Reason,
    /// How many such exits.
    pub exits: u64,
    /// L0's work for these exits themselves. The root has what was for no exit: before the first of a vCPU.
    pub work: Works,
    /// What guests ran while they waited for one of these exits to be served, by level, in the trace's clock: of the root
    /// what ran on its own. Level 0 is time that passed between an exit and an entry, of which our own recordings have
    /// none.
    pub ran: Vec<(u8, u64)>,
}

impl Node {
    /// What guests ran here, all levels together.
    pub fn ran(&self) -> u64 {
        self.ran.iter().map(|(_, ran)| ran).sum()
    }

    /// Modelled cycles of what is here, without what is below: instructions and L0's work.
    pub fn cycles(&self, costs: &Costs) -> u64 {
        self.work.cycles(costs) + self.ran() * costs.instruction
    }

    pub(super) fn run(&mut self, level: u8, ran: u64) {
        match self.ran.iter_mut().find(|(known, _)| *known == level) {
            Some((_, sum)) => *sum += ran,
            None => self.ran.push((level, ran)),
        }
    }
}

/// The tree. Parents come before their children.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// The nodes; the root is the first. None for no events.
    pub nodes: Vec<Node>,
}

/// What a tree counts, all nodes together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// L0's work.
    pub work: Works,
    /// What guests ran, by level, lowest first.
    pub ran: Vec<(u8, u64)>,
}

impl Totals {
    /// Modelled cycles: instructions and L0's work.
    pub fn cycles(&self, costs: &Costs) -> u64 {
        self.work.cycles(costs) + self.ran.iter().map(|(_, ran)| ran * costs.instruction).sum::<u64>()
    }
}

impl Tree {
    /// The kinds of exit from the root to a node, the outermost first.
    pub fn path(&self, node: usize) -> Vec<(u8, Reason)> {
        let (mut path, mut at) = (Vec::new(), node);
        while let Some(here) = self.nodes.get(at).filter(|_| at != 0) {
            path.push((here.level, here.reason));
            at = here.parent;
        }
        path.reverse();
        path
    }

    /// Sums over all nodes.
    pub fn totals(&self) -> Totals {
        let mut all = Node::default();
        for node in &self.nodes {
            all.work.merge(&node.work);
            node.ran.iter().for_each(|&(level, ran)| all.run(level, ran));
        }
        all.ran.sort_unstable();
        Totals { work: all.work, ran: all.ran }
    }

    /// A figure of each node and all below it.
    pub fn sums(&self, of: impl Fn(&Node) -> u64) -> Vec<u64> {
        let mut sums: Vec<u64> = self.nodes.iter().map(of).collect();
        for at in (1..sums.len()).rev() {
            sums[self.nodes[at].parent] += sums[at];
        }
        sums
    }
}

/// Paths that are kept apart. Traces have hundreds; one that is made up may have any number, and then exits count where the
/// one before them does.
const NODES: usize = 1 << 14;

/// A tree that grows.
#[derive(Debug)]
pub(super) struct Builder {
    tree: Tree,
    children: HashMap<(u32, u8, Reason), u32>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { tree: Tree { nodes: vec![Node::default()] }, children: HashMap::new() }
    }
}

impl Builder {
    /// The node of an exit below another, which is added if it is new.
    pub(super) fn child(&mut self, parent: u32, level: u8, reason: Reason) -> u32 {
        if let Some(&known) = self.children.get(&(parent, level, reason)) {
            return known;
        }
        let nodes = &mut self.tree.nodes;
        if nodes.len() >= NODES {
            return parent;
        }
        let new = nodes.len() as u32;
        nodes.push(Node { parent: parent as usize, level, reason, ..Node::default() });
        self.children.insert((parent, level, reason), new);
        new
    }

    pub(super) fn node(&mut self, number: u32) -> &mut Node {
        &mut self.tree.nodes[number as usize]
    }

    pub(super) fn finish(mut self) -> Tree {
        if self.tree.nodes.len() == 1 && self.tree.nodes[0] == Node::default() {
            self.tree.nodes.clear();
        }
        for node in &mut self.tree.nodes {
            node.ran.sort_unstable();
        }
        self.tree
    }
}
