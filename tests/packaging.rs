//! What Cargo.toml promises of the package: the Rust that it needs, that it builds without what is of Linux alone, and
//! that what goes into the Debian package is there.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// cargo, in this workspace, asked for nothing that is not on the disk already. Its output.
fn cargo(words: &[&str]) -> Vec<u8> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {errors}", words.join(" "));
    output.stdout
}

/// What cargo knows of all packages that a build on this system takes.
fn metadata() -> Value {
    // Packages of other systems need not be on the disk.
    let words = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"];
    let output = cargo(&[&words[..], &["x86_64-unknown-linux-gnu"]].concat());
    serde_json::from_slice(&output).expect("cargo metadata is JSON")
}

/// `1.88` and `1.88.0` as numbers that can be compared.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().expect("a number"));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[test]
fn no_dependency_needs_a_newer_rust_than_is_promised() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let mut stated = 0;
    for package in packages {
        let Some(needed) = package["rust_version"].as_str() else { continue };
        stated += 1;
        assert!(version(needed) <= ours, "{} {} needs Rust {needed}", package["name"], package["version"]);
    }
    // A list without what it is about would please this test.
    assert!(stated > 100, "{stated} packages say which Rust they need");
}

/// macOS and the BSDs have no KVM. On Linux, the same source can be checked without it.
#[test]
fn it_builds_without_what_is_of_linux_alone() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("portable");
    let folder = folder.to_str().expect("a path in UTF-8");
    let words = ["check", "--locked", "--no-default-features", "--package", "nvmx", "--target-dir", folder];
    cargo(&words);
    let tree = ["tree", "--locked", "--offline", "--no-default-features", "--package", "nvmx", "--edges", "normal"];
    let tree = cargo(&[&tree[..], &["--prefix", "none", "--format", "{p}"]].concat());
    let tree = String::from_utf8(tree).expect("names");
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(has("recorder") && has("iced-x86"), "{tree}");
    for linux in ["hv-kvm", "kvm-ioctls", "kvm-bindings", "perf-event2", "polars"] {
        assert!(!has(linux), "{linux} is in a build without default features");
    }
}

#[test]
fn what_the_debian_package_takes_is_there() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let nvmx = packages.iter().find(|package| package["name"] == "nvmx").expect("nvmx");
    let assets = nvmx["metadata"]["deb"]["assets"].as_array().expect("assets");
    let script =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/package")).expect(".ci/package");
    for asset in assets {
        let from = asset[0].as_str().expect("a path");
        if let Some(made) = from.strip_prefix("target/package/") {
            let name = made.trim_end_matches("/*.1");
            assert!(script.contains(&format!("$made/{name}")), "{name} is not made by .ci/package");
        } else if from != "target/release/nvmx" {
            let path = from.trim_end_matches("/**/*");
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path} is not there");
        }
    }
    assert!(assets.len() > 5, "{assets:?}");
}
