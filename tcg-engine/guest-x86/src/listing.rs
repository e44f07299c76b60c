//! Blocks as text, for people: guest code, operations, and host code, in the order and with the words of QEMU's `in_asm`, `op` and
//! `out_asm`.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use ir::Block;

/// Columns of the bytes of an instruction; longer ones push their text to the right.
const BYTES: usize = 30;

/// What a block was lifted from, and to what: `who` is the vCPU. Its program counters are counted from `origin`.
pub fn lifted(who: &str, block: &Block, origin: u64, bytes: &[u8], bits: u32) -> String {
    let (pc, count) = (origin.wrapping_add(block.pc), block.points.len());
    let plural = if count == 1 { "" } else { "s" };
    let mut text = format!("----------------\nIN: {who}, {pc:#x}, {bits} bits, {count} instruction{plural}\n");
    disassemble(&mut text, bytes, pc, bits, |text, at| {
        let _ = write!(text, "{at:#018x}:");
    });
    let _ = write!(text, "OP:\n{block}");
    text
}

/// The code that was emitted for the block at `pc`, which is executed at `address`. Jumps to other blocks are as they were before
/// they were linked.
pub fn emitted(who: &str, pc: u64, address: u64, code: &[u8]) -> String {
    let mut text = format!("OUT: {who}, {pc:#x}, {} bytes at {address:#x}\n", code.len());
    disassemble(&mut text, code, address, 64, |text, at| {
        let _ = write!(text, "+{:#06x}:", at.wrapping_sub(address));
    });
    text
}

/// One line for each instruction: what `place` writes for its address, its bytes, and the instruction in AT&T's syntax.
fn disassemble(text: &mut String, bytes: &[u8], ip: u64, bits: u32, place: impl Fn(&mut String, u64)) {
    let mut decoder = Decoder::with_ip(bits, bytes, ip, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let from = decoder.position();
        decoder.decode_out(&mut instruction);
        place(text, instruction.ip());
        let code = bytes.get(from..decoder.position()).unwrap_or_default();
        let start = text.len();
        for byte in code {
            let _ = write!(text, " {byte:02x}");
        }
        let width = text.len() - start;
        let _ = write!(text, "{:1$}  ", "", BYTES.saturating_sub(width));
        formatter.format(&instruction, text);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Builder, Op, Slot};

    #[test]
    fn a_block_is_printed_as_code_operations_and_code() {
        let mut b = Builder::new(0x1000);
        b.instruction(0x1000, 5);
        b.op_imm(Op::MovI, Slot(0), ir::op::NONE, 0x2a);
        b.instruction(0x1005, 2);
        b.op_imm(Op::Exit, ir::op::NONE, ir::op::NONE, 0x1000);
        // mov eax, 42; jmp 0x1000
        let text = lifted("vcpu3", &b.finish(), 0, &[0xb8, 42, 0, 0, 0, 0xeb, 0xf9], 32);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["----------------", "IN: vcpu3, 0x1000, 32 bits, 2 instructions"]);
        assert_eq!(lines[2], "0x0000000000001000: b8 2a 00 00 00                 mov $0x2a, %eax");
        assert_eq!(lines[3], "0x0000000000001005: eb f9                          jmp 0x1000");
        assert_eq!(lines[4..6], ["OP:", "0x1000 (5 bytes):"]);
        assert!(lines[6].ends_with("MovI pc, 0x2a") && text.ends_with('\n'), "{text}");

        // ret, behind a nop, at another address than the guest's
        let text = emitted("vcpu3", 0x1000, 0x7000_0010, &[0x90, 0xc3]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "OUT: vcpu3, 0x1000, 2 bytes at 0x70000010");
        assert_eq!(lines[1], "+0x0000: 90                             nop");
        assert!(lines[2].starts_with("+0x0001: c3 ") && lines[2].ends_with("ret"), "{text}");
    }

    #[test]
    fn a_block_of_a_program_is_printed_where_it_was_lifted() {
        let mut b = Builder::relative(0x123, Slot(25));
        b.instruction(0x123, 2);
        b.op_imm(Op::Exit, ir::op::NONE, ir::op::NONE, 0x123);
        let text = lifted("vcpu0", &b.finish(), 0x7f00_0000_0000, &[0xeb, 0xfe], 64);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "IN: vcpu0, 0x7f0000000123, 64 bits, 1 instruction");
        assert!(
            lines[2].starts_with("0x00007f0000000123: eb fe ") && lines[2].ends_with("jmp 0x7f0000000123"),
            "{text}"
        );
        assert_eq!(lines[4], "+0x123 (2 bytes):");
    }

    #[test]
    fn what_is_no_instruction_does_not_end_it() {
        let mut text = String::new();
        // PUSH ES, which 64-bit code does not have, with what the decoder takes for its operand; the beginning of something.
        disassemble(&mut text, &[0x06, 0x90, 0x0f], 0, 64, |_, _| ());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.ends_with("(bad)")), "{text}");
        assert!(lines[0].starts_with(" 06 90 ") && lines[1].starts_with(" 0f "), "{text}");
    }
}
