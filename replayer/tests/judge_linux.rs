//! The judge by replay, proved by experiment on a long trace, as that of a stock Linux with KVM as L1: from shortly before
//! KVM's first flush on, the run is made again with one flush left out, and what becomes of every access to data is compared.
//!
//! `NVMX_JUDGED_TRACE` names the trace, which has one physical CPU, no input and TLBs from which next to nothing is evicted
//! (`--tlb 65536`); without it there is nothing to do. `NVMX_JUDGED_EACH` says how many flushes of each verdict are left out.

mod common;

use common::Nobody;
use hv::machine::Advance;
use hv::mmu::Adversary;
use hv_defs::event::Cause;
use replayer::judge::{Judged, Need, judge};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use traces::Reader;

/// Where runs begin: a machine's state and its memory, page by page.
struct Begin<'a> {
    reader: &'a Reader,
    state: Vec<u8>,
    digests: Vec<u64>,
    pages: BTreeMap<u32, Box<[u8]>>,
}

impl<'a> Begin<'a> {
    /// At an instruction.
    fn at(reader: &'a Reader, instruction: u64) -> Self {
        let mut machine = replayer::machine(reader.header()).expect("a machine");
        assert_eq!(machine.run_to(&mut Nobody, instruction), Advance::Paused);
        let (state, mut digests) = (machine.save(), Vec::new());
        let pages = machine.changed_pages(&mut digests).into_iter().collect();
        Self { reader, state, digests, pages }
    }

    /// What becomes of every access from there to the end, with one flush left out. Each run has a machine of its own: one
    /// that has run before goes other ways to the same accesses, and asks for their translations more or less often.
    fn accesses(&self, left_out: Option<u64>) -> (u64, u64) {
        let mut machine = replayer::machine(self.reader.header()).expect("a machine");
        let (now, zeros) = (machine.page_digests().to_vec(), vec![0; 4096]);
        for (number, _) in (0u32..).zip(now.iter().zip(&self.digests)).filter(|(_, (now, then))| now != then) {
            assert!(machine.set_page(number as usize, self.pages.get(&number).map_or(&zeros, |bytes| bytes)));
        }
        machine.restore(&self.state).expect("a state");
        machine.silicon().set_adversary(Adversary::of_every_access);
        machine.silicon().leave_out_flush(left_out);
        machine.run(&mut Nobody);
        machine.silicon().mmu(0).adversary().expect("it is there").trail()
    }
}

#[test]
fn a_flush_left_out_of_linux_changes_what_its_verdict_says() {
    let Some(trace) = std::env::var_os("NVMX_JUDGED_TRACE") else {
        // Not by a macro, whose output is kept from the terminal while the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED, NVMX_JUDGED_TRACE names no trace");
        return;
    };
    experiment(Path::new(&trace));
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
    let begin = Begin::at(&reader, first - 1000);
    let all = begin.accesses(None);
    assert!(all.1 > 100_000, "{all:?}");
    assert_eq!(begin.accesses(None), all, "it begins again as it was");
    for need in [Need::Required, Need::TooBroad, Need::Redundant] {
        let mut of = of(need);
        of.retain(|number| flushes[*number].at.instruction >= first);
        for &number in of.iter().step_by(of.len().div_ceil(most).max(1)) {
            let got = begin.accesses(Some(number as u64));
            say(format!("flush {number}, {need:?}, for {}: {got:?} of {all:?}", flushes[number].flush.cause));
            assert_eq!(got == all, need == Need::Redundant, "without flush {number}: {:?}", flushes[number]);
        }
    }
}
