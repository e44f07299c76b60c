//! `atoll ps`: the running VMs. What a dead one has left is removed, with its last words.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use control::client::Client;
use control::types::Inspection;
use serde::Serialize;

use crate::commands::{plain, print, print_json, table};
use crate::directory::{Found, Place, Root};
use crate::failure::Result;
use crate::{processes, remote, size};

/// For a VM to answer; one that does not is listed all the same.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub struct Arguments {
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

/// A row.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Run state, or "unreachable".
    status: String,
    /// Of the keeper, on the host.
    keeper_pid: Option<i32>,
    engine: Option<String>,
    vcpus: Option<u16>,
    memory_bytes: Option<u64>,
    kernel: Option<String>,
    console: Option<String>,
    directory: String,
    control_socket: String,
}

pub fn ps(arguments: &Arguments) -> Result<()> {
    let mut rows = Vec::new();
    for place in Root::of_caller()?.places()? {
        match place.look() {
            Found::Alive => rows.push(row(&place)),
            Found::Stale => {
                let last = last_words(&place.log());
                if place.sweep() {
                    eprintln!("atoll: '{}' has ended{last}", place.name);
                }
            }
            Found::Nothing => {}
        }
    }
    if arguments.json {
        return print_json(&rows);
    }
    let heads = ["NAME", "STATUS", "ENGINE", "VCPUS", "MEMORY", "KEEPER", "KERNEL"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        lines.push(vec![
            row.name,
            row.status,
            row.engine.unwrap_or_default(),
            row.vcpus.map(|count| count.to_string()).unwrap_or_default(),
            row.memory_bytes.map(size::show).unwrap_or_default(),
            row.keeper_pid.map(|pid| pid.to_string()).unwrap_or_default(),
            row.kernel.as_deref().map(plain).unwrap_or_default(),
        ]);
    }
    print(&table(&lines))
}

fn row(place: &Place) -> Row {
    let found = ask(place);
    let of = |get: fn(&Inspection) -> String| found.as_ref().map(get);
    Row {
        name: place.name.clone(),
        status: found.as_ref().map_or("unreachable", |found| found.state.status.name()).to_owned(),
        keeper_pid: processes::keeper(place),
        engine: of(|found| found.engine.clone()),
        vcpus: found.as_ref().map(|found| found.vcpus),
        memory_bytes: found.as_ref().map(|found| found.memory_bytes),
        kernel: of(|found| found.kernel.clone()),
        console: of(|found| found.console.clone()),
        directory: place.path.display().to_string(),
        control_socket: place.control().display().to_string(),
    }
}

fn ask(place: &Place) -> Option<Inspection> {
    let asking = async {
        let client = Client::connect(&place.control(), PATIENCE).await.ok()?;
        tokio::time::timeout(PATIENCE, client.inspect()).await.ok()?.ok()
    };
    remote::run(asking).ok().flatten()
}

/// The last line of a log, as the end of a sentence.
pub fn last_words(log: &Path) -> String {
    const TAIL: u64 = 2048;
    let Ok(file) = File::open(log) else { return String::new() };
    let start = file.metadata().map_or(0, |found| found.len().saturating_sub(TAIL));
    let mut buffer = [0; TAIL as usize];
    let count = file.read_at(&mut buffer, start).unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    text.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!(": {}", plain(line))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_of_logs() {
        let path = std::env::temp_dir().join(format!("atoll-ps-{}", std::process::id()));
        assert_eq!(last_words(&path), "");
        std::fs::write(&path, format!("{}\nfirst\nlast\x07\n\n", "x".repeat(5000))).unwrap();
        assert_eq!(last_words(&path), ": last ");
        std::fs::write(&path, "").unwrap();
        assert_eq!(last_words(&path), "");
        std::fs::remove_file(path).unwrap();
    }
}
