//! Documents in JSON, YAML and TOML, and specifications in them: what is accepted has a normal form that means the same, and
//! what is refused is refused with a short list of reasons.

use gaffer_domain::document::{Language, Value};
use gaffer_domain::spec::{JobSpec, STORED_VERSION};

/// What is said of one document at most, the line about the rest included.
const MOST_MISTAKES: usize = 51;

/// Reads a document in each language.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for language in [Language::Json, Language::Yaml, Language::Toml] {
        if let Ok(document) = language.read(text) {
            check_document(&document);
        }
    }
    Language::guess(text);
}

fn check_document(document: &Value) {
    let json = document.to_json();
    let again = Language::Json.read(&json).expect("a document can be written as JSON");
    assert_eq!(again.to_json(), json);
    match JobSpec::of(document) {
        Err(mistakes) => {
            assert!((1..=MOST_MISTAKES).contains(&mistakes.len()), "{} mistakes", mistakes.len());
        }
        Ok(spec) => {
            let normal = serde_json::to_value(&spec).expect("a specification has JSON");
            assert_eq!(JobSpec::read_stored(STORED_VERSION, &normal).as_ref(), Ok(&spec));
            assert_eq!(JobSpec::of(&again).as_ref(), Ok(&spec));
        }
    }
}

/// A specification in each language, and documents that parsers find hard.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "name: nightly\ntype: batch\npriority: 50\nconstraints: [\"arch == arm64\", \"memory >= 8GiB\"]\n\
         tasks:\n  - name: prepare\n    command: [./prepare.sh, --fast]\n    env: {MODE: full}\n    secrets: [DB]\n    \
         resources: {cpu: 1, memory: 512MiB}\n    timeout: 30m\n    restart: {policy: on-failure, limit: 3, delay: 5s}\n  \
         - name: train\n    driver: docker\n    image: busybox\n    command: [sh, -c, \"echo $GAFFER_TASK_INDEX\"]\n    \
         depends_on: [prepare]\n    array: 0-99%10\n    ports: [\"8080:80\"]\n    volumes: [\"/data:/data:ro\"]\n",
        "name = \"a\"\ntype = \"service\"\n[[tasks]]\nname = \"web\"\ncommand = [\"serve\"]\ncount = 3\n\
         health = {http = \"/health\", port = 80, interval = \"10s\"}\n",
        r#"{"name":"p","parameters":{"n":{"type":"number","default":3}},"command":["echo","{{ n }}"],"array":"1-{{ n }}"}"#,
        r#"{"command":["true"],"lost_after":"2m","stop":{"signal":"SIGINT","grace":"20s"},"retention":"7d","pin":true}"#,
        "a: &x [1, 2]\nb: [*x, *x]\nc: |\n  text\n  more\nd: >-\n  folded\n  text\ne: !!str 5\n? f\n: {g: h, \"i\": 'j'}\n",
        "a = 1\nb.c = [1, 2.5, true, 1979-05-27T07:32:00Z]\n[d.e]\nf = '''x\ny'''\n[[g]]\nh = {i = \"\\u00e9\"}\n",
        "%YAML 1.2\n---\n- 0x1f\n- 1e999\n- .nan\n- ~\n- \"\\ud83d\"\n...\n",
        "script: |\n  #!/bin/sh\n  set -e\n  echo \"$GAFFER_JOB_ID\"\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
