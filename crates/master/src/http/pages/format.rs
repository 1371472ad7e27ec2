//! Formats times, amounts and addresses for pages.

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
use gaffer_protocol::elapsed::{self, lasted};
use serde::Serialize;

use super::super::params::encoded;

/// A stretch of time in milliseconds since 1970; without an end it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Elapsed {
    /// Its beginning; none before that.
    pub from: Option<i64>,
    pub to: Option<i64>,
}

impl Elapsed {
    /// From one time to another.
    pub fn new(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Elapsed {
        Elapsed { from: from.map(|at| at.timestamp_millis()), to: to.map(|at| at.timestamp_millis()) }
    }

    /// A finished period with a measured duration, otherwise from start to end.
    pub fn measured(
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
        ran_seconds: Option<f64>,
    ) -> Elapsed {
        let stretch = Elapsed::new(from, to);
        match (stretch.from, stretch.to, ran_seconds) {
            (Some(from), Some(_), Some(ran)) => {
                Elapsed { to: Some(from + (ran * 1e3).round() as i64), ..stretch }
            }
            _ => stretch,
        }
    }

    /// How long it is, or how long it has been.
    pub fn text(&self, now: &i64) -> String {
        match (self.from, self.to) {
            (None, _) => "—".to_owned(),
            (Some(from), Some(to)) => lasted(to - from),
            // A running duration is shown in whole seconds.
            (Some(from), None) if *now - from < 10_000 => format!("{}s", (*now - from).max(0) / 1_000),
            (Some(from), None) => lasted(*now - from),
        }
    }
}

/// `09:41`, by UTC.
pub fn clock(millis: &i64) -> String {
    at(millis).format("%H:%M UTC").to_string()
}

/// `3m ago`, or `in 3m`.
pub fn ago(then: &i64, now: &i64) -> String {
    elapsed::ago(*then, *now)
}

fn at(millis: &i64) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(*millis).single().unwrap_or_default()
}

/// A time for programs.
pub fn rfc3339(millis: &i64) -> String {
    at(millis).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A time for people, to the second.
pub fn moment(millis: &i64) -> String {
    at(millis).format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1.5 GiB`: three digits that matter.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    let digits = if amount < 9.995 {
        2
    } else if amount < 99.95 {
        1
    } else {
        0
    };
    let text = format!("{amount:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {}", UNITS[unit])
}

/// A number of processors without needless digits.
pub fn cores(cores: f64) -> String {
    let text = format!("{cores:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1,234,567`
pub fn many(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 task`, `2 tasks`.
pub fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", many(number)),
    }
}

/// With a capital letter in front and a full stop behind.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let stop = if text.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    format!("{}{}{stop}", first.to_uppercase(), chars.as_str())
}

/// The page of a template.
pub fn template_page_of(name: &str) -> String {
    format!("/templates/{}", encoded(name))
}

/// An address with a query of these pairs; those without a value are left out.
pub fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut text = path.to_owned();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.len() == path.len() { '?' } else { '&' });
        text.push_str(&format!("{name}={}", encoded(value)));
    }
    text
}

/// The text, if it is an address on this site: a path, and nothing that a browser would read as another host.
pub fn local_path(text: &str) -> Option<&str> {
    let is_local = text.starts_with('/')
        && !text.starts_with("//")
        && !text.contains('\\')
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_local.then_some(text)
}

/// A word that a shell reads as it is.
pub fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-./:=@%+,".contains(char);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_counted_in_whole_seconds() {
        assert_eq!(Elapsed { from: Some(0), to: None }.text(&3_900), "3s");
        assert_eq!(Elapsed { from: Some(0), to: Some(3_900) }.text(&9_000), "3.9s");
        assert_eq!(Elapsed::default().text(&3_900), "—");
    }

    #[test]
    fn amounts_have_three_digits_that_matter() {
        let cases = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1 KiB"),
            (1_536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (7_999 << 20, "7.81 GiB"),
            (1_023 << 30, "1 TiB"),
        ];
        for (amount, text) in cases {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!((many(999), many(1_234_567)), ("999".to_owned(), "1,234,567".to_owned()));
    }

    #[test]
    fn only_paths_of_this_site_are_gone_to() {
        for good in ["/", "/jobs?state=failed&name=%2F%2Fx", "/jobs/42#L5"] {
            assert_eq!(local_path(good), Some(good));
        }
        for bad in [
            "",
            "jobs",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a b",
            "/\t/x",
            "/\u{e4}",
        ] {
            assert_eq!(local_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_keep_their_values_apart() {
        assert_eq!(
            address("/jobs", &[("name", "a&b=c"), ("label", ""), ("x", "ä")]),
            "/jobs?name=a%26b%3Dc&x=%C3%A4"
        );
        assert_eq!(
            (quoted("a-b"), quoted("it's"), quoted("")),
            ("a-b".to_owned(), r"'it'\''s'".to_owned(), "''".to_owned())
        );
    }
}
