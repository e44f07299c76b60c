//! A vCPU's inbox: interrupts on their way to it, left by anybody without a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::message::{Address, Delivery, Message};

/// A non-maskable interrupt waits.
pub const NMI: u32 = 1;
/// INIT waits.
pub const INIT: u32 = 2;
/// A start-up message waits; its page is in bits 8..16.
pub const SIPI: u32 = 4;
/// Look at the external interrupt line.
pub const EXTINT: u32 = 8;

/// What waits for one vCPU, and how it is addressed.
#[derive(Debug, Default)]
pub struct Inbox {
    irr: [AtomicU32; 8],
    level: [AtomicU32; 8],
    events: AtomicU32,
    /// Cheap "anything at all" flag.
    any: AtomicBool,
    id: AtomicU32,
    ldr: AtomicU32,
    mode: AtomicU32,
}

/// What [`Inbox::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Vectors, one bit each.
    pub irr: [u32; 8],
    /// Which of them are level-triggered.
    pub level: [u32; 8],
    /// [`NMI`], [`INIT`], [`SIPI`], [`EXTINT`] and the start-up page.
    pub events: u32,
}

impl Inbox {
    /// Leave `m` if this vCPU's APIC can take it; start-up pages overwrite each other as on hardware.
    pub fn post(&self, m: &Message) {
        match m.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                let (word, bit) = (usize::from(m.vector >> 5), 1 << (m.vector & 31));
                if m.level {
                    self.level[word].fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.level[word].fetch_and(!bit, Ordering::Relaxed);
                }
                self.irr[word].fetch_or(bit, Ordering::Release);
            }
            Delivery::Nmi => drop(self.events.fetch_or(NMI, Ordering::Release)),
            Delivery::Init => drop(self.events.fetch_or(INIT, Ordering::Release)),
            Delivery::ExtInt => drop(self.events.fetch_or(EXTINT, Ordering::Release)),
            Delivery::Sipi => {
                let page = u32::from(m.vector) << 8 | SIPI;
                let _ = self.events.fetch_update(Ordering::Release, Ordering::Relaxed, |e| Some(e & 0xff | page));
            }
            Delivery::Smi => return,
        }
        self.any.store(true, Ordering::Release);
    }

    /// Whether something may wait.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Take everything.
    pub fn take(&self) -> Taken {
        let mut t = Taken::default();
        // Cleared first: what arrives from here on sets it again.
        if !self.any.swap(false, Ordering::AcqRel) {
            return t;
        }
        for (i, out) in t.irr.iter_mut().enumerate() {
            if self.irr[i].load(Ordering::Relaxed) != 0 {
                *out = self.irr[i].swap(0, Ordering::Acquire);
                t.level[i] = self.level[i].load(Ordering::Relaxed);
            }
        }
        t.events = self.events.swap(0, Ordering::Acquire);
        t
    }

    /// Publish how the APIC is addressed now; called by its owner.
    pub fn set_address(&self, a: Address) {
        self.id.store(a.id, Ordering::Relaxed);
        self.ldr.store(a.ldr, Ordering::Relaxed);
        self.mode.store(u32::from(a.cluster) | u32::from(a.x2apic) << 1, Ordering::Release);
    }

    /// How the APIC is addressed.
    pub fn address(&self) -> Address {
        let mode = self.mode.load(Ordering::Acquire);
        Address {
            id: self.id.load(Ordering::Relaxed),
            ldr: self.ldr.load(Ordering::Relaxed),
            cluster: mode & 1 != 0,
            x2apic: mode & 2 != 0,
        }
    }
}

/// Give `m` to those of `inboxes` that it names; calls `wake` with the index of each. `sender` is the sending APIC's id.
pub fn deliver(inboxes: &[Inbox], m: &Message, sender: Option<u32>, mut wake: impl FnMut(usize)) {
    for (i, inbox) in inboxes.iter().enumerate() {
        if inbox.address().is_named(m.destination, sender) {
            inbox.post(m);
            wake(i);
            if m.delivery == Delivery::LowestPriority {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Destination;

    #[test]
    fn what_is_posted_is_taken_once() {
        let b = Inbox::default();
        let m = Message { destination: Destination::All, delivery: Delivery::Fixed, vector: 0x41, level: true };
        b.post(&m);
        b.post(&Message { delivery: Delivery::Sipi, vector: 0x9a, ..m });
        assert!(b.is_waiting());
        let t = b.take();
        assert_eq!((t.irr[2], t.level[2], t.events), (2, 2, 0x9a00 | SIPI));
        assert_eq!(b.take(), Taken::default());
    }

    #[test]
    fn lowest_priority_reaches_one() {
        let all = [Inbox::default(), Inbox::default()];
        all[1].set_address(Address { id: 1, ..Address::default() });
        let mut woken = vec![];
        let m =
            Message { destination: Destination::All, delivery: Delivery::LowestPriority, vector: 0x30, level: false };
        deliver(&all, &m, None, |i| woken.push(i));
        assert_eq!(woken, [0]);
        let m = Message { destination: Destination::Others, delivery: Delivery::Fixed, ..m };
        deliver(&all, &m, Some(0), |i| woken.push(i));
        assert_eq!(woken, [0, 1]);
    }
}
