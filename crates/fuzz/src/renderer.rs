//! The renderer of output: however two streams are cut, the lines are the same, and no line has a character that a page must
//! not show or is longer than pages allow.

use gaffer_master::render::{Line, MAX_LINE_CHARS, Renderer};
use gaffer_protocol::output::Stream;

use crate::pieces::{Pieces, cut, joined};

/// The most of one stream that comes before the other one's next part.
const PART: usize = 24;

/// Reads sizes of pieces and a text, of which parts belong to the two streams in turns.
pub fn check(input: &[u8]) {
    let mut input = Pieces(input);
    let sizes = input.counted();
    let both = input.byte() % 2 == 1;
    let text = input.0;
    let parts: Vec<(Stream, &[u8])> = match both {
        false => vec![(Stream::Stdout, text)],
        true => {
            text.chunks(PART).zip([Stream::Stdout, Stream::Stderr].into_iter().cycle()).map(swapped).collect()
        }
    };
    let whole = rendered(&parts);
    for sizes in [sizes, &[], &[3, 1, 2]] {
        let pieces: Vec<(Stream, &[u8])> = parts
            .iter()
            .flat_map(|(stream, part)| cut(part, sizes).into_iter().map(|piece| (*stream, piece)))
            .collect();
        assert_eq!(rendered(&pieces), whole, "rendered differently in pieces of {sizes:?}");
    }
    for line in &whole {
        let text: String = line.iter().map(|token| token.1.as_str()).collect();
        // Beside the text there is what says how much was left out.
        assert!(
            text.chars().count() <= MAX_LINE_CHARS + 100,
            "a line of {} characters",
            text.chars().count()
        );
        assert!(!text.chars().any(char::is_control), "a control character in {text:?}");
        for (_, _, href) in line {
            let is_web = |href: &str| href.starts_with("http://") || href.starts_with("https://");
            assert!(href.as_deref().is_none_or(is_web), "a link to {href:?}");
        }
    }
}

fn swapped((part, stream): (&[u8], Stream)) -> (Stream, &[u8]) {
    (stream, part)
}

/// Class, text and link of each token of each line.
fn rendered(pieces: &[(Stream, &[u8])]) -> Vec<Vec<(String, String, Option<String>)>> {
    let mut renderer = Renderer::new();
    let mut lines: Vec<Line> = Vec::new();
    for (stream, bytes) in pieces {
        renderer.push(1, *stream, bytes, &mut lines);
    }
    lines.extend(renderer.partial());
    let token = |token: gaffer_master::render::Token| {
        (token.class, token.text, token.href.map(|href| href.to_string()))
    };
    lines.into_iter().map(|line| line.tokens.into_iter().map(token).collect()).collect()
}

/// Colours, links, progress bars, broken characters.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 8] = [
        b"plain\r\n\x1b[1;31mred\x1b[0m and \x1b[38;5;208mother\x1b[m\n",
        b" 10%\r 50%\r100%\x1b[K\ndone\n",
        b"\x1b]8;;https://example.org/\x1b\\link\x1b]8;;\x1b\\ https://example.org/a?b=c.\n",
        b"\x1b]0;title\x07text\x1b[2J\x1b[10;10H\x1bPq#0~\x1b\\\n",
        "h\u{e9}llo \u{202e}rtl \u{1f980}\u{200d}\u{1f980}\n".as_bytes(),
        b"\xff\xfe\xe2\x82broken\xf0\x9f\n",
        b"a\tb\x08\x08c\x0b\x0cd\x00e\n",
        b"::group::name\n::error file=a,line=1::text\n::endgroup::\n",
    ];
    texts.iter().flat_map(|text| [0, 1].map(|both| joined(&[&[4, 1]], &[&[both], *text].concat()))).collect()
}
