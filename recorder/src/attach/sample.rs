//! The kernel's records in a perf ring, taken apart.
//!
//! See: perf_event_open(2), "PERF_RECORD_SAMPLE" and "PERF_RECORD_LOST". What a sample holds was asked for: IDENTIFIER, TID,
//! TIME, CPU, RAW, in that order; other records end in the same but RAW.

/// `PERF_RECORD_LOST`, `PERF_RECORD_SAMPLE` and, of kernels that tell of samples alone, `PERF_RECORD_LOST_SAMPLES`.
const LOST: u32 = 2;
const SAMPLE: u32 = 9;
const LOST_SAMPLES: u32 = 13;

/// A record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken<'a> {
    /// An event.
    Sample {
        /// The identifier of its counter.
        id: u64,
        /// The process and the thread that were running; 0 where there was none, all ones where they cannot be named here.
        process: u32,
        thread: u32,
        /// Nanoseconds.
        time: u64,
        cpu: u32,
        /// The tracepoint's record.
        raw: &'a [u8],
    },
    /// Records that the ring had no room for.
    Lost {
        /// How many.
        count: u64,
        /// When that was noticed, in nanoseconds.
        time: u64,
        cpu: u32,
    },
    /// Another kind of record, or one that is not laid out as was asked for.
    Other,
}

/// Takes a record of that type apart; `bytes` is what follows its head.
pub(super) fn take(kind: u32, bytes: &[u8]) -> Taken<'_> {
    match kind {
        SAMPLE => sample(bytes),
        LOST => lost(bytes, 8),
        LOST_SAMPLES => lost(bytes, 0),
        _ => None,
    }
    .unwrap_or(Taken::Other)
}

fn sample(bytes: &[u8]) -> Option<Taken<'_>> {
    let raw = bytes.get(36..)?.get(..word(bytes, 32)? as usize)?;
    Some(Taken::Sample {
        id: long(bytes, 0)?,
        process: word(bytes, 8)?,
        thread: word(bytes, 12)?,
        time: long(bytes, 16)?,
        cpu: word(bytes, 24)?,
        raw,
    })
}

/// How many is at `at`; then come process, thread, time, CPU and identifier.
fn lost(bytes: &[u8], at: usize) -> Option<Taken<'_>> {
    Some(Taken::Lost { count: long(bytes, at)?, time: long(bytes, at + 16)?, cpu: word(bytes, at + 24)? })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample as the kernel writes it: the raw part is padded so that its length and it end at 8 bytes.
    fn written(id: u64, process: u32, thread: u32, time: u64, cpu: u32, raw: &[u8]) -> Vec<u8> {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend([process, thread].map(u32::to_le_bytes).concat());
        bytes.extend(time.to_le_bytes());
        bytes.extend([cpu, 0].map(u32::to_le_bytes).concat());
        let padded = (4 + raw.len()).next_multiple_of(8) - 4;
        bytes.extend((padded as u32).to_le_bytes());
        bytes.extend(raw);
        bytes.resize(36 + padded, 0);
        bytes
    }

    #[test]
    fn samples_and_losses() {
        let bytes = written(5, 100, 101, 9_000, 3, &[1, 2, 3]);
        let raw: &[u8] = &[1, 2, 3, 0];
        assert_eq!(take(9, &bytes), Taken::Sample { id: 5, process: 100, thread: 101, time: 9_000, cpu: 3, raw });
        for end in 0..bytes.len() {
            assert_eq!(take(9, &bytes[..end]), Taken::Other, "{end}");
        }
        let mut lost = [7_u64, 12].map(u64::to_le_bytes).concat();
        lost.extend([100_u32, 101].map(u32::to_le_bytes).concat());
        lost.extend(8_000_u64.to_le_bytes());
        lost.extend([2_u32, 0].map(u32::to_le_bytes).concat());
        lost.extend(5_u64.to_le_bytes());
        assert_eq!(take(2, &lost), Taken::Lost { count: 12, time: 8_000, cpu: 2 });
        assert_eq!(take(13, &lost[8..]), Taken::Lost { count: 12, time: 8_000, cpu: 2 });
        assert_eq!(take(2, &lost[..31]), Taken::Other);
        assert_eq!(take(4, &lost), Taken::Other);
    }
}
