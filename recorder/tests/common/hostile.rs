//! What the fuzz targets do with their input, shared with the ordinary tests. Each returns for any input, or panics where
//! the importers break a promise.
#![allow(dead_code, missing_docs, unreachable_pub)] // Part of tests and of fuzz targets: each uses its part.

use hv_defs::config::Source;
use recorder::import::import_text;
use traces::Reader;

/// A text is refused, or becomes a whole trace.
pub fn check(data: &[u8], source: Source) {
    let mut bytes = Vec::new();
    let Ok(imported) = import_text(data, source, "fuzzed", &mut bytes) else { return };
    let reader = Reader::from_bytes(bytes).expect("what was imported is read");
    assert_eq!((reader.truncated(), reader.len()), (false, imported.summary.events));
    let events = reader.events(0).inspect(|event| assert!(event.is_ok(), "{event:?}")).count();
    assert_eq!(events as u64, reader.len());
}

pub fn iris(data: &[u8]) {
    check(data, Source::Iris);
}

pub fn trace_cmd_text(data: &[u8]) {
    check(data, Source::TraceCmd);
}

pub fn perf_text(data: &[u8]) {
    check(data, Source::Perf);
}

type Target = fn(&[u8]);

/// All targets of this crate by name.
pub const TARGETS: &[(&str, Target)] = &[("iris", iris), ("trace_cmd_text", trace_cmd_text), ("perf_text", perf_text)];
