//! `pool-thrash`: an L1 with six vmcs12s, A to F, that it enters in a given order, so that what a pool of any size finds
//! is known. Each entry is one trip to an L2 that says VMCALL. A mark begins each phase:
//!
//! | mark | order | entries |
//! | --- | --- | --- |
//! | 1 | ABCDEF ABCDEF | 12 |
//! | 2 | AAAA | 4 |
//! | 3 | ABABABAB | 8 |
//! | 4 | ABCABCABC | 9 |
//! | 5 | FEDCBA ABCDEF | 12 |
//!
//! On paper: a pool of n that recycles the least recently used holds a vmcs12 if it is among the last n distinct ones,
//! its depth in the stack of those. The depths, `-` for the first entry ever, with the stack (latest first) behind each
//! phase:
//!
//! | mark | depths | stack |
//! | --- | --- | --- |
//! | 1 | `------ 666666` | FEDCBA |
//! | 2 | `6111` | AFEDCB |
//! | 3 | `16222222` | BAFEDC |
//! | 4 | `226333333` | CBAFED |
//! | 5 | `456456 123456` | FEDCBA |
//!
//! So often each depth: 1 five times, 2 nine, 3 seven, 4 and 5 three times each, 6 twelve times, and six are first
//! entries: 45 in all. A pool of n hits all depths up to n, takes a free slot (`miss`) min(n, 6) times, and recycles at
//! all else:
//!
//! | size | hits | misses | recycled |
//! | --- | --- | --- | --- |
//! | 1 | 5 | 1 | 39 |
//! | 2 | 14 | 2 | 29 |
//! | 4 | 24 | 4 | 17 |
//! | 8 | 39 | 6 | 0 |
//!
//! `pool-thrash:ORDER` is the same in an order of one's own, of up to 16 vmcs12s, all in one phase; a small letter executes
//! VMCLEAR of its vmcs12, so that it is entered by VMLAUNCH next.

use super::l2::L2;
use super::vmx::{Hypervisor, memory, vmcs as region};
use crate::boot::Loaded;
use hv_defs::controls::EptVpidCap;
use hv_defs::exit::Reason;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

const VMCSS: u64 = 6;

/// The phases, as the letters of the vmcs12s.
const PHASES: [&str; 5] = ["ABCDEFABCDEF", "AAAA", "ABABABAB", "ABCABCABC", "FEDCBAABCDEF"];

/// VMCSs that an order of one's own may name.
const MOST_VMCSS: u64 = 16;
/// Letters that it may have.
const LONGEST: usize = 2000;

pub(super) fn build() -> Result<Loaded, IcedError> {
    assemble(&PHASES, VMCSS)
}

/// The guest with an order of one's own, of the letters `A` to `P`; `a` to `p` execute VMCLEAR of that vmcs12. `None` if that
/// is no order, or one of more than 2000 letters.
pub(super) fn build_in(order: &str) -> Option<Result<Loaded, IcedError>> {
    let last = order.bytes().map(|letter| letter.to_ascii_uppercase()).max()?;
    let letters = order.len() <= LONGEST && order.bytes().all(|letter| letter.is_ascii_alphabetic());
    let vmcss = u64::from(last.saturating_sub(b'A')) + 1;
    (letters && vmcss <= MOST_VMCSS).then(|| assemble(&[order], vmcss))
}

fn assemble(phases: &[&str], vmcss: u64) -> Result<Loaded, IcedError> {
    let mut l1 = Hypervisor::new("pool-thrash", EptVpidCap::empty())?;
    l1.place(memory(0), l2_image()?);
    l1.ept(0, memory(0))?;
    for number in 0..vmcss {
        l1.vmcs(number, 0, number as u16 + 1)?;
    }
    for (mark, phase) in (1..).zip(phases) {
        l1.mark(mark)?;
        for letter in phase.bytes() {
            let number = u64::from(letter.to_ascii_uppercase() - b'A');
            if letter.is_ascii_lowercase() {
                l1.give_up(number)?;
                continue;
            }
            l1.mov(eax, region(number) as u32)?;
            l1.load_rax()?;
            l1.run_until(number, Reason::VMCALL)?;
            l1.advance()?;
        }
        l1.print(&format!("pool-thrash: {phase}\n"))?;
    }
    l1.mark(phases.len() as u32 + 1)?;
    l1.turn_off(vmcss)?;
    l1.print("pool-thrash: done\n")?;
    l1.exit(0)?;
    l1.finish()
}

fn l2_image() -> Result<Vec<u8>, IcedError> {
    let mut l2 = L2::new()?;
    let mut again = l2.create_label();
    l2.set_label(&mut again)?;
    l2.vmcall()?;
    l2.jmp(again)?;
    l2.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: usize, expected: (usize, usize, usize)) {
        let (mut stack, mut got) = (Vec::new(), (0, 0, 0));
        for letter in PHASES.concat().bytes() {
            match stack.iter().position(|other| *other == letter) {
                Some(depth) => {
                    got.0 += 1;
                    stack.remove(depth);
                }
                None if stack.len() < size => got.1 += 1,
                None => {
                    got.2 += 1;
                    stack.pop();
                }
            }
            stack.insert(0, letter);
        }
        assert_eq!(got, expected, "a pool of {size}");
    }

    #[test]
    fn the_paper_adds_up() {
        check(1, (5, 1, 39));
        check(2, (14, 2, 29));
        check(4, (24, 4, 17));
        check(8, (39, 6, 0));
    }
}
