//! Kernels of any content, with an initrd and a command line: an even first byte has a kernel made by the bytes behind it, an
//! odd one is followed by a byte for what stands beside the kernel and by the kernel's own bytes.

use super::super::dice::Dice;
use super::super::images;

pub(super) fn target(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    super::same_again(data, || {
        let booted = if kind % 2 == 0 {
            let mut dice = Dice::of(rest);
            let kernel = images::kernel(&mut dice);
            images::boot(kernel, &mut dice)
        } else {
            let (beside, kernel) = rest.split_at(rest.len().min(3));
            images::boot(kernel.to_vec(), &mut Dice::of(beside))
        };
        booted.unwrap_or(1)
    });
}
