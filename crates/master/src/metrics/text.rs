//! The two text formats of metrics: OpenMetrics, and the older one of Prometheus. Pure.

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// The media type, as the answer names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that an `Accept` header asks for. OpenMetrics unless only text is wanted, as by a browser.
    pub fn wanted(accept: Option<&str>) -> Format {
        let accept = accept.unwrap_or_default();
        let is_text = accept.contains("text/plain") || accept.contains("text/html");
        match is_text && !accept.contains("application/openmetrics-text") {
            true => Format::Prometheus,
            false => Format::OpenMetrics,
        }
    }
}

/// The older format of the same samples. There the name of a counter has its `_total` in the metadata, too, an info metric
/// is a gauge, and units and the end are not marked.
pub fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_from_what_is_accepted() {
        let prometheus_server =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (None, Format::OpenMetrics),
            (Some("*/*"), Format::OpenMetrics),
            (Some(prometheus_server), Format::OpenMetrics),
            (Some("text/plain;version=0.0.4"), Format::Prometheus),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Format::Prometheus),
        ] {
            assert_eq!(Format::wanted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn the_older_format_has_the_same_samples_under_metadata_of_its_kind() {
        let open_metrics = "# HELP a_bytes Of a.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"y\"} 3\n\
             # HELP b About b.\n# TYPE b info\nb_info{version=\"1\"} 1\n\
             # HELP c_seconds Of c.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\n\
             c_seconds_sum 0.5\nc_seconds_count 1\nc_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let prometheus = "# HELP a_bytes_total Of a.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"y\"} 3\n\
             # HELP b_info About b.\n# TYPE b_info gauge\nb_info{version=\"1\"} 1\n\
             # HELP c_seconds Of c.\n# TYPE c_seconds histogram\n\
             c_seconds_sum 0.5\nc_seconds_count 1\nc_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(to_prometheus(open_metrics), prometheus);
    }
}
