//! The inspector by itself: `cargo run -p tui --example inspect -- FILE`.

fn main() {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: inspect FILE");
        std::process::exit(2);
    };
    if let Err(error) = tui::run(path.as_ref()) {
        eprintln!("inspect: {error}");
        std::process::exit(2);
    }
}
