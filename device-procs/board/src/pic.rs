//! The pair of 8259A interrupt controllers, with the edge/level control registers that chipsets add to them.
//!
//! The one idea: a chip is five bit sets (request, in service, mask, line level, trigger mode) and a rotation; everything
//! it does is picking the first set bit in rotated order. Sources: Intel 8259A datasheet (231468), ICH9 datasheet
//! (316972) chapter "8259 Interrupt Controllers" for ELCR.

/// ISA lines that cannot be level triggered: timer, keyboard, cascade (master), RTC and coprocessor (slave).
const ELCR_WRITABLE: [u8; 2] = [0xF8, 0xDE];
/// Master line of the slave's output.
const CASCADE: u8 = 2;

/// What the next write to a chip's data port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// Operation: the mask.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chip {
    request: u8,
    in_service: u8,
    mask: u8,
    /// Levels of the input lines.
    lines: u8,
    /// Bits of lines that are level triggered (ELCR).
    level: u8,
    /// The line that has the highest priority.
    first: u8,
    vector_base: u8,
    expect: Expect,
    /// ICW1 announced an ICW4.
    icw4: bool,
    /// ICW1 said that there is no cascade, so no ICW3 follows.
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    poll: bool,
    read_in_service: bool,
}

impl Chip {
    fn new() -> Self {
        Self {
            request: 0,
            in_service: 0,
            // Power-on state is undefined in the datasheet; masked, so that nothing happens before initialisation.
            mask: 0xFF,
            lines: 0,
            level: 0,
            first: 0,
            vector_base: 0,
            expect: Expect::Mask,
            icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            poll: false,
            read_in_service: false,
        }
    }

    /// Position of the first set bit of `bits` in priority order, counted from the highest priority; 8 if none.
    fn priority(&self, bits: u8) -> u32 {
        bits.rotate_right(u32::from(self.first)).trailing_zeros()
    }

    /// The line that would be acknowledged now.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let candidate = self.priority(self.request & !self.mask);
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        // In special fully nested mode a slave's further requests pass while one of it is in service.
        if is_master && self.special_fully_nested {
            blocking &= !(1 << CASCADE);
        }
        (candidate < self.priority(blocking)).then(|| (candidate as u8 + self.first) & 7)
    }

    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        let rising = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if self.level & bit != 0 {
            self.request = self.request & !bit | self.lines & bit;
        } else if rising {
            self.request |= bit;
        }
    }

    fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (line + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
        if self.level & bit == 0 {
            self.request &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialise(value);
        } else if value & 0x08 != 0 {
            self.poll = value & 0x04 != 0;
            if value & 0x02 != 0 {
                self.read_in_service = value & 0x01 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end_of_interrupt(value >> 5, value & 7);
        }
    }

    /// ICW1.
    fn initialise(&mut self, value: u8) {
        // The edge latches are cleared; a level-triggered line that is high goes on requesting.
        self.request = self.lines & self.level;
        self.in_service = 0;
        self.mask = 0;
        self.first = 0;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_mask = false;
        self.special_fully_nested = false;
        self.poll = false;
        self.read_in_service = false;
        self.icw4 = value & 1 != 0;
        self.single = value & 2 != 0;
        self.expect = Expect::Icw2;
    }

    /// OCW2: `command` is its upper three bits (rotate, specific, EOI), `line` its lower three.
    fn end_of_interrupt(&mut self, command: u8, line: u8) {
        match command {
            // Rotate in automatic EOI mode, clear and set.
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            // Non-specific EOI, without and with rotation.
            1 | 5 => {
                let mut served = self.in_service;
                // In special mask mode a masked level is not cleared by a non-specific EOI.
                if self.special_mask {
                    served &= !self.mask;
                }
                let position = self.priority(served);
                if position < 8 {
                    let done = (position as u8 + self.first) & 7;
                    self.in_service &= !(1 << done);
                    if command == 5 {
                        self.first = (done + 1) & 7;
                    }
                }
            }
            // Specific EOI, without and with rotation.
            3 | 7 => {
                self.in_service &= !(1 << line);
                if command == 7 {
                    self.first = (line + 1) & 7;
                }
            }
            // Set priority: `line` becomes the lowest.
            6 => self.first = (line + 1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4 { Expect::Icw4 } else { Expect::Mask };
        match self.expect {
            Expect::Mask => self.mask = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xF8;
                self.expect = if self.single { after_icw3 } else { Expect::Icw3 };
            }
            // The wiring of the pair is fixed: the value is not needed.
            Expect::Icw3 => self.expect = after_icw3,
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expect = Expect::Mask;
            }
        }
    }

    fn read(&mut self, is_master: bool, data_port: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending(is_master) {
                Some(line) => {
                    self.acknowledge(line);
                    0x80 | line
                }
                None => 0,
            };
        }
        match (data_port, self.read_in_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.request,
        }
    }
}

/// Which chip of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Ports 0x20 and 0x21.
    Master,
    /// Ports 0xA0 and 0xA1.
    Slave,
}

/// Both chips, as one interrupt controller of lines 0 to 15.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        Self { master: Chip::new(), slave: Chip::new() }
    }
}

impl Pic {
    fn chip(&mut self, which: Which) -> &mut Chip {
        match which {
            Which::Master => &mut self.master,
            Which::Slave => &mut self.slave,
        }
    }

    /// The slave's output is the master's line 2; while high it requests, so it is a level whatever ELCR says.
    fn cascade(&mut self) {
        let high = self.slave.pending(false).is_some();
        self.master.request = self.master.request & !(1 << CASCADE) | u8::from(high) << CASCADE;
    }

    /// Sets the level of ISA line `line` (0 to 15; line 2 is the cascade and has no input).
    pub fn set_line(&mut self, line: u8, high: bool) {
        match line {
            CASCADE => {}
            0..8 => self.master.set_line(line, high),
            8..16 => self.slave.set_line(line - 8, high),
            _ => {}
        }
        self.cascade();
    }

    /// Whether INTR is asserted.
    pub fn intr(&self) -> bool {
        self.master.pending(true).is_some()
    }

    /// A chip's mask, and whether a poll command is pending, which the next read of either port would carry out.
    pub fn mask(&self, which: Which) -> (u8, bool) {
        let chip = match which {
            Which::Master => &self.master,
            Which::Slave => &self.slave,
        };
        (chip.mask, chip.poll)
    }

    /// Whether line `line` (0 to 15) is masked in its chip, or for a slave's line at the cascade.
    pub fn masked(&self, line: u8) -> bool {
        match line {
            0..8 => self.master.mask >> line & 1 != 0,
            8..16 => self.slave.mask >> (line - 8) & 1 != 0 || self.master.mask >> CASCADE & 1 != 0,
            _ => true,
        }
    }

    /// The processor's interrupt acknowledge cycle: the vector. A request that has gone away in between gives the
    /// spurious vector, line 7 of the chip that was asked.
    pub fn interrupt_acknowledge(&mut self) -> u8 {
        let vector = match self.master.pending(true) {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                match self.slave.pending(false) {
                    Some(line) => {
                        self.slave.acknowledge(line);
                        self.slave.vector_base | line
                    }
                    None => self.slave.vector_base | 7,
                }
            }
            Some(line) => {
                self.master.acknowledge(line);
                self.master.vector_base | line
            }
            None => self.master.vector_base | 7,
        };
        self.cascade();
        vector
    }

    /// Writes the command (`data_port` false) or data port of a chip.
    pub fn write(&mut self, which: Which, data_port: bool, value: u8) {
        let chip = self.chip(which);
        if data_port {
            chip.write_data(value)
        } else {
            chip.write_command(value)
        }
        self.cascade();
    }

    /// Reads the command or data port of a chip. A pending poll command makes it an acknowledge cycle.
    pub fn read(&mut self, which: Which, data_port: bool) -> u8 {
        let value = self.chip(which).read(which == Which::Master, data_port);
        self.cascade();
        value
    }

    /// Writes the edge/level control register of a chip; lines that must be edge triggered stay so.
    pub fn write_elcr(&mut self, which: Which, value: u8) {
        let writable = ELCR_WRITABLE[which as usize];
        let chip = self.chip(which);
        chip.level = value & writable;
        chip.request = chip.request & !chip.level | chip.lines & chip.level;
        self.cascade();
    }

    /// Reads the edge/level control register of a chip.
    pub fn read_elcr(&self, which: Which) -> u8 {
        match which {
            Which::Master => self.master.level,
            Which::Slave => self.slave.level,
        }
    }
}

mod saved;

#[cfg(test)]
mod tests {
    use super::Which::{Master, Slave};
    use super::*;

    /// A pair set up as Linux does it, at vectors 0x30 and 0x38, nothing masked.
    fn pic(icw4: u8) -> Pic {
        let mut pic = Pic::default();
        for (which, base, wiring) in [(Master, 0x30, 4), (Slave, 0x38, 2)] {
            pic.write(which, false, 0x11);
            for value in [base, wiring, icw4, 0x00] {
                pic.write(which, true, value);
            }
        }
        pic
    }

    fn pulse(pic: &mut Pic, line: u8) {
        pic.set_line(line, true);
        pic.set_line(line, false);
    }

    #[test]
    fn nothing_happens_before_initialisation() {
        let mut pic = Pic::default();
        pulse(&mut pic, 4);
        assert!(!pic.intr());
    }

    #[test]
    fn the_mask_is_read_back() {
        let mut pic = pic(1);
        for value in [0xFF, 0xFB, 0x00, 0x55] {
            pic.write(Master, true, value);
            assert_eq!(pic.read(Master, true), value);
        }
    }

    #[test]
    fn an_edge_interrupts_once() {
        let mut pic = pic(1);
        pic.set_line(4, true);
        assert!(pic.intr());
        assert_eq!(pic.interrupt_acknowledge(), 0x34);
        assert!(!pic.intr(), "in service, and the line did not rise again");
        pic.write(Master, false, 0x20);
        assert!(!pic.intr(), "the line is still high: no new edge");
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert!(pic.intr());
    }

    #[test]
    fn a_level_interrupts_until_it_falls() {
        let mut pic = pic(1);
        pic.write_elcr(Slave, 0x0A);
        assert_eq!(pic.read_elcr(Slave), 0x0A);
        pic.set_line(11, true);
        assert_eq!(pic.interrupt_acknowledge(), 0x3B);
        pic.write(Slave, false, 0x20);
        pic.write(Master, false, 0x20);
        assert!(pic.intr(), "still high");
        pic.set_line(11, false);
        assert!(!pic.intr());
    }

    #[test]
    fn lines_that_are_wired_to_edges_stay_so() {
        let mut pic = pic(1);
        pic.write_elcr(Master, 0xFF);
        pic.write_elcr(Slave, 0xFF);
        assert_eq!((pic.read_elcr(Master), pic.read_elcr(Slave)), (0xF8, 0xDE));
    }

    #[test]
    fn a_higher_line_interrupts_a_lower_one_and_not_the_other_way() {
        let mut pic = pic(1);
        pulse(&mut pic, 4);
        assert_eq!(pic.interrupt_acknowledge(), 0x34);
        pulse(&mut pic, 6);
        assert!(!pic.intr());
        pulse(&mut pic, 1);
        assert_eq!(pic.interrupt_acknowledge(), 0x31);
        pic.write(Master, false, 0x0B);
        assert_eq!(pic.read(Master, false), 0b1_0010, "both in service");
        pic.write(Master, false, 0x20);
        assert_eq!(pic.read(Master, false), 0b1_0000, "the highest ends first");
        pic.write(Master, false, 0x64);
        assert_eq!(pic.interrupt_acknowledge(), 0x36, "after the specific end of line 4");
    }

    #[test]
    fn a_slave_line_goes_through_the_cascade() {
        let mut pic = pic(1);
        pulse(&mut pic, 8);
        pulse(&mut pic, 3);
        assert_eq!(pic.interrupt_acknowledge(), 0x38, "the cascade is line 2, before line 3");
        assert!(!pic.intr(), "line 3 waits for the cascade's end");
        pic.write(Slave, false, 0x20);
        assert!(!pic.intr());
        pic.write(Master, false, 0x62);
        assert_eq!(pic.interrupt_acknowledge(), 0x33);
    }

    #[test]
    fn two_slave_lines_come_one_after_the_other() {
        let mut pic = pic(1);
        pulse(&mut pic, 12);
        pulse(&mut pic, 14);
        assert_eq!(pic.interrupt_acknowledge(), 0x3C);
        pic.write(Slave, false, 0x20);
        pic.write(Master, false, 0x20);
        assert_eq!(pic.interrupt_acknowledge(), 0x3E);
    }

    #[test]
    fn a_request_that_was_masked_meanwhile_is_spurious() {
        let mut pic = pic(1);
        pulse(&mut pic, 4);
        pic.write(Master, true, 0x10);
        assert!(!pic.intr());
        assert_eq!(pic.interrupt_acknowledge(), 0x37);
        pic.write(Master, false, 0x0B);
        assert_eq!(pic.read(Master, false), 0, "a spurious one is not in service");
        pic.write(Master, true, 0x00);
        assert!(pic.intr(), "the edge was kept");
    }

    #[test]
    fn masking_tells_about_the_cascade_too() {
        let mut pic = pic(1);
        assert!(!pic.masked(4) && !pic.masked(12));
        pic.write(Master, true, 0x04);
        assert!(!pic.masked(4) && pic.masked(12));
        pic.write(Slave, true, 0x10);
        pic.write(Master, true, 0x10);
        assert!(pic.masked(4) && pic.masked(12) && !pic.masked(13));
    }

    #[test]
    fn automatic_end_of_interrupt_leaves_nothing_in_service() {
        let mut pic = pic(3);
        pulse(&mut pic, 5);
        assert_eq!(pic.interrupt_acknowledge(), 0x35);
        pulse(&mut pic, 7);
        assert_eq!(pic.interrupt_acknowledge(), 0x37);
    }

    #[test]
    fn rotation_makes_the_served_line_the_lowest() {
        let mut pic = pic(1);
        pulse(&mut pic, 0);
        assert_eq!(pic.interrupt_acknowledge(), 0x30);
        pic.write(Master, false, 0xA0);
        pulse(&mut pic, 0);
        pulse(&mut pic, 7);
        assert_eq!(pic.interrupt_acknowledge(), 0x37);
        pic.write(Master, false, 0x67);
        assert_eq!(pic.interrupt_acknowledge(), 0x30);
        // Set priority: line 4 lowest, so 5 is the highest.
        pic.write(Master, false, 0x60);
        pic.write(Master, false, 0xC4);
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert_eq!(pic.interrupt_acknowledge(), 0x35);
    }

    #[test]
    fn rotation_on_automatic_end() {
        let mut pic = pic(3);
        pic.write(Master, false, 0x80);
        pulse(&mut pic, 3);
        assert_eq!(pic.interrupt_acknowledge(), 0x33);
        pulse(&mut pic, 3);
        pulse(&mut pic, 4);
        assert_eq!(pic.interrupt_acknowledge(), 0x34, "3 is the lowest now");
    }

    #[test]
    fn special_mask_mode_lets_lower_lines_through_a_masked_one_in_service() {
        let mut pic = pic(1);
        pulse(&mut pic, 1);
        assert_eq!(pic.interrupt_acknowledge(), 0x31);
        pulse(&mut pic, 5);
        assert!(!pic.intr());
        pic.write(Master, false, 0x68);
        pic.write(Master, true, 0x02);
        assert_eq!(pic.interrupt_acknowledge(), 0x35);
        pic.write(Master, false, 0x20);
        pic.write(Master, false, 0x0B);
        assert_eq!(pic.read(Master, false), 0x02, "the masked one stays in service");
    }

    #[test]
    fn a_poll_acknowledges() {
        let mut pic = pic(1);
        pulse(&mut pic, 6);
        pic.write(Master, false, 0x0C);
        assert_eq!(pic.read(Master, false), 0x86);
        assert!(!pic.intr());
        pic.write(Master, false, 0x0C);
        assert_eq!(pic.read(Master, false), 0x00, "nothing more");
        assert_eq!(pic.read(Master, true), 0x00, "the poll is over: the mask");
    }

    #[test]
    fn initialisation_drops_edges_and_keeps_levels() {
        let mut pic = pic(1);
        pic.write_elcr(Master, 0x20);
        pic.set_line(5, true);
        pic.set_line(6, true);
        pic.write(Master, false, 0x11);
        assert_eq!(pic.read(Master, false), 0x20);
    }
}
