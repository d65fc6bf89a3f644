//! The architectural state that a snippet begins and ends with, and how KVM spells it.

use hv::cpu::{Cpu, Segment, Table};
use hv_defs::x86::{AccessRights, Cr0, Cr4, Efer, msr};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

/// What a guest's system code can see of its CPU, less the floating-point and vector registers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// RIP of the next instruction.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    /// The local descriptor table.
    pub ldtr: Segment,
    /// The task register.
    pub tr: Segment,
    /// The global descriptor table.
    pub gdtr: Table,
    /// The interrupt descriptor table.
    pub idtr: Table,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK, IA32_KERNEL_GS_BASE, IA32_SYSENTER_CS, _ESP, _EIP.
    pub msrs: [u64; 8],
}

/// The MSRs of [`State::msrs`].
pub(crate) const MSRS: [u32; 8] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::FMASK,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

/// The order of [`State::gpr`] in KVM's structure.
pub(crate) fn gprs_of(regs: &mut kvm_regs) -> [&mut u64; 16] {
    let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = regs;
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
}

fn to_segment(from: &Segment) -> kvm_segment {
    let rights = from.rights;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: rights.kind(),
        present: rights.present().into(),
        dpl: rights.dpl(),
        db: rights.big().into(),
        s: rights.code_or_data().into(),
        l: rights.long().into(),
        g: rights.granularity().into(),
        avl: rights.available().into(),
        unusable: rights.unusable().into(),
        padding: 0,
    }
}

fn from_segment(from: &kvm_segment) -> Segment {
    let rights = AccessRights::new()
        .with_kind(from.type_)
        .with_code_or_data(from.s != 0)
        .with_dpl(from.dpl)
        .with_present(from.present != 0)
        .with_available(from.avl != 0)
        .with_long(from.l != 0)
        .with_big(from.db != 0)
        .with_granularity(from.g != 0)
        .with_unusable(from.unusable != 0);
    Segment { selector: from.selector, base: from.base, limit: from.limit, rights }
}

/// The system registers that plain instructions of a guest in 64-bit mode depend on. What KVM need not know, it is not told:
/// there is no interrupt-descriptor table, so that no exception is delivered.
pub(crate) fn from_cpu(cpu: &Cpu, template: &kvm_sregs) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = cpu.seg.each_ref().map(to_segment);
    let cr0 = Cr0::PE | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    let cr4 = Cr4::PAE | Cr4::PGE | Cr4::SMAP;
    let efer = Efer::LME | Efer::LMA | Efer::NXE;
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: to_segment(&cpu.tr),
        ldt: kvm_segment { unusable: 1, ..kvm_segment::default() },
        gdt: kvm_dtable::default(),
        idt: kvm_dtable::default(),
        cr0: cpu.cr0 & cr0.bits() | Cr0::NE.bits() | Cr0::ET.bits(),
        cr2: 0,
        cr3: cpu.cr3 & 0x000f_ffff_ffff_f000,
        cr4: cpu.cr4 & cr4.bits(),
        cr8: 0,
        efer: cpu.efer & efer.bits(),
        interrupt_bitmap: [0; 4],
        ..*template
    }
}

impl State {
    pub(crate) fn regs(&self) -> kvm_regs {
        let mut regs = kvm_regs { rip: self.rip, rflags: self.rflags, ..kvm_regs::default() };
        for (into, &from) in gprs_of(&mut regs).into_iter().zip(&self.gpr) {
            *into = from;
        }
        regs
    }

    /// `sregs` with this state's part of it.
    pub(crate) fn sregs(&self, sregs: &kvm_sregs) -> kvm_sregs {
        let table = |from: Table| kvm_dtable { base: from.base, limit: from.limit, padding: [0; 3] };
        let [es, cs, ss, ds, fs, gs] = self.seg.each_ref().map(to_segment);
        kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr: to_segment(&self.tr),
            ldt: to_segment(&self.ldtr),
            gdt: table(self.gdtr),
            idt: table(self.idtr),
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: 0,
            efer: self.efer,
            interrupt_bitmap: [0; 4],
            ..*sregs
        }
    }

    pub(crate) fn debug_regs(&self) -> kvm_debugregs {
        kvm_debugregs { db: self.dr, dr6: self.dr6, dr7: self.dr7, ..kvm_debugregs::default() }
    }

    pub(crate) fn msr_entries(&self) -> Vec<kvm_msr_entry> {
        MSRS.iter().zip(self.msrs).map(|(&index, data)| kvm_msr_entry { index, data, reserved: 0 }).collect()
    }

    pub(crate) fn read(regs: &mut kvm_regs, sregs: &kvm_sregs, debug: &kvm_debugregs, msrs: &[kvm_msr_entry]) -> Self {
        let table = |from: &kvm_dtable| Table { base: from.base, limit: from.limit };
        let mut values = [0; 8];
        for (into, from) in values.iter_mut().zip(msrs) {
            *into = from.data;
        }
        let (rip, rflags) = (regs.rip, regs.rflags);
        Self {
            gpr: gprs_of(regs).map(|register| *register),
            rip,
            rflags,
            seg: [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(from_segment),
            ldtr: from_segment(&sregs.ldt),
            tr: from_segment(&sregs.tr),
            gdtr: table(&sregs.gdt),
            idtr: table(&sregs.idt),
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            dr: debug.db,
            dr6: debug.dr6,
            dr7: debug.dr7,
            msrs: values,
        }
    }
}
