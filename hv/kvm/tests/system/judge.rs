//! Runs a case on KVM and on the software CPU, and says what differs.

use crate::kit::{Case, HANDLERS, MEMORY};
use hv::cpu::{Blocks, Cpu, Segment, Trap, inject, run};
use hv::memory::Memory;
use hv_defs::addr::Hpa;
use hv_defs::controls::{Interruptibility, PinBased, PrimaryControls, SecondaryControls};
use hv_defs::exit::{EventType, InterruptionInfo, Reason};
use hv_defs::x86::{Cr0, Cr4, GPR_NAMES};
use hv_kvm::{Exit, State, Vm};

/// Instructions that a case may take.
const MOST: u64 = 20_000;

/// RFLAGS.IF.
const IF: u64 = 0x200;

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// At a HLT.
    Halted,
    /// With a triple fault: the state is undefined.
    Shutdown,
    /// Not at all.
    Endless,
    /// With what is a hypervisor's to do in VMX non-root operation, where the software CPU always is.
    TaskSwitch,
    /// The judged one cannot run it.
    Cannot(String),
}

/// What a run leaves.
pub struct Outcome {
    /// Whether it ended in a handler.
    pub delivered: bool,
    pub end: End,
    pub state: State,
    pub memory: Vec<u8>,
}

/// The parts of a state that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    End,
    Rip,
    Gpr,
    Rflags,
    Segments,
    Tables,
    ControlRegisters,
    DebugRegisters,
    Msrs,
    Memory,
}

/// Whether RIP is in a handler, of flat code at least.
fn delivered(state: &State) -> bool {
    (HANDLERS..HANDLERS + 0x1000).contains(&state.rip)
}

/// The software CPU with its memory.
pub struct Ours {
    memory: Memory,
    blocks: Blocks,
    clock: u64,
}

/// Where the MSR bitmaps are, all zero: behind the guest's memory.
const BITMAP: u64 = MEMORY as u64;

impl Ours {
    pub fn new() -> Self {
        Self { memory: Memory::new(MEMORY as u64 + 0x1000), blocks: Blocks::new(), clock: 0 }
    }

    fn cpu(case: &Case) -> Cpu {
        let state = &case.state;
        let mut cpu = Cpu::new(256, 0);
        cpu.regs.gpr = state.gpr;
        cpu.rip = state.rip;
        cpu.seg = state.seg;
        cpu.ldtr = state.ldtr;
        cpu.tr = state.tr;
        cpu.gdtr = state.gdtr;
        cpu.idtr = state.idtr;
        cpu.cr0 = state.cr0;
        cpu.regs.cr2 = state.cr2;
        cpu.cr3 = state.cr3;
        cpu.cr4 = state.cr4 | Cr4::VMXE.bits();
        cpu.efer = state.efer;
        cpu.regs.dr = state.dr;
        cpu.regs.dr6 = state.dr6;
        cpu.dr7 = state.dr7;
        let [star, lstar, cstar, fmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip] = state.msrs;
        cpu.regs.star = star;
        cpu.regs.lstar = lstar;
        cpu.regs.cstar = cstar;
        cpu.regs.fmask = fmask;
        cpu.regs.kernel_gs_base = kernel_gs_base;
        cpu.sysenter_cs = sysenter_cs as u32;
        cpu.sysenter_esp = sysenter_esp;
        cpu.sysenter_eip = sysenter_eip;
        cpu.regs.xcr0 = 1;
        cpu.set_rflags(state.rflags);
        if state.cr0 & Cr0::PG.bits() != 0 && state.cr4 & Cr4::PAE.bits() != 0 && !cpu.long_mode() {
            let at = (state.cr3 & 0xffff_ffe0) as usize;
            cpu.pdptes = [0, 8, 16, 24].map(|entry| case.get((at + entry) as u64));
        }
        cpu.controls.pin = PinBased::EXTERNAL_INTERRUPT_EXITING;
        cpu.controls.primary = PrimaryControls::HLT_EXITING | PrimaryControls::MSR_BITMAPS;
        if case.interrupt.is_some() {
            cpu.controls.primary |= PrimaryControls::INTERRUPT_WINDOW_EXITING;
        }
        cpu.controls.secondary =
            SecondaryControls::UNRESTRICTED_GUEST | SecondaryControls::INVPCID | SecondaryControls::RDTSCP;
        cpu.controls.msr_bitmap = Hpa(BITMAP);
        // VMX operation needs these; the guest need not know.
        cpu.controls.cr0_mask = Cr0::NE.bits();
        cpu.controls.cr0_shadow = state.cr0;
        cpu.controls.cr4_mask = Cr4::VMXE.bits();
        cpu.mode_changed();
        cpu
    }

    pub fn run(&mut self, case: &Case) -> Outcome {
        self.memory.write_bytes(Hpa(0), &case.memory);
        self.blocks.follow(&mut self.memory);
        let mut cpu = Self::cpu(case);
        let end = self.go(&mut cpu, case);
        let state = State {
            gpr: cpu.regs.gpr,
            rip: cpu.rip,
            rflags: cpu.rflags(),
            seg: cpu.seg,
            ldtr: cpu.ldtr,
            tr: cpu.tr,
            gdtr: cpu.gdtr,
            idtr: cpu.idtr,
            cr0: cpu.cr0,
            cr2: cpu.regs.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4 & !Cr4::VMXE.bits(),
            efer: cpu.efer,
            dr: cpu.regs.dr,
            dr6: cpu.regs.dr6,
            dr7: cpu.dr7,
            msrs: [
                cpu.regs.star,
                cpu.regs.lstar,
                cpu.regs.cstar,
                cpu.regs.fmask,
                cpu.regs.kernel_gs_base,
                cpu.sysenter_cs.into(),
                cpu.sysenter_esp,
                cpu.sysenter_eip,
            ],
        };
        let memory = self.memory.bytes(Hpa(0), MEMORY).expect("the guest's memory").to_vec();
        Outcome { delivered: delivered(&state), end, state, memory }
    }

    fn go(&mut self, cpu: &mut Cpu, case: &Case) -> End {
        let until = self.clock + MOST;
        loop {
            let info = match run(cpu, &mut self.memory, &mut self.blocks, &mut self.clock, until) {
                Trap::Unsupported(what) => return End::Cannot(what.what),
                Trap::Paused => unreachable!("nobody watches"),
                Trap::Exit(info) => info,
            };
            let trap = match info.reason.reason() {
                Reason::HLT => {
                    cpu.rip = cpu.rip.wrapping_add(1);
                    // As with what a hypervisor skips: the shadow is over.
                    cpu.interruptibility.remove(Interruptibility::STI | Interruptibility::MOV_SS);
                    let waits = cpu.controls.primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING);
                    if !waits || cpu.rflags() & IF == 0 {
                        return End::Halted;
                    }
                    Ok(())
                }
                Reason::INTERRUPT_WINDOW => {
                    cpu.controls.primary.remove(PrimaryControls::INTERRUPT_WINDOW_EXITING);
                    let info = InterruptionInfo::new()
                        .with_vector(case.interrupt.unwrap_or(0))
                        .with_kind(EventType::ExternalInterrupt)
                        .with_valid(true);
                    inject(cpu, &mut self.memory, info, 0, 0)
                }
                Reason::TRIPLE_FAULT => return End::Shutdown,
                Reason::TASK_SWITCH => return End::TaskSwitch,
                Reason::EXTERNAL_INTERRUPT => return End::Endless,
                other => return End::Cannot(format!("exits with {other}, qualification {:#x}", info.qualification)),
            };
            match trap {
                Ok(()) => {}
                Err(Trap::Exit(info)) if info.reason.reason() == Reason::TRIPLE_FAULT => return End::Shutdown,
                Err(Trap::Exit(info)) if info.reason.reason() == Reason::TASK_SWITCH => return End::TaskSwitch,
                Err(trap) => return End::Cannot(format!("injection leads to {trap:?}")),
            }
        }
    }
}

/// Runs a case on KVM.
pub fn on_kvm(vm: &mut Vm, case: &Case) -> Outcome {
    vm.memory().copy_from_slice(&case.memory);
    vm.forget().expect("KVM forgets what it has cached");
    let end = match vm.set(&case.state) {
        Err(error) => End::Cannot(error.to_string()),
        Ok(()) => go(vm, case),
    };
    let state = vm.get().expect("KVM gives its state");
    Outcome { delivered: delivered(&state), end, state, memory: vm.memory().to_vec() }
}

fn go(vm: &mut Vm, case: &Case) -> End {
    vm.want_window(case.interrupt.is_some());
    let mut wanted = case.interrupt;
    if case.state.rflags & IF != 0
        && let Some(vector) = wanted.take()
        && let Err(error) = interrupt(vm, vector)
    {
        return error;
    }
    loop {
        match vm.run() {
            Exit::Halted => {
                let open = vm.get().expect("KVM gives its state").rflags & IF != 0;
                let Some(vector) = wanted.take_if(|_| open) else { return End::Halted };
                if let Err(error) = interrupt(vm, vector) {
                    return error;
                }
            }
            Exit::Window => {
                if let Some(vector) = wanted.take()
                    && let Err(error) = interrupt(vm, vector)
                {
                    return error;
                }
            }
            Exit::Shutdown => return End::Shutdown,
            Exit::Stuck => return End::Endless,
            Exit::Out(..) | Exit::In(..) | Exit::Mmio(_) => {}
            Exit::Failed(error) => return End::Cannot(format!("internal error {error}")),
            Exit::Other(what) => return End::Cannot(what),
        }
    }
}

fn interrupt(vm: &mut Vm, vector: u8) -> Result<(), End> {
    vm.want_window(false);
    vm.interrupt(vector).map_err(|error| End::Cannot(error.to_string()))
}

fn same_segment(a: &Segment, b: &Segment, protected: bool) -> bool {
    // Some leave of a null selector's hidden part what was there.
    let absent = |segment: &Segment| {
        segment.rights.unusable() || !segment.rights.present() || protected && segment.selector & !3 == 0
    };
    if absent(a) || absent(b) {
        return absent(a) == absent(b) && a.selector == b.selector;
    }
    a == b
}

/// What differs, part by part, KVM's first.
pub fn differences(kvm: &Outcome, ours: &Outcome) -> Vec<(Part, String)> {
    let mut all = Vec::new();
    if kvm.end != ours.end {
        all.push((Part::End, format!("{:?}, ours {:?}", kvm.end, ours.end)));
    }
    if kvm.end != End::Halted || ours.end != End::Halted {
        return all;
    }
    let (a, b) = (&kvm.state, &ours.state);
    let mut word = |part: Part, name: &str, a: u64, b: u64| {
        if a != b {
            all.push((part, format!("{name} {a:#x}, ours {b:#x}")));
        }
    };
    word(Part::Rip, "rip", a.rip, b.rip);
    for (number, name) in GPR_NAMES.iter().enumerate() {
        word(Part::Gpr, name, a.gpr[number], b.gpr[number]);
    }
    word(Part::Rflags, "rflags", a.rflags, b.rflags);
    for (name, x, y) in [("cr0", a.cr0, b.cr0), ("cr2", a.cr2, b.cr2), ("cr3", a.cr3, b.cr3), ("cr4", a.cr4, b.cr4)] {
        word(Part::ControlRegisters, name, x, y);
    }
    word(Part::ControlRegisters, "efer", a.efer, b.efer);
    for number in 0..4 {
        word(Part::DebugRegisters, "dr0 to dr3", a.dr[number], b.dr[number]);
    }
    word(Part::DebugRegisters, "dr6", a.dr6, b.dr6);
    word(Part::DebugRegisters, "dr7", a.dr7, b.dr7);
    let msrs = ["star", "lstar", "cstar", "fmask", "kernel_gs_base", "sysenter_cs", "sysenter_esp", "sysenter_eip"];
    for (number, name) in msrs.iter().enumerate() {
        word(Part::Msrs, name, a.msrs[number], b.msrs[number]);
    }
    let protected = b.cr0 & 1 != 0 && b.rflags & 0x2_0000 == 0;
    let names = ["es", "cs", "ss", "ds", "fs", "gs"];
    let segments = names.iter().zip(a.seg.iter().zip(&b.seg));
    for (name, (x, y)) in segments.chain([(&"ldtr", (&a.ldtr, &b.ldtr)), (&"tr", (&a.tr, &b.tr))]) {
        if !same_segment(x, y, protected) {
            let tell = |s: &Segment| {
                format!("{:#x} base {:#x} limit {:#x} rights {:#x}", s.selector, s.base, s.limit, u32::from(s.rights))
            };
            all.push((Part::Segments, format!("{name} {}, ours {}", tell(x), tell(y))));
        }
    }
    if (a.gdtr, a.idtr) != (b.gdtr, b.idtr) {
        all.push((Part::Tables, format!("{:x?} {:x?}, ours {:x?} {:x?}", a.gdtr, a.idtr, b.gdtr, b.idtr)));
    }
    let differs = |at: &usize| kvm.memory[*at] != ours.memory[*at];
    if kvm.memory != ours.memory
        && let Some(at) = (0..MEMORY).find(differs)
    {
        let at = at & !7;
        let shown = |memory: &[u8]| format!("{:02x?}", &memory[at..at + 8]);
        all.push((Part::Memory, format!("at {at:#x} {}, ours {}", shown(&kvm.memory), shown(&ours.memory))));
    }
    all
}
