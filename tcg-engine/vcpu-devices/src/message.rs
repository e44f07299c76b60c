//! Interrupt messages: what an MSI write, an IOAPIC entry or an interrupt command register says, and whom it addresses.

/// Delivery mode (SDM 3A, table "Local Vector Table" and ICR).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// To every processor that the destination names.
    Fixed,
    /// To one of them.
    LowestPriority,
    /// System management interrupt: ignored, there is no SMM.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up.
    Sipi,
    /// The processor asks the legacy controller for the vector.
    ExtInt,
}

impl Delivery {
    /// From the three-bit field.
    pub const fn from_bits(v: u32) -> Delivery {
        match v & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 | 3 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::Sipi,
            _ => Delivery::ExtInt,
        }
    }
}

/// Whom a message addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The APIC with this id; all ones is everybody.
    Physical(u32),
    /// Those whose logical destination register matches.
    Logical(u32),
    /// Shorthand: the sender.
    Myself,
    /// Shorthand: everybody.
    All,
    /// Shorthand: everybody but the sender.
    Others,
}

/// An interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Whom.
    pub destination: Destination,
    /// How.
    pub delivery: Delivery,
    /// Vector (start-up: page number).
    pub vector: u8,
    /// Level-triggered: its end is reported to the IOAPIC.
    pub level: bool,
}

impl Message {
    /// From an MSI address and data (SDM 3A, "Message Signalled Interrupts"); `None` if the address is not the interrupt range.
    pub fn from_msi(address: u64, data: u32) -> Option<Message> {
        if address >> 20 != 0xfee {
            return None;
        }
        let id = (address >> 12) as u32 & 0xff;
        let physical = if id == 0xff { u32::MAX } else { id };
        Some(Message {
            destination: if address & 4 != 0 { Destination::Logical(id) } else { Destination::Physical(physical) },
            delivery: Delivery::from_bits(data >> 8),
            vector: data as u8,
            level: data & (1 << 15) != 0,
        })
    }
}

/// How an APIC is addressed, mirrored where senders can read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address {
    /// APIC id.
    pub id: u32,
    /// Logical destination register as written (xAPIC: id in the top byte) or derived (x2APIC).
    pub ldr: u32,
    /// Cluster model instead of the flat one (xAPIC only).
    pub cluster: bool,
    /// x2APIC mode.
    pub x2apic: bool,
}

impl Address {
    /// Whether `destination`, sent by the APIC with id `sender`, names this one.
    pub fn is_named(&self, destination: Destination, sender: Option<u32>) -> bool {
        match destination {
            Destination::Myself => sender == Some(self.id),
            Destination::All => true,
            Destination::Others => sender != Some(self.id),
            Destination::Physical(id) => id == u32::MAX || id == self.id || (!self.x2apic && id == 0xff),
            Destination::Logical(mda) => self.logical(mda),
        }
    }

    fn logical(&self, mda: u32) -> bool {
        if self.x2apic {
            // An MSI or a flat-model sender has eight bits: they are cluster 0.
            return mda == u32::MAX || (mda >> 16 == self.ldr >> 16 && mda & self.ldr & 0xffff != 0);
        }
        let (mda, own) = (mda & 0xff, self.ldr >> 24);
        if mda == 0xff {
            return true;
        }
        if self.cluster { mda >> 4 == own >> 4 && mda & own & 0xf != 0 } else { mda & own != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let m = Message::from_msi(0xfee0_3000, 0x41).unwrap();
        assert_eq!(m.destination, Destination::Physical(3));
        assert_eq!((m.vector, m.delivery, m.level), (0x41, Delivery::Fixed, false));
        let m = Message::from_msi(0xfeef_f00c, 0x8130).unwrap();
        assert_eq!((m.destination, m.delivery, m.level), (Destination::Logical(0xff), Delivery::LowestPriority, true));
        assert_eq!(Message::from_msi(0xfed0_0000, 0), None);
    }

    #[test]
    fn logical_models() {
        let flat = Address { id: 1, ldr: 0x0200_0000, ..Address::default() };
        assert!(flat.is_named(Destination::Logical(0x03), None) && !flat.is_named(Destination::Logical(0x04), None));
        let cluster = Address { ldr: 0x2100_0000, cluster: true, ..flat };
        assert!(
            cluster.is_named(Destination::Logical(0x23), None) && !cluster.is_named(Destination::Logical(0x13), None)
        );
        let x2 = Address { id: 17, ldr: 1 << 16 | 2, cluster: false, x2apic: true };
        assert!(x2.is_named(Destination::Logical(1 << 16 | 6), None) && !x2.is_named(Destination::Logical(2), None));
        assert!(x2.is_named(Destination::Others, Some(0)) && !x2.is_named(Destination::Others, Some(17)));
    }
}
