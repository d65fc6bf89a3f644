//! Checks on the guest's segment registers. One row a register and a rule, so that the name says which.

use super::{Row, Subject, canonical};
use hv_defs::event::Check;
use hv_defs::vmcs::*;
use hv_defs::x86::{AccessRights, Cr0};

/// A segment register in the VMCS.
#[derive(Clone, Copy)]
struct Register {
    selector: Field<u16>,
    base: Field<u64>,
    limit: Field<u32>,
    rights: Field<u32>,
}

macro_rules! registers {
    ($($name:ident: $selector:ident, $base:ident, $limit:ident, $rights:ident;)*) => {
        $(const $name: Register = Register { selector: $selector, base: $base, limit: $limit, rights: $rights };)*
    };
}

registers! {
    ES: GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS;
    CS: GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS;
    SS: GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS;
    DS: GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS;
    FS: GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS;
    GS: GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS;
    LDTR: GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS;
    TR: GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS;
}

/// One row, of a rule (a function of the subject and the register) and a register.
macro_rules! row {
    ($name:literal, $rule:ident, $register:ident) => {
        Row { check: Check::new($name), holds: |s| $rule(s, $register), hot: false, qualification: 0 }
    };
}

/// The rows, in the SDM's order.
pub static SEGMENTS: &[Row] = &[
    // selectors
    row!("guest-tr-selector", in_gdt, TR),
    row!("guest-ldtr-selector", in_gdt_if_usable, LDTR),
    row!("guest-ss-selector-rpl", rpl_of_cs, SS),
    // bases
    row!("guest-cs-base-v86", base_v86, CS),
    row!("guest-ss-base-v86", base_v86, SS),
    row!("guest-ds-base-v86", base_v86, DS),
    row!("guest-es-base-v86", base_v86, ES),
    row!("guest-fs-base-v86", base_v86, FS),
    row!("guest-gs-base-v86", base_v86, GS),
    row!("guest-tr-base-canonical", base_canonical, TR),
    row!("guest-fs-base-canonical", base_canonical, FS),
    row!("guest-gs-base-canonical", base_canonical, GS),
    row!("guest-ldtr-base-canonical", base_canonical_if_usable, LDTR),
    row!("guest-cs-base-high", base_32_bits, CS),
    row!("guest-ss-base-high", base_32_bits_if_usable, SS),
    row!("guest-ds-base-high", base_32_bits_if_usable, DS),
    row!("guest-es-base-high", base_32_bits_if_usable, ES),
    // limits
    row!("guest-cs-limit-v86", limit_v86, CS),
    row!("guest-ss-limit-v86", limit_v86, SS),
    row!("guest-ds-limit-v86", limit_v86, DS),
    row!("guest-es-limit-v86", limit_v86, ES),
    row!("guest-fs-limit-v86", limit_v86, FS),
    row!("guest-gs-limit-v86", limit_v86, GS),
    // access rights in virtual-8086 mode
    row!("guest-cs-rights-v86", rights_v86, CS),
    row!("guest-ss-rights-v86", rights_v86, SS),
    row!("guest-ds-rights-v86", rights_v86, DS),
    row!("guest-es-rights-v86", rights_v86, ES),
    row!("guest-fs-rights-v86", rights_v86, FS),
    row!("guest-gs-rights-v86", rights_v86, GS),
    // type
    row!("guest-cs-type", type_cs, CS),
    row!("guest-ss-type", type_ss, SS),
    row!("guest-ds-type", type_data, DS),
    row!("guest-es-type", type_data, ES),
    row!("guest-fs-type", type_data, FS),
    row!("guest-gs-type", type_data, GS),
    // code or data
    row!("guest-cs-system", code_or_data, CS),
    row!("guest-ss-system", code_or_data, SS),
    row!("guest-ds-system", code_or_data, DS),
    row!("guest-es-system", code_or_data, ES),
    row!("guest-fs-system", code_or_data, FS),
    row!("guest-gs-system", code_or_data, GS),
    // privilege level
    row!("guest-cs-dpl", dpl_cs, CS),
    row!("guest-ss-dpl-rpl", dpl_ss_is_rpl, SS),
    row!("guest-ss-dpl-zero", dpl_ss_zero, SS),
    row!("guest-ds-dpl", dpl_data, DS),
    row!("guest-es-dpl", dpl_data, ES),
    row!("guest-fs-dpl", dpl_data, FS),
    row!("guest-gs-dpl", dpl_data, GS),
    // present
    row!("guest-cs-present", present, CS),
    row!("guest-ss-present", present, SS),
    row!("guest-ds-present", present, DS),
    row!("guest-es-present", present, ES),
    row!("guest-fs-present", present, FS),
    row!("guest-gs-present", present, GS),
    // reserved bits below the unusable bit
    row!("guest-cs-rights-reserved", rights_reserved, CS),
    row!("guest-ss-rights-reserved", rights_reserved, SS),
    row!("guest-ds-rights-reserved", rights_reserved, DS),
    row!("guest-es-rights-reserved", rights_reserved, ES),
    row!("guest-fs-rights-reserved", rights_reserved, FS),
    row!("guest-gs-rights-reserved", rights_reserved, GS),
    // default operation size
    row!("guest-cs-long-and-big", long_or_big, CS),
    // granularity
    row!("guest-cs-granularity", granularity, CS),
    row!("guest-ss-granularity", granularity, SS),
    row!("guest-ds-granularity", granularity, DS),
    row!("guest-es-granularity", granularity, ES),
    row!("guest-fs-granularity", granularity, FS),
    row!("guest-gs-granularity", granularity, GS),
    // reserved bits above the unusable bit
    row!("guest-cs-rights-high", rights_high, CS),
    row!("guest-ss-rights-high", rights_high, SS),
    row!("guest-ds-rights-high", rights_high, DS),
    row!("guest-es-rights-high", rights_high, ES),
    row!("guest-fs-rights-high", rights_high, FS),
    row!("guest-gs-rights-high", rights_high, GS),
    // the task register
    row!("guest-tr-type", type_tr, TR),
    row!("guest-tr-system", system, TR),
    row!("guest-tr-present", system_present, TR),
    row!("guest-tr-rights-reserved", system_rights_reserved, TR),
    row!("guest-tr-granularity", system_granularity, TR),
    row!("guest-tr-unusable", usable, TR),
    row!("guest-tr-rights-high", system_rights_high, TR),
    // the local descriptor table
    row!("guest-ldtr-type", type_ldtr, LDTR),
    row!("guest-ldtr-system", system, LDTR),
    row!("guest-ldtr-present", system_present, LDTR),
    row!("guest-ldtr-rights-reserved", system_rights_reserved, LDTR),
    row!("guest-ldtr-granularity", system_granularity, LDTR),
    row!("guest-ldtr-rights-high", system_rights_high, LDTR),
];

fn rights(s: &Subject<'_>, register: Register) -> AccessRights {
    AccessRights::from_bits(s.get(register.rights))
}

fn usable(s: &Subject<'_>, register: Register) -> bool {
    !rights(s, register).unusable()
}

fn rpl(s: &Subject<'_>, register: Register) -> u8 {
    s.get(register.selector) as u8 & 3
}

fn in_gdt(s: &Subject<'_>, register: Register) -> bool {
    s.get(register.selector) & 4 == 0
}

fn in_gdt_if_usable(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || in_gdt(s, register)
}

fn rpl_of_cs(s: &Subject<'_>, register: Register) -> bool {
    s.v86() || s.unrestricted() || rpl(s, register) == rpl(s, CS)
}

fn base_v86(s: &Subject<'_>, register: Register) -> bool {
    !s.v86() || s.get(register.base) == u64::from(s.get(register.selector)) << 4
}

fn base_canonical(s: &Subject<'_>, register: Register) -> bool {
    canonical(s, s.get(register.base))
}

fn base_canonical_if_usable(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || base_canonical(s, register)
}

fn base_32_bits(s: &Subject<'_>, register: Register) -> bool {
    s.get(register.base) >> 32 == 0
}

fn base_32_bits_if_usable(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || base_32_bits(s, register)
}

fn limit_v86(s: &Subject<'_>, register: Register) -> bool {
    !s.v86() || s.get(register.limit) == 0xffff
}

fn rights_v86(s: &Subject<'_>, register: Register) -> bool {
    !s.v86() || s.get(register.rights) == 0xf3
}

/// Whether the rules below ask anything of a code, stack or data segment.
fn skipped(s: &Subject<'_>, register: Register) -> bool {
    // CS is checked even where it is marked unusable.
    s.v86() || register.selector.field() != CS.selector.field() && !usable(s, register)
}

fn type_cs(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register)
        || match rights(s, register).kind() {
            9 | 11 | 13 | 15 => true,
            3 => s.unrestricted(),
            _ => false,
        }
}

fn type_ss(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || matches!(rights(s, register).kind(), 3 | 7)
}

fn type_data(s: &Subject<'_>, register: Register) -> bool {
    let kind = rights(s, register).kind();
    skipped(s, register) || kind & 1 != 0 && (kind & 8 == 0 || kind & 2 != 0)
}

fn code_or_data(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || rights(s, register).code_or_data()
}

fn dpl_cs(s: &Subject<'_>, register: Register) -> bool {
    let (code, stack) = (rights(s, register).dpl(), rights(s, SS).dpl());
    skipped(s, register)
        || match rights(s, register).kind() {
            3 => code == 0,
            9 | 11 => code == stack,
            _ => code <= stack,
        }
}

fn dpl_ss_is_rpl(s: &Subject<'_>, register: Register) -> bool {
    s.v86() || s.unrestricted() || rights(s, register).dpl() == rpl(s, register)
}

fn dpl_ss_zero(s: &Subject<'_>, register: Register) -> bool {
    let at_zero = rights(s, CS).kind() == 3 || s.get(GUEST_CR0) & Cr0::PE.bits() == 0;
    s.v86() || !at_zero || rights(s, register).dpl() == 0
}

fn dpl_data(s: &Subject<'_>, register: Register) -> bool {
    let rights = rights(s, register);
    skipped(s, register) || s.unrestricted() || rights.kind() > 11 || rights.dpl() >= rpl(s, register)
}

fn present(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || rights(s, register).present()
}

/// Bits 11:8 of the access rights.
const RESERVED: u32 = 0xf00;
/// Bits 31:17.
const HIGH: u32 = 0xfffe_0000;

fn rights_reserved(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || s.get(register.rights) & RESERVED == 0
}

fn rights_high(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || s.get(register.rights) & HIGH == 0
}

fn long_or_big(s: &Subject<'_>, register: Register) -> bool {
    let rights = rights(s, register);
    skipped(s, register) || !s.long_mode_guest() || !rights.long() || !rights.big()
}

fn granularity(s: &Subject<'_>, register: Register) -> bool {
    skipped(s, register) || limit_fits(s, register)
}

/// Whether the granularity bit allows the limit.
fn limit_fits(s: &Subject<'_>, register: Register) -> bool {
    let limit = s.get(register.limit);
    if rights(s, register).granularity() { limit & 0xfff == 0xfff } else { limit >> 20 == 0 }
}

fn type_tr(s: &Subject<'_>, register: Register) -> bool {
    match rights(s, register).kind() {
        11 => true,
        3 => !s.long_mode_guest(),
        _ => false,
    }
}

fn type_ldtr(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || rights(s, register).kind() == 2
}

/// TR is always to be usable, so its rows see the same as LDTR's.
fn system(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || !rights(s, register).code_or_data()
}

fn system_present(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || rights(s, register).present()
}

fn system_rights_reserved(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || s.get(register.rights) & RESERVED == 0
}

fn system_rights_high(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || s.get(register.rights) & HIGH == 0
}

fn system_granularity(s: &Subject<'_>, register: Register) -> bool {
    !usable(s, register) || limit_fits(s, register)
}
