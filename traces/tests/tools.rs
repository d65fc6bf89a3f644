//! The recipe of docs/format.md does what it says: other people's tools read a block. Where one of them is missing, this
//! says so and checks nothing.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn plain_tools_decode_a_block() {
    for tool in ["python3", "zstd", "capnp"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            eprintln!("SKIPPED: `{tool}` is not installed, so the recipe of docs/format.md was not tried");
            return;
        }
    }
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_root.parent().expect("the workspace");
    let page = std::fs::read_to_string(root.join("docs/format.md")).expect("docs/format.md");
    let recipe = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a recipe");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe.replace("traces/schema", &crate_root.join("schema").to_string_lossy());
    std::fs::copy(crate_root.join("golden/v1.nvmx"), dir.path().join("trace.nvmx")).expect("copied");
    let output =
        Command::new("bash").args(["-euo", "pipefail", "-c", &recipe]).current_dir(&dir).output().expect("run");
    let (text, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The first 21 events of the golden trace: 3 exits, 2 entries, 13 VMCS accesses, 3 flushes.
    for part in [
        "first = 0, events = 21,",
        "order = ( name = \"order\", coding = plain, u8 = [0, 0, 0, 1, 1, 2,",
        "name = \"exit\", rows = 3,",
        "name = \"entry\", rows = 2,",
        "name = \"vmcs\", rows = 13,",
        "name = \"flush\", rows = 3,",
        "(name = \"level\", coding = plain, u8 = [2, 2, 1])",
        "texts = [\"guest-rip\"]",
    ] {
        assert!(flat.contains(part), "{part} is not in:\n{text}");
    }
}
