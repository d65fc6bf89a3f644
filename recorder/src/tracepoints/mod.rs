//! What KVM's tracepoints say, as events of ours.
//!
//! A hit of a tracepoint is a thread, a time and fields with names: text of other tools gives them ([`crate::import`]), and
//! so do the kernel's own records ([`crate::attach`]). What is made of them is here, once for both.
//!
//! | tracepoint | becomes |
//! | --- | --- |
//! | `kvm_exit` | an exit, of L2 while L2 runs |
//! | `kvm_entry` | an entry |
//! | `kvm_nested_vmenter`, `kvm_nested_vmrun` | L2 runs from here on, under that vmcs12 |
//! | `kvm_nested_vmexit` | the exit was L2's |
//! | `kvm_nested_vmexit_inject`, `kvm_nested_intr_vmexit` | the exit is L1's to handle, and L1 runs from here on |
//! | `kvm_page_fault`, `kvm_mmio`, `kvm_fast_mmio` | the exit's guest-physical address |
//! | `kvm_inj_virq`, `kvm_inj_exception` | an injection |
//! | `kvm_hv_flush_tlb`, `kvm_hv_flush_tlb_ex`, `kvm_pv_tlb_flush`, `kvm_invlpga` | a flush that the guest asked for |
//! | `kvm_pio`, `kvm_cr`, `kvm_cpuid`, `kvm_msr`, `kvm_hypercall`, `kvm_mmio` | an exit, of vCPUs that have no `kvm_exit`: see `emulated` |
//! | a kernel function that flushes, see `flush` | a flush of L0's |

mod emulated;
pub(crate) mod flush;
mod reasons;
mod state;
mod svm;
mod vcpus;

pub(crate) use reasons::{Found, SVM, VMX, exception, named, numbered};
pub(crate) use state::State;

/// Where and when a tracepoint was hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At {
    /// The thread's id.
    pub(crate) thread: u32,
    /// Its process's, where the source says so.
    pub(crate) process: Option<u32>,
    /// The physical CPU.
    pub(crate) cpu: u16,
    /// The time, in what the source's clock counts.
    pub(crate) time: u64,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $hex:literal $($word:literal)|+,)*) => {
        /// A field that something is made of. Kernels call it by several names.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Field {
            $($(#[$doc])* $name,)*
        }

        impl Field {
            /// All of them, in their order.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its names, and whether it is in hexadecimal where it is printed without saying so.
            pub(crate) const fn names(self) -> (&'static [&'static str], bool) {
                match self {
                    $(Self::$name => (&[$($word),+], $hex),)*
                }
            }
        }
    };
}

fields! {
    /// KVM's number of the vCPU.
    Vcpu = false "vcpu" | "vcpu_id",
    /// Where the guest was.
    Rip = true "rip" | "guest_rip",
    /// The exit's reason by number.
    Reason = false "exit_reason" | "exit_code",
    /// Whose reasons: 1 for VMX, 2 for SVM.
    Isa = false "isa",
    /// The first word of information.
    Info1 = true "info1" | "ext_inf1" | "exit_info1",
    /// The second.
    Info2 = true "info2" | "ext_inf2" | "exit_info2",
    /// Interruption information.
    IntrInfo = false "intr_info",
    /// The vmcs12, or AMD's counterpart.
    Vmcs12 = true "vmcs" | "vmcb",
    /// A page fault's or a flush's address.
    Address = true "address" | "fault_address",
    /// A guest-physical address.
    Gpa = true "gpa",
    /// An interrupt's vector.
    Vector = false "IRQ" | "Soft/INTn" | "vector" | "irq",
    /// Whether the interrupt is an instruction's.
    Soft = false "soft",
    /// An exception's vector.
    Exception = false "exception",
    /// Whether it has an error code.
    HasError = false "has_error",
    /// The error code.
    ErrorCode = false "error_code",
    /// The flags of a hypercall that flushes.
    Flags = false "flags",
    /// Whether L2 called.
    GuestMode = false "guest_mode",
    /// Whether a vCPU that was away has to flush.
    NeedFlush = false "need_flush_tlb",
    /// AMD's VPID.
    Asid = false "asid",
    /// Whether a register or a port is written.
    Writes = false "rw" | "write",
    /// A port.
    Port = false "at" | "port",
    /// Bytes of an access to a port.
    Size = false "size",
    /// How many there are of them.
    Count = false "count",
    /// A control register's number.
    Register = false "cr",
    /// What kind of access to memory: 0 is a read that is not answered yet, 1 a read, 2 a write.
    Kind = false "type",
}

/// A hit of a tracepoint.
pub(crate) trait Hit {
    /// Where and when.
    fn at(&self) -> At;

    /// The tracepoint's name, without its system.
    fn event(&self) -> &str;

    /// A field, if the tracepoint has it.
    fn get(&self, field: Field) -> Option<u64>;

    /// The two words of information of an exit; 0 where there are none.
    fn infos(&self) -> [u64; 2] {
        [Field::Info1, Field::Info2].map(|info| self.get(info).unwrap_or(0))
    }

    /// The exit's reason. `svm` says whether the host is known to be AMD's, for numbers of which nobody says whose they are.
    fn reason(&self, svm: bool) -> Option<Found> {
        let number = self.get(Field::Reason)? as u32;
        Some(numbered(number, self.get(Field::Isa).map_or(svm, |isa| isa == 2), self.infos()[0]))
    }

    /// An exception's vector and error code, if it has one.
    fn exception(&self) -> Option<(u64, Option<u64>)> {
        let code = match self.get(Field::HasError) {
            Some(0) => None,
            _ => self.get(Field::ErrorCode),
        };
        Some((self.get(Field::Exception)?, code))
    }
}
