//! Cap'n Proto messages over links: bounds, descriptors, malformed bytes.

use std::{os::fd::AsFd, time::Duration};

use ::capnp::{any_pointer, primitive_list};

use super::*;

fn pair() -> (Link, Link) {
    Link::pair(Peer::new("left", 1), Peer::new("right", 2)).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn fill<A: Allocator>(message: &mut Builder<A>, count: u32) {
    let mut list = message.init_root::<any_pointer::Builder>().initn_as::<primitive_list::Builder<u64>>(count);
    for i in 0..count {
        list.set(i, u64::from(i));
    }
}

fn check(reader: &MessageReader<'_>, count: u32) {
    let list: primitive_list::Reader<u64> = reader.get_root::<any_pointer::Reader>().unwrap().get_as().unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), (0..u64::from(count)).collect::<Vec<_>>());
}

#[test]
fn messages_of_one_and_of_many_segments_arrive() {
    let (a, b) = pair();
    let mut inbox = Inbox::new();
    let mut scratch = Scratch::new(64);
    for count in [0, 1, 6, 7, 8, 100, 5000] {
        let mut message = scratch.builder();
        fill(&mut message, count);
        send_message(&a, &message, &[b.as_fd()], soon()).unwrap();
        let bytes = encode(&message, a.peer()).unwrap();
        assert_eq!(bytes, serialize::write_message_to_words(&message), "the encoding is the library's own");
        let incoming = recv_message(&b, &mut inbox, soon()).unwrap();
        assert_eq!(incoming.descriptors.len(), 1);
        check(&incoming.reader, count);
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_the_sender() {
    let (a, _b) = pair();
    let mut message = Builder::new_default();
    fill(&mut message, 9000);
    assert!(matches!(send_message(&a, &message, &[], soon()), Err(LinkError::Length { .. })));
    assert!(matches!(encode(&message, a.peer()), Err(LinkError::Length { .. })));
}

#[test]
fn bytes_that_are_not_exactly_one_message_are_malformed() {
    let (a, b) = pair();
    let mut inbox = Inbox::new();
    let mut message = Builder::new_default();
    fill(&mut message, 3);
    let good = encode(&message, a.peer()).unwrap();
    let mut long = good.clone();
    long.extend_from_slice(&[0; 8]);
    for bad in [b"x".as_slice(), &good[..good.len() - 1], &good[..8], &long, &[0xff; 64]] {
        a.send(bad, &[], soon()).unwrap();
        let error = recv_message(&b, &mut inbox, soon()).err().unwrap();
        assert!(matches!(error, LinkError::Malformed { .. }), "{error}");
    }
    a.send(&good, &[], soon()).unwrap();
    check(&recv_message(&b, &mut inbox, soon()).unwrap().reader, 3);
}

#[test]
fn garbage_never_panics_and_never_reads_beyond_the_message() {
    // A fixed generator (xorshift64*), so that a failure repeats.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut message = Builder::new_default();
    fill(&mut message, 40);
    let good = encode(&message, &Peer::new("p", 0)).unwrap();
    let mut decoded = 0;
    for _ in 0..20_000 {
        let mut words = vec![0_u64; good.len() / 8];
        words.as_mut_bytes().copy_from_slice(&good);
        for _ in 0..=next() % 4 {
            let at = usize::try_from(next()).unwrap() % good.len();
            words.as_mut_bytes()[at] = next() as u8;
        }
        let length = usize::try_from(next()).unwrap() % (good.len() + 1);
        let length = if next() % 2 == 0 { good.len() } else { length };
        let Ok(reader) = decode(&words.as_bytes()[..length], &Peer::new("p", 0)) else { continue };
        decoded += 1;
        if let Ok(root) = reader.get_root::<any_pointer::Reader>()
            && let Ok(list) = root.get_as::<primitive_list::Reader<u64>>()
        {
            assert!(list.len() as usize <= TRAVERSAL_WORDS);
            let _sum = list.iter().fold(0_u64, u64::wrapping_add);
        }
    }
    assert!(decoded > 1000, "too little of the garbage got past the segment table: {decoded}");
}
