//! What each table of `nvmx query` holds: docs/tables.md is this, printed.

use hv_defs::event::Kind;
use hv_defs::fields::Form;

/// A table.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The kind of event that its rows are.
    pub kind: Kind,
    /// One sentence.
    pub about: &'static str,
    /// Whether it has a `kind` column that the events do not have, which holds the kind's name.
    pub constant_kind: bool,
}

/// A column of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// `integer` (64 bits, signed), `bits` (64 bits, unsigned; tables show it in hexadecimal), `text` or `boolean`.
    pub form: &'static str,
    /// What it holds.
    pub about: &'static str,
}

macro_rules! tables {
    ($($name:literal $kind:ident $constant:literal: $about:literal;)*) => {
        /// Every table.
        pub const TABLES: &[Table] =
            &[$(Table { name: $name, kind: Kind::$kind, about: $about, constant_kind: $constant }),*];
    };
}

tables! {
    "exits" Exit false: "VM exits, as silicon reported them.";
    "entries" Entry false: "VM entries that silicon was asked for, failed ones too.";
    "vmcs" Vmcs false: "VMCS accesses. Empty when the trace was recorded with `--log exits`.";
    "flushes" Flush false: "Drops of cached translations, with a verdict on each, and a row for each flush that is missing.";
    "pool" Pool false: "What the vmcs02 pool did.";
    "vpids" Vpid false: "What the map from vpid12 to vpid02 did.";
    "ept" Ept false: "Changes of EPT02s.";
    "injections" Injection false: "Events injected into guests.";
    "inputs" Input false: "Input from the world.";
    "migrations" Migration false: "Moves of vCPUs from one physical CPU to another.";
    "marks" Mark true: "Phase markers that guests set.";
    "digests" Digest true: "Digests of the machine's state.";
    "lost" Lost true: "Events that the source had to drop.";
    "stops" Stop false: "The end of the run.";
    "registers" Registers false: "A guest's general registers at the exit before: imported traces have them.";
    "answers" Answer false: "What silicon answered L0 after the entry before: recorded with --log l0.";
}

/// The table of that name.
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// The columns that every table has, first.
pub const STAMP: [Column; 4] = [
    Column { name: "event", form: "integer", about: "The event's number in the trace, from 0." },
    Column { name: "instruction", form: "integer", about: "Instructions retired by the machine so far, on all CPUs." },
    Column { name: "vcpu", form: "integer", about: "The virtual CPU of L1 on whose behalf it happened." },
    Column { name: "pcpu", form: "integer", about: "The physical CPU that it happened on." },
];

/// The column that every table of a folder of traces has besides, before all others.
pub const TRACE: Column = Column {
    name: "trace",
    form: "text",
    about: "The trace: its file's name without the ending `.nvmx`; of one in a folder within the folder, with that before a `/`.",
};

/// What the judge adds to `flushes`.
const JUDGED: [Column; 4] = [
    Column {
        name: "verdict",
        form: "text",
        about: "`required`, `redundant`, `too-broad`, `missing` or `unknown`. A `missing` row stands at the VM entry \
                that could read what should have been flushed; it is no event of its own.",
    },
    Column { name: "judged_by", form: "text", about: "`rule`, from the events alone, or `replay`, from a second run." },
    Column { name: "rule", form: "text", about: "The rule that gave the verdict; docs/tables.md explains each." },
    Column { name: "narrower", form: "text", about: "For `too-broad`, the kind of flush that would do; else null." },
];

impl Table {
    /// Its columns, in order.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns = STAMP.to_vec();
        if self.constant_kind {
            columns.push(Column { name: "kind", form: "text", about: "Always the name of the kind of event." });
        }
        columns.extend(self.kind.fields().iter().map(|field| Column {
            name: field.name,
            form: form(field.form),
            about: about(self.kind, field.name),
        }));
        if self.kind == Kind::Flush {
            columns.extend(JUDGED);
        }
        columns
    }
}

const fn form(form: Form) -> &'static str {
    match form {
        Form::Number | Form::Vector => "integer",
        Form::Hex | Form::HexOrNone | Form::Address => "bits",
        Form::Flag => "boolean",
        Form::Word(_) | Form::Reason | Form::VmcsField | Form::EventType | Form::Text => "text",
    }
}

fn about(kind: Kind, column: &str) -> &'static str {
    match (kind, column) {
        (Kind::Exit, "level") => "The guest that was running: 1, 2 or 3; how it is known is said in docs/format.md.",
        (Kind::Exit, "reason") => {
            "The basic exit reason by the SDM's name, as `EPT_VIOLATION`; `REASON_n` where it has none."
        }
        (Kind::Exit, "reason_code") => "The whole exit-reason field; bit 31 is set when the entry failed.",
        (Kind::Exit, "qualification") => "The exit qualification.",
        (Kind::Exit, "rip") => "Where the guest was.",
        (Kind::Exit, "length") => "Bytes of the instruction that exited; 0 where there is none.",
        (Kind::Exit, "gpa") => {
            "Guest-physical address, in that guest's own physical memory; 0 for reasons without one."
        }
        (Kind::Exit, "gla") => "Guest-linear address; 0 for reasons without one.",
        (Kind::Exit, "intr_info") => {
            "VM-exit interruption information, or IDT-vectoring information where only that is valid; null when neither."
        }
        (Kind::Exit, "vmcs12") => "L1-physical address of the vmcs12 that the guest ran under; null for L1.",
        (Kind::Exit, "handled_by") => "`L0`, or `L1` when the exit is reflected.",
        (Kind::Entry, "level") => "The guest that is entered: 1, 2 or 3.",
        (Kind::Entry, "launch") => "Whether it is VMLAUNCH rather than VMRESUME.",
        (Kind::Entry, "vmcs12") => "L1-physical address of the vmcs12; null when L1 itself is entered.",
        (Kind::Entry, "vmcs02") => {
            "Host-physical address of the VMCS that silicon runs: vmcs01 for L1, a vmcs02 for L2."
        }
        (Kind::Entry, "vpid") => "The VPID that silicon runs under; 0 without VPID.",
        (Kind::Entry, "eptp") => "The EPT pointer that silicon runs under; null without EPT.",
        (Kind::Entry, "injected") => "Interruption information of what is injected; null when nothing is.",
        (Kind::Entry, "failed") => "The name of the check that failed; null when the entry was made.",
        (Kind::Entry, "fields_written") => "Fields of that VMCS that L0 wrote since it last ran.",
        (Kind::Vmcs, "actor") => "Who: `L0`, `L1` or `L2`.",
        (Kind::Vmcs, "which") => "`vmcs01`, `vmcs12`, `vmcs02`, `shadow12` or `shadow02`.",
        (Kind::Vmcs, "address") => {
            "The VMCS: host-physical for vmcs01, vmcs02 and shadow02, L1-physical for vmcs12 and shadow12; null when there is none."
        }
        (Kind::Vmcs, "op") => "`read`, `write`, `clear` (VMCLEAR), `load` (VMPTRLD) or `store` (VMPTRST).",
        (Kind::Vmcs, "field") => "The field by the SDM's name in lower case; null unless read or written.",
        (Kind::Vmcs, "old") => "The value before a write; for a read, the value read; else null.",
        (Kind::Vmcs, "value") => "The value after a write; for a read, the value read; else null.",
        (Kind::Flush, "kind") => {
            "`invvpid-address`, `invvpid-single`, `invvpid-all`, `invvpid-retain-globals`, `invept-single`, `invept-all`, \
             or `transition` for what an entry or exit drops by itself."
        }
        (Kind::Flush, "cause") => {
            "Why, as `guest` (a guest's own instruction), `invept-emulation` or `nested-entry`. For a `missing` row, what \
             changed the mapping: `ept-zap` or `ept-sync`."
        }
        (Kind::Flush, "actor") => {
            "Who asked: a guest, whose VPIDs and EPT pointers are its own, or `L0`, whose are silicon's. For a `missing` \
             row, who owed it."
        }
        (Kind::Flush, "vpid") => "The VPID, for INVVPID of one; else null.",
        (Kind::Flush, "eptp") => "The EPT pointer, for INVEPT of one; else null.",
        (Kind::Flush, "address") => {
            "The linear address, for INVVPID of one. For a `missing` row, the L2-physical address of the first mapping \
             that changed. Else null."
        }
        (Kind::Flush, "dropped") => "Entries that silicon's TLB dropped; 0 for a guest's own instruction.",
        (Kind::Pool, "op") => "`hit`, `miss` (a free slot was taken), `recycle` (another's slot was) or `free`.",
        (Kind::Pool, "vmcs12") => "The vmcs12, by L1-physical address.",
        (Kind::Pool, "slot") => "The slot, from 0.",
        (Kind::Pool, "written") => "Fields written to the vmcs02 at this entry.",
        (Kind::Pool, "skipped") => "Fields that held their value already and were not written.",
        (Kind::Vpid, "op") => "`map` (a fresh vpid02), `hit`, `recycle` (another vpid12's) or `free`.",
        (Kind::Vpid, "vpid12") => "L1's VPID for L2.",
        (Kind::Vpid, "vpid02") => "Silicon's VPID for L2.",
        (Kind::Ept, "op") => {
            "`map` (added), `zap` (removed), `sync` (changed to what EPT12 says) or `switch` (now in use)."
        }
        (Kind::Ept, "eptp12") => "L1's EPT pointer for L2.",
        (Kind::Ept, "eptp02") => "Silicon's EPT pointer for L2.",
        (Kind::Ept, "gpa") => "The L2-physical address; 0 for a switch.",
        (Kind::Ept, "size") => "Bytes that the entry maps; 0 for a switch.",
        (Kind::Ept, "old") => "The EPT02 entry before; 0 for none.",
        (Kind::Ept, "new") => "The EPT02 entry after; 0 for none.",
        (Kind::Injection, "level") => "The guest.",
        (Kind::Injection, "info") => "The interruption information injected.",
        (Kind::Injection, "vector") => "Its vector.",
        (Kind::Injection, "type") => "Its type, as `external-interrupt` or `hardware-exception`.",
        (Kind::Injection, "error_code") => "The error code; 0 without one.",
        (Kind::Input, "poll") => "Which of the machine's questions this answers: how often it had asked before.",
        (Kind::Input, "kind") => "`console` or `stop`.",
        (Kind::Input, "value") => "The byte typed.",
        (Kind::Migration, "from") => "The physical CPU that the vCPU left; `pcpu` is the one it came to.",
        (Kind::Mark, "value") => "The number that the guest wrote.",
        (Kind::Digest, "value") => "The digest.",
        (Kind::Lost, "value") => "How many events are missing here.",
        (Kind::Stop, "kind") => "Why the run ended, as `debug-exit` or `idle`.",
        (Kind::Stop, "code") => "The exit status, for `debug-exit`.",
        (Kind::Answer, "of") => {
            "What was asked for: `memory`, `gpr`, `cr2` and other registers, `capability`, `refused`."
        }
        (Kind::Answer, "place") => "The address in memory, or the register's number; else 0.",
        (Kind::Answer, "value") => "What it held.",
        (Kind::Registers, _) => "The register, as the guest left it.",
        (Kind::Stop, "text") => "A line for a reader; null when there is nothing to say.",
        _ => "",
    }
}
