use super::*;

/// An enabled APIC that is not the first.
fn lapic() -> Lapic {
    let mut lapic = Lapic::new(5);
    write(&mut lapic, SVR, 0x1ff);
    lapic
}

fn write(lapic: &mut Lapic, register: u8, value: u32) -> Effect {
    lapic.write_page(u16::from(register) << 4, 4, value.into(), 0)
}

fn read(lapic: &mut Lapic, register: u8) -> u64 {
    lapic.read_page(u16::from(register) << 4, 4, 0)
}

fn x2apic() -> Lapic {
    let mut lapic = lapic();
    assert!(lapic.set_base(lapic.base() | BASE_X2APIC));
    lapic
}

#[test]
fn it_starts_as_firmware_leaves_it() {
    let check = |id, svr, lint0, base| {
        let mut lapic = Lapic::new(id);
        assert_eq!(read(&mut lapic, ID), u64::from(id) << 24);
        assert_eq!(read(&mut lapic, VERSION), 0x5_0014);
        assert_eq!((read(&mut lapic, SVR), read(&mut lapic, LVT_FIRST + LINT0 as u8)), (svr, lint0));
        assert_eq!((lapic.base(), lapic.takes_ext_int()), (base, id == 0));
    };
    check(0, 0x1ff, 0x700, 0xfee0_0900);
    check(5, 0xff, 0x1_0000, 0xfee0_0800);
}

#[test]
fn the_highest_class_comes_first_and_holds_back_the_lower() {
    let mut lapic = lapic();
    for vector in [0x31, 0x45, 0x4a, 0x99] {
        lapic.accept(vector, false);
    }
    for vector in [0x99, 0x4a] {
        assert_eq!(lapic.pending(), Some(vector));
        lapic.acknowledge(vector);
        assert_eq!(lapic.pending(), None);
        assert_eq!(read(&mut lapic, PPR), u64::from(vector) & 0xf0);
        assert_eq!(read(&mut lapic, ISR + vector / 32) >> (vector % 32) & 1, 1);
        assert_eq!(write(&mut lapic, EOI, 0), Effect::None);
    }
    // The same class does not interrupt its own.
    assert_eq!(lapic.pending(), Some(0x45));
    lapic.acknowledge(0x45);
    lapic.accept(0x4f, false);
    assert_eq!(lapic.pending(), None);
    lapic.accept(0x51, false);
    assert_eq!(lapic.pending(), Some(0x51));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut lapic = lapic();
    lapic.accept(0x45, false);
    let mut check = |tpr, pending, held| {
        write(&mut lapic, TPR, tpr);
        assert_eq!((lapic.pending(), lapic.held_by_tpr()), (pending, held), "{tpr:#x}");
        assert_eq!(u32::from(lapic.cr8()), tpr >> 4);
    };
    check(0, Some(0x45), false);
    check(0x3f, Some(0x45), false);
    check(0x40, None, true);
    check(0xff, None, true);
    lapic.set_cr8(3);
    assert_eq!((read(&mut lapic, TPR), lapic.pending()), (0x30, Some(0x45)));
}

#[test]
fn only_an_enabled_apic_takes_interrupts() {
    let mut lapic = Lapic::new(5);
    lapic.accept(0x40, false);
    assert_eq!(lapic.pending(), None);
    write(&mut lapic, SVR, 0x1ff);
    write(&mut lapic, LVT_FIRST, 0x40);
    assert_eq!(read(&mut lapic, LVT_FIRST), 0x40);
    lapic.accept(0x40, false);
    assert_eq!(lapic.pending(), Some(0x40));
    // Disabled by software it masks its LVT, and they stay masked.
    write(&mut lapic, SVR, 0xff);
    write(&mut lapic, LVT_FIRST, 0x41);
    assert_eq!(read(&mut lapic, LVT_FIRST), 0x1_0041);
}

#[test]
fn errors_gather_until_they_are_asked_for() {
    let mut lapic = lapic();
    write(&mut lapic, LVT_LAST, 0xfe);
    assert_eq!(write(&mut lapic, ICR, 3), Effect::None);
    lapic.accept(2, false);
    read(&mut lapic, 0x3d);
    assert_eq!(read(&mut lapic, ESR), 0);
    assert_eq!(lapic.pending(), Some(0xfe));
    write(&mut lapic, ESR, 0);
    assert_eq!(read(&mut lapic, ESR), 0xe0);
    write(&mut lapic, ESR, 0);
    assert_eq!(read(&mut lapic, ESR), 0);
}

#[test]
fn commands_become_messages() {
    let check = |high: u32, low, expected: Option<Message>| {
        let mut lapic = lapic();
        write(&mut lapic, ICR_HIGH, high);
        let expected = expected.map_or(Effect::None, Effect::Send);
        assert_eq!(write(&mut lapic, ICR, low), expected, "{high:#x} {low:#x}");
        assert_eq!(read(&mut lapic, ICR), u64::from(low & 0xc_cfff));
    };
    let to = Destination { id: 3, logical: false, wide: false };
    let fixed = Message::fixed(0xfb, to);
    check(3 << 24, 0x40fb, Some(fixed));
    check(3 << 24, 0x50fb, Some(fixed));
    check(3 << 24, 0x41fb, Some(Message { kind: Kind::LowestPriority, ..fixed }));
    check(3 << 24, 0x48fb, Some(Message { to: Destination { logical: true, ..to }, ..fixed }));
    check(3 << 24, 0x4400, Some(Message { kind: Kind::Nmi, vector: 0, ..fixed }));
    check(3 << 24, 0xc500, Some(Message { kind: Kind::Init, vector: 0, ..fixed }));
    check(3 << 24, 0x8500, None);
    check(3 << 24, 0x4699, Some(Message { kind: Kind::StartUp, vector: 0x99, ..fixed }));
    for (bits, shorthand) in [(1, Shorthand::Own), (2, Shorthand::All), (3, Shorthand::Others)] {
        check(3 << 24, bits << 18 | 0xfb, Some(Message { shorthand, ..fixed }));
    }
    // SMIs go nowhere.
    check(3 << 24, 0x4200, None);
}

#[test]
fn x2apic_mode_is_entered_from_xapic_mode_and_left_by_disabling() {
    let check = |steps: &[(u64, bool)]| {
        let mut lapic = Lapic::new(0);
        for (step, (bits, good)) in steps.iter().enumerate() {
            assert_eq!(lapic.set_base(BASE_ADDRESS | bits), *good, "{steps:x?}, step {step}");
        }
    };
    const XAPIC: u64 = BASE_ENABLE;
    const X2APIC: u64 = BASE_ENABLE | BASE_X2APIC;
    check(&[(X2APIC, true), (X2APIC, true), (XAPIC, false), (BASE_X2APIC, false), (0, true)]);
    check(&[(0, true), (X2APIC, false), (BASE_X2APIC, false), (XAPIC, true), (X2APIC, true)]);
    check(&[(XAPIC | 1, false), (XAPIC | 1 << 9, false), (XAPIC | BASE_BSP, true), (BASE_X2APIC, false)]);
}

#[test]
fn it_moves_and_is_not_there_while_disabled_or_in_x2apic_mode() {
    let mut lapic = lapic();
    assert_eq!(lapic.page(), Some(BASE_ADDRESS));
    assert!(lapic.set_base(0xfed4_0000 | BASE_ENABLE));
    assert_eq!(lapic.page(), Some(0xfed4_0000));
    assert!(lapic.set_base(0xfed4_0000 | BASE_ENABLE | BASE_X2APIC));
    assert_eq!(lapic.page(), None);
    write(&mut lapic, TPR, 0x20);
    assert!(lapic.set_base(0xfed4_0000));
    assert_eq!((lapic.page(), lapic.cr8(), lapic.takes_ext_int()), (None, 0, true));
}

#[test]
fn x2apic_registers_fault_where_the_sdm_says() {
    let mut lapic = x2apic();
    let reads = |lapic: &Lapic, register| lapic.read_msr(register, 0);
    assert_eq!((reads(&lapic, ID), reads(&lapic, LDR)), (Some(5), Some(0x20)));
    for register in [0, DFR, EOI, ICR_HIGH, SELF_IPI, 0x3a, 0x40, 0xff] {
        assert_eq!(reads(&lapic, register), None, "{register:#x}");
    }
    let mut writes = |register, value| lapic.write_msr(register, value, 0).is_some();
    for register in [ID, VERSION, PPR, LDR, DFR, ISR, TMR, IRR_LAST, ICR_HIGH, CURRENT, 0x3a, 0x40] {
        assert!(!writes(register, 0), "{register:#x}");
    }
    for (register, good, bad) in [
        (TPR, 0xff, 0x100),
        (EOI, 0, 1),
        (ESR, 0, 1),
        (SVR, 0x1ff, 0x400),
        (LVT_FIRST, 0x3_00ef, 0x8_0000),
        (ICR, 7 << 32 | 0x40fb, 1 << 12),
        (INITIAL, 0xffff_ffff, 1 << 32),
        (DIVIDE, 0xb, 4),
        (SELF_IPI, 0x80, 0x100),
    ] {
        assert!(writes(register, good) && !writes(register, bad), "{register:#x}");
    }
    assert_eq!(reads(&lapic, ICR), Some(7 << 32 | 0x40fb));
    let mut old = self::lapic();
    assert_eq!((old.read_msr(ID, 0), old.write_msr(TPR, 0, 0)), (None, None), "not in xAPIC mode");
}

#[test]
fn destinations() {
    let physical = |id, wide| Destination { id, logical: false, wide };
    let logical = |id, wide| Destination { id, logical: true, wide };
    let check = |lapic: &Lapic, to: Destination, expected| assert_eq!(lapic.is_target(to), expected, "{to:?}");
    let mut flat = lapic();
    write(&mut flat, LDR, 0x2400_0000);
    for (to, expected) in [
        (physical(5, false), true),
        (physical(0xff, false), true),
        (physical(0xff, true), false),
        (physical(u32::MAX, true), true),
        (physical(6, false), false),
        (logical(0x04, false), true),
        (logical(0x03, false), false),
        (logical(0xff, false), true),
    ] {
        check(&flat, to, expected);
    }
    let mut clusters = flat;
    write(&mut clusters, DFR, 0);
    for (to, expected) in [(0x24, true), (0x2f, true), (0x23, false), (0x14, false), (0xff, true)] {
        check(&clusters, logical(to, false), expected);
    }
    let x2 = x2apic();
    for (to, expected) in [(0x20, true), (0x1_0020, false), (0x1f, false), (0xffff, true), (u32::MAX, true)] {
        check(&x2, logical(to, true), expected);
    }
    // A device's destination has eight bits, which name the first cluster.
    check(&x2, logical(0x20, false), true);
}

#[test]
fn an_init_comes_before_its_start_up_ipi() {
    let mut lapic = lapic();
    let message = |kind, vector| Message { kind, ..Message::fixed(vector, Destination::physical(5)) };
    lapic.dormant = false;
    lapic.receive(&message(Kind::StartUp, 0x10));
    assert_eq!(lapic.pins(), Pins::default(), "it is awake");
    write(&mut lapic, TPR, 0x50);
    lapic.receive(&message(Kind::Init, 0));
    lapic.receive(&message(Kind::StartUp, 0x9a));
    assert_eq!(lapic.pins(), Pins { init: true, start_up: Some(0x9a), nmi: false });
    lapic.take_init(true);
    assert_eq!((read(&mut lapic, TPR), read(&mut lapic, SVR)), (0, 0xff));
    assert_eq!(lapic.pins().start_up, Some(0x9a));
    lapic.take_start_up();
    lapic.receive(&message(Kind::StartUp, 0x9a));
    assert_eq!(lapic.pins(), Pins::default(), "the second one of the usual pair is late");
}

#[test]
fn local_sources_go_where_their_entries_say() {
    let mut lapic = lapic();
    write(&mut lapic, LVT_FIRST + LINT0 as u8, 0x35);
    lapic.lint0();
    assert_eq!(lapic.pending(), Some(0x35));
    write(&mut lapic, LVT_FIRST + LINT0 as u8, LVT_NMI);
    lapic.lint0();
    assert!(lapic.pins().nmi && !lapic.takes_ext_int());
    write(&mut lapic, LVT_FIRST + LINT0 as u8, LVT_EXT_INT);
    assert!(lapic.takes_ext_int());
    write(&mut lapic, LVT_FIRST + LINT0 as u8, LVT_EXT_INT | MASKED);
    assert!(!lapic.takes_ext_int());
}

#[test]
fn the_timer_interrupts_by_its_entry() {
    let mut lapic = lapic();
    write(&mut lapic, LVT_FIRST, 0xec);
    write(&mut lapic, DIVIDE, 0xb);
    write(&mut lapic, INITIAL, 1000);
    assert_eq!(lapic.deadline(), Some(40_000));
    lapic.advance(40_000);
    assert_eq!((lapic.pending(), lapic.deadline()), (Some(0xec), None));
    lapic.acknowledge(0xec);
    write(&mut lapic, EOI, 0);
    write(&mut lapic, LVT_FIRST, MASKED | 0xec);
    write(&mut lapic, INITIAL, 1000);
    assert_eq!(lapic.deadline(), None, "nobody hears it");
    lapic.advance(50_000);
    write(&mut lapic, LVT_FIRST, 0xec);
    assert_eq!((lapic.pending(), lapic.deadline()), (None, None), "what elapsed masked is lost");
}
