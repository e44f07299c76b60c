//! Hits, misses and every way of forgetting.

use super::*;
use crate::PAGE;

fn page_at(va: u64, offset: u64) -> Fill {
    Fill {
        va,
        offset,
        read: true,
        dirty: true,
        exec: true,
        global: false,
        user: false,
        size: PageSize::Small,
        whole: false,
    }
}

const ALL: [Access; 3] = [Access::Read, Access::Write, Access::Exec];

/// A walk for each right that it grants.
fn walk(t: &mut Tlb, f: &Fill) {
    t.fill(f);
    for (access, may) in ALL.into_iter().zip([f.read, f.dirty, f.exec]) {
        if may {
            t.install(f.va, f.offset, access);
        }
    }
}

/// What a front end does at a miss: whether the second level has it hit again.
fn recall(t: &mut Tlb, va: u64) -> bool {
    let all = ALL.map(|access| t.recall(va, access).map(|at| t.install(va, at, access)));
    all.iter().any(Option::is_some)
}

#[test]
fn nothing_hits_in_an_empty_table() {
    let t = Tlb::new();
    for page in 0..3 * u64::from(t.shape().entries()) {
        for high in [0, 1 << 63, 0xffff_8000_0000_0000, 1 << 47] {
            let va = (page * PAGE) | high;
            assert_eq!((t.read(va, 1), t.write(va + 4095, 8), t.exec(va)), (None, None, None), "{va:#x}");
        }
    }
}

#[test]
fn hits_stay_in_their_page() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0xffff_8000_1234_5678, 0x7_0000));
    assert_eq!(t.read(0xffff_8000_1234_5010, 8), Some(0x7_0010));
    assert_eq!(t.read(0xffff_8000_1234_5ff8, 8), Some(0x7_0ff8));
    assert_eq!(t.read(0xffff_8000_1234_5ff9, 8), None, "crosses the page");
    assert_eq!(t.read(0xffff_8000_1234_4ff9, 8), None, "begins in the page before");
    assert_eq!(t.read(0x0000_8000_1234_5010, 8), None, "another address of the same index");
}

#[test]
fn the_neighbours_of_a_filled_page_do_not_hit_across() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0x5000, 0x5000));
    walk(&mut t, &page_at(0x6000, 0x6000));
    assert_eq!(t.read(0x5ffc, 8), None);
    assert_eq!(t.read(u64::MAX - 3, 8), None, "wraps around");
}

#[test]
fn rights_are_separate_and_accumulate() {
    let mut t = Tlb::new();
    walk(&mut t, &Fill { dirty: false, exec: false, ..page_at(0x1000, 0x9000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4), t.exec(0x1000)), (Some(0x9000), None, None));
    walk(&mut t, &Fill { read: false, exec: false, ..page_at(0x1000, 0x9000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4), t.exec(0x1000)), (Some(0x9000), Some(0x9000), None));
    walk(&mut t, &Fill { dirty: false, ..page_at(0x1000, 0xa000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4)), (Some(0xa000), None), "another page: nothing is kept");
}

#[test]
fn banks_are_separate_but_share_supervisor_pages() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0x1000, 0x9000));
    t.select_bank(Bank::User);
    assert!(!recall(&mut t, 0x1000));
    assert_eq!(t.read(0x1000, 1), None);
    t.select_bank(Bank::Strict);
    assert_eq!(t.read(0x1000, 1), None);
    assert!(recall(&mut t, 0x1000));
    assert_eq!(t.read(0x1000, 1), Some(0x9000));
    t.select_bank(Bank::Supervisor);
    walk(&mut t, &Fill { user: true, ..page_at(0x2000, 0xa000) });
    t.select_bank(Bank::Strict);
    assert!(!recall(&mut t, 0x2000), "a user page stays out of the strict bank");
}

#[test]
fn spaces_keep_their_pages_and_share_global_ones() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0x1000, 0x9000));
    walk(&mut t, &Fill { global: true, ..page_at(0x2000, 0xa000) });
    t.select_space(7);
    assert_eq!((t.read(0x1000, 1), t.read(0x2000, 1)), (None, None));
    assert!(!recall(&mut t, 0x1000) && recall(&mut t, 0x2000));
    assert_eq!(t.read(0x2000, 1), Some(0xa000));
    t.select_space(0);
    assert_eq!(t.read(0x1000, 1), Some(0x9000), "switching flushed nothing");
    t.flush_space(0);
    assert_eq!(t.read(0x1000, 1), None);
    assert!(!recall(&mut t, 0x1000) && recall(&mut t, 0x2000), "global pages survive");
    t.flush_all();
    assert!(!recall(&mut t, 0x2000));
}

#[test]
fn a_space_that_is_not_current_can_be_flushed() {
    let mut t = Tlb::new();
    t.select_space(3);
    walk(&mut t, &page_at(0x1000, 0x9000));
    t.select_space(4);
    t.flush_space(3);
    t.select_space(3);
    assert_eq!(t.read(0x1000, 1), None);
}

#[test]
fn numbers_run_out_safely() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0x1000, 0x9000));
    for _ in 0..3 * ASIDS {
        t.flush_space(0);
        assert_eq!(t.read(0x1000, 1), None);
    }
    walk(&mut t, &page_at(0x1000, 0x9000));
    assert_eq!(t.read(0x1000, 1), Some(0x9000));
    for id in 1..EXTERNAL as u16 {
        t.select_space(id);
        assert_eq!(t.read(0x1000, 1), None, "{id}");
    }
}

#[test]
fn a_page_is_flushed_in_every_space_with_its_large_mapping() {
    for whole in [false, true] {
        let mut t = Tlb::new();
        let large = |va, size| Fill { size, whole, ..page_at(va, va) };
        walk(&mut t, &Fill { global: true, ..page_at(0x1000, 0x9000) });
        walk(&mut t, &large(0x40_3000, PageSize::Large));
        walk(&mut t, &large(0x50_5000, PageSize::Large));
        walk(&mut t, &large(0x80_5000, PageSize::Large));
        walk(&mut t, &large(0x8000_7000, PageSize::Huge));
        t.select_space(5);
        t.flush_page(0x1234);
        t.flush_page(0x40_f000);
        t.flush_page(0xbfff_f000);
        t.select_space(0);
        for (va, why) in [
            (0x1000, "global"),
            (0x40_3000, "the same mapping"),
            (0x50_5000, "the same 4 MiB"),
            (0x8000_7000, "the same 1 GiB"),
        ] {
            assert_eq!((t.read(va, 1), recall(&mut t, va)), (None, false), "{va:#x}: {why}");
        }
        assert_eq!(t.read(0x80_5000, 1), Some(0x80_5000), "another mapping");
    }
}

#[test]
fn the_second_level_knows_large_pages_by_one_of_their_pages() {
    let mut t = Tlb::new();
    walk(&mut t, &Fill { size: PageSize::Large, whole: true, ..page_at(0x20_5000, 0x60_5000) });
    walk(&mut t, &Fill { size: PageSize::Huge, whole: true, dirty: false, ..page_at(0x4000_0000, 0) });
    assert_eq!(t.read(0x3f_f000, 1), None);
    assert!(recall(&mut t, 0x3f_f000));
    assert_eq!((t.read(0x3f_f018, 1), t.write(0x3f_f018, 1)), (Some(0x7f_f018), Some(0x7f_f018)));
    assert!(!recall(&mut t, 0x40_0000) && !recall(&mut t, 0x1f_f000), "its neighbours");
    assert_eq!(t.recall(0x401f_f000, Access::Read), Some(0x1f_f000));
    assert_eq!(t.recall(0x401f_f000, Access::Write), None, "not dirty yet");
    assert_eq!(t.recall(0x4020_0000, Access::Read), None, "no piece of 2 MiB that a walk has seen");
}

/// A guest may make small pages of a large one, and a large one of small ones, and flush later.
#[test]
fn of_two_sizes_of_a_page_the_one_found_last_is_known() {
    let small = page_at(0x20_5000, 0x9000);
    let large = Fill { size: PageSize::Large, whole: true, ..page_at(0x20_5000, 0x60_5000) };
    for order in [[&small, &large], [&large, &small]] {
        let mut t = Tlb::new();
        order.into_iter().for_each(|f| t.fill(f));
        assert_eq!(t.recall(0x20_5010, Access::Read), Some(order[1].offset + 0x10));
        assert_eq!(t.recall(0x20_6000, Access::Read).is_some(), order[1].whole, "the page behind it");
    }
}

/// All that was cut from a large page goes with any page of it, each time that a walk has found it, and it is searched for no more often.
#[test]
fn a_large_page_is_flushed_as_often_as_it_is_found() {
    for size in [PageSize::Large, PageSize::Huge] {
        let mut t = Tlb::new();
        let large = |va| Fill { size, ..page_at(va, va) };
        for _ in 0..3 {
            walk(&mut t, &large(0x40_3000));
            assert!(t.was_cut(0x40_0000, size));
            t.flush_page(0x40_f000);
            assert_eq!((t.read(0x40_3000, 1), recall(&mut t, 0x40_3000)), (None, false));
            assert!(!t.was_cut(0x40_0000, size));
        }
    }
}

/// What happens to a TLB.
type Change = (&'static str, fn(&mut Tlb));

#[test]
fn loads_of_user_mode_hit_by_large_pages_until_these_are_flushed() {
    const END: u64 = 0x40_0000;
    let large = Fill { size: PageSize::Large, whole: true, ..page_at(0x20_5000, 0x60_5000) };
    let huge = Fill { size: PageSize::Huge, ..large };
    let changes: [Change; 7] = [
        ("nothing", |_| ()),
        ("a page of it", |t| t.flush_page(0x2f_0000)),
        ("its address space", |t| t.flush_space(0)),
        ("everything", Tlb::flush_all),
        ("another address space", |t| t.select_space(3)),
        ("another privilege", |t| t.select_bank(Bank::Supervisor)),
        ("it is another page", |t| t.fill(&Fill { ..page_at(0x20_5000, 0x7000) })),
    ];
    for (fill, (what, change)) in [large, huge].iter().flat_map(|fill| changes.map(|change| (fill, change))) {
        let mut t = Tlb::new();
        t.fill(fill);
        assert_eq!(t.read_wide(0x20_0000, 1), None, "not in user mode");
        t.select_bank(Bank::User);
        t.fill(fill);
        assert_eq!((t.read_wide(END - 8, 8), t.read_wide(END - 7, 8)), (Some(0x7f_fff8), None));
        assert_eq!((t.read_wide(END, 1), t.read_wide(0x1f_ffff, 1)), (None, None));
        let shrinks = t.shrinks();
        change(&mut t);
        assert_eq!(t.read_wide(0x20_0000, 1).is_some(), what == "nothing", "{what}");
        let moves = !matches!(what, "nothing" | "another privilege");
        assert_eq!(t.shrinks() != shrinks, moves, "{what}");
    }
    let mut t = Tlb::new();
    t.select_bank(Bank::User);
    t.fill(&Fill { whole: false, ..large });
    t.fill(&Fill { read: false, ..page_at(0x40_0000, 0) });
    assert_eq!((t.read_wide(0x20_5000, 1), t.read_wide(0x40_0000, 1)), (None, None), "not in one piece");
}

#[test]
fn the_first_level_grows_where_it_is_crowded() {
    let mut t = Tlb::new();
    let (small, step) = (t.shape().entries(), u64::from(t.shape().entries()) * PAGE);
    let crowd = |t: &mut Tlb, instructions: u64| {
        (0..1 << 18).any(|i| {
            walk(t, &page_at((i & 1) * step, 0x1000));
            t.is_small(instructions)
        })
    };
    assert!(!crowd(&mut t, 1000), "twice in a thousand instructions is nothing");
    assert!(crowd(&mut t, 10));
    let (old, before) = (t.shape(), t.bank_address());
    t.grow();
    assert!(t.shape().entries() > small && t.bank_address() != before);
    assert_eq!((t.read(0, 1), recall(&mut t, 0)), (None, false), "empty");
    for _ in 0..100 {
        walk(&mut t, &page_at(0, 0x1000));
        walk(&mut t, &page_at(step, 0x2000));
        assert_eq!((t.read(0, 1), t.read(step, 1)), (Some(0x1000), Some(0x2000)));
    }
    assert_ne!(t.shape().slot(step), old.slot(step));
    for _ in 0..4 {
        t.grow();
    }
    assert!(!crowd(&mut t, 0), "there is no end to it");
}

#[test]
fn write_tags_can_be_dropped_alone() {
    let mut t = Tlb::new();
    walk(&mut t, &page_at(0x1000, 0x9000));
    walk(&mut t, &page_at(0x2000, 0x9000));
    walk(&mut t, &page_at(0x3000, 0xa000));
    t.select_bank(Bank::User);
    walk(&mut t, &page_at(0x4000, 0x9000));
    t.protect(0x9123);
    assert_eq!((t.write(0x4000, 1), t.read(0x4000, 1)), (None, Some(0x9000)));
    t.select_bank(Bank::Supervisor);
    assert_eq!((t.write(0x1000, 1), t.write(0x2000, 1), t.write(0x3000, 1)), (None, None, Some(0xa000)));
    t.drop_write_tags();
    assert_eq!((t.write(0x3000, 1), t.read(0x3000, 1)), (None, Some(0xa000)));
}

#[test]
fn the_context_changes_with_whatever_a_fetch_depends_on() {
    let mut t = Tlb::new();
    let mut seen = vec![t.context()];
    let mut fresh = |t: &Tlb| {
        assert!(!seen.contains(&t.context()), "{seen:x?}");
        seen.push(t.context());
    };
    t.select_bank(Bank::User);
    fresh(&t);
    t.select_space(5);
    fresh(&t);
    t.flush_space(5);
    fresh(&t);
    // A page that nothing was fetched from changes no fetch.
    let (local, global) = (t.context(), t.global_context());
    t.flush_page(0x1000);
    assert_eq!((t.context(), t.global_context()), (local, global));
    walk(&mut t, &page_at(0x1000, 0x9000));
    t.flush_page(0x1000);
    fresh(&t);
    assert_ne!(t.global_context(), global);
    // Where nothing is ever installed a fetch may be remembered all the same.
    t.select_bank(Bank::Checked);
    fresh(&t);
    walk(&mut t, &page_at(0x5000, 0x9000));
    t.flush_page(0x5000);
    fresh(&t);
    t.select_bank(Bank::User);
    t.flush_all();
    fresh(&t);
    let before = t.context();
    t.select_space(6);
    t.select_space(5);
    assert_eq!(t.context(), before, "back in the same space");
}
