//! A 16550A UART (National Semiconductor PC16550D, 1995): registers in, bytes and an interrupt level out; no I/O.
//!
//! The line is infinitely fast: a byte leaves with the write that brings it, so the transmitter is always empty, and
//! input beyond the FIFO waits outside. The receive FIFO is filled only when it is empty, so that each fill raises the
//! interrupt anew. There is no clock: bytes below the trigger level count as timed out at once.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that the receive FIFO holds.
pub const FIFO: usize = 16;

/// Register numbers; 0 and 1 are the divisor latch while DLAB is set.
pub mod register {
    /// Receiver buffer (read), transmitter holding (write); divisor low.
    pub const DATA: u8 = 0;
    /// Interrupt enable; divisor high.
    pub const IER: u8 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub const IIR_FCR: u8 = 2;
    /// Line control.
    pub const LCR: u8 = 3;
    /// Modem control.
    pub const MCR: u8 = 4;
    /// Line status.
    pub const LSR: u8 = 5;
    /// Modem status.
    pub const MSR: u8 = 6;
    /// Scratch.
    pub const SCR: u8 = 7;
}
use register::*;

/// Interrupt enables (IER).
const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER: u8 = 0x02;
const IER_LINE: u8 = 0x04;
const IER_MODEM: u8 = 0x08;

/// Interrupt identification (IIR), in order of priority.
const IIR_LINE: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMITTER: u8 = 0x02;
const IIR_MODEM: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVER: u8 = 0x02;
/// Trigger levels by the top two bits of FCR.
const TRIGGERS: [u8; 4] = [1, 4, 8, 14];

const LCR_DLAB: u8 = 0x80;

const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const MCR_BITS: u8 = 0x1f;

const LSR_DATA_READY: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
/// THRE and TEMT: the transmitter is always empty.
const LSR_EMPTY: u8 = 0x60;

/// CTS, DSR and DCD: somebody is always there.
const MSR_CONNECTED: u8 = 0xb0;
const MSR_RING: u8 = 0x40;
const MSR_TRAILING_RING: u8 = 0x04;

/// All of a UART's state, as it lies in the window page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Uart {
    /// Rising edges of the interrupt output so far.
    pub edges: u64,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// The bits of LSR that reading clears.
    errors: u8,
    /// The upper half of MSR as last seen, and the delta bits.
    msr: u8,
    scr: u8,
    dll: u8,
    dlm: u8,
    /// The transmitter interrupt is pending: 0 or 1.
    transmitter: u8,
    /// The interrupt output: 0 or 1.
    level: u8,
    fifo_len: u8,
    fifo_start: u8,
    _reserved: [u8; 3],
    fifo: [u8; FIFO],
}

impl Default for Uart {
    fn default() -> Self {
        Self::RESET
    }
}

impl Uart {
    /// After master reset (table III of the data sheet); the divisor, undefined there, stands for 9600 baud.
    pub const RESET: Self = Self {
        edges: 0,
        ier: 0,
        fcr: 0,
        lcr: 0,
        mcr: 0,
        errors: 0,
        msr: MSR_CONNECTED,
        scr: 0,
        dll: 12,
        dlm: 0,
        transmitter: 0,
        level: 0,
        fifo_len: 0,
        fifo_start: 0,
        _reserved: [0; 3],
        fifo: [0; FIFO],
    };

    /// To power-on; the edge count goes on.
    pub fn reset(&mut self) {
        *self = Self { edges: self.edges, ..Self::RESET };
    }

    /// Brings state that another process wrote within the bounds that the methods rely on.
    pub fn bound(&mut self) {
        self.ier &= 0x0f;
        self.mcr &= MCR_BITS;
        self.errors &= LSR_OVERRUN;
        self.transmitter &= 1;
        self.level &= 1;
        self.fifo_len = self.fifo_len.min(FIFO as u8);
        self.fifo_start %= FIFO as u8;
    }

    /// The interrupt output.
    pub fn level(&self) -> bool {
        self.level != 0
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    /// Whether a write to `register` sends a byte out.
    pub fn transmits(&self, register: u8) -> bool {
        register == DATA && !self.dlab() && !self.looped()
    }

    /// How many bytes of input the UART takes now: a FIFO (or one byte without FIFOs) when it is empty.
    pub fn wants(&self) -> usize {
        match (self.fifo_len, self.looped()) {
            (0, false) => self.capacity(),
            _ => 0,
        }
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    /// A byte arrives from the line. More than [`Uart::wants`] is an overrun: the newest byte is lost.
    pub fn receive(&mut self, byte: u8) {
        if usize::from(self.fifo_len) >= self.capacity() {
            self.errors |= LSR_OVERRUN;
        } else {
            let at = usize::from(self.fifo_start + self.fifo_len) % FIFO;
            self.fifo[at] = byte;
            self.fifo_len += 1;
        }
        self.update();
    }

    /// What reading `register` answers now, and whether the read would change anything.
    pub fn peek(&self, register: u8) -> (u8, bool) {
        match register {
            DATA if self.dlab() => (self.dll, false),
            DATA if self.fifo_len == 0 => (0, false),
            DATA => (self.fifo[usize::from(self.fifo_start) % FIFO], true),
            IER if self.dlab() => (self.dlm, false),
            IER => (self.ier, false),
            IIR_FCR => {
                let id = self.identification();
                (id | if self.fifos() { IIR_FIFOS } else { 0 }, id == IIR_TRANSMITTER)
            }
            LCR => (self.lcr, false),
            MCR => (self.mcr, false),
            LSR => {
                let ready = if self.fifo_len > 0 { LSR_DATA_READY } else { 0 };
                // In loopback mode every transmitted byte changes it.
                (LSR_EMPTY | ready | self.errors, self.errors != 0 || self.looped())
            }
            MSR => (self.msr, self.msr & 0x0f != 0),
            _ => (self.scr, false),
        }
    }

    /// The guest reads `register` (0 to 7).
    pub fn read(&mut self, register: u8) -> u8 {
        let (value, _) = self.peek(register);
        match register {
            DATA if !self.dlab() && self.fifo_len > 0 => {
                self.fifo_start = (self.fifo_start + 1) % FIFO as u8;
                self.fifo_len -= 1;
            }
            IIR_FCR if value & 0x0f == IIR_TRANSMITTER => self.transmitter = 0,
            LSR => self.errors = 0,
            MSR => self.msr &= 0xf0,
            _ => {}
        }
        self.update();
        value
    }

    /// The guest writes `register` (0 to 7); answers the byte that leaves, if one does.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        let mut sent = None;
        match register {
            DATA if self.dlab() => self.dll = value,
            DATA => {
                // The write clears the transmitter interrupt; that the byte is gone at once raises it again.
                self.transmitter = 0;
                self.update();
                if self.looped() {
                    self.receive(value);
                } else {
                    sent = Some(value);
                }
                self.transmitter = 1;
            }
            IER if self.dlab() => self.dlm = value,
            IER => {
                // Enabling the interrupt while the transmitter is empty raises it.
                if value & !self.ier & IER_TRANSMITTER != 0 {
                    self.transmitter = 1;
                }
                self.ier = value & 0x0f;
            }
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.write_mcr(value),
            SCR => self.scr = value,
            _ => {}
        }
        self.update();
        sent
    }

    fn write_fcr(&mut self, value: u8) {
        // Changing bit 0 empties the FIFOs; with bit 0 clear the other bits do not take.
        if (value ^ self.fcr) & FCR_ENABLE != 0 || value & FCR_CLEAR_RECEIVER != 0 {
            self.fifo_len = 0;
        }
        self.fcr = if value & FCR_ENABLE != 0 { value & (0xc0 | FCR_ENABLE) } else { 0 };
    }

    fn write_mcr(&mut self, value: u8) {
        self.mcr = value & MCR_BITS;
        let lines = self.modem_lines();
        let changed = (lines ^ self.msr) & 0xf0;
        let mut deltas = (changed >> 4) & !MSR_TRAILING_RING;
        if changed & MSR_RING != 0 && lines & MSR_RING == 0 {
            deltas |= MSR_TRAILING_RING;
        }
        self.msr = lines | (self.msr & 0x0f) | deltas;
    }

    /// The upper half of MSR.
    fn modem_lines(&self) -> u8 {
        if !self.looped() {
            return MSR_CONNECTED;
        }
        // DTR, RTS, OUT1, OUT2 appear as DSR, CTS, RI, DCD.
        let bit = |from: u8, to: u8| if self.mcr & from != 0 { to } else { 0 };
        bit(0x01, 0x20) | bit(0x02, 0x10) | bit(0x04, 0x40) | bit(0x08, 0x80)
    }

    /// The enabled interrupt of the highest priority, without the FIFO bits.
    fn identification(&self) -> u8 {
        let trigger = if self.fifos() { TRIGGERS[usize::from(self.fcr >> 6)] } else { 1 };
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_LINE) && self.errors != 0 {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && self.fifo_len >= trigger {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.fifo_len > 0 {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMITTER) && self.transmitter != 0 {
            IIR_TRANSMITTER
        } else if enabled(IER_MODEM) && self.msr & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// Whether the interrupt output is high by the registers. OUT2 connects it to the PC's interrupt controller; loopback
    /// disconnects OUT2.
    fn interrupts(&self) -> bool {
        self.mcr & MCR_OUT2 != 0 && !self.looped() && self.identification() != IIR_NONE
    }

    /// Recomputes the interrupt output.
    fn update(&mut self) {
        let level = u8::from(self.interrupts());
        if level > self.level {
            self.edges = self.edges.wrapping_add(1);
        }
        self.level = level;
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::*;

    /// A UART as Linux leaves it after start-up: 8N1, FIFOs with trigger 8, DTR, RTS and OUT2.
    fn started() -> Uart {
        let mut u = Uart::RESET;
        u.write(IIR_FCR, 0x87);
        u.write(LCR, 0x03);
        u.write(MCR, 0x0b);
        u
    }

    #[test]
    fn linux_takes_it_for_a_16550a() {
        // The steps of the 8250 driver's autoconfig and 16550A size checks, with what they must see.
        let mut u = Uart::RESET;
        u.write(IER, 0);
        assert_eq!(u.read(IER), 0);
        u.write(IER, 0x0f);
        assert_eq!(u.read(IER) & 0x0f, 0x0f);
        u.write(IER, 0);
        u.write(MCR, 0x10 | 0x0a);
        assert_eq!(u.read(MSR) & 0xf0, 0x90, "loopback shows RTS and OUT2 as CTS and DCD");
        u.write(MCR, 0);
        u.write(LCR, 0xbf);
        u.write(IIR_FCR, 0);
        u.write(LCR, 0);
        u.write(IIR_FCR, 0x01);
        assert_eq!(u.read(IIR_FCR) >> 6, 3, "a 16550A");
        u.write(LCR, 0x80);
        assert_ne!(u.read(IIR_FCR), 0, "no enhanced feature register: no 16650");
        u.write(LCR, 0xbf);
        assert_ne!(u.read(IIR_FCR), 0);
        u.write(LCR, 0);
        u.write(IIR_FCR, 0x21);
        assert_eq!(u.read(IIR_FCR) & 0x20, 0, "no 64-byte FIFO: no 16750");
        u.write(LCR, 0x80);
        u.write(IIR_FCR, 0x21);
        assert_eq!(u.read(IIR_FCR) & 0x20, 0);
        u.write(LCR, 0);
        u.write(IER, 0x40);
        assert_eq!(u.read(IER) & 0x40, 0, "no UART unit enable: no XScale");
        assert_eq!(u.peek(LSR).0, 0x60);
    }

    #[test]
    fn enabling_the_transmitter_interrupt_raises_it_every_time() {
        let mut u = started();
        for round in 0..3 {
            u.write(IER, IER_TRANSMITTER);
            assert!(u.level());
            assert_eq!(u.edges, round + 1);
            assert_eq!(u.read(IIR_FCR), 0xc2, "pending");
            assert!(!u.level(), "reading IIR acknowledges it");
            assert_eq!(u.read(IIR_FCR), 0xc1);
            u.write(IER, 0);
        }
    }

    #[test]
    fn each_transmitted_byte_is_an_edge() {
        let mut u = started();
        u.write(IER, IER_TRANSMITTER);
        assert_eq!(u.write(DATA, b'a'), Some(b'a'));
        assert_eq!((u.edges, u.level()), (2, true));
        assert_eq!(u.write(DATA, b'b'), Some(b'b'));
        assert_eq!((u.edges, u.level()), (3, true));
        u.write(IER, 0);
        assert_eq!((u.write(DATA, b'c'), u.edges, u.level()), (Some(b'c'), 3, false));
        assert_eq!(u.peek(LSR), (0x60, false), "always empty");
    }

    #[test]
    fn received_bytes_time_out_at_once_and_trigger_at_their_level() {
        let mut u = started();
        u.write(IER, IER_RECEIVED);
        assert_eq!(u.wants(), 16);
        for n in 1..=9 {
            u.receive(n);
            let id = if n < 8 { IIR_TIMEOUT } else { IIR_RECEIVED };
            assert_eq!(u.read(IIR_FCR), IIR_FIFOS | id, "{n} bytes");
        }
        assert_eq!((u.wants(), u.edges), (0, 1), "filled only when empty; one edge for one fill");
        for n in 1..=9 {
            assert_eq!(u.read(LSR), 0x61);
            assert_eq!(u.peek(DATA), (n, true));
            assert_eq!(u.read(DATA), n);
        }
        assert_eq!((u.read(LSR), u.level(), u.wants()), (0x60, false, 16));
        assert_eq!((u.read(DATA), u.peek(DATA)), (0, (0, false)), "an empty buffer can be read without the device");
        u.receive(7);
        assert_eq!(u.edges, 2);
    }

    #[test]
    fn without_fifos_one_byte_waits_and_more_overruns() {
        let mut u = started();
        u.write(IIR_FCR, 0);
        u.write(IER, IER_LINE | IER_RECEIVED);
        assert_eq!(u.wants(), 1);
        u.receive(b'x');
        assert_eq!(u.read(IIR_FCR), IIR_RECEIVED, "no FIFO bits");
        u.receive(b'y');
        assert_eq!(u.read(IIR_FCR), IIR_LINE, "line status is first");
        assert_eq!(u.peek(LSR), (0x63, true));
        assert_eq!(u.read(LSR), 0x63);
        assert_eq!(u.read(LSR), 0x61, "reading clears the error");
        assert_eq!(u.read(DATA), b'x');
        assert!(!u.level());
    }

    #[test]
    fn fifo_control_empties_and_ignores_what_it_must() {
        let mut u = started();
        u.receive(1);
        u.write(IIR_FCR, 0x81);
        assert_eq!(u.read(LSR) & 1, 1);
        u.write(IIR_FCR, 0x83);
        assert_eq!(u.read(LSR) & 1, 0, "cleared");
        u.receive(1);
        u.write(IIR_FCR, 0xc0);
        assert_eq!(u.read(LSR) & 1, 0, "switching the FIFOs off empties them");
        assert_eq!(u.read(IIR_FCR), IIR_NONE);
        u.write(IIR_FCR, 0x01);
        u.write(IER, IER_RECEIVED);
        u.receive(1);
        assert_eq!(u.read(IIR_FCR), IIR_FIFOS | IIR_RECEIVED, "the trigger bits did not take without bit 0");
    }

    #[test]
    fn loopback_returns_bytes_and_modem_lines_and_keeps_input_out() {
        let mut u = started();
        u.write(IER, 0x0f);
        let edges = u.edges;
        u.write(MCR, 0x1b);
        assert!(!u.level() && u.wants() == 0 && !u.transmits(DATA));
        u.read(MSR);
        for n in 0..17 {
            assert_eq!(u.write(DATA, n), None);
        }
        assert_eq!(u.read(LSR), 0x63, "the 17th byte overran");
        assert_eq!((0..16).map(|_| u.read(DATA)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert!(u.peek(LSR).1, "every read asks");
        u.write(MCR, 0x1f);
        assert_eq!(u.read(MSR), 0xf0, "RI rose: no delta");
        u.write(MCR, 0x1b);
        assert_eq!(u.read(MSR), 0xb4, "trailing edge of RI");
        assert_eq!(u.read(MSR), 0xb0);
        u.write(MCR, 0x10);
        assert_eq!(u.read(MSR), 0x0b, "DCD, DSR and CTS fell");
        assert_eq!(u.edges, edges, "no interrupt leaves a looped UART");
        u.write(MCR, 0x0b);
        assert!(u.level(), "pending: the transmitter, and the modem lines are back");
        assert_eq!(u.read(IIR_FCR), 0xc2);
        assert_eq!(u.read(IIR_FCR), 0xc0);
        assert_eq!(u.read(MSR), 0xbb);
        assert_eq!((u.read(IIR_FCR), u.level()), (0xc1, false));
    }

    #[test]
    fn registers_keep_what_they_should() {
        let mut u = started();
        u.write(LCR, 0x83);
        assert!(!u.transmits(DATA));
        assert_eq!((u.write(DATA, 0x34), u.write(IER, 0x12)), (None, None));
        assert_eq!((u.read(DATA), u.read(IER)), (0x34, 0x12));
        u.write(LCR, 0x03);
        assert_eq!((u.read(DATA), u.read(IER)), (0, 0), "DLAB gives the registers back");
        u.write(SCR, 0xa5);
        u.write(LSR, 0xff);
        u.write(MSR, 0xff);
        u.write(MCR, 0xff);
        assert_eq!((u.read(SCR), u.peek(LSR).0, u.read(MCR)), (0xa5, 0x60, 0x1f));
        u.edges = 9;
        u.reset();
        assert_eq!(u, Uart { edges: 9, ..Uart::RESET });
    }

    #[test]
    fn without_out2_nothing_interrupts() {
        let mut u = started();
        u.write(MCR, 0x03);
        u.write(IER, 0x0f);
        assert!(!u.level());
        assert_eq!(u.read(IIR_FCR), 0xc2, "but it is identified");
        u.write(DATA, 1);
        u.write(MCR, 0x0b);
        assert!(u.level());
    }

    #[test]
    fn foreign_state_is_bounded() {
        let mut u = Uart::read_from_bytes(&[0xff; size_of::<Uart>()]).unwrap();
        u.bound();
        for register in 0..8 {
            u.read(register);
            u.write(register, 0xff);
            u.receive(1);
        }
        assert!(usize::from(u.fifo_len) <= FIFO);
    }

    #[test]
    fn peek_tells_the_truth() {
        // Whatever the state, a read that claims to change nothing changes nothing, and answers what was shown.
        let mut u = started();
        let mut seed = 1u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (register, value) = ((seed >> 28) as u8 & 7, (seed >> 16) as u8);
            match seed >> 30 {
                0 => {
                    let (shown, changes) = u.peek(register);
                    let before = u;
                    assert_eq!(u.read(register), shown);
                    assert!(changes || u == before, "register {register}");
                }
                1 if u.wants() > 0 => u.receive(value),
                _ => {
                    let transmits = u.transmits(register);
                    assert_eq!(u.write(register, value).is_some(), transmits);
                }
            }
        }
    }
}
