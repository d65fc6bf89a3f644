//! The built-in guests, end to end: what they print, and the counts that their own files derive on paper.

#[path = "support/collect.rs"]
mod collect;

use collect::{config, run};
use hv_defs::event::{Actor, Cause, EptOp, Kind, PoolOp, StopKind, VmcsOp, What};
use hv_defs::exit::Reason;
use hv_defs::policy::Shadowing;
use hv_defs::vmcs::ENTRY_INTERRUPTION_INFO;

const PASSED: u32 = 1;

fn check_console(guest: &str, policy: &str, expected: &str) {
    let run = run(&config(guest, policy));
    assert_eq!(run.console, expected, "{guest} under {policy}: {:?}", run.stop);
    let stop = run.stop.expect("an end");
    assert_eq!((stop.kind, stop.code), (StopKind::DebugExit, PASSED), "{guest} under {policy}: {stop:?}");
    assert_eq!(run.events.last().map(|event| event.what.clone()), Some(What::Stop(stop)));
}

const DEMO: &str = "\
demo: VMX is on
A: round 1 on nvmxdemo, sum 1441280
B: round 1 on nvmxdemo, sum 1443328
A: tick 1
A: round 2 on nvmxdemo, sum 3534336
B: tick 1
B: round 2 on nvmxdemo, sum 3536384
A: tick 2
A: round 3 on nvmxdemo, sum 5627392
B: tick 2
B: round 3 on nvmxdemo, sum 5629440
A: tick 3
B: tick 3
demo: 314 exits: 6 CPUID, 6 HLT, 2 VMCALL, 276 I/O, 24 EPT violations
demo: done
";

const EVERY_POLICY: [&str; 9] =
    ["no-vpid", "kvm-2011", "kvm-2013-pool", "kvm-2015", "kvm-2018", "kvm-2020", "kvm-2021", "mapped", "ideal"];

#[test]
fn demo_prints_the_same_under_every_policy() {
    for policy in EVERY_POLICY {
        check_console("demo", policy, DEMO);
    }
}

#[test]
fn demo_is_the_same_on_any_slices_cpus_and_tlbs() {
    let check = |slice: u64, pcpus: u16, tlb_entries: u32| {
        let config = hv_defs::config::Config { slice, pcpus, tlb_entries, ..config("demo", "mapped") };
        assert_eq!(run(&config).console, DEMO, "slices of {slice}, {pcpus} CPUs, TLBs of {tlb_entries}");
    };
    check(1_000, 1, 1536);
    check(777, 1, 16);
    check(100, 1, 1536);
    check(1_000, 2, 1536);
    check(333, 3, 64);
}

#[test]
fn exits_that_l1_counted_are_those_that_the_events_show() {
    let run = run(&config("demo", "mapped"));
    let check = |reason: Reason, expected: usize| {
        let seen = run.events.iter().filter(|event| match event.what {
            What::Exit(exit) => exit.level == 2 && exit.handled_by == Actor::L1 && exit.basic() == reason,
            _ => false,
        });
        assert_eq!(seen.count(), expected, "{reason}");
    };
    check(Reason::CPUID, 6);
    check(Reason::HLT, 6);
    check(Reason::VMCALL, 2);
    check(Reason::IO_INSTRUCTION, 276);
    check(Reason::EPT_VIOLATION, 24);
    // L1 asks for six injections. (Silicon is asked more often: the first delivery of each L2 touches pages that EPT02
    // does not have yet, and L0 injects anew.)
    let asked = run.events.iter().filter(|event| match event.what {
        What::Vmcs(access) => {
            access.actor == Actor::L1
                && access.op == VmcsOp::Write
                && access.field == ENTRY_INTERRUPTION_INFO.field()
                && access.value == 0x8000_0041
        }
        _ => false,
    });
    assert_eq!(asked.count(), 6);
    let marks = run.events.iter().filter_map(|event| match event.what {
        What::Mark(mark) => Some(mark),
        _ => None,
    });
    assert_eq!(marks.collect::<Vec<_>>(), [1, 2, 3]);
}

const FLUSH_STORM: &str = "\
flush-storm: 8 trips with the same VPID
flush-storm: 8 trips with another VPID each
flush-storm: 4 trips, an INVVPID before each
flush-storm: 8 trips with another EPT pointer each
flush-storm: 2 trips, an INVEPT before each
flush-storm: 4 trips without VPID
flush-storm: done
";

/// The flushes of a policy by cause, as `flush-storm`'s own file derives them.
fn check_flushes(policy: &str, expected: &[(Cause, usize)]) {
    check_console("flush-storm", policy, FLUSH_STORM);
    let run = run(&config("flush-storm", policy));
    let mut seen = std::collections::BTreeMap::new();
    for event in &run.events {
        if let What::Flush(flush) = event.what {
            *seen.entry(flush.cause.name()).or_insert(0) += 1;
        }
    }
    let expected = expected.iter().filter(|(_, count)| *count != 0).map(|(cause, count)| (cause.name(), *count));
    assert_eq!(seen, expected.collect(), "{policy}");
}

#[test]
fn flush_storm_flushes_as_each_policy_must() {
    use Cause::*;
    // 34 entries and as many exits; 68 roots loaded.
    check_flushes(
        "kvm-2011",
        &[
            (NestedEntry, 34),
            (NestedExit, 34),
            (RootLoad, 68),
            (InvvpidEmulation, 4),
            (InveptEmulation, 3),
            (WriteProtect, 4),
            (Guest, 6),
        ],
    );
    // The first entry and the eight of phase 2 have a new vpid12; phase 6's four have none.
    check_flushes(
        "kvm-2015",
        &[
            (NestedEntry, 4),
            (NestedExit, 4),
            (Vpid12Change, 9),
            (RootLoad, 68),
            (InvvpidEmulation, 4),
            (InveptEmulation, 3),
            (WriteProtect, 4),
            (VpidFree, 1),
            (Guest, 6),
        ],
    );
    // Two vpid02s, both flushed when L1 flushes all and both freed.
    check_flushes(
        "mapped",
        &[
            (NestedEntry, 4),
            (NestedExit, 4),
            (InvvpidEmulation, 5),
            (InveptEmulation, 3),
            (WriteProtect, 4),
            (VpidFree, 2),
            (Guest, 6),
        ],
    );
}

const POOL_THRASH: &str = "\
pool-thrash: ABCDEFABCDEF
pool-thrash: AAAA
pool-thrash: ABABABAB
pool-thrash: ABCABCABC
pool-thrash: FEDCBAABCDEF
pool-thrash: done
";

#[test]
fn pool_thrash_misses_as_its_stack_distances_say() {
    // How often each depth: 1 five times, 2 nine, 3 seven, 4 three, 5 three, 6 twelve; six first entries.
    let check = |size: u16, hits: usize, misses: usize, recycled: usize| {
        let mut config = config("pool-thrash", "mapped");
        config.policy.pool = size;
        let run = run(&config);
        assert_eq!(run.console, POOL_THRASH, "a pool of {size}: {:?}", run.stop);
        let count = |wanted: PoolOp| {
            run.events.iter().filter(|event| matches!(event.what, What::Pool(pool) if pool.op == wanted)).count()
        };
        assert_eq!(
            (count(PoolOp::Hit), count(PoolOp::Miss), count(PoolOp::Recycle)),
            (hits, misses, recycled),
            "a pool of {size}"
        );
    };
    check(1, 5, 1, 39);
    check(2, 14, 2, 29);
    check(4, 24, 4, 17);
    check(8, 39, 6, 0);
}

#[test]
fn stale_sees_the_stale_value_where_nothing_flushes() {
    let console = |second: u32, showed: &str| {
        format!(
            "stale: at first L2 reads 1111\n\
             stale: after the change, without INVEPT, L2 reads {second}\n\
             stale: after INVEPT L2 reads 2222\n\
             stale: the forgotten INVEPT {showed}\n"
        )
    };
    for policy in ["kvm-2018", "kvm-2020", "kvm-2021", "mapped", "ideal"] {
        check_console("stale", policy, &console(1111, "showed"));
    }
    // A flush at each load of a root hides what L1 forgot.
    for policy in ["kvm-2011", "kvm-2013-pool", "kvm-2015"] {
        check_console("stale", policy, &console(2222, "did not show"));
    }
}

#[test]
fn the_events_of_stale_show_the_change_and_no_flush_of_l1s_before_the_next_entry() {
    let run = run(&config("stale", "mapped"));
    let phase: Vec<_> = run
        .events
        .iter()
        .skip_while(|event| event.what != What::Mark(2))
        .take_while(|event| event.what != What::Mark(3))
        .collect();
    let synced = phase.iter().any(|event| match event.what {
        What::Ept(change) => change.op == EptOp::Sync && change.gpa == 0x1_0000 && change.old != change.new,
        _ => false,
    });
    assert!(synced, "EPT02 was not brought in line");
    let flushed = phase.iter().any(|event| matches!(event.what, What::Flush(flush) if flush.actor == Actor::L1));
    assert!(!flushed, "L1 flushed after all");
}

#[test]
fn resync_counts_its_rounds() {
    // L2 reads, one less in each round than what it then writes and gives.
    for preset in hv_defs::policy::PRESETS {
        check_console("resync", preset.name, "resync: L2 has counted to 8\n");
    }
}

/// For each way of VMCS shadowing what the guest's file derives: VMREADs by which L2 exits, and exits of L2 that L1 serves;
/// of L1's own, one VMRESUME for each of these but the last, and so many VMREADs in serving all but that.
#[test]
fn multiplication_exits_as_its_file_derives() {
    let check = |policy: &str, shadowing: Shadowing, l2_reads: usize, served: usize, l1_reads: usize| {
        let mut config = config("multiplication", policy);
        config.policy.shadowing = shadowing;
        let run = run(&config);
        let console = format!("multiplication: L1 served {served} exits of L2\n");
        assert_eq!(run.console, console, "{shadowing} under {policy}: {:?}", run.stop);
        let exits: Vec<_> = run
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Exit(exit) => Some(exit),
                _ => None,
            })
            .collect();
        let first = exits.iter().position(|exit| exit.level == 2).expect("an exit of L2");
        let last = exits.iter().rposition(|exit| exit.level == 2).expect("an exit of L2");
        let count = |level: u8, reason: Reason| {
            exits[first..last].iter().filter(|exit| (exit.level, exit.basic()) == (level, reason)).count()
        };
        assert_eq!(count(2, Reason::VMREAD), l2_reads, "{shadowing} under {policy}");
        let reflected = exits.iter().filter(|exit| exit.level == 2 && exit.handled_by == Actor::L1).count();
        assert_eq!(reflected, served, "{shadowing} under {policy}");
        assert_eq!(count(1, Reason::VMRESUME), served - 1, "{shadowing} under {policy}");
        assert_eq!(count(1, Reason::VMREAD), l1_reads, "{shadowing} under {policy}");
        for (reason, times) in
            [(Reason::CPUID, 8), (Reason::IO_INSTRUCTION, 12 + 4), (Reason::INVEPT, 4), (Reason::INVVPID, 4)]
        {
            assert_eq!(count(1, reason), times, "{reason}: {shadowing} under {policy}");
        }
    };
    for policy in EVERY_POLICY {
        // 4 for each that is served, and 3 more for each RDMSR.
        check(policy, Shadowing::Off, 3, 31, 30 * 4 + 5 * 3);
        check(policy, Shadowing::Emulated, 3, 28, 27 * 4 + 5 * 3);
        check(policy, Shadowing::Virtualized, 0, 28, 27 * 4 + 5 * 3);
    }
}

#[test]
fn two_runs_are_one() {
    for guest in hv::guests::list() {
        for policy in ["no-vpid", "kvm-2015", "mapped"] {
            let config = config(guest.name, policy);
            let (first, second) = (run(&config), run(&config));
            let differs = first.events.iter().zip(&second.events).position(|(a, b)| a != b);
            assert_eq!((differs, first.events.len()), (None, second.events.len()), "{} under {policy}", guest.name);
            assert!(first.events.iter().any(|event| event.what.kind() == Kind::Digest));
        }
    }
}
