//! What of two outcomes has to be the same.

use super::host::{CODE, Case, NONE, PAGE, WINDOW};
use super::maker::is_intel;
use super::segments::CODE64;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

/// Bits of RFLAGS that one instruction may change in user mode: the arithmetic flags, DF, NT, AC and ID.
const FLAGS: u64 = 0x24_4cd5;

/// What differs between the host's outcome and ours, in words; `None` for nothing.
pub fn difference(instruction: &Instruction, bits: u32, input: &Case, host: &Case, ours: &Case) -> Option<String> {
    // Of several faults others tell other ones, and leave behind other things when they do.
    if !is_intel() && (host.vector != NONE || ours.vector != NONE || is_other(instruction, input)) {
        return None;
    }
    // A call to where no code can be, through a stack that is not there: the SDM names the target first, models differ.
    let faults = host.vector != NONE && ours.vector != NONE;
    if faults && instruction.mnemonic() == Mnemonic::Call {
        return None;
    }
    // Between a gather's elements the host's single step comes before their fault. See: SDM "VPGATHERDD/VPGATHERQD".
    let gather = instruction.memory_index().is_xmm() || instruction.memory_index().is_ymm();
    if gather && host.vector == NONE && host.state.rip == input.state.rip && ours.vector != NONE {
        return None;
    }
    // How many bytes of what is no instruction are fetched is the model's.
    let reaches_over = host.code + 15 > CODE + PAGE;
    if instruction.is_invalid() && (host.vector, ours.vector) == (13, 6) {
        return None;
    }
    if instruction.is_invalid() && reaches_over && matches!((host.vector, ours.vector), (6, 14) | (14, 6)) {
        return None;
    }
    // Whether bytes that are not stored are checked is the model's. See: SDM "MASKMOVQ".
    let bytewise = {
        use Mnemonic::*;
        matches!(
            instruction.mnemonic(),
            Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq
        )
    };
    if bytewise && host.vector != NONE && matches!(ours.vector, NONE | 14) {
        return None;
    }
    // Of several faults of a large image, models tell different ones.
    if extent(instruction) >= 108 && matches!((host.vector, ours.vector), (13 | 14, 12..=14)) {
        return None;
    }
    // So with a stack segment's limit and an alignment, and with a far pointer's halves.
    let halves =
        matches!(instruction.mnemonic(), Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss);
    if (host.vector, ours.vector) == (13, 12) || halves && (host.vector, ours.vector) == (14, 13) {
        return None;
    }
    // Alignment of what it stores is not looked at by the host.
    if instruction.mnemonic() == Mnemonic::Vcvtps2ph && ours.vector == 17 {
        return None;
    }
    // What is not aligned may be told as #AC. See: SDM "FXRSTOR".
    if (host.vector, ours.vector) == (17, 13) && extent(instruction) >= 512 {
        return None;
    }
    if host.vector != ours.vector {
        return Some(format!(
            "exception {} {:#x} at {:#x} here, {} {:#x} at {:#x} on the host",
            ours.vector, ours.error_code, ours.address, host.vector, host.error_code, host.address
        ));
    }
    // The kernel's half and the last page before it are mapped on the host, so the error code says present there.
    let kernel = host.address >> 40 != 0;
    let (extent, distance) = (extent(instruction), host.address.wrapping_sub(ours.address) as u32);
    let within = distance < extent || distance.wrapping_neg() < extent;
    // So with what IRET finds wrong of CS, RIP and SS.
    if host.vector == 13
        && matches!(instruction.mnemonic(), Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq)
        && host.error_code != ours.error_code
    {
        return None;
    }
    if host.address != ours.address && !within || !kernel && host.error_code != ours.error_code {
        return Some(format!(
            "exception {} with {:#x} at {:#x}, host {:#x} at {:#x}",
            host.vector, ours.error_code, ours.address, host.error_code, host.address
        ));
    }
    let (a, b) = (&host.state, &ours.state);
    // Outside 64-bit mode nothing is said of the registers' upper halves.
    let wide = bits == 64 && a.selectors[1] == CODE64;
    let mask = if wide { u64::MAX } else { 0xffff_ffff };
    for register in 0..16 {
        if (a.gpr[register] ^ b.gpr[register]) & mask != 0 && !is_undefined(instruction) {
            return Some(format!("register {register}: {:#x}, host {:#x}", b.gpr[register], a.gpr[register]));
        }
    }
    if a.rip != b.rip {
        return Some(format!("rip {:#x}, host {:#x}", b.rip, a.rip));
    }
    let undefined = if host.vector == NONE { undefined_flags(instruction) } else { 0 };
    let flags = FLAGS & !undefined;
    if (a.rflags ^ b.rflags) & flags != 0 {
        return Some(format!("rflags {:#x}, host {:#x}, undefined {undefined:#x}", b.rflags, a.rflags));
    }
    // Whatever null selector it was, the host's return to user mode makes it 0.
    let null = |selectors: [u16; 6]| selectors.map(|selector| if selector < 4 { 0 } else { selector });
    if null(a.selectors) != null(b.selectors) {
        return Some(format!("selectors {:x?}, host {:x?}", b.selectors, a.selectors));
    }
    if super::host::has_bases() && a.bases != b.bases {
        return Some(format!("bases {:x?}, host {:x?}", b.bases, a.bases));
    }
    if a.memory != b.memory {
        let at = (0..WINDOW).find(|&at| a.memory[at] != b.memory[at])?;
        return Some(format!(
            "memory at {at}: {:x?}, host {:x?}",
            &b.memory[at..WINDOW.min(at + 16)],
            &a.memory[at..WINDOW.min(at + 16)]
        ));
    }
    extended(instruction, input, host, ours)
}

/// Whether AMD's CPUs take the bytes for something else, or do something else for them: what they push of a segment register, tell
/// of the last x87 instruction, shift further than an operand is wide, and what a prefix makes of INT1, PAUSE and LOOPcc.
fn is_other(instruction: &Instruction, input: &Case) -> bool {
    use Mnemonic::*;
    let other = match instruction.mnemonic() {
        Fxsave | Fxsave64 | Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 => true,
        Shld | Shrd | Rcl | Rcr | Int1 | Pause | Loope | Loopne => true,
        Push => instruction.op0_register().is_segment_register(),
        _ => false,
    };
    if other {
        return true;
    }
    let bits = if input.state.selectors[1] == CODE64 { 64 } else { return false };
    let bytes = &input.bytes[..input.length.into()];
    Decoder::with_ip(bits, bytes, instruction.ip(), DecoderOptions::AMD).decode() != *instruction
}

/// The x87 and vector registers.
fn extended(instruction: &Instruction, input: &Case, host: &Case, ours: &Case) -> Option<String> {
    let (a, b) = (&host.state.extended, &ours.state.extended);
    // Control, status and tag words; MXCSR; the registers. Not the pointers to the last instruction.
    let ranges = [0..5, 24..28, 32..160, 160..416, 576..832];
    // Far beyond the range, a result that is unmasked is told in more ways than one.
    if instruction.mnemonic() == Mnemonic::Fscale && host.state.extended[2] & 0x80 != 0 {
        return None;
    }
    // How much of an image has been taken when its rest faults is the model's.
    if host.vector != NONE && extent(instruction) == 832 {
        return None;
    }
    // FYL2XP1 is for small numbers. See: SDM "FYL2XP1".
    if instruction.mnemonic() == Mnemonic::Fyl2xp1 && input.state.extended[41] & 0x7f >= 0x3f {
        return None;
    }
    let approximate = is_approximate(instruction);
    // Whether an MMX instruction that faults has turned the x87 registers to MMX before is the model's.
    let turned = host.vector != NONE
        && instruction
            .op_kinds()
            .zip(0..)
            .any(|(kind, at)| kind == OpKind::Register && instruction.op_register(at).is_mm());
    for range in ranges {
        if turned && range.start < 160 && range.start != 24 {
            continue;
        }
        for at in range {
            let unused = (32..160).contains(&at) && at % 16 >= 10;
            if unused || a[at] == b[at] {
                continue;
            }
            // C1 tells which way the last place was rounded.
            let only_c1 = at == 3 && (a[at] ^ b[at]) == 2;
            // A sum of products that faults may or may not have come to its sums.
            let summed = (24..28).contains(&at) && host.vector != NONE;
            if approximate && (at >= 32 || only_c1 || summed) {
                continue;
            }
            let line = at & !15;
            return Some(format!(
                "extended state at {at}: {:x?}, host {:x?}",
                &b[line..line + 16],
                &a[line..line + 16]
            ));
        }
    }
    None
}

/// Bytes of an operand that is accessed in parts, of which any may be the first to fault; else none.
fn extent(instruction: &Instruction) -> u32 {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Fxsave | Fxsave64 | Fxrstor | Fxrstor64 => 512,
        Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 => 832,
        Fldenv | Fnstenv | Frstor | Fnsave => 108,
        Maskmovdqu | Vmaskmovdqu | Maskmovq => 16,
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => 32,
        Retf | Iret | Iretd | Iretq => 40,
        _ => 0,
    }
}

/// Flags that the SDM leaves undefined.
fn undefined_flags(instruction: &Instruction) -> u64 {
    use iced_x86::RflagsBits as R;
    let undefined = instruction.rflags_undefined();
    [(R::OF, 11), (R::SF, 7), (R::ZF, 6), (R::AF, 4), (R::CF, 0), (R::PF, 2)]
        .into_iter()
        .filter(|(bit, _)| undefined & bit != 0)
        .fold(0, |mask, (_, at)| mask | 1 << at)
}

/// Whether the SDM leaves the destination undefined: a 16-bit BSWAP's. BSF's and BSR's for a source of zero is not, on
/// any model.
fn is_undefined(instruction: &Instruction) -> bool {
    instruction.code() == iced_x86::Code::Bswap_r16
}

/// Instructions whose last bits the SDM leaves to the model, or which of two NaNs their sum takes.
fn is_approximate(instruction: &Instruction) -> bool {
    use Mnemonic::*;
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
