//! Images in a trace are read when they are asked for.

use hv_defs::config::{Config, Guest, ImageKind};
use traces::{Error, Header, Image, ImageBytes, Reader, Writer};

fn image(kind: ImageKind, name: &str, bytes: Vec<u8>) -> Image {
    Image::new(kind, name, bytes)
}

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn written(images: &[Image]) -> Vec<u8> {
    let guest = Guest::Kernel { name: "vmlinuz".into(), append: "quiet".into() };
    let mut bytes = Vec::new();
    let header = Header::new(Config::new(guest), images.to_vec());
    Writer::create(&mut bytes, &header).expect("begun").finish().expect("a vector takes all");
    bytes
}

#[track_caller]
fn check(images: &[Image]) {
    let reader = Reader::from_bytes(written(images)).expect("a trace");
    let found = &reader.header().images;
    let lengths =
        |images: &[Image]| -> Vec<_> { images.iter().map(|image| image.bytes.as_ref().map(ImageBytes::len)).collect() };
    assert_eq!(lengths(found), lengths(images));
    assert_eq!(found, images);
    traces::check(&reader).expect("it is whole");
}

#[test]
fn images_come_back_when_they_are_asked_for() {
    let large = || image(ImageKind::Kernel, "large", noise(3 << 20));
    let zeros = || image(ImageKind::Initrd, "zeros", vec![0; 1 << 19]);
    check(&[]);
    check(&[image(ImageKind::Kernel, "small", noise(100))]);
    check(&[large()]);
    check(&[large(), image(ImageKind::Initrd, "small", noise(100))]);
    check(&[image(ImageKind::Kernel, "small", noise(100)), large()]);
    check(&[large(), zeros()]);
    check(&[zeros(), large()]);
    // The same bytes are there once.
    check(&[large(), image(ImageKind::Initrd, "the same", noise(3 << 20))]);
}

#[test]
fn an_image_with_another_hash_is_met_by_who_asks_for_it() {
    for size in [100, 1 << 20] {
        let mut wrong = image(ImageKind::Initrd, "wrong", noise(size));
        wrong.hash[0] ^= 1;
        let bytes = written(&[image(ImageKind::Kernel, "right", noise(size + 1)), wrong]);
        let reader = Reader::from_bytes(bytes.clone()).expect("its header can be read");
        let images = &reader.header().images;
        assert_eq!(images[1].bytes.as_ref().map(ImageBytes::len), Some(size as u64));
        let expected = "the trace's header is damaged: image 'wrong' does not match its hash";
        let asked = images[1].bytes.as_ref().expect("it is there").get();
        assert_eq!(asked.map_err(|error| error.to_string()).err().as_deref(), Some(expected));
        assert_eq!(traces::check(&reader).map_err(|error| error.to_string()).err().as_deref(), Some(expected));
        let saved = traces::salvage_bytes(bytes, &mut Vec::new());
        assert!(matches!(saved, Err(Error::Header(_))), "{saved:?}");
    }
}

#[test]
fn a_bit_that_flips_in_an_image_is_met_at_once() {
    let mut bytes = written(&[image(ImageKind::Kernel, "large", noise(3 << 20))]);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let error = Reader::from_bytes(bytes).map(drop).map_err(|error| error.to_string());
    assert_eq!(error, Err("the trace's header is damaged: its bytes do not match their checksum".into()));
}
