//! The timeline of a start: what the VMM did, when and for how long.

use rustix::time::{ClockId, clock_gettime};
use vmm_api::Span;

/// Nanoseconds of CLOCK_MONOTONIC, the clock of all spans.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}

/// Steps, each of which ends when the next begins.
#[derive(Debug)]
pub struct Timeline {
    spans: Vec<Span>,
    step_began: u64,
}

impl Timeline {
    /// A timeline whose first step began at `start_ns`.
    #[must_use]
    pub fn starting_at(start_ns: u64) -> Self {
        Self { spans: Vec::with_capacity(16), step_began: start_ns }
    }

    /// Ends the current step, which was `name`, and begins the next.
    pub fn step(&mut self, name: &str) {
        let now = now_ns();
        self.span(name, self.step_began, now);
        self.step_began = now;
    }

    /// Adds a span that was timed elsewhere.
    pub fn span(&mut self, name: &str, start_ns: u64, end_ns: u64) {
        let duration_ns = end_ns.saturating_sub(start_ns);
        self.spans.push(Span { name: name.to_owned(), start_ns, duration_ns });
    }

    /// All spans.
    #[must_use]
    pub fn into_spans(self) -> Vec<Span> {
        self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_without_gaps() {
        let start = now_ns();
        let mut timeline = Timeline::starting_at(start);
        timeline.step("first");
        timeline.step("second");
        let spans = timeline.into_spans();
        assert_eq!((spans[0].name.as_str(), spans[0].start_ns), ("first", start));
        assert_eq!(spans[0].start_ns + spans[0].duration_ns, spans[1].start_ns);
    }
}
