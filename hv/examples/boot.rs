//! Boots a kernel with nothing around the machine: its console on stdout, and at the end the instructions, the exits of
//! each level by reason and who handled them, and the speed on stderr. What `nvmx run` does, in a program that is built in
//! seconds.
//!
//!     cargo run --release -p hv --example boot -- KERNEL [INITRD [APPEND [MEBIBYTES [VCPUS [PCPUS [POLICY [la57]]]]]]]
//!
//! POLICY is a preset, and with a plus sign behind it a way of VMCS shadowing: `mapped+virtualized`.

use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, Guest, ImageKind, Log};
use hv_defs::event::{Actor, Event, InputKind, What};
use hv_defs::exit::Reason;
use hv_defs::policy::{Policy, Shadowing};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

/// Stdout, and a count of exits by level, who handled them, and reason.
#[derive(Default)]
struct Outside {
    exits: BTreeMap<(u8, Actor, u16), u64>,
}

impl World for Outside {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            if let What::Exit(exit) = event.what {
                *self.exits.entry((exit.level, exit.handled_by, exit.reason.reason().0)).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, bytes: &[u8]) {
        let mut out = std::io::stdout();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn input(&mut self, _poll: u64, _now: u64, _idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map(String::as_str);
    let kernel = word(0).ok_or("usage: boot KERNEL [INITRD [APPEND [MEBIBYTES [VCPUS [PCPUS [POLICY [la57]]]]]]]")?;
    let mut images =
        vec![Image { kind: ImageKind::Kernel, name: "kernel".to_owned(), bytes: std::fs::read(kernel)?.into() }];
    if let Some(initrd) = word(1).filter(|name| !name.is_empty()) {
        images.push(Image { kind: ImageKind::Initrd, name: "initrd".to_owned(), bytes: std::fs::read(initrd)?.into() });
    }
    let append = word(2).unwrap_or_default().to_owned();
    let mut config = Config::new(Guest::Kernel { name: kernel.to_owned(), append });
    config.memory = word(3).map_or(Ok(256), str::parse::<u64>)? << 20;
    config.vcpus = word(4).map_or(Ok(1), str::parse)?;
    config.pcpus = word(5).map_or(Ok(1), str::parse)?;
    if let Some(name) = word(6).filter(|name| !name.is_empty()) {
        let (preset, shadowing) = name.split_once('+').unwrap_or((name, Shadowing::Off.name()));
        config.policy = Policy::preset(preset).ok_or("there is no such policy")?;
        config.policy.shadowing = Shadowing::by_name(shadowing).ok_or("there is no such shadowing")?;
    }
    config.la57 = word(7) == Some("la57");
    config.log = Log::Exits;
    let mut machine = Machine::new(&config, &images)?;
    let mut outside = Outside::default();
    let start = Instant::now();
    let stop = machine.run(&mut outside);
    let seconds = start.elapsed().as_secs_f64();
    let instructions = machine.now() as f64;
    eprintln!("{}", stop.text);
    for ((level, handler, reason), count) in &outside.exits {
        eprintln!("L{level} {} by {handler:?}: {count}", Reason(*reason));
    }
    eprintln!(
        "{:.0} million instructions, {} exits, {seconds:.1} s: {:.1} million instructions a second",
        instructions / 1e6,
        outside.exits.values().sum::<u64>(),
        instructions / 1e6 / seconds
    );
    Ok(())
}
