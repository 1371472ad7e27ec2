//! The description of the API: no route is without one, the committed one is current, and everything in it is explained.

use std::fs;

use gaffer_e2e::openapi;

use super::{in_master, root};

#[test]
fn no_route_of_the_api_exists_without_its_description() {
    // `Api` takes a route together with its description. Pages and the workers' door are no part of the API; a master that
    // stands by answers nothing but its state.
    let allowed = ["http/description/routes.rs", "http/pages.rs", "http/worker_door.rs"];
    let is_other = |path: &str| path.starts_with("http") && !allowed.contains(&path);
    let with_routes = in_master(is_other, &[".route(\"", ".route_service(", ".nest_service("]);
    assert_eq!(with_routes, ["crates/master/src/http.rs"]);
    let http = fs::read_to_string(root().join("crates/master/src/http.rs")).unwrap();
    let routes: Vec<&str> = http.lines().filter(|line| line.contains(".route(\"")).map(str::trim).collect();
    assert_eq!(
        routes,
        [
            ".route(\"/livez\", get(health::livez))",
            ".route(\"/readyz\", get(health::standby))",
            ".route(\"/version\", get(health::version));",
            "operations = operations.route(\"/metrics\", get(metrics::standby));",
        ]
    );
}

#[test]
fn the_committed_description_of_the_api_is_the_present_one() {
    let (committed, present) = (openapi::committed(&root()).unwrap(), openapi::present());
    let notes = fs::read_to_string(root().join(openapi::NOTES)).unwrap();
    // Said first: what is only new needs nothing but the command below.
    assert_eq!(openapi::acceptable(&committed, &present, &notes), Ok(()));
    assert!(committed == present, "run: cargo run -p gaffer-e2e --bin generate-docs");
}

#[test]
fn everything_in_the_description_of_the_api_is_explained() {
    let document = openapi::present();
    let mut silent = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let at = format!("{method} {path}");
            let is_silent = |value: &serde_json::Value| value.as_str().is_none_or(str::is_empty);
            if is_silent(&operation["summary"])
                || operation["summary"].as_str().is_some_and(|text| text.len() > 60)
            {
                silent.push(format!("{at}: summary"));
            }
            assert!(ids.insert(operation["operationId"].to_string()), "{at}: {}", operation["operationId"]);
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in &parameters {
                if is_silent(&parameter["description"])
                    || parameter["schema"].as_object().is_none_or(|schema| schema.is_empty())
                {
                    silent.push(format!("{at}: {}", parameter["name"]));
                }
            }
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
            if in_path != path.matches('{').count() {
                silent.push(format!("{at}: parameters of the path"));
            }
            let responses = operation["responses"].as_object().unwrap();
            let is_open = operation["security"].as_array().unwrap().is_empty();
            let expected: &[&str] =
                if is_open { &["400"] } else { &["400", "401", "403", "429", "500", "503"] };
            silent.extend(
                expected
                    .iter()
                    .filter(|status| !responses.contains_key(**status))
                    .map(|status| format!("{at}: {status}")),
            );
            if !responses.keys().any(|status| status.starts_with('2')) {
                silent.push(format!("{at}: success"));
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let fields = schema["properties"].as_object().into_iter().flatten();
        let described = |field: &serde_json::Value| {
            // A field that is one of another object is described there.
            let target = field["$ref"].as_str().filter(|target| target.contains("/properties/"));
            let target = target.and_then(|target| document.pointer(target.strip_prefix('#')?));
            let of = |field: &serde_json::Value| {
                field["description"].as_str().is_some_and(|text| !text.is_empty())
            };
            of(field) || target.is_some_and(of)
        };
        let undescribed = fields.filter(|(_, field)| !described(field));
        silent.extend(undescribed.map(|(field, _)| format!("{name}.{field}")));
    }
    assert_eq!(silent, Vec::<String>::new());

    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    let dangling: Vec<&str> = references.filter(|target| document.pointer(target).is_none()).collect();
    assert_eq!(dangling, Vec::<&str>::new());

    let page = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let statuses = document["components"]["responses"].as_object().unwrap().values();
    let codes = statuses.flat_map(|status| {
        status["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap()
    });
    let missing: Vec<&str> =
        codes.filter_map(|code| code.as_str()).filter(|code| !page.contains(&format!("`{code}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "docs/api.md has all codes");
    for name in ["Job", "Task", "Attempt", "Worker", "Key", "Event"] {
        let fields = document["components"]["schemas"][name]["properties"].as_object().unwrap().keys();
        let missing: Vec<&String> = fields.filter(|field| !page.contains(&format!("`{field}`"))).collect();
        assert_eq!(missing, Vec::<&String>::new(), "docs/api.md has all fields of {name}");
    }
}
