//! What `nvmx attach --live` shows: which vCPU exits how often and why, drawn anew each interval, or as a table each interval
//! where nobody looks at a terminal.
//!
//! ```text
//!  1 machine   12 s   31,204 exits/s   120 flushes/s                       q ends
//!
//! guest             CPU level   exits/s    L2's/s   to L1/s  inject/s  most of all
//! web/0               3    L2    20,110     8,020     4,000       100  EPT_VIOLATION 52%, HLT 20%
//!
//! exits by reason              level   exits/s   share         in all
//! EPT_VIOLATION                   L1    12,000   38.5%        144,012  ████████
//! ```

use super::super::fail::{Fails, Result, Status, THREADS};
use super::super::print::{count, of};
use core::ops::ControlFlow;
use crossterm::event::{Event as Typed, KeyCode, KeyModifiers};
use crossterm::{cursor, event, execute, queue, style, terminal};
use hv_defs::event::{Actor, Event, What};
use hv_defs::exit::Reason;
use recorder::attach::{Attach, Machine};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A terminal of so many columns has room for what is not needed.
const WIDE: usize = 100;

/// What a vCPU did in an interval.
#[derive(Clone, Default)]
struct Vcpu {
    cpu: u16,
    level: u8,
    exits: u64,
    l2: u64,
    reflected: u64,
    injections: u64,
    reasons: BTreeMap<Reason, u64>,
}

/// An exit's reason and level: how many in the interval, and since the beginning.
type Reasons = BTreeMap<(Reason, u8), [u64; 2]>;

/// What there is to show.
pub(super) struct Live {
    interval: Duration,
    begun: Instant,
    last: Instant,
    /// What was typed, if there is a terminal.
    keys: Option<Arc<Keys>>,
    seen: Seen,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    vcpus: BTreeMap<u16, Vcpu>,
    reasons: Reasons,
    flushes: u64,
    lost: u64,
}

impl Seen {
    fn take(&mut self, events: &[Event]) {
        for event in events {
            match &event.what {
                What::Exit(exit) => {
                    let reason = exit.basic();
                    let both = self.reasons.entry((reason, exit.level)).or_default();
                    both.iter_mut().for_each(|count| *count += 1);
                    let vcpu = self.vcpus.entry(event.at.vcpu).or_default();
                    (vcpu.cpu, vcpu.level) = (event.at.pcpu, vcpu.level.max(exit.level));
                    vcpu.exits += 1;
                    vcpu.l2 += u64::from(exit.level > 1);
                    vcpu.reflected += u64::from(exit.handled_by != Actor::L0);
                    *vcpu.reasons.entry(reason).or_default() += 1;
                }
                What::Entry(_) => self.vcpus.entry(event.at.vcpu).or_default().cpu = event.at.pcpu,
                What::Injection(_) => self.vcpus.entry(event.at.vcpu).or_default().injections += 1,
                What::Flush(_) => self.flushes += 1,
                What::Lost(count) => self.lost += count,
                _ => {}
            }
        }
    }

    /// Begins the next interval: vCPUs stay, with nothing done.
    fn next(&mut self) {
        self.vcpus.values_mut().for_each(|vcpu| *vcpu = Vcpu { cpu: vcpu.cpu, ..Vcpu::default() });
        self.reasons.values_mut().for_each(|count| count[0] = 0);
        self.flushes = 0;
    }

    /// The lines of an interval of so many seconds, none wider than `width` and at most `height`.
    fn lines(&self, seconds: f64, machines: &[Machine], width: usize, height: usize) -> Vec<String> {
        let rate = |number: u64| count((number as f64 / seconds.max(1e-3)).round() as u64);
        let all: u64 = self.vcpus.values().map(|vcpu| vcpu.exits).sum();
        let wide = width >= WIDE;
        let last = |text: String| if wide { format!("  {text}") } else { String::new() };
        let mut lines = vec![format!(
            "{:<16} {:>4} {:>5} {:>9} {:>9} {:>9} {:>9}{}",
            "guest",
            "CPU",
            "level",
            "exits/s",
            "L2's/s",
            "to L1/s",
            "inject/s",
            last("most of all".into())
        )];
        let mut busy: Vec<_> = self.vcpus.iter().collect();
        busy.sort_by_key(|(number, vcpu)| (std::cmp::Reverse(vcpu.exits), **number));
        let room = (height.saturating_sub(4) / 2).max(1);
        for (number, vcpu) in busy.iter().take(room) {
            let mut reasons: Vec<_> = vcpu.reasons.iter().collect();
            reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), **reason));
            let most = |(reason, count): &(&Reason, &u64)| format!("{reason} {}%", **count * 100 / vcpu.exits.max(1));
            let level = if vcpu.level == 0 { "-".to_owned() } else { format!("L{}", vcpu.level) };
            let mut guest = named(**number, machines);
            cut(&mut guest, 16);
            lines.push(format!(
                "{guest:<16} {:>4} {level:>5} {:>9} {:>9} {:>9} {:>9}{}",
                vcpu.cpu,
                rate(vcpu.exits),
                rate(vcpu.l2),
                rate(vcpu.reflected),
                rate(vcpu.injections),
                last(reasons.iter().take(2).map(most).collect::<Vec<_>>().join(", "))
            ));
        }
        if busy.len() > room {
            lines.push(format!("and {} that did less", of((busy.len() - room) as u64, "vCPU")));
        }
        if busy.is_empty() {
            lines.push("no vCPU has run yet".into());
        }
        lines.push(String::new());
        lines
            .push(format!("{:<28} {:>5} {:>9} {:>7} {:>14}", "exits by reason", "level", "exits/s", "share", "in all"));
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(of, [now, all])| (std::cmp::Reverse((*now, *all)), *of));
        for ((reason, level), [now, total]) in reasons {
            let share = *now as f64 / all.max(1) as f64;
            let bar = last("█".repeat((share * 20.0).round() as usize));
            let level = format!("L{level}");
            lines.push(format!(
                "{:<28} {level:>5} {:>9} {:>6.1}% {:>14}{bar}",
                reason.to_string(),
                rate(*now),
                share * 100.0,
                count(*total)
            ));
        }
        lines.truncate(height);
        lines.iter_mut().for_each(|line| cut(line, width));
        lines
    }
}

impl Live {
    /// Takes the terminal, if there is one.
    pub(super) fn open(seconds: f64) -> Result<Self> {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        let mut keys = None;
        if terminal {
            keys = Some(Keys::listen().or_hint(Status::Failed, "cannot listen to the keyboard", THREADS)?);
            let what = "cannot set up the terminal";
            terminal::enable_raw_mode().or_hint(Status::Failed, what, "send the output into a pipe")?;
            execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide).inspect_err(|_| {
                let _ = terminal::disable_raw_mode();
            })?;
        }
        let (begun, interval) = (Instant::now(), Duration::from_secs_f64(seconds));
        Ok(Self { interval, begun, last: begun, keys, seen: Seen::default() })
    }

    /// Takes events, and draws when an interval is over; whether the user wants to go on.
    pub(super) fn show(&mut self, attach: &Attach, events: &[Event]) -> io::Result<ControlFlow<()>> {
        self.seen.take(events);
        if self.keys.as_ref().is_some_and(|keys| keys.end.load(Ordering::Relaxed)) {
            return Ok(ControlFlow::Break(()));
        }
        let redraw = self.keys.as_ref().is_some_and(|keys| keys.redraw.swap(false, Ordering::Relaxed));
        let elapsed = self.last.elapsed();
        if elapsed < self.interval && !redraw {
            return Ok(ControlFlow::Continue(()));
        }
        self.draw(elapsed.as_secs_f64(), attach.machines())?;
        if elapsed >= self.interval {
            self.last = Instant::now();
            self.seen.next();
        }
        Ok(ControlFlow::Continue(()))
    }

    fn draw(&self, seconds: f64, machines: &[Machine]) -> io::Result<()> {
        let exits: u64 = self.seen.vcpus.values().map(|vcpu| vcpu.exits).sum();
        let rate = |number: u64| count((number as f64 / seconds.max(1e-3)).round() as u64);
        let mut head = format!(
            "{}   {} s   {} exits/s",
            of(machines.len() as u64, "machine"),
            self.begun.elapsed().as_secs(),
            rate(exits)
        );
        if self.seen.flushes > 0 {
            head.push_str(&format!("   {} flushes/s", rate(self.seen.flushes)));
        }
        if self.seen.lost > 0 {
            head.push_str(&format!("   {} lost", count(self.seen.lost)));
        }
        let mut out = io::stdout().lock();
        if self.keys.is_none() {
            writeln!(out, "{head}")?;
            for line in self.seen.lines(seconds, machines, usize::MAX, usize::MAX) {
                writeln!(out, "{}", line.trim_end())?;
            }
            writeln!(out)?;
            return out.flush();
        }
        let (width, height) = terminal::size()?;
        let (width, height) = (usize::from(width), usize::from(height));
        let keys = "q ends";
        let mut head = format!(" {head}");
        cut(&mut head, width.saturating_sub(keys.len() + 2));
        let pad = width.saturating_sub(head.chars().count() + keys.len() + 1);
        queue!(out, cursor::MoveTo(0, 0), style::SetAttribute(style::Attribute::Reverse))?;
        write!(out, "{head}{:pad$}{keys} ", "")?;
        queue!(out, style::SetAttribute(style::Attribute::Reset))?;
        let lines = self.seen.lines(seconds, machines, width, height.saturating_sub(2));
        for row in 0..height.saturating_sub(1) {
            queue!(out, cursor::MoveTo(0, row as u16 + 1), terminal::Clear(terminal::ClearType::CurrentLine))?;
            if let Some(line) = row.checked_sub(1).and_then(|row| lines.get(row)) {
                write!(out, "{line}")?;
            }
        }
        out.flush()
    }

    /// Gives the terminal back.
    pub(super) fn close(self) -> Result<()> {
        if self.keys.is_some() {
            execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen)?;
            terminal::disable_raw_mode()?;
        }
        Ok(())
    }
}

/// A vCPU by its machine's name and its number there.
fn named(number: u16, machines: &[Machine]) -> String {
    let of = machines.iter().find(|of| number.checked_sub(of.first).is_some_and(|own| own < 64));
    of.map_or_else(|| format!("vCPU {number}"), |of| format!("{}/{}", of.name, number - of.first))
}

/// What was typed. A thread of its own waits for it: of a terminal that has gone away, waiting may never end.
#[derive(Default)]
struct Keys {
    end: AtomicBool,
    redraw: AtomicBool,
}

impl Keys {
    fn listen() -> io::Result<Arc<Self>> {
        let keys = Arc::new(Self::default());
        let told = keys.clone();
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            loop {
                match event::read() {
                    Ok(Typed::Key(key)) => {
                        let control = key.modifiers.contains(KeyModifiers::CONTROL);
                        let ends = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
                        if ends || (control && key.code == KeyCode::Char('c')) {
                            break;
                        }
                    }
                    Ok(Typed::Resize(..)) => told.redraw.store(true, Ordering::Relaxed),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            told.end.store(true, Ordering::Relaxed);
        })?;
        Ok(keys)
    }
}

/// Cuts a line to a width, with a mark.
fn cut(line: &mut String, width: usize) {
    if let Some((at, _)) = line.char_indices().nth(width) {
        let keep = line[..at].char_indices().next_back().map_or(0, |(at, _)| at);
        line.truncate(keep);
        line.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_defs::event::{Exit, NO_ADDRESS, Stamp};
    use hv_defs::exit::{ExitReason, InterruptionInfo};

    fn exit(vcpu: u16, level: u8, reason: Reason, handled_by: Actor) -> Event {
        let reason = ExitReason::of(reason);
        let intr_info = InterruptionInfo::from(0);
        let exit = Exit {
            level,
            reason,
            qualification: 0,
            rip: 0,
            length: 0,
            gpa: 0,
            gla: 0,
            intr_info,
            vmcs12: NO_ADDRESS,
            handled_by,
        };
        Event { at: Stamp { instruction: 0, vcpu, pcpu: 1 }, what: What::Exit(exit) }
    }

    #[test]
    fn an_interval() {
        let mut seen = Seen::default();
        let mut events = vec![exit(0, 1, Reason::HLT, Actor::L0); 3];
        events.push(exit(64, 2, Reason::CPUID, Actor::L1));
        seen.take(&events);
        let machine = Machine { process: 7, name: "a-long-name-of-a-guest".into(), vmm: "qemu".into(), first: 64 };
        let machines = [machine];
        let want = "
guest             CPU level   exits/s    L2's/s   to L1/s  inject/s  most of all
vCPU 0              1    L1         6         0         0         0  HLT 100%
a-long-name-of-…    1    L2         2         2         2         0  CPUID 100%

exits by reason              level   exits/s   share         in all
HLT                             L1         6   75.0%              3  ███████████████
CPUID                           L2         2   25.0%              1  █████";
        assert_eq!(format!("\n{}", seen.lines(0.5, &machines, 200, 100).join("\n")), want);
        seen.next();
        let lines = seen.lines(0.5, &machines, 40, 100);
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:#?}");
        assert!(lines[0].ends_with('…'), "{lines:#?}");
        assert_eq!(seen.lines(0.5, &machines, 80, 3).len(), 3);
    }
}
