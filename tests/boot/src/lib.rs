//! Guests of a few dozen bytes, for stories about a whole VM that need no Linux.
//!
//! The idea: a kernel is a list of steps, each a hand-assembled piece of 32-bit code, behind a multiboot header that says
//! where it goes. It boots in the time that it takes to start the processes, and does exactly what is written down.
//! Source: Multiboot Specification 0.6.96 (3.1.2, 3.1.3, address fields); Intel SDM, volume 2, for the encodings.

use machine_model::{Machine, MachineVersion};

/// Where the file goes, header first.
const BASE: u32 = 0x10_0000;
/// Bytes of the header: magic, flags, checksum and five addresses.
const HEADER: u32 = 32;
const MAGIC: u32 = 0x1bad_b002;
/// The addresses are in the header.
const ADDRESS_FIELDS: u32 = 1 << 16;

// Registers of a 16550, as offsets, and bits of its line status.
const LINE_STATUS: u16 = 5;
const DATA_READY: u8 = 0x01;
const HOLDING_EMPTY: u8 = 0x20;
const ALL_SENT: u8 = 0x40;

/// PM1 control (ACPI 4.8.3.2.1): sleep enable, and where the sleep type begins.
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 10;

/// A kernel in the making. Steps follow each other; after the last one the vCPU halts for ever.
#[derive(Debug)]
pub struct Payload {
    code: Vec<u8>,
    machine: &'static Machine,
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl Payload {
    /// A kernel without steps, for machine `q35-0`.
    #[must_use]
    pub fn new() -> Self {
        // cli, since nothing here takes interrupts
        Self { code: vec![0xfa], machine: MachineVersion::Q35_0.machine() }
    }

    fn com1(&self) -> u16 {
        self.machine.ports.serial.first().map_or(0, |port| port.ports.start)
    }

    fn add(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.code.extend_from_slice(bytes.as_ref());
        self
    }

    /// mov dx, port
    fn port(self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        self.add([0x66, 0xba, low, high])
    }

    /// Waits until the serial port's line status has one of `bits`. Uses AL and DX.
    fn wait_line(self, bits: u8) -> Self {
        let port = self.com1() + LINE_STATUS;
        // again: in al, dx; test al, bits; jz again
        self.port(port).add([0xec, 0xa8, bits, 0x74, 0xfb])
    }

    /// Prints a text on COM1, waiting for room before each byte.
    #[must_use]
    pub fn print(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        // call over the text: its address is what the call pushes, so the code goes wherever it is
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        // call next; text; next: pop esi; mov ecx, length
        let this = self.add([0xe8]).add(length).add(text).add([0x5e, 0xb9]).add(length);
        // again: lodsb; mov bl, al; <wait>; mov al, bl; mov dx, com1; out dx, al; dec ecx; jnz again
        let start = this.code.len();
        let com1 = this.com1();
        let this = this.add([0xac, 0x88, 0xc3]).wait_line(HOLDING_EMPTY).add([0x88, 0xd8]).port(com1).add([0xee, 0x49]);
        this.jump_back(&[0x0f, 0x85], start)
    }

    /// Sends so many bytes back that come on COM1.
    #[must_use]
    pub fn echo(self, count: u32) -> Self {
        let this = self.add([0xb9]).add(count.to_le_bytes());
        let start = this.code.len();
        let com1 = this.com1();
        // in al, dx; mov bl, al
        let this = this.wait_line(DATA_READY).port(com1).add([0xec, 0x88, 0xc3]);
        let this = this.wait_line(HOLDING_EMPTY).add([0x88, 0xd8]).port(com1).add([0xee, 0x49]);
        this.jump_back(&[0x0f, 0x85], start)
    }

    /// Waits until the serial port has sent everything.
    #[must_use]
    pub fn drain(self) -> Self {
        self.wait_line(ALL_SENT)
    }

    /// Writes `value` to the debug exit port, in 32 bits.
    #[must_use]
    pub fn debug_exit(self, value: u32) -> Self {
        let port = self.machine.ports.debug_exit.start;
        // mov eax, value; mov dx, port; out dx, eax
        self.drain().add([0xb8]).add(value.to_le_bytes()).port(port).add([0xef])
    }

    /// Switches the machine off, as ACPI's S5 does.
    #[must_use]
    pub fn power_off(self) -> Self {
        let ports = &self.machine.ports;
        let (port, kind) = (ports.pm.pm1_control.start, u16::from(ports.sleep.s5));
        let [low, high] = (SLEEP_ENABLE | kind << SLEEP_TYPE).to_le_bytes();
        // mov ax, value; mov dx, port; out dx, ax
        self.drain().add([0x66, 0xb8, low, high]).port(port).add([0x66, 0xef])
    }

    /// Resets the machine.
    #[must_use]
    pub fn reset(self) -> Self {
        let (port, value) = (self.machine.ports.reset.start, self.machine.ports.reset_value);
        // mov al, value; mov dx, port; out dx, al
        self.drain().add([0xb0, value]).port(port).add([0xee])
    }

    /// Counts for ever.
    #[must_use]
    pub fn spin(self) -> Self {
        // again: inc ebx; jmp again
        self.add([0x43, 0xeb, 0xfd])
    }

    /// Executes an invalid instruction; there is nobody to take the exception, so the processor shuts down.
    #[must_use]
    pub fn triple_fault(self) -> Self {
        // push 0; push 0; lidt [esp]; ud2
        self.add([0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b])
    }

    /// A jump (its opcode with a 32-bit distance) to `target`.
    fn jump_back(self, opcode: &[u8], target: usize) -> Self {
        let this = self.add(opcode);
        let end = this.code.len() + 4;
        let back = u32::try_from(end - target).unwrap_or(0).wrapping_neg();
        this.add(back.to_le_bytes())
    }

    /// The file.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        // A stack below the header; then the steps; then: hlt; jmp back to it.
        let code = [&[0xbc][..], &BASE.to_le_bytes(), &self.code, &[0xf4, 0xeb, 0xfd]].concat();
        let end = BASE + HEADER + u32::try_from(code.len()).unwrap_or(0);
        let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESS_FIELDS);
        let header = [MAGIC, ADDRESS_FIELDS, checksum, BASE, BASE, end, end, BASE + HEADER];
        let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        file.extend(code);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_where_the_code_is() {
        let file = Payload::new().print("x").debug_exit(3).finish();
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| file[at * 4 + n]));
        assert_eq!(word(0).wrapping_add(word(1)).wrapping_add(word(2)), 0);
        assert_eq!((word(3), word(4), word(7)), (BASE, BASE, BASE + HEADER));
        assert_eq!(word(5) as usize, BASE as usize + file.len());
        assert_eq!(file[HEADER as usize], 0xbc, "the first instruction");
    }

    #[test]
    fn loops_go_back_to_their_start() {
        let payload = Payload::new().print("abc");
        let code = &payload.code;
        let start = code.windows(3).position(|bytes| bytes == [0xac, 0x88, 0xc3]).unwrap();
        let distance = i32::from_le_bytes(code[code.len() - 4..].try_into().unwrap());
        assert_eq!(code.len() as i32 + distance, start as i32);
    }
}
