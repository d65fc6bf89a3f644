//! The judge by replay, proved by experiment on stock Linux with KVM as L1 and a payload as L2: from shortly before the first
//! flush on, the run is made again with one flush left out, and what becomes of every access to data is compared.
//!
//! `NVMX_JUDGED_TRACE` names a trace to take in the place of one that is recorded here, `NVMX_JUDGED_EACH` how many flushes of
//! each verdict are left out.

mod common;
#[path = "common/guest.rs"]
mod guest;

use common::{folder, nvmx, word};
use core::ops::ControlFlow;
use hv::machine::{Advance, Machine};
use hv::mmu::Adversary;
use hv::world::World;
use hv_defs::event::{Cause, Event, InputKind};
use replayer::judge::{Judged, Need, judge};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use traces::Reader;

struct Nobody;

impl World for Nobody {
    fn events(&mut self, _: &[Event]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn console(&mut self, _: &[u8]) {}

    fn input(&mut self, _: u64, _: u64, _: Option<u64>) -> Option<(InputKind, u64)> {
        None
    }
}

/// A trace of Linux whose KVM runs a payload, with TLBs from which next to nothing is evicted.
fn trace() -> Option<PathBuf> {
    if let Some(trace) = std::env::var_os("NVMX_JUDGED_TRACE") {
        return Some(trace.into());
    }
    let made = guest::linux().and_then(|linux| Ok((linux.kernel(), guest::kvm(&linux)?)));
    let (kernel, initrd) = guest::or_skip(&made)?;
    let trace = folder("judge-linux").join("kvm.nvmx");
    let append = format!("{} nvmx.run=kvm nvmx.payload=cpuid=20,out=10,pages=20,mmio=5", guest::APPEND);
    let words = ["record", "--kernel", word(kernel), "--initrd", word(initrd), "--append", &append];
    let options = ["--mem", "384M", "--tlb", "65536", "--policy", "kvm-2015", "--log", "exits", "-o", word(&trace)];
    nvmx(&[&words[..], &options[..]].concat()).expect(0);
    Some(trace)
}

/// A machine that can begin again.
struct Again {
    machine: Machine,
    state: Vec<u8>,
    digests: Vec<u64>,
    pages: BTreeMap<u32, Box<[u8]>>,
}

impl Again {
    /// Paused at an instruction.
    fn at(reader: &Reader, instruction: u64) -> Self {
        let mut machine = replayer::machine(reader.header()).expect("a machine");
        assert_eq!(machine.run_to(&mut Nobody, instruction), Advance::Paused);
        let (state, mut digests) = (machine.save(), Vec::new());
        let pages = machine.changed_pages(&mut digests).into_iter().collect();
        Self { machine, state, digests, pages }
    }

    /// What becomes of every access from there to the end, with one flush left out.
    fn accesses(&mut self, left_out: Option<u64>) -> (u64, u64) {
        let Self { machine, state, digests, pages } = self;
        for (number, _) in machine.changed_pages(&mut digests.clone()) {
            let zeros = vec![0; 4096];
            assert!(machine.set_page(number as usize, pages.get(&number).map_or(&zeros, |bytes| bytes)));
        }
        machine.restore(state).expect("a state");
        machine.silicon().set_adversary(Adversary::of_every_access);
        machine.silicon().leave_out_flush(left_out);
        machine.run(&mut Nobody);
        machine.silicon().mmu(0).adversary().expect("it is there").trail()
    }
}

#[test]
fn a_flush_left_out_of_linux_changes_what_its_verdict_says() {
    let Some(trace) = trace() else { return };
    experiment(&trace);
}

fn experiment(trace: &Path) {
    // Not by a macro, whose output is kept from the terminal while the test passes.
    let say = |text: String| _ = writeln!(std::io::stderr(), "{text}");
    let most = std::env::var("NVMX_JUDGED_EACH").ok().and_then(|each| each.parse().ok()).unwrap_or(2);
    let reader = Reader::open(trace).expect("a trace");
    let start = Instant::now();
    let judgement = judge(&reader).expect("judged");
    assert_eq!(judgement.divergence, None);
    let flushes: Vec<&Judged> = judgement.flushes.iter().filter(|one| one.need != Need::Missing).collect();
    let of = |need| (0..flushes.len()).filter(|number| flushes[*number].need == need).collect::<Vec<_>>();
    let counts = [Need::Required, Need::TooBroad, Need::Redundant].map(|need| of(need).len());
    say(format!(
        "judged in {:.0} s: {counts:?} required, too broad, redundant; {} missing",
        start.elapsed().as_secs_f64(),
        judgement.flushes.len() - flushes.len()
    ));
    // What L0 emulates of the booting kernel's paging comes long before KVM.
    let kvms = flushes.iter().find(|one| one.flush.cause != Cause::GuestPaging).expect("flushes of KVM");
    let first = kvms.at.instruction;
    let mut again = Again::at(&reader, first - 1000);
    let all = again.accesses(None);
    assert!(all.1 > 100_000, "{all:?}");
    assert_eq!(again.accesses(None), all, "it begins again as it was");
    for need in [Need::Required, Need::TooBroad, Need::Redundant] {
        let mut of = of(need);
        of.retain(|number| flushes[*number].at.instruction >= first);
        for &number in of.iter().step_by(of.len().div_ceil(most).max(1)) {
            let got = again.accesses(Some(number as u64));
            say(format!("flush {number}, {need:?}, for {}: {got:?} of {all:?}", flushes[number].flush.cause));
            assert_eq!(got == all, need == Need::Redundant, "without flush {number}: {:?}", flushes[number]);
        }
    }
}
