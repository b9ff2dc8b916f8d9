//! Damage that keeps frames whole: what a hostile source would send that knows the protocol.

use super::{Base, Choices, key};

const GROUP: u8 = 2;
const PLAIN: u8 = 6;
const SUPPLY: u8 = 4;

/// Steps of damage to one wire.
const STEPS_MAX: usize = 24;
/// Frames that a damaged wire may have.
const FRAMES_MAX: usize = 64;

/// One frame.
#[derive(Clone)]
pub struct Frame {
    /// Its kind.
    pub kind: u8,
    /// Its body.
    pub body: Vec<u8>,
}

/// Cuts an honest wire into its frames.
pub fn split(mut wire: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((&[kind, a, b, c, d], rest)) = wire.split_first_chunk::<5>() {
        let (body, rest) = rest.split_at(u32::from_le_bytes([a, b, c, d]) as usize);
        frames.push(Frame {
            kind,
            body: body.to_vec(),
        });
        wire = rest;
    }
    frames
}

/// The base's frames after the steps that the choices name; lengths are right again.
pub fn damaged(base: &Base, choices: &mut Choices<'_>) -> Vec<u8> {
    let mut frames = split(&base.wire);
    for _ in 0..STEPS_MAX {
        if choices.done() {
            break;
        }
        step(&mut frames, base, choices);
        frames.truncate(FRAMES_MAX);
    }
    let mut wire = Vec::new();
    for frame in &frames {
        wire.push(frame.kind);
        wire.extend((frame.body.len() as u32).to_le_bytes());
        wire.extend(&frame.body);
    }
    wire
}

fn step(frames: &mut Vec<Frame>, base: &Base, choices: &mut Choices<'_>) {
    let kind = choices.byte() % 10;
    let at = choices.below(frames.len());
    if kind == 6 {
        return supply(frames, base, at, choices);
    }
    if kind == 7 {
        return renumber(frames);
    }
    let Some(frame) = frames.get_mut(at) else {
        return;
    };
    let position = choices.below(frame.body.len());
    match kind {
        0 | 1 => {
            if let Some(byte) = frame.body.get_mut(position) {
                *byte ^= choices.byte();
            }
        }
        2 => frame.body.truncate(position),
        3 => {
            let (len, value) = (choices.below(40), choices.byte());
            let inserted: Vec<u8> = (0..len)
                .map(|_| if value == 0 { choices.byte() } else { value })
                .collect();
            frame.body.splice(position..position, inserted);
        }
        4 => {
            let end = position.saturating_add(choices.below(600)).min(frame.body.len());
            frame.body.drain(position..end);
        }
        5 => frame.kind = choices.byte() % 8,
        8 => {
            let again = frame.clone();
            let to = choices.below(frames.len() + 1);
            frames.insert(to, again);
        }
        _ => {
            let to = choices.below(frames.len());
            frames.swap(at, to);
        }
    }
}

/// An honest supply of one of the guest's pages.
fn supply(frames: &mut Vec<Frame>, base: &Base, at: usize, choices: &mut Choices<'_>) {
    let page = &base.pages[choices.below(base.pages.len())];
    let body = [&key().id(page).0[..], page].concat();
    frames.insert(at, Frame { kind: SUPPLY, body });
}

/// Groups and plain frames that were moved or repeated get the numbers that are due.
fn renumber(frames: &mut [Frame]) {
    let groups = frames
        .iter_mut()
        .filter(|frame| matches!(frame.kind, GROUP | PLAIN) && frame.body.len() >= 4);
    for (number, frame) in groups.enumerate() {
        frame.body[..4].copy_from_slice(&(number as u32).to_le_bytes());
    }
}
