//! Writing checkpoints, on a thread beside the run.

use super::group::{self, Building, WORDS, differing};
use super::{APART, About, Content, Head, Holds, MAGIC, MAX_STATE, PAGE, Point, Tag, table};
use crate::header::sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

const LEVEL: i32 = 3;

/// Checkpoints that may wait for the thread: those of a guest that writes much follow on those of one that writes little.
const WAITING: usize = 4;

/// So many contents may be made one of another, before one is kept whole.
const DEPTH: u8 = super::MAX_DEPTH / 2;

/// Where the file is written to.
type Out = BufWriter<Box<dyn Write + Send>>;

/// A page, by its number.
type Page = (u32, Box<[u8]>);

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeekSummary {
    /// Checkpoints.
    pub points: u64,
    /// Bytes, all told.
    pub bytes: u64,
    /// Bytes of them that hold the first content that a page has of its own: together, at most one image of memory.
    pub image: u64,
    /// The most instructions from the start or a checkpoint to the next, or to the end.
    pub apart: u64,
    /// Checkpoints that were taken and for which there was no room.
    pub left_out: u64,
}

/// A checkpoint on its way to the file.
struct Taken {
    point: Point,
    state: Vec<u8>,
    pages: Vec<Page>,
    trace: u64,
}

/// Writes checkpoints on a thread of its own. All but the first content of its own that a page has may take a share of the
/// trace's bytes: a checkpoint for which that is too little is left out, and what changed goes into the next.
#[derive(Debug)]
pub struct Checkpoints {
    sender: SyncSender<Taken>,
    thread: JoinHandle<io::Result<Writing>>,
    /// Bytes of the trace at which the next checkpoint can be had, going by the last.
    due: Arc<AtomicU64>,
}

impl Checkpoints {
    /// Begins a file. `initial` are the pages that are not zeros before the run; `per_mille` is the share of the trace's
    /// bytes.
    ///
    /// # Errors
    /// The file cannot be written on.
    pub fn begin(
        file: impl Write + Send + 'static,
        about: &About,
        initial: Vec<Page>,
        per_mille: u32,
    ) -> io::Result<Self> {
        let mut out: Out = BufWriter::new(Box::new(file));
        let payload = about.to_bytes();
        out.write_all(&MAGIC)?;
        out.write_all(&Head::plain(Tag::About, &payload).to_bytes())?;
        out.write_all(&payload)?;
        out.flush()?;
        let bytes = (MAGIC.len() + super::HEAD + payload.len()) as u64;
        let due = Arc::new(AtomicU64::new(0));
        let writing = Writing {
            out,
            per_mille: per_mille.max(1).into(),
            pages: BTreeMap::new(),
            contents: BTreeMap::new(),
            depths: Vec::new(),
            pending: BTreeMap::new(),
            base: Vec::new(),
            due: due.clone(),
            last: 0,
            // The end of the file is spent from the start.
            summary: SeekSummary { bytes: bytes + super::HEAD as u64 + 32, ..SeekSummary::default() },
        };
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(|| writing.run(initial, receiver))?;
        Ok(Self { sender, thread, due })
    }

    /// Whether a checkpoint may be had when the trace has so many bytes. To take one that may not is of no harm.
    pub fn is_due(&self, trace: u64) -> bool {
        trace >= self.due.load(Ordering::Relaxed)
    }

    /// Hands over a checkpoint: the state, and the pages that changed since the one that was handed over before. The trace
    /// has `trace` bytes by then. Waits while the thread is busy. What cannot be written is told by [`Checkpoints::finish`].
    pub fn take(&self, point: Point, state: Vec<u8>, pages: Vec<Page>, trace: u64) {
        // A thread that has failed listens no more.
        let _ = self.sender.send(Taken { point, state, pages, trace });
    }

    /// Ends the file. `identity` is [`crate::Reader::identity`] of the trace, where that is whole; the run ended after so many
    /// `instructions`.
    ///
    /// # Errors
    /// The file could not be written on. It is good up to the last whole checkpoint.
    pub fn finish(self, identity: Option<[u8; 32]>, instructions: u64) -> io::Result<SeekSummary> {
        drop(self.sender);
        let mut writing = match self.thread.join() {
            Ok(written) => written?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match identity {
            Some(identity) => {
                writing.out.write_all(&Head::plain(Tag::End, &identity).to_bytes())?;
                writing.out.write_all(&identity)?;
            }
            None => writing.summary.bytes -= super::HEAD as u64 + 32,
        }
        writing.out.flush()?;
        let left = instructions.saturating_sub(writing.last);
        Ok(SeekSummary { apart: writing.summary.apart.max(left), ..writing.summary })
    }
}

/// A page as the last checkpoint in the file has it, or the machine at the start.
struct Kept {
    bytes: Box<[u8]>,
    content: Content,
    /// The file has a content of its own, which is part of the image.
    stored: bool,
}

struct Writing {
    out: Out,
    per_mille: u64,
    pages: BTreeMap<u32, Kept>,
    /// What there is to refer to, by SHA-256.
    contents: BTreeMap<[u8; 32], Content>,
    /// Of each content in the file, how many others it is made of.
    depths: Vec<u8>,
    /// Pages that changed since the last checkpoint in the file.
    pending: BTreeMap<u32, Box<[u8]>>,
    /// The last state that is kept by itself.
    base: Vec<u8>,
    due: Arc<AtomicU64>,
    /// The instruction of the last checkpoint in the file.
    last: u64,
    summary: SeekSummary,
}

/// A page and what it holds now; of a content that is new, the list that has it and the place in that.
type Row = (u32, Result<Content, (usize, usize)>);

/// What of the pending pages the file does not have yet.
#[derive(Default)]
struct News<'a> {
    /// Hashes of new contents, and of each the page that has it first: of pages that have none of their own yet, and others.
    lists: [Vec<([u8; 32], u32)>; 2],
    /// What the pages hold now.
    rows: Vec<Row>,
    found: BTreeMap<[u8; 32], (usize, usize)>,
    bytes: BTreeMap<u32, &'a [u8]>,
}

const ZEROS: [u8; PAGE] = [0; PAGE];

impl Writing {
    fn run(mut self, initial: Vec<Page>, from: Receiver<Taken>) -> io::Result<Self> {
        for (page, bytes) in initial {
            let content = Content::initial(page);
            self.contents.entry(sha256(&bytes)).or_insert(content);
            self.pages.insert(page, Kept { bytes, content, stored: false });
        }
        for taken in from {
            self.point(taken)?;
        }
        Ok(self)
    }

    /// What is new among the pending pages.
    fn news(&self) -> News<'_> {
        let mut news = News::default();
        for (&page, now) in &self.pending {
            let kept = self.pages.get(&page);
            if **now == *kept.map_or(&ZEROS[..], |kept| &kept.bytes) {
                continue;
            }
            if **now == ZEROS {
                news.rows.push((page, Ok(Content::ZEROS)));
                continue;
            }
            let hash = sha256(now);
            if let Some(&content) = self.contents.get(&hash) {
                news.rows.push((page, Ok(content)));
                continue;
            }
            let list = usize::from(kept.is_some_and(|kept| kept.stored));
            let place = *news.found.entry(hash).or_insert_with(|| {
                news.lists[list].push((hash, page));
                (list, news.lists[list].len() - 1)
            });
            news.rows.push((page, Err(place)));
            news.bytes.insert(page, now);
        }
        news
    }

    /// Contents as groups, which begin with number `first`; and of how many others each is made.
    fn groups(&self, list: &[([u8; 32], u32)], news: &News, first: u32) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut bytes, mut depths) = (Vec::new(), Vec::new());
        for (part, first) in list.chunks(group::MOST).zip((first..).step_by(group::MOST)) {
            let mut building = Building::default();
            for (_, page) in part {
                let now = news.bytes.get(page).copied().unwrap_or(&ZEROS);
                let kept = self.pages.get(page);
                let before = kept.map_or((Content::ZEROS, &ZEROS[..]), |kept| (kept.content, &kept.bytes));
                let depth = match before.0.holds() {
                    Holds::Kept(of) => self.depths.get(of as usize).copied().unwrap_or_default() + 1,
                    Holds::Zeros | Holds::Initial(_) => 0,
                };
                // A page that has become another's is no part of the one before.
                let less = |words: usize| words < WORDS / 2 || words < differing(&ZEROS, now);
                if depth <= DEPTH && less(differing(before.1, now)) {
                    building.add(before.0, before.1, now);
                    depths.push(depth);
                } else {
                    building.add(Content::ZEROS, &ZEROS, now);
                    depths.push(0);
                }
            }
            let payload = zstd::bulk::compress(&building.bytes, LEVEL)?;
            let (raw, count) = (building.bytes.len() as u32, building.count);
            bytes.extend(Head { raw, count, before: first, ..Head::plain(Tag::Group, &payload) }.to_bytes());
            bytes.extend(payload);
        }
        Ok((bytes, depths))
    }

    fn point(&mut self, taken: Taken) -> io::Result<()> {
        self.pending.extend(taken.pages);
        let news = self.news();
        let first = self.depths.len() as u32;
        let [fresh, others] = [&news.lists[0], &news.lists[1]];
        let number = |(list, at): (usize, usize)| first + (at + [0, fresh.len()][list]) as u32;
        let (mut image, mut depths) = self.groups(fresh, &news, first)?;
        let (changed, more) = self.groups(others, &news, first + fresh.len() as u32)?;
        depths.extend(more);
        let place = |row: &Row| Some((row.0, row.1.or_else(|new| Content::kept(number(new)).ok_or(())).ok()?));
        let rows: Option<Vec<(u32, Content)>> = news.rows.iter().map(place).collect();
        // So many contents would be thousands of times the memory of any machine.
        let Some(rows) = rows else { return Ok(()) };
        let apart = self.summary.points.is_multiple_of(APART as u64);
        let mut payload = with_prefix(&taken.state, if apart { &[] } else { &self.base })?;
        let state = payload.len();
        payload.extend(zstd::bulk::compress(&table::encode(&rows), LEVEL)?);
        let head = Head {
            tag: Tag::Point,
            crc: crc32fast::hash(&payload),
            lengths: [state as u32, (payload.len() - state) as u32],
            raw: taken.state.len() as u32,
            count: rows.len() as u32,
            before: first + depths.len() as u32,
            point: taken.point,
        };
        let beside = (changed.len() + super::HEAD + payload.len()) as u64;
        let spent = self.summary.bytes - self.summary.image + beside;
        let needed = spent.saturating_mul(1000) / self.per_mille;
        let has_room = needed <= taken.trace || self.summary.points == 0;
        // What is longer than any reader takes is no checkpoint.
        if !has_room || u32::try_from(payload.len()).is_err() || taken.state.len() > MAX_STATE as usize {
            self.due.store(needed, Ordering::Relaxed);
            self.summary.left_out += 1;
            return Ok(());
        }
        let owners: BTreeSet<u32> = fresh.iter().map(|(_, page)| *page).collect();
        let kept: Vec<([u8; 32], Content)> = [fresh, others]
            .into_iter()
            .flatten()
            .zip(first..)
            .filter_map(|((hash, _), number)| Some((*hash, Content::kept(number)?)))
            .collect();
        image.extend(changed);
        self.out.write_all(&image)?;
        self.out.write_all(&head.to_bytes())?;
        self.out.write_all(&payload)?;
        self.out.flush()?;
        let written = (image.len() + super::HEAD + payload.len()) as u64;
        self.summary.points += 1;
        self.summary.bytes += written;
        self.summary.image += written - beside;
        self.summary.apart = self.summary.apart.max(taken.point.instruction - self.last);
        self.last = taken.point.instruction;
        if apart {
            self.base = taken.state;
        }
        self.contents.extend(kept);
        self.depths.extend(depths);
        for (page, content) in rows {
            if let Some(bytes) = self.pending.remove(&page) {
                let stored = owners.contains(&page) || self.pages.get(&page).is_some_and(|kept| kept.stored);
                self.pages.insert(page, Kept { bytes, content, stored });
            }
        }
        self.pending.clear();
        // The next one takes about as much.
        self.due.store((spent + beside).saturating_mul(1000) / self.per_mille, Ordering::Relaxed);
        Ok(())
    }
}

fn with_prefix(bytes: &[u8], prefix: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), LEVEL, prefix)?;
    encoder.window_log(window(prefix.len() + bytes.len()))?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A window that reaches back over so many bytes. See: RFC 8878, "Window Descriptor".
fn window(bytes: usize) -> u32 {
    bytes.max(1 << 10).next_power_of_two().ilog2().min(27)
}
