//! `nvmx info` without a trace: what this host can do.

use super::fail::{Result, Status};
use super::print::{Print, list};
use hv::cpu::{NOT_LEFT_TO_KVM, NOT_OFFERED};
use recorder::attach::{Attach, Options, Who};
use recorder::{About, about};
use serde_json::json;
use std::io::Write;

/// Says what this host's KVM is to `--backend kvm`, and what `nvmx attach` would see of it.
pub fn info(as_json: bool, print: &Print) -> Result<Status> {
    let kvm = about().map_err(|error| error.to_string());
    // Asked by doing it: nothing else knows what the kernel lets us.
    let attach = Attach::open(Options::of(Who::Host)).map(|attach| attach.notes().to_vec()).map_err(|error| {
        let hint = error.hint();
        format!("{error}; {hint}")
    });
    let mut out = print.out();
    if as_json {
        let object = json!({
            "kvm": kvm.as_ref().ok().map(|kvm| json!({
                "api": kvm.api,
                "module": kvm.module,
                "nested": kvm.nested,
                "l0": l0(kvm),
                "not_offered": if kvm.nested { &[][..] } else { &NOT_OFFERED[..] },
            })),
            "kvm_error": kvm.as_ref().err(),
            "attach": attach.is_ok(),
            "attach_notes": attach.as_ref().ok(),
            "attach_error": attach.as_ref().err(),
        });
        writeln!(out, "{object:#}")?;
        out.flush()?;
        return Ok(Status::Done);
    }
    match &kvm {
        Ok(kvm) => {
            writeln!(out, "kvm           /dev/kvm, API {}, {}", kvm.api, kvm.module.unwrap_or("its module unknown"))?;
            writeln!(
                out,
                "nested VMX    {}",
                if kvm.nested { "its guests may be hypervisors" } else { "none for its guests" }
            )?;
            writeln!(out, "L0            with --backend kvm, {}", l0_in_words(kvm))?;
            if !kvm.nested {
                list(&mut out, "not offered   ", &NOT_OFFERED)?;
                list(&mut out, "in software   ", &NOT_LEFT_TO_KVM)?;
            }
        }
        Err(why) => writeln!(out, "kvm           none: {why}")?,
    }
    match &attach {
        Ok(notes) => {
            writeln!(out, "attach        KVM's tracepoints can be recorded")?;
            let notes: Vec<_> = notes.iter().map(String::as_str).collect();
            list(&mut out, "              ", &notes)?;
        }
        Err(why) => writeln!(out, "attach        not here: {why}")?,
    }
    out.flush()?;
    Ok(Status::Done)
}

/// Who is L0 with `--backend kvm`, in a word.
fn l0(kvm: &About) -> &'static str {
    if kvm.nested { "kernel" } else { "nvmx" }
}

fn l0_in_words(kvm: &About) -> &'static str {
    match kvm.nested {
        true => "the kernel, and nvmx records it; with --log l0 too, nvmx's own",
        false => "nvmx's own, with KVM as its CPU",
    }
}
