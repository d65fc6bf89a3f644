//! An instruction in words, for a reader.

use iced_x86::{Decoder, DecoderOptions, FastFormatter};

/// The instruction that `bytes` begin with, at `rip` in a segment of `bits` bits (16, 32 or 64), and how many bytes it has;
/// `None` where they are none, or not all of one.
pub fn disassemble(bits: u32, rip: u64, bytes: &[u8]) -> Option<(String, usize)> {
    let bits = if matches!(bits, 16 | 32) { bits } else { 64 };
    let mut decoder = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut text = String::new();
    let mut formatter = FastFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.format(&instruction, &mut text);
    Some((text, instruction.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_read_in_the_width_of_its_segment() {
        let check = |bits, bytes: &[u8], want: Option<(&str, usize)>| {
            let got = disassemble(bits, 0x1000, bytes);
            assert_eq!(got.as_ref().map(|(text, length)| (text.as_str(), *length)), want);
        };
        check(64, &[0x48, 0x89, 0xc3, 0x90], Some(("mov rbx, rax", 3)));
        check(32, &[0x48, 0x89, 0xc3], Some(("dec eax", 1)));
        check(16, &[0x89, 0xc3], Some(("mov bx, ax", 2)));
        check(64, &[0x48], None);
        check(64, &[], None);
    }
}
