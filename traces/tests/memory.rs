//! How much memory a file of at most 1 MB can make the reader take, whatever it says.
#![allow(unsafe_code)] // The allocator that counts.

#[path = "common/hostile.rs"]
mod hostile;
#[allow(clippy::all, dead_code, missing_docs, unreachable_pub, unsafe_code, unused_qualifications)] // Generated.
#[rustfmt::skip]
#[path = "../src/trace_capnp.rs"]
mod trace_capnp;

use capnp::message::{Builder, HeapAllocator};
use hostile::{frame, sound_header, trailer};
use hv_defs::config::{Config, Guest, ImageKind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use trace_capnp as schema;
use traces::{Header, Image, Reader, Writer};

/// Counts the bytes that are allocated, and the most that ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    PEAK.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is the system allocator's own, with the arguments that it was given.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: what the caller must keep to is what the system allocator asks of it.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promises are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: what the caller must keep to is what the system allocator asks of it.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: what the caller must keep to is what the system allocator asks of it.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: what the caller must keep to is what the system allocator asks of it.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if both were there at once, as they may be.
        taken(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that a reader may take, all told.
const MOST: usize = 256 << 20;

/// Each test is alone, since the count is of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a file and does with its first blocks what programs do: checks them, reads them whole and by table, looks at
/// events, salvages. Returns the most memory that it took.
fn peak(bytes: Vec<u8>) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    if let Ok(reader) = Reader::from_bytes(bytes.clone()) {
        let _ = (traces::check(&reader), reader.counts());
        for (block, info) in reader.blocks().iter().enumerate().take(8) {
            let tables: Vec<String> = match reader.block(block) {
                Ok(whole) => whole.counts().map(|(name, _)| name.to_owned()).collect(),
                Err(_) => vec!["exit".into()],
            };
            for table in tables.iter().take(3) {
                let _ = reader.block_table(block, table);
            }
            reader.events(info.first).take(3).for_each(drop);
            let _ = reader.stored(info.first);
        }
    }
    let _ = traces::salvage_bytes(bytes, io::sink());
    PEAK.load(Relaxed) - before
}

#[track_caller]
fn check(what: &str, bytes: Vec<u8>) {
    assert!(bytes.len() <= 1_000_000, "{what}: {} bytes", bytes.len());
    let peak = peak(bytes);
    assert!(peak <= MOST, "{what}: {} MB", peak >> 20);
    eprintln!("{what}: {} MB", peak >> 20);
}

/// A frame whose message is compressed.
fn packed(tag: &[u8; 4], (first, events): (u64, u32), message: &[u8]) -> Vec<u8> {
    let stored = zstd::bulk::compress(message, 1).expect("zstd");
    let mut bytes = frame(tag, (first, events), &stored);
    bytes[8..12].copy_from_slice(&(message.len() as u32).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The message of what `fill` makes.
fn message(fill: impl FnOnce(&mut Builder<HeapAllocator>)) -> Vec<u8> {
    let mut built = Builder::new(HeapAllocator::new().first_segment_words(1 << 22));
    fill(&mut built);
    capnp::serialize::write_message_to_words(&built)
}

const ROWS: u32 = traces::MAX_BLOCK_EVENTS;

/// How a column of a hostile block is made.
#[derive(Clone, Copy)]
enum Column {
    /// One number for all rows: nothing in the file, and a list in memory.
    Same,
    /// A number of its own in each row.
    Rising,
    /// Predicted by the first column.
    Keyed,
}

fn column(mut out: schema::column::Builder<'_>, name: &str, number: u64, of: Column) {
    out.set_name(name);
    match of {
        Column::Same => out.set_same(number),
        Column::Rising => {
            // Zigzag of 1, from row to row.
            out.set_coding(schema::Coding::Delta);
            out.set_same(2);
        }
        Column::Keyed => {
            out.set_coding(schema::Coding::Keyed);
            out.reborrow().init_keys(1).set(0, 0);
            out.set_same(number);
        }
    }
}

/// A block of as many events as there may be, in a table of these columns, and of texts.
fn block(first: u64, columns: &[Column], stamps: &[Column], texts: u32, text: &str) -> Vec<u8> {
    let message = message(|built| {
        let mut root = built.init_root::<schema::block::Builder<'_>>();
        root.set_first(first);
        root.set_events(ROWS);
        root.reborrow().init_order().set_same(0);
        let names =
            ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
        let mut out = root.reborrow().init_stamps();
        out.set_rows(if stamps.is_empty() { 1 } else { ROWS });
        let mut list = out.init_columns(stamps.len().max(1) as u32);
        column(list.reborrow().get(0), "events", if stamps.is_empty() { ROWS.into() } else { 1 }, Column::Same);
        for (at, of) in stamps.iter().enumerate().skip(1) {
            column(list.reborrow().get(at as u32), &format!("stamp{at}"), 7, *of);
        }
        let mut table = root.reborrow().init_tables(1).get(0);
        table.set_name("registers");
        table.set_rows(ROWS);
        let mut list = table.init_columns(columns.len() as u32);
        for (at, of) in columns.iter().enumerate() {
            let name = names.get(at).map_or(format!("more{at}"), |name| (*name).to_owned());
            column(list.reborrow().get(at as u32), &name, u64::MAX - 1, *of);
        }
        let mut list = root.init_texts(texts);
        (0..if text.is_empty() { 0 } else { texts }).for_each(|at| list.set(at, text));
    });
    packed(b"EVTS", (first, ROWS), &message)
}

/// A file of four such blocks: one more than a reader keeps.
fn blocks(columns: &[Column], stamps: &[Column], texts: u32, text: &str) -> Vec<u8> {
    blocks_behind(sound_header().to_vec(), columns, stamps, texts, text)
}

fn blocks_behind(mut bytes: Vec<u8>, columns: &[Column], stamps: &[Column], texts: u32, text: &str) -> Vec<u8> {
    (0..4).for_each(|at| bytes.extend(block(at * u64::from(ROWS), columns, stamps, texts, text)));
    bytes
}

#[test]
fn blocks_that_grow_in_memory() {
    let _alone = alone();
    use Column::{Keyed, Rising, Same};
    let keyed = [&[Rising][..], &[Same; 28], &[Keyed; 3]].concat();
    check("32 columns of one number", blocks(&[Same; 32], &[], 0, ""));
    check("stamps too", blocks(&[Same; 32], &[Same; 32], 0, ""));
    check("columns keyed by as many keys as rows", blocks(&keyed, &[], 0, ""));
    check("as many texts as events", blocks(&[Same], &[], ROWS, ""));
    check("thousands of long texts", blocks(&[Same], &[], 200, &"x".repeat(150_000)));
    check("columns and texts", blocks(&[Same; 32], &[Same; 32], ROWS, ""));
    let image = Image::new(ImageKind::Kernel, "zeros", vec![0; 31 << 20]);
    let mut header = Vec::new();
    Writer::create(&mut header, &Header::new(Config::new(Guest::BuiltIn("demo".into())), vec![image]))
        .expect("written");
    let long = "x".repeat(50_000);
    check("columns and long texts behind a large image", blocks_behind(header, &[Same; 32], &[], 200, &long));
}

#[test]
fn frames_that_decompress_to_nothing_sound() {
    let _alone = alone();
    let zeros = vec![0; 32 << 20];
    let mut bytes = sound_header().to_vec();
    (0..8).for_each(|_| bytes.extend(packed(b"EVTS", (0, 0), &zeros)));
    check("blocks of zeros", bytes);
    let mut bytes = sound_header().to_vec();
    while bytes.len() < 900_000 {
        let mut frame = frame(b"EVTS", (0, 0), b"EVTSEVTSEVTSEVTS");
        frame[8..12].copy_from_slice(&(32_u32 << 20).to_le_bytes());
        let crc = crc32fast::hash(&frame[..28]);
        frame[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes.extend(frame);
    }
    check("thousands of frames that claim much", bytes);
    let mut bytes = sound_header().to_vec();
    bytes.extend(b"EVTS".repeat(200_000));
    check("a file full of tags", bytes);
}

#[test]
fn indices_that_claim_much() {
    let _alone = alone();
    let index = |fill: &dyn Fn(schema::index::Builder<'_>)| {
        let mut bytes = sound_header().to_vec();
        let at = bytes.len() as u64;
        bytes.extend(packed(b"INDX", (0, 0), &message(|built| fill(built.init_root()))));
        bytes.extend(trailer(at, 0));
        bytes
    };
    let lists = |mut root: schema::index::Builder<'_>, blocks: u32, tables: u32| {
        root.reborrow().init_offsets(blocks);
        root.reborrow().init_firsts(blocks);
        root.reborrow().init_events(blocks);
        let mut list = root.init_tables(tables);
        for at in 0..tables {
            list.reborrow().get(at).init_rows(blocks);
        }
    };
    check("an index of a million blocks", index(&|root| lists(root, 1_500_000, 0)));
    check("an index of tables", index(&|root| lists(root, 120_000, 60)));
    // Lists of 2^29 - 1 members, and of nothing in each: the pointers are made by hand.
    let claims = |low: u32| {
        let mut message = message(|built| lists(built.init_root(), 8, 1));
        let words: Vec<usize> = (16..48).step_by(8).collect();
        for at in words {
            let old = u32::from_le_bytes([message[at + 4], message[at + 5], message[at + 6], message[at + 7]]);
            message[at + 4..at + 8].copy_from_slice(&((u32::MAX << 3) | (old & 7 & low)).to_le_bytes());
        }
        let mut bytes = sound_header().to_vec();
        let at = bytes.len() as u64;
        bytes.extend(packed(b"INDX", (0, 0), &message));
        bytes.extend(trailer(at, u64::MAX));
        bytes
    };
    check("an index of 2^29 blocks", claims(7));
    check("an index of 2^29 nothings", claims(0));
}

#[test]
fn headers_that_claim_much() {
    let _alone = alone();
    let hash = traces::sha256(&vec![0; 31 << 20]);
    let message = message(|built| {
        let root = built.init_root::<schema::header::Builder<'_>>();
        let mut images = root.init_images(40);
        for image in 0..40 {
            let mut image = images.reborrow().get(image);
            image.set_kind("kernel");
            image.set_hash(&hash);
        }
        images.get(0).init_bytes(31 << 20);
    });
    let header = |message: &[u8]| [&sound_header()[..16], &packed(b"HEAD", (0, 0), message)].concat();
    check("an image of zeros", header(&message));
    // All images point at the bytes of the first. A list of structs begins with a word that says how large each is.
    let root = 8;
    let word = |message: &[u8], at: usize| u64::from_le_bytes(message[at..at + 8].try_into().expect("8 bytes"));
    let target = |message: &[u8], at: usize| at + 8 + ((word(message, at) as u32 as i32 >> 2) as usize) * 8;
    let data = |message: &[u8], at: usize| (word(message, at) >> 32 & 0xffff) as usize;
    let struct_at = target(&message, root);
    let images = target(&message, struct_at + data(&message, root) * 8 + 8);
    let (fields, pointers) = (data(&message, images), (word(&message, images) >> 48) as usize);
    let size = (fields + pointers) * 8;
    let mut shared = message.clone();
    let own = (0..pointers).map(|at| images + 8 + fields * 8 + at * 8).rfind(|&at| word(&message, at) != 0);
    let own = own.expect("the bytes of the first image");
    for image in 1..40 {
        let moved = word(&message, own).wrapping_sub((image * size / 8 * 4) as u64);
        shared[own + image * size..own + image * size + 8].copy_from_slice(&moved.to_le_bytes());
        shared.copy_within(images + 8..images + 8 + fields * 8, images + 8 + image * size);
    }
    check("40 images of the same bytes", header(&shared));
}
