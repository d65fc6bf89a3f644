//! Several CPUs: one starts the others by INIT and start-up IPIs; then they share a lock, send one another interrupts and
//! NMIs, and are woken by their timers. Each step's outcome is a mark with one exact value.

#[path = "support/collect.rs"]
mod collect;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/elf.rs"]
mod image;

use collect::{Run, run_in};
use cpus::{Asm, mark, marks, put_trampoline, trampoline};
use hv_defs::config::{Config, Guest};
use hv_defs::event::{Event, StopKind, What};
use hv_defs::exit::Reason;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use image::{AT, elf, kernel};

const IDT: u64 = 0x20_0000;
const STACKS: u64 = 0x21_0000;

// Words that the CPUs share.
const ONLINE: u64 = 0x22_0000;
const LOCK: u64 = 0x22_0040;
const COUNTER: u64 = 0x22_0080;
const DONE: u64 = 0x22_00c0;
const PINGS: u64 = 0x22_0100;
const PONGS: u64 = 0x22_0140;
const TICKS: u64 = 0x22_0180;
const TICK_TSC: u64 = 0x22_0188;
const NMIS: u64 = 0x22_01c0;
const WATCHED: u64 = 0x22_0200;
const ANSWERS: u64 = 0x22_0240;

/// What each CPU adds to the counter, one at a time.
const ADDS: u32 = 1000;
const ROUNDS: u32 = 100;

const PING: u32 = 0x40;
const PONG: u32 = 0x41;
const TICK: u32 = 0xe0;

const ID: u32 = 0x02;
const EOI: u32 = 0x0b;
const SVR: u32 = 0x0f;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const INITIAL: u32 = 0x38;
const DIVIDE: u32 = 0x3e;

/// The kernel's code, by the mode that it uses its local APICs in.
struct Kernel {
    a: CodeAssembler,
    x2apic: bool,
    /// CPUs wait in MWAIT rather than halted.
    mwait: bool,
    cpus: u32,
}

impl Kernel {
    /// Writes a register of the local APIC. Changes RAX, RCX and RDX.
    fn apic(&mut self, register: u32, value: u32) -> Asm {
        self.a.mov(eax, value)?;
        if self.x2apic {
            self.a.xor(edx, edx)?;
            self.a.mov(ecx, 0x800 + register)?;
            self.a.wrmsr()
        } else {
            self.a.mov(ecx, 0xfee0_0000u32 + (register << 4))?;
            self.a.mov(dword_ptr(rcx), eax)
        }
    }

    /// Sends an interrupt to the APIC with an ID.
    fn send(&mut self, to: u32, command: u32) -> Asm {
        if self.x2apic {
            self.a.mov(eax, command)?;
            self.a.mov(edx, to)?;
            self.a.mov(ecx, 0x800 + ICR)?;
            self.a.wrmsr()
        } else {
            self.apic(ICR_HIGH, to << 24)?;
            self.apic(ICR, command)
        }
    }

    /// Enables the local APIC, and leaves its ID in EBX.
    fn enable(&mut self) -> Asm {
        if self.x2apic {
            self.a.mov(ecx, 0x1bu32)?;
            self.a.rdmsr()?;
            self.a.or(eax, 0x400)?;
            self.a.wrmsr()?;
            self.a.mov(ecx, 0x800 + ID)?;
            self.a.rdmsr()?;
            self.a.mov(ebx, eax)?;
        } else {
            self.a.mov(ecx, 0xfee0_0000u32 + (ID << 4))?;
            self.a.mov(ebx, dword_ptr(rcx))?;
            self.a.shr(ebx, 24)?;
        }
        self.apic(SVR, 0x1ff)
    }

    /// A handler that counts, does `more`, and ends the interrupt unless it is an NMI.
    fn handler(
        &mut self,
        counter: u64,
        ends: bool,
        more: impl FnOnce(&mut Self) -> Asm,
    ) -> Result<CodeLabel, IcedError> {
        let mut skip = self.a.create_label();
        let mut at = self.a.create_label();
        self.a.jmp(skip)?;
        self.a.set_label(&mut at)?;
        for register in [rax, rcx, rdx] {
            self.a.push(register)?;
        }
        self.a.lock().inc(qword_ptr(counter))?;
        more(self)?;
        if ends {
            self.apic(EOI, 0)?;
        }
        for register in [rdx, rcx, rax] {
            self.a.pop(register)?;
        }
        self.a.iretq()?;
        self.a.set_label(&mut skip)?;
        self.a.zero_bytes()?;
        Ok(at)
    }

    /// Waits until a word has a value: spinning, or halted between interrupts.
    fn wait(&mut self, word: u64, value: u32, halted: bool) -> Asm {
        let (mut again, mut done) = (self.a.create_label(), self.a.create_label());
        self.a.set_label(&mut again)?;
        if halted {
            self.a.cli()?;
        }
        self.a.cmp(dword_ptr(word), value)?;
        self.a.je(done)?;
        if halted {
            self.a.sti()?;
            self.a.hlt()?;
        } else {
            self.a.pause()?;
        }
        self.a.jmp(again)?;
        self.a.set_label(&mut done)?;
        self.a.zero_bytes()
    }

    /// MONITOR of a word, which EAX holds then. Changes RCX and RDX.
    fn monitor(&mut self, word: u64) -> Asm {
        self.a.mov(eax, word as u32)?;
        self.a.xor(ecx, ecx)?;
        self.a.xor(edx, edx)?;
        self.a.monitor()?;
        self.a.mov(eax, dword_ptr(word))
    }

    /// MWAIT without extensions; `open`: with interrupts, from here on.
    fn mwait(&mut self, open: bool) -> Asm {
        self.a.mov(eax, 0u32)?;
        if open {
            self.a.sti()?;
        }
        self.a.mwait()
    }

    /// Has the other CPUs, which wait for stores, answer [`ROUNDS`] times, each time by a store that is waited for with
    /// interrupts off.
    fn stores(&mut self) -> Asm {
        let (mut next, mut again, mut answered) = (self.a.create_label(), self.a.create_label(), self.a.create_label());
        self.a.cli()?;
        self.a.xor(ebp, ebp)?;
        self.a.xor(edi, edi)?;
        self.a.set_label(&mut next)?;
        self.a.inc(edi)?;
        self.a.add(ebp, self.cpus as i32 - 1)?;
        self.a.mov(dword_ptr(WATCHED), edi)?;
        self.a.set_label(&mut again)?;
        self.monitor(ANSWERS)?;
        self.a.cmp(eax, ebp)?;
        self.a.je(answered)?;
        self.mwait(false)?;
        self.a.jmp(again)?;
        self.a.set_label(&mut answered)?;
        self.a.cmp(edi, ROUNDS)?;
        self.a.jb(next)?;
        self.a.mov(eax, dword_ptr(ANSWERS))?;
        mark(&mut self.a)
    }

    /// Answers stores for ever, in between of interrupts.
    fn answers(&mut self) -> Asm {
        let (mut idle, mut changed) = (self.a.create_label(), self.a.create_label());
        self.a.set_label(&mut idle)?;
        self.monitor(WATCHED)?;
        self.a.cmp(eax, r12d)?;
        self.a.jne(changed)?;
        self.mwait(true)?;
        self.a.jmp(idle)?;
        self.a.set_label(&mut changed)?;
        self.a.mov(r12d, eax)?;
        self.a.lock().inc(dword_ptr(ANSWERS))?;
        self.a.jmp(idle)
    }

    /// Adds to the counter under the lock, [`ADDS`] times.
    fn adds(&mut self) -> Asm {
        let (mut again, mut take, mut taken) = (self.a.create_label(), self.a.create_label(), self.a.create_label());
        self.a.mov(ecx, ADDS)?;
        self.a.set_label(&mut again)?;
        self.a.mov(eax, 1u32)?;
        self.a.set_label(&mut take)?;
        self.a.xchg(dword_ptr(LOCK), eax)?;
        self.a.test(eax, eax)?;
        self.a.jz(taken)?;
        self.a.pause()?;
        self.a.jmp(take)?;
        self.a.set_label(&mut taken)?;
        // Not one instruction, or the lock would not be needed.
        self.a.mov(eax, dword_ptr(COUNTER))?;
        self.a.inc(eax)?;
        self.a.mov(dword_ptr(COUNTER), eax)?;
        self.a.mov(dword_ptr(LOCK), 0)?;
        self.a.dec(ecx)?;
        self.a.jnz(again)?;
        self.a.lock().inc(dword_ptr(DONE))
    }

    fn load_idt(&mut self) -> Asm {
        self.a.sub(rsp, 16)?;
        self.a.mov(word_ptr(rsp), 0xfffu32)?;
        self.a.mov(rax, IDT)?;
        self.a.mov(qword_ptr(rsp + 2), rax)?;
        self.a.lidt(ptr(rsp))?;
        self.a.add(rsp, 16)
    }

    fn code(mut self) -> Result<Vec<u8>, IcedError> {
        let mut aps = self.a.create_label();
        let mut bytes = self.a.create_label();
        let ping = self.handler(PINGS, true, |k| k.send(0, 0x4000 | PONG))?;
        let pong = self.handler(PONGS, true, |_| Ok(()))?;
        let tick = self.handler(TICKS, true, |k| {
            k.a.rdtsc()?;
            k.a.mov(dword_ptr(TICK_TSC), eax)
        })?;
        let nmi = self.handler(NMIS, false, |_| Ok(()))?;
        for (vector, at) in [(2, nmi), (PING, ping), (PONG, pong), (TICK, tick)] {
            cpus::gate(&mut self.a, IDT, vector, at)?;
        }
        self.load_idt()?;
        self.enable()?;

        // The others are started by one message to all of them, twice as software does.
        put_trampoline(&mut self.a, bytes, aps)?;
        for command in [0xc_4500u32, 0xc_4601, 0xc_4601] {
            self.send(0, command)?;
        }
        self.wait(ONLINE, self.cpus - 1, false)?;
        self.adds()?;
        self.wait(DONE, self.cpus, false)?;
        self.a.mov(eax, dword_ptr(COUNTER))?;
        mark(&mut self.a)?;

        // A ping is answered before the next, and both wait halted.
        self.a.mov(ebp, 1u32)?;
        let mut again = self.a.create_label();
        self.a.set_label(&mut again)?;
        self.send(1, 0x4000 | PING)?;
        let (mut waits, mut answered) = (self.a.create_label(), self.a.create_label());
        self.a.set_label(&mut waits)?;
        self.a.cli()?;
        self.a.cmp(dword_ptr(PONGS), ebp)?;
        self.a.je(answered)?;
        self.a.sti()?;
        self.a.hlt()?;
        self.a.jmp(waits)?;
        self.a.set_label(&mut answered)?;
        self.a.inc(ebp)?;
        self.a.cmp(ebp, ROUNDS)?;
        self.a.jbe(again)?;
        self.a.mov(eax, dword_ptr(PINGS))?;
        self.a.shl(eax, 16)?;
        self.a.add(eax, dword_ptr(PONGS))?;
        mark(&mut self.a)?;

        // A second NMI comes through only if the first one's IRET has unblocked them.
        for count in 1..=2 {
            self.send(1, 0x4400)?;
            self.wait(NMIS, count, false)?;
        }
        self.a.mov(eax, dword_ptr(NMIS))?;
        mark(&mut self.a)?;

        // The TSC deadline: how far beyond it the handler reads the TSC.
        self.apic(LVT_TIMER, 2 << 17 | TICK)?;
        self.a.rdtsc()?;
        self.a.add(eax, 100_000)?;
        self.a.mov(ebp, eax)?;
        self.a.mov(ecx, 0x6e0u32)?;
        self.a.wrmsr()?;
        self.wait(TICKS, 1, true)?;
        self.a.mov(eax, dword_ptr(TICK_TSC))?;
        self.a.sub(eax, ebp)?;
        mark(&mut self.a)?;

        // Periods of 1000 ticks of the 25 MHz crystal: four of them.
        self.apic(DIVIDE, 0xb)?;
        self.apic(LVT_TIMER, 1 << 17 | TICK)?;
        self.apic(INITIAL, 1000)?;
        self.wait(TICKS, 2, true)?;
        self.a.mov(ebp, dword_ptr(TICK_TSC))?;
        self.wait(TICKS, 6, true)?;
        self.a.mov(eax, dword_ptr(TICK_TSC))?;
        self.a.sub(eax, ebp)?;
        mark(&mut self.a)?;
        self.apic(INITIAL, 0)?;

        // An interrupt that the task priority keeps back comes as soon as CR8 lets it: the handler's count before, and after.
        self.a.mov(dword_ptr(PONGS), 0)?;
        self.a.mov(eax, 4u32)?;
        self.a.mov(cr8, rax)?;
        self.send(0, 0x4_4000 | PONG)?;
        self.a.sti()?;
        self.a.mov(ecx, 1000u32)?;
        let mut holds = self.a.create_label();
        self.a.set_label(&mut holds)?;
        self.a.dec(ecx)?;
        self.a.jnz(holds)?;
        self.a.mov(ebp, dword_ptr(PONGS))?;
        self.a.mov(eax, 3u32)?;
        self.a.mov(cr8, rax)?;
        self.a.nop()?;
        self.a.cli()?;
        self.a.shl(ebp, 16)?;
        self.a.add(ebp, dword_ptr(PONGS))?;
        self.a.mov(eax, ebp)?;
        mark(&mut self.a)?;

        if self.mwait {
            self.stores()?;
        }

        // One CPU is started anew: it comes online and adds once more.
        self.send(1, 0x4500)?;
        self.send(1, 0x4601)?;
        self.wait(DONE, self.cpus + 1, false)?;
        self.a.mov(eax, dword_ptr(COUNTER))?;
        mark(&mut self.a)?;
        self.a.xor(eax, eax)?;
        self.a.out(0xf4, al)?;

        self.a.set_label(&mut aps)?;
        self.a.mov(eax, 0x18u32)?;
        self.a.mov(ds, eax)?;
        self.a.mov(es, eax)?;
        self.a.mov(ss, eax)?;
        self.a.mov(esp, 0x6000u32)?;
        self.enable()?;
        self.a.shl(ebx, 12)?;
        self.a.lea(rsp, ptr(rbx + STACKS))?;
        self.load_idt()?;
        self.a.mov(r12d, dword_ptr(WATCHED))?;
        self.a.lock().inc(dword_ptr(ONLINE))?;
        self.adds()?;
        if self.mwait {
            self.answers()?;
        }
        let mut idle = self.a.create_label();
        self.a.set_label(&mut idle)?;
        self.a.sti()?;
        self.a.hlt()?;
        self.a.jmp(idle)?;

        self.a.set_label(&mut bytes)?;
        self.a.db(&trampoline()?)?;
        self.a.assemble(AT)
    }
}

fn config(vcpus: u16, pcpus: u16) -> Config {
    let guest = Guest::Kernel { name: "smp".to_owned(), append: String::new() };
    Config { memory: 16 << 20, vcpus, pcpus, max_instructions: Some(100_000_000), ..Config::new(guest) }
}

fn boot(config: &Config, x2apic: bool, mwait: bool) -> Run {
    let a = CodeAssembler::new(64).expect("64 bits");
    let code = Kernel { a, x2apic, mwait, cpus: config.vcpus.into() }.code().expect("code that assembles");
    run_in(config, &kernel(elf(&code)), Run::default())
}

fn check(config: &Config, x2apic: bool) {
    checked(&boot(config, x2apic, false), config);
}

/// The marks between the task priority's and the last, which are those of MWAIT.
fn checked(run: &Run, config: &Config) -> Vec<u32> {
    let stop = run.stop.as_ref().expect("an end");
    assert_eq!(stop.kind, StopKind::DebugExit, "{}", stop.text);
    let marks = marks(&run.events);
    let cpus = u32::from(config.vcpus);
    let [counted, pings, nmis, late, periods, held, ref more @ .., again] = marks[..] else { panic!("{marks:?}") };
    assert_eq!((counted, pings, nmis), (cpus * ADDS, ROUNDS << 16 | ROUNDS, 2));
    assert!(late < 100, "the handler runs {late} ticks behind its deadline");
    assert!(periods.abs_diff(160_000) < 100, "four periods last {periods} ticks");
    assert_eq!(held, 1, "none before, one after");
    assert_eq!(again, (cpus + 1) * ADDS);
    more.to_vec()
}

/// IPIs, NMIs and stores of others end MWAIT, whatever the slice: a store comes before MWAIT or after it.
#[test]
fn cpus_wait_in_mwait() {
    for (vcpus, pcpus, slice) in [(2, 1, 1_000_000), (2, 2, 7), (3, 2, 1000)] {
        let config = Config { slice, ..config(vcpus, pcpus) };
        let run = boot(&config, true, true);
        assert_eq!(checked(&run, &config), [ROUNDS * (u32::from(vcpus) - 1)]);
        let waits = |event: &&Event| matches!(event.what, What::Exit(exit) if exit.reason.reason() == Reason::MWAIT);
        assert!(run.events.iter().filter(waits).count() >= ROUNDS as usize);
    }
}

#[test]
fn cpus_start_one_another_and_work_together() {
    check(&config(2, 1), false);
}

#[test]
fn in_x2apic_mode_too() {
    check(&config(2, 1), true);
}

#[test]
fn on_any_number_of_cpus_and_physical_ones_and_any_slice() {
    for (vcpus, pcpus, slice, x2apic) in [(2, 2, 1_000_000, true), (4, 2, 1000, false), (5, 3, 77, true)] {
        check(&Config { slice, ..config(vcpus, pcpus) }, x2apic);
    }
}

#[test]
fn two_runs_are_one() {
    let run = || boot(&config(3, 2), true, false);
    assert_eq!(run().events, run().events);
}

/// Each way of access to a register in memory, on the task priority: what is there afterwards, with a bit of the flags.
#[test]
fn registers_in_memory_take_the_usual_instructions() -> Result<(), Box<dyn std::error::Error>> {
    let mut a = CodeAssembler::new(64)?;
    a.mov(rdi, 0xfee0_0080u64)?;
    a.mov(dword_ptr(rdi), 0x21)?;
    a.or(dword_ptr(rdi), 0x12)?;
    a.mov(ebx, 0xf0u32)?;
    a.and(dword_ptr(rdi), ebx)?;
    a.mov(eax, dword_ptr(rdi))?;
    mark(&mut a)?;
    a.add(dword_ptr(rdi), 5)?;
    a.sub(dword_ptr(rdi), 1)?;
    a.xor(dword_ptr(rdi), ebx)?;
    a.movzx(eax, byte_ptr(rdi))?;
    mark(&mut a)?;
    a.mov(eax, 0x77u32)?;
    a.xchg(dword_ptr(rdi), eax)?;
    a.shl(eax, 8)?;
    a.or(eax, dword_ptr(rdi))?;
    mark(&mut a)?;
    a.xor(eax, eax)?;
    a.test(dword_ptr(rdi), 0x88)?;
    a.setz(al)?;
    a.cmp(dword_ptr(rdi), 0x78)?;
    a.adc(al, al)?;
    a.mov(ecx, 0x76u32)?;
    a.cmp(ecx, dword_ptr(rdi))?;
    a.adc(al, al)?;
    mark(&mut a)?;
    a.out(0xf4, al)?;
    let code = a.assemble(AT)?;
    let run = run_in(&config(1, 1), &kernel(elf(&code)), Run::default());
    assert_eq!(run.stop.as_ref().map(|stop| stop.kind), Some(StopKind::DebugExit), "{:?}", run.stop);
    assert_eq!(marks(&run.events), [0x30, 0xc4, 0xc477, 0b111]);
    Ok(())
}
