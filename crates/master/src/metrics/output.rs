//! Output of tasks on its way into the database.

use super::registrar::{Counter, Gauge, Registrar};

#[derive(Debug, Clone)]
pub struct OutputMetrics {
    received_bytes: Counter,
    received_chunks: Counter,
    stored_bytes: Counter,
    stored_chunks: Counter,
    unstored_bytes: Gauge,
    kept_bytes: Gauge,
}

impl OutputMetrics {
    pub fn register(registrar: &mut Registrar) -> OutputMetrics {
        OutputMetrics {
            received_bytes: registrar
                .counter("gaffer_output_received_bytes_total", "Output that arrived from workers, without repeats"),
            received_chunks: registrar
                .counter("gaffer_output_received_chunks_total", "Chunks in which that output arrived"),
            stored_bytes: registrar
                .counter("gaffer_output_stored_bytes_total", "Output that is stored and acknowledged"),
            stored_chunks: registrar
                .counter("gaffer_output_stored_chunks_total", "Chunks that are stored and acknowledged"),
            unstored_bytes: registrar.gauge(
                "gaffer_output_unstored_bytes",
                "Output of connected workers that arrived and is not stored yet; workers wait at 64 MiB for all",
            ),
            kept_bytes: registrar
                .gauge("gaffer_output_kept_bytes", "Stored output that is kept in memory for viewers, compressed"),
        }
    }

    pub fn received(&self, bytes: u32) {
        self.received_bytes.inc_by(bytes.into());
        self.received_chunks.inc();
    }

    pub fn stored(&self, bytes: u32) {
        self.stored_bytes.inc_by(bytes.into());
        self.stored_chunks.inc();
    }

    /// Shows how much of it is in memory.
    pub fn in_memory(&self, unstored_bytes: u64, kept_bytes: usize) {
        self.unstored_bytes.set(i64::try_from(unstored_bytes).unwrap_or(i64::MAX));
        self.kept_bytes.set(i64::try_from(kept_bytes).unwrap_or(i64::MAX));
    }
}
