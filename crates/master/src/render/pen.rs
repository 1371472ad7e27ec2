//! The graphic rendition (SGR) of a stream.

use std::fmt::Write;

use vte::Params;

use super::palette;

/// A colour; none is the page's.
pub(super) type Color = Option<u8>;

/// How the next characters look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pen {
    foreground: Color,
    background: Color,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    strike: bool,
    inverse: bool,
}

impl Pen {
    /// Follows a `CSI … m`.
    pub fn select(&mut self, params: &Params) {
        let mut params = params.iter();
        while let Some(param) = params.next() {
            // Colours come as `38;5;n` or `38:5:n`: as separate parameters, or as subparameters.
            let mut following = || params.next().and_then(|param| param.first().copied());
            match param {
                [38, rest @ ..] => self.foreground = color(rest, &mut following).unwrap_or(self.foreground),
                [48, rest @ ..] => self.background = color(rest, &mut following).unwrap_or(self.background),
                // The colour of an underline: taken in, so that its parts are not taken for something else.
                [58, rest @ ..] => {
                    let _ = color(rest, &mut following);
                }
                [4, 0] => self.underline = false,
                [code, ..] => self.select_one(*code),
                [] => {}
            }
        }
    }

    fn select_one(&mut self, code: u16) {
        match code {
            0 => *self = Pen::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            3 => self.italic = true,
            4 | 21 => self.underline = true,
            7 => self.inverse = true,
            9 => self.strike = true,
            22 => (self.bold, self.dim) = (false, false),
            23 => self.italic = false,
            24 => self.underline = false,
            27 => self.inverse = false,
            29 => self.strike = false,
            30..=37 => self.foreground = Some(code as u8 - 30),
            39 => self.foreground = None,
            40..=47 => self.background = Some(code as u8 - 40),
            49 => self.background = None,
            90..=97 => self.foreground = Some(code as u8 - 90 + 8),
            100..=107 => self.background = Some(code as u8 - 100 + 8),
            _ => {}
        }
    }

    /// The style classes. `f…` are colours on the page's background, adjusted for readability; `p…` are unadjusted
    /// colours on a token's background `g…`.
    pub fn class(self) -> String {
        let mut class = String::new();
        let mut add = |name: &str| {
            if !class.is_empty() {
                class.push(' ');
            }
            class.push_str(name);
        };
        let flags = [
            (self.bold, "b"),
            (self.dim, "d"),
            (self.italic, "i"),
            (self.underline, "u"),
            (self.strike, "s"),
        ];
        flags.into_iter().filter(|(is_set, _)| *is_set).for_each(|(_, name)| add(name));
        let mut numbered = |letter: char, number: u8| {
            let mut name = String::with_capacity(4);
            // Writing to a string does not fail.
            let _ = write!(name, "{letter}{number}");
            add(&name);
        };
        match (self.inverse, self.foreground, self.background) {
            (false, None, None) => {}
            (false, Some(foreground), None) => numbered('f', foreground),
            (true, None, None) => add("v"),
            (false, foreground, Some(ground)) | (true, Some(ground), foreground) => {
                numbered('p', palette::on(ground, foreground));
                numbered('g', ground);
            }
            (true, None, Some(foreground)) => {
                numbered('p', foreground);
                numbered('g', palette::on(foreground, None));
            }
        }
        class
    }
}

/// Reads the rest of a colour: `5` and an index, or `2` and three parts. None if it is neither.
fn color(parts: &[u16], following: &mut impl FnMut() -> Option<u16>) -> Option<Color> {
    let byte = |number: u16| u8::try_from(number).ok();
    match parts {
        [5, index, ..] => byte(*index).map(Some),
        [2, red, green, blue] | [2, _, red, green, blue, ..] => {
            Some(Some(palette::nearest([byte(*red)?, byte(*green)?, byte(*blue)?])))
        }
        [] => match following()? {
            5 => byte(following()?).map(Some),
            2 => {
                let (red, green, blue) = (following()?, following()?, following()?);
                Some(Some(palette::nearest([byte(red)?, byte(green)?, byte(blue)?])))
            }
            _ => None,
        },
        _ => None,
    }
}
