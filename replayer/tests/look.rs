//! A look at a place changes nothing, and agrees with what the events say.

mod common;

use common::{config, record};
use hv_defs::event::{Actor, PoolOp, VmcsOp, VpidOp, What, Which};
use hv_defs::vmcs::{self, Class, TABLE};
use replayer::look::{self, Ended, Space, State, Structure};
use replayer::{Arrived, Cursor, Runner};
use std::collections::BTreeMap;
use traces::Reader;

/// Events all over a trace, some 60.
fn places(reader: &Reader) -> impl Iterator<Item = u64> {
    (0..reader.len() - 1).step_by((reader.len() as usize / 60).max(1))
}

/// All that can be looked at, looked at.
fn look_at_all(cursor: &mut Cursor<'_>) -> State {
    let state = State::of(cursor);
    let l0 = cursor.machine().l0();
    for guest in &state.guests {
        let (vcpu, level) = (guest.runner.vcpu, guest.runner.level);
        for register in ["rip", "rsp", "cr3"] {
            let at = guest.get(register).expect("is kept");
            for space in [Space::Linear(level), Space::Physical(level), Space::Host] {
                look::walk(l0, vcpu, space, at).expect("there is such a guest");
                assert_eq!(look::memory(l0, vcpu, space, at, 300).len(), 300);
            }
        }
    }
    state
}

#[test]
fn looking_changes_nothing() {
    for (guest, policy) in [("demo", "mapped"), ("nest", "kvm-2021"), ("handover", "kvm-2020")] {
        let reader = record(&config(guest, policy));
        let mut cursor = Cursor::open(&reader).expect("opened");
        for event in places(&reader) {
            cursor.to_event(event).expect("sound");
            let machine = cursor.machine();
            let before = (hv::silicon::Silicon::digest(machine.silicon()), machine.save());
            let first = look_at_all(&mut cursor);
            assert_eq!(first, look_at_all(&mut cursor), "{guest} at {event}");
            let machine = cursor.machine();
            let after = (hv::silicon::Silicon::digest(machine.silicon()), machine.save());
            assert!(before == after, "{guest} at {event}");
        }
        // And the run goes on as it was recorded.
        assert!(matches!(cursor.to_event(reader.len()).expect("sound"), Arrived::End(Some(_))), "{guest}");
    }
}

#[test]
fn a_guest_that_just_left_has_the_registers_that_it_left() {
    let mut compared = 0;
    for (guest, policy) in [("demo", "mapped"), ("nest", "kvm-2021")] {
        let reader = record(&config(guest, policy));
        let events = common::events(&reader);
        let mut cursor = Cursor::open(&reader).expect("opened");
        let mut entered = 0;
        for (number, event) in events.iter().enumerate() {
            let exit = match &event.what {
                What::Entry(_) => {
                    entered = event.at.instruction;
                    continue;
                }
                What::Exit(exit) => exit,
                _ => continue,
            };
            // It ran before it left, so that there is a place where it runs and is about to.
            if exit.level < 2 || exit.handled_by != Actor::L1 || entered == event.at.instruction || number % 7 != 0 {
                continue;
            }
            let runner = Runner { vcpu: event.at.vcpu.into(), level: exit.level };
            assert_eq!(cursor.to_instruction(event.at.instruction).expect("sound"), Arrived::There);
            let before = State::of(&mut cursor);
            let running = before.guest(runner).filter(|guest| guest.runs).expect("it runs still");
            assert_eq!(cursor.to_event(number as u64).expect("sound"), Arrived::There);
            let mut after = State::of(&mut cursor);
            assert_eq!(after.guest(runner).expect("it is there").get("rax"), None, "nobody keeps it");
            after.just_left(runner);
            for name in ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r15"] {
                let left = after.guest(runner).expect("it is there").get(name);
                assert_eq!(left, running.get(name), "{name} at event {number} of {guest}");
            }
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

/// The pool and the VPID map as the events tell of them: by vCPU and slot, or vpid02, what it is for and when it was used.
#[derive(Default)]
struct Told {
    pool: BTreeMap<(u16, u64), (Option<u64>, u64)>,
    vpids: BTreeMap<(u16, u16), (u16, u64)>,
}

impl Told {
    fn add(&mut self, number: u64, vcpu: u16, what: &What) {
        match what {
            What::Pool(pool) => {
                let for_whom = (pool.op != PoolOp::Free).then_some(pool.vmcs12);
                self.pool.insert((vcpu, pool.slot.into()), (for_whom, number));
            }
            What::Vpid(vpid) if vpid.op == VpidOp::Free => _ = self.vpids.remove(&(vcpu, vpid.vpid02)),
            What::Vpid(vpid) => _ = self.vpids.insert((vcpu, vpid.vpid02), (vpid.vpid12, number)),
            _ => {}
        }
    }
}

/// Returns how many places of pools were compared.
#[track_caller]
fn check(guest: &str, policy: &str) -> usize {
    let reader = record(&config(guest, policy));
    let mut cursor = Cursor::open(&reader).expect("opened");
    let mut events = (0..).zip(reader.events(0));
    let mut told = Told::default();
    let (mut pools, mut fields) = (0, 0);
    // What events say that a field of a VMCS holds which silicon does not write by itself.
    let mut held: BTreeMap<(Which, u64, usize), u64> = BTreeMap::new();
    for place in places(&reader) {
        assert_eq!(cursor.to_event(place).expect("sound"), Arrived::There);
        let state = State::of(&mut cursor);
        for (number, event) in events.by_ref().take_while(|(number, _)| number + 1 < state.events).chain(None) {
            let event = event.expect("sound");
            told.add(number, event.at.vcpu, &event.what);
            hold(&mut held, &event.what);
        }
        // The last one was taken by the loop's end.
        let last = reader.event(state.events - 1).expect("sound");
        told.add(state.events - 1, last.at.vcpu, &last.what);
        hold(&mut held, &last.what);
        for (vcpu, kept) in (0u16..).zip(&state.vcpus) {
            let mut wanted: Vec<_> = told.pool.range((vcpu, 0)..=(vcpu, u64::MAX)).collect();
            wanted.sort_by_key(|(key, (vmcs12, used))| match vmcs12 {
                None => (0, key.1),
                Some(_) => (1, *used),
            });
            let wanted: Vec<_> = wanted.into_iter().map(|(key, (vmcs12, _))| (key.1, *vmcs12)).collect();
            let found: Vec<_> = kept.pool.iter().map(|slot| (slot.slot as u64, slot.vmcs12.map(|at| at.0))).collect();
            assert_eq!(found, wanted, "{guest} under {policy} at {place}");
            pools += found.len();
            let mut wanted: Vec<_> = told.vpids.range((vcpu, 0)..=(vcpu, u16::MAX)).collect();
            wanted.sort_by_key(|(_, (_, used))| *used);
            let wanted: Vec<_> = wanted.into_iter().map(|(key, (vpid12, _))| (*vpid12, key.1)).collect();
            match kept.vpids.single {
                0 => assert_eq!(kept.vpids.pairs, wanted, "{guest} under {policy} at {place}"),
                single => assert!(wanted.iter().all(|pair| *pair == (kept.vpids.last, single)), "{wanted:?}"),
            }
            let mut agree = |which, at: u64, vmcs: &look::Vmcs| {
                for (row, said) in (0..TABLE.len()).filter_map(|row| Some((row, held.get(&(which, at, row))?))) {
                    let name = TABLE[row].name;
                    assert_eq!(vmcs.row(row), *said, "{which} {name} of {guest} under {policy} at {place}");
                    fields += 1;
                }
            };
            agree(Which::Vmcs01, kept.vmcs01.0, &kept.vmcs01.1);
            if let Some((at, vmcs)) = &kept.vmcs12 {
                agree(Which::Vmcs12, *at, vmcs);
            }
            if let Some((at, vmcs)) = &kept.vmcs02 {
                agree(Which::Vmcs02, *at, vmcs);
            }
        }
    }
    assert!(fields > 200, "{guest} under {policy}: {fields}");
    pools
}

fn hold(held: &mut BTreeMap<(Which, u64, usize), u64>, what: &What) {
    let What::Vmcs(access) = what else { return };
    let silicons = matches!(access.field.class(), Class::Guest | Class::ExitInformation);
    // An exit takes the valid bit of what was to be injected.
    let taken = access.field == vmcs::ENTRY_INTERRUPTION_INFO.field();
    let Some(row) = access.field.index().filter(|_| !silicons && !taken) else { return };
    match access.op {
        VmcsOp::Read | VmcsOp::Write => _ = held.insert((access.which, access.address, row), access.value),
        VmcsOp::Clear | VmcsOp::Load | VmcsOp::Store => {}
    }
}

#[test]
fn what_is_seen_is_what_the_events_say() {
    let pools = check("demo", "mapped")
        + check("demo", "kvm-2011")
        + check("pool-thrash", "kvm-2021")
        + check("pool-thrash", "ideal")
        + check("flush-storm", "kvm-2020")
        + check("nest", "mapped")
        + check("handover", "kvm-2021");
    assert!(pools > 100, "{pools}");
}

#[test]
fn walks_end_where_memory_is_read() {
    let reader = record(&config("demo", "mapped"));
    let mut cursor = Cursor::open(&reader).expect("opened");
    let mut deep = 0;
    for event in places(&reader) {
        cursor.to_event(event).expect("sound");
        let state = State::of(&mut cursor);
        for guest in &state.guests {
            let (vcpu, level) = (guest.runner.vcpu, guest.runner.level);
            let rip = guest.get("rip").expect("is kept");
            let l0 = cursor.machine().l0();
            let stages = look::walk(l0, vcpu, Space::Linear(level), rip).expect("there is such a guest");
            let seen = look::memory(l0, vcpu, Space::Linear(level), rip, 16);
            for stage in &stages {
                let Ended::At { address, .. } = stage.trail.ended else { continue };
                assert_eq!(look::memory(l0, vcpu, stage.to, address, 16), seen, "{} at {event}", stage.structure);
                deep += u32::from(stage.structure == Structure::Ept02);
            }
            let here = guest.code.iter().find(|instruction| instruction.address == rip).expect("is among them");
            let bytes: Vec<_> = here.bytes.iter().copied().map(Some).collect();
            assert_eq!(bytes, seen[..bytes.len()]);
            // Instructions follow one another without a gap.
            for pair in guest.code.windows(2) {
                assert_eq!(pair[0].address + pair[0].bytes.len() as u64, pair[1].address);
            }
        }
    }
    assert!(deep > 1, "{deep}");
}

#[test]
fn a_place_is_reached_in_pieces() {
    let reader = record(&config("demo", "mapped"));
    let mut whole = Cursor::open(&reader).expect("opened");
    let mut pieces = Cursor::open(&reader).expect("opened");
    for event in places(&reader).chain([7, 3, 900]) {
        assert_eq!(whole.to_event(event).expect("sound"), Arrived::There);
        let arrived = loop {
            if let Some(arrived) = pieces.toward(event, &mut || true).expect("sound") {
                break arrived;
            }
            // It goes on by a piece each time, whoever asks for no more than one question at a time.
            if let Some(arrived) = pieces.toward(event, &mut || false).expect("sound") {
                break arrived;
            }
        };
        assert_eq!(arrived, Arrived::There);
        assert_eq!(State::of(&mut whole), State::of(&mut pieces), "{event}");
    }
}
