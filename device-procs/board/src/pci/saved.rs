//! Saved state of configuration space.

use machine_model::PciTopology;
use state::StateError;
use wire::state_board_capnp::pci;

use super::{ADDRESS_BITS, Pci};
use crate::field::{bits, bytes, length, refuse};

impl Pci {
    /// Fills in the saved state.
    pub fn save(&self, mut to: pci::Builder<'_>) {
        to.set_address(self.address);
        let mut list = to.init_functions(self.functions.len() as u32);
        for (index, function) in (0..).zip(&self.functions) {
            let mut to = list.reborrow().get(index);
            to.set_bdf(function.bdf());
            to.set_config(&function.bytes);
        }
    }

    /// The configuration space of a saved state at path `at`, of a machine with these functions.
    ///
    /// # Errors
    /// The field that is wrong; bits that a guest cannot write must be the machine's.
    pub fn load(topology: &'static PciTopology, from: pci::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let mut pci = Self::new(topology);
        pci.address = bits(at, "address", from.get_address(), ADDRESS_BITS.into())?;
        let list = from.get_functions()?;
        length(at, "functions", list.len(), pci.functions.len())?;
        for (index, function) in pci.functions.iter_mut().enumerate() {
            let (saved, at) = (list.get(index as u32), format!("{at}.functions[{index}]"));
            if saved.get_bdf() != function.bdf() {
                return refuse(&at, "bdf", format!("{:#x} must be {:#x}", saved.get_bdf(), function.bdf()));
            }
            let config = bytes(&at, "config", saved.get_config())?;
            let fixed = config.iter().zip(&function.bytes).zip(&function.writable);
            let wrong =
                fixed.map(|((saved, reset), writable)| (saved ^ reset) & !writable).position(|wrong| wrong != 0);
            if let Some(register) = wrong {
                return refuse(&at, "config", format!("byte {register:#x} differs in bits that no guest can write"));
            }
            function.bytes = config;
        }
        Ok(pci)
    }
}
