//! What tracefs tells of KVM's tracepoints: which there are, and where their fields lie.

use super::{Error, calls};
use crate::foreign::{TRACEFS, Tracepoint};
use crate::tracepoints::Field;
use std::io;
use std::path::{Path, PathBuf};

/// The tracepoints that are recorded unless others are named: those that an event is made of, and those that say what a host
/// does with its guests. Which of them there are differs from kernel to kernel.
pub(super) const USUAL: &[&str] = &[
    "kvm_entry",
    "kvm_exit",
    "kvm_nested_vmenter",
    "kvm_nested_vmenter_failed",
    "kvm_nested_vmrun",
    "kvm_nested_vmexit",
    "kvm_nested_vmexit_inject",
    "kvm_nested_intercepts",
    "kvm_nested_intr_vmexit",
    "kvm_page_fault",
    "kvm_mmio",
    "kvm_fast_mmio",
    "kvm_pio",
    "kvm_msr",
    "kvm_cr",
    "kvm_cpuid",
    "kvm_inj_virq",
    "kvm_inj_exception",
    "kvm_hv_flush_tlb",
    "kvm_hv_flush_tlb_ex",
    "kvm_pv_tlb_flush",
    "kvm_invlpga",
    "kvm_hypercall",
    "kvm_userspace_exit",
    "kvm_vcpu_wakeup",
    "kvm_halt_poll_ns",
];

/// The tracepoints without which there is no trace.
const NEEDED: [&str; 2] = ["kvm_exit", "kvm_entry"];

/// Those that tell that a thread runs a vCPU.
const OF_VCPU: [&str; 5] = ["kvm_entry", "kvm_exit", "kvm_userspace_exit", "kvm_pio", "kvm_cpuid"];

/// How many fields of a record are taken.
pub(super) const FIELDS: usize = 8;

/// Where the fields of a tracepoint lie in its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Its name, without its system.
    pub(super) name: String,
    /// Its number in records.
    pub(super) id: u16,
    /// Whether none but a thread that runs a vCPU hits it.
    pub(super) of_vcpu: bool,
    /// The fields that are taken: offset and bytes.
    fields: Vec<(usize, usize)>,
    /// For each [`Field`], its place among them.
    places: [Option<u8>; Field::ALL.len()],
}

impl Layout {
    /// Of the text of a `format` file; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let tracepoint = Tracepoint::parse(text)?;
        let (mut fields, mut places) = (Vec::new(), [None; Field::ALL.len()]);
        for (field, place) in Field::ALL.iter().zip(&mut places) {
            let found =
                field.names().0.iter().find_map(|name| tracepoint.fields.iter().find(|field| field.name == *name));
            if let Some(found) = found.filter(|found| matches!(found.size, 1 | 2 | 4 | 8) && fields.len() < FIELDS) {
                *place = Some(fields.len() as u8);
                fields.push((found.offset, found.size));
            }
        }
        let of_vcpu = OF_VCPU.contains(&tracepoint.name.as_str());
        Some(Self { name: tracepoint.name, id: tracepoint.id, of_vcpu, fields, places })
    }

    /// A record of a function, which says nothing but that it ran.
    pub(super) fn of_function(name: &str) -> Self {
        Self { name: name.into(), id: 0, of_vcpu: false, fields: Vec::new(), places: [None; Field::ALL.len()] }
    }

    /// The values of a record; 0 where it is too short.
    pub(super) fn values(&self, record: &[u8]) -> [u64; FIELDS] {
        let mut values = [0; FIELDS];
        for ((offset, size), value) in self.fields.iter().zip(&mut values) {
            let Some(from) = record.get(*offset..*offset + *size) else { continue };
            let mut bytes = [0; 8];
            bytes[..*size].copy_from_slice(from);
            *value = u64::from_le_bytes(bytes);
        }
        values
    }

    /// A field out of these values.
    pub(super) fn field(&self, field: Field, values: &[u64; FIELDS]) -> Option<u64> {
        values.get(usize::from(self.places[field as usize]?)).copied()
    }
}

/// The folder of KVM's tracepoints, where tracefs is mounted if need be.
fn folder() -> Result<PathBuf, Error> {
    let found = || TRACEFS.iter().map(Path::new).find(|place| place.join("events").is_dir());
    let unreadable = || {
        let refused = |place: &&Path| {
            let read = std::fs::read_dir(place.join("events"));
            read.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        TRACEFS.iter().map(Path::new).any(|place| refused(&place))
    };
    let root = match found() {
        Some(root) => root,
        None if calls::is_root() => {
            calls::mount_tracefs().map_err(Error::NoTracefs)?;
            found().ok_or_else(|| Error::NoTracefs(io::ErrorKind::NotFound.into()))?
        }
        None if unreadable() => return Err(Error::TracefsHidden),
        None => return Err(Error::NoTracefs(io::ErrorKind::NotFound.into())),
    };
    match std::fs::read_dir(root.join("events")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Error::TracefsHidden),
        Err(error) => return Err(Error::NoTracefs(error)),
        Ok(_) => {}
    }
    let folder = root.join("events/kvm");
    if folder.is_dir() { Ok(folder) } else { Err(Error::NoKvm) }
}

/// The tracepoints to record, by the words of a command line: names with or without `kvm:`, `*` for any characters; none for
/// the usual ones.
pub(super) fn layouts(words: &[String]) -> Result<Vec<Layout>, Error> {
    let folder = folder()?;
    let mut there: Vec<String> = std::fs::read_dir(&folder)
        .map_err(Error::NoTracefs)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder.join(name).join("format").exists())
        .collect();
    there.sort_unstable();
    let wanted = chosen(words, &there)?;
    for needed in NEEDED {
        if !there.iter().any(|name| name == needed) {
            return Err(Error::OldKernel(format!("it has no tracepoint {needed}")));
        }
    }
    let read = |name: &String| {
        let file = folder.join(name).join("format");
        let text = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::TracefsHidden,
            _ => Error::NoTracefs(error),
        })?;
        Layout::parse(&text).ok_or_else(|| Error::OldKernel(format!("{} is not understood", file.display())))
    };
    wanted.iter().map(read).collect()
}

/// Those of the tracepoints that there are which the words name.
fn chosen(words: &[String], there: &[String]) -> Result<Vec<String>, Error> {
    let usual = || there.iter().filter(|name| USUAL.contains(&name.as_str())).cloned().collect();
    let mut wanted = Vec::new();
    for word in words {
        let name = word.strip_prefix("kvm:").unwrap_or(word);
        let matching: Vec<_> = there.iter().filter(|there| matches(name, there)).cloned().collect();
        if matching.is_empty() {
            return Err(Error::NoEvent(word.clone()));
        }
        wanted.extend(matching);
    }
    if words.is_empty() {
        wanted = usual();
    }
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

/// Whether a name is what a pattern with `*` says.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::Layout as Of;

    #[test]
    fn names_by_pattern() {
        let check = |pattern, name, want| assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        check("kvm_exit", "kvm_exit", true);
        check("kvm_exit", "kvm_exits", false);
        check("*", "kvm_exit", true);
        check("kvm_nested_*", "kvm_nested_vmexit", true);
        check("kvm_nested_*", "kvm_exit", false);
        check("*vm*it", "kvm_exit", true);
        check("*é", "é", true);
        let there = ["kvm_entry", "kvm_exit", "kvm_fpu"].map(str::to_owned);
        let check = |words: &[&str], want: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(chosen(&words, &there).expect("chosen"), want);
        };
        check(&[], &["kvm_entry", "kvm_exit"]);
        check(&["kvm:*"], &["kvm_entry", "kvm_exit", "kvm_fpu"]);
        check(&["kvm_fpu", "kvm:kvm_e*"], &["kvm_entry", "kvm_exit", "kvm_fpu"]);
        assert!(matches!(chosen(&["nothing".into()], &there), Err(Error::NoEvent(word)) if word == "nothing"));
    }

    #[test]
    fn fields_of_each_layout() {
        let check = |of, name: &str, values: &[(&str, u64)], field, want| {
            let all = Tracepoint::all(of);
            let tracepoint = all.iter().find(|of| of.name == name).expect("built in");
            let layout = Layout::parse(&tracepoint.text).expect("a layout");
            assert_eq!((layout.name.as_str(), layout.id), (name, tracepoint.id));
            let record = tracepoint.record(7, values);
            assert_eq!(layout.field(field, &layout.values(&record)), want, "{name} {field:?}");
            // A record that is cut has no more than 0 to say.
            assert_eq!(layout.field(field, &layout.values(&[])), want.map(|_| 0));
        };
        check(Of::Linux6, "kvm_exit", &[("guest_rip", 0xffff_8000_0000_1234)], Field::Rip, Some(0xffff_8000_0000_1234));
        check(Of::Linux6, "kvm_exit", &[("vcpu_id", 3)], Field::Vcpu, Some(3));
        check(Of::Linux4, "kvm_exit", &[("exit_reason", 48)], Field::Reason, Some(48));
        check(Of::Linux4, "kvm_exit", &[], Field::Vcpu, None);
        check(Of::Linux4, "kvm_exit", &[], Field::IntrInfo, None);
        check(Of::Linux6, "kvm_inj_virq", &[("vector", 0xec), ("soft", 1)], Field::Soft, Some(1));
        check(Of::Linux4, "kvm_inj_virq", &[("irq", 0xec)], Field::Vector, Some(0xec));
        check(Of::Linux4, "kvm_nested_vmrun", &[("vmcb", 0x5000)], Field::Vmcs12, Some(0x5000));
        check(Of::Linux6, "kvm_nested_vmenter", &[("vmcb", 0x5000)], Field::Vmcs12, Some(0x5000));
        check(Of::Linux6, "kvm_page_fault", &[("fault_address", 0x9000)], Field::Address, Some(0x9000));
        check(Of::Linux4, "kvm_page_fault", &[("fault_address", 0x9000)], Field::Address, Some(0x9000));
    }

    #[test]
    fn what_is_no_format_is_refused() {
        assert_eq!(Layout::parse(""), None);
        assert_eq!(Layout::parse("name: a\nID: 70000\n\tfield:int a;\toffset:0;\tsize:4;\n"), None);
    }
}
