//! The first part of both files: how pages and records are laid out, the tracepoints, the threads' names.
//!
//! See: trace-cmd.dat.v6(5). `perf.data` has the same in its section of tracing data.

use super::Tape;

/// A page of the kernel's ring buffers.
pub(super) const PAGE: usize = 4096;
/// What of it is no record: its time and how many bytes are used.
pub(super) const PAGE_HEAD: usize = 16;

const HEADER_EVENT: &str = "# compressed entry header
	type_len    :    5 bits
	time_delta  :   27 bits
	array       :   32 bits

	padding     : type == 29
	time_extend : type == 30
	time_stamp : type == 31
	data max type_len  == 28
";

fn header_page() -> String {
    let fields = [
        ("u64 timestamp", 0, 8, 0),
        ("local_t commit", 8, 8, 1),
        ("int overwrite", 8, 1, 1),
        ("char data", PAGE_HEAD, PAGE - PAGE_HEAD, 0),
    ];
    let line = |(field, offset, size, signed)| {
        format!("\tfield: {field};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n")
    };
    fields.into_iter().map(line).collect()
}

/// The metadata, little-endian, of a file that calls itself of this version.
pub(super) fn metadata(version: &str, tape: &Tape) -> Vec<u8> {
    let mut out = vec![0x17, 0x08, 0x44];
    out.extend_from_slice(b"tracing");
    out.extend_from_slice(version.as_bytes());
    // The end of the version, little-endian, the bytes of a long.
    out.extend_from_slice(&[0, 0, 8]);
    out.extend_from_slice(&(PAGE as u32).to_le_bytes());
    for (name, text) in [("header_page", header_page()), ("header_event", HEADER_EVENT.into())] {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        sized(&mut out, text.as_bytes());
    }
    // None of ftrace's own events, then one system.
    out.extend_from_slice(&[0, 1].map(u32::to_le_bytes).concat());
    out.extend_from_slice(b"kvm\0");
    out.extend_from_slice(&(tape.tracepoints.len() as u32).to_le_bytes());
    tape.tracepoints.iter().for_each(|tracepoint| sized(&mut out, tracepoint.text.as_bytes()));
    // No names of functions and no formats of trace_printk.
    out.extend_from_slice(&[0; 8]);
    let names: String = tape.threads.iter().map(|thread| format!("{} {}\n", thread.id, thread.name)).collect();
    sized(&mut out, names.as_bytes());
    out
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}
