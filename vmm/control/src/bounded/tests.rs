//! Clients that write the protocol's messages themselves, and so need not keep to it.

use std::time::Duration;

use capnp::traits::HasTypeId;
use capnp_rpc::RpcSystem;
use capnp_rpc::twoparty::VatNetwork;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::*;
use crate::client::{Client, SOON};
use crate::control_capnp::{event_sink, vm};
use crate::convert;
use crate::server::{Action, SUBSCRIPTIONS, serve};
use crate::tests::{Toy, run};

/// More than any bound.
const MANY: u32 = 20_000;
/// Methods by their numbers in the schema: one that answers at once, one that the toy never answers, one with a long answer, and
/// none.
const INSPECT: u16 = 0;
const KILL: u16 = 5;
const EVENTS: u16 = 7;
const UNKNOWN: u16 = 999;

/// A message that begins a call or something else.
fn encode(fill: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

fn bootstrap(id: u32) -> Vec<u8> {
    encode(|message| message.init_bootstrap().set_question_id(id))
}

/// A call of the server's first export, with so many capabilities.
fn call(id: u32, method: u16, capabilities: u32) -> Vec<u8> {
    encode(|message| {
        let mut call = message.init_call();
        call.set_question_id(id);
        call.set_interface_id(vm::Client::TYPE_ID);
        call.set_method_id(method);
        call.reborrow().init_target().set_imported_cap(0);
        let params = call.init_params();
        let mut table = params.init_cap_table(capabilities);
        for index in 0..capabilities {
            table.reborrow().get(index).set_sender_hosted(index);
        }
    })
}

fn finish(id: u32) -> Vec<u8> {
    encode(|message| {
        let mut finish = message.init_finish();
        finish.set_question_id(id);
        finish.set_release_result_caps(true);
    })
}

/// A server of a toy, and the other end of its connection.
fn connect() -> (Rc<Toy>, JoinHandle<Option<String>>, UnixStream) {
    let toy = Toy::new();
    let (near, far) = UnixStream::pair().unwrap();
    let serving = tokio::task::spawn_local(serve(far, toy.clone()));
    (toy, serving, near)
}

/// Why a server ends a client that sends this and never reads; nothing of the connection is left.
async fn end_of(messages: impl Iterator<Item = Vec<u8>>, events: usize) -> String {
    let (toy, serving, mut mute) = connect();
    (0..events).for_each(|_| toy.emit("STOP"));
    mute.write_all(&bootstrap(0)).await.unwrap();
    for message in messages {
        if mute.write_all(&message).await.is_err() {
            break;
        }
    }
    let excess = serving.await.unwrap().expect("it is ended for what it asks");
    tokio::task::yield_now().await;
    assert_eq!(Rc::strong_count(&toy), 1, "something of its calls is left");
    excess
}

#[test]
fn who_never_reads_is_ended_when_much_waits() {
    run(async {
        let excess = end_of((1..MANY).map(|id| call(id, INSPECT, 0)), 0).await;
        assert!(excess.contains("bytes of answers wait"), "{excess}");
        let excess = end_of((1..MANY).map(|id| call(id, EVENTS, 0)), 300).await;
        assert!(excess.contains("bytes of answers wait"), "{excess}");
    });
}

#[test]
fn calls_at_work_are_counted() {
    run(async {
        let excess = end_of((1..MANY).map(|id| call(id, KILL, 0)), 0).await;
        assert!(excess.contains("calls are at work"), "{excess}");
    });
}

/// Sends what is given, reads everything, and gives the reason for the end if there is one.
async fn read_all(messages: Vec<Vec<u8>>) -> (Option<String>, Vec<u8>) {
    let (toy, serving, stream) = connect();
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::task::spawn_local(async move {
        let mut read = Vec::new();
        let _ = reader.read_to_end(&mut read).await;
        read
    });
    for message in messages {
        if writer.write_all(&message).await.is_err() {
            break;
        }
    }
    // Half a connection is none: the server ends the other half.
    drop(writer);
    let excess = serving.await.unwrap();
    let read = reading.await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(Rc::strong_count(&toy), 1, "something of its calls is left");
    (excess, read)
}

#[test]
fn questions_that_are_never_finished_are_counted_and_the_client_hears_why() {
    run(async {
        for questions in [
            (0..MANY).map(bootstrap).collect::<Vec<_>>(),
            [bootstrap(0)].into_iter().chain((1..MANY).map(|id| call(id, UNKNOWN, 0))).collect(),
        ] {
            let (excess, read) = read_all(questions).await;
            let excess = excess.expect("it is ended");
            assert!(excess.contains("questions"), "{excess}");
            let told = read.windows(excess.len()).any(|part| part == excess.as_bytes());
            assert!(told, "the reason is not among {} bytes", read.len());
        }
    });
}

#[test]
fn capabilities_of_one_call_are_counted() {
    run(async {
        let (excess, _) = read_all(vec![bootstrap(0), call(1, INSPECT, CAPABILITIES)]).await;
        assert_eq!(excess, None);
        let (excess, _) = read_all(vec![bootstrap(0), call(1, INSPECT, CAPABILITIES + 1)]).await;
        assert!(excess.is_some_and(|excess| excess.contains("capabilities")));
    });
}

#[test]
fn who_finishes_its_questions_may_ask_forever() {
    run(async {
        let questions = (0..MANY).flat_map(|id| [bootstrap(id), finish(id)]);
        let (excess, _) = read_all(questions.collect()).await;
        assert_eq!(excess, None);
        // As an honest client does, many at a time.
        let (_toy, serving, stream) = connect();
        let client = Rc::new(Client::over(stream, "toy".as_ref()));
        for _ in 0..100 {
            let calls: FuturesUnordered<_> = (0..CALLS).map(|_| client.inspect().boxed_local()).collect();
            calls.for_each(|answer| async move { drop(answer.unwrap()) }).await;
        }
        // Given up, and so many that their numbers fit.
        for _ in 0..QUESTIONS / 2 {
            client.act(Action::Kill, Duration::ZERO).await.unwrap_err();
        }
        client.act(Action::Pause, SOON).await.unwrap();
        drop(client);
        assert_eq!(serving.await.unwrap(), None);
    });
}

struct Sink;

impl event_sink::Server for Sink {}

#[test]
fn subscriptions_are_counted_as_long_as_they_live() {
    run(async {
        let (toy, serving, stream) = connect();
        let (reader, writer) = stream.into_split();
        let network =
            VatNetwork::new(reader.compat(), writer.compat_write(), Side::Client, capnp::message::ReaderOptions::new());
        let mut system = RpcSystem::new(Box::new(network), None);
        let vm: vm::Client = system.bootstrap(Side::Server);
        let system = tokio::task::spawn_local(system);
        let subscribe = || {
            let mut request = vm.subscribe_request();
            request.get().set_sink(capnp_rpc::new_client(Sink));
            request.send().promise
        };
        for _ in 0..3 {
            let mut held = Vec::new();
            for _ in 0..SUBSCRIPTIONS {
                let answer = subscribe().await.unwrap();
                held.push(answer.get().unwrap().get_subscription().unwrap());
            }
            let answer = subscribe().await.unwrap();
            let problem = convert::read_problem(answer.get().unwrap().get_problem().unwrap()).unwrap();
            assert_eq!(problem.unwrap().code, "client.subscriptions");
        }
        system.abort();
        drop(vm);
        let _ = system.await;
        assert_eq!(serving.await.unwrap(), None);
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&toy), 1, "a subscription is left");
    });
}
