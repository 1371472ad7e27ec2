//! Number notations of the three languages, parsed only where a field is a number.

use super::{Data, Scalar, ScalarKind, Value};

impl Value {
    fn number(&self) -> Option<&Scalar> {
        match &self.data {
            // A number in quotes is as good: amounts take it, too.
            Data::Scalar(scalar) if matches!(scalar.kind, ScalarKind::Number | ScalarKind::Text) => {
                Some(scalar)
            }
            _ => None,
        }
    }

    /// A whole number.
    pub fn as_integer(&self) -> Option<i128> {
        integer(&self.number()?.text)
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_integer()?.try_into().ok()
    }

    /// A boolean, quoted or not.
    pub fn as_bool(&self) -> Option<bool> {
        match self.as_text()? {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        }
    }

    /// The text of an amount: numbers in plain decimal notation, other texts unchanged.
    pub fn amount_text(&self) -> Option<String> {
        let scalar = self.number()?;
        if scalar.kind == ScalarKind::Text {
            return Some(scalar.text.clone());
        }
        let text = &scalar.text;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
        if is_plain {
            return Some(text.clone());
        }
        if let Some(number) = integer(text) {
            return Some(number.to_string());
        }
        // Rust writes floats without exponents.
        Some(text.replace('_', "").parse::<f64>().map_or_else(|_| text.clone(), |number| number.to_string()))
    }

    /// A finite number as most programs read it: a whole one in decimal, others as they are written, without a `+` in front and
    /// without `_`.
    pub fn decimal_text(&self) -> Option<String> {
        let text = &self.number()?.text;
        if let Some(number) = integer(text) {
            return Some(number.to_string());
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if unsigned.starts_with(['+', '-']) || !is_well_parted(unsigned, 10) {
            return None;
        }
        let plain = text.strip_prefix('+').unwrap_or(text).replace('_', "");
        plain.parse::<f64>().is_ok_and(f64::is_finite).then_some(plain)
    }
}

/// Whether each `_` is between two digits, as TOML has it.
fn is_well_parted(digits: &str, radix: u32) -> bool {
    let mut parts = digits.split('_').peekable();
    let mut has_digit_before = true;
    while let Some(part) = parts.next() {
        let is_digit = |c: char| c.is_digit(radix);
        if !has_digit_before || (parts.peek().is_some() && !part.ends_with(is_digit)) {
            return false;
        }
        has_digit_before = parts.peek().is_none_or(|next| next.starts_with(is_digit));
    }
    true
}

fn integer(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, digits),
    };
    let is_parted = is_well_parted(digits, radix);
    let digits = digits.replace('_', "");
    let is_number = is_parted && digits.chars().all(|c| c.is_digit(radix));
    let number = is_number.then(|| i128::from_str_radix(&digits, radix).ok())??;
    Some(if is_negative { -number } else { number })
}
