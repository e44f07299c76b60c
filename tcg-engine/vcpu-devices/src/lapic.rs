//! The local APIC: registers, priorities, timer, and the interrupt command register.
//!
//! Time is the guest's, in nanoseconds; the timer counts the 25 MHz crystal that CPUID leaf 15h names, and in TSC-deadline
//! mode compares with the TSC, which the caller converts. The APIC says through [`Action`]s what others must do.

mod saved;

pub use saved::{BadState, Saved};

use crate::inbox::Taken;
use crate::message::{Address, Delivery, Destination, Message};

/// Nanoseconds per tick of the timer's clock (25 MHz).
pub const TICK_NS: u64 = 40;
/// IA32_APIC_BASE: this is the boot processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// The bits of IA32_APIC_BASE that may be set.
const BASE_LEGAL: u64 = BASE_BSP | BASE_ENABLE | BASE_X2APIC | 0x0000_3fff_ffff_f000;
/// Where the registers are after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Register numbers: xAPIC offset / 16, x2APIC MSR - 0x800.
mod reg {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const TMR: u8 = 0x18;
    pub const IRR: u8 = 0x20;
    pub const ESR: u8 = 0x28;
    pub const ICR_LOW: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT_TIMER: u8 = 0x32;
    pub const LVT_LINT0: u8 = 0x35;
    pub const LVT_ERROR: u8 = 0x37;
    pub const TIMER_INITIAL: u8 = 0x38;
    pub const TIMER_CURRENT: u8 = 0x39;
    pub const TIMER_DIVIDE: u8 = 0x3e;
    pub const SELF_IPI: u8 = 0x3f;
}

const MASKED: u32 = 1 << 16;
/// Bits of the local vectors that software sets.
const LVT_WRITABLE: [u32; 6] = [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
const ESR_ILLEGAL_VECTOR_SENT: u32 = 1 << 5;
const ESR_ILLEGAL_VECTOR_RECEIVED: u32 = 1 << 6;

/// What a register write asks of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    None,
    /// Deliver this message; the sender is this APIC.
    Send(Message),
    /// Tell the IOAPIC that the level-triggered interrupt with this vector has ended.
    Eoi(u8),
    /// The timer's deadline changed.
    Timer,
}

/// The access raises #GP(0) (x2APIC only).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gp;

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    id: u32,
    base: u64,
    tpr: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: [u32; 8],
    tmr: [u32; 8],
    irr: [u32; 8],
    esr: u32,
    esr_latched: u32,
    icr: u64,
    /// CMCI is not implemented; timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    initial: u32,
    divide: u32,
    /// Guest time at which the count was started.
    started: u64,
    /// Guest TSC deadline; 0: none.
    tsc_deadline: u64,
}

impl Lapic {
    /// After power-on.
    pub fn new(id: u32, boot: bool) -> Self {
        let base = DEFAULT_BASE | BASE_ENABLE | if boot { BASE_BSP } else { 0 };
        let mut l = Lapic {
            id,
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_latched: 0,
            icr: 0,
            lvt: [MASKED; 6],
            initial: 0,
            divide: 0,
            started: 0,
            tsc_deadline: 0,
        };
        l.update_ldr();
        l
    }

    /// INIT: everything but the id and the base register.
    pub fn init(&mut self) {
        let base = self.base;
        *self = Lapic { base, ..Lapic::new(self.id, base & BASE_BSP != 0) };
        self.update_ldr();
    }

    /// How it is addressed.
    pub fn address(&self) -> Address {
        Address { id: self.id, ldr: self.ldr, cluster: self.dfr >> 28 == 0, x2apic: self.x2apic() }
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Write IA32_APIC_BASE (SDM 3A, "x2APIC State Transitions").
    pub fn set_base(&mut self, v: u64) -> Result<(), Gp> {
        const MODE: u64 = BASE_ENABLE | BASE_X2APIC;
        // x2APIC is entered from the enabled state and left through the disabled one.
        let illegal_move = matches!((self.base & MODE, v & MODE), (_, BASE_X2APIC) | (MODE, BASE_ENABLE) | (0, MODE));
        if v & !BASE_LEGAL != 0 || illegal_move {
            return Err(Gp);
        }
        let was = self.base & MODE;
        self.base = v & !BASE_BSP | self.base & BASE_BSP;
        if v & MODE == 0 && was != 0 {
            self.init();
        }
        self.update_ldr();
        Ok(())
    }

    fn update_ldr(&mut self) {
        if self.x2apic() {
            self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 15);
        }
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Whether the guest may use it at all.
    pub fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    fn software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & 0x100 != 0
    }

    /// Read register page offset `offset` (xAPIC mode). Other modes and gaps read as the bus does: all ones, or zero.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        if !self.is_enabled() || self.x2apic() || offset & 0xf > 3 {
            return if self.is_enabled() && !self.x2apic() { 0 } else { u32::MAX };
        }
        let n = (offset >> 4) as u8;
        let v = match n {
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            _ => self.register(n, now).unwrap_or(0),
        };
        v >> ((offset & 3) * 8)
    }

    /// Write register page offset `offset` (xAPIC mode).
    pub fn write(&mut self, offset: u32, v: u32, now: u64) -> Action {
        if !self.is_enabled() || self.x2apic() || offset & 0xf != 0 {
            return Action::None;
        }
        let n = (offset >> 4) as u8;
        match n {
            reg::ICR_HIGH => {
                self.icr = self.icr & 0xffff_ffff | u64::from(v) << 32;
                Action::None
            }
            reg::ICR_LOW => self.command(self.icr & !0xffff_ffff | u64::from(v)),
            reg::LDR => {
                self.ldr = v & 0xff00_0000;
                Action::None
            }
            reg::DFR => {
                self.dfr = v | 0x0fff_ffff;
                Action::None
            }
            _ => self.set_register(n, v, now).unwrap_or(Action::None),
        }
    }

    /// RDMSR of `0x800 + n` in x2APIC mode.
    pub fn read_msr(&mut self, n: u8, now: u64) -> Result<u64, Gp> {
        if !self.x2apic() {
            return Err(Gp);
        }
        match n {
            reg::ICR_LOW => Ok(self.icr),
            reg::EOI | reg::SELF_IPI | reg::DFR => Err(Gp),
            reg::ID => Ok(u64::from(self.id)),
            _ => self.register(n, now).map(u64::from).ok_or(Gp),
        }
    }

    /// WRMSR of `0x800 + n` in x2APIC mode.
    pub fn write_msr(&mut self, n: u8, v: u64, now: u64) -> Result<Action, Gp> {
        if !self.x2apic() {
            return Err(Gp);
        }
        match n {
            reg::ICR_LOW => Ok(self.command(v)),
            _ if v >> 32 != 0 => Err(Gp),
            reg::EOI | reg::ESR if v != 0 => Err(Gp),
            reg::SELF_IPI => Ok(Action::Send(Message {
                destination: Destination::Myself,
                delivery: Delivery::Fixed,
                vector: v as u8,
                level: false,
            })),
            reg::LDR | reg::DFR | reg::ICR_HIGH | reg::ID => Err(Gp),
            _ => self.set_register(n, v as u32, now).ok_or(Gp),
        }
    }

    fn register(&self, n: u8, now: u64) -> Option<u32> {
        Some(match n {
            reg::ID => self.id << 24,
            // Version 0x14, six entries, EOI broadcast suppression not offered.
            reg::VERSION => 0x0005_0014,
            reg::TPR => self.tpr,
            reg::PPR => self.ppr(),
            reg::LDR => self.ldr,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..=0x17 => self.isr[usize::from(n - reg::ISR)],
            reg::TMR..=0x1f => self.tmr[usize::from(n - reg::TMR)],
            reg::IRR..=0x27 => self.irr[usize::from(n - reg::IRR)],
            reg::ESR => self.esr_latched,
            reg::ICR_LOW => self.icr as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[usize::from(n - reg::LVT_TIMER)],
            reg::TIMER_INITIAL => self.initial,
            reg::TIMER_CURRENT => self.current(now),
            reg::TIMER_DIVIDE => self.divide,
            _ => return None,
        })
    }

    fn set_register(&mut self, n: u8, v: u32, now: u64) -> Option<Action> {
        match n {
            reg::TPR => self.tpr = v & 0xff,
            reg::EOI => return Some(self.end_of_interrupt()),
            reg::SVR => {
                self.svr = v & 0x1ff;
                if v & 0x100 == 0 {
                    for l in &mut self.lvt {
                        *l |= MASKED;
                    }
                }
            }
            reg::ESR => {
                self.esr_latched = self.esr;
                self.esr = 0;
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => return Some(self.set_lvt(usize::from(n - reg::LVT_TIMER), v)),
            reg::TIMER_INITIAL => {
                if self.deadline_mode() {
                    return Some(Action::None);
                }
                self.initial = v;
                self.started = now;
                return Some(Action::Timer);
            }
            reg::TIMER_DIVIDE => {
                // The count goes on from where it is, at the new rate.
                let left = self.current(now);
                self.divide = v & 0xb;
                self.started = now.saturating_sub(u64::from(self.initial.wrapping_sub(left)) * self.tick());
                return Some(Action::Timer);
            }
            reg::VERSION | reg::PPR | reg::ID | reg::TIMER_CURRENT => {}
            _ => return None,
        }
        Some(Action::None)
    }

    fn set_lvt(&mut self, i: usize, v: u32) -> Action {
        let was_deadline = self.deadline_mode();
        self.lvt[i] = v & LVT_WRITABLE[i] | if self.software_enabled() { 0 } else { MASKED };
        if i == 0 {
            if was_deadline != self.deadline_mode() {
                self.initial = 0;
                self.tsc_deadline = 0;
            }
            return Action::Timer;
        }
        Action::None
    }

    fn command(&mut self, v: u64) -> Action {
        // Delivery status (bit 12) always reads idle.
        self.icr = v & !(1 << 12);
        let low = v as u32;
        let dest = (v >> 32) as u32;
        let destination = match low >> 18 & 3 {
            1 => Destination::Myself,
            2 => Destination::All,
            3 => Destination::Others,
            _ if self.x2apic() && low & 0x800 != 0 => Destination::Logical(dest),
            _ if self.x2apic() => Destination::Physical(dest),
            _ if low & 0x800 != 0 => Destination::Logical(dest >> 24),
            _ if dest >> 24 == 0xff => Destination::Physical(u32::MAX),
            _ => Destination::Physical(dest >> 24),
        };
        let delivery = Delivery::from_bits(low >> 8);
        let vector = low as u8;
        if matches!(delivery, Delivery::Fixed | Delivery::LowestPriority) && vector < 16 {
            self.error(ESR_ILLEGAL_VECTOR_SENT);
            return Action::None;
        }
        // INIT level de-assert does nothing on these processors.
        if delivery == Delivery::Init && low & (1 << 14) == 0 && low & (1 << 15) != 0 {
            return Action::None;
        }
        Action::Send(Message { destination, delivery, vector, level: false })
    }

    fn error(&mut self, bit: u32) {
        self.esr |= bit;
        let lvt = self.lvt[5];
        if lvt & MASKED == 0 {
            self.accept(lvt as u8, false);
        }
    }

    /// Take in what waited in the inbox (vectors only; events are the vCPU's).
    pub fn take_in(&mut self, t: &Taken) {
        if !self.software_enabled() {
            return;
        }
        for i in 0..8 {
            let mut bits = t.irr[i];
            while bits != 0 {
                let b = bits.trailing_zeros();
                bits &= bits - 1;
                self.accept((i as u32 * 32 + b) as u8, t.level[i] >> b & 1 != 0);
            }
        }
    }

    fn accept(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            if self.esr & ESR_ILLEGAL_VECTOR_RECEIVED == 0 {
                self.esr |= ESR_ILLEGAL_VECTOR_RECEIVED;
            }
            return;
        }
        let (word, bit) = (usize::from(vector >> 5), 1u32 << (vector & 31));
        self.irr[word] |= bit;
        if level {
            self.tmr[word] |= bit;
        } else {
            self.tmr[word] &= !bit;
        }
    }

    fn ppr(&self) -> u32 {
        let isr = highest(&self.isr).unwrap_or(0);
        if self.tpr >> 4 >= u32::from(isr >> 4) { self.tpr } else { u32::from(isr & 0xf0) }
    }

    /// The vector that would be delivered now.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        let v = highest(&self.irr)?;
        (self.software_enabled() && u32::from(v >> 4) > self.ppr() >> 4).then_some(v)
    }

    /// Deliver: from requested to in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let v = self.pending()?;
        let (word, bit) = (usize::from(v >> 5), 1u32 << (v & 31));
        self.irr[word] &= !bit;
        self.isr[word] |= bit;
        Some(v)
    }

    fn end_of_interrupt(&mut self) -> Action {
        let Some(v) = highest(&self.isr) else { return Action::None };
        let (word, bit) = (usize::from(v >> 5), 1u32 << (v & 31));
        self.isr[word] &= !bit;
        if self.tmr[word] & bit != 0 { Action::Eoi(v) } else { Action::None }
    }

    /// Task priority as CR8 shows it.
    pub fn cr8(&self) -> u8 {
        (self.tpr >> 4) as u8
    }

    /// Write CR8.
    pub fn set_cr8(&mut self, v: u8) {
        self.tpr = u32::from(v & 15) << 4;
    }

    /// Whether the external line of the legacy controller reaches the processor: APIC off, or LINT0 unmasked as ExtINT.
    pub fn passes_extint(&self) -> bool {
        !self.is_enabled() || (self.lvt[usize::from(reg::LVT_LINT0 - reg::LVT_TIMER)] & (MASKED | 0x700)) == 0x700
    }

    fn timer_mode(&self) -> u32 {
        self.lvt[0] >> 17 & 3
    }

    fn deadline_mode(&self) -> bool {
        self.timer_mode() == 2
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Write IA32_TSC_DEADLINE; ignored outside TSC-deadline mode.
    pub fn set_tsc_deadline(&mut self, tsc: u64) -> Action {
        if !self.deadline_mode() {
            return Action::None;
        }
        self.tsc_deadline = tsc;
        Action::Timer
    }

    /// Nanoseconds per count at the current divider.
    fn tick(&self) -> u64 {
        let d = (self.divide & 3) | (self.divide >> 1 & 4);
        TICK_NS << ((d + 1) & 7)
    }

    fn current(&self, now: u64) -> u32 {
        if self.initial == 0 || self.deadline_mode() {
            return 0;
        }
        let gone = now.saturating_sub(self.started) / self.tick();
        match self.timer_mode() {
            1 => self.initial - (gone % u64::from(self.initial)) as u32,
            _ => u64::from(self.initial).saturating_sub(gone) as u32,
        }
    }

    /// Guest time at which the timer fires next, if it is running. `tsc_to_ns` converts a guest TSC value.
    pub fn deadline(&self, tsc_to_ns: impl Fn(u64) -> u64) -> Option<u64> {
        if self.deadline_mode() {
            return (self.tsc_deadline != 0).then(|| tsc_to_ns(self.tsc_deadline));
        }
        (self.initial != 0).then(|| self.started + u64::from(self.initial) * self.tick())
    }

    /// Fire the timer if it is due; call with the guest time `now`. Returns whether it fired.
    pub fn expire(&mut self, now: u64, tsc_to_ns: impl Fn(u64) -> u64) -> bool {
        if self.deadline(tsc_to_ns).is_none_or(|d| d > now) {
            return false;
        }
        if self.deadline_mode() {
            self.tsc_deadline = 0;
        } else if self.timer_mode() == 1 {
            let period = u64::from(self.initial) * self.tick();
            self.started += (now - self.started) / period * period;
        } else {
            self.initial = 0;
        }
        if self.lvt[0] & MASKED == 0 && self.software_enabled() {
            self.accept(self.lvt[0] as u8, false);
        }
        true
    }
}

/// The highest set bit of a 256-bit register.
fn highest(words: &[u32; 8]) -> Option<u8> {
    words.iter().enumerate().rev().find(|(_, w)| **w != 0).map(|(i, w)| (i as u32 * 32 + 31 - w.leading_zeros()) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Lapic {
        let mut l = Lapic::new(0, true);
        l.write(0xf0, 0x1ff, 0);
        l
    }

    fn same(tsc: u64) -> u64 {
        tsc
    }

    #[test]
    fn priorities_nest_and_end() {
        let mut l = enabled();
        l.accept(0x41, false);
        l.accept(0x63, true);
        assert_eq!(l.acknowledge(), Some(0x63));
        assert_eq!(l.pending(), None, "a lower class waits");
        l.accept(0x71, false);
        assert_eq!(l.acknowledge(), Some(0x71));
        assert_eq!(l.write(0xb0, 0, 0), Action::None);
        assert_eq!(l.write(0xb0, 0, 0), Action::Eoi(0x63), "level-triggered ends are reported");
        assert_eq!(l.acknowledge(), Some(0x41));
    }

    #[test]
    fn task_priority_holds_back() {
        let mut l = enabled();
        l.accept(0x41, false);
        l.set_cr8(4);
        assert_eq!(l.pending(), None);
        l.set_cr8(3);
        assert_eq!(l.pending(), Some(0x41));
    }

    #[test]
    fn one_shot_and_periodic() {
        let mut l = enabled();
        l.write(0x3e0, 0xb, 0); // divide by 1
        l.write(0x320, 0x30, 0);
        l.write(0x380, 100, 1000);
        assert_eq!(l.deadline(same), Some(1000 + 100 * TICK_NS));
        assert_eq!(l.read(0x390, 1000 + 40 * TICK_NS), 60);
        assert!(!l.expire(1000 + 100 * TICK_NS - 1, same));
        assert!(l.expire(1000 + 100 * TICK_NS, same));
        assert_eq!(l.acknowledge(), Some(0x30));
        assert_eq!(l.deadline(same), None);
        l.write(0x320, 0x2_0031, 0);
        l.write(0x380, 10, 0);
        assert!(l.expire(25 * TICK_NS, same));
        assert_eq!(l.deadline(same), Some(30 * TICK_NS), "the period does not drift");
    }

    #[test]
    fn divider_encoding() {
        let mut l = enabled();
        for (bits, by) in [(0xb, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128)] {
            l.write(0x3e0, bits, 0);
            assert_eq!(l.tick(), TICK_NS * by, "{bits:#x}");
        }
    }

    #[test]
    fn tsc_deadline_only_in_its_mode() {
        let mut l = enabled();
        assert_eq!(l.set_tsc_deadline(5), Action::None);
        l.write(0x320, 0x4_0030, 0);
        assert_eq!(l.set_tsc_deadline(5), Action::Timer);
        assert!(l.expire(5, same));
        assert_eq!((l.tsc_deadline(), l.acknowledge()), (0, Some(0x30)));
    }

    #[test]
    fn x2apic_transitions_and_registers() {
        let mut l = Lapic::new(0x23, false);
        assert_eq!(l.read_msr(0x02, 0), Err(Gp), "not in x2APIC mode");
        l.set_base(l.base() | BASE_X2APIC).unwrap();
        assert_eq!(l.read_msr(0x02, 0), Ok(0x23));
        assert_eq!(l.read_msr(0x0d, 0), Ok(2 << 16 | 8));
        assert_eq!(l.set_base(DEFAULT_BASE | BASE_ENABLE), Err(Gp), "no way back but through off");
        assert_eq!(l.write_msr(0x0b, 1, 0), Err(Gp));
        let a = l.write_msr(0x30, 5 << 32 | 0x40, 0).unwrap();
        let Action::Send(m) = a else { panic!("{a:?}") };
        assert_eq!((m.destination, m.vector), (Destination::Physical(5), 0x40));
        l.set_base(DEFAULT_BASE).unwrap();
        assert!(!l.is_enabled() && l.passes_extint());
    }
}
