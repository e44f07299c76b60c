//! What a supervisor has before it is locked down: what it finds with the keeper, and what it makes if it is the first.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use doorbell::{Header, Role};
use enter::status::StatusPage;
use guest_memory::{DirtyLog, Memfd};
use keeper_protocol::client::{Adoption, ClientError, Keeper};
use keeper_protocol::{
    Access, HeldId, HeldKind, Name, ProcessEntry, ProcessState, RefusalCode, SUPERVISOR_STATUS_SLOT,
};
use link::{Link, Peer};
use supervisor::config::{Config, Console, MAX_CONFIG, Snapshot};
use supervisor::core::record::{self, Facts};
use supervisor::core::{Core, Found, Islet};
use supervisor::journal::Journal;
use supervisor::log::Log;
use supervisor::plan::{self, CONSOLE_CONNECTION, EVENTFDS, Maker, MemfdRow, memfd_flags};

use crate::soon;
use crate::tasks::Parts;

/// What the last supervisor left.
#[derive(Debug)]
pub struct Legacy {
    /// How it ended.
    pub last_end: String,
    /// What the keeper knows about processes.
    pub found: Vec<Found>,
    /// Their control sockets.
    pub sockets: Vec<(Islet, u32, OwnedFd)>,
}

/// A supervisor that could work.
pub struct Ready {
    pub keeper: Keeper,
    pub held: Held,
    pub config: Config,
    pub core: Core,
    pub facts: Facts,
    pub legacy: Option<Legacy>,
    pub log: Log,
    pub journal: Journal,
    pub status: File,
    /// This process's page of it.
    pub page: &'static StatusPage,
    pub clock: Header,
    pub report: Option<Link>,
    pub console_connection: Option<HeldId>,
    pub pid: i32,
    /// Taken by [`Self::register`].
    control: Option<UnixListener>,
    parcels: Option<UnixListener>,
    console: Option<UnixListener>,
}

/// Ids of held descriptors by name.
#[derive(Debug, Default)]
pub struct Held(Vec<(String, HeldId)>);

impl Held {
    /// The id of what is held under this name.
    ///
    /// # Errors
    /// Nothing is.
    pub fn id(&self, name: &str) -> anyhow::Result<HeldId> {
        self.find(name).ok_or_else(|| anyhow!("the keeper holds nothing of the name '{name}'"))
    }

    fn find(&self, name: &str) -> Option<HeldId> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, id)| *id)
    }

    /// From now on, this is what is meant by the name.
    pub fn add(&mut self, name: &str, id: HeldId) {
        self.0.insert(0, (name.to_owned(), id));
    }

    /// Forgets everything whose name begins so, and returns it.
    pub fn remove(&mut self, prefix: &str) -> Vec<HeldId> {
        self.0.extract_if(.., |(name, _)| name.starts_with(prefix)).map(|(_, id)| id).collect()
    }
}

pub fn name(text: &str) -> anyhow::Result<Name> {
    Name::new(text).with_context(|| format!("'{text}'"))
}

/// Fetches, makes and maps everything.
pub fn take_over(mut keeper: Keeper, adoption: Adoption) -> anyhow::Result<Ready> {
    let pid = nix::unistd::getpid().as_raw();
    let mut held = Held::default();
    // Of two with one name the newer counts: the other is on its way out.
    for entry in &adoption.held {
        held.add(entry.name.as_str(), entry.id);
    }
    let mut config = Config::read(&read_memfd(&mut keeper, held.id("config")?)?)?;
    let memfds = memfds(&mut keeper, &mut held, &config)?;
    for eventfd in EVENTFDS {
        if held.find(eventfd).is_none() {
            held.add(eventfd, keeper.make_eventfd(name(eventfd)?, soon())?);
        }
    }
    let Memfds { status, events, adoption: journal, windows } = memfds;
    let page = StatusPage::map(status.as_fd(), SUPERVISOR_STATUS_SLOT as usize)?;
    enter::attach_status(page);
    let clock = Header::map(windows.as_fd(), Role::Device)?;
    drop(windows);

    let (journal, record) = Journal::open(journal)?;
    let (core, facts, legacy) = match record {
        Some(record) => {
            let (core, facts) = record::decode(&record, config.options)?;
            (core, facts, Some(legacy(&mut keeper, &adoption)?))
        }
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
            let mut facts = Facts { last_event: 0, wall_clock_seconds: now, started_unix_seconds: now };
            let core = match held.find("restore") {
                Some(id) => {
                    let snapshot = Snapshot::read(&read_memfd(&mut keeper, id)?)?;
                    config.options.paused |= snapshot.paused;
                    facts.wall_clock_seconds = snapshot.wall_clock_seconds;
                    Core::restored(config.options, snapshot.restore)
                }
                None => Core::new(config.options),
            };
            (core, facts, None)
        }
    };
    let log = Log::new(events, facts.last_event);
    let mut fetch = |id| keeper.get(id, Access::Same, soon());
    let control = UnixListener::from(fetch(held.id("control-listener")?)?);
    let parcels = UnixListener::from(fetch(held.id("descriptor-listener")?)?);
    parcels.set_nonblocking(true)?;
    let console = match config.console {
        Console::Socket(_) => Some(UnixListener::from(fetch(held.id("console-listener")?)?)),
        _ => None,
    };
    let report = match held.find("report") {
        Some(id) => Some(Link::new(fetch(id)?, Peer::new("launcher", 0))?),
        None => None,
    };
    control.set_nonblocking(true)?;
    if let Some(console) = &console {
        console.set_nonblocking(true)?;
    }
    let console_connection = held.find(CONSOLE_CONNECTION);
    Ok(Ready {
        keeper,
        held,
        config,
        core,
        facts,
        legacy,
        log,
        journal,
        status,
        page,
        clock,
        report,
        console_connection,
        pid,
        control: Some(control),
        parcels: Some(parcels),
        console,
    })
}

impl Ready {
    /// Numbers of the descriptors that must stay open.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut kept = vec![self.keeper.as_fd().as_raw_fd(), self.status.as_raw_fd()];
        kept.extend([self.log.as_fd().as_raw_fd(), self.journal.as_fd().as_raw_fd()]);
        kept.extend(self.control.iter().chain(&self.parcels).chain(&self.console).map(AsRawFd::as_raw_fd));
        kept.extend(self.report.as_ref().map(AsRawFd::as_raw_fd));
        if let Some(legacy) = &self.legacy {
            kept.extend(legacy.sockets.iter().map(|(_, _, socket)| socket.as_raw_fd()));
        }
        kept
    }

    /// Joins the event loop, in which this must run.
    pub fn register(mut self) -> anyhow::Result<Parts> {
        let control = self.control.take().context("the control socket was taken twice")?;
        let control = tokio::net::UnixListener::from_std(control)?;
        let parcels = self.parcels.take().context("the descriptor socket was taken twice")?;
        let parcels = tokio::net::UnixListener::from_std(parcels)?;
        let console = self.console.take().map(tokio::net::UnixListener::from_std).transpose()?;
        Ok(Parts { ready: self, control, parcels, console })
    }
}

struct Memfds {
    status: File,
    events: File,
    adoption: File,
    windows: File,
}

/// Finds or makes every memfd.
fn memfds(keeper: &mut Keeper, held: &mut Held, config: &Config) -> anyhow::Result<Memfds> {
    for row in plan::memfds(config) {
        if held.find(row.name).is_none() {
            let id = make(keeper, &row, config).with_context(|| format!("making the memfd '{}'", row.name))?;
            held.add(row.name, id);
        }
        if row.name == "status" {
            match keeper.set_status(held.id(row.name)?, soon()) {
                // An earlier supervisor has said it.
                Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::NotAllowed => {}
                other => other?,
            }
        }
    }
    let mut fetch =
        |name| -> anyhow::Result<File> { Ok(File::from(keeper.get(held.id(name)?, Access::Same, soon())?)) };
    Ok(Memfds {
        status: fetch("status")?,
        events: fetch("events")?,
        adoption: fetch("adoption")?,
        windows: fetch("windows")?,
    })
}

fn make(keeper: &mut Keeper, row: &MemfdRow, config: &Config) -> anyhow::Result<HeldId> {
    if row.maker == Maker::Keeper {
        return Ok(keeper.make_memfd(name(row.name)?, row.length, memfd_flags(row.guarded), soon())?);
    }
    let memfd = match row.name {
        "dirty" => {
            let memfd = Memfd::create(row.name, row.length)?;
            DirtyLog::format(memfd.as_fd(), plan::ram_length(config))?;
            memfd
        }
        _ => doorbell::create_windows()?,
    };
    Ok(keeper.hold(name(row.name)?, HeldKind::Memfd, memfd.as_fd(), soon())?)
}

fn read_memfd(keeper: &mut Keeper, id: HeldId) -> anyhow::Result<Vec<u8>> {
    let file = File::from(keeper.get(id, Access::Same, soon())?);
    let length = usize::try_from(file.metadata()?.len())?;
    ensure!(length <= MAX_CONFIG, "the configuration has {length} bytes, at most {MAX_CONFIG} are possible");
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn legacy(keeper: &mut Keeper, adoption: &Adoption) -> anyhow::Result<Legacy> {
    let islet = |entry: &ProcessEntry| Islet::by_name(entry.name.as_str());
    let found = adoption.processes.iter().map(|entry| Found {
        islet: islet(entry),
        incarnation: entry.incarnation,
        process: entry.id.0,
        lives: entry.state == ProcessState::Running,
    });
    let found = found.collect();
    let mut sockets = Vec::new();
    for entry in &adoption.processes {
        if let Some(islet) = islet(entry) {
            sockets.push((islet, entry.incarnation, keeper.get(entry.socket, Access::Same, soon())?));
        }
    }
    Ok(Legacy { last_end: adoption.hello.last_end.clone(), found, sockets })
}
