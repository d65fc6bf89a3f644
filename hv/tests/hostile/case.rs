//! One case: a machine whose L1 does anything, and what became of it.

use super::board::Wild;
use super::code;
use super::contents::{self, Allowed};
use super::dice::Dice;
use super::layout::{self, DRIVER, GDT, IDT, PML4, RAM, STACK, TSS};
use hv::l0::{L0, L0_MEMORY, Ran, Signals, Start};
use hv::silicon::Silicon;
use hv::soft::SoftSilicon;
use hv::watch::Watched;
use hv::world::Log;
use hv_defs::addr::Hpa;
use hv_defs::config::{self, Config, Guest};
use hv_defs::event::{Event, StopKind, What};
use hv_defs::policy::{PRESETS, Policy, PoolRecycle, RootLoad, Shadowing, Tags, TransitionFlush, Vmcs02Writes};
use hv_defs::slip::Slip;
use std::collections::BTreeMap;

/// Steps of a case at most: then another seed has its turn.
const CASE: u64 = 6000;

/// Events of one step at most.
const EVENTS: usize = 40_000;

/// What a case was.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) steps: u64,
    /// Of events and memory.
    pub(crate) digest: u64,
    /// Exits by level.
    pub(crate) exits: [u64; 3],
    /// By reason and level.
    pub(crate) reasons: BTreeMap<(u8, String), u64>,
    pub(crate) end: String,
    pub(crate) features: BTreeMap<&'static str, u64>,
    pub(crate) most_calls: u64,
    pub(crate) leaves: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

fn configuration(dice: &mut Dice, seed: u64, honest: bool) -> Config {
    let mut config = Config::new(Guest::BuiltIn("hostile".to_owned()));
    config.memory = RAM;
    config.vcpus = if honest { 1 } else { dice.pick(&[1, 1, 2, 3]) };
    config.pcpus = dice.pick(&[1, 2, 3]);
    config.tlb_entries = dice.pick(&[16, 64, 1536]);
    config.seed = seed;
    config.log = dice.pick(&[config::Log::Exits, config::Log::Exits, config::Log::Vmcs]);
    config.policy = if dice.once_in(3) {
        Policy {
            tags: dice.pick(Tags::ALL),
            transition_flush: dice.pick(TransitionFlush::ALL),
            root_load: dice.pick(RootLoad::ALL),
            apic_access_flush: dice.once_in(2),
            pool: dice.pick(&[1, 2, 3, 8]),
            pool_recycle: dice.pick(PoolRecycle::ALL),
            vmcs02_writes: dice.pick(Vmcs02Writes::ALL),
            ..Policy::default()
        }
    } else {
        dice.pick(PRESETS).policy
    };
    config.policy.shadowing = dice.pick(Shadowing::ALL);
    if !honest && dice.once_in(6) {
        config.slips = [dice.pick(Slip::ALL), dice.pick(Slip::ALL)].into_iter().collect();
    }
    config
}

fn start() -> Start {
    let mut start = Start::long_mode(DRIVER, STACK, PML4, (GDT, 0x47));
    start.cr4 = 0x620 | 0x2000;
    start.idtr = (IDT, 0xfff);
    start.tr.selector = 0x20;
    start.tr.base = TSS;
    start.tr.limit = 0x67;
    start
}

/// A machine, and what is done with it.
pub(crate) struct Case {
    pub(crate) dice: Dice,
    pub(crate) l0: L0<Watched<SoftSilicon>>,
    pub(crate) bus: Wild,
    pub(crate) log: Log,
    pub(crate) vcpus: usize,
    pub(crate) pcpus: usize,
    /// By vCPU: it halted.
    pub(crate) halted: Vec<bool>,
    pub(crate) told: Told,
    pub(crate) keep: Option<Vec<Event>>,
    /// Steps at most.
    pub(crate) most: u64,
}

impl Case {
    /// A hostile L1, ready to start.
    pub(crate) fn new(seed: u64) -> Self {
        let mut case = Self::bare(Dice::new(seed), seed, false);
        let allowed = case.probe();
        case.bus.allowed = allowed;
        for (at, bytes) in contents::all(&mut case.dice, &allowed) {
            case.put(at, &bytes);
        }
        case.begin();
        case
    }

    /// A hostile L1 that a fuzzer's bytes decide, ready to start.
    pub(crate) fn fuzzed(bytes: &[u8], most: u64) -> Self {
        let mut case = Self::bare(Dice::of(bytes), 1, false);
        case.most = most;
        let allowed = case.probe();
        case.bus.allowed = allowed;
        for (at, bytes) in contents::few(&mut case.dice, &allowed) {
            case.put(at, &bytes);
        }
        case.begin();
        case
    }

    /// A machine with nothing in it. Slips of L0's, and other vCPUs, are for hostile L1s only.
    pub(crate) fn bare(mut dice: Dice, seed: u64, honest: bool) -> Self {
        let config = configuration(&mut dice, seed, honest);
        let soft = SoftSilicon::new(L0_MEMORY + config.memory, config.pcpus, config.tlb_entries, config.seed);
        let l0 = L0::new(&config, Watched::soft(soft, config.memory)).expect("a configuration that L0 takes");
        let bus = Wild::new(config.memory, config.vcpus, Dice::new(dice.below(1 << 32)));
        let (vcpus, pcpus) = (usize::from(config.vcpus), usize::from(config.pcpus));
        Self {
            dice,
            l0,
            bus,
            log: Log::default(),
            vcpus,
            pcpus,
            halted: vec![false; vcpus],
            told: Told::default(),
            keep: None,
            most: CASE,
        }
    }

    /// Every vCPU starts.
    pub(crate) fn begin(&mut self) {
        for vcpu in 0..self.vcpus {
            self.l0.start(vcpu, vcpu % self.pcpus, &start(), &mut self.bus, &mut self.log);
        }
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.l0.silicon.silicon.write(Hpa(L0_MEMORY + at), bytes);
    }

    /// Has L1 say what it may do.
    pub(crate) fn probe(&mut self) -> Allowed {
        for (at, bytes) in contents::common() {
            self.put(at, &bytes);
        }
        self.put(DRIVER, &code::probe(0x48b, 6));
        self.l0.start(0, 0, &start(), &mut self.bus, &mut self.log);
        while self.l0.run_vcpu(0, 0, &mut self.bus, &mut self.log, u64::MAX) == Ran::Ready {}
        let [secondary, _, pin, primary, exit, entry] = core::array::from_fn(|number| {
            let mut bytes = [0; 8];
            self.l0.silicon.silicon.read(Hpa(L0_MEMORY + layout::SCRATCH + 8 * number as u64), &mut bytes);
            u64::from_le_bytes(bytes)
        });
        assert!(pin >> 32 != 0 && entry >> 32 != 0, "L1 is told of no VMX");
        Allowed { pin, primary, secondary, exit, entry }
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) {
        let longest = self.dice.pick(&[20, 200, 1000]);
        let (mut vcpu, mut cpu, mut turn_end, mut idle) = (0, 0, 0, 0);
        while self.told.steps < self.most {
            let now = self.l0.silicon.retired();
            if now >= turn_end || self.halted[vcpu] {
                vcpu = self.dice.below(self.vcpus as u64) as usize;
                cpu = self.dice.below(self.pcpus as u64) as usize;
                turn_end = now + 1 + self.dice.below(longest);
            }
            self.disturb(vcpu);
            let ran = self.l0.run_vcpu(vcpu, cpu, &mut self.bus, &mut self.log, turn_end);
            self.told.steps += 1;
            self.look();
            self.halted[vcpu] = ran == Ran::Halted;
            match ran {
                Ran::Stop(stop) => {
                    assert!(!stop.text.is_empty() && !stop.text.contains('\n'), "{:?}", stop.text);
                    let defined = [
                        StopKind::TripleFault,
                        StopKind::Unsupported,
                        StopKind::DebugExit,
                        StopKind::Reset,
                        StopKind::PowerOff,
                    ];
                    assert!(defined.contains(&stop.kind), "{stop:?}");
                    // What silicon does not take of L0 is L0's mistake, whoever's wish it was.
                    assert!(!stop.text.contains("silicon"), "{stop:?}");
                    self.told.end = format!("{:?}: {}", stop.kind, stop.text);
                    break;
                }
                Ran::Halted => {
                    idle += 1;
                    self.l0.silicon.skip(now + 1000);
                    if idle > 300 {
                        self.told.end = "halted".to_owned();
                        break;
                    }
                    self.rouse(vcpu);
                }
                // What does not exit by itself is told to go on with something else.
                Ran::Slice | Ran::Spins if self.dice.once_in(3) => {
                    self.bus.signals[vcpu].nmi = true;
                    self.bus.vector[vcpu] = Some(0x41);
                }
                Ran::Ready | Ran::Slice | Ran::Spins => idle = 0,
                Ran::Paused => unreachable!("nobody watches"),
            }
        }
        if self.told.end.is_empty() {
            self.told.end = "goes on".to_owned();
        }
        self.told.digest ^= self.l0.silicon.digest();
        self.told.features = core::mem::take(&mut self.l0.silicon.features);
        self.told.most_calls = self.l0.silicon.most_calls;
        self.told.leaves = self.l0.silicon.leaves;
    }

    /// Something comes from outside, now and then.
    fn disturb(&mut self, vcpu: usize) {
        if self.bus.vector[vcpu].is_some() && self.dice.once_in(3) {
            // One that was too late: L1 may have its interrupts off for ever.
            self.bus.vector[vcpu] = None;
        }
        if self.dice.once_in(60) {
            self.bus.vector[vcpu] = Some(self.dice.below(0x100) as u8 | 0x10);
        }
        if self.dice.once_in(150) {
            self.bus.signals[vcpu].nmi = true;
        }
        if self.vcpus > 1 && self.dice.once_in(4000) {
            let page = self.dice.pick(&[0x50, 0x60, 0x61, 0x70, 0]);
            self.bus.signals[vcpu] = Signals { nmi: false, init: true, start_up: Some(page) };
        }
    }

    fn rouse(&mut self, vcpu: usize) {
        match self.dice.below(3) {
            0 => self.bus.signals[vcpu].nmi = true,
            1 => self.bus.vector[vcpu] = Some(0x40),
            _ => {}
        }
        if self.vcpus > 1 && self.dice.once_in(20) {
            self.bus.signals[vcpu].start_up = Some(0x60);
        }
    }

    /// What the log says of the step.
    fn look(&mut self) {
        assert!(self.log.events.len() <= EVENTS, "{} events of one step", self.log.events.len());
        for event in &self.log.events {
            match &event.what {
                What::Exit(exit) => {
                    self.told.exits[usize::from(exit.level).min(2)] += 1;
                    *self.told.reasons.entry((exit.level, format!("{}", exit.basic()))).or_default() += 1;
                    self.told.digest = self.told.digest.rotate_left(9)
                        ^ exit.rip.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        ^ exit.qualification
                        ^ event.at.instruction << 8
                        ^ u64::from(exit.reason.into_bits());
                }
                What::Entry(entry) => {
                    if let Some(check) = entry.failed {
                        *self.told.refused.entry(check.name()).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        match &mut self.keep {
            Some(kept) => kept.append(&mut self.log.events),
            None => self.log.events.clear(),
        }
    }
}
