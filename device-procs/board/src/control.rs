//! The board's control messages: what it is asked ([`Order`], [`Command`]) and what it answers and reports ([`Say`]).
//!
//! The one idea: everything another process sent is checked and copied out here, so that the rest of the process sees
//! plain data. Schema: islet.capnp.

use machine_model::{Machine, MachineVersion};
use state::{Left, StateError};
use wire::islet_capnp::{from_islet, load, setup, to_islet};

use crate::chipset::Event;
use crate::serve::Counts;

/// The longest text of another process that is repeated in a message.
const MAX_QUOTE: usize = 200;

/// Something that went wrong, in the four parts that a `Failure` has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What failed.
    pub what: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub remedy: &'static str,
    /// A stable code.
    pub code: &'static str,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {} [{}]", self.what, self.why, self.remedy, self.code)
    }
}

impl Problem {
    /// A setup that cannot be meant; a defect of whoever sent it.
    pub fn setup(why: impl std::fmt::Display) -> Self {
        let remedy = "supervisor and board must be of the same release";
        Self { what: "the board's setup", why: quote(&why.to_string()), remedy, code: "board.setup" }
    }

    /// Lock-down failed; the process must not run.
    pub fn sandbox(why: impl std::fmt::Display) -> Self {
        let remedy = "run 'atoll doctor' to see what this host lacks";
        Self { what: "the board's sandbox", why: why.to_string(), remedy, code: "board.sandbox" }
    }

    /// Shared memory or a descriptor does not do what it must.
    pub fn shared(why: impl std::fmt::Display) -> Self {
        let remedy = "processes of one VM must be of the same release; start the VM anew";
        Self { what: "what the board shares with the engine", why: why.to_string(), remedy, code: "board.shared" }
    }

    /// A state that is not taken, or cannot be left.
    pub fn refused(error: &StateError) -> Self {
        let remedy =
            "the board is as it was; use a state that 'atoll state check' finds whole, and the version that wrote it";
        Self { what: "the board's saved state", why: quote(&error.to_string()), remedy, code: "state.refused" }
    }

    /// There is no area for states.
    pub fn no_state() -> Self {
        let why = "the board was set up without a descriptor 'state'".to_owned();
        let remedy = "start the VM anew with a supervisor of this release";
        Self { what: "the board's saved state", why, remedy, code: "state.none" }
    }

    /// A running board has no state that could be saved or replaced.
    pub fn running() -> Self {
        let why = "the board is running".to_owned();
        Self { what: "the board's saved state", why, remedy: "pause it first", code: "state.running" }
    }

    /// A wake of a machine that is not suspended.
    pub fn awake() -> Self {
        let why = "the guest is not suspended".to_owned();
        let remedy = "wake it only after it has gone to sleep";
        Self { what: "waking the machine", why, remedy, code: "s3.awake" }
    }

    /// A request that a board does not have.
    pub fn unsupported(why: impl std::fmt::Display) -> Self {
        let remedy = "send it to the process that has it";
        Self { what: "a request to the board", why: quote(&why.to_string()), remedy, code: "board.unsupported" }
    }
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

/// What `Setup` says to a board.
#[derive(Clone, Debug)]
pub struct Order {
    /// Row of the status memfd.
    pub status_row: usize,
    /// Area of the windows memfd.
    pub area: u16,
    /// UTC (seconds since 1970) at guest time zero.
    pub wall_seconds: i64,
    /// The machine.
    pub machine: &'static Machine,
    /// Row of the state memfd; means nothing without a descriptor of it.
    pub state_row: u16,
    /// Names and positions of the descriptors in the datagram.
    pub descriptors: Vec<(String, usize)>,
}

impl Order {
    /// Reads a setup message.
    ///
    /// # Errors
    /// What is missing or wrong in it.
    pub fn read(setup: setup::Reader<'_>) -> Result<Self, Problem> {
        let text = |field: capnp::Result<capnp::text::Reader<'_>>| -> Result<String, Problem> {
            field.map_err(Problem::setup)?.to_str().map(str::to_owned).map_err(Problem::setup)
        };
        let setup::role::Board(role) = setup.get_role().which().map_err(Problem::setup)? else {
            return Err(Problem::setup("it is for another kind of process"));
        };
        let role = role.map_err(Problem::setup)?;
        let mut descriptors = Vec::new();
        for named in setup.get_descriptors().map_err(Problem::setup)? {
            descriptors.push((text(named.get_name())?, usize::from(named.get_index())));
        }
        let version = MachineVersion::by_name(&text(setup.get_machine())?).map_err(Problem::setup)?;
        Ok(Self {
            status_row: usize::from(setup.get_status_slot()),
            area: role.get_area(),
            wall_seconds: role.get_wall_clock_seconds(),
            machine: version.machine(),
            state_row: setup.get_state_row(),
            descriptors,
        })
    }

    /// Whether a descriptor of this name came with the setup.
    pub fn has(&self, name: &str) -> bool {
        self.descriptors.iter().any(|(known, _)| known == name)
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run,
    /// Stand still.
    Pause,
    /// To the state after power-on, except the date.
    Reset,
    /// Show that it goes on.
    Ping,
    /// Report counters.
    Statistics,
    /// End the process.
    Quit,
    /// Someone pressed the power button.
    PowerButton,
    /// Leave the state as of this machine version.
    Save(String),
    /// Take this state.
    Load(Left),
    /// Leave S3.
    Wake,
}

fn read_load(load: capnp::Result<load::Reader<'_>>) -> Result<Command, Problem> {
    let load = load.map_err(Problem::unsupported)?;
    let digest = load.get_digest().map_err(Problem::unsupported)?;
    let digest = digest.try_into().map_err(|_| Problem::unsupported("a digest has 32 bytes"))?;
    Ok(Command::Load(Left { length: load.get_length(), digest }))
}

fn read_save(machine: capnp::Result<capnp::text::Reader<'_>>) -> Result<Command, Problem> {
    let machine = machine.map_err(Problem::unsupported)?.to_str().map_err(Problem::unsupported)?;
    Ok(Command::Save(quote(machine)))
}

/// Reads a request to a board of this `incarnation`. `Ok(None)`: it is for another incarnation and is dropped. The id is
/// 0 if the message is too broken to have one.
///
/// # Errors
/// A message that cannot be read, or a request that a board does not have.
pub fn read_command(
    root: capnp::Result<to_islet::Reader<'_>>,
    incarnation: u32,
) -> (u64, Result<Option<Command>, Problem>) {
    let message = match root {
        Ok(message) => message,
        Err(error) => return (0, Err(Problem::unsupported(error))),
    };
    let id = message.get_id();
    if message.get_incarnation() != incarnation {
        return (id, Ok(None));
    }
    let command = match message.which() {
        Ok(to_islet::Run(())) => Ok(Command::Run),
        Ok(to_islet::Pause(())) => Ok(Command::Pause),
        Ok(to_islet::Reset(())) => Ok(Command::Reset),
        Ok(to_islet::Ping(_)) => Ok(Command::Ping),
        Ok(to_islet::Statistics(())) => Ok(Command::Statistics),
        Ok(to_islet::Quit(())) => Ok(Command::Quit),
        Ok(to_islet::PowerButton(())) => Ok(Command::PowerButton),
        Ok(to_islet::Save(machine)) => read_save(machine),
        Ok(to_islet::Load(load)) => read_load(load),
        Ok(to_islet::Wake(())) => Ok(Command::Wake),
        Ok(to_islet::Setup(_)) => Err(Problem::unsupported("it was set up before")),
        Ok(_) => Err(Problem::unsupported("a board does not have it")),
        Err(error) => Err(Problem::unsupported(error)),
    };
    (id, command.map(Some))
}

/// What the board says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// Locked down.
    Ready,
    /// The request is carried out.
    Done,
    /// It is not.
    Failed(Problem),
    /// Counters.
    Statistics(Counts),
    /// The guest asked for the end of its run.
    Guest(Event),
    /// A rule of a shared layout was broken.
    Attack(&'static str),
    /// The state lies in the state area.
    Saved(Left),
}

impl Say {
    /// Fills a message of `incarnation`, in reply to request `id` (0: an event).
    pub fn write(&self, mut to: from_islet::Builder<'_>, id: u64, incarnation: u32) {
        to.set_in_reply_to(id);
        to.set_incarnation(incarnation);
        match self {
            Say::Ready => to.set_ready(()),
            Say::Done => to.set_done(()),
            Say::Failed(problem) => {
                let mut failed = to.init_failed();
                failed.set_what(problem.what);
                failed.set_why(&problem.why);
                failed.set_remedy(problem.remedy);
                failed.set_code(problem.code);
            }
            Say::Statistics(counts) => {
                let rows = [
                    ("accesses", counts.accesses),
                    ("interrupt-acknowledges", counts.acknowledges),
                    ("lines-forwarded", counts.forwarded),
                    ("level-interrupts-ended", counts.ended),
                    ("messages-sent", counts.messages),
                    ("intr-changes", counts.intr_changes),
                ];
                let mut list = to.init_statistics().init_counters(rows.len() as u32);
                for (index, (name, value)) in (0..).zip(rows) {
                    let mut row = list.reborrow().get(index);
                    row.set_name(name);
                    row.set_value(value);
                }
            }
            Say::Guest(Event::PowerOff) => to.set_guest_power_off(()),
            Say::Guest(Event::Reset) => to.set_guest_reset(()),
            Say::Guest(Event::DebugExit(value)) => to.set_debug_exit(*value),
            Say::Guest(Event::Suspend) => to.set_guest_suspend(()),
            Say::Guest(Event::Wake(cause)) => to.set_guest_wake(cause.name()),
            Say::Attack(what) => to.set_attack(*what),
            Say::Saved(left) => {
                let mut saved = to.init_saved();
                saved.set_length(left.length);
                saved.set_digest(&left.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::{Builder, HeapAllocator};

    fn setup_message(fill: impl FnOnce(setup::Builder<'_>)) -> Result<Order, Problem> {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        fill(message.init_root::<setup::Builder<'_>>());
        Order::read(message.get_root_as_reader().unwrap())
    }

    #[test]
    fn a_setup_is_read() {
        let order = setup_message(|mut setup| {
            setup.set_machine("q35-0");
            setup.set_status_slot(5);
            let mut named = setup.reborrow().init_descriptors(1);
            named.reborrow().get(0).set_name("windows");
            named.reborrow().get(0).set_index(3);
            let mut board = setup.init_role().init_board();
            board.set_area(2);
            board.set_wall_clock_seconds(-7);
        })
        .unwrap();
        assert_eq!((order.status_row, order.area, order.wall_seconds, order.machine.name), (5, 2, -7, "q35-0"));
        assert_eq!(order.descriptors, [("windows".to_owned(), 3)]);
    }

    #[test]
    fn a_setup_that_cannot_be_meant_is_refused() {
        let other = setup_message(|setup| {
            setup.init_role().init_serial();
        });
        assert!(other.unwrap_err().why.contains("another kind"));
        let machine = setup_message(|mut setup| {
            setup.set_machine("pc-1.0".repeat(100).as_str());
            setup.init_role().init_board();
        });
        let problem = machine.unwrap_err();
        assert!(problem.why.contains("unknown machine") && problem.why.len() <= MAX_QUOTE, "{problem}");
    }

    fn command(incarnation: u32, fill: impl FnOnce(to_islet::Builder<'_>)) -> (u64, Result<Option<Command>, Problem>) {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(77);
        root.set_incarnation(4);
        fill(root);
        read_command(message.get_root_as_reader(), incarnation)
    }

    #[test]
    fn commands_are_read_and_those_of_another_incarnation_dropped() {
        assert_eq!(command(4, |mut m| m.set_run(())), (77, Ok(Some(Command::Run))));
        assert_eq!(command(4, |mut m| m.set_power_button(())), (77, Ok(Some(Command::PowerButton))));
        assert_eq!(command(5, |mut m| m.set_quit(())), (77, Ok(None)));
        let (id, answer) = command(4, |mut m| m.set_attach_console("x"));
        assert_eq!((id, answer.unwrap_err().code), (77, "board.unsupported"));
    }

    #[test]
    fn events_and_counters_are_written() {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        Say::Guest(Event::DebugExit(0x42)).write(message.init_root(), 0, 9);
        let reader: from_islet::Reader<'_> = message.get_root_as_reader().unwrap();
        assert!(matches!(reader.which(), Ok(from_islet::DebugExit(0x42))));
        assert_eq!((reader.get_in_reply_to(), reader.get_incarnation()), (0, 9));

        let mut message: Builder<HeapAllocator> = Builder::new_default();
        Say::Statistics(Counts { accesses: 12, ..Counts::default() }).write(message.init_root(), 3, 9);
        let reader: from_islet::Reader<'_> = message.get_root_as_reader().unwrap();
        let Ok(from_islet::Statistics(Ok(statistics))) = reader.which() else { panic!("statistics") };
        let counters = statistics.get_counters().unwrap();
        assert_eq!((counters.len(), counters.get(0).get_value()), (6, 12));
    }
}
