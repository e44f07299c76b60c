//! Saved state of the real-time clock: the date is an offset to guest time, so it goes on from where it was.

use state::StateError;
use wire::state_board_capnp::rtc;

use super::{Rtc, SECOND_I, a, b, c, index};
use crate::field::{MAX_TIME, bits, bytes, most, refuse};
use crate::time::SECOND;

/// Largest offset in seconds, either way: what any setting of the date registers can give, and more.
const MAX_OFFSET: u64 = 4_000_000_000_000;

impl Rtc {
    /// Fills in the saved state.
    pub fn save(&self, mut to: rtc::Builder<'_>) {
        to.set_index(self.index);
        to.set_cmos(&self.cmos);
        // Within ±10⁵ years.
        to.set_offset_seconds(i64::try_from(self.offset.div_euclid(SECOND_I)).unwrap_or(0));
        to.set_offset_nanoseconds(self.offset.rem_euclid(SECOND_I) as u32);
        to.set_seen_nanoseconds(self.seen);
    }

    /// The clock of a saved state at path `at`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(from: rtc::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let seconds = from.get_offset_seconds();
        if seconds.unsigned_abs() > MAX_OFFSET {
            return refuse(at, "offsetSeconds", format!("{seconds} is further than {MAX_OFFSET} from 1970"));
        }
        let nanoseconds = most(at, "offsetNanoseconds", from.get_offset_nanoseconds(), SECOND - 1)?;
        let rtc = Self {
            index: most(at, "index", from.get_index(), 127)?,
            cmos: bytes(at, "cmos", from.get_cmos())?,
            offset: i128::from(seconds) * SECOND_I + i128::from(nanoseconds),
            seen: most(at, "seenNanoseconds", from.get_seen_nanoseconds(), MAX_TIME)?,
        };
        let allowed = [
            (index::A, !a::UPDATE_IN_PROGRESS),
            (index::B, u8::MAX),
            (index::C, c::PERIODIC | c::ALARM | c::UPDATE),
            (index::D, 0),
        ];
        for (register, allowed) in allowed {
            bits(at, &format!("cmos[{register}]"), rtc.register(register), allowed.into())?;
        }
        if rtc.register(index::B) & b::SET != 0 && rtc.register(index::B) & b::UPDATE != 0 {
            return refuse(at, "cmos[11]", "the update interrupt is enabled while the date is being set");
        }
        Ok(rtc)
    }
}
