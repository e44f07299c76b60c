//! Which ids a new user namespace has.
//!
//! Inside, everything is id 0. Started by root, the keeper gets a range of otherwise unused host ids, and each islet one
//! of them, so that no islet may signal another. An ordinary user may only map its own id; there Landlock's scope and the
//! filter do the same work.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Ids of a VM beyond the keeper's, and so the number of islets that can have an id of their own.
pub(crate) const ISLET_IDS: u32 = 127;
/// First and last host id that no convention gives to anybody ("Users, Groups, UIDs and GIDs on systemd systems").
const UNUSED: (u32, u32) = (1_879_048_192, 2_147_483_647);

/// The lines of `uid_map` and `gid_map`, which are the same here but for the first outside id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub uids: String,
    pub gids: String,
    /// The writer may not change groups, so the namespace must not either (user_namespaces(7)).
    pub deny_setgroups: bool,
}

impl IdMaps {
    /// The keeper's: 0 is the caller, and, for root, 1 to 127 are ids of the VM's own. `slot` tells VMs apart.
    pub(crate) fn keeper(slot: u32) -> IdMaps {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let single = |id: u32| format!("0 {id} 1\n");
        let range = range(slot);
        let root = uid == 0 && has_all(range, "/proc/self/uid_map") && has_all(range, "/proc/self/gid_map");
        if !root {
            return IdMaps { uids: single(uid), gids: single(gid), deny_setgroups: uid != 0 };
        }
        let more = format!("1 {range} {ISLET_IDS}\n");
        IdMaps { uids: single(uid) + &more, gids: single(gid) + &more, deny_setgroups: false }
    }

    /// An islet's: 0 is `id` of the keeper's namespace.
    pub(crate) fn islet(id: u32) -> IdMaps {
        let map = format!("0 {id} 1\n");
        IdMaps { uids: map.clone(), gids: map, deny_setgroups: false }
    }

    /// Writes the maps of process `pid`, a number of the mounted `/proc`.
    pub(crate) fn write(&self, pid: i32) -> io::Result<()> {
        if self.deny_setgroups {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        }
        fs::write(format!("/proc/{pid}/uid_map"), &self.uids)?;
        fs::write(format!("/proc/{pid}/gid_map"), &self.gids)
    }
}

/// The first host id of slot `slot`.
fn range(slot: u32) -> u32 {
    let slots = (UNUSED.1 - UNUSED.0) / (ISLET_IDS + 1);
    UNUSED.0 + slot % slots * (ISLET_IDS + 1)
}

/// Whether the current namespace maps all ids of the range that begins with `first`.
fn has_all(first: u32, map: &str) -> bool {
    fs::read_to_string(map).is_ok_and(|text| maps_all(&text, first.into(), ISLET_IDS.into()))
}

fn maps_all(map: &str, first: u64, count: u64) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [inside, _, size] if inside <= first && first + count <= inside + size)
    })
}

/// The ids that a keeper can give to islets, and who has one.
#[derive(Debug)]
pub(crate) struct IdPool {
    taken: Mutex<Vec<bool>>,
}

/// An islet's id within the keeper's namespace; returned to the pool when dropped.
#[derive(Debug)]
pub(crate) struct IdLease {
    pool: Option<Arc<IdPool>>,
    pub(crate) id: u32,
}

impl IdPool {
    /// The pool of this process's user namespace: empty unless a range beyond 0 is mapped.
    pub(crate) fn of_this_namespace() -> Arc<IdPool> {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Arc::new(IdPool::from_map(&map))
    }

    fn from_map(map: &str) -> IdPool {
        // Exactly the line that `IdMaps::keeper` writes: a namespace that maps more (the host's) has owners for its ids.
        let made_by_us = map.lines().any(|line| {
            let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u32>().ok());
            numbers.next() == Some(1) && numbers.nth(1) == Some(ISLET_IDS)
        });
        let count = if made_by_us { ISLET_IDS as usize } else { 0 };
        IdPool { taken: Mutex::new(vec![false; count]) }
    }

    /// Whether islets get ids of their own.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A free id; id 0, shared by all, if there is no range. `None` if the range is used up.
    pub(crate) fn lease(self: &Arc<IdPool>) -> Option<IdLease> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_empty() {
            return Some(IdLease { pool: None, id: 0 });
        }
        let index = taken.iter().position(|taken| !taken)?;
        taken[index] = true;
        Some(IdLease { pool: Some(Arc::clone(self)), id: index as u32 + 1 })
    }
}

impl Drop for IdLease {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.taken.lock().unwrap_or_else(PoisonError::into_inner)[self.id as usize - 1] = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_in_the_unused_range_and_apart() {
        for slot in [0, 1, 77, u32::MAX] {
            let first = range(slot);
            assert!(first >= UNUSED.0 && first + ISLET_IDS <= UNUSED.1);
        }
        assert!(range(2) - range(1) > ISLET_IDS);
    }

    #[test]
    fn a_pool_exists_only_with_a_range_and_reuses_ids() {
        let single = Arc::new(IdPool::from_map("         0       1000          1\n"));
        assert!(single.is_empty());
        assert!(IdPool::from_map("0 0 4294967295\n").is_empty(), "ids of the host are not ours to give");
        assert_eq!(single.lease().map(|lease| lease.id), Some(0));

        let pool = Arc::new(IdPool::from_map("0 0 1\n1 1879048192 127\n"));
        let mut leases: Vec<_> = (0..ISLET_IDS).map(|_| pool.lease().expect("the pool is not used up")).collect();
        assert!(pool.lease().is_none());
        let freed = leases.swap_remove(40);
        let id = freed.id;
        drop(freed);
        assert_eq!(pool.lease().map(|lease| lease.id), Some(id));
    }
}
