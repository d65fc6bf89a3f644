//! Trees of short traces on paper, and sums of random ones.

use crate::findings::pass::Pass;
use crate::findings::{Findings, Work, findings};
use crate::story::{EPTP01, Story, VPID01, eptp02, vmcs12};
use crate::{Source, report};
use hv_defs::config::Clock;
use hv_defs::cost::DEFAULT as COSTS;
use hv_defs::event::*;
use hv_defs::exit::Reason;
use hv_defs::vmcs::{GUEST_RIP, GUEST_RSP};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn of(events: &[Event]) -> Findings {
    findings("story", Source::Events(events)).unwrap()
}

fn l0(story: Story, op: VmcsOp) -> Story {
    let (actor, which, address, field) = (Actor::L0, Which::Vmcs02, 0x5002, GUEST_RIP.field());
    at_once(story.event(What::Vmcs(VmcsAccess { actor, which, address, op, field, old: 0, value: 0 })))
}

/// What came last came at the time of the event before: L0 takes no instructions.
fn at_once(mut story: Story) -> Story {
    let before = story.events.iter().rev().nth(1).map_or(0, |event| event.at.instruction);
    story.events.last_mut().expect("an event").at.instruction = before;
    story
}

/// An L2 CPUID, for which L0 reads twice, and of which L1 reads one field: an exit for which L0 writes once. L1 then enters
/// L2, for which L0 loads a VMCS, flushes and changes an EPT02 entry. Events are ten instructions apart, also where
/// nothing runs. In modelled cycles, an exit is 700, an entry 600, a VMREAD or VMWRITE 40,
/// VMPTRLD 300, INVVPID 300, an EPT02 entry 150:
///
/// | | exit and entry | else |
/// | --- | --- | --- |
/// | before the first exit | 600: the entry of L1 | |
/// | L1 VMLAUNCH | 1300 | |
/// | L2 CPUID | 1300: L1 is entered | 2 VMREADs 80 |
/// | below it L1 VMREAD | 1300 | VMWRITE 40 |
/// | below it L1 VMRESUME | 1300 | 300 + 300 + 150 |
///
/// and 150 instructions for 15 events. The CPUID takes from its exit, the fourth, to the last entry: 110 of them.
#[test]
fn a_tree_has_l0s_work_at_its_leaves() {
    let mut story = Story::default().l1().exit(1, Reason::VMLAUNCH, Actor::L0).l2(0, 2);
    story = l0(l0(story.exit(2, Reason::CPUID, Actor::L1), VmcsOp::Read), VmcsOp::Read).l1();
    story = l0(story.exit(1, Reason::VMREAD, Actor::L0), VmcsOp::Write).l1();
    story = l0(story.exit(1, Reason::VMRESUME, Actor::L0), VmcsOp::Load);
    story = story.flush(FlushKind::InvvpidSingle, Cause::NestedEntry, VPID01, 0).ept(EptOp::Map, 0, 0x7000, 0, 0x5037);
    let found = of(&story.l2(0, 2).events);
    let text = report::folded(std::slice::from_ref(&found));
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "L0 entry 600",
            "L1 VMLAUNCH;L0 entry 600",
            "L1 VMLAUNCH;L0 exit 700",
            "L1 VMLAUNCH;idle 10",
            "L1 instructions 10",
            "L2 CPUID;L0 entry 600",
            "L2 CPUID;L0 exit 700",
            "L2 CPUID;L0 vmread 80",
            "L2 CPUID;L1 VMREAD;L0 entry 600",
            "L2 CPUID;L1 VMREAD;L0 exit 700",
            "L2 CPUID;L1 VMREAD;L0 vmwrite 40",
            "L2 CPUID;L1 VMREAD;idle 20",
            "L2 CPUID;L1 VMRESUME;L0 entry 600",
            "L2 CPUID;L1 VMRESUME;L0 ept02 150",
            "L2 CPUID;L1 VMRESUME;L0 exit 700",
            "L2 CPUID;L1 VMRESUME;L0 invvpid 300",
            "L2 CPUID;L1 VMRESUME;L0 vmptrld 300",
            "L2 CPUID;L1 VMRESUME;idle 40",
            "L2 CPUID;L1 instructions 20",
            "L2 CPUID;idle 30",
            "L2 instructions 10",
            "idle 10",
        ]
    );
    assert_eq!(found.overview.cycles, 600 + 4 * 1300 + 80 + 40 + 750 + 150);
    // The exit with all below it: to the entry of L2 that ends it.
    let [cpuid] = &found.multiplication.dearest[..] else { panic!("{:?}", found.multiplication.dearest) };
    assert_eq!((cpuid.event, cpuid.exits, cpuid.ran), (3, 3, 110));
    assert_eq!(cpuid.cycles, 3 * 1300 + 80 + 40 + 750 + 110);
    let whole = found.multiplication.tree.sums(|node| node.cycles(&COSTS));
    let at = (0..whole.len()).find(|&at| found.multiplication.tree.path(at) == [(2, Reason::CPUID)]).unwrap();
    assert_eq!(whole[at], cpuid.cycles);
    // The same from a graph: every frame once, the outermost as wide as all.
    let graph = report::flame(&[found]);
    assert!(graph.contains("<title>all: 6820 modelled cycles (100.0 % of all)</title>"), "{graph}");
    assert!(graph.contains(
        "<title>L2 CPUID ▸ L1 VMREAD ▸ L0 vmwrite: 40 modelled cycles (0.6 % of all, 2.9 % of what it is in)"
    ));
}

/// Silicon's own flush at an entry comes behind it, and counts for the exit that ends the stay.
#[test]
fn what_silicon_flushes_at_an_entry_counts_for_the_next_exit() {
    let story = Story::default().l1().exit(1, Reason::CPUID, Actor::L0).l1();
    let story = story.flush(FlushKind::Transition, Cause::HardwareEntry, 0, 0).exit(1, Reason::HLT, Actor::L0).l1();
    let found = of(&story.events);
    let hlt = found.exits.iter().find(|row| row.reason == Reason::HLT).unwrap();
    assert_eq!(hlt.handling.sum(), 1300 + 100);
    let tree = &found.multiplication.tree;
    let node = (0..tree.nodes.len()).find(|&at| tree.path(at) == [(1, Reason::HLT)]).unwrap();
    assert_eq!(tree.nodes[node].work.of(Work::TransitionFlush), 1);
}

/// Nanoseconds go on for all vCPUs at once. vCPU 0 is entered at 10, exits at 30 and is entered again at 50, vCPU 1 at 20, 40
/// and 60: each runs 20 and waits 20, and what was before their first events is nobody's.
#[test]
fn a_foreign_clock_goes_on_for_each_vcpu() {
    let story = Story::default().l1().on(1, 1).l1().on(0, 0).exit(1, Reason::CPUID, Actor::L0);
    let story = story.on(1, 1).exit(1, Reason::HLT, Actor::L0).on(0, 0).l1().on(1, 1).l1();
    let mut pass = Pass::new(None);
    pass.stamped_in(Clock::Nanoseconds);
    Source::Events(&story.events).chunks(|chunk| pass.chunk(chunk)).unwrap();
    let found = pass.finish().0;
    let levels: Vec<_> = found.time.levels.iter().map(|level| (level.level, level.ran, level.elapsed.sum())).collect();
    assert_eq!(levels, [(0, 40, 0), (1, 40, 40)]);
    assert!(found.exits.iter().all(|row| (row.guest.sum(), row.elapsed.sum()) == (20, 20)), "{:?}", found.exits);
}

/// A random event of one of a few guests on one vCPU.
fn step() -> impl Strategy<Value = fn(Story) -> Story> {
    prop::sample::select(vec![
        (|story| story.l1()) as fn(Story) -> Story,
        |story| story.l2(0, 2),
        |story| story.l2(1, 3),
        |story| story.l3(0, 4),
        |story| story.exit(1, Reason::VMREAD, Actor::L0),
        |story| story.exit(1, Reason::VMRESUME, Actor::L0),
        |story| story.exit(1, Reason::VMXOFF, Actor::L0),
        |story| story.exit(2, Reason::CPUID, Actor::L1),
        |story| story.exit(2, Reason::EPT_VIOLATION, Actor::L0),
        |story| story.exit(2, Reason::VMREAD, Actor::L1),
        |story| story.exit(3, Reason::CPUID, Actor::L1),
        |story| l0(story, VmcsOp::Read),
        |story| l0(story, VmcsOp::Write),
        |story| l0(story, VmcsOp::Load),
        |story| at_once(story.write12(0, GUEST_RSP.field(), 9)),
        |story| story.flush(FlushKind::InvvpidSingle, Cause::NestedEntry, VPID01, 0),
        |story| story.flush(FlushKind::InveptSingle, Cause::RootLoad, 0, eptp02(0)),
        |story| story.flush(FlushKind::Transition, Cause::HardwareEntry, 0, 0),
        |story| story.ept(EptOp::Map, 0, 0x7000, 0, 0x5037),
        |story| story.pool(PoolOp::Miss, 1, 0, 9, 1),
        |story| story.pool(PoolOp::Hit, 1, 0, 9, 1),
        |story| story.event(What::Mark(3)),
    ])
}

fn story() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(step(), 0..120)
        .prop_map(|steps| steps.into_iter().fold(Story::default(), |story, step| step(story)).events)
}

/// Several vCPUs take turns.
fn several() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((step(), 0..3_u16), 0..120).prop_map(|steps| {
        steps.into_iter().fold(Story::default(), |story, (step, vcpu)| step(story.on(vcpu, vcpu))).events
    })
}

proptest! {
    #[test]
    fn the_leaves_sum_to_the_whole_by_any_grouping(events in several()) {
        let found = of(&events);
        let tree = &found.multiplication.tree;
        // By kind of work.
        let made = |work: Work| events.iter().filter(|event| match &event.what {
            What::Exit(_) => work == Work::Exit,
            What::Entry(_) => work == Work::Entry,
            What::Vmcs(access) => access.actor == Actor::L0 && work == match access.op {
                VmcsOp::Read => Work::Vmread,
                VmcsOp::Write => Work::Vmwrite,
                _ => Work::Vmptrld,
            },
            What::Flush(flush) => work == match flush.kind {
                FlushKind::InveptSingle => Work::Invept,
                FlushKind::Transition => Work::TransitionFlush,
                _ => Work::Invvpid,
            },
            What::Ept(_) => work == Work::Ept02,
            What::Pool(pool) => pool.op == PoolOp::Miss && work == Work::PoolMiss,
            _ => false,
        }).count() as u64;
        for work in Work::ALL {
            prop_assert_eq!(tree.totals().work.of(work), made(work), "{}", work.name());
        }
        // By the exit.
        let mut by_exit: BTreeMap<(u8, Reason), i64> = BTreeMap::new();
        for node in tree.nodes.iter().skip(1) {
            *by_exit.entry((node.level, node.reason)).or_default() += node.exits as i64;
        }
        for row in &found.exits {
            *by_exit.entry((row.level, row.reason)).or_default() -= row.count as i64;
        }
        prop_assert!(by_exit.values().all(|left| *left == 0), "{by_exit:?}");
        // By level, and in all.
        let ran: u64 = found.time.levels.iter().map(|level| level.ran).sum();
        prop_assert_eq!(ran, found.overview.instructions);
        prop_assert_eq!(ran + found.time.l0_cycles, found.overview.cycles);
        prop_assert_eq!(found.time.levels.iter().map(|level| level.exits).sum::<u64>(), made(Work::Exit));
        // From the root down.
        let sums = tree.sums(|node| node.cycles(&COSTS));
        prop_assert_eq!(sums.first().copied().unwrap_or(0), found.overview.cycles);
        // As stacks, which are the frames of the graph.
        let folded = report::folded(std::slice::from_ref(&found));
        let sizes = folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        prop_assert_eq!(sizes.sum::<u64>(), found.overview.cycles);
        // By slices of time, and by phases.
        let slices = &found.time.slices.rows;
        prop_assert_eq!(slices.iter().map(|slice| slice.l1_exits + slice.l2_exits + slice.deeper_exits).sum::<u64>(), made(Work::Exit));
        prop_assert_eq!(slices.iter().map(|slice| slice.l0_cycles).sum::<u64>(), found.time.l0_cycles);
        prop_assert_eq!(slices.iter().map(|slice| slice.pool_misses).sum::<u64>(), made(Work::PoolMiss));
        prop_assert_eq!(found.phases.iter().map(|phase| phase.l0_cycles).sum::<u64>(), found.time.l0_cycles);
        let first = found.phases.first().map_or(0, |phase| phase.start);
        prop_assert_eq!(first + found.phases.iter().map(|phase| phase.instructions).sum::<u64>(), found.overview.instructions);
        prop_assert_eq!(found.phases.iter().map(|phase| phase.resumed).sum::<u64>(), found.multiplication.resumed());
        prop_assert_eq!(found.phases.iter().map(|phase| phase.caused).sum::<u64>(), found.multiplication.caused());
    }

    /// Where every exit is served, the trees of the exits that nothing caused are, one by one, what the tree has of them.
    #[test]
    fn one_trees_sum_to_the_tree(events in story()) {
        let found = of(&events);
        let tree = &found.multiplication.tree;
        let sums = tree.sums(|node| node.cycles(&COSTS));
        for row in found.multiplication.reasons.iter().filter(|row| row.level == 3) {
            let at = (1..tree.nodes.len()).find(|&at| tree.path(at) == [(3, row.reason)]).unwrap();
            prop_assert!(row.cycles.sum() <= sums[at], "those that were not served are in the tree alone");
            if row.resumed == row.count {
                prop_assert_eq!(row.cycles.sum(), sums[at]);
            }
        }
    }

    /// What one list of events counts and another, on vCPUs, CPUs and addresses of its own, both one after the other count.
    #[test]
    fn a_report_of_two_lists_is_the_sum_of_theirs(first in story(), second in story()) {
        let shift = first.last().map_or(0, |event| event.at.instruction);
        let second: Vec<Event> = second.into_iter().map(elsewhere).collect();
        let later = second.iter().cloned().map(|mut event| {
            event.at.instruction += shift;
            event
        });
        let both: Vec<Event> = first.iter().cloned().chain(later).collect();
        let mut sum = counts(&of(&first));
        for (key, value) in counts(&of(&second)) {
            *sum.entry(key).or_default() += value;
        }
        prop_assert_eq!(counts(&of(&both)), sum);
    }
}

/// An event of a vCPU, a CPU, addresses and tags that no story has.
fn elsewhere(mut event: Event) -> Event {
    let address = |address: &mut u64| {
        if *address != NO_ADDRESS && *address != 0 {
            *address += 0x1000_0000_0000;
        }
    };
    let vpid = |vpid: &mut u16| {
        if *vpid != 0 {
            *vpid += 100;
        }
    };
    event.at.vcpu += 8;
    event.at.pcpu += 8;
    match &mut event.what {
        What::Exit(exit) => {
            address(&mut exit.vmcs12);
            exit.gpa += 0x1000_0000;
        }
        What::Entry(entry) => {
            address(&mut entry.vmcs12);
            address(&mut entry.vmcs02);
            address(&mut entry.eptp);
            vpid(&mut entry.vpid);
        }
        What::Vmcs(access) => address(&mut access.address),
        What::Flush(flush) => {
            vpid(&mut flush.vpid);
            address(&mut flush.eptp);
        }
        What::Ept(change) => {
            address(&mut change.eptp12);
            address(&mut change.eptp02);
            change.gpa += 0x1000_0000;
        }
        What::Pool(pool) => address(&mut pool.vmcs12),
        _ => {}
    }
    event
}

/// What of a report adds up, but for what has the number of an event in it.
fn counts(of: &Findings) -> BTreeMap<(String, String, String), u64> {
    let mut counts = BTreeMap::new();
    for line in report::csv(std::slice::from_ref(of)).lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, section, item, measure, value] = cells[..] else { panic!("{line}") };
        let adds = ["_p50", "_p90", "_p99", "_max"].iter().all(|end| !measure.ends_with(end));
        // What a field would gain is rounded; slices and phases are of other stretches; pools at sizes beside a knee.
        let kept = !matches!(section, "shadowing" | "slices" | "phases" | "tags" | "pool_curve");
        let adds = adds && !measure.contains("per_") && !matches!(measure, "slots" | "knee");
        // There is a row of all vCPUs where there are several.
        if kept && adds && measure != "factor" && item != "all vcpus" {
            *counts.entry((section.into(), item.into(), measure.into())).or_default() += value.parse::<u64>().unwrap();
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Where stories run is somewhere else than where [`elsewhere`] puts them.
#[test]
fn elsewhere_is_disjoint() {
    for event in Story::default().l1().l2(0, 2).pool(PoolOp::Miss, 1, 0, 9, 1).events {
        let moved = elsewhere(event.clone());
        assert_ne!(moved, event);
        if let What::Entry(entry) = moved.what {
            assert!(entry.eptp != EPTP01 && entry.eptp != eptp02(0) && entry.vmcs12 != vmcs12(0));
        }
    }
}
