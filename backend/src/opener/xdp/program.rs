//! The XDP program (Linux, Documentation/bpf/standardization/instruction-set.rst), assembled by hand: a socket of ours
//! gets the frames of its queue, all of them or those for one address. Everything else goes on to the kernel's stack.
//!
//! ```text
//! rule = rules[rx_queue_index];
//! if (!rule) return XDP_PASS;
//! if (*rule != 0 && (frame is too short || its first six bytes differ from *rule)) return XDP_PASS;
//! return bpf_redirect_map(&sockets, rx_queue_index, XDP_PASS);
//! ```

#![forbid(unsafe_code)]

/// `XDP_PASS`.
const PASS: i32 = 2;

/// Offsets of fields in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

/// Numbers of helpers.
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;

/// Bytes of an Ethernet header.
const LINK_LEN: i32 = 14;

// Codes of instructions.
const MOV_REG: u8 = 0xbf;
const MOV_IMM: u8 = 0xb7;
const ADD_IMM: u8 = 0x07;
const LSH_IMM: u8 = 0x67;
const OR_REG: u8 = 0x4f;
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_DOUBLE: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const LOAD_MAP: u8 = 0x18;
const IF_EQ_IMM: u8 = 0x15;
const IF_NE_REG: u8 = 0x5d;
const IF_GT_REG: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// In the place of a source register: what is loaded is a map by its file descriptor.
const MAP_FD: u8 = 1;

/// An instruction as the kernel takes it.
type Instruction = u64;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    u64::from_ne_bytes([code, registers, low, high, a, b, c, d])
}

/// The program over two maps, given by their file descriptors.
pub(super) fn program(sockets: i32, rules: i32) -> Vec<Instruction> {
    // Where the two ways to go on start, counted from the end.
    const AT_REDIRECT: usize = 8;
    const AT_PASS: usize = 2;
    let jumps = [(8, AT_PASS), (10, AT_REDIRECT), (15, AT_PASS), (20, AT_PASS)];
    let mut program = vec![
        instruction(MOV_REG, 6, 1, 0, 0),
        instruction(LOAD_WORD, 7, 6, RX_QUEUE_INDEX, 0),
        instruction(STORE_WORD, 10, 7, -4, 0),
        instruction(LOAD_MAP, 1, MAP_FD, 0, rules),
        0,
        instruction(MOV_REG, 2, 10, 0, 0),
        instruction(ADD_IMM, 2, 0, 0, -4),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(IF_EQ_IMM, 0, 0, 0, 0),
        instruction(LOAD_DOUBLE, 3, 0, 0, 0),
        instruction(IF_EQ_IMM, 3, 0, 0, 0),
        instruction(LOAD_WORD, 1, 6, DATA, 0),
        instruction(LOAD_WORD, 2, 6, DATA_END, 0),
        instruction(MOV_REG, 4, 1, 0, 0),
        instruction(ADD_IMM, 4, 0, 0, LINK_LEN),
        instruction(IF_GT_REG, 4, 2, 0, 0),
        instruction(LOAD_WORD, 4, 1, 0, 0),
        instruction(LOAD_HALF, 5, 1, 4, 0),
        instruction(LSH_IMM, 5, 0, 0, 32),
        instruction(OR_REG, 4, 5, 0, 0),
        instruction(IF_NE_REG, 4, 3, 0, 0),
        // Redirect.
        instruction(LOAD_MAP, 1, MAP_FD, 0, sockets),
        0,
        instruction(MOV_REG, 2, 7, 0, 0),
        instruction(MOV_IMM, 3, 0, 0, PASS),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
        // Pass.
        instruction(MOV_IMM, 0, 0, 0, PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let len = program.len();
    for (at, from_end) in jumps {
        let offset = (len - from_end - at - 1) as i16;
        let [low, high] = offset.to_ne_bytes();
        let mut bytes = program[at].to_ne_bytes();
        (bytes[2], bytes[3]) = (low, high);
        program[at] = u64::from_ne_bytes(bytes);
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_land_where_they_should() {
        let program = program(3, 4);
        let offset = |at: usize| i16::from_ne_bytes([program[at].to_ne_bytes()[2], program[at].to_ne_bytes()[3]]);
        let code = |at: usize| program[at].to_ne_bytes()[0];
        let target = |at: usize| at + 1 + offset(at) as usize;
        let jumps: Vec<_> =
            (0..program.len()).filter(|at| matches!(code(*at), IF_EQ_IMM | IF_NE_REG | IF_GT_REG)).collect();
        assert_eq!(jumps, [8, 10, 15, 20]);
        for at in [8, 15, 20] {
            assert_eq!(program[target(at)], instruction(MOV_IMM, 0, 0, 0, PASS), "jump at {at}");
        }
        assert_eq!(program[target(10)], instruction(LOAD_MAP, 1, MAP_FD, 0, 3));
        assert_eq!(code(program.len() - 1), EXIT);
    }
}
