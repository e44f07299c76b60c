//! The machine around the vCPU: there is none.

use guest_x86::{Attrs, Bus, Order, Refused};
use ir::{Stop, Then};

/// A bus with nothing on it. User programs reach none of it; what they reach (time, random bits) is not compared.
#[derive(Debug, Default)]
pub struct NoBus;

impl Bus for NoBus {
    fn mmio_read(&mut self, _: u64, _: u8, _: Attrs) -> Result<u64, Stop> {
        Ok(u64::MAX)
    }
    fn mmio_write(&mut self, _: u64, _: u8, _: u64, _: Attrs) -> Result<Then, Stop> {
        Ok(Then::Continue)
    }
    fn io_read(&mut self, _: u16, _: u8) -> Result<u32, Stop> {
        Ok(u32::MAX)
    }
    fn io_write(&mut self, _: u16, _: u8, _: u32) -> Result<Then, Stop> {
        Ok(Then::Continue)
    }
    fn apic_base(&self) -> u64 {
        0xfee0_0800
    }
    fn set_apic_base(&mut self, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn x2apic_read(&mut self, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn x2apic_write(&mut self, _: u32, _: u64) -> Result<Then, Refused> {
        Err(Refused)
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: u8) -> Then {
        Then::Continue
    }
    fn tsc_deadline(&mut self) -> u64 {
        0
    }
    fn set_tsc_deadline(&mut self, _: u64) -> Then {
        Then::Continue
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn set_tsc(&mut self, _: u64) {}
    fn tsc_adjust(&mut self) -> u64 {
        0
    }
    fn set_tsc_adjust(&mut self, _: u64) {}
    fn random(&mut self) -> Option<u64> {
        Some(0)
    }
    fn apic_id(&self) -> u32 {
        0
    }
    fn vcpus(&self) -> u32 {
        1
    }
    fn order(&mut self, _: mem::Vcpus, _: Order) {}
    fn next_order(&mut self) -> Option<Order> {
        None
    }
    fn alone(&mut self, _: bool) {}
}
