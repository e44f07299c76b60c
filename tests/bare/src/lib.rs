//! A virtual machine without keeper and supervisor: a test drives engine, board, serial port and loader by their messages.
//!
//! It shows that the contracts of the islets stand by themselves, and gives a debugger a VM whose every step is one call.
//! The processes are the real binaries, locked down as always; only the namespaces are those of `spawn::keeper`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use doorbell::{EventFd, ReadRule, Space, WindowDesc, WindowKind, WriteRule, create_windows};
use enter::status::STATUS_PAGE_SIZE;
use guest_memory::{DirtyLayout, DirtyLog, Layout, Memfd};
use link::capnp::{Scratch, recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use machine_model::{Machine, MachineVersion};
use spawn::{Child, Command, Image};
use state::Left;
use wire::engine_capnp::{AddressSpace, engine_setup, register_window};
use wire::islet_capnp::{from_islet, setup, to_islet};
use wire::state_capnp::vcpu_state;

/// Area of the board in the windows memfd.
const BOARD: u16 = 0;
/// Area of the serial port.
const SERIAL: u16 = 1;
/// Messages are sent to this incarnation.
const INCARNATION: u32 = 1;
/// For a process to answer.
const PATIENCE: Duration = Duration::from_secs(60);

pub mod solo;

/// What to boot.
pub struct Guest<'a> {
    /// Kernel file.
    pub kernel: &'a Path,
    /// Initrd file.
    pub initrd: Option<&'a Path>,
    /// Command line.
    pub command_line: &'a str,
    /// Bytes of RAM.
    pub memory: u64,
}

/// One islet and its control socket.
pub struct Islet {
    /// The process.
    pub child: Child,
    /// Its control socket.
    pub link: Link,
    /// Descriptors that came with its last message.
    pub received: Vec<OwnedFd>,
    /// What it said to its setup.
    pub ready: Said,
    inbox: Inbox,
    next: u64,
}

/// What an islet says that a test looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Locked down.
    Ready,
    /// A request is done.
    Done,
    /// Locked down, with a userfaultfd over this mapping of RAM: address and length.
    ReadyWithFaults(u64, u64),
    /// It has left its state.
    Saved(Left),
    /// It failed: code, what and why.
    Failed(String),
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest went to sleep.
    Suspend,
    /// The guest wrote this value to the debug exit port.
    DebugExit(u32),
    /// A triple fault.
    TripleFault,
    /// The loader has loaded; the bytes are the whole message.
    Loaded(Vec<u8>),
    /// Counters by name, an engine's also by name and vCPU; registers as `window+offset r|w`.
    Counters(BTreeMap<String, u64>),
    /// Memory was harvested: the number.
    Harvest(u64),
    /// Something else.
    Other,
}

impl Islet {
    fn start(
        name: &str,
        descriptors: &[(String, BorrowedFd<'_>)],
        fill: impl FnOnce(setup::Builder<'_>),
    ) -> Result<Islet> {
        let image = Image::open(binary(name)?)?;
        let (link, theirs) = Link::pair(Peer::new("test", 1), Peer::new(name, INCARNATION))?;
        let log = std::io::stderr();
        let child = spawn::keeper(&Command::new(name, &image).log(log.as_fd()).control(theirs.as_fd()))?;
        let mut islet = Islet { child, link, received: Vec::new(), ready: Said::Other, inbox: Inbox::new(), next: 2 };
        let mut scratch = Scratch::new(32 << 10);
        let mut message = scratch.builder();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(1);
        root.set_incarnation(INCARNATION);
        let mut setup = root.init_setup();
        setup.set_name(name);
        let mut list = setup.reborrow().init_descriptors(descriptors.len() as u32);
        for (n, (name, _)) in descriptors.iter().enumerate() {
            list.reborrow().get(n as u32).set_name(name);
            list.reborrow().get(n as u32).set_index(n as u16);
        }
        fill(setup);
        let fds: Vec<_> = descriptors.iter().map(|(_, fd)| *fd).collect();
        send_message(&islet.link, &message, &fds, Deadline::after(PATIENCE))?;
        if name != "loader" {
            islet.ready = islet.hear(PATIENCE)?.1;
            if !matches!(islet.ready, Said::Ready | Said::ReadyWithFaults(..)) {
                bail!("{name} says {:?} to its setup", islet.ready);
            }
        }
        Ok(islet)
    }

    /// The next message and the request that it answers (0: an event).
    pub fn hear(&mut self, patience: Duration) -> Result<(u64, Said)> {
        let incoming = recv_message(&self.link, &mut self.inbox, Deadline::after(patience))?;
        self.received = std::mem::take(incoming.descriptors);
        let message: from_islet::Reader<'_> = incoming.reader.get_root()?;
        let said = match message.which()? {
            from_islet::Ready(()) => Said::Ready,
            from_islet::ReadyWithFaults(m) => {
                let m = m?;
                Said::ReadyWithFaults(m.get_base(), m.get_length())
            }
            from_islet::Saved(s) => {
                let s = s?;
                Said::Saved(Left { length: s.get_length(), digest: s.get_digest()?.try_into()? })
            }
            from_islet::Done(()) => Said::Done,
            from_islet::Failed(f) => {
                let f = f?;
                let (code, what, why) = (f.get_code()?.to_str()?, f.get_what()?.to_str()?, f.get_why()?.to_str()?);
                Said::Failed(format!("{code}: {what}: {why}"))
            }
            from_islet::GuestPowerOff(()) => Said::PowerOff,
            from_islet::GuestReset(()) => Said::Reset,
            from_islet::GuestSuspend(()) => Said::Suspend,
            from_islet::DebugExit(v) => Said::DebugExit(v),
            from_islet::TripleFault(_) => Said::TripleFault,
            from_islet::Loaded(l) => {
                let mut copy = capnp::message::Builder::new_default();
                copy.set_root(l?.get_entry()?)?;
                Said::Loaded(capnp::serialize::write_message_to_words(&copy))
            }
            from_islet::Statistics(s) => {
                let mut map = BTreeMap::new();
                for c in s?.get_counters()? {
                    map.insert(c.get_name()?.to_string()?, c.get_value());
                }
                Said::Counters(map)
            }
            from_islet::Engine(r) => engine_reply(r?)?,
            _ => Said::Other,
        };
        Ok((message.get_in_reply_to(), said))
    }

    /// Send a request and wait for its answer; events that come before it are handed to `event`.
    pub fn ask(&mut self, fill: impl FnOnce(to_islet::Builder<'_>), mut event: impl FnMut(Said)) -> Result<Said> {
        let id = self.next;
        self.next += 1;
        let mut scratch = Scratch::new(32 << 10);
        let mut message = scratch.builder();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(id);
        root.set_incarnation(INCARNATION);
        fill(root);
        send_message(&self.link, &message, &[], Deadline::after(PATIENCE))?;
        loop {
            match self.hear(PATIENCE)? {
                (n, said) if n == id => return Ok(said),
                (_, said) => event(said),
            }
        }
    }
}

impl Islet {
    /// Its counters.
    pub fn counters(&mut self) -> Result<BTreeMap<String, u64>> {
        match self.ask(|mut m| m.set_statistics(()), |_| ())? {
            Said::Counters(c) => Ok(c),
            other => bail!("{other:?} in place of statistics"),
        }
    }
}

fn engine_reply(r: wire::engine_capnp::engine_reply::Reader<'_>) -> Result<Said> {
    use wire::engine_capnp::engine_reply::Which;
    Ok(match r.which()? {
        Which::Done(()) => Said::Done,
        Which::Harvest(number) => Said::Harvest(number),
        Which::Unsupported(why) => Said::Failed(why?.to_string()?),
        Which::Statistics(s) => {
            let s = s?;
            let mut map = BTreeMap::new();
            map.insert("instructions".to_owned(), s.get_instructions());
            map.insert("run-ns".to_owned(), s.get_run_nanoseconds());
            for c in s.get_counters()? {
                let name = c.get_name()?.to_str()?;
                map.insert(name.to_owned(), c.get_value());
                for (vcpu, value) in c.get_per_vcpu()?.iter().enumerate() {
                    map.insert(format!("{name} {vcpu}"), value);
                }
            }
            for c in s.get_registers()? {
                let way = if c.get_write() { "w" } else { "r" };
                let name = format!("{}+{:#x} {way}", c.get_window()?.to_str()?, c.get_offset());
                map.insert(format!("sync {name}"), c.get_synchronous());
                map.insert(format!("local {name}"), c.get_local());
            }
            Said::Counters(map)
        }
        _ => Said::Other,
    })
}

/// The binary `name`, built beside the running test.
fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().find(|d| d.join(name).is_file());
    let folder = folder
        .with_context(|| format!("the binary '{name}' is not built: run './dev build' or cargo build --workspace"))?;
    Ok(folder.join(name))
}

/// The processes of a VM.
pub struct Vm {
    /// The engine.
    pub engine: Islet,
    /// The board.
    pub board: Islet,
    /// The serial port.
    pub serial: Islet,
    /// The other end of the console.
    pub console: UnixStream,
    kept: Kept,
}

/// What a VM keeps when its processes are replaced.
struct Kept {
    layout: Layout,
    memory: u64,
    ram: OwnedFd,
    state: OwnedFd,
    status: OwnedFd,
}

/// Rows of the status memfd and of the saved states.
mod row {
    pub const BOARD: u16 = 0;
    pub const SERIAL: u16 = 1;
    pub const ENGINE: u16 = 2;
    pub const LOADER: u16 = 3;
}

impl Kept {
    fn new(memory: u64) -> Result<Kept> {
        let layout = Layout::pc(memory)?;
        Ok(Kept {
            memory,
            ram: Memfd::create("ram", layout.ram_file_len())?,
            state: Memfd::create("state", state::MEMFD_BYTES)?,
            status: Memfd::create("status", 8 * STATUS_PAGE_SIZE as u64)?,
            layout,
        })
    }

    fn common(&self, mut s: setup::Builder<'_>, row: u16) {
        s.set_vm("bare");
        s.set_status_slot(row);
        s.set_state_row(row);
        s.set_machine(MachineVersion::Q35_0.machine().name);
        s.set_vcpus(1);
        s.set_memory_bytes(self.memory);
    }

    /// Start board, serial port and engine, with shared memory of their own.
    fn start(self) -> Result<Vm> {
        let machine = MachineVersion::Q35_0.machine();
        let dirty = Memfd::create("dirty", DirtyLayout::new(self.layout.ram_file_len()).len)?;
        DirtyLog::format(dirty.as_fd(), self.layout.ram_file_len())?;
        let windows = create_windows()?;
        let bell = EventFd::new;
        let (board_kick, serial_kick, notify, stale, irq) = (bell()?, bell()?, bell()?, bell()?, bell()?);
        let (console, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let common = [("windows", windows.as_fd()), ("status", self.status.as_fd()), ("state", self.state.as_fd())];
        let start = |name: &str, own: &[(&str, BorrowedFd<'_>)], fill: &dyn Fn(setup::Builder<'_>)| {
            let list: Vec<_> = common.iter().chain(own).map(|(n, fd)| ((*n).to_owned(), *fd)).collect();
            Islet::start(name, &list, fill)
        };
        let board = start("board", &[("kick", board_kick.as_fd()), ("notify", notify.as_fd())], &|mut s| {
            self.common(s.reborrow(), row::BOARD);
            s.set_name("board");
            let mut b = s.init_role().init_board();
            b.set_area(BOARD);
            b.set_wall_clock_seconds(1_790_000_000);
        })?;
        let serial_fds = [("kick", serial_kick.as_fd()), ("irq", irq.as_fd()), ("console", theirs.as_fd())];
        let serial = start("serial", &serial_fds, &|mut s| {
            self.common(s.reborrow(), row::SERIAL);
            s.set_name("serial0");
            let mut r = s.init_role().init_serial();
            r.set_area(SERIAL);
            r.set_line(4);
            r.init_console().set_stream("console");
        })?;
        let engine_fds = [
            ("ram", self.ram.as_fd()),
            ("dirty", dirty.as_fd()),
            ("kick-board", board_kick.as_fd()),
            ("kick-serial", serial_kick.as_fd()),
            ("notify", notify.as_fd()),
            ("stale", stale.as_fd()),
            ("irq4", irq.as_fd()),
        ];
        let engine = start("engine", &engine_fds, &|mut s| {
            self.common(s.reborrow(), row::ENGINE);
            engine_role(s.init_role().init_engine(), machine, &self.layout);
        })?;
        Ok(Vm { engine, board, serial, console, kept: self })
    }
}

impl Vm {
    /// Start every process, load the guest, and leave it ready to run.
    pub fn prepare(guest: &Guest<'_>) -> Result<Vm> {
        let mut vm = Kept::new(guest.memory)?.start()?;
        let kernel = std::fs::File::open(guest.kernel).with_context(|| format!("open {}", guest.kernel.display()))?;
        let initrd = guest.initrd.map(std::fs::File::open).transpose()?;
        let kept = &vm.kept;
        let mut files = vec![("ram", kept.ram.as_fd()), ("status", kept.status.as_fd()), ("kernel", kernel.as_fd())];
        if let Some(f) = &initrd {
            files.push(("initrd", f.as_fd()));
        }
        let files: Vec<_> = files.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect();
        let mut loader = Islet::start("loader", &files, |mut s| {
            kept.common(s.reborrow(), row::LOADER);
            let mut l = s.init_role().init_loader();
            l.set_kernel("kernel");
            l.set_kernel_name("kernel");
            l.set_initrd(if initrd.is_some() { "initrd" } else { "" });
            l.set_command_line(guest.command_line);
        })?;
        let words = loop {
            match loader.hear(PATIENCE)?.1 {
                Said::Loaded(words) => break words,
                Said::Ready => {}
                other => bail!("the loader says {other:?}"),
            }
        };
        let mut words = words.as_slice();
        let entry = capnp::serialize::read_message_from_flat_slice(&mut words, Default::default())?;
        let state: vcpu_state::Reader<'_> = entry.get_root()?;
        let mut copied = Ok(());
        let said = vm.engine.ask(|m| copied = m.init_engine().set_load_vcpu(state), |_| ())?;
        copied?;
        if said != Said::Done {
            bail!("the engine says {said:?} to the state of vCPU 0");
        }
        Ok(vm)
    }

    /// Put every process into a new one: pause, save, end, start, load. RAM stays. The guest does not run afterwards; what it had
    /// printed is left in the old console, which is returned, or comes out of the new one.
    pub fn hop(mut self) -> Result<(Vm, UnixStream)> {
        let mut left = Vec::new();
        for islet in [&mut self.engine, &mut self.board, &mut self.serial] {
            islet.must(|mut m| m.set_pause(()))?;
        }
        // In any order, and twice the same.
        for islet in [&mut self.engine, &mut self.board, &mut self.serial] {
            left.push(islet.save()?);
        }
        for (islet, first) in [&mut self.serial, &mut self.board, &mut self.engine].into_iter().zip(left.iter().rev()) {
            let again = islet.save()?;
            anyhow::ensure!(again == *first, "a process that stood still has another state");
        }
        let Vm { engine, board, serial, console, kept } = self;
        drop((engine, board, serial));
        let mut vm = kept.start()?;
        for (islet, left) in [&mut vm.engine, &mut vm.board, &mut vm.serial].into_iter().zip(&left) {
            islet.load(*left)?;
            let again = islet.save()?;
            anyhow::ensure!(again == *left, "a state that was loaded is saved as another one");
        }
        Ok((vm, console))
    }

    /// Let devices and vCPUs run.
    pub fn run(&mut self) -> Result<()> {
        for islet in [&mut self.board, &mut self.serial, &mut self.engine] {
            match islet.ask(|mut m| m.set_run(()), |_| ())? {
                Said::Done => {}
                other => bail!("to run: {other:?}"),
            }
        }
        Ok(())
    }

    /// The engine's counters.
    pub fn counters(&mut self) -> Result<BTreeMap<String, u64>> {
        self.engine.counters()
    }
}

fn engine_role(mut e: engine_setup::Builder<'_>, machine: &Machine, layout: &Layout) {
    e.set_cpu_model("atoll-v2");
    e.set_vcpus(1);
    e.set_ram_bytes(layout.ram_file_len());
    e.set_extint_device(BOARD);
    e.set_notify("notify");
    e.set_stale("stale");
    let mut list = e.reborrow().init_memory(layout.regions().len() as u32);
    for (n, r) in layout.regions().iter().enumerate() {
        let mut m = list.reborrow().get(n as u32);
        m.set_guest_address(r.base);
        m.set_length(r.len);
        m.set_offset(r.offset);
        m.set_descriptor("ram");
        m.init_kind().set_ram(());
    }
    let mut windows = doorbell::board::windows(machine, BOARD);
    windows.push(doorbell::uart::window("serial0", machine.ports.serial[0].ports.start, SERIAL));
    let mut list = e.reborrow().init_windows(windows.len() as u32);
    for (n, w) in windows.iter().enumerate() {
        write_window(list.reborrow().get(n as u32), w);
    }
    let mut route = e.init_routes(1).get(0);
    route.set_line(4);
    route.set_descriptor("irq4");
    route.init_target().init_pin().set_pin(4);
}

fn write_window(mut to: register_window::Builder<'_>, w: &WindowDesc) {
    to.set_name(&w.name);
    to.set_space(if w.space == Space::Port { AddressSpace::Port } else { AddressSpace::Memory });
    to.set_base(w.base);
    to.set_length(w.len);
    to.set_device(w.device);
    to.set_kick(if w.device == BOARD { "kick-board" } else { "kick-serial" });
    let mut kind = to.init_kind();
    match &w.kind {
        WindowKind::PciIndexData => kind.set_pci_index_data(()),
        WindowKind::PciEcam => kind.set_pci_ecam(()),
        WindowKind::Registers(list) => {
            let mut out = kind.init_registers(list.len() as u32);
            for (n, b) in list.iter().enumerate() {
                let mut r = out.reborrow().get(n as u32);
                r.set_offset(b.offset);
                r.set_length(b.length);
                let mut read = r.reborrow().init_read();
                match b.read {
                    ReadRule::Synchronous => read.set_synchronous(()),
                    ReadRule::Shadow(c) => read.set_shadow(c),
                    ReadRule::Formula(f) => read.set_formula(f),
                    ReadRule::Constant(v) => read.set_constant(v),
                }
                let mut write = r.init_write();
                match b.write {
                    WriteRule::Synchronous => write.set_synchronous(()),
                    WriteRule::Posted(m) => write.set_posted(m),
                    WriteRule::Ignored => write.set_ignored(()),
                }
            }
        }
    }
}
