//! Kernels of a few instructions, as files that the machine boots.

use hv::machine::Image;
use hv_defs::config::ImageKind;

/// Where the code lies and starts.
pub(crate) const AT: u64 = 0x10_0000;

/// A 64-bit ELF of code that was assembled for [`AT`].
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    for word in [AT, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    image.extend(7u32.to_le_bytes());
    for word in [0x1000, AT, AT, code.len() as u64, code.len() as u64, 0x1000] {
        image.extend(word.to_le_bytes());
    }
    image.resize(0x1000, 0);
    image.extend(code);
    image
}

/// A kernel to boot from.
pub(crate) fn kernel(bytes: Vec<u8>) -> Vec<Image> {
    vec![Image { kind: ImageKind::Kernel, name: "kernel".to_owned(), bytes: bytes.into() }]
}
