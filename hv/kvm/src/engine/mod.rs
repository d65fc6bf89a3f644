//! The host's KVM as the CPU of our own machine: it executes plain instructions, for every guest.
//!
//! A guest is what runs under an EPT pointer; each has a virtual machine of KVM's, whose memory slots are what EPT maps,
//! filled when a guest asks for it. KVM runs from one place where it is known to stop to the next: a stretch of instructions
//! that follow one another, and the places where branches among them may lead. So instructions are counted exactly, and
//! whatever is to exit, to fault or to be told of is met before KVM has done anything about it. That is the software CPU's,
//! which executes it from the state that KVM has reached.
//!
//! What KVM cannot intercept for us is thus never left to it, on any host. An exception is recognised before it is
//! delivered: the guest's interrupt-descriptor table is hidden from KVM, so that each is a triple fault, which KVM tells of
//! with the guest still at the instruction. That the VMX instructions of L1 are none to KVM, whether its emulator gives up
//! or hardware raises #UD, comes to the same.

mod block;
mod plain;
mod slots;
mod space;

use crate::vm::{Error, refused};
use block::{Block, Looker};
use hv::cpu::Cpu;
use hv::memory::Memory;
use hv_defs::addr::{Hpa, PAGE_SIZE};
use hv_defs::x86::{Cr0, Cr4};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use space::{Space, Stopped};

/// Virtual machines that are kept: those used longest ago go first.
const SPACES: usize = 16;
/// Memory slots of one, however many more KVM would give.
const SLOTS: u32 = 4096;

/// Bits of CR4 with which plain instructions do not do the same on every CPU: protection keys, and CET.
const STRANGE: u64 = Cr4::PKE.bits() | Cr4::PKS.bits() | Cr4::CET.bits() | Cr4::LA57.bits();

/// KVM's part of a machine.
pub struct Engine {
    kvm: Kvm,
    cpuid: CpuId,
    slots: u32,
    /// Bits of CR4 with which plain instructions are the software CPU's.
    strange: u64,
    /// Whether a guest's registers are still there after a shutdown: AMD's CPUs leave them undefined.
    keeps_state: bool,
    /// The last used comes last.
    spaces: Vec<Space>,
    looker: Looker,
    block: Block,
    failed: Option<String>,
    retired: u64,
    /// Where guests may have written whose virtual machines are gone.
    gone: Vec<(Hpa, u64)>,
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine").field("spaces", &self.spaces).field("retired", &self.retired).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine on this host's /dev/kvm.
    ///
    /// # Errors
    /// No /dev/kvm, or a KVM that lacks what is needed.
    pub fn new() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|errno| Error::Open(std::io::Error::from_raw_os_error(errno.errno())))?;
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
            (Cap::SetGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(Error::Lacks(name));
            }
        }
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("say what CPUID may show"))?;
        let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(SLOTS).min(SLOTS);
        let vendor = cpuid.as_slice().iter().find(|leaf| leaf.function == 0).map(|leaf| leaf.ecx);
        let smap = cpuid.as_slice().iter().any(|leaf| (leaf.function, leaf.index) == (7, 0) && leaf.ebx >> 20 & 1 != 0);
        let strange = STRANGE | if smap { 0 } else { Cr4::SMAP.bits() };
        // "ntel" of GenuineIntel.
        let intel = vendor == Some(u32::from_le_bytes(*b"ntel"));
        let keeps_state = intel || std::path::Path::new(PARAVIRTUAL).exists();
        Ok(Self {
            kvm,
            cpuid,
            slots,
            strange,
            keeps_state,
            spaces: Vec::new(),
            looker: Looker::new(intel),
            block: Block::default(),
            failed: None,
            retired: 0,
            gone: Vec::new(),
        })
    }

    /// The virtual machine for an EPT pointer, last of all.
    fn space(&mut self, ep4ta: u64) -> Result<&mut Space, Error> {
        let last = self.spaces.len().wrapping_sub(1);
        match self.spaces.iter().rposition(|space| space.ep4ta == ep4ta) {
            Some(here) if here == last => {}
            Some(here) => self.spaces[here..].rotate_left(1),
            None => {
                if self.spaces.len() == SPACES {
                    let mut oldest = self.spaces.remove(0);
                    self.gone.extend(oldest.written());
                }
                self.spaces.push(Space::new(&self.kvm, &self.cpuid, self.slots, ep4ta)?);
            }
        }
        Ok(self.spaces.last_mut().expect("one was found or made"))
    }

    fn execute(&mut self, cpu: &mut Cpu, memory: &mut Memory, code: Hpa, most: u64) -> Result<u64, Error> {
        let paged = Cr0::PE.bits() | Cr0::PG.bits();
        let Some(eptp) = cpu.controls.eptp else { return Ok(0) };
        if !cpu.code64() || cpu.cr0 & paged != paged || cpu.cr4 & self.strange != 0 {
            return Ok(0);
        }
        let Some(page) = memory.bytes(code.page(), PAGE_SIZE as usize) else { return Ok(0) };
        let most = if self.keeps_state { most } else { 1 };
        let mut block = core::mem::take(&mut self.block);
        self.looker.look(&mut block, page, cpu.rip, most);
        let ran = match block.code.is_empty() {
            true => Ok(0),
            false => self.space(eptp.ep4ta()).and_then(|space| run(space, &block, cpu, memory, code)),
        };
        self.block = block;
        ran
    }
}

/// The module whose KVM runs guests without VMX and SVM.
const PARAVIRTUAL: &str = "/sys/module/kvm_pvm";

/// Runs a block, whose code is at `code`, as far as it goes. Returns how many of its instructions were retired.
fn run(space: &mut Space, block: &Block, cpu: &mut Cpu, memory: &mut Memory, code: Hpa) -> Result<u64, Error> {
    if space.stale {
        space.refresh(cpu, memory)?;
    }
    space.put(cpu)?;
    if block.is_step() {
        space.step()?;
    } else {
        space.stop_at(&block.stops)?;
    }
    loop {
        match space.run()? {
            Stopped::There => {
                space.take(cpu);
                return match block.executed(cpu.rip) {
                    Some(executed) => Ok(executed as u64),
                    None => Err(Error::Strayed(cpu.rip)),
                };
            }
            Stopped::Reads(gpa, length) => {
                let modifies = block.index(space.rip()).is_none_or(|index| block.code[index].modifies);
                let page = cpu.mmu.mapped(memory, gpa).filter(|page| page.readable && (page.writable || !modifies));
                let bytes = page.and_then(|page| memory.bytes(page.at.offset(gpa & (page.size - 1)), length));
                match bytes {
                    Some(bytes) => {
                        space.answer(bytes);
                        space.fill(cpu, memory, gpa)?;
                    }
                    None => {
                        // The instruction has changed nothing yet, and is completed in vain: what it writes then to the first
                        // of two pages is put right again.
                        space.take(cpu);
                        let first = first_part(cpu, memory, here(code, cpu.rip));
                        space.forget()?;
                        if let Some((at, bytes)) = first {
                            memory.write_bytes(at, &bytes);
                        }
                        return Ok(block.index(cpu.rip).unwrap_or(0) as u64);
                    }
                }
            }
            Stopped::Writes(gpa, bytes, length) => {
                let page = cpu.mmu.mapped(memory, gpa).filter(|page| page.writable);
                if let Some(page) = page
                    && memory.write_bytes(page.at.offset(gpa & (page.size - 1)), &bytes[..length])
                {
                    space.fill(cpu, memory, gpa)?;
                    continue;
                }
                space.take(cpu);
                space.forget()?;
                return undo(block, cpu);
            }
            Stopped::Odd => {
                space.take(cpu);
                space.forget()?;
                let Some(index) = block.index(cpu.rip) else { return Err(Error::Strayed(cpu.rip)) };
                if !reach(space, cpu, memory, here(code, cpu.rip))? || index > 0 {
                    return Ok(index as u64);
                }
                space.put(cpu)?;
            }
        }
    }
}

/// Where the code at `rip` lies, which is in the page of `code`.
fn here(code: Hpa, rip: u64) -> Hpa {
    code.page().offset(rip % PAGE_SIZE)
}

/// Of what the instruction at RIP, whose code is at `code`, accesses, the part in the first page, if it reaches into two:
/// where it lies, and what is there.
fn first_part(cpu: &Cpu, memory: &Memory, code: Hpa) -> Option<(Hpa, Vec<u8>)> {
    let [first, last] = block::accessed(code_bytes(memory, code)?, cpu)?;
    if first / PAGE_SIZE == last / PAGE_SIZE {
        return None;
    }
    let at = space::find(cpu, memory, first)?;
    Some((at, memory.bytes(at, (PAGE_SIZE - at.page_offset()) as usize)?.to_vec()))
}

/// The bytes of the instruction at `code`, as far as they are in its page.
fn code_bytes(memory: &Memory, code: Hpa) -> Option<&[u8]> {
    memory.bytes(code, (PAGE_SIZE - code.page_offset()).min(15) as usize)
}

/// Maps what the instruction at RIP, whose code is at `code`, needs to be fetched and to access memory, as far as it is
/// there: KVM takes entries of paging structures that lie in no slot for a page fault. Returns whether anything is new.
fn reach(space: &mut Space, cpu: &Cpu, memory: &Memory, code: Hpa) -> Result<bool, Error> {
    let mut new = space.reach(cpu, memory, cpu.rip)?;
    if let Some(bytes) = code_bytes(memory, code)
        && let Some(accessed) = block::accessed(bytes, cpu)
    {
        for linear in accessed {
            new |= space.reach(cpu, memory, linear)?;
        }
    }
    Ok(new)
}

/// Takes back the instruction that the guest has just executed, of which the store alone was not done. Returns how many of the
/// block's were retired before it.
fn undo(block: &Block, cpu: &mut Cpu) -> Result<u64, Error> {
    let index = block.stored(cpu.rip).ok_or(Error::Strayed(cpu.rip))?;
    let plain = block.code[index];
    cpu.rip = plain.at;
    cpu.regs.gpr[4] = cpu.regs.gpr[4].wrapping_add(plain.pushed);
    Ok(index as u64)
}

impl hv::cpu::Engine for Engine {
    fn run(&mut self, cpu: &mut Cpu, memory: &mut Memory, code: Hpa, most: u64) -> Result<u64, String> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.execute(cpu, memory, code, most) {
            Ok(retired) => {
                self.retired += retired;
                Ok(retired)
            }
            Err(error) => {
                let failed = error.to_string();
                self.failed = Some(failed.clone());
                Err(failed)
            }
        }
    }

    fn invalidate(&mut self, ep4ta: Option<u64>) {
        for space in &mut self.spaces {
            space.stale |= ep4ta.is_none_or(|ep4ta| ep4ta == space.ep4ta);
        }
    }

    fn tell_writes(&mut self, memory: &mut Memory) {
        let gone = self.gone.drain(..);
        gone.chain(self.spaces.iter_mut().flat_map(Space::written))
            .for_each(|(at, bytes)| memory.written_by_others(at, bytes));
    }

    fn retired(&self) -> u64 {
        self.retired
    }
}
