//! Findings of the built-in guests, whose numbers are derived on paper in the guests' own documentation and here.

mod common;

use analyzer::judge::{Rule, Verdict, judge};
use analyzer::{Findings, Limits, Source, Tables, check, query};
use common::{of, record};
use hv_defs::event::{Actor, Cause, EptOp, What};
use hv_defs::exit::Reason;
use hv_defs::policy::PoolRecycle;
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

/// By site and by level, under `mapped`. L0 makes a flush while it handles the exit that asks for it:
/// - `nested-entry`, 4, at VMRESUME, of L1's VPID, under which L1 ran since the last exit: L1's translations.
/// - `nested-exit`, 4, at L2's VMCALL, of L1's VPID, under which only L2 ran since the entry's flush: L2's.
/// - `invvpid-emulation`, at INVVPID: 1 for an address, 3 for a VPID (L1's single, and its all, for which two vpid02s stand), 1
///   but for globals: L2's.
/// - `invept-emulation`, 3, at INVEPT: L2's.
/// - `write-protect`, of EPT01, so L1's: the root's page of A at the VMLAUNCH, of B at the first VMRESUME with it, and the
///   tables of each at L2's first EPT violation.
/// - `vpid-free`, 2, at VMXOFF: L2's.
/// - L1's own six instructions stand at six places, and are about its guest.
///
/// That makes 14 of L2 and 8 of L1. By name: L1's VPID 8 times, of both; vpid02 of vpid12 1 at all four INVVPIDs and freed, 5;
/// that of vpid12 2 at INVVPID of all and freed, 2; EPT01 4; A's EPT02 at both INVEPTs, B's at that of all.
#[test]
fn flush_storm_by_site_level_and_tag() {
    let reader = record("flush-storm", "mapped", |_| {});
    let found = of(&reader);
    let flushes = &found.flushes;
    let sites: Vec<_> = flushes
        .sites
        .rows
        .iter()
        .filter(|row| row.site.actor == Actor::L0)
        .map(|row| {
            let (cause, kind, exit) = (row.site.cause, row.site.kind, row.site.exit.expect("an exit"));
            let counts = (row.tally.made(), row.tally.count(Verdict::Redundant));
            format!("{cause} {kind} L{} {}: {counts:?} {}", exit.0, exit.1, row.levels.name())
        })
        .collect();
    let mut expected = vec![
        "nested-entry invvpid-single L1 VMRESUME: (4, 0) L1",
        "nested-exit invvpid-single L2 VMCALL: (4, 1) L2",
        "invvpid-emulation invvpid-address L1 INVVPID: (1, 0) L2",
        "invvpid-emulation invvpid-single L1 INVVPID: (3, 0) L2",
        "invvpid-emulation invvpid-retain-globals L1 INVVPID: (1, 0) L2",
        "invept-emulation invept-single L1 INVEPT: (3, 3) L2",
        "write-protect invept-single L1 VMLAUNCH: (1, 0) L1",
        "write-protect invept-single L1 VMRESUME: (1, 0) L1",
        "write-protect invept-single L2 EPT_VIOLATION: (2, 2) L1",
        "vpid-free invvpid-single L1 VMXOFF: (2, 1) L2",
    ];
    let mut got: Vec<&str> = sites.iter().map(String::as_str).collect();
    // The INVEPTs drop entries of L2 that were good: no site wastes more.
    assert_eq!(got[0], expected[5]);
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    let mut own: Vec<u64> = flushes.sites.rows.iter().filter_map(|row| row.site.rip).collect();
    own.sort_unstable();
    own.dedup();
    assert_eq!(own.len(), 6);
    // A redundant flush wastes itself and its refills, and L1's own an exit and an entry.
    let waste: Vec<u64> =
        flushes.sites.rows.iter().filter(|row| row.site.rip.is_some()).map(|row| row.tally.wasted).collect();
    assert_eq!(waste, [1300, 1300, 0, 0, 0, 0]);
    let invept = &flushes.sites.rows[0].tally;
    assert_eq!(invept.wasted, 3 * 400 + 100 * invept.dropped);
    let levels = flushes.levels.iter().map(|row| (row.actor, row.levels.name(), row.tally.made()));
    let mut levels: Vec<_> = levels.collect();
    levels.sort();
    assert_eq!(levels, [(Actor::L0, "L1".into(), 8), (Actor::L0, "L2".into(), 14), (Actor::L1, "L2".into(), 6)]);
    let of_l0 = flushes.tags.rows.iter().filter(|row| row.actor == Actor::L0);
    let mut tags: Vec<(u64, String)> = of_l0.map(|row| (row.tally.made(), row.levels.name())).collect();
    tags.sort();
    let expected = [(1, "L2"), (2, "L2"), (2, "L2"), (4, "L1"), (5, "L2"), (8, "L1+L2")];
    assert_eq!(tags, expected.map(|(count, levels)| (count, levels.to_owned())));
    // Under `kvm-2011`, L1's: 33 of 34 nested entries, 34 loads of EPT01, 4 write protections, and at L1's 4 INVVPIDs the VPID
    // under which L2 has left nothing since its exit; L2's: 34 nested exits, 32 of 34 loads of EPT02, 3 of L1's INVEPTs. The
    // first loads of A and of B concern nobody yet. At the first entry with B, write protection has dropped what L1 left, so
    // that those are named who had run there before.
    let found = of(&record("flush-storm", "kvm-2011", |_| {}));
    let rows = found.flushes.levels.iter().filter(|row| row.actor == Actor::L0);
    let mut levels: Vec<(u64, String)> = rows.map(|row| (row.tally.made(), row.levels.name())).collect();
    levels.sort();
    let expected = [(1, "L1+L2"), (2, "none"), (34 + 32 + 3, "L2"), (33 + 34 + 4 + 4, "L1")];
    assert_eq!(levels, expected.map(|(count, levels)| (count, levels.to_owned())));
}

/// `pool-thrash` on paper, at each size, from one trace of any size; and real runs at those sizes agree. The hits of LRU are
/// derived in the guest's documentation. First in, first out: the misses of each phase, a point for a hit, and behind them
/// what the pool holds then, first in first:
///
/// | size | ABCDEF ABCDEF | AAAA | ABABABAB | ABCABCABC | FEDCBA ABCDEF | misses |
/// | --- | --- | --- | --- | --- | --- | --- |
/// | 1 | `ABCDEFABCDEF` F | `A...` A | `.BABABAB` B | `ABCABCABC` C | `FEDCBA.BCDEF` | 40 |
/// | 2 | `ABCDEFABCDEF` EF | `A...` FA | `.B......` AB | `..CABCABC` BC | `FEDCBA..CDEF` | 31 |
/// | 3 | `ABCDEFABCDEF` DEF | `A...` EFA | `.B......` FAB | `..C......` ABC | `FEDCBA...DEF` | 24 |
/// | 4 | `ABCDEFABCDEF` CDEF | `A...` DEFA | `.B......` EFAB | `..C......` FABC | `.ED..A.BC.EF` | 22 |
/// | 5 | `ABCDEFABCDEF` BCDEF | `A...` CDEFA | `.B......` DEFAB | `..C......` EFABC | `..D.......EF` | 18 |
/// | 6 | `ABCDEF......` | `....` | `........` | `.........` | `............` | 6 |
///
/// At 4 that is one more than LRU, which has at the end what was used last, B and C, where this one has given them up.
/// The optimum gives up what is needed last:
///
/// | size | ABCDEF ABCDEF | AAAA | ABABABAB | ABCABCABC | FEDCBA ABCDEF | misses |
/// | --- | --- | --- | --- | --- | --- | --- |
/// | 1 | `ABCDEFABCDEF` F | `A...` A | `.BABABAB` B | `ABCABCABC` C | `FEDCBA.BCDEF` | 40 |
/// | 2 | `ABCDEF.BCDE.` EF | `A...` AF | `.B......` AB | `..C.B.A.C` BC | `FED.BA..CDEF` | 25 |
/// | 3 | `ABCDEF..CDE.` AEF | `....` AEF | `.B......` ABF | `..C......` ABC | `FED..A...DEF` | 18 |
/// | 4 | `ABCDEF...DE.` ABEF | `....` ABEF | `........` ABEF | `..C......` ABCF | `.ED.......EF` | 13 |
/// | 5 | `ABCDEF....E.` ABCEF | `....` ABCEF | `........` ABCEF | `.........` ABCEF | `..D........F` | 9 |
/// | 6 | `ABCDEF......` | `....` | `........` | `.........` | `............` | 6 |
///
/// The sixth slot saves 12 misses of LRU, and more save none: that is the knee.
#[test]
fn pool_thrash_has_the_curve_of_its_documentation() {
    let expected = [(1, 40, 40, 40), (2, 31, 31, 25), (3, 24, 24, 18), (4, 21, 22, 13), (5, 18, 18, 9), (6, 6, 6, 6)];
    for size in [1, 2, 3, 4, 5, 6, 8] {
        let found = of(&record("pool-thrash", "mapped", |config| config.policy.pool = size));
        let [pool] = &found.pools[..] else { panic!() };
        assert_eq!((pool.curve.requests, pool.curve.distinct, pool.curve.compulsory), (45, 6, 6));
        let curve = pool.curve.sizes.iter().map(|row| (row.size, row.lru, row.fifo, row.optimum));
        assert_eq!(curve.collect::<Vec<_>>(), expected, "from a run with {size}");
        assert_eq!(Some(45 - pool.hits), pool.curve.lru_at(size.into()), "a run with {size}");
        assert_eq!(pool.misses, u64::from(size).min(6));
        let knee = pool.curve.knee().expect("requests");
        assert_eq!((knee.size, knee.misses, knee.last_saves, knee.beyond), (6, 6, 12, 0));
    }
}

/// Misses of a real run: of requests, those that found no vmcs02.
fn missed(guest: &str, size: u16, rule: PoolRecycle) -> (u64, Findings) {
    let found = of(&record(guest, "mapped", |config| {
        (config.policy.pool, config.policy.pool_recycle) = (size, rule);
        config.log = hv_defs::config::Log::Vmcs;
    }));
    (found.pools.iter().map(|pool| pool.missed()).sum(), found)
}

/// An order of `pool-thrash`: mostly of the vmcs12s near the last one, at times of any, and now and then one is given up.
fn drawn(seed: u64, vmcs12s: u64, length: usize) -> String {
    let (mut state, mut near) = (seed | 1, 0);
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut letter = || {
        near = if next(6) == 0 { next(vmcs12s) } else { (near + next(3)) % vmcs12s };
        let first = if next(12) == 0 { b'a' } else { b'A' };
        char::from(first + near as u8)
    };
    (0..length).map(|_| letter()).collect()
}

/// What the curve of one run says of each size under each rule, runs at that size under that rule find, to the miss: of the
/// built-in guests that enter L2, and of drawn orders in which vmcs12s are given up.
#[test]
fn curves_agree_with_real_runs_at_each_size() {
    let orders = [drawn(0x1234_5678, 5, 60), drawn(0xfeed_beef, 9, 90)].map(|order| format!("pool-thrash:{order}"));
    for guest in ["pool-thrash", "demo", "nest"].into_iter().chain(orders.iter().map(String::as_str)) {
        let (_, any) = missed(guest, 3, PoolRecycle::Lru);
        let [pool] = &any.pools[..] else { panic!("{guest}") };
        for size in 1..=8 {
            let says = pool.curve.at(size.into()).expect("a row");
            assert_eq!(missed(guest, size, PoolRecycle::Lru).0, says.lru, "{guest}, {size} slots, LRU");
            assert_eq!(missed(guest, size, PoolRecycle::Fifo).0, says.fifo, "{guest}, {size} slots, FIFO");
        }
    }
    // The rules differ somewhere, or the test tells nothing of them.
    let (_, any) = missed(&orders[1], 2, PoolRecycle::Fifo);
    assert!(any.pools[0].curve.sizes.iter().any(|row| row.lru != row.fifo));
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
