"""What no client should do to a VM's two sockets, and what must not matter to anybody else.

The idea: what a real client sends is recorded once, and then sent cut, changed, repeated and never answered to; after each kind
of harm an honest client is served.
"""

import asyncio
import os
import random
import socket

import capnp

from vm import Connection, Files, begin_snapshot, connect, control, good, host_pid, new_token, refused, send_parcel
from vm import soon, status, until

# More than a VM serves at a time.
CROWD = 40
# Connections that it serves at a time.
SERVED = 32
# Clients that never read, and how many questions of each are more than any VM may take.
MUTE, QUESTIONS = 8, 20_000
# Descriptors that fit into a parcel, and the most that the host's kernel sends at once.
PARCEL, KERNEL_PARCEL = 32, 253


def numbers():
    """Random numbers that can be had again with ATOLL_SEED."""
    seed = int(os.environ.get("ATOLL_SEED") or int.from_bytes(os.urandom(8), "little"))
    print(f"ATOLL_SEED={seed}", flush=True)
    return random.Random(seed)


class Sink(control.EventSink.Server):
    """What nothing ever comes to."""


async def record(method, *arguments):
    """The bytes that a client sends to connect, and to call a method three times."""
    near, far = socket.socketpair()
    connection = Connection(await capnp.AsyncIoStream.create_connection(sock=near))
    calls = [asyncio.ensure_future(getattr(connection.vm, method)(*arguments)) for _ in range(3)]
    far.setblocking(False)
    sent = b""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sent += await asyncio.wait_for(loop.sock_recv(far, 1 << 16), 1 if sent else 60)
        except asyncio.TimeoutError:
            break
    connection.close()
    far.close()
    await asyncio.gather(*calls, return_exceptions=True)
    assert len(sent) > 200, f"{sent}"
    return sent


async def serves(folder):
    """An honest client is served, at the latest when the others' connections are closed."""

    async def attempt():
        connection = await Connection.open(folder)
        try:
            return await status(connection.vm) == ("running", "running")
        except capnp.KjException:
            # The VM serves enough already.
            return False
        finally:
            connection.close()

    await until(attempt)


def throw(folder, content, end):
    """Sends bytes on a new connection, and ends it: 'close' at once, or 'half' and then reads to the other side's end."""
    with connect(folder, "control") as stream:
        try:
            stream.sendall(content)
            if end == "half":
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(1 << 16):
                    pass
        except (BrokenPipeError, ConnectionResetError):
            # It had enough before we had.
            pass


async def control_socket(folder, _scratch):
    """Garbage, foreign messages, cut and changed ones, half-closed and mute connections, and a crowd."""
    rng = numbers()
    genuine, other = await record("inspect"), await record("sandbox")
    # Where the method's number is: changed there, a message may well be a call that pauses or ends the VM, and rightly so.
    harmless = [at for at, (one, two) in enumerate(zip(genuine, other)) if one == two]
    assert len(genuine) == len(other) == len(harmless) + 3, "each call has one number of a method"
    inspection = control.Inspection.new_message(name="x" * 1000, vcpus=7).to_bytes()
    frames = [
        b"\xff" * 4096,  # 2^32 segments
        b"\0\0\0\0" + b"\xff\xff\xff\xff" + b"\0" * 64,  # a segment of 32 GiB
        b"\0\0\0\0" + b"\0\0\0\0" + b"\0" * 64,  # empty messages
        b"\0\x02\0\0" + b"\x01\0\0\0" * 600 + b"\0" * 8192,  # more segments than anybody needs
        b"\0\0\0\0\x01\0\0\0" + b"\xfc\xff\xff\xff\x01\0\0\0",  # a pointer to itself
        inspection,
        control.Event.new_message(sequence=1, kind="STOP").to_bytes(),
        genuine[: len(genuine) // 2] + inspection + genuine,
    ]
    for end in ("close", "half"):
        for frame in frames:
            throw(folder, frame, end)
        for _ in range(20):
            throw(folder, rng.randbytes(rng.randrange(1, 4096)), end)
        for _ in range(20):
            throw(folder, genuine[: rng.randrange(len(genuine))], end)
        for _ in range(100):
            changed = bytearray(genuine)
            for _ in range(rng.randrange(1, 8)):
                changed[rng.choice(harmless)] ^= 1 << rng.randrange(8)
            throw(folder, changed, end)
        await serves(folder)
    for asks in (genuine, other, await record("waitState", "ended"), await record("subscribe", 0, Sink())):
        await mute(folder, asks)
    await crowd(folder)
    await serves(folder)


def frames_of(sent):
    """The messages in a recording, each of one segment."""
    while sent:
        assert sent[:4] == b"\0\0\0\0", f"{sent[:4]} segments"
        end = 8 + 8 * int.from_bytes(sent[4:8], "little")
        yield sent[:end]
        sent = sent[end:]


def rising(genuine):
    """A recording whose last call is made again and again, each time as a new question."""
    frames = list(frames_of(genuine))
    # Root pointer, number of the kind and pointer of the message, and then the call, which begins with its question's number.
    at = 32
    numbers = [int.from_bytes(frame[at : at + 4], "little") for frame in frames[-3:]]
    assert numbers == list(range(numbers[0], numbers[0] + 3)), f"{numbers}"
    call = frames[-1]
    return b"".join(frames[:-3]), (call[:at] + n.to_bytes(4, "little") + call[at + 4 :] for n in range(numbers[0], 1 << 30))


async def mute(folder, genuine):
    """Clients that ask and never read an answer: what they may ask ends, and so does the connection of whoever goes on."""
    streams = [connect(folder, "control") for _ in range(MUTE)]
    for stream in streams:
        begin, calls = rising(genuine)
        stream.sendall(begin)
        try:
            for _, call in zip(range(QUESTIONS), calls):
                stream.sendall(call)
        except (BrokenPipeError, ConnectionResetError):
            continue
        raise AssertionError(f"{QUESTIONS} questions were taken")
    await serves(folder)
    for stream in streams:
        stream.close()


async def crowd(folder):
    """More connections at once than are served: none of them is left without an answer or an end."""
    await serves(folder)
    connections = [await Connection.open(folder) for _ in range(CROWD)]
    answers = await soon(asyncio.gather(*(status(each.vm) for each in connections), return_exceptions=True))
    served = sum(answer == ("running", "running") for answer in answers)
    ended = sum(isinstance(answer, capnp.KjException) for answer in answers)
    assert served + ended == CROWD and 0 < served <= SERVED, f"{served} were served, {ended} were ended: {answers}"
    # Those who are served still are.
    again = await soon(asyncio.gather(*(status(each.vm) for each in connections), return_exceptions=True))
    assert [isinstance(answer, tuple) for answer in again] == [isinstance(answer, tuple) for answer in answers]
    for each in connections:
        each.close()


def descriptors_of(pid):
    """How many descriptors a process has, where that may be looked at."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return None


async def descriptors(folder, scratch):
    """Parcels that are cut, empty, too large, too many, or never come."""
    connection = await Connection.open(folder)
    vm = connection.vm
    names = list((await good(vm.snapshotFiles())).files)
    processes = (await good(vm.inspect())).inspection.processes
    supervisor = host_pid(folder, next(process.pid for process in processes if process.name == "supervisor"))
    number = await begin_snapshot(folder, vm, os.path.join(scratch, "first"))
    assert str((await good(vm.waitJob(number))).job.state) == "done"
    # The job's files are held until the next one's take their place, and the keeper holds them, not the supervisor.
    before = descriptors_of(supervisor)
    for content in (b"", b"abc", b"x" * 7):
        with connect(folder, "descriptors") as lane:
            lane.sendall(content)
    with connect(folder, "descriptors") as lane:
        lane.sendall(b"12345678" * 1000)
    with connect(folder, "descriptors") as lane:
        lane.shutdown(socket.SHUT_WR)
        assert lane.recv(1) == b""
    file = os.open(os.path.join(scratch, "file"), os.O_CREAT | os.O_RDWR, 0o600)
    # Without descriptors, with as many as fit, and with more, of which the kernel takes back what does not fit.
    for count in (0, 1, PARCEL, PARCEL + 1, KERNEL_PARCEL):
        token = new_token()
        send_parcel(folder, token, [file] * count)
        await refused(vm.snapshot(token, names), "snapshot.files")
    # A token that nobody sent, and one that was asked for with another number.
    token = new_token()
    send_parcel(folder, token, [file] * len(names))
    await refused(vm.snapshot(token ^ 1, names), "snapshot.descriptors")
    # The second parcel of a number takes the place of the first.
    send_parcel(folder, token, [file])
    await refused(vm.snapshot(token, names), "snapshot.files")
    # More parcels than are kept, and connections on which nothing ever comes: the next client is served at once.
    for _ in range(CROWD):
        send_parcel(folder, new_token(), [file] * PARCEL)
    idle = [connect(folder, "descriptors") for _ in range(CROWD)]
    number = await begin_snapshot(folder, vm, os.path.join(scratch, "snapshot"))
    assert str((await good(vm.waitJob(number))).job.state) == "done"
    await good(vm.waitState("running"))
    for lane in idle:
        lane.close()
    os.close(file)
    if before is not None:
        # What waits for a call now are eight parcels at most, of one file each; they push each other out.
        with Files(os.path.join(scratch, "small"), names[:1]) as files:
            tokens = [new_token() for _ in range(8)]
            for token in tokens:
                send_parcel(folder, token, files.descriptors)
        for token in tokens:
            await refused(vm.snapshot(token, names), "snapshot.files")

        async def as_before():
            return descriptors_of(supervisor) <= before

        await until(as_before)
    connection.close()
