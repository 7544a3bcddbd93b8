//! What this process tells in its log: messages of `tracing`, as a level and a line for whoever writes
//! them.

use std::fmt::Write as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Hands messages of this crate and of the program's own to a writer.
struct Teller<W> {
    level: Level,
    program: &'static str,
    write: W,
}

/// Tells messages up to `level` to `write`, as the names of levels that engines know (`error`,
/// `warning`, `info`, `debug`) and their text. `program` is the name of the program's own crate; those of
/// others keep their messages to themselves. Once a process.
pub fn tell_messages<W>(level: Level, program: &'static str, write: W)
where
    W: Fn(&str, &str) + Send + Sync + 'static,
{
    // It fails only if it is called twice, which changes nothing.
    drop(tracing::subscriber::set_global_default(Teller { level, program, write }));
}

impl<W: Fn(&str, &str) + Send + Sync + 'static> Subscriber for Teller<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = [env!("CARGO_CRATE_NAME"), self.program];
        *metadata.level() <= self.level
            && ours.iter().any(|name| metadata.target().starts_with(name))
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut message = Message::default();
        event.record(&mut message);
        (self.write)(level, &message.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
