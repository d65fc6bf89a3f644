//! A store holds each content once, gives back what was put there or says what is wrong, and many may write at once.

use hv_defs::config::{Config, Guest, ImageKind};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use traces::{Hash, Header, Image, Object, Reader, Store, StoreError, Writer};

/// A folder that is gone when this is dropped, and a store in it.
fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path().join("store")).expect("a store");
    (folder, store)
}

/// Bytes without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn what_is_put_is_got() {
    let (_folder, store) = store();
    let check = |bytes: &[u8], compressed: bool| {
        let hash = store.put(bytes).expect("put");
        assert_eq!(hash, Hash::of(bytes));
        assert_eq!(store.get(hash).expect("got"), bytes);
        assert!(store.has(hash).expect("looked for"));
        let listed = store.list().expect("listed");
        let Some(Object { stored, .. }) = listed.iter().find(|object| object.hash == hash) else {
            panic!("{hash} is not among {listed:?}");
        };
        assert_eq!(listed.iter().find(|object| object.hash == hash).map(|object| object.compressed), Some(compressed));
        assert!(*stored <= bytes.len() as u64, "{stored} bytes for {}", bytes.len());
    };
    check(b"", false);
    check(b"x", false);
    check(&noise(100_000), false);
    check(&vec![7; 100_000], true);
    // Denser than what a small file may ask for.
    check(&vec![0; 40 << 20], false);
    assert_eq!(store.list().expect("listed").len(), 5);
    let name = Hash::of(b"abc").to_string();
    assert_eq!(name, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn the_same_bytes_are_there_once_and_are_not_written_again() {
    let (folder, store) = store();
    let bytes = noise(5000);
    store.put(&bytes).expect("put");
    let first = files(folder.path());
    assert_eq!(first.len(), 1);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("there"));
    let before = inode(&first[0]);
    store.put(&bytes).expect("put");
    assert_eq!((files(folder.path()), inode(&first[0])), (first, before));
}

#[test]
fn many_write_at_once() {
    let (folder, store) = store();
    let pieces: Vec<Vec<u8>> = (0..8_u8).map(|number| [&[number][..], &noise(20_000)].concat()).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, pieces) = (&store, &pieces);
            scope.spawn(move || {
                for at in 0..8 {
                    let piece = &pieces[(at + thread) % 8];
                    let hash = store.put(piece).expect("put");
                    assert_eq!(&store.get(hash).expect("got"), piece);
                }
            });
        }
    });
    assert_eq!(store.list().expect("listed").len(), 8);
    assert_eq!(files(folder.path()).len(), 8, "nothing is left unfinished");
}

#[test]
fn damage_is_named_and_mended_by_who_has_the_bytes() {
    let (folder, store) = store();
    for bytes in [noise(3000), vec![1; 3000]] {
        let hash = store.put(&bytes).expect("put");
        let file = files(folder.path()).into_iter().find(|file| {
            let name = file.to_string_lossy();
            name.contains(&hash.to_string()[2..])
        });
        let file = file.expect("its file");
        let whole = fs::read(&file).expect("read");
        let check = |damaged: &[u8]| {
            fs::write(&file, damaged).expect("written");
            let error = store.get(hash).expect_err("damage is noticed");
            assert!(matches!(&error, StoreError::Damaged { hash: named, .. } if *named == hash), "{error}");
            assert!(error.to_string().contains(&hash.to_string()), "{error}");
            assert_eq!(store.put(&bytes).expect("put again"), hash);
            assert_eq!(store.get(hash).expect("mended"), bytes);
        };
        check(b"");
        check(&whole[..whole.len() / 2]);
        check(&[&whole[..], b"more"].concat());
        check(b"something else");
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        check(&flipped);
    }
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let (folder, store) = store();
    let hash = store.put(&vec![1; 3000]).expect("put");
    let file = files(folder.path()).remove(0);
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 1).expect("compressed");
    assert!(bomb.len() < 64 << 10);
    fs::write(file, bomb).expect("written");
    let error = store.get(hash).expect_err("refused").to_string();
    assert!(error.contains("decompress to more than"), "{error}");
}

#[test]
fn what_is_not_there() {
    let (folder, store) = store();
    let hash = Hash::of(b"nobody put this");
    assert!(matches!(store.get(hash), Err(StoreError::Missing { hash: named, .. }) if named == hash));
    assert!(!store.has(hash).expect("looked for"));
    assert!(store.list().expect("listed").is_empty());
    assert!(matches!(Store::open(folder.path().join("none")), Err(StoreError::Open { .. })));
    let file = folder.path().join("file");
    fs::write(&file, "no folder").expect("written");
    assert!(matches!(Store::open(&file), Err(StoreError::Open { .. })));
    assert!(matches!(Store::create(&file), Err(StoreError::Open { .. })));
}

#[test]
fn garbage_is_collected_and_nothing_else() {
    let (folder, store) = store();
    let [kept, dropped, young] = [b"kept", b"drop", b"new."].map(|bytes| store.put(bytes).expect("put"));
    let hour = Duration::from_secs(3600);
    let file = |hash: Hash| {
        let digits = hash.to_string();
        folder.path().join("store/sha256").join(&digits[..2]).join(&digits[2..])
    };
    let age = |path: &Path, age: Duration| {
        let file = fs::File::open(path).expect("opened");
        file.set_modified(SystemTime::now() - age).expect("its owner may");
    };
    age(&file(kept), 5 * hour);
    age(&file(dropped), 5 * hour);
    let (unfinished, busy) = (folder.path().join("store/tmp/1-1"), folder.path().join("store/tmp/2-2"));
    for path in [&unfinished, &busy] {
        fs::write(path, "half an obj").expect("written");
    }
    age(&unfinished, 48 * hour);
    // Not an object.
    fs::write(folder.path().join("store/sha256/note"), "a note").expect("written");

    let needed = BTreeSet::from([kept]);
    let dry = store.collect(&needed, hour, true).expect("looked through");
    assert_eq!(store.list().expect("listed").len(), 3);
    let collected = store.collect(&needed, hour, false).expect("collected");
    assert_eq!(dry, collected);
    assert_eq!((collected.needed, collected.young), (1, 1));
    assert_eq!(collected.removed.iter().map(|object| object.hash).collect::<Vec<_>>(), [dropped]);
    assert!(store.get(kept).is_ok() && store.get(young).is_ok() && store.get(dropped).is_err());
    assert!(!unfinished.exists() && busy.exists());
    // What is asked for again is young again.
    age(&file(young), 5 * hour);
    store.put(b"new.").expect("put");
    assert_eq!(store.collect(&needed, hour, false).expect("collected").young, 1);
    assert_eq!(store.collect(&BTreeSet::new(), Duration::ZERO, false).expect("collected").removed.len(), 2);
}

fn header(images: Vec<Image>) -> Header {
    Header::new(Config::new(Guest::Kernel { name: "vmlinuz".into(), append: String::new() }), images)
}

fn written(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::create(&mut bytes, header).expect("begun").finish().expect("a vector takes all");
    bytes
}

#[test]
fn an_image_elsewhere_is_found_in_the_store() {
    let (_folder, store) = store();
    let (kernel, initrd) = (noise(3000), vec![5; 70_000]);
    let mut images = vec![
        Image::new(ImageKind::Kernel, "vmlinuz", kernel.clone()),
        Image::new(ImageKind::Initrd, "initrd", initrd.clone()),
    ];
    store.put_image(&mut images[1]).expect("put");
    assert!(images[1].elsewhere && images[1].bytes.is_some());
    let bytes = written(&header(images.clone()));
    assert!(bytes.len() > kernel.len() && bytes.len() < kernel.len() + 1500, "{} bytes", bytes.len());

    let mut reader = Reader::from_bytes(bytes.clone()).expect("a trace");
    assert!(reader.header().images[1].bytes.is_none());
    let error = reader.find_images(None).expect_err("there is no store").to_string();
    for word in ["initrd", &Hash::of(&initrd).to_string(), "not in the trace"] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
    reader.find_images(Some(&store)).expect("found");
    assert_eq!(reader.header().images, images);
    // Without the initrd in the store, all else can be read.
    store.collect(&BTreeSet::new(), Duration::ZERO, false).expect("collected");
    let mut reader = Reader::from_bytes(bytes).expect("a trace");
    let error = reader.find_images(Some(&store)).expect_err("it is not there").to_string();
    for word in ["initrd", &Hash::of(&initrd).to_string(), "not in the trace", "has no object"] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
    assert!(reader.header().images[0].bytes.is_some());
}

#[test]
fn the_same_image_twice_is_in_the_trace_once() {
    let bytes = noise(20_000);
    let twice = |second: &[u8]| {
        let images =
            vec![Image::new(ImageKind::Kernel, "a", bytes.clone()), Image::new(ImageKind::Initrd, "b", second)];
        let header = header(images);
        let written = written(&header);
        assert_eq!(Reader::from_bytes(written.clone()).expect("a trace").header(), &header);
        written.len()
    };
    assert!(twice(&bytes) < 22_000);
    let other: Vec<u8> = bytes.iter().rev().copied().collect();
    assert!(twice(&other) > 40_000);
}

#[test]
fn an_image_larger_than_a_block_is_in_the_trace() {
    // What is compressed, what is too dense to be, and what is not worth it.
    let noise = noise(36 << 20);
    let half = noise[..20 << 20].chunks(2048).flat_map(|chunk| [chunk, &[0; 2048]].concat()).collect();
    for (bytes, most) in [(&half, 24 << 20), (&vec![0; 40 << 20], 41 << 20), (&noise, 37 << 20)] {
        let header = header(vec![Image::new(ImageKind::Initrd, "large", bytes.clone())]);
        let trace = written(&header);
        assert!(trace.len() < most, "{} bytes of {}", trace.len(), bytes.len());
        assert_eq!(written(&header), trace);
        let reader = Reader::from_bytes(trace).expect("a trace");
        assert!(*reader.header() == header && !reader.truncated());
    }
}
