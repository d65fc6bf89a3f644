//! Makes the README's figures out of `benches/figures.json`:
//!
//!     cargo run --release --example figures -- [FILE...]
//!
//! Each FILE is what `nvmx bench --json` or hv's example `policies --json` printed; what it holds takes the place of the same
//! in `benches/figures.json`. `just figures DIR` does all of it.

mod section;

use section::{BEGIN, END, section};
use serde_json::Value;
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kept, readme) = (root.join("benches/figures.json"), root.join("README.md"));
    let mut figures = match fs::read_to_string(&kept) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Value::Object(serde_json::Map::new()),
    };
    for file in std::env::args().skip(1) {
        let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let of_file: Value = serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        let (Value::Object(figures), Value::Object(of_file)) = (&mut figures, of_file) else {
            return Err(format!("{file} is no object").into());
        };
        figures.extend(of_file);
    }
    let text = fs::read_to_string(&readme)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("README.md has no marker where its figures begin")?;
    let (_, after) = rest.split_once(END).ok_or("README.md has no marker where its figures end")?;
    let made = section(&figures);
    fs::write(&kept, format!("{figures:#}\n"))?;
    fs::write(&readme, format!("{before}{BEGIN}\n{made}{END}{after}"))?;
    Ok(())
}
