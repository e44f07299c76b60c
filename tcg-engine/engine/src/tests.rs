//! A machine in memory, for the tests of this process: no devices, no threads.

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use wire::engine_capnp::Tier;

use doorbell::{
    Answer, Device, DeviceArea, DeviceClient, EventFd, Header, Operation, Role, Server, SpinPolicy, create_windows,
};
use guest_memory::{Access, Arrangement, DirtyLayout, DirtyLog, Layout, Memfd, PAGE_SIZE, Ram};
use guest_x86::state::{attr, cr0};
use guest_x86::{Cpu, Seg, Segment};
use ir::Regs;
use mem::{MIRROR, Mirror};
use state::{MEMFD_BYTES, StateArea};
use vcpu_devices::Inbox;

use crate::bus::VcpuBus;
use crate::harvest::Harvests;
use crate::irq::{Bells, Line};
use crate::machine::{Machine, VcpuCounters};
use crate::orders::Orders;
use crate::park::Gate;
use crate::vcpu::Vcpu;
use crate::{Engine, Identity};

/// Bytes of RAM.
pub const RAM: u64 = 4 << 20;

/// Its RAM.
pub fn memory() -> mem::Memory {
    memory_of(&Memfd::create("ram", RAM).unwrap())
}

fn memory_of(ram: &OwnedFd) -> mem::Memory {
    let dirty = Memfd::create("dirty", DirtyLayout::new(RAM).len).unwrap();
    DirtyLog::format(dirty.as_fd(), RAM).unwrap();
    mem::Memory::new(
        Ram::map(ram.as_fd(), RAM, Access::ReadWrite).unwrap(),
        Layout::pc(RAM).unwrap(),
        DirtyLog::map(dirty.as_fd(), RAM).unwrap(),
    )
}

/// The board's side of a machine.
pub struct Board {
    header: Header,
    windows: OwnedFd,
    ram: Arc<OwnedFd>,
}

impl Deref for Board {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

impl Board {
    /// A mirror of the machine's RAM, for a vCPU.
    pub fn mirror(&self) -> Mirror {
        Mirror::new(Arrangement::new(self.ram.clone(), RAM, MIRROR).unwrap(), 1 << 10)
    }

    /// Answer one interrupt-acknowledge cycle with `vector`, from another thread.
    pub fn acknowledge(&self, vector: u8) -> JoinHandle<()> {
        let area = DeviceArea::map(self.windows.as_fd(), 0).unwrap();
        std::thread::spawn(move || {
            let mut server = Server::attach(area, 1, 0u64).unwrap().0;
            while server.serve(&mut Pic(vector)).requests == 0 {
                std::thread::yield_now();
            }
        })
    }
}

struct Pic(u8);

impl Device for Pic {
    type State = u64;

    fn access(&mut self, _: &mut u64, access: &doorbell::Access) -> Answer {
        assert_eq!(access.operation, Operation::InterruptAcknowledge);
        Answer::Done(self.0.into())
    }

    fn publish(&mut self, _: &u64, _: &DeviceArea) {}
}

/// The machine with one vCPU, and its board.
pub fn machine() -> (Arc<Machine>, Board) {
    machine_of(1)
}

/// The same with `vcpus`.
pub fn machine_of(vcpus: usize) -> (Arc<Machine>, Board) {
    let windows = create_windows().unwrap();
    let header = Arc::new(Header::map(windows.as_fd(), Role::Engine).unwrap());
    let area = DeviceArea::map(windows.as_fd(), 0).unwrap();
    let board = Arc::new(DeviceClient::new(area, EventFd::new().unwrap(), 0, SpinPolicy::Block));
    let list = doorbell::board::windows(machine_model::MachineVersion::Q35_0.machine(), 0);
    let ram = Arc::new(Memfd::create("ram", RAM).unwrap());
    let machine = Machine {
        memory: Arc::new(memory_of(&ram)),
        windows: doorbell::Bus::new(header.clone(), list, std::slice::from_ref(&board)).unwrap(),
        header,
        clients: vec![board.clone()],
        board,
        model: cpu_model::by_name("atoll-v2").unwrap(),
        inboxes: (0..vcpus).map(|_| Inbox::default()).collect(),
        counters: (0..vcpus).map(|_| VcpuCounters::default()).collect(),
        huge_pages: 0.into(),
        gate: Gate::new(vcpus),
        orders: Orders::new(vcpus),
        delivery: Mutex::default(),
    };
    let header = Header::map(windows.as_fd(), Role::Board).unwrap();
    (Arc::new(machine), Board { header, windows, ram })
}

/// Lines of an [`engine`].
pub const LINES: [usize; 2] = [4, 5];

/// An engine around a [`machine`], without threads, and its board.
pub fn engine() -> (Engine, Board) {
    let (machine, board) = machine();
    let memfd = Memfd::create("state", MEMFD_BYTES).unwrap();
    let area = Some(StateArea::map(memfd.as_fd(), 0).unwrap());
    let lines = LINES.map(|number| Line { number, bell: EventFd::new().unwrap() }).into();
    let engine = Engine {
        vcpus: vec![Arc::new(Mutex::new(Vcpu::new(&machine, 0)))],
        machine,
        bells: Arc::new(Bells { lines, notify: EventFd::new().unwrap(), beat: false.into() }),
        identity: Identity { name: "engine".to_owned(), machine: "q35-0".to_owned(), area },
        on_demand: false,
        tier: Tier::Interpreted,
        harvests: Harvests::default(),
    };
    (engine, board)
}

/// Flat 32-bit code at `pc`, privilege level 0, without paging.
pub fn flat(cpu: &mut Cpu<VcpuBus>, regs: &mut Regs, pc: u64) {
    let segment = |selector, kind| {
        let attr = attr::P | attr::S | attr::G | attr::DB | kind;
        Segment { selector, attr, limit: u32::MAX, base: 0 }
    };
    cpu.sys.cr0 = cr0::PE | cr0::ET | cr0::NE;
    cpu.sys.seg = [segment(0x10, 3); 6];
    cpu.sys.seg[Seg::Cs as usize] = segment(8, 0xb);
    regs.set(ir::PC, pc);
    cpu.refresh(regs);
}

/// Harvests of a machine, and what they have copied: whoever has lost no page has all of RAM in the end.
pub struct Copied {
    machine: Arc<Machine>,
    harvests: Harvests,
    bytes: Vec<u8>,
}

impl Copied {
    /// Of a machine that runs, or does not yet.
    pub fn new(machine: &Arc<Machine>) -> Copied {
        let harvests = Harvests::default();
        harvests.start(machine, false).unwrap();
        Copied { machine: machine.clone(), harvests, bytes: vec![0; RAM as usize] }
    }

    /// Once more.
    pub fn round(&mut self) {
        self.harvests.round(&self.machine, false).unwrap();
        let memory = &self.machine.memory;
        for (first, bits) in memory.marks.harvested() {
            for at in (0..64).filter(|n| bits >> n & 1 != 0).map(|n| first + n * PAGE_SIZE) {
                memory.ram.read(at, &mut self.bytes[at as usize..][..PAGE_SIZE as usize]).unwrap();
            }
            memory.marks.copied(first, bits);
        }
    }

    /// The pages that are lost, behind a last round. No vCPU may run.
    pub fn lost(&mut self) -> Vec<u64> {
        self.round();
        let mut ram = vec![0; self.bytes.len()];
        self.machine.memory.ram.read(0, &mut ram).unwrap();
        let (page, both) = (PAGE_SIZE as usize, self.bytes.iter().zip(&ram));
        let mut lost: Vec<_> = both.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at / page * page).collect();
        lost.dedup();
        lost.into_iter().map(|at| at as u64).collect()
    }
}
