//! What vCPUs have each other do before they go on: drop write tags, drop blocks, stand still; and what the engine has them do for
//! devices.
//!
//! The idea: an order is left in the other one's box, and followed by its own thread at the next safe point: between blocks, and
//! wherever it has waited for somebody else. Whoever gives it waits until it has been followed, or until the other one is *quiet*:
//! stands where it touches no guest memory, and looks into its box before it does. Whoever waits here is quiet itself, so two that
//! give each other orders do not wait for ever.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use guest_x86::Order;
use mem::Vcpus;

use crate::park::{Gate, ORDER};

/// Looks at the other one's box before the host's CPU is given up.
const SPINS: u32 = 2000;
/// Looks between two cuts into the other one's budget.
const SPINS_PER_CUT: u32 = 64;

/// Who is no vCPU.
const NOBODY: usize = usize::MAX;

/// What waits in a box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Item {
    Order(Order),
    /// Stand still until [`Orders::split`] is free.
    Hold,
}

/// One vCPU's box.
#[derive(Debug, Default)]
struct Mailbox {
    items: Mutex<VecDeque<Item>>,
    /// Items that were ever put in.
    given: AtomicU64,
    /// Items that were followed.
    followed: AtomicU64,
    quiet: AtomicBool,
}

impl Mailbox {
    fn items(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boxes of all vCPUs.
#[derive(Debug)]
pub struct Orders {
    boxes: Vec<Mailbox>,
    /// The vCPU that has all others stand still.
    split: Mutex<Option<usize>>,
    freed: Condvar,
}

impl Orders {
    /// For `vcpus` vCPUs, all of which are quiet.
    pub fn new(vcpus: usize) -> Orders {
        let boxes: Vec<Mailbox> = (0..vcpus).map(|_| Mailbox::default()).collect();
        for b in &boxes {
            b.quiet.store(true, Ordering::SeqCst);
        }
        Orders { boxes, split: Mutex::default(), freed: Condvar::new() }
    }

    /// vCPU `me` is quiet from now on.
    pub fn quiet(&self, me: usize) {
        if let Some(b) = self.boxes.get(me) {
            b.quiet.store(true, Ordering::SeqCst);
        }
    }

    /// vCPU `me` is not quiet any more, and takes its orders before it touches guest memory.
    pub fn loud(&self, me: usize) {
        if let Some(b) = self.boxes.get(me) {
            b.quiet.store(false, Ordering::SeqCst);
        }
    }

    /// While `f` runs vCPU `me` is quiet.
    pub fn quietly<T>(&self, me: usize, f: impl FnOnce() -> T) -> T {
        self.quiet(me);
        let result = f();
        self.loud(me);
        result
    }

    /// Have each of `others` follow `order`.
    pub fn give(&self, gate: &Gate, me: usize, others: Vcpus, order: Order) {
        self.put(gate, me, [(others, Item::Order(order))]);
    }

    /// Have vCPUs follow `orders`, as somebody who is no vCPU: comes back when each has, or is quiet.
    pub fn tell(&self, gate: &Gate, orders: impl IntoIterator<Item = (Vcpus, Order)>) {
        self.put(gate, NOBODY, orders.into_iter().map(|(vcpus, order)| (vcpus, Item::Order(order))));
    }

    fn put(&self, gate: &Gate, me: usize, items: impl IntoIterator<Item = (Vcpus, Item)>) {
        let mut tickets = [0u64; Vcpus::BITS as usize];
        for (others, item) in items {
            for (n, b) in self.boxes.iter().enumerate().filter(|(n, _)| *n != me && others >> n & 1 != 0) {
                let mut items = b.items();
                // One that still waits is as good as a new one, and the box of a vCPU that does not run does not grow for ever.
                if !items.contains(&item) {
                    items.push_back(item);
                    b.given.fetch_add(1, Ordering::SeqCst);
                }
                tickets[n] = b.given.load(Ordering::SeqCst);
            }
        }
        let others = || self.boxes.iter().enumerate().filter(|(n, _)| tickets[*n] != 0);
        for (n, _) in others() {
            if let Some(r) = gate.request(n) {
                r.ask(ORDER);
            }
        }
        self.quietly(me, || {
            for (n, b) in others() {
                let mut looks = 0u32;
                while b.followed.load(Ordering::SeqCst) < tickets[n] && !b.quiet.load(Ordering::SeqCst) {
                    looks = looks.saturating_add(1);
                    if looks.is_multiple_of(SPINS_PER_CUT)
                        && let Some(r) = gate.request(n)
                    {
                        r.cut_short();
                    }
                    if looks < SPINS {
                        std::hint::spin_loop();
                    } else {
                        std::thread::yield_now();
                    }
                }
            }
        });
    }

    /// The next order for vCPU `me`. To ask for it says that those before have been followed.
    pub fn next(&self, me: usize) -> Option<Order> {
        let b = self.boxes.get(me)?;
        // Whoever puts one in raises the number first that is looked at here, or finds this vCPU quiet.
        if b.followed.load(Ordering::Relaxed) == b.given.load(Ordering::SeqCst) {
            return None;
        }
        loop {
            let mut items = b.items();
            match items.pop_front() {
                Some(Item::Order(order)) => return Some(order),
                Some(Item::Hold) => {
                    drop(items);
                    self.quietly(me, || drop(self.free(me)));
                }
                None => {
                    b.followed.store(b.given.load(Ordering::SeqCst), Ordering::SeqCst);
                    return None;
                }
            }
        }
    }

    /// All other vCPUs stand still until [`Orders::together`]. Orders may have come meanwhile.
    pub fn alone(&self, gate: &Gate, me: usize) {
        self.quietly(me, || *self.free(me) = Some(me));
        self.put(gate, me, [(Vcpus::MAX, Item::Hold)]);
    }

    /// The others go on.
    pub fn together(&self) {
        *self.split.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.freed.notify_all();
    }

    /// When nobody else than vCPU `me` has the others stand still. (It may find an order to stand still that was given before.)
    fn free(&self, me: usize) -> MutexGuard<'_, Option<usize>> {
        let held = self.split.lock().unwrap_or_else(PoisonError::into_inner);
        self.freed.wait_while(held, |held| held.is_some_and(|by| by != me)).unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_memory::{DirtyLayout, DirtyLog, Memfd};
    use mem::CodePages;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::os::fd::AsFd;
    use std::sync::atomic::fence;
    use std::time::Duration;

    const PAGES: usize = 3;
    const VCPUS: usize = 3;
    const DEVICES: u64 = 2;

    /// What the vCPUs share: a number in each page that stores make larger, and the largest that a complete store has written.
    struct World {
        gate: Gate,
        orders: Orders,
        code: CodePages,
        marks: DirtyLog,
        bytes: [AtomicU64; PAGES],
        complete: [AtomicU64; PAGES],
        inside: AtomicU64,
        /// vCPUs that have not done all their rounds, and devices.
        running: AtomicU64,
        devices: AtomicU64,
    }

    /// A vCPU reduced to write tags and blocks.
    struct Toy<'a> {
        w: &'a World,
        me: usize,
        tags: [bool; PAGES],
        blocks: [Option<u64>; PAGES],
        /// Pages that devices have written to.
        stale: Vec<usize>,
    }

    /// One that has failed must not have the others wait.
    impl Drop for Toy<'_> {
        fn drop(&mut self) {
            self.w.orders.quiet(self.me);
            self.w.running.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn at(page: usize) -> u64 {
        page as u64 * 4096
    }

    impl Toy<'_> {
        fn take(&mut self) {
            while let Some(order) = self.w.orders.next(self.me) {
                match order {
                    Order::Protect(at) => self.tags[(at / 4096) as usize] = false,
                    Order::Invalidate(at, _) => self.drop_block((at / 4096) as usize),
                    Order::Release(at) => self.stale.push((at / 4096) as usize),
                }
            }
        }

        /// Before a block is looked up, but not while one is made.
        fn drop_stale(&mut self) {
            while let Some(page) = self.stale.pop() {
                self.blocks[page] = None;
                self.w.code.release(&self.w.marks, at(page), self.me as u8);
            }
        }

        fn drop_block(&mut self, page: usize) {
            if self.blocks[page].take().is_some() {
                self.w.code.empty(&self.w.marks, at(page), self.me as u8);
            }
        }

        fn order(&mut self, owners: Vcpus, order: Order) {
            self.w.orders.give(&self.w.gate, self.me, owners, order);
            self.take();
        }

        fn store(&mut self, page: usize) {
            let (w, me) = (self.w, 1 << self.me);
            let mut checked = self.tags[page];
            if !checked {
                w.code.note_writer(at(page), self.me as u8);
                fence(Ordering::SeqCst);
                self.tags[page] = !w.marks.is_code(at(page));
            }
            let value = w.bytes[page].fetch_add(1, Ordering::Relaxed) + 1;
            fence(Ordering::SeqCst);
            checked |= !w.marks.is_code(at(page));
            if !checked {
                let owners = w.code.hit(&w.marks, at(page), 8, self.me as u8);
                if owners & !me != 0 {
                    self.order(owners & !me, Order::Invalidate(at(page), 8));
                }
                if owners & me != 0 {
                    self.drop_block(page);
                }
            }
            w.complete[page].fetch_max(value, Ordering::SeqCst);
        }

        fn lift(&mut self, page: usize) -> u64 {
            let (w, me) = (self.w, 1 << self.me);
            loop {
                if let Some(writers) = w.code.claim(&w.marks, at(page), self.me as u8) {
                    self.tags[page] &= writers & me == 0;
                    if writers & !me != 0 {
                        self.order(writers & !me, Order::Protect(at(page)));
                    }
                    w.code.settle(at(page));
                }
                let value = w.bytes[page].load(Ordering::Relaxed);
                if w.code.add(at(page), 8, self.me as u8) && w.bytes[page].load(Ordering::Relaxed) == value {
                    self.blocks[page] = Some(value);
                    return value;
                }
            }
        }

        /// A block from bytes that a complete store has replaced is never run.
        fn execute(&mut self, page: usize) {
            let complete = self.w.complete[page].load(Ordering::SeqCst);
            self.drop_stale();
            let value = match self.blocks[page] {
                Some(value) => value,
                None => self.lift(page),
            };
            assert!(value >= complete, "vCPU {} runs {value} of page {page}, and {complete} has been stored", self.me);
        }

        fn alone(&mut self) {
            let w = self.w;
            w.orders.alone(&w.gate, self.me);
            self.take();
            assert_eq!(w.inside.fetch_add(1, Ordering::SeqCst), 0, "nobody else is at it");
            assert_eq!(w.inside.fetch_sub(1, Ordering::SeqCst), 1);
            w.orders.together();
        }
    }

    /// A device that writes as long as vCPUs run.
    fn device(w: &World, mut random: SmallRng) {
        while w.running.load(Ordering::SeqCst) != 0 {
            let page = random.random_range(0..PAGES);
            let write = || w.bytes[page].fetch_add(1, Ordering::Relaxed) + 1;
            let (value, stale) = w.marks.write(at(page), 8, write);
            if stale {
                w.marks.drop_code(|| (), || true).unwrap();
            }
            w.complete[page].fetch_max(value, Ordering::SeqCst);
            std::thread::yield_now();
        }
        w.devices.fetch_sub(1, Ordering::SeqCst);
    }

    /// The engine's thread for devices.
    fn drop_stale(w: &World) {
        while w.devices.load(Ordering::SeqCst) != 0 {
            crate::dma::drop_stale(&w.marks, &w.code, &w.orders, &w.gate);
            std::thread::yield_now();
        }
    }

    fn world() -> World {
        let len = 1 << 20;
        let dirty = Memfd::create("dirty", DirtyLayout::new(len).len).unwrap();
        DirtyLog::format(dirty.as_fd(), len).unwrap();
        World {
            gate: Gate::new(VCPUS),
            orders: Orders::new(VCPUS),
            code: CodePages::default(),
            marks: DirtyLog::map(dirty.as_fd(), len).unwrap(),
            bytes: Default::default(),
            complete: Default::default(),
            inside: AtomicU64::new(0),
            running: AtomicU64::new(VCPUS as u64),
            devices: AtomicU64::new(DEVICES),
        }
    }

    #[test]
    fn no_vcpu_runs_what_another_one_or_a_device_has_replaced() {
        let seed: u64 = std::env::var("ATOLL_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| SmallRng::from_os_rng().random());
        println!("ATOLL_SEED={seed}");
        let rounds = if std::env::var_os("ATOLL_LONG").is_some() { 2_000_000 } else { 20_000 };
        let w = world();
        std::thread::scope(|s| {
            let w = &w;
            s.spawn(move || drop_stale(w));
            for n in 0..DEVICES {
                s.spawn(move || device(w, SmallRng::seed_from_u64(!seed.wrapping_add(n))));
            }
            for me in 0..VCPUS {
                s.spawn(move || {
                    let mut random = SmallRng::seed_from_u64(seed.wrapping_add(me as u64));
                    let mut toy = Toy { w, me, tags: [false; PAGES], blocks: [None; PAGES], stale: Vec::new() };
                    w.orders.loud(me);
                    toy.take();
                    for _ in 0..rounds {
                        // As emitted code does, for a while without a look at orders.
                        for _ in 0..random.random_range(0..12) {
                            let page = random.random_range(0..PAGES);
                            match random.random_range(0..40) {
                                0 => std::thread::yield_now(),
                                1..12 => toy.store(page),
                                _ => toy.execute(page),
                            }
                        }
                        toy.take();
                        match random.random_range(0..40) {
                            0 => w.orders.quietly(me, std::thread::yield_now),
                            1..4 => toy.alone(),
                            _ => {}
                        }
                        toy.take();
                    }
                });
            }
        });
    }

    #[test]
    fn an_order_is_waited_for_until_it_is_followed_or_its_vcpu_is_quiet() {
        let w = world();
        // All are quiet at first: nobody waits, and the order is there when the vCPU goes on.
        w.orders.give(&w.gate, 0, u64::MAX, Order::Protect(0x1000));
        w.orders.loud(1);
        assert_eq!(w.orders.next(1), Some(Order::Protect(0x1000)));
        assert_eq!(w.orders.next(1), None);
        assert_eq!(w.orders.next(0), None, "nobody gives himself orders");
        let given = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                w.orders.give(&w.gate, 0, 1 << 1, Order::Invalidate(5, 6));
                given.store(true, Ordering::SeqCst);
            });
            while w.orders.boxes[1].given.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(2));
            assert!(!given.load(Ordering::SeqCst));
            assert_eq!(w.orders.next(1), Some(Order::Invalidate(5, 6)));
            std::thread::sleep(Duration::from_millis(2));
            assert!(!given.load(Ordering::SeqCst), "taken is not followed");
            assert_eq!(w.orders.next(1), None);
        });
        assert!(given.load(Ordering::SeqCst));
    }

    #[test]
    fn others_stand_still_while_one_is_alone() {
        let w = world();
        let steps = AtomicU64::new(0);
        let end = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                w.orders.loud(1);
                while !end.load(Ordering::SeqCst) {
                    assert_eq!(w.orders.next(1), None);
                    steps.fetch_add(1, Ordering::SeqCst);
                }
                w.orders.quiet(1);
            });
            for _ in 0..100 {
                w.orders.alone(&w.gate, 0);
                let before = steps.load(Ordering::SeqCst);
                std::thread::yield_now();
                assert_eq!(steps.load(Ordering::SeqCst), before);
                w.orders.together();
                while steps.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
            }
            end.store(true, Ordering::SeqCst);
        });
    }
}
