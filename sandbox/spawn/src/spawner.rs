//! The keeper's spawn thread: the one thread that lives in the VM's empty network namespace and clones every islet.
//!
//! An islet must be in an empty network from its first instruction, but a process inside a new user namespace may not
//! enter an older network namespace. So a thread of the keeper unshares the network once, and its children inherit it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::SpawnError;
use crate::ids::{IdLease, IdMaps, IdPool};
use crate::launch::{Child, Command, Prepared};

/// Starts islets. Belongs to the keeper; the thread ends with the value.
#[derive(Debug)]
pub struct Spawner {
    orders: Sender<Order>,
    ids: Arc<IdPool>,
}

struct Order {
    prepared: Prepared,
    lease: IdLease,
    answer: Sender<Result<Child, SpawnError>>,
}

impl Spawner {
    /// Starts the spawn thread and makes the empty network.
    ///
    /// # Errors
    /// The thread cannot be started, or the caller has no privilege in its user namespace (it was not started by
    /// [`keeper`](crate::keeper)).
    pub fn new() -> Result<Spawner, SpawnError> {
        let failed = |step| move |source| SpawnError::Parent { name: "the spawn thread".to_owned(), step, source };
        let (orders, inbox) = channel();
        let (report, ready) = sync_channel(1);
        thread::Builder::new()
            .name("spawn".to_owned())
            .spawn(move || {
                let _whole = WholeProcess;
                let made = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
                let go_on = made.is_ok();
                if report.send(made).is_ok() && go_on {
                    serve(&inbox);
                }
            })
            .map_err(failed("starting it"))?;
        match ready.recv() {
            Ok(made) => made.map_err(failed("making an empty network namespace"))?,
            Err(_) => return Err(failed("starting it")(io::ErrorKind::BrokenPipe.into())),
        }
        Ok(Spawner { orders, ids: IdPool::of_this_namespace() })
    }

    /// Whether each islet gets a host id of its own (the VM was started by root).
    pub fn islets_have_own_ids(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Starts an islet and returns once its binary runs.
    ///
    /// # Errors
    /// The step that failed, here or in the child; nothing is left behind.
    pub fn spawn(&self, command: &Command<'_>) -> Result<Child, SpawnError> {
        let prepared = Prepared::islet(command)?;
        let name = prepared.name.clone();
        let Some(lease) = self.ids.lease() else {
            return Err(SpawnError::Command { name, why: "all ids of this VM are in use".to_owned() });
        };
        let (answer, answered) = channel();
        let gone = |_| SpawnError::Parent {
            name: name.clone(),
            step: "asking the spawn thread",
            source: io::ErrorKind::BrokenPipe.into(),
        };
        self.orders.send(Order { prepared, lease, answer }).map_err(|_| gone(std::sync::mpsc::RecvError))?;
        answered.recv().map_err(gone)?
    }
}

/// A panic of the thread ends the process, as one of its main thread does: a keeper that cannot start anything any more would
/// be there, and its VM would end for a reason that is not the cause.
struct WholeProcess;

impl Drop for WholeProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn serve(inbox: &Receiver<Order>) {
    while let Ok(Order { prepared, lease, answer }) = inbox.recv() {
        let maps = IdMaps::islet(lease.id);
        // If nobody waits for the answer any more, the keeper is ending.
        let _ = answer.send(prepared.launch(&maps, Some(lease)));
    }
}
