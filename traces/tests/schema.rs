//! The committed code of the schema is what the schema generates. Where the `capnp` tool is missing, this says so and
//! checks nothing: no build and no user needs the tool. `BLESS=1` rewrites the committed code.

use std::path::Path;
use std::process::Command;

#[test]
fn committed_code_is_what_the_schema_generates() {
    if Command::new("capnp").arg("--version").output().is_err() {
        eprintln!("SKIPPED: the `capnp` tool is not installed, so the generated code was not compared to its schema");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a temporary directory");
    capnpc::CompilerCommand::new()
        .src_prefix(root.join("schema"))
        .file(root.join("schema/trace.capnp"))
        .output_path(out.path())
        .run()
        .expect("capnp compiles the schema");
    let generated = std::fs::read_to_string(out.path().join("trace_capnp.rs")).expect("generated code");
    let committed = root.join("src/trace_capnp.rs");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&committed, &generated).expect("the committed code can be written");
    }
    let committed = std::fs::read_to_string(committed).expect("committed code");
    // The line that names the tool's version may differ.
    let lines = |code: &str| -> Vec<String> {
        code.lines().filter(|line| !line.starts_with("// capnp binary version")).map(str::to_owned).collect()
    };
    assert!(lines(&committed) == lines(&generated), "traces/src/trace_capnp.rs is stale: run this test with BLESS=1");
}
