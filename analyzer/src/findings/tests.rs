//! Findings of short traces on paper, and sums of random ones.

use super::{Findings, findings};
use crate::Source;
use crate::judge::Verdict;
use crate::story::{Story, VPID01};
use hv_defs::event::*;
use hv_defs::exit::Reason;
use proptest::prelude::*;

fn of(story: &Story) -> Findings {
    findings("story", Source::Events(&story.events)).unwrap()
}

/// Two L2 CPUIDs that L1 handles, each with a VMREAD and the VMRESUME that enters L2 again: three exits of silicon each.
/// An EPT violation that L0 handles: one. A last CPUID after which L2 never runs counts for nothing. Events are ten
/// instructions apart, and five lie from a CPUID's exit to L2's entry: 50 instructions; cycles are those and three round
/// trips, of an exit (700) and an entry (600) each.
#[test]
fn exits_multiply_as_counted() {
    let mut story = Story::default().l1().exit(1, Reason::VMLAUNCH, Actor::L0);
    for _ in 0..2 {
        story = story.l2(0, 2).exit(2, Reason::CPUID, Actor::L1).l1();
        story = story.exit(1, Reason::VMREAD, Actor::L0).l1().exit(1, Reason::VMRESUME, Actor::L0);
    }
    story = story.l2(0, 2).exit(2, Reason::EPT_VIOLATION, Actor::L0).l2(0, 2).exit(2, Reason::CPUID, Actor::L1).l1();
    story = story.exit(1, Reason::VMXOFF, Actor::L0);
    let found = of(&story);
    let rows: Vec<_> = found
        .multiplication
        .reasons
        .iter()
        .map(|row| (row.reason, row.count, row.reflected, row.resumed, row.caused_total(), row.factor()))
        .collect();
    assert_eq!(rows, [(Reason::CPUID, 3, 3, 2, 4, 3.0), (Reason::EPT_VIOLATION, 1, 0, 1, 0, 1.0)]);
    assert_eq!(found.multiplication.factor(), Some(7.0 / 3.0));
    let cpuid = &found.multiplication.reasons[0];
    assert_eq!((cpuid.l1_instructions.percentile(50), cpuid.l1_instructions.sum()), (50, 100));
    assert_eq!(cpuid.cycles.max(), 50 + 3 * (600 + 700));
    // A guest runs ten instructions from each entry to its exit; the last exit has no entry behind it.
    let exits: u64 = found.exits.iter().map(|row| row.count).sum();
    assert_eq!(exits, 10);
    assert!(found.exits.iter().all(|row| row.guest.count() == 0 || row.guest.max() == 10));
    assert_eq!(found.exits.iter().map(|row| row.handling.count()).sum::<u64>(), exits - 1);
}

/// An L3's CPUID, which L1 takes to L2 (an exit of its own, VMREAD, for it); L2 makes an exit for a VMREAD of its own, which
/// takes L1 a VMREAD too, and then has L3 go on, which L1 does at once. All of that is what the CPUID cost: seven exits.
#[test]
fn an_exit_of_l3_has_the_exits_of_l2_and_theirs() {
    let turn = |story: Story| story.exit(1, Reason::VMREAD, Actor::L0).l1().exit(1, Reason::VMRESUME, Actor::L0);
    let mut story = Story::default().l1().exit(1, Reason::VMLAUNCH, Actor::L0).l2(0, 2);
    story = story.exit(2, Reason::VMLAUNCH, Actor::L1).l1().exit(1, Reason::VMRESUME, Actor::L0);
    for _ in 0..2 {
        story = turn(story.l3(0, 3).exit(3, Reason::CPUID, Actor::L1).l1()).l2(0, 2);
        story = turn(story.exit(2, Reason::VMREAD, Actor::L1).l1()).l2(0, 2);
        story = story.exit(2, Reason::VMRESUME, Actor::L1).l1().exit(1, Reason::VMRESUME, Actor::L0);
    }
    // L3 exits once more, and L2 leaves VMX operation: that exit is not resumed, and no later one is its doing.
    story = story.l3(0, 3).exit(3, Reason::HLT, Actor::L1).l1().exit(1, Reason::VMRESUME, Actor::L0).l2(0, 2);
    story = turn(story.exit(2, Reason::VMXOFF, Actor::L1).l1()).l2(0, 2);
    let found = of(&story).multiplication;
    let row = |level: u8, reason: Reason| {
        let rows = found.reasons.iter().filter(|row| (row.level, row.reason) == (level, reason));
        rows.map(|row| (row.count, row.resumed, row.caused_total())).collect::<Vec<_>>()
    };
    assert_eq!(row(3, Reason::CPUID), [(2, 2, 14)]);
    assert_eq!(row(3, Reason::HLT), [(1, 0, 0)]);
    assert_eq!(row(2, Reason::VMREAD), [(2, 2, 4)]);
    assert_eq!(row(2, Reason::VMRESUME), [(2, 2, 2)]);
    assert_eq!(row(2, Reason::VMLAUNCH), [(1, 1, 1)]);
    assert_eq!(row(2, Reason::VMXOFF), [(1, 1, 2)]);
    let cpuid = found.reasons.iter().find(|row| row.level == 3).expect("a row");
    let mut caused: Vec<_> = cpuid.caused.iter().map(|it| (it.level, it.reason, it.under, it.count)).collect();
    caused.sort_by_key(|it| (it.0, it.1.0, it.2.map(|under| under.0)));
    assert_eq!(
        caused,
        [
            (1, Reason::VMREAD, None, 2),
            (1, Reason::VMREAD, Some(Reason::VMREAD), 2),
            (1, Reason::VMRESUME, None, 2),
            (1, Reason::VMRESUME, Some(Reason::VMREAD), 2),
            (1, Reason::VMRESUME, Some(Reason::VMRESUME), 2),
            (2, Reason::VMREAD, None, 2),
            (2, Reason::VMRESUME, None, 2),
        ]
    );
    // In all each exit of L1 is counted once: 1 for the VMLAUNCH, 2 + 2 + 1 in each turn, 2 for the VMXOFF.
    assert_eq!((found.l2_exits(), found.resumed(), found.caused()), (9, 8, 13));
}

/// Two misses of 100 fields and two hits of 20: a hit saves 80.
#[test]
fn a_hit_saves_what_a_miss_writes_more() {
    let story = Story::default().pool(PoolOp::Miss, 0, 0, 100, 0).pool(PoolOp::Miss, 1, 1, 100, 0);
    let found = of(&story.pool(PoolOp::Hit, 0, 0, 20, 80).pool(PoolOp::Hit, 1, 1, 20, 80));
    let [pool] = &found.pools[..] else { panic!() };
    assert_eq!((pool.hits, pool.missed(), pool.slots, pool.skipped), (2, 2, 2, 160));
    assert_eq!(pool.saved_by_a_hit, Some(80.0));
    // A, B, A, B: one slot misses four times, two miss twice.
    assert_eq!(pool.curve.sizes.iter().map(|row| row.lru).collect::<Vec<_>>(), [4, 2]);
}

/// Marks cut: what is before the first is the start's.
#[test]
fn phases_begin_at_marks() {
    let story = Story::default().l1().exit(1, Reason::CPUID, Actor::L0).event(What::Mark(7)).l1();
    let found = of(&story.exit(1, Reason::CPUID, Actor::L0).event(What::Mark(7)));
    let phases: Vec<_> =
        found.phases.iter().map(|phase| (phase.mark, phase.first, phase.events, phase.l1_exits)).collect();
    assert_eq!(phases, [(None, 0, 2, 1), (Some(7), 2, 3, 1), (Some(7), 5, 1, 0)]);
    assert_eq!(found.phases.iter().map(|phase| phase.instructions).collect::<Vec<_>>(), [30, 30, 0]);
}

/// A random event, of few guests, tags and pages, so that they meet.
fn step() -> impl Strategy<Value = fn(Story) -> Story> {
    prop::sample::select(vec![
        (|story| story.l1()) as fn(Story) -> Story,
        |story| story.l2(0, 2),
        |story| story.l2_under(1, 2, 0),
        |story| story.exit(1, Reason::VMREAD, Actor::L0),
        |story| story.exit(2, Reason::CPUID, Actor::L1),
        |story| story.flush(FlushKind::InvvpidSingle, Cause::NestedEntry, VPID01, 0),
        |story| story.flush(FlushKind::InvvpidAll, Cause::InvvpidEmulation, 0, 0),
        |story| story.flush(FlushKind::InveptAll, Cause::EptZap, 0, 0),
        |story| story.flush(FlushKind::InveptSingle, Cause::Guest, 0, crate::story::eptp12(0)),
        |story| story.flush(FlushKind::InveptSingle, Cause::InveptEmulation, 0, crate::story::eptp02(0)),
        |story| story.ept(EptOp::Map, 0, 0x7000, 0, 0x5037),
        |story| story.ept(EptOp::Zap, 0, 0x7000, 0x5037, 0),
        |story| story.vpid12(0, 7),
        |story| story.vpid12(1, 0),
        |story| story.on(0, 1),
        |story| story.on(1, 0),
        |story| story.event(What::Mark(3)),
        |story| story.pool(PoolOp::Recycle, 1, 0, 9, 1),
    ])
}

proptest! {
    /// However they are grouped, the parts sum to the whole, and every flush has one verdict.
    #[test]
    fn sums_by_any_grouping_equal_the_total(steps in prop::collection::vec(step(), 0..80)) {
        let story = steps.into_iter().fold(Story::default(), |story, step| step(story));
        let found = of(&story);
        let count = |kind| story.events.iter().filter(|event| event.what.kind() == kind).count() as u64;
        prop_assert_eq!(found.exits.iter().map(|row| row.count).sum::<u64>(), count(Kind::Exit));
        prop_assert_eq!(found.flushes.made(), count(Kind::Flush));
        let made = Verdict::ALL.iter().filter(|verdict| **verdict != Verdict::Missing);
        prop_assert_eq!(made.map(|verdict| found.flushes.count(*verdict)).sum::<u64>(), count(Kind::Flush));
        prop_assert_eq!(found.overview.counts.iter().map(|(_, count)| count).sum::<u64>(), story.events.len() as u64);
        prop_assert_eq!(found.phases.iter().map(|phase| phase.events).sum::<u64>(), story.events.len() as u64);
        prop_assert_eq!(found.phases.iter().map(|phase| phase.missing).sum::<u64>(), found.flushes.count(Verdict::Missing));
        prop_assert_eq!(found.pools.iter().map(|pool| pool.missed()).sum::<u64>(), count(Kind::Pool));
        let missing = found.flushes.rows.iter().filter(|row| row.verdict == Verdict::Missing).map(|row| row.count);
        prop_assert_eq!(missing.sum::<u64>(), found.flushes.missing.len() as u64);
    }
}

/// What the VPID map of vCPU `vcpu` does.
fn vpid(story: Story, vcpu: u16, op: VpidOp, vpid12: u16, vpid02: u16) -> Story {
    story.on(vcpu, 0).event(What::Vpid(Vpid { op, vpid12, vpid02 }))
}

/// VMXOFF of a vCPU, in the course of which VPIDs are given back.
fn vmxoff(story: Story, vcpu: u16, freed: &[(u16, u16)]) -> Story {
    let story = story.on(vcpu, 0).exit(1, Reason::VMXOFF, Actor::L0);
    freed.iter().fold(story, |story, (vpid12, vpid02)| vpid(story, vcpu, VpidOp::Free, *vpid12, *vpid02)).l1()
}

#[track_caller]
fn mistakes(story: &Story, expected: &[(&str, &str, u64, u64)]) {
    let found = of(story).mistakes;
    let got: Vec<_> = found
        .iter()
        .map(|found| (found.kind.name(), found.kind.direction().name(), found.count, found.first))
        .collect();
    assert_eq!(got, expected, "{found:#?}");
}

#[test]
fn every_vpid_has_one_holder_who_gives_it_back_once() {
    use VpidOp::{Free, Hit, Map, Recycle};
    let story = || Story::default().l1();
    let held = || vpid(vpid(story(), 0, Map, 5, 2), 0, Hit, 5, 2);
    mistakes(&vmxoff(vpid(held(), 0, Recycle, 6, 2), 0, &[(6, 2)]), &[]);
    mistakes(&vmxoff(held(), 0, &[]), &[("vpid-leaked", "wasted", 1, 3)]);
    mistakes(&vmxoff(held(), 0, &[(5, 2), (5, 2)]), &[("vpid-freed-twice", "wrong-target", 1, 5)]);
    // One that no vpid12 had is given back for 0, and once.
    mistakes(&vmxoff(story(), 0, &[(0, 2)]), &[]);
    mistakes(&vmxoff(story(), 0, &[(0, 2), (0, 2)]), &[("vpid-freed-twice", "wrong-target", 1, 3)]);
    mistakes(&vpid(vmxoff(held(), 0, &[(5, 2)]), 0, Hit, 5, 2), &[("vpid-after-free", "wrong-target", 1, 6)]);
    // Another has it by then, and then both.
    let taken = vpid(vmxoff(held(), 0, &[(5, 2)]), 1, Map, 7, 2);
    mistakes(&taken, &[]);
    mistakes(&vmxoff(taken.clone(), 0, &[(5, 2)]), &[("vpid-freed-twice", "wrong-target", 1, 8)]);
    mistakes(&vpid(taken.clone(), 0, Map, 5, 2), &[("vpid-shared", "wrong-target", 1, 7)]);
    mistakes(&vpid(story(), 0, Map, 5, VPID01), &[("vpid-shared", "wrong-target", 1, 1)]);
    // A VMXOFF that faults leaves L1 in VMX operation.
    let info = hv_defs::exit::InterruptionInfo::default();
    let fault = What::Injection(Injection { level: 1, info, error_code: 0 });
    mistakes(&held().exit(1, Reason::VMXOFF, Actor::L0).event(fault).l1(), &[]);
    let found = of(&vmxoff(held(), 0, &[]));
    let taught = &found.advice[0];
    assert_eq!((taught.topic, taught.severity), ("l0-mistake", super::Severity::Waste));
    assert!(taught.text.contains("vCPU 0 keeps VPID 2, of vpid12 5, after VMXOFF"), "{}", taught.text);
    let freed = vpid(held(), 0, Free, 5, 2);
    mistakes(&freed, &[]);
}

#[test]
fn what_l1_writes_reaches_vmcs02_and_rights_are_masked() {
    use hv_defs::vmcs::{EXCEPTION_BITMAP, GUEST_CS_ACCESS_RIGHTS, GUEST_RSP, VmcsField};
    let access = |actor, which, address, op, field: VmcsField, value| {
        let old = if op == VmcsOp::Read { value } else { 0 };
        What::Vmcs(VmcsAccess { actor, which, address, op, field, old, value })
    };
    let l0 = |op, value| access(Actor::L0, Which::Vmcs02, 0x5002, op, GUEST_RSP.field(), value);
    let story = || Story::default().l2(0, 2).exit(2, Reason::VMCALL, Actor::L1).event(l0(VmcsOp::Read, 7)).l1();
    let wrote = || story().write12(0, GUEST_RSP.field(), 9);
    mistakes(&wrote().event(l0(VmcsOp::Write, 9)).l2(0, 2), &[]);
    mistakes(&wrote().l2(0, 2).l2(0, 2), &[("vmcs02-stale", "missing", 1, 5)]);
    // What vmcs02 holds by now the events do not tell.
    mistakes(&Story::default().l2(0, 2).l1().write12(0, GUEST_RSP.field(), 9).l2(0, 2), &[]);
    // L0 merges this one with its own.
    mistakes(&story().write12(0, EXCEPTION_BITMAP.field(), 9).l2(0, 2), &[]);
    let rights =
        |value| access(Actor::L2, Which::Shadow12, 0x9000, VmcsOp::Write, GUEST_CS_ACCESS_RIGHTS.field(), value);
    mistakes(&Story::default().event(rights(0x1_f0ff)), &[]);
    mistakes(&Story::default().event(rights(0xffff_ffff)), &[("rights-unmasked", "wrong-value", 1, 0)]);
}

#[test]
fn a_flush_names_what_it_is_for() {
    use Cause::{InveptEmulation, InvvpidEmulation, RootLoad};
    use FlushKind::{InveptSingle, InvvpidSingle};
    let wrong = |first| [("flush-wrong-target", "wrong-target", 1, first)];
    let story = || vpid(Story::default().l1(), 0, VpidOp::Map, 5, 2).l2(0, 2).l1();
    let root = crate::story::eptp02(0);
    mistakes(&story().flush(InveptSingle, RootLoad, 0, root).l2(0, 2), &[]);
    mistakes(&story().flush(InveptSingle, RootLoad, 0, crate::story::EPTP01).l2(0, 2), &wrong(4));
    mistakes(&story().flush(InvvpidSingle, InvvpidEmulation, 2, 0).l1(), &[]);
    mistakes(&story().flush(InvvpidSingle, InvvpidEmulation, VPID01, 0).l1(), &wrong(4));
    mistakes(&story().flush(InveptSingle, InvvpidEmulation, 0, root).l1(), &wrong(4));
    mistakes(&story().flush(InvvpidSingle, InveptEmulation, 2, 0).l1(), &wrong(4));
    // One VPID for L1 and its L2s.
    mistakes(&Story::default().l1().flush(InvvpidSingle, InvvpidEmulation, VPID01, 0).l1(), &[]);
}
