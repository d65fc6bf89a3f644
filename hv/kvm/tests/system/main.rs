//! System code on KVM and on the software CPU: the same snippets, the same end state.
//!
//! Where there is no /dev/kvm nothing is judged, and the test says so. What one KVM does otherwise than the architecture is
//! listed in `known`, and excused there alone; what it cannot run at all, the host's own CPU is asked in `native`, as far as
//! user code can. Neither judges task switches, which are the hypervisor's in VMX non-root operation; and where kvm_pvm is
//! the only KVM, paging outside IA-32e mode, call gates, returns to an outer level and events in virtual-8086 mode wait for
//! another host.
//!
//! `NVMX_KVM_ONLY` picks snippets by a part of their name; `NVMX_KVM_VERBOSE` shows every difference, explained or not; `NVMX_KVM_RANDOM` is the number of random cases of
//! each family, `NVMX_KVM_SEED` where they begin.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(missing_docs, unreachable_pub)] // A test has no readers outside.

mod judge;
mod kit;
mod known;
#[path = "../../../tests/support/maker.rs"]
mod maker;
mod native;
mod random;
mod rows;

use hv_kvm::Vm;
use judge::{End, Ours, differences, on_kvm};
use kit::Case;
use known::{Deviation, Features};
use std::collections::BTreeMap;
use std::io::Write;

/// The judge with its record.
struct Bench {
    vm: Vm,
    ours: Ours,
    features: Features,
    paravirtual: bool,
    verbose: bool,
    same: usize,
    skipped: usize,
    known: BTreeMap<Deviation, usize>,
    wrong: Vec<String>,
}

impl Bench {
    fn new() -> Option<Self> {
        let mut features = Features::empty();
        let cpuid = |entry: &mut hv_kvm::CpuidEntry| {
            features |= Features::of(entry.function, entry.index, [entry.eax, entry.ebx, entry.ecx, entry.edx]);
        };
        match Vm::new(kit::MEMORY, cpuid) {
            Ok(vm) => Some(Self {
                vm,
                ours: Ours::new(),
                features,
                paravirtual: known::paravirtual(),
                verbose: std::env::var_os("NVMX_KVM_VERBOSE").is_some(),
                same: 0,
                skipped: 0,
                known: BTreeMap::new(),
                wrong: Vec::new(),
            }),
            Err(error) => {
                // Not by a macro, whose output is kept from the terminal while the test passes.
                let _ = writeln!(std::io::stderr(), "SKIPPED, nothing was judged: {error}");
                None
            }
        }
    }

    fn judge(&mut self, case: &Case) {
        if !self.features.contains(case.needs) {
            self.skipped += 1;
            return;
        }
        let ours = self.ours.run(case);
        if ours.end == End::TaskSwitch {
            self.skipped += 1;
            return;
        }
        let kvm = on_kvm(&mut self.vm, case);
        let differ = differences(&kvm, &ours);
        if differ.is_empty() {
            self.same += 1;
            return;
        }
        let explained = if self.paravirtual { known::explain(case, &kvm, &ours) } else { None };
        let line = format!("{}: {differ:?}", case.name);
        if self.verbose {
            println!("{explained:?} {line}");
        }
        match explained {
            Some(deviation) => *self.known.entry(deviation).or_default() += 1,
            None => self.wrong.push(line),
        }
    }

    /// Says what came of it, and fails if anything differs that is not explained.
    fn finish(&self, what: &str) {
        let excused: usize = self.known.values().sum();
        println!(
            "{} {what}, {} differences, {excused} known deviations of this KVM in {} kinds, {} for want of a feature",
            self.same + self.wrong.len() + excused,
            self.wrong.len(),
            self.known.len(),
            self.skipped
        );
        for (deviation, count) in &self.known {
            println!("  {count} {deviation:?}: {}", deviation.why());
        }
        for line in self.wrong.iter().take(number("NVMX_KVM_SHOW", 40) as usize) {
            println!("DIFFERS {line}");
        }
        assert!(self.wrong.is_empty(), "{} of the {what} differ", self.wrong.len());
    }
}

#[test]
fn snippets_end_as_on_kvm() {
    let Some(mut bench) = Bench::new() else { return };
    let only = std::env::var("NVMX_KVM_ONLY").unwrap_or_default();
    for case in rows::all().iter().filter(|case| case.name.contains(&only)) {
        bench.judge(case);
    }
    bench.finish("snippets");
}

pub(crate) fn number(variable: &str, or: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[test]
fn random_cases_end_as_on_kvm() {
    let Some(mut bench) = Bench::new() else { return };
    let only = std::env::var("NVMX_KVM_ONLY").unwrap_or_default();
    let seed = number("NVMX_KVM_SEED", 1);
    for (family, make) in random::FAMILIES.iter().filter(|(family, _)| family.contains(&only)) {
        let (before, wrong) = (bench.same, bench.wrong.len());
        for index in 0..number("NVMX_KVM_RANDOM", 500) {
            let mut dice = random::Dice(seed.wrapping_add(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            bench.judge(&make(&mut dice));
        }
        println!("{family}: {} same, {} differ", bench.same - before, bench.wrong.len() - wrong);
    }
    bench.finish("random cases");
}
