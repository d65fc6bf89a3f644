//! Posted interrupts between the CPUs of L1: one runs an L2, the other posts interrupts for it and sends the notification.
//! L2 takes them all, and L1 hears of none.

#[path = "support/collect.rs"]
mod collect;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/elf.rs"]
mod image;

use collect::{Run, run_in};
use cpus::{Asm, GDT, PML4, gate, mark, marks, put_trampoline, trampoline};
use hv::vmcs::{REVISION, SIZE, Vmcs};
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Actor, StopKind, What};
use hv_defs::exit::Reason;
use hv_defs::vmcs::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use image::{AT, elf, kernel};

const VMXON: u64 = 0x20_0000;
const VMCS12: u64 = 0x20_1000;
const EPT: u64 = 0x20_2000;
const BITMAP: u64 = 0x20_4000;
const VIRTUAL_APIC: u64 = 0x20_5000;
const DESCRIPTOR: u64 = 0x20_6000;
const L2_IDT: u64 = 0x20_7000;
const STACKS: u64 = 0x21_0000;

/// Words that L2 and the second CPU share: L2 runs; interrupts that L2 took.
const RUNS: u64 = 0x22_0000;
const TAKEN: u64 = 0x22_0040;

/// The interrupts, and their notification.
const VECTOR: u32 = 0x51;
const NOTIFICATION: u32 = 0xf2;
const ROUNDS: u32 = 20;

/// IA32_X2APIC_EOI, which silicon virtualizes for L2.
const X2APIC_EOI: u32 = 0x80b;
const APIC: u64 = 0xfee0_0000;

struct Kernel {
    a: CodeAssembler,
    /// L2 halts between interrupts, which does not exit to L1.
    halts: bool,
}

/// L1's vmcs12, but for the two RIPs, which its code writes.
fn vmcs12(halts: bool) -> Vmcs {
    let mut v = Vmcs::default();
    // TPR shadow, MSR bitmaps, secondary controls.
    let primary = 0x8400_6172 | 1 << 21 | 1 << 28;
    for (field, value) in [
        // External-interrupt exiting, posted interrupts.
        (PIN_BASED_CONTROLS.field(), 0x16 | 1 | 1 << 7),
        (PRIMARY_CONTROLS.field(), if halts { primary } else { primary | 1 << 7 }),
        // EPT, x2APIC mode, VPID, unrestricted guest, APIC-register virtualization, virtual-interrupt delivery.
        (SECONDARY_CONTROLS.field(), 0xa2 | 1 << 4 | 1 << 8 | 1 << 9),
        (EXIT_CONTROLS.field(), 0x0003_6fff | 1 << 15),
        (ENTRY_CONTROLS.field(), 0x13ff),
        (VPID.field(), 1),
        (EPT_POINTER.field(), EPT | 0x1e),
        (VMCS_LINK_POINTER.field(), u64::MAX),
        (hv_defs::vmcs::MSR_BITMAP.field(), BITMAP),
        (VIRTUAL_APIC_ADDRESS.field(), VIRTUAL_APIC),
        (POSTED_INTERRUPT_VECTOR.field(), NOTIFICATION.into()),
        (POSTED_INTERRUPT_DESCRIPTOR_ADDRESS.field(), DESCRIPTOR),
        (HOST_CR0.field(), 0x8000_0031),
        (HOST_CR3.field(), PML4.into()),
        (HOST_CR4.field(), 0x2020),
        (HOST_RSP.field(), STACKS + 0x1000),
        (HOST_CS_SELECTOR.field(), 0x10),
        (HOST_TR_SELECTOR.field(), 0x20),
        (HOST_GDTR_BASE.field(), GDT.into()),
        (GUEST_CR0.field(), 0x8000_0031),
        (GUEST_CR3.field(), PML4.into()),
        (GUEST_CR4.field(), 0x2020),
        (GUEST_RSP.field(), STACKS + 0x3000),
        (GUEST_RFLAGS.field(), 2),
        (GUEST_DR7.field(), 0x400),
        (GUEST_GDTR_BASE.field(), GDT.into()),
        (GUEST_GDTR_LIMIT.field(), 31),
        (GUEST_IDTR_BASE.field(), L2_IDT),
        (GUEST_IDTR_LIMIT.field(), 0xfff),
        (GUEST_CS_SELECTOR.field(), 0x10),
        (GUEST_CS_ACCESS_RIGHTS.field(), 0xa09b),
        (GUEST_CS_LIMIT.field(), 0xffff_ffff),
        (GUEST_TR_ACCESS_RIGHTS.field(), 0x8b),
        (GUEST_TR_LIMIT.field(), 0x67),
        (GUEST_LDTR_ACCESS_RIGHTS.field(), 0x1_0000),
    ] {
        v.write(field, value);
    }
    for rights in [
        GUEST_SS_ACCESS_RIGHTS,
        GUEST_DS_ACCESS_RIGHTS,
        GUEST_ES_ACCESS_RIGHTS,
        GUEST_FS_ACCESS_RIGHTS,
        GUEST_GS_ACCESS_RIGHTS,
    ] {
        v.set(rights, 0xc093);
    }
    for limit in [GUEST_SS_LIMIT, GUEST_DS_LIMIT, GUEST_ES_LIMIT, GUEST_FS_LIMIT, GUEST_GS_LIMIT] {
        v.set(limit, u32::MAX);
    }
    v
}

impl Kernel {
    fn store(&mut self, at: u64, value: u64) -> Asm {
        self.a.mov(rax, value)?;
        self.a.mov(qword_ptr(at), rax)
    }

    fn vmwrite(&mut self, field: VmcsField, label: CodeLabel) -> Asm {
        self.a.lea(rax, ptr(label))?;
        self.a.mov(ecx, field.0)?;
        self.a.vmwrite(rcx, rax)
    }

    /// Writes a register of the first CPU's or the second's own local APIC.
    fn apic(&mut self, register: u64, value: u32) -> Asm {
        self.a.mov(ecx, (APIC + register) as u32)?;
        self.a.mov(dword_ptr(rcx), value)
    }

    fn code(mut self) -> Result<Vec<u8>, IcedError> {
        let [mut l2, mut handler, mut after, mut second, mut bytes, mut region] =
            core::array::from_fn(|_| self.a.create_label());
        self.a.mov(esp, STACKS as u32 + 0x1000)?;
        // The second CPU starts.
        put_trampoline(&mut self.a, bytes, second)?;
        self.apic(0xf0, 0x1ff)?;
        self.apic(0x310, 1 << 24)?;
        self.apic(0x300, 0x4500)?;
        self.apic(0x300, 0x4601)?;
        // VMX.
        self.a.mov(rax, cr0)?;
        self.a.or(eax, 0x20)?;
        self.a.mov(cr0, rax)?;
        self.a.mov(rax, cr4)?;
        self.a.or(eax, 0x2000)?;
        self.a.mov(cr4, rax)?;
        self.store(VMXON, REVISION.into())?;
        self.a.lea(rsi, ptr(region))?;
        self.a.mov(edi, VMCS12 as u32)?;
        self.a.mov(ecx, SIZE as u32)?;
        self.a.rep().movsb()?;
        // EPT12: four gigabytes where they are.
        self.store(EPT, (EPT + 0x1000) | 7)?;
        for gigabyte in 0..4 {
            self.store(EPT + 0x1000 + 8 * gigabyte, gigabyte << 30 | 0xb7)?;
        }
        // L2's gate for the interrupts.
        gate(&mut self.a, L2_IDT, VECTOR, handler)?;
        self.store(STACKS, VMXON)?;
        self.store(STACKS + 8, VMCS12)?;
        self.a.vmxon(qword_ptr(STACKS))?;
        self.a.vmptrld(qword_ptr(STACKS + 8))?;
        self.vmwrite(GUEST_RIP.field(), l2)?;
        self.vmwrite(HOST_RIP.field(), after)?;
        self.a.vmlaunch()?;
        // It failed: the instruction error is the mark.
        self.a.mov(ecx, VM_INSTRUCTION_ERROR.field().0)?;
        self.a.vmread(rax, rcx)?;
        mark(&mut self.a)?;
        self.a.hlt()?;

        self.a.set_label(&mut after)?;
        self.a.mov(ecx, EXIT_REASON.field().0)?;
        self.a.vmread(rax, rcx)?;
        mark(&mut self.a)?;
        self.a.mov(eax, dword_ptr(TAKEN))?;
        mark(&mut self.a)?;
        self.a.mov(ecx, GUEST_INTERRUPT_STATUS.field().0)?;
        self.a.vmread(rax, rcx)?;
        mark(&mut self.a)?;
        self.a.out(0xf4, al)?;

        self.l2(&mut l2)?;
        self.a.set_label(&mut handler)?;
        self.a.inc(dword_ptr(TAKEN))?;
        self.a.mov(ecx, X2APIC_EOI)?;
        self.a.xor(eax, eax)?;
        self.a.xor(edx, edx)?;
        self.a.wrmsr()?;
        self.a.iretq()?;

        self.a.set_label(&mut second)?;
        self.second()?;
        self.a.set_label(&mut bytes)?;
        self.a.db(&trampoline()?)?;
        self.a.set_label(&mut region)?;
        let halts = self.halts;
        self.a.db(&vmcs12(halts).to_bytes())?;
        self.a.assemble(AT)
    }

    /// L2: it waits until it has taken all interrupts, and calls L1.
    fn l2(&mut self, at: &mut CodeLabel) -> Asm {
        let (mut again, mut done) = (self.a.create_label(), self.a.create_label());
        self.a.set_label(at)?;
        self.a.mov(dword_ptr(RUNS), 1)?;
        self.a.set_label(&mut again)?;
        self.a.cli()?;
        self.a.cmp(dword_ptr(TAKEN), ROUNDS as i32)?;
        self.a.je(done)?;
        self.a.sti()?;
        if self.halts {
            self.a.hlt()?;
        } else {
            self.a.pause()?;
        }
        self.a.jmp(again)?;
        self.a.set_label(&mut done)?;
        self.a.vmcall()
    }

    /// The second CPU: each interrupt is posted when L2 has taken the one before.
    fn second(&mut self) -> Asm {
        let (mut next, mut wait) = (self.a.create_label(), self.a.create_label());
        self.a.mov(esp, STACKS as u32 + 0x2000)?;
        self.apic(0xf0, 0x1ff)?;
        self.a.xor(ebx, ebx)?;
        self.a.set_label(&mut wait)?;
        self.a.pause()?;
        self.a.cmp(dword_ptr(RUNS), 1)?;
        self.a.jne(wait)?;
        self.a.set_label(&mut next)?;
        self.a.lock().bts(dword_ptr(DESCRIPTOR + u64::from(VECTOR / 32 * 4)), VECTOR % 32)?;
        self.a.lock().bts(dword_ptr(DESCRIPTOR + 32), 0)?;
        self.apic(0x310, 0)?;
        self.apic(0x300, 0x4000 | NOTIFICATION)?;
        self.a.inc(ebx)?;
        let mut again = self.a.create_label();
        self.a.set_label(&mut again)?;
        self.a.pause()?;
        self.a.cmp(dword_ptr(TAKEN), ebx)?;
        self.a.jne(again)?;
        self.a.cmp(ebx, ROUNDS as i32)?;
        self.a.jb(next)?;
        let mut idle = self.a.create_label();
        self.a.set_label(&mut idle)?;
        self.a.hlt()?;
        self.a.jmp(idle)
    }
}

fn check(halts: bool, pcpus: u16, slice: u64) {
    let guest = Guest::Kernel { name: "posted".to_owned(), append: String::new() };
    let config =
        Config { memory: 16 << 20, vcpus: 2, pcpus, slice, max_instructions: Some(20_000_000), ..Config::new(guest) };
    let a = CodeAssembler::new(64).expect("64 bits");
    let code = Kernel { a, halts }.code().expect("code that assembles");
    let run = run_in(&config, &kernel(elf(&code)), Run::default());
    let stop = run.stop.as_ref().expect("an end");
    let marks = marks(&run.events);
    let at = format!("halts {halts}, {pcpus} physical CPUs, slices of {slice}");
    assert_eq!(stop.kind, StopKind::DebugExit, "{at}: {}, {marks:x?}", stop.text);
    // Why L2 ended, what it took, and that nothing is requested or in service.
    assert_eq!(marks, [u32::from(Reason::VMCALL.0), ROUNDS, 0], "{at}");
    let told = run.events.iter().filter_map(|event| match &event.what {
        What::Exit(exit) if exit.level == 2 && exit.handled_by == Actor::L1 => Some(exit.basic()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [Reason::VMCALL], "{at}");
}

#[test]
fn l2_takes_what_another_cpu_posts_and_l1_hears_of_nothing() {
    for halts in [false, true] {
        for (pcpus, slice) in [(1, 1_000_000), (2, 1_000_000), (2, 777), (3, 100)] {
            check(halts, pcpus, slice);
        }
    }
}
