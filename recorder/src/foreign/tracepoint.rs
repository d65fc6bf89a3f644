//! A tracepoint's layout: the text of its `format` file, and the fields that it tells of.

use crate::tracepoints::{SVM, VMX};
use hv_defs::exit::Reason;
use std::fmt::Write;
use std::path::Path;

/// Whose layout of KVM's tracepoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Linux 6's.
    Linux6,
    /// Linux 4's: exits do not say their vCPU, and print their two words of information without names.
    Linux4,
    /// The running kernel's, where it shows them; else as [`Layout::Linux6`].
    Host,
}

/// A field of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

/// A tracepoint of KVM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracepoint {
    /// Its name, without its system.
    pub name: String,
    /// Its number in records.
    pub id: u16,
    /// Its `format` file.
    pub text: String,
    /// Its fields, the common ones first.
    pub fields: Vec<Field>,
    /// Bytes of a record.
    pub size: usize,
}

/// A row of a layout: name, types and names of the fields, what prints them.
type Row = (&'static str, &'static str, &'static str);

/// The common fields of every tracepoint.
const COMMON: &str =
    "unsigned short common_type; unsigned char common_flags; unsigned char common_preempt_count; int common_pid";

/// Those that both layouts have alike. `@REASON(x)` stands for the names of the exit reason in field x.
const SHARED: &[Row] = &[
    (
        "kvm_nested_vmexit_inject",
        "__u32 exit_code; __u64 exit_info1; __u64 exit_info2; __u32 exit_int_info; __u32 exit_int_info_err; __u32 isa",
        r#""reason: %s ext_inf1: 0x%016llx ext_inf2: 0x%016llx ext_int: 0x%08x ext_int_err: 0x%08x", @REASON(exit_code), REC->exit_info1, REC->exit_info2, REC->exit_int_info, REC->exit_int_info_err"#,
    ),
    ("kvm_nested_intr_vmexit", "__u64 rip", r#""rip: 0x%016llx", REC->rip"#),
    (
        "kvm_inj_exception",
        "u8 exception; u8 has_error; u32 error_code",
        r##""%s (0x%x)", __print_symbolic(REC->exception, { 0, "#DE" }, { 1, "#DB" }, { 3, "#BP" }, { 6, "#UD" }, { 8, "#DF" }, { 13, "#GP" }, { 14, "#PF" }), REC->error_code"##,
    ),
    (
        "kvm_msr",
        "unsigned write; u32 ecx; u64 data; u8 exception",
        r#""msr_%s %x = 0x%llx%s", REC->write ? "write" : "read", REC->ecx, REC->data, REC->exception ? " (#GP)" : """#,
    ),
    (
        "kvm_mmio",
        "u32 type; u32 len; u64 gpa; u64 val",
        r#""mmio %s len %u gpa 0x%llx val 0x%llx", __print_symbolic(REC->type, { 0, "unsatisfied-read" }, { 1, "read" }, { 2, "write" }), REC->len, REC->gpa, REC->val"#,
    ),
    ("kvm_fast_mmio", "u64 gpa", r#""fast mmio at gpa 0x%llx", REC->gpa"#),
    ("kvm_fpu", "u32 load", r#""%s", __print_symbolic(REC->load, { 0, "unload" }, { 1, "load" })"#),
];

const LINUX_6: &[Row] = &[
    (
        "kvm_exit",
        "unsigned int exit_reason; unsigned long guest_rip; u32 isa; u64 info1; u64 info2; u32 intr_info; u32 error_code; unsigned int vcpu_id; u64 requests",
        EXIT_6,
    ),
    (
        "kvm_nested_vmexit",
        "unsigned int exit_reason; unsigned long guest_rip; u32 isa; u64 info1; u64 info2; u32 intr_info; u32 error_code; unsigned int vcpu_id; u64 requests",
        EXIT_6,
    ),
    (
        "kvm_entry",
        "unsigned int vcpu_id; unsigned long rip; bool immediate_exit; u32 intr_info; u32 error_code",
        r#""vcpu %u, rip 0x%lx intr_info 0x%08x error_code 0x%08x%s", REC->vcpu_id, REC->rip, REC->intr_info, REC->error_code, REC->immediate_exit ? "[immediate exit]" : """#,
    ),
    (
        "kvm_nested_vmenter",
        "__u64 rip; __u64 vmcb; __u64 nested_rip; __u32 int_ctl; __u32 event_inj; bool tdp_enabled; __u64 guest_pgd; __u32 isa",
        r#""rip: 0x%016llx %s: 0x%016llx nested_rip: 0x%016llx int_ctl: 0x%08x event_inj: 0x%08x nested_%s=%s", REC->rip, REC->isa == 1 ? "vmcs" : "vmcb", REC->vmcb, REC->nested_rip, REC->int_ctl, REC->event_inj, REC->isa == 1 ? "ept" : "npt", REC->tdp_enabled ? "y" : "n""#,
    ),
    (
        "kvm_page_fault",
        "unsigned int vcpu_id; unsigned long guest_rip; u64 fault_address; u64 error_code",
        r#""vcpu %u rip 0x%lx address 0x%016llx error_code 0x%llx", REC->vcpu_id, REC->guest_rip, REC->fault_address, REC->error_code"#,
    ),
    (
        "kvm_inj_virq",
        "unsigned int vector; bool soft; bool reinjected",
        r#""%s 0x%x%s", REC->soft ? "Soft/INTn" : "IRQ", REC->vector, REC->reinjected ? " [reinjected]" : """#,
    ),
];

const EXIT_6: &str = r#""vcpu %u reason %s rip 0x%lx info1 0x%016llx info2 0x%016llx intr_info 0x%08x error_code 0x%08x requests 0x%016llx", REC->vcpu_id, @REASON(exit_reason), REC->guest_rip, REC->info1, REC->info2, REC->intr_info, REC->error_code, REC->requests"#;

const LINUX_4: &[Row] = &[
    (
        "kvm_exit",
        "unsigned int exit_reason; unsigned long guest_rip; u32 isa; u64 info1; u64 info2",
        r#""reason %s rip 0x%lx info %llx %llx", @REASON(exit_reason), REC->guest_rip, REC->info1, REC->info2"#,
    ),
    (
        "kvm_nested_vmexit",
        "__u64 rip; __u32 exit_code; __u64 exit_info1; __u64 exit_info2; __u32 exit_int_info; __u32 exit_int_info_err; __u32 isa",
        r#""rip: 0x%016llx reason: %s ext_inf1: 0x%016llx ext_inf2: 0x%016llx ext_int: 0x%08x ext_int_err: 0x%08x", REC->rip, @REASON(exit_code), REC->exit_info1, REC->exit_info2, REC->exit_int_info, REC->exit_int_info_err"#,
    ),
    ("kvm_entry", "unsigned int vcpu_id", r#""vcpu %u", REC->vcpu_id"#),
    (
        "kvm_nested_vmrun",
        "__u64 rip; __u64 vmcb; __u64 nested_rip; __u32 int_ctl; __u32 event_inj; bool npt",
        r#""rip: 0x%016llx vmcb: 0x%016llx nrip: 0x%016llx int_ctl: 0x%08x event_inj: 0x%08x npt: %s", REC->rip, REC->vmcb, REC->nested_rip, REC->int_ctl, REC->event_inj, REC->npt ? "on" : "off""#,
    ),
    (
        "kvm_page_fault",
        "unsigned long fault_address; unsigned int error_code",
        r#""address %lx error_code %x", REC->fault_address, REC->error_code"#,
    ),
    ("kvm_inj_virq", "unsigned int irq", r#""irq %u", REC->irq"#),
];

/// The places where tracefs may be mounted.
pub(crate) const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The number of the first tracepoint that is built in.
const FIRST: u16 = 300;

impl Tracepoint {
    /// KVM's tracepoints in that layout.
    pub fn all(layout: Layout) -> Vec<Self> {
        if layout == Layout::Host
            && let Some(found) = Self::of_host(&TRACEFS.map(Path::new))
        {
            return found;
        }
        let own = if layout == Layout::Linux4 { LINUX_4 } else { LINUX_6 };
        let rows = own.iter().chain(SHARED).zip(FIRST..);
        rows.filter_map(|(row, id)| Self::parse(&text(row, id))).collect()
    }

    /// Those of [`Layout::Linux6`], as the running kernel lays them out; `None` where it does not show one of them.
    fn of_host(folders: &[&Path]) -> Option<Vec<Self>> {
        let folder = folders.iter().map(|of| of.join("events/kvm")).find(|of| of.join("kvm_exit").is_dir())?;
        let names = LINUX_6.iter().chain(SHARED).map(|(name, ..)| name);
        names.map(|name| Self::parse(&std::fs::read_to_string(folder.join(name).join("format")).ok()?)).collect()
    }

    /// The tracepoint that a `format` file describes; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let behind = |line: &str, word: &str| Some(line.trim_ascii_start().strip_prefix(word)?.trim_ascii().to_owned());
        let name = text.lines().find_map(|line| behind(line, "name:"))?;
        let id = text.lines().find_map(|line| behind(line, "ID:"))?.parse().ok()?;
        let fields: Vec<Field> =
            text.lines().filter_map(|line| behind(line, "field:")).map(field).collect::<Option<_>>()?;
        let size = fields.iter().map(|field| field.offset + field.size).max()?;
        // A record ends where its last field is aligned to.
        let align = fields.iter().map(|field| field.size.clamp(1, 8)).max()?;
        (size < 4096).then(|| Self { name, id, text: text.to_owned(), fields, size: size.next_multiple_of(align) })
    }

    /// A record of a thread whose fields have these values; the others are 0.
    pub fn record(&self, thread: u32, values: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        for field in &self.fields {
            let value = match field.name.as_str() {
                "common_type" => self.id.into(),
                "common_pid" => thread.into(),
                name => values.iter().find(|(of, _)| *of == name).map_or(0, |(_, value)| *value),
            };
            let width = field.size.min(8);
            bytes[field.offset..field.offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        bytes
    }
}

/// `unsigned int vcpu_id; offset:8; size:4; signed:0;`
fn field(line: String) -> Option<Field> {
    let mut parts = line.split(';').map(str::trim_ascii);
    let name = parts.next()?.rsplit([' ', '*']).next()?.to_owned();
    let [offset, size] =
        ["offset:", "size:"].map(|word| parts.next().and_then(|part| part.strip_prefix(word)?.parse().ok()));
    Some(Field { name, offset: offset?, size: size? })
}

/// The `format` file of a row: fields lie where C lays them.
fn text((name, fields, print): &Row, id: u16) -> String {
    let mut text = format!("name: {name}\nID: {id}\nformat:\n");
    let (mut at, common) = (0, COMMON.split("; ").count());
    for (place, field) in COMMON.split("; ").chain(fields.split("; ")).enumerate() {
        let of = field.rsplit_once(' ').map_or("", |(of, _)| of);
        let size: usize = match of.trim_start_matches('_') {
            "unsigned char" | "u8" | "bool" => 1,
            "unsigned short" | "u16" => 2,
            "unsigned long" | "u64" => 8,
            _ => 4,
        };
        at = usize::next_multiple_of(at, size);
        let end = if place + 1 == common { "\n" } else { "" };
        let _ = writeln!(text, "\tfield:{field};\toffset:{at};\tsize:{size};\tsigned:{};{end}", u8::from(of == "int"));
        at += size;
    }
    let print = match print.split_once("@REASON(") {
        Some((before, after)) => {
            let (field, after) = after.split_once(')').unwrap_or((after, ""));
            format!("{before}{}{after}", names(field))
        }
        None => (*print).to_owned(),
    };
    let _ = writeln!(text, "\nprint fmt: {print}");
    text
}

/// What prints an exit reason by name, Intel's or AMD's.
fn names(field: &str) -> String {
    let vmx = Reason::ALL.iter().filter_map(|reason| {
        let kvm = VMX.iter().find(|(_, of)| of == reason).map(|(name, _)| *name);
        Some((u32::from(reason.0), kvm.or(reason.name())?.to_owned()))
    });
    let registers =
        [(0, "read_cr", 0), (0, "read_cr", 3), (0, "read_cr", 4), (0x10, "write_cr", 0), (0x10, "write_cr", 3)];
    let registers = registers.into_iter().map(|(base, way, number)| (base + number, format!("{way}{number}")));
    let others = [(0x4e, "PF excp".to_owned()), (0x7c, "msr".to_owned())];
    let svm = registers.chain(others).chain(SVM.iter().map(|(code, name, _)| (*code, (*name).to_owned())));
    let list = |names: &mut dyn Iterator<Item = (u32, String)>| {
        names.map(|(code, name)| format!("{{ {:#x}, \"{name}\" }}", code)).collect::<Vec<_>>().join(", ")
    };
    let (vmx, svm) = (list(&mut { vmx }), list(&mut { svm }));
    format!("(REC->isa == 1) ? __print_symbolic(REC->{field} & 0xffff, {vmx}) : __print_symbolic(REC->{field}, {svm})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_c_lays_them() {
        let all = Tracepoint::all(Layout::Linux6);
        let exit = all.iter().find(|of| of.name == "kvm_exit").expect("built in");
        let places: Vec<_> = exit.fields.iter().map(|of| (of.name.as_str(), of.offset, of.size)).collect();
        assert_eq!(
            places[..4],
            [("common_type", 0, 2), ("common_flags", 2, 1), ("common_preempt_count", 3, 1), ("common_pid", 4, 4)]
        );
        assert_eq!(places[4..8], [("exit_reason", 8, 4), ("guest_rip", 16, 8), ("isa", 24, 4), ("info1", 32, 8)]);
        assert_eq!(exit.size, 72);
        let bytes = exit.record(7, &[("guest_rip", 0x1122), ("nothing", 9)]);
        assert_eq!((&bytes[..2], bytes[4], &bytes[16..19]), (&exit.id.to_le_bytes()[..], 7, &[0x22, 0x11, 0][..]));
    }

    #[test]
    fn what_is_no_format_is_refused() {
        let check = |text: &str| assert_eq!(Tracepoint::parse(text), None, "{text}");
        check("");
        check("name: a\nID: 1\n");
        check("name: a\nID: x\n\tfield:int a;\toffset:0;\tsize:4;\n");
        check("name: a\nID: 1\n\tfield:int a;\tsize:4;\n");
    }
}
