//! The setup message as plain data: everything that the supervisor sent is checked and copied out here.

use std::os::fd::OwnedFd;

use state::{Left, StateError};
use wire::islet_capnp::{failure, load, serial_setup, setup};

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
    /// A message that cannot be meant; a defect of whoever sent it.
    pub fn message(why: impl std::fmt::Display) -> Self {
        let remedy = "supervisor and serial port must be of the same release";
        Self { what: "a message to the serial port", why: why.to_string(), remedy, code: "serial.message" }
    }

    /// The window area cannot be served.
    pub fn window(why: impl std::fmt::Display) -> Self {
        let remedy = "reset the machine; if it comes back, report it";
        Self { what: "the serial port's window", why: why.to_string(), remedy, code: "serial.window" }
    }

    /// The process could not lock itself down.
    pub fn sandbox(why: impl std::fmt::Display) -> Self {
        let remedy = "run 'atoll doctor' to see what this host lacks";
        Self { what: "the serial port's sandbox", why: why.to_string(), remedy, code: "serial.sandbox" }
    }

    /// A state that is not taken, or cannot be left.
    pub fn refused(error: &StateError) -> Self {
        let remedy =
            "the port is as it was; use a state that 'atoll state check' finds whole, and the version that wrote it";
        let why = error.to_string().chars().take(MAX_QUOTE).collect();
        Self { what: "the serial port's saved state", why, remedy, code: "state.refused" }
    }

    /// There is no area for states.
    pub fn no_state() -> Self {
        let why = "the port was set up without a descriptor 'state'".to_owned();
        let remedy = "start the VM anew with a supervisor of this release";
        Self { what: "the serial port's saved state", why, remedy, code: "state.none" }
    }

    /// A running port has no state that could be saved or replaced.
    pub fn running() -> Self {
        let why = "the port is running".to_owned();
        Self { what: "the serial port's saved state", why, remedy: "pause it first", code: "state.running" }
    }

    /// Fills a message.
    pub fn write(&self, mut to: failure::Builder<'_>) {
        to.set_what(self.what);
        to.set_why(&self.why);
        to.set_remedy(self.remedy);
        to.set_code(self.code);
    }
}

/// Which console, by descriptor name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleOrder {
    /// None, or one that will be attached later.
    None,
    /// A connected stream socket.
    Stream(String),
    /// A regular file.
    File(String),
}

/// What `Setup` asks of a serial port.
#[derive(Debug)]
pub struct Order {
    /// Row of the status memfd.
    pub status_row: u16,
    /// Area of the windows memfd.
    pub area: u16,
    /// The console.
    pub console: ConsoleOrder,
    /// Row of the state memfd; means nothing without a descriptor of it.
    pub state_row: u16,
    /// This process's name.
    pub name: String,
    /// Machine version.
    pub machine: String,
    names: Vec<(String, usize)>,
}

impl Order {
    /// Reads a setup message.
    ///
    /// # Errors
    /// What is malformed, or that the message is for another kind of process.
    pub fn read(setup: setup::Reader<'_>) -> Result<Self, Problem> {
        let setup::role::Serial(role) = setup.get_role().which().map_err(Problem::message)? else {
            return Err(Problem::message("the setup is for another kind of process"));
        };
        let role = role.map_err(Problem::message)?;
        let mut names = Vec::new();
        for named in setup.get_descriptors().map_err(Problem::message)? {
            names.push((text(named.get_name())?, usize::from(named.get_index())));
        }
        let console = match role.get_console().which().map_err(Problem::message)? {
            serial_setup::console::None(()) => ConsoleOrder::None,
            serial_setup::console::Stream(name) => match text(name)? {
                name if name.is_empty() => ConsoleOrder::None,
                name => ConsoleOrder::Stream(name),
            },
            serial_setup::console::File(name) => ConsoleOrder::File(text(name)?),
        };
        Ok(Self {
            status_row: setup.get_status_slot(),
            area: role.get_area(),
            console,
            state_row: setup.get_state_row(),
            name: text(setup.get_name())?,
            machine: text(setup.get_machine())?,
            names,
        })
    }

    /// Whether a descriptor of this name came with the setup.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known == name)
    }

    /// Takes the descriptor called `name` out of those that came with the message.
    ///
    /// # Errors
    /// It is not there, or was taken before.
    pub fn take(&self, name: &str, received: &mut [Option<OwnedFd>]) -> Result<OwnedFd, Problem> {
        let index = self.names.iter().find(|(known, _)| known == name).map(|(_, index)| *index);
        let descriptor = index.and_then(|index| received.get_mut(index)).and_then(Option::take);
        descriptor.ok_or_else(|| Problem::message(format!("there is no descriptor '{name}' with the setup")))
    }
}

/// Where the state lies that a port is to take.
///
/// # Errors
/// A digest that is none.
pub fn read_load(load: capnp::Result<load::Reader<'_>>) -> Result<Left, Problem> {
    let load = load.map_err(Problem::message)?;
    let digest = load.get_digest().map_err(Problem::message)?;
    let digest = digest.try_into().map_err(|_| Problem::message("a digest has 32 bytes"))?;
    Ok(Left { length: load.get_length(), digest })
}

fn text(field: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, Problem> {
    let text = field.map_err(Problem::message)?;
    text.to_str().map(str::to_owned).map_err(Problem::message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::Builder;
    use wire::islet_capnp::to_islet;

    fn order(change: impl FnOnce(setup::Builder<'_>)) -> Result<Order, Problem> {
        let mut message = Builder::new_default();
        let mut setup = message.init_root::<to_islet::Builder<'_>>().init_setup();
        setup.set_status_slot(4);
        let mut list = setup.reborrow().init_descriptors(2);
        for (index, name) in ["kick", "windows"].into_iter().enumerate() {
            let mut named = list.reborrow().get(index as u32);
            named.set_name(name);
            named.set_index(index as u16);
        }
        setup.reborrow().init_role().init_serial().set_area(3);
        change(setup);
        let root = message.get_root_as_reader::<to_islet::Reader<'_>>().unwrap();
        let Ok(to_islet::Setup(Ok(setup))) = root.which() else { panic!() };
        Order::read(setup)
    }

    fn console(change: fn(serial_setup::console::Builder<'_>)) -> ConsoleOrder {
        let with = |setup: setup::Builder<'_>| change(setup.init_role().init_serial().init_console());
        order(with).unwrap().console
    }

    #[test]
    fn an_order_is_read_and_its_descriptors_are_taken_once() {
        let order = order(|_| ()).unwrap();
        assert_eq!((order.status_row, order.area, &order.console), (4, 3, &ConsoleOrder::None));
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let mut received = [Some(null()), None];
        assert!(order.take("kick", &mut received).is_ok());
        for name in ["kick", "windows", "irq"] {
            let error = order.take(name, &mut received).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("[serial.message]"), "{error}");
        }
    }

    #[test]
    fn consoles_have_three_kinds() {
        assert_eq!(console(|mut c| c.set_stream("console")), ConsoleOrder::Stream("console".into()));
        assert_eq!(console(|mut c| c.set_stream("")), ConsoleOrder::None);
        assert_eq!(console(|mut c| c.set_file("log")), ConsoleOrder::File("log".into()));
        assert_eq!(console(|mut c| c.set_none(())), ConsoleOrder::None);
    }

    #[test]
    fn an_order_for_somebody_else_is_refused() {
        let error = order(|s| s.init_role().init_board().set_area(1)).unwrap_err();
        assert!(error.to_string().contains("another kind of process"), "{error}");
    }
}
