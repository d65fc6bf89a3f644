//! Every user-mode instruction form against the host's own CPU.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code)] // Running an instruction on the host cannot be done without.
#![allow(missing_docs, unreachable_pub)] // A test has no readers outside.

mod host;

use host::{CODE, Case, NONE, State, WINDOW, WINDOW_AT};

fn case(bytes: &[u8]) -> Case {
    let mut state = State { extended: [0; 832], gpr: [0; 16], rip: CODE, rflags: 0x202, memory: [0x5a; WINDOW] };
    state.extended[..2].copy_from_slice(&0x037fu16.to_le_bytes());
    state.extended[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    state.gpr[4] = WINDOW_AT + 128;
    let mut padded = [0xcc; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    Case { state, bytes: padded, length: bytes.len() as u8, vector: 0, error_code: 0, address: 0 }
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
    ];
    cases[0].state.gpr[..2].copy_from_slice(&[1, u64::MAX]);
    cases[3].state.gpr[0] = 0x1234_5678_0000;
    cases[5].state.gpr[7] = WINDOW_AT;
    cases[5].state.gpr[1] = 3;
    let one = 1f32.to_bits().to_le_bytes();
    cases[7].state.extended[160..164].copy_from_slice(&one);
    cases[7].state.extended[176..180].copy_from_slice(&one);
    host::run(&mut cases);
    let after = |index: usize| cases[index].state;
    assert_eq!((after(0).gpr[0], after(0).rflags & 0x8d5, after(0).rip), (0, 0x55, CODE + 3));
    assert_eq!(after(1).gpr[4], WINDOW_AT + 120);
    assert_eq!(after(1).memory[120..128], [0; 8]);
    assert_eq!((cases[2].vector, after(2).rip), (6, CODE));
    assert_eq!((cases[3].vector, cases[3].error_code, cases[3].address), (14, 4, 0x1234_5678_0000));
    assert_eq!(cases[4].vector, 0);
    assert_eq!((after(5).gpr[1], after(5).gpr[7], after(5).rip), (0, WINDOW_AT + 24, CODE + 3));
    assert_eq!((cases[6].vector, after(6).rip), (NONE, CODE + 18));
    assert_eq!(after(7).extended[160..164], 2f32.to_bits().to_le_bytes());
}

mod forms;

#[test]
fn forms_make_cases_that_the_host_takes() {
    let mut dice = forms::Dice(1);
    let forms = forms::all();
    let mut none = Vec::new();
    let mut cases = Vec::new();
    for &code in &forms {
        let made = (0..40).filter_map(|_| forms::case(code, &mut dice)).take(4).collect::<Vec<_>>();
        if made.is_empty() {
            none.push(code);
        }
        cases.extend(made.into_iter().map(|(_, case)| case));
    }
    host::run(&mut cases);
    // Every form that takes an operand at all is made; near branches with a 16-bit operand do not encode in 64-bit mode.
    assert!(
        none.iter().all(|code| code.op_code().operand_size() == 16 || *code == iced_x86::Code::Xlat_m8),
        "{none:?}"
    );
    let completed = cases.iter().filter(|case| case.vector == NONE).count();
    assert!(completed * 10 > cases.len() * 8, "{completed} of {} cases complete", cases.len());
}

mod ours;

/// Bits of RFLAGS that one instruction may change in user mode.
const FLAGS: u64 = 0xcd5;

/// What differs between the host's outcome and ours, in words; `None` for nothing.
fn difference(instruction: &iced_x86::Instruction, host: &Case, ours: &Case) -> Option<String> {
    // A call to where no code can be, through a stack that is not there: the SDM names the target first, models differ.
    let faults = host.vector != NONE && ours.vector != NONE;
    if faults && instruction.mnemonic() == iced_x86::Mnemonic::Call {
        return None;
    }
    if host.vector != ours.vector {
        return Some(format!("exception {} here, {} on the host", ours.vector, host.vector));
    }
    // The kernel's half is mapped on the host, so the error code says present there.
    let kernel = host.address >> 63 != 0;
    if host.address != ours.address || !kernel && host.error_code != ours.error_code {
        let (code, address) = (ours.error_code, ours.address);
        return Some(format!(
            "page fault {code:#x} at {address:#x}, host {:#x} at {:#x}",
            host.error_code, host.address
        ));
    }
    let (a, b) = (&host.state, &ours.state);
    if let Some(register) =
        (0..16).find(|&register| a.gpr[register] != b.gpr[register] && !is_undefined(instruction, register))
    {
        return Some(format!("register {register}: {:#x}, host {:#x}", b.gpr[register], a.gpr[register]));
    }
    if a.rip != b.rip {
        return Some(format!("rip {:#x}, host {:#x}", b.rip, a.rip));
    }
    let undefined = if host.vector == NONE { undefined_flags(instruction) } else { 0 };
    let flags = FLAGS & !undefined;
    if (a.rflags ^ b.rflags) & flags != 0 {
        return Some(format!("rflags {:#x}, host {:#x}, undefined {undefined:#x}", b.rflags, a.rflags));
    }
    if a.memory != b.memory {
        let at = (0..WINDOW).find(|&at| a.memory[at] != b.memory[at])?;
        return Some(format!(
            "memory at {at}: {:x?}, host {:x?}",
            &b.memory[at..WINDOW.min(at + 16)],
            &a.memory[at..WINDOW.min(at + 16)]
        ));
    }
    // Control, status and tag words; MXCSR; the registers. Not the pointers to the last instruction.
    let ranges = [0..5, 24..28, 32..416, 576..832];
    let approximate = is_approximate(instruction);
    for range in ranges {
        for at in range {
            let unused = (32..160).contains(&at) && at % 16 >= 10;
            if unused || a.extended[at] == b.extended[at] {
                continue;
            }
            // C1 tells which way the last place was rounded.
            let only_c1 = at == 3 && (a.extended[at] ^ b.extended[at]) == 2;
            if approximate && (at >= 32 || only_c1) {
                continue;
            }
            return Some(format!(
                "extended state at {at}: {:x?}, host {:x?}",
                &b.extended[at & !15..(at & !15) + 16],
                &a.extended[at & !15..(at & !15) + 16]
            ));
        }
    }
    None
}

/// Flags that the SDM leaves undefined.
fn undefined_flags(instruction: &iced_x86::Instruction) -> u64 {
    use iced_x86::RflagsBits as R;
    let undefined = instruction.rflags_undefined();
    [(R::OF, 11), (R::SF, 7), (R::ZF, 6), (R::AF, 4), (R::CF, 0), (R::PF, 2)]
        .into_iter()
        .filter(|(bit, _)| undefined & bit != 0)
        .fold(0, |mask, (_, at)| mask | 1 << at)
}

/// Registers that the SDM leaves undefined: BSF's and BSR's destination for a source of zero is not, on any model; a
/// 16-bit BSWAP's is.
fn is_undefined(instruction: &iced_x86::Instruction, _register: usize) -> bool {
    instruction.code() == iced_x86::Code::Bswap_r16
}

/// Instructions whose last bits the SDM leaves to the model, or which of two NaNs their sum takes.
fn is_approximate(instruction: &iced_x86::Instruction) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Rcpps
            | Rcpss
            | Rsqrtps
            | Rsqrtss
            | Vrcpps
            | Vrcpss
            | Vrsqrtps
            | Vrsqrtss
            | Fsin
            | Fcos
            | Fsincos
            | Fptan
            | Fpatan
            | F2xm1
            | Fyl2x
            | Fyl2xp1
            | Dpps
            | Dppd
            | Vdpps
            | Vdppd
    )
}

#[test]
fn every_form_does_what_the_host_does() {
    let rounds: usize = std::env::var("NVMX_NATIVE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let verbose = std::env::var_os("NVMX_NATIVE_VERBOSE").is_some();
    let forms = forms::all();
    let mut dice = forms::Dice(0x5eed);
    let mut machine = ours::Ours::new();
    let mut wrong = std::collections::BTreeMap::<String, (usize, String)>::new();
    let mut missing = std::collections::BTreeMap::<String, usize>::new();
    let mut compared = 0;
    for _ in 0..rounds.div_ceil(8) {
        let mut instructions = Vec::new();
        let mut cases = Vec::new();
        for &code in &forms {
            for _ in 0..8 {
                if let Some((instruction, case)) = forms::case(code, &mut dice) {
                    instructions.push(instruction);
                    cases.push(case);
                }
            }
        }
        let inputs = cases.clone();
        host::run(&mut cases);
        for ((instruction, input), host) in instructions.iter().zip(&inputs).zip(&cases) {
            if verbose {
                eprintln!("RUN {instruction} {:x?}", &input.bytes[..usize::from(input.length)]);
            }
            match machine.run(input) {
                ours::Outcome::Unsupported(what) => {
                    if verbose {
                        eprintln!("MISSING {what}");
                    }
                    *missing.entry(format!("{:?}", instruction.code())).or_default() += 1
                }
                ours::Outcome::Done(ours) => {
                    compared += 1;
                    if let Some(difference) = difference(instruction, host, &ours) {
                        let entry = wrong.entry(format!("{:?}", instruction.code())).or_default();
                        entry.0 += 1;
                        if entry.0 == 1 {
                            let length = usize::from(input.length);
                            entry.1 = format!("{instruction} {:x?}: {difference}", &input.bytes[..length]);
                        }
                    }
                }
            }
        }
    }
    println!("{compared} cases of {} forms; {} forms missing, {} wrong", forms.len(), missing.len(), wrong.len());
    if verbose {
        println!("missing: {missing:?}");
    }
    for (code, (count, first)) in &wrong {
        println!("{code}: {count} differ, first: {first}");
    }
    assert!(wrong.is_empty(), "{} forms differ from the host", wrong.len());
    assert!(missing.is_empty(), "{} forms are missing", missing.len());
}
