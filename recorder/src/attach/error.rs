//! Why a host could not be attached to, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a host could not be attached to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no KVM on this host, or its module is not loaded.
    #[error("this kernel has no tracepoints of KVM")]
    NoKvm,
    /// There is no tracefs, and it cannot be mounted.
    #[error("there is no tracefs: {0}")]
    NoTracefs(io::Error),
    /// tracefs is there, and not for this user.
    #[error("/sys/kernel/tracing may not be read")]
    TracefsHidden,
    /// The kernel does not let this user record.
    #[error("the kernel does not allow it: perf_event_paranoid is {0}")]
    NotAllowed(String),
    /// There is no such process.
    #[error("there is no process or thread {0}")]
    NoProcess(u32),
    /// There is no such tracepoint.
    #[error("this kernel has no tracepoint '{0}'")]
    NoEvent(String),
    /// The kernel lacks what this needs.
    #[error("this kernel is too old: {0}")]
    OldKernel(String),
    /// A ring could not be had.
    #[error("no buffer of {bytes} bytes for each CPU: {source}")]
    Ring {
        /// Bytes that were asked for.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// There are not enough open files for all counters.
    #[error("a tracepoint on a CPU is an open file, and there may be no more of them")]
    Files,
    /// The kernel failed.
    #[error("{0}")]
    Kernel(io::Error),
    /// The trace could not be created.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another recording is being written into the file. It is left as it is.
    #[error("another recording is being written to the file")]
    Busy,
    /// The trace could not be written on. It holds what was written up to its last whole block.
    #[error("the recording ended after {events} events: {source}")]
    Trace {
        /// Events until then.
        events: u64,
        /// Why.
        source: traces::Error,
    },
    /// The file was removed, renamed or replaced meanwhile, so that the trace is lost.
    #[error("the file was removed or replaced while it was written")]
    Gone,
}

/// What to do where there can be no more threads.
const THREADS: &str = "raise the limits on processes and memory (`ulimit -u`, `ulimit -v`)";

impl Error {
    /// Why a counter of that tracepoint could not be opened.
    pub(super) fn of_open(error: io::Error, name: &str, thread: bool) -> Self {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => {
                let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
                Self::NotAllowed(level.trim().to_owned())
            }
            Some(libc::EMFILE | libc::ENFILE) => Self::Files,
            Some(libc::ENOSYS) => Self::OldKernel("it has no perf events".into()),
            Some(libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP) => {
                Self::OldKernel(format!("it refuses to record {name}: {error}"))
            }
            Some(libc::ESRCH) if thread => Self::NoProcess(0),
            _ => Self::Kernel(error),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoKvm => "load kvm_intel or kvm_amd (`modprobe kvm_intel`)",
            Self::NoTracefs(_) => {
                "`mount -t tracefs tracefs /sys/kernel/tracing` as root, in a kernel with CONFIG_FTRACE"
            }
            Self::TracefsHidden => "run it as root, or `chmod -R a+rX /sys/kernel/tracing` and give nvmx CAP_PERFMON",
            Self::NotAllowed(_) => {
                "run it as root, give it CAP_PERFMON (`setcap cap_perfmon,cap_ipc_lock+ep nvmx`), or \
                 `sysctl kernel.perf_event_paranoid=-1`"
            }
            Self::NoProcess(_) => "name the process of a virtual machine, or the thread of a vCPU",
            Self::NoEvent(_) => "`ls /sys/kernel/tracing/events/kvm` names those that there are",
            Self::OldKernel(_) => "Linux 4.14 and later do; record with trace-cmd there, and `nvmx import`",
            Self::Ring { .. } => "name a smaller --buffer, or give it CAP_IPC_LOCK",
            Self::Files => "raise it by `ulimit -n 65536`, or name fewer --events",
            Self::Kernel(_) => "`dmesg` may say more",
            Self::Create { .. } => "name a file that can be written",
            Self::Busy => "name another file by -o, or end the other first",
            Self::Trace { source: traces::Error::Thread(_), .. } => THREADS,
            Self::Trace { .. } => "make room and record again; what was written up to its last whole block can be read",
            Self::Gone => "record it again, and leave the file where it is",
        }
    }

    /// Whether another command line may do: who asks for what is not there, or may not have it.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Kernel(_) | Self::Trace { .. } | Self::Gone)
    }
}
