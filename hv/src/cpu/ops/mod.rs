//! What instructions do, a file a family. Each family offers builders, which the rows name: functions from a
//! [`Form`](super::decode::Form) to the [`Run`](super::op::Run) for that shape and width, or `None` for a form that is
//! not there.

pub(super) mod alu;
pub(super) mod bits;
pub(super) mod branch;
pub(super) mod data;
pub(super) mod decimal;
pub(super) mod far;
pub(super) mod fast;
pub(super) mod flag;
pub(super) mod fused;
pub(super) mod io;
pub(super) mod msr;
pub(super) mod muldiv;
pub(super) mod shift;
pub(super) mod stack;
pub(super) mod string;
pub(super) mod system;
pub(super) mod table;
pub(super) mod vector;
pub(super) mod vmx;
pub(super) mod x87;

/// Picks the instance of a function that is generic over a width, after its other parameters.
macro_rules! by_width {
    ($width:expr, $f:ident $(::<$($g:tt),*>)?) => {
        match $width {
            1 => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::W8>),
            2 => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::W16>),
            4 => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::W32>),
            _ => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::W64>),
        }
    };
}

/// Picks the instance of a function that is generic over an address form, after its other parameters.
macro_rules! by_ea_only {
    ($ea:expr, $f:ident $(::<$($g:tt),*>)?) => {
        match $ea {
            $crate::cpu::decode::EaKind::Base => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::Base>),
            $crate::cpu::decode::EaKind::Sib => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::Sib>),
            $crate::cpu::decode::EaKind::Rip => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::Rip>),
            $crate::cpu::decode::EaKind::Any64 => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::Any64>),
            $crate::cpu::decode::EaKind::Offset => $crate::cpu::op::Run::new($f::<$($($g,)*)? $crate::cpu::op::Offset>),
        }
    };
}

/// Picks the instance of a function that is generic over a width and an address form, after its other parameters.
macro_rules! by_ea {
    ($ea:expr, $width:expr, $f:ident $(::<$($g:tt),*>)?) => {
        match $ea {
            $crate::cpu::decode::EaKind::Base => $crate::cpu::ops::by_ea!(@ $width, $f, Base, $($($g)*)?),
            $crate::cpu::decode::EaKind::Sib => $crate::cpu::ops::by_ea!(@ $width, $f, Sib, $($($g)*)?),
            $crate::cpu::decode::EaKind::Rip => $crate::cpu::ops::by_ea!(@ $width, $f, Rip, $($($g)*)?),
            $crate::cpu::decode::EaKind::Any64 => $crate::cpu::ops::by_ea!(@ $width, $f, Any64, $($($g)*)?),
            $crate::cpu::decode::EaKind::Offset => $crate::cpu::ops::by_ea!(@ $width, $f, Offset, $($($g)*)?),
        }
    };
    (@ $width:expr, $f:ident, $e:ident, $($g:tt)*) => {
        match $width {
            1 => $crate::cpu::op::Run::new($f::<$($g,)* $crate::cpu::op::W8, $crate::cpu::op::$e>),
            2 => $crate::cpu::op::Run::new($f::<$($g,)* $crate::cpu::op::W16, $crate::cpu::op::$e>),
            4 => $crate::cpu::op::Run::new($f::<$($g,)* $crate::cpu::op::W32, $crate::cpu::op::$e>),
            _ => $crate::cpu::op::Run::new($f::<$($g,)* $crate::cpu::op::W64, $crate::cpu::op::$e>),
        }
    };
}

/// As [`by_ea`], for functions whose first try is to be without a call in 64-bit code.
macro_rules! by_ea_fast {
    ($ea:expr, $width:expr, $f:ident $(::<$($g:tt),*>)?) => {
        match $ea {
            $crate::cpu::decode::EaKind::Base => $crate::cpu::ops::by_ea_fast!(@ $width, $f, Base, $($($g)*)?),
            $crate::cpu::decode::EaKind::Sib => $crate::cpu::ops::by_ea_fast!(@ $width, $f, Sib, $($($g)*)?),
            $crate::cpu::decode::EaKind::Rip => $crate::cpu::ops::by_ea_fast!(@ $width, $f, Rip, $($($g)*)?),
            $crate::cpu::decode::EaKind::Any64 => $crate::cpu::ops::by_ea_fast!(@ $width, $f, Any64, $($($g)*)?),
            $crate::cpu::decode::EaKind::Offset => $crate::cpu::ops::by_ea!(@ $width, $f, Offset, $($($g)*)?),
        }
    };
    (@ $width:expr, $f:ident, $e:ident, $($g:tt)*) => {
        match $width {
            1 => $crate::cpu::ops::by_ea_fast!(@@ W8, $f, $e, $($g)*),
            2 => $crate::cpu::ops::by_ea!(@ 2, $f, $e, $($g)*),
            4 => $crate::cpu::ops::by_ea_fast!(@@ W32, $f, $e, $($g)*),
            _ => $crate::cpu::ops::by_ea_fast!(@@ W64, $f, $e, $($g)*),
        }
    };
    (@@ $w:ident, $f:ident, $e:ident, $($g:tt)*) => {
        $crate::cpu::op::Run::tried(
            $f::<$($g,)* $crate::cpu::op::Fast<$crate::cpu::op::$w>, $crate::cpu::op::$e>,
            $f::<$($g,)* $crate::cpu::op::$w, $crate::cpu::op::$e>,
        )
    };
}

/// Picks the instance of a function whose first parameter is a condition.
macro_rules! by_condition {
    ($condition:expr, $pick:ident!($($before:tt)*), $f:ident $(::<$($g:tt),*>)?) => {
        match $condition {
            0 => $crate::cpu::ops::$pick!($($before)* $f::<0 $($(,$g)*)?>),
            1 => $crate::cpu::ops::$pick!($($before)* $f::<1 $($(,$g)*)?>),
            2 => $crate::cpu::ops::$pick!($($before)* $f::<2 $($(,$g)*)?>),
            3 => $crate::cpu::ops::$pick!($($before)* $f::<3 $($(,$g)*)?>),
            4 => $crate::cpu::ops::$pick!($($before)* $f::<4 $($(,$g)*)?>),
            5 => $crate::cpu::ops::$pick!($($before)* $f::<5 $($(,$g)*)?>),
            6 => $crate::cpu::ops::$pick!($($before)* $f::<6 $($(,$g)*)?>),
            7 => $crate::cpu::ops::$pick!($($before)* $f::<7 $($(,$g)*)?>),
            8 => $crate::cpu::ops::$pick!($($before)* $f::<8 $($(,$g)*)?>),
            9 => $crate::cpu::ops::$pick!($($before)* $f::<9 $($(,$g)*)?>),
            10 => $crate::cpu::ops::$pick!($($before)* $f::<10 $($(,$g)*)?>),
            11 => $crate::cpu::ops::$pick!($($before)* $f::<11 $($(,$g)*)?>),
            12 => $crate::cpu::ops::$pick!($($before)* $f::<12 $($(,$g)*)?>),
            13 => $crate::cpu::ops::$pick!($($before)* $f::<13 $($(,$g)*)?>),
            14 => $crate::cpu::ops::$pick!($($before)* $f::<14 $($(,$g)*)?>),
            _ => $crate::cpu::ops::$pick!($($before)* $f::<15 $($(,$g)*)?>),
        }
    };
}

/// The function itself, for [`by_condition`].
macro_rules! just {
    ($f:expr) => {
        $crate::cpu::op::Run::new($f)
    };
}

pub(in crate::cpu) use {by_condition, by_ea, by_ea_fast, by_ea_only, by_width, just};
