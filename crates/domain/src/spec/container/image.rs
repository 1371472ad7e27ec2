//! The names of images, as registries have them.

use super::super::node::Node;
use crate::quantity::shown;

pub(super) const MAX_IMAGE_LEN: usize = 512;

/// Reads `image`.
pub(super) fn image(node: &Node<'_>) -> Option<String> {
    let image = node.own_text()?;
    if image.len() > MAX_IMAGE_LEN {
        let bytes = image.len();
        return node.wrong(format!(
            "the name of the image has {bytes} bytes, more than the {MAX_IMAGE_LEN} that are allowed"
        ));
    }
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let is_shaped = image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.ends_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !image.contains("//");
    if !image.chars().all(is_known) || !is_shaped {
        return node.wrong(format!(
            "{} cannot be the name of an image: write something like busybox:1.36 or registry.lab:5000/tools/train:v3",
            shown(image)
        ));
    }
    if repository(image).contains(|c: char| c.is_ascii_uppercase()) {
        return node
            .wrong(format!("{}: an image's name is written in lower case, except its tag", shown(image)));
    }
    Some(image.to_owned())
}

/// The name of an image between the registry and the tag or digest.
pub(in crate::spec) fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let path = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost") => rest,
        _ => image,
    };
    match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => path,
    }
}
