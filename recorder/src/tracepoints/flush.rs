//! Flushes: those that a guest asks its hypervisor for, and the kernel's own functions that flush.
//!
//! A function is all that is known of L0's flush: which VPID and which EPT pointer it names, nobody tells. Functions that
//! only ask for one, to be carried out before the vCPU's next entry, give that one its cause.

use super::{Field, Hit};
use hv_defs::event::{Actor, Cause, Flush, FlushKind};

/// What a hit says of flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// The guest asks for one; its actor is not known here.
    Guest(Flush),
    /// L0 makes one; and which requests for one it carries out.
    L0(Flush, &'static [Pending]),
    /// One is to follow.
    Later(Pending),
    /// Nothing.
    Nothing,
}

/// Why a vCPU is to flush before it runs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pending {
    /// It goes from L1 to L2, or back.
    Transition,
    /// Another thread changed page tables that it runs on.
    Remote,
}

impl Pending {
    /// The cause of the flush that it leads to, of a vCPU that runs L2 or does not.
    pub(crate) fn cause(self, nested: bool) -> Cause {
        match (self, nested) {
            (Self::Transition, true) => Cause::NestedEntry,
            (Self::Transition, false) => Cause::NestedExit,
            (Self::Remote, _) => Cause::EptZap,
        }
    }
}

/// What changes of page tables ask for, what transitions do, and both.
const REMOTE: &[Pending] = &[Pending::Remote];
const TRANSITION: &[Pending] = &[Pending::Transition];
const ANY: &[Pending] = &[Pending::Transition, Pending::Remote];

/// The kernel's functions that flush: what they drop on a host with EPT or AMD's nested paging, why where no other cause is
/// known, and which requests they carry out.
const FUNCTIONS: &[(&str, FlushKind, Cause, &[Pending])] = &[
    ("vmx_flush_tlb_all", FlushKind::InveptAll, Cause::EptZap, REMOTE),
    ("vmx_flush_tlb_current", FlushKind::InveptSingle, Cause::RootLoad, TRANSITION),
    ("vmx_flush_tlb_guest", FlushKind::InvvpidSingle, Cause::GuestPaging, TRANSITION),
    ("vmx_flush_tlb_gva", FlushKind::InvvpidAddress, Cause::GuestPaging, &[]),
    // Linux 5.7 and before had one for all.
    ("vmx_flush_tlb", FlushKind::InveptSingle, Cause::RootLoad, ANY),
    ("svm_flush_tlb_all", FlushKind::InvvpidSingle, Cause::EptZap, REMOTE),
    ("svm_flush_tlb_current", FlushKind::InvvpidSingle, Cause::RootLoad, TRANSITION),
    ("svm_flush_tlb_guest", FlushKind::InvvpidSingle, Cause::GuestPaging, TRANSITION),
    ("svm_flush_tlb_asid", FlushKind::InvvpidSingle, Cause::GuestPaging, TRANSITION),
    ("svm_flush_tlb_gva", FlushKind::InvvpidAddress, Cause::GuestPaging, &[]),
    ("svm_flush_tlb", FlushKind::InvvpidSingle, Cause::RootLoad, ANY),
];

/// Those that ask for a flush.
const ASKING: &[(&str, Pending)] = &[
    ("nested_vmx_transition_tlb_flush", Pending::Transition),
    ("nested_svm_transition_tlb_flush", Pending::Transition),
    ("kvm_flush_remote_tlbs", Pending::Remote),
    ("kvm_flush_remote_tlbs_range", Pending::Remote),
    ("kvm_flush_remote_tlbs_memslot", Pending::Remote),
    ("kvm_arch_flush_remote_tlbs_range", Pending::Remote),
];

/// The names of all of them.
pub(crate) fn functions() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name).chain(ASKING.iter().map(|(name, _)| *name))
}

/// What a hit of that name says of flushes.
pub(crate) fn asked(name: &str, hit: &impl Hit) -> Asked {
    let flush = |kind, cause| Flush { kind, cause, actor: Actor::L0, vpid: 0, eptp: 0, address: 0, dropped: 0 };
    let guest = |kind| Asked::Guest(Flush { actor: Actor::L1, ..flush(kind, Cause::Guest) });
    match name {
        // See: Hyper-V's TLFS, "HvCallFlushVirtualAddressSpace": bit 2 keeps globals.
        "kvm_hv_flush_tlb" | "kvm_hv_flush_tlb_ex" => match hit.get(Field::Flags) {
            Some(flags) if flags & 4 != 0 => guest(FlushKind::InvvpidRetainGlobals),
            _ => guest(FlushKind::InvvpidSingle),
        },
        // A vCPU that was away catches up with the flush that another asked for.
        "kvm_pv_tlb_flush" => match hit.get(Field::NeedFlush) {
            Some(0) => Asked::Nothing,
            _ => guest(FlushKind::InvvpidSingle),
        },
        "kvm_invlpga" => {
            let vpid = hit.get(Field::Asid).and_then(|asid| u16::try_from(asid).ok()).unwrap_or(0);
            let address = hit.get(Field::Address).unwrap_or(0);
            Asked::Guest(Flush { vpid, address, ..flush(FlushKind::InvvpidAddress, Cause::Guest) })
        }
        _ => {
            // A function that the compiler specialised has a suffix, as `.isra.0`.
            let name = name.split('.').next().unwrap_or(name);
            let own = FUNCTIONS.iter().find(|(known, ..)| *known == name);
            let asking = ASKING.iter().find(|(known, _)| *known == name);
            match (own, asking) {
                (Some((_, kind, cause, answers)), _) => Asked::L0(flush(*kind, *cause), answers),
                (None, Some((_, pending))) => Asked::Later(*pending),
                (None, None) => Asked::Nothing,
            }
        }
    }
}
