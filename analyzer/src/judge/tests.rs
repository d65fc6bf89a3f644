//! The judge on short traces. Each expects `event:verdict:rule` of every flush, in order.

use super::{Verdict, judge};
use crate::Source;
use crate::story::{EPTP01, Story, VPID01, eptp02, eptp12};
use hv_defs::event::{Actor, Cause, EptOp, FlushKind, What};
use hv_defs::vmcs::{APIC_ACCESS_ADDRESS, PRIMARY_CONTROLS, SECONDARY_CONTROLS};

#[track_caller]
fn check(story: &Story, expected: &str) {
    let judged = judge(Source::Events(&story.events)).unwrap();
    let got: Vec<String> =
        judged.iter().map(|row| format!("{}:{}:{}", row.event, row.verdict.name(), row.rule.name())).collect();
    assert_eq!(got.join(" "), expected);
    assert!(judged.iter().all(|row| row.verdict == row.rule.verdict()));
    assert!(judged.iter().all(|row| (row.verdict == Verdict::TooBroad) == row.narrower.is_some()));
}

const R: u64 = 0x5037;
const OTHER: u64 = 0x6037;
const SINGLE: FlushKind = FlushKind::InvvpidSingle;
const INVEPT: FlushKind = FlushKind::InveptSingle;

#[test]
fn a_tag_that_nothing_ran_under_needs_no_flush() {
    let story = Story::default().l1().flush(SINGLE, Cause::NestedEntry, 2, 0).l2(0, 2);
    check(&story, "1:redundant:nothing-cached");
    let story = Story::default().l1().flush(INVEPT, Cause::RootLoad, 0, eptp02(0)).l2(0, 2);
    check(&story, "1:redundant:nothing-cached");
    // The second of two finds nothing left.
    let story = Story::default().vpid12(0, 7).l2(0, 2).flush(SINGLE, Cause::InvvpidEmulation, 2, 0);
    check(&story.flush(SINGLE, Cause::InvvpidEmulation, 2, 0), "3:required:guest-asked 4:redundant:nothing-cached");
}

/// Where nobody tells tags, all that is sure is that nothing is left of everything.
#[test]
fn without_tags_little_is_known() {
    let all = FlushKind::InveptAll;
    let l1 = |story: Story| story.entry_untold();
    let story = l1(Story::default()).flush(all, Cause::EptZap, 0, 0).flush(INVEPT, Cause::RootLoad, 0, 0);
    let story = l1(story.flush(SINGLE, Cause::GuestPaging, 0, 0)).flush(INVEPT, Cause::RootLoad, 0, 0);
    check(&l1(story), "1:unknown:no-evidence 2:redundant:nothing-cached 3:unknown:no-evidence 5:unknown:no-evidence");
    // Another CPU's flush is of no use here.
    let story = l1(Story::default()).on(1, 1).flush(all, Cause::EptZap, 0, 0).on(0, 0);
    check(&story.flush(all, Cause::EptZap, 0, 0), "1:unknown:no-evidence 2:unknown:no-evidence");
}

/// kvm-2011: one VPID for L1 and L2, flushed at each switch. vmcs12 enables VPID and each has an EPT root of its own, so
/// each tag only ever holds its own guest's mappings. The flush before an entry drops L1's, that before an exit L2's; L2
/// never runs again after the last.
#[test]
fn transitions_between_guests_with_tags_of_their_own_owe_nothing() {
    let story = Story::default().vpid12(0, 7).l1();
    let story = story.flush(SINGLE, Cause::NestedEntry, VPID01, 0).l2(0, VPID01);
    let story = story.flush(SINGLE, Cause::NestedExit, VPID01, 0).l1();
    let story = story.flush(SINGLE, Cause::NestedEntry, VPID01, 0).l2(0, VPID01);
    let story = story.flush(SINGLE, Cause::NestedExit, VPID01, 0).l1();
    check(&story, "3:redundant:same-owner 5:redundant:same-owner 7:redundant:same-owner 9:redundant:not-used-again");
}

/// As above, but L1 gives its guest no VPID, and is owed what silicon does then: a flush at each entry and exit. What the
/// last exit dropped is never used.
#[test]
fn a_guest_without_vpid_is_owed_a_flush_at_each_transition() {
    let story = Story::default().vpid12(0, 0).l1();
    let story = story.flush(SINGLE, Cause::NestedEntry, VPID01, 0).l2(0, VPID01);
    let story = story.flush(SINGLE, Cause::NestedExit, VPID01, 0).l1();
    let story = story.flush(SINGLE, Cause::NestedEntry, VPID01, 0).l2(0, VPID01);
    let story = story.flush(SINGLE, Cause::NestedExit, VPID01, 0).l1();
    check(&story, "3:required:untagged 5:required:untagged 7:required:untagged 9:redundant:not-used-again");
}

/// kvm-2015: one vpid02 for all of L1's VPIDs. Under EPT roots of their own the two guests cannot meet; under one root
/// they can.
#[test]
fn a_shared_vpid02_is_flushed_for_a_new_vpid12_only_where_they_meet() {
    let story = Story::default().vpid12(0, 7).vpid12(1, 8);
    let apart = story.clone().l2(0, 2).flush(SINGLE, Cause::Vpid12Change, 2, 0).l2(1, 2);
    check(
        &apart.flush(SINGLE, Cause::Vpid12Change, 2, 0).l2(0, 2),
        "5:redundant:same-owner 7:redundant:not-used-again",
    );
    let one_root = story.l2_under(0, 2, 0).flush(SINGLE, Cause::Vpid12Change, 2, 0).l2_under(1, 2, 0);
    check(&one_root, "5:required:other-owner");
}

#[test]
fn what_the_events_do_not_tell_is_unknown() {
    // No access to vmcs12 and no event of the VPID map: whether it has a VPID is not known.
    let story = Story::default().l2(0, 2).flush(SINGLE, Cause::NestedExit, 2, 0).l2(0, 2);
    check(&story, "1:unknown:no-evidence");
    let story = Story::default().l2(0, 2).flush(SINGLE, Cause::Guest, 0, 0).l2(0, 2);
    check(&story, "1:unknown:no-evidence");
    // An INVEPT of a root that has no events, for no cause that says why.
    let story = Story::default().l1().flush(INVEPT, Cause::EptSync, 0, EPTP01).l1();
    check(&story, "1:unknown:no-evidence");
}

#[test]
fn invept_is_judged_by_what_changed_under_the_root() {
    let ran = || Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2);
    let flush = |story: Story| story.flush(INVEPT, Cause::EptSync, 0, eptp02(0)).l2(0, 2);
    check(&flush(ran()), "2:redundant:nothing-changed");
    check(&flush(ran().ept(EptOp::Sync, 0, 0x7000, R, OTHER)), "3:required:mapping-changed");
    check(&flush(ran().ept(EptOp::Zap, 0, 0x7000, R, 0)), "3:required:mapping-changed");
    check(&flush(ran().ept(EptOp::Sync, 0, 0x7000, R & !2, R)), "3:redundant:harmless-change");
    check(&flush(ran().ept(EptOp::Map, 0, 0x8000, 0, R)), "3:redundant:nothing-changed");
    // Mapped after the last run and changed before the next: nothing can have cached it.
    let unused = ran().ept(EptOp::Map, 0, 0x8000, 0, R).ept(EptOp::Sync, 0, 0x8000, R, OTHER);
    check(&flush(unused), "4:redundant:nothing-changed");
    // Another root's change does not count.
    check(&flush(ran().l2(1, 3).ept(EptOp::Zap, 1, 0x7000, R, 0)), "4:redundant:nothing-changed");
    check(&ran().flush(INVEPT, Cause::RootLoad, 0, eptp02(0)).l2(0, 2), "2:redundant:root-switch");
    // EPT01's changes are not traced; the cause tells.
    let own = |cause| Story::default().l1().flush(INVEPT, cause, 0, EPTP01).l1();
    check(&own(Cause::WriteProtect), "1:required:permission-lost");
    check(&own(Cause::RootLoad), "1:redundant:root-switch");
}

/// Two roots were run under and one changed: all-context INVEPT drops the other's mappings in vain.
#[test]
fn invept_of_all_where_one_root_changed_is_too_broad() {
    let story = Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2).l2(1, 3);
    let all = |story: Story| story.flush(FlushKind::InveptAll, Cause::EptSync, 0, 0).l2(0, 2);
    check(&all(story.clone().ept(EptOp::Zap, 0, 0x7000, R, 0)), "4:too-broad:one-root");
    let both = story.clone().ept(EptOp::Zap, 0, 0x7000, R, 0).ept(EptOp::Zap, 1, 0x7000, R, 0);
    check(&all(both), "5:required:mapping-changed");
    let alone = Story::default().l2(0, 2).ept(EptOp::Zap, 0, 0x7000, R, 0);
    check(&all(alone), "2:required:mapping-changed");
}

/// L1 changes a present entry and enters L2 without INVEPT: the flush is missing at that entry, once, and it is L1's.
#[test]
fn a_forgotten_invept_is_missing() {
    let story = Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2).l1();
    let changed = story.clone().ept(EptOp::Sync, 0, 0x7000, R, OTHER);
    check(&changed.clone().l2(0, 2).l2(0, 2), "4:missing:not-flushed");
    let row = judge(Source::Events(&changed.clone().l2(0, 2).events)).unwrap()[0];
    assert_eq!((row.flush.actor, row.flush.kind, row.flush.cause), (Actor::L1, INVEPT, Cause::EptSync));
    assert_eq!((row.flush.eptp, row.flush.address), (eptp12(0), 0x7000));
    // Another root's L2 is not concerned, nor is L1, nor another CPU.
    check(&changed.clone().l1().l2(1, 3), "");
    check(&changed.clone().on(0, 1).l2(0, 2), "");
    // A late flush is needed all the same.
    let late = changed.clone().l2(0, 2).flush(INVEPT, Cause::Guest, 0, eptp12(0));
    let late = late.flush(INVEPT, Cause::InveptEmulation, 0, eptp02(0)).l2(0, 2);
    check(&late, "4:missing:not-flushed 5:required:mapping-changed 6:required:mapping-changed");
    // Whoever flushes, nothing stale is left.
    check(&changed.flush(INVEPT, Cause::RootLoad, 0, eptp02(0)).l2(0, 2), "4:required:mapping-changed");
    // A permission more needs none, and what was not present neither.
    check(&story.clone().ept(EptOp::Sync, 0, 0x7000, R & !2, R).l2(0, 2), "");
    check(&story.ept(EptOp::Map, 0, 0x8000, 0, R).l2(0, 2), "");
}

/// L1 asks for INVEPT, L0 syncs, and then executes it or forgets it.
#[test]
fn an_invept_that_l0_does_not_carry_out_is_l0s() {
    let asked = Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2).l1();
    let asked = asked.flush(INVEPT, Cause::Guest, 0, eptp12(0)).ept(EptOp::Sync, 0, 0x7000, R, OTHER);
    let done = asked.clone().flush(INVEPT, Cause::InveptEmulation, 0, eptp02(0)).l1().l2(0, 2);
    check(&done, "3:required:mapping-changed 5:required:mapping-changed");
    let forgotten = asked.l1().l2(0, 2);
    check(&forgotten, "3:required:mapping-changed 6:missing:not-flushed");
    assert_eq!(judge(Source::Events(&forgotten.events)).unwrap()[1].flush.actor, Actor::L0);
}

/// L1's INVEPT where nothing changed, or where its guest has not run since the last.
#[test]
fn l1s_own_invept_is_judged_when_l0_has_handled_it() {
    let ran = Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2).l1();
    let story = ran.flush(INVEPT, Cause::Guest, 0, eptp12(0)).flush(INVEPT, Cause::InveptEmulation, 0, eptp02(0)).l1();
    let story = story.flush(FlushKind::InveptAll, Cause::Guest, 0, 0).l1();
    check(&story, "3:redundant:nothing-changed 4:redundant:nothing-changed 6:redundant:nothing-cached");
}

#[test]
fn a_wider_invvpid_than_the_guest_asked_for_is_too_broad() {
    let ran = || Story::default().vpid12(0, 7).l2(0, 2).l1();
    let asked = |kind, done| ran().flush(kind, Cause::Guest, 7, 0).flush(done, Cause::InvvpidEmulation, 2, 0).l1();
    check(&asked(SINGLE, SINGLE), "4:unknown:no-evidence 5:required:guest-asked");
    check(&asked(FlushKind::InvvpidAddress, SINGLE), "4:unknown:no-evidence 5:too-broad:wider-than-asked");
    check(&asked(FlushKind::InvvpidAll, SINGLE), "4:unknown:no-evidence 5:required:guest-asked");
    // Of a VPID that its guest has not run under.
    let other = ran().flush(SINGLE, Cause::Guest, 9, 0).l1();
    check(&other, "4:redundant:nothing-cached");
}

/// Without VPIDs silicon flushes by itself at each entry and exit. What an entry drops is told behind the entry, and is
/// what was there before it. L1 goes on after an exit to L0: nothing was owed.
#[test]
fn transitions_of_silicon_without_vpids() {
    let hardware = |cause| {
        What::Flush(hv_defs::event::Flush {
            kind: FlushKind::Transition,
            cause,
            actor: Actor::L0,
            vpid: 0,
            eptp: 0,
            address: 0,
            dropped: 3,
        })
    };
    let mut story = Story::default();
    for _ in 0..2 {
        story = story.l1();
        if let Some(What::Entry(entry)) = story.events.last_mut().map(|event| &mut event.what) {
            entry.vpid = 0;
        }
        story = story.event(hardware(Cause::HardwareEntry)).event(hardware(Cause::HardwareExit));
    }
    check(
        &story,
        "1:redundant:nothing-cached 2:redundant:same-owner 4:redundant:nothing-cached 5:redundant:not-used-again",
    );
}

/// A vCPU comes back to a CPU: what its guest flushed elsewhere is still cached here.
#[test]
fn a_vcpu_that_comes_back_is_flushed() {
    let story = Story::default().vpid12(0, 7).l2(0, 2).on(0, 1).l2(0, 2).on(0, 0);
    check(&story.flush(SINGLE, Cause::Migration, 2, 0).l2(0, 2), "4:required:migrated");
    let fresh = Story::default().vpid12(0, 7).l2(0, 2).on(0, 1).flush(SINGLE, Cause::Migration, 2, 0).l2(0, 2);
    check(&fresh, "3:redundant:nothing-cached");
}

#[test]
fn no_events_no_verdicts() {
    check(&Story::default(), "");
}

/// A root of L1's that an L2 with an APIC-access page runs under too: loading it may need INVEPT. Where nothing is known of
/// the page, nothing is said.
#[test]
fn a_root_that_is_shared_by_other_apic_pages_may_need_a_flush() {
    let load = |story: Story| story.flush(INVEPT, Cause::RootLoad, 0, EPTP01);
    let l2 = |story: Story| {
        let mut story = story.l2(0, 2);
        if let Some(What::Entry(entry)) = story.events.last_mut().map(|event| &mut event.what) {
            entry.eptp = EPTP01;
        }
        story
    };
    let controls = |secondary: u64| {
        let story = Story::default().write12(0, PRIMARY_CONTROLS.field(), 1 << 31);
        let story = story.write12(0, SECONDARY_CONTROLS.field(), secondary);
        story.write12(0, APIC_ACCESS_ADDRESS.field(), 0xfee0_0000).l1()
    };
    check(&l2(load(controls(1 | 1 << 5))), "4:required:other-apic-page");
    check(&load(l2(load(controls(1 | 1 << 5)))).l1(), "4:required:other-apic-page 6:required:other-apic-page");
    check(&l2(load(controls(1 << 5))), "4:redundant:root-switch");
    check(&l2(load(Story::default().l1())), "1:unknown:no-evidence");
    // Not run under again.
    check(&load(controls(1 | 1 << 5)), "4:redundant:root-switch");
}

/// A tag or a root of L0's in which another guest left something, or L2 before L1 ran, with no flush between.
#[test]
fn what_l0_does_not_flush_is_missing() {
    let two = || Story::default().vpid12(0, 7).vpid12(1, 8).l2_under(0, 2, 0);
    check(&two().l2_under(1, 2, 0).l2_under(1, 2, 0), "5:missing:tag-not-flushed");
    check(&two().on(1, 0).l2_under(0, 2, 0), "5:missing:tag-not-flushed");
    check(&two().flush(SINGLE, Cause::Vpid12Change, 2, 0).l2_under(1, 2, 0), "5:required:other-owner");
    check(&two().on(0, 1).l2_under(1, 2, 0), "");
    // Another root's mappings are of another tag.
    check(&two().l2_under(1, 2, 1), "");
    let off = || Story::default().vpid12(0, 0).l2(0, VPID01);
    check(&off().l1().l2(0, VPID01), "4:missing:untagged-not-flushed");
    check(&off().l2(0, VPID01), "");
    check(&off().l1().flush(SINGLE, Cause::NestedEntry, VPID01, 0).l2(0, VPID01), "4:required:untagged");
    let story = Story::default().write12(0, PRIMARY_CONTROLS.field(), 1 << 31);
    let story = story.write12(0, SECONDARY_CONTROLS.field(), 1 | 1 << 5);
    let mut story = story.write12(0, APIC_ACCESS_ADDRESS.field(), 0xfee0_0000).l1().l2(0, 2);
    if let Some(What::Entry(entry)) = story.events.last_mut().map(|event| &mut event.what) {
        entry.eptp = EPTP01;
    }
    check(&story, "4:missing:apic-page-not-flushed");
}

/// L1's INVEPT is for its CPU, wherever L0 runs that: what stays on another is L0's.
#[test]
fn what_a_vcpu_left_behind_is_l0s_to_flush() {
    let story = Story::default().ept(EptOp::Map, 0, 0x7000, 0, R).l2(0, 2).on(0, 1).l1();
    let asked = story.flush(INVEPT, Cause::Guest, 0, eptp12(0)).ept(EptOp::Sync, 0, 0x7000, R, OTHER).l1().on(0, 0);
    let back = asked.l2(0, 2);
    let judged = judge(Source::Events(&back.events)).unwrap();
    let missing: Vec<_> = judged.iter().filter(|row| row.verdict == Verdict::Missing).collect();
    assert_eq!(missing.iter().map(|row| (row.event, row.flush.actor)).collect::<Vec<_>>(), [(6, Actor::L0)]);
}
