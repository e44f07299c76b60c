"""A client of the control socket in Python: `client.py STORY VM-DIRECTORY SCRATCH-DIRECTORY`.

Each story is one thing that a program wants of a VM, done by the schema alone, and ends with exit status 0 if every answer was
as the schema says.
"""

import asyncio
import os
import signal
import sys

import capnp

import hostile
from vm import Connection, Files, all_events, begin_snapshot, control, find_job, good, host_pid, new_token, refused
from vm import send_parcel, soon, status, until

PROCESSES = {"keeper", "supervisor", "engine", "board", "serial0", "loader", "streamer"}
# Attempts to find a job at work, which may be over before one looks.
ATTEMPTS = 50


async def inspect(folder, _scratch):
    """What a VM says of itself, and of what its processes may do."""
    connection = await Connection.open(folder)
    vm = connection.vm
    found = (await good(vm.inspect())).inspection
    assert (found.name, found.machine, found.engine, found.vcpus) == ("vm", "q35-0", "tcg", 1), f"{found}"
    assert found.memoryBytes == int(os.environ["ATOLL_MEMORY"]), f"{found.memoryBytes}"
    assert found.version and found.engineWhy and found.kernel.endswith(".elf"), f"{found}"
    processes = {process.name: process for process in found.processes}
    assert set(processes) == PROCESSES, f"{set(processes)}"
    for name in ("engine", "board", "serial0"):
        process = processes[name]
        assert (process.state, process.incarnation, process.restarts) == ("running", 1, 0), f"{process}"
        assert process.pid > 1 and host_pid(folder, process.pid), f"{process}"
    assert processes["keeper"].pid == 1
    reach = {name for name, process in processes.items() if process.grantBytes}
    assert "engine" in reach and not reach & {"keeper", "supervisor", "board", "serial0"}, f"{reach}"

    async def executed():
        return (await good(vm.inspect())).inspection.statistics.instructions

    before = await until(executed)

    async def more():
        return await executed() > before

    await until(more)
    sandboxes = {sandbox.name: sandbox for sandbox in (await good(vm.sandbox())).processes}
    assert set(sandboxes) == PROCESSES, f"{set(sandboxes)}"
    for name in PROCESSES - {"keeper", "supervisor"}:
        assert 0 < len(sandboxes[name].systemCalls) <= sandboxes[name].budget, f"{sandboxes[name]}"
        assert sandboxes[name].profile and sandboxes[name].landlock, f"{sandboxes[name]}"
    connection.close()


async def states(folder, _scratch):
    """Pause and resume; calls that cannot be carried out are problems with codes, and change nothing."""
    connection = await Connection.open(folder)
    vm = connection.vm
    assert await status(vm) == ("running", "running")
    # A call that takes its time and others go side by side.
    paused = asyncio.ensure_future(vm.waitState("paused"))
    await good(vm.pause())
    answer = await good(paused)
    assert (str(answer.state.status), str(answer.state.resumeTo)) == ("paused", "running"), f"{answer}"
    first = (await good(vm.inspect())).inspection
    await good(vm.pause())
    second = (await good(vm.inspect())).inspection
    assert await status(vm) == ("paused", "running")
    assert first.guestNanoseconds == second.guestNanoseconds, "the clock of a paused guest goes on"
    assert first.statistics.instructions == second.statistics.instructions, "a paused guest executes"
    await refused(vm.wakeup(), "vm.not-suspended")
    await refused(vm.stop(0), "vm.paused")
    await good(vm.resume())
    await good(vm.waitState("running"))
    await refused(vm.wakeup(), "vm.not-suspended")
    await refused(vm.cancelJob(99), "job.unknown")
    await refused(vm.waitJob(99), "job.unknown")

    async def goes_on():
        return (await good(vm.inspect())).inspection.guestNanoseconds > second.guestNanoseconds

    await until(goes_on)
    # Whoever asks a VM for what it is not gets an exception, and the connection goes on.
    try:
        await soon(vm.cast_as(control.EventSink).event())
        raise AssertionError("a VM takes no events")
    except capnp.KjException as error:
        assert "nimplemented" in str(error), f"{error}"
    assert await status(vm) == ("running", "running")
    connection.close()


async def sleep(folder, _scratch):
    """A guest that goes to sleep by itself is woken."""
    connection = await Connection.open(folder)
    vm = connection.vm
    await good(vm.waitState("suspended"))
    await good(vm.pause())
    assert await status(vm) == ("paused", "suspended")
    await refused(vm.wakeup(), "vm.not-suspended")
    await good(vm.resume())
    assert await status(vm) == ("suspended", "suspended")
    await good(vm.wakeup())
    await good(vm.waitState("running"))
    kinds = [event["kind"] for event in await all_events(vm)]
    told = [kind for kind in kinds if kind in ("SUSPEND", "STOP", "RESUME", "WAKEUP")]
    assert told[-4:] == ["SUSPEND", "STOP", "RESUME", "WAKEUP"], f"{kinds}"
    connection.close()


class Sink(control.EventSink.Server):
    """Keeps what comes; after `limit` events it takes no more."""

    def __init__(self, limit=None):
        self.events = []
        self.limit = limit

    async def event(self, event, **_):
        """Called by the VM."""
        if self.limit is not None and len(self.events) >= self.limit:
            raise RuntimeError("this sink is full")
        self.events.append(event.as_builder().to_dict())


async def events(folder, _scratch):
    """Events by number and as a stream: the same ones, all of them, in their order."""
    connection = await Connection.open(folder)
    vm = connection.vm
    so_far = await all_events(vm)
    assert [event["sequence"] for event in so_far] == list(range(1, len(so_far) + 1)), f"{so_far}"
    assert "STARTED" in [event["kind"] for event in so_far], f"{so_far}"
    assert all(event["unixNanoseconds"] > 0 and event["detail"] for event in so_far), f"{so_far}"
    assert await all_events(vm, len(so_far)) == []
    sink, late, full = Sink(), Sink(), Sink(limit=2)
    subscription = (await good(vm.subscribe(0, sink))).subscription
    kept = [(await good(vm.subscribe(after, to))).subscription for after, to in ((len(so_far), late), (0, full))]

    async def came():
        return len(sink.events) >= count and len(late.events) >= count - len(so_far)

    await good(vm.pause())
    await good(vm.resume())
    count = len(so_far) + 2
    await until(came)
    assert [event["kind"] for event in sink.events[-2:]] == ["STOP", "RESUME"], f"{sink.events}"
    # Without its subscription a stream is over; the others go on, but for the one that takes no more.
    del subscription
    await good(vm.inspect())
    seen = len(sink.events)
    await good(vm.pause())
    await good(vm.resume())

    async def late_came():
        return len(late.events) >= 4

    await until(late_came)
    everything = await all_events(vm)
    assert seen == len(sink.events) == count, f"{seen} {len(sink.events)} {count}"
    assert sink.events == everything[:count], f"{sink.events}\n{everything}"
    assert late.events == everything[len(so_far) :], f"{late.events}\n{everything}"
    assert full.events == everything[:2], f"{full.events}\n{everything}"
    # A client that lost its connection goes on after the last one that it saw.
    connection.close()
    del kept
    again = await Connection.open(folder)
    assert await all_events(again.vm, count) == everything[count:]
    again.close()


async def stopped_job(folder, vm, target):
    """A snapshot's job in the middle of the memory, whose streamer stands still: (number, job, pid of the streamer)."""
    for _ in range(ATTEMPTS):
        number = await begin_snapshot(folder, vm, target)
        pid, last = None, (0, 0)
        while True:
            job = await find_job(vm, number)
            if job["state"] not in ("waiting", "running"):
                assert job["state"] == "done", f"{job}"
                break
            if pid is None:
                processes = (await good(vm.inspect())).inspection.processes
                inside = next(process.pid for process in processes if process.name == "streamer")
                pid = host_pid(folder, inside) if inside > 0 else None
            if job["phase"] == "ram":
                now = (job["done"], job["total"])
                assert now[0] <= now[1] and now >= last, f"{last} {now}"
                last = now
            if pid is None or job["phase"] != "ram" or not 0 < job["done"] < job["total"]:
                continue
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                continue
            # What it said before it stood still is heard by now, or the job is over.
            job = await find_job(vm, number)
            if job["state"] == "running":
                return number, job, pid
        assert (await good(vm.waitJob(number))).job.state == "done"
    raise AssertionError("every job was over before one could look")


async def snapshot(folder, scratch):
    """A snapshot is a job: it is seen at work, another one waits its turn, and waiting ends with it."""
    connection = await Connection.open(folder)
    vm = connection.vm
    target = os.path.join(scratch, "snapshot")
    number, job, pid = await stopped_job(folder, vm, target)
    assert job["kind"] == "snapshot" and job["total"] >= int(os.environ["ATOLL_USED"]), f"{job}"
    waiting = asyncio.ensure_future(vm.waitJob(number))
    names = list((await good(vm.snapshotFiles())).files)
    with Files(os.path.join(scratch, "busy"), names) as files:
        token = new_token()
        send_parcel(folder, token, files.descriptors)
        await refused(vm.snapshot(token, names), "job.busy")
        # The parcel was taken with the call.
        await refused(vm.snapshot(token, names), "snapshot.descriptors")
    assert not waiting.done()
    os.kill(pid, signal.SIGCONT)
    over = (await good(waiting)).job
    assert str(over.state) == "done" and not over.problem.code, f"{over}"
    # The VM goes on by itself; what a client waits for after the job is over has been.
    await good(vm.waitState("running"))
    kinds = [event["kind"] for event in await all_events(vm)]
    told = [kind for kind in kinds if kind in ("STOP", "SNAPSHOT_SAVED", "RESUME")]
    assert told[-3:] == ["STOP", "SNAPSHOT_SAVED", "RESUME"], f"{kinds}"
    connection.close()


async def cancel(folder, scratch):
    """A job is cancelled at work, before it begins or when it is over; the VM goes on and the next one succeeds."""
    connection = await Connection.open(folder)
    vm = connection.vm
    target = os.path.join(scratch, "cancelled")
    number, _, _ = await stopped_job(folder, vm, target)
    # Its streamer stands still, so there is nothing that the job could end with but this.
    await good(vm.cancelJob(number))
    over = (await good(vm.waitJob(number))).job
    assert str(over.state) == "cancelled" and not over.problem.code, f"{over}"
    await good(vm.waitState("running"))
    failures = [event for event in await all_events(vm) if event["kind"] == "SNAPSHOT_FAILED"]
    assert [event["cause"] for event in failures] == ["cancelled"], f"{failures}"
    # At any other moment it is one or the other, and never anything else.
    for _ in range(5):
        number = await begin_snapshot(folder, vm, target)
        await good(vm.cancelJob(number))
        over = (await good(vm.waitJob(number))).job
        assert str(over.state) in ("done", "cancelled"), f"{over}"
        # What is over is not cancelled any more.
        await good(vm.cancelJob(number))
        assert str((await good(vm.waitJob(number))).job.state) == str(over.state)
    number = await begin_snapshot(folder, vm, os.path.join(scratch, "snapshot"))
    over = (await good(vm.waitJob(number))).job
    assert str(over.state) == "done", f"{over}"
    assert await find_job(vm, number) == over.to_dict()
    await good(vm.waitState("running"))
    connection.close()


async def refusals(folder, scratch):
    """Parcels and names that do not fit are refused with a code, and what is no file fails its job alone."""
    connection = await Connection.open(folder)
    vm = connection.vm
    names = list((await good(vm.snapshotFiles())).files)
    await refused(vm.snapshot(new_token(), names), "snapshot.descriptors")

    async def attempt(of, flags=os.O_RDWR, drop=0):
        token = new_token()
        with Files(os.path.join(scratch, "refused"), names, flags) as files:
            send_parcel(folder, token, files.descriptors[drop:])
        return vm.snapshot(token, of)

    for wrong in ([], names[1:], names + ["more"], names[1:] + ["manifest " * 100], names[1:] + ["../manifest"]):
        await refused(await attempt(wrong), "snapshot.files")
    await refused(await attempt(names[1:] + names[1:2]), "snapshot.files")
    await refused(await attempt(names, drop=1), "snapshot.files")
    await refused(await attempt(names, flags=os.O_RDONLY), "snapshot.files")
    await refused(await attempt(names, flags=os.O_WRONLY), "snapshot.files")
    # Whether it is a file is found out at work.
    token = new_token()
    device = os.open("/dev/null", os.O_RDWR)
    send_parcel(folder, token, [device] * len(names))
    os.close(device)
    number = (await good(vm.snapshot(token, names))).job
    over = (await good(vm.waitJob(number))).job
    assert str(over.state) == "failed" and over.problem.code and over.problem.why, f"{over}"
    await good(vm.waitState("running"))
    number = await begin_snapshot(folder, vm, os.path.join(scratch, "snapshot"))
    assert str((await good(vm.waitJob(number))).job.state) == "done"
    connection.close()


STORIES = {
    story.__name__: story
    for story in (inspect, states, sleep, events, snapshot, cancel, refusals, hostile.control_socket, hostile.descriptors)
}

if __name__ == "__main__":
    asyncio.run(capnp.run(STORIES[sys.argv[1]](sys.argv[2], sys.argv[3])))
