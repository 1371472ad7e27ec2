//! Cuts an input into what a check needs: numbers, texts, and pieces of a stream.

/// An input that is read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a>(pub &'a [u8]);

impl<'a> Pieces<'a> {
    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// As many bytes as there are, at most so many.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes whose number comes before them.
    pub fn counted(&mut self) -> &'a [u8] {
        let most = usize::from(self.byte());
        self.bytes(most)
    }
}

/// Cuts a text into pieces of these sizes, again and again; of single bytes if all sizes are 0.
pub fn cut<'t>(text: &'t [u8], sizes: &[u8]) -> Vec<&'t [u8]> {
    let sizes = sizes.iter().map(|size| usize::from(*size)).filter(|size| *size > 0);
    let sizes: Vec<usize> = sizes.collect();
    let mut sizes = sizes.iter().copied().cycle();
    let (mut rest, mut pieces) = (text, Vec::new());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// An input that [`Pieces`] reads as these counted bytes and the rest.
pub fn joined(counted: &[&[u8]], rest: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    for bytes in counted {
        input.push(u8::try_from(bytes.len()).unwrap());
        input.extend_from_slice(bytes);
    }
    input.extend_from_slice(rest);
    input
}
