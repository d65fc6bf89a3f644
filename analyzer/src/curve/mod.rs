//! Miss curves: how often a pool of each size would have missed on the same sequence of requests.
//!
//! Least recently used and the clairvoyant optimum are stack algorithms: what a pool holds, one that is larger by a slot
//! holds too, so that one pass gives every size. First-in-first-out is not, and is run for many sizes side by side.
//! See: Mattson, Gecsei, Slutz, Traiger, "Evaluation techniques for storage hierarchies".

mod fifo;
mod lru;
mod optimum;
mod requests;
#[cfg(test)]
mod tests;

pub use requests::Requests;

/// What a pool is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Something is wanted, by its key.
    Use(u64),
    /// Something is given up, in a pool of any size.
    Free(u64),
}

/// Misses at each size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Curve {
    /// How many requests there were.
    pub requests: u64,
    /// How many different things were asked for.
    pub distinct: u64,
    /// Misses that no size avoids: the first request for each thing, and the first after it was given up.
    pub compulsory: u64,
    /// A row for each of [`sizes`], up to the size that holds everything; beyond it every size misses as it does. Each is
    /// exact for its size.
    pub sizes: Vec<Misses>,
    /// Misses at every size, from 1: when the least recently used is recycled.
    lru: Vec<u64>,
    /// Misses at every size, from 1: when the one that is needed last is.
    optimum: Vec<u64>,
}

/// Misses at one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Misses {
    /// Slots.
    pub size: u64,
    /// When the least recently used one is recycled.
    pub lru: u64,
    /// When the one that came first is recycled.
    pub fifo: u64,
    /// When the one that is needed last is recycled: no rule does better.
    pub optimum: u64,
}

/// Where a curve bends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knee {
    /// The smallest size from which on more slots save less than one request in a hundred, all of them together, when the
    /// least recently used one is recycled.
    pub size: u64,
    /// Misses there.
    pub misses: u64,
    /// What its last slot saves.
    pub last_saves: u64,
    /// What all slots beyond it would save.
    pub beyond: u64,
}

/// Every size up to this has a row: as many slots as a pool of L0's may have.
pub const EVERY_SIZE: u64 = 256;
/// Beyond, so many sizes between a power of two and the next.
const STEPS: u64 = 16;

/// The sizes that have rows where there are `distinct` things: all up to [`EVERY_SIZE`], then 16 to each doubling, and
/// `distinct` itself, where nothing more is to be had.
pub fn sizes(distinct: u64) -> Vec<u64> {
    let mut sizes: Vec<u64> = (1..=distinct.min(EVERY_SIZE)).collect();
    let mut size = EVERY_SIZE;
    while size < distinct {
        size = (size + (1 << size.ilog2()) / STEPS).min(distinct);
        sizes.push(size);
    }
    sizes
}

/// The miss curve of a sequence of requests.
pub fn curve(requests: &[Request]) -> Curve {
    let mut all = Requests::default();
    for request in requests {
        match *request {
            Request::Use(key) => all.wants(key),
            Request::Free(key) => all.gives_up(key),
        }
    }
    all.curve()
}

/// Uses by the smallest pool that has what is wanted, and those that no pool has.
#[derive(Debug, Default)]
struct Depths {
    /// By size less one.
    hits: Vec<u64>,
    none: u64,
}

impl Depths {
    fn add(&mut self, place: Option<usize>) {
        match place {
            Some(place) => {
                if place >= self.hits.len() {
                    self.hits.resize(place + 1, 0);
                }
                self.hits[place] += 1;
            }
            None => self.none += 1,
        }
    }

    /// Misses at each size from 1 to `distinct`.
    fn misses(self, distinct: usize) -> Vec<u64> {
        let mut missed = self.none + self.hits.iter().sum::<u64>();
        let hits = self.hits.into_iter().chain(core::iter::repeat(0)).take(distinct);
        hits.map(|hits| {
            missed -= hits;
            missed
        })
        .collect()
    }
}

impl Requests {
    /// The miss curve.
    pub fn curve(&self) -> Curve {
        let distinct = self.distinct();
        let (lru, optimum) = (lru::depths(self), optimum::depths(self));
        let compulsory = lru.none;
        let (lru, optimum) = (lru.misses(distinct), optimum.misses(distinct));
        let sizes = sizes(distinct as u64);
        let fifo = fifo::misses(self, &sizes);
        let rows = sizes.into_iter().zip(fifo).map(|(size, fifo)| {
            let at = size as usize - 1;
            Misses { size, lru: lru[at], fifo, optimum: optimum[at] }
        });
        let sizes = rows.collect();
        Curve { requests: self.count(), distinct: distinct as u64, compulsory, sizes, lru, optimum }
    }
}

impl Curve {
    /// Where it bends; `None` without requests.
    pub fn knee(&self) -> Option<Knee> {
        let best = *self.lru.last()?;
        let at = self.lru.iter().position(|lru| (lru - best.min(*lru)) * 100 <= self.requests)?;
        let misses = self.lru[at];
        let before = if at == 0 { self.requests } else { self.lru[at - 1] };
        let (last_saves, beyond) = (before.saturating_sub(misses), misses.saturating_sub(best));
        Some(Knee { size: at as u64 + 1, misses, last_saves, beyond })
    }

    /// Misses of a pool of that size, of at least 1, that recycles the least recently used; sizes beyond the last miss as
    /// the last.
    pub fn lru_at(&self, size: u64) -> Option<u64> {
        let at = usize::try_from(size.checked_sub(1)?).unwrap_or(usize::MAX);
        self.lru.get(at).or(self.lru.last()).copied()
    }

    /// The row of a size; sizes beyond the last have the last's. `None` for a size that is not among [`sizes`].
    pub fn at(&self, size: u64) -> Option<Misses> {
        let last = self.sizes.last()?;
        if size >= last.size {
            return Some(Misses { size, ..*last });
        }
        self.sizes.binary_search_by_key(&size, |row| row.size).ok().map(|at| self.sizes[at])
    }

    /// The curve of several pools of one size each.
    pub fn sum<'a>(curves: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let total = |pick: fn(&Self) -> u64| curves.clone().map(pick).sum();
        let most = curves.clone().map(|curve| curve.lru.len()).max().unwrap_or(0);
        let stretched = |pick: fn(&Self) -> &[u64]| -> Vec<u64> {
            let mut sums = vec![0; most];
            for curve in curves.clone() {
                let own = pick(curve);
                let rest = core::iter::repeat_n(own.last().copied().unwrap_or(0), most - own.len());
                sums.iter_mut().zip(own.iter().copied().chain(rest)).for_each(|(sum, misses)| *sum += misses);
            }
            sums
        };
        let (lru, optimum) = (stretched(|curve| &curve.lru), stretched(|curve| &curve.optimum));
        let rows = sizes(most as u64).into_iter().map(|size| Misses {
            size,
            lru: lru[size as usize - 1],
            fifo: curves.clone().filter_map(|curve| curve.at(size)).map(|row| row.fifo).sum(),
            optimum: optimum[size as usize - 1],
        });
        let sizes = rows.collect();
        let (requests, compulsory) = (total(|curve| curve.requests), total(|curve| curve.compulsory));
        Self { requests, distinct: total(|curve| curve.distinct), compulsory, sizes, lru, optimum }
    }
}
