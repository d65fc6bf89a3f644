//! What the inspector knows and shows. Nothing here touches a trace.

use crate::columns::Column;
use crate::export::{Export, Step};
use crate::filter::{self, Plan, complete::Completions};
use crate::findings::Analysis;
use crate::hits::{Bits, Hits};
use crate::keep::{Kept, Place};
use crate::line::Line;
use crate::replay::{self, Peek, ReplayView};
use crate::round::Round;
use crate::state::Fold;
use crate::strip::{Counts, Look, Part, Strip};
use crate::theme::{Role, Theme};
use crossterm::event::{KeyEvent, MouseEvent};
use hv_defs::event::Event;
use hv_defs::policy::PoolRecycle;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// What is known of a trace from its header and index alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct About {
    /// The file's name.
    pub(crate) name: String,
    /// The guest and the policy, in a few words; of an imported trace, where it comes from.
    pub(crate) machine: String,
    /// What a stamp counts, one of it.
    pub(crate) time: &'static str,
    /// Events.
    pub(crate) len: u64,
    /// The first event of each block.
    pub(crate) firsts: Arc<[u64]>,
    /// What the index counts in each block; `None` where there is no index.
    pub(crate) counts: Option<Arc<Counts>>,
    /// vCPUs.
    pub(crate) vcpus: u16,
    /// Whether L0 takes time of the trace's clock, which counts no instructions then.
    pub(crate) timed: bool,
    /// Whether the recording was cut short.
    pub(crate) truncated: bool,
    /// The size of the vmcs02 pool and what it recycles first; `None` of an imported trace.
    pub(crate) pool: Option<(u16, PoolRecycle)>,
}

/// What the keys go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The main screen.
    Browse,
    /// A line of input.
    Prompt(Prompt),
    /// The help screen, from this line on.
    Help(usize),
    /// The letter of a bookmark to set.
    SetMark,
    /// The letter of a bookmark to go to.
    GoMark,
    /// The chooser of columns, with the selected row.
    Columns(usize),
    /// The list of bookmarks, with the selected row.
    Marks(usize),
}

/// What a line of input is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ask {
    /// A filter.
    Filter,
    /// A text to search.
    Search,
    /// A place to go to.
    GoTo,
    /// A field of the state pane.
    Field,
    /// A file to save what is shown in.
    Save,
    /// What to say of a bookmark.
    Mark,
    /// A text in a pane with registers, the TLB or the pool.
    Row,
    /// An address of the memory pane.
    Address,
}

/// A line of input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Prompt {
    /// What for.
    pub(crate) ask: Ask,
    /// The line.
    pub(crate) line: Line,
    /// What is wrong with it.
    pub(crate) error: Option<filter::Error>,
    /// What the word under the cursor could become, and which of those is chosen.
    pub(crate) completions: Completions,
    /// The one that Tab put there last.
    pub(crate) chosen: Option<usize>,
    /// Which line of the past is shown, counted from the latest.
    pub(crate) past: Option<usize>,
    /// Where the cursor was.
    pub(crate) origin: u64,
}

/// The pane beside the events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Detail,
    State,
    Round,
    Findings,
    Regs,
    Tlb,
    Pool,
    Memory,
}

impl Side {
    pub(crate) const ALL: [Self; 8] =
        [Self::Detail, Self::State, Self::Round, Self::Findings, Self::Regs, Self::Tlb, Self::Pool, Self::Memory];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Detail => "Event",
            Self::State => "VMCS",
            Self::Round => "Cost",
            Self::Findings => "Findings",
            Self::Regs => "Regs",
            Self::Tlb => "TLB",
            Self::Pool => "Pool",
            Self::Memory => "Memory",
        }
    }

    /// Its name where there is little room.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Findings => "Found",
            Self::Memory => "Mem",
            _ => self.name(),
        }
    }
}

/// The filter in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filtered {
    /// As it was typed.
    pub(crate) text: String,
    pub(crate) plan: Arc<Plan>,
    pub(crate) hits: Hits,
    pub(crate) id: u64,
}

/// A look for the next event that a plan holds for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Find {
    pub(crate) id: u64,
    pub(crate) plan: Arc<Plan>,
    /// The event to go on from, itself included.
    pub(crate) from: u64,
    pub(crate) forward: bool,
    /// What is looked for, for the reader.
    pub(crate) what: String,
    /// Whether it leaves the place in the list of jumps.
    pub(crate) jump: bool,
}

/// The VMCSs at the event.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct StateView {
    /// The event they are of, and its fold within its block.
    pub(crate) near: Option<(u64, Arc<Fold>)>,
    /// What the blocks before that one say: the block, the fold, and the first block that it has.
    pub(crate) far: Option<(usize, Arc<Fold>, usize)>,
    /// Both together.
    pub(crate) whole: Option<(u64, Arc<Fold>)>,
    /// The field that is selected.
    pub(crate) row: usize,
    /// Unknown fields are shown too.
    pub(crate) all: bool,
    /// Which vmcs12 is shown, if not the current one.
    pub(crate) address: Option<u64>,
    /// What the names are searched for.
    pub(crate) query: String,
}

/// What the timeline, the list and the panes show.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) about: About,
    pub(crate) theme: Theme,
    /// Columns and rows of the terminal.
    pub(crate) size: (u16, u16),
    pub(crate) mode: Mode,
    /// Whether the keys go to the side pane rather than the events.
    pub(crate) in_side: bool,
    pub(crate) side: Side,
    /// Whether the pane with the keys fills the screen.
    pub(crate) zoomed: bool,
    /// All columns in their order and whether they are shown, once they were chosen.
    pub(crate) columns: Option<Vec<(Column, bool)>>,
    /// The selected event.
    pub(crate) cursor: u64,
    /// The row of the list that it is on.
    pub(crate) anchor: u16,
    /// Events that were read, by number; `Err` for those that cannot be.
    pub(crate) events: BTreeMap<u64, Result<Event, String>>,
    pub(crate) filter: Option<Filtered>,
    /// The text of the filter that was dropped last.
    pub(crate) dropped: Option<String>,
    /// The text that is searched, and its plan.
    pub(crate) search: Option<(String, Arc<Plan>)>,
    pub(crate) find: Option<Find>,
    pub(crate) strip: Strip,
    pub(crate) state: StateView,
    pub(crate) replay: ReplayView,
    /// The first line that the detail pane shows.
    pub(crate) detail_top: usize,
    pub(crate) round: Option<Arc<Round>>,
    /// The selected row of the cost pane.
    pub(crate) round_row: usize,
    pub(crate) findings: Option<Result<Arc<Analysis>, String>>,
    pub(crate) finding_row: usize,
    /// Events that the analyzer has read so far.
    pub(crate) analysed: u64,
    /// A finding to go to as soon as the analyzer is done: whether forwards.
    pub(crate) to_finding: Option<bool>,
    pub(crate) marks: BTreeMap<char, u64>,
    /// What was said of bookmarks.
    pub(crate) mark_notes: BTreeMap<char, String>,
    /// The bookmark that something is being said of.
    pub(crate) renamed: Option<char>,
    /// Where all this is kept, if anywhere.
    pub(crate) place: Option<Arc<Place>>,
    /// It is to be kept at once.
    pub(crate) keep_now: bool,
    /// What is being saved, and a file that is not to be after all.
    pub(crate) export: Option<Export>,
    pub(crate) unsaved: Option<PathBuf>,
    /// Columns of the timeline that the mouse was drawn over, from where and to where.
    pub(crate) drawn: Option<(u16, u16)>,
    pub(crate) jumps: Vec<u64>,
    /// Keys that wait for what they go by.
    pub(crate) ahead: VecDeque<KeyEvent>,
    pub(crate) undone: Vec<u64>,
    /// What was typed at each prompt.
    pub(crate) past: BTreeMap<Ask, Vec<String>>,
    /// A line for the reader.
    pub(crate) note: Option<(Role, String)>,
    /// An instruction that is being looked for.
    pub(crate) locate: Option<u64>,
    /// A text that is to be copied.
    pub(crate) copy: Option<String>,
    /// Effects under way, one a lane.
    pub(crate) busy: [bool; 4],
    /// The whole screen is to be drawn anew.
    pub(crate) redraw: bool,
    /// The file is to be looked at for more.
    pub(crate) poll: bool,
    /// Whether the trace is still written, as far as can be told, and how often it was looked at in vain.
    pub(crate) live: bool,
    pub(crate) quiet: u32,
    /// The list stays at its end as the trace grows.
    pub(crate) follow: bool,
    /// The file is not what it was any more.
    pub(crate) lost: bool,
    /// The terminal is to be given back until the process goes on.
    pub(crate) suspend: bool,
    pub(crate) quit: bool,
    /// The last number given to a filter, a search or a timeline.
    pub(crate) ids: u64,
}

impl Model {
    /// The model of a trace that was just opened.
    pub(crate) fn new(about: About, theme: Theme, size: (u16, u16)) -> Self {
        let note = about
            .truncated
            .then(|| (Role::Notice, "The recording was cut short: this is up to its last whole block.".to_owned()));
        Self {
            strip: Strip::new(&about),
            about,
            theme,
            size,
            mode: Mode::Browse,
            in_side: false,
            side: Side::Detail,
            zoomed: false,
            columns: None,
            cursor: 0,
            anchor: 0,
            events: BTreeMap::new(),
            filter: None,
            dropped: None,
            search: None,
            find: None,
            state: StateView::default(),
            replay: ReplayView::default(),
            detail_top: 0,
            round: None,
            round_row: 0,
            findings: None,
            finding_row: 0,
            analysed: 0,
            to_finding: None,
            marks: BTreeMap::new(),
            mark_notes: BTreeMap::new(),
            renamed: None,
            place: None,
            keep_now: false,
            export: None,
            unsaved: None,
            drawn: None,
            jumps: Vec::new(),
            ahead: VecDeque::new(),
            undone: Vec::new(),
            past: BTreeMap::new(),
            note,
            locate: None,
            copy: None,
            busy: [false; 4],
            redraw: false,
            poll: false,
            live: false,
            quiet: 0,
            follow: false,
            lost: false,
            suspend: false,
            quit: false,
            ids: 0,
        }
    }

    /// The selected event, if it was read.
    pub(crate) fn selected(&self) -> Option<&Event> {
        self.events.get(&self.cursor)?.as_ref().ok()
    }

    /// The round of the selected event, if it is known.
    pub(crate) fn round_here(&self) -> Option<&Round> {
        let vcpu = self.selected()?.at.vcpu;
        self.round.as_deref().filter(|round| round.is_of(self.cursor, vcpu))
    }

    /// The event after `event` in the list.
    pub(crate) fn after(&self, event: u64) -> Option<u64> {
        match &self.filter {
            Some(filter) => filter.hits.at_or_after(event + 1),
            None => (event + 1 < self.about.len).then_some(event + 1),
        }
    }

    /// The event before `event` in the list.
    pub(crate) fn before(&self, event: u64) -> Option<u64> {
        let before = event.checked_sub(1)?;
        match &self.filter {
            Some(filter) => filter.hits.at_or_before(before),
            None => Some(before),
        }
    }

    /// The events that a list of `rows` rows shows. The selected one is among them, unless the filter hides it.
    pub(crate) fn window(&self, rows: u16) -> Vec<u64> {
        if self.about.len == 0 || rows == 0 {
            return Vec::new();
        }
        let shown = self.filter.as_ref().is_none_or(|filter| filter.hits.has(self.cursor));
        let mut window = Vec::new();
        let mut next = if shown { Some(self.cursor) } else { self.after(self.cursor) };
        let mut first = next.unwrap_or(self.cursor);
        let mut above = Vec::new();
        while above.len() < usize::from(self.anchor.min(rows - 1)) || next.is_none() {
            let Some(before) = self.before(first) else { break };
            above.push(before);
            first = before;
            if above.len() >= usize::from(rows) {
                break;
            }
        }
        window.extend(above.into_iter().rev());
        while let Some(event) = next.filter(|_| window.len() < usize::from(rows)) {
            window.push(event);
            next = self.after(event);
        }
        // At the list's end, what is above fills the rows.
        let short = usize::from(rows).saturating_sub(window.len());
        let above: Vec<u64> =
            std::iter::successors(self.before(first), |&event| self.before(event)).take(short).collect();
        window.splice(0..0, above.into_iter().rev());
        window
    }

    /// The block that holds an event.
    pub(crate) fn block_of(&self, event: u64) -> usize {
        self.about.firsts.partition_point(|&first| first <= event).saturating_sub(1)
    }

    /// A number that no filter, search or timeline has had.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
}

/// What happens to the inspector.
#[derive(Debug)]
pub(crate) enum Msg {
    Key(KeyEvent),
    Mouse(MouseEvent),
    Resize(u16, u16),
    /// An effect is done.
    Done(Lane, Reply),
    /// The analyzer has read so many events.
    Analysed(u64),
    /// No key has come for a while.
    Rest,
    /// It is time to look whether the file has grown.
    Tick,
    /// Nothing; asks for the next effect.
    Idle,
}

/// Effects of one lane wait for one another. What the screen needs at once does not wait for what takes long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    Screen = 0,
    Long = 1,
    /// What cannot be done in pieces.
    Whole = 2,
    /// The machine that runs the trace again.
    Replay = 3,
}

/// Something to be done outside of the model. Those of [`Lane::Long`] do a piece that takes some 50 ms, and the model
/// asks for the next piece: so each can be cancelled by not asking.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Read these events.
    Fetch(Vec<u64>),
    /// Test the events of blocks, from this one on as far as time allows. `first` asks for a short piece.
    Scan { id: u64, plan: Arc<Plan>, blocks: Vec<usize>, first: bool },
    /// Look for the next event that the plan holds for, from an event on, itself included.
    Find { id: u64, plan: Arc<Plan>, from: u64, forward: bool },
    /// Look at blocks for the timeline, as far as time allows.
    Strip(Look),
    /// Fold the block of the event up to it.
    Near { event: u64 },
    /// Fold blocks before `block`, backwards from `from`, under what is known.
    Far { block: usize, fold: Arc<Fold>, from: usize },
    /// What the exit of L2 around the event cost.
    Round { event: u64, vcpu: u16 },
    /// The first event at or after an instruction.
    Locate { instruction: u64 },
    /// The analyzer's findings.
    Findings,
    /// Replay a piece of the way to an event; there, say what there is, or look at memory.
    Replay { event: u64, look: Option<Peek> },
    /// Look whether the file has grown.
    Follow,
    /// Hand a text to the terminal's clipboard.
    Copy(String),
    /// Save the next piece of what is shown.
    Export(Export),
    /// Drop what was saved of a file.
    Unsave(PathBuf),
    /// Keep bookmarks and the place.
    Keep(Arc<Place>, Box<Kept>),
}

impl Effect {
    pub(crate) const fn lane(&self) -> Lane {
        match self {
            Self::Fetch(_) | Self::Follow | Self::Copy(_) | Self::Unsave(_) | Self::Keep(..) => Lane::Screen,
            Self::Findings => Lane::Whole,
            Self::Replay { .. } => Lane::Replay,
            _ => Lane::Long,
        }
    }
}

/// What became of the file.
#[derive(Debug)]
pub(crate) enum Growth {
    Same,
    /// What is known of it now.
    More(Box<About>),
    /// It is not what it was: what to tell of it.
    Lost(String),
}

/// What came of an effect. Each is about what its effect names.
#[derive(Debug)]
pub(crate) enum Reply {
    Events(Vec<(u64, Result<Event, String>)>),
    Scanned {
        id: u64,
        blocks: Vec<(usize, Bits)>,
        error: Option<String>,
    },
    /// The event that was found, or the one to go on from; neither at the trace's end.
    Found {
        id: u64,
        found: Option<u64>,
        next: Option<u64>,
        error: Option<String>,
    },
    /// What came of the first blocks that were asked for; whether they were looked at as wholes.
    Strip {
        id: u64,
        whole: bool,
        parts: Vec<Part>,
    },
    Near {
        event: u64,
        fold: Result<Fold, String>,
    },
    /// The fold of the blocks `from..block`.
    Far {
        block: usize,
        fold: Result<Fold, String>,
        from: usize,
    },
    Round {
        event: u64,
        round: Result<Box<Round>, String>,
    },
    Located {
        event: Result<Option<u64>, String>,
    },
    Findings(Result<Analysis, String>),
    Replay(replay::Reply),
    Copied(Result<(), String>),
    Exported {
        id: u64,
        step: Step,
    },
    Unsaved,
    Kept(Result<(), String>),
    Followed(Growth),
    /// The lane's thread panicked, and is no more.
    Panicked(String),
}
