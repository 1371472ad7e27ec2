#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use serde::de::{self, Visitor};
use serde_json::json;

use super::*;

/// Examples of each form that was ever released: what was submitted, and how it was stored.
const FORMS: [(u16, &str); 1] = [(1, include_str!("1.json"))];

fn examples(text: &str) -> Vec<(Value, Value)> {
    let examples: Vec<Value> = serde_json::from_str(text).unwrap();
    examples.iter().map(|example| (example["submitted"].clone(), example["stored"].clone())).collect()
}

#[test]
fn every_stored_form_ever_released_is_read() {
    assert_eq!(FORMS.map(|(version, _)| version).to_vec(), (1..=STORED_VERSION).collect::<Vec<_>>());
    for (version, text) in FORMS {
        for (_, stored) in examples(text) {
            let spec = JobSpec::read_stored(version, &stored)
                .unwrap_or_else(|why| panic!("form {version} is not understood any more: {why}\n{stored:#}"));
            let again = serde_json::to_value(&spec).unwrap();
            assert_eq!(JobSpec::read_stored(STORED_VERSION, &again).as_ref(), Ok(&spec));
            if version == STORED_VERSION {
                assert_eq!(again, stored, "something was lost or has another meaning now");
            }
        }
    }
}

/// If this fails because the normal form has changed, old rows look different from new ones: count up
/// [`STORED_VERSION`], keep a reader of the old form, and add a file of examples. A field that only joined, and is left
/// out where it says nothing, needs an example more.
#[test]
fn what_is_submitted_today_is_stored_in_the_newest_form() {
    let (_, newest) = FORMS[FORMS.len() - 1];
    for (submitted, stored) in examples(newest) {
        let spec = JobSpec::read(&submitted).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        // What is submitted today has its line ends made plain at the door; what was stored before keeps its own.
        let stored = stored.to_string().replace(r"\r\n", r"\n");
        assert_eq!(serde_json::to_value(spec).unwrap(), serde_json::from_str::<Value>(&stored).unwrap());
    }
}

#[test]
fn the_examples_have_every_field_that_is_read() {
    let mut found = BTreeSet::new();
    for (_, stored) in examples(FORMS[0].1) {
        names_in(&stored, &mut found);
    }
    let mut wanted =
        BTreeSet::from(["gpu".to_owned(), "cpu".to_owned(), "memory".to_owned(), "disk".to_owned()]);
    wanted.extend(fields_of::<FirstJob>());
    wanted.extend(fields_of::<FirstPlacement>());
    wanted.extend(fields_of::<FirstTask>());
    wanted.extend(fields_of::<FirstRestart>());
    wanted.extend(fields_of::<Container>());
    wanted.extend(fields_of::<Concurrency>());
    wanted.extend(fields_of::<Affinity>());
    wanted.extend(fields_of::<OutputLimit>());
    wanted.extend(fields_of::<StopSpec>());
    wanted.extend(fields_of::<Update>());
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "no example has {missing:?}");
}

/// The examples of one form with a change that the rules for new input refuse, or know nothing of.
#[test]
fn what_the_rules_for_new_input_refuse_is_still_read() {
    let (_, stored) = examples(FORMS[0].1).remove(0);
    let spec = JobSpec::read_stored(1, &stored).unwrap();
    let mut later = stored.clone();
    later["a_later_field"] = json!({ "deep": [1, null] });
    later["tasks"][0]["another"] = json!(true);
    later["tasks"][0]["restart"]["jitter"] = json!("5s");
    later["tasks"][0]["resources"]["licence"] = json!("a text where a number is expected");
    assert!(JobSpec::read(&later).is_err());
    assert_eq!(JobSpec::read_stored(1, &later), Ok(spec.clone()), "unknown fields are passed over");

    let mut refused = stored;
    refused["name"] = json!("two\nlines");
    refused["priority"] = json!(255);
    refused["lost_after"] = json!("1ms");
    refused["labels"] = json!({ "odd key!": "x".repeat(9_000) });
    refused["tasks"][0]["env"] = json!({ "discovery.type": "single-node", "GAFFER_JOB_ID": "1" });
    refused["tasks"][0]["name"] = json!("a.b");
    refused["tasks"][0]["depends_on"] = json!(["a.b", "nobody"]);
    refused["tasks"][0]["timeout"] = json!("400d");
    assert!(JobSpec::read(&refused).is_err());
    let read = JobSpec::read_stored(1, &refused).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), refused);
}

#[test]
fn what_cannot_be_understood_is_told_with_its_place() {
    let (_, stored) = examples(FORMS[0].1).remove(0);
    let without = |pointer: &str, name: &str| {
        let mut stored = stored.clone();
        stored.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name);
        JobSpec::read_stored(1, &stored).unwrap_err().to_string()
    };
    assert_eq!(without("", "tasks"), "missing field `tasks`");
    assert!(without("/tasks/0", "driver").starts_with("task 1: missing field `driver`"));
    assert!(without("/tasks/0", "restart").starts_with("task 1: missing field `restart`"));
    let with = |pointer: &str, value: Value| {
        let mut stored = stored.clone();
        *stored.pointer_mut(pointer).unwrap() = value;
        JobSpec::read_stored(1, &stored).unwrap_err().to_string()
    };
    assert!(with("/tasks/0/driver", json!("firecracker")).contains("unknown variant `firecracker`"));
    assert_eq!(with("/tasks", json!([])), "it has no tasks");
    for value in [json!("x"), json!("7-3"), json!("")] {
        let mut task = stored["tasks"][0].clone();
        task.as_object_mut().unwrap().remove("count");
        task["array"] = value;
        assert!(with("/tasks", json!([task])).ends_with("has no meaning"));
    }
    let newer = JobSpec::read_stored(STORED_VERSION + 1, &stored).unwrap_err().to_string();
    assert!(newer.contains("format 2") && newer.contains("up to 1"), "{newer}");
    for nonsense in [json!(null), json!([]), json!("x"), json!({})] {
        assert!(JobSpec::read_stored(1, &nonsense).is_err());
    }
}

fn names_in(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.insert(name.clone());
                names_in(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names_in(item, found)),
        _ => {}
    }
}

/// The names that a type reads.
fn fields_of<T: for<'de> Deserialize<'de>>() -> Vec<String> {
    struct Asked(Vec<String>);
    struct Asking<'a>(&'a mut Asked);
    impl<'de> de::Deserializer<'de> for Asking<'_> {
        type Error = de::value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("asked for no struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.0 = fields.iter().map(|field| (*field).to_owned()).collect();
            Err(de::Error::custom("only asked"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut asked = Asked(Vec::new());
    let _ = T::deserialize(Asking(&mut asked));
    assert!(!asked.0.is_empty(), "{} has no fields", std::any::type_name::<T>());
    asked.0
}
