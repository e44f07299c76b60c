//! `atoll jobs`: what a VM is doing for its clients or has done, and the end of that.

use clap::Args;
use control::client::Client;
use control::server::Action;
use control::types::Job;

use super::{plain, print, print_json, table};
use crate::failure::Result;
use crate::{remote, size};

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// Cancel this job
    #[arg(long, value_name = "JOB")]
    cancel: Option<u64>,
    /// Print JSON
    #[arg(long, conflicts_with = "cancel")]
    json: bool,
}

pub fn jobs(arguments: &Arguments) -> Result<()> {
    if let Some(job) = arguments.cancel {
        return remote::act(&arguments.name, Action::CancelJob { job });
    }
    let jobs = remote::call(&remote::find(&arguments.name)?, async |client: &Client| client.jobs().await)?;
    if arguments.json {
        return print_json(&jobs);
    }
    let head = ["JOB", "KIND", "STATE", "PROGRESS", "WHY"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(jobs.iter().map(row)).collect();
    print(&table(&rows))
}

fn row(job: &Job) -> Vec<String> {
    let why = job.problem.as_ref().map(|problem| plain(&problem.to_string())).unwrap_or_default();
    vec![job.id.to_string(), plain(&job.kind), job.state.name().to_owned(), progress(job), why]
}

/// What a job is at, and how far.
pub fn progress(job: &Job) -> String {
    match (job.phase.as_str(), job.total) {
        ("", _) => String::new(),
        (phase, 0) => plain(phase),
        (phase, total) => format!("{} {} of {}", plain(phase), size::show(job.done), size::show(total)),
    }
}
