//! kill -9 at the moments of a seeded schedule, while bytes go through both ways: the same bytes, none lost, none twice.

use std::io::{Read, Write};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const OUTPUT: usize = 1 << 20;
const INPUT: usize = 1 << 20;

/// Bytes whose neighbourhood tells where they are.
fn pattern(n: usize, seed: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..n).map(|_| random.random()).collect()
}

fn compare(what: &str, got: &[u8], want: &[u8]) {
    let same = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    assert!(got == want, "{what}: {} of {} bytes, the first {same} are right", got.len(), want.len());
}

#[test]
fn a_mebibyte_each_way_survives_every_kill() {
    let (vm, mut console) = Vm::new();
    let (output, input) = (pattern(OUTPUT, 1), pattern(INPUT, 2));
    // Bytes seen at the far ends: progress, which the killer's schedule counts in.
    let (out_seen, in_seen) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut kills = 0;
    std::thread::scope(|s| {
        let process = vm.start(1);
        s.spawn(|| {
            for byte in &output {
                assert_ne!(vm.read(0, 5) & 0x20, 0);
                vm.write(0, 0, u64::from(*byte));
            }
        });
        s.spawn(|| {
            let mut got = Vec::new();
            while got.len() < INPUT {
                if vm.read(1, 5) & 1 == 0 {
                    std::thread::yield_now();
                    continue;
                }
                got.push(vm.read(1, 0) as u8);
                in_seen.store(got.len() as u64, SeqCst);
            }
            assert_eq!(vm.read(1, 5) & 1, 0, "nothing beyond it");
            compare("input", &got, &input);
        });
        let mut sender = console.try_clone().unwrap();
        let input = &input;
        s.spawn(move || sender.write_all(input).unwrap());
        let (console, output, out_seen) = (&mut console, &output, &out_seen);
        s.spawn(move || {
            let mut got = Vec::new();
            let mut buffer = vec![0; 3000];
            while got.len() < OUTPUT {
                let n = console.read(&mut buffer).unwrap();
                assert_ne!(n, 0, "the console ended after {} bytes", got.len());
                got.extend_from_slice(&buffer[..n]);
                out_seen.store(got.len() as u64, SeqCst);
            }
            compare("output", &got, output);
        });
        // The schedule: after so many bytes of either direction, plus a short spin so that it is not always the same step.
        let mut random = SmallRng::seed_from_u64(3);
        let mut process = Some(process);
        loop {
            let seen = || out_seen.load(SeqCst) + in_seen.load(SeqCst);
            let all = (OUTPUT + INPUT) as u64;
            let few = if random.random() { 4 } else { 3000 };
            let target = (seen() + random.random_range(0..few)).min(all);
            while seen() < target {
                std::thread::yield_now();
            }
            for _ in 0..random.random_range(0..20_000) {
                std::hint::spin_loop();
            }
            process.take().unwrap().kill();
            kills += 1;
            process = Some(vm.start(1 + kills));
            if seen() == all {
                break;
            }
        }
        process.take().unwrap().kill();
    });
    assert!(kills > 100, "{kills}");
    assert_eq!(vm.client.backlog(), 0);
    let trips: u64 = vm.bus.counts().iter().filter(|c| c.write || c.offset == 5).map(|c| c.synchronous).sum();
    println!("{kills} kills; {trips} round trips for {OUTPUT} bytes printed with a status poll before each");
}
