//! Writes a value as YAML that people edit.

use serde_json::{Map, Value};

/// Lists of scalars up to this length stay on one line.
const LINE_CHARS: usize = 90;
/// What is something else than a text without quotes, here or in other programs.
const RESERVED: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf"];

/// A document with a line end.
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => object(&mut text, fields, 0),
        other => {
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
    text
}

fn object(text: &mut String, fields: &Map<String, Value>, depth: usize) {
    for (at, (key, value)) in fields.iter().enumerate() {
        // The first field of a list's entry stands behind its dash.
        if at > 0 || text.is_empty() || text.ends_with('\n') {
            indent(text, depth);
        }
        text.push_str(&plain_or_quoted(key));
        text.push(':');
        below(text, value, depth);
    }
}

/// A value behind `key:`.
fn below(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            object(text, fields, depth + 1);
        }
        Value::Array(items) if !is_short(items) => {
            text.push('\n');
            for item in items {
                indent(text, depth + 1);
                text.push_str("- ");
                match item {
                    Value::Object(fields) if !fields.is_empty() => object(text, fields, depth + 2),
                    Value::String(lines) if is_block(lines) => block(text, lines, depth + 2),
                    other => {
                        text.push_str(&inline(other));
                        text.push('\n');
                    }
                }
            }
        }
        Value::String(lines) if is_block(lines) => {
            text.push(' ');
            block(text, lines, depth + 1);
        }
        other => {
            text.push(' ');
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn is_short(items: &[Value]) -> bool {
    let is_scalar = |item: &Value| !item.is_array() && !item.is_object();
    items.is_empty()
        || (items.iter().all(is_scalar)
            && items.iter().map(|item| inline(item).chars().count() + 2).sum::<usize>() <= LINE_CHARS)
}

/// JSON is YAML. Texts that cannot be taken for anything else need no quotes.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

fn plain_or_quoted(text: &str) -> String {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ' | '%');
    let is_reserved = RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word));
    match starts_well && text.chars().all(is_plain) && !text.ends_with(' ') && !is_reserved {
        true => text.to_owned(),
        false => Value::String(text.to_owned()).to_string(),
    }
}

/// Whether a text can be written line by line as it is.
fn is_block(text: &str) -> bool {
    let is_clean = |c: char| c == '\n' || c == '\t' || !c.is_control();
    text.contains('\n') && !text.starts_with([' ', '\n', '\t']) && text.chars().all(is_clean)
}

fn block(text: &mut String, lines: &str, depth: usize) {
    let keeps = match (lines.ends_with('\n'), lines.ends_with("\n\n")) {
        (false, _) => "|-",
        (true, false) => "|",
        (true, true) => "|+",
    };
    text.push_str(keeps);
    text.push('\n');
    for line in lines.strip_suffix('\n').unwrap_or(lines).split('\n') {
        if !line.is_empty() {
            indent(text, depth);
        }
        text.push_str(line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use gaffer_domain::document::Language;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_specification_is_easy_to_read() {
        let spec = json!({
            "name": "nightly build", "priority": 50, "labels": {"yes": "no", "1.10": "1.10"},
            "tasks": [
                {"name": "a", "script": "#!/bin/sh\nset -e\n\n  echo 'x'\n", "restart": {"success": [3]}},
                {"name": "b", "command": ["sh", "-c", "echo $A"], "depends_on": ["a"], "env": {}},
            ],
        });
        let expected = "\
name: nightly build
priority: 50
labels:
  \"yes\": \"no\"
  \"1.10\": \"1.10\"
tasks:
  - name: a
    script: |
      #!/bin/sh
      set -e

        echo 'x'
    restart:
      success: [3]
  - name: b
    command: [sh, \"-c\", \"echo $A\"]
    depends_on: [a]
    env: {}
";
        // The order of the fields is that of the map.
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let trimmed = |text: &str| text.replace("  - ", "    ");
        assert_eq!(sorted(&trimmed(&write(&spec))), sorted(&trimmed(expected)), "{}", write(&spec));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let texts = [
            "",
            " ",
            "a",
            "a b ",
            "a: b",
            "a #b",
            "# a",
            "- a",
            "1",
            "1e3",
            "~",
            "null",
            "True",
            "@a",
            "a\nb",
            "a\n",
            "a\n\n",
            "\n",
            "\na",
            " a\nb",
            "\ta\nb",
            "a\tb",
            "a\n\tb\n",
            "a\r\nb",
            "a\u{7}b",
            "ä ö",
            "\"",
            "'",
            "a\\b",
            "{a",
            "[a",
            "%a",
            "a%",
            "a,b",
            "|",
            ">\n",
            "a\n  b\n c",
            "a  \nb",
            "---",
            "--- \na",
            "...\n---\n",
            "a\n---\nb\n",
        ];
        for text in texts {
            for value in [
                json!({"a": text}),
                json!({text: "a"}),
                json!({"a": [text, text]}),
                json!({"a": {"b": [[text], {"c": text}]}}),
                json!({"a": [{"b": text, "c": [1, true, null, 1.5]}, [], {}]}),
            ] {
                let written = write(&value);
                let read = Language::Yaml.read(&written).map(|document| document.to_json());
                let read: Value = serde_json::from_str(&read.unwrap_or_else(|error| format!("{error:?}")))
                    .unwrap_or_else(|error| json!(error.to_string()));
                assert_eq!(read, value, "{written}");
            }
        }
    }
}
