//! Saved state of the timer: times stay guest time, so an edge that was due is due.

use state::StateError;
use wire::state_board_capnp::{pit, pit_channel};

use super::{Access, Channel, HZ, Pit};
use crate::field::{MAX_TIME, bits, length, most, refuse};
use crate::time::ticks;

impl Channel {
    fn save(&self, mut to: pit_channel::Builder<'_>) {
        to.set_mode(self.mode);
        to.set_bcd(self.bcd);
        to.set_access(match self.access {
            Access::Low => pit_channel::Access::Low,
            Access::High => pit_channel::Access::High,
            Access::Both => pit_channel::Access::Both,
        });
        to.set_count(self.count.unwrap_or(0));
        to.set_next_count(self.next_count.unwrap_or(0));
        to.set_start_tick(self.start);
        to.set_gate(self.gate);
        let mut paused = to.reborrow().init_paused();
        match self.paused_at {
            None => paused.set_no(()),
            Some(tick) => paused.set_at_tick(tick),
        }
        let mut write = to.reborrow().init_write();
        match self.write_low {
            None => write.set_whole(()),
            Some(low) => write.set_low(low),
        }
        to.set_read_high(self.read_high);
        let (count, bytes) = self.latched.unwrap_or_default();
        to.set_latched_bytes(bytes);
        to.set_latched_count(count);
        to.set_triggered(self.triggered);
        let mut status = to.init_status();
        match self.latched_status {
            None => status.set_not_latched(()),
            Some(value) => status.set_latched(value),
        }
    }

    fn of(from: pit_channel::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let mode = from.get_mode();
        if mode > 5 {
            return refuse(at, "mode", format!("{mode} is no mode"));
        }
        let access = match from.get_access() {
            Ok(pit_channel::Access::Low) => Access::Low,
            Ok(pit_channel::Access::High) => Access::High,
            Ok(pit_channel::Access::Both) => Access::Both,
            Err(_) => return refuse(at, "access", "is no way of access that this version knows"),
        };
        let count = |name, value| most(at, name, value, 0x1_0000).map(|count| (count != 0).then_some(count));
        let paused_at = match from.get_paused().which() {
            Ok(pit_channel::paused::No(())) => None,
            Ok(pit_channel::paused::AtTick(tick)) => Some(most(at, "paused.atTick", tick, ticks(MAX_TIME, HZ))?),
            Err(_) => return refuse(at, "paused", "has a member that this version does not know"),
        };
        let write_low = match from.get_write().which() {
            Ok(pit_channel::write::Whole(())) => None,
            Ok(pit_channel::write::Low(low)) => Some(low),
            Err(_) => return refuse(at, "write", "has a member that this version does not know"),
        };
        let latched_status = match from.get_status().which() {
            Ok(pit_channel::status::NotLatched(())) => None,
            Ok(pit_channel::status::Latched(value)) => Some(value),
            Err(_) => return refuse(at, "status", "has a member that this version does not know"),
        };
        let latched = bits(at, "latchedBytes", from.get_latched_bytes(), 3)?;
        let latched_count = from.get_latched_count();
        if latched == 0 && latched_count != 0 {
            return refuse(at, "latchedCount", "is set, and nothing is latched");
        }
        Ok(Self {
            mode,
            bcd: from.get_bcd(),
            access,
            count: count("count", from.get_count())?,
            next_count: count("nextCount", from.get_next_count())?,
            start: most(at, "startTick", from.get_start_tick(), ticks(MAX_TIME, HZ))?,
            gate: from.get_gate(),
            paused_at,
            write_low,
            read_high: from.get_read_high(),
            latched: (latched != 0).then_some((latched_count, latched)),
            latched_status,
            triggered: from.get_triggered(),
        })
    }
}

impl Pit {
    /// Fills in the saved state.
    pub fn save(&self, mut to: pit::Builder<'_>) {
        to.set_port61(self.port_61);
        to.set_reported_tick(self.reported);
        let mut list = to.init_channels(self.channels.len() as u32);
        for (index, channel) in (0..).zip(&self.channels) {
            channel.save(list.reborrow().get(index));
        }
    }

    /// The timer of a saved state at path `at`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn load(from: pit::Reader<'_>, at: &str) -> Result<Self, StateError> {
        let mut pit = Self::default();
        let list = from.get_channels()?;
        length(at, "channels", list.len(), pit.channels.len())?;
        for (index, channel) in pit.channels.iter_mut().enumerate() {
            *channel = Channel::of(list.get(index as u32), &format!("{at}.channels[{index}]"))?;
        }
        pit.port_61 = bits(at, "port61", from.get_port61(), 0x0F)?;
        pit.reported = most(at, "reportedTick", from.get_reported_tick(), ticks(MAX_TIME, HZ))?;
        Ok(pit)
    }
}
