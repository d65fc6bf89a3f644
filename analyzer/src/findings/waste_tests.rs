//! What was wasted, of short traces on paper and of drawn ones with ten thousand of everything.

use super::{Findings, Tag, findings};
use crate::judge::{JudgedBy, Rule, Verdict};
use crate::report;
use crate::story::{Story, VPID01, eptp02, eptp12, vmcs12};
use crate::{Source, findings_with, judge};
use hv_defs::event::*;
use hv_defs::exit::Reason;
use hv_defs::vmcs::{self, Shadowed, VmcsField};

fn of(story: &Story) -> Findings {
    findings("story", Source::Events(&story.events)).unwrap()
}

fn access(actor: Actor, which: Which, address: u64, op: VmcsOp, field: VmcsField, (old, value): (u64, u64)) -> What {
    What::Vmcs(VmcsAccess { actor, which, address, op, field, old, value })
}

/// L1 runs; at its VMRESUME L0 flushes L1's VPID (300 cycles, nothing dropped): nobody but L1 uses it, so that is redundant.
/// L1's own INVEPT of a root that nothing changed in is redundant too, and an exit (1300 cycles); L0's INVEPT for it drops
/// 3 entries of L2's: 400 cycles and 3 refills of 100.
#[test]
fn sites_name_the_exit_and_are_ranked_by_waste() {
    let own = |dropped, kind, cause, vpid, eptp| {
        let (actor, address) = (Actor::L0, 0);
        What::Flush(Flush { kind, cause, actor, vpid, eptp, address, dropped })
    };
    let story = Story::default().l1().exit(1, Reason::VMRESUME, Actor::L0);
    let story = story.event(own(0, FlushKind::InvvpidSingle, Cause::NestedEntry, VPID01, 0));
    let story = story.ept(EptOp::Map, 0, 0x7000, 0, 0x5037).l2(0, 2).exit(2, Reason::VMCALL, Actor::L1).l1();
    let story = story.exit(1, Reason::INVEPT, Actor::L0).flush(FlushKind::InveptSingle, Cause::Guest, 0, eptp12(0));
    let story = story.event(own(3, FlushKind::InveptSingle, Cause::InveptEmulation, 0, eptp02(0)));
    let found = of(&story.l1().exit(1, Reason::VMRESUME, Actor::L0).l2(0, 2));
    let rows = found.flushes.sites.rows.iter().map(|row| {
        assert_eq!((row.tally.made(), row.tally.count(Verdict::Redundant), row.tally.judged_by()), (1, 1, "rule"));
        let site = row.site;
        (site.actor, site.cause, site.exit, site.rip, row.levels.name(), row.tally.dropped, row.tally.wasted, row.first)
    });
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (Actor::L1, Cause::Guest, Some((1, Reason::INVEPT)), Some(0x1000), "L2".into(), 0, 1300, 8),
            (Actor::L0, Cause::InveptEmulation, Some((1, Reason::INVEPT)), None, "L2".into(), 3, 700, 9),
            (Actor::L0, Cause::NestedEntry, Some((1, Reason::VMRESUME)), None, "L1".into(), 0, 300, 2),
        ]
    );
    let tags = found.flushes.tags.rows.iter().map(|row| (row.actor, row.tag, row.levels.name(), row.tally.wasted));
    assert_eq!(
        tags.collect::<Vec<_>>(),
        [
            (Actor::L1, Tag::Eptp(eptp12(0)), "L2".into(), 1300),
            (Actor::L0, Tag::Eptp(eptp02(0)), "L2".into(), 700),
            (Actor::L0, Tag::Vpid(VPID01), "L1".into(), 300),
        ]
    );
    assert_eq!(found.flushes.levels.iter().map(|row| row.tally.made()).sum::<u64>(), found.flushes.made());
}

/// With verdicts of a second execution the report says so, and does not say that the events alone gave them; a flush that it
/// finds missing comes first, with the exit before the entry that lacks it.
#[test]
fn the_ground_of_each_verdict_is_said() {
    let story = Story::default().l1().exit(1, Reason::VMRESUME, Actor::L0);
    let story = story.flush(FlushKind::InvvpidSingle, Cause::NestedEntry, VPID01, 0).l2(0, 2);
    let story = story.exit(2, Reason::VMCALL, Actor::L1).l1();
    let source = Source::Events(&story.events);
    let text = |found: &Findings| report::text(core::slice::from_ref(found), false);
    let by_rule = findings("story", source).unwrap();
    assert!(text(&by_rule).contains("Judged by rule, from the events alone."));
    let judged = judge::judge(source).unwrap();
    let [one] = judged[..] else { panic!("{judged:?}") };
    let given = |event: u64, at, flush, rule| judge::Judged::by_replay(event, at, flush, rule, None);
    let all = [given(one.event, one.at, one.flush, Rule::NoAccessDiffers)];
    let by_replay = findings_with("story", source, Some(&all)).unwrap();
    assert!(text(&by_replay).contains("Judged by replay"), "{}", text(&by_replay));
    assert!(!text(&by_replay).contains("Judged by rule"));
    assert_eq!(by_replay.flushes.sites.rows[0].tally.judged_by(), JudgedBy::Replay.name());
    // A flush is missing before the last entry, of L1, which came from L2's VMCALL.
    let last = story.events.len() as u64 - 1;
    let at = story.events[last as usize].at;
    let missing = given(last, at, one.flush, Rule::StaleAccess);
    let found = findings_with("story", source, Some(&[all[0], missing])).unwrap();
    let first = &found.flushes.sites.rows[0];
    assert_eq!((first.tally.count(Verdict::Missing), first.tally.made(), first.first), (1, 0, last));
    assert_eq!((first.site.exit, first.levels.name()), (Some((2, Reason::VMCALL)), "L1".into()));
}

/// L1 reads `guest_rip` and `host_rsp` and writes `guest_rip` and `tpr_threshold` in each of ten turns, all by exits. An
/// exit costs 1300 cycles, an access alone 40, so 1260 are saved for each. Copying a field costs 10 VMWRITEs for what L1
/// reads and 10 VMREADs more for what it writes: 400 or 800 cycles. KVM's list has `guest_rip` and `tpr_threshold`, which
/// L1 wrote once; that saves 1260 and costs 800. `host_rsp` is read ten times: 12,600 for 400. `pin_based_controls` was
/// never reached. One read of `exit_qualification` saves 1260 for 400.
#[test]
fn the_best_set_of_shadowed_fields() {
    let exit = |story: Story, reason, field: VmcsField, op| {
        let story = story.exit(1, reason, Actor::L0);
        story.event(access(Actor::L1, Which::Vmcs12, vmcs12(0), op, field, (0, 0))).l1()
    };
    let mut story = Story::default().l1();
    story = exit(story, Reason::VMWRITE, vmcs::TPR_THRESHOLD.field(), VmcsOp::Write);
    story = exit(story, Reason::VMREAD, vmcs::EXIT_QUALIFICATION.field(), VmcsOp::Read);
    for _ in 0..10 {
        story = exit(story, Reason::VMREAD, vmcs::GUEST_RIP.field(), VmcsOp::Read);
        story = exit(story, Reason::VMREAD, vmcs::HOST_RSP.field(), VmcsOp::Read);
        story = exit(story, Reason::VMWRITE, vmcs::GUEST_RIP.field(), VmcsOp::Write);
        story = story.exit(1, Reason::VMRESUME, Actor::L0).l2(0, 2).exit(2, Reason::CPUID, Actor::L1).l1();
    }
    let found = of(&story);
    let [l1] = &found.shadowing[..] else { panic!("{:?}", found.shadowing) };
    assert_eq!((l1.actor, l1.entries, l1.exits, l1.access_cycles, l1.copies), (Actor::L1, 10, 10, 1260, 0));
    let rows = l1.rows.iter().map(|row| (row.field, row.best, row.exits, row.copy_cycles, row.gain(), row.over_kvm));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (vmcs::GUEST_RIP.field(), Shadowed::Rw, 20, 800, 20 * 1260 - 800, 0),
            (vmcs::HOST_RSP.field(), Shadowed::Ro, 10, 400, 10 * 1260 - 400, 12_200),
            (vmcs::EXIT_QUALIFICATION.field(), Shadowed::Ro, 1, 400, 860, 0),
            (vmcs::TPR_THRESHOLD.field(), Shadowed::Rw, 1, 800, 460, 0),
        ]
    );
    assert_eq!((l1.best.fields, l1.best.exits), (4, 32));
    // KVM copies its list at each turn, whatever L1 reaches of it.
    let kvm = |how| vmcs::TABLE.iter().filter(|row| row.shadowed == how).count() as u64;
    let (ro, rw) = (kvm(Shadowed::Ro), kvm(Shadowed::Rw));
    assert_eq!((l1.kvm.fields, l1.kvm.exits, l1.unused), (ro + rw, 22, ro + rw - 3));
    assert_eq!(l1.kvm.copy_cycles, ro * 400 + rw * 800);
    assert_eq!(l1.kvm.gain(), 22 * 1260 - (ro * 400 + rw * 800) as i64);
}

/// Accesses of L2 to its VMCS that L0 serves are exits to be saved. Those that silicon serves the trace does not have: what
/// L0 copies for them says that there are some.
#[test]
fn shadowing_that_is_on() {
    let shadow = |actor, which, op| access(actor, which, 0x9000, op, vmcs::GUEST_RIP.field(), (5, 5));
    let served = Story::default().l2(0, 2).exit(2, Reason::VMREAD, Actor::L0);
    let served = of(&served.event(shadow(Actor::L2, Which::Shadow12, VmcsOp::Read)).l2(0, 2));
    let [l2] = &served.shadowing[..] else { panic!() };
    assert_eq!((l2.actor, l2.rows[0].reads, l2.rows[0].exits, l2.copies), (Actor::L2, 1, 1, 0));
    let copied = Story::default().event(shadow(Actor::L0, Which::Shadow02, VmcsOp::Write));
    let copied = of(&copied.event(shadow(Actor::L0, Which::Shadow02, VmcsOp::Read)).l2(0, 2));
    let [l2] = &copied.shadowing[..] else { panic!() };
    assert_eq!((l2.actor, l2.rows.len(), l2.copies), (Actor::L2, 0, 2));
    assert!(report::text(&[copied], false).contains("Silicon served accesses of L2"));
}

#[test]
fn controls_that_are_rewritten_have_a_list() {
    let write = |field: VmcsField, values| access(Actor::L0, Which::Vmcs02, 0x5002, VmcsOp::Write, field, values);
    let story = Story::default().event(write(vmcs::PIN_BASED_CONTROLS.field(), (1, 1)));
    let story = story.event(write(vmcs::PIN_BASED_CONTROLS.field(), (1, 3)));
    let story =
        story.event(write(vmcs::ENTRY_CONTROLS.field(), (7, 7))).event(write(vmcs::ENTRY_CONTROLS.field(), (7, 7)));
    let found = of(&story.event(write(vmcs::GUEST_RIP.field(), (1, 1))).l2(0, 2));
    let controls = found.vmcs.controls();
    let rows: Vec<_> = controls.iter().map(|row| (row.field, row.writes, row.same_writes)).collect();
    assert_eq!(rows, [(vmcs::ENTRY_CONTROLS.field(), 2, 2), (vmcs::PIN_BASED_CONTROLS.field(), 2, 1)]);
}

/// vpid02 2 goes from vpid12 5 to 6 of the same vCPU after 20 instructions, is given up after 10, and goes to vCPU 1.
#[test]
fn vpids_change_hands() {
    let vpid = |story: Story, vcpu, op, vpid12| story.on(vcpu, 0).event(What::Vpid(Vpid { op, vpid12, vpid02: 2 }));
    let story = vpid(vpid(Story::default(), 0, VpidOp::Map, 5), 0, VpidOp::Hit, 5);
    let story = vpid(vpid(story, 0, VpidOp::Recycle, 6), 0, VpidOp::Free, 6);
    let uses = of(&vpid(story, 1, VpidOp::Map, 6)).vpid_uses;
    let all = uses.all;
    assert_eq!((all.given, all.changed_hands, all.recycled, all.hits, uses.kept), (3, 2, 1, 1, 1));
    assert_eq!((uses.lifetimes.count(), uses.lifetimes.sum(), uses.lifetimes.max()), (2, 30, 20));
}

/// L2 runs on CPU 0, on CPU 1, and on CPU 0 again, 20 instructions later: what it left there is there still. The third time
/// its VPID was flushed on CPU 1 and its root was not.
#[test]
fn guests_come_back_to_cpus() {
    let story = Story::default().l2(0, 2).on(0, 1).l2(0, 2).on(0, 0).l2(0, 2);
    let found = of(&story).returns;
    assert_eq!((found.tags, found.moves, found.returns, found.unflushed), (2, 4, 2, 2));
    assert_eq!((found.away.count(), found.away.max()), (2, 20));
    let story = story.on(0, 1).flush(FlushKind::InvvpidSingle, Cause::Migration, 2, 0).l2(0, 2);
    let found = of(&story).returns;
    assert_eq!((found.returns, found.unflushed), (4, 3));
    let rows: Vec<_> = found.rows.iter().map(|row| (row.tag, row.returns, row.unflushed)).collect();
    assert_eq!(rows, [(Tag::Eptp(eptp02(0) & !0xfff), 2, 2), (Tag::Vpid(2), 2, 1)]);
}

/// Forty zaps while L0 handles L1's INVEPT and one sync at its VMRESUME are a storm; after L2 ran, another zap is none. L2
/// then faults at the first of those pages, and at one that nothing had removed.
#[test]
fn storms_and_pages_that_fault_again() {
    let mut story = Story::default().l1().exit(1, Reason::INVEPT, Actor::L0);
    for page in 0..40 {
        story = story.ept(EptOp::Zap, 0, page << 12, 0x5037, 0);
    }
    story = story.l1().exit(1, Reason::VMRESUME, Actor::L0).ept(EptOp::Sync, 1, 0x7000, 0x5037, 0x5035);
    story = story.l2(0, 2).exit(2, Reason::VMCALL, Actor::L0).ept(EptOp::Zap, 1, 0x7000, 0x5035, 0).l2(0, 2);
    let violation = |gpa| {
        let mut exit = Story::default().exit(2, Reason::EPT_VIOLATION, Actor::L0).events.remove(0);
        if let What::Exit(exit) = &mut exit.what {
            exit.gpa = gpa;
        }
        exit.what
    };
    let found = of(&story.event(violation(0x123)).event(violation(0x321)).event(violation(0x8000_0000)));
    let storms = &found.storms;
    assert_eq!((storms.sizes.count(), storms.sizes.max(), storms.storms, storms.changes), (2, 41, 1, 41));
    let largest = storms.largest[0];
    assert_eq!((largest.event, largest.zaps, largest.syncs, largest.l1_exits), (2, 40, 1, 1));
    assert_eq!((largest.root, largest.of_root), ((eptp12(0), eptp02(0)), 40));
    assert_eq!((largest.exit, largest.of_exit), (Some((1, Reason::INVEPT)), 40));
    let [level] = found.ept_levels[..] else { panic!() };
    assert_eq!((level.level, level.count, level.again, level.pages), (2, 3, 1, 2));
    assert!(found.advice.iter().any(|advice| advice.topic == "ept-storm"));
}

/// A trace of ten thousand vCPUs, each with a VMCS, a VPID, a root and a page of its own, and flushes of each.
fn crowd() -> Story {
    let mut story = Story::default();
    for number in 0..10_000_u64 {
        let (vcpu, vpid02) = (number as u16, number as u16 + 2);
        story = story.on(vcpu, (number % 64) as u16).l1().exit(1, Reason::VMRESUME, Actor::L0);
        story = story.pool(PoolOp::Miss, number, 0, 100, 0).pool(PoolOp::Recycle, number + 1, 0, 100, 0);
        story = story.event(What::Vpid(Vpid { op: VpidOp::Map, vpid12: vpid02, vpid02 }));
        story = story.ept(EptOp::Map, number, number << 12, 0, 0x5037).l2(number, vpid02);
        story = story.exit(2, Reason::EPT_VIOLATION, Actor::L0).ept(EptOp::Zap, number, number << 12, 0x5037, 0);
        story = story.flush(FlushKind::InveptSingle, Cause::EptZap, 0, eptp02(number)).l2(number, vpid02);
        story = story.flush(FlushKind::InvvpidSingle, Cause::VpidFree, vpid02, 0).on(vcpu, 63).l2(number, vpid02);
        story = story.write12(number, vmcs::GUEST_RIP.field(), number);
    }
    story
}

#[test]
fn reports_of_ten_thousand_of_everything_are_short() {
    let story = crowd();
    let found = of(&story);
    assert_eq!((found.pools.len(), found.ept.len()), (10_000, 10_000));
    assert_eq!((found.flushes.made(), found.vpid_uses.vpids), (20_000, 10_000));
    let tags = &found.flushes.tags;
    let shown: u64 = tags.rows.iter().map(|row| row.tally.made()).sum();
    assert_eq!((tags.rows.len(), shown + tags.rest.made()), (100, 20_000));
    assert!(tags.left >= 19_900, "{}", tags.left);
    let found = [found];
    let (text, html) = (report::text(&found, false), report::html(&found));
    assert!(text.len() < 100_000, "{} bytes of text", text.len());
    assert!(html.len() < 300_000, "{} bytes of HTML", html.len());
    assert!(text.contains("9980 more"), "the rest is summed");
    assert!(report::markdown(&found).len() < 100_000);
}
