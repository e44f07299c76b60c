//! Rows with one writer, the header's parts and who may map which.

use super::*;
use crate::fault::dies_at;
use crate::layout::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn a_reader_never_sees_half_a_row() {
    let fd = create_windows().unwrap();
    let writer = Header::map(fd.as_fd(), Role::Board).unwrap();
    let reader = Header::map(fd.as_fd(), Role::Engine).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let look = s.spawn(|| {
            let mut last = (0, 0);
            while !stop.load(Relaxed) {
                let (generation, route) = reader.route(9);
                let Route::Msi { address, data } = route else { continue };
                assert_eq!(address, u64::from(data) << 8, "torn");
                assert!((generation, data) >= last, "backwards");
                last = (generation, data);
            }
            last.1
        });
        for n in 1..=50_000u32 {
            writer.set_route(9, Route::Msi { address: u64::from(n) << 8, data: n });
        }
        stop.store(true, Relaxed);
        look.join().unwrap();
    });
    assert_eq!(reader.route(9), (50_000, Route::Msi { address: 50_000 << 8, data: 50_000 }));
    assert_eq!(reader.route(8), (0, Route::None));
    assert_eq!(reader.route(256), (0, Route::None));
}

#[test]
fn a_writer_that_dies_leaves_the_old_row_and_no_lock() {
    let fd = create_windows().unwrap();
    let board = Header::map(fd.as_fd(), Role::Board).unwrap();
    let old = Route::Msi { address: 1, data: 2 };
    board.set_route(3, old);
    for at in 0..3 {
        assert!(dies_at(at, || board.set_route(3, Route::Forward)).is_err());
        assert_eq!(board.route(3).1, old, "at {at}");
    }
    board.set_route(3, Route::Forward);
    assert_eq!(board.route(3).1, Route::Forward);
}

#[test]
fn the_clock_runs_and_stands() {
    let fd = create_windows().unwrap();
    let engine = Header::map(fd.as_fd(), Role::Engine).unwrap();
    let device = Header::map(fd.as_fd(), Role::Device).unwrap();
    assert_eq!(device.guest_ns(), 0, "before the engine started it");
    engine.run_clock(1_000_000);
    let a = device.guest_ns();
    let b = device.guest_ns();
    assert!(a >= 1_000_000 && b >= a);
    let now = engine.guest_ns();
    engine.freeze_clock(now);
    assert_eq!((device.guest_ns(), device.clock()), (now, ClockState::Paused(now)));
    engine.run_clock(now);
    assert!(device.guest_ns() >= now);
    assert!(matches!(device.clock(), ClockState::Running(_)));
    // A device's map is read-only: its attempt changes nothing.
    device.freeze_clock(5);
    assert!(matches!(engine.clock(), ClockState::Running(_)));
}

/// What a `take_…` method hands out.
fn taken(take: impl FnOnce(&mut dyn FnMut(usize))) -> Vec<usize> {
    let mut list = Vec::new();
    take(&mut |n| list.push(n));
    list
}

#[test]
fn each_role_reaches_its_part() {
    let fd = create_windows().unwrap();
    let engine = Header::map(fd.as_fd(), Role::Engine).unwrap();
    let board = Header::map(fd.as_fd(), Role::Board).unwrap();
    let device = Header::map(fd.as_fd(), Role::Device).unwrap();
    engine.end_of_interrupt(0);
    engine.end_of_interrupt(255);
    engine.end_of_interrupt(255);
    engine.forward(64);
    engine.forward(256);
    board.raise(63);
    assert_eq!(taken(|f| board.take_ended(f)), [0, 255]);
    assert_eq!(taken(|f| board.take_ended(f)), [0; 0]);
    assert_eq!(taken(|f| board.take_forwarded(f)), [64]);
    assert_eq!(taken(|f| engine.take_raised(f)), [63]);
    assert!(board.set_extint(true) && !board.set_extint(true));
    assert!(engine.extint() && !engine.set_extint(false) && engine.extint(), "the engine only reads it");
    engine.set_route(1, Route::Forward);
    assert_eq!(board.route(1).1, Route::None, "the engine only reads routes");
    device.end_of_interrupt(7);
    device.set_route(1, Route::Forward);
    device.raise(1);
    assert!(!device.extint() && !device.set_extint(true));
    assert_eq!(taken(|f| board.take_ended(f)), [0; 0]);
    assert_eq!(taken(|f| engine.take_raised(f)), [0; 0]);
}

#[test]
fn a_foreign_memfd_is_refused() {
    let fd = guest_memory::Memfd::create("windows", WINDOWS_LEN).unwrap();
    assert!(matches!(Header::map(fd.as_fd(), Role::Device), Err(Error::BadHeader { field: "magic", .. })));
    let short = guest_memory::Memfd::create("windows", HEADER_LEN).unwrap();
    assert!(matches!(DeviceArea::map(short.as_fd(), 0), Err(Error::Memory(_))));
}

#[test]
fn levels_formulas_functions_and_pages() {
    let fd = create_windows().unwrap();
    let (one, two) = (area(&fd, 1), area(&fd, 63));
    let levels = DeviceArea::map_levels(fd.as_fd(), 63).unwrap();
    assert!(!two.set_level(3, true) && two.set_level(3, true));
    assert!(levels.level(3) && !levels.level(2) && !levels.level(4) && !one.level(3));
    assert!(!two.set_level(4, true), "there is no fifth line");

    let pm = Formula::pm_timer(5, 0xff_ffff);
    two.set_formula(31, Some(&pm));
    two.set_formula(32, Some(&pm));
    assert_eq!((two.formula(31), two.formula(30), two.formula(32)), (Some(pm), None, None));
    two.set_formula(31, None);
    assert_eq!(two.formula(31), None);

    let last = MAX_FUNCTIONS - 1;
    two.set_function(last, Some(0x00f8));
    two.set_function(0, Some(0));
    two.set_function(MAX_FUNCTIONS, Some(9));
    assert_eq!((two.function_page(0xf8), two.function_page(0)), (Some(SHADOW_PAGES - 1), Some(1)));
    assert_eq!((two.function_page(9), two.function_page(8)), (None, None));
    two.set_function(last, None);
    assert_eq!(two.function_page(0xf8), None);

    for page in [0, 1, NEAR_SHADOW_PAGES - 1, NEAR_SHADOW_PAGES, SHADOW_PAGES - 1] {
        assert!(two.write_shadow_page(page, 4086, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
        assert_eq!(two.read_shadow_page(page, 4087, 4), Some(0x0504_0302));
        assert_eq!(two.read_shadow_page(page, 4088, 8), Some(0x0a09_0807_0605_0403));
        assert_eq!(two.read_shadow_page(page, 4095, 1), Some(10));
        assert_eq!(two.read_shadow_page(page, 4095, 2), None);
        assert!(!two.write_shadow_page(page, 4087, &[0; 10]) && !two.write_shadow_page(page, u64::MAX, &[0]));
    }
    assert!(!two.write_shadow_page(SHADOW_PAGES, 0, &[0]));
    assert_eq!(two.read_shadow_page(SHADOW_PAGES, 0, 1), None);
    // Nothing of it reached the state area or the neighbour.
    assert_eq!(two.shared().load::<u64>(STATE), Some(0));
    assert_eq!(one.read_shadow_page(0, 4086, 1), Some(0));
}
