//! The lines of the panes with registers, the TLB and the pool: for drawing them and for moving in them.

use super::{guest, state, vcpu};
use crate::decode::field_meaning;
use crate::describe::{Piece, size_name, thousands};
use crate::layout::{Pane, areas};
use crate::model::{Model, Side};
use crate::state::Fold;
use crate::theme::Role;
use hv_defs::event::Which;
use hv_defs::vmcs::{self, VmcsField};
use hv_defs::x86::AccessRights;
use replayer::look::{Cached, Registers, State};

/// A line, and the event that it is about.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Line {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) event: Option<u64>,
}

impl Line {
    fn of(pieces: Vec<Piece>) -> Self {
        Self { pieces, event: None }
    }

    fn at(event: u64, pieces: Vec<Piece>) -> Self {
        Self { pieces, event: Some(event) }
    }

    fn heading(text: impl Into<String>) -> Self {
        Self::of(vec![(Role::Strong, format!(" {}", text.into()))])
    }

    fn text(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }
}

/// The lines of a pane.
pub(crate) enum Lines<'a> {
    All(Vec<Line>),
    /// Too many to write them all down.
    Tlb(&'a [Cached]),
}

impl Lines<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::All(lines) => lines.len(),
            Self::Tlb(rows) => rows.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<Line> {
        match self {
            Self::All(lines) => lines.get(at).cloned(),
            Self::Tlb(rows) => rows.get(at).map(|row| Line::of(cached(row))),
        }
    }

    /// Whether a line has a text in it, which is in lower case.
    pub(crate) fn has(&self, at: usize, text: &str) -> bool {
        self.get(at).is_some_and(|line| line.text().to_lowercase().contains(text))
    }
}

/// The lines of a pane.
pub(crate) fn lines(model: &Model, side: Side) -> Lines<'_> {
    match (side, state(model)) {
        (Side::Tlb, Some(state)) => Lines::Tlb(state.tlbs.get(pcpu(model)).map_or(&[], Vec::as_slice)),
        (Side::Tlb, None) => Lines::All(fold(model).map(flushes).unwrap_or_default()),
        (Side::Pool, Some(state)) => Lines::All(pool(model, state)),
        (Side::Pool, None) => Lines::All(fold(model).map(|fold| pool_told(model, fold)).unwrap_or_default()),
        (_, Some(_)) => Lines::All(guest(model).map(|guest| registers(model, guest)).unwrap_or_default()),
        (_, None) => Lines::All(fold(model).map(|fold| registers_told(model, fold)).unwrap_or_default()),
    }
}

/// What the events up to the selected one say.
fn fold(model: &Model) -> Option<&Fold> {
    model.state.whole.as_ref().filter(|(event, _)| *event == model.cursor).map(|(_, fold)| &**fold)
}

/// The physical CPU whose TLB is shown.
pub(crate) fn pcpu(model: &Model) -> usize {
    let of_event = model.selected().map_or(0, |event| event.at.pcpu.into());
    model.replay.pcpu.unwrap_or(of_event)
}

/// The vCPU whose pool is shown.
pub(crate) fn pool_vcpu(model: &Model) -> usize {
    model.replay.vcpu.unwrap_or_else(|| vcpu(model))
}

/// Bytes in a row of the memory pane.
pub(crate) const fn bytes_a_row(width: u16) -> usize {
    if width >= 120 { 16 } else { 8 }
}

fn dim(text: impl Into<String>) -> Piece {
    (Role::Dim, text.into())
}

fn plain(text: impl Into<String>) -> Piece {
    (Role::Plain, text.into())
}

/// A value in hexadecimal; zeros stand back.
fn hex(value: u64, width: usize) -> Piece {
    (if value == 0 { Role::Dim } else { Role::Plain }, format!("{value:>width$x}"))
}

/// Columns of a register: its name, sixteen digits, its mark.
const CELL: u16 = 25;

/// A guest's registers, what their bits say, and the code around RIP.
fn registers(model: &Model, guest: &Registers) -> Vec<Line> {
    let before = model.replay.before.as_ref().and_then(|seen| seen.state.as_ref());
    let before = before.and_then(|state| state.guest(guest.runner));
    let value = |name: &'static str| -> [Piece; 2] {
        let now = guest.get(name);
        // Who did not run when it was seen before has not kept its registers.
        let changed = before.is_some_and(|before| before.get(name).is_some() && before.get(name) != now);
        let shown = match now {
            Some(now) if changed => (Role::Recent, format!("{now:>16x}")),
            Some(now) => hex(now, 16),
            None => dim(format!("{:>16}", "-")),
        };
        [shown, if changed { (Role::Recent, "* ".into()) } else { plain("  ") }]
    };
    let cell = |name: &'static str| {
        let [shown, mark] = value(name);
        [dim(format!(" {name:<6}")), shown, mark]
    };
    let width = areas(model).and_then(|areas| areas.of(Pane::Side(Side::Regs))).map_or(80, |area| area.width);
    let a_row = usize::from(width / CELL).clamp(1, 3);
    let rows = |names: &[&'static str]| -> Vec<Line> {
        names.chunks(a_row).map(|names| Line::of(names.iter().flat_map(|&name| cell(name)).collect())).collect()
    };
    // One that runs has all of them, and one that has just left.
    let mut lines = if guest.get("rax").is_some() {
        rows(&[
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15", "cr2",
        ])
    } else {
        let text = "its hypervisor keeps the rest";
        vec![Line::of(cell("rsp").into_iter().chain(cell("rip")).chain([dim(text)]).collect())]
    };
    let words = |name: &'static str, field: VmcsField| {
        let mut pieces: Vec<Piece> = cell(name).into();
        let meaning = guest.get(name).and_then(|value| field_meaning(field, value));
        pieces.push(plain(meaning.unwrap_or_default()));
        Line::of(pieces)
    };
    let rip = guest.get("rip");
    let here = guest.code.iter().position(|instruction| Some(instruction.address) == rip);
    let code = |from: usize| {
        guest.code.iter().skip(from).map(move |instruction| {
            let at = Some(instruction.address) == rip;
            let bytes: String = instruction.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let (role, mark) = if at { (Role::Strong, ">") } else { (Role::Plain, " ") };
            let text = instruction.text.clone().unwrap_or_else(|| "(bad)".into());
            Line::of(vec![
                (Role::Key, format!(" {mark} ")),
                dim(format!("{:>16x}  {bytes:<22} ", instruction.address)),
                (role, text),
            ])
        })
    };
    lines.push(words("rflags", vmcs::GUEST_RFLAGS.field()));
    // What comes next is looked for first.
    lines.extend(code(here.map_or(0, |here| here.saturating_sub(2))).take(8));
    lines.push(words("cr0", vmcs::GUEST_CR0.field()));
    lines.push(words("cr4", vmcs::GUEST_CR4.field()));
    lines.push(words("efer", vmcs::GUEST_EFER.field()));
    lines.extend(rows(&["cr3", "cr8", "pat"]));
    lines.extend(guest.segments.iter().map(|segment| {
        let rights = AccessRights::from_bits(segment.rights);
        let mut words = if rights.unusable() {
            "unusable".to_owned()
        } else {
            format!("{} dpl {}", if rights.code_or_data() { kind(rights.kind()) } else { "system" }, rights.dpl())
        };
        let flags = [(rights.long(), " 64-bit"), (!rights.long() && rights.big(), " 32-bit")];
        flags.into_iter().filter(|(set, _)| *set && !rights.unusable()).for_each(|(_, name)| words.push_str(name));
        Line::of(vec![
            dim(format!(" {:<6}", segment.name)),
            hex(segment.selector.into(), 4),
            dim("  base "),
            hex(segment.base, 16),
            dim("  limit "),
            hex(segment.limit.into(), 8),
            plain(format!("  {words}")),
        ])
    }));
    lines.extend(rows(&["gdtr", "idtr", "xcr0", "dr6", "dr7", "tsc_aux"]));
    let under = [("vmcs12", guest.vmcs12), ("EPT12", guest.eptp12)];
    let under = under.into_iter().filter_map(|(name, at)| Some((name, at?)));
    let mut pieces: Vec<Piece> = cell("lstar").into_iter().chain(cell("star")).collect();
    if let Some(base) = guest.get("kernel_gs_base") {
        pieces.extend([dim(" kernel_gs_base "), hex(base, 1)]);
    }
    lines.push(Line::of(std::mem::take(&mut pieces)));
    pieces.extend(under.flat_map(|(name, at)| [dim(format!(" {name:<6}")), hex(at, 16), plain("  ")]));
    lines.extend((!pieces.is_empty()).then(|| Line::of(pieces)));
    lines.push(Line::heading("Code"));
    lines.extend(code(0));
    lines
}

/// The kind of a code or data segment. See: SDM "Code- and Data-Segment Descriptor Types".
const fn kind(kind: u8) -> &'static str {
    match kind >> 1 & 7 {
        0 => "read-only data",
        1 => "data",
        2 | 3 => "expand-down data",
        4 => "execute-only code",
        5 => "code",
        _ => "conforming code",
    }
}

/// What the events say of the guest that ran last on the event's vCPU.
fn registers_told(model: &Model, fold: &Fold) -> Vec<Line> {
    let vcpu = vcpu(model) as u16;
    let mut lines = Vec::new();
    if let Some((number, registers)) = fold.kept.registers(vcpu) {
        let named = [
            [("rax", registers.rax), ("rbx", registers.rbx), ("rcx", registers.rcx)],
            [("rdx", registers.rdx), ("rsi", registers.rsi), ("rdi", registers.rdi)],
            [("rbp", registers.rbp), ("r8", registers.r8), ("r9", registers.r9)],
            [("r10", registers.r10), ("r11", registers.r11), ("r12", registers.r12)],
            [("r13", registers.r13), ("r14", registers.r14), ("r15", registers.r15)],
        ];
        lines.push(Line::at(
            number,
            vec![(Role::Strong, " General registers".into()), dim(format!(", left at event {}", thousands(number)))],
        ));
        lines.extend(named.map(|row| {
            let cells = row.map(|(name, value)| [dim(format!(" {name:<6}")), hex(value, 16), plain("  ")]);
            Line::at(number, cells.into_iter().flatten().collect())
        }));
    }
    let current = fold.current(vcpu);
    if let Some((which, address)) = current.running() {
        let told = |(name, field): (&str, VmcsField)| {
            let held = fold.held(which, address, field)?;
            let meaning = field_meaning(field, held.value).unwrap_or_default();
            Some(Line::at(
                held.event,
                vec![
                    dim(format!(" {name:<6}")),
                    hex(held.value, 16),
                    dim(format!("  at {:<12}", thousands(held.event))),
                    plain(meaning),
                ],
            ))
        };
        let rows: Vec<Line> = GUEST.into_iter().filter_map(told).collect();
        if !rows.is_empty() {
            let guest = if which == Which::Vmcs01 { "L1" } else { "the guest that L1 made" };
            lines.push(Line::heading(format!("What {which} at {address:x} held for {guest}")));
            lines.extend(rows);
        }
    }
    if lines.is_empty() {
        lines.push(Line::of(vec![dim(" No event up to here tells of registers.")]));
    }
    lines
}

/// The guest-state fields that are registers.
const GUEST: [(&str, VmcsField); 14] = [
    ("rip", vmcs::GUEST_RIP.field()),
    ("rsp", vmcs::GUEST_RSP.field()),
    ("rflags", vmcs::GUEST_RFLAGS.field()),
    ("cr0", vmcs::GUEST_CR0.field()),
    ("cr3", vmcs::GUEST_CR3.field()),
    ("cr4", vmcs::GUEST_CR4.field()),
    ("efer", vmcs::GUEST_EFER.field()),
    ("cs", vmcs::GUEST_CS_SELECTOR.field()),
    ("ss", vmcs::GUEST_SS_SELECTOR.field()),
    ("fs", vmcs::GUEST_FS_BASE.field()),
    ("gs", vmcs::GUEST_GS_BASE.field()),
    ("gdtr", vmcs::GUEST_GDTR_BASE.field()),
    ("idtr", vmcs::GUEST_IDTR_BASE.field()),
    ("dr7", vmcs::GUEST_DR7.field()),
];

/// The heading over cached translations.
pub(crate) const TLB_HEADING: &str = " vpid pcid     ep4ta           address         host  size rights";

/// A cached translation.
fn cached(row: &Cached) -> Vec<Piece> {
    let tag = |number: Option<u16>| number.map_or("all".into(), |number| number.to_string());
    let (vpid, pcid) = match row.guest_physical {
        true => ("gpa".to_owned(), "-".to_owned()),
        false => (row.tag.vpid.to_string(), tag(row.tag.pcid)),
    };
    let ep4ta = row.tag.ep4ta.map_or("-".into(), |at| format!("{at:x}"));
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    let rights: String =
        [letter(row.writable, 'w'), letter(row.executable, 'x'), letter(row.user && !row.guest_physical, 'u')]
            .into_iter()
            .collect();
    vec![
        (if row.guest_physical { Role::Dim } else { Role::Plain }, format!("{vpid:>5} ")),
        dim(format!("{pcid:>4} {ep4ta:>9}  ")),
        plain(format!("{:>16x} ", row.address)),
        plain(format!("{:>12x}", row.target.0)),
        dim(format!("  {:>4} ", size_name(row.size.bytes()))),
        plain(rights),
    ]
}

/// What events say of a TLB: what was flushed, the latest first.
fn flushes(fold: &Fold) -> Vec<Line> {
    let mut rows: Vec<_> = fold.kept.flushes.iter().collect();
    rows.sort_by_key(|(_, flushes)| std::cmp::Reverse(flushes.last));
    let mut lines: Vec<Line> = rows
        .into_iter()
        .map(|((pcpu, kind, vpid, eptp), flushes)| {
            let of = match (vpid, eptp) {
                (0, 0) => String::new(),
                (vpid, 0) => format!("vpid {vpid}"),
                (_, eptp) => format!("eptp {eptp:x}"),
            };
            Line::at(
                flushes.last,
                vec![
                    dim(format!(" CPU {pcpu:<3} ")),
                    (Role::Kind(hv_defs::event::Kind::Flush), format!("{:<22}", kind.name())),
                    plain(format!("{of:<18}")),
                    plain(format!("{:>9}", thousands(flushes.count))),
                    dim(format!(" times, last at {}", thousands(flushes.last))),
                ],
            )
        })
        .collect();
    let heading =
        if lines.is_empty() { "Nothing was flushed up to here" } else { "What was flushed, the latest first" };
    lines.insert(0, Line::of(vec![(Role::Strong, format!(" {heading}")), dim("; what is cached, no event tells")]));
    lines
}

/// A vCPU's pool, its VPIDs, and the roots of EPT.
fn pool(model: &Model, state: &State) -> Vec<Line> {
    let vcpu = pool_vcpu(model);
    let Some(kept) = state.vcpus.get(vcpu) else { return Vec::new() };
    let mut lines = vec![pool_heading(model, vcpu, kept.pool.iter().filter(|slot| slot.vmcs12.is_some()).count())];
    lines.extend(kept.pool.iter().map(|slot| {
        let whom = slot.vmcs12.map_or_else(|| dim("free        "), |at| plain(format!("{:<12x}", at.0)));
        let mut pieces = vec![dim(format!(" slot {:<3} vmcs12 ", slot.slot)), whom];
        pieces.extend([dim("  vmcs02 "), plain(format!("{:<10x}", slot.vmcs02.0))]);
        pieces.extend(slot.current.then(|| (Role::Strong, "  current".into())));
        pieces.extend(slot.runs.then(|| (Role::Level(2), "  runs".into())));
        Line::of(pieces)
    }));
    let vpids = &kept.vpids;
    let mut heading = vec![(Role::Strong, format!(" VPIDs of vCPU {vcpu}"))];
    heading.extend(match (vpids.vpid01, vpids.single) {
        (0, _) => vec![dim(", not in use: silicon flushes at each transition")],
        (vpid01, 0) => vec![dim(", L1 runs under "), plain(vpid01.to_string())],
        (vpid01, single) => {
            vec![dim(", L1 runs under "), plain(vpid01.to_string()), dim(", all L2s under "), plain(single.to_string())]
        }
    });
    if vpids.last != 0 {
        heading.extend([dim(", vpid12 last "), plain(vpids.last.to_string())]);
    }
    lines.push(Line::of(heading));
    lines.extend(vpids.pairs.iter().map(|(vpid12, vpid02)| {
        Line::of(vec![dim(" vpid12 "), plain(format!("{vpid12:<6}")), dim("is vpid02 "), plain(vpid02.to_string())])
    }));
    lines.push(Line::of(vec![
        (Role::Strong, " EPT".into()),
        dim(", L1 runs on "),
        plain(format!("{:x}", state.eptp01)),
        dim("; EPT02s, the one loaded last first"),
    ]));
    lines.extend(state.roots.iter().map(|root| {
        let mut pieces = vec![dim(format!(" vCPU {:<3} EPT12 ", root.vcpu)), plain(format!("{:<12x}", root.eptp12))];
        pieces.extend([dim("  EPT02 "), plain(format!("{:<11x}", root.eptp02))]);
        pieces.extend(root.in_use.then(|| (Role::Level(2), "  in use".into())));
        Line::of(pieces)
    }));
    lines
}

fn pool_heading(model: &Model, vcpu: usize, used: usize) -> Line {
    let size = model.about.pool.map_or(String::new(), |(size, _)| format!(" of {size}"));
    Line::of(vec![
        (Role::Strong, format!(" vmcs02 pool of vCPU {vcpu}")),
        dim(format!(", {used}{size} in use, what is recycled next first")),
    ])
}

/// As [`pool`], as far as events tell.
fn pool_told(model: &Model, fold: &Fold) -> Vec<Line> {
    let vcpu = pool_vcpu(model);
    let number = u16::try_from(vcpu).unwrap_or(u16::MAX);
    let rule = model.about.pool.map_or(hv_defs::policy::PoolRecycle::Lru, |(_, rule)| rule);
    let slots = fold.kept.pool(number, rule);
    let vpids = fold.kept.vpids(number);
    if slots.is_empty() && vpids.is_empty() {
        return vec![Line::of(vec![dim(" No event up to here tells of a pool or a VPID map.")])];
    }
    let mut lines = vec![pool_heading(model, vcpu, slots.iter().filter(|(_, slot)| slot.vmcs12.is_some()).count())];
    lines.extend(slots.into_iter().map(|(number, slot)| {
        let whom = slot.vmcs12.map_or_else(|| dim("free        "), |at| plain(format!("{at:<12x}")));
        let used = dim(format!("  used at {}", thousands(slot.used)));
        Line::at(slot.used, vec![dim(format!(" slot {number:<3} vmcs12 ")), whom, used])
    }));
    lines.push(Line::heading(format!("VPIDs of vCPU {vcpu}")));
    lines.extend(vpids.into_iter().map(|(vpid12, vpid02, used)| {
        Line::at(
            used,
            vec![
                dim(" vpid12 "),
                plain(format!("{vpid12:<6}")),
                dim("is vpid02 "),
                plain(format!("{vpid02:<6}")),
                dim(format!("  used at {}", thousands(used))),
            ],
        )
    }));
    lines
}
