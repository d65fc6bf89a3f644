//! A virtual machine of KVM's for the guests under one EPT pointer: one CPU, and memory as far as it was asked for.

#![allow(unsafe_code)] // Guest memory is shared with the kernel.

use super::slots::{Slot, Slots};
use crate::state::{from_cpu, gprs_of};
use crate::vm::{Error, refused};
use hv::cpu::Cpu;
use hv::memory::Memory;
use hv::mmu::Mapped;
use hv_defs::addr::Hpa;
use hv_defs::x86::{Cr4, Rflags};
use kvm_bindings::{
    CpuId, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    kvm_enable_cap, kvm_guest_debug, kvm_guest_debug_arch, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

/// Leaves of 4 KiB are looked at in runs of that many bytes, larger ones in runs of so many.
const AROUND_SMALL: u64 = 2 << 20;
const AROUND_LARGE: u64 = 1 << 30;

/// Of an entry of a paging structure: it is in use; it maps a large page; where what it points to lies.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Walks the guest's paging structures, with nothing set and nobody told: visits the guest-physical address of each entry
/// that there is, and of what `linear` leads to, which it returns.
fn walk<E>(
    cpu: &Cpu,
    memory: &Memory,
    linear: u64,
    visit: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<Option<u64>, E> {
    let mut table = cpu.cr3 & FRAME;
    for shift in [39, 30, 21, 12] {
        let at = table + (linear >> shift & 0x1ff) * 8;
        visit(at)?;
        let Some(page) = cpu.mmu.mapped(memory, at) else { return Ok(None) };
        let entry: u64 = memory.read(page.at.offset(at & (page.size - 1)));
        if entry & PRESENT == 0 {
            return Ok(None);
        }
        table = entry & FRAME;
        if shift == 12 || shift < 39 && entry & LARGE != 0 {
            let within = (1 << shift) - 1;
            let gpa = table & !within | linear & within;
            visit(gpa)?;
            return Ok(Some(gpa));
        }
    }
    Ok(None)
}

/// Where the byte at a linear address lies, if it lies in memory.
pub(super) fn find(cpu: &Cpu, memory: &Memory, linear: u64) -> Option<Hpa> {
    let Ok(gpa) = walk::<core::convert::Infallible>(cpu, memory, linear, &mut |_| Ok(()));
    let gpa = gpa?;
    let page = cpu.mmu.mapped(memory, gpa)?;
    Some(page.at.offset(gpa & (page.size - 1)))
}

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stopped {
    /// Where it was to.
    There,
    /// It read what has no memory behind it: so many bytes at that address. The instruction waits for them.
    Reads(u64, usize),
    /// It wrote these bytes to what has no memory behind it. The instruction is over but for that.
    Writes(u64, [u8; 8], usize),
    /// At an instruction that raises an exception, or that KVM does not execute.
    Odd,
}

/// A virtual machine.
#[derive(Debug)]
pub(super) struct Space {
    // The CPU before its machine, so that it is dropped first.
    vcpu: VcpuFd,
    vm: VmFd,
    slots: Slots,
    /// The address of EPT's first table, which is what the guests' memory is tagged with.
    pub(super) ep4ta: u64,
    /// The system registers as KVM gave them, and as they were set last.
    template: kvm_sregs,
    set: Option<kvm_sregs>,
    /// [`hv::mmu::Mmu::flush_count`] at the last run.
    flushes: u64,
    /// Slots have changed since the last run: a KVM may have no tables to begin with since.
    remapped: bool,
    /// EPT may say otherwise than the slots.
    pub(super) stale: bool,
    /// What was a slot since the writes were told last.
    gone: Vec<(Hpa, u64)>,
}

impl Space {
    pub(super) fn new(kvm: &Kvm, cpuid: &CpuId, slots: u32, ep4ta: u64) -> Result<Self, Error> {
        let vm = kvm.create_vm().map_err(refused("make a VM"))?;
        // For CPUs that cannot run real mode by themselves; where there is no need of them there may be no such request.
        let _ = vm.set_tss_address(0xfffb_d000);
        let _ = vm.set_identity_map_address(0xfffb_c000);
        // What the emulator has not got is to come here, and not to become an exception. A kernel without it delivers #UD, which
        // ends in a shutdown like every exception.
        let fail = kvm_enable_cap { cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE, args: [1, 0, 0, 0], ..Default::default() };
        let _ = vm.enable_cap(&fail);
        let mut vcpu = vm.create_vcpu(0).map_err(refused("make a CPU"))?;
        vcpu.set_cpuid2(cpuid).map_err(refused("set CPUID"))?;
        let template = vcpu.get_sregs().map_err(refused("give the system registers"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        let slots = Slots::new(slots);
        Ok(Self {
            vcpu,
            vm,
            slots,
            ep4ta,
            template,
            set: None,
            flushes: 0,
            remapped: false,
            stale: false,
            gone: Vec::new(),
        })
    }

    /// Gives KVM the guest's state.
    pub(super) fn put(&mut self, cpu: &Cpu) -> Result<(), Error> {
        let sregs = from_cpu(cpu, &self.template);
        let flushes = cpu.mmu.flush_count();
        if self.set.as_ref() != Some(&sregs) || self.flushes != flushes || self.remapped {
            if self.set.is_some() && (self.flushes != flushes || self.remapped) {
                // A change of CR4.PGE and back has KVM drop what it has cached of paging.
                let other = kvm_sregs { cr4: sregs.cr4 ^ Cr4::PGE.bits(), ..sregs };
                self.vcpu.set_sregs(&other).map_err(refused("set the system registers"))?;
            }
            self.vcpu.set_sregs(&sregs).map_err(refused("set the system registers"))?;
            self.set = Some(sregs);
            self.flushes = flushes;
            self.remapped = false;
        }
        let regs = &mut self.vcpu.sync_regs_mut().regs;
        for (into, from) in gprs_of(regs).into_iter().zip(cpu.regs.gpr) {
            *into = from;
        }
        regs.rip = cpu.rip;
        regs.rflags = cpu.rflags();
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }

    /// Takes the guest's registers from KVM, as they were when it stopped last.
    pub(super) fn take(&mut self, cpu: &mut Cpu) {
        let regs = &mut self.vcpu.sync_regs_mut().regs;
        for (into, from) in cpu.regs.gpr.iter_mut().zip(gprs_of(regs)) {
            *into = *from;
        }
        cpu.rip = regs.rip;
        cpu.set_rflags(regs.rflags & !Rflags::RF.bits());
    }

    /// Where the guest was when it stopped last.
    pub(super) fn rip(&self) -> u64 {
        self.vcpu.sync_regs().regs.rip
    }

    /// Has the guest stop at these addresses, at most four.
    pub(super) fn stop_at(&mut self, stops: &[(u64, usize)]) -> Result<(), Error> {
        let mut arch = kvm_guest_debug_arch::default();
        for (number, &(at, _)) in stops.iter().enumerate().take(4) {
            arch.debugreg[number] = at;
            arch.debugreg[7] |= 2 << (2 * number);
        }
        self.debug(KVM_GUESTDBG_USE_HW_BP, arch)
    }

    /// Has the guest stop behind its next instruction. It is told which that is, since KVM steps from where the guest is when it
    /// hears of it.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        let regs = self.vcpu.sync_regs().regs;
        self.vcpu.set_regs(&regs).map_err(refused("set the registers"))?;
        self.debug(KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug_arch::default())
    }

    fn debug(&self, how: u32, arch: kvm_guest_debug_arch) -> Result<(), Error> {
        let debug = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | how, pad: 0, arch };
        self.vcpu.set_guest_debug(&debug).map_err(refused("stop its guest"))
    }

    /// Runs the guest until it stops.
    pub(super) fn run(&mut self) -> Result<Stopped, Error> {
        loop {
            return match self.vcpu.run() {
                Ok(VcpuExit::Debug(_)) => Ok(Stopped::There),
                Ok(VcpuExit::MmioRead(at, data)) => Ok(Stopped::Reads(at, data.len())),
                Ok(VcpuExit::MmioWrite(at, data)) => {
                    let mut bytes = [0; 8];
                    let length = data.len().min(8);
                    bytes[..length].copy_from_slice(&data[..length]);
                    Ok(Stopped::Writes(at, bytes, length))
                }
                Ok(_) => Ok(Stopped::Odd),
                Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => continue,
                // A state that a guest cannot be run from, or too few slots for KVM to have tables: the software CPU makes
                // sense of the one, and the other will be more.
                Err(errno) if matches!(errno.errno(), libc::EFAULT | libc::EINVAL | libc::ENOSPC) => Ok(Stopped::Odd),
                Err(errno) => Err(refused("run a guest")(errno)),
            };
        }
    }

    /// Answers a read that the guest waits for.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        // SAFETY: the guest stopped for such an access, so that this is the part of the exit that KVM filled in.
        let mmio = unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.mmio };
        let length = bytes.len().min(mmio.data.len());
        mmio.data[..length].copy_from_slice(&bytes[..length]);
    }

    /// Has KVM forget what it was about to do for the guest: an access, or an exception. The registers are to be put anew.
    pub(super) fn forget(&mut self) -> Result<(), Error> {
        self.vcpu.set_kvm_immediate_exit(1);
        let forgotten = loop {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => {}
                Ok(_) => break Ok(()),
                Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EFAULT | libc::EINVAL | libc::ENOSPC) => {
                    break Ok(());
                }
                Err(errno) => break Err(refused("run a guest")(errno)),
            }
        };
        self.vcpu.set_kvm_immediate_exit(0);
        forgotten?;
        self.vcpu.set_vcpu_events(&kvm_vcpu_events::default()).map_err(refused("forget its events"))
    }

    /// Maps what the translation of a linear address needs, entries of paging structures and the page, as far as it is
    /// there. Returns whether anything was mapped that was not before.
    pub(super) fn reach(&mut self, cpu: &Cpu, memory: &Memory, linear: u64) -> Result<bool, Error> {
        let mut new = false;
        let mut visit = |gpa| self.bring(cpu, memory, gpa).map(|brought| new |= brought);
        walk(cpu, memory, linear, &mut visit)?;
        Ok(new)
    }

    /// Maps a guest-physical address that is in no slot. Returns whether it now is in one.
    fn bring(&mut self, cpu: &Cpu, memory: &Memory, gpa: u64) -> Result<bool, Error> {
        if self.slots.find(gpa).is_some() { Ok(false) } else { self.fill(cpu, memory, gpa) }
    }

    /// Maps the page at `gpa`, and what lies around it in the same way, if it may be read and written. Returns whether
    /// it may.
    pub(super) fn fill(&mut self, cpu: &Cpu, memory: &Memory, gpa: u64) -> Result<bool, Error> {
        let look = |gpa: u64| cpu.mmu.mapped(memory, gpa).filter(|page| page.readable && page.writable);
        let Some(page) = look(gpa) else { return Ok(false) };
        let around = if page.size == 4096 { AROUND_SMALL } else { AROUND_LARGE };
        if let Some((first, _)) = self.slots.find(gpa) {
            // It is there, and KVM asks for it all the same: it was mapped otherwise.
            self.remove(first)?;
        }
        let window = gpa & !(around - 1);
        let (lowest, highest) = (
            window.max(self.slots.end_before(gpa)),
            (window + around).min(gpa.saturating_add(self.slots.room_behind(gpa))),
        );
        let mut first = gpa & !(page.size - 1);
        let mut at = page.at;
        let mut end = first + page.size;
        while first > lowest
            && let Some(before) = look(first - 1)
            && before.at.0 + before.size == at.0
        {
            (first, at) = (first - before.size, before.at);
        }
        while end < highest
            && let Some(next) = look(end)
            && next.at.0 == at.0 + (end - first)
        {
            end += next.size;
        }
        // A large page may reach over slots of what was mapped in smaller ones.
        let clear = first.max(lowest);
        let (at, first) = (Hpa(at.0 + (clear - first)), clear);
        let end = end.min(highest);
        let number = match self.slots.number() {
            Some(number) => number,
            None => {
                self.clear()?;
                self.slots.number().expect("all are free")
            }
        };
        let slot = Slot { number, bytes: end - first, at };
        self.tell(first, slot, memory)?;
        self.remapped = true;
        self.slots.insert(first, slot);
        Ok(true)
    }

    fn tell(&self, gpa: u64, slot: Slot, memory: &Memory) -> Result<(), Error> {
        let Some(host) = memory.host_address(slot.at, slot.bytes) else { return Ok(()) };
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: slot.bytes,
            userspace_addr: host.as_ptr() as u64,
        };
        // SAFETY: the bytes are the machine's memory, which outlives what runs on it.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(refused("map memory"))
    }

    fn remove(&mut self, gpa: u64) -> Result<(), Error> {
        let Some(slot) = self.slots.remove(gpa) else { return Ok(()) };
        self.gone.push((slot.at, slot.bytes));
        self.remapped = true;
        let region = kvm_userspace_memory_region { slot: slot.number, guest_phys_addr: gpa, ..Default::default() };
        // SAFETY: nothing is mapped by this.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(refused("take memory away"))
    }

    fn clear(&mut self) -> Result<(), Error> {
        let all: Vec<u64> = self.slots.iter().map(|(gpa, _)| gpa).collect();
        all.into_iter().try_for_each(|gpa| self.remove(gpa))
    }

    /// Takes away the slots that EPT says otherwise of.
    pub(super) fn refresh(&mut self, cpu: &Cpu, memory: &Memory) -> Result<(), Error> {
        self.stale = false;
        let holds = |gpa: u64, slot: &Slot| {
            let mut done = 0;
            while done < slot.bytes {
                let page = cpu.mmu.mapped(memory, gpa + done);
                let Some(Mapped { at, size, readable: true, writable: true }) = page else { return false };
                let within = (gpa + done) & (size - 1);
                if at.0 + within != slot.at.0 + done {
                    return false;
                }
                done += size - within;
            }
            true
        };
        let wrong: Vec<u64> = self.slots.iter().filter(|(gpa, slot)| !holds(*gpa, slot)).map(|(gpa, _)| gpa).collect();
        wrong.into_iter().try_for_each(|gpa| self.remove(gpa))
    }

    /// Where its guests may have written since the last call.
    pub(super) fn written(&mut self) -> impl Iterator<Item = (Hpa, u64)> + '_ {
        self.gone.drain(..).chain(self.slots.iter().map(|(_, slot)| (slot.at, slot.bytes)))
    }
}
