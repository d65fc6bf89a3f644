//! The words themselves, for clap.

mod machine;
mod values;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use hv_defs::config::{Log, Source};
use hv_defs::event::Kind;
use hv_defs::slip::Slip;
use replayer::gdb::Address;
use std::num::NonZero;
use std::path::PathBuf;
use values::{buffer, finite, mark, percent, presets, seconds, word};

pub use machine::{MachineArgs, PolicyArgs};

/// What exit statuses mean, everywhere.
pub const EXIT_STATUS: &str = "Exit status: 0 done and all held; 1 the answer is no (diverged, gate failed, damaged); 2 wrong \
                               usage or unreadable input; 3 the guest or the machine failed.";

/// Record, replay and analyse nested virtualisation.
///
/// nvmx runs a guest hypervisor (L1) and its guests (L2) under a nested hypervisor of its own (L0), on a software CPU
/// with VMX. It records what L0 does, replays it exactly, and says what was wasted or wrong.
#[derive(Parser)]
#[command(
    name = "nvmx",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = format!("{EXIT_STATUS}\n\nStart with `nvmx demo`. `nvmx COMMAND --help` has examples.")
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub manner: Manner,
}

/// How to speak.
#[derive(Args)]
pub struct Manner {
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// The `--color` of a command line that is not parsed yet, so that its own errors and help keep to it.
pub fn color_of(args: &[std::ffi::OsString]) -> ColorChoice {
    let words: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let next = words.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1]);
    let word = words.iter().find_map(|word| word.strip_prefix("--color=")).or(next);
    word.and_then(|word| ColorChoice::from_str(word, true).ok()).unwrap_or(ColorChoice::Auto)
}

#[derive(Subcommand)]
pub enum Command {
    /// Record the built-in nested guest, replay it, and write a report: start here
    #[command(after_help = "Examples:
  nvmx demo                 a trace and an HTML report in a fresh folder nvmx-demo
  nvmx demo -o /tmp/demo    the same, in a folder of your choice")]
    Demo(DemoArgs),
    /// List the built-in guests
    #[command(after_help = "Examples:
  nvmx guests
  nvmx run flush-storm      run one of them")]
    Guests,
    /// Run a guest without recording it; its serial console is stdin and stdout
    #[command(after_help = "Examples:
  nvmx run demo
  nvmx run flush-storm --policy kvm-2011
  nvmx run --kernel vmlinuz --initrd initrd.img --append \"console=ttyS0\" --mem 256M

On a terminal, Ctrl-A x ends the run; Ctrl-C does so too for a built-in guest. The last line says how the run ended and, if the guest
used isa-debug-exit, with which status.")]
    Run(RunArgs),
    /// Run a guest and record it
    #[command(after_help = "Examples:
  nvmx record demo -o demo.nvmx
  nvmx record pool-thrash --policy mapped --pool 4 -o pool4.nvmx
  nvmx record pool-thrash:ABCABCaABC --pool 2 --pool-recycle fifo -o own.nvmx    in an order of your own
  nvmx record flush-storm --policy kvm-2015 --log exits -o storm.nvmx
  nvmx record demo --log l0 -o l0.nvmx                  for `nvmx replay --l0`
  nvmx record demo --backend kvm -o host.nvmx           on this host's KVM: docs/kvm.md
  nvmx record --kernel vmlinuz --initrd initrd.img --store images -o linux.nvmx    the images go to a store

On a terminal, Ctrl-A x ends the run. However it ends, the trace is finished and can be read.")]
    Record(RecordArgs),
    /// Run a recorded guest again and compare every event
    #[command(after_help = "Examples:
  nvmx replay demo.nvmx
  nvmx replay demo.nvmx --runs 1000
  nvmx replay demo.nvmx --to 500 --json
  nvmx replay l0.nvmx --l0                              L0 alone, of a recording with --log l0
  nvmx replay l0.nvmx --l0 --fault ept02-unsynced       which of its decisions change
  nvmx replay l0.nvmx --l0 --mutate 1 --runs 1000       whether altered answers break it
  nvmx replay demo.nvmx --gdb :1234                    then in gdb: target remote :1234, monitor help
  nvmx replay linux.nvmx --store images                a trace whose images are in a store")]
    Replay(ReplayArgs),
    /// Run a recorded guest again under other policies, side by side
    #[command(after_help = "Examples:
  nvmx whatif demo.nvmx --policy kvm-2011,kvm-2015,kvm-2018,kvm-2020,mapped,ideal
  nvmx whatif pool.nvmx --pool 1,2,4,8                 its own policy with pools of other sizes
  nvmx whatif demo.nvmx --policy mapped --tlb 64,1536 --format json

Every policy is run with every size. The first row is the recording's own, and must be equal to it. docs/replay.md says what
is compared of the guest, and where it may differ.")]
    Whatif(WhatifArgs),
    /// Say what was wasted and what was wrong
    #[command(after_help = "Examples:
  nvmx report demo.nvmx
  nvmx report demo.nvmx --format html -o demo.html
  nvmx report 2011.nvmx 2015.nvmx mapped.nvmx          one comparison of the three
  nvmx report demo.nvmx --format json | jq .flushes
  nvmx report demo.nvmx --format flame -o demo.svg     a flame graph of exits and of the work for them
  nvmx report demo.nvmx --judge replay                 verdicts on flushes from a second execution
  nvmx report nightly/                                 every trace in a folder; a broken one is passed over
  nvmx report nightly/ --format html -o all.html --each pages/

docs/batch.md says how many traces are read at once, and how a batch that was interrupted goes on.")]
    Report(ReportArgs),
    /// Ask a trace questions in SQL
    #[command(after_help = "Examples:
  nvmx query demo.nvmx                                 the tables and their columns
  nvmx query demo.nvmx 'SELECT reason, COUNT(*) AS n FROM exits GROUP BY reason ORDER BY n DESC'
  nvmx query demo.nvmx \"SELECT * FROM flushes WHERE verdict = 'redundant'\" --format csv
  nvmx query demo.nvmx --judge replay 'SELECT verdict, rule, COUNT(*) FROM flushes GROUP BY verdict, rule'
  nvmx query demo.nvmx 'SELECT rip, gpa FROM exits' --format parquet -o exits.parquet
  nvmx query traces/ 'SELECT trace, COUNT(*) AS exits FROM exits GROUP BY trace'

A folder stands for all traces in it and in folders in it, whose names end in .nvmx: their rows follow one another in the
order of the names, and the column `trace` has the name without the ending. docs/queries.md has more.")]
    Query(QueryArgs),
    /// Find the first event in which two traces differ
    #[command(after_help = "Examples:
  nvmx diff a.nvmx b.nvmx       exit status 0 when their events are equal, 1 when not
  nvmx diff soft.nvmx kvm.nvmx  one with --backend kvm: what differs by design is named, and counts as equal
  nvmx diff -c 20 a.nvmx b.nvmx with the 20 events before the first that differs")]
    Diff(DiffArgs),
    /// Hold a trace to limits: a gate for CI
    #[command(after_help = "Examples:
  nvmx check demo.nvmx --max-redundant-flushes 0 --max-missing-flushes 0
  nvmx check demo.nvmx --max-pool-misses 10 --max-exits-per-l2-exit 12.5 --json
  nvmx check nightly/ --max-missing-flushes 0 --max-mistakes 0 --junit gate.xml")]
    Check(CheckArgs),
    /// Look at a trace in the terminal
    #[command(after_help = "Examples:
  nvmx tui demo.nvmx            ? shows the keys, q leaves
  nvmx tui old.nvmx new.nvmx    side by side: d goes to the next difference, t sets what counts as one
  nvmx tui --fresh demo.nvmx    without what was kept of the last time")]
    Tui(TuiArgs),
    /// Print a trace's events, a line each
    #[command(after_help = "Examples:
  nvmx dump demo.nvmx | head
  nvmx dump demo.nvmx --from 100 --count 20
  nvmx dump demo.nvmx --kind flush,pool --json")]
    Dump(DumpArgs),
    /// Show a trace's header, sizes and counts; or what this host can do
    #[command(after_help = "Examples:
  nvmx info demo.nvmx
  nvmx info                     whether there is KVM here, who would be L0 on it, and what `nvmx attach` would see
  nvmx info demo.nvmx --json | jq .events")]
    Info(InfoArgs),
    /// Check every block of a trace for damage
    #[command(after_help = "Examples:
  nvmx verify demo.nvmx
  nvmx verify linux.nvmx --store images         its images in the store too
  nvmx verify broken.nvmx --salvage saved.nvmx")]
    Verify(VerifyArgs),
    /// Look after a store of images that many traces share
    #[command(after_help = "Examples:
  nvmx store list --store images                  hash and size of each object
  nvmx store gc --store images traces/ -n         what the traces in a folder do not need
  nvmx store gc --store images traces/ last.nvmx  removes it

docs/store.md says what a store is. Without --store, the environment variable NVMX_STORE names it.")]
    Store(StoreToolArgs),
    /// Record KVM on this host through perf events
    #[command(after_help = "Examples:
  nvmx attach -o host.nvmx                     all virtual machines of this host, until Ctrl-C
  nvmx attach --pid $(pgrep -f guest=web) --duration 10 -o web.nvmx
  nvmx attach --live                           who exits how often and why, as top shows processes
  nvmx attach --live --pid 1234 --interval 0.5 -o web.nvmx
  nvmx report host.nvmx

A virtual machine is named by its process, a single vCPU by its thread. It needs root, or CAP_PERFMON and a tracefs that may
be read. docs/attach.md says what becomes of each tracepoint, and what this costs a host.")]
    Attach(AttachArgs),
    /// Make a trace of what another tool recorded
    #[command(after_help = "Examples:
  nvmx import seeds_mon_5K --from iris -o seeds.nvmx
  trace-cmd record -e kvm -o trace.dat; nvmx import trace.dat --from trace-cmd -o host.nvmx
  perf record -a -e 'kvm:*' -o perf.data; nvmx import perf.data --from perf -o host.nvmx

docs/import.md says what becomes of each record. An imported trace can be read, queried and reported, not replayed.")]
    Import(ImportArgs),
    /// Write traces as files for other tools
    #[command(after_help = "Examples:
  nvmx export demo.nvmx --to parquet -o demo-tables
  nvmx export runs/*.nvmx --to parquet -o runs-tables    several traces in one dataset
  duckdb -c \"SELECT trace, reason, COUNT(*) FROM read_parquet('runs-tables/exits/*/*.parquet') GROUP BY ALL\"
  nvmx export demo.nvmx --to perfetto -o demo.pftrace    open it at https://ui.perfetto.dev

Datasets have a folder a table, and in it a folder a trace: docs/export.md says what lies where, and how DuckDB, Spark,
DataFusion, pandas and polars read it.")]
    Export(ExportArgs),
    /// Measure the budgets on this machine, beside its own floor
    #[command(after_help = "Examples:
  nvmx bench                             every budget that can be measured without a Linux guest
  nvmx bench --guest DIR -o figures.json    all of them, in some 10 minutes, and as JSON
  nvmx bench --guest DIR --quick         the same in short, and rougher
  nvmx bench cpu nested --guest DIR      two parts: Linux beside Bochs and QEMU, nested exits beside Bochs
  nvmx bench trace demo.nvmx --peers     the trace format on a trace's events, beside trace-cmd and perf
  nvmx bench analysis demo.nvmx --long 100000000    a report on a hundred million events, made of the trace's
  nvmx bench trace --json --gate         for CI: exit status 1 when a budget is missed

docs/bench.md says what each figure is.")]
    Bench(BenchArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  nvmx completions bash > ~/.local/share/bash-completion/completions/nvmx
  nvmx completions zsh > ~/.zfunc/_nvmx")]
    Completions(CompletionsArgs),
    /// Print or write the manual pages
    #[command(after_help = "Examples:
  nvmx man | man -l -                        read the main page
  nvmx man -o ~/.local/share/man/man1        write all pages")]
    Man(ManArgs),
}

#[derive(Args)]
pub struct DemoArgs {
    /// Folder to write to; it is made if need be [default: nvmx-demo, or nvmx-demo-2 and so on where that is taken]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
}

#[derive(Args)]
pub struct RecordArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Trace to write [default: the guest's name with .nvmx]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// How much to record: entries, exits, flushes and the like; every VMCS access too; what silicon answers L0 too
    #[arg(long, value_name = "LEVEL", default_value = "vmcs", value_parser = word(Log::ALL, Log::name))]
    pub log: Log,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Which store.
#[derive(Args, Clone)]
pub struct StoreArgs {
    /// Store that has the images which a trace does not hold [default: what NVMX_STORE names, if anything]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Args)]
pub struct StoreToolArgs {
    #[command(subcommand)]
    pub what: StoreWord,
}

#[derive(Subcommand)]
pub enum StoreWord {
    /// List the objects of a store: hash, and bytes that its file has
    List(StoreListArgs),
    /// Remove the objects that none of the traces needs
    Gc(StoreGcArgs),
}

#[derive(Args)]
pub struct StoreListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Args)]
pub struct StoreGcArgs {
    /// Traces whose images are kept; of a folder, all files below it that end in .nvmx
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Keep what was put there within that time: a recording that has just begun may need it
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub young: u64,
    /// Remove nothing, and say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct TraceArgs {
    /// Trace
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,
}

/// Whether checkpoints are kept.
#[derive(Args)]
pub struct KeepArgs {
    /// Keep checkpoints in FILE.seek, to seek by: beside one image of memory, they take at most so much of the trace's size
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = percent)]
    pub checkpoints: Option<u32>,
}

#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub trace: TraceArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Go to where this event has happened, and show what runs there
    #[arg(long, value_name = "EVENT", group = "place")]
    pub to: Option<u64>,
    /// Go to where that many instructions are retired, and show what runs there
    #[arg(long, value_name = "N", group = "place")]
    pub to_instruction: Option<u64>,
    /// Go to where the guest set this mark, the first or the COUNTth time, and show what runs there
    #[arg(long, value_name = "M[:COUNT]", group = "place", value_parser = mark)]
    pub to_mark: Option<(u32, u64)>,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Replay under this policy instead of the recorded one, and find where the two part
    #[arg(long, value_name = "PRESET", value_parser = presets(), help_heading = "Another L0", conflicts_with_all = ["place", "runs", "checkpoints"])]
    pub policy: Option<String>,
    /// Replay with these mistakes of L0's, and find where the two part; with --l0, which decision changes first
    #[arg(long, value_name = "SLIP", value_delimiter = ',', value_parser = word(Slip::ALL, Slip::name), help_heading = "Another L0", conflicts_with_all = ["place", "runs", "checkpoints"])]
    pub fault: Vec<Slip>,
    /// Replay that often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// Replay L0 alone: silicon's answers come from the trace, and nothing is executed
    #[arg(long)]
    pub l0: bool,
    /// Alter silicon's answers by this seed, --runs times, until L0 fails
    #[arg(long, value_name = "SEED", requires = "l0", conflicts_with_all = ["fault", "to"])]
    pub mutate: Option<u64>,
    /// Trace to write if L0 fails on altered answers [default: l0-failure.nvmx]
    #[arg(short, long, value_name = "FILE", requires = "mutate")]
    pub output: Option<PathBuf>,
    /// Serve GDB there, forwards and backwards: at HOST:PORT, :PORT, unix:PATH, or - for standard input and output
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["runs", "json", "l0"])]
    pub gdb: Option<Address>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The word for a value.
pub fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What verdicts on flushes rest on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JudgeBy {
    /// The trace's events alone
    Rule,
    /// A second execution beside a TLB that keeps all that it may
    Replay,
}

#[derive(Args, Clone)]
pub struct JudgeArgs {
    /// What verdicts on flushes rest on
    #[arg(long, value_name = "HOW", default_value = "rule")]
    pub judge: JudgeBy,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a terminal
    Text,
    /// Markdown
    Md,
    /// One self-contained page
    Html,
    /// One object with stable keys
    Json,
    /// The counts, a line each
    Csv,
    /// What was done for what, as a flame graph: an SVG to open in a browser
    Flame,
    /// The same as folded stacks, for other tools
    Folded,
}

#[derive(Args)]
pub struct ReportArgs {
    /// Traces, or folders of them; several give one comparison, a folder or more than 16 one line of each
    #[arg(value_name = "FILE", required = true)]
    pub traces: Vec<PathBuf>,
    /// Form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: ReportFormat,
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// File to write to instead of stdout; of a folder's traces, a second run goes on where the first was interrupted
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Of many traces, write the report of each into this folder too
    #[arg(long, value_name = "DIR")]
    pub each: Option<PathBuf>,
    /// Of many traces, read so many at once [default: one for each CPU]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZero<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhatifFormat {
    /// For a terminal
    Text,
    /// Markdown
    Md,
    /// One object with stable keys
    Json,
    /// A variant a line
    Csv,
}

#[derive(Args)]
pub struct WhatifArgs {
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Policies to run it under, with commas between them [default: its own]
    #[arg(long, value_name = "PRESET", value_delimiter = ',', value_parser = presets())]
    pub policy: Vec<String>,
    /// Sizes of the vmcs02 pool to run each with
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub pool: Vec<u16>,
    /// Sizes of the TLB to run each with, in entries
    #[arg(long, value_name = "ENTRIES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub tlb: Vec<u32>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Form of the table
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: WhatifFormat,
    /// File to write to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueryFormat {
    /// Aligned columns
    Table,
    /// Comma-separated values with a header line
    Csv,
    /// A JSON object a line
    Json,
    /// A Parquet file
    Parquet,
}

#[derive(Args)]
pub struct QueryArgs {
    /// Trace, or a folder of traces
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,
    /// The question; without it, the tables and their columns are listed
    #[arg(value_name = "SQL")]
    pub sql: Option<String>,
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: QueryFormat,
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// File to write to instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct TuiArgs {
    /// Trace
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,
    /// A second trace, to compare with
    #[arg(value_name = "OTHER")]
    pub other: Option<PathBuf>,
    /// Without the bookmarks, the place and the columns that are kept beside the trace, and keep none
    #[arg(long)]
    pub fresh: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Args)]
pub struct DiffArgs {
    /// One trace
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Equal events to show before the first that differs
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub context: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[group(id = "limits", required = true, multiple = true, args = ["max_redundant_flushes", "max_missing_flushes", "max_mistakes", "max_pool_misses", "max_exits_per_l2_exit"])]
pub struct CheckArgs {
    /// Traces, or folders of them: each has to keep the limits
    #[arg(value_name = "FILE", required = true)]
    pub traces: Vec<PathBuf>,
    /// Redundant flushes allowed
    #[arg(long, value_name = "N")]
    pub max_redundant_flushes: Option<u64>,
    /// Missing flushes allowed
    #[arg(long, value_name = "N")]
    pub max_missing_flushes: Option<u64>,
    /// Mistakes of L0's allowed that are no matter of one flush
    #[arg(long, value_name = "N")]
    pub max_mistakes: Option<u64>,
    /// Misses of the vmcs02 pool allowed
    #[arg(long, value_name = "N")]
    pub max_pool_misses: Option<u64>,
    /// Exits to L0, of all levels, allowed for each exit of L2
    #[arg(long, value_name = "X", value_parser = finite)]
    pub max_exits_per_l2_exit: Option<f64>,
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the outcome as JUnit's XML too, a suite for each trace and a case for each limit
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Read so many traces at once [default: one for each CPU]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZero<usize>>,
}

#[derive(Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub trace: TraceArgs,
    /// JSON lines
    #[arg(long)]
    pub json: bool,
    /// First event to print
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// How many events to print
    #[arg(long, value_name = "K")]
    pub count: Option<u64>,
    /// Kinds of event to print, with commas between them
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = word(Kind::ALL, Kind::name))]
    pub kind: Vec<Kind>,
}

#[derive(Args)]
pub struct InfoArgs {
    /// Trace; without one, it is about this host
    #[arg(value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub trace: TraceArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Write what can be saved to a new trace
    #[arg(long, value_name = "OUT")]
    pub salvage: Option<PathBuf>,
}

#[derive(Args)]
pub struct AttachArgs {
    /// Only this process, with the threads that it makes later, or this thread [default: the whole host]
    #[arg(short, long, value_name = "P")]
    pub pid: Option<u32>,
    /// End after so many seconds [default: at Ctrl-C, or when the process ends]
    #[arg(short, long, value_name = "S", value_parser = seconds)]
    pub duration: Option<f64>,
    /// Trace to write [default: attach.nvmx, and none with --live]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Show exits by reason, level and rate while it runs; a table each interval in a pipe
    #[arg(long)]
    pub live: bool,
    /// Seconds between two pictures
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds, requires = "live")]
    pub interval: f64,
    /// Tracepoints, as kvm_exit or 'kvm:*' [default: those that docs/attach.md names]
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    pub events: Vec<String>,
    /// Room for records of each CPU that were not read yet: a number with K, M or G; without one, mebibytes
    #[arg(short, long, value_name = "SIZE", default_value = "4M", value_parser = buffer)]
    pub buffer: u64,
    /// Leave the kernel's functions that flush alone
    #[arg(long)]
    pub no_probes: bool,
    /// Do not count cycles, instructions and misses of the TLB of the threads that run vCPUs
    #[arg(long)]
    pub no_counters: bool,
    /// Print what was seen as one JSON object at the end
    #[arg(long, conflicts_with = "live")]
    pub json: bool,
}

#[derive(Args)]
pub struct ImportArgs {
    /// Foreign trace
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What wrote it
    #[arg(long, value_name = "SOURCE", value_parser = word(Source::ALL, Source::name))]
    pub from: Source,
    /// Trace to write
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
}

/// What a trace is exported to.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// A dataset of Parquet files
    Parquet,
    /// A dataset of Arrow files
    Arrow,
    /// A dataset of comma-separated values
    Csv,
    /// A file for ui.perfetto.dev, of one trace
    Perfetto,
}

#[derive(Args)]
pub struct ExportArgs {
    /// Traces
    #[arg(value_name = "FILE", required = true)]
    pub traces: Vec<PathBuf>,
    /// What to write
    #[arg(long, value_name = "WHAT")]
    pub to: To,
    /// Folder to write to; it is made, or is an earlier export that the traces are added to. For perfetto, a file
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
}

#[derive(Args)]
pub struct BenchArgs {
    /// Parts to measure: cpu, nested, record, trace, replay, seek, analysis, inspector, clone [default: all that can be]; and
    /// traces that trace, replay, seek, analysis and inspector measure on [default: recordings made now]
    #[arg(value_name = "PART|FILE")]
    pub words: Vec<PathBuf>,
    /// Folder of a Linux guest, as tests/guests/linux.sh and kvm.sh make it [default: what NVMX_LINUX_GUEST names, if anything]
    #[arg(long, value_name = "DIR")]
    pub guest: Option<PathBuf>,
    /// Checkout of nvmx to clone, build and run the demo of, which takes minutes
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Measure less and once: rougher
    #[arg(long)]
    pub quick: bool,
    /// Have trace-cmd and perf do the same where a part is named; with all parts they do
    #[arg(long)]
    pub peers: bool,
    /// Events that the part trace takes of each trace: of a longer one, whole blocks spread over it [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    pub events: Option<u64>,
    /// Make so long a trace for analysis and inspector: the events of the trace again and again, in a temporary file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub long: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the JSON object to a file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Exit with status 1 when a budget is missed
    #[arg(long)]
    pub gate: bool,
    /// Print the MiB that are resident before and at most while a part works on a trace, and nothing else
    #[arg(long, hide = true)]
    pub only_memory: bool,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Folder to write all pages to, one for each command
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn color_is_known_before_the_rest() {
        let check = |line: &str, color| {
            let args: Vec<_> = line.split(' ').map(Into::into).collect();
            assert_eq!(color_of(&args), color, "{line}");
        };
        check("nvmx guests", ColorChoice::Auto);
        check("nvmx --color never guests", ColorChoice::Never);
        check("nvmx guests --color=always", ColorChoice::Always);
        check("nvmx guests --color=pink", ColorChoice::Auto);
        check("nvmx guests --color", ColorChoice::Auto);
    }
}
