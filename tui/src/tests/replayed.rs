//! What a replay shows: the panes as they look, and that it agrees with what the events say.

use super::{Session, sample};
use crate::model::Side;
use crate::replay::work::Replay;
use crate::replay::{self, Told};
use crate::state::Fold;
use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::Which;
use hv_defs::policy::Policy;
use hv_defs::vmcs::{self, Class, TABLE};
use recorder::{Outside, Script};
use std::sync::atomic::AtomicBool;
use traces::{Header, Image, Reader, Writer};

/// A recording of a built-in guest.
fn record(guest: &str, policy: &str) -> Vec<u8> {
    let policy = Policy::preset(policy).expect("a preset");
    let config = Config { policy, ..Config::new(Guest::BuiltIn(guest.into())) };
    let (mut bytes, mut shown) = (Vec::new(), Vec::new());
    let outside = Outside {
        console: &mut shown,
        keys: &mut Script([].into()),
        stop: &AtomicBool::new(false),
        watch: &mut |_| {},
    };
    recorder::record_to(&config, &[], &mut bytes, outside).expect("recorded");
    bytes
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);

#[track_caller]
fn check(name: &str, bytes: &[u8], size: (u16, u16), keys: &str) {
    let mut session = Session::open(bytes.to_vec(), size);
    session.keys(keys);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, session.screen());
    });
}

#[test]
fn panes_look_as_they_should() {
    let demo = record("demo", "mapped");
    check("replayed_regs", &demo, SMALL, ":21500\n5");
    check("replayed_regs_large", &demo, SMALL, ":21500\n5:21530\nz");
    check("replayed_regs_of_l2", &demo, SMALL, ":21500\n5zx");
    check("replayed_regs_as_left", &demo, SMALL, ":21500\n}5z");
    check("replayed_tlb", &demo, SMALL, ":21500\n6");
    check("replayed_tlb_search", &demo, SMALL, ":21500\n6z/2303000\n");
    check("replayed_pool", &demo, SMALL, ":21500\n7");
    check("replayed_memory", &demo, SMALL, ":21500\n8");
    check("replayed_memory_large", &demo, SMALL, ":21500\n8z/rsp+8\n");
    check("replayed_memory_of_host", &demo, SMALL, ":21500\n8zxx");
    check("replayed_memory_of_l2", &demo, SMALL, ":21500\n8zxxx");
    check("replayed_state", &demo, SMALL, ":21500\n2z");
    check("replayed_event", &demo, SMALL, "fexit and level == 2 and reason == CPUID\n51");
    check("replayed_wide", &demo, LARGE, ":21500\n5");
    check("replayed_wide_memory", &demo, LARGE, ":21500\n8");
}

#[test]
fn without_a_replay_the_panes_show_what_events_tell() {
    let imported = sample::imported();
    check("told_regs", &imported, SMALL, ":400\n5");
    check("told_tlb", &imported, SMALL, ":400\n6");
    check("told_pool", &imported, SMALL, ":400\n7");
    check("told_memory", &imported, SMALL, ":400\n8");
}

/// A trace whose kernel is not in it, but perhaps in a store.
#[test]
fn a_trace_without_its_images_says_so() {
    let told = |images: Vec<Image>| {
        let guest = Guest::Kernel { name: "vmlinuz".into(), append: String::new() };
        let mut bytes = Vec::new();
        let mut writer =
            Writer::create(&mut bytes, &Header::new(Config::new(guest), images)).expect("memory takes all");
        sample::events().iter().for_each(|event| writer.push(event).expect("memory takes all"));
        writer.finish().expect("memory takes all");
        Session::open(bytes, SMALL).keys(":300\n8").screen()
    };
    let screen = told(Vec::new());
    assert!(screen.contains("Not replayed: the kernel 'vmlinuz' is not in the trace"), "{screen}");
    let mut elsewhere = Image::new(ImageKind::Kernel, "vmlinuz", b"a kernel".to_vec());
    (elsewhere.bytes, elsewhere.elsewhere) = (None, true);
    let screen = told(vec![elsewhere]);
    assert!(screen.contains("Not replayed: its kernel 'vmlinuz' is elsewhere; --store says where"), "{screen}");
}

/// At many events, what was seen is what the events up to there tell: of the fields that silicon does not write by itself,
/// of the pool and of the VPID map.
#[track_caller]
fn agrees(guest: &str, policy: &str, step: usize) {
    let reader = Reader::from_bytes(record(guest, policy)).expect("a trace");
    let mut replay = Replay::new(&reader, None);
    let rule = reader.header().config.policy.pool_recycle;
    let mut fold = Fold::default();
    let (mut fields, mut places) = (0, 0);
    let events = (0..).zip(reader.events(0).map(|event| event.expect("sound")));
    for (number, event) in events.take(reader.len() as usize - 1) {
        fold.add(number, &event);
        // Steps of an odd length come to each place in a batch of events.
        if !(number as usize).is_multiple_of(step) {
            continue;
        }
        let seen = loop {
            match replay.piece(number, None).told {
                Told::Seen(seen) => break seen,
                Told::Opened | Told::Nearer(_) => {}
                other => panic!("{guest} under {policy} at {number}: {other:?}"),
            }
        };
        let state = seen.state.expect("is there");
        let vcpu = event.at.vcpu;
        let kept = &state.vcpus[usize::from(vcpu)];
        let whole = [
            (Which::Vmcs01, Some(&kept.vmcs01)),
            (Which::Vmcs12, kept.vmcs12.as_ref()),
            (Which::Vmcs02, kept.vmcs02.as_ref()),
        ];
        for (which, (at, vmcs)) in whole.into_iter().filter_map(|(which, vmcs)| Some((which, vmcs?))) {
            for row in TABLE {
                let silicons = matches!(row.field.class(), Class::Guest | Class::ExitInformation);
                // An exit takes the valid bit of what was to be injected.
                let taken = row.field == vmcs::ENTRY_INTERRUPTION_INFO.field();
                let Some(told) = fold.held(which, *at, row.field).filter(|_| !silicons && !taken) else { continue };
                let place = format!("{which} {} of {guest} under {policy} at {number}", row.name);
                assert_eq!(vmcs.read(row.field), Some(told.value), "{place}");
                fields += 1;
            }
        }
        // The pool and the map stand behind all events of the exit.
        if seen.behind == number + 1 {
            let told: Vec<_> =
                fold.kept.pool(vcpu, rule).into_iter().map(|(slot, held)| (slot.into(), held.vmcs12)).collect();
            let found: Vec<_> = kept.pool.iter().map(|slot| (slot.slot, slot.vmcs12.map(|at| at.0))).collect();
            assert_eq!(found, told, "{guest} under {policy} at {number}");
            let told: Vec<_> = fold.kept.vpids(vcpu).into_iter().map(|(vpid12, vpid02, _)| (vpid12, vpid02)).collect();
            if kept.vpids.single == 0 {
                assert_eq!(kept.vpids.pairs, told, "{guest} under {policy} at {number}");
            }
            places += found.len();
        }
    }
    assert!(fields > 500 && places > 0, "{guest} under {policy}: {fields} and {places}");
}

#[test]
fn a_replay_agrees_with_the_events() {
    agrees("demo", "mapped", 1201);
    agrees("demo", "kvm-2011", 1501);
    agrees("pool-thrash", "kvm-2021", 701);
    agrees("flush-storm", "kvm-2020", 301);
}

#[test]
fn a_session_goes_to_and_fro() {
    let mut session = Session::open(record("demo", "mapped"), SMALL);
    // Nothing is built before it is needed.
    session.keys(":9000\n");
    assert!(!session.model.replay.opened);
    session.keys("5");
    assert!(session.model.replay.opened);
    let first = replay::here(&session.model).expect("is seen").clone();
    assert_eq!(first.event, 9000);
    // On, and back to what was seen: the same, and at once.
    session.keys(":15000\n");
    let second = replay::here(&session.model).expect("is seen").clone();
    assert!(second.state.as_ref().expect("is there").instruction > first.state.as_ref().expect("is there").instruction);
    session.keys(":9000\n");
    assert_eq!(replay::here(&session.model), Some(&first));
    assert_eq!(session.model.replay.before.as_ref().map(|before| before.event), Some(15_000));
    // The memory pane follows registers, numbers and views.
    session.keys("8/cr3\n");
    let cr3 = replay::guest(&session.model).and_then(|guest| guest.get("cr3")).expect("is kept");
    assert_eq!(replay::address(&session.model), Some(cr3));
    session.keys("/1000+20\n");
    assert_eq!(replay::address(&session.model), Some(0x1020));
    session.keys("/nonsense\n");
    assert!(session.note().starts_with("An address is hexadecimal"), "{}", session.note());
    session.keys("/rip\nx");
    let (peek, found) = replay::look_here(&session.model).expect("is looked at");
    let level = replay::guest(&session.model).map(|guest| guest.runner.level).expect("one runs");
    assert_eq!(peek.space, replayer::look::Space::Physical(level));
    assert!(found.bytes.iter().all(Option::is_some));
    // A line of the pool's pane leads nowhere, and says so.
    session.keys("7\n");
    assert_eq!(session.note(), "This line is of no single event.");
    assert_eq!(session.model.side, Side::Pool);
}

/// Random keys with a machine behind them: nothing panics, nothing is asked for without end.
#[test]
fn random_keys_do_no_harm_to_a_replay() {
    let mut random = super::random::Random::new(0x0005_eed2);
    let mut session = Session::open(record("flush-storm", "kvm-2020"), SMALL);
    for step in 0..1500 {
        // Back to a pane that a replay fills, now and then.
        match step % 40 {
            0 => _ = session.keys("\u{1b}\u{1b}5"),
            10 => _ = session.keys("\u{1b}\u{1b}6"),
            20 => _ = session.keys("\u{1b}\u{1b}7"),
            30 => _ = session.keys("\u{1b}\u{1b}8"),
            _ => session.send(random.message()),
        }
        session.model.quit = false;
        if step % 10 == 0 {
            session.screen();
        }
    }
    assert!(session.model.replay.opened);
}

#[test]
fn a_replay_that_differs_says_where() {
    let reader = Reader::from_bytes(record("demo", "mapped")).expect("a trace");
    let mut events: Vec<_> = reader.events(0).map(|event| event.expect("sound")).collect();
    let changed = (0..events.len())
        .filter(|at| matches!(events[*at].what, hv_defs::event::What::Exit(_)))
        .nth(300)
        .expect("has as many");
    let hv_defs::event::What::Exit(exit) = &mut events[changed].what else { panic!("an exit") };
    exit.rip ^= 1;
    let mut bytes = Vec::new();
    let header: &Header = reader.header();
    let mut writer = Writer::create(&mut bytes, header).expect("memory takes all");
    events.iter().for_each(|event| writer.push(event).expect("memory takes all"));
    writer.finish().expect("memory takes all");
    let mut session = Session::open(bytes, SMALL);
    session.keys(":9000\n5");
    let screen = session.screen();
    let told =
        format!("The replay differs from the recording, at event {}", crate::describe::thousands(changed as u64));
    assert!(screen.contains(&told), "{screen}");
    // Before that it is shown all the same.
    session.keys(&format!(":{}\n", changed - 100));
    assert!(replay::here(&session.model).is_some());
}
