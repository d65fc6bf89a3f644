//! `nvmx guests`.

use super::fail::{Result, Status};
use super::print::Print;
use std::io::Write;

/// `nvmx guests`.
pub fn guests(print: &Print) -> Result<Status> {
    let mut out = print.out();
    let width = hv::guests::list().iter().map(|guest| guest.name.len()).max().unwrap_or(0);
    for guest in hv::guests::list() {
        writeln!(out, "{:<width$}  {}", guest.name, guest.about)?;
    }
    out.flush()?;
    Ok(Status::Done)
}
