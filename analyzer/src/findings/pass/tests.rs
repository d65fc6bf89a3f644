//! One finding, however the events come: in memory, through a trace, and cut wherever they may be.

use super::Pass;
use crate::chunk::Chunk;
use crate::findings::{Findings, findings};
use crate::story::{Story, eptp02, vmcs12};
use crate::{Source, findings::Study};
use hv_defs::config::{Config, Guest};
use hv_defs::event::*;
use hv_defs::exit::{InterruptionInfo, Reason};
use hv_defs::vmcs::{GUEST_CS_ACCESS_RIGHTS, GUEST_RIP, GUEST_RSP, HOST_RIP, SECONDARY_CONTROLS, VPID, VmcsField};
use proptest::prelude::*;
use proptest::sample::select;
use traces::{Header, Reader, Writer};

fn access() -> impl Strategy<Value = What> {
    let fields = [
        VPID.field(),
        SECONDARY_CONTROLS.field(),
        GUEST_RIP.field(),
        GUEST_RSP.field(),
        HOST_RIP.field(),
        GUEST_CS_ACCESS_RIGHTS.field(),
        // One that the SDM does not define.
        VmcsField(0x7ffe),
    ];
    let address = select(vec![vmcs12(0), vmcs12(1), 0x5001, 0x5002]);
    let who = (select(Actor::ALL), select(Which::ALL), address);
    (who, select(VmcsOp::ALL), select(fields.to_vec()), 0..3_u64, select(vec![0, 1, 1 << 5, u64::MAX])).prop_map(
        |((actor, which, address), op, field, old, value)| {
            What::Vmcs(VmcsAccess { actor, which, address, op, field, old, value })
        },
    )
}

fn rare() -> impl Strategy<Value = What> {
    let flush = (select(FlushKind::ALL), select(Cause::ALL), select(Actor::ALL), 0..4_u16).prop_map(
        |(kind, cause, actor, vpid)| {
            What::Flush(Flush { kind, cause, actor, vpid, eptp: eptp02(0), address: 0x7000, dropped: vpid.into() })
        },
    );
    let pool = (select(PoolOp::ALL), 0..3_u64).prop_map(|(op, number)| {
        What::Pool(Pool { op, vmcs12: vmcs12(number), slot: number as u16, written: 3, skipped: 1 })
    });
    let vpid = (select(VpidOp::ALL), 0..3_u16, 1..4_u16)
        .prop_map(|(op, vpid12, vpid02)| What::Vpid(Vpid { op, vpid12, vpid02 }));
    let other = select(vec![
        What::Answer(Answer { of: AnswerOf::Memory, place: 8, value: 1 }),
        What::Digest(1),
        What::Registers(Registers::default()),
        What::Mark(7),
        What::Lost(2),
        What::Migration(Migration { from: 1 }),
        What::Injection(Injection { level: 1, info: InterruptionInfo::default(), error_code: 0 }),
        What::Stop(Stop { kind: StopKind::Idle, code: 0, text: "it waits".into() }),
    ]);
    prop_oneof![flush, pool, vpid, other]
}

type Step = (u16, u16, Turn);

#[derive(Clone, Debug)]
enum Turn {
    What(What),
    L1,
    L2(u64, u16),
    Exit(u8, Reason, Actor),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let exit = (1..4_u8, select(vec![Reason::CPUID, Reason::VMXOFF, Reason::EPT_VIOLATION]), select(Actor::ALL))
        .prop_map(|(level, reason, actor)| Turn::Exit(level, reason, actor));
    let turn = prop_oneof![
        6 => access().prop_map(Turn::What),
        2 => rare().prop_map(Turn::What),
        1 => Just(Turn::L1),
        2 => (0..2_u64, 1..4_u16).prop_map(|(number, vpid)| Turn::L2(number, vpid)),
        2 => exit,
    ];
    // CPUs change seldom.
    let cpu = || prop_oneof![5 => Just(0_u16), 1 => 0..3_u16];
    prop::collection::vec((cpu(), cpu(), turn), 0..120)
}

fn told(steps: Vec<Step>) -> Vec<Event> {
    let story = steps.into_iter().fold(Story::default(), |story, (vcpu, pcpu, turn)| {
        let story = story.on(vcpu, pcpu);
        match turn {
            Turn::What(what) => story.event(what),
            Turn::L1 => story.l1(),
            Turn::L2(number, vpid) => story.l2(number, vpid),
            Turn::Exit(level, reason, actor) => story.exit(level, reason, actor),
        }
    });
    story.events
}

/// The findings of a pass over events that are cut at these places.
fn cut(events: &[Event], cuts: &[bool]) -> Findings {
    let (mut pass, mut chunk) = (Pass::new(None), Chunk::default());
    chunk.clear(0);
    for ((number, event), cut) in (1..).zip(events).zip(cuts.iter().cycle()) {
        chunk.push(event);
        if *cut {
            pass.chunk(&chunk);
            chunk.clear(number);
        }
    }
    pass.chunk(&chunk);
    pass.finish().0
}

proptest! {
    // Each has four passes, one of them through a trace.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn findings_are_the_same_however_events_come(steps in steps(), cuts in prop::collection::vec(any::<bool>(), 1..40)) {
        let events = told(steps);
        let bare = |mut found: Findings| {
            (found.name, found.advice) = (String::new(), Vec::new());
            (found.overview.guest, found.overview.policy) = (String::new(), String::new());
            found
        };
        let one_by_one = bare(cut(&events, &[true]));
        prop_assert_eq!(&bare(cut(&events, &cuts)), &one_by_one);
        prop_assert_eq!(&bare(findings("memory", Source::Events(&events)).unwrap()), &one_by_one);
        let mut study = Study::default();
        (0..).zip(&events).for_each(|(number, event)| study.see(number, event));
        let guest = Guest::BuiltIn("none".into());
        prop_assert_eq!(&bare(study.finish("study", &guest, "none")), &one_by_one);
        let mut bytes = Vec::new();
        let mut writer = Writer::create(&mut bytes, &Header::new(Config::new(guest), Vec::new())).unwrap();
        for (event, cut) in events.iter().zip(cuts.iter().cycle()) {
            writer.push(event).unwrap();
            if *cut {
                writer.end_block().unwrap();
            }
        }
        writer.finish().unwrap();
        let reader = Reader::from_bytes(bytes).unwrap();
        prop_assert_eq!(&bare(findings("trace", Source::Trace(&reader)).unwrap()), &one_by_one);
    }
}
