//! The tables of the documentation that come from the tables of a specification's fields. `cargo run -p gaffer-e2e --bin
//! generate-docs` writes them; a test compares.

use gaffer_domain::spec::field::{ANY_NAME, Absent, Field, Kind, Most, Tables, with_pointers};
use gaffer_domain::spec::{CONTAINER, JOB_FIELDS, PARAMETER, TASK};

/// The pages that have such tables, between `<!-- fields: NAME -->` and `<!-- end -->`.
pub const PAGES: [&str; 2] = ["docs/job-specification.md", "docs/containers.md"];

const END: &str = "<!-- end -->";

/// A page with the tables as they should be.
pub fn with_tables(page: &str) -> String {
    let mut text = String::new();
    let mut rest = page;
    while let Some(at) = rest.find("<!-- fields: ") {
        let (before, marker) = rest.split_at(at);
        let (marker, after) = marker.split_once('\n').unwrap();
        let name = marker.trim_start_matches("<!-- fields: ").trim_end_matches(" -->");
        let fields: Tables = match name {
            "job" => JOB_FIELDS,
            "task" => &[TASK],
            "container" => &[CONTAINER],
            "parameter" => &[PARAMETER],
            other => panic!("there is no table of fields named {other}"),
        };
        text.push_str(&format!("{before}{marker}\n{}{END}", table(fields)));
        rest = after.split_once(END).unwrap_or_else(|| panic!("{name} has no end")).1;
    }
    text + rest
}

fn table(fields: Tables) -> String {
    let mut text =
        "| field | type | default | limits | option | meaning |\n|---|---|---|---|---|---|\n".to_owned();
    for (pointer, field) in with_pointers(fields) {
        let name = pointer.trim_start_matches('/').replace('/', ".").replace(ANY_NAME, "NAME");
        let option = field.flag.map_or(String::new(), |flag| format!("`--{}`", flag.long));
        let cells = [
            format!("`{name}`"),
            type_of(&field.kind),
            default_of(field),
            limits_of(field),
            option,
            meaning_of(field),
        ];
        text.push_str(&format!("| {} |\n", cells.join(" | ").replace("  ", " ")));
    }
    text
}

fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "boolean".to_owned(),
        Kind::Whole(_) => "integer".to_owned(),
        Kind::Time(_) => "time".to_owned(),
        Kind::Size(_) => "bytes".to_owned(),
        Kind::Cpus(_) => "CPUs".to_owned(),
        Kind::Words(words) => {
            let words = words().into_iter().filter(|word| !word.meaning.is_empty());
            words.map(|word| format!("`{}`", word.word)).collect::<Vec<_>>().join(", ")
        }
        Kind::Text { .. } | Kind::Name { .. } => "text".to_owned(),
        Kind::AllOr(_) => "`all` or integer".to_owned(),
        Kind::Arguments(_) => "list of text".to_owned(),
        Kind::Items => "list of text, map of lists, or `worker`".to_owned(),
        Kind::List { item: Kind::Object(_), noun: noun @ "tasks", .. } => format!("list of {noun}"),
        Kind::List { item, .. } => format!("list of {}", type_of(item)),
        Kind::Map { value, .. } => format!("map of {}", type_of(value)),
        Kind::Object(fields) => {
            let names = fields.iter().copied().flatten().map(|field| field.name.replace(ANY_NAME, "NAME"));
            format!("`{{{}}}`", names.collect::<Vec<_>>().join(", "))
        }
        Kind::WordOr { word, fields } => {
            format!("{}, or {}", format_args!("`{word}`"), type_of(&Kind::Object(fields)))
        }
    }
}

fn default_of(field: &Field) -> String {
    match field.absent {
        Absent::Is(value) => format!("`{value}`"),
        Absent::Means(meaning) => meaning.to_owned(),
        Absent::Refused => "required".to_owned(),
    }
}

fn limits_of(field: &Field) -> String {
    let mut limits = limits_of_kind(&field.kind);
    limits.extend(field.rules());
    limits.join("; ")
}

fn limits_of_kind(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Whole(range) | Kind::AllOr(range) => {
            vec![format!("{} to {}", grouped(*range.start()), grouped(*range.end()))]
        }
        Kind::Time(range) => vec![format!("{} to {}", range.start(), range.end())],
        Kind::Size(range) => vec![format!("{} to {}", range.start(), range.end())],
        Kind::Cpus(range) => vec![format!("{} to {}", range.start(), range.end())],
        Kind::Name { max_len, others, .. } => {
            let others: Vec<String> = others.chars().map(String::from).collect();
            vec![format!("up to {max_len} of `a-z A-Z 0-9 {}`, first a letter or digit", others.join(" "))]
        }
        Kind::Text { most: Most::Bytes(most), .. } | Kind::Arguments(most) => vec![bytes(*most)],
        Kind::Text { most: Most::Chars(most), .. } => vec![format!("up to {most} characters")],
        Kind::List { noun, max, item } => {
            let most = (*max < usize::MAX).then(|| format!("up to {max} {noun}"));
            let of_item = match item {
                Kind::Object(_) => Vec::new(),
                item => limits_of_kind(item),
            };
            most.into_iter().chain(of_item).collect()
        }
        Kind::Map { noun, max, key, value } => {
            let most = (*max < usize::MAX).then(|| format!("up to {max} {noun}"));
            let keys = limits_of_kind(key).into_iter().map(|limit| format!("keys {limit}"));
            let values = limits_of_kind(value).into_iter().map(|limit| format!("{limit} each"));
            most.into_iter().chain(keys).chain(values).collect()
        }
        _ => Vec::new(),
    }
}

fn meaning_of(field: &Field) -> String {
    let mut sentences = vec![field.summary.to_owned()];
    if let Kind::Words(words) = &field.kind {
        let words: Vec<String> = words()
            .iter()
            .filter(|word| !word.meaning.is_empty())
            .map(|word| format!("`{}`: {}", word.word, word.meaning))
            .collect();
        sentences.push(words.join("; "));
    }
    if !field.details.is_empty() {
        sentences.push(field.details.trim_end_matches('.').to_owned());
    }
    sentences.join(". ")
}

/// `up to 512 KiB`
fn bytes(most: usize) -> String {
    match most.is_multiple_of(1024) && most > 1024 {
        true => format!("up to {} KiB", most / 1024),
        false => format!("up to {} bytes", grouped(most as i64)),
    }
}

/// `100,000`
fn grouped(number: i64) -> String {
    let digits = number.abs().to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    format!("{}{}", if number < 0 { "-" } else { "" }, groups.join(","))
}
