//! The 256 terminal colours, and the style sheet for light and dark pages.

use std::fmt::Write;

type Rgb = [u8; 3];

/// The first 16, as they are meant; beyond come a cube of six steps a side and 24 greys.
const BASE: [Rgb; 16] = [
    [0x1b, 0x1d, 0x22],
    [0xd0, 0x39, 0x3f],
    [0x2f, 0x9e, 0x53],
    [0xc0, 0x8b, 0x0f],
    [0x3b, 0x78, 0xe0],
    [0xa8, 0x4f, 0xc9],
    [0x12, 0x97, 0xa8],
    [0xc9, 0xcd, 0xd4],
    [0x6c, 0x72, 0x7d],
    [0xf2, 0x6d, 0x70],
    [0x5f, 0xcf, 0x80],
    [0xeb, 0xc2, 0x4a],
    [0x76, 0xa9, 0xff],
    [0xd4, 0x8c, 0xf2],
    [0x4f, 0xd0, 0xe0],
    [0xff, 0xff, 0xff],
];
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];
const BLACK: u8 = 16;
const WHITE: u8 = 231;

/// What output is shown on; the same as `--log-bg` in app.css.
const LIGHT_PAGE: Rgb = [0xfb, 0xfb, 0xfc];
const DARK_PAGE: Rgb = [0x0c, 0x0e, 0x12];
/// A little above what WCAG 2.2 AA asks for, as dim text gives some of it away again.
const MIN_CONTRAST: f64 = 5.0;
/// What WCAG 2.2 AA asks for.
const MIN_CONTRAST_ON_GROUND: f64 = 4.5;

/// One of the 256 colours.
fn rgb(index: u8) -> Rgb {
    match index {
        0..16 => BASE[usize::from(index)],
        16..232 => {
            let index = usize::from(index - 16);
            [CUBE[index / 36], CUBE[index / 6 % 6], CUBE[index % 6]]
        }
        232.. => [8 + (index - 232) * 10; 3],
    }
}

/// The colour of cube and greys that is nearest to any other.
pub(super) fn nearest(color: Rgb) -> u8 {
    let distance = |index: u8| -> u32 {
        rgb(index).into_iter().zip(color).map(|(one, other)| u32::from(one.abs_diff(other)).pow(2)).sum()
    };
    (16..=255).min_by_key(|index| distance(*index)).unwrap_or(BLACK)
}

/// Black or white, whichever is better to read on this background.
fn readable_on(background: u8) -> u8 {
    let ground = rgb(background);
    match contrast(ground, rgb(BLACK)) > contrast(ground, rgb(WHITE)) {
        true => BLACK,
        false => WHITE,
    }
}

/// The colour for text on this background: the wanted one where it can be read, else black or white.
pub(super) fn on(background: u8, wanted: Option<u8>) -> u8 {
    let is_readable = |wanted: &u8| contrast(rgb(*wanted), rgb(background)) >= MIN_CONTRAST_ON_GROUND;
    wanted.filter(is_readable).unwrap_or_else(|| readable_on(background))
}

/// Rules for token classes: `f0`…`f255` text on the page, `p0`… text on a token's background, `g0`… backgrounds.
pub fn stylesheet() -> String {
    let mut css = String::from("/* Made by render/palette.rs. */\n");
    for index in 0..=255 {
        let color = rgb(index);
        let on_light = hex(made_readable(color, LIGHT_PAGE, [0, 0, 0]));
        let on_dark = hex(made_readable(color, DARK_PAGE, [255, 255, 255]));
        let plain = hex(color);
        // Writing to a string does not fail.
        let _ = writeln!(
            css,
            ".f{index}{{color:light-dark({on_light},{on_dark})}}.p{index}{{color:{plain}}}.g{index}{{background:{plain}}}"
        );
    }
    css
}

/// The colour, moved towards `end` only as far as it takes to be read on `page`.
fn made_readable(color: Rgb, page: Rgb, end: Rgb) -> Rgb {
    let step = |share: u32| {
        let mix = |at: usize| ((u32::from(color[at]) * (50 - share) + u32::from(end[at]) * share) / 50) as u8;
        [mix(0), mix(1), mix(2)]
    };
    (0..=50).map(step).find(|mixed| contrast(*mixed, page) >= MIN_CONTRAST).unwrap_or(end)
}

/// Contrast as WCAG 2 defines it.
fn contrast(one: Rgb, other: Rgb) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn luminance(color: Rgb) -> f64 {
    let linear = color.map(|part| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

fn hex([red, green, blue]: Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_can_be_read_on_both_pages() {
        for index in 0..=255 {
            for (page, end) in [(LIGHT_PAGE, [0; 3]), (DARK_PAGE, [255; 3])] {
                assert!(contrast(made_readable(rgb(index), page, end), page) >= 4.5, "{index}");
            }
            assert!(contrast(rgb(readable_on(index)), rgb(index)) >= 4.5, "{index}");
        }
    }

    #[test]
    fn colours_that_the_palette_has_are_found_in_it() {
        for index in 16..=231 {
            assert_eq!(rgb(nearest(rgb(index))), rgb(index));
        }
        assert_eq!(rgb(nearest([1, 2, 3])), [0; 3]);
    }

    #[test]
    fn the_pages_are_those_of_the_style_sheet() {
        let css = include_str!("../../../../static/app.css");
        let rule = format!("--log-bg: light-dark({}, {})", hex(LIGHT_PAGE), hex(DARK_PAGE));
        assert!(css.contains(&rule), "{rule}");
    }
}
