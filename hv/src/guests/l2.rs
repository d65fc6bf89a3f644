//! The L2s of the built-in guests: 64-bit code under page tables, a GDT and an IDT of its own, in L2-physical memory
//! that L1 puts wherever it likes. The image is what lies there from address 0.

use super::kit::{self, Asm};
use core::ops::{Deref, DerefMut};
use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

// Where things lie in L2's memory.
pub(super) const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
pub(super) const GDT: u64 = 0x4000;
pub(super) const IDT: u64 = 0x5000;
pub(super) const TSS: u64 = 0x6000;
pub(super) const STACK_TOP: u64 = 0x8000;
pub(super) const ENTRY: u64 = 0x9000;
/// The code ends below; from here on are the L2's data.
pub(super) const DATA: u64 = 0x1_0000;
/// Pages that L1 maps before an L2 starts.
pub(super) const PAGES: u64 = 0x20;

/// The assembler of an L2.
pub(super) struct L2 {
    asm: CodeAssembler,
    handlers: Vec<(usize, CodeLabel)>,
    data: Vec<(u64, u64)>,
}

impl Deref for L2 {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.asm
    }
}

impl DerefMut for L2 {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.asm
    }
}

impl L2 {
    /// An L2 that starts with what is assembled next.
    pub(super) fn new() -> Result<Self, IcedError> {
        Ok(Self { asm: CodeAssembler::new(64)?, handlers: Vec::new(), data: Vec::new() })
    }

    /// What is assembled next handles a vector.
    pub(super) fn handler(&mut self, vector: usize) -> Asm {
        let mut label = self.create_label();
        self.set_label(&mut label)?;
        self.handlers.push((vector, label));
        Ok(())
    }

    /// A quadword at an address of 0x10000 or more, from the start.
    pub(super) fn place(&mut self, at: u64, value: u64) {
        self.data.push((at, value));
    }

    /// Assembles it. The bytes lie at L2-physical 0.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        let code = self.asm.assemble_options(ENTRY, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
        let mut handlers = Vec::new();
        for (vector, label) in &self.handlers {
            handlers.push((*vector, code.label_ip(label)?));
        }
        let mut pieces = vec![
            (PML4, kit::words(&[PDPT | 3])),
            (PDPT, kit::words(&[PD | 3])),
            (PD, kit::words(&[0x83])),
            (GDT, kit::gdt(TSS)),
            (IDT, kit::idt(&handlers)),
            (ENTRY, code.inner.code_buffer),
        ];
        pieces.extend(self.data.iter().map(|(at, value)| (*at, kit::words(&[*value]))));
        let end = pieces.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
        let mut image = vec![0; end as usize];
        for (at, bytes) in pieces {
            image[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(image)
    }
}
