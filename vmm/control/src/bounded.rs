//! What one connection may make this process hold: a network for [`capnp_rpc`] that counts what passes through it.
//!
//! The one idea: the library reads on while answers wait, and keeps every question until it is finished, so its memory is
//! whatever its peer asks for. Here each of the things that it keeps has a number, known from the messages themselves, and a
//! connection that exceeds one is ended, with the reason.
//!
//! | kept | for as long as | bound |
//! |---|---|---|
//! | a request | its method is at work | [`CALLS`] of [`crate::server::CLIENT_WORDS`] |
//! | a question's number | it is not both answered and finished | [`QUESTIONS`] |
//! | what the peer refers to | the request is | [`CAPABILITIES`] in each |
//! | an answer, or a message of ours | it is not sent, or somebody may still refer to it | [`UNSENT_BYTES`] |
//!
//! Those who follow the protocol are far from all of them, with one exception: the library never answers a call that was given
//! up, and so it keeps its number. A client that gives up [`QUESTIONS`] calls must connect anew.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use capnp::Error;
use capnp::any_pointer;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::TryFutureExt;
use tokio::sync::Notify;

/// Calls of one connection that may be at work at a time.
pub const CALLS: usize = 64;
/// Questions of one connection that may be open at a time.
pub const QUESTIONS: usize = 1024;
/// Capabilities that may come with one message; no method takes more than one.
pub const CAPABILITIES: u32 = 4;
/// Bytes that may wait until the peer takes them. Two answers of the longest kind are about as long.
pub const UNSENT_BYTES: usize = 512 << 10;
/// What a message takes beside its content.
const MESSAGE_BYTES: usize = 512;

/// What is kept for one connection.
#[derive(Default)]
pub struct Meter {
    calls: Cell<usize>,
    questions: RefCell<HashMap<u32, Question>>,
    unsent: RefCell<Vec<(Weak<Message>, usize)>>,
    excess: RefCell<Option<String>>,
    exceeded: Notify,
}

type Message = Builder<HeapAllocator>;

#[derive(Default)]
struct Question {
    answered: bool,
    finished: bool,
}

impl Meter {
    /// Why the connection must end, if it must.
    pub fn excess(&self) -> Option<String> {
        self.excess.borrow().clone()
    }

    /// Waits until the connection must end.
    pub async fn exceeded(&self) -> Error {
        loop {
            let told = self.exceeded.notified();
            if let Some(excess) = self.excess() {
                return Error::failed(excess);
            }
            told.await;
        }
    }

    fn exceed(&self, what: String) -> Error {
        let excess = self.excess.borrow_mut().get_or_insert(what).clone();
        self.exceeded.notify_waiters();
        Error::failed(excess)
    }

    /// Looks at a message before the library does.
    fn received(&self, message: &dyn IncomingMessage) -> Result<(), Error> {
        let (id, capabilities) = match message.get_body()?.get_as::<message::Reader<'_>>()?.which() {
            Ok(message::Call(call)) => {
                let call = call?;
                (call.get_question_id(), call.get_params()?.get_cap_table()?.len())
            }
            Ok(message::Bootstrap(bootstrap)) => (bootstrap?.get_question_id(), 0),
            Ok(message::Finish(finish)) => {
                self.settle(finish?.get_question_id(), |question| question.finished = true);
                return Ok(());
            }
            // Everything else is kept for no longer than it takes to read it.
            _ => return Ok(()),
        };
        if capabilities > CAPABILITIES {
            return Err(
                self.exceed(format!("a call with {capabilities} capabilities; at most {CAPABILITIES} are taken"))
            );
        }
        let mut questions = self.questions.borrow_mut();
        // One that is open already is the library's to refuse.
        questions.entry(id).or_default();
        if questions.len() > QUESTIONS {
            return Err(
                self.exceed(format!("more than {QUESTIONS} questions are answered and not finished, or given up"))
            );
        }
        if self.calls.get() >= CALLS {
            return Err(self.exceed(format!("more than {CALLS} calls are at work")));
        }
        Ok(())
    }

    /// Whether a message may wait to be sent; notes what it answers.
    fn sends(&self, message: &dyn OutgoingMessage) -> Result<usize, Error> {
        match message.get_body_as_reader()?.get_as::<message::Reader<'_>>()?.which() {
            Ok(message::Return(answer)) => {
                let answer = answer?;
                let over = answer.get_no_finish_needed();
                self.settle(answer.get_answer_id(), |question| {
                    question.answered = true;
                    question.finished |= over;
                });
            }
            // The last word.
            Ok(message::Abort(_)) => return Ok(0),
            _ => {}
        }
        let bytes = MESSAGE_BYTES + 8 * message.size_in_words();
        let mut unsent = self.unsent.borrow_mut();
        unsent.retain(|(message, _)| message.strong_count() > 0);
        let waiting: usize = unsent.iter().map(|(_, bytes)| bytes).sum();
        if waiting + bytes > UNSENT_BYTES {
            return Err(
                self.exceed(format!("{waiting} bytes of answers wait to be taken; at most {UNSENT_BYTES} are kept"))
            );
        }
        Ok(bytes)
    }

    fn settle(&self, id: u32, change: impl FnOnce(&mut Question)) {
        let mut questions = self.questions.borrow_mut();
        if let Some(question) = questions.get_mut(&id) {
            change(question);
            if question.answered && question.finished {
                questions.remove(&id);
            }
        }
    }
}

/// A network whose one connection has a meter.
pub struct Bounded<N> {
    inner: N,
    meter: Rc<Meter>,
}

impl<N> Bounded<N> {
    pub const fn new(inner: N, meter: Rc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Bounded<N> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn Connection<Side>>> {
        let inner = self.inner.connect(host)?;
        Some(Box::new(Lane { inner, meter: Rc::clone(&self.meter) }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let meter = Rc::clone(&self.meter);
        let accepted = self.inner.accept();
        Promise::from_future(accepted.map_ok(|inner| Box::new(Lane { inner, meter }) as Box<dyn Connection<Side>>))
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.inner.drive_until_shutdown()
    }
}

struct Lane {
    inner: Box<dyn Connection<Side>>,
    meter: Rc<Meter>,
}

impl Connection<Side> for Lane {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, words: u32) -> Box<dyn OutgoingMessage> {
        Box::new(Outgoing { inner: self.inner.new_outgoing_message(words), meter: Rc::clone(&self.meter) })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let (next, meter) = (self.inner.receive_incoming_message(), Rc::clone(&self.meter));
        Promise::from_future(async move {
            let message = tokio::select! {
                biased;
                excess = meter.exceeded() => return Err(excess),
                message = next => message?,
            };
            let Some(message) = message else { return Ok(None) };
            meter.received(&*message)?;
            Ok(Some(Box::new(Incoming::new(message, meter)) as Box<dyn IncomingMessage>))
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), Error>) {
        self.inner.new_stream()
    }

    fn shutdown(&mut self, result: Result<(), Error>) -> Promise<(), Error> {
        self.inner.shutdown(result)
    }
}

/// A message that is counted as long as it lives: the library keeps that of a call until its method has returned.
struct Incoming {
    inner: Box<dyn IncomingMessage>,
    meter: Rc<Meter>,
}

impl Incoming {
    fn new(inner: Box<dyn IncomingMessage>, meter: Rc<Meter>) -> Self {
        meter.calls.set(meter.calls.get() + 1);
        Self { inner, meter }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.meter.calls.set(self.meter.calls.get() - 1);
    }
}

impl IncomingMessage for Incoming {
    fn get_body(&self) -> Result<any_pointer::Reader<'_>, Error> {
        self.inner.get_body()
    }
}

struct Outgoing {
    inner: Box<dyn OutgoingMessage>,
    meter: Rc<Meter>,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> Result<any_pointer::Builder<'_>, Error> {
        self.inner.get_body()
    }

    fn get_body_as_reader(&self) -> Result<any_pointer::Reader<'_>, Error> {
        self.inner.get_body_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Message>) {
        let Self { inner, meter } = *self;
        match meter.sends(&*inner) {
            Ok(bytes) => {
                let (sent, message) = inner.send();
                meter.unsent.borrow_mut().push((Rc::downgrade(&message), bytes));
                (sent, message)
            }
            Err(error) => (Promise::err(error), Rc::new(inner.take())),
        }
    }

    fn take(self: Box<Self>) -> Message {
        self.inner.take()
    }

    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}

#[cfg(test)]
mod tests;
