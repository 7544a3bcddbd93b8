//! When what happened, and its file in Chrome's trace format (chrome://tracing, Perfetto).

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use vmm_api::Span;

/// Phases of a run in order. Each ends where the next begins; together they are the whole.
const PHASES: [&str; 9] = [
    "launcher",
    "vmm up",
    "kernel boot",
    "agent ready",
    "container created",
    "container started",
    "container ran",
    "exit reported",
    "teardown",
];

/// The moments at which phases end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The VMM has been asked to boot.
    BootAsked = 0,
    /// The virtual CPUs run.
    VmmUp = 1,
    /// The agent's first instruction.
    AgentStarted = 2,
    /// The agent has been configured.
    AgentReady = 3,
    /// The container stands.
    Created = 4,
    /// The program was executed.
    Started = 5,
    /// The program has ended.
    Exited = 6,
    /// The end was reported and all output is written.
    Reported = 7,
    /// Everything is gone.
    Gone = 8,
}

/// Moments that are known from the guest's clock only.
const GUEST_SAYS: [Moment; 4] =
    [Moment::AgentStarted, Moment::Created, Moment::Started, Moment::Exited];

/// Moments of one run, in nanoseconds of the host's CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    began: u64,
    ends: [Option<u64>; PHASES.len()],
    vmm: Vec<Span>,
    /// Guest's CLOCK_BOOTTIME and the host's clock at the same moment, nearly.
    anchor: Option<(u64, u64)>,
}

/// The host's CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl Timeline {
    /// A timeline that began at this moment.
    pub(crate) fn new(began: u64) -> Self {
        Self { began, ends: [None; PHASES.len()], vmm: Vec::new(), anchor: None }
    }

    /// Sets a moment to now.
    pub(crate) fn mark(&mut self, moment: Moment) {
        self.mark_at(moment, now_ns());
    }

    fn mark_at(&mut self, moment: Moment, at: u64) {
        if let Some(end) = self.ends.get_mut(moment as usize) {
            *end = Some(at);
        }
    }

    /// What the VMM says about its own start.
    pub(crate) fn vmm(&mut self, spans: Vec<Span>) {
        let up = spans.iter().map(|span| span.start_ns.saturating_add(span.duration_ns)).max();
        self.mark_at(Moment::VmmUp, up.unwrap_or_else(now_ns).min(now_ns()));
        self.vmm = spans;
    }

    /// A message that the guest made at `guest_ns` of its clock has just come.
    pub(crate) fn anchor(&mut self, guest_ns: u64) {
        self.anchor = Some((guest_ns, now_ns()));
    }

    /// Sets a moment that the guest has read from its clock.
    pub(crate) fn mark_guest(&mut self, moment: Moment, guest_ns: u64) {
        if let Some((guest, host)) = self.anchor {
            let at = host.saturating_add(guest_ns).saturating_sub(guest);
            self.mark_at(moment, at);
        }
    }

    /// Phases with begin and duration. A guest cannot make them overlap or run backwards: each
    /// begins where the one before ended. What did not happen is left out.
    fn phases(&self) -> Vec<(&'static str, u64, u64)> {
        let mut phases = Vec::new();
        let mut begin = self.began;
        for (index, name) in PHASES.iter().enumerate() {
            let Some(end) = self.ends.get(index).copied().flatten() else { continue };
            let end = end.min(self.next_seen(index).unwrap_or(end)).max(begin);
            phases.push((*name, begin, end - begin));
            begin = end;
        }
        phases
    }

    /// The next moment from this one on that the host has seen itself.
    fn next_seen(&self, index: usize) -> Option<u64> {
        let seen = |at: &usize| !GUEST_SAYS.iter().any(|moment| *moment as usize == *at);
        (index..PHASES.len()).filter(seen).find_map(|at| self.ends.get(at).copied().flatten())
    }

    /// Writes the trace.
    ///
    /// # Errors
    /// Those of writing a file.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, serde_json::to_vec(&self.trace())?)
    }

    fn trace(&self) -> Value {
        let mut events = vec![
            json!({ "name": "process_name", "ph": "M", "pid": 1, "args": { "name": "ringfence run" } }),
            row_name(1, "phases"),
            row_name(2, "ringfence-vmm"),
        ];
        for (name, begin, duration) in self.phases() {
            events.push(event(name, 1, begin, duration));
        }
        for span in &self.vmm {
            events.push(event(&span.name, 2, span.start_ns, span.duration_ns));
        }
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

fn row_name(row: u32, name: &str) -> Value {
    json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": { "name": name } })
}

fn event(name: &str, row: u32, begin_ns: u64, duration_ns: u64) -> Value {
    json!({
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": row,
        "ts": microseconds(begin_ns),
        "dur": microseconds(duration_ns),
    })
}

/// Chrome's unit. Exact to the nanosecond for 104 days of uptime (2^53 ns).
#[expect(clippy::cast_precision_loss, reason = "a trace is for reading, and 2^53 ns are 104 days")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_to_the_whole_whatever_the_guest_says() {
        let mut timeline = Timeline::new(100);
        timeline.mark_at(Moment::BootAsked, 200);
        timeline.mark_at(Moment::VmmUp, 300);
        timeline.anchor = Some((1_000, 500));
        timeline.mark_guest(Moment::AgentStarted, 950);
        timeline.mark_at(Moment::AgentReady, 520);
        timeline.mark_guest(Moment::Created, u64::MAX);
        timeline.mark_guest(Moment::Started, 0);
        timeline.mark_guest(Moment::Exited, 1_100);
        timeline.mark_at(Moment::Reported, 700);
        timeline.mark_at(Moment::Gone, 900);
        let phases = timeline.phases();
        assert_eq!(phases.len(), PHASES.len());
        assert_eq!(phases[2], ("kernel boot", 300, 150));
        let total: u64 = phases.iter().map(|(_, _, duration)| duration).sum();
        assert_eq!(total, 800);
        let mut end = 100;
        for (name, begin, duration) in phases {
            assert_eq!(begin, end, "{name}");
            end = begin + duration;
        }
    }

    #[test]
    fn a_run_that_failed_has_the_phases_that_happened() {
        let mut timeline = Timeline::new(5);
        timeline.mark_at(Moment::BootAsked, 7);
        timeline.mark_at(Moment::Gone, 9);
        assert_eq!(timeline.phases(), [("launcher", 5, 2), ("teardown", 7, 2)]);
    }

    #[test]
    fn the_trace_has_chromes_form() {
        let mut timeline = Timeline::new(1_000);
        timeline.mark_at(Moment::BootAsked, 2_500);
        timeline.vmm(vec![Span { name: "map memory".into(), start_ns: 2_600, duration_ns: 50 }]);
        let trace = timeline.trace();
        let events = trace["traceEvents"].as_array().unwrap();
        let launcher = events.iter().find(|event| event["name"] == "launcher").unwrap();
        assert_eq!((&launcher["ts"], &launcher["dur"]), (&json!(1.0), &json!(1.5)));
        assert!(events.iter().any(|event| event["name"] == "map memory" && event["tid"] == 2));
    }
}
