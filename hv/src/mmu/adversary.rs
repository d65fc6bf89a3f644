//! The adversarial TLB: one that keeps every translation until the architecture makes it go, however many there are.
//!
//! It stands beside the TLB and answers nothing: the machine's run is the same. What a hypervisor's flush drops stays here
//! as a *ghost* of that flush, as it would stay in a TLB had the flush been left out, until another flush covers it. An
//! access that a ghost would have served otherwise proves that its flush was needed. An access that a translation would
//! serve which the tables in memory no longer give shows that a flush is missing.
//!
//! It keeps final translations and guest-physical ones, as the TLB does, not entries of paging structures. Accessed and
//! dirty flags that a longer life of a translation leaves unset are no translations.
//!
//! See: SDM "Information That May Be Cached".

use super::tlb::{PageSize, Tag, flag};
use std::collections::{HashMap, HashSet};

/// What was walked for a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Where its first byte lies.
    pub(super) target: u64,
    /// Its first guest-physical address.
    pub(super) gpa: u64,
    pub(super) flags: u32,
    /// The VM entry, by number, whose guest had it walked.
    walked: u64,
    /// Of a ghost, the flush that dropped it.
    flush: u64,
    /// Of a live one, whether it was told to be stale.
    told: bool,
}

/// A page and its size, as the TLB's keys.
type Page = u64;

fn page(address: u64, size: PageSize) -> Page {
    size.base(address) >> 12 | (size as u64) << 60
}

fn first(page: Page) -> (u64, PageSize) {
    ((page & ((1 << 52) - 1)) << 12, PageSize::ALL[(page >> 60) as usize % 3])
}

/// What is kept of a tag.
#[derive(Debug, Default)]
struct Shelf {
    live: HashMap<Page, Held>,
    ghosts: HashMap<Page, Held>,
    /// Parts of larger pages were kept.
    parts: bool,
}

/// What serves an address: which page of which tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    tag: Tag,
    page: Page,
    pub(super) held: Held,
}

impl Found {
    pub(super) fn size(&self) -> PageSize {
        first(self.page).1
    }

    /// Where it leads for an address of its page.
    pub(super) fn at(&self, address: u64) -> u64 {
        let (_, size) = first(self.page);
        self.held.target + (address & (size.bytes() - 1))
    }
}

/// Which tables are no longer what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The guest's own paging structures, or whose they are.
    Guest,
    /// EPT, or the APIC-access page.
    Ept,
}

/// What the adversarial TLB has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A flush was needed: without it this access would have been served otherwise.
    Needed {
        /// The flush, by number from 0: INVVPIDs, INVEPTs and what transitions drop, on all CPUs together.
        flush: u64,
        /// What the translation was.
        entry: Stale,
    },
    /// A flush dropped what was walked again and found the same. Told once for each flush.
    Same {
        /// The flush.
        flush: u64,
    },
    /// A flush is missing: the tables do not say what hardware may go on using.
    Missing {
        /// What is out of date.
        entry: Stale,
        /// Which tables changed.
        part: Part,
    },
}

/// A translation that is not what would be walked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// What it is tagged with.
    pub tag: Tag,
    /// Whether it translates guest-physical addresses.
    pub guest_physical: bool,
    /// The page's first address.
    pub address: u64,
    /// Its size.
    pub size: PageSize,
    /// Its first guest-physical address, when it was walked.
    pub gpa: u64,
    /// Where it led.
    pub target: u64,
    /// Where the address leads now; `None` when the access faults.
    pub now: Option<u64>,
    /// The VM entry, by number from 0, whose guest had it walked.
    pub walked: u64,
    /// The VM entry whose guest would have used it.
    pub used: u64,
}

/// The adversarial TLB of one physical CPU.
#[derive(Debug, Default)]
pub struct Adversary {
    linear: HashMap<Tag, Shelf>,
    physical: HashMap<Tag, Shelf>,
    /// The VM entry whose guest runs.
    entry: u64,
    /// The flush that is carried out.
    flush: Option<u64>,
    found: Vec<Finding>,
    /// Flushes of which [`Finding::Same`] was told.
    agreed: HashSet<u64>,
    /// A digest of all translations that were made.
    trail: u64,
    translations: u64,
    sees_all: bool,
}

impl Adversary {
    /// One that is shown every access to data, so that [`Adversary::trail`] tells runs apart by what they access. It makes
    /// a run several times as long.
    pub fn of_every_access() -> Self {
        Self { sees_all: true, ..Self::default() }
    }

    pub(super) fn sees_all(&self) -> bool {
        self.sees_all
    }

    /// What was found since the last call, in order.
    pub fn take(&mut self) -> Vec<Finding> {
        core::mem::take(&mut self.found)
    }

    /// A digest of every translation of an access to data that was asked of the MMU so far, and how many there were.
    pub fn trail(&self) -> (u64, u64) {
        (self.trail, self.translations)
    }

    /// A VM entry, by number.
    pub(crate) fn entered(&mut self, entry: u64) {
        self.entry = entry;
    }

    /// The next drops are this flush's; `None`: the guest's own.
    pub(crate) fn flushing(&mut self, flush: Option<u64>) {
        self.flush = flush;
    }

    pub(super) fn translated(&mut self, address: u64, access: u64, to: Option<u64>) {
        let mix = |digest: u64, word: u64| (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.trail = mix(mix(mix(self.trail, address), access), to.unwrap_or(u64::MAX));
        self.translations += 1;
    }

    fn shelves(&mut self, guest_physical: bool) -> &mut HashMap<Tag, Shelf> {
        if guest_physical { &mut self.physical } else { &mut self.linear }
    }

    /// A translation was walked.
    pub(super) fn insert(
        &mut self,
        guest_physical: bool,
        tag: Tag,
        (address, size): (u64, PageSize),
        (target, gpa, flags): (u64, u64, u32),
    ) {
        let walked = self.entry;
        let shelf = self.shelves(guest_physical).entry(tag).or_default();
        for other in PageSize::ALL {
            shelf.live.remove(&page(address, other));
        }
        shelf.parts |= flags >> flag::WHOLE_SHIFT != 0;
        let (target, gpa) = (size.base(target), size.base(gpa));
        let held = Held { target, gpa, flags, walked, flush: 0, told: false };
        shelf.live.insert(page(address, size), held);
    }

    /// A live translation is given up, since it does not permit an access or the access faulted.
    pub(super) fn kill(&mut self, guest_physical: bool, tags: [Tag; 2], address: u64) {
        for tag in tags {
            if let Some(shelf) = self.shelves(guest_physical).get_mut(&tag) {
                for size in PageSize::ALL {
                    shelf.live.remove(&page(address, size));
                }
            }
        }
    }

    /// What is kept live, or as a ghost, for an address under either tag.
    pub(super) fn find(&self, guest_physical: bool, ghost: bool, tags: [Tag; 2], address: u64) -> Vec<Found> {
        let shelves = if guest_physical { &self.physical } else { &self.linear };
        let mut all = Vec::new();
        for (number, tag) in tags.into_iter().enumerate() {
            if number == 1 && tag == tags[0] {
                break;
            }
            let Some(shelf) = shelves.get(&tag) else { continue };
            let pages = if ghost { &shelf.ghosts } else { &shelf.live };
            if pages.is_empty() {
                continue;
            }
            for size in PageSize::ALL {
                let page = page(address, size);
                all.extend(pages.get(&page).map(|held| Found { tag, page, held: *held }));
            }
        }
        all
    }

    /// A ghost did not serve an access that it could have: it permits none such, and goes.
    pub(super) fn lay(&mut self, guest_physical: bool, ghost: &Found) {
        if let Some(shelf) = self.shelves(guest_physical).get_mut(&ghost.tag) {
            shelf.ghosts.remove(&ghost.page);
        }
    }

    /// A ghost would have served an access as it was served.
    pub(super) fn agrees(&mut self, ghost: &Found) {
        if self.agreed.insert(ghost.held.flush) {
            self.found.push(Finding::Same { flush: ghost.held.flush });
        }
    }

    fn stale(&self, guest_physical: bool, found: &Found, now: Option<u64>) -> Stale {
        let (address, size) = first(found.page);
        let Held { target, gpa, walked, .. } = found.held;
        Stale { tag: found.tag, guest_physical, address, size, gpa, target, now, walked, used: self.entry }
    }

    /// A ghost would have served an access otherwise than it was served.
    pub(super) fn proves(&mut self, guest_physical: bool, ghost: &Found, now: Option<u64>) {
        let entry = self.stale(guest_physical, ghost, now);
        self.found.push(Finding::Needed { flush: ghost.held.flush, entry });
        self.lay(guest_physical, ghost);
    }

    /// A live translation is not what the tables say.
    pub(super) fn misses(&mut self, guest_physical: bool, live: &Found, part: Part, now: Option<u64>) {
        if live.held.told {
            return;
        }
        let entry = self.stale(guest_physical, live, now);
        self.found.push(Finding::Missing { entry, part });
        if let Some(held) =
            self.shelves(guest_physical).get_mut(&live.tag).and_then(|shelf| shelf.live.get_mut(&live.page))
        {
            held.told = true;
        }
    }

    /// All of the tags that `which` picks goes.
    pub(super) fn drop_tags(&mut self, guest_physical: bool, which: impl Fn(&Tag) -> bool) {
        let flush = self.flush;
        for (_, shelf) in self.shelves(guest_physical).iter_mut().filter(|(tag, _)| which(tag)) {
            shelf.ghosts.clear();
            match flush {
                Some(flush) => {
                    let gone = shelf.live.drain();
                    shelf.ghosts.extend(gone.map(|(page, held)| (page, Held { flush, ..held })));
                }
                None => shelf.live.clear(),
            }
        }
    }

    /// What translates `address` under the tags that `which` picks goes.
    pub(super) fn drop_address(&mut self, address: u64, which: impl Fn(&Tag) -> bool) {
        let flush = self.flush;
        for (_, shelf) in self.linear.iter_mut().filter(|(tag, _)| which(tag)) {
            let mut pages: Vec<Page> = PageSize::ALL.map(|size| page(address, size)).to_vec();
            if shelf.parts {
                let covers = |page: Page, held: &Held| {
                    let shift = held.flags >> flag::WHOLE_SHIFT & 63;
                    shift != 0 && first(page).0 >> shift == address >> shift
                };
                let all = shelf.live.iter().chain(&shelf.ghosts);
                let parts: Vec<Page> = all.filter(|(page, held)| covers(**page, held)).map(|(page, _)| *page).collect();
                pages.extend(parts);
                pages.sort_unstable();
                pages.dedup();
            }
            for page in pages {
                shelf.ghosts.remove(&page);
                if let (Some(held), Some(flush)) = (shelf.live.remove(&page), flush) {
                    shelf.ghosts.insert(page, Held { flush, ..held });
                }
            }
        }
    }
}
