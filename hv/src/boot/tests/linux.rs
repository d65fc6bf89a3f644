//! bzImages and zImages of every age of the boot protocol.

use super::*;

/// A bzImage of one setup sector behind the boot sector, and 0x400 bytes of kernel.
pub(super) struct Image {
    pub(super) version: u16,
    pub(super) high: bool,
    pub(super) flags: u16,
    pub(super) initrd_max: u32,
    pub(super) preferred: u64,
    pub(super) init_size: u32,
}

impl Default for Image {
    fn default() -> Self {
        let (version, flags) = (0x020f, 1);
        Self { version, high: true, flags, initrd_max: 0x7fff_ffff, preferred: 2 * MIB, init_size: 0x1_0000 }
    }
}

impl Image {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| image[at..][..bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1f4, &0x40u32.to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.high.into()]);
        put(0x22c, &self.initrd_max.to_le_bytes());
        put(0x230, &(2 * MIB as u32).to_le_bytes());
        put(0x234, &[1]);
        put(0x236, &self.flags.to_le_bytes());
        put(0x238, &2047u32.to_le_bytes());
        put(0x258, &self.preferred.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        image.extend([0xaa; 0x400]);
        image
    }
}

/// Where the kernel of this version lies, where and how it is entered, where its zero page is.
fn check(image: &Image, at: u64, entry: u64, long_mode: bool, zero_page: u64) {
    let bytes = image.bytes();
    let loaded = load(&kernel(&bytes)).expect("a kernel");
    assert_eq!(read(&loaded, at, 0x400), [0xaa; 0x400]);
    let start = &loaded.start;
    let mode = start.efer & 1 << 10 != 0;
    assert_eq!((start.rip, mode, start.gpr[6]), (entry, long_mode, zero_page), "{:#x}", image.version);
    let code = start.segments[1];
    assert_eq!((code.selector, start.segments[3].selector), (0x10, 0x18));
    // The GDT holds what the segment registers do.
    let descriptor = u64_in(&loaded, start.gdtr.0 + 0x10);
    assert_eq!((descriptor >> 53 & 1 != 0, descriptor >> 54 & 1 != 0), (long_mode, !long_mode));
    assert_eq!(read(&loaded, zero_page + 0x1fe, 6), [0x55, 0xaa, 0xeb, 0x66, b'H', b'd']);
    assert_eq!(read(&loaded, zero_page + 0x210, 1), [0xb0], "QEMU's number");
}

#[test]
fn kernels_lie_and_start_where_their_protocol_says() {
    let image = |version, flags| Image { version, flags, ..Image::default() };
    check(&image(0x020f, 1), 2 * MIB, 2 * MIB + 0x200, true, 0x7000);
    check(&image(0x020c, 3), 2 * MIB, 2 * MIB + 0x200, true, 0x7000);
    check(&image(0x020c, 0), 2 * MIB, 2 * MIB, false, 0x7000);
    check(&image(0x020a, 1), 2 * MIB, 2 * MIB, false, 0x7000);
    check(&image(0x0209, 1), MIB, MIB, false, 0x7000);
    check(&image(0x0202, 0), MIB, MIB, false, 0x7000);
    check(&image(0x0201, 0), MIB, MIB, false, 0x9_0000);
    check(&Image { high: false, ..image(0x0201, 0) }, 0x1000, 0x1000, false, 0x9_0000);
    check(&Image { high: false, ..image(0x0200, 0) }, 0x1000, 0x1000, false, 0x9_0000);
    check(&Image { preferred: 0, ..image(0x020f, 1) }, MIB, MIB + 0x200, true, 0x7000);
}

#[test]
fn the_command_line_is_where_the_protocol_has_it() {
    let line = |version: u16, append: &str| {
        let image = Image { version, ..Image::default() }.bytes();
        let loaded = load(&Kernel { append, ..kernel(&image) }).expect("a kernel");
        let zero_page = loaded.start.gpr[6];
        let at = if version >= 0x0202 {
            u64::from(u32_in(&loaded, zero_page + 0x228))
        } else {
            assert_eq!(read(&loaded, zero_page + 0x20, 2), [0x3f, 0xa3]);
            zero_page + u64::from(u32_in(&loaded, zero_page + 0x22) & 0xffff)
        };
        text_in(&loaded, at)
    };
    let long = "x".repeat(255);
    for version in [0x0200, 0x0201, 0x0202, 0x0205, 0x020f] {
        assert_eq!(line(version, "console=ttyS0"), "console=ttyS0");
        assert_eq!(line(version, &long), long);
    }
    let too_long = "x".repeat(256);
    let check = |version: u16, append: &str, says: &str| {
        check_refused(&Kernel { append, ..kernel(&Image { version, ..Image::default() }.bytes()) }, says);
    };
    check(0x0205, &too_long, "the command line has 256 bytes and the kernel takes 255");
    check(0x0201, &too_long, "takes 255");
    check(0x0206, &"x".repeat(2048), "takes 2047");
    assert_eq!(line(0x0206, &"x".repeat(2047)).len(), 2047);
}

#[test]
fn the_initrd_lies_as_high_as_it_may() {
    let check = |image: Image, memory: u64, expected: u64| {
        let bytes = image.bytes();
        let loaded = load(&Kernel { memory, initrd: Some(&[7; 5000]), ..kernel(&bytes) }).expect("a kernel");
        let zero_page = loaded.start.gpr[6];
        let (at, size) = (u32_in(&loaded, zero_page + 0x218), u32_in(&loaded, zero_page + 0x21c));
        assert_eq!((u64::from(at), size), (expected, 5000));
        assert_eq!(read(&loaded, at.into(), 5000), [7; 5000]);
    };
    let image = |version, flags, initrd_max| Image { version, flags, initrd_max, ..Image::default() };
    let below = |end: u64| (end - 5000) & !0xfff;
    check(image(0x020f, 1, 0x7fff_ffff), 64 * MIB, below(64 * MIB - 0x2_8001));
    check(image(0x020f, 1, 0x1ff_ffff), 64 * MIB, below(32 * MIB - 1));
    check(image(0x020f, 1, 0x37ff_ffff), 2 << 30, below(0x37ff_ffff));
    check(image(0x0202, 0, 0), 2 << 30, below(0x37ff_ffff));
    check(image(0x020f, 3, 0x37ff_ffff), 5 << 30, below((3 << 30) - 0x2_8001));
}

#[test]
fn the_zero_page_tells_of_memory() {
    let image = Image::default().bytes();
    let loaded = load(&Kernel { memory: 5 << 30, ..kernel(&image) }).expect("a kernel");
    assert_eq!(read(&loaded, 0x7000 + 0x1e8, 1), [7]);
    let row = |number: u64| (u64_in(&loaded, 0x72d0 + number * 20), u64_in(&loaded, 0x72d8 + number * 20));
    assert_eq!(row(3), (MIB, 0xbfee_0000));
    assert_eq!(row(6), (4 << 30, 2 << 30));
    assert_eq!(u32_in(&loaded, 0x71e0), 0xbfee_0000 >> 10);
}

#[test]
fn bzimages_that_are_refused() {
    let good = Image::default().bytes();
    check_refused(&kernel(&good[..0x206]), "the file ends within its setup header");
    check_refused(&kernel(&good[..1024]), "the file ends within its setup code");
    check_refused(&kernel(&good[..1024 + 0x3ff]), "the file ends within the kernel");
    check_refused(&kernel(&Image { version: 0x0107, ..Image::default() }.bytes()), "older than the first");
    check_refused(&kernel(&Image { init_size: u32::MAX, ..Image::default() }.bytes()), "the kernel needs 0x");
    check_refused(&kernel(&Image { preferred: u64::MAX - 1, ..Image::default() }.bytes()), "the kernel needs");
    let mut low = Image { high: false, version: 0x0201, ..Image::default() }.bytes();
    low.resize(0xa_0000, 0);
    check_refused(&kernel(&low), "too large for it");
    let big = vec![0; 62 * MIB as usize];
    check_refused(&Kernel { initrd: Some(&big), ..kernel(&good) }, "the initrd behind the kernel needs");
}
