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
