//! What events are like others: filters that pick them, and names for what is looked for.

use hv_defs::event::{Event, NO_ADDRESS, VmcsOp, What, Which};
use hv_defs::vmcs::VmcsField;

/// What a sort of event is: its filter and its name; or why the event is of none.
pub(crate) type Sort = Result<(String, String), &'static str>;

/// Events of the same kind.
pub(crate) fn of_kind(event: &Event) -> Sort {
    let kind = event.what.kind();
    Ok((format!("kind == {kind}"), format!("{kind}")))
}

/// Exits for the same reason.
pub(crate) fn of_reason(event: &Event) -> Sort {
    match &event.what {
        What::Exit(exit) => Ok((format!("reason == {}", exit.basic().0), format!("{} exit", exit.basic()))),
        _ => Err("Only an exit has a reason."),
    }
}

/// Events of the same VMCS.
pub(crate) fn of_vmcs(event: &Event) -> Sort {
    let of_12 = |address: u64| {
        (
            format!("vmcs12 == {address:#x} or which == vmcs12 and address == {address:#x}"),
            format!("event of vmcs12 {address:#x}"),
        )
    };
    let of_silicons = |address: u64| {
        let text = format!("entry.vmcs02 == {address:#x} or which in {{vmcs01, vmcs02}} and address == {address:#x}");
        (text, format!("event of the VMCS at {address:#x}"))
    };
    match &event.what {
        What::Exit(exit) if exit.vmcs12 != NO_ADDRESS => Ok(of_12(exit.vmcs12)),
        What::Exit(_) => Ok(("exit.level == 1 or entry.level == 1".into(), "event of vmcs01".into())),
        What::Entry(entry) if entry.vmcs12 != NO_ADDRESS => Ok(of_12(entry.vmcs12)),
        What::Entry(entry) => Ok(of_silicons(entry.vmcs02)),
        What::Pool(pool) => Ok(of_12(pool.vmcs12)),
        What::Vmcs(access) => match access.which {
            Which::Vmcs12 => Ok(of_12(access.address)),
            Which::Vmcs01 | Which::Vmcs02 => Ok(of_silicons(access.address)),
            Which::Shadow12 | Which::Shadow02 => {
                let (which, address) = (access.which.name(), access.address);
                Ok((format!("which == {which} and address == {address:#x}"), format!("event of {which} {address:#x}")))
            }
        },
        _ => Err("The event is of no VMCS."),
    }
}

/// Accesses to a field, of one VMCS or of all: a filter and its name.
pub(crate) fn access_to(field: VmcsField, which: Option<Which>) -> (String, String) {
    let of = which.map_or(String::new(), |which| format!(" and which == {which}"));
    let name = which.map_or(String::new(), |which| format!("{which}."));
    (format!("field == {} and op in {{read, write}}{of}", field.0), format!("access to {name}{field}"))
}

/// The filter that picks events like this one.
pub(crate) fn like_this(event: &Event) -> String {
    match &event.what {
        What::Exit(exit) => match exit.basic().name() {
            Some(name) => format!("reason == {name} and level == {}", exit.level),
            None => format!("reason == {} and level == {}", exit.basic().0, exit.level),
        },
        What::Entry(entry) => format!("entry and level == {}", entry.level),
        What::Vmcs(access) if access.field.name().is_some() && matches!(access.op, VmcsOp::Read | VmcsOp::Write) => {
            format!("which == {} and op == {} and field == {}", access.which, access.op, access.field)
        }
        What::Flush(flush) => format!("flush.kind == {} and cause == {}", flush.kind, flush.cause),
        What::Pool(pool) => format!("pool and op == {}", pool.op),
        What::Ept(change) => format!("ept and op == {}", change.op),
        What::Injection(injection) => format!("injection and vector == {}", injection.info.vector()),
        what => format!("kind == {}", what.kind()),
    }
}

/// The event as `nvmx dump` prints it.
pub(crate) fn as_text(number: u64, event: &Event) -> String {
    let at = &event.at;
    let mut line = format!("{number} {} {}/{} {}", at.instruction, at.vcpu, at.pcpu, event.what.kind());
    for (field, value) in event.values() {
        line.push_str(&format!(" {}={value}", field.name));
    }
    line
}
