//! What each policy costs on the same work: a stock Linux with KVM as L1, on two CPUs, that runs two virtual machines at
//! once. Prints one table, in Markdown or as JSON: flushes by cause and what they dropped, TLB misses (of linear addresses, and of
//! guest-physical ones), VMWRITEs to vmcs02s and those that were not needed, and what the vmcs02 pool found; all from when
//! the virtual machines begin to run to the end.
//!
//!     cargo run --release -p hv --example policies -- [--json] KERNEL INITRD [PRESET...]
//!
//! KERNEL and INITRD are what `tests/guests/linux.sh` and `tests/guests/kvm.sh` make. Without presets all are run, each
//! from power-on. What L1 says must be the same under all of them: it is compared, but for addresses and times.

use core::ops::ControlFlow;
use hv::machine::{Image, Machine};
use hv::world::World;
use hv_defs::config::{Config, Guest, ImageKind, Log};
use hv_defs::event::{Cause, Event, InputKind, PoolOp, StopKind, What};
use hv_defs::policy::{PRESETS, Policy};
use std::collections::BTreeMap;

/// Two virtual machines, each on a thread and a CPU of its own, with two vCPUs that take turns there: CPUIDs, port writes,
/// first touches of pages and MMIO.
const WORK: &str = "cpuid=1000,out=500,pages=500,mmio=100,vms=2,vcpus=2,threads=1,rounds=8";
const APPEND: &str = "console=ttyS0 nokaslr mitigations=off quiet lpj=1000000 random.trust_cpu=1 raid=noautodetect \
                      cryptomgr.notests=1 panic=-1 nvmx.run=kvm";
/// L1's memory.
const MEMORY: u64 = 256 << 20;
/// The CPUs, virtual and physical.
const CPUS: u16 = 2;
/// More than any policy takes.
const LIMIT: u64 = 8_000_000_000;

/// How the guest leaves when its test ended well.
const PASSED: u32 = 1;

/// What a run came to.
#[derive(Default)]
struct Counted {
    console: Vec<u8>,
    flushes: BTreeMap<Cause, u64>,
    dropped: u64,
    entries: u64,
    pool: BTreeMap<PoolOp, u64>,
    written: u64,
    skipped: u64,
    began: bool,
}

impl Counted {
    fn pooled(&self, op: PoolOp) -> u64 {
        self.pool.get(&op).copied().unwrap_or(0)
    }
}

impl World for Counted {
    fn events(&mut self, events: &[Event]) -> ControlFlow<()> {
        let began = self.began;
        for event in events {
            match event.what {
                What::Entry(entry) if entry.level == 2 => {
                    self.began = true;
                    self.entries += 1;
                }
                What::Flush(flush) if flush.cause != Cause::Guest => {
                    *self.flushes.entry(flush.cause).or_default() += 1;
                    self.dropped += u64::from(flush.dropped);
                }
                What::Pool(pool) => {
                    *self.pool.entry(pool.op).or_default() += 1;
                    self.written += u64::from(pool.written);
                    self.skipped += u64::from(pool.skipped);
                }
                _ => {}
            }
        }
        // The first entry of an L2 breaks the run off, for a look at the TLBs.
        if self.began && !began { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn input(&mut self, _poll: u64, _now: u64, _idle_until: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

/// Runs the work under a policy.
fn run(images: &[Image], name: &str, policy: Policy) -> Result<(Counted, [u64; 2], u64), String> {
    let append = format!("{APPEND} nvmx.payload={WORK}");
    let mut config = Config::new(Guest::Kernel { name: "vmlinuz".to_owned(), append });
    config.memory = MEMORY;
    (config.vcpus, config.pcpus) = (CPUS, CPUS);
    config.policy = policy;
    config.log = Log::Exits;
    config.max_instructions = Some(LIMIT);
    let mut machine = Machine::new(&config, images).map_err(|error| error.to_string())?;
    let mut counted = Counted::default();
    machine.run(&mut counted);
    let before = machine.silicon().tlb_statistics();
    let stop = machine.run(&mut counted);
    if stop.kind != StopKind::DebugExit || stop.code != PASSED {
        return Err(format!("{name}: {}\n{}", stop.text, String::from_utf8_lossy(&counted.console)));
    }
    let after = machine.silicon().tlb_statistics();
    let misses = [after.misses - before.misses, after.physical_misses - before.physical_misses];
    Ok((counted, misses, machine.now()))
}

/// What the virtual machines' own user land counted.
fn outcome(console: &[u8]) -> Vec<String> {
    let said = String::from_utf8_lossy(console).into_owned();
    said.lines().filter(|line| line.contains(" user hlt ")).map(|line| line.trim().to_owned()).collect()
}

const USAGE: &str = "usage: policies [--json] KERNEL INITRD [PRESET...]";

/// A cell of the table.
type Cell = (&'static str, u64);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let json = options == ["--json"];
    let [kernel, initrd, names @ ..] = words.as_slice() else { return Err(USAGE.into()) };
    if !json && !options.is_empty() {
        return Err(USAGE.into());
    }
    let image = |kind, name: &str, from: &str| {
        Ok::<_, std::io::Error>(Image { kind, name: name.to_owned(), bytes: std::fs::read(from)?.into() })
    };
    let images = [image(ImageKind::Kernel, "vmlinuz", kernel)?, image(ImageKind::Initrd, "kvm.img", initrd)?];
    let mut rows: Vec<(&str, Vec<Cell>)> = Vec::new();
    let mut first: Option<Vec<String>> = None;
    let mut entries = 0;
    for preset in PRESETS.iter().filter(|preset| names.is_empty() || names.iter().any(|name| name == preset.name)) {
        let (counted, misses, instructions) = run(&images, preset.name, preset.policy)?;
        let result = outcome(&counted.console);
        let expected = first.get_or_insert_with(|| result.clone());
        if *expected != result || result.is_empty() {
            return Err(format!("{}: {result:#?}, and not {expected:#?}", preset.name).into());
        }
        eprintln!("{}: {instructions} instructions, {} entries of L2", preset.name, counted.entries);
        let flushes = Cause::ALL.iter().map(|cause| (cause.name(), counted.flushes.get(cause).copied().unwrap_or(0)));
        let others = [
            ("translations dropped", counted.dropped),
            ("TLB misses", misses[0]),
            ("EPT walks", misses[1]),
            ("VMWRITEs to vmcs02", counted.written),
            ("VMWRITEs spared", counted.skipped),
            ("pool hits", counted.pooled(PoolOp::Hit)),
            ("pool misses", counted.pooled(PoolOp::Miss)),
            ("pool recycles", counted.pooled(PoolOp::Recycle)),
        ];
        rows.push((preset.name, flushes.chain(others).collect()));
        entries = counted.entries;
    }
    print!("{}", if json { object(&rows, entries) } else { table(&rows) });
    Ok(())
}

/// The runs as one JSON object, in whose `policies` the names of the runs are, what L2 was entered, and a row for each count
/// with a value for each run. No name needs escapes.
fn object(runs: &[(&str, Vec<Cell>)], entries: u64) -> String {
    let quoted =
        |names: &mut dyn Iterator<Item = &str>| names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let presets = quoted(&mut runs.iter().map(|(name, _)| *name));
    let measures = runs.first().map_or(0, |(_, cells)| cells.len());
    let rows: Vec<String> = (0..measures)
        .map(|measure| {
            let values: Vec<String> = runs.iter().map(|(_, cells)| cells[measure].1.to_string()).collect();
            format!("      {{ \"name\": \"{}\", \"values\": [{}] }}", runs[0].1[measure].0, values.join(", "))
        })
        .collect();
    format!(
        "{{\n  \"policies\": {{\n    \"entries\": {entries},\n    \"presets\": [{presets}],\n    \"rows\": [\n{}\n    ]\n  }}\n}}\n",
        rows.join(",\n")
    )
}

/// The runs as Markdown, a column each, without the causes that no policy flushed for.
fn table(runs: &[(&str, Vec<Cell>)]) -> String {
    let line = |first: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!(" {cell} |")).collect();
        format!("| {first} |{cells}\n")
    };
    let mut text = line("", &mut runs.iter().map(|(name, _)| format!("`{name}`")));
    text += &line("---", &mut runs.iter().map(|_| "---".to_owned()));
    let measures = runs.first().map_or(0, |(_, cells)| cells.len());
    for measure in 0..measures {
        let cells = || runs.iter().map(|(_, cells)| cells[measure]);
        if measure >= Cause::ALL.len() || cells().any(|(_, count)| count != 0) {
            let name = runs[0].1[measure].0;
            text += &line(name, &mut cells().map(|(_, count)| grouped(count)));
        }
    }
    text
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
