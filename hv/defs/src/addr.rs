//! Addresses, one type a space, so that mixing levels does not compile.
//!
//! A nested access goes [`Gva`] → (L2's page tables) → [`L2Gpa`] → (EPT12) → [`Gpa`] → (EPT01) → [`Hpa`].

use core::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Whether a linear address is canonical: its bits from 47 on are all alike, or with `la57` those from 56 on.
///
/// See: SDM "Canonical Addressing".
#[inline(always)]
pub const fn is_canonical(address: u64, la57: bool) -> bool {
    let beyond = if la57 { 7 } else { 16 };
    (address << beyond) as i64 >> beyond == address as i64
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address of the page that holds this one.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Which byte of its page this is.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Whether this is the first byte of a page.
            pub const fn is_page_aligned(self) -> bool {
                self.page_offset() == 0
            }

            /// The address `bytes` further, wrapping as the hardware's adders do.
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-linear address, of whichever guest runs.
    Gva
}
address! {
    /// An L2 guest-physical address: what L2's page tables map to and EPT12 maps from.
    L2Gpa
}
address! {
    /// An L1 guest-physical address: what EPT12 maps to and EPT01 maps from.
    Gpa
}
address! {
    /// A host-physical address: what the silicon puts on its bus.
    Hpa
}
