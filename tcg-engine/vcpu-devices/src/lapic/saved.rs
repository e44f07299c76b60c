//! A local APIC in saved state: the register page as every hypervisor has it, and what the page cannot say.
//!
//! The idea: whoever loads gets an APIC that a guest could have made by itself, or the name of the register that says
//! otherwise; so nothing after a load has to be careful.

use super::{BASE_BSP, BASE_ENABLE, BASE_LEGAL, BASE_X2APIC, LVT_WRITABLE, Lapic, MASKED, reg};

/// Bytes of the page: 64 registers, 16 bytes each.
const PAGE: usize = 1024;
/// Delivery status of a local vector, which is read-only: nothing is ever on its way for long.
const SEND_PENDING: u32 = 1 << 12;
/// Errors that ESR can have.
const ERRORS: u32 = 0xff;

/// What is saved of a local APIC. Times are guest nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Register n as four little-endian bytes at offset 16 n, 1024 bytes.
    pub page: Vec<u8>,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    pub tsc_deadline: u64,
    /// Errors since the last write of ESR.
    pub errors: u32,
    /// When the timer's count was started; 0 if it does not run, or to go by the page, which is exact to one tick.
    pub started: u64,
}

/// An APIC that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadState {
    /// The field of the saved vCPU.
    pub field: &'static str,
    /// What is wrong.
    pub why: String,
}

impl Lapic {
    /// The state at guest time `now`.
    pub fn save(&self, now: u64) -> Saved {
        let mut page = vec![0; PAGE];
        for (n, out) in page.chunks_exact_mut(16).enumerate() {
            let v = match n as u8 {
                reg::ICR_HIGH => (self.icr >> 32) as u32,
                n => self.register(n, now).unwrap_or(0),
            };
            out[..4].copy_from_slice(&v.to_le_bytes());
        }
        Saved {
            page,
            base: self.base,
            tsc_deadline: self.tsc_deadline,
            errors: self.esr,
            started: if self.initial == 0 { 0 } else { self.started },
        }
    }

    /// The APIC with id `id`, that of the boot processor or not, from a saved state at guest time `now`.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn load(id: u32, boot: bool, saved: &Saved, now: u64) -> Result<Lapic, BadState> {
        let bad = |field, why: String| Err(BadState { field, why });
        if saved.page.len() < PAGE {
            return bad("lapic", format!("has {} bytes, fewer than the {PAGE} of the register page", saved.page.len()));
        }
        let mode = saved.base & (BASE_ENABLE | BASE_X2APIC);
        if saved.base & !BASE_LEGAL != 0 || mode == BASE_X2APIC || (saved.base & BASE_BSP != 0) != boot {
            return bad("apicBase", format!("{:#x} cannot be that of the APIC with id {id}", saved.base));
        }
        let page = Page(&saved.page);
        let mut l = Lapic::new(id, boot);
        l.base = saved.base;
        let own = page.word(reg::ID);
        if own != id << 24 && !(l.x2apic() && own == id) {
            return bad("lapic", format!("has the id {own:#x}, and this is the APIC with id {id}"));
        }
        l.registers(&page)?;
        l.errors(saved)?;
        l.timer(saved, &page, now)?;
        l.update_ldr();
        Ok(l)
    }

    fn registers(&mut self, page: &Page<'_>) -> Result<(), BadState> {
        self.tpr = page.limited(reg::TPR, 0xff)?;
        self.svr = page.limited(reg::SVR, 0x1ff)?;
        self.dfr = page.word(reg::DFR) | 0x0fff_ffff;
        // In x2APIC mode it follows from the id.
        if !self.x2apic() {
            self.ldr = page.limited(reg::LDR, 0xff00_0000)?;
        }
        for i in 0..8u8 {
            // There are no vectors below 16.
            let vectors = if i == 0 { 0xffff_0000 } else { u32::MAX };
            self.isr[usize::from(i)] = page.limited(reg::ISR + i, vectors)?;
            self.tmr[usize::from(i)] = page.limited(reg::TMR + i, vectors)?;
            self.irr[usize::from(i)] = page.limited(reg::IRR + i, vectors)?;
        }
        self.icr = u64::from(page.word(reg::ICR_LOW) & !SEND_PENDING) | u64::from(page.word(reg::ICR_HIGH)) << 32;
        for (i, writable) in LVT_WRITABLE.into_iter().enumerate() {
            let v = page.limited(reg::LVT_TIMER + i as u8, writable | SEND_PENDING)?;
            // While the APIC is disabled by software, its vectors are masked (SDM 3A, 10.4.7.2).
            let masked = if self.software_enabled() { 0 } else { MASKED };
            self.lvt[i] = v & !SEND_PENDING | masked;
        }
        self.divide = page.limited(reg::TIMER_DIVIDE, 0xb)?;
        self.initial = page.word(reg::TIMER_INITIAL);
        Ok(())
    }

    fn errors(&mut self, saved: &Saved) -> Result<(), BadState> {
        self.esr_latched = Page(&saved.page).limited(reg::ESR, ERRORS)?;
        self.esr = saved.errors;
        if saved.errors & !ERRORS != 0 {
            return Err(BadState {
                field: "apicErrors",
                why: format!("{:#x} has bits that ESR has not", saved.errors),
            });
        }
        Ok(())
    }

    fn timer(&mut self, saved: &Saved, page: &Page<'_>, now: u64) -> Result<(), BadState> {
        let current = page.word(reg::TIMER_CURRENT);
        if current > self.initial && !self.deadline_mode() {
            let why = format!("the timer counts {current}, more than it was started with ({})", self.initial);
            return Err(BadState { field: "lapic", why });
        }
        let gone = self.initial.saturating_sub(current);
        self.started = now.saturating_sub(u64::from(gone).saturating_mul(self.tick()));
        if saved.started != 0 {
            self.started = saved.started;
            if saved.started > now || self.current(now) != current {
                let why = format!("{} does not fit the timer's count {current} at guest time {now}", saved.started);
                return Err(BadState { field: "apicTimerStart", why });
            }
        }
        self.tsc_deadline = saved.tsc_deadline;
        if saved.tsc_deadline != 0 && !self.deadline_mode() {
            let why = format!("{} is armed, and the timer is not in TSC-deadline mode", saved.tsc_deadline);
            return Err(BadState { field: "tscDeadline", why });
        }
        Ok(())
    }
}

/// A register page of the right length.
struct Page<'a>(&'a [u8]);

impl Page<'_> {
    fn word(&self, n: u8) -> u32 {
        let at = usize::from(n) * 16;
        self.0.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// A register that has no other bits than `mask`.
    fn limited(&self, n: u8, mask: u32) -> Result<u32, BadState> {
        let v = self.word(n);
        if v & !mask != 0 {
            let why = format!("register {n:#x} is {v:#x}, and the bits {:#x} of it are reserved", v & !mask);
            return Err(BadState { field: "lapic", why });
        }
        Ok(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lapic::{Action, TICK_NS};

    /// Enabled by software.
    fn enabled() -> Lapic {
        let mut l = Lapic::new(0, true);
        l.write(0xf0, 0x1ff, 0);
        l
    }

    fn same(tsc: u64) -> u64 {
        tsc
    }

    fn again(l: &Lapic, now: u64) -> Lapic {
        let saved = l.save(now);
        let back = Lapic::load(0, true, &saved, now).unwrap();
        assert_eq!(back.save(now), saved);
        back
    }

    #[test]
    fn requested_and_in_service() {
        let mut l = enabled();
        l.accept(0x41, true);
        l.accept(0x91, false);
        assert_eq!(l.acknowledge(), Some(0x91));
        let mut back = again(&l, 7);
        assert_eq!(back.pending(), None, "the one in service is above it");
        assert_eq!(back.write(0xb0, 0, 7), Action::None);
        assert_eq!(back.acknowledge(), Some(0x41));
        assert_eq!(back.write(0xb0, 0, 7), Action::Eoi(0x41), "it is level-triggered");
    }

    #[test]
    fn the_timer_fires_at_the_same_time() {
        for (lvt, count) in [(0x31, 1000), (0x2_0031, 1000), (0x2_0031, 100)] {
            let mut l = enabled();
            l.write(0x3e0, 0xb, 0);
            l.write(0x320, lvt, 0);
            l.write(0x380, count, 17);
            // In the middle of a tick, and for the last row in a later period.
            let now = 17 + 123 * TICK_NS + 9;
            let back = again(&l, now);
            assert_eq!(back.deadline(same), l.deadline(same), "{lvt:#x}");
            // From another hypervisor, which tells the count only.
            let saved = Saved { started: 0, ..l.save(now) };
            let near = Lapic::load(0, true, &saved, now).unwrap();
            let (want, got) = (back.deadline(same).unwrap(), near.deadline(same).unwrap());
            let period = u64::from(count) * TICK_NS;
            assert!((got - want) % period < TICK_NS, "{got} is near {want}");
        }
    }

    #[test]
    fn a_deadline_stays_where_it_was() {
        let mut l = enabled();
        l.write(0x320, 0x4_0030, 0);
        l.set_tsc_deadline(5000);
        let mut back = again(&l, 4000);
        assert!(!back.expire(4999, same) && back.expire(5000, same));
        assert_eq!(back.acknowledge(), Some(0x30));
        // One that passed unnoticed fires at once.
        let mut back = again(&l, 6000);
        assert!(back.expire(6000, same));
    }

    #[test]
    fn errors_before_and_after_the_latch() {
        let mut l = enabled();
        l.write(0x300, 3, 0);
        l.write(0x280, 0, 0);
        l.accept(3, false);
        let mut back = again(&l, 0);
        assert_eq!(back.read(0x280, 0), 0x20);
        back.write(0x280, 0, 0);
        assert_eq!(back.read(0x280, 0), 0x40);
    }

    #[test]
    fn the_modes_come_back() {
        let mut l = Lapic::new(0x23, false);
        l.set_base(l.base() | BASE_X2APIC).unwrap();
        l.write_msr(0x30, 5 << 32 | 0x40, 0).unwrap();
        let saved = l.save(0);
        let mut back = Lapic::load(0x23, false, &saved, 0).unwrap();
        assert_eq!(back.read_msr(0x30, 0), Ok(5 << 32 | 0x40));
        assert_eq!(back.address(), l.address());
        let mut off = enabled();
        off.set_base(super::super::DEFAULT_BASE).unwrap();
        assert!(!again(&off, 0).is_enabled());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let mut l = enabled();
        l.write(0x380, 100, 0);
        let good = l.save(40 * TICK_NS);
        let refused = |change: &dyn Fn(&mut Saved)| {
            let mut s = good.clone();
            change(&mut s);
            let e = Lapic::load(0, true, &s, 40 * TICK_NS).unwrap_err();
            assert!(!e.why.is_empty());
            e.field
        };
        let set =
            |n: u8, v: u32| move |s: &mut Saved| s.page[16 * usize::from(n)..][..4].copy_from_slice(&v.to_le_bytes());
        assert_eq!(refused(&|s| s.page.truncate(1023)), "lapic");
        assert_eq!(refused(&|s| s.page.clear()), "lapic");
        for base in [good.base | 1, good.base & !BASE_BSP, BASE_BSP | BASE_X2APIC, 1 << 63 | good.base] {
            assert_eq!(refused(&|s| s.base = base), "apicBase");
        }
        for (n, v) in [
            (reg::ID, 1),
            (reg::TPR, 0x100),
            (reg::SVR, 0x3ff),
            (reg::LDR, 1),
            (reg::ISR, 1),
            (reg::TMR, 1 << 15),
            (reg::IRR, 0xffff),
            (reg::ESR, 0x100),
            (reg::LVT_TIMER, 1 << 19),
            (reg::LVT_ERROR, 0x700),
            (reg::TIMER_CURRENT, 101),
            (reg::TIMER_DIVIDE, 4),
        ] {
            assert_eq!(refused(&set(n, v)), "lapic", "{n:#x}");
        }
        assert_eq!(refused(&|s| s.errors = 0x100), "apicErrors");
        assert_eq!(refused(&|s| s.started = 40 * TICK_NS + 1), "apicTimerStart");
        assert_eq!(refused(&|s| s.started = 30 * TICK_NS), "apicTimerStart");
        assert_eq!(refused(&|s| s.tsc_deadline = 1), "tscDeadline");
    }
}
