//! What people read is plain technical English.

use std::fs;
use std::path::PathBuf;

use super::{is_test, production, root, sources};

/// Phrases that describe what the field has a word for, as this project's texts once did.
const DIALECT: [&str; 29] = [
    "makes no sense",
    "said nothing",
    "flew by",
    "good until",
    "whoever",
    "nobody's",
    "as mighty as",
    "vouch",
    "for want of",
    "inside of",
    "what is wanted",
    "is wanted here",
    "goes on",
    "is over",
    "are over",
    "so many",
    "so long",
    "of its own",
    "takes nothing",
    "take nothing",
    "heard of",
    "under way",
    "worker by worker",
    "in the world",
    "which gaffer",
    "what stands",
    "hung up",
    "to be mended",
    "dial in",
];

/// Words that comments and names of this project once had, and no reader of English expects there.
const IN_CODE: [&str; 2] = ["whoever", "of its own"];

/// The string literals of a Rust file without its comments and tests, continued lines joined.
fn literals(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        production(text).lines().map(str::trim_start).filter(|line| !line.starts_with("//")).collect();
    let joined = code.join("\n").replace("\\\n", "").replace("'\"'", "").replace("\\\"", "'");
    joined.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All that users read: documentation, pages, settings, and what the program prints.
fn texts_for_people() -> Vec<(String, String)> {
    let root = root();
    let named = ["README.md", "ARCHITECTURE.md", "SECURITY.md", ".env.master.example", ".env.worker.example"];
    let mut paths: Vec<PathBuf> = named.iter().map(|name| root.join(name)).collect();
    for dir in ["docs", "templates", "static"] {
        let files = fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "md" || extension == "html" || extension == "js")
        }));
    }
    let mut texts: Vec<(String, String)> = paths
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    let printed = sources().into_iter().filter(|(path, _)| {
        // The reader of specifications has its texts beside the fields.
        !is_test(path) && !path.starts_with("crates/domain/src/spec")
    });
    texts.extend(printed.map(|(path, text)| (path, literals(&text).join("\n"))));
    texts
}

#[test]
fn texts_for_people_are_in_plain_english() {
    let found: Vec<String> = texts_for_people()
        .into_iter()
        .flat_map(|(path, text)| {
            let lower = text.to_lowercase();
            let said = DIALECT.iter().filter(|phrase| lower.contains(**phrase));
            said.map(|phrase| format!("{path}: {phrase:?}")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, Vec::<String>::new(), "use the field's word");
}

#[test]
fn comments_and_names_are_in_plain_english() {
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path != "crates/e2e/tests/tidy/wording.rs")
        .flat_map(|(path, text)| {
            let lower = text.to_lowercase();
            let said = IN_CODE.iter().filter(|word| lower.contains(**word));
            said.map(|word| format!("{path}: {word:?}")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        found,
        Vec::<String>::new(),
        "name who it is: a client, a caller, a process; separate, another, its own"
    );
}
