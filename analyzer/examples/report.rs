//! Prints a report: `report text|md|html|json|csv TRACE...`, or the answer to a query: `report sql TRACE SQL`.

use analyzer::{Findings, Format, Tables, findings, query, report};
use std::error::Error;
use std::path::Path;
use traces::Reader;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, traces @ ..] = &args[..] else { return Err("report FORMAT TRACE...".into()) };
    if let ("sql", [trace, sql]) = (format.as_str(), traces) {
        let reader = Reader::open(trace)?;
        print!("{}", query::print(&query(&Tables::read(reader), sql)?, Format::Table));
        return Ok(());
    }
    let one = |path: &String| -> Result<Findings, Box<dyn Error>> {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(findings(&name, (&Reader::open(path)?).into())?)
    };
    let found = traces.iter().map(one).collect::<Result<Vec<Findings>, _>>()?;
    print!(
        "{}",
        match format.as_str() {
            "text" => report::text(&found, false),
            "md" => report::markdown(&found),
            "html" => report::html(&found),
            "json" => report::json(&found),
            "csv" => report::csv(&found),
            other => return Err(format!("no format '{other}'").into()),
        }
    );
    Ok(())
}
