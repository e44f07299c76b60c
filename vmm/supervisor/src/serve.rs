//! The control socket's answers, out of what the driver knows and what the processes say of themselves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use control::server::{Action, Answer, Backend, PAGE_EVENTS};
use control::types::{Counter, EventPage, Inspection, Job, Problem, Process, RunState, Sandbox, Statistics, Status};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use profile::{Kind, Landlock, LimitValue, Profile};
use supervisor::core::{Command, Input, Islet, Progress};
use supervisor::messages;
use supervisor::plan;

use crate::driver::{DEADLINE, Driver};
use crate::{soon, tasks};

/// The backend of one connection.
pub struct Service {
    driver: Rc<RefCell<Driver>>,
}

impl Service {
    pub fn new(driver: Rc<RefCell<Driver>>) -> Self {
        Self { driver }
    }

    /// The counters of a process. One that does not answer is killed, as for every request.
    async fn statistics(&self, islet: Islet) -> Option<messages::Answer> {
        let (incarnation, answer) = self.driver.borrow_mut().ask_statistics(islet)?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                let why = "did not answer 'statistics' in time".to_owned();
                tasks::tell(&Rc::downgrade(&self.driver), Input::Broken { islet, incarnation, why });
                None
            }
        }
    }

    async fn gather(&self) -> Result<Inspection, Problem> {
        let (engine, board, serial) = futures::join!(
            self.statistics(Islet::Engine),
            self.statistics(Islet::Board),
            self.statistics(Islet::Serial0)
        );
        let mut statistics = match engine {
            Some(messages::Answer::Engine(statistics)) => *statistics,
            _ => Statistics::default(),
        };
        name_devices(&mut statistics);
        // The engine's own are among the statistics.
        let mut counters: HashMap<Islet, Vec<Counter>> = HashMap::new();
        for (islet, answer) in [(Islet::Board, board), (Islet::Serial0, serial)] {
            if let Some(messages::Answer::Counters(list)) = answer {
                counters.insert(islet, list);
            }
        }
        let listed = tasks::with(&Rc::downgrade(&self.driver), |driver| {
            let pids = pids(driver);
            // Exits that came meanwhile were put aside.
            driver.take_exits()?;
            Ok(pids)
        });
        let pids = listed.unwrap_or_default();
        let driver = self.driver.borrow();
        let config = &driver.config;
        let per_second = u128::from(statistics.instructions) * 1_000_000_000;
        let per_second = per_second.checked_div(statistics.run_nanoseconds.into()).unwrap_or(0);
        Ok(Inspection {
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            machine: config.machine.name.into(),
            engine: config.engine.clone(),
            engine_why: config.engine_why.clone(),
            vcpus: config.vcpus,
            memory_bytes: config.memory_bytes,
            state: driver.core.state(),
            processes: processes(&driver, &pids, &mut counters),
            statistics,
            instructions_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            resets: driver.core.resets(),
            guest_nanoseconds: if driver.core.started() { driver.clock.guest_ns() } else { 0 },
            kernel: config.kernel_name.clone(),
            command_line: config.command_line.clone(),
            console: config.console.to_string(),
        })
    }
}

/// Engines know devices by area only.
fn name_devices(statistics: &mut Statistics) {
    for register in &mut statistics.registers {
        let area = register.device.strip_prefix("area").and_then(|number| number.parse::<usize>().ok());
        if let Some(islet) = area.and_then(|area| plan::AREAS.get(area)) {
            register.device = islet.name().to_owned();
        }
    }
}

/// Pids in the VM's namespace by the keeper's number of a process.
fn pids(driver: &mut Driver) -> HashMap<u64, i32> {
    match driver.keeper.list(soon()) {
        Ok((_, processes)) => processes.iter().map(|entry| (entry.id.0, entry.pid.cast_signed())).collect(),
        Err(_) => HashMap::new(),
    }
}

fn processes(driver: &Driver, pids: &HashMap<u64, i32>, counters: &mut HashMap<Islet, Vec<Counter>>) -> Vec<Process> {
    let incarnation = driver.keeper.incarnation();
    let own = |name: &str, kind: Kind, pid, incarnation: u32| Process {
        name: name.into(),
        kind: kind.name().into(),
        pid,
        incarnation,
        state: "running".into(),
        restarts: incarnation - 1,
        ..Process::default()
    };
    let mut list = vec![
        Process { restart_policy: "ends the VM".into(), ..own("keeper", Kind::Keeper, 1, 1) },
        Process {
            restart_policy: "restart".into(),
            ..own("supervisor", Kind::Supervisor, driver.pid, incarnation.max(1))
        },
    ];
    for islet in Islet::ALL {
        let (slot, row) = (driver.core.slot(islet), islet.row());
        let state = match slot.progress {
            Progress::Absent if matches!(islet, Islet::Loader | Islet::Streamer) => "done",
            Progress::Absent | Progress::Waiting => "down",
            Progress::FailedClosed => "failed closed",
            Progress::Spawning | Progress::Starting => "starting",
            Progress::Ready if slot.runs => "running",
            Progress::Ready => "ready",
        };
        list.push(Process {
            name: row.name.into(),
            kind: plan::role(islet, driver.surroundings()).into(),
            pid: slot.process.and_then(|process| pids.get(&process).copied()).unwrap_or(0),
            host_pid: 0,
            incarnation: slot.incarnation,
            state: state.into(),
            restarts: slot.restarts,
            last_cause: slot.last_cause.clone(),
            restart_policy: row.policy.name().into(),
            grant_bytes: plan::grant(islet, &driver.config),
            counters: counters.remove(&islet).unwrap_or_default(),
        });
    }
    list
}

/// A profile for people.
fn sandbox(name: &str, profile: &Profile, descriptors: Vec<String>) -> Sandbox {
    let limit = |limit: &profile::Limit| match limit.value {
        LimitValue::At(value) => format!("{} {value}", limit.name),
        LimitValue::Hard => format!("{} raised to its hard limit", limit.name),
    };
    let landlock = match profile.landlock {
        Landlock::DenyAll => "denies every path, TCP port, abstract socket and signal to the outside",
        Landlock::None => "not used",
    };
    Sandbox {
        name: name.into(),
        profile: profile.describe(),
        system_calls: profile.calls().map(profile::syscalls::describe).collect(),
        budget: u16::try_from(profile.budget).unwrap_or(u16::MAX),
        descriptors,
        namespaces: profile.namespaces.iter().map(|namespace| namespace.proc_name().to_owned()).collect(),
        limits: profile.limits.iter().map(limit).collect(),
        landlock: landlock.into(),
    }
}

fn sandboxes(driver: &Driver) -> Vec<Sandbox> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut all = vec![
        sandbox("keeper", Kind::Keeper.profile(), list(&["every descriptor that must survive a process"])),
        sandbox(
            "supervisor",
            Kind::Supervisor.profile(),
            list(&["keeper", "control sockets of the processes", "control-listener", "status", "events", "adoption"]),
        ),
    ];
    for islet in Islet::ALL {
        let gifts = plan::gifts(islet, &driver.config, driver.surroundings());
        let names = gifts.into_iter().map(|gift| gift.name.into_owned()).collect();
        if let Some(profile) = plan::profile(islet, &driver.config, driver.surroundings()) {
            all.push(sandbox(islet.name(), profile, names));
        }
    }
    all
}

fn gone() -> Problem {
    Problem::new("vm.ended", "the command", "the VM has ended", "start it anew")
}

impl Backend for Service {
    fn inspect(self: Rc<Self>) -> Answer<Inspection> {
        async move { self.gather().await }.boxed_local()
    }

    fn sandbox(self: Rc<Self>) -> Answer<Vec<Sandbox>> {
        async move { Ok(sandboxes(&self.driver.borrow())) }.boxed_local()
    }

    fn act(self: Rc<Self>, action: Action) -> Answer<()> {
        let command = match action {
            Action::Pause => Command::Pause,
            Action::Resume => Command::Resume,
            Action::Reset => Command::Reset,
            Action::Stop { timeout } => Command::Stop(timeout),
            Action::Kill => Command::Kill,
            Action::Wakeup => Command::Wakeup,
            Action::CancelJob { job } => Command::Cancel { job },
        };
        async move {
            let weak = Rc::downgrade(&self.driver);
            let answer = tasks::with(&weak, |driver| driver.command(command)).ok_or_else(gone)?;
            answer.await.map_err(|_| gone())?
        }
        .boxed_local()
    }

    fn snapshot_files(&self) -> Vec<String> {
        plan::snapshot_files()
    }

    fn snapshot(self: Rc<Self>, token: u64, files: Vec<String>) -> Answer<u64> {
        let nothing = || {
            let why = "no descriptors came with this token on the socket 'descriptors', or they waited too long";
            Problem::new("snapshot.descriptors", "the snapshot", why, "send them, and then call")
        };
        async move {
            let parcels = Rc::clone(&self.driver.borrow().parcels);
            let descriptors = parcels.take(token).ok_or_else(nothing)?;
            let weak = Rc::downgrade(&self.driver);
            let begun = tasks::with(&weak, |driver| driver.snapshot(&files, descriptors)).ok_or_else(gone)?;
            let begun = begun?;
            begun.accepted.await.map_err(|_| gone())??;
            Ok(begun.job)
        }
        .boxed_local()
    }

    fn jobs(&self) -> Vec<Job> {
        self.driver.borrow().core.jobs().to_vec()
    }

    fn wait_job(self: Rc<Self>, id: u64) -> Answer<Job> {
        async move {
            let changed = Rc::clone(&self.driver.borrow().changed);
            loop {
                let found = self.driver.borrow().core.jobs().iter().find(|job| job.id == id).cloned();
                match found {
                    None => {
                        let why = format!("there is no job {id}, or it is long over");
                        return Err(Problem::new("job.unknown", "waiting for a job", why, "see 'jobs'"));
                    }
                    Some(job) if !job.state.is_open() => return Ok(job),
                    Some(_) => changed.notified().await,
                }
            }
        }
        .boxed_local()
    }

    fn events(&self, after: u64) -> Result<EventPage, Problem> {
        let driver = self.driver.borrow();
        match driver.log.read(after, PAGE_EVENTS) {
            Ok(events) => Ok(EventPage { events, last: driver.log.last() }),
            Err(error) => Err(Problem::new("vm.events", "the event log", error.to_string(), "report it")),
        }
    }

    fn wait_event(self: Rc<Self>, after: u64) -> LocalBoxFuture<'static, ()> {
        async move {
            let changed = Rc::clone(&self.driver.borrow().changed);
            while self.driver.borrow().log.last() <= after {
                changed.notified().await;
            }
        }
        .boxed_local()
    }

    fn wait_status(self: Rc<Self>, status: Status) -> Answer<RunState> {
        async move {
            let changed = Rc::clone(&self.driver.borrow().changed);
            loop {
                let (state, ending) = {
                    let driver = self.driver.borrow();
                    (driver.core.state(), driver.core.ending().map(|ending| ending.reason.clone()))
                };
                match ending {
                    _ if state.status == status => return Ok(state),
                    Some(reason) if !matches!(status, Status::Stopping | Status::Ended) => {
                        let why = format!("the VM is ending: {reason}");
                        return Err(Problem::new("vm.ending", &format!("waiting for '{status}'"), why, ""));
                    }
                    _ => changed.notified().await,
                }
            }
        }
        .boxed_local()
    }
}
