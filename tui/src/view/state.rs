//! The VMCSs at the event.

use super::Pen;
use super::side::tabs;
use crate::decode::field_meaning;
use crate::describe::{Piece, thousands};
use crate::layout::top;
use crate::model::{Model, Side};
use crate::panes::{StateRow, addresses, current, state_row, state_rows};
use crate::replay;
use crate::state::Held;
use crate::theme::Role;
use hv_defs::vmcs::{VmcsField, Width};
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

/// Columns of a value: sixteen digits, its mark, a space.
const VALUE: u16 = 18;

/// vmcs01, vmcs12 and vmcs02 side by side, by areas as in the SDM. `*` marks what the selected event changed, `+` what
/// changed since the last exit; a dot is a value that no event told of. The last line reads the selected field.
///
/// ```text
/// ── 1 Event  2 VMCS  3 Cost  4 Findings ─────────────────────────────────
///  field                   vmcs01 5000       vmcs12 a1000      vmcs02 7000
///  Guest state
///  guest_rip         ffffffff8100a3f1  +            401000 *        401000 *
///  guest_rip in vmcs12: last changed by event 1,024
/// ```
pub(super) fn draw(model: &Model, pen: &mut Pen, area: Rect) {
    let right = match &model.state.far {
        _ if replay::state(model).is_some() => Vec::new(),
        _ if model.replay.under_way.is_some() => {
            let percent = model.replay.under_way.map_or(0, |(_, percent)| percent);
            vec![(Role::Notice, format!(" replaying {percent}% "))]
        }
        Some((_, _, from)) if *from > 0 => {
            let since = model.about.firsts.get(*from).copied().unwrap_or(0);
            let text = format!(" from event {} on, reading further back ", thousands(since));
            vec![(Role::Notice, if area.width < 120 { " reading back ".into() } else { text })]
        }
        _ => Vec::new(),
    };
    let inner = pen.titled(area, &tabs(model, Side::State), &right);
    if inner.height < 2 {
        return;
    }
    if model.state.whole.is_none() {
        pen.line(inner, &[(Role::Dim, " ...".into())]);
        return;
    }
    let rows = state_rows(model);
    let names = inner.width.saturating_sub(1 + 3 * VALUE);
    heading(model, pen, inner, names);
    if rows.is_empty() {
        let text = " No event up to here tells of a VMCS. A trace recorded with --log vmcs tells most.";
        pen.line(Pen::row(inner, 1), &[(Role::Dim, text.into())]);
        return;
    }
    let list = usize::from(inner.height - 2);
    let selected = state_row(&rows, model.state.row);
    let first = top(selected, list, rows.len());
    for (at, row) in rows.iter().enumerate().skip(first).take(list) {
        let line = Pen::row(inner, 1 + at - first);
        match row {
            StateRow::Group(name) => {
                pen.line(line, &[(Role::Strong, format!(" {name}"))]);
            }
            StateRow::Field(field, held) => {
                let focused = at == selected && model.in_side && model.side == Side::State;
                field_row(model, pen, line, names, (*field, held), focused);
            }
        }
    }
    if let Some(StateRow::Field(field, held)) = rows.get(selected) {
        pen.line(Pen::row(inner, usize::from(inner.height) - 1), &reading(*field, held));
    }
}

fn heading(model: &Model, pen: &mut Pen, line: Rect, names: u16) {
    let from = if replay::state(model).is_some() { " field, replayed" } else { " field, from events" };
    pen.line(line, &[(Role::Dim, from.into())]);
    for (column, (name, address)) in (0..).zip(["vmcs01", "vmcs12", "vmcs02"].into_iter().zip(addresses(model))) {
        let address = address.map_or("none".into(), |address| format!("{address:x}"));
        let text = format!("{:>16}", format!("{name} {address}"));
        let area = Rect { x: line.x + 1 + names + column * VALUE, width: VALUE, ..line };
        pen.line(area, &[(Role::Strong, text)]);
    }
}

fn field_row(
    model: &Model,
    pen: &mut Pen,
    line: Rect,
    names: u16,
    row: (VmcsField, &[Option<Held>; 3]),
    focused: bool,
) {
    let (field, held) = row;
    let over = if focused { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    let width = usize::from(names.saturating_sub(1));
    let name = field.to_string();
    let found = !model.state.query.is_empty() && field.to_string().contains(&model.state.query.to_ascii_lowercase());
    let role = if found { Role::Notice } else { Role::Plain };
    pen.styled(Rect { width: 1 + names, ..line }, &[(role, format!(" {name:<width$}"))], over);
    let exit = current(model).exit;
    for (column, held) in (0..).zip(held) {
        let area = Rect { x: line.x + 1 + names + column * VALUE, width: VALUE, ..line };
        pen.styled(area, &value(model, field, held, exit), over);
    }
}

fn value(model: &Model, field: VmcsField, held: &Option<Held>, exit: Option<u64>) -> Vec<Piece> {
    let Some(held) = held else {
        return vec![(Role::Dim, format!("{:>16}  ", model.theme.glyph("·", ".")))];
    };
    let digits = match field.width() {
        Width::W16 => format!("{:04x}", held.value),
        Width::W32 => format!("{:08x}", held.value),
        Width::W64 | Width::Natural => format!("{:x}", held.value),
    };
    let (role, mark) = match held.changed {
        Some(event) if event == model.cursor => (Role::Changed, "*"),
        Some(event) if exit.is_some_and(|exit| event >= exit) => (Role::Recent, "+"),
        _ => (if held.value == 0 { Role::Dim } else { Role::Plain }, " "),
    };
    vec![(role, format!("{digits:>16}")), (role, mark.into()), (Role::Plain, " ".into())]
}

/// The selected field in words: what its bits say, and where its values come from.
fn reading(field: VmcsField, held: &[Option<Held>; 3]) -> Vec<Piece> {
    let mut pieces = vec![(Role::Strong, format!(" {field}"))];
    for (name, held) in ["vmcs01", "vmcs12", "vmcs02"].into_iter().zip(held) {
        let Some(held) = held else { continue };
        let from = match held.changed {
            Some(event) => format!("changed at {}", thousands(event)),
            None => format!("seen at {}", thousands(held.event)),
        };
        let meaning = field_meaning(field, held.value).map_or(String::new(), |meaning| format!("{meaning}; "));
        pieces.push((Role::Dim, format!("  {name} ")));
        pieces.push((Role::Plain, format!("{meaning}{from}")));
    }
    pieces
}
