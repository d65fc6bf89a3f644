//! Which of the kernel's functions that flush can be probed here.

use crate::foreign::TRACEFS;
use crate::tracepoints::flush;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The functions to probe, by name; or why none can be.
pub(super) fn functions() -> Result<Vec<String>, String> {
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        return Err("this kernel has no kprobes".into());
    }
    let listed =
        TRACEFS.iter().find_map(|place| fs::read_to_string(format!("{place}/available_filter_functions")).ok());
    // Without ftrace of functions, the symbols tell; not all of them can be probed, and the kernel refuses those.
    let listed = listed.filter(|text| !text.is_empty()).or_else(|| fs::read_to_string("/proc/kallsyms").ok());
    let found = chosen(&listed.unwrap_or_default());
    if found.is_empty() { Err("this kernel shows none of its functions that flush".into()) } else { Ok(found) }
}

/// The functions of a list, of `available_filter_functions` or `kallsyms`, that say something of flushes.
fn chosen(text: &str) -> Vec<String> {
    let known: BTreeSet<_> = flush::functions().collect();
    // `vmx_flush_tlb_all [kvm_intel]`, or `ffffffffc0a1b2c0 t vmx_flush_tlb_all\t[kvm_intel]`.
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (first, second, third) = (words.next()?, words.next(), words.next());
        let name = match (second, third) {
            (Some("t" | "T" | "w" | "W"), Some(name)) => name,
            (Some(kind), Some(_)) if kind.len() == 1 => return None,
            _ => first,
        };
        known.contains(name.split('.').next().unwrap_or(name)).then(|| name.to_owned())
    };
    text.lines().filter_map(of).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_both_lists() {
        let check = |text, want: &[&str]| assert_eq!(chosen(text), want, "{text}");
        check("", &[]);
        check(
            "do_exit\nvmx_flush_tlb_all [kvm_intel]\nkvm_flush_remote_tlbs [kvm]\n",
            &["kvm_flush_remote_tlbs", "vmx_flush_tlb_all"],
        );
        check(
            "ffffffffc0a1b2c0 t vmx_flush_tlb_gva\t[kvm_intel]\nffffffffc0a1b2c0 d vmx_flush_tlb_all\t[kvm_intel]",
            &["vmx_flush_tlb_gva"],
        );
        check("nested_vmx_transition_tlb_flush.isra.0 [kvm_intel]", &["nested_vmx_transition_tlb_flush.isra.0"]);
        check("__pfx_vmx_flush_tlb_all [kvm_intel]", &[]);
    }
}
