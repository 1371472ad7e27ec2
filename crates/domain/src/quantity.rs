//! Quantities with units: CPUs, bytes and durations, with their parsers.

use std::fmt::{self, Display, Formatter};
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[cfg(test)]
mod tests;

/// Processors, counted in thousandths.
///
/// Read from `0.5`, `2`, `"1.5"` and `"500m"`; written as a JSON number of whole processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cpu {
    millis: u32,
}

/// A number of bytes.
///
/// Read from integers and from texts such as `"512MiB"`, `"1.5GiB"` and `"2GB"`; written as a text where a
/// unit divides it exactly, else as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A length of time in whole milliseconds, at most [`Span::MAX`].
///
/// Read from texts such as `"30s"`, `"1h30m"` and `"250ms"`, and from bare numbers as seconds; written as a
/// text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    millis: u64,
}

/// Why a text is not an amount: a sentence with a valid example.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantityError(String);

impl Cpu {
    /// Thousandths of a CPU.
    pub const fn from_millis(millis: u32) -> Cpu {
        Cpu { millis }
    }

    /// Thousandths of a processor.
    pub const fn millis(self) -> u32 {
        self.millis
    }

    /// Processors, for showing and for scores.
    pub fn cores(self) -> f64 {
        f64::from(self.millis) / 1000.0
    }

    /// The sum, or the largest amount there is.
    pub const fn saturating_add(self, other: Cpu) -> Cpu {
        Cpu { millis: self.millis.saturating_add(other.millis) }
    }

    /// The difference, at least 0.
    pub const fn saturating_sub(self, other: Cpu) -> Cpu {
        Cpu { millis: self.millis.saturating_sub(other.millis) }
    }
}

impl Bytes {
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum, or the largest amount there is.
    pub const fn saturating_add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }

    /// The difference, at least 0.
    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// The unit that divides it exactly and leaves the smallest number; none when only bytes do.
    fn exact_unit(self) -> Option<(u64, &'static str)> {
        let divides = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        BYTE_UNITS.iter().filter(divides).max_by_key(|unit| unit.1).map(|(name, size)| (self.0 / size, *name))
    }
}

impl Span {
    /// A hundred years: far enough for everything, near enough that no date overflows by adding it.
    pub const MAX: Span = Span { millis: 36_500 * MILLIS_PER_DAY };

    /// Milliseconds, at most [`Span::MAX`].
    pub const fn from_millis(millis: u64) -> Span {
        Span { millis: if millis > Span::MAX.millis { Span::MAX.millis } else { millis } }
    }

    /// Seconds, at most [`Span::MAX`].
    pub const fn from_secs(secs: u64) -> Span {
        Span::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// The same length as the standard library has it.
    pub const fn to_std(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// The units in which bytes are written; read without regard to case.
const BYTE_UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("TB", 1000_u64.pow(4)),
    ("PB", 1000_u64.pow(5)),
];

const MILLIS_PER_DAY: u64 = 24 * 60 * 60 * 1000;

/// The units of time in milliseconds, from large to small.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", MILLIS_PER_DAY), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

impl FromStr for Cpu {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Cpu, QuantityError> {
        let read = || {
            let (number, unit) = Decimal::split(text.trim())?;
            let thousandths = match unit {
                "" => number.times(1000)?,
                "m" => number.times(1)?,
                _ => return Err(Flaw::Unreadable),
            };
            u32::try_from(thousandths).map(Cpu::from_millis).map_err(|_| Flaw::TooLarge)
        };
        read().map_err(|flaw| CPU.complaint(text, flaw))
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Bytes, QuantityError> {
        let read = || {
            let (number, unit) = Decimal::split(text.trim())?;
            number.times(byte_unit(unit).ok_or(Flaw::Unreadable)?).map(Bytes)
        };
        read().map_err(|flaw| BYTES.complaint(text, flaw))
    }
}

/// Bytes of a unit. `k`, `M`… are decimal, as in `kB`. A lone `m` is refused, because elsewhere it is a thousandth
/// or 1024².
fn byte_unit(name: &str) -> Option<u64> {
    if name.is_empty() || name.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    let is_decimal_letter = matches!(name, "k" | "K" | "M" | "G" | "T" | "P");
    let full_name = if is_decimal_letter { format!("{name}B") } else { name.to_owned() };
    BYTE_UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&full_name)).map(|(_, size)| *size)
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Span, QuantityError> {
        read_span(text.trim()).map_err(|flaw| SPAN.complaint(text, flaw))
    }
}

/// Reads a bare number of seconds, or numbers with units that go from large to small.
fn read_span(text: &str) -> Result<Span, Flaw> {
    let (seconds, unit) = Decimal::split(text)?;
    if unit.is_empty() {
        return bounded_span(seconds.times(1000)?);
    }
    let mut millis = 0_u64;
    let mut rest = text;
    let mut smaller_units = &TIME_UNITS[..];
    while !rest.is_empty() {
        let (number, after) = Decimal::split(rest)?;
        let name_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, after) = after.split_at(name_len);
        let position = smaller_units.iter().position(|(unit, _)| *unit == name).ok_or(Flaw::Unreadable)?;
        millis = millis.saturating_add(number.times(smaller_units[position].1)?);
        smaller_units = &smaller_units[position + 1..];
        rest = after.trim_start();
    }
    bounded_span(millis)
}

fn bounded_span(millis: u64) -> Result<Span, Flaw> {
    if millis > Span::MAX.millis { Err(Flaw::TooLarge) } else { Ok(Span { millis }) }
}

impl Display for Cpu {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cores())
    }
}

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (number, unit) = self.exact_unit().unwrap_or((self.0, "B"));
        write!(f, "{number}{unit}")
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.millis;
        for (unit, size) in TIME_UNITS {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.millis.is_multiple_of(1000) {
            serializer.serialize_u32(self.millis / 1000)
        } else {
            serializer.serialize_f64(self.cores())
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.exact_unit() {
            Some(_) => serializer.collect_str(self),
            None => serializer.serialize_u64(self.0),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cpu, D::Error> {
        deserializer.deserialize_any(NumberOrText(&CPU, PhantomData))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(NumberOrText(&BYTES, PhantomData))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_any(NumberOrText(&SPAN, PhantomData))
    }
}

/// Takes a number for the text that it would be, so that both go through the one parser.
struct NumberOrText<T>(&'static Kind, PhantomData<T>);

impl<T: FromStr<Err = QuantityError>> de::Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.noun, self.0.example)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        // Rust writes floats without exponents.
        self.visit_str(&number.to_string())
    }
}

/// An unsigned decimal number, exact to its fifteenth fractional digit.
struct Decimal {
    /// The number times [`Decimal::ONE`].
    scaled: u128,
    is_zero: bool,
}

impl Decimal {
    const ONE: u128 = 10_u128.pow(15);

    /// Splits a text into the number that it starts with and the rest, without the blanks between them.
    fn split(text: &str) -> Result<(Decimal, &str), Flaw> {
        if let Some(rest) = text.strip_prefix('-') {
            return Err(if rest.starts_with(|c: char| c.is_ascii_digit()) {
                Flaw::Negative
            } else {
                Flaw::Unreadable
            });
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(Flaw::Unreadable);
        }

        let digits = |text: &str| -> u128 {
            text.bytes()
                .fold(0_u128, |sum, digit| sum.saturating_mul(10).saturating_add(u128::from(digit - b'0')))
        };
        let scaled = digits(whole).saturating_mul(Decimal::ONE);
        let scaled = scaled.saturating_add(digits(&format!("{fraction:0<15.15}")));
        let is_zero = number.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        Ok((Decimal { scaled, is_zero }, rest.trim_start()))
    }

    /// The number of smallest units in an amount of units of the given size, rounded to the nearest.
    fn times(&self, unit: u64) -> Result<u64, Flaw> {
        let product = self.scaled.saturating_mul(u128::from(unit));
        let rounded = product.saturating_add(Decimal::ONE / 2) / Decimal::ONE;
        let amount = u64::try_from(rounded).map_err(|_| Flaw::TooLarge)?;
        let splits_smallest = unit == 1 && !product.is_multiple_of(Decimal::ONE);
        if splits_smallest || (amount == 0 && !self.is_zero) { Err(Flaw::TooFine) } else { Ok(amount) }
    }
}

/// What can be wrong with a text that should be an amount.
enum Flaw {
    Unreadable,
    Negative,
    TooLarge,
    TooFine,
}

/// How one kind of amount is spoken of.
struct Kind {
    noun: &'static str,
    smallest: &'static str,
    example: &'static str,
}

const CPU: Kind = Kind {
    noun: "a number of processors",
    smallest: "a thousandth of a processor",
    example: r#"write processors such as 0.5, or thousandths such as "500m""#,
};
const BYTES: Kind = Kind {
    noun: "a number of bytes",
    smallest: "a byte",
    example: r#"write bytes such as 4096, or a number and a unit such as "512MiB" or "2GB""#,
};
const SPAN: Kind = Kind {
    noun: "a length of time",
    smallest: "a millisecond",
    example: r#"write a number and a unit such as "30s", "1h30m" or "250ms", or a number of seconds"#,
};

impl Kind {
    fn complaint(&self, text: &str, flaw: Flaw) -> QuantityError {
        let Kind { noun, smallest, example } = self;
        let text = shown(text);
        QuantityError(match flaw {
            Flaw::Unreadable => format!("{text} is not {noun}: {example}"),
            Flaw::Negative => format!("{text} is negative, which {noun} cannot be: {example}"),
            Flaw::TooLarge => format!("{text} is too large for {noun}: {example}"),
            Flaw::TooFine => format!("{text} is finer than {smallest}: {example}"),
        })
    }
}

/// Names in a sentence: `a, b and c`; only the first few of many.
pub fn listed(names: &[impl AsRef<str>]) -> String {
    const MOST: usize = 5;
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match &names[..] {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] if names.len() <= MOST => format!("{} and {last}", rest.join(", ")),
        _ => format!("{} and {} others", names[..MOST - 1].join(", "), names.len() - (MOST - 1)),
    }
}

/// Outside text as it may stand in a sentence: in backticks, on one line, not long.
pub fn shown(text: &str) -> String {
    const MOST_CHARS: usize = 60;
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let mut start = String::new();
    for c in text.chars().take(MOST_CHARS) {
        match c {
            '"' | '\'' | '\\' => start.push(c),
            _ => start.extend(c.escape_debug()),
        }
    }
    let cut = if text.chars().nth(MOST_CHARS).is_some() { "…" } else { "" };
    format!("`{start}{cut}`")
}
