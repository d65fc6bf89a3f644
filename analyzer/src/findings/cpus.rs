//! Which CPUs a trace has, and its events by kind.

use hv_defs::event::{Kind, Stamp};

/// Which CPUs were seen, and events by kind.
#[derive(Debug, Default)]
pub(super) struct Cpus {
    vcpus: Vec<bool>,
    pcpus: Vec<bool>,
    counts: [u64; Kind::ALL.len()],
}

impl Cpus {
    pub(super) fn see(&mut self, at: Stamp) {
        for (seen, cpu) in [(&mut self.vcpus, at.vcpu), (&mut self.pcpus, at.pcpu)] {
            let cpu = usize::from(cpu);
            if cpu >= seen.len() {
                seen.resize(cpu + 1, false);
            }
            seen[cpu] = true;
        }
    }

    pub(super) fn count(&mut self, counts: &[u64; Kind::ALL.len()]) {
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    pub(super) fn finish(self) -> (u64, u64, Vec<(Kind, u64)>) {
        let seen = |cpus: Vec<bool>| cpus.into_iter().filter(|seen| *seen).count() as u64;
        let counts = Kind::ALL.iter().copied().zip(self.counts).filter(|(_, count)| *count > 0).collect();
        (seen(self.vcpus), seen(self.pcpus), counts)
    }
}
