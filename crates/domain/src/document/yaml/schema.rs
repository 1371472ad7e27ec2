//! Resolves YAML scalars with the core schema of YAML 1.2.

use saphyr_parser::{ScalarStyle, Tag};

use super::super::{Place, ScalarKind, SyntaxError};
use super::core_tag;

pub(super) fn kind_of(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    place: Place,
) -> Result<ScalarKind, SyntaxError> {
    let by_look = match style {
        ScalarStyle::Plain => plain(text),
        _ => ScalarKind::Text,
    };
    let Some(tag) = tag else { return Ok(by_look) };
    let wanted = match core_tag(tag) {
        Some("str") => return Ok(ScalarKind::Text),
        // `!` alone forces text.
        None if tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty() => {
            return Ok(ScalarKind::Text);
        }
        Some("int" | "float") => ScalarKind::Number,
        Some("bool") => ScalarKind::Bool,
        Some("null") => ScalarKind::Null,
        _ => return Err(unknown(tag, place)),
    };
    if plain(text) == wanted {
        Ok(wanted)
    } else {
        Err(SyntaxError::at(place, format!("the tag !!{} does not match its value", tag.suffix)))
    }
}

/// Refuses a list or an object that is tagged as something else.
pub(super) fn check_collection(tag: Option<&Tag>, expected: &str, place: Place) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if core_tag(tag) != Some(expected) => Err(unknown(tag, place)),
        _ => Ok(()),
    }
}

fn unknown(tag: &Tag, place: Place) -> SyntaxError {
    let shown = match core_tag(tag) {
        Some(name) => format!("!!{name}"),
        None => tag.to_string(),
    };
    SyntaxError::at(place, format!("the tag {} is not supported; remove it", crate::quantity::shown(&shown)))
}

fn plain(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => ScalarKind::Bool,
        _ if is_integer(text) || is_float(text) => ScalarKind::Number,
        _ => ScalarKind::Text,
    }
}

fn is_integer(text: &str) -> bool {
    let all =
        |digits: &str, is_digit: fn(&u8) -> bool| !digits.is_empty() && digits.bytes().all(|b| is_digit(&b));
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |byte| matches!(byte, b'0'..=b'7'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, u8::is_ascii_hexdigit);
    }
    all(text.strip_prefix(['-', '+']).unwrap_or(text), u8::is_ascii_digit)
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let is_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    let is_exponent = |exponent: &str| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    };
    has_digits && is_digits(whole) && is_digits(fraction) && exponent.is_none_or(is_exponent)
}
