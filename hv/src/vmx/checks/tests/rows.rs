//! Each row fails alone, and those that are not hot do not look at what is.

use super::*;

/// The row that fails first, and the exit qualification of one of guest state.
fn first_failure(broken: &Broken) -> Option<(&'static str, Option<u64>)> {
    let subject = Subject {
        vmcs: &broken.vmcs,
        address: SELF,
        capabilities: &broken.capabilities,
        long_mode_host: broken.long_mode_host,
        memory: &Ram,
    };
    controls(&subject)
        .or_else(|| host(&subject))
        .map(|check| (check.name(), None))
        .or_else(|| guest(&subject).map(|(check, qualification)| (check.name(), Some(qualification))))
}

fn subject<'a>(vmcs: &'a Vmcs, capabilities: &'a Capabilities) -> Subject<'a> {
    Subject { vmcs, address: SELF, capabilities, long_mode_host: true, memory: &Ram }
}

#[test]
fn valid_guests_pass() {
    for vmcs in valid() {
        let entry = Broken { name: "", vmcs, long_mode_host: true, capabilities: capabilities() };
        assert_eq!(first_failure(&entry), None, "{:?}", entry.vmcs);
    }
}

#[test]
fn each_row_is_the_first_that_fails() {
    let [controls, host, guest] = broken();
    for broken in controls.iter().chain(&host) {
        assert_eq!(first_failure(broken), Some((broken.name, None)));
    }
    for broken in &guest {
        assert_eq!(first_failure(broken), Some((broken.name, Some(qualification(broken.name)))));
    }
}

#[test]
fn every_row_has_a_test_and_a_name_of_its_own() {
    let broken = broken();
    let tested: Vec<_> = broken.iter().flatten().map(|broken| broken.name).collect();
    let tables = [CONTROLS, HOST];
    let rows = tables.iter().chain(GUEST_TABLES).copied().flatten();
    let names: Vec<_> = rows.map(|row| row.check.name()).collect();
    for name in &names {
        assert!(tested.contains(name) != (*name == NEVER_FIRST), "{name}");
    }
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

/// A guest of 64 bits that a host of 32 bits would leave: a CPU in IA-32e mode refuses the host before, and one outside it
/// the guest.
const NEVER_FIRST: &str = "host-32-bit-long-mode-guest";

#[test]
fn a_32_bit_host_s_guest_is_not_of_64_bits() {
    let v = with(plain(), |v| v.set(EXIT_CONTROLS, ExitControls::empty()));
    let row = HOST.iter().find(|row| row.check.name() == NEVER_FIRST).unwrap();
    assert!(!(row.holds)(&subject(&v, &capabilities())));
    assert!((row.holds)(&subject(&plain(), &capabilities())));
}

#[test]
fn rows_that_are_not_hot_see_nothing_of_hot_fields() {
    let capabilities = capabilities();
    for (index, row) in TABLE.iter().enumerate().filter(|(_, row)| is_hot(row.field)) {
        for value in [0, 1, 8, 0x302, 0x8000_0b0e, 1 << 47, u64::MAX] {
            for from in [plain(), pae(), v86()] {
                let changed = with(from.clone(), |v| {
                    v.set_row(index, value);
                    let vm = Rflags::VM.bits();
                    v.set(GUEST_RFLAGS, v.get(GUEST_RFLAGS) & !vm | from.get(GUEST_RFLAGS) & vm);
                });
                for check in [CONTROLS, HOST].iter().chain(GUEST_TABLES).copied().flatten().filter(|row| !row.hot) {
                    let holds = |vmcs| (check.holds)(&subject(vmcs, &capabilities));
                    assert_eq!(holds(&from), holds(&changed), "{} by {}", check.check.name(), row.name);
                }
            }
        }
    }
}

#[test]
fn a_plain_entry_fails_no_hot_row() {
    let capabilities = capabilities();
    let mut plain_ones = 0;
    for rip in [0, 1 << 47, u64::MAX, 1 << 32] {
        for flags in [2, 0, 0x202, 0x302, 2 | 1 << 17, 2 | 1 << 15, u64::MAX] {
            for (blocked, activity, pending) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 4, 0)] {
                for from in [plain(), pae(), injecting(0x8000_0030)] {
                    for cr3 in [0, 1 << PHYSICAL_BITS] {
                        let v = with(from.clone(), |v| {
                            v.set(GUEST_RIP, rip);
                            v.set(GUEST_RFLAGS, flags);
                            v.set(GUEST_INTERRUPTIBILITY, blocked);
                            v.set(GUEST_ACTIVITY_STATE, activity);
                            v.set(GUEST_PENDING_DEBUG_EXCEPTIONS, pending);
                            v.set(GUEST_CR3, cr3);
                        });
                        let subject = subject(&v, &capabilities);
                        if is_plain(&subject) {
                            plain_ones += 1;
                            assert_eq!((hot_controls(&subject), hot_guest(&subject)), (None, None));
                        }
                    }
                }
            }
        }
    }
    assert!(plain_ones > 0);
}
