//! What the fuzz targets do with their input, shared with the ordinary tests that replay what fuzzing once found. Each
//! returns for any input, or panics where the reader breaks a promise.
#![allow(dead_code, missing_docs, unreachable_pub)] // Part of tests and of fuzz targets: each uses its part.

use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, Kind, Stamp, What};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use traces::seek::{About, Checkpoints, Point, SeekError, SeekFile};
use traces::{Error, Header, Reader, Writer};

/// A small generator, so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Where the frames begin, and where the last one ends. What stands between is theirs.
fn places(bytes: &[u8]) -> (Vec<usize>, usize) {
    let tag = |at: usize| matches!(&bytes[at..at + 4], b"HEAD" | b"EVTS" | b"INDX");
    let starts = (16..bytes.len().saturating_sub(31)).filter(|&at| tag(at)).collect();
    let trailer = bytes.len().checked_sub(32).filter(|&at| bytes[at..].starts_with(b"NVMXEND\n"));
    (starts, trailer.unwrap_or(bytes.len()))
}

/// The file with lengths and checksums that fit what is in it, so that damage gets past them.
pub fn mend(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < 16 {
        return bytes;
    }
    let crc = crc32fast::hash(&bytes[..12]);
    put(&mut bytes, 12, crc);
    let (starts, end) = places(&bytes);
    let ends = starts.iter().skip(1).copied().chain([end]);
    for (&start, end) in starts.iter().zip(ends) {
        let Some(body) = end.checked_sub(start + 32) else { continue };
        if u32_at(&bytes, start + 4) == u32_at(&bytes, start + 8) {
            put(&mut bytes, start + 8, body as u32);
        }
        put(&mut bytes, start + 4, body as u32);
        let crc = crc32fast::hash(&bytes[start + 32..end]);
        put(&mut bytes, start + 24, crc);
        let crc = crc32fast::hash(&bytes[start..start + 28]);
        put(&mut bytes, start + 28, crc);
    }
    if let Some(trailer) = bytes.get_mut(end..).filter(|trailer| trailer.len() == 32) {
        if let Some(&index) = starts.last() {
            trailer[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        }
        let crc = crc32fast::hash(&trailer[..28]);
        put(trailer, 28, crc);
    }
    bytes
}

/// A frame, its message stored as it is.
pub fn frame(tag: &[u8; 4], (first, events): (u64, u32), message: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    bytes.extend([message.len() as u32, message.len() as u32, events].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(first.to_le_bytes());
    bytes.extend(crc32fast::hash(message).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(message);
    bytes
}

/// The trailer of a file whose index is at an offset.
pub fn trailer(index: u64, events: u64) -> Vec<u8> {
    let mut bytes = b"NVMXEND\n".to_vec();
    bytes.extend(index.to_le_bytes().into_iter().chain(events.to_le_bytes()).chain([0; 4]));
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// A prologue and a header that are sound.
pub fn sound_header() -> &'static [u8] {
    static HEADER: OnceLock<Vec<u8>> = OnceLock::new();
    HEADER.get_or_init(|| {
        let mut bytes = Vec::new();
        let header = Header::new(Config::new(Guest::BuiltIn("demo".into())), Vec::new());
        Writer::create(&mut bytes, &header).expect("a vector takes all");
        bytes
    })
}

/// A few events in three blocks: the file's bytes up to the index, the index's message, and the events.
pub fn sound_trace() -> &'static (Vec<u8>, Vec<u8>, Vec<Event>) {
    static TRACE: OnceLock<(Vec<u8>, Vec<u8>, Vec<Event>)> = OnceLock::new();
    TRACE.get_or_init(|| {
        let at = |at: u32| Stamp { instruction: at.into(), vcpu: 0, pcpu: 0 };
        let what = |at: u32| if at.is_multiple_of(3) { What::Digest(at.into()) } else { What::Mark(at) };
        let events: Vec<Event> = (0..20).map(|number| Event { at: at(number), what: what(number) }).collect();
        let mut bytes = Vec::new();
        let mut writer =
            Writer::create(&mut bytes, &Header::new(Config::new(Guest::BuiltIn("demo".into())), Vec::new()))
                .expect("a vector takes all");
        for (number, event) in events.iter().enumerate() {
            writer.push(event).expect("a vector takes all");
            if number == 6 || number == 12 {
                writer.end_block().expect("a vector takes all");
            }
        }
        writer.finish().expect("a vector takes all");
        drop(writer);
        let index = places(&bytes).0.pop().expect("an index");
        let (length, stored) = (u32_at(&bytes, index + 8) as usize, &bytes[index + 32..bytes.len() - 32]);
        let message = if stored.len() == length {
            stored.to_vec()
        } else {
            zstd::bulk::decompress(stored, length).expect("zstd")
        };
        bytes.truncate(index);
        (bytes, message, events)
    })
}

/// Does all that a reader can do, and returns whether it was told that anything is wrong.
pub fn read_all(bytes: Vec<u8>) -> bool {
    let Ok(reader) = Reader::from_bytes(bytes) else { return true };
    let checked = match traces::check(&reader) {
        // Images are looked at when they are asked for.
        Err(Error::Header(_)) => return true,
        checked => checked.expect("memory can be read"),
    };
    let mut wrong = checked.truncated || !checked.damage.is_empty();
    match reader.counts() {
        Ok(counts) => assert_eq!(counts.iter().map(|(_, rows)| rows).sum::<u64>(), reader.len()),
        Err(_) => wrong = true,
    }
    for (number, event) in (0_u64..).zip(reader.events(0)) {
        match event {
            Ok(event) => {
                let has_text = matches!(&event.what, What::Stop(_) | What::Entry(_));
                assert!(has_text || reader.events(number).accept(&event), "event {number} is not itself: {event:?}");
            }
            Err(Error::NewerKind { .. }) => assert!(reader.stored(number).is_ok()),
            Err(_) => {
                wrong = true;
                let _ = reader.stored(number);
            }
        }
    }
    for (block, info) in reader.blocks().iter().enumerate() {
        let whole = match reader.block(block) {
            Ok(whole) => whole,
            Err(_) => {
                wrong |= reader.block_table(block, "exit").is_err();
                continue;
            }
        };
        let mut rows = 0;
        for (name, count) in whole.counts() {
            let table = reader.block_table(block, name).expect("a table of a block that can be read");
            assert_eq!(table.len(), count as usize);
            rows += table.len();
            let Some(kind) = Kind::by_name(name) else { continue };
            let some: Vec<&str> = kind.columns().iter().rev().step_by(2).map(|column| column.name).collect();
            let few = reader.block_columns_of(block, kind, &some).expect("columns of a table that can be read");
            assert!(few.columns.iter().all(|column| table.columns.contains(column)) && few.columns.len() >= some.len());
        }
        assert_eq!(rows, info.events as usize);
        assert!(reader.block_table(block, "teleport").is_ok());
    }
    wrong
}

/// A file, as it is and with its checksums mended.
pub fn reader(data: &[u8]) {
    read_all(data.to_vec());
    read_all(mend(data));
}

/// The most events that a block of a fuzz target may claim: a few bytes can claim many, which only takes long.
const EVENTS: u32 = 1 << 10;

/// A block's message, in a sound frame of a sound file.
pub fn block(data: &[u8]) {
    // Where a message of ours has the number of its events.
    let events = if data.len() >= 28 { u32_at(data, 24) } else { 0 };
    if events > EVENTS || !data.len().is_multiple_of(8) {
        return;
    }
    let mut bytes = sound_header().to_vec();
    bytes.extend(frame(b"EVTS", (0, events), data));
    read_all(bytes.clone());
    salvage_all(bytes);
}

/// A header's message, in a sound frame of a sound file. A header that can be read can be written, and says the same, unless an
/// image is not that of its hash, which is looked at when its bytes are.
pub fn header(data: &[u8]) {
    let mut bytes = sound_header()[..16].to_vec();
    bytes.extend(frame(b"HEAD", (0, 0), data));
    let Ok(reader) = Reader::from_bytes(bytes) else { return };
    let header = reader.header();
    let damaged = |image: &traces::Image| image.bytes.as_ref().is_some_and(|bytes| bytes.get().is_err());
    if header.images.iter().any(damaged) {
        let written = Writer::create(Vec::new(), header);
        assert!(matches!(written, Ok(_) | Err(Error::Header(_))), "{:?}", written.err());
        return;
    }
    let mut again = Vec::new();
    Writer::create(&mut again, header).expect("a vector takes all").finish().expect("a vector takes all");
    assert_eq!(Reader::from_bytes(again).expect("what was written is read").header(), header);
}

/// A trailer's two numbers and an index's message, behind sound blocks. Whatever they say, no wrong event is read.
pub fn index(data: &[u8]) {
    let (sound, _, events) = sound_trace();
    let Some((numbers, message)) = data.split_at_checked(16) else { return };
    let number = |at: usize| u64::from(u32_at(numbers, at)) | u64::from(u32_at(numbers, at + 4)) << 32;
    let mut bytes = sound.clone();
    bytes.extend(frame(b"INDX", (0, 0), message));
    bytes.extend(trailer((sound.len() as u64).wrapping_add(number(0)), number(8)));
    let reader = Reader::from_bytes(bytes).expect("the header is sound");
    for (number, event) in reader.events(0).enumerate() {
        if let Ok(event) = event {
            assert_eq!(Some(&event), events.get(number));
        }
    }
    let _ = (reader.counts(), traces::check(&reader));
}

/// A file with its checksums mended: what is salvaged from it is whole, and begins with all that could be read.
pub fn salvage(data: &[u8]) {
    salvage_all(mend(data));
}

pub fn salvage_all(bytes: Vec<u8>) {
    let mut saved = Vec::new();
    let salvaged = traces::salvage_bytes(bytes.clone(), &mut saved);
    let Ok(reader) = Reader::from_bytes(bytes) else {
        assert!(salvaged.is_err(), "something was salvaged without a header");
        return;
    };
    // The header can be read, so that only what does not fit a block of ours can go wrong.
    let salvaged = match salvaged {
        Ok(salvaged) => salvaged,
        Err(Error::TooLarge(_)) => return,
        // An image is not what its hash says.
        Err(Error::Header(_)) => return,
        Err(error) => panic!("nothing was salvaged: {error}"),
    };
    let again = Reader::from_bytes(saved).expect("what was salvaged is read");
    assert_eq!((again.truncated(), again.len()), (false, salvaged.summary.events));
    assert_eq!(traces::check(&again).expect("memory can be read").damage, []);
    assert!(!again.events(0).any(|event| event.is_err()));
    for (at, (event, saved)) in reader.events(0).map_while(Result::ok).zip(again.events(0)).enumerate() {
        assert_eq!(event, saved.expect("sound"), "event {at}");
    }
}

/// Pages of the machine whose checkpoints [`sound_seek`] has.
pub const PAGES: u32 = 48;
const PAGE: usize = 4096;

/// Every page of a machine.
pub type Pages = Vec<Box<[u8]>>;

/// A file of checkpoints, and what is true of them.
pub struct SoundSeek {
    pub bytes: Vec<u8>,
    pub about: About,
    /// Pages that are not zeros before the run.
    pub initial: BTreeMap<u32, Box<[u8]>>,
    /// Of each checkpoint: where it is, its state, and all pages.
    pub points: Vec<(Point, Vec<u8>, Pages)>,
}

/// Bytes that a thread writes and another has afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The checkpoints of a machine whose pages are written, copied, moved, zeroed and left alone.
pub fn sound_seek() -> &'static SoundSeek {
    static SEEK: OnceLock<SoundSeek> = OnceLock::new();
    SEEK.get_or_init(|| {
        let mut random = Random(0x5eed_0123_4567_89ab);
        let noise = |random: &mut Random| -> Box<[u8]> {
            let mut bytes: Box<[u8]> = [0; PAGE].into();
            let start = random.below(PAGE - 200);
            bytes[start..start + 200].fill_with(|| random.next() as u8 & 15);
            bytes
        };
        let initial: BTreeMap<u32, Box<[u8]>> = (3..9).map(|page| (page, noise(&mut random))).collect();
        let mut memory: Pages = vec![[0; PAGE].into(); PAGES as usize];
        initial.iter().for_each(|(page, bytes)| memory[*page as usize] = bytes.clone());
        let about = About { build: "1.2.3".into(), form: 77, beginning: [9; 32] };
        let written = Shared::default();
        let kept = Checkpoints::begin(written.clone(), &about, initial.clone().into_iter().collect(), u32::MAX);
        let kept = kept.expect("a vector takes all");
        let (mut points, mut state) = (Vec::new(), noise(&mut random).to_vec());
        for number in 1..=70_u64 {
            let mut changed = std::collections::BTreeSet::new();
            for _ in 0..random.below(7) {
                let (page, other) = (random.below(PAGES as usize), random.below(PAGES as usize));
                match random.below(6) {
                    0 => memory[page] = [0; PAGE].into(),
                    1 => memory[page] = memory[other].clone(),
                    2 => memory[page] = noise(&mut random),
                    _ => memory[page][random.below(PAGE)] ^= 1 + random.below(255) as u8,
                }
                changed.insert(page);
            }
            let at = random.below(state.len());
            state[at] ^= 0xff;
            let point = Point { events: number * 10, instruction: number * 1000, inputs: number / 9, given: number };
            let pages = changed.into_iter().map(|page| (page as u32, memory[page].clone())).collect();
            kept.take(point, state.clone(), pages, u64::MAX / 2000);
            points.push((point, state.clone(), memory.clone()));
        }
        let summary = kept.finish(Some([4; 32]), 71_000).expect("a vector takes all");
        let bytes = written.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!((summary.points, summary.bytes), (points.len() as u64, bytes.len() as u64));
        SoundSeek { bytes, about, initial, points }
    })
}

/// A file of checkpoints with checksums that fit what is in it.
pub fn mend_seek(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let mut at = 16;
    while at + 80 <= bytes.len() {
        let length = |place: usize| u32_at(&bytes, at + place) as usize;
        let Some(payload) = bytes.get(at + 80..at + 80 + length(8) + length(12)) else { break };
        let (crc, next) = (crc32fast::hash(payload), at + 80 + payload.len());
        put(&mut bytes, at + 4, crc);
        let crc = crc32fast::hash(&bytes[at..at + 76]);
        put(&mut bytes, at + 76, crc);
        at = next;
    }
    bytes
}

/// Opens a file of checkpoints and goes to some of them. Returns whether anything is wrong with it; `each` sees what it
/// says of each checkpoint that it gives.
pub fn walk_seek(bytes: Vec<u8>, mut each: impl FnMut(&Point, &[u8], &[Box<[u8]>])) -> bool {
    let sound = sound_seek();
    let mut file = match SeekFile::from_bytes(bytes, &sound.about, Some([4; 32])) {
        Ok(file) => file,
        Err(SeekError::Damaged { .. } | SeekError::NotOne | SeekError::OtherTrace | SeekError::OtherBuild { .. }) => {
            return true;
        }
        Err(error) => panic!("memory can be read: {error}"),
    };
    let count = file.points().len();
    let mut wrong = count != sound.points.len();
    let initial = |page: u32| sound.initial.get(&page).map(|bytes| Arc::from(&**bytes));
    // Forwards and back, not too often for what a fuzzer may claim.
    for step in 0..count.min(24) {
        let number = step * 29 % count;
        let Some(point) = file.point(number).copied() else { continue };
        let mut pages: Pages = vec![[0xee; PAGE].into(); PAGES as usize];
        let state = file.state(number);
        let told =
            file.pages(number, PAGES, initial, |_, _| false, |page, _, bytes| pages[page as usize] = bytes.into());
        match (state, told) {
            (Ok(state), Ok(())) => each(&point, &state, &pages),
            _ => {
                wrong = true;
                file.truncate(number);
            }
        }
    }
    wrong
}

/// A file of checkpoints, as it is and with its checksums mended.
pub fn seek(data: &[u8]) {
    walk_seek(data.to_vec(), |_, _, _| {});
    walk_seek(mend_seek(data), |_, _, _| {});
}

type Target = fn(&[u8]);

/// All targets of this crate by name.
pub const TARGETS: &[(&str, Target)] =
    &[("reader", reader), ("block", block), ("header", header), ("index", index), ("salvage", salvage), ("seek", seek)];
