"""What a client in Python needs to talk to a VM: the schema as it is committed, a connection, and parcels of descriptors.

The idea: nothing here knows more than the schema and what it says of the two sockets in a VM's directory, so this is also the
shortest description of how to write a client in another language.
"""

import array
import asyncio
import os
import socket
import time

import capnp

# After it something hangs, and a test fails.
SOON = 60

SCHEMA = os.environ["ATOLL_SCHEMA"]
control = capnp.load(os.path.join(SCHEMA, "control.capnp"))


class Connection:
    """A connection to the control socket of the VM in `folder`; `vm` is its bootstrap interface."""

    def __init__(self, stream):
        self._client = capnp.TwoPartyClient(stream, traversal_limit_in_words=1 << 20, nesting_limit=16)
        self.vm = self._client.bootstrap().cast_as(control.Vm)

    @classmethod
    async def open(cls, folder):
        path = os.path.join(folder, "control")
        return cls(await soon(capnp.AsyncIoStream.create_unix_connection(path)))

    def close(self):
        self._client.close()


async def soon(awaitable):
    """What `awaitable` gives, if it gives it in time."""
    return await asyncio.wait_for(awaitable, SOON)


async def good(call):
    """The answer of a call, which must bring no problem."""
    answer = await soon(call)
    assert not answer.problem.code, f"{answer.problem}"
    return answer


async def refused(call, code):
    """The problem of a call, which must have this code and say something to people."""
    problem = (await soon(call)).problem
    assert problem.code == code, f"{problem} is not {code}"
    assert problem.what and problem.why, f"{problem}"
    return problem


async def status(vm):
    """The run state of a VM, as two words."""
    state = (await good(vm.inspect())).inspection.state
    return str(state.status), str(state.resumeTo)


async def all_events(vm, after=0):
    """Every event after a number, as dictionaries, page by page."""
    events = []
    while True:
        answer = await good(vm.events(after))
        page = [event.to_dict() for event in answer.events]
        events += page
        if not page or page[-1]["sequence"] == answer.last:
            return events
        after = page[-1]["sequence"]


def host_pid(folder, pid):
    """The pid that process `pid` of the VM's own namespace has here; `None` if it is gone."""
    with open(os.path.join(folder, "keeper.pid"), encoding="ascii") as file:
        keeper = file.read().strip()
    for child in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{child}/status", encoding="utf-8", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The pids of a process, from this namespace to the innermost.
        pids = fields["NSpid"].split()
        if fields["PPid"].strip() == keeper and pids[-1] == str(pid):
            return int(child)
    return None


def connect(folder, name):
    """A plain connection to a socket of the VM."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(SOON)
    stream.connect(os.path.join(folder, name))
    return stream


def send_parcel(folder, token, descriptors):
    """Sends descriptors with their number in one message, and waits until the VM has closed the connection.

    The VM serves other connections meanwhile; this client waits without its event loop, which is enough here.
    """
    with connect(folder, "descriptors") as lane:
        rights = array.array("i", descriptors).tobytes()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        lane.sendmsg([token.to_bytes(8, "little")], ancillary)
        assert lane.recv(1) == b"", "the socket for descriptors says nothing"


class Files:
    """The files of a snapshot in `folder`, open for reading and writing."""

    def __init__(self, folder, names, flags=os.O_RDWR):
        os.makedirs(folder, exist_ok=True)
        self.names = list(names)
        self.descriptors = []
        for name in self.names:
            path = os.path.join(folder, name)
            os.close(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
            self.descriptors.append(os.open(path, flags))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for descriptor in self.descriptors:
            os.close(descriptor)


def new_token():
    """A number of this client's choice, which no other client has chosen."""
    return int.from_bytes(os.urandom(8), "little")


async def begin_snapshot(folder, vm, target):
    """Begins a snapshot into the new folder `target`; the number of its job."""
    names = (await good(vm.snapshotFiles())).files
    token = new_token()
    with Files(target, names) as files:
        send_parcel(folder, token, files.descriptors)
        return (await good(vm.snapshot(token, files.names))).job


async def find_job(vm, number):
    """A job among those that the VM remembers, as a dictionary."""
    jobs = [job.to_dict() for job in (await soon(vm.jobs())).jobs]
    found = [job for job in jobs if job["id"] == number]
    assert len(found) == 1, f"job {number} among {jobs}"
    return found[0]


async def until(condition):
    """Waits until an asynchronous condition gives something, and returns that."""
    end = time.monotonic() + SOON
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < end, f"{condition} does not come true"
        await asyncio.sleep(0.001)
