//! A trace that is still written: what comes is taken in, and the list stays at its end as `tail -f` does.

use crate::model::{Growth, Model};
use crate::theme::Role;
use crate::update::go_to;

/// How often the file was looked at without finding more, after which it no longer counts as being written.
const QUIET: u32 = 15;

/// Takes in what became of the file.
pub(crate) fn grown(model: &mut Model, growth: Growth) {
    let about = match growth {
        Growth::Same => {
            model.quiet = model.quiet.saturating_add(1);
            model.live &= model.quiet < QUIET;
            return;
        }
        Growth::Lost(why) => {
            // It is said once.
            if !std::mem::replace(&mut model.lost, true) {
                model.note = Some((Role::Bad, why));
            }
            model.live = false;
            return;
        }
        Growth::More(about) => *about,
    };
    // Half a block more is no event more.
    if about.len == model.about.len && about.truncated {
        return;
    }
    (model.quiet, model.live) = (0, about.truncated);
    let old = model.about.len;
    let whole = model.strip.window == (0, old);
    model.follow = old > 0 && at_end(model);
    let vcpus = model.about.vcpus.max(about.vcpus);
    model.about = about;
    model.about.vcpus = vcpus;
    if let Some(filter) = &mut model.filter {
        filter.hits.grow(model.about.firsts.clone());
    }
    if whole {
        model.strip.window = (0, model.about.len);
        model.strip.keep();
    }
    // A round that the trace ended in may go on.
    if model.round.as_ref().is_some_and(|round| round.ended.is_none()) {
        model.round = None;
    }
    if !model.about.truncated {
        model.note = Some((Role::Notice, "The recording has ended, and is whole.".into()));
    } else if old == 0 {
        model.note = Some((Role::Notice, "The recording goes on; G follows its end.".into()));
    }
    keep_up(model);
}

/// Whether the cursor is on the last event that the list will ever have of what is known.
fn at_end(model: &Model) -> bool {
    let scanned = model.filter.as_ref().is_none_or(|filter| {
        let (done, all) = filter.hits.progress();
        done == all
    });
    // A list that was following and is not at its end yet has blocks to scan, and follows on.
    model.follow || (scanned && model.after(model.cursor).is_none())
}

/// Goes to the list's end where it is followed.
pub(crate) fn keep_up(model: &mut Model) {
    if !model.follow {
        return;
    }
    let last = model.about.len.saturating_sub(1);
    let end = match &model.filter {
        Some(filter) => filter.hits.at_or_before(last),
        None => Some(last),
    };
    if let Some(end) = end.filter(|end| *end > model.cursor) {
        go_to(model, end, false);
    }
}
