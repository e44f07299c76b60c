//! Between plain types and messages. Reading checks what the peer sent: an enumerator that is not known here or text that
//! is not UTF-8 is a value that says so, never a failure of the whole message.

use capnp::Result;
use wire::engine_capnp::{counter, engine_statistics};

use crate::{
    control_capnp::{self as schema, event, inspection, job, problem, process, run_state, sandbox},
    types::{
        Counter, Event, Inspection, Job, JobState, Problem, Process, RegisterCounter, RunState, Sandbox, Statistics,
        Status,
    },
};

/// Length of a list in a message; nothing here comes near the limit.
pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn text(field: Result<capnp::text::Reader<'_>>) -> Result<String> {
    Ok(String::from_utf8_lossy(field?.as_bytes()).into_owned())
}

pub(crate) fn texts(list: capnp::text_list::Reader<'_>) -> Result<Vec<String>> {
    list.iter().map(text).collect()
}

pub(crate) const fn read_status(status: schema::Status) -> Status {
    match status {
        schema::Status::Starting => Status::Starting,
        schema::Status::Running => Status::Running,
        schema::Status::Paused => Status::Paused,
        schema::Status::Suspended => Status::Suspended,
        schema::Status::Resetting => Status::Resetting,
        schema::Status::Stopping => Status::Stopping,
        schema::Status::Ended => Status::Ended,
    }
}

pub(crate) const fn write_status(status: Status) -> schema::Status {
    match status {
        Status::Starting => schema::Status::Starting,
        Status::Running => schema::Status::Running,
        Status::Paused => schema::Status::Paused,
        Status::Suspended => schema::Status::Suspended,
        Status::Resetting => schema::Status::Resetting,
        Status::Stopping => schema::Status::Stopping,
        Status::Ended => schema::Status::Ended,
    }
}

pub(crate) fn write_problem(from: &Problem, mut to: problem::Builder<'_>) {
    to.set_code(&from.code);
    to.set_what(&from.what);
    to.set_why(&from.why);
    to.set_remedy(&from.remedy);
}

/// `None` where the message says that there was no problem.
pub(crate) fn read_problem(from: problem::Reader<'_>) -> Result<Option<Problem>> {
    let code = text(from.get_code())?;
    let (what, why, remedy) = (text(from.get_what())?, text(from.get_why())?, text(from.get_remedy())?);
    Ok((!code.is_empty()).then_some(Problem { code, what, why, remedy }))
}

pub(crate) fn write_state(from: RunState, mut to: run_state::Builder<'_>) {
    to.set_status(write_status(from.status));
    to.set_resume_to(write_status(from.resume_to));
}

pub(crate) fn read_state(from: run_state::Reader<'_>) -> Result<RunState> {
    Ok(RunState { status: read_status(from.get_status()?), resume_to: read_status(from.get_resume_to()?) })
}

pub(crate) fn write_job(from: &Job, mut to: job::Builder<'_>) {
    to.set_id(from.id);
    to.set_kind(&from.kind);
    to.set_state(match from.state {
        JobState::Waiting => schema::JobState::Waiting,
        JobState::Running => schema::JobState::Running,
        JobState::Done => schema::JobState::Done,
        JobState::Failed => schema::JobState::Failed,
        JobState::Cancelled => schema::JobState::Cancelled,
    });
    to.set_phase(&from.phase);
    to.set_done(from.done);
    to.set_total(from.total);
    if let Some(problem) = &from.problem {
        write_problem(problem, to.init_problem());
    }
}

pub(crate) fn read_job(from: job::Reader<'_>) -> Result<Job> {
    Ok(Job {
        id: from.get_id(),
        kind: text(from.get_kind())?,
        state: match from.get_state()? {
            schema::JobState::Waiting => JobState::Waiting,
            schema::JobState::Running => JobState::Running,
            schema::JobState::Done => JobState::Done,
            schema::JobState::Failed => JobState::Failed,
            schema::JobState::Cancelled => JobState::Cancelled,
        },
        phase: text(from.get_phase())?,
        done: from.get_done(),
        total: from.get_total(),
        problem: read_problem(from.get_problem()?)?,
        cancelled: false,
    })
}

/// Fills an event; also the form in which the log keeps it.
pub fn write_event(from: &Event, mut to: event::Builder<'_>) {
    to.set_sequence(from.sequence);
    to.set_guest_nanoseconds(from.guest_nanoseconds);
    to.set_unix_nanoseconds(from.unix_nanoseconds);
    to.set_kind(&from.kind);
    to.set_process(&from.process);
    to.set_incarnation(from.incarnation);
    to.set_cause(&from.cause);
    to.set_detail(&from.detail);
}

/// Reads an event.
///
/// # Errors
/// The message is malformed.
pub fn read_event(from: event::Reader<'_>) -> Result<Event> {
    Ok(Event {
        sequence: from.get_sequence(),
        guest_nanoseconds: from.get_guest_nanoseconds(),
        unix_nanoseconds: from.get_unix_nanoseconds(),
        kind: text(from.get_kind())?,
        process: text(from.get_process())?,
        incarnation: from.get_incarnation(),
        cause: text(from.get_cause())?,
        detail: text(from.get_detail())?,
    })
}

fn write_counters(from: &[Counter], mut to: capnp::struct_list::Builder<'_, counter::Owned>) {
    for (index, counter) in (0..).zip(from) {
        let mut row = to.reborrow().get(index);
        row.set_name(&counter.name);
        row.set_value(counter.value);
        let mut each = row.init_per_vcpu(count(counter.per_vcpu.len()));
        for (index, value) in (0..).zip(&counter.per_vcpu) {
            each.set(index, *value);
        }
    }
}

/// Reads a list of counters, as islets and engines send them too.
///
/// # Errors
/// The message is malformed.
pub fn read_counters(from: capnp::struct_list::Reader<'_, counter::Owned>) -> Result<Vec<Counter>> {
    let read = |row: counter::Reader<'_>| {
        let per_vcpu = row.get_per_vcpu()?.iter().collect();
        Ok(Counter { name: text(row.get_name())?, value: row.get_value(), per_vcpu })
    };
    from.iter().map(read).collect()
}

fn write_statistics(from: &Statistics, mut to: engine_statistics::Builder<'_>) {
    to.set_instructions(from.instructions);
    to.set_run_nanoseconds(from.run_nanoseconds);
    write_counters(&from.counters, to.reborrow().init_counters(count(from.counters.len())));
    let mut rows = to.init_registers(count(from.registers.len()));
    for (index, register) in (0..).zip(&from.registers) {
        let mut row = rows.reborrow().get(index);
        row.set_device(&register.device);
        row.set_window(&register.window);
        row.set_offset(register.offset);
        row.set_write(register.write);
        row.set_synchronous(register.synchronous);
        row.set_local(register.local);
    }
}

/// Reads an engine's statistics, as the engine itself sends them too.
///
/// # Errors
/// The message is malformed.
pub fn read_statistics(from: engine_statistics::Reader<'_>) -> Result<Statistics> {
    let registers = from.get_registers()?.iter().map(|row| {
        Ok(RegisterCounter {
            device: text(row.get_device())?,
            window: text(row.get_window())?,
            offset: row.get_offset(),
            write: row.get_write(),
            synchronous: row.get_synchronous(),
            local: row.get_local(),
        })
    });
    Ok(Statistics {
        instructions: from.get_instructions(),
        run_nanoseconds: from.get_run_nanoseconds(),
        counters: read_counters(from.get_counters()?)?,
        registers: registers.collect::<Result<_>>()?,
    })
}

fn write_process(from: &Process, mut to: process::Builder<'_>) {
    to.set_name(&from.name);
    to.set_kind(&from.kind);
    to.set_pid(from.pid);
    to.set_host_pid(from.host_pid);
    to.set_incarnation(from.incarnation);
    to.set_state(&from.state);
    to.set_restarts(from.restarts);
    to.set_last_cause(&from.last_cause);
    to.set_restart_policy(&from.restart_policy);
    to.set_grant_bytes(from.grant_bytes);
    write_counters(&from.counters, to.init_counters(count(from.counters.len())));
}

fn read_process(from: process::Reader<'_>) -> Result<Process> {
    Ok(Process {
        name: text(from.get_name())?,
        kind: text(from.get_kind())?,
        pid: from.get_pid(),
        host_pid: from.get_host_pid(),
        incarnation: from.get_incarnation(),
        state: text(from.get_state())?,
        restarts: from.get_restarts(),
        last_cause: text(from.get_last_cause())?,
        restart_policy: text(from.get_restart_policy())?,
        grant_bytes: from.get_grant_bytes(),
        counters: read_counters(from.get_counters()?)?,
    })
}

pub(crate) fn write_inspection(from: &Inspection, mut to: inspection::Builder<'_>) {
    to.set_name(&from.name);
    to.set_version(&from.version);
    to.set_machine(&from.machine);
    to.set_engine(&from.engine);
    to.set_engine_why(&from.engine_why);
    to.set_vcpus(from.vcpus);
    to.set_memory_bytes(from.memory_bytes);
    write_state(from.state, to.reborrow().init_state());
    let mut processes = to.reborrow().init_processes(count(from.processes.len()));
    for (index, process) in (0..).zip(&from.processes) {
        write_process(process, processes.reborrow().get(index));
    }
    write_statistics(&from.statistics, to.reborrow().init_statistics());
    to.set_instructions_per_second(from.instructions_per_second);
    to.set_resets(from.resets);
    to.set_guest_nanoseconds(from.guest_nanoseconds);
    to.set_kernel(&from.kernel);
    to.set_command_line(&from.command_line);
    to.set_console(&from.console);
}

pub(crate) fn read_inspection(from: inspection::Reader<'_>) -> Result<Inspection> {
    Ok(Inspection {
        name: text(from.get_name())?,
        version: text(from.get_version())?,
        machine: text(from.get_machine())?,
        engine: text(from.get_engine())?,
        engine_why: text(from.get_engine_why())?,
        vcpus: from.get_vcpus(),
        memory_bytes: from.get_memory_bytes(),
        state: read_state(from.get_state()?)?,
        processes: from.get_processes()?.iter().map(read_process).collect::<Result<_>>()?,
        statistics: read_statistics(from.get_statistics()?)?,
        instructions_per_second: from.get_instructions_per_second(),
        resets: from.get_resets(),
        guest_nanoseconds: from.get_guest_nanoseconds(),
        kernel: text(from.get_kernel())?,
        command_line: text(from.get_command_line())?,
        console: text(from.get_console())?,
    })
}

fn write_texts(from: &[String], mut to: capnp::text_list::Builder<'_>) {
    for (index, text) in (0..).zip(from) {
        to.set(index, text);
    }
}

pub(crate) fn write_sandbox(from: &Sandbox, mut to: sandbox::Builder<'_>) {
    to.set_name(&from.name);
    to.set_profile(&from.profile);
    to.set_budget(from.budget);
    to.set_landlock(&from.landlock);
    write_texts(&from.system_calls, to.reborrow().init_system_calls(count(from.system_calls.len())));
    write_texts(&from.descriptors, to.reborrow().init_descriptors(count(from.descriptors.len())));
    write_texts(&from.namespaces, to.reborrow().init_namespaces(count(from.namespaces.len())));
    write_texts(&from.limits, to.init_limits(count(from.limits.len())));
}

pub(crate) fn read_sandbox(from: sandbox::Reader<'_>) -> Result<Sandbox> {
    Ok(Sandbox {
        name: text(from.get_name())?,
        profile: text(from.get_profile())?,
        system_calls: texts(from.get_system_calls()?)?,
        budget: from.get_budget(),
        descriptors: texts(from.get_descriptors()?)?,
        namespaces: texts(from.get_namespaces()?)?,
        limits: texts(from.get_limits()?)?,
        landlock: text(from.get_landlock())?,
    })
}
