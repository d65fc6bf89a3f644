//! A line of text about one tracepoint, as `trace-cmd report` and `perf script` print it.
//!
//! Both give task, CPU, time, event, and then the event's own words: ` qemu-123 [001] 5.000017: kvm_exit: ...` and
//! ` qemu 123 [001] 5.000017: kvm:kvm_exit: ...`. Raw words are `name=value`, printed ones `name value` or `name: value`.

use hv_defs::config::Clock;

/// A line, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line<'a> {
    /// The thread's id.
    pub(super) thread: u32,
    /// Its process's, where the line says so.
    pub(super) process: Option<u32>,
    /// The physical CPU.
    pub(super) cpu: u16,
    /// The time, in what `clock` counts.
    pub(super) time: u64,
    /// Nanoseconds where the time has a point, else ticks.
    pub(super) clock: Clock,
    /// The event's name, without its system.
    pub(super) event: &'a str,
    /// What it says of itself.
    pub(super) words: &'a str,
}

impl<'a> Line<'a> {
    /// The line's parts; `None` where it is of another kind, as headings are.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        // The task's name may hold anything, so that the first `[` with a number, a time and a name behind it counts.
        line.match_indices('[').find_map(|(at, _)| Self::parse_at(line, at))
    }

    fn parse_at(line: &'a str, at: usize) -> Option<Self> {
        let (cpu, rest) = line[at + 1..].split_once(']')?;
        let cpu = cpu.parse().ok()?;
        let task = line[..at].trim_ascii_end();
        let (task, thread) = last_number(task);
        let thread = thread.parse().ok()?;
        // `qemu 100/123`, as perf prints both.
        let process = task.strip_suffix('/').and_then(|task| last_number(task).1.parse().ok());
        let mut rest = rest.trim_ascii_start();
        // trace-cmd's flags of latency, as `d..2.`, may stand before the time.
        let (mut stamp, mut after) = rest.split_once(char::is_whitespace)?;
        if !stamp.ends_with(':') {
            rest = after.trim_ascii_start();
            (stamp, after) = rest.split_once(char::is_whitespace)?;
        }
        let (time, clock) = time(stamp.strip_suffix(':')?)?;
        let (name, words) = after.trim_ascii_start().split_once(':')?;
        let (name, words) = match words.split_once(':') {
            // `kvm:kvm_exit: ...`
            Some((event, words)) if !event.is_empty() && !event.contains(char::is_whitespace) && is_name(event) => {
                (event, words)
            }
            _ => (name, words),
        };
        is_name(name).then_some(Self { thread, process, cpu, time, clock, event: name, words: words.trim_ascii() })
    }

    /// The number behind a word, as in `rip 0x10`, `rip: 0x10` and `rip=0x10`.
    pub(super) fn number(&self, word: &str) -> Option<u64> {
        number(self.word(word)?)
    }

    /// As [`Line::number`], for what is in hexadecimal whether it says so or not: old kernels print addresses and words of
    /// information without `0x`.
    pub(super) fn hex(&self, word: &str) -> Option<u64> {
        let text = self.word(word)?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    }

    /// What follows a word.
    pub(super) fn word(&self, word: &str) -> Option<&'a str> {
        let mut parts = self.words.split([' ', ',', '\t']).filter(|part| !part.is_empty());
        while let Some(part) = parts.next() {
            match part.split_once('=') {
                Some((name, value)) if name == word => return Some(value),
                None if part.strip_suffix(':').unwrap_or(part) == word => return parts.next(),
                _ => {}
            }
        }
        None
    }
}

/// A text without the digits at its end, and these. The character before them may be any, of several bytes too.
fn last_number(text: &str) -> (&str, &str) {
    text.split_at(text.trim_end_matches(|of: char| of.is_ascii_digit()).len())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|of| of.is_ascii_alphanumeric() || of == b'_')
}

/// A number with `0x` in hexadecimal, else in decimal.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Seconds with a fraction as nanoseconds, or ticks as they are.
fn time(text: &str) -> Option<(u64, Clock)> {
    let Some((seconds, fraction)) = text.split_once('.') else { return Some((text.parse().ok()?, Clock::Ticks)) };
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|of| of.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.parse::<u64>().ok()? * 10_u64.pow(9 - fraction.len() as u32);
    Some((seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)?, Clock::Nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, parts: Option<(u32, u16, u64, &str, &str)>) {
        let found = Line::parse(line).map(|line| (line.thread, line.cpu, line.time, line.event, line.words));
        assert_eq!(found, parts, "{line}");
    }

    #[test]
    fn lines_of_both_tools() {
        check("cpus=2", None);
        check("", None);
        check("CPU:1 [12 EVENTS DROPPED]", None);
        let exit = Some((123, 1, 5_000_017_000, "kvm_exit", "reason HLT rip 0x10"));
        check("  qemu-123   [001]     5.000017: kvm_exit:   reason HLT rip 0x10", exit);
        check("  qemu-123   [001] d..2.    5.000017: kvm_exit:   reason HLT rip 0x10", exit);
        check("  CPU 0/KVM   123 [001]     5.000017000:  kvm:kvm_exit: reason HLT rip 0x10", exit);
        check("  CPU 0/KVM  1/123 [001]     5.000017000:  kvm:kvm_exit: reason HLT rip 0x10", exit);
        check("  a [7] b-123 [001] 5.000017: kvm_exit: reason HLT rip 0x10", exit);
        check("\u{fffd}1 [0] 77: kvm_fpu: load", Some((1, 0, 77, "kvm_fpu", "load")));
        check(" a-1 [0] 77: kvm_fpu: load", Some((1, 0, 77, "kvm_fpu", "load")));
        check(" a-1 [0] 99999999999999999999.5: kvm_fpu: load", None);
        check(" a-1 [70000] 5.0: kvm_fpu: load", None);
    }

    #[test]
    fn words_of_both_forms() {
        let line = Line::parse(" a-1 [0] 5.5: e: vcpu 3 reason=0x1e rip: 0x20, n=7").expect("a line");
        let number = |word| line.number(word);
        assert_eq!(
            [number("vcpu"), number("reason"), number("rip"), number("n")],
            [Some(3), Some(30), Some(32), Some(7)]
        );
        assert_eq!(number("0x20"), None);
        assert_eq!(number("x"), None);
    }
}
