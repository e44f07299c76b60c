//! Threads of this process stand in faults of a shared mapping, and are served.
//!
//! Where userfaultfd is not permitted, each test says so and ends.

use std::sync::mpsc;
use std::time::Duration;

use guest_memory::{Access, Memfd, Ram};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

const LEN: u64 = 16 * PAGE;
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    ram: &'static Ram,
    base: u64,
    file: OwnedFd,
    uffd: Uffd,
}

fn world() -> Option<World> {
    let uffd = match Uffd::create() {
        Ok(uffd) => uffd,
        Err(e @ Error::NotPermitted { .. }) => {
            eprintln!("skipped: {e}");
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let file = Memfd::create("ram", LEN).unwrap();
    // Kept for ever: a thread of a failed test may stand in it.
    let ram: &'static Ram = Box::leak(Box::new(Ram::map(file.as_fd(), LEN, Access::ReadWrite).unwrap()));
    let base = ram.as_ptr() as u64;
    uffd.register_missing(base, LEN).unwrap();
    Some(World { ram, base, file, uffd })
}

impl World {
    /// A thread that loads the word at `offset` and says what it got.
    fn load(&self, offset: u64) -> mpsc::Receiver<u64> {
        let (say, heard) = mpsc::channel();
        let ram = self.ram;
        std::thread::spawn(move || say.send(ram.load_u64(offset).unwrap()));
        heard
    }

    fn fault(&self) -> u64 {
        let mut fds = [PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(1), "no fault came");
        let mut at = [0; 4];
        assert_eq!(self.uffd.read_faults(&mut at).unwrap(), 1);
        at[0] - self.base
    }
}

#[test]
fn a_touched_page_is_reported_and_placed() {
    let Some(w) = world() else { return };
    assert_eq!(w.uffd.read_faults(&mut [0; 4]).unwrap(), 0);
    let heard = w.load(3 * PAGE + 8);
    assert_eq!(w.fault(), 3 * PAGE);
    assert_eq!(w.uffd.read_faults(&mut [0; 4]).unwrap(), 0, "reported once");
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty), "it waits");
    let mut page = [0; PAGE as usize];
    page[8] = 42;
    assert_eq!(w.uffd.copy(w.base + 3 * PAGE, &page).unwrap(), Placed { placed: PAGE, present: 0 });
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(42));
    let heard = w.load(5 * PAGE);
    assert_eq!(w.fault(), 5 * PAGE);
    w.uffd.zeropage(w.base + 5 * PAGE, PAGE).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn what_is_there_stays_and_is_no_error() {
    let Some(w) = world() else { return };
    let ones = vec![1; LEN as usize];
    let twos = vec![2; LEN as usize];
    w.uffd.copy(w.base + 2 * PAGE, &twos[..PAGE as usize]).unwrap();
    w.uffd.zeropage(w.base + 9 * PAGE, 2 * PAGE).unwrap();
    let all = w.uffd.copy(w.base, &ones).unwrap();
    assert_eq!(all, Placed { placed: LEN - 3 * PAGE, present: 3 * PAGE });
    let again = w.uffd.zeropage(w.base, LEN).unwrap();
    assert_eq!(again, Placed { placed: 0, present: LEN });
    let ones = 0x0101_0101_0101_0101;
    for page in 0..16 {
        let want = match page {
            2 => 2 * ones,
            9 | 10 => 0,
            _ => ones,
        };
        assert_eq!(w.ram.load_u64(page * PAGE + 80), Some(want), "page {page}");
    }
}

#[test]
fn a_page_that_came_another_way_needs_a_wake() {
    let Some(w) = world() else { return };
    let heard = w.load(PAGE);
    assert_eq!(w.fault(), PAGE);
    // Another process places it: here another mapping, which nobody watches.
    let other = Ram::map(w.file.as_fd(), LEN, Access::ReadWrite).unwrap();
    other.store_u64(PAGE, 7).unwrap();
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
    w.uffd.wake(w.base + PAGE, PAGE).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(7));
    // Placing it does the same.
    let heard = w.load(6 * PAGE);
    assert_eq!(w.fault(), 6 * PAGE);
    other.store_u64(6 * PAGE, 8).unwrap();
    assert_eq!(w.uffd.copy(w.base + 6 * PAGE, &[0; PAGE as usize]).unwrap().present, PAGE);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(8));
}

#[test]
fn a_descriptor_may_be_handed_over_and_unregistered() {
    let Some(w) = world() else { return };
    let heard = w.load(4 * PAGE);
    let copy = Uffd::from(w.uffd.as_fd().try_clone_to_owned().unwrap());
    w.fault();
    copy.unregister(w.base, LEN).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
    assert_eq!(w.ram.load_u64(8 * PAGE), Some(0), "nobody is asked any more");
    let _: OwnedFd = copy.into();
}

#[test]
fn wrong_ranges_are_named() {
    let Some(w) = world() else { return };
    let page = [0; PAGE as usize];
    for (to, len) in [(w.base + 1, PAGE), (w.base, 0), (w.base, 100), (!0xfff, PAGE), (1 << 56, PAGE)] {
        let refused = |r: Result<()>| matches!(r, Err(Error::Range { errno: Errno::EINVAL, .. }));
        assert!(refused(w.uffd.zeropage(to, len).map(drop)), "{to:#x}+{len:#x}");
        assert!(refused(w.uffd.register_missing(to, len)) && refused(w.uffd.wake(to, len)));
    }
    assert!(w.uffd.copy(w.base, &page[1..]).is_err());
    // Not registered: neither memory of ours nor nothing at all.
    let e = w.uffd.copy(PAGE, &page).unwrap_err();
    assert!(matches!(e, Error::Range { base: PAGE, errno: Errno::ENOENT | Errno::EINVAL, .. }), "{e}");
    assert!(Uffd::from(w.file.try_clone().unwrap()).register_missing(w.base, PAGE).is_err());
}
