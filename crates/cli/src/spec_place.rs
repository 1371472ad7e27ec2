//! Parses specifications in their three languages, and finds the line that a JSON pointer means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What a specification is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Language {
    /// The text as JSON.
    ///
    /// # Errors
    /// What to append to the name of the file: `:7: …`.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let at = |line: Option<usize>, message: &str| match line {
            Some(line) => format!(":{line}: {message}"),
            None => format!(": {message}"),
        };
        match self {
            Language::Yaml => serde_norway::from_str(text)
                .map_err(|error| at(error.location().map(|place| place.line()), &error.to_string())),
            Language::Toml => toml::from_str(text)
                .map_err(|error| at(error.span().map(|span| line_at(text, span.start)), error.message())),
            Language::Json => {
                serde_json::from_str(text).map_err(|error| at(Some(error.line()), &error.to_string()))
            }
        }
    }
}

/// The line, from 1, on which the value stands that the pointer names; none if that is not known.
///
/// The parsers know where they are but tell it only with an error. So one is raised on purpose at the value.
pub fn line_of(text: &str, language: Language, pointer: &str) -> Option<usize> {
    let segments: Vec<String> = match pointer {
        "" => Vec::new(),
        _ => pointer.strip_prefix('/')?.split('/').map(unescaped).collect(),
    };
    let found = Cell::new(false);
    let walk = Walk { rest: &segments, found: &found };
    let line = match language {
        Language::Yaml => walk
            .deserialize(serde_norway::Deserializer::from_str(text))
            .err()?
            .location()
            .map(|place| place.line()),
        Language::Toml => {
            let document = toml::Deserializer::parse(text).ok()?;
            walk.deserialize(document).err()?.span().map(|span| line_at(text, span.start))
        }
        Language::Json => {
            walk.deserialize(&mut serde_json::Deserializer::from_str(text)).err().map(|error| error.line())
        }
    };
    line.filter(|_| found.get())
}

fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Goes down to a value and fails there.
#[derive(Clone, Copy)]
struct Walk<'a> {
    rest: &'a [String],
    found: &'a Cell<bool>,
}

impl Walk<'_> {
    fn arrived<E: Error>(self) -> Result<(), E> {
        if self.rest.is_empty() {
            self.found.set(true);
            return Err(E::custom("here"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.arrived()?;
        while let Some(key) = map.next_key::<String>()? {
            match self.rest.split_first() {
                Some((wanted, rest)) if *wanted == key => map.next_value_seed(Walk { rest, ..self })?,
                _ => map.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.arrived()?;
        for position in 0.. {
            let is_wanted = self.rest.first().is_some_and(|wanted| *wanted == position.to_string());
            let more = match self.rest.get(1..) {
                Some(rest) if is_wanted => seq.next_element_seed(Walk { rest, ..self })?.is_some(),
                _ => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.arrived()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.arrived()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.arrived()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "name: nightly\ntasks:\n  - name: one\n    command: [a, b]\n  - name: two\n    comand: x\n    env:\n      a/b: 1\n    resources: {cpu: lots, memory: 1}\n";
    const JSON: &str = "{\n  \"name\": \"x\",\n  \"tasks\": [\n    {\"name\": \"one\"},\n    {\n      \"name\": \"two\",\n      \"count\": 0\n    }\n  ]\n}\n";
    const TOML: &str =
        "name = \"x\"\n\n[[tasks]]\nname = \"one\"\n\n[[tasks]]\nname = \"two\"\nresources.cpu = \"lots\"\n";

    #[test]
    fn a_pointer_leads_to_its_line() {
        let cases = [
            (YAML, Language::Yaml, "/name", Some(1)),
            (YAML, Language::Yaml, "/tasks/1/comand", Some(6)),
            (YAML, Language::Yaml, "/tasks/1/resources/cpu", Some(9)),
            (YAML, Language::Yaml, "/tasks/1/env/a~1b", Some(8)),
            (YAML, Language::Yaml, "/tasks/0/command/1", Some(4)),
            (YAML, Language::Yaml, "/tasks/1", Some(5)),
            (YAML, Language::Yaml, "/tasks/7/name", None),
            (YAML, Language::Yaml, "/nothing", None),
            (JSON, Language::Json, "/tasks/1/count", Some(7)),
            (JSON, Language::Json, "/tasks/0/name", Some(4)),
            (JSON, Language::Json, "/name", Some(2)),
            (TOML, Language::Toml, "/tasks/1/resources/cpu", Some(8)),
            (TOML, Language::Toml, "/tasks/0/name", Some(4)),
            (TOML, Language::Toml, "/name", Some(1)),
        ];
        for (text, language, pointer, line) in cases {
            assert_eq!(line_of(text, language, pointer), line, "{language:?} {pointer}");
        }
    }

    #[test]
    fn the_three_languages_say_the_same() {
        let expected =
            serde_json::json!({"name": "x", "tasks": [{"command": ["a"], "count": 2, "ratio": 0.5}]});
        let yaml = "name: x\ntasks: [{command: [a], count: 2, ratio: 0.5}]";
        let toml = "name = \"x\"\ntasks = [{command = [\"a\"], count = 2, ratio = 0.5}]";
        assert_eq!(Language::Yaml.parse(yaml), Ok(expected.clone()));
        assert_eq!(Language::Toml.parse(toml), Ok(expected.clone()));
        assert_eq!(Language::Json.parse(&expected.to_string()), Ok(expected));
    }

    #[test]
    fn a_mistake_in_the_language_has_its_line() {
        for (language, text, line) in [
            (Language::Yaml, "a: 1\nb: [1, 2\nc: 3\n", ":"),
            (Language::Toml, "a = 1\nb = = 2\n", ":2: "),
            (Language::Json, "{\n\"a\": 1,\n}", ":3: "),
        ] {
            let why = language.parse(text);
            assert!(why.as_ref().is_err_and(|why| why.starts_with(line)), "{why:?}");
        }
    }
}
