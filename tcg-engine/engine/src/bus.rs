//! The machine as one vCPU sees it: register windows, its local APIC, clocks, random numbers.
//!
//! Owns the vCPU's local APIC and its view of time. A device access that is withdrawn because the vCPU must let go becomes
//! [`Stop::Restart`]: the instruction is run again.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use doorbell::{Attributes, Space, Unanswered};
use guest_memory::{VcpuEnd, VcpuState};
use guest_x86::{Attrs, Bus, Order, Refused};
use ir::{Stop, Then};
use mem::Vcpus;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vcpu_devices::{Action, Lapic};

use crate::machine::{Machine, RegisterPath, VcpuCounters};
use crate::park::{LOOK, Request};

/// A vCPU's bus.
#[derive(Debug)]
pub struct VcpuBus {
    /// The machine.
    pub machine: Arc<Machine>,
    /// This vCPU.
    pub index: u16,
    /// Its local APIC.
    pub lapic: Lapic,
    /// IA32_TSC_ADJUST, which is also guest TSC minus guest nanoseconds: every write of the TSC moves it along.
    tsc_adjust: u64,
    /// The timer's deadline in guest nanoseconds, kept at hand for the run loop; `u64::MAX` is none.
    pub deadline: u64,
    /// The harvest of memory that it has acknowledged last.
    harvest: u64,
    /// What RDRAND gives: a cryptographic generator, seeded by the host.
    random: StdRng,
}

impl VcpuBus {
    /// After power-on. Nobody can send to it before [`VcpuBus::publish`].
    pub fn new(machine: Arc<Machine>, index: u16) -> Self {
        let lapic = Lapic::new(u32::from(index), index == 0);
        VcpuBus { machine, index, lapic, tsc_adjust: 0, deadline: u64::MAX, harvest: 0, random: StdRng::from_os_rng() }
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.lapic = Lapic::new(u32::from(self.index), self.index == 0);
        (self.tsc_adjust, self.deadline) = (0, u64::MAX);
        self.enter_machine();
    }

    /// A loaded APIC and clock.
    pub fn load(&mut self, lapic: Lapic, tsc_adjust: u64) {
        (self.lapic, self.tsc_adjust) = (lapic, tsc_adjust);
        self.update_deadline();
    }

    /// From now on it is this vCPU that others send to; what they sent to its predecessor is dropped.
    pub fn enter_machine(&self) {
        self.publish();
        if let Some(inbox) = self.machine.inboxes.get(usize::from(self.index)) {
            inbox.take();
        }
    }

    /// Its end of the handshake of harvests.
    fn end(&self) -> Option<VcpuEnd<'_>> {
        self.machine.memory.marks.vcpu(usize::from(self.index))
    }

    /// It executes from now on: a safepoint comes before anything else.
    pub fn enter(&self) {
        if let Some(end) = self.end() {
            end.enter();
        }
    }

    /// It does not execute from now on, and no harvest waits for it.
    pub fn leave(&self, to: VcpuState) {
        if let Some(end) = self.end() {
            end.leave(to);
        }
    }

    /// Access a device, which may take its time: harvests do not wait meanwhile. A safepoint comes before the next store.
    fn wait_for_device<T>(&self, request: &Request, access: impl FnOnce(&AtomicU32) -> T) -> T {
        self.leave(VcpuState::Blocked);
        let answer = self.machine.orders.quietly(self.index.into(), || request.wait_for_device(access));
        self.enter();
        answer
    }

    /// Guest time now.
    pub fn now(&self) -> u64 {
        self.machine.header.guest_ns()
    }

    /// Guest nanoseconds at which the guest's TSC reads `tsc`.
    fn tsc_to_ns(&self, tsc: u64) -> u64 {
        // A deadline before the TSC's own origin is past.
        let ns = tsc.wrapping_sub(self.tsc_adjust);
        if ns > 1 << 62 { 0 } else { ns }
    }

    /// Tell senders how this APIC is addressed.
    pub fn publish(&self) {
        if let Some(inbox) = self.machine.inboxes.get(usize::from(self.index)) {
            inbox.set_address(self.lapic.address());
        }
    }

    fn update_deadline(&mut self) {
        self.deadline = self.lapic.deadline(|t| self.tsc_to_ns(t)).unwrap_or(u64::MAX);
    }

    /// Fire the timer if guest time, which is `now`, has reached its deadline.
    pub fn check_timer(&mut self, now: u64) -> bool {
        if now < self.deadline {
            return false;
        }
        let offset = self.tsc_adjust;
        let fired = self.lapic.expire(now, |t| {
            let ns = t.wrapping_sub(offset);
            if ns > 1 << 62 { 0 } else { ns }
        });
        self.update_deadline();
        fired
    }

    /// Take in what others left in the inbox; returns the events (NMI, INIT, start-up, external).
    pub fn take_in(&mut self) -> u32 {
        let Some(inbox) = self.machine.inboxes.get(usize::from(self.index)) else { return 0 };
        let taken = inbox.take();
        self.lapic.take_in(&taken);
        taken.events
    }

    fn act(&mut self, a: Action) -> Then {
        match a {
            // The end of an interrupt, or a lower task priority, may uncover one that has waited behind it.
            Action::None if self.lapic.pending().is_none() => return Then::Continue,
            Action::None => {}
            Action::Send(m) => self.machine.deliver(&m, Some(self.lapic.address().id)),
            Action::Eoi(vector) => {
                self.machine.header.end_of_interrupt(vector);
                let _ = self.machine.board.ring();
            }
            Action::Timer => self.update_deadline(),
        }
        // An interrupt may be deliverable now.
        self.look()
    }

    fn look(&self) -> Then {
        if let Some(r) = self.machine.gate.request(usize::from(self.index)) {
            r.ask(LOOK);
        }
        Then::FinishInstruction
    }

    fn in_apic(&self, gpa: u64) -> bool {
        self.lapic.is_enabled() && gpa & !0xfff == self.lapic.base() & 0x000f_ffff_ffff_f000
    }

    /// What an access that got no answer becomes: the instruction is run again, after the pause or when the device's successor
    /// has come.
    fn unanswered(&self, u: Unanswered) -> Stop {
        if !matches!(u, Unanswered::Withdrawn) {
            eprintln!("engine: {u}");
        }
        Stop::Restart
    }

    /// The interrupt acknowledge cycle; `None` if it was withdrawn (it is asked again). A safepoint comes before the next store.
    pub fn acknowledge_external(&self) -> Option<u8> {
        let request = self.machine.gate.request(usize::from(self.index))?;
        self.wait_for_device(request, |park| self.machine.board.interrupt_acknowledge(self.index, park)).ok()
    }

    /// An access to a register: what it costs belongs to `path`.
    fn register<T>(&mut self, path: fn(&VcpuCounters) -> &RegisterPath, access: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let answer = access(self);
        if let Some(counters) = self.machine.counters.get(usize::from(self.index)) {
            path(counters).add(start);
        }
        answer
    }

    fn apic_write(&mut self, register: u32, value: u32) -> Then {
        let now = self.now();
        let action = self.lapic.write(register, value, now);
        self.publish();
        self.act(action)
    }

    fn window_read(&self, space: Space, address: u64, width: u8, user: bool) -> Result<u64, Stop> {
        let ones = u64::MAX >> (64 - 8 * u32::from(width.clamp(1, 8)));
        let Some(w) = self.machine.windows.find(space, address, width) else { return Ok(ones) };
        let Some(r) = self.machine.gate.request(usize::from(self.index)) else { return Ok(ones) };
        let attributes = Attributes { user, ..Attributes::default() };
        let windows = &self.machine.windows;
        self.wait_for_device(r, |park| windows.read(w, address, width, self.index, attributes, park))
            .map_err(|u| self.unanswered(u))
    }

    fn window_write(&self, space: Space, address: u64, width: u8, value: u64, user: bool) -> Result<(), Stop> {
        let Some(w) = self.machine.windows.find(space, address, width) else { return Ok(()) };
        let Some(r) = self.machine.gate.request(usize::from(self.index)) else { return Ok(()) };
        let attributes = Attributes { user, ..Attributes::default() };
        let windows = &self.machine.windows;
        self.wait_for_device(r, |park| windows.write(w, address, width, value, self.index, attributes, park))
            .map_err(|u| self.unanswered(u))
    }
}

impl Bus for VcpuBus {
    fn mmio_read(&mut self, gpa: u64, bytes: u8, attrs: Attrs) -> Result<u64, Stop> {
        if self.in_apic(gpa) {
            let register = gpa as u32 & 0xfff;
            return Ok(self.register(|c| &c.apic, |bus| bus.lapic.read(register, bus.now()).into()));
        }
        self.register(|c| &c.registers, |bus| bus.window_read(Space::Memory, gpa, bytes, attrs.user))
    }

    fn mmio_write(&mut self, gpa: u64, bytes: u8, value: u64, attrs: Attrs) -> Result<Then, Stop> {
        if self.in_apic(gpa) {
            return Ok(self.register(|c| &c.apic, |bus| bus.apic_write(gpa as u32 & 0xfff, value as u32)));
        }
        // A write to the interrupt message range is a message.
        if gpa >> 20 == 0xfee && bytes == 4 {
            if let Some(m) = vcpu_devices::Message::from_msi(gpa, value as u32) {
                self.machine.deliver(&m, None);
            }
            return Ok(Then::Continue);
        }
        self.register(|c| &c.registers, |bus| bus.window_write(Space::Memory, gpa, bytes, value, attrs.user))?;
        Ok(Then::Continue)
    }

    fn asked(&self) -> bool {
        self.machine.gate.request(usize::from(self.index)).is_some_and(|request| request.get() != 0)
    }

    #[inline]
    fn safepoint(&mut self, drop_tags: &mut dyn FnMut()) {
        if let Some(end) = self.machine.memory.marks.vcpu(usize::from(self.index)) {
            end.safepoint(&mut self.harvest, drop_tags);
        }
    }

    fn io_read(&mut self, port: u16, bytes: u8) -> Result<u32, Stop> {
        let read = |bus: &mut Self| bus.window_read(Space::Port, u64::from(port), bytes, false);
        self.register(|c| &c.registers, read).map(|v| v as u32)
    }

    fn io_write(&mut self, port: u16, bytes: u8, value: u32) -> Result<Then, Stop> {
        let write = |bus: &mut Self| bus.window_write(Space::Port, u64::from(port), bytes, u64::from(value), false);
        self.register(|c| &c.registers, write)?;
        Ok(Then::Continue)
    }

    fn apic_base(&self) -> u64 {
        self.lapic.base()
    }

    fn set_apic_base(&mut self, value: u64) -> Result<(), Refused> {
        self.lapic.set_base(value).map_err(|_| Refused)?;
        self.publish();
        self.update_deadline();
        Ok(())
    }

    fn x2apic_read(&mut self, index: u32) -> Result<u64, Refused> {
        self.register(|c| &c.apic, |bus| bus.lapic.read_msr(index as u8, bus.now())).map_err(|_| Refused)
    }

    fn x2apic_write(&mut self, index: u32, value: u64) -> Result<Then, Refused> {
        self.register(
            |c| &c.apic,
            |bus| {
                let action = bus.lapic.write_msr(index as u8, value, bus.now()).map_err(|_| Refused)?;
                bus.publish();
                Ok(bus.act(action))
            },
        )
    }

    fn cr8(&self) -> u8 {
        self.lapic.cr8()
    }

    fn set_cr8(&mut self, value: u8) -> Then {
        self.lapic.set_cr8(value);
        self.look()
    }

    fn tsc_deadline(&mut self) -> u64 {
        self.lapic.tsc_deadline()
    }

    fn set_tsc_deadline(&mut self, value: u64) -> Then {
        self.register(
            |c| &c.apic,
            |bus| {
                if bus.lapic.set_tsc_deadline(value) == Action::Timer {
                    bus.update_deadline();
                }
            },
        );
        Then::Continue
    }

    fn tsc(&mut self) -> u64 {
        self.now().wrapping_add(self.tsc_adjust)
    }

    fn set_tsc(&mut self, value: u64) {
        let delta = value.wrapping_sub(self.tsc());
        self.tsc_adjust = self.tsc_adjust.wrapping_add(delta);
        self.update_deadline();
    }

    fn tsc_adjust(&mut self) -> u64 {
        self.tsc_adjust
    }

    fn set_tsc_adjust(&mut self, value: u64) {
        self.tsc_adjust = value;
        self.update_deadline();
    }

    fn random(&mut self) -> Option<u64> {
        Some(self.random.random())
    }

    fn apic_id(&self) -> u32 {
        u32::from(self.index)
    }

    fn vcpus(&self) -> u32 {
        self.machine.inboxes.len() as u32
    }

    fn order(&mut self, others: Vcpus, order: Order) {
        let m = &self.machine;
        m.orders.give(&m.gate, self.index.into(), others, order);
    }

    fn next_order(&mut self) -> Option<Order> {
        self.machine.orders.next(self.index.into())
    }

    fn alone(&mut self, begin: bool) {
        let m = &self.machine;
        match begin {
            true => m.orders.alone(&m.gate, self.index.into()),
            false => m.orders.together(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcpu_devices::{Delivery, Destination, Message};

    /// vCPU 0 of a machine without devices.
    fn bus() -> VcpuBus {
        let mut bus = VcpuBus::new(crate::tests::machine().0, 0);
        bus.publish();
        // Software enable.
        bus.mmio_write(0xfee0_00f0, 4, 0x1ff, Attrs { user: false }).unwrap();
        bus
    }

    fn interrupt(bus: &VcpuBus, vector: u8) {
        let m = Message { destination: Destination::All, delivery: Delivery::Fixed, vector, level: false };
        bus.machine.deliver(&m, None);
    }

    fn asked(bus: &VcpuBus) -> bool {
        bus.machine.gate.request(0).unwrap().clear(LOOK)
    }

    #[test]
    fn the_end_of_an_interrupt_uncovers_the_one_behind_it() {
        let mut bus = bus();
        interrupt(&bus, 0xec);
        interrupt(&bus, 0x22);
        bus.take_in();
        assert_eq!(bus.lapic.acknowledge(), Some(0xec));
        assert_eq!(bus.lapic.pending(), None, "the timer's priority holds it back");
        asked(&bus);
        let then = bus.mmio_write(0xfee0_00b0, 4, 0, Attrs { user: false }).unwrap();
        assert!(then == Then::FinishInstruction && asked(&bus), "the run loop must look");
        assert_eq!(bus.lapic.acknowledge(), Some(0x22));
    }

    #[test]
    fn accesses_are_counted_by_whose_registers_they_are() {
        let mut bus = bus();
        let counts = |bus: &VcpuBus| {
            let c = &bus.machine.counters[0];
            [&c.registers, &c.apic].map(|path| path.accesses.load(std::sync::atomic::Ordering::Relaxed))
        };
        let [_, apic] = counts(&bus);
        // A port that nobody has, and the latch of the PCI index port.
        bus.io_read(0x1234, 1).unwrap();
        bus.io_write(0xcf8, 4, 0x8000_0000).unwrap();
        assert_eq!(counts(&bus), [2, apic]);
        bus.mmio_read(0xfee0_0030, 4, Attrs { user: false }).unwrap();
        assert_eq!(bus.x2apic_read(0x803), Err(Refused), "not in that mode, but the guest has asked");
        bus.set_tsc_deadline(0);
        assert_eq!(counts(&bus), [2, apic + 3]);
        assert!(bus.machine.counters[0].apic.ns.load(std::sync::atomic::Ordering::Relaxed) > 0);
    }

    #[test]
    fn a_lower_task_priority_uncovers_too() {
        let mut bus = bus();
        bus.mmio_write(0xfee0_0080, 4, 0x30, Attrs { user: false }).unwrap();
        interrupt(&bus, 0x22);
        bus.take_in();
        asked(&bus);
        bus.mmio_write(0xfee0_0080, 4, 0x10, Attrs { user: false }).unwrap();
        assert!(asked(&bus));
        assert_eq!(bus.lapic.pending(), Some(0x22));
    }
}
