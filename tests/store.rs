//! Images in a store: recorded there, found there, and said to be missing or damaged where they are.

mod common;

use common::{Ran, command, finish, folder, kernel, nvmx, word};
use std::fs;
use std::path::{Path, PathBuf};

/// Runs `words` and wants that status and one line on stderr with all of `says` in it.
#[track_caller]
fn check(words: &[&str], status: i32, says: &[&str]) {
    nvmx(words).expect(status).one_line(says);
}

/// A kernel that leaves at once, after some bytes that nobody reads and that do not compress.
fn image(folder: &Path) -> PathBuf {
    let image = folder.join("image");
    let mut code = vec![0x31, 0xc0, 0xe6, 0xf4];
    let mut state = 1_u64;
    code.extend((0..50_000).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as u8
    }));
    fs::write(&image, kernel(&code)).unwrap();
    image
}

/// Records the image.
fn record(image: &Path, trace: &Path, more: &[&str]) {
    let words = ["record", "-q", "--kernel", word(image), "--mem", "16M", "-o", word(trace)];
    nvmx(&[&words[..], more].concat()).expect(0);
}

/// Runs `nvmx` with these words and a store in its environment.
fn with_variable(store: &Path, words: &[&str]) -> Ran {
    finish(command().env("NVMX_STORE", store).args(words))
}

/// The lines of `nvmx store list`.
fn listed(store: &Path) -> Vec<String> {
    nvmx(&["store", "list", "-q", "--store", word(store)]).expect(0).out.lines().map(str::to_owned).collect()
}

#[test]
fn a_trace_finds_its_images_in_a_store() {
    let folder = folder("store-found");
    let (image, store, trace) = (image(&folder), folder.join("store"), folder.join("t.nvmx"));
    let store = word(&store);
    let inside = folder.join("inside.nvmx");
    record(&image, &inside, &[]);
    record(&image, &trace, &["--store", store]);
    assert!(fs::metadata(&inside).unwrap().len() > 50_000 && fs::metadata(&trace).unwrap().len() < 10_000);
    // Another trace of it, told by the variable, shares what is there.
    let objects = listed(Path::new(store));
    assert_eq!(objects.len(), 1);
    let again = folder.join("again.nvmx");
    let words = ["record", "-q", "--kernel", word(&image), "--mem", "16M", "-o", word(&again)];
    with_variable(Path::new(store), &words).expect(0);
    assert_eq!(listed(Path::new(store)), objects);
    assert!(fs::read(&trace).unwrap() == fs::read(&again).unwrap(), "equal runs give equal bytes");
    nvmx(&["diff", word(&inside), word(&trace)]).expect(0);

    let hash = objects[0].split(' ').next().unwrap();
    let whole = nvmx(&["replay", word(&inside)]).expect(0).out;
    assert_eq!(nvmx(&["replay", word(&trace), "--store", store]).expect(0).out, whole);
    assert_eq!(with_variable(Path::new(store), &["replay", word(&trace)]).expect(0).out, whole);
    check(&["replay", word(&trace)], 2, &["cannot replay", "kernel 'image'", hash, "--store", "NVMX_STORE"]);
    let other = folder.join("other");
    fs::create_dir(&other).unwrap();
    check(&["replay", word(&trace), "--store", word(&other)], 2, &["kernel 'image'", hash, word(&other), "--store"]);
    check(&["replay", word(&trace), "--store", "/nowhere"], 2, &["cannot open the store /nowhere", "--store"]);
    // A trace that needs no store does not ask for one.
    with_variable(Path::new("/nowhere"), &["replay", word(&inside)]).expect(0);
    for command in ["dump", "query", "report", "info", "verify"] {
        nvmx(&[command, word(&trace)]).expect(0);
    }

    let place = |words: &[&str]| {
        let info = nvmx(&[&["info", word(&trace)], words].concat()).expect(0).out;
        let json = nvmx(&[&["info", "--json", word(&trace)], words].concat()).expect(0).json();
        assert_eq!(
            (&json["images"][0]["sha256"], &json["images"][0]["bytes"]),
            (&hash.into(), &serde_json::Value::Null)
        );
        (info, json["images"][0]["where"].as_str().unwrap().to_owned())
    };
    let check = |words: &[&str], says: &str, is: &str| {
        let (info, json) = place(words);
        assert!(info.contains(says) && json == is, "{info}{json}");
    };
    check(&["--store", store], &format!("image, in the store {store}, sha256 {hash}"), "store");
    check(&["--store", word(&other)], "neither in the trace nor in the store", "elsewhere");
    check(&[], "image, not in the trace, sha256", "elsewhere");
    let json = nvmx(&["info", "--json", word(&inside)]).expect(0).json();
    assert_eq!(json["images"][0]["where"], "trace");
}

#[test]
fn verify_looks_into_the_store() {
    let folder = folder("store-verify");
    let (image, store, trace) = (image(&folder), folder.join("store"), folder.join("t.nvmx"));
    record(&image, &trace, &["--store", word(&store)]);
    let hash = listed(&store)[0].split(' ').next().unwrap().to_owned();
    let verify = |words: &[&str]| nvmx(&[&["verify", word(&trace)], words].concat());
    let said = verify(&["--store", word(&store)]).expect(0).out;
    assert!(said.contains("1 image whole in the store"), "{said}");
    let said = verify(&[]).expect(0).out;
    assert!(said.contains("1 image elsewhere, not looked for"), "{said}");
    let object = store.join("sha256").join(&hash[..2]).join(&hash[2..]);
    let mut bytes = fs::read(&object).unwrap();
    bytes[30_000] ^= 1;
    fs::write(&object, bytes).unwrap();
    let said = verify(&["--store", word(&store)]).expect(1);
    said.one_line(&["kernel 'image'", &hash, "damaged"]);
    assert!(said.out.starts_with("without its images: whole are"), "{}", said.out);
    check(&["replay", word(&trace), "--store", word(&store)], 2, &["kernel 'image'", &hash, "damaged"]);
    // To record with it again mends it.
    record(&image, &folder.join("again.nvmx"), &["--store", word(&store)]);
    verify(&["--store", word(&store)]).expect(0);
    fs::remove_file(&object).unwrap();
    verify(&["--store", word(&store)]).expect(1).one_line(&["kernel 'image'", &hash, "has no object"]);
}

#[test]
fn what_no_trace_needs_is_removed() {
    let folder = folder("store-gc");
    let (first, store, traces) = (image(&folder), folder.join("store"), folder.join("traces"));
    fs::create_dir_all(traces.join("deep")).unwrap();
    let second = folder.join("second");
    fs::write(&second, kernel(&[0x31, 0xc0, 0xe6, 0xf4])).unwrap();
    let (kept, dropped) = (traces.join("deep/kept.nvmx"), folder.join("dropped.nvmx"));
    record(&first, &kept, &["--store", word(&store)]);
    record(&second, &dropped, &["--store", word(&store)]);
    assert_eq!(listed(&store).len(), 2);
    let gc = |words: &[&str], says: &str| {
        let said = nvmx(&[&["store", "gc", "--store", word(&store)], words].concat()).expect(0).out;
        assert!(said.contains(says), "'{says}' is not in: {said}");
    };
    gc(&[word(&traces)], "removed 0 objects, 0 B; needed 1; too young 1");
    gc(&[word(&traces), word(&dropped), "--young", "0"], "removed 0 objects, 0 B; needed 2; too young 0");
    gc(&[word(&traces), "--young", "0", "-n"], "would remove 1 object, 36 B; needed 1");
    assert_eq!(listed(&store).len(), 2);
    // A trace that cannot be read may need anything.
    let broken = traces.join("broken.nvmx");
    fs::write(&broken, "no trace").unwrap();
    let words = ["store", "gc", "--store", word(&store), word(&traces), "--young", "0"];
    check(&words, 2, &["broken.nvmx", "nothing is removed"]);
    assert_eq!(listed(&store).len(), 2);
    fs::remove_file(broken).unwrap();
    gc(&[word(&traces), "--young", "0"], "removed 1 object, 36 B; needed 1");
    assert_eq!(listed(&store).len(), 1);
    nvmx(&["replay", word(&kept), "--store", word(&store)]).expect(0);
    nvmx(&["replay", word(&dropped), "--store", word(&store)]).expect(2);
}

#[test]
fn stores_that_are_none() {
    let folder = folder("store-none");
    let image = image(&folder);
    check(&["store", "list"], 2, &["none is named", "--store"]);
    check(&["store", "list", "--store", "/nowhere"], 2, &["/nowhere", "No such file"]);
    check(&["store", "gc", "--store", word(&folder)], 2, &["TRACE"]);
    let trace = folder.join("t.nvmx");
    let words = ["record", "--kernel", word(&image), "--mem", "16M", "-o", word(&trace), "--store"];
    check(&[&words[..], &["/dev/null/store"]].concat(), 2, &["cannot keep the images", "/dev/null/store"]);
    check(&[&words[..], &[word(&image)]].concat(), 2, &["cannot keep the images", word(&image)]);
    assert!(!trace.exists());
}
