//! The state that XSAVE manages: its components, and where they lie in the standard and in the compacted format.
//!
//! See: SDM "XSAVE-Managed Features and State-Component Bitmaps". There is no supervisor state: IA32_XSS is 0.

/// The x87 state, in the legacy region.
pub const X87: u64 = 1 << 0;
/// The XMM registers and MXCSR, in the legacy region.
pub const SSE: u64 = 1 << 1;
/// The upper halves of the YMM registers.
pub const AVX: u64 = 1 << 2;
/// PKRU.
pub const PKRU: u64 = 1 << 9;

/// The bits of XCR0 that may be set.
pub const XCR0: u64 = X87 | SSE | AVX | PKRU;

/// Bytes of the legacy region and the header.
const BEGIN: u32 = 576;

/// A component behind the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Component {
    /// Its bit's number.
    pub number: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Its offset in the standard format.
    pub at: u32,
}

/// The components behind the header, in their order.
const COMPONENTS: [Component; 2] =
    [Component { number: 2, bytes: 256, at: BEGIN }, Component { number: 9, bytes: 8, at: BEGIN + 256 }];

/// The component of that number, if it lies behind the header.
pub fn component(number: u32) -> Option<Component> {
    COMPONENTS.into_iter().find(|component| component.number == number)
}

/// Where a component lies in the compacted format of `mask`'s components.
pub fn compacted_at(mask: u64, number: u32) -> u32 {
    let before = COMPONENTS.iter().filter(|component| component.number < number);
    BEGIN + before.filter(|component| mask >> component.number & 1 != 0).map(|component| component.bytes).sum::<u32>()
}

/// Bytes of an area in the standard format for `mask`'s components.
pub fn standard_size(mask: u64) -> u32 {
    let used = COMPONENTS.iter().filter(|component| mask >> component.number & 1 != 0);
    used.map(|component| component.at + component.bytes).max().unwrap_or(BEGIN)
}

/// Bytes of an area in the compacted format for `mask`'s components.
pub fn compacted_size(mask: u64) -> u32 {
    compacted_at(mask, 63)
}

/// Whether XSETBV takes a value for XCR0: the x87 state always, AVX with SSE alone, and nothing that there is not.
pub fn is_xcr0(value: u64) -> bool {
    value & X87 != 0 && value & !XCR0 == 0 && (value & AVX == 0 || value & SSE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_differ_where_a_component_is_left_out() {
        assert_eq!((standard_size(3), standard_size(7), standard_size(XCR0)), (576, 832, 840));
        assert_eq!((standard_size(X87 | PKRU), compacted_size(X87 | PKRU)), (840, 584));
        assert_eq!((compacted_at(XCR0, 9), compacted_at(X87 | PKRU, 9)), (832, 576));
    }

    #[test]
    fn xcr0_has_its_rules() {
        let good = [1, 3, 7, 0x207, 0x201];
        let bad = [0, 2, 5, 9, 0x1_0001];
        assert!(good.into_iter().all(is_xcr0) && !bad.into_iter().any(is_xcr0));
    }
}
