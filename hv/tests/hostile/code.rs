//! Code in bytes, and what of it is the same in all cases: the driver, and the handlers of exits and exceptions.
//!
//! Other code is cut into chunks of random [actions](super::actions). The driver takes one after the other: a chunk goes back
//! to it, and so do all exception handlers, on a stack of their own, so that whatever a chunk does wrong, the next has its
//! turn.

use super::layout::*;
use hv_defs::vmcs::{self, VmcsField};

/// Code in bytes, for 64-bit mode.
#[derive(Default)]
pub(crate) struct Code(pub(crate) Vec<u8>);

// Registers, by number.
pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

impl Code {
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// MOV of an immediate into one of the low eight registers.
    pub(crate) fn load(&mut self, register: u8, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            self.0.push(0xb8 + register);
            self.put(&low.to_le_bytes());
        } else {
            self.put(&[0x48, 0xb8 + register]);
            self.put(&value.to_le_bytes());
        }
    }

    /// An instruction whose ModR/M names the quadword at an absolute address.
    pub(crate) fn at(&mut self, prefix: &[u8], opcode: &[u8], reg: u8, address: u64) {
        self.put(prefix);
        self.put(opcode);
        self.put(&[0x04 | reg << 3, 0x25]);
        self.put(&(address as u32).to_le_bytes());
    }

    pub(crate) fn jump(&mut self, to: u64) {
        self.load(RAX, to);
        self.put(&[0xff, 0xe0]);
    }

    pub(crate) fn vmwrite(&mut self, field: VmcsField, value: u64) {
        self.load(RAX, field.0.into());
        self.load(RDX, value);
        self.put(&[0x0f, 0x79, 0xc2]);
    }

    pub(crate) fn vmread(&mut self, field: VmcsField) {
        self.load(RAX, field.0.into());
        self.put(&[0x0f, 0x78, 0xc2]);
    }

    pub(crate) fn vmclear(&mut self, pointer: u64) {
        self.at(&[0x66], &[0x0f, 0xc7], 6, pointer);
    }

    pub(crate) fn vmptrld(&mut self, pointer: u64) {
        self.at(&[], &[0x0f, 0xc7], 6, pointer);
    }

    pub(crate) fn vmxon(&mut self, pointer: u64) {
        self.at(&[0xf3], &[0x0f, 0xc7], 6, pointer);
    }

    pub(crate) fn out_dword(&mut self, port: u16, value: u32) {
        self.load(RAX, value.into());
        self.load(RDX, port.into());
        self.0.push(0xef);
    }
}

pub(crate) const VMRESUME: &[u8] = &[0x0f, 0x01, 0xc3];

/// What is fixed: the driver, the exit handlers, the exception handler.
pub(crate) fn fixed() -> Vec<(u64, Vec<u8>)> {
    let mut driver = Code::default();
    driver.put(&[0x48, 0xbc]); // mov rsp, imm64
    driver.put(&STACK.to_le_bytes());
    driver.at(&[], &[0xff], 0, COUNTER); // inc dword [COUNTER]
    driver.at(&[], &[0x8b], RAX, COUNTER); // mov eax, [COUNTER]
    driver.put(&[0x89, 0xc1, 0x83, 0xe1, 0x0f, 0x75, 0x0c]); // mov ecx, eax; and ecx, 15; jnz over the refresh
    driver.put(&[0x50]); // push rax
    driver.put(&[0xba]);
    driver.put(&u32::from(REFRESH_PORT).to_le_bytes());
    driver.put(&[0xef, 0x58]); // out dx, eax; pop rax
    driver.put(&[0x90; 4]);
    driver.put(&[0x25]); // and eax, CHUNKS - 1
    driver.put(&(CHUNKS as u32 - 1).to_le_bytes());
    driver.put(&[0xc1, 0xe0, CHUNK_SHIFT]); // shl eax, CHUNK_SHIFT
    driver.put(&[0x05]); // add eax, CODE
    driver.put(&(CODE as u32).to_le_bytes());
    driver.put(&[0xff, 0xe0]);

    // An honest handler: over the instruction that exited, and on.
    let mut resume = Code::default();
    resume.at(&[], &[0xff], 1, RESUMES); // dec dword [RESUMES]
    resume.put(&[0x78, 0x1c]); // js: over all but the jump
    resume.load(RAX, vmcs::GUEST_RIP.field().0.into());
    resume.put(&[0x0f, 0x78, 0xc1]); // vmread rcx, rax
    resume.load(RDX, vmcs::EXIT_INSTRUCTION_LENGTH.field().0.into());
    resume.put(&[0x0f, 0x78, 0xd3]); // vmread rbx, rdx
    resume.put(&[0x48, 0x01, 0xd9]); // add rcx, rbx
    resume.put(&[0x0f, 0x79, 0xc1]); // vmwrite rax, rcx
    resume.put(VMRESUME);
    resume.put(&[0x90; 6]);
    resume.jump(DRIVER);

    // One that says again what it was told.
    let mut again = Code::default();
    again.at(&[], &[0xff], 1, RESUMES);
    again.put(&[0x78, 0x03]);
    again.put(VMRESUME);
    again.jump(DRIVER);

    // Whatever happened: on with the driver.
    let mut fault = Code::default();
    fault.jump(DRIVER);
    vec![(DRIVER, driver.0), (RESUMER, resume.0), (AGAIN, again.0), (HANDLER, fault.0)]
}

/// Code that stores the MSRs from `first` on, of which there are `count`, at [`SCRATCH`], and waits.
pub(crate) fn probe(first: u32, count: u32) -> Vec<u8> {
    let mut code = Code::default();
    for number in 0..count {
        code.load(RCX, (first + number).into());
        code.put(&[0x0f, 0x32]);
        code.at(&[], &[0x89], RAX, SCRATCH + 8 * u64::from(number));
        code.at(&[], &[0x89], RDX, SCRATCH + 8 * u64::from(number) + 4);
    }
    code.put(&[0xf4]);
    code.0
}
