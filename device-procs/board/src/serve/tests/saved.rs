//! Saves and loads between two boards with their engines: every interrupt that is under way has one owner, and the engine
//! finds on the other side what it found on this one.

use doorbell::layout::{MAX_LINES, SHADOW_CELLS};
use guest_memory::Memfd;
use state::{Left, MEMFD_BYTES, StateArea};

use super::*;
use crate::pm::Cause;
use crate::saved::{leave, read, replace, settle};

fn area() -> StateArea {
    let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
    StateArea::map(memfd.as_fd(), 1).unwrap()
}

/// As the process pauses.
fn pause(rig: &mut Rig) {
    rig.serve();
    rig.board.pause();
    rig.board.flush(rig.server.area()).unwrap();
}

/// As the process saves, twice, which must give the same bytes.
fn save(rig: &mut Rig, area: &StateArea) -> Left {
    let mut once = || {
        settle(&mut rig.board, &mut rig.server).unwrap();
        leave(&rig.board, area, rig.board.machine, "q35-0").unwrap()
    };
    let left = once();
    assert_eq!(once(), left, "a second save differs");
    left
}

fn load(rig: &mut Rig, area: &StateArea, left: Left) {
    let chipset = area.take(left, |state| read(&rig.board, state, rig.board.machine)).unwrap();
    replace(&mut rig.board, &mut rig.server, chipset).unwrap();
}

/// A paused board with that state in a machine of its own.
fn other(area: &StateArea, left: Left) -> Rig {
    let mut rig = Rig::new();
    pause(&mut rig);
    load(&mut rig, area, left);
    assert_eq!(save(&mut rig, area), left, "a save after the load differs");
    assert_eq!(raised(&rig), [], "nothing before it runs");
    assert_eq!(rig.notify.drain().unwrap(), 0);
    rig
}

fn run(rig: &mut Rig) {
    rig.board.go_on();
    rig.serve();
}

fn raised(rig: &Rig) -> Vec<usize> {
    let mut lines = Vec::new();
    rig.engine.take_raised(|line| lines.push(line));
    lines
}

/// Everything that an engine reads of a board.
fn published(rig: &Rig) -> impl PartialEq + std::fmt::Debug + use<> {
    let area = rig.server.area();
    let pages = (0..2u16).map(|function| {
        let page = area.function_page(rig.board.chipset.pci().functions()[usize::from(function)].bdf()).unwrap();
        (0..256).step_by(8).map(|at| area.read_shadow_page(page, at, 8)).collect::<Vec<_>>()
    });
    let pages: Vec<_> = pages.collect();
    let cells: Vec<_> = (0..SHADOW_CELLS).map(|cell| area.shadow(cell)).collect();
    let routes: Vec<_> = (0..MAX_LINES).map(|line| rig.engine.route(line).1).collect();
    (pages, cells, routes, rig.engine.extint(), area.formula(cell::PM_TIMER))
}

#[test]
fn an_engine_finds_the_same_board_on_the_other_side() {
    let (mut rig, area) = (Rig::new(), area());
    rig.guest(|guest| {
        guest.init_pics(0xEE, 0xFF);
        guest.redirect(4, 0x34);
        guest.redirect(9, 0x8029);
        guest.redirect(18, 0x1_0042);
        guest.outp(0x602, 2, 0x0521);
        guest.outp(0x4D0, 2, 0x0820);
        guest.outp(0x628, 1, 0xA5);
        guest.outp(0xCF8, 4, 0x8000_F860);
        guest.outp(0xCFC, 4, 0x0A0B_0C0D);
    });
    rig.engine.forward(4);
    pause(&mut rig);
    let left = save(&mut rig, &area);
    let mut there = other(&area, left);
    assert!(rig.engine.extint());
    assert_eq!(published(&rig), published(&there));
    run(&mut there);
    assert!(there.notify.drain().unwrap() > 0, "the engine looks at INTR");
    let (client, exit) = (there.client.clone(), there.exit.clone());
    assert_eq!(there.guest(move |_| client.interrupt_acknowledge(0, &exit).unwrap()), 0x34);
}

#[test]
fn a_message_that_the_engine_has_not_taken_goes_with_the_board_and_stays_with_it() {
    let (mut rig, area) = (Rig::new(), area());
    rig.guest(|guest| guest.redirect(20, 0x0055));
    rig.engine.forward(20);
    rig.board.take_exchange();
    rig.board.flush(rig.server.area()).unwrap();
    // The engine is paused and has not looked yet.
    pause(&mut rig);
    assert_eq!(raised(&rig), [], "the board has taken it back");
    let left = save(&mut rig, &area);
    let mut there = other(&area, left);
    for rig in [&mut rig, &mut there] {
        run(rig);
        assert_eq!(raised(rig), [DELIVER + 20], "once");
        assert!(rig.notify.drain().unwrap() > 0);
        assert_eq!(rig.engine.route(DELIVER + 20).1, Route::Msi { address: 0xFEE0_0000, data: 0x4055 });
        rig.serve();
        assert_eq!(raised(rig), []);
    }
}

#[test]
fn what_comes_from_the_engine_after_the_pause_is_in_the_state() {
    let (mut rig, area) = (Rig::new(), area());
    rig.guest(|guest| {
        guest.redirect(20, 0x0055);
        guest.redirect(17, 0x8056);
        guest.init_pics(0xFF, 0xFF);
    });
    // A level interrupt that the engine took, and whose end and second rise come late.
    rig.engine.forward(17);
    rig.board.take_exchange();
    rig.board.flush(rig.server.area()).unwrap();
    assert_eq!(raised(&rig), [DELIVER + 17]);
    pause(&mut rig);
    rig.engine.forward(20);
    rig.engine.end_of_interrupt(0x56);
    rig.engine.forward(17);
    let access = Access {
        operation: Operation::Write,
        space: Space::Port,
        address: 0x21,
        width: 1,
        value: 0xA5,
        attributes: Attributes::default(),
        vcpu: 0,
    };
    assert!(rig.client.try_post(&access, 0).unwrap());
    let left = save(&mut rig, &area);
    assert_eq!((raised(&rig), rig.client.backlog()), (vec![], 0));
    let mut there = other(&area, left);
    for rig in [&mut rig, &mut there] {
        run(rig);
        assert_eq!(raised(rig), [DELIVER + 17, DELIVER + 20]);
        assert_eq!(rig.guest(|guest| guest.inp(0x21, 1)), 0xA5);
        assert_eq!(raised(rig), []);
    }
}

#[test]
fn a_load_drops_what_the_old_guest_had_under_way() {
    let (mut rig, area) = (Rig::new(), area());
    rig.guest(|guest| guest.redirect(20, 0x0055));
    pause(&mut rig);
    let left = save(&mut rig, &area);
    run(&mut rig);
    rig.guest(|guest| {
        guest.init_pics(0, 0);
        guest.redirect(20, 0x0077);
    });
    rig.engine.forward(20);
    rig.serve();
    rig.board.take_exchange();
    rig.serve();
    pause(&mut rig);
    rig.engine.forward(20);
    rig.engine.end_of_interrupt(0x55);
    load(&mut rig, &area, left);
    assert_eq!(save(&mut rig, &area), left);
    assert!(!rig.engine.extint());
    run(&mut rig);
    assert_eq!(raised(&rig), []);
    assert!(!rig.board.take_exchange());
}

#[test]
fn a_paused_board_raises_nothing_until_it_runs() {
    let mut rig = Rig::new();
    rig.guest(|guest| {
        guest.redirect(9, 0x8029);
        guest.outp(0x602, 2, 0x0100);
    });
    pause(&mut rig);
    rig.board.power_button();
    rig.board.flush(rig.server.area()).unwrap();
    assert_eq!((raised(&rig), rig.notify.drain().unwrap()), (vec![], 0));
    run(&mut rig);
    assert_eq!(raised(&rig), [DELIVER + 9]);
}

#[test]
fn a_refused_state_changes_nothing() {
    let (mut rig, area) = (Rig::new(), area());
    rig.guest(|guest| guest.init_pics(0x12, 0x34));
    pause(&mut rig);
    let left = save(&mut rig, &area);
    let before = published(&rig);
    let mut message = crate::saved::message(&rig.board, rig.board.machine, "q35-0").unwrap();
    let root = message.get_root::<wire::saved_capnp::saved_state::Builder<'_>>().unwrap();
    let Ok(wire::saved_capnp::saved_state::state::Board(Ok(board))) = root.get_state().which() else { panic!() };
    board.get_pit().unwrap().get_channels().unwrap().get(2).set_mode(9);
    let wrong = area.leave(&message).unwrap();
    let error = area.take(wrong, |state| read(&rig.board, state, rig.board.machine)).unwrap_err();
    assert_eq!(error.to_string(), "field 'board.pit.channels[2].mode': 9 is no mode");
    assert!(crate::saved::message(&rig.board, rig.board.machine, "q35-9").is_err());
    assert_eq!(published(&rig), before);
    assert_eq!(save(&mut rig, &area), left);
}

#[test]
fn a_guest_that_suspends_gets_no_answer_and_wakes_once() {
    let (mut rig, area) = (Rig::new(), area());
    rig.engine.freeze_clock(0);
    let vcpu = Guest { bus: rig.bus.clone(), exit: rig.exit.clone() };
    let thread = std::thread::spawn(move || vcpu.access(Space::Port, 0x604, 2, Some(0x3401)));
    while rig.board.take_event() != Some(Event::Suspend) {
        rig.serve();
        std::thread::yield_now();
    }
    for _ in 0..3 {
        rig.serve();
    }
    assert!(!thread.is_finished() && !rig.board.has_ended(), "the board goes on");
    assert_eq!(rig.board.take_event(), None, "once");
    rig.exit.store(1, std::sync::atomic::Ordering::SeqCst);
    rig.client.wake(0);
    assert_eq!(thread.join().unwrap(), Err(Unanswered::Withdrawn));
    rig.exit.store(0, std::sync::atomic::Ordering::SeqCst);
    rig.serve();

    pause(&mut rig);
    rig.board.power_button();
    assert_eq!(rig.board.take_event(), None, "a paused machine does not wake");
    let left = save(&mut rig, &area);
    let mut there = other(&area, left);
    for rig in [&mut rig, &mut there] {
        run(rig);
        assert_eq!(rig.board.take_event(), Some(Event::Wake(Cause::Button)));
        assert_eq!(rig.board.take_event(), None);
        assert!(rig.board.wake() && !rig.board.wake());
        assert_eq!(rig.board.take_event(), None);
        assert_eq!(rig.guest(|guest| guest.inp(0x600, 2)), 0x8100);
    }
    there.board.power_button();
    assert_eq!(there.board.take_event(), None, "awake");
}
