//! The row of waits, and its end.

use super::*;

const SHORT: Duration = Duration::from_millis(3);

#[test]
fn the_wait_doubles_to_a_second_and_a_long_life_resets_it() {
    let mut restarts = Restarts::default();
    let mut waits = Vec::new();
    for _ in 0..12 {
        restarts.serving();
        let Next::StartAfter(wait) = restarts.ended(SHORT) else { panic!("it has served") };
        waits.push(wait.as_millis());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
    restarts.serving();
    assert_eq!(restarts.ended(Duration::from_secs(60)), Next::StartAfter(SHORTEST));
}

#[test]
fn five_in_a_row_that_never_served_are_the_end_and_one_that_did_is_not_counted() {
    let mut restarts = Restarts::default();
    for _ in 0..4 {
        assert!(matches!(restarts.ended(SHORT), Next::StartAfter(_)));
    }
    assert_eq!(restarts.fruitless(), 4);
    restarts.serving();
    assert!(matches!(restarts.ended(SHORT), Next::StartAfter(_)));
    for _ in 0..4 {
        assert!(matches!(restarts.ended(Duration::from_secs(60)), Next::StartAfter(_)));
    }
    assert_eq!(restarts.ended(SHORT), Next::GiveUp);
}

#[test]
fn a_count_that_stands_for_all_looks_is_a_standstill() {
    let mut pulse = Pulse::default();
    let mut looks = |count, times: u32| (0..times).map(|_| pulse.look(count)).collect::<Vec<_>>();
    assert!(looks(0, LOOKS).into_iter().all(|goes_on| goes_on), "it has just begun");
    assert!(looks(1, LOOKS + 1).into_iter().all(|goes_on| goes_on));
    assert_eq!(looks(2, LOOKS + 2).iter().filter(|goes_on| !**goes_on).count(), 1);
    assert_eq!(looks(3, 1), [true]);
}
