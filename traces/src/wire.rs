//! Between our types and Cap'n Proto's: the only file that knows its messages.
//!
//! What is read may be hostile. Every error is a line that says what is wrong; lengths are checked before memory is
//! taken.

use crate::Error;
use crate::coding::{self, Coding, KEYS};
use crate::frame::MAX_BLOCK_EVENTS;
use crate::header::{Header, Image, Made};
use crate::image::ImageBytes;
use crate::narrow::Spare;
use crate::trace_capnp as schema;
use crate::values::Values;
pub(crate) use capnp::Word;
use capnp::message::{Builder, HeapAllocator, ReaderOptions, ScratchSpaceHeapAllocator};
use capnp::serialize;
use hv_defs::config::{Backend, Clock, Config, Guest, ImageKind, Log, Origin};
use hv_defs::policy::{Policy, PoolRecycle, RootLoad, Shadowing, Tags, TransitionFlush, Vmcs02Writes};
use hv_defs::slip::Slip;
use std::sync::Arc;

/// The most tables that a block may have, and the most columns of a table.
pub(crate) const MAX_TABLES: usize = 64;
const MAX_COLUMNS: usize = 32;

/// A word of zeros.
pub(crate) const ZERO: Word = capnp::word(0, 0, 0, 0, 0, 0, 0, 0);

/// What is wrong with a message.
pub(crate) type Wrong = String;

fn wrong(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

fn open<T>(
    words: &[Word],
    read: impl FnOnce(&capnp::message::Reader<serialize::BufferSegments<&[u8]>>) -> Result<T, Wrong>,
) -> Result<T, Wrong> {
    // A sound message is walked once, and its tables' heads once more.
    let options = ReaderOptions { traversal_limit_in_words: Some(words.len() * 2 + 4096), nesting_limit: 16 };
    let mut bytes = Word::words_to_bytes(words);
    let message = serialize::read_message_from_flat_slice(&mut bytes, options).map_err(wrong)?;
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow the message", bytes.len()));
    }
    read(&message)
}

fn text(text: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, Wrong> {
    text.map_err(wrong)?.to_string().map_err(wrong)
}

fn builder(words: usize) -> Builder<HeapAllocator> {
    Builder::new(HeapAllocator::new().first_segment_words(u32::try_from(words).unwrap_or(u32::MAX).max(64)))
}

// --- Header ---

/// The most bytes that an image in a trace may have: a list's count has 29 bits.
const MAX_IMAGE: usize = (1 << 29) - 1;

/// A header's message. It has the images in it, and is not copied again.
pub(crate) struct HeaderOut(Builder<HeapAllocator>);

impl HeaderOut {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        serialize::compute_serialized_size_in_words(&self.0) as u64 * 8
    }

    /// Writes it in Cap'n Proto's stream framing. Its own writer would lose what kind of error there was.
    pub(crate) fn write_to(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let segments = self.0.get_segments_for_output();
        let mut lengths = vec![segments.len() as u32 - 1];
        lengths.extend(segments.iter().map(|segment| (segment.len() / 8) as u32));
        lengths.resize(lengths.len().next_multiple_of(2), 0);
        let lengths: Vec<u8> = lengths.into_iter().flat_map(u32::to_le_bytes).collect();
        out.write_all(&lengths)?;
        segments.iter().try_for_each(|segment| out.write_all(segment))
    }
}

/// The message of a header, or what of it the format cannot hold.
pub(crate) fn write_header(header: &Header) -> Result<HeaderOut, Error> {
    let embedded = embedded(header);
    if let Some(bytes) = embedded.iter().flatten().find(|bytes| bytes.len() > MAX_IMAGE as u64) {
        return Err(Error::TooLarge(format!("an image of {} bytes", bytes.len())));
    }
    let images: u64 = embedded.iter().flatten().map(|bytes| bytes.len()).sum();
    let mut message = builder(images as usize / 8 + 512);
    let mut root = message.init_root::<schema::header::Builder<'_>>();
    root.set_build(&header.build);
    write_config(&header.config, root.reborrow().init_config());
    if let Some(Origin { source, name, clock, note }) = &header.origin {
        let mut origin = root.reborrow().init_origin();
        origin.set_source(source);
        origin.set_name(name);
        origin.set_clock(clock.name());
        origin.set_note(note);
    }
    let mut parts = root.reborrow().init_parts(header.parts.len() as u32);
    for (at, part) in header.parts.iter().enumerate() {
        let mut out = parts.reborrow().get(at as u32);
        out.set_name(&part.name);
        out.set_digest(&part.digest);
    }
    let mut images = root.init_images(header.images.len() as u32);
    for (at, image) in header.images.iter().enumerate() {
        let mut out = images.reborrow().get(at as u32);
        out.set_kind(image.kind.name());
        out.set_name(&image.name);
        out.set_hash(&image.hash);
    }
    // Bytes come last, so that all else is at the message's beginning.
    for (at, bytes) in embedded.into_iter().enumerate() {
        let mut out = images.reborrow().get(at as u32);
        match bytes {
            Some(bytes) => out.set_bytes(&bytes.get()?),
            None => out.set_elsewhere(()),
        }
    }
    Ok(HeaderOut(message))
}

/// For each image, its bytes if the trace is to hold them: each content once, with the first image that has it.
fn embedded(header: &Header) -> Vec<Option<&ImageBytes>> {
    let mut hashes = Vec::new();
    let mut once = |image: &Image| {
        !image.elsewhere && !hashes.contains(&image.hash) && {
            hashes.push(image.hash);
            true
        }
    };
    header.images.iter().map(|image| image.bytes.as_ref().filter(|_| once(image))).collect()
}

fn write_config(config: &Config, mut out: schema::config::Builder<'_>) {
    // Taken apart so that a new member cannot be forgotten.
    let Config {
        guest,
        memory,
        vcpus,
        pcpus,
        backend,
        policy,
        slips,
        tlb_entries,
        la57,
        seed,
        log,
        max_instructions,
        stop_on,
        slice,
        digest_interval,
    } = config;
    match guest {
        Guest::BuiltIn(name) => out.reborrow().init_guest().set_built_in(name),
        Guest::Kernel { name, append } => {
            let mut kernel = out.reborrow().init_guest().init_kernel();
            kernel.set_name(name);
            kernel.set_append(append);
        }
    }
    out.set_memory(*memory);
    out.set_vcpus(*vcpus);
    out.set_pcpus(*pcpus);
    out.set_backend(backend.name());
    let Policy { tags, transition_flush, root_load, apic_access_flush, pool, pool_recycle, vmcs02_writes, shadowing } =
        policy;
    let mut rules = out.reborrow().init_policy();
    rules.set_tags(tags.name());
    rules.set_transition_flush(transition_flush.name());
    rules.set_root_load(root_load.name());
    rules.set_apic_access_flush(*apic_access_flush);
    rules.set_pool(*pool);
    // So a file of the usual rule is one of any program that reads this format.
    if *pool_recycle != PoolRecycle::Lru {
        rules.set_pool_recycle(pool_recycle.name());
    }
    rules.set_vmcs02_writes(vmcs02_writes.name());
    rules.set_shadowing(shadowing.name());
    out.set_tlb_entries(*tlb_entries);
    out.set_la57(*la57);
    out.set_seed(*seed);
    out.set_log(log.name());
    match max_instructions {
        Some(count) => out.reborrow().init_max_instructions().set_at(*count),
        None => out.reborrow().init_max_instructions().set_never(()),
    }
    match stop_on {
        Some(text) => out.reborrow().init_stop_on().set_text(text),
        None => out.reborrow().init_stop_on().set_nothing(()),
    }
    out.set_slice(*slice);
    out.set_digest_interval(*digest_interval);
    let mut names = out.init_slips(slips.iter().count() as u32);
    slips.iter().enumerate().for_each(|(at, slip)| names.set(at as u32, slip.name()));
}

/// What makes an image's bytes of its number among those in the trace and of what is there.
type Place<'a> = dyn FnMut(usize, Result<&[u8], Wrong>) -> Result<ImageBytes, Wrong> + 'a;

/// Reads a header. `place` is given the bytes of each image that is in the trace, with its number among them.
pub(crate) fn read_header(words: &[Word], version: (u16, u16), place: &mut Place<'_>) -> Result<Header, Wrong> {
    open(words, |message| {
        let root = message.get_root::<schema::header::Reader<'_>>().map_err(wrong)?;
        let (mut images, mut embedded): (Vec<Image>, _) = (Vec::new(), 0);
        for image in root.get_images().map_err(wrong)? {
            let kind = word(image.get_kind(), ImageKind::by_name, "image kind")?;
            let name = text(image.get_name())?;
            let hash = image.get_hash().map_err(wrong)?;
            let hash = hash.try_into().map_err(|_| format!("the hash of image '{name}' has {} bytes", hash.len()))?;
            let bytes: Option<ImageBytes> = match image.which().map_err(wrong)? {
                // The same bytes are there once.
                schema::image::Elsewhere(()) => {
                    images.iter().find(|image| image.hash == hash).and_then(|image| image.bytes.clone())
                }
                schema::image::Bytes(bytes) => {
                    embedded += 1;
                    Some(place(embedded - 1, bytes.map_err(wrong))?)
                }
            };
            images.push(Image { kind, name, hash, elsewhere: bytes.is_none(), bytes });
        }
        let config = read_config(root.get_config().map_err(wrong)?)?;
        let origin = match root.has_origin() {
            true => Some(read_origin(root.get_origin().map_err(wrong)?)?),
            false => None,
        };
        let mut parts = Vec::new();
        for part in root.get_parts().map_err(wrong)? {
            parts.push(Made { name: text(part.get_name())?, digest: text(part.get_digest())? });
        }
        Ok(Header { version, config, images, build: text(root.get_build())?, parts, origin })
    })
}

/// The bytes of the images in a header's message, in order, each compared with its hash.
pub(crate) fn read_images(words: &[Word], hash_of: &dyn Fn(&[u8]) -> [u8; 32]) -> Result<Vec<Arc<[u8]>>, Wrong> {
    open(words, |message| {
        let root = message.get_root::<schema::header::Reader<'_>>().map_err(wrong)?;
        let mut images = Vec::new();
        for image in root.get_images().map_err(wrong)? {
            let schema::image::Bytes(bytes) = image.which().map_err(wrong)? else { continue };
            let bytes = bytes.map_err(wrong)?;
            if hash_of(bytes)[..] != *image.get_hash().map_err(wrong)? {
                return Err(format!("image '{}' does not match its hash", text(image.get_name())?));
            }
            images.push(bytes.into());
        }
        Ok(images)
    })
}

fn read_origin(origin: schema::origin::Reader<'_>) -> Result<Origin, Wrong> {
    let clock = word(origin.get_clock(), Clock::by_name, "clock")?;
    let (source, name, note) = (origin.get_source(), origin.get_name(), origin.get_note());
    Ok(Origin { source: text(source)?, name: text(name)?, clock, note: text(note)? })
}

fn word<T>(found: capnp::Result<capnp::text::Reader<'_>>, by: fn(&str) -> Option<T>, what: &str) -> Result<T, Wrong> {
    let found = text(found)?;
    by(&found).ok_or_else(|| format!("there is no {what} '{found}'"))
}

fn read_config(config: schema::config::Reader<'_>) -> Result<Config, Wrong> {
    use schema::config::{guest, max_instructions, stop_on};
    let rules = config.get_policy().map_err(wrong)?;
    let policy = Policy {
        tags: word(rules.get_tags(), Tags::by_name, "VPID policy")?,
        transition_flush: word(rules.get_transition_flush(), TransitionFlush::by_name, "transition flush")?,
        root_load: word(rules.get_root_load(), RootLoad::by_name, "root load policy")?,
        apic_access_flush: rules.get_apic_access_flush(),
        pool: rules.get_pool(),
        pool_recycle: match rules.has_pool_recycle() {
            true => word(rules.get_pool_recycle(), PoolRecycle::by_name, "rule for the pool")?,
            false => PoolRecycle::Lru,
        },
        vmcs02_writes: word(rules.get_vmcs02_writes(), Vmcs02Writes::by_name, "vmcs02 write policy")?,
        shadowing: word(rules.get_shadowing(), Shadowing::by_name, "shadowing policy")?,
    };
    Ok(Config {
        guest: match config.get_guest().which().map_err(wrong)? {
            guest::BuiltIn(name) => Guest::BuiltIn(text(name)?),
            guest::Kernel(kernel) => {
                Guest::Kernel { name: text(kernel.get_name())?, append: text(kernel.get_append())? }
            }
        },
        memory: config.get_memory(),
        vcpus: config.get_vcpus(),
        pcpus: config.get_pcpus(),
        backend: word(config.get_backend(), Backend::by_name, "backend")?,
        policy,
        slips: config
            .get_slips()
            .map_err(wrong)?
            .iter()
            .map(|slip| word(slip, Slip::by_name, "fault"))
            .collect::<Result<_, _>>()?,
        tlb_entries: config.get_tlb_entries(),
        la57: config.get_la57(),
        seed: config.get_seed(),
        log: word(config.get_log(), Log::by_name, "log level")?,
        max_instructions: match config.get_max_instructions().which().map_err(wrong)? {
            max_instructions::Never(()) => None,
            max_instructions::At(count) => Some(count),
        },
        stop_on: match config.get_stop_on().which().map_err(wrong)? {
            stop_on::Nothing(()) => None,
            stop_on::Text(shown) => Some(text(shown)?),
        },
        slice: config.get_slice(),
        digest_interval: config.get_digest_interval(),
    })
}

// --- Blocks ---

/// A column, coded, on its way out.
pub(crate) struct ColumnOut<'a> {
    pub(crate) name: &'a str,
    pub(crate) coding: Coding,
    pub(crate) keys: &'a [u8],
    pub(crate) stored: Values,
}

impl ColumnOut<'_> {
    fn all_zeros(&self) -> bool {
        matches!(self.stored, Values::Same { value: 0, .. })
    }
}

/// A table on its way out.
pub(crate) struct TableOut<'a> {
    pub(crate) name: &'a str,
    pub(crate) rows: u32,
    pub(crate) columns: Vec<ColumnOut<'a>>,
}

/// A block on its way out.
pub(crate) struct BlockOut<'a> {
    pub(crate) first: u64,
    pub(crate) events: u32,
    pub(crate) order: ColumnOut<'a>,
    pub(crate) stamps: TableOut<'a>,
    pub(crate) tables: Vec<TableOut<'a>>,
    pub(crate) texts: &'a [String],
}

/// Writes the block's message into `message`. `words` is room to build it in.
pub(crate) fn write_block(block: &BlockOut<'_>, words: &mut Vec<Word>, message: &mut Vec<u8>) {
    let columns = block.tables.iter().chain([&block.stamps]).flat_map(|table| &table.columns).chain([&block.order]);
    let bytes: usize = columns.map(|column| column.stored.bytes() + 96).sum();
    let texts: usize = block.texts.iter().map(|text| text.len() + 24).sum();
    // Enough for one segment, so that the list of segments is always the same.
    let room = (bytes + texts) / 8 + 1024;
    words.resize(words.len().max(room), ZERO);
    let allocator = ScratchSpaceHeapAllocator::new(Word::words_to_bytes_mut(&mut words[..room]));
    let mut built = Builder::new(allocator);
    let mut root = built.init_root::<schema::block::Builder<'_>>();
    root.set_first(block.first);
    root.set_events(block.events);
    write_column(&block.order, root.reborrow().init_order());
    write_table(&block.stamps, root.reborrow().init_stamps());
    let mut tables = root.reborrow().init_tables(block.tables.len() as u32);
    for (at, table) in block.tables.iter().enumerate() {
        write_table(table, tables.reborrow().get(at as u32));
    }
    let mut texts = root.init_texts(block.texts.len() as u32);
    for (at, text) in block.texts.iter().enumerate() {
        texts.set(at as u32, text);
    }
    let segments = built.get_segments_for_output();
    message.clear();
    message.reserve(8 + segments.iter().map(|segment| segment.len() + 8).sum::<usize>());
    // The message as it lies in a stream: how many segments but one, the words of each, then they themselves.
    message.extend((segments.len() as u32 - 1).to_le_bytes());
    segments.iter().for_each(|segment| message.extend((segment.len() as u32 / 8).to_le_bytes()));
    message.resize(message.len().next_multiple_of(8), 0);
    segments.iter().for_each(|segment| message.extend_from_slice(segment));
}

fn write_table(table: &TableOut<'_>, mut out: schema::table::Builder<'_>) {
    out.set_name(table.name);
    out.set_rows(table.rows);
    // Columns are referred to by place, so only those at the end may go.
    let kept = table.columns.iter().rposition(|column| !column.all_zeros() || !column.keys.is_empty());
    let kept = kept.map_or(0, |last| last + 1);
    let mut columns = out.init_columns(kept as u32);
    for (at, column) in table.columns[..kept].iter().enumerate() {
        write_column(column, columns.reborrow().get(at as u32));
    }
}

macro_rules! fill {
    ($list:expr, $numbers:expr) => {{
        let mut list = $list;
        // The list has the column's own length, in the host's byte order or not at all.
        match list.as_slice() {
            Some(slots) if cfg!(target_endian = "little") => slots.copy_from_slice($numbers),
            _ => $numbers.iter().enumerate().for_each(|(at, &number)| list.set(at as u32, number)),
        }
    }};
}

fn write_column(column: &ColumnOut<'_>, mut out: schema::column::Builder<'_>) {
    out.set_name(column.name);
    out.set_coding(match column.coding {
        Coding::Plain => schema::Coding::Plain,
        Coding::Delta => schema::Coding::Delta,
        Coding::Relative => schema::Coding::Relative,
        Coding::Keyed => schema::Coding::Keyed,
    });
    if !column.keys.is_empty() {
        let mut keys = out.reborrow().init_keys(column.keys.len() as u32);
        column.keys.iter().enumerate().for_each(|(at, &key)| keys.set(at as u32, key));
    }
    let rows = column.stored.len() as u32;
    match &column.stored {
        Values::Same { value, .. } => out.set_same(*value),
        Values::U8(list) => fill!(out.init_u8(rows), list),
        Values::U16(list) => fill!(out.init_u16(rows), list),
        Values::U32(list) => fill!(out.init_u32(rows), list),
        Values::U64(list) => fill!(out.init_u64(rows), list),
        // What is stored is of no other form.
        other @ (Values::Above { .. } | Values::Runs(_)) => fill!(out.init_u64(rows), &other.to_vec()),
    }
}

/// A block that was read, but for the columns of its tables.
pub(crate) struct BlockIn {
    pub(crate) first: u64,
    pub(crate) order: Vec<u8>,
    pub(crate) stamps: Columns,
    /// How many stamps there are.
    pub(crate) runs: u32,
    /// The tables' names and rows.
    pub(crate) tables: Vec<(String, u32)>,
    pub(crate) texts: Vec<String>,
}

/// The columns of a table in the order of the block, those that were asked for decoded.
pub(crate) type Columns = Vec<(String, Option<Values>)>;

/// Reads the block in `words`, without its tables' columns.
pub(crate) fn read_block(words: &[Word], spare: &mut Spare) -> Result<BlockIn, Wrong> {
    open(words, |message| {
        let root = message.get_root::<schema::block::Reader<'_>>().map_err(wrong)?;
        let events = root.get_events();
        if events > MAX_BLOCK_EVENTS {
            return Err(format!("it claims {events} events"));
        }
        let order = read_order(&root.get_order().map_err(wrong)?, events, spare)?;
        let stamps = root.get_stamps().map_err(wrong)?;
        let runs = read_rows(&stamps, "stamps", events)?;
        let stamps = read_columns(stamps, "stamps", runs, &|_| true, spare)?;
        let found = root.get_tables().map_err(wrong)?;
        if found.len() as usize > MAX_TABLES {
            return Err(format!("it has {} tables", found.len()));
        }
        let (mut tables, mut left) = (Vec::with_capacity(found.len() as usize), events);
        for table in found {
            let name = text(table.get_name())?;
            let rows = read_rows(&table, &name, left)?;
            left -= rows;
            tables.push((name, rows));
        }
        if left != 0 {
            return Err(format!("its tables hold {} rows for {events} events", events - left));
        }
        let found = root.get_texts().map_err(wrong)?;
        if found.len() > events {
            return Err(format!("it has {} texts for {events} events", found.len()));
        }
        let texts = found.iter().map(text).collect::<Result<_, _>>()?;
        Ok(BlockIn { first: root.get_first(), order, stamps, runs, tables, texts })
    })
}

/// The columns of the table at a place in the block in `words`, which has the name and rows that [`read_block`] found,
/// decoding those that `wanted` says by name.
pub(crate) fn read_table(
    words: &[Word],
    at: usize,
    (name, rows): (&str, u32),
    wanted: &dyn Fn(&str) -> bool,
    spare: &mut Spare,
) -> Result<Columns, Wrong> {
    open(words, |message| {
        let root = message.get_root::<schema::block::Reader<'_>>().map_err(wrong)?;
        let table = root.get_tables().map_err(wrong)?.try_get(at as u32);
        read_columns(table.ok_or_else(|| format!("it has no table {at}"))?, name, rows, wanted, spare)
    })
}

fn read_rows(table: &schema::table::Reader<'_>, name: &str, most: u32) -> Result<u32, Wrong> {
    let rows = table.get_rows();
    if rows > most { Err(format!("table '{name}' claims {rows} rows")) } else { Ok(rows) }
}

fn read_columns(
    table: schema::table::Reader<'_>,
    name: &str,
    rows: u32,
    wanted: &dyn Fn(&str) -> bool,
    spare: &mut Spare,
) -> Result<Columns, Wrong> {
    let found = table.get_columns().map_err(wrong)?;
    if found.len() as usize > MAX_COLUMNS {
        return Err(format!("table '{name}' has {} columns", found.len()));
    }
    let names = found.iter().map(|column| text(column.get_name())).collect::<Result<Vec<_>, _>>()?;
    let keys = found.iter().enumerate().map(|(at, column)| read_keys(&column, at)).collect::<Result<Vec<_>, _>>()?;
    let mut needed: Vec<bool> = names.iter().map(|column| wanted(column)).collect();
    for at in (0..names.len()).rev() {
        if needed[at] {
            keys[at].1.iter().for_each(|&key| needed[key] = true);
        }
    }
    let mut columns: Columns = Vec::with_capacity(names.len());
    for (at, (column, own_name)) in found.iter().zip(names).enumerate() {
        let mut values = None;
        if needed[at] {
            let stored = read_column(&column, rows, spare)?;
            let (coding, keys) = &keys[at];
            let keys: Vec<&Values> = keys.iter().filter_map(|&key| columns[key].1.as_ref()).collect();
            values = Some(coding::decode(*coding, &keys, stored, spare));
        }
        columns.push((own_name, values));
    }
    Ok(columns)
}

/// The coding of the column at place `at`, and the earlier columns that it refers to.
fn read_keys(column: &schema::column::Reader<'_>, at: usize) -> Result<(Coding, Vec<usize>), Wrong> {
    let (coding, fewest, most) = match column.get_coding().map_err(wrong)? {
        schema::Coding::Plain => (Coding::Plain, 0, 0),
        schema::Coding::Delta => (Coding::Delta, 0, 0),
        schema::Coding::Relative => (Coding::Relative, 1, 1),
        schema::Coding::Keyed => (Coding::Keyed, 1, KEYS),
    };
    let keys: Vec<usize> = column.get_keys().map_err(wrong)?.iter().take(KEYS + 1).map(usize::from).collect();
    if keys.len() < fewest || keys.len() > most || keys.iter().any(|&key| key >= at) {
        return Err(format!("column {at} of a table refers to columns {keys:?}"));
    }
    Ok((coding, keys))
}

macro_rules! take {
    ($list:expr, $rows:expr, $taken:expr) => {{
        let list = $list.map_err(wrong)?;
        if list.len() != $rows {
            return Err(format!("a column has {} numbers for {} rows", list.len(), $rows));
        }
        let mut taken = $taken;
        match list.as_slice() {
            Some(numbers) if cfg!(target_endian = "little") => taken.extend_from_slice(numbers),
            _ => taken.extend(list.iter()),
        }
        taken
    }};
}

fn read_column(column: &schema::column::Reader<'_>, rows: u32, spare: &mut Spare) -> Result<Values, Wrong> {
    use schema::column::{Same, U8, U16, U32, U64};
    Ok(match column.which().map_err(wrong)? {
        Same(value) => Values::Same { value, rows: rows as usize },
        U8(list) => Values::U8(take!(list, rows, spare.u8.take())),
        U16(list) => Values::U16(take!(list, rows, spare.u16.take())),
        U32(list) => Values::U32(take!(list, rows, spare.u32.take())),
        U64(list) => Values::U64(take!(list, rows, spare.u64.take())),
    })
}

/// The column that says which table each event's row is in. No block has as many tables as a byte can tell apart.
fn read_order(column: &schema::column::Reader<'_>, events: u32, spare: &mut Spare) -> Result<Vec<u8>, Wrong> {
    if column.get_coding().map_err(wrong)? != schema::Coding::Plain {
        return Err("its order is coded".into());
    }
    let narrow = |table: u64| u8::try_from(table).map_err(|_| format!("an event belongs to table {table}"));
    match read_column(column, events, spare)? {
        Values::U8(order) => Ok(order),
        Values::Same { value, rows } => Ok(vec![narrow(value)?; rows]),
        wide => wide.iter().map(narrow).collect(),
    }
}

// --- Index ---

/// Where a block is and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IndexRow {
    pub(crate) offset: u64,
    pub(crate) first: u64,
    pub(crate) events: u32,
}

/// What the index says of each block, and of each table the rows in each block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Index {
    pub(crate) blocks: Vec<IndexRow>,
    pub(crate) tables: Vec<(String, Vec<u32>)>,
}

pub(crate) fn write_index(index: &Index) -> Vec<u8> {
    let mut message = builder(index.blocks.len() * (3 + index.tables.len()) + 512);
    let mut root = message.init_root::<schema::index::Builder<'_>>();
    let blocks = index.blocks.len() as u32;
    let mut offsets = root.reborrow().init_offsets(blocks);
    index.blocks.iter().enumerate().for_each(|(at, row)| offsets.set(at as u32, row.offset));
    let mut firsts = root.reborrow().init_firsts(blocks);
    index.blocks.iter().enumerate().for_each(|(at, row)| firsts.set(at as u32, row.first));
    let mut events = root.reborrow().init_events(blocks);
    index.blocks.iter().enumerate().for_each(|(at, row)| events.set(at as u32, row.events));
    let mut tables = root.init_tables(index.tables.len() as u32);
    for (at, (name, rows)) in index.tables.iter().enumerate() {
        let mut table = tables.reborrow().get(at as u32);
        table.set_name(name);
        let mut out = table.init_rows(blocks);
        rows.iter().enumerate().for_each(|(at, &rows)| out.set(at as u32, rows));
    }
    serialize::write_message_to_words(&message)
}

pub(crate) fn read_index(words: &[Word]) -> Result<Index, Wrong> {
    open(words, |message| {
        let root = message.get_root::<schema::index::Reader<'_>>().map_err(wrong)?;
        let offsets = root.get_offsets().map_err(wrong)?;
        let firsts = root.get_firsts().map_err(wrong)?;
        let events = root.get_events().map_err(wrong)?;
        if offsets.len() != firsts.len() || offsets.len() != events.len() {
            return Err("its lists differ in length".into());
        }
        let blocks = offsets.iter().zip(firsts.iter()).zip(events.iter());
        let blocks = blocks.map(|((offset, first), events)| IndexRow { offset, first, events }).collect();
        let found = root.get_tables().map_err(wrong)?;
        if found.len() as usize > MAX_TABLES {
            return Err(format!("it counts {} tables", found.len()));
        }
        let mut tables = Vec::new();
        for table in found {
            let rows = table.get_rows().map_err(wrong)?;
            if rows.len() != offsets.len() {
                return Err("its lists differ in length".into());
            }
            tables.push((text(table.get_name())?, rows.iter().collect()));
        }
        Ok(Index { blocks, tables })
    })
}
