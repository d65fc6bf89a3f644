//! L1's memory: pages of this process that KVM maps into the guest.

#![allow(unsafe_code)] // Memory is shared with the kernel and with the guest.

use super::{HostError, refused};
use hv::l0::{HIGH_RAM, LOW_RAM_LIMIT, Ram};
use hv_defs::addr::Gpa;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::io;
use std::ptr::{self, NonNull};

/// RAM below the hole, and what is left of it above 4 GiB, in one mapping.
pub(super) struct Pages {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the value alone, wherever it is.
unsafe impl Send for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it so, and nobody has a reference into it.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

impl Pages {
    /// `bytes` of zeros, which take room when they are touched.
    pub(super) fn new(bytes: u64) -> Result<Self, HostError> {
        let none = |source| HostError::Memory { needed: bytes, source };
        let length = usize::try_from(bytes).map_err(|_| none(io::ErrorKind::OutOfMemory.into()))?;
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at a place of the kernel's choice touches nobody's memory.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(none(io::Error::last_os_error()));
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or_else(|| none(io::ErrorKind::OutOfMemory.into()))?;
        // As small pages: a guest's first touch of each is then the same everywhere.
        // SAFETY: it is advice about this mapping.
        unsafe { libc::madvise(at.as_ptr().cast(), length, libc::MADV_NOHUGEPAGE) };
        Ok(Self { at, bytes: length })
    }

    /// Gives it to a virtual machine, which must not outlive it.
    pub(super) fn give(&self, vm: &VmFd) -> Result<(), HostError> {
        let low = (self.bytes as u64).min(LOW_RAM_LIMIT);
        for (slot, guest_phys_addr, from, memory_size) in [(0, 0, 0, low), (1, HIGH_RAM, low, self.bytes as u64 - low)]
        {
            if memory_size == 0 {
                continue;
            }
            let userspace_addr = self.at.as_ptr() as u64 + from;
            let region = kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
            // SAFETY: the pages are this machine's alone, and stay mapped as long as it is there.
            unsafe { vm.set_user_memory_region(region) }.map_err(refused("map the guest's memory"))?;
        }
        Ok(())
    }

    /// Where `bytes` bytes are, if all of them are RAM on one side of the hole.
    fn place(&self, at: Gpa, bytes: usize) -> Option<*mut u8> {
        let low = (self.bytes as u64).min(LOW_RAM_LIMIT);
        let inside = |from: u64, length: u64| {
            let offset = at.0.checked_sub(from)?;
            (offset.checked_add(bytes as u64)? <= length).then_some(offset)
        };
        let offset = inside(0, low).or_else(|| Some(low + inside(HIGH_RAM, self.bytes as u64 - low)?))?;
        // SAFETY: it and `bytes` behind it are inside the mapping.
        Some(unsafe { self.at.as_ptr().add(offset as usize) })
    }
}

impl Ram for Pages {
    fn read(&mut self, at: Gpa, into: &mut [u8]) {
        match self.place(at, into.len()) {
            // SAFETY: so many bytes are there; the vCPU does not run while a device does.
            Some(from) => unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) },
            None => into.fill(0xff),
        }
    }

    fn write(&mut self, at: Gpa, bytes: &[u8]) {
        if let Some(to) = self.place(at, bytes.len()) {
            // SAFETY: as above.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ram_reads_all_ones_and_takes_nothing() {
        let mut pages = Pages::new(2 << 20).expect("memory");
        let mut check = |at: u64, holds: [u8; 4]| {
            pages.write(Gpa(at), &[1, 2, 3, 4]);
            let mut read = [0; 4];
            pages.read(Gpa(at), &mut read);
            assert_eq!(read, holds, "{at:#x}");
        };
        check(0, [1, 2, 3, 4]);
        check((2 << 20) - 4, [1, 2, 3, 4]);
        check((2 << 20) - 3, [0xff; 4]);
        check(HIGH_RAM, [0xff; 4]);
        check(u64::MAX - 1, [0xff; 4]);
    }
}
