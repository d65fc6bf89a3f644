//! An L1 that does anything at all: L0 always ends in a defined state, and maps nothing that is not L1's.

use super::script::{Bench, EPT12, L2_PAGES, RAM, VMCS_A, VMXON};
use crate::l0::{L0_MEMORY, Ran};
use hv_defs::ept::EptEntry;
use hv_defs::event::{StopKind, What};
use hv_defs::exit::{InstructionInfo, Reason};
use hv_defs::policy::{PRESETS, Policy};
use hv_defs::vmcs::{self, TABLE, VmcsField};

/// A sequence that a seed decides.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Numbers that mean something to someone.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.below(16),
            2 => 1 << self.below(64),
            3 => self.below(RAM) & !0xfff,
            4 => EPT12 + self.below(4) * 0x1000 + 7,
            5 => u64::MAX << self.below(64),
            6 => self.pick(&[VMXON, VMCS_A, 0x1_2000, 0x1_3000, L2_PAGES, RAM, RAM - 0x1000, 0x8000_0000]),
            _ => u64::from(self.next() as u32),
        }
    }
}

/// Reasons that an L1 or an L2 can bring about.
const REASONS: &[Reason] = &[
    Reason::EXCEPTION_NMI,
    Reason::EXTERNAL_INTERRUPT,
    Reason::INTERRUPT_WINDOW,
    Reason::CPUID,
    Reason::HLT,
    Reason::INVLPG,
    Reason::RDTSC,
    Reason::VMCALL,
    Reason::VMCLEAR,
    Reason::VMLAUNCH,
    Reason::VMPTRLD,
    Reason::VMPTRST,
    Reason::VMREAD,
    Reason::VMRESUME,
    Reason::VMWRITE,
    Reason::VMXOFF,
    Reason::VMXON,
    Reason::CR_ACCESS,
    Reason::IO_INSTRUCTION,
    Reason::RDMSR,
    Reason::WRMSR,
    Reason::MONITOR_TRAP_FLAG,
    Reason::EPT_VIOLATION,
    Reason::INVEPT,
    Reason::INVVPID,
    Reason::XSETBV,
    Reason::VMFUNC,
    Reason::PREEMPTION_TIMER,
    Reason(35),
    Reason(0xffff),
];

fn step(bench: &mut Bench, random: &mut Random) -> Ran {
    for register in [0, 1, 2] {
        *bench.gpr(register) = random.value();
    }
    let mut reason = random.pick(REASONS);
    if random.below(3) == 0 {
        reason = random.pick(&[Reason::VMWRITE, Reason::VMRESUME, Reason::VMLAUNCH, Reason::EPT_VIOLATION]);
    }
    if matches!(reason, Reason::VMWRITE | Reason::VMREAD) {
        *bench.gpr(2) = TABLE[random.below(TABLE.len() as u64) as usize].field.0.into();
    }
    let at = random.value() % (RAM - 8);
    let word = random.value();
    if random.below(4) == 0 {
        // Silicon would not let L1 do so to a page that is read-only, but another way in is a device's.
        bench.store(at & !7, word);
    }
    let info = InstructionInfo::new()
        .with_address_size(2)
        .with_segment(3)
        .with_is_register(random.below(2) == 0)
        .with_reg1(1)
        .with_reg2(2)
        .with_no_index(true);
    let more: [(VmcsField, u64); 4] = [
        (vmcs::EXIT_QUALIFICATION.field(), if random.below(2) == 0 { random.value() } else { 0 }),
        (vmcs::EXIT_INSTRUCTION_INFO.field(), info.into_bits().into()),
        (vmcs::GUEST_PHYSICAL_ADDRESS.field(), random.value() & ((1 << 46) - 1)),
        (vmcs::IDT_VECTORING_INFO.field(), if random.below(8) == 0 { random.next() & 0x8000_0fff } else { 0 }),
    ];
    if random.below(16) == 0 {
        bench.bus.interrupt = Some(random.next() as u8);
    }
    bench.cpu = random.below(2) as usize;
    bench.exits(reason, &more)
}

/// Runs `steps` steps of what the seed decides.
fn check(policy: Policy, seed: u64, steps: u32) {
    let mut random = Random(seed);
    let mut bench = Bench::with_l2(policy);
    let mut entered_l2 = 0;
    for number in 0..steps {
        if number % 64 == 0 {
            // One that has wrecked its vmcs12 never enters L2 again: begin anew, in L2.
            bench = Bench::with_l2(policy);
            bench.launch();
        }
        let ran = step(&mut bench, &mut random);
        entered_l2 += u32::from(bench.level() == 2);
        for event in bench.log.events.drain(..) {
            if let What::Ept(change) = event.what
                && change.size != 0
                && EptEntry::from_bits(change.new).present()
                && (change.size == 0x1000 || EptEntry::from_bits(change.new).large())
            {
                let at = EptEntry::from_bits(change.new).address();
                assert!(at >= L0_MEMORY && at + change.size <= L0_MEMORY + RAM, "{change:x?}");
            }
        }
        match ran {
            Ran::Stop(stop) => {
                assert!(matches!(stop.kind, StopKind::Unsupported | StopKind::TripleFault), "{stop:?}");
                assert!(!stop.text.is_empty());
                // A machine would end here; another begins.
                bench = Bench::with_l2(policy);
                bench.launch();
            }
            // Nothing but an interrupt goes on from here.
            Ran::Halted => bench.bus.interrupt = Some(0x40),
            Ran::Ready | Ran::Slice | Ran::Spins => {}
            Ran::Paused => panic!("nobody watches"),
        }
    }
    assert!(entered_l2 > steps / 100, "L2 ran {entered_l2} times in {steps}: not much of a test");
}

#[test]
fn l0_outlives_any_l1() {
    for (number, preset) in PRESETS.iter().enumerate() {
        check(preset.policy, 0x9e37_79b9_7f4a_7c15 ^ (number as u64) << 8, 1200);
    }
}
