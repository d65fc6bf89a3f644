//! What the side panes consist of, as rows: for drawing them and for moving in them.

use crate::decode::decode;
use crate::describe::Piece;
use crate::model::Model;
use crate::replay;
use crate::state::{Current, Fold, GROUPS, Held, group};
use crate::theme::Role;
use hv_defs::event::Which;
use hv_defs::vmcs::{TABLE, VmcsField};
use replayer::look::{Kept, Vmcs};

/// A row of the state pane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StateRow {
    /// The heading of an area of the VMCS.
    Group(&'static str),
    /// A field, as vmcs01, vmcs12 and vmcs02 hold it.
    Field(VmcsField, [Option<Held>; 3]),
}

/// The addresses of the VMCSs that the state pane shows: vmcs01, vmcs12, vmcs02.
pub(crate) fn addresses(model: &Model) -> [Option<u64>; 3] {
    let current = current(model);
    let seen = replayed(model).map_or([None; 3], |kept| {
        [Some(kept.vmcs01.0), kept.vmcs12.as_ref().map(|it| it.0), kept.vmcs02.as_ref().map(|it| it.0)]
    });
    let [vmcs01, vmcs12, vmcs02] = seen;
    [vmcs01.or(current.vmcs01), model.state.address.or(vmcs12).or(current.vmcs12), vmcs02.or(current.vmcs02)]
}

/// What a replay has seen of the VMCSs of the selected event's vCPU.
fn replayed(model: &Model) -> Option<&Kept> {
    replay::state(model)?.vcpus.get(replay::vcpu(model))
}

/// The VMCSs that the selected event's vCPU last used.
pub(crate) fn current(model: &Model) -> Current {
    match (&model.state.whole, model.selected()) {
        (Some((_, fold)), Some(event)) => fold.current(event.at.vcpu),
        _ => Current::default(),
    }
}

/// The rows of the state pane, in the SDM's order of areas.
pub(crate) fn state_rows(model: &Model) -> Vec<StateRow> {
    let Some((_, fold)) = &model.state.whole else { return Vec::new() };
    let addresses = addresses(model);
    let kept = replayed(model);
    let held = |field: VmcsField| {
        let of = |which, address: Option<u64>, seen: Option<&(u64, Box<Vmcs>)>| {
            let told = fold.held(which, address?, field);
            // A replay knows all of it; events know when it changed.
            match seen.filter(|seen| Some(seen.0) == address).and_then(|seen| seen.1.read(field)) {
                Some(value) => Some(told.map_or(Fold::seen(value, model.cursor), |told| told.with(value))),
                None => told,
            }
        };
        [
            of(Which::Vmcs01, addresses[0], kept.map(|kept| &kept.vmcs01)),
            of(Which::Vmcs12, addresses[1], kept.and_then(|kept| kept.vmcs12.as_ref())),
            of(Which::Vmcs02, addresses[2], kept.and_then(|kept| kept.vmcs02.as_ref())),
        ]
    };
    // What no event tells of and a replay finds to be zero is shown among all.
    let told = |field: VmcsField| {
        let whose = [Which::Vmcs01, Which::Vmcs12, Which::Vmcs02].into_iter().zip(addresses);
        whose.filter_map(|(which, address)| fold.held(which, address?, field)).next().is_some()
    };
    let mut fields: Vec<VmcsField> = TABLE.iter().map(|row| row.field).chain(fold.strangers()).collect();
    // Within an area by rising encoding, with the widths together as the SDM lists them.
    fields.sort_by_key(|field| group(*field));
    let mut rows = Vec::new();
    let mut last = None;
    for field in fields {
        let row = held(field);
        if !model.state.all && !told(field) && row.iter().flatten().all(|held| held.value == 0) {
            continue;
        }
        if last != Some(group(field)) {
            last = Some(group(field));
            rows.push(StateRow::Group(GROUPS[group(field)]));
        }
        rows.push(StateRow::Field(field, row));
    }
    rows
}

/// The selected row of the state pane, moved off headings.
pub(crate) fn state_row(rows: &[StateRow], selected: usize) -> usize {
    let selected = selected.min(rows.len().saturating_sub(1));
    match rows.get(selected) {
        Some(StateRow::Group(_)) => selected + 1,
        _ => selected,
    }
}

/// The field that is selected in the state pane.
pub(crate) fn state_field(model: &Model) -> Option<VmcsField> {
    let rows = state_rows(model);
    match rows.get(state_row(&rows, model.state.row)) {
        Some(StateRow::Field(field, _)) => Some(*field),
        _ => None,
    }
}

/// The lines of the detail pane: what the event is, what caused it and what it caused, its fields.
pub(crate) fn detail_lines(model: &Model) -> Vec<Vec<Piece>> {
    let Some(event) = model.selected() else { return Vec::new() };
    let mut lines = decode(model.cursor, event, model.about.time);
    let told = model.round_here().map(|round| round.told(model.cursor)).unwrap_or_default();
    // What the analyzer has found about it, once it was asked.
    let found = model.findings.iter().flatten().flat_map(|found| found.told(model.cursor));
    let found = found.map(|text| ("found", vec![(Role::Notice, text)]));
    let executes = replay::instruction(model).map(|text| ("instruction", vec![(Role::Plain, text.to_owned())]));
    let told = executes.into_iter().chain(told).chain(found);
    let told = told.map(|(label, line)| std::iter::once((Role::Dim, format!("{label:<16}"))).chain(line).collect());
    let at = lines.len().min(1);
    lines.splice(at..at, told);
    lines
}

/// A line of the findings pane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FindingLine {
    /// The heading of a group.
    Group(&'static str),
    /// The finding of that number.
    Finding(usize),
}

/// The lines of the findings pane.
pub(crate) fn finding_lines(model: &Model) -> Vec<FindingLine> {
    let mut lines = Vec::new();
    let mut last = None;
    for (at, finding) in model.findings.iter().flatten().flat_map(|found| &found.findings).enumerate() {
        if last != Some(finding.group) {
            last = Some(finding.group);
            lines.push(FindingLine::Group(finding.group));
        }
        lines.push(FindingLine::Finding(at));
    }
    lines
}

/// The line that a finding stands on.
pub(crate) fn finding_line(lines: &[FindingLine], finding: usize) -> usize {
    lines.iter().position(|line| *line == FindingLine::Finding(finding)).unwrap_or(0)
}

/// Of a pane's rows, those that list findings: the rest tell the selected one in full.
pub(crate) fn finding_rows(rows: usize) -> usize {
    if rows >= 6 { rows - (rows / 3).min(5) } else { rows }
}
