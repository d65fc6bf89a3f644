//! What is known of a trace as a whole: the table `traces`, which has one row a trace.

use columns::{Field, Rows, Type, Words};
use hv_defs::config::{Config, Guest, ImageKind};
use traces::{Header, Reader};

/// The name of the table.
pub(super) const TABLE: &str = "traces";

/// What a fact is made of.
struct About<'a> {
    file: &'a str,
    reader: &'a Reader,
    header: &'a Header,
    /// The machine; an imported trace has none.
    config: Option<&'a Config>,
    last: u64,
}

/// The value of a fact.
enum Fact {
    Text(Option<String>),
    Number(Option<u64>),
    Flag(Option<bool>),
}

macro_rules! facts {
    ($($name:literal $form:ident: $about:literal, $value:expr;)*) => {
        /// The columns of the table `traces`: name, form and what each holds.
        pub const FACTS: &[(&str, &str, &str)] = &[$(($name, facts!(@form $form), $about)),*];

        fn all(about: &About<'_>) -> Vec<Fact> {
            vec![$({ let value: fn(&About<'_>) -> _ = $value; Fact::$form(value(about)) }),*]
        }
    };
    (@form Text) => { "text" };
    (@form Number) => { "integer" };
    (@form Flag) => { "boolean" };
}

facts! {
    "file" Text: "The file's name, without its folder.", |of| Some(of.file.to_owned());
    "bytes" Number: "The file's length.", |of| Some(of.reader.bytes());
    "format" Text: "The trace format's version, as `1.1`.", |of| {
        Some(format!("{}.{}", of.header.version.0, of.header.version.1))
    };
    "build" Text: "The version of nvmx that recorded or imported it.", |of| Some(of.header.build.clone());
    "events" Number: "How many events it has.", |of| Some(of.reader.len());
    "truncated" Flag: "Whether it is cut short, so that events after the last whole block may be missing.", |of| {
        Some(of.reader.truncated())
    };
    "clock" Text: "What the column `instruction` counts: `instructions`, or for an imported trace `nanoseconds`, `ticks` or `exits`.",
        |of| Some(of.header.clock().name().into());
    "last" Number: "The `instruction` of the last event.", |of| Some(of.last);
    "source" Text: "For an imported trace, what wrote the foreign file: `iris`, `trace-cmd` or `perf`; else null. Null are then all columns below but `note` and `source_file`.",
        |of| Some(of.header.origin.as_ref()?.source.clone());
    "source_file" Text: "The foreign file's name.", |of| Some(of.header.origin.as_ref()?.name.clone());
    "note" Text: "What is known further of it.", |of| {
        Some(of.header.origin.as_ref()?.note.clone()).filter(|note| !note.is_empty())
    };
    "guest" Text: "The built-in guest's name, or the kernel's file name.", |of| Some(match &of.config?.guest {
        Guest::BuiltIn(name) | Guest::Kernel { name, .. } => name.clone(),
    });
    "built_in" Flag: "Whether it is a built-in guest.", |of| Some(matches!(of.config?.guest, Guest::BuiltIn(_)));
    "append" Text: "The kernel's command line; null for a built-in guest.", |of| match &of.config?.guest {
        Guest::BuiltIn(_) => None,
        Guest::Kernel { append, .. } => Some(append.clone()),
    };
    "kernel_sha256" Text: "SHA-256 of the kernel; null for a built-in guest.", |of| image(of, ImageKind::Kernel);
    "initrd_sha256" Text: "SHA-256 of the initrd; null without one.", |of| image(of, ImageKind::Initrd);
    "memory" Number: "L1's memory in bytes.", |of| Some(of.config?.memory);
    "vcpus" Number: "L1's vCPUs.", |of| Some(of.config?.vcpus.into());
    "pcpus" Number: "Physical CPUs.", |of| Some(of.config?.pcpus.into());
    "backend" Text: "What ran the instructions: `soft` or `kvm`.", |of| Some(of.config?.backend.name().into());
    "log" Text: "How much was recorded: `exits`, `vmcs` or `l0`.", |of| Some(of.config?.log.name().into());
    "policy" Text: "The preset of L0's policy; null when it is none of them.", |of| {
        of.config?.policy.name().map(str::to_owned)
    };
    "vpid" Text: "The policy's rule: which VPIDs L1 and its L2s run under.", |of| {
        Some(of.config?.policy.tags.name().into())
    };
    "transition_flush" Text: "The policy's rule: when a nested entry or exit flushes.", |of| {
        Some(of.config?.policy.transition_flush.name().into())
    };
    "root_load" Text: "The policy's rule: what loading an EPT root costs.", |of| {
        Some(of.config?.policy.root_load.name().into())
    };
    "apic_access_flush" Flag: "The policy's rule: whether a nested entry or exit flushes for an APIC-access page.", |of| {
        Some(of.config?.policy.apic_access_flush)
    };
    "pool" Number: "The policy's rule: slots in each vCPU's vmcs02 pool.", |of| Some(of.config?.policy.pool.into());
    "pool_recycle" Text: "The policy's rule: whose vmcs02 is taken when all slots are in use.", |of| {
        Some(of.config?.policy.pool_recycle.name().into())
    };
    "vmcs02_writes" Text: "The policy's rule: which fields of vmcs02 are written at a nested entry.", |of| {
        Some(of.config?.policy.vmcs02_writes.name().into())
    };
    "shadowing" Text: "The policy's rule: how VMCS shadowing is offered.", |of| {
        Some(of.config?.policy.shadowing.name().into())
    };
    "faults" Text: "The mistakes that L0 was to make, with commas between them; null when none.", |of| {
        let names: Vec<_> = of.config?.slips.iter().map(|slip| slip.name()).collect();
        (!names.is_empty()).then(|| names.join(","))
    };
    "tlb_entries" Number: "Entries in each physical CPU's TLB.", |of| Some(of.config?.tlb_entries.into());
    "la57" Flag: "Whether the CPUs have 5-level paging.", |of| Some(of.config?.la57);
    "seed" Number: "The seed of all that the guest may take as random.", |of| Some(of.config?.seed);
    "slice" Number: "Instructions of a vCPU's turn.", |of| Some(of.config?.slice);
    "max_instructions" Number: "Instructions after which the run was to stop; null when it was not.", |of| {
        of.config?.max_instructions
    };
    "stop_on" Text: "The text on the console at which the run was to stop; null when at none.", |of| {
        of.config?.stop_on.clone()
    };
}

fn image(of: &About<'_>, kind: ImageKind) -> Option<String> {
    let image = of.header.images.iter().find(|image| image.kind == kind)?;
    Some(image.hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The table without rows.
pub(super) fn empty() -> Rows {
    let fields = FACTS.iter().map(|(name, form, _)| {
        let kind = match *form {
            "integer" => Type::Signed,
            "boolean" => Type::Flag,
            _ => Type::Text,
        };
        Field::new(*name, kind)
    });
    Rows::new(fields.collect(), |_| Words::default())
}

/// The row of a trace in the file of that name.
pub(super) fn row(file: &str, reader: &Reader) -> Result<Rows, crate::Error> {
    let header = reader.header();
    let last = match reader.len().checked_sub(1) {
        Some(last) => reader.stored(last)?.at.instruction,
        None => 0,
    };
    let config = header.origin.is_none().then_some(&header.config);
    let mut rows = empty();
    for (fact, cells) in all(&About { file, reader, header, config, last }).into_iter().zip(rows.columns_mut()) {
        match fact {
            Fact::Text(text) => cells.text(text.as_deref()),
            Fact::Number(number) => cells.signed(number.map(|number| i64::try_from(number).unwrap_or(i64::MAX))),
            Fact::Flag(flag) => cells.flag(flag),
        }
    }
    Ok(rows)
}
