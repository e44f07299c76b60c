//! Hits, misses and every way of forgetting.

use super::*;

fn fill(va: u64, offset: u64) -> Fill {
    Fill { va, offset, read: true, write: true, exec: true, global: false, user: false, size: PageSize::Small }
}

#[test]
fn nothing_hits_in_an_empty_table() {
    let t = Tlb::new();
    for page in 0..3 * ENTRIES as u64 {
        for high in [0, 1 << 63, 0xffff_8000_0000_0000, 1 << 47] {
            let va = (page * PAGE) | high;
            assert_eq!((t.read(va, 1), t.write(va + 4095, 8), t.exec(va)), (None, None, None), "{va:#x}");
        }
    }
}

#[test]
fn hits_stay_in_their_page() {
    let mut t = Tlb::new();
    t.fill(&fill(0xffff_8000_1234_5678, 0x7_0000));
    assert_eq!(t.read(0xffff_8000_1234_5010, 8), Some(0x7_0010));
    assert_eq!(t.read(0xffff_8000_1234_5ff8, 8), Some(0x7_0ff8));
    assert_eq!(t.read(0xffff_8000_1234_5ff9, 8), None, "crosses the page");
    assert_eq!(t.read(0xffff_8000_1234_4ff9, 8), None, "begins in the page before");
    assert_eq!(t.read(0x0000_8000_1234_5010, 8), None, "another address of the same index");
}

#[test]
fn the_neighbours_of_a_filled_page_do_not_hit_across() {
    let mut t = Tlb::new();
    t.fill(&fill(0x5000, 0x5000));
    t.fill(&fill(0x6000, 0x6000));
    assert_eq!(t.read(0x5ffc, 8), None);
    assert_eq!(t.read(u64::MAX - 3, 8), None, "wraps around");
}

#[test]
fn rights_are_separate_and_accumulate() {
    let mut t = Tlb::new();
    t.fill(&Fill { write: false, exec: false, ..fill(0x1000, 0x9000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4), t.exec(0x1000)), (Some(0x9000), None, None));
    t.fill(&Fill { read: false, exec: false, ..fill(0x1000, 0x9000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4), t.exec(0x1000)), (Some(0x9000), Some(0x9000), None));
    t.fill(&Fill { write: false, ..fill(0x1000, 0xa000) });
    assert_eq!((t.read(0x1000, 4), t.write(0x1000, 4)), (Some(0xa000), None), "another page: nothing is kept");
}

#[test]
fn banks_are_separate_but_share_supervisor_pages() {
    let mut t = Tlb::new();
    t.fill(&fill(0x1000, 0x9000));
    t.select_bank(Bank::User);
    assert!(!t.recall(0x1000));
    assert_eq!(t.read(0x1000, 1), None);
    t.select_bank(Bank::Strict);
    assert_eq!(t.read(0x1000, 1), None);
    assert!(t.recall(0x1000));
    assert_eq!(t.read(0x1000, 1), Some(0x9000));
    assert!(!t.recall(0x1000), "nothing more to gain");
    t.select_bank(Bank::Supervisor);
    t.fill(&Fill { user: true, ..fill(0x2000, 0xa000) });
    t.select_bank(Bank::Strict);
    assert!(!t.recall(0x2000), "a user page stays out of the strict bank");
}

#[test]
fn spaces_keep_their_pages_and_share_global_ones() {
    let mut t = Tlb::new();
    t.fill(&fill(0x1000, 0x9000));
    t.fill(&Fill { global: true, ..fill(0x2000, 0xa000) });
    t.select_space(7);
    assert_eq!((t.read(0x1000, 1), t.read(0x2000, 1)), (None, None));
    assert!(!t.recall(0x1000) && t.recall(0x2000));
    assert_eq!(t.read(0x2000, 1), Some(0xa000));
    t.select_space(0);
    assert_eq!(t.read(0x1000, 1), Some(0x9000), "switching flushed nothing");
    t.flush_space(0);
    assert_eq!(t.read(0x1000, 1), None);
    assert!(!t.recall(0x1000) && t.recall(0x2000), "global pages survive");
    t.flush_all();
    assert!(!t.recall(0x2000));
}

#[test]
fn a_space_that_is_not_current_can_be_flushed() {
    let mut t = Tlb::new();
    t.select_space(3);
    t.fill(&fill(0x1000, 0x9000));
    t.select_space(4);
    t.flush_space(3);
    t.select_space(3);
    assert_eq!(t.read(0x1000, 1), None);
}

#[test]
fn numbers_run_out_safely() {
    let mut t = Tlb::new();
    t.fill(&fill(0x1000, 0x9000));
    for _ in 0..3 * ASIDS {
        t.flush_space(0);
        assert_eq!(t.read(0x1000, 1), None);
    }
    t.fill(&fill(0x1000, 0x9000));
    assert_eq!(t.read(0x1000, 1), Some(0x9000));
    for id in 1..EXTERNAL as u16 {
        t.select_space(id);
        assert_eq!(t.read(0x1000, 1), None, "{id}");
    }
}

#[test]
fn a_page_is_flushed_in_every_space_with_its_large_mapping() {
    let mut t = Tlb::new();
    t.fill(&Fill { global: true, ..fill(0x1000, 0x9000) });
    t.fill(&Fill { size: PageSize::Large, ..fill(0x40_3000, 0x40_3000) });
    t.fill(&Fill { size: PageSize::Large, ..fill(0x50_5000, 0x50_5000) });
    t.fill(&Fill { size: PageSize::Small, ..fill(0x40_6000, 0x6000) });
    t.fill(&Fill { size: PageSize::Huge, ..fill(0x8000_7000, 0x7000) });
    t.select_space(5);
    t.flush_page(0x1234);
    t.flush_page(0x40_f000);
    t.flush_page(0xbfff_f000);
    t.select_space(0);
    assert!(!t.recall(0x1000));
    assert_eq!(t.read(0x40_3000, 1), None);
    assert_eq!(t.read(0x50_5000, 1), None, "the same 4 MiB");
    assert_eq!(t.read(0x40_6000, 1), Some(0x6000), "another mapping of the same region");
    assert_eq!(t.read(0x8000_7000, 1), None, "the same 1 GiB");
}

#[test]
fn write_tags_can_be_dropped_alone() {
    let mut t = Tlb::new();
    t.fill(&fill(0x1000, 0x9000));
    t.fill(&fill(0x2000, 0x9000));
    t.fill(&fill(0x3000, 0xa000));
    t.select_bank(Bank::User);
    t.fill(&fill(0x4000, 0x9000));
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
    t.fill(&fill(0x1000, 0x9000));
    t.flush_page(0x1000);
    fresh(&t);
    assert_ne!(t.global_context(), global);
    // Where nothing is ever installed a fetch may be remembered all the same.
    t.select_bank(Bank::Checked);
    fresh(&t);
    t.fill(&fill(0x5000, 0x9000));
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
