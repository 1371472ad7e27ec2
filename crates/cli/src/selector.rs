//! Parses job selectors of the command line: `42`, `last`, `1-20`.

use std::collections::HashSet;
use std::str::FromStr;

use gaffer_domain::JobId;
use gaffer_protocol::rest::{Job, Page};

use crate::client::{Client, Query};
use crate::failure::Failure;

/// The longest range; a longer one is probably a typing error.
const MAX_RANGE: i64 = 10_000;

/// One job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum One {
    /// By its number.
    Number(JobId),
    Last,
}

/// One job or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// One.
    One(One),
    /// All from the first to the second number, as far as they exist.
    Range(JobId, JobId),
}

/// A job that a selector means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub job: JobId,
    /// Whether it was named itself. One that is only part of a range need not exist.
    pub named: bool,
}

impl FromStr for One {
    type Err = String;

    fn from_str(text: &str) -> Result<One, String> {
        match text {
            "last" => Ok(One::Last),
            number => number
                .parse()
                .map(One::Number)
                .map_err(|_| "expected a job number such as 42, or `last`".to_owned()),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        let Some((first, last)) = text.split_once('-') else {
            return text.parse().map(Selector::One).map_err(|_| expected());
        };
        let first: JobId = first.parse().map_err(|_| expected())?;
        let last: JobId = last.parse().map_err(|_| expected())?;
        if first > last {
            return Err(format!("the range is reversed: write {last}-{first}"));
        }
        if last.0 - first.0 >= MAX_RANGE {
            return Err(format!("a range has at most {MAX_RANGE} jobs"));
        }
        Ok(Selector::Range(first, last))
    }
}

fn expected() -> String {
    "expected a job number such as 42, a range such as 1-20, or `last`".to_owned()
}

impl One {
    /// The number of a job; requests the latest for `last`.
    ///
    /// # Errors
    /// What the API or the network says; [`Failure::Usage`] if there is no job at all.
    pub async fn resolve(self, client: &Client) -> Result<JobId, Failure> {
        match self {
            One::Number(job) => Ok(job),
            One::Last => {
                let query: Query = vec![("limit", "1".to_owned())];
                let page: Page<Job> = client.read(&["jobs"], &query).await?;
                let latest = page.items.first().map(|job| job.id);
                latest.ok_or_else(|| Failure::Usage("no jobs yet".to_owned()))
            }
        }
    }
}

/// The jobs that are meant, each once, in the order of the command line.
///
/// # Errors
/// As [`One::resolve`].
pub async fn resolve(selectors: &[Selector], client: &Client) -> Result<Vec<Chosen>, Failure> {
    let mut chosen = Vec::new();
    let mut known = HashSet::new();
    for selector in selectors {
        let (first, last, named) = match selector {
            Selector::One(one) => {
                let job = one.resolve(client).await?;
                (job, job, true)
            }
            Selector::Range(first, last) => (*first, *last, false),
        };
        for number in first.0..=last.0 {
            let job = JobId(number);
            if known.insert(job) {
                chosen.push(Chosen { job, named });
            }
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_number_range_or_last() {
        let read = |text: &str| text.parse::<Selector>();
        assert_eq!(read("42"), Ok(Selector::One(One::Number(JobId(42)))));
        assert_eq!(read("last"), Ok(Selector::One(One::Last)));
        assert_eq!(read("1-20"), Ok(Selector::Range(JobId(1), JobId(20))));
        assert_eq!(read("7-7"), Ok(Selector::Range(JobId(7), JobId(7))));
        for text in
            ["", "0", "-1", "+1", "x", "1-", "-", "1-x", "20-1", "1-99999", "1-2-3", "9223372036854775808"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read("20-1"), Err("the range is reversed: write 1-20".to_owned()));
    }

    #[test]
    fn one_job_is_no_range() {
        assert_eq!("last".parse(), Ok(One::Last));
        assert!("1-2".parse::<One>().is_err());
    }
}
