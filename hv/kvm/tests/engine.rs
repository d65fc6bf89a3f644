//! The same machine with the software CPU and with the host's KVM as its engine: the same events, to the last digest of
//! registers and memory.
//!
//! Where there is no /dev/kvm nothing is compared, and the test says so.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "../../tests/support/collect.rs"]
mod collect;
#[path = "../../tests/support/elf.rs"]
mod elf;

use collect::{Run, config};
use elf::{AT, kernel};
use hv::machine::{Image, Machine};
use hv_defs::config::{Backend, Config, Guest};
use hv_defs::event::{Event, Kind, StopKind, What};
use hv_defs::policy::Shadowing;
use hv_kvm::Engine;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::io::Write;

type Asm = Result<(), IcedError>;

/// A run on the host's KVM, with how many of its instructions the software CPU had to execute; `None` where there is no KVM.
fn on_kvm(config: &Config, images: &[Image]) -> Option<(Run, u64)> {
    let engine = match Engine::new() {
        Ok(engine) => engine,
        Err(error) => {
            // Not by a macro, whose output is kept from the terminal while the test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED, nothing was compared: {error}");
            return None;
        }
    };
    let mut machine = Machine::new(&of_kvm(config), images).expect("a machine");
    machine.silicon().set_engine(Box::new(engine));
    let mut run = Run::default();
    run.stop = Some(machine.run(&mut run));
    let by_kvm = machine.silicon().engine().expect("it was set").retired();
    Some((run, machine.now() - by_kvm))
}

fn of_kvm(config: &Config) -> Config {
    Config { backend: Backend::Kvm, ..config.clone() }
}

fn in_software(config: &Config, images: &[Image]) -> Run {
    collect::run_in(config, images, Run::default())
}

#[track_caller]
fn same(name: &str, kvm: &[Event], soft: &[Event]) {
    let differ = kvm.iter().zip(soft).position(|(kvm, soft)| kvm != soft);
    if let Some(at) = differ {
        panic!("{name}: event {at} is {:?} on KVM and {:?} in software", kvm[at], soft[at]);
    }
    assert_eq!(kvm.len(), soft.len(), "{name}: one has more events");
}

/// Runs it on both. `most`: how many instructions in a thousand may be the software CPU's.
#[track_caller]
fn check(name: &str, config: &Config, images: &[Image], most: u64) -> Option<Run> {
    let (kvm, by_soft) = on_kvm(config, images)?;
    let soft = in_software(&of_kvm(config), images);
    assert_eq!(kvm.console, soft.console, "{name}");
    same(name, &kvm.events, &soft.events);
    let all = kvm.events.last().map_or(0, |event| event.at.instruction);
    assert!(by_soft * 1000 <= all * most, "{name}: of {all} instructions the software CPU executed {by_soft}");
    Some(kvm)
}

#[test]
fn every_built_in_guest_makes_the_same_events() {
    for (guest, most) in [
        ("demo", 20),
        ("flush-storm", 60),
        ("multiplication", 200),
        ("nest", 150),
        ("pool-thrash", 100),
        ("resync", 400),
        ("witness", 250),
    ] {
        let Some(_) = check(guest, &config(guest, "mapped"), &[], most) else { return };
    }
}

#[test]
fn so_it_does_under_other_policies_and_on_other_machines() {
    for policy in ["no-vpid", "kvm-2011", "kvm-2013-pool", "kvm-2018", "ideal"] {
        let Some(_) = check(policy, &config("flush-storm", policy), &[], 100) else { return };
    }
    let nest = config("nest", "mapped");
    for shadowing in [Shadowing::Emulated, Shadowing::Virtualized] {
        let mut config = nest.clone();
        config.policy.shadowing = shadowing;
        check("nest, with VMCS shadowing", &config, &[], 300);
    }
    check("slices of 333", &Config { slice: 333, pcpus: 2, ..nest.clone() }, &[], 200);
    check("demo on two CPUs", &Config { pcpus: 2, slice: 1000, ..config("demo", "mapped") }, &[], 50);
}

/// What is not recorded of KVM's run is what its TLB dropped; and accessed and dirty flags of EPT are not offered.
#[test]
fn by_design_only_what_flushes_dropped_differs() {
    let config = config("demo", "mapped");
    let Some((kvm, _)) = on_kvm(&config, &[]) else { return };
    let mut soft = in_software(&config, &[]).events;
    let mut dropped = 0;
    for event in &mut soft {
        match &mut event.what {
            What::Flush(flush) => dropped += u64::from(core::mem::take(&mut flush.dropped)),
            _ => assert_ne!(event.what.kind(), Kind::Flush),
        }
    }
    assert_ne!(dropped, 0, "the guest has flushes that drop something");
    same("demo", &kvm.events, &soft);
}

#[test]
fn a_guest_that_forgets_a_flush_sees_what_its_silicon_has_cached() {
    let config = config("stale", "mapped");
    let Some((kvm, _)) = on_kvm(&config, &[]) else { return };
    assert!(in_software(&config, &[]).console.contains("showed"));
    let stop = kvm.stop.expect("an end");
    assert_eq!(stop.code, 1, "either is right for a processor: {}", kvm.console);
}

const MEMORY: u64 = 16 << 20;
const IDT: u64 = 0x5000;
const IDTR: u64 = 0x6000;
const DATA: u64 = 0x20_0000;

/// A gate for `vector`, to the code at a label.
fn gate(a: &mut CodeAssembler, vector: u64, handler: CodeLabel) -> Asm {
    let at = IDT + vector * 16;
    a.lea(rax, ptr(handler))?;
    a.mov(word_ptr(at), ax)?;
    a.mov(cx, cs)?;
    a.mov(word_ptr(at + 2), cx)?;
    a.mov(word_ptr(at + 4), 0x8e00u32)?;
    a.shr(rax, 16)?;
    a.mov(word_ptr(at + 6), ax)?;
    a.shr(rax, 16)?;
    a.mov(dword_ptr(at + 8), eax)
}

/// All that KVM must not do by itself, or must be undone: exceptions in the midst of a block, stores to where no memory is,
/// stores to code, accesses across pages, instructions across pages.
fn payload(a: &mut CodeAssembler) -> Asm {
    let [mut divide, mut invalid, mut fault, mut patched, mut subroutine, mut again] =
        core::array::from_fn(|_| a.create_label());
    let mut start = a.create_label();
    a.jmp(start)?;
    // The handlers skip the instruction, whose length they know, and count.
    for (label, error, length) in [(&mut divide, 0, 2), (&mut invalid, 0, 2), (&mut fault, 8, 3)] {
        a.set_label(label)?;
        if error != 0 {
            a.add(rsp, error)?;
        }
        a.add(qword_ptr(rsp), length)?;
        a.inc(r15)?;
        a.iretq()?;
    }
    a.set_label(&mut subroutine)?;
    a.add(rbx, qword_ptr(rsp))?;
    a.ret_1(16)?;
    a.set_label(&mut start)?;
    a.mov(rsp, 0x8_0000u64)?;
    a.xor(r15d, r15d)?;
    for (vector, handler) in [(0, divide), (6, invalid), (14, fault)] {
        gate(a, vector, handler)?;
    }
    a.mov(word_ptr(IDTR), 0xfffu32)?;
    a.mov(eax, IDT as u32)?;
    a.mov(qword_ptr(IDTR + 2), rax)?;
    a.lidt(tbyte_ptr(IDTR))?;
    // A division by zero behind other work of its block.
    a.mov(eax, 7)?;
    a.xor(edx, edx)?;
    a.xor(ecx, ecx)?;
    a.add(ebx, eax)?;
    a.div(ecx)?;
    a.ud2()?;
    // Stores through an address that paging does not map.
    a.mov(rdi, 0x4000_0000_0000u64)?;
    a.mov(rax, 0x1122_3344_5566_7788u64)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.add(qword_ptr(rdi), rax)?;
    // The local APIC: no memory is there. A load, a store, and both in one.
    a.mov(edi, 0xfee0_0000u32)?;
    a.mov(esi, dword_ptr(rdi + 0x30))?;
    a.mov(dword_ptr(rdi + 0x80), 0x20)?;
    a.add(dword_ptr(rdi + 0x80), 0x10)?;
    a.add(ebx, dword_ptr(rdi + 0x80))?;
    // Accesses across pages, and a chain of all sorts of arithmetic.
    a.mov(edi, (DATA + 0xffc) as u32)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.add(qword_ptr(rdi), rax)?;
    a.lock().xadd(qword_ptr(rdi), rax)?;
    a.mov(ecx, 2000)?;
    a.set_label(&mut again)?;
    a.imul_3(rbx, rbx, 0x1003f)?;
    a.add(rbx, rcx)?;
    a.rol(rbx, 7)?;
    a.mov(eax, ecx)?;
    a.and(eax, 0x1ff8)?;
    a.xor(qword_ptr(rax + DATA), rbx)?;
    a.bt(rbx, 5)?;
    a.adc(r13, rax)?;
    a.cmovs(r12, rbx)?;
    a.setp(r12b)?;
    a.push(rbx)?;
    a.push(rcx)?;
    a.call(subroutine)?;
    a.dec(ecx)?;
    a.jnz(again)?;
    // Strings, and flags on the stack.
    a.mov(esi, DATA as u32)?;
    a.mov(edi, (DATA + 0x1801) as u32)?;
    a.mov(ecx, 0x900)?;
    a.rep().movsb()?;
    a.pushfq()?;
    // Code that is written before it runs, and again.
    let mut twice = a.create_label();
    a.mov(ecx, 2)?;
    a.set_label(&mut twice)?;
    a.lea(rdi, ptr(patched))?;
    a.mov(byte_ptr(rdi + 1), cl)?;
    a.set_label(&mut patched)?;
    a.mov(al, 0x55)?;
    a.add(bl, al)?;
    a.dec(ecx)?;
    a.jnz(twice)?;
    // An instruction across two pages: it is put there, with RET behind it.
    a.mov(edi, (DATA + 0x4ffd) as u32)?;
    a.mov(rax, 0x00c3_1234_5678_c381u64)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.call(rdi)?;
    a.mov(rax, rbx)?;
    a.add(rax, r15)?;
    a.cpuid()?;
    a.rdtsc()?;
    a.mov(dx, 0xf4u32)?;
    a.mov(eax, r15d)?;
    a.out(dx, al)
}

/// Runs a payload on both.
#[track_caller]
fn check_payload(name: &str, payload: impl FnOnce(&mut CodeAssembler) -> Asm, most: u64) -> Option<Run> {
    let mut a = CodeAssembler::new(64).expect("64 bits");
    payload(&mut a).expect("instructions that are there");
    let images = kernel(elf::elf(&a.assemble(AT).expect("code that assembles")));
    let guest = Guest::Kernel { name: name.to_owned(), append: String::new() };
    let config = Config { memory: MEMORY, max_instructions: Some(1_000_000), ..Config::new(guest) };
    check(name, &config, &images, most)
}

#[test]
fn a_payload_of_all_that_goes_wrong_ends_the_same() {
    let Some(run) = check_payload("payload", payload, 250) else { return };
    let stop = run.stop.expect("an end");
    assert_eq!(stop.code, 4 << 1 | 1, "four exceptions: {stop:?}");
}

/// An access across the end of memory, which L0 carries out or ends the run for: KVM has done nothing of it before, as the
/// last digest tells.
#[test]
fn half_an_access_is_none() {
    type Access = fn(&mut CodeAssembler) -> Asm;
    let words: [(&str, Access); 3] = [
        ("add", |a| a.add(qword_ptr(rdi), rax)),
        ("xchg", |a| a.xchg(qword_ptr(rdi), rax)),
        ("bts", |a| a.bts(qword_ptr(rdi), rax)),
    ];
    for (name, access) in words {
        let ran = check_payload(
            name,
            |a| {
                a.mov(rsp, 0x8_0000u64)?;
                a.mov(edi, (MEMORY - 4) as u32)?;
                a.mov(dword_ptr(rdi), 0x1111_1111)?;
                a.mov(rax, 0x0101_0101_0101_0101u64 & 0x1f)?;
                access(a)?;
                a.hlt()
            },
            1000,
        );
        let Some(run) = ran else { return };
        assert_ne!(run.stop.expect("an end").kind, StopKind::MaxInstructions, "{name}");
    }
}
