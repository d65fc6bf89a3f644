//! Traces that are sound in form and nonsense in meaning: events of every kind, in any order, with any numbers that their
//! columns take. Whoever reads traces must bear with them. Equal seeds give equal traces.
#![allow(dead_code, missing_docs, unreachable_pub)] // Each test uses its part.

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Kind, NO_ADDRESS, Stamp, What};
use hv_defs::fields::{Form, Texts};
use hv_defs::vmcs::TABLE;
use traces::{Header, Writer};

/// A small generator, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end.max(1)
    }

    /// Numbers at the ends of ranges, few addresses again and again, and anything.
    pub fn number(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            3,
            4,
            0x7f,
            0xff,
            0x100,
            0xffff,
            0x1_0000,
            0xffff_ffff,
            0x1_0000_0000,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 1,
            NO_ADDRESS,
        ];
        match self.below(8) {
            0 | 1 => EDGES[self.below(EDGES.len())],
            2 | 3 => (self.next() & 7) << 12,
            4 | 5 => self.next() & 3,
            6 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}

/// A number for a column of that form: in range as far as the form tells.
fn cell(form: Form, texts: usize, random: &mut Random) -> u64 {
    match form {
        Form::Word(words) => random.below(words.len()) as u64,
        Form::Flag => random.next() & 1,
        Form::Text => random.below(texts + 1) as u64,
        Form::VmcsField if random.below(8) > 0 => u64::from(TABLE[random.below(TABLE.len())].field.0),
        Form::Reason if random.below(8) > 0 => random.next() & 0x3f | (random.next() & 1) << 31,
        Form::Vector | Form::EventType if random.below(8) > 0 => random.next() & 0x8000_0fff,
        _ => random.number(),
    }
}

/// An event of a kind. Numbers that its columns do not take are made smaller until they do.
fn what(kind: Kind, random: &mut Random) -> What {
    let list =
        ["guest-rip", "", "no-such-check", "\u{1b}[2J\u{7}", "a\nb\tc", "é\u{202e}\u{0}", "'; DROP TABLE exit; --"];
    let texts = Texts { list: list.iter().map(|&text| text.to_owned()).collect() };
    for most in [u64::MAX, u64::MAX, u32::MAX.into(), u16::MAX.into(), 0xff, 0xff, 3, 1].into_iter().cycle() {
        for _ in 0..8 {
            let row: Vec<u64> =
                kind.columns().iter().map(|of| cell(of.form, texts.list.len(), random) & most).collect();
            if let Some(what) = What::from_row(kind, &row, &texts) {
                return what;
            }
        }
    }
    What::Mark(0)
}

/// Events of every kind. Their stamps mostly rise, as those of a machine do.
pub fn events(seed: u64, count: usize) -> Vec<Event> {
    let mut random = Random::new(seed);
    let mut at = Stamp::default();
    let wild = random.below(4) == 0;
    (0..count)
        .map(|_| {
            match random.below(8) {
                0 if wild => at.instruction = random.number(),
                0..3 => at.instruction = at.instruction.saturating_add(random.next() & 0xff),
                3 => at = Stamp { vcpu: (random.next() & 3) as u16, pcpu: (random.next() & 3) as u16, ..at },
                4 if wild => at = Stamp { vcpu: random.number() as u16, pcpu: random.number() as u16, ..at },
                _ => {}
            }
            // Half of them are what a nested hypervisor does most.
            let often = [Kind::Exit, Kind::Entry, Kind::Vmcs, Kind::Flush, Kind::Pool, Kind::Vpid, Kind::Ept];
            let kind = if random.below(2) == 0 {
                often[random.below(often.len())]
            } else {
                Kind::ALL[random.below(Kind::ALL.len())]
            };
            Event { at, what: what(kind, &mut random) }
        })
        .collect()
}

/// The header of such a trace: a machine of any numbers.
pub fn header(seed: u64) -> Header {
    let mut random = Random::new(!seed);
    let mut config = Config::new(Guest::BuiltIn("no such guest".into()));
    let pick = |random: &mut Random, sound: u64| if random.below(3) == 0 { random.number() } else { sound };
    config.memory = pick(&mut random, config.memory);
    config.vcpus = pick(&mut random, 1) as u16;
    config.pcpus = pick(&mut random, 1) as u16;
    config.policy.pool = pick(&mut random, 4) as u16;
    config.tlb_entries = pick(&mut random, 1024) as u32;
    config.slice = pick(&mut random, config.slice);
    config.digest_interval = pick(&mut random, config.digest_interval);
    config.seed = random.next();
    Header::new(config, Vec::new())
}

/// A whole trace of `count` events in some blocks.
pub fn trace(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0xb10c);
    let mut bytes = Vec::new();
    let mut writer = Writer::create(&mut bytes, &header(seed)).expect("a vector takes all");
    for event in events(seed, count) {
        if random.below(100) == 0 {
            writer.end_block().expect("a vector takes all");
        }
        writer.push(&event).expect("a vector takes all");
    }
    writer.finish().expect("a vector takes all");
    drop(writer);
    bytes
}
