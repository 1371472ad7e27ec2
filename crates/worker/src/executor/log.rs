//! Forwards the executor's log to the agent.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::frame::LogLine;

/// Lines that wait for an agent; more are dropped.
const MAX_WAITING: usize = 1_000;

/// Collects what this process logs at `level` or above. There are no spans.
struct Collector {
    level: LevelFilter,
    lines: mpsc::Sender<LogLine>,
    dropped: Arc<AtomicU64>,
}

/// Sends what this process logs from now on there. To be called once.
pub(super) fn collect(level: &str) -> mpsc::Receiver<LogLine> {
    let (lines, collected) = mpsc::channel(MAX_WAITING);
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    let collector = Collector { level, lines, dropped: Arc::default() };
    // Fails if a logger is installed already; then that one stays.
    let _ = tracing::subscriber::set_global_default(collector);
    collected
}

/// Logs in this process what the executor logged.
pub(super) fn repeat(line: &LogLine) {
    let text = &line.text;
    match line.level.parse() {
        Ok(Level::ERROR) => tracing::error!("{text}"),
        Ok(Level::WARN) => tracing::warn!("{text}"),
        Ok(Level::DEBUG) => tracing::debug!("{text}"),
        Ok(Level::TRACE) => tracing::trace!("{text}"),
        _ => tracing::info!("{text}"),
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
            // Libraries log warnings only.
            && (metadata.target().starts_with("gaffer") || *metadata.level() <= Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = write!(text.message, " ({dropped} lines before this one were dropped)");
        }
        let line = LogLine { level: event.metadata().level().to_string(), text: text.message + &text.fields };
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A line as others write it too: the message, then each field with its name.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
