//! Writing checkpoints, on a thread beside the run.

use super::{APART, About, Head, MAGIC, MAX_STATE, PAGE, Point, Tag, WORDS};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

const LEVEL: i32 = 3;

/// A page, by its number.
type Page = (u32, Box<[u8]>);

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SeekSummary {
    /// Checkpoints.
    pub points: u64,
    /// Bytes, all told.
    pub bytes: u64,
    /// Bytes of them that hold what a page held when it was first kept: together, one image of memory.
    pub image: u64,
}

/// A checkpoint on its way to the file.
struct Taken {
    point: Point,
    state: Vec<u8>,
    pages: Vec<Page>,
    trace: u64,
}

/// Writes checkpoints on a thread of its own. All but the pages that are kept for the first time may take a share of the
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
    pub fn begin(file: File, about: &About, initial: Vec<Page>, per_mille: u32) -> io::Result<Self> {
        let mut out = BufWriter::new(file);
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
            pages: initial.into_iter().map(|(page, bytes)| (page, Kept { bytes, stored: false })).collect(),
            pending: BTreeMap::new(),
            base: Vec::new(),
            due: due.clone(),
            // The end of the file is spent from the start.
            summary: SeekSummary { points: 0, bytes: bytes + super::HEAD as u64 + 32, image: 0 },
        };
        let (sender, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(|| writing.run(receiver))?;
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

    /// Ends the file. `identity` is [`crate::Reader::identity`] of the trace, where that is whole.
    ///
    /// # Errors
    /// The file could not be written on. It is good up to the last whole checkpoint.
    pub fn finish(self, identity: Option<[u8; 32]>) -> io::Result<SeekSummary> {
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
        Ok(writing.summary)
    }
}

/// A page as the last checkpoint in the file has it, or the machine at the start.
struct Kept {
    bytes: Box<[u8]>,
    /// A checkpoint has it.
    stored: bool,
}

struct Writing {
    out: BufWriter<File>,
    per_mille: u64,
    pages: BTreeMap<u32, Kept>,
    /// Pages that changed since the last checkpoint in the file.
    pending: BTreeMap<u32, Box<[u8]>>,
    /// The last state that is kept by itself.
    base: Vec<u8>,
    due: Arc<AtomicU64>,
    summary: SeekSummary,
}

impl Writing {
    fn run(mut self, from: Receiver<Taken>) -> io::Result<Self> {
        for taken in from {
            self.point(taken)?;
        }
        Ok(self)
    }

    fn point(&mut self, taken: Taken) -> io::Result<()> {
        self.pending.extend(taken.pages);
        let (mut fresh, mut changed) = (Delta::default(), Delta::default());
        for (&page, now) in &self.pending {
            match self.pages.get(&page) {
                Some(kept) if kept.stored => changed.add(page, &kept.bytes, now),
                Some(kept) => fresh.add(page, &kept.bytes, now),
                None => fresh.add(page, &[0; PAGE], now),
            }
        }
        let apart = self.summary.points.is_multiple_of(APART as u64);
        let base: &[u8] = if apart { &[] } else { &self.base };
        let mut payload = with_prefix(&taken.state, base)?;
        let state = payload.len();
        payload.extend(zstd::bulk::compress(&fresh.bytes, LEVEL)?);
        let first = payload.len() - state;
        payload.extend(zstd::bulk::compress(&changed.bytes, LEVEL)?);
        let head = Head {
            tag: Tag::Point,
            crc: crc32fast::hash(&payload),
            lengths: [state as u32, first as u32, (payload.len() - state - first) as u32],
            state: taken.state.len() as u32,
            pages: [fresh.pages, changed.pages],
            point: taken.point,
        };
        let bytes = (super::HEAD + payload.len()) as u64;
        let spent = self.summary.bytes - self.summary.image + bytes - first as u64;
        let needed = spent.saturating_mul(1000) / self.per_mille;
        if needed > taken.trace && self.summary.points > 0 {
            self.due.store(needed, Ordering::Relaxed);
            return Ok(());
        }
        // What is longer than any reader takes is no checkpoint.
        if u32::try_from(payload.len()).is_err() || head.state > MAX_STATE {
            return Ok(());
        }
        self.out.write_all(&head.to_bytes())?;
        self.out.write_all(&payload)?;
        self.out.flush()?;
        self.summary.points += 1;
        self.summary.bytes += bytes;
        self.summary.image += first as u64;
        if apart {
            self.base = taken.state;
        }
        for (page, bytes) in std::mem::take(&mut self.pending) {
            self.pages.insert(page, Kept { bytes, stored: true });
        }
        // The next one takes about as much.
        let next = spent + bytes - first as u64;
        self.due.store(next.saturating_mul(1000) / self.per_mille, Ordering::Relaxed);
        Ok(())
    }
}

/// Pages as what differs of them: each page's number u32 and how many runs u16, then by run the first word u16, how many u16,
/// and those words of the one exclusive-or the other, so that either is made of the other.
#[derive(Default)]
struct Delta {
    bytes: Vec<u8>,
    pages: u32,
}

impl Delta {
    fn add(&mut self, page: u32, before: &[u8], now: &[u8]) {
        let differ = |word: usize| before[word * 8..word * 8 + 8] != now[word * 8..word * 8 + 8];
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for word in (0..WORDS).filter(|&word| differ(word)) {
            match runs.last_mut() {
                Some((_, end)) if *end == word => *end += 1,
                _ => runs.push((word, word + 1)),
            }
        }
        if runs.is_empty() {
            return;
        }
        self.pages += 1;
        self.bytes.extend(page.to_le_bytes());
        self.bytes.extend((runs.len() as u16).to_le_bytes());
        for (start, end) in runs {
            self.bytes.extend((start as u16).to_le_bytes());
            self.bytes.extend(((end - start) as u16).to_le_bytes());
            let words = before[start * 8..end * 8].iter().zip(&now[start * 8..end * 8]);
            self.bytes.extend(words.map(|(before, now)| before ^ now));
        }
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
