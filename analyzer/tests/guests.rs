//! Findings of the built-in guests, whose numbers are derived on paper in the guests' own documentation and here.

mod common;

use analyzer::judge::{Rule, Verdict, judge};
use analyzer::{Findings, Limits, Source, Tables, check, query};
use common::{of, record};
use hv_defs::event::{Actor, Cause, EptOp, What};
use hv_defs::exit::Reason;
use std::sync::Arc;

#[track_caller]
fn flushes(found: &Findings, cause: Cause, actor: Actor, rule: Rule, count: u64) {
    let rows = found.flushes.rows.iter().filter(|row| (row.cause, row.actor, row.rule) == (cause, actor, rule));
    assert_eq!(rows.map(|row| row.count).sum::<u64>(), count, "{} {} {}", cause, actor, rule.name());
}

/// Under `mapped`, of `flush-storm`'s flushes:
/// - `nested-entry`, 4, of phase 6: vmcs12 has no VPID, and L1's tag, which they drop, is entered again: required.
/// - `nested-exit`, 4: required but for the last, after which L2 never runs.
/// - `invvpid-emulation`, 5, for L1's four: each drops what was run under, so required, but for that of vpid02 2 when L1
///   flushes all... which phase 2 had run under and nothing had flushed: required too.
/// - `invept-emulation`, 3, and L1's own 2: L1 changed no entry: redundant.
/// - `write-protect`, 4: of each pair, the first is after L1 ran, the second after L2 alone ran, so that nothing of EPT01
///   is cached: 2 required, 2 redundant.
/// - `vpid-free`, 2: vpid02 1 ran in phases 4 and 5, vpid02 2 has not run since it was flushed: 1 required, 1 redundant.
#[test]
fn flush_storm_under_mapped() {
    let found = of(&record("flush-storm", "mapped", |_| {}));
    let l0 = Actor::L0;
    flushes(&found, Cause::NestedEntry, l0, Rule::Untagged, 4);
    flushes(&found, Cause::NestedExit, l0, Rule::Untagged, 3);
    flushes(&found, Cause::NestedExit, l0, Rule::NotUsedAgain, 1);
    flushes(&found, Cause::InvvpidEmulation, l0, Rule::GuestAsked, 5);
    flushes(&found, Cause::InveptEmulation, l0, Rule::NothingChanged, 3);
    flushes(&found, Cause::Guest, Actor::L1, Rule::NothingChanged, 2);
    flushes(&found, Cause::Guest, Actor::L1, Rule::NoEvidence, 4);
    flushes(&found, Cause::WriteProtect, l0, Rule::PermissionLost, 2);
    flushes(&found, Cause::WriteProtect, l0, Rule::NothingCached, 2);
    flushes(&found, Cause::VpidFree, l0, Rule::Recycled, 1);
    flushes(&found, Cause::VpidFree, l0, Rule::NothingCached, 1);
    assert_eq!((found.flushes.made(), found.flushes.count(Verdict::Redundant)), (28, 9));
    assert_eq!(found.flushes.count(Verdict::Missing), 0);
}

/// Under `kvm-2011` L1 and L2 share a VPID, which is flushed at each of the 34 entries and exits. Each EPT root has one
/// guest, but L1 names two vpid12s under root A in phase 2: what one left there the other must not see. The 68 root loads
/// change nothing.
#[test]
fn flush_storm_under_kvm_2011() {
    let found = of(&record("flush-storm", "kvm-2011", |_| {}));
    let by = |cause: Cause| found.flushes.rows.iter().filter(move |row| row.cause == cause);
    let count = |cause| by(cause).map(|row| row.count).sum::<u64>();
    assert_eq!((count(Cause::NestedEntry), count(Cause::NestedExit), count(Cause::RootLoad)), (34, 34, 68));
    assert!(by(Cause::RootLoad).all(|row| row.verdict == Verdict::Redundant));
    // Vpid12 1 to 2 before each trip of phase 2, the first included, and back to 1 for phase 3 after its last, which was 1.
    flushes(&found, Cause::NestedExit, Actor::L0, Rule::OtherOwner, 8);
    assert_eq!(found.flushes.count(Verdict::Missing), 0);
}

/// The entry after mark 2 is made with an entry changed and no INVEPT: missing, L1's, once. Policies that flush at each
/// root load leave nothing stale.
#[test]
fn stale_shows_the_forgotten_invept() {
    let reader = record("stale", "mapped", |_| {});
    let found = of(&reader);
    let [row] = found.flushes.missing[..] else { panic!("{:?}", found.flushes.missing) };
    assert_eq!((row.flush.actor, row.flush.cause, row.flush.address), (Actor::L1, Cause::EptSync, 0x10000));
    let events: Vec<_> = reader.events(0).map(Result::unwrap).collect();
    let mark = events.iter().position(|event| event.what == What::Mark(2)).unwrap();
    let entry = |event: &hv_defs::event::Event| matches!(&event.what, What::Entry(entry) if entry.level == 2);
    let first = mark + events[mark..].iter().position(entry).unwrap();
    assert_eq!(row.event, first as u64);
    let changed = |event: &&hv_defs::event::Event| matches!(&event.what, What::Ept(ept) if ept.op == EptOp::Sync);
    assert_eq!(events.iter().filter(changed).count(), 1);
    // L1's INVEPT of phase 3 comes late, and is needed all the same.
    flushes(&found, Cause::Guest, Actor::L1, Rule::MappingChanged, 1);
    flushes(&found, Cause::InveptEmulation, Actor::L0, Rule::MappingChanged, 1);
    for policy in ["kvm-2011", "kvm-2015"] {
        let found = of(&record("stale", policy, |_| {}));
        assert_eq!(found.flushes.count(Verdict::Missing), 0, "{policy}");
        flushes(&found, Cause::RootLoad, Actor::L0, Rule::MappingChanged, 1);
    }
    let limits = Limits { missing_flushes: Some(0), ..Limits::default() };
    let [gate] = &check(&found, &limits)[..] else { panic!() };
    assert!(!gate.holds());
    assert_eq!(gate.text, "missing-flushes: 1 exceeds the limit of 0");
}

/// The hits of `pool-thrash` on paper, at each size, from one trace of any size; and real runs at those sizes agree.
#[test]
fn pool_thrash_has_the_curve_of_its_documentation() {
    let hits = [(1, 5), (2, 14), (3, 21), (4, 24), (5, 27), (6, 39)];
    for size in [1, 2, 3, 4, 5, 6, 8] {
        let found = of(&record("pool-thrash", "mapped", |config| config.policy.pool = size));
        let [pool] = &found.pools[..] else { panic!() };
        assert_eq!((pool.curve.requests, pool.curve.distinct, pool.curve.compulsory), (45, 6, 6));
        let curve: Vec<(u64, u64)> = pool.curve.sizes.iter().map(|row| (row.size, 45 - row.lru)).collect();
        assert_eq!(curve, hits, "from a run with {size}");
        assert_eq!(Some(45 - pool.hits), pool.curve.at(size.into()).map(|row| row.lru), "a run with {size}");
        assert_eq!(pool.misses, u64::from(size).min(6));
    }
}

/// What L1 counts of `demo`'s exits is what the trace has.
#[test]
fn demo_has_the_exits_that_its_l1_counts() {
    let reader = record("demo", "mapped", |_| {});
    let found = of(&reader);
    let reflected = |reason| {
        let rows = found.multiplication.reasons.iter().filter(|row| row.reason == reason);
        rows.map(|row| row.reflected).sum::<u64>()
    };
    assert_eq!(reflected(Reason::IO_INSTRUCTION), 276);
    assert_eq!(reflected(Reason::CPUID), 6);
    assert_eq!(reflected(Reason::HLT), 6);
    assert_eq!(reflected(Reason::VMCALL), 2);
    assert_eq!(reflected(Reason::EPT_VIOLATION), 24);
    let all: u64 = found.multiplication.reasons.iter().map(|row| row.reflected).sum();
    assert_eq!(all, 314);
    // It maps pages only where none were, which needs no INVEPT.
    assert_eq!(found.flushes.count(Verdict::Missing), 0);
}

/// The tables and the findings are of the same events: their sums agree, and with the trace's own counts.
#[test]
fn tables_findings_and_counts_agree() {
    let reader = Arc::new(record("flush-storm", "kvm-2015", |_| {}));
    let (found, tables) = (of(&reader), Tables::read(reader.clone()));
    let one = |sql: &str| {
        let frame = query(&tables, sql).unwrap();
        let cell = frame.columns()[0].get(0).unwrap();
        cell.try_extract::<u64>().unwrap()
    };
    let counted = |name: &str| reader.counts().unwrap().into_iter().find(|(kind, _)| kind == name).unwrap().1;
    assert_eq!(one("SELECT COUNT(*) AS n FROM exits"), counted("exit"));
    assert_eq!(found.exits.iter().map(|row| row.count).sum::<u64>(), counted("exit"));
    assert_eq!(one("SELECT COUNT(*) AS n FROM vmcs"), counted("vmcs"));
    assert_eq!(found.vmcs.reads(), one("SELECT COUNT(*) AS n FROM vmcs WHERE op = 'read'"));
    assert_eq!(found.vmcs.same_writes(), one("SELECT COUNT(*) AS n FROM vmcs WHERE op = 'write' AND old = value"));
    assert_eq!(found.flushes.made(), counted("flush"));
    for verdict in Verdict::ALL {
        let sql = format!("SELECT COUNT(*) AS n FROM flushes WHERE verdict = '{}'", verdict.name());
        assert_eq!(found.flushes.count(*verdict), one(&sql), "{}", verdict.name());
    }
    let judged = judge(Source::Trace(&reader)).unwrap();
    assert!(judged.is_sorted_by_key(|row| row.event));
    // A trace is the sum of its phases.
    let phases = &found.phases;
    assert_eq!(phases.iter().map(|phase| phase.events).sum::<u64>(), reader.len());
    assert_eq!(phases.iter().map(|phase| phase.instructions).sum::<u64>(), found.overview.instructions);
    assert_eq!(phases.iter().map(|phase| phase.redundant).sum::<u64>(), found.flushes.count(Verdict::Redundant));
}
