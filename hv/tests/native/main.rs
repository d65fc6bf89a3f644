//! Every user-mode instruction form against the host's own CPU: the same bytes, registers and memory in, and the
//! results, the defined flags and the faults compared.
//!
//! What is a form, and that it is implemented, the software CPU's own decoder says: every opcode of iced-x86, in 16-, 32-
//! and 64-bit code, that it has a row and a builder for. `NVMX_NATIVE_CASES` sets how many cases there are,
//! `NVMX_NATIVE_SEED` other ones, `NVMX_NATIVE_FORM` the forms whose name contains it.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)] // Running an instruction on the host cannot be done without.
#![allow(missing_docs, unreachable_pub)] // A test has no readers outside.

mod build;
mod compare;
mod dice;
mod host;
#[path = "../support/maker.rs"]
mod maker;
mod ours;
mod scope;
mod segments;

use dice::Dice;
use host::{CODE, Case, NONE, PAGE, State, WINDOW};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction};
use std::collections::BTreeMap;
use std::io::Write;

const WINDOW_AT: u64 = host::DATA + (PAGE - WINDOW as u64) / 2;
const CODE_AT: u64 = CODE + PAGE / 2;

fn case(bytes: &[u8]) -> Case {
    let mut state = State {
        extended: [0; 832],
        gpr: [0; 16],
        rip: CODE_AT,
        rflags: 0x202,
        bases: [0; 2],
        selectors: [0x2b, 0x33, 0x2b, 0x2b, 0, 0],
        memory: [0x5a; WINDOW],
    };
    state.extended[..2].copy_from_slice(&0x037fu16.to_le_bytes());
    state.extended[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    state.gpr[4] = WINDOW_AT + 128;
    let mut padded = [0xcc; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    Case {
        state,
        bytes: padded,
        length: bytes.len() as u8,
        code: CODE_AT,
        window: WINDOW_AT,
        repeats: bytes[0] == 0xf3,
        vector: 0,
        error_code: 0,
        address: 0,
    }
}

#[test]
fn the_host_runs_one_instruction_and_says_what_became_of_it() {
    let mut cases = vec![
        case(&[0x48, 0x01, 0xc8]), // add rax, rcx
        case(&[0x50]),             // push rax
        case(&[0x0f, 0x0b]),       // ud2
        case(&[0x48, 0x8b, 0x00]), // mov rax, [rax]
        case(&[0xf7, 0xf1]),       // div ecx
        case(&[0xf3, 0x48, 0xab]), // rep stosq
        case(&[0xeb, 0x10]),       // jmp +16
        case(&[0x0f, 0x58, 0xc1]), // addps xmm0, xmm1
        case(&[0x40]),             // inc eax, in 32-bit code
    ];
    cases[0].state.gpr[..2].copy_from_slice(&[1, u64::MAX]);
    cases[3].state.gpr[0] = 0x1234_5678_0000;
    cases[5].state.gpr[7] = WINDOW_AT;
    cases[5].state.gpr[1] = 3;
    let one = 1f32.to_bits().to_le_bytes();
    cases[7].state.extended[160..164].copy_from_slice(&one);
    cases[7].state.extended[176..180].copy_from_slice(&one);
    cases[8].state.selectors[1] = segments::CODE32;
    host::run(&mut cases);
    let after = |index: usize| cases[index].state;
    assert_eq!((after(0).gpr[0], after(0).rflags & 0x8d5, after(0).rip), (0, 0x55, CODE_AT + 3));
    assert_eq!(after(1).gpr[4], WINDOW_AT + 120);
    assert_eq!(after(1).memory[120..128], [0; 8]);
    assert_eq!((cases[2].vector, after(2).rip), (6, CODE_AT));
    assert_eq!((cases[3].vector, cases[3].error_code, cases[3].address), (14, 4, 0x1234_5678_0000));
    assert_eq!(cases[4].vector, 0);
    assert_eq!((after(5).gpr[1], after(5).gpr[7], after(5).rip), (0, WINDOW_AT + 24, CODE_AT + 3));
    assert_eq!((cases[6].vector, after(6).rip), (NONE, CODE_AT + 18));
    assert_eq!(after(7).extended[160..164], 2f32.to_bits().to_le_bytes());
    assert_eq!((cases[8].vector, after(8).gpr[0], after(8).rip), (NONE, 1, CODE_AT + 1));
}

/// What the environment asks for.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A form in code of one size, to be compared.
#[derive(Clone, Copy)]
struct Form {
    code: Code,
    bits: u32,
}

/// The forms that the software CPU has, and those of them that are not compared, by the reason.
struct Forms {
    implemented: usize,
    compared: Vec<Form>,
    omitted: BTreeMap<&'static str, Vec<(Code, u32)>>,
}

fn forms() -> Forms {
    let ldt = host::has_ldt();
    let mut forms = Forms { implemented: 0, compared: Vec::new(), omitted: BTreeMap::new() };
    for (code, bits) in Code::values().flat_map(|code| [16, 32, 64].map(|bits| (code, bits))) {
        let info = code.op_code();
        let there = match bits {
            16 => info.mode16(),
            32 => info.mode32(),
            _ => info.mode64(),
        };
        if !there || !info.is_instruction() {
            continue;
        }
        // Any operands will do to ask the decoder.
        let mut dice = Dice::new(1, code as u64, bits.into());
        let found = (0..400).find_map(|_| {
            let (_, case) = build::case(code, bits, &mut dice)?;
            let length = usize::from(case.length);
            let instruction = decode(&case.bytes[..length], bits);
            (instruction.code() == code).then_some((instruction, case))
        });
        let Some((instruction, case)) = found else {
            // Not by itself a proof that the CPU does not have it, where it should have the feature.
            if code.cpuid_features().iter().all(|feature| !is_foreign(*feature)) {
                forms.omitted.entry("no encoding of it decodes to it").or_default().push((code, bits));
            }
            continue;
        };
        if !hv::cpu::has(&case.bytes[..case.length.into()], bits) {
            continue;
        }
        forms.implemented += 1;
        let reason = match scope::reason(&instruction) {
            None if bits == 16 && !ldt => Some("the host's kernel has no local descriptor tables"),
            reason => reason,
        };
        match reason {
            None => forms.compared.push(Form { code, bits }),
            Some(reason) => forms.omitted.entry(reason).or_default().push((code, bits)),
        }
    }
    forms
}

/// Whether a feature is of no CPU that this one is like.
fn is_foreign(feature: CpuidFeature) -> bool {
    let name = format!("{feature:?}");
    let ours = ["8086", "186", "286", "386", "486", "SSE", "AVX", "FPU", "BMI", "XSAVE", "X64", "MMX", "FMA", "CMOV"];
    !ours.iter().any(|ours| name.contains(ours))
        || ["AVX512", "AVX_", "_ONLY", "SSE4A", "_A0", "_A_"].iter().any(|foreign| name.contains(foreign))
        || ["CYRIX_FPU", "FMA4"].contains(&name.as_str())
}

fn decode(bytes: &[u8], bits: u32) -> Instruction {
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE).decode()
}

/// What one worker found.
#[derive(Default)]
struct Found {
    cases: u64,
    faults: u64,
    /// Forms that were compared, by index.
    covered: Vec<usize>,
    /// By form: how many differed, and the first in words.
    wrong: BTreeMap<String, (usize, String)>,
}

/// Forms whose cases run in one child.
const CHUNK: usize = 8;

fn compare(forms: &[Form], rounds: u64, seed: u64, worker: usize, workers: usize) -> Found {
    let mut found = Found::default();
    let mut machine = ours::Ours::new();
    let mut inputs = Vec::new();
    for (chunk, some) in forms.chunks(CHUNK).enumerate().skip(worker).step_by(workers) {
        inputs.clear();
        for (within, form) in some.iter().enumerate() {
            let mut dice = Dice::new(seed, form.code as u64, form.bits.into());
            let before = inputs.len() as u64;
            // Operands that do not go together are thrown away, and others drawn instead.
            for _ in 0..4 * rounds {
                if inputs.len() as u64 - before >= rounds {
                    break;
                }
                if let Some((instruction, case)) = build::case(form.code, form.bits, &mut dice)
                    && is_fit(&instruction)
                {
                    inputs.push((chunk * CHUNK + within, instruction, case));
                }
            }
        }
        let mut cases: Vec<Case> = inputs.iter().map(|(_, _, case)| *case).collect();
        host::run(&mut cases);
        machine.clear();
        for ((index, instruction, input), host) in inputs.iter().zip(&cases) {
            let form = forms[*index];
            if instruction.code() == form.code && found.covered.last() != Some(index) {
                found.covered.push(*index);
            }
            found.cases += 1;
            found.faults += u64::from(host.vector != NONE);
            let difference = one(&mut machine, instruction, form.bits, input, host);
            if let Some(difference) = difference {
                let entry =
                    found.wrong.entry(format!("{:?} in {}-bit code", instruction.code(), form.bits)).or_default();
                entry.0 += 1;
                if entry.0 == 1 {
                    entry.1 = format!("{instruction}: {difference}\n    {}", describe(input));
                }
            }
        }
    }
    found
}

/// Whether what a case's bytes came to be can be compared: a prefix may have made it another form.
fn is_fit(instruction: &Instruction) -> bool {
    if instruction.is_invalid() {
        return true;
    }
    let absent = |feature: &CpuidFeature| is_foreign(*feature) && !is_certain(*feature);
    scope::reason(instruction).is_none() && !instruction.cpuid_features().iter().any(absent)
}

/// Features beside the big families that host and software CPU both have, or that their users can only fault on.
fn is_certain(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        feature,
        CX8 | CMPXCHG16B
            | MULTIBYTENOP
            | PAUSE
            | POPCNT
            | LZCNT
            | ADX
            | MOVBE
            | AES
            | PCLMULQDQ
            | F16C
            | FXSR
            | FSGSBASE
            | CLFSH
            | CLFLUSHOPT
            | CLWB
            | PREFETCHW
            | SHA
            | MSR
            | RDPMC
            | INVPCID
            | SERIALIZE
            | SMAP
            | SEP
            | SYSCALL
            | WBNOINVD
            | CLDEMOTE
            | CET_IBT
            | PREFETCHITI
            | PREFETCHWT1
            | CET_SS
            | SMX
    )
}

fn one(machine: &mut ours::Ours, instruction: &Instruction, bits: u32, input: &Case, host: &Case) -> Option<String> {
    use iced_x86::Mnemonic::{Iret, Iretd, Iretq, Popf, Popfd, Popfq, Pushf, Pushfd, Pushfq};
    let trap_flag =
        matches!(instruction.mnemonic(), Pushf | Pushfd | Pushfq | Popf | Popfd | Popfq | Iret | Iretd | Iretq);
    let instructions = if build::holds_traps(instruction) { 2 } else { 1 };
    match machine.run(input, instructions, trap_flag) {
        ours::Outcome::Unsupported(what) => Some(format!("not there: {what}")),
        ours::Outcome::Done(ours) => compare::difference(instruction, bits, input, host, &ours),
    }
}

/// A case's input, short.
fn describe(case: &Case) -> String {
    let state = &case.state;
    format!(
        "bytes {:02x?} at {:#x}, registers {:x?}, rflags {:#x}, selectors {:x?}, bases {:x?}, x87 {:02x?}, mxcsr {:02x?}",
        &case.bytes[..case.length.into()],
        case.code,
        state.gpr,
        state.rflags,
        state.selectors,
        state.bases,
        &state.extended[..5],
        &state.extended[24..28]
    )
}

#[test]
fn every_form_does_what_the_host_does() {
    let seed = number("NVMX_NATIVE_SEED", 0x5eed);
    let wanted = std::env::var("NVMX_NATIVE_FORM").unwrap_or_default();
    let Forms { implemented, mut compared, omitted } = forms();
    compared.retain(|form| format!("{:?}", form.code).contains(&wanted));
    let rounds = number("NVMX_NATIVE_CASES", 1_000_000).div_ceil(compared.len() as u64);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    let mut total = Found::default();
    std::thread::scope(|scope| {
        let work = |worker| {
            let compared = &compared;
            scope.spawn(move || compare(compared, rounds, seed, worker, workers))
        };
        for worker in (0..workers).map(work).collect::<Vec<_>>() {
            let found = worker.join().expect("a worker of the comparison ended");
            total.cases += found.cases;
            total.faults += found.faults;
            total.covered.extend(found.covered);
            total.wrong.extend(found.wrong);
        }
    });
    let out = &mut std::io::stderr().lock();
    let mut print = |line: String| writeln!(out, "{line}").expect("stderr takes a line");
    print(format!(
        "native: {} forms covered out of {implemented} implemented, {} cases ({} of them faults), {} differences",
        total.covered.len(),
        total.cases,
        total.faults,
        total.wrong.values().map(|(count, _)| count).sum::<usize>(),
    ));
    if !maker::is_intel() {
        print("  not compared: what faults, for this CPU is not Intel's".to_owned());
    }
    for (reason, forms) in &omitted {
        print(format!("  not compared, {}: {reason}: {}", forms.len(), names(forms)));
    }
    for (form, (count, first)) in total.wrong.iter().take(number("NVMX_NATIVE_SHOW", 30) as usize) {
        print(format!("  {form}: {count} differ, first: {first}"));
    }
    let left: Vec<_> = compared.iter().enumerate().filter(|(index, _)| !total.covered.contains(index)).collect();
    if !left.is_empty() {
        print(format!(
            "  left out: {}",
            names(&left.iter().map(|(_, form)| (form.code, form.bits)).collect::<Vec<_>>())
        ));
    }
    if !total.wrong.is_empty() {
        print(format!(
            "  again: NVMX_NATIVE_SEED={seed} NVMX_NATIVE_FORM=NAME cargo test -p hv --test native every_form"
        ));
    }
    assert!(total.wrong.is_empty(), "{} forms differ from the host", total.wrong.len());
    assert_eq!(total.covered.len(), compared.len(), "a form had no case");
}

/// Forms' names, each with the code sizes it is in.
fn names(forms: &[(Code, u32)]) -> String {
    let mut by_name = BTreeMap::<String, Vec<u32>>::new();
    for (code, bits) in forms {
        by_name.entry(format!("{code:?}")).or_default().push(*bits);
    }
    let with_bits = |(name, bits): (&String, &Vec<u32>)| {
        if bits.len() == 3 { name.clone() } else { format!("{name} {bits:?}") }
    };
    by_name.iter().map(with_bits).collect::<Vec<_>>().join(", ")
}
