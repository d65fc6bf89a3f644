//! What each preset does that the one before it does not, on the built-in guests; and the vmcs02 pool.

#[path = "support/collect.rs"]
mod collect;

use collect::{Run, config, run};
use hv_defs::config::Config;
use hv_defs::event::{Actor, Cause, EptOp, PoolOp, VmcsOp, What, Which};
use hv_defs::policy::{PRESETS, Policy, Tags, TransitionFlush};
use std::collections::{BTreeMap, BTreeSet};

/// L0's flushes by cause.
fn flushes(run: &Run) -> BTreeMap<&'static str, usize> {
    let mut seen = BTreeMap::new();
    for event in &run.events {
        match event.what {
            What::Flush(flush) if flush.actor == Actor::L0 => *seen.entry(flush.cause.name()).or_insert(0) += 1,
            _ => {}
        }
    }
    seen
}

/// flush-storm's 34 trips, of which its own file derives the first three of these on paper. What the others do differently:
///
/// - `no-vpid`: silicon drops at each of the 34 entries of L2 and at each of the 34 exits to L1, and at all of L1's own
///   exits and entries too; roots are loaded 68 times. L1's INVVPIDs have no VPID to name.
/// - `kvm-2013-pool`: as 2011, since its pool changes no flush.
/// - `kvm-2018`: as 2015, but that a mere switch of roots flushes nothing. It keeps one root, so that each of phase 4's 8
///   entries makes a new one, and so does no other but the first: 9 roots. A root's page and the three tables below it
///   are made read-only when it is new; L1 writes none of them, so they stay so: 4 flushes, as in the others. L1's two
///   INVEPTs find the one root that is there, A's: 2.
/// - `kvm-2020` and `kvm-2021`: as 2018, with both roots cached, so 3 for the two INVEPTs.
/// - `ideal`: as `mapped`, but no flush at an exit of phase 6, since what L1 had cached has gone at the entry; and none at
///   VMXOFF, since nobody takes the VPIDs that are given up.
#[test]
fn each_year_flushes_as_its_row_says() {
    let check = |preset: &str, expected: &[(&'static str, usize)]| {
        let run = run(&config("flush-storm", preset));
        assert!(run.console.ends_with("flush-storm: done\n"), "{preset}: {}", run.console);
        let mut seen = flushes(&run);
        if preset == "no-vpid" {
            seen.retain(|cause, _| !cause.starts_with("hardware"));
        }
        assert_eq!(seen, expected.iter().copied().collect(), "{preset}");
    };
    let entry = ("nested-entry", 34);
    let exit = ("nested-exit", 34);
    let (four, two) = (("write-protect", 4), ("vpid-free", 2));
    let invvpid = ("invvpid-emulation", 4);
    let invept = ("invept-emulation", 3);
    let root = ("root-load", 68);
    let untagged = [("nested-entry", 4), ("nested-exit", 4)];
    let change = ("vpid12-change", 9);
    let free = ("vpid-free", 1);
    check("no-vpid", &[root, invept, four]);
    check("kvm-2011", &[entry, exit, root, invvpid, invept, four]);
    check("kvm-2013-pool", &[entry, exit, root, invvpid, invept, four]);
    check("kvm-2015", &[untagged[0], untagged[1], change, root, invvpid, invept, four, free]);
    check("kvm-2018", &[untagged[0], untagged[1], change, invvpid, ("invept-emulation", 2), four, free]);
    check("kvm-2020", &[untagged[0], untagged[1], change, invvpid, invept, four, free]);
    check("kvm-2021", &[untagged[0], untagged[1], change, invvpid, invept, four, free]);
    check("mapped", &[untagged[0], untagged[1], ("invvpid-emulation", 5), invept, four, two]);
    check("ideal", &[untagged[0], ("invvpid-emulation", 5), invept, four]);
}

/// Roots that were made, by their events: a switch to a pointer that was not there.
#[test]
fn one_root_is_kept_or_several() {
    let roots = |preset: &str| {
        let run = run(&config("flush-storm", preset));
        let switches = run.events.iter().filter_map(|event| match &event.what {
            What::Ept(change) if change.op == EptOp::Switch => Some(change.eptp02),
            _ => None,
        });
        (switches.clone().count(), switches.collect::<BTreeSet<_>>().len())
    };
    // The first entry and the 8 of phase 4 load another root than the entry before.
    assert_eq!(roots("kvm-2018").0, 9);
    assert_eq!(roots("kvm-2020"), (9, 2));
    assert_eq!(roots("mapped"), (9, 2));
}

/// What the entries of an L2 found in the pool: by operation, how often, and the fewest and most VMWRITEs.
fn pool(guest: &str, policy: Policy) -> BTreeMap<&'static str, (usize, u16, u16)> {
    let run = run(&Config { policy, ..config(guest, "mapped") });
    let mut seen = BTreeMap::new();
    for event in &run.events {
        if let What::Pool(pool) = event.what
            && pool.op != PoolOp::Free
        {
            let row = seen.entry(pool.op.name()).or_insert((0, u16::MAX, 0));
            *row = (row.0 + 1, row.1.min(pool.written), row.2.max(pool.written));
        }
    }
    seen
}

/// The vmcs02 pool, on `pool-thrash`, whose file derives what a pool of each size finds. While all fields are written at each entry
/// a hit saves nothing; with dirty fields it writes what has changed: RIP, and what its exit has changed with it.
#[test]
fn a_hit_of_the_pool_saves_the_vmwrites_of_what_has_not_changed() {
    let preset = |name: &str| Policy::preset(name).unwrap();
    let all = pool("pool-thrash", preset("kvm-2013-pool"));
    let (hits, fewest, most) = all["hit"];
    assert_eq!((hits, all["miss"].0, all.get("recycle")), (39, 6, None));
    assert!(fewest == most && all["miss"] == (6, most, most), "{all:?}");

    let dirty = pool("pool-thrash", preset("mapped"));
    let (hits, _, most_by_hit) = dirty["hit"];
    assert_eq!(hits, 39);
    assert!(most_by_hit <= 8, "{dirty:?}");
    assert!(dirty["miss"].1 > 80, "{dirty:?}");

    // One slot: an entry of another L2 than the last writes all of it again.
    let one = pool("pool-thrash", preset("kvm-2018"));
    assert_eq!((one["hit"].0, one["miss"].0, one["recycle"].0), (5, 1, 39));
    assert!(one["recycle"].1 > 80 && one["hit"].2 <= 8, "{one:?}");
}

/// saved_vmcs: a VMCS that was active on another CPU is cleared there, and launched anew here; one that stays is resumed.
#[test]
fn a_vmcs_that_moves_is_cleared_where_it_was_and_launched_anew() {
    for preset in ["kvm-2011", "kvm-2018", "mapped"] {
        let run = run(&Config { pcpus: 3, slice: 500, ..config("witness", preset) });
        assert!(run.console.ends_with("all true\n"), "{preset}: {}", run.console);
        // By VMCS: where it is active, and whether it was launched there.
        let mut active: BTreeMap<u64, (u16, bool)> = BTreeMap::new();
        let (mut moves, mut resumes) = (0, 0);
        for event in &run.events {
            let here = event.at.pcpu;
            match event.what {
                What::Vmcs(access) if access.which != Which::Vmcs12 && access.which != Which::Shadow12 => {
                    match (access.op, active.get(&access.address).copied()) {
                        (VmcsOp::Load, at) => {
                            assert!(at.is_none_or(|(at, _)| at == here), "{preset}: active elsewhere: {event:?}");
                            active.entry(access.address).or_insert((here, false));
                        }
                        (VmcsOp::Clear, at) => {
                            assert!(at.is_none_or(|(at, _)| at == here), "{preset}: cleared elsewhere: {event:?}");
                            active.remove(&access.address);
                        }
                        _ => {}
                    }
                }
                What::Entry(entry) if entry.failed.is_none() => {
                    let (at, launched) = active[&entry.vmcs02];
                    assert_eq!((at, entry.launch), (here, !launched), "{preset}: {event:?}");
                    active.insert(entry.vmcs02, (here, true));
                    resumes += usize::from(!entry.launch);
                }
                What::Migration(_) => moves += 1,
                _ => {}
            }
        }
        assert!(moves > 10 && resumes > 100, "{preset}: {moves} moves, {resumes} resumes");
    }
}

/// What `ideal` leaves out when a vCPU comes back to a CPU: nothing that `without_a_slip_all_is_true` misses, and at least
/// the INVEPT of all roots, which no INVEPT of L1's asked for.
#[test]
fn ideal_flushes_least_and_needs_no_more() {
    let migrated = |policy: Policy| {
        let run = run(&Config { pcpus: 3, slice: 500, policy, ..config("witness", "ideal") });
        assert!(run.console.ends_with("all true\n"), "{policy:?}: {}", run.console);
        let all = flushes(&run);
        (all[Cause::Migration.name()], all.values().sum::<usize>())
    };
    let ideal = migrated(Policy::preset("ideal").unwrap());
    for preset in PRESETS.iter().filter(|preset| preset.policy.tags == Tags::Mapped && preset.name != "ideal") {
        let other = migrated(preset.policy);
        assert!(ideal.0 < other.0 && ideal.1 < other.1, "{}: {ideal:?} and {other:?}", preset.name);
    }
    // The rule by itself, over one VPID for all L2s.
    let single = Policy { transition_flush: TransitionFlush::Needed, ..Policy::preset("kvm-2018").unwrap() };
    assert!(migrated(single).1 < migrated(Policy::preset("kvm-2018").unwrap()).1);
}
