//! Which differences between two descriptions of the API break clients. Pure.
//!
//! Clients send what the old description allows, and read what it promises: in requests nothing may be refused that was
//! accepted, in responses nothing may be missing or of another kind. Responses may get more fields, and more words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::resolved;

/// Every difference that breaks clients of the old API, in words.
pub fn breaking(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison { old, new, found: Vec::new(), compared: BTreeSet::new() };
    for (path, old_methods) in entries(&old["paths"]) {
        let Some(new_methods) = new["paths"].get(path) else {
            comparison.say(path, "is gone");
            continue;
        };
        for (method, old_operation) in entries(old_methods) {
            let at = format!("{} {path}", method.to_uppercase());
            match new_methods.get(method) {
                Some(new_operation) => comparison.operation(&at, old_operation, new_operation),
                None => comparison.say(&at, "is gone"),
            }
        }
    }
    comparison.found
}

/// Who writes what a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
    /// Schemas that refer to themselves are compared once.
    compared: BTreeSet<(Side, String, String)>,
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn texts(value: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Null => BTreeSet::new(),
        one => [text(one)].into(),
    }
}

fn without(old: &BTreeSet<String>, new: &BTreeSet<String>) -> Vec<String> {
    old.difference(new).cloned().collect()
}

impl<'a> Comparison<'a> {
    fn say(&mut self, at: &str, what: &str) {
        self.found.push(format!("{at} {what}"));
    }

    fn operation(&mut self, at: &str, old: &'a Value, new: &'a Value) {
        let needs_no_key = |operation: &Value| operation["security"].as_array().is_some_and(Vec::is_empty);
        if needs_no_key(old) && !needs_no_key(new) {
            self.say(at, "needs a key now");
        }
        self.parameters(at, &old["parameters"], &new["parameters"]);
        self.request(at, &old["requestBody"], &new["requestBody"]);
        for (status, old_response) in entries(&old["responses"]) {
            let (old_response, is_error) = (resolved(self.old, old_response), !status.starts_with('2'));
            let at = format!("{at}, {status}");
            match new["responses"].get(status) {
                Some(new_response) => self.response(&at, old_response, resolved(self.new, new_response)),
                // That something can fail no more breaks nobody.
                None if is_error => {}
                None => self.say(&at, "is gone"),
            }
        }
    }

    fn parameters(&mut self, at: &str, old: &'a Value, new: &'a Value) {
        let list = |parameters: &'a Value| parameters.as_array().into_iter().flatten();
        let name = |parameter: &Value| format!("{} {}", parameter["in"], parameter["name"]).replace('"', "");
        let is_required = |parameter: &Value| parameter["required"] == true;
        for old_parameter in list(old) {
            let at = format!("{at}: {}", name(old_parameter));
            match list(new).find(|new| name(new) == name(old_parameter)) {
                Some(new) => {
                    if is_required(new) && !is_required(old_parameter) {
                        self.say(&at, "is required now");
                    }
                    self.schema(Side::Client, &at, &old_parameter["schema"], &new["schema"]);
                }
                None => self.say(&at, "is gone"),
            }
        }
        let added = list(new).filter(|new| is_required(new) && list(old).all(|old| name(old) != name(new)));
        for parameter in added {
            self.say(&format!("{at}: {}", name(parameter)), "is new and required");
        }
    }

    fn request(&mut self, at: &str, old: &'a Value, new: &'a Value) {
        if new["required"] == true && old["required"] != true {
            self.say(at, "needs a body now");
        }
        self.content(Side::Client, &format!("{at}: body"), &old["content"], &new["content"]);
    }

    fn response(&mut self, at: &str, old: &'a Value, new: &'a Value) {
        for (name, header) in entries(&old["headers"]) {
            let at = format!("{at}: header {name}");
            match new["headers"].get(name) {
                Some(new) if header["required"] == true && new["required"] != true => {
                    self.say(&at, "may be missing now");
                }
                Some(_) => {}
                None => self.say(&at, "is gone"),
            }
        }
        self.content(Side::Server, at, &old["content"], &new["content"]);
    }

    fn content(&mut self, side: Side, at: &str, old: &'a Value, new: &'a Value) {
        for (media_type, form) in entries(old) {
            match new.get(media_type) {
                Some(new) => self.schema(side, at, &form["schema"], &new["schema"]),
                None => self.say(at, &format!("has no {media_type} any more")),
            }
        }
    }

    fn schema(&mut self, side: Side, at: &str, old: &'a Value, new: &'a Value) {
        // What clients send may be something else from now on, if it may be what it was as well.
        let choices = ["anyOf", "oneOf"].iter().find_map(|keyword| new[*keyword].as_array());
        let same = choices.into_iter().flatten().find(|choice| choice["$ref"] == old["$ref"]);
        if let (Side::Client, Some(same), true) = (side, same, old["$ref"].is_string()) {
            return self.schema(side, at, old, same);
        }
        if let (Some(old), Some(new)) = (old["$ref"].as_str(), new["$ref"].as_str()) {
            // What is said of a named schema is said where it is met first.
            if !self.compared.insert((side, old.to_owned(), new.to_owned())) {
                return;
            }
        }
        let (old, new) = (resolved(self.old, old), resolved(self.new, new));
        self.types(side, at, &texts(&old["type"]), &texts(&new["type"]));
        self.words(side, at, old, new);
        self.limits(side, at, old, new);
        self.fields(side, at, old, new);
        for (keyword, place) in [("items", "[]"), ("additionalProperties", ".*")] {
            if old[keyword].is_object() && new[keyword].is_object() {
                self.schema(side, &format!("{at}{place}"), &old[keyword], &new[keyword]);
            }
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            self.variants(side, at, &old[keyword], &new[keyword]);
        }
    }

    fn types(&mut self, side: Side, at: &str, old: &BTreeSet<String>, new: &BTreeSet<String>) {
        let covers = |wide: &BTreeSet<String>, narrow: &BTreeSet<String>| {
            let is_in = |kind: &String| wide.contains(kind) || kind == "integer" && wide.contains("number");
            wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_in)
        };
        let fits = match side {
            Side::Client => covers(new, old),
            Side::Server => covers(old, new),
        };
        if !fits {
            let list = |types: &BTreeSet<String>| types.iter().cloned().collect::<Vec<_>>().join(" or ");
            self.say(at, &format!("was {}, is {}", list(old), list(new)));
        }
    }

    fn words(&mut self, side: Side, at: &str, old: &Value, new: &Value) {
        let of =
            |schema: &Value| texts(if schema["enum"].is_null() { &schema["const"] } else { &schema["enum"] });
        let (old, new) = (of(old), of(new));
        match side {
            Side::Client if old.is_empty() && !new.is_empty() => self.say(at, "takes certain words only now"),
            Side::Server if !old.is_empty() && new.is_empty() => self.say(at, "can be anything now"),
            Side::Client if new.is_empty() => {}
            _ => {
                for word in without(&old, &new) {
                    self.say(at, &format!("is never {word:?} any more"));
                }
            }
        }
    }

    fn limits(&mut self, side: Side, at: &str, old: &Value, new: &Value) {
        // What could be null alone was reserved: whatever it takes now is more.
        if side == Side::Server || old["type"] == "null" {
            return;
        }
        let number = |schema: &Value, keyword: &str| schema[keyword].as_f64();
        let is_tighter = |keyword: &str, is_beyond: fn(f64, f64) -> bool| match number(new, keyword) {
            Some(new) => number(old, keyword).is_none_or(|old| is_beyond(new, old)),
            None => false,
        };
        let least = ["minimum", "minLength", "minItems"]
            .map(|keyword| (keyword, (|new, old| new > old) as fn(f64, f64) -> bool));
        let most = ["maximum", "maxLength", "maxItems"]
            .map(|keyword| (keyword, (|new, old| new < old) as fn(f64, f64) -> bool));
        for (keyword, is_beyond) in least.into_iter().chain(most) {
            if is_tighter(keyword, is_beyond) {
                self.say(at, &format!("has a tighter {keyword}"));
            }
        }
        if let Some(new) = new["pattern"].as_str()
            && !old["pattern"].as_str().is_some_and(|old| is_wider(new, old))
        {
            self.say(at, "has another pattern");
        }
    }

    fn fields(&mut self, side: Side, at: &str, old: &'a Value, new: &'a Value) {
        for (name, field) in entries(&old["properties"]) {
            let at = format!("{at}.{name}");
            match new["properties"].get(name) {
                Some(new) => self.schema(side, &at, field, new),
                None => self.say(&at, "is gone"),
            }
        }
        let (old_required, new_required) = (texts(&old["required"]), texts(&new["required"]));
        let (names, what) = match side {
            Side::Client => (without(&new_required, &old_required), "is required now"),
            Side::Server => (without(&old_required, &new_required), "may be missing now"),
        };
        for name in names {
            // One that is gone altogether has been said.
            if new["properties"].get(&name).is_some() {
                self.say(&format!("{at}.{name}"), what);
            }
        }
    }

    fn variants(&mut self, side: Side, at: &str, old: &'a Value, new: &'a Value) {
        let list = |variants: &'a Value| variants.as_array().into_iter().flatten();
        for variant in list(old) {
            // Rules for several fields have no names of their own: what has not changed is found first.
            let same = list(new).find(|new| *new == variant);
            let named = || list(new).find(|new| name_of(new) == name_of(variant));
            let extended = || list(new).find(|new| has_fields_of(new, variant));
            match same.or_else(named).or_else(extended) {
                Some(new) => self.schema(side, at, variant, new),
                None => self.say(at, &format!("is never {} any more", name_of(variant))),
            }
        }
        let is_null = |variant: &&Value| variant["type"] == "null";
        if side == Side::Server && list(old).next().is_some() && list(old).all(|old| !is_null(&old)) {
            for _ in list(new).filter(is_null) {
                self.say(at, "can be null now");
            }
        }
    }
}

/// Whether a pattern matches all that another one does: it is the same, or has further alternatives behind it.
fn is_wider(pattern: &str, other: &str) -> bool {
    pattern.strip_prefix(other).is_some_and(|more| more.is_empty() || more.starts_with('|'))
}

/// What tells a variant from the others: its type's name, its tag, its only field, or its kind.
fn name_of(variant: &Value) -> String {
    if let Some(name) = variant["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if !variant["const"].is_null() {
        return variant["const"].to_string();
    }
    let fields = variant["properties"].as_object();
    let tag = fields.and_then(|fields| fields.values().find_map(|field| field.get("const")));
    match (tag, fields) {
        (Some(tag), _) => tag.to_string(),
        (None, Some(fields)) => fields.keys().cloned().collect::<Vec<_>>().join(" and "),
        (None, None) => variant["type"].to_string(),
    }
}

/// Whether a variant that is told from the others by its fields has all of another one's.
fn has_fields_of(variant: &Value, other: &Value) -> bool {
    let names = |variant: &Value| entries(&variant["properties"]).map(|(name, _)| name.clone()).collect();
    let (fields, others): (BTreeSet<String>, BTreeSet<String>) = (names(variant), names(other));
    !others.is_empty() && fields.is_superset(&others)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An API with one of everything.
    fn api() -> Value {
        json!({
            "paths": { "/jobs/{job}": {
                "get": {
                    "security": [{ "key": [] }],
                    "parameters": [
                        { "name": "job", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 1 } },
                        { "name": "state", "in": "query", "required": false, "schema": { "enum": ["failed", "running"] } },
                    ],
                    "responses": {
                        "200": {
                            "headers": { "Link": { "required": true } },
                            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Job" } } },
                        },
                        "404": { "$ref": "#/components/responses/NotFound" },
                    },
                },
                "post": {
                    "security": [],
                    "requestBody": { "required": false, "content": { "application/json": { "schema": {
                        "type": "object", "properties": { "signal": { "type": "string" } },
                    } } } },
                    "responses": { "204": {} },
                },
            } },
            "components": {
                "schemas": { "Job": {
                    "type": "object",
                    "required": ["id", "state"],
                    "properties": {
                        "id": { "type": "integer" },
                        "state": { "type": "string", "enum": ["failed", "running"] },
                        "after": { "anyOf": [{ "$ref": "#/components/schemas/Job" }, { "type": "null" }] },
                    },
                } },
                "responses": { "NotFound": { "content": { "application/problem+json": { "schema": {
                    "properties": { "code": { "enum": ["not_found"] } },
                } } } } },
            },
        })
    }

    /// What is said of an API in which the place that a pointer names is something else, or nothing.
    fn said(pointer: &str, value: Option<Value>) -> Vec<String> {
        let mut changed = api();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/");
        match (changed.pointer_mut(parent).unwrap(), value) {
            (Value::Array(list), Some(value)) if name == "-" => list.push(value),
            (Value::Array(list), Some(value)) => list[name.parse::<usize>().unwrap()] = value,
            (Value::Array(list), None) => drop(list.remove(name.parse().unwrap())),
            (Value::Object(fields), Some(value)) => drop(fields.insert(name, value)),
            (Value::Object(fields), None) => drop(fields.remove(&name).unwrap()),
            _ => panic!("{pointer}"),
        }
        breaking(&api(), &changed)
    }

    const GET: &str = "/paths/~1jobs~1{job}/get";
    const POST: &str = "/paths/~1jobs~1{job}/post";
    const JOB: &str = "/components/schemas/Job";

    #[test]
    fn what_is_removed_breaks_clients() {
        let parameter = format!("{GET}/parameters/1");
        for (pointer, expected) in [
            ("/paths/~1jobs~1{job}".to_owned(), "/jobs/{job} is gone"),
            (GET.to_owned(), "GET /jobs/{job} is gone"),
            (parameter.clone(), "GET /jobs/{job}: query state is gone"),
            (format!("{parameter}/schema/enum/0"), "GET /jobs/{job}: query state is never \"failed\" any more"),
            (format!("{GET}/responses/200"), "GET /jobs/{job}, 200 is gone"),
            (format!("{GET}/responses/200/headers/Link"), "GET /jobs/{job}, 200: header Link is gone"),
            (
                format!("{GET}/responses/200/content/application~1json"),
                "GET /jobs/{job}, 200 has no application/json any more",
            ),
            (format!("{JOB}/properties/id"), "GET /jobs/{job}, 200.id is gone"),
            (format!("{JOB}/properties/state/enum/1"), "GET /jobs/{job}, 200.state is never \"running\" any more"),
            (format!("{JOB}/properties/state/enum"), "GET /jobs/{job}, 200.state can be anything now"),
            (format!("{JOB}/required/0"), "GET /jobs/{job}, 200.id may be missing now"),
            (format!("{JOB}/properties/after/anyOf/0"), "GET /jobs/{job}, 200.after is never Job any more"),
            (
                "/components/responses/NotFound/content/application~1problem+json/schema/properties/code/enum/0".to_owned(),
                "GET /jobs/{job}, 404.code can be anything now",
            ),
            (
                format!("{POST}/requestBody/content/application~1json/schema/properties/signal"),
                "POST /jobs/{job}: body.signal is gone",
            ),
        ] {
            assert_eq!(said(&pointer, None), [expected], "{pointer}");
        }
    }

    #[test]
    fn a_reserved_field_that_gets_a_meaning_breaks_nobody() {
        let field = format!("{POST}/requestBody/content/application~1json/schema/properties/signal");
        let [mut old, mut new] = [api(), api()];
        *old.pointer_mut(&field).unwrap() = json!({ "type": "null" });
        *new.pointer_mut(&field).unwrap() = json!({ "type": ["array", "null"], "maxItems": 3 });
        assert_eq!(breaking(&old, &new), [] as [&str; 0]);
    }

    #[test]
    fn what_is_demanded_breaks_clients() {
        let parameter = json!({ "name": "project", "in": "query", "required": true, "schema": {} });
        for (pointer, value, expected) in [
            (format!("{GET}/parameters/-"), parameter, "GET /jobs/{job}: query project is new and required"),
            (
                format!("{GET}/parameters/1/required"),
                json!(true),
                "GET /jobs/{job}: query state is required now",
            ),
            (
                format!("{GET}/parameters/0/schema/minimum"),
                json!(2),
                "GET /jobs/{job}: path job has a tighter minimum",
            ),
            (
                format!("{GET}/parameters/0/schema/maximum"),
                json!(9),
                "GET /jobs/{job}: path job has a tighter maximum",
            ),
            (format!("{POST}/security"), json!([{ "key": [] }]), "POST /jobs/{job} needs a key now"),
            (format!("{POST}/requestBody/required"), json!(true), "POST /jobs/{job} needs a body now"),
            (
                format!("{POST}/requestBody/content/application~1json/schema/required"),
                json!(["signal"]),
                "POST /jobs/{job}: body.signal is required now",
            ),
        ] {
            assert_eq!(said(&pointer, Some(value)), [expected], "{pointer}");
        }
    }

    #[test]
    fn a_pattern_with_further_alternatives_is_no_other_one() {
        assert!(is_wider("^a$", "^a$") && is_wider("^a$|^b$", "^a$"));
        for pattern in ["^b$", "^a$b", "^b$|^a$", "^a"] {
            assert!(!is_wider(pattern, "^a$"), "{pattern}");
        }
    }

    #[test]
    fn another_type_breaks_clients() {
        for (pointer, value, expected) in [
            (
                format!("{JOB}/properties/id/type"),
                json!("string"),
                "GET /jobs/{job}, 200.id was integer, is string",
            ),
            (
                format!("{JOB}/properties/id/type"),
                json!(["integer", "null"]),
                "GET /jobs/{job}, 200.id was integer, is integer or null",
            ),
            (
                format!("{GET}/parameters/0/schema/type"),
                json!("boolean"),
                "GET /jobs/{job}: path job was integer, is boolean",
            ),
        ] {
            assert_eq!(said(&pointer, Some(value)), [expected], "{pointer}");
        }
    }

    #[test]
    fn what_is_added_or_allowed_breaks_nobody() {
        let optional = json!({ "name": "project", "in": "query", "required": false, "schema": {} });
        for (pointer, value) in [
            ("/paths/~1keys".to_owned(), json!({ "get": {} })),
            (format!("{GET}/parameters/-"), optional),
            (format!("{GET}/parameters/0/schema/minimum"), json!(0)),
            (format!("{GET}/parameters/0/schema/type"), json!("number")),
            (format!("{GET}/parameters/1/schema/enum/-"), json!("lost")),
            (format!("{GET}/security"), json!([])),
            (format!("{GET}/summary"), json!("Other words")),
            (format!("{JOB}/properties/name"), json!({ "type": "string" })),
            (format!("{JOB}/properties/state/enum/-"), json!("lost")),
            (format!("{JOB}/required/-"), json!("after")),
        ] {
            assert_eq!(said(&pointer, Some(value)), Vec::<String>::new(), "{pointer}");
        }
        assert_eq!(said(&format!("{GET}/responses/404"), None), Vec::<String>::new());
        let choice = |fields: Value| {
            let variants = json!([{ "type": "string" }, { "type": "object", "properties": fields }]);
            json!({ "paths": { "/a": { "post": { "requestBody": { "content": { "application/json": { "schema": { "anyOf": variants } } } } } } } })
        };
        let body = |schema: Value| {
            json!({
                "paths": { "/a": { "post": { "requestBody": { "content": { "application/json": { "schema": schema } } } } } },
                "components": { "schemas": { "Job": { "type": "object" }, "Other": { "type": "object" } } },
            })
        };
        let (job, other) =
            (json!({ "$ref": "#/components/schemas/Job" }), json!({ "$ref": "#/components/schemas/Other" }));
        let more = body(json!({ "anyOf": [job.clone(), other.clone()] }));
        assert_eq!(breaking(&body(job.clone()), &more), Vec::<String>::new());
        assert!(!breaking(&more, &body(job)).is_empty());
        let (two, three) = (json!({ "a": {}, "b": {} }), json!({ "a": {}, "b": {}, "c": {} }));
        assert_eq!(breaking(&choice(two.clone()), &choice(three.clone())), Vec::<String>::new());
        assert_eq!(breaking(&choice(three), &choice(two)).len(), 1);
    }
}
