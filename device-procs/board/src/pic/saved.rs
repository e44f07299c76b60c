//! Saved state of the interrupt controllers.

use state::StateError;
use wire::state_board_capnp::{pic, pic_chip};

use super::{CASCADE, Chip, ELCR_WRITABLE, Expect, Pic};
use crate::field::{bits, most, refuse};

impl Chip {
    fn save(&self, mut to: pic_chip::Builder<'_>) {
        to.set_request(self.request);
        to.set_in_service(self.in_service);
        to.set_mask(self.mask);
        to.set_lines(self.lines);
        to.set_level_triggered(self.level);
        to.set_first_priority(self.first);
        to.set_vector_base(self.vector_base);
        to.set_expects(match self.expect {
            Expect::Mask => pic_chip::Expects::Mask,
            Expect::Icw2 => pic_chip::Expects::Icw2,
            Expect::Icw3 => pic_chip::Expects::Icw3,
            Expect::Icw4 => pic_chip::Expects::Icw4,
        });
        to.set_icw4(self.icw4);
        to.set_single(self.single);
        to.set_auto_eoi(self.auto_eoi);
        to.set_rotate_on_auto_eoi(self.rotate_on_auto_eoi);
        to.set_special_mask(self.special_mask);
        to.set_special_fully_nested(self.special_fully_nested);
        to.set_poll(self.poll);
        to.set_read_in_service(self.read_in_service);
    }

    fn load(from: pic_chip::Reader<'_>, at: &str, elcr: u8) -> Result<Self, StateError> {
        let Ok(expects) = from.get_expects() else {
            return refuse(at, "expects", "is no step of the initialisation that this version knows");
        };
        Ok(Self {
            request: from.get_request(),
            in_service: from.get_in_service(),
            mask: from.get_mask(),
            lines: from.get_lines(),
            level: bits(at, "levelTriggered", from.get_level_triggered(), elcr.into())?,
            first: most(at, "firstPriority", from.get_first_priority(), 7)?,
            vector_base: bits(at, "vectorBase", from.get_vector_base(), 0xF8)?,
            expect: match expects {
                pic_chip::Expects::Mask => Expect::Mask,
                pic_chip::Expects::Icw2 => Expect::Icw2,
                pic_chip::Expects::Icw3 => Expect::Icw3,
                pic_chip::Expects::Icw4 => Expect::Icw4,
            },
            icw4: from.get_icw4(),
            single: from.get_single(),
            auto_eoi: from.get_auto_eoi(),
            rotate_on_auto_eoi: from.get_rotate_on_auto_eoi(),
            special_mask: from.get_special_mask(),
            special_fully_nested: from.get_special_fully_nested(),
            poll: from.get_poll(),
            read_in_service: from.get_read_in_service(),
        })
    }
}

impl Pic {
    /// Fills in the saved state.
    pub fn save(&self, mut to: pic::Builder<'_>) {
        self.master.save(to.reborrow().init_master());
        self.slave.save(to.init_slave());
    }

    /// The controllers of a saved state at path `at`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(from: pic::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let [master, slave] = ELCR_WRITABLE;
        let pic = Self {
            master: Chip::load(from.get_master()?, &format!("{at}.master"), master)?,
            slave: Chip::load(from.get_slave()?, &format!("{at}.slave"), slave)?,
        };
        let cascade = pic.slave.pending(false).is_some();
        if (pic.master.request >> CASCADE & 1 != 0) != cascade {
            let why = format!("bit {CASCADE} must be {}: it is the slave's output", u8::from(cascade));
            return refuse(at, "master.request", why);
        }
        Ok(pic)
    }
}
