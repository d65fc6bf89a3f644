//! What KVM says of the nested state of a vCPU, and what has changed since it was asked last.

#![allow(unsafe_code)] // The ioctl fills a union; what is in it is said beside it.

use super::vmcs12::{self, SIZE};
use super::{HostError, refused};
use hv_defs::event::{Actor, NO_ADDRESS, VmcsAccess, VmcsOp, What, Which};
use hv_defs::vmcs::VmcsField;
use kvm_bindings::{KVM_STATE_NESTED_FORMAT_VMX, KVM_STATE_NESTED_GUEST_MODE};
use kvm_ioctls::{KvmNestedStateBuffer, VcpuFd};
use std::collections::BTreeMap;

/// Bytes before the first VMCS.
const HEADER: usize = 128;

/// What is known of a vCPU's nested state.
#[derive(Default)]
pub(super) struct Nested {
    /// Whether L2 runs.
    pub(super) is_l2: bool,
    /// The current VMCS; [`NO_ADDRESS`] for none, as before VMXON.
    pub(super) vmcs12: u64,
    /// Each VMCS of L1's that was current, as it was seen last, by its address.
    pages: BTreeMap<u64, Box<[u8; SIZE]>>,
    /// Likewise each shadow VMCS.
    shadows: BTreeMap<u64, Box<[u8; SIZE]>>,
}

impl Nested {
    pub(super) fn new() -> Self {
        Self { vmcs12: NO_ADDRESS, ..Self::default() }
    }

    /// Asks KVM, and tells what has changed.
    pub(super) fn look(&mut self, vcpu: &VcpuFd, events: &mut Vec<What>) -> Result<(), HostError> {
        let mut state = KvmNestedStateBuffer::empty();
        let size = vcpu.nested_state(&mut state).map_err(refused("say what is nested"))?;
        if u32::from(state.format) != KVM_STATE_NESTED_FORMAT_VMX {
            return Ok(());
        }
        // SAFETY: the format says that it is VMX's part of the union, which is plain numbers.
        let address = unsafe { state.hdr.vmx.vmcs12_pa };
        self.is_l2 = u32::from(state.flags) & KVM_STATE_NESTED_GUEST_MODE != 0;
        if address != self.vmcs12 {
            self.vmcs12 = address;
            if address != NO_ADDRESS {
                let (actor, op, field) = (Actor::L1, VmcsOp::Load, VmcsField::default());
                let access = VmcsAccess { actor, which: Which::Vmcs12, address, op, field, old: 0, value: 0 };
                events.push(What::Vmcs(access));
            }
        }
        let size = size.map_or(0, usize::from);
        // SAFETY: all of the buffer was zeroed, and any bytes are good.
        let data = unsafe { &state.data.vmx };
        if size >= HEADER + SIZE && address != NO_ADDRESS {
            tell(&mut self.pages, &data.vmcs12, Which::Vmcs12, address, events);
        }
        if size >= HEADER + 2 * SIZE && address != NO_ADDRESS {
            let link = vmcs12::link(&data.vmcs12);
            tell(&mut self.shadows, &data.shadow_vmcs12, Which::Shadow12, link, events);
        }
        Ok(())
    }
}

/// Tells what has changed in a VMCS since it was seen last. One that was not seen before is told from zeros on.
fn tell(
    seen: &mut BTreeMap<u64, Box<[u8; SIZE]>>,
    now: &[u8; SIZE],
    which: Which,
    address: u64,
    events: &mut Vec<What>,
) {
    if !vmcs12::is_known(now) {
        return;
    }
    let page = seen.entry(address).or_insert_with(|| Box::new([0; SIZE]));
    if page[..] != now[..] {
        events.extend(vmcs12::changes(page, now, which, address).map(What::Vmcs));
        page.copy_from_slice(now);
    }
}
