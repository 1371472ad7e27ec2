//! Connections, requests and viewers.

use std::time::Duration;

use super::registrar::{Buckets, Counter, Family, Gauge, Histograms, Label, Registrar, Word};

const PORT: Label = Label::new("port", "`dashboard`, `api` or `workers`");
const METHOD: Label = Label::new("method", "`GET`, `POST`, `DELETE`, `HEAD` or `other`");
const ROUTE: Label =
    Label::new("route", "the route's template, such as `/api/v1/jobs/{job}`; `none` without one");
const STATUS: Label = Label::new("status", "`1xx` to `5xx`");
const CLIENT: Label = Label::new("client", "`known` after a valid key or session, else `unknown`");
const WHY: Label = Label::new("why", "`full` or `replaced`");

const REQUEST_SECONDS: Buckets =
    Buckets(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]);

#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<Counter, 4>,
    seconds: Histograms<2>,
    in_progress: Family<Gauge, 1>,
    connections: Family<Gauge, 2>,
    refused: Family<Counter, 2>,
    pub viewers: ViewerMetrics,
}

/// Those of one port.
#[derive(Debug, Clone)]
pub struct PortMetrics {
    /// Requests.
    pub in_progress: Gauge,
    known: Gauge,
    unknown: Gauge,
    full: Counter,
    replaced: Counter,
}

/// Open pages that change by themselves.
#[derive(Debug, Clone)]
pub struct ViewerMetrics {
    pub feeds: Gauge,
    pub viewers: Gauge,
}

impl HttpMetrics {
    pub fn register(registrar: &mut Registrar) -> HttpMetrics {
        HttpMetrics {
            requests: registrar.counters(
                "gaffer_http_requests_total",
                [PORT, METHOD, ROUTE, STATUS],
                "Requests that were answered",
            ),
            seconds: registrar.histograms(
                "gaffer_http_request_duration_seconds",
                [PORT, ROUTE],
                REQUEST_SECONDS,
                "Time until an answer began; a request with `wait=` is answered late on purpose",
            ),
            in_progress: registrar.gauges(
                "gaffer_http_requests_in_progress",
                [PORT],
                "Requests whose answer is not finished, such as open streams",
            ),
            connections: registrar.gauges(
                "gaffer_http_connections",
                [PORT, CLIENT],
                "Open connections, also those of workers",
            ),
            refused: registrar.counters(
                "gaffer_http_connections_refused_total",
                [PORT, WHY],
                "Connections that were not accepted or had to make room, because the port was full",
            ),
            viewers: ViewerMetrics {
                feeds: registrar.gauge(
                    "gaffer_page_feeds",
                    "Subjects of open pages (a job, the queue, …) that are read again and again",
                ),
                viewers: registrar.gauge("gaffer_page_viewers", "Browsers that follow these"),
            },
        }
    }

    pub fn port(&self, port: &'static str) -> PortMetrics {
        PortMetrics {
            in_progress: self.in_progress.of([port]),
            known: self.connections.of([port, "known"]),
            unknown: self.connections.of([port, "unknown"]),
            full: self.refused.of([port, "full"]),
            replaced: self.refused.of([port, "replaced"]),
        }
    }

    /// A request was answered. `route`: none if no route is like it.
    pub fn answered(
        &self,
        port: &'static str,
        method: &str,
        route: Option<Word>,
        status: u16,
        took: Duration,
    ) {
        let route = route.unwrap_or("none".into());
        self.seconds.of([port.into(), route.clone()]).observe(took.as_secs_f64());
        self.requests.of([port.into(), method_word(method).into(), route, status_class(status).into()]).inc();
    }
}

impl PortMetrics {
    /// Shows the connections: all, and those of clients that are known.
    pub fn connected(&self, all: usize, known: usize) {
        self.known.set(i64::try_from(known).unwrap_or(i64::MAX));
        self.unknown.set(i64::try_from(all.saturating_sub(known)).unwrap_or(i64::MAX));
    }

    /// A connection was refused because the port was full.
    pub fn refused(&self) {
        self.full.inc();
    }

    /// Silent connections were closed to make room.
    pub fn replaced(&self, connections: u64) {
        self.replaced.inc_by(connections);
    }
}

/// One more of something, until it is dropped.
#[derive(Debug)]
pub struct OneMore(Gauge);

impl OneMore {
    pub fn of(gauge: &Gauge) -> OneMore {
        gauge.inc();
        OneMore(gauge.clone())
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn method_word(method: &str) -> &'static str {
    ["GET", "POST", "DELETE", "HEAD"].into_iter().find(|known| *known == method).unwrap_or("other")
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
