//! What is written, read back: by hand-made stories, by guests that were recorded, and by events at random.

use super::proto::{BEGIN, COUNTER, DebugAnnotation, END, INSTANT, Trace, TracePacket};
use crate::Source;
use crate::story::{Story, VPID01};
use hv_defs::event::*;
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::vmcs::VPID;
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;

fn written(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = super::write("story.nvmx", Source::Events(events), &mut bytes).expect("a vector takes all");
    assert_eq!((written.events, written.bytes), (events.len() as u64, bytes.len() as u64));
    bytes
}

/// The texts that packets name by number.
#[derive(Default)]
struct Interned {
    names: BTreeMap<u64, String>,
    categories: BTreeMap<u64, String>,
    annotations: BTreeMap<u64, String>,
    words: BTreeMap<u64, String>,
}

impl Interned {
    fn see(&mut self, packet: &TracePacket) {
        let Some(data) = &packet.interned_data else { return };
        for (list, known) in [
            (&data.event_names, &mut self.names),
            (&data.event_categories, &mut self.categories),
            (&data.debug_annotation_names, &mut self.annotations),
            (&data.debug_annotation_string_values, &mut self.words),
        ] {
            for text in list {
                let (number, name) = (text.iid.expect("a number"), text.name.clone().expect("a text"));
                assert_eq!(known.insert(number, name), None, "{number} is given once");
            }
        }
    }

    fn shown(&self, of: &DebugAnnotation) -> String {
        let name = of.name.clone().unwrap_or_else(|| self.annotations[&of.name_iid.expect("a name")].clone());
        let value = match of {
            DebugAnnotation { uint_value: Some(number), .. } => number.to_string(),
            DebugAnnotation { pointer_value: Some(bits), .. } => format!("{bits:#x}"),
            DebugAnnotation { string_value: Some(text), .. } => text.clone(),
            DebugAnnotation { string_value_iid: Some(number), .. } => self.words[number].clone(),
            _ => of.dict_entries.iter().map(|entry| self.shown(entry)).collect::<Vec<_>>().join(","),
        };
        format!("{name}={value}")
    }
}

/// A slice, an instant or a value of a counter.
#[derive(Debug)]
struct Found {
    track: String,
    category: String,
    name: String,
    at: u64,
    /// `None` for what has no length.
    end: Option<u64>,
    depth: usize,
    args: Vec<String>,
}

/// Reads a file, holding it to what Perfetto asks of one: tracks and texts are told of before they are used; slices of a
/// track nest, and are ended; times of slices and counters do not step back.
fn read(bytes: &[u8]) -> Vec<Found> {
    let trace = Trace::decode(bytes).expect("it is a trace");
    let (mut interned, mut tracks) = (Interned::default(), BTreeMap::new());
    let (mut open, mut last) = (BTreeMap::<u64, Vec<usize>>::new(), BTreeMap::<u64, u64>::new());
    let mut found: Vec<Found> = Vec::new();
    for (place, packet) in trace.packet.iter().enumerate() {
        assert_eq!(packet.trusted_packet_sequence_id, Some(1));
        assert_eq!(packet.sequence_flags, Some(if place == 0 { 1 } else { 2 }));
        interned.see(packet);
        if let Some(track) = &packet.track_descriptor {
            let uuid = track.uuid.expect("a number");
            let parent = track.parent_uuid.map(|parent| format!("{}/", tracks[&parent]));
            let own = track.process.as_ref().and_then(|process| process.process_name.clone()).or(track.name.clone());
            let name = format!("{}{}", parent.unwrap_or_default(), own.expect("a name"));
            assert_eq!(tracks.insert(uuid, name), None, "{uuid} is told of once");
        }
        let Some(event) = &packet.track_event else { continue };
        let (at, uuid) = (packet.timestamp.expect("a time"), event.track_uuid.expect("a track"));
        let track: &String = &tracks[&uuid];
        let kind = event.r#type.expect("a type");
        if kind != INSTANT {
            let last = last.entry(uuid).or_default();
            assert!(at >= *last, "{track} steps back from {last} to {at}");
            *last = at;
        }
        let args: Vec<String> = event.debug_annotations.iter().map(|of| interned.shown(of)).collect();
        let stack = open.entry(uuid).or_default();
        if kind == END {
            let slice = &mut found[stack.pop().expect("a slice is open")];
            slice.end = Some(at);
            slice.args.extend(args);
            continue;
        }
        let name = match kind {
            COUNTER => event.counter_value.expect("a value").to_string(),
            _ => event.name.clone().unwrap_or_else(|| interned.names[&event.name_iid.expect("a name")].clone()),
        };
        let category = event.category_iids.first().map(|number| interned.categories[number].clone());
        let depth = stack.len();
        if kind == BEGIN {
            stack.push(found.len());
        }
        let category = category.unwrap_or_default();
        found.push(Found { track: track.clone(), category, name, at, end: None, depth, args });
    }
    assert!(open.values().all(Vec::is_empty), "every slice is ended");
    found
}

/// What is on a track, a line each: `from..to name`, indented as it nests, with those args whose name is wanted.
fn drawn(found: &[Found], track: &str, wanted: &[&str]) -> Vec<String> {
    let of_track = found.iter().filter(|found| found.track == track);
    let lines = of_track.map(|found| {
        let end = found.end.map(|end| format!("..{end}")).unwrap_or_default();
        let has = |arg: &&String| arg.split('=').next().is_some_and(|name| wanted.contains(&name));
        let args: String = found.args.iter().filter(has).map(|arg| format!(" {arg}")).collect();
        format!("{}{}{end} {}{args}", "  ".repeat(found.depth), found.at, found.name)
    });
    lines.collect()
}

#[track_caller]
fn check(story: &Story, track: &str, wanted: &[&str], expected: &[&str]) {
    assert_eq!(drawn(&read(&written(&story.events)), track, wanted), expected, "{track}");
}

/// L2's exit for CPUID goes to L1, which reads a field and enters L2 again; then one for an EPT violation that is L0's.
fn round_trip() -> Story {
    let story = Story::default().l1().exit(1, Reason::VMLAUNCH, Actor::L0).l2(0, 2);
    let story = story.exit(2, Reason::CPUID, Actor::L1).write12(0, VPID.field(), 3).l1();
    let story = story.exit(1, Reason::VMREAD, Actor::L0).l1().exit(1, Reason::VMRESUME, Actor::L0).l2(0, 2);
    story.exit(2, Reason::EPT_VIOLATION, Actor::L0).l2(0, 2).exit(2, Reason::HLT, Actor::L0)
}

#[test]
fn a_reflected_exit_lasts_until_its_guest_goes_on() {
    let wanted = ["event", "caused_exits", "vmwrites", "entered_again", "written"];
    check(
        &round_trip(),
        "vCPU 0/L0",
        &wanted,
        &[
            "20..30 VMLAUNCH event=1 entered_again=2",
            "40..100 CPUID event=3 entered_again=9 caused_exits=2 vmwrites=1 written=vpid=1",
            "  70..80 VMREAD event=6 entered_again=7",
            "  90..100 VMRESUME event=8 entered_again=9",
            "110..120 EPT_VIOLATION event=10 entered_again=11",
            "130..130 HLT event=12",
        ],
    );
    check(
        &round_trip(),
        "vCPU 0/L1",
        &["event"],
        &["10..20 L1 event=0", "40..100 handles CPUID of L2 event=3", "  60..70 L1 event=5", "  80..90 L1 event=7"],
    );
    let runs = ["30..40 L2 event=2", "100..110 L2 event=9", "120..130 L2 event=11"];
    check(&round_trip(), "vCPU 0/L2", &["event"], &runs);
}

#[test]
fn what_leads_to_what_has_an_arrow() {
    let trace = Trace::decode(&written(&round_trip().events)[..]).expect("it is a trace");
    let events = || trace.packet.iter().filter_map(|packet| Some((packet.timestamp?, packet.track_event.as_ref()?)));
    let from: Vec<_> = events().filter(|(_, event)| event.flow_ids == [4]).map(|(at, _)| at).collect();
    let to: Vec<_> = events().filter(|(_, event)| event.terminating_flow_ids == [4]).map(|(at, _)| at).collect();
    assert_eq!((&from[..], &to[..]), (&[40, 40][..], &[100][..]));
}

#[test]
fn an_exit_of_a_source_without_entries_has_no_length() {
    let story = Story::default().exit(1, Reason::CPUID, Actor::L0).exit(1, Reason::HLT, Actor::L0);
    check(&story, "vCPU 0/L0", &["event"], &["10..10 CPUID event=0", "20..20 HLT event=1"]);
}

#[test]
fn flushes_wait_for_their_verdict() {
    let single = FlushKind::InvvpidSingle;
    let story = Story::default().vpid12(0, 0).l1().flush(single, Cause::NestedEntry, VPID01, 0).l2(0, VPID01);
    let story = story.flush(single, Cause::NestedExit, VPID01, 0).l1();
    let wanted = ["event", "verdict", "rule", "cause", "vpid"];
    let args = "vpid=1 verdict=required rule=untagged";
    check(
        &story,
        "vCPU 0/flushes",
        &wanted,
        &[
            &format!("40 invvpid-single event=3 cause=nested-entry {args}"),
            "60 invvpid-single event=5 cause=nested-exit vpid=1 verdict=redundant rule=not-used-again",
        ],
    );
}

#[test]
fn marks_misses_and_the_end_are_instants() {
    let info = InterruptionInfo::from(0x8000_0b0e);
    let story = Story::default().event(What::Mark(7)).pool(PoolOp::Miss, 1, 0, 80, 2).pool(PoolOp::Hit, 1, 0, 8, 74);
    let story = story.event(What::Injection(Injection { level: 2, info, error_code: 2 })).event(What::Lost(3));
    let story = story.event(What::Stop(Stop { kind: StopKind::Idle, code: 0, text: "all wait".into() }));
    check(&story, "vCPU 0/marks", &["event", "value"], &["10 mark 7 event=0 value=7"]);
    check(&story, "vCPU 0/vmcs02 pool", &["event", "written"], &["20 miss event=1 written=80"]);
    check(&story, "vCPU 0/injections", &["vector"], &["40 hardware-exception 14 vector=14"]);
    check(&story, "vCPU 0/machine", &["value", "text"], &["50 lost value=3", "60 stop idle text=all wait"]);
    let found = read(&written(&story.events));
    let trace = drawn(&found, "trace", &["clock", "time", "events"]);
    let time = "time=instructions retired: 1 ns is 1 instruction";
    assert_eq!(trace, [format!("0..60 story.nvmx clock=instructions {time} events=6")]);
}

/// A trace of 4096 instructions has stretches of 4.
#[test]
fn counters_count_by_stretch() {
    let mut story = Story::default().exit(1, Reason::CPUID, Actor::L0).exit(1, Reason::CPUID, Actor::L0);
    let at = |instruction| Stamp { instruction, vcpu: 0, pcpu: 0 };
    story.events[0].at = at(5);
    story.events[1].at = at(7);
    story = story.exit(1, Reason::CPUID, Actor::L0).exit(1, Reason::CPUID, Actor::L0);
    story.events[2].at = at(9);
    story.events[3].at = at(4096);
    check(&story, "vCPU 0/exits of L1", &[], &["4 2", "8 1", "12 0", "4096 1"]);
}

#[test]
fn vcpus_have_groups_of_their_own() {
    let story = Story::default().l1().on(1, 0).l1().exit(1, Reason::PAUSE, Actor::L0).on(0, 0);
    let story = story.exit(1, Reason::HLT, Actor::L0);
    check(&story, "vCPU 0/L1", &[], &["10..40 L1"]);
    check(&story, "vCPU 1/L1", &[], &["20..30 L1"]);
}

/// Whatever happens: entries without exits, exits without entries, levels that there are none of, time that steps back.
fn any_event() -> impl Strategy<Value = Event> {
    let level = || prop_oneof![4 => 1..4_u8, 1 => any::<u8>()];
    let entry = level().prop_map(|level| match Story::default().l2(0, 1).events.remove(0).what {
        What::Entry(entry) => What::Entry(Entry { level, ..entry }),
        other => other,
    });
    let exit = (level(), any::<u16>(), proptest::sample::select(Actor::ALL))
        .prop_map(|(level, reason, actor)| Story::default().exit(level, Reason(reason), actor).events.remove(0).what);
    let access = (any::<u32>(), any::<bool>()).prop_map(|(field, write)| {
        let op = if write { VmcsOp::Write } else { VmcsOp::Read };
        let field = hv_defs::vmcs::VmcsField(field);
        let (actor, which) = (Actor::L0, Which::Vmcs02);
        What::Vmcs(VmcsAccess { actor, which, address: 0, op, field, old: 0, value: 1 })
    });
    let flush = Story::default().flush(FlushKind::InvvpidSingle, Cause::NestedEntry, 1, 0).events.remove(0).what;
    let other = proptest::sample::select(vec![What::Mark(1), What::Registers(Registers::default()), flush]);
    let what = prop_oneof![3 => entry, 3 => exit, 2 => access, 1 => other];
    (what, 0..40_u64, 0..2_u16)
        .prop_map(|(what, instruction, vcpu)| Event { at: Stamp { instruction, vcpu, pcpu: vcpu }, what })
}

proptest! {
    #[test]
    fn whatever_happens_slices_nest_and_every_exit_and_flush_is_there(
        events in proptest::collection::vec(any_event(), 0..120),
    ) {
        let bytes = written(&events);
        prop_assert_eq!(&bytes, &written(&events));
        let found = read(&bytes);
        let told = |kind: Kind| events.iter().filter(|event| event.what.kind() == kind).count();
        let on = |track: &str| found.iter().filter(|found| found.track.ends_with(track)).count();
        let exits = found.iter().filter(|found| {
            found.track.ends_with("/L0") && found.category != "run" && found.category.starts_with('L')
        });
        prop_assert_eq!(exits.count(), told(Kind::Exit));
        prop_assert_eq!(found.iter().filter(|found| found.category == "run").count(), told(Kind::Entry));
        prop_assert_eq!(on("/flushes"), told(Kind::Flush));
        prop_assert_eq!(on("/marks"), told(Kind::Mark));
    }
}
