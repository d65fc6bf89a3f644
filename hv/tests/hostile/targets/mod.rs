//! What the fuzz targets of `hv/fuzz` do with their input, shared with the ordinary tests that replay what fuzzing once found.
//! Each returns for any input, or panics where the machine breaks a promise.

mod acpi;
mod board;
mod ept;
mod exec;
mod fw_cfg;
mod loaders;
#[path = "../../support/mod.rs"]
mod support;
mod vmx;

type Target = fn(&[u8]);

/// All of them by name.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("exec", exec::target),
    ("vmx", vmx::target),
    ("ept", ept::target),
    ("board", board::target),
    ("loaders", loaders::target),
    ("fw_cfg", fw_cfg::target),
    ("acpi", acpi::target),
];

/// Whether an input is run twice, to see that the same bytes give the same digest: one in sixteen is.
fn twice(data: &[u8]) -> bool {
    data.iter().fold(0u8, |sum, byte| sum.rotate_left(3) ^ byte).is_multiple_of(16)
}

/// Runs an input, and some inputs again.
fn same_again(data: &[u8], mut run: impl FnMut() -> u64) {
    let digest = run();
    if twice(data) {
        assert_eq!(run(), digest, "the same bytes give another digest");
    }
}
