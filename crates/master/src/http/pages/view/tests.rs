//! Tests of what browsers are sent of a page.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::render::{Line, Origin};
use crate::store::output::OutputHead;

#[derive(Serialize)]
struct Number {
    key: String,
    value: u32,
}

impl Row for Number {
    fn key(&self) -> &str {
        &self.key
    }
}

fn rows(values: &[(u32, u32)]) -> Vec<Number> {
    values.iter().map(|(key, value)| Number { key: key.to_string(), value: *value }).collect()
}

fn line() -> Line {
    Line { origin: Origin::Stdout, at_millis: 0, tokens: Vec::new() }
}

/// The events in some messages, each as its name and its data.
fn read(messages: Vec<Bytes>) -> Vec<(String, Value)> {
    let text: String = messages.iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect();
    text.split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            (name.strip_prefix("event: ").unwrap().to_owned(), data)
        })
        .collect()
}

fn after(before: &Version, view: View) -> Version {
    Version::next(Some(before), view).unwrap()
}

#[test]
fn a_new_browser_gets_all_and_one_that_was_there_gets_what_changed() {
    let first =
        Version::next(None, View::default().fields(&json!({"n": 1})).whole("a", &rows(&[(1, 1), (2, 2)])));
    let first = first.unwrap();
    let mut old = Browser::default();
    assert_eq!(read(old.catch_up(&first)).len(), 2);
    let second = after(&first, View::default().fields(&json!({"n": 1})).whole("a", &rows(&[(2, 3), (1, 1)])));
    let changed = json!({"list": "a", "rows": [{"key": "2", "value": 3}], "order": ["2", "1"]});
    assert_eq!(read(old.catch_up(&second)), [("rows".to_owned(), changed)]);
    assert!(old.catch_up(&second).is_empty());
    let all = read(Browser::default().catch_up(&second));
    assert_eq!(all[0], ("fields".to_owned(), json!({"n": 1})));
    assert_eq!(all[1].1["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn a_picture_is_sent_only_when_it_changes() {
    let view = |n: u32, picture: &str| View::default().fields(&json!({ "n": n })).picture(picture);
    let first = Version::next(None, view(1, "<svg>")).unwrap();
    let mut browser = Browser::default();
    let whole = [json!({"n": 1}), json!({"picture": "<svg>"})].map(|data| ("fields".to_owned(), data));
    assert_eq!(read(browser.catch_up(&first)), whole);
    let second = after(&first, view(2, "<svg>"));
    assert_eq!(read(browser.catch_up(&second)), [("fields".to_owned(), json!({"n": 2}))]);
    let third = after(&second, view(2, "<g>"));
    assert_eq!(read(browser.catch_up(&third)), [("fields".to_owned(), json!({"picture": "<g>"}))]);
}

#[test]
fn nothing_is_sent_where_nothing_changed() {
    let view = || View::default().fields(&json!({"n": 1})).some("a", &rows(&[(1, 1)]), true);
    let first = Version::next(None, view()).unwrap();
    assert!(Version::next(Some(&first), view()).is_none());
    // What a look leaves out stays as it was.
    assert!(Version::next(Some(&first), View::default()).is_none());
    assert!(Version::next(Some(&first), View::default().over(true)).is_some());
}

#[test]
fn a_browser_that_falls_far_behind_gets_all_anew() {
    let mut version =
        Version::next(None, View::default().some("a", &rows(&[(1, 0), (2, 0)]), false)).unwrap();
    let (mut near, mut far) = (Browser::default(), Browser::default());
    far.catch_up(&version);
    for value in 1..=20 {
        if value == 15 {
            near.catch_up(&version);
        }
        version = after(&version, View::default().some("a", &rows(&[(1, value), (2, 0)]), false));
    }
    assert_eq!(read(near.catch_up(&version)).len(), 6);
    let all = read(far.catch_up(&version));
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1["rows"].as_array().unwrap().len(), 2);
    assert_eq!(all[0].1["fresh"], json!(false));
}

#[test]
fn a_growing_list_goes_on_after_the_last_row_that_the_browser_has() {
    let first = Version::next(None, View::default().log("events", &rows(&[(1, 1), (2, 2), (3, 3)]))).unwrap();
    let mut browser = Browser::with_log("events", "2".to_owned());
    let keys = |messages: Vec<Bytes>| -> Vec<String> {
        let rows: Vec<Value> = read(messages)
            .into_iter()
            .flat_map(|(_, data)| data["rows"].as_array().unwrap().clone())
            .collect();
        rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(browser.catch_up(&first)), ["3"]);
    let second = after(&first, View::default().log("events", &rows(&[(4, 4)])));
    let third = after(&second, View::default().log("events", &rows(&[(5, 5)])));
    assert_eq!(keys(browser.catch_up(&third)), ["4", "5"]);
    assert!(Version::next(Some(&third), View::default().log::<Number>("events", &[])).is_none());
    // One that has more than was read here yet gets nothing twice.
    assert!(Browser::with_log("events", "9".to_owned()).catch_up(&third).is_empty());
    assert_eq!(keys(Browser::with_log("events", String::new()).catch_up(&third)).len(), 5);
}

#[test]
fn lines_that_a_browser_has_are_not_sent_again_and_those_that_flew_by_are_counted() {
    let window = |first: u64, lines: u64| {
        let head = OutputHead { bytes: lines * 10, lines };
        let shown = (first..=lines).map(|_| line()).collect();
        let window = Window { first, lines: shown, is_open: false, head };
        View::default().output(Some(Output { attempt: 1, window }))
    };
    let first = Version::next(None, window(1, 10)).unwrap();
    let mut browser = Browser::with_lines(1, 4);
    let sent = read(browser.catch_up(&first));
    assert_eq!((&sent[0].1["from"], &sent[0].1["skipped"]), (&json!(5), &json!(0)));
    assert_eq!(sent[0].1["lines"].as_array().unwrap().len(), 6);
    assert!(Version::next(Some(&first), window(1, 10)).is_none());
    let second = after(&first, window(15, 20));
    let sent = read(browser.catch_up(&second));
    assert_eq!((&sent[0].1["from"], &sent[0].1["skipped"]), (&json!(15), &json!(4)));
    // The next attempt begins with its first line.
    let third = after(&second, {
        let head = OutputHead { bytes: 5, lines: 1 };
        let window = Window { first: 1, lines: vec![line()], is_open: false, head };
        View::default().output(Some(Output { attempt: 2, window }))
    });
    let sent = read(browser.catch_up(&third));
    assert_eq!(
        (&sent[0].1["attempt"], &sent[0].1["from"], &sent[0].1["skipped"]),
        (&json!(2), &json!(1), &json!(0))
    );
}
