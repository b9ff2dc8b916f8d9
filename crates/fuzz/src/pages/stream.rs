//! Any bytes, in pieces of any sizes: written back they are the same bytes, and the page records do
//! not depend on the pieces. First byte: how many piece sizes follow.

use transhume_pages::stream::{BlockTable, PageHead};
use transhume_pages::{Parser, Token, Writer};

use super::Choices;

/// Sizes of pieces, used in turn.
const SIZES_MAX: usize = 4;

/// What parsing in these pieces and writing again gives; the places of the page records.
fn rewritten(stream: &[u8], sizes: &[usize]) -> (Vec<u8>, Vec<PageHead>) {
    let (mut out, mut heads) = (Vec::with_capacity(stream.len()), Vec::new());
    let mut parser = Parser::default();
    let mut sink = |token: Token<'_>, blocks: &BlockTable| {
        assert!(
            Writer::write(token, blocks, &mut out),
            "a token names a block that is not known"
        );
        if let Token::Page { head, .. } | Token::Zero { head, .. } = token {
            heads.push(head);
        }
    };
    let (mut rest, mut at) = (stream, 0);
    while !rest.is_empty() {
        let size = sizes[at % sizes.len()].clamp(1, rest.len());
        parser.push(&rest[..size], &mut sink);
        (rest, at) = (&rest[size..], at + 1);
    }
    parser.hand_over(&mut sink);
    (out, heads)
}

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let sizes: Vec<usize> = (0..1 + choices.below(SIZES_MAX))
        .map(|_| choices.word() % 5000)
        .collect();
    let stream = choices.0;
    let (out, heads) = rewritten(stream, &sizes);
    assert!(out == stream, "the bytes changed");
    let (_, whole) = rewritten(stream, &[usize::MAX]);
    assert!(heads == whole, "the pieces changed the records");
}
