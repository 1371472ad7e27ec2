//! Embedded style sheets, modules and images, addressed by content hash, so that browsers can cache them forever.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::super::error::Error;
use crate::render;

const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Made by the program, not kept as a file.
const ANSI_COLOURS: &str = "ansi.css";

#[derive(RustEmbed)]
#[folder = "../../static/"]
struct Files;

struct Asset {
    content_type: &'static str,
    body: Bytes,
}

#[derive(Default)]
struct Assets {
    /// By the last part of their addresses.
    by_address: HashMap<String, Asset>,
    /// That part, by their names.
    addresses: HashMap<String, String>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut assets = Assets::default();
    for name in Files::iter() {
        assets.add(&name);
    }
    assets.add(ANSI_COLOURS);
    assets
});

impl Assets {
    /// Adds a file, and before it the modules that it imports: their addresses stand in it. Returns its own.
    fn add(&mut self, name: &str) -> Option<String> {
        if let Some(known) = self.addresses.get(name) {
            return Some(known.clone());
        }
        let (stem, extension) = name.rsplit_once('.')?;
        let content_type = match extension {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "application/octet-stream",
        };
        let mut body = match name {
            ANSI_COLOURS => render::stylesheet().into_bytes(),
            _ => Files::get(name)?.data.into_owned(),
        };
        if extension == "js" {
            body = self.with_addresses(&String::from_utf8_lossy(&body)).into_bytes();
        }
        let digest = Sha256::digest(&body);
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let address = format!("{stem}-{hash}.{extension}");
        self.addresses.insert(name.to_owned(), address.clone());
        self.by_address.insert(address.clone(), Asset { content_type, body: body.into() });
        Some(address)
    }

    /// A module whose imports name the addresses of what they import.
    fn with_addresses(&mut self, module: &str) -> String {
        let mut text = String::with_capacity(module.len());
        for line in module.lines() {
            let import = line.starts_with("import ").then(|| line.split_once("\"./")).flatten();
            let imported = import.and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
            match imported.and_then(|(before, (name, behind))| Some((before, self.add(name)?, behind))) {
                Some((before, address, behind)) => text.push_str(&format!("{before}\"./{address}\"{behind}")),
                None => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

/// Where browsers find an asset.
pub fn address(name: &str) -> String {
    match ASSETS.addresses.get(name) {
        Some(address) => format!("/static/{address}"),
        None => format!("/static/{name}"),
    }
}

/// `GET /static/{name}`
pub async fn serve(Path(name): Path<String>) -> Result<Response, Error> {
    let asset = ASSETS.by_address.get(&name).ok_or_else(|| Error::NotFound("such file".to_owned()))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type)),
        (header::CACHE_CONTROL, FOR_EVER),
    ];
    Ok((headers, asset.body.clone()).into_response())
}

/// `GET /favicon.ico`: what browsers ask for when they have not read the page.
pub async fn favicon() -> Redirect {
    Redirect::to(&address("favicon.svg"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_import_leads_to_an_asset() {
        let mut imports = 0;
        for asset in
            ASSETS.by_address.values().filter(|asset| asset.content_type.starts_with("text/javascript"))
        {
            let text = std::str::from_utf8(&asset.body).unwrap();
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let name = line.split("\"./").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                assert!(ASSETS.by_address.contains_key(name), "{line}");
                imports += 1;
            }
        }
        assert!(imports > 3);
    }

    #[test]
    fn modules_make_no_markup_and_templates_have_nothing_inline() {
        for name in Files::iter().filter(|name| name.ends_with(".js")) {
            let module = String::from_utf8(Files::get(&name).unwrap().data.into_owned()).unwrap();
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"]
            {
                let is_the_only_place = (&*name, forbidden) == ("fragment.js", "DOMParser");
                assert!(is_the_only_place || !module.contains(forbidden), "{name} has {forbidden}");
            }
        }
        let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/../../templates");
        for entry in std::fs::read_dir(templates).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for forbidden in [" style=", "<style", "<script>", " onclick", " onload", "|safe", "javascript:"]
            {
                assert!(!text.contains(forbidden), "{} has {forbidden}", path.display());
            }
        }
    }

    #[test]
    fn every_address_in_a_template_begins_with_the_base_path() {
        let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/../../templates");
        let mut addresses = 0;
        for entry in std::fs::read_dir(templates).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for name in [" href=\"", " action=\"", " src=\"", " data-live=\"", " data-lines=\"", "; url="] {
                for rest in text.split(name).skip(1) {
                    // Into the page itself; what jobs print, which leads anywhere; and on to the sign-in provider.
                    let is_other = rest.starts_with('#')
                        || rest.starts_with("{{ href }}\" rel=\"noopener")
                        || (rest.starts_with("{{ to }}") && path.ends_with("continue.html"));
                    let is_below = ["{{ frame.base }}", "{{ frame.base_of(", "{{ frame.asset(", "{{ base }}"]
                        .iter()
                        .any(|beginning| rest.starts_with(beginning));
                    assert!(
                        is_other || is_below,
                        "{}: {name}{}",
                        path.display(),
                        &rest[..rest.len().min(60)]
                    );
                    addresses += 1;
                }
            }
        }
        assert!(addresses > 80, "{addresses}");
    }

    #[test]
    fn the_assets_of_a_page_are_small() {
        let bytes: usize =
            ASSETS.by_address.values().map(|asset| zstd::bulk::compress(&asset.body, 3).unwrap().len()).sum();
        assert!(bytes < 60_000, "{bytes}");
    }
}
