//! Whose translations a flush drops: which levels ran under what it covers since it was last flushed on that CPU.

use crate::judge::is_invept;
use hv_defs::ept::Eptp;
use hv_defs::event::{Actor, Cause, Entry, Flush, FlushKind};
use std::collections::HashMap;

/// A set of levels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Levels(u8);

impl Levels {
    /// One level: 1 for L1 and so on.
    pub const fn of(level: u8) -> Self {
        Self(1 << (level & 7))
    }

    /// Those of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As `L1`, `L1+L2`, or `none`.
    pub fn name(self) -> String {
        let names: Vec<String> =
            (0..8).filter(|level| self.0 >> level & 1 != 0).map(|level| format!("L{level}")).collect();
        if names.is_empty() { "none".into() } else { names.join("+") }
    }
}

/// What ran under a tag or a root on a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Since it was last flushed.
    now: Levels,
    /// Before, for a flush that finds nothing.
    before: Levels,
}

impl Held {
    fn ran(&mut self, levels: Levels) {
        self.now = self.now.and(levels);
    }

    fn drop(&mut self) {
        if !self.now.is_empty() {
            *self = Self { now: Levels::default(), before: self.now };
        }
    }
}

/// One physical CPU. A mapping has a VPID and an EPT pointer's tag, which is 0 without EPT; guest-physical ones have the
/// latter alone.
#[derive(Debug, Default)]
struct Cpu {
    tags: HashMap<(u16, u64), usize>,
    held: Vec<(u16, u64, Held)>,
    by_vpid: HashMap<u16, Vec<usize>>,
    by_root: HashMap<u64, Vec<usize>>,
    roots: HashMap<u64, Held>,
    /// What has run since all was flushed last, each at least once.
    touched: Vec<usize>,
    touched_roots: Vec<u64>,
    ever: Levels,
}

impl Cpu {
    fn ran(&mut self, vpid: u16, root: u64, levels: Levels) {
        self.ever = self.ever.and(levels);
        let place = *self.tags.entry((vpid, root)).or_insert_with(|| {
            let place = self.held.len();
            self.held.push((vpid, root, Held::default()));
            self.by_vpid.entry(vpid).or_default().push(place);
            self.by_root.entry(root).or_default().push(place);
            place
        });
        let held = &mut self.held[place].2;
        if held.now.is_empty() {
            self.touched.push(place);
        }
        held.ran(levels);
        if root != 0 {
            let held = self.roots.entry(root).or_default();
            if held.now.is_empty() {
                self.touched_roots.push(root);
            }
            held.ran(levels);
        }
    }

    /// The levels whose translations a flush of L0's or of silicon's drops; where there are none left, those who had run
    /// there before.
    fn flushed(&mut self, flush: &Flush) -> Levels {
        let root = Eptp::from_bits(flush.eptp).ep4ta();
        let invept = is_invept(flush.kind);
        let all = matches!(flush.kind, FlushKind::InveptAll | FlushKind::InvvpidAll);
        let places: Vec<usize> = if all {
            let covered = |place: &usize| invept || self.held[*place].0 != 0;
            let (covered, kept) = core::mem::take(&mut self.touched).into_iter().partition(covered);
            self.touched = kept;
            covered
        } else if invept {
            self.by_root.get(&root).cloned().unwrap_or_default()
        } else {
            self.by_vpid.get(&flush.vpid).cloned().unwrap_or_default()
        };
        let roots: Vec<u64> = match flush.kind {
            FlushKind::InveptAll => core::mem::take(&mut self.touched_roots),
            FlushKind::InveptSingle => vec![root],
            _ => Vec::new(),
        };
        let whole = !matches!(flush.kind, FlushKind::InvvpidAddress | FlushKind::InvvpidRetainGlobals);
        let (mut now, mut before) = (Levels::default(), if all { self.ever } else { Levels::default() });
        let mut see = |held: &mut Held| {
            (now, before) = (now.and(held.now), before.and(held.before));
            if whole {
                held.drop();
            }
        };
        places.into_iter().for_each(|place| see(&mut self.held[place].2));
        roots.iter().filter_map(|root| self.roots.get_mut(root).map(&mut see)).for_each(drop);
        if now.is_empty() { before } else { now }
    }
}

/// What each physical CPU may hold, and of whom.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    cpus: HashMap<u16, Cpu>,
    /// The last entry, while it is not known what it dropped by itself.
    entered: Option<(u16, Entry)>,
    /// What ran since the last flush, on which CPU: VPID, EPT pointer and level. That it runs again changes nothing.
    recent: Vec<(u16, u16, u64, u8)>,
}

/// How many are remembered: a guest hypervisor and a few guests that it goes to and fro between.
const RECENT: usize = 8;

impl Holdings {
    /// A guest is entered.
    pub(super) fn entered(&mut self, pcpu: u16, entry: &Entry) {
        self.settle();
        if entry.failed.is_none() {
            self.entered = Some((pcpu, *entry));
        }
    }

    fn settle(&mut self) {
        if let Some((pcpu, entry)) = self.entered.take() {
            let ran = (pcpu, entry.vpid, entry.eptp, entry.level);
            if self.recent.contains(&ran) {
                return;
            }
            if self.recent.len() == RECENT {
                self.recent.remove(0);
            }
            self.recent.push(ran);
            let root = Eptp::from_bits(entry.eptp).ep4ta();
            self.cpus.entry(pcpu).or_default().ran(entry.vpid, root, Levels::of(entry.level));
        }
    }

    /// The levels whose translations a flush is about. A guest's own is about those of the guests that it runs.
    pub(super) fn flushed(&mut self, pcpu: u16, flush: &Flush) -> Levels {
        if flush.actor != Actor::L0 {
            return Levels::of(flush.actor as u8 + 1);
        }
        // What an entry drops by itself is told behind it, and was dropped before the guest ran.
        let ahead = flush.cause == Cause::HardwareEntry && self.entered.is_some_and(|(cpu, _)| cpu == pcpu);
        if !ahead {
            self.settle();
        }
        self.recent.clear();
        let levels = self.cpus.entry(pcpu).or_default().flushed(flush);
        self.settle();
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::event::NO_ADDRESS;
    use hv_defs::exit::InterruptionInfo;

    /// Told as `1@5/a`: level 1 is entered under VPID 5 and root a; or as a flush, and whom it concerns.
    #[track_caller]
    fn check(story: &[&str], expected: &[&str]) {
        let (mut of, mut got) = (Holdings::default(), Vec::new());
        let root = |name: &str| u64::from(name.bytes().next().map_or(0, |letter| letter - b'`')) << 12;
        for step in story {
            let (what, of_what) = step.split_once('@').unwrap();
            let (vpid, name) = of_what.split_once('/').unwrap_or((of_what, "`"));
            let (vpid, eptp) = (vpid.parse().unwrap_or(0), root(name));
            if let Ok(level) = what.parse() {
                let (injected, launch, failed, fields_written) = (InterruptionInfo::default(), false, None, 0);
                let (vmcs12, vmcs02) = (NO_ADDRESS, 0);
                of.entered(0, &Entry { level, launch, vmcs12, vmcs02, vpid, eptp, injected, failed, fields_written });
                continue;
            }
            let (what, cause) =
                what.strip_prefix("entry-").map_or((what, Cause::RootLoad), |what| (what, Cause::HardwareEntry));
            let kind = FlushKind::by_name(what).unwrap();
            let (actor, address, dropped) = (Actor::L0, 0, 0);
            got.push(of.flushed(0, &Flush { kind, cause, actor, vpid, eptp, address, dropped }).name());
        }
        assert_eq!(got, expected, "{story:?}");
    }

    #[test]
    fn a_flush_concerns_who_ran_under_what_it_covers() {
        check(&["invvpid-single@5/`"], &["none"]);
        check(&["1@5/a", "2@5/b", "invvpid-single@5", "invvpid-single@5"], &["L1+L2", "L1+L2"]);
        check(&["1@5/a", "2@6/b", "invvpid-single@5", "2@5/b", "invvpid-single@5"], &["L1", "L2"]);
        check(&["1@5/a", "2@5/b", "invept-single@0/b", "invvpid-single@5"], &["L2", "L1"]);
        check(&["1@5/a", "3@6/b", "invept-all@0", "1@5/a", "invvpid-all@0"], &["L1+L3", "L1"]);
        check(&["1@0/a", "2@6/b", "invvpid-all@0", "transition@0"], &["L2", "L1"]);
        // An address or all but globals leaves the rest.
        check(&["2@5/b", "invvpid-address@5", "invvpid-retain-globals@5"], &["L2", "L2"]);
        // Guest-physical mappings outlive INVVPID.
        check(&["2@5/b", "invvpid-single@5", "1@5/a", "invept-single@0/b"], &["L2", "L2"]);
        // What the entry of L2 drops is L1's.
        check(&["1@0/a", "2@0/b", "entry-transition@0", "1@0/a", "entry-transition@0"], &["L1", "L2"]);
    }
}
