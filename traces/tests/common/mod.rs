//! Events and traces to test with.
#![allow(dead_code, missing_docs, unreachable_pub)] // Each test file uses its part.

use hv_defs::config::{Config, Guest, ImageKind};
use hv_defs::event::*;
use hv_defs::exit::{ExitReason, InterruptionInfo, Reason};
use hv_defs::vmcs::{TABLE, VmcsField};
use proptest::prelude::*;
use traces::{Header, Image, Writer};

pub fn header() -> Header {
    let mut config = Config::new(Guest::Kernel { name: "bzImage".into(), append: "console=ttyS0".into() });
    config.max_instructions = Some(1 << 40);
    config.stop_on = Some("login:".into());
    let mut initrd = Image::new(ImageKind::Initrd, "initrd", vec![7; 100]);
    (initrd.bytes, initrd.elsewhere) = (None, true);
    Header::new(config, vec![Image::new(ImageKind::Kernel, "bzImage", (0..=255).collect::<Vec<u8>>()), initrd])
        .made_of(&[("cpu", "0011223344556677"), ("l0", "8899aabbccddeeff")])
}

/// The trace of these events. A block ends where `ends` says, by the number of events before it.
pub fn write(events: &[Event], ends: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, &header()).expect("a vector takes all");
    for (at, event) in events.iter().enumerate() {
        if ends.contains(&at) {
            writer.end_block().expect("a vector takes all");
        }
        writer.push(event).expect("a vector takes all");
    }
    writer.finish().expect("a vector takes all");
    bytes
}

fn word<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

/// Numbers as they occur: small, addresses, and anything.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, (0..64_u64).prop_map(|page| page << 12), any::<u64>(), Just(NO_ADDRESS)]
}

fn what() -> impl Strategy<Value = What> {
    let exit = (any::<u8>(), any::<u32>(), [number(), number(), number(), number(), number()], any::<u8>())
        .prop_flat_map(|(level, reason, [qualification, rip, gpa, gla, vmcs12], length)| {
            (any::<u32>(), word(Actor::ALL)).prop_map(move |(info, handled_by)| {
                What::Exit(Exit {
                    level,
                    reason: ExitReason::from(reason),
                    qualification,
                    rip,
                    length,
                    gpa,
                    gla,
                    intr_info: InterruptionInfo::from(info),
                    vmcs12,
                    handled_by,
                })
            })
        });
    const CHECKS: &[Option<Check>] = &[None, Some(Check::new("guest-rip")), Some(Check::new("host-cr0"))];
    let entry = (any::<u8>(), any::<bool>(), [number(), number(), number()], any::<u16>(), any::<u32>(), word(CHECKS))
        .prop_map(|(level, launch, [vmcs12, vmcs02, eptp], vpid, injected, failed)| {
            let injected = InterruptionInfo::from(injected);
            What::Entry(Entry { level, launch, vmcs12, vmcs02, vpid, eptp, injected, failed, fields_written: vpid })
        });
    let field = prop_oneof![(0..TABLE.len()).prop_map(|at| TABLE[at].field), any::<u32>().prop_map(VmcsField)];
    let vmcs = (word(Actor::ALL), word(Which::ALL), word(VmcsOp::ALL), field, [number(), number(), number()]).prop_map(
        |(actor, which, op, field, [address, old, value])| {
            What::Vmcs(VmcsAccess { actor, which, address, op, field, old, value })
        },
    );
    let flush = (word(FlushKind::ALL), word(Cause::ALL), word(Actor::ALL), any::<u16>(), [number(), number()])
        .prop_map(|(kind, cause, actor, vpid, [eptp, address])| {
            What::Flush(Flush { kind, cause, actor, vpid, eptp, address, dropped: u32::from(vpid) << 3 })
        });
    let pool = (word(PoolOp::ALL), number(), any::<u16>(), any::<u16>())
        .prop_map(|(op, vmcs12, slot, written)| What::Pool(Pool { op, vmcs12, slot, written, skipped: !written }));
    let vpid = (word(VpidOp::ALL), any::<u16>(), any::<u16>())
        .prop_map(|(op, vpid12, vpid02)| What::Vpid(Vpid { op, vpid12, vpid02 }));
    let ept = (word(EptOp::ALL), [number(), number(), number(), number(), number(), number()]).prop_map(
        |(op, [eptp12, eptp02, gpa, size, old, new])| What::Ept(EptChange { op, eptp12, eptp02, gpa, size, old, new }),
    );
    let injection = (any::<u8>(), any::<u32>(), any::<u32>()).prop_map(|(level, info, error_code)| {
        What::Injection(Injection { level, info: InterruptionInfo::from(info), error_code })
    });
    let input = (number(), word(InputKind::ALL), number())
        .prop_map(|(poll, kind, value)| What::Input(Input { poll, kind, value }));
    let stop = (word(StopKind::ALL), any::<u32>(), "[ -~é]{0,20}")
        .prop_map(|(kind, code, text)| What::Stop(Stop { kind, code, text }));
    let registers = proptest::array::uniform15(number()).prop_map(|all| {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15] = all;
        What::Registers(Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 })
    });
    let answer = (word(AnswerOf::ALL), number(), number())
        .prop_map(|(of, place, value)| What::Answer(Answer { of, place, value }));
    prop_oneof![
        4 => exit,
        2 => answer,
        2 => registers,
        4 => entry,
        12 => vmcs,
        2 => flush,
        1 => pool,
        1 => vpid,
        2 => ept,
        1 => injection,
        1 => input,
        1 => any::<u16>().prop_map(|from| What::Migration(Migration { from })),
        1 => any::<u32>().prop_map(What::Mark),
        1 => number().prop_map(What::Digest),
        1 => number().prop_map(What::Lost),
        1 => stop,
    ]
}

pub fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let stamp = (number(), 0..3_u16, 0..3_u16);
    let at = stamp.prop_map(|(instruction, vcpu, pcpu)| Stamp { instruction, vcpu, pcpu });
    let event = (at, what()).prop_map(|(at, what)| Event { at, what });
    proptest::collection::vec(event, 0..most)
}

/// A stream as a nested hypervisor makes it: `exits` exits of L2 that L1 handles, with their VMCS accesses.
pub fn nested(exits: u64) -> Vec<Event> {
    let mut events = Vec::new();
    let fields = TABLE;
    let mut values = vec![0_u64; fields.len()];
    let mut random = 1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut instruction = 0;
    for exit in 0..exits {
        instruction += 20 + next() % 1000;
        let at = Stamp { instruction, vcpu: 0, pcpu: 0 };
        let mut push = |what| events.push(Event { at, what });
        let vmcs12 = 0x10_0000 + (exit & 1) * 0x1000;
        let reason = [Reason::CPUID, Reason::EPT_VIOLATION, Reason::IO_INSTRUCTION, Reason::HLT][(next() % 4) as usize];
        let gpa = if reason == Reason::EPT_VIOLATION { next() % 4096 * 4096 } else { 0 };
        push(What::Exit(Exit {
            level: 2,
            reason: ExitReason::of(reason),
            qualification: if gpa != 0 { 0x181 } else { 0 },
            rip: 0xffff_8000_0000_1000 + next() % 64 * 4,
            length: 2,
            gpa,
            gla: 0,
            intr_info: InterruptionInfo::default(),
            vmcs12,
            handled_by: Actor::L1,
        }));
        for _ in 0..11 {
            let at = (next() % 40) as usize;
            let access = VmcsAccess {
                actor: Actor::L1,
                which: Which::Vmcs12,
                address: vmcs12,
                op: VmcsOp::Read,
                field: fields[at].field,
                old: values[at],
                value: values[at],
            };
            push(What::Vmcs(access));
        }
        for _ in 0..5 {
            let at = (next() % 40) as usize;
            let value = if next() % 4 == 0 { next() >> 40 } else { values[at] };
            let access = VmcsAccess {
                actor: Actor::L0,
                which: Which::Vmcs02,
                address: 0x4000,
                op: VmcsOp::Write,
                field: fields[at].field,
                old: values[at],
                value,
            };
            push(What::Vmcs(access));
            values[at] = value;
        }
        push(What::Entry(Entry {
            level: 2,
            launch: false,
            vmcs12,
            vmcs02: 0x4000,
            vpid: 2,
            eptp: 0x8001e,
            injected: InterruptionInfo::default(),
            failed: None,
            fields_written: 5,
        }));
    }
    events
}
