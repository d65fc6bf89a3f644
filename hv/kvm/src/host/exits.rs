//! KVM_RUN, and what it leaves in the page that a vCPU shares with us.

#![allow(unsafe_code)] // The shared page has a union, and bytes behind it.

use super::{HostError, refused};
use hv_defs::addr::Gpa;
use kvm_bindings::{KVM_EXIT_IO_IN, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};

/// Why the guest came to us.
pub(super) enum Exit {
    /// It did not: it was interrupted.
    Beat,
    /// Accesses to a port.
    Io(Io),
    /// A read of memory that is no RAM: where, and how many bytes.
    Read(Gpa, u8),
    /// A write there, and what.
    Write(Gpa, u8, u64),
    /// A triple fault.
    Shutdown,
    /// HLT, which nothing in the kernel takes.
    Halted,
    /// KVM gave up.
    Failed(String),
}

/// Accesses to a port: one, or those of a string instruction.
#[derive(Clone, Copy)]
pub(super) struct Io {
    pub(super) port: u16,
    /// Bytes of one access: 1, 2 or 4.
    pub(super) size: u8,
    pub(super) count: usize,
    pub(super) input: bool,
    /// Where the data lies, from the shared page on.
    at: usize,
}

/// Runs the vCPU.
pub(super) fn run(vcpu: &mut VcpuFd) -> Result<Exit, HostError> {
    Ok(match vcpu.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Exit::Io(io(vcpu.get_kvm_run())),
        Ok(VcpuExit::MmioRead(at, data)) => Exit::Read(Gpa(at), data.len() as u8),
        Ok(VcpuExit::MmioWrite(at, data)) => {
            let mut value = [0; 8];
            for (into, from) in value.iter_mut().zip(data) {
                *into = *from;
            }
            Exit::Write(Gpa(at), data.len() as u8, u64::from_le_bytes(value))
        }
        Ok(VcpuExit::Shutdown) => Exit::Shutdown,
        Ok(VcpuExit::Hlt) => Exit::Halted,
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Exit::Beat,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            Exit::Failed(format!("hardware refused to enter L1 on CPU {cpu} for reason {reason:#x}"))
        }
        Ok(VcpuExit::InternalError) => {
            // SAFETY: the exit reason says that it is this part of the union.
            let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
            Exit::Failed(format!("the host's KVM gave up with internal error {suberror}"))
        }
        Ok(other) => Exit::Failed(format!("the host's KVM came back with {other:?}, which is unknown here")),
        Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => Exit::Beat,
        Err(errno) => return Err(refused("run the vCPU")(errno)),
    })
}

fn io(run: &kvm_run) -> Io {
    // SAFETY: the exit reason says that it is this part of the union.
    let io = unsafe { run.__bindgen_anon_1.io };
    Io {
        port: io.port,
        size: io.size,
        count: io.count as usize,
        input: u32::from(io.direction) == KVM_EXIT_IO_IN,
        at: io.data_offset as usize,
    }
}

/// Where the data of one of the accesses lies.
fn data(vcpu: &mut VcpuFd, io: &Io, place: usize) -> *mut u8 {
    let shared: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: the kernel says so, and the mapping, which is larger than the structure, has it all.
    unsafe { shared.cast::<u8>().add(io.at + place * usize::from(io.size)) }
}

/// What one of the accesses writes.
pub(super) fn value_of(vcpu: &mut VcpuFd, io: &Io, place: usize) -> u32 {
    let from = data(vcpu, io, place);
    let mut value = [0; 4];
    for (offset, into) in value.iter_mut().enumerate().take(io.size.into()) {
        // SAFETY: the access has that many bytes there.
        *into = unsafe { from.add(offset).read() };
    }
    u32::from_le_bytes(value)
}

/// Gives one of the accesses what it reads.
pub(super) fn answer_in(vcpu: &mut VcpuFd, io: &Io, place: usize, value: u32) {
    let to = data(vcpu, io, place);
    for (offset, byte) in value.to_le_bytes().into_iter().enumerate().take(io.size.into()) {
        // SAFETY: the access has that many bytes there.
        unsafe { to.add(offset).write(byte) };
    }
}

/// Gives a read of memory what it reads.
pub(super) fn answer_read(vcpu: &mut VcpuFd, value: u64) {
    vcpu.get_kvm_run().__bindgen_anon_1.mmio.data = value.to_le_bytes();
}

/// CLOCK_MONOTONIC, in nanoseconds: what tracepoints can be stamped with too.
pub fn clock() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the structure; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The CPU that this thread is on.
pub(super) fn cpu() -> u16 {
    // SAFETY: it has no preconditions.
    u16::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}
