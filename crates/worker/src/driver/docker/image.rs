//! Pulls images by pull policy, with progress, and identifies them by digest.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures::StreamExt as _;
use gaffer_domain::quantity::Bytes;
use serde::Deserialize;
use tokio::time::timeout;

use super::super::StartError;
use super::daemon::{message, status};

/// Interval of progress messages during a pull.
const NOTE_INTERVAL: Duration = Duration::from_secs(3);
/// A registry without data for this long is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// Where Docker keeps the credentials of the registry that needs no name.
const DEFAULT_REGISTRY: &str = "https://index.docker.io/v1/";

/// Fetches an image, or what of it has changed. `note` hears how it goes.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    credentials: Option<DockerCredentials>,
    note: &(dyn Fn(String) + Send + Sync),
) -> Result<(), StartError> {
    let reference = complete(image);
    let options = CreateImageOptions { from_image: Some(reference.clone()), ..CreateImageOptions::default() };
    let is_anonymous = credentials.is_none();
    let mut layers = Layers::default();
    let began = Instant::now();
    note(format!("pulling {reference}"));
    let mut noted = Instant::now();
    let mut steps = std::pin::pin!(docker.create_image(Some(options), None, credentials));
    loop {
        let step = timeout(SILENCE_LIMIT, steps.next()).await.map_err(|_| {
            let minutes = SILENCE_LIMIT.as_secs() / 60;
            StartError::other(format!(
                "cannot pull {reference}: no data from its registry for {minutes} minutes"
            ))
        })?;
        match step {
            None => break,
            Some(Err(error)) => return Err(refused(&reference, &error, is_anonymous)),
            Some(Ok(CreateImageInfo { error_detail: Some(detail), .. })) => {
                let error = Error::DockerStreamError { error: detail.message.unwrap_or_default() };
                return Err(refused(&reference, &error, is_anonymous));
            }
            Some(Ok(step)) => layers.note(step),
        }
        if noted.elapsed() >= NOTE_INTERVAL {
            noted = Instant::now();
            note(format!("pulling {reference}{layers}"));
        }
    }
    note(format!("pulled {reference} in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Why there is no such image.
pub(super) fn missing(image: &str) -> StartError {
    StartError::other(format!(
        "image not found: {image} is not on this worker, and its pull policy is never: pull it there, or write \
         `pull: missing`"
    ))
}

/// Exactly which image that is: as its registry knows it, else its own digest.
pub(super) async fn digest(docker: &Docker, id: &str) -> String {
    let inspected = docker.inspect_image(id).await.ok();
    let known = inspected.and_then(|image| image.repo_digests).and_then(|digests| digests.into_iter().next());
    known.unwrap_or_else(|| id.to_owned())
}

fn refused(reference: &str, error: &Error, is_anonymous: bool) -> StartError {
    let said = message(error);
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let hint = if is_anonymous {
        "if the image is private, this worker needs credentials (`docker login`, or DOCKER_CONFIG)"
    } else {
        "check the worker's credentials for the registry"
    };
    let sentence = if has(&["unauthorized", "authentication required", "access denied", "forbidden"]) {
        format!("pull refused: {reference} does not exist or is private; {hint}")
    } else if status(error) == Some(404) || has(&["not found", "manifest unknown", "does not exist"]) {
        format!(
            "image not found: {reference} is neither on this worker nor in its registry; check its name and tag"
        )
    } else if has(&["no such host", "connection refused", "timeout", "network is unreachable", "dial tcp"]) {
        format!("cannot pull {reference}: its registry cannot be reached from this worker")
    } else {
        format!("cannot pull {reference}")
    };
    StartError::other(format!("{sentence} ({said})"))
}

/// With the tag that is meant where there is none: without it the daemon would fetch all there are.
fn complete(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The registry that an image comes from, as credentials are filed under it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => DEFAULT_REGISTRY,
    }
}

/// What `docker login` keeps.
#[derive(Deserialize)]
struct CredentialsFile {
    #[serde(default)]
    auths: HashMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for the registry of an image; none if the file is missing, damaged or has none. (Those that Docker
/// keeps outside of the file, with a credential helper, cannot be had.) Blocks.
pub(super) fn credentials_for(file: &Path, image: &str) -> Option<DockerCredentials> {
    let registry = registry(image);
    let text = std::fs::read(file).ok()?;
    let parsed: Result<CredentialsFile, _> = serde_json::from_slice(&text);
    let mut auths = match parsed {
        Ok(parsed) => parsed.auths,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read credentials for registries");
            return None;
        }
    };
    let login = auths.remove(registry).or_else(|| auths.remove(&format!("https://{registry}")))?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(login.auth.unwrap_or_default()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = match decoded.split_once(':') {
        Some((username, password)) => (Some(username.to_owned()), Some(password.to_owned())),
        None => (None, None),
    };
    if username.is_none() && login.identitytoken.is_none() {
        return None;
    }
    Some(DockerCredentials {
        username,
        password,
        identitytoken: login.identitytoken,
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    })
}

/// How far each layer of an image is, in bytes.
#[derive(Debug, Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn note(&mut self, step: CreateImageInfo) {
        let CreateImageInfo { id: Some(id), status, progress_detail, .. } = step else { return };
        let layer = self.0.entry(id).or_default();
        let positive = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        if let Some(detail) = progress_detail
            && status.as_deref() == Some("Downloading")
        {
            *layer = (positive(detail.current).unwrap_or(layer.0), positive(detail.total).unwrap_or(layer.1));
        } else if matches!(status.as_deref(), Some("Download complete" | "Pull complete" | "Extracting")) {
            layer.0 = layer.1;
        }
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (done, total) = self.0.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        if total == 0 {
            return Ok(());
        }
        f.write_str(": ")?;
        write!(f, "{} of {}", rounded(done), rounded(total))?;
        f.write_char(' ')?;
        write!(f, "({} %)", done * 100 / total)
    }
}

/// To whole mebibytes, which is all that anybody wants to know.
fn rounded(bytes: u64) -> Bytes {
    const MEBIBYTE: u64 = 1 << 20;
    Bytes(bytes.div_ceil(MEBIBYTE) * MEBIBYTE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (image, expected) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("lab:5000/tools/train", "lab:5000/tools/train:latest"),
            ("lab:5000/tools/train:v3", "lab:5000/tools/train:v3"),
            ("busybox@sha256:00", "busybox@sha256:00"),
        ] {
            assert_eq!(complete(image), expected);
        }
    }

    #[test]
    fn credentials_are_found_by_the_registry_of_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = serde_json::json!({"auths": {
            DEFAULT_REGISTRY: {"auth": encoded("ana:one:two")},
            "https://lab:5000": {"auth": encoded("bo:three")},
            "empty.example": {},
        }, "credsStore": "desktop"});
        std::fs::write(&file, config.to_string()).unwrap();
        let login = |image: &str| {
            let found = credentials_for(&file, image)?;
            Some((found.username.unwrap(), found.password.unwrap()))
        };
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(login("busybox"), pair("ana", "one:two"));
        assert_eq!(login("library/busybox"), pair("ana", "one:two"));
        assert_eq!(login("lab:5000/train"), pair("bo", "three"));
        assert_eq!(login("empty.example/x"), None);
        assert_eq!(login("other.example/x"), None);
        std::fs::write(&file, "no json").unwrap();
        assert_eq!(login("busybox"), None);
        assert!(credentials_for(&dir.path().join("none"), "x").is_none());
    }

    #[test]
    fn a_refusal_says_what_to_look_at() {
        let said = |text: &str| {
            let error = Error::DockerStreamError { error: text.to_owned() };
            refused("x:latest", &error, true).message
        };
        assert!(
            said("manifest unknown: x").starts_with("image not found: x:latest is neither on this worker")
        );
        assert!(said("pull access denied for x").contains("docker login"));
        assert!(said("dial tcp: lookup lab: no such host").contains("cannot be reached"));
        assert!(said("out of space").starts_with("cannot pull x:latest (out of space)"));
    }

    #[test]
    fn progress_is_the_sum_over_the_layers() {
        let mut layers = Layers::default();
        assert_eq!(layers.to_string(), "");
        let step = |id: &str, status: &str, current: i64, total: i64| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(bollard::models::ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        };
        layers.note(step("a", "Downloading", 1 << 20, 10 << 20));
        layers.note(step("b", "Downloading", 5 << 20, 30 << 20));
        assert_eq!(layers.to_string(), ": 6MiB of 40MiB (15 %)");
        layers.note(step("b", "Download complete", 0, 0));
        assert_eq!(layers.to_string(), ": 31MiB of 40MiB (77 %)");
    }
}
