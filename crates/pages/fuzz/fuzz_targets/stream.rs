//! Any bytes, in pieces of any size: written back they are the same bytes. First byte: piece size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_pages::stream::BlockTable;
use transhume_pages::{Parser, Token, Writer};

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let mut out = Vec::with_capacity(stream.len());
    let mut parser = Parser::default();
    let mut sink = |token: Token<'_>, blocks: &BlockTable| assert!(Writer::write(token, blocks, &mut out));
    for chunk in stream.chunks(usize::from(piece) * 8 + 1) {
        parser.push(chunk, &mut sink);
    }
    parser.finish(&mut sink);
    assert!(out == stream);
});
