//! Pages of the kernel's ring buffer, as `trace-cmd` copies them to its file.
//!
//! A page has the time of its first record, how many of its bytes are used, and records. A record has 5 bits of type, which
//! up to 28 is its length in words of 4 bytes, 27 bits of time since the record before, and its data; where the time does
//! not fit, a record of type 30 with 59 bits of it stands before. Bit 31 of the count says that records before the page
//! were lost, bit 30 that their number stands behind the last record.

use super::metadata::{PAGE, PAGE_HEAD};

const TIME_BITS: u32 = 27;
const LONGEST: usize = 28 * 4;
const EXTEND: u32 = 30;
const LOST: u64 = 1 << 31;
const LOST_COUNTED: u64 = 1 << 30;

/// The pages of one CPU.
#[derive(Default)]
pub(super) struct Pages {
    done: Vec<u8>,
    /// The page that is being filled, without its head.
    page: Vec<u8>,
    start: u64,
    last: u64,
    /// What was lost before the page: none, some, or so many.
    lost: Option<u64>,
}

impl Pages {
    pub(super) fn record(&mut self, time: u64, data: &[u8]) {
        let length = data.len().next_multiple_of(4);
        // Its own head, and the time before it at most, and the count of what was lost.
        if self.page.len() + length + 4 + 4 + 8 + 8 > PAGE - PAGE_HEAD {
            self.end();
        }
        if self.page.is_empty() {
            (self.start, self.last) = (time, time);
        }
        let mut since = time.saturating_sub(self.last);
        self.last = time.max(self.last);
        if since >> TIME_BITS != 0 {
            self.word(EXTEND | (since as u32) << 5);
            self.word((since >> TIME_BITS) as u32);
            since = 0;
        }
        if length <= LONGEST && length > 0 {
            self.word((length / 4) as u32 | (since as u32) << 5);
        } else {
            // The length with its own word stands before the data.
            self.word((since as u32) << 5);
            self.word(length as u32 + 4);
        }
        self.page.extend_from_slice(data);
        self.page.resize(self.page.len() + length - data.len(), 0);
    }

    /// Records were lost here: so many, or 0 where nobody counted.
    pub(super) fn lost(&mut self, count: u64) {
        self.end();
        self.lost = Some(count);
    }

    fn word(&mut self, word: u32) {
        self.page.extend_from_slice(&word.to_le_bytes());
    }

    fn end(&mut self) {
        if self.page.is_empty() {
            return;
        }
        let lost = self.lost.take();
        let flags = match lost {
            None => 0,
            Some(0) => LOST,
            Some(_) => LOST | LOST_COUNTED,
        };
        self.done.extend_from_slice(&self.start.to_le_bytes());
        self.done.extend_from_slice(&(self.page.len() as u64 | flags).to_le_bytes());
        self.done.append(&mut self.page);
        self.done.extend_from_slice(&lost.unwrap_or(0).to_le_bytes());
        self.done.resize(self.done.len().next_multiple_of(PAGE), 0);
    }

    /// All pages.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.done
    }
}
