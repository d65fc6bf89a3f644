//! The panes that a replay fills: registers, the TLB, the pool, memory.

use super::Pen;
use super::side::tabs;
use crate::describe::{Piece, size_name};
use crate::layout::top;
use crate::model::{Model, Side};
use crate::replay::{self, rows};
use crate::theme::Role;
use hv_defs::ept::EptEntry;
use hv_defs::x86::Pte;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use replayer::look::{Ended, Stage, Step, Structure};

/// Lines above the list of a pane: where it comes from, and for the TLB its columns' names.
pub(crate) fn head_rows(model: &Model, side: Side) -> usize {
    if side == Side::Tlb && replay::state(model).is_some() { 2 } else { 1 }
}

/// Registers with the code around RIP, the TLB by its tags, or the pool with the VPID map.
///
/// ```text
/// ── 5 Regs ──────────────────────────────────────────────────────
///  L2 of vCPU 0 runs, after event 1,234  * differs from 1,230
///  rax                  0  rbx                 4*  rcx ...
///  rflags             246  PF, ZF, IF
///   >           401000  0fa2                   cpuid
/// ```
pub(super) fn draw(model: &Model, side: Side, pen: &mut Pen, area: Rect) {
    let lines = rows::lines(model, side);
    let right = match side {
        Side::Tlb if replay::state(model).is_some() => {
            vec![(Role::Dim, format!(" CPU {}: {} cached ", rows::pcpu(model), lines.len()))]
        }
        _ => Vec::new(),
    };
    let inner = pen.titled(area, &tabs(model, side), &right);
    let head = head_rows(model, side);
    if usize::from(inner.height) <= head {
        return;
    }
    pen.line(inner, &replay::head(model));
    if head > 1 {
        pen.line(Pen::row(inner, 1), &[(Role::Dim, rows::TLB_HEADING.into())]);
    }
    let list = usize::from(inner.height) - head;
    let selected = model.replay.selected(side).min(lines.len().saturating_sub(1));
    let first = top(selected, list, lines.len());
    let query = model.replay.query.to_lowercase();
    for at in first..lines.len().min(first + list) {
        let Some(line) = lines.get(at) else { break };
        let row = Pen::row(inner, head + at - first);
        let mut over = Style::new();
        if !query.is_empty() && lines.has(at, &query) {
            over = pen.theme.style(Role::Notice);
        }
        if at == selected && model.in_side && model.side == side {
            over = Style::new().add_modifier(Modifier::REVERSED);
            pen.styled(row, &[(Role::Plain, " ".repeat(usize::from(row.width)))], over);
        }
        pen.styled(row, &line.pieces, over);
    }
}

/// Memory as bytes, beside the walks that lead there.
///
/// ```text
/// ── 8 Memory ────────────────────────────────────────────────────
///  L2-linear rip 401000  of vCPU 0
///    401000  0f a2 ff c1 ...    ........       paging of L2: 4K at 401000
///    401008  ...                               4   201000          202067 rwxu A
/// ```
pub(super) fn memory(model: &Model, pen: &mut Pen, area: Rect) {
    let inner = pen.titled(area, &tabs(model, Side::Memory), &[]);
    if inner.height < 2 {
        return;
    }
    if replay::state(model).is_none() {
        pen.line(inner, &replay::head(model));
        pen.line(Pen::row(inner, 1), &[(Role::Dim, " No event holds memory: a replay alone shows it.".into())]);
        return;
    }
    let Some(wanted) = replay::wanted_look(model) else {
        pen.line(inner, &replay::head(model));
        let text = " Nobody keeps that register of a guest that does not run; / gives another address.";
        pen.line(Pen::row(inner, 1), &[(Role::Notice, text.into())]);
        return;
    };
    let base = match model.replay.memory.base {
        replay::Base::Register(name) => format!(" {name}"),
        replay::Base::Zero => String::new(),
    };
    let place = (Role::Strong, format!(" {}{base} {:x}", wanted.space, wanted.walked));
    pen.line(inner, &[place, (Role::Dim, format!("  of vCPU {}", wanted.vcpu))]);
    let bytes_a_row = rows::bytes_a_row(area.width);
    let hex_width = (17 + bytes_a_row * 4 + 2 + bytes_a_row / 16) as u16;
    let body = Rect { y: inner.y + 1, height: inner.height - 1, ..inner };
    let Some((_, found)) = replay::look_here(model) else {
        pen.line(body, &[(Role::Dim, " ...".into())]);
        return;
    };
    for (row, bytes) in found.bytes.chunks(bytes_a_row).enumerate().take(usize::from(body.height)) {
        let at = wanted.at.wrapping_add((row * bytes_a_row) as u64);
        hex_row(pen, Rect { width: hex_width.min(body.width), ..Pen::row(body, row) }, at, bytes, wanted.walked);
    }
    let x = body.x + hex_width + 1;
    if x < body.right() {
        let side = Rect { x, width: body.right() - x, ..body };
        let room = usize::from(side.height);
        for (row, line) in walks(found.stages.as_deref(), room, side.width).into_iter().enumerate().take(room) {
            pen.line(Pen::row(side, row), &line);
        }
    }
}

fn hex_row(pen: &mut Pen, line: Rect, at: u64, bytes: &[Option<u8>], walked: u64) {
    let mut pieces = vec![(Role::Dim, format!("{at:>16x} "))];
    for (place, byte) in bytes.iter().enumerate() {
        let here = at.wrapping_add(place as u64) == walked;
        pieces.push((Role::Plain, if place == 8 { "  ".into() } else { " ".into() }));
        pieces.push(match byte {
            Some(byte) if here => (Role::Selected, format!("{byte:02x}")),
            Some(0) => (Role::Dim, "00".into()),
            Some(byte) => (Role::Plain, format!("{byte:02x}")),
            None => (Role::Dim, "--".into()),
        });
    }
    let shown = |byte: &Option<u8>| match byte {
        Some(byte) if byte.is_ascii_graphic() || *byte == b' ' => char::from(*byte),
        Some(_) => '.',
        None => ' ',
    };
    pieces.push((Role::Dim, format!("  {}", bytes.iter().map(shown).collect::<String>())));
    pen.line(line, &pieces);
}

/// The walks, entry by entry; where there is no room for that, a line for each.
fn walks(stages: Option<&[Stage]>, room: usize, width: u16) -> Vec<Vec<Piece>> {
    let Some(stages) = stages else { return vec![vec![(Role::Notice, "there is no such guest now".into())]] };
    if stages.is_empty() {
        return vec![vec![(Role::Dim, "silicon's own address".into())]];
    }
    let all: usize = stages.iter().map(|stage| 1 + stage.trail.steps.len()).sum();
    let mut lines = Vec::new();
    for stage in stages {
        lines.push(result(stage));
        // The entry where it ends says most.
        let steps = &stage.trail.steps;
        let from = if all <= room { 0 } else { steps.len().saturating_sub(usize::from(stages.len() * 2 <= room)) };
        lines.extend(steps[from..].iter().map(|step| entry(stage.structure, step, width)));
    }
    lines
}

/// Where a walk leads.
fn result(stage: &Stage) -> Vec<Piece> {
    let name = (Role::Strong, format!("{}: ", stage.structure));
    let (role, text) = match stage.trail.ended {
        Ended::At { address, bytes: 0 } => (Role::Plain, format!("off, {address:x}")),
        Ended::At { address, bytes } => {
            let space = match stage.to {
                replayer::look::Space::Host => "host".to_owned(),
                replayer::look::Space::Physical(level) | replayer::look::Space::Linear(level) => format!("L{level}"),
            };
            (Role::Plain, format!("{} {space} {address:x}", size_name(bytes)))
        }
        Ended::NotPresent => (Role::Notice, "not present".into()),
        Ended::Misconfigured => (Role::Bad, "misconfigured".into()),
        Ended::NoTable => (Role::Bad, "table nowhere".into()),
        Ended::NotCanonical => (Role::Bad, "not canonical".into()),
    };
    vec![name, (role, text)]
}

/// An entry: its level, where it lies, what it holds, and its rights.
fn entry(structure: Structure, step: &Step, width: u16) -> Vec<Piece> {
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    let (rights, address): (String, u64) = match structure {
        Structure::Paging(_) => {
            let bits = Pte::from_bits_retain(step.entry);
            let has = |flag: Pte| bits.contains(flag);
            let rights = [
                letter(has(Pte::PRESENT), 'r'),
                letter(has(Pte::WRITE), 'w'),
                letter(!has(Pte::NX), 'x'),
                letter(has(Pte::USER), 'u'),
                letter(has(Pte::ACCESSED), 'A'),
                letter(has(Pte::DIRTY), 'D'),
            ];
            (rights.into_iter().collect(), step.entry & 0x000f_ffff_ffff_f000)
        }
        Structure::Ept12 | Structure::Ept01 | Structure::Ept02 => {
            let bits = EptEntry::from_bits(step.entry);
            let rights = [
                letter(bits.read(), 'r'),
                letter(bits.write(), 'w'),
                letter(bits.execute(), 'x'),
                letter(bits.user_execute(), 'u'),
                letter(bits.accessed(), 'A'),
                letter(bits.dirty(), 'D'),
            ];
            (rights.into_iter().collect(), bits.address())
        }
    };
    // Where the whole entry does not fit, the page it leads to does.
    let value = if width >= 35 { format!("{:>16x}", step.entry) } else { format!("{address:>9x}") };
    vec![
        (Role::Dim, format!("{} {:>9x} ", step.level, step.at)),
        (if step.entry == 0 { Role::Dim } else { Role::Plain }, value),
        (Role::Dim, format!(" {rights}")),
    ]
}
