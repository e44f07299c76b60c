//! What is heard of a log, and what is not.

use std::time::Duration;

use super::*;

fn lines(pieces: &[&[u8]]) -> Vec<String> {
    let now = Instant::now();
    let mut lines = Lines::new(now);
    let mut out = Vec::new();
    for piece in pieces {
        lines.add(piece, now, |line| out.push(line.to_owned()));
    }
    lines.end(|line| out.push(line.to_owned()));
    out
}

#[test]
fn lines_are_put_together_bounded_and_printable() {
    assert_eq!(lines(&[b"a\nb", b"c\n", b"rest"]), ["a", "bc", "rest"]);
    assert_eq!(lines(&[b"\x1b[2Jx\ty\r\n\xff\n"]), ["\\u{1b}[2Jx y", "\u{fffd}"]);
    let long = lines(&[&[b'x'; 2500]]);
    assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [1024, 1024, 452]);
}

#[test]
fn who_writes_too_much_loses_lines_that_are_counted() {
    let start = Instant::now();
    let mut lines = Lines::new(start);
    let mut out = Vec::new();
    let text = b"x\n".repeat(BURST as usize + 30);
    lines.add(&text, start, |line| out.push(line.to_owned()));
    assert_eq!(out.len(), BURST as usize);
    lines.add(b"later\n", start + Duration::from_secs(1), |line| out.push(line.to_owned()));
    let missing = format!("({} lines were dropped: more than 200 a second)", 30 - LAST_WORDS);
    assert_eq!(out[BURST as usize], missing);
    assert_eq!(out.len(), BURST as usize + 1 + LAST_WORDS + 1);
    assert_eq!(out.last().unwrap(), "later");
    lines.end(|_| panic!("nothing is left"));
}

#[test]
fn last_words_are_heard_even_from_who_wrote_too_much() {
    let start = Instant::now();
    let mut lines = Lines::new(start);
    let text = b"x\n".repeat(BURST as usize + 100);
    lines.add(&text, start, |_| {});
    lines.add(b"panicked: the reason\n", start + Duration::from_millis(30), |_| panic!("cut off"));
    let mut out = Vec::new();
    lines.end(|line| out.push(line.to_owned()));
    assert_eq!((out.len(), out[LAST_WORDS].as_str()), (1 + LAST_WORDS, "panicked: the reason"));
}

#[test]
fn a_sink_that_nobody_reads_keeps_a_bounded_queue_and_counts_what_it_loses() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut sink = Sink { fd: Some(writer), way: Way::Write, queue: Vec::new(), lost: 0 };
    let text = "y".repeat(1000);
    for _ in 0..1000 {
        sink.line("islet", &text);
    }
    assert!(sink.queue.len() <= QUEUE && sink.lost > 0 && sink.waits().is_some());
    let (mut all, mut buffer) = (Vec::new(), vec![0; 65536]);
    while sink.waits().is_some() {
        let count = rustix::io::read(&reader, &mut buffer).unwrap();
        all.extend_from_slice(&buffer[..count]);
        sink.flush();
    }
    drop(sink);
    loop {
        match rustix::io::read(&reader, &mut buffer).unwrap() {
            0 => break,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
    let all = String::from_utf8(all).unwrap();
    let lost: u64 = all.lines().last().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(all.lines().count() as u64 - 1 + lost, 1000);
}

#[test]
fn a_sink_without_a_reader_is_given_up() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut sink = Sink { fd: Some(writer), way: Way::PollThenWrite, queue: Vec::new(), lost: 0 };
    sink.line("islet", "text");
    assert!(sink.fd.is_none() && sink.waits().is_none());
}
