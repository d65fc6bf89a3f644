//! Packets on their way into a file: each is written as it comes, and a text goes out once.

use super::proto::{
    BEGIN, COUNTER, DebugAnnotation, END, INSTANT, Interned, InternedData, NEEDS_STATE, PACKET, STATE_CLEARED,
    TracePacket, TrackDescriptor, TrackEvent,
};
use hv_defs::event::Event;
use hv_defs::fields::Value;
use prost::Message;
use std::collections::HashMap;
use std::io::{self, Write};

/// The one sequence of packets: what is interned holds for a sequence.
const SEQUENCE: u32 = 1;
/// Texts of one sort that get a number. A trace may name any number of reasons and VMCS fields that do not exist: what is
/// more is written out each time.
const MAX_INTERNED: usize = 4096;

/// Texts by number, from 1.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, u64>,
    /// Those that no packet told of yet.
    fresh: Vec<Interned>,
}

impl Texts {
    /// The number of `text`; `None` when it is new and there are too many.
    fn number(&mut self, text: &str) -> Option<u64> {
        if let Some(&number) = self.numbers.get(text) {
            return Some(number);
        }
        if self.numbers.len() >= MAX_INTERNED {
            return None;
        }
        let number = self.numbers.len() as u64 + 1;
        self.numbers.insert(text.to_owned(), number);
        self.fresh.push(Interned { iid: Some(number), name: Some(text.to_owned()) });
        Some(number)
    }
}

/// Writes packets.
pub(super) struct Packets<W> {
    to: W,
    buffer: Vec<u8>,
    categories: Texts,
    names: Texts,
    annotations: Texts,
    words: Texts,
    /// Packets so far.
    pub(super) count: u64,
    /// Bytes so far.
    pub(super) bytes: u64,
}

/// An event on a track, before its name has a number.
#[derive(Default)]
pub(super) struct Mark<'a> {
    pub(super) track: u64,
    pub(super) name: &'a str,
    pub(super) category: &'a str,
    pub(super) args: Vec<DebugAnnotation>,
    /// Arrows that lead from here on.
    pub(super) flows: &'a [u64],
    /// Arrows that end here.
    pub(super) ends_flows: &'a [u64],
}

impl<W: Write> Packets<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            buffer: Vec::new(),
            categories: Texts::default(),
            names: Texts::default(),
            annotations: Texts::default(),
            words: Texts::default(),
            count: 0,
            bytes: 0,
        }
    }

    /// Tells of a track. It must come before the track's events.
    pub(super) fn track(&mut self, track: TrackDescriptor) -> io::Result<()> {
        self.write(TracePacket { track_descriptor: Some(track), ..TracePacket::default() })
    }

    /// A slice begins.
    pub(super) fn begin(&mut self, at: u64, mark: Mark<'_>) -> io::Result<()> {
        self.event(at, BEGIN, mark)
    }

    /// The slice of a track that began last ends; `args` are added to what was said when it began.
    pub(super) fn end(&mut self, at: u64, track: u64, args: Vec<DebugAnnotation>) -> io::Result<()> {
        self.event(at, END, Mark { track, args, ..Mark::default() })
    }

    /// Something happens.
    pub(super) fn instant(&mut self, at: u64, mark: Mark<'_>) -> io::Result<()> {
        self.event(at, INSTANT, mark)
    }

    /// A counter's value from here on.
    pub(super) fn counter(&mut self, at: u64, track: u64, value: u64) -> io::Result<()> {
        let counter_value = Some(i64::try_from(value).unwrap_or(i64::MAX));
        let event =
            TrackEvent { r#type: Some(COUNTER), track_uuid: Some(track), counter_value, ..TrackEvent::default() };
        self.write(TracePacket { timestamp: Some(at), track_event: Some(event), ..TracePacket::default() })
    }

    fn event(&mut self, at: u64, r#type: i32, mark: Mark<'_>) -> io::Result<()> {
        let mut event = TrackEvent {
            r#type: Some(r#type),
            track_uuid: Some(mark.track),
            debug_annotations: mark.args,
            flow_ids: mark.flows.to_vec(),
            terminating_flow_ids: mark.ends_flows.to_vec(),
            ..TrackEvent::default()
        };
        if !mark.name.is_empty() {
            event.name_iid = self.names.number(mark.name);
            event.name = event.name_iid.is_none().then(|| mark.name.to_owned());
        }
        if !mark.category.is_empty() {
            event.category_iids.extend(self.categories.number(mark.category));
        }
        self.write(TracePacket { timestamp: Some(at), track_event: Some(event), ..TracePacket::default() })
    }

    fn write(&mut self, mut packet: TracePacket) -> io::Result<()> {
        let first = self.count == 0;
        packet.trusted_packet_sequence_id = Some(SEQUENCE);
        packet.first_packet_on_sequence = first.then_some(true);
        packet.sequence_flags = Some(if first { STATE_CLEARED } else { NEEDS_STATE });
        let lists = [&mut self.categories, &mut self.names, &mut self.annotations, &mut self.words];
        if lists.iter().any(|texts| !texts.fresh.is_empty()) {
            let [categories, names, annotations, words] = lists.map(|texts| core::mem::take(&mut texts.fresh));
            packet.interned_data = Some(InternedData {
                event_categories: categories,
                event_names: names,
                debug_annotation_names: annotations,
                debug_annotation_string_values: words,
            });
        }
        self.buffer.clear();
        self.buffer.push(PACKET);
        // It grows as need be, so there is always room.
        packet.encode_length_delimited(&mut self.buffer)?;
        self.count += 1;
        self.bytes += self.buffer.len() as u64;
        self.to.write_all(&self.buffer)
    }

    // --- What is told of an event ---

    fn named(&mut self, name: &str) -> DebugAnnotation {
        let name_iid = self.annotations.number(name);
        let name = name_iid.is_none().then(|| name.to_owned());
        DebugAnnotation { name_iid, name, ..DebugAnnotation::default() }
    }

    /// A count.
    pub(super) fn number(&mut self, name: &str, number: u64) -> DebugAnnotation {
        DebugAnnotation { uint_value: Some(number), ..self.named(name) }
    }

    /// Free text.
    pub(super) fn text(&mut self, name: &str, text: impl Into<String>) -> DebugAnnotation {
        DebugAnnotation { string_value: Some(text.into()), ..self.named(name) }
    }

    /// One of few words.
    pub(super) fn word(&mut self, name: &str, word: &str) -> DebugAnnotation {
        match self.words.number(word) {
            Some(number) => DebugAnnotation { string_value_iid: Some(number), ..self.named(name) },
            None => self.text(name, word),
        }
    }

    /// Annotations under one name.
    pub(super) fn group(&mut self, name: &str, entries: Vec<DebugAnnotation>) -> DebugAnnotation {
        DebugAnnotation { dict_entries: entries, ..self.named(name) }
    }

    /// The fields of an event under the names that they have everywhere. Left out are those that have no value, and
    /// the addresses of which 0 stands for none.
    pub(super) fn fields(&mut self, event: &Event) -> Vec<DebugAnnotation> {
        let mut args = Vec::new();
        for (field, value) in event.values() {
            args.push(match value {
                Value::None => continue,
                Value::Hex(0) if matches!(field.name, "gpa" | "gla" | "address") => continue,
                Value::Unsigned(number) => self.number(field.name, number),
                Value::Hex(bits) => DebugAnnotation { pointer_value: Some(bits), ..self.named(field.name) },
                Value::Word(word) => self.word(field.name, &word),
                Value::Text(text) => self.text(field.name, text),
            });
        }
        args
    }
}
