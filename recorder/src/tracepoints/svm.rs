//! What AMD's SVM says of an exit, in VMX's words, so that exits of both are asked about alike.
//!
//! Bits that SVM does not tell are 0. See: AMD64 manual volume 2, "SVM Intercept Codes" and "IOIO Intercepts"; SDM "Basic
//! VM-Exit Information".

use hv_defs::exit::InterruptionInfo;

/// What there is of an exit but its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Said {
    pub(super) qualification: u64,
    pub(super) length: u8,
    pub(super) gpa: u64,
    pub(super) gla: u64,
    pub(super) intr_info: InterruptionInfo,
}

/// What an exit with that code at `rip` says. `intr_info` is EXITINTINFO, which is what IDT-vectoring information is.
pub(super) fn said(code: u32, [info1, info2]: [u64; 2], rip: u64, intr_info: InterruptionInfo) -> Said {
    let said = Said { intr_info, ..Said::default() };
    let bit = |word: u64, from: u32, to: u32| (word >> from & 1) << to;
    // Bit 63: the instruction is a MOV, and EXITINFO1 names its register.
    let register = if bit(info1, 63, 0) == 1 { (info1 & 0xf) << 8 } else { 0 };
    match code {
        0x000..=0x01f => Said { qualification: u64::from(code & 0xf) | bit((!code).into(), 4, 4) | register, ..said },
        0x065 => Said { qualification: register, ..said },
        0x090..=0x09f => Said { qualification: u64::from(code & 0xf), ..said },
        0x020..=0x03f => {
            let register = (info1 & 0xf) << 8;
            Said { qualification: u64::from(code & 7) | bit((!code).into(), 4, 4) | register, ..said }
        }
        0x040..=0x05f => exception(code - 0x040, [info1, info2], said),
        // NMI.
        0x061 => Said { intr_info: InterruptionInfo::from(1 << 31 | 2 << 8 | 2), ..said },
        // Which way, string, repeated; the size as a bit each for 1, 2 and 4 bytes; the port. EXITINFO2 is the next RIP.
        0x07b => {
            let size = (info1 >> 4 & 7).saturating_sub(1);
            let flags = bit(info1, 0, 3) | bit(info1, 2, 4) | bit(info1, 3, 5);
            let qualification = size | flags | info1 & 0xffff_0000;
            Said { qualification, length: length(rip, info2), ..said }
        }
        // Which MSR is not told, and which way is in the reason.
        0x07c => said,
        // The address, where the CPU decodes for the hypervisor.
        0x079 => Said { qualification: info1, ..said },
        // The selector, and what switches: IRET, JMP, a gate of the IDT, else CALL.
        0x07d => {
            let by = match (bit(info2, 36, 0), bit(info2, 38, 0), intr_info.valid()) {
                (1, ..) => 1,
                (_, 1, _) => 2,
                (.., true) => 3,
                _ => 0,
            };
            Said { qualification: info1 & 0xffff | by << 30, ..said }
        }
        // A page fault's error code: present, write, fetch. A page that is present can be read.
        0x400 => {
            let (write, fetch) = (bit(info1, 1, 1), bit(info1, 4, 2));
            let read = u64::from(write | fetch == 0);
            Said { qualification: read | write | fetch | bit(info1, 0, 3), gpa: info2, ..said }
        }
        _ => Said { qualification: info1, ..said },
    }
}

/// Whether an exception comes with an error code.
pub(super) fn has_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

fn exception(vector: u32, [_, info2]: [u64; 2], said: Said) -> Said {
    let kind = if matches!(vector, 3 | 4) { 6 } else { 3 };
    let has_code = has_code(vector);
    let intr_info = InterruptionInfo::from(1 << 31 | u32::from(has_code) << 11 | kind << 8 | vector);
    // Of a page fault, EXITINFO2 is the address.
    Said { qualification: if vector == 14 { info2 } else { 0 }, intr_info, ..said }
}

/// The length of the instruction at `rip`, if the next one is at `next`; else 0.
fn length(rip: u64, next: u64) -> u8 {
    match next.wrapping_sub(rip) {
        length @ 1..=15 => length as u8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u32, info: [u64; 2], qualification: u64, gpa: u64, length: u8, intr_info: u32) {
        let got = said(code, info, 0x1000, InterruptionInfo::default());
        let intr_info = InterruptionInfo::from(intr_info);
        assert_eq!(got, Said { qualification, length, gpa, gla: 0, intr_info }, "{code:#x}");
    }

    #[test]
    fn in_words_of_vmx() {
        // MOV to CR3 from RBX; from CR4, register not told.
        check(0x013, [1 << 63 | 3, 0], 0x303, 0, 0, 0);
        check(0x004, [0, 0], 0x14, 0, 0, 0);
        check(0x037, [2, 0], 0x207, 0, 0, 0);
        // IN of 1 byte and REP OUTS of 4 from port 0x3f8.
        check(0x07b, [0x3f8_0011, 0x1001], 0x3f8_0008, 0, 1, 0);
        check(0x07b, [0x3f8_004c, 0x1002], 0x3f8_0033, 0, 2, 0);
        check(0x07b, [0x3f8_0021, 0], 0x3f8_0009, 0, 0, 0);
        check(0x400, [1 << 32 | 4, 0x5000], 1, 0x5000, 0, 0);
        check(0x400, [1 << 32 | 7, 0x5000], 0xa, 0x5000, 0, 0);
        check(0x400, [1 << 33 | 0x14, 0x5000], 4, 0x5000, 0, 0);
        check(0x04e, [2, 0xdead], 0xdead, 0, 0, 0x8000_0b0e);
        check(0x043, [0, 0], 0, 0, 0, 0x8000_0603);
        check(0x061, [0, 0], 0, 0, 0, 0x8000_0202);
        check(0x07d, [0x18, 1 << 38], 2 << 30 | 0x18, 0, 0, 0);
        check(0x081, [7, 8], 7, 0, 0, 0);
    }
}
