//! The judge where nobody tells under which VPID and which EPT pointer a guest runs, as of a host's KVM that was looked at from
//! outside.
//!
//! Of a flush there is then one thing to say for sure: behind one of everything, with no guest entered on that CPU since, it
//! finds nothing. All others are unknown, and none can be missed.

use super::tlb::is_invept;
use super::words::Rule;
use hv_defs::event::{Actor, Flush, FlushKind, NO_ADDRESS, Stamp, What};
use std::collections::BTreeMap;

/// What is known of such a trace.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Whether it is one.
    is: bool,
    /// For each CPU, whether all that INVEPT drops, and all that INVVPID drops, was dropped since a guest was entered there.
    dropped: BTreeMap<u16, [bool; 2]>,
}

impl Untold {
    /// Whether tags are not told.
    pub(super) fn is(&self) -> bool {
        self.is
    }

    /// The next event: the rule for it, if it is a flush and tags are not told.
    pub(super) fn see(&mut self, at: Stamp, what: &What) -> Option<Rule> {
        match what {
            What::Entry(entry) => {
                self.is |= entry.vmcs02 == NO_ADDRESS;
                if self.is {
                    self.dropped.remove(&at.pcpu);
                }
                None
            }
            What::Flush(flush) if self.is => Some(self.flushed(at.pcpu, flush)),
            _ => None,
        }
    }

    fn flushed(&mut self, pcpu: u16, flush: &Flush) -> Rule {
        if flush.actor != Actor::L0 {
            return Rule::NoEvidence;
        }
        let dropped = self.dropped.entry(pcpu).or_default();
        let found_nothing = dropped[usize::from(!is_invept(flush.kind))];
        match flush.kind {
            FlushKind::InveptAll => dropped[0] = true,
            FlushKind::InvvpidAll => dropped[1] = true,
            _ => {}
        }
        if found_nothing { Rule::NothingCached } else { Rule::NoEvidence }
    }
}
