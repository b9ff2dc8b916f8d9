//! What the fabric's ports can be told to drop: classic BPF for `tc filter … bpf`. Pure.

use transhume_model::Band;

use crate::layout;

const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ETHERTYPE_AT: u32 = 12;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_RARP: u32 = 0x8035;
/// Destination of an IPv4 packet, and the address that ARP asks for, from the frame's start.
const DESTINATION_AT: u32 = 30;
const ASKED_FOR_AT: u32 = 38;
/// `TC_ACT_SHOT`.
const DROP: u32 = 2;
/// `TC_ACT_UNSPEC`: the next filter decides.
const PASS: u32 = u32::MAX;

/// One instruction: code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// A filter's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// As tc(8) takes it.
    pub fn bytecode(&self) -> String {
        let mut text = self.0.len().to_string();
        for (code, then, otherwise, operand) in &self.0 {
            text += &format!(",{code} {then} {otherwise} {operand}");
        }
        text
    }
}

/// Drops announcements.
pub fn drop_rarp() -> Program {
    Program(vec![
        (LOAD_HALF, 0, 0, ETHERTYPE_AT),
        (JUMP_IF_EQUAL, 0, 1, ETHERTYPE_RARP),
        (RETURN, 0, 0, DROP),
        (RETURN, 0, 0, PASS),
    ])
}

/// Drops IPv4 packets to the hosts' own addresses of CT, and passes the guests' frames.
pub fn drop_control() -> Program {
    let own = layout::network(Band::Ct);
    Program(vec![
        (LOAD_HALF, 0, 0, ETHERTYPE_AT),
        (JUMP_IF_EQUAL, 0, 4, ETHERTYPE_IPV4),
        (LOAD_WORD, 0, 0, DESTINATION_AT),
        (AND, 0, 0, own.mask()),
        (JUMP_IF_EQUAL, 0, 1, own.address.to_bits()),
        (RETURN, 0, 0, DROP),
        (RETURN, 0, 0, PASS),
    ])
}

/// Drops everything of one band where all share a link: what is for its addresses, with the ARP for
/// them; of CT, whatever is of neither other band.
pub fn drop_band(band: Band) -> Program {
    let (network, inside, outside) = match band {
        Band::Ct => (layout::network_beside_ct(), PASS, DROP),
        Band::Vmct | Band::Nast => (layout::network(band), DROP, PASS),
    };
    Program(vec![
        (LOAD_HALF, 0, 0, ETHERTYPE_AT),
        (JUMP_IF_EQUAL, 3, 0, ETHERTYPE_IPV4),
        (JUMP_IF_EQUAL, 0, 6, ETHERTYPE_ARP),
        (LOAD_WORD, 0, 0, ASKED_FOR_AT),
        (JUMP, 0, 0, 1),
        (LOAD_WORD, 0, 0, DESTINATION_AT),
        (AND, 0, 0, network.mask()),
        (JUMP_IF_EQUAL, 0, 1, network.address.to_bits()),
        (RETURN, 0, 0, inside),
        (RETURN, 0, 0, outside),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(program: &Program, frame: &[u8]) -> u32 {
        let at = |offset: u32| usize::try_from(offset).unwrap();
        let (mut pc, mut a) = (0, 0);
        loop {
            let (code, then, otherwise, operand) = program.0[pc];
            pc += 1;
            match code {
                LOAD_HALF => a = u32::from(u16::from_be_bytes(*frame[at(operand)..].first_chunk().unwrap())),
                LOAD_WORD => a = u32::from_be_bytes(*frame[at(operand)..].first_chunk().unwrap()),
                AND => a &= operand,
                JUMP => pc += at(operand),
                JUMP_IF_EQUAL => pc += usize::from(if a == operand { then } else { otherwise }),
                RETURN => return operand,
                other => panic!("no such instruction: {other}"),
            }
        }
    }

    fn frame(ethertype: u32, address_at: u32, address: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&(ethertype as u16).to_be_bytes());
        frame[address_at as usize..][..4].copy_from_slice(&address);
        frame
    }

    fn ip(to: [u8; 4]) -> Vec<u8> {
        frame(ETHERTYPE_IPV4, DESTINATION_AT, to)
    }

    fn arp(whose: [u8; 4]) -> Vec<u8> {
        frame(ETHERTYPE_ARP, ASKED_FOR_AT, whose)
    }

    const CT: [u8; 4] = [10, 77, 1, 3];
    const VMCT: [u8; 4] = [10, 77, 2, 3];
    const NAST: [u8; 4] = [10, 77, 3, 250];
    const GUEST: [u8; 4] = [10, 78, 0, 7];

    #[test]
    fn a_band_that_is_cut_takes_its_own_packets_along_and_no_others() {
        let rarp = frame(ETHERTYPE_RARP, DESTINATION_AT, VMCT);
        for (band, cut) in [
            (Band::Ct, [true, false, false, true]),
            (Band::Vmct, [false, true, false, false]),
            (Band::Nast, [false, false, true, false]),
        ] {
            let program = drop_band(band);
            for (address, cut) in [CT, VMCT, NAST, GUEST].into_iter().zip(cut) {
                let answer = if cut { DROP } else { PASS };
                assert_eq!(run(&program, &ip(address)), answer, "{band}: {address:?}");
                assert_eq!(run(&program, &arp(address)), answer, "{band}: ARP, {address:?}");
            }
            let answer = if band == Band::Ct { DROP } else { PASS };
            assert_eq!(run(&program, &rarp), answer, "{band}: an announcement");
        }
    }

    #[test]
    fn an_agent_that_is_cut_off_leaves_its_guests_their_frames() {
        let program = drop_control();
        assert_eq!(run(&program, &ip(CT)), DROP);
        for passed in [ip(VMCT), ip(NAST), ip(GUEST), arp(CT)] {
            assert_eq!(run(&program, &passed), PASS);
        }
    }

    #[test]
    fn announcements_alone_are_eaten() {
        let program = drop_rarp();
        assert_eq!(run(&program, &frame(ETHERTYPE_RARP, DESTINATION_AT, CT)), DROP);
        assert_eq!(run(&program, &arp(CT)), PASS);
        assert_eq!(
            program.bytecode(),
            "4,40 0 0 12,21 0 1 32821,6 0 0 2,6 0 0 4294967295"
        );
    }
}
