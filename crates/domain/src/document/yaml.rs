//! YAML 1.2 with the core schema, from parser events; aliases and merge keys are expanded.

mod metered;
mod schema;

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use self::metered::{Ahead, Metered};
use super::{Budget, Data, Entry, MAX_DEPTH, Place, Scalar, ScalarKind, SyntaxError, Value};

const MERGE_KEY: &str = "<<";
/// Two braces without quotes are an object whose key is an object.
const KEY_IS_NO_TEXT: &str =
    "a key is a text, not a list or an object; a value that begins with `{{` has to be in quotes";

pub(super) fn read(text: &str) -> Result<Value, SyntaxError> {
    let ahead = Ahead::default();
    let parser = Parser::new(Metered::new(text, ahead.clone()));
    let mut reader =
        Reader { parser, ahead, budget: Budget::default(), anchors: HashMap::new(), last: START };
    reader.document()
}

const START: Place = Place { line: 1, column: 1 };

/// An anchored value and what each of its aliases costs.
struct Anchored {
    value: Value,
    values: usize,
    text_bytes: usize,
}

struct Reader<'t> {
    parser: Parser<'t, Metered<'t>>,
    ahead: Ahead,
    budget: Budget,
    anchors: HashMap<usize, Anchored>,
    /// Where the last event began.
    last: Place,
}

/// A key of a mapping.
enum Key {
    /// `<<`, not in quotes.
    Merge,
    Own(String),
}

impl<'t> Reader<'t> {
    fn document(&mut self) -> Result<Value, SyntaxError> {
        let mut value = None;
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if value.is_some() => {
                    return Err(SyntaxError::at(
                        place,
                        "the file has a second document; write one job per file",
                    ));
                }
                Event::DocumentStart(_) => {
                    let (event, place) = self.next()?;
                    value = Some(self.value(event, place, 0)?);
                }
                Event::StreamEnd => break,
                _ => return Err(SyntaxError::at(place, "expected the end of the document")),
            }
        }
        Ok(value.unwrap_or_else(|| Value::scalar(ScalarKind::Null, "", START)))
    }

    fn next(&mut self) -> Result<(Event<'t>, Place), SyntaxError> {
        let next = self.parser.next_event();
        if self.ahead.is_exceeded() {
            return Err(SyntaxError::too_many(self.last));
        }
        match next {
            Some(Ok((event, span))) => {
                self.ahead.begin_anew();
                self.last = start_of(&span);
                Ok((event, self.last))
            }
            Some(Err(error)) => Err(refusal(&error)),
            None => Err(SyntaxError::at(self.last, "the document ends too early")),
        }
    }

    fn value(&mut self, event: Event<'t>, place: Place, depth: usize) -> Result<Value, SyntaxError> {
        let before = (self.budget.values, self.budget.text_bytes);
        self.budget.spend(1, 0, place)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, place),
            Event::Scalar(text, style, anchor, tag) => {
                self.budget.spend(0, text.len(), place)?;
                let kind = schema::kind_of(&text, style, tag.as_deref(), place)?;
                (anchor, Value::scalar(kind, text, place))
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if depth == MAX_DEPTH => {
                return Err(SyntaxError::too_deep(place));
            }
            Event::SequenceStart(anchor, tag) => {
                schema::check_collection(tag.as_deref(), "seq", place)?;
                (anchor, Value { data: self.list(depth + 1)?, place: Some(place) })
            }
            Event::MappingStart(anchor, tag) => {
                schema::check_collection(tag.as_deref(), "map", place)?;
                (anchor, Value { data: self.object(depth + 1)?, place: Some(place) })
            }
            _ => return Err(SyntaxError::at(place, "expected a value")),
        };
        if anchor > 0 {
            let (values, text_bytes) = (self.budget.values - before.0, self.budget.text_bytes - before.1);
            // Paid for once more, as it is kept.
            self.budget.spend(values, text_bytes, place)?;
            self.anchors.insert(anchor, Anchored { value: value.clone(), values, text_bytes });
        }
        Ok(value)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<Value, SyntaxError> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::at(place, "this alias is part of the value that it repeats"));
        };
        self.budget.spend(anchored.values, anchored.text_bytes, place)?;
        // Its mistakes are where it is written; that it is used here can be seen there.
        Ok(anchored.value.clone())
    }

    fn list(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Data::List(items));
            }
            let position = items.len().to_string();
            items.push(self.value(event, place, depth).map_err(|error| error.within(&position))?);
        }
    }

    fn object(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, Place> = HashMap::new();
        let mut merged = None;
        loop {
            let (event, place) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.key(event, place)?;
            let name = match &key {
                Key::Merge => MERGE_KEY,
                Key::Own(name) => name,
            };
            let is_known = match &key {
                Key::Merge => merged.as_ref().map(|(_, first): &(Value, Place)| *first),
                Key::Own(name) => known.insert(name.clone(), place),
            };
            if let Some(first) = is_known {
                return Err(SyntaxError::twice(name, Some(first), place));
            }
            let (event, value_place) = self.next()?;
            let value = self.value(event, value_place, depth).map_err(|error| error.within(name))?;
            match key {
                Key::Merge => merged = Some((value, place)),
                Key::Own(key) => entries.push(Entry { key, place: Some(place), value }),
            }
        }
        if let Some((value, place)) = merged {
            for entry in merged_entries(value, place)? {
                if !known.contains_key(&entry.key) {
                    known.insert(entry.key.clone(), place);
                    entries.push(entry);
                }
            }
        }
        Ok(Data::Object(entries))
    }

    fn key(&mut self, event: Event<'t>, place: Place) -> Result<Key, SyntaxError> {
        let is_merge =
            matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == MERGE_KEY);
        if is_merge {
            return Ok(Key::Merge);
        }
        // Its source text: `1.10`, `on` and `null` are valid names.
        match self.value(event, place, MAX_DEPTH) {
            Ok(Value { data: Data::Scalar(Scalar { text, .. }), .. }) => Ok(Key::Own(text)),
            Ok(_) => Err(SyntaxError::at(place, KEY_IS_NO_TEXT)),
            Err(error) if error == SyntaxError::too_deep(place) => {
                Err(SyntaxError::at(place, KEY_IS_NO_TEXT))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a merge key brings in, the first one first: an object, or a list of objects.
fn merged_entries(value: Value, place: Place) -> Result<Vec<Entry>, SyntaxError> {
    let wrong =
        || SyntaxError::at(place, "`<<` merges an object or a list of objects, such as <<: *defaults");
    match value.data {
        Data::Object(entries) => Ok(entries),
        Data::List(items) => {
            let mut all = Vec::new();
            for item in items {
                let Data::Object(entries) = item.data else { return Err(wrong()) };
                all.extend(entries);
            }
            Ok(all)
        }
        Data::Scalar(_) => Err(wrong()),
    }
}

fn start_of(span: &Span) -> Place {
    place_of(&span.start)
}

fn place_of(mark: &Marker) -> Place {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Place { line: number(mark.line()).max(1), column: number(mark.col()).saturating_add(1) }
}

fn refusal(error: &ScanError) -> SyntaxError {
    let place = place_of(error.marker());
    match error.info() {
        // The parser has its own limit, and may read ahead up to it.
        "recursion limit exceeded" => SyntaxError::too_deep(place),
        info => SyntaxError::at(place, info),
    }
}

/// The name of a core schema tag; none for others.
fn core_tag(tag: &Tag) -> Option<&str> {
    tag.is_yaml_core_schema().then_some(tag.suffix.as_str())
}
