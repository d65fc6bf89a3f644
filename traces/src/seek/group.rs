//! A group of contents: each as what differs of another, which the file has before it, or of zeros.

use super::{Content, Holds, PAGE};
use std::io::{self, Read};
use zstd::stream::read::Decoder;

/// The most contents of a group.
pub(super) const MOST: usize = 512;
/// 64-bit words of a page.
pub(super) const WORDS: usize = PAGE / 8;
/// The most bytes of a group: of each content its base, how many runs, and runs of one word with gaps of one word.
const RAW: u32 = (MOST * (6 + WORDS / 2 * 4 + PAGE)) as u32;

/// Contents on their way into a group: each its base u32 and how many runs u16, then by run the first word u16, how many u16,
/// and those words.
#[derive(Default)]
pub(super) struct Building {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
}

impl Building {
    /// Adds `now`, as what differs of `base`, which holds `before`.
    pub(super) fn add(&mut self, base: Content, before: &[u8], now: &[u8]) {
        let differ = |word: usize| before[word * 8..word * 8 + 8] != now[word * 8..word * 8 + 8];
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for word in (0..WORDS).filter(|&word| differ(word)) {
            match runs.last_mut() {
                Some((_, end)) if *end == word => *end += 1,
                _ => runs.push((word, word + 1)),
            }
        }
        self.count += 1;
        self.bytes.extend(base.0.to_le_bytes());
        self.bytes.extend((runs.len() as u16).to_le_bytes());
        for (start, end) in runs {
            self.bytes.extend((start as u16).to_le_bytes());
            self.bytes.extend(((end - start) as u16).to_le_bytes());
            self.bytes.extend(&now[start * 8..end * 8]);
        }
    }
}

/// Words of a page that differ from another's.
pub(super) fn differing(before: &[u8], now: &[u8]) -> usize {
    let words = before.as_chunks::<8>().0.iter().zip(now.as_chunks::<8>().0);
    words.filter(|(before, now)| before != now).count()
}

/// A group that was read.
#[derive(Debug)]
pub(super) struct Group {
    bytes: Vec<u8>,
    /// Where each content begins, and where the last one ends.
    starts: Vec<u32>,
}

impl Group {
    /// Decompresses a group of `count` contents in `raw` bytes, of which the first has number `first`.
    pub(super) fn read(stored: &[u8], raw: u32, first: u32, count: u32) -> Result<Self, String> {
        if raw > RAW || count as usize > MOST {
            return Err("a group is longer than any".into());
        }
        let mut bytes = Vec::new();
        let read = decoder(stored).and_then(|decoder| decoder.take(u64::from(raw) + 1).read_to_end(&mut bytes));
        if read.map_err(|error| error.to_string())? != raw as usize {
            return Err("a group has another length".into());
        }
        let mut starts = Vec::with_capacity(count as usize + 1);
        let mut at = 0;
        for number in first..first + count {
            starts.push(at as u32);
            let (base, mut runs) = runs(bytes.get(at..).unwrap_or_default()).ok_or("a content is cut")?;
            if matches!(base.holds(), Holds::Kept(of) if of >= number) {
                return Err("a content is made of one behind it".into());
            }
            for run in &mut runs {
                run.ok_or("a run leaves its page")?;
            }
            at = bytes.len() - runs.bytes.len();
        }
        starts.push(at as u32);
        if at == bytes.len() { Ok(Self { bytes, starts }) } else { Err("a group has more than its contents".into()) }
    }

    /// The content at a place of the group: its base, and the runs that are otherwise, each with its first byte.
    pub(super) fn content(&self, at: usize) -> Option<(Content, impl Iterator<Item = (usize, &[u8])>)> {
        let (start, end) = (*self.starts.get(at)?, *self.starts.get(at + 1)?);
        let (base, runs) = runs(self.bytes.get(start as usize..end as usize)?)?;
        Some((base, runs.flatten()))
    }
}

/// Decompresses what is not long, and so needs no large window.
pub(super) fn decoder(stored: &[u8]) -> io::Result<Decoder<'_, &[u8]>> {
    let mut decoder = Decoder::with_buffer(stored)?;
    decoder.window_log_max(23)?;
    Ok(decoder)
}

/// What is left to read of a content's runs.
struct Runs<'a> {
    bytes: &'a [u8],
    left: u16,
}

fn runs(bytes: &[u8]) -> Option<(Content, Runs<'_>)> {
    let (base, bytes) = bytes.split_first_chunk()?;
    let (left, bytes) = bytes.split_first_chunk()?;
    Some((Content(u32::from_le_bytes(*base)), Runs { bytes, left: u16::from_le_bytes(*left) }))
}

impl<'a> Iterator for Runs<'a> {
    type Item = Option<(usize, &'a [u8])>;

    /// The next run; `Some(None)` where there should be one and is none.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut run = || {
            let (start, bytes) = self.bytes.split_first_chunk()?;
            let (words, bytes) = bytes.split_first_chunk()?;
            let (start, length) = (u16::from_le_bytes(*start) as usize * 8, u16::from_le_bytes(*words) as usize * 8);
            let (run, bytes) = bytes.split_at_checked(length).filter(|_| start + length <= PAGE)?;
            self.bytes = bytes;
            Some((start, run))
        };
        Some(run())
    }
}
