//! Of what this build's machine is made.

/// The parts of the machine by name, each with a digest of its source (16 hexadecimal digits): two builds with equal digests
/// of all parts run every guest alike. Tests are left out; a comment counts.
pub const PARTS: [(&str, &str); 5] = [
    ("cpu", env!("NVMX_CPU")),
    ("l0", env!("NVMX_L0")),
    ("board", env!("NVMX_BOARD")),
    ("guests", env!("NVMX_GUESTS")),
    ("definitions", env!("NVMX_DEFINITIONS")),
];
