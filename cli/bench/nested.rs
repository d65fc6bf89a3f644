//! Nested transitions here and on Bochs: the same guests. Three kinds of L2 exits are timed:
//!
//! - an empty round trip: VMCALL in L2, VMRESUME in an L1 that is nothing but that (tests/guests/trips.S);
//! - CPUID in L2, which L1 Linux's KVM answers itself;
//! - OUT in L2, which KVM hands to its userspace (tests/guests/vmm.c).
//!
//! Marks that the guests write stand around the loops, so that boot and the loading of modules count for nothing. Each guest
//! makes each kind several times, and the fastest counts.

use super::clock::{self, Timed};
use super::cpu::image;
use super::emulators::{self, Disk};
use super::guest::{self, Guest};
use super::marks::{Phase, Stopwatch, ours};
use super::row::{Budget, Peer, Row};
use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{self, Config, ImageKind, Log};
use hv_defs::event::{Actor, Event, InputKind, What};
use std::path::Path;
use std::time::{Duration, Instant};

/// What all machines have, in MiB.
const MEMORY: u64 = 256;
/// A model of Bochs's that has VMX with EPT, VPID and unrestricted guests.
const MODEL: &str = "corei7_haswell_4770";
/// How often a guest makes each kind of exits, with marks around.
const REPEATS: usize = 3;
/// The marks of each guest. The bare L1's stand before the first and after each of the loops.
const BARE_MARKS: usize = 1 + REPEATS;
/// L1 Linux's stand before and after each loop, of CPUID and OUT by turns.
const LINUX_MARKS: usize = 2 * 2 * REPEATS;

/// What the floor is: an exit of L1's to L0 and the entry after it, which each exit of L2's takes at least once.
const FLOOR_IS: &str = "an L1 CPUID exit that L0 answers itself";
/// So many of them.
const FLOOR: u32 = 1_000_000;

/// A kind of exits.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    with_vmcs: &'static str,
    what: &'static str,
    /// Between two marks.
    exits: u64,
    budget: Budget,
    stretch: Budget,
    /// Whether it is L1 Linux's; else the bare L1's.
    linux: bool,
    /// Its first phase that counts, and how many phases lie between two of them.
    phases: (usize, usize),
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "round-trip",
        with_vmcs: "round-trip-vmcs",
        what: "an empty round trip from L2 to a bare L1",
        exits: 200_000,
        budget: Budget::AtLeast(1e6),
        stretch: Budget::AtLeast(3e6),
        linux: false,
        phases: (1, 1),
    },
    Kind {
        name: "cpuid",
        with_vmcs: "cpuid-vmcs",
        what: "an L2 CPUID exit handled by L1 Linux's KVM",
        exits: 100_000,
        budget: Budget::TimesBochs(3.0),
        stretch: Budget::TimesBochs(8.0),
        linux: true,
        phases: (1, 4),
    },
    Kind {
        name: "out",
        with_vmcs: "out-vmcs",
        what: "an L2 port I/O exit to L1's userspace",
        exits: 40_000,
        budget: Budget::TimesBochs(3.0),
        stretch: Budget::TimesBochs(8.0),
        linux: true,
        phases: (3, 4),
    },
];

impl Kind {
    fn exits(&self, quick: bool) -> u64 {
        if quick { self.exits / 10 } else { self.exits }
    }

    /// The phases of this kind.
    fn of<'a>(&self, phases: &'a [Phase]) -> impl Iterator<Item = &'a Phase> + use<'a> {
        phases.iter().skip(self.phases.0).step_by(self.phases.1)
    }

    /// Exits a second in the fastest of its phases.
    fn rate(&self, phases: &[Phase], quick: bool) -> Option<f64> {
        let time = self.of(phases).map(|phase| phase.time).min()?;
        (!time.is_zero()).then(|| self.exits(quick) as f64 / time.as_secs_f64())
    }
}

/// A guest in both its forms.
#[derive(Debug)]
struct Subject {
    images: Vec<Image>,
    append: String,
    disk: Result<Disk, String>,
    watch: Stopwatch,
}

impl Subject {
    /// The L1 that does nothing but round trips.
    fn bare(folder: &Path, quick: bool) -> Result<Self, String> {
        let (watch, folder) = (Stopwatch::new(None, BARE_MARKS), folder.join("trips"));
        guest::trips(&folder, KINDS[0].exits(quick), REPEATS)
            .map_err(|why| format!("its guest needs a C compiler and a linker: {why}"))?;
        let images = vec![image(ImageKind::Kernel, &folder.join("trips.bin"))?];
        let disk = Ok(Disk { folder, memory: MEMORY, watch: watch.clone() });
        Ok(Self { images, append: String::new(), disk, watch })
    }

    /// L1 Linux with KVM.
    fn linux(linux: &Guest, folder: &Path, quick: bool) -> Result<Self, String> {
        let (watch, folder, payload) = (Stopwatch::new(None, LINUX_MARKS), folder.join("kvm-disk"), linux.payload()?);
        // A fast line, for a mark waits until the line has taken it, and waiting costs Bochs time.
        let words = guest::APPEND.replace(" quiet ", " loglevel=4 ").replace("ttyS0 ", "ttyS0,115200 ");
        let [_, cpuids, outs] = KINDS.each_ref().map(|kind| kind.exits(quick));
        let append = format!("{words} nvmx.run=kvm-bench nvmx.cpuid={cpuids} nvmx.out={outs} nvmx.rounds={REPEATS}");
        let images = vec![image(ImageKind::Kernel, &linux.kernel())?, image(ImageKind::Initrd, &payload)?];
        let disk = guest::linux_disk(&folder, &linux.kernel(), &payload, &append).map(|()| Disk {
            folder,
            memory: MEMORY,
            watch: watch.clone(),
        });
        Ok(Self { images, append, disk, watch })
    }

    /// Runs it here. L2 must have made the exits that the rates are of.
    fn here(&self, log: Log, linux: bool, quick: bool) -> Result<Vec<Phase>, String> {
        let guest = config::Guest::Kernel { name: "l1".into(), append: self.append.clone() };
        let config = Config { log, memory: MEMORY << 20, ..Config::new(guest) };
        let phases = ours(&config, &self.images, &self.watch)?;
        for kind in KINDS.iter().filter(|kind| kind.linux == linux) {
            let wanted = kind.exits(quick);
            // Beyond them: pages touched first, timers, HLT.
            let right = wanted..=wanted + wanted / 100 + 100;
            if let Some(phase) = kind.of(&phases).find(|phase| !right.contains(&phase.exits)) {
                return Err(format!("{}: L2 made {} exits instead of {wanted}", kind.what, phase.exits));
            }
        }
        Ok(phases)
    }
}

/// A guest of no packages: a multiboot kernel that executes CPUID so often, and leaves.
fn cpuids(count: u32) -> Image {
    const AT: u32 = 0x10_0000;
    // See: "Multiboot Specification version 0.6.96"; with addresses, for the file is no ELF.
    let header = [0x1bad_b002, 1 << 16, (0x1bad_b002_u32 + (1 << 16)).wrapping_neg(), AT, AT, 0, 0, AT + 32];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.push(0xbd); // mov ebp, count
    bytes.extend(count.to_le_bytes());
    bytes.extend([0x31, 0xc0, 0x0f, 0xa2, 0x4d, 0x75, 0xf9]); // xor eax, eax; cpuid; dec ebp; jnz to the xor
    bytes.extend([0x66, 0xba, 0xf4, 0x00, 0x31, 0xc0, 0xee, 0xf4]); // mov dx, 0xf4; xor eax, eax; out dx, al; hlt
    Image { kind: ImageKind::Kernel, name: "cpuids".into(), bytes: bytes.into() }
}

/// Counts the exits of L1 that L0 answers.
#[derive(Default)]
struct Exits(u64);

impl World for Exits {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        for event in events {
            if let What::Exit(exit) = &event.what {
                self.0 += u64::from(exit.level == 1 && exit.handled_by == Actor::L0);
            }
        }
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

/// Exits a second that L0 answers itself.
fn floor(quick: bool) -> Result<f64, String> {
    let guest = config::Guest::Kernel { name: "cpuids".into(), append: String::new() };
    let config = Config { log: Log::Exits, memory: 16 << 20, ..Config::new(guest) };
    let count = if quick { FLOOR / 10 } else { FLOOR };
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let mut machine = Machine::new(&config, &[cpuids(count)]).map_err(|error| error.to_string())?;
        let (mut exits, since) = (Exits::default(), Instant::now());
        let start = clock::thread(since);
        machine.run(&mut exits);
        best = best.min(clock::thread(since).saturating_sub(start));
        if exits.0 < u64::from(count) {
            return Err(format!("its floor's guest made {} exits instead of {count}", exits.0));
        }
    }
    Ok(f64::from(count) / best.as_secs_f64().max(1e-9))
}

/// Measures the round trip, and on a Linux guest what its KVM handles. `say` is told what is under way.
pub fn measure(linux: Result<&Guest, String>, folder: &Path, quick: bool, say: &dyn Fn(&str)) -> Vec<Row> {
    let bare = Subject::bare(folder, quick);
    let linux = linux.and_then(|linux| Subject::linux(linux, folder, quick));
    say("exits to L0");
    let floor = floor(quick);
    let mut rows = Vec::new();
    for (of_linux, subject) in [(false, bare), (true, linux)] {
        let kinds = || KINDS.iter().filter(|kind| kind.linux == of_linux);
        let measured = subject.and_then(|subject| {
            say(if of_linux { "L1 Linux here" } else { "round trips here" });
            let exits = subject.here(Log::Exits, of_linux, quick)?;
            let vmcs = subject.here(Log::Vmcs, of_linux, quick)?;
            Ok((subject, exits, vmcs, floor.clone()?))
        });
        let (subject, exits, vmcs, floor) = match measured {
            Ok(measured) => measured,
            Err(why) => {
                rows.extend(kinds().map(|kind| {
                    Row::missing(kind.name, kind.what, "/s", why.clone()).budget(kind.budget).stretch(kind.stretch)
                }));
                continue;
            }
        };
        let ran: Vec<_> = emulators::bochs_programs()
            .iter()
            .map(|program| {
                say("the same on Bochs");
                let disk = subject.disk.as_ref().map_err(String::clone);
                disk.and_then(|disk| emulators::bochs(program, MODEL, disk))
            })
            .collect();
        for kind in kinds() {
            let peers = ran.iter().map(|ran| match ran {
                Ok(ran) => {
                    let value = kind.rate(&ran.phases, quick).ok_or_else(|| "it took no time".into());
                    Peer { name: "bochs", what: ran.what.clone(), value, beside: None, slowed: ran.debugger }
                }
                Err(why) => {
                    Peer { name: "bochs", what: "Bochs".into(), value: Err(why.clone()), beside: None, slowed: false }
                }
            });
            let fastest = kind.of(&exits).min_by_key(|phase| phase.time).copied().unwrap_or_default();
            let mut timed = Timed::NONE;
            kind.of(&exits).for_each(|phase| timed.add(phase.time));
            let row = |name, what: String, phases| {
                let row = Row::new(name, what, "/s", kind.rate(phases, quick).unwrap_or_default());
                Row { floor: Some(floor), floor_is: FLOOR_IS, ..row }
            };
            let of_one = fastest.instructions as f64 / kind.exits(quick) as f64;
            rows.push(Row {
                peers: peers.collect(),
                ..row(kind.name, kind.what.into(), &exits)
                    .budget(kind.budget)
                    .stretch(kind.stretch)
                    .with("instructions", of_one)
                    .spread(timed)
            });
            rows.push(row(kind.with_vmcs, format!("{}, VMCS accesses logged", kind.what), &vmcs));
        }
    }
    rows
}
