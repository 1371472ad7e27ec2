//! Registers metrics: name, meaning and labels of each are said once, in the call that makes it.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::extract::MatchedPath;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::{counter, family, gauge, histogram, info};
use prometheus_client::registry::{Metric, Registry, Unit};

pub type Counter = counter::Counter<u64, AtomicU64>;
/// A counter of seconds.
pub type SecondsCounter = counter::Counter<f64, AtomicU64>;
pub type Gauge = gauge::Gauge<i64, AtomicI64>;
/// A gauge of seconds or processors.
pub type FloatGauge = gauge::Gauge<f64, AtomicU64>;
pub type Histogram = histogram::Histogram;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    /// Which values there are, in words.
    pub values: &'static str,
}

impl Label {
    pub const fn new(name: &'static str, values: &'static str) -> Label {
        Label { name, values }
    }
}

/// What the documentation says of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// As in a query; histograms have `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: Vec<Label>,
    /// One sentence without a full stop.
    pub help: &'static str,
}

/// The value of a label: a word of the program, or the template of a route. None can be made of a number, a name or any
/// other text, so a metric has a bounded number of series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word(Cow<'static, str>);

impl From<&'static str> for Word {
    fn from(word: &'static str) -> Word {
        Word(Cow::Borrowed(word))
    }
}

impl From<&MatchedPath> for Word {
    fn from(route: &MatchedPath) -> Word {
        Word(Cow::Owned(route.as_str().to_owned()))
    }
}

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

type Labels<const N: usize> = [(&'static str, Word); N];

/// One metric for each combination of its labels' values.
#[derive(Debug, Clone)]
pub struct Family<M, const N: usize, C = fn() -> M> {
    names: [&'static str; N],
    inner: family::Family<Labels<N>, M, C>,
}

impl<M: Clone, const N: usize, C: MetricConstructor<M>> Family<M, N, C> {
    /// The metric with these values, in the order of the labels.
    pub fn of(&self, values: [impl Into<Word>; N]) -> M {
        let values: [Word; N] = values.map(Into::into);
        let mut values = values.into_iter();
        let labels = self.names.map(|name| (name, values.next().unwrap_or(Word(Cow::Borrowed("")))));
        self.inner.get_or_create_owned(&labels)
    }
}

/// Upper bounds of the buckets of a histogram.
#[derive(Debug, Clone, Copy)]
pub struct Buckets(pub &'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

pub type Histograms<const N: usize> = Family<Histogram, N, Buckets>;

/// Collects the metrics of all parts of a master.
#[derive(Debug, Default)]
pub struct Registrar {
    registry: Registry,
    definitions: Vec<Definition>,
}

impl Registrar {
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.register(Kind::Counter, name, &[], help, Counter::default())
    }

    pub fn seconds_counter(&mut self, name: &'static str, help: &'static str) -> SecondsCounter {
        self.register(Kind::Counter, name, &[], help, SecondsCounter::default())
    }

    pub fn counters<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [Label; N],
        help: &'static str,
    ) -> Family<Counter, N> {
        self.family(Kind::Counter, name, labels, help, Counter::default as fn() -> Counter)
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.register(Kind::Gauge, name, &[], help, Gauge::default())
    }

    pub fn float_gauge(&mut self, name: &'static str, help: &'static str) -> FloatGauge {
        self.register(Kind::Gauge, name, &[], help, FloatGauge::default())
    }

    pub fn gauges<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [Label; N],
        help: &'static str,
    ) -> Family<Gauge, N> {
        self.family(Kind::Gauge, name, labels, help, Gauge::default as fn() -> Gauge)
    }

    pub fn float_gauges<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [Label; N],
        help: &'static str,
    ) -> Family<FloatGauge, N> {
        self.family(Kind::Gauge, name, labels, help, FloatGauge::default as fn() -> FloatGauge)
    }

    pub fn histogram(&mut self, name: &'static str, buckets: Buckets, help: &'static str) -> Histogram {
        self.register(Kind::Histogram, name, &[], help, buckets.new_metric())
    }

    pub fn histograms<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [Label; N],
        buckets: Buckets,
        help: &'static str,
    ) -> Histograms<N> {
        self.family(Kind::Histogram, name, labels, help, buckets)
    }

    /// A metric that is always 1; its labels say something that does not change.
    pub fn info<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [(Label, &'static str); N],
        help: &'static str,
    ) {
        let values = labels.map(|(label, value)| (label.name, Word::from(value)));
        let labels = labels.map(|(label, _)| label);
        self.note(Kind::Info, name, &labels, help, info::Info::new(values));
    }

    /// The registered metrics, and what there is to say of each.
    pub fn finish(self) -> (Registry, Vec<Definition>) {
        (self.registry, self.definitions)
    }

    fn family<M, C, const N: usize>(
        &mut self,
        kind: Kind,
        name: &'static str,
        labels: [Label; N],
        help: &'static str,
        constructor: C,
    ) -> Family<M, N, C>
    where
        M: Clone,
        C: MetricConstructor<M> + Clone,
        family::Family<Labels<N>, M, C>: Metric,
    {
        let inner = family::Family::new_with_constructor(constructor);
        let inner = self.register(kind, name, &labels, help, inner);
        Family { names: labels.map(|label| label.name), inner }
    }

    fn register<M: Metric + Clone>(
        &mut self,
        kind: Kind,
        name: &'static str,
        labels: &[Label],
        help: &'static str,
        metric: M,
    ) -> M {
        self.note(kind, name, labels, help, metric.clone());
        metric
    }

    fn note(
        &mut self,
        kind: Kind,
        name: &'static str,
        labels: &[Label],
        help: &'static str,
        metric: impl Metric,
    ) {
        let (stem, unit) = parts_of(kind, name);
        match unit {
            Some(unit) => self.registry.register_with_unit(stem, help, unit, metric),
            None => self.registry.register(stem, help, metric),
        }
        self.definitions.push(Definition { name, kind, labels: labels.to_vec(), help });
    }
}

/// The name without what the format appends to it, and its unit.
fn parts_of(kind: Kind, name: &'static str) -> (&'static str, Option<Unit>) {
    let stem = match kind {
        Kind::Counter => name.strip_suffix("_total"),
        Kind::Info => name.strip_suffix("_info"),
        Kind::Gauge | Kind::Histogram => None,
    };
    let stem = stem.unwrap_or(name);
    if let Some(stem) = stem.strip_suffix("_seconds") {
        return (stem, Some(Unit::Seconds));
    }
    match stem.strip_suffix("_bytes") {
        Some(stem) => (stem, Some(Unit::Bytes)),
        None => (stem, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_and_the_suffix_are_parts_of_the_name() {
        let parts = |kind, name| {
            let (stem, unit) = parts_of(kind, name);
            (stem, unit.map(|unit| unit.as_str().to_owned()).unwrap_or_default())
        };
        assert_eq!(parts(Kind::Counter, "gaffer_output_bytes_total"), ("gaffer_output", "bytes".to_owned()));
        assert_eq!(parts(Kind::Histogram, "gaffer_wait_seconds"), ("gaffer_wait", "seconds".to_owned()));
        assert_eq!(parts(Kind::Gauge, "gaffer_tasks"), ("gaffer_tasks", String::new()));
        assert_eq!(parts(Kind::Info, "gaffer_build_info"), ("gaffer_build", String::new()));
    }
}
