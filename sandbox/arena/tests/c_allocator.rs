//! The arena serves a whole static binary: Rust, threads, and the C library.

use std::ffi::CString;

arena::global!(32 << 20);

#[test]
fn rust_threads_and_the_c_library_allocate_in_the_arena() {
    let ours = vec![7u8; 100_000];
    assert!(ARENA.contains(ours.as_ptr()));

    // A directory stream is allocated by the C library itself.
    let entries = std::fs::read_dir("/").expect("the root can be read").count();
    assert!(entries > 0);

    let from_threads: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || format!("thread {n}").repeat(1000))).collect();
        threads.into_iter().map(|thread| thread.join().expect("threads end well")).collect()
    });
    assert!(from_threads.iter().all(|text| ARENA.contains(text.as_ptr())));
    assert!(ARENA.contains(CString::new("text").expect("no zero byte").as_ptr().cast()));

    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let usage = ARENA.usage();
    assert!(usage.used > 100_000 && usage.failures == 0, "{usage:?}");
    // The C library's thread control block of the main thread takes one brk before main; its allocator would take
    // another 132 KiB or an arena of 64 MiB per thread.
    for line in maps.lines().filter(|line| line.ends_with("[heap]")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let size = u64::from_str_radix(to, 16).expect("hex") - u64::from_str_radix(from, 16).expect("hex");
        assert!(size < 128 << 10, "the C library has a heap of its own: {line}");
    }
}
