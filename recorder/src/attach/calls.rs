//! The calls of the kernel that no safe wrapper has: sending one counter's records to another's ring, waiting for several rings,
//! the limit on open files, mounting tracefs.

#![allow(unsafe_code)] // Each is one call with arguments that are made here.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// `_IO('$', 5)` of linux/perf_event.h.
const PERF_EVENT_IOC_SET_OUTPUT: u32 = 0x2405;

/// Sends a counter's records to the ring of another on the same CPU or thread.
pub(super) fn share_ring(counter: &impl AsRawFd, ring: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: both are open files of perf events for as long as they are borrowed, and the call touches no memory.
    match unsafe { libc::ioctl(counter.as_raw_fd(), PERF_EVENT_IOC_SET_OUTPUT as _, ring.as_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until one of the files can be read, or a signal comes, or that long.
pub(super) fn wait(files: &[RawFd], most: Duration) -> io::Result<()> {
    let of = |fd: &RawFd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 };
    let mut polled: Vec<_> = files.iter().map(of).collect();
    let most = most.as_millis().clamp(1, 60_000) as libc::c_int;
    // SAFETY: the pointer and the length are of one vector, which lives through the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, most) };
    match ready {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// Raises the limit on this process's open files as far as it may: a counter is one, and there is one for each tracepoint and
/// CPU. What cannot be raised stays.
pub(super) fn many_files(wanted: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a structure of the call's type, which lives through it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 || limit.rlim_cur >= wanted {
        return;
    }
    // A hard limit is raised only by who may.
    for most in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: wanted.min(most), rlim_max: most };
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return;
        }
    }
}

/// Mounts tracefs at its usual place.
pub(super) fn mount_tracefs() -> io::Result<()> {
    let (kind, place) = (c"tracefs".as_ptr(), c"/sys/kernel/tracing".as_ptr());
    // SAFETY: the strings are constants that end in 0, and there is no data.
    match unsafe { libc::mount(kind, place, kind, 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of the thread that calls this.
pub(super) fn thread() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// Whether this process has the rights of root.
pub(super) fn is_root() -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
