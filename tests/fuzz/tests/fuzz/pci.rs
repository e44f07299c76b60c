//! PCI configuration space as a guest reaches it: ports 0xCF8 to 0xCFF and the ECAM, at any offset and width; and the board's
//! other registers between.
//!
//! An input is a row of accesses: what and width, offset, value. What must hold: no guest changes bits that are not writable,
//! both ways show the same registers, absent functions read as ones, and base address registers as zeros.

use board::chipset::Chipset;
use fuzz::{Plant, Seen, Target, Verdict};
use machine_model::pci::{CONFIG_SIZE, ECAM_FUNCTION_SIZE};
use machine_model::{Machine, MachineVersion};

use crate::bytes::{Bytes, holds};

pub static TARGET: Target = Target {
    name: "pci",
    run,
    seeds,
    words,
    longest: 1024,
    head: 0,
    plants: &[
        "a write over the end of configuration space is an index",
        "port 0xCFC reaches buses that are not there",
        "a base address register that is not there keeps its address",
        "a read-only bit of the command register can be set",
    ],
};

/// The widths of accesses.
const WIDTHS: [u8; 4] = [1, 2, 4, 8];

fn machine() -> &'static Machine {
    MachineVersion::Q35_0.machine()
}

struct Guest {
    chipset: Chipset,
    now: u64,
    /// What was written to 0xCF8 last.
    address: u32,
    plant: Plant,
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let mut guest = Guest { chipset: Chipset::new(machine(), 1_700_000_000, 0), now: 0, address: 0, plant };
    let mut input = Bytes(input);
    let mut accesses = 0;
    while !input.is_empty() {
        let what = input.byte();
        let width = WIDTHS[usize::from(what >> 6)];
        guest.step(what & 0x0f, width, &mut input, seen)?;
        accesses += 1;
    }
    seen.count("accesses", accesses);
    guest.invariants(seen)
}

fn mask(width: u8) -> u64 {
    if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 }
}

impl Guest {
    fn step(&mut self, what: u8, width: u8, input: &mut Bytes<'_>, seen: &mut Seen) -> Verdict {
        let (ports, ecam) = (&machine().ports, machine().memory.ecam);
        match what {
            0..=2 => {
                self.address = input.number(4) as u32;
                self.chipset.write_port(ports.pci_address.start, 4, self.address.into(), self.now);
                self.address &= 0x80ff_fffc;
                let back = self.chipset.read_port(ports.pci_address.start, 4, self.now) as u32;
                holds!(back == self.address, "0xCF8 reads as {back:#x} after {:#x}", self.address);
            }
            3 | 4 => {
                let (at, value) = (u16::from(input.byte() & 3), input.number(4));
                let width = width.min(4);
                if let Some(offset) = self.offset(at, seen)? {
                    self.plan(offset, width, value)?;
                }
                self.chipset.write_port(ports.pci_data.start + at, width, value, self.now);
            }
            5 => {
                let (at, width) = (u16::from(input.byte() & 3), width.min(4));
                let value = self.chipset.read_port(ports.pci_data.start + at, width, self.now);
                let same = match self.offset(at, seen)? {
                    Some(offset) => self.chipset.read_memory(ecam.start + offset, width, self.now),
                    None => mask(width),
                };
                holds!(value == same, "ports read {value:#x}, the ECAM {same:#x}");
            }
            6 | 7 => {
                let (offset, value) = (self.place(input), input.number(8));
                self.plan(offset, width, value)?;
                self.chipset.write_memory(ecam.start + offset, width, value, self.now);
            }
            8 | 9 => {
                let offset = self.place(input);
                let value = self.chipset.read_memory(ecam.start + offset, width, self.now);
                holds!(value & !mask(width) == 0, "{value:#x} is wider than {width}");
                let present = self.function(offset).is_some();
                holds!(present || value == mask(width), "an absent function reads as {value:#x}");
                seen.hit("read", u64::from(present) << 8 | (offset % ECAM_FUNCTION_SIZE / 4).min(64));
            }
            10 => {
                // Any port and any address, also beyond what the board has.
                let (port, value) = (input.number(2) as u16, input.number(4));
                self.chipset.write_port(port, width, value, self.now);
                self.chipset.read_port(port.wrapping_add(1), width, self.now);
                seen.hit("port", u64::from(port.min(0x1000) >> 3));
            }
            11 => {
                let (address, value) = (input.number(8), input.number(4));
                self.chipset.write_memory(address, width, value, self.now);
                self.chipset.read_memory(address, width, self.now);
            }
            12 => {
                self.now = self.now.saturating_add(input.number(8));
                self.chipset.advance(self.now);
                seen.hit("deadline", u64::from(self.chipset.deadline().is_some()));
            }
            13 => self.chipset.line_rose(usize::from(input.byte())),
            14 => {
                self.chipset.end_of_interrupt(input.byte());
                seen.hit("vector", u64::from(self.chipset.interrupt_acknowledge() >> 3));
            }
            _ => self.chipset.reset(self.now),
        }
        if what == 15 {
            self.address = 0;
        }
        let out = self.chipset.take_outputs();
        seen.hit("outputs", u64::from(out.functions_changed) << 1 | u64::from(out.event.is_some()));
        Ok(())
    }

    /// An ECAM offset, more often of a function that is there.
    fn place(&self, input: &mut Bytes<'_>) -> u64 {
        let (kind, offset) = (input.byte(), input.number(4));
        let functions = machine().pci.functions;
        let inside = match functions.get(usize::from(kind & 3)) {
            Some(function) => function.ecam_offset() + offset % ECAM_FUNCTION_SIZE,
            None => offset,
        };
        inside % machine().memory.ecam.len
    }

    /// What 0xCFC + `at` reaches, if anything.
    fn offset(&self, at: u16, seen: &mut Seen) -> Result<Option<u64>, String> {
        let bus = self.address >> 16 & 0xff;
        let enabled = self.address >> 31 == 1;
        let there = bus < u32::from(machine().pci.buses);
        seen.hit("data port", u64::from(enabled) * 2 + u64::from(there));
        holds!(!self.plant.is(1) || !enabled || there, "bus {bus} would be read");
        let offset = u64::from(self.address >> 8 & 0xffff) * ECAM_FUNCTION_SIZE + u64::from(self.address & 0xfc);
        Ok((enabled && there).then_some(offset + u64::from(at)))
    }

    /// The function of an offset: its number in the list.
    fn function(&self, offset: u64) -> Option<usize> {
        let start = offset / ECAM_FUNCTION_SIZE * ECAM_FUNCTION_SIZE;
        machine().pci.functions.iter().position(|function| function.ecam_offset() == start)
    }

    /// What a planted bug would make of a write.
    fn plan(&self, offset: u64, width: u8, value: u64) -> Verdict {
        let (Some(_), register) = (self.function(offset), (offset % ECAM_FUNCTION_SIZE) as usize) else {
            return Ok(());
        };
        if self.plant.is(0) && register < CONFIG_SIZE {
            let mut bytes = [0; CONFIG_SIZE];
            (0..usize::from(width)).for_each(|at| bytes[register + at] = (value >> (8 * at)) as u8);
        }
        if self.plant.is(2) && (0x10..0x28).contains(&register) && width == 4 {
            holds!(value & 0xffff_fff0 == 0, "a base address register would be {value:#x}");
        }
        if self.plant.is(3) && register == 4 && width >= 2 {
            holds!(value & 0xf800 == 0, "the command register would be {value:#x}");
        }
        Ok(())
    }

    fn invariants(&mut self, seen: &mut Seen) -> Verdict {
        for (function, is) in machine().pci.functions.iter().zip(self.chipset.pci().functions()) {
            let (reset, writable) = (function.reset_bytes(), function.writable_bytes());
            for (at, byte) in is.bytes().iter().enumerate() {
                let fixed = (byte ^ reset[at]) & !writable[at];
                holds!(fixed == 0, "{}: byte {at:#x} is {byte:#x}", function.name);
                if *byte != reset[at] {
                    seen.hit("changed", at as u64);
                }
            }
            holds!(
                is.bytes()[0x10..0x28].iter().all(|byte| *byte == 0),
                "a base address register of {}",
                function.name
            );
        }
        Ok(())
    }
}

fn access(what: u8, width: usize, rest: &[&[u8]]) -> Vec<u8> {
    [&[what | (width as u8) << 6][..], &rest.concat()].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let address = |value: u32| access(0, 2, &[&value.to_le_bytes()]);
    let probe = [address(0x8000_0000), access(5, 2, &[&[0]]), address(0x8000_f810), access(3, 1, &[&[0], &[0; 4]])];
    let ecam = [
        access(8, 2, &[&[0], &[0; 4]]),
        access(6, 1, &[&[1], &[4, 0, 0, 0], &[0x47, 1, 0, 0, 0, 0, 0, 0]]),
        access(8, 1, &[&[1], &[4, 0, 0, 0]]),
        access(9, 2, &[&[3], &[0, 0, 1, 0]]),
    ];
    let others = [
        access(10, 0, &[&[0x43, 0], &[0x34, 0, 0, 0]]),
        access(12, 0, &[&1_000_000u64.to_le_bytes()]),
        access(13, 0, &[&[4]]),
        access(14, 0, &[&[0x30]]),
        access(11, 2, &[&0xfec0_0000u64.to_le_bytes(), &[0x10, 0, 0, 0]]),
        access(15, 0, &[]),
    ];
    vec![probe.concat(), ecam.concat(), others.concat()]
}

fn words() -> Vec<Vec<u8>> {
    let ports =
        [0x20u16, 0x21, 0xa0, 0x40, 0x43, 0x61, 0x64, 0x70, 0x71, 0x92, 0xf4, 0x4d0, 0x600, 0x604, 0xcf8, 0xcf9, 0xcfc];
    let mut words: Vec<Vec<u8>> = ports.iter().map(|port| port.to_le_bytes().to_vec()).collect();
    words.extend([0x8000_0000u32, 0x8000_f800, 0x80ff_0000, 0x8008_0000].map(|address| address.to_le_bytes().to_vec()));
    words.extend(
        [0xfec0_0000u64, 0xfec0_0010, machine().memory.ecam.start].map(|address| address.to_le_bytes().to_vec()),
    );
    words.extend((0..0x40).step_by(4).map(|register: u8| vec![register, 0, 0, 0]));
    words.extend([vec![0xff; 4], vec![0xfe, 0, 0, 0], vec![0xfe, 0x0f, 0, 0]]);
    words
}
