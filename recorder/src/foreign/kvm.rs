//! Events of ours as KVM's tracepoints.

use super::{Layout, Record, Tape, What as Happened};
use hv_defs::event::{Actor, Event, NO_ADDRESS, What};
use hv_defs::exit::Reason;

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// `kvm_exit` and `kvm_entry`.
    Exits,
    /// Also whose exits they are, the addresses of page faults, and injections.
    Nested,
}

/// The process and the first thread of the virtual machine.
const PROCESS: u32 = 1000;

impl Tape {
    /// The exits and entries of a trace as tracepoints of KVM on Intel, one nanosecond for each of its ticks; a vCPU is a
    /// thread. What the tracepoints have no word for is left out.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>, layout: Layout, detail: Detail) -> Self {
        let mut tape = Self::new(layout);
        let nested = detail == Detail::Nested;
        for event in events {
            let vcpu = u32::from(event.at.vcpu);
            let (time, cpu) = (event.at.instruction, event.at.pcpu);
            if let What::Lost(count) = event.what {
                tape.records.push(Record { time, cpu, what: Happened::Lost(count) });
                continue;
            }
            let thread = tape.thread(PROCESS, PROCESS + 1 + vcpu, &format!("CPU {vcpu}/KVM"));
            let at = (time, cpu, thread);
            match &event.what {
                What::Exit(exit) => {
                    let reason = u32::from(exit.reason).into();
                    let info = u32::from(exit.intr_info).into();
                    let values = [
                        ("exit_reason", reason),
                        ("exit_code", reason),
                        ("guest_rip", exit.rip),
                        ("rip", exit.rip),
                        ("isa", 1),
                        ("info1", exit.qualification),
                        ("exit_info1", exit.qualification),
                        ("intr_info", info),
                        // Linux 4 has it there, and later kernels IDT-vectoring information.
                        ("info2", if layout == Layout::Linux4 { info } else { 0 }),
                        ("exit_int_info", info),
                        ("vcpu_id", vcpu.into()),
                    ];
                    tape.hit(at, "kvm_exit", &values);
                    if !nested {
                        continue;
                    }
                    if exit.level > 1 {
                        tape.hit(at, "kvm_nested_vmexit", &values);
                    }
                    if matches!(exit.basic(), Reason::EPT_VIOLATION | Reason::EPT_MISCONFIG) {
                        let fault = [("vcpu_id", vcpu.into()), ("guest_rip", exit.rip), ("fault_address", exit.gpa)];
                        tape.hit(at, "kvm_page_fault", &fault);
                    }
                    if exit.level > 1 && exit.handled_by != Actor::L0 {
                        tape.hit(at, "kvm_nested_vmexit_inject", &values);
                    }
                }
                What::Entry(entry) => {
                    let info = u32::from(entry.injected).into();
                    if nested && entry.level > 1 && entry.vmcs12 != NO_ADDRESS {
                        let values = [("vmcb", entry.vmcs12), ("isa", 1), ("tdp_enabled", u64::from(entry.eptp != 0))];
                        tape.hit(at, "kvm_nested_vmenter", &values);
                        tape.hit(at, "kvm_nested_vmrun", &values);
                    }
                    tape.hit(at, "kvm_entry", &[("vcpu_id", vcpu.into()), ("intr_info", info)]);
                }
                What::Injection(injection) if nested => {
                    let vector = u32::from(injection.info) & 0xff;
                    match u32::from(injection.info) >> 8 & 7 {
                        kind @ (0 | 4) => {
                            let values =
                                [("vector", vector.into()), ("irq", vector.into()), ("soft", u64::from(kind == 4))];
                            tape.hit(at, "kvm_inj_virq", &values);
                        }
                        3 | 6 => {
                            let has_error = u32::from(injection.info) >> 11 & 1;
                            let values = [
                                ("exception", vector.into()),
                                ("has_error", has_error.into()),
                                ("error_code", injection.error_code.into()),
                            ];
                            tape.hit(at, "kvm_inj_exception", &values);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        tape
    }
}
