//! `atoll events`: what has happened in a VM, by number; with `--follow` until its end.

use clap::Args;
use control::client::{Client, Follow};
use control::types::Event;

use crate::commands::{plain, print};
use crate::failure::{Result, problem};
use crate::remote;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name of the VM
    name: String,
    /// Go on until the VM ends
    #[arg(long)]
    follow: bool,
    /// Only what came after this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

pub fn events(arguments: &Arguments) -> Result<()> {
    let place = remote::find(&arguments.name)?;
    if arguments.follow {
        return remote::run(async {
            let mut follow = Follow::new(&place.control(), arguments.after);
            while let Some(event) = follow.next().await.map_err(|error| remote::explain(&place, error))? {
                show(&event, arguments.json)?;
            }
            Ok(())
        })?;
    }
    let mut after = arguments.after;
    loop {
        let page = remote::call(&place, async |client: &Client| client.events(after).await)?;
        for event in &page.events {
            show(event, arguments.json)?;
        }
        match page.events.last() {
            // Numbers only grow, whatever the other side says.
            Some(event) if event.sequence > after && event.sequence < page.last => after = event.sequence,
            _ => return Ok(()),
        }
    }
}

fn show(event: &Event, json: bool) -> Result<()> {
    let line = if json {
        serde_json::to_string(event)
            .map_err(|error| problem("command.output", "an event cannot be printed", error, ""))?
    } else {
        describe(event)
    };
    print(&(line + "\n"))
}

/// Number, guest's clock in seconds, kind, process, cause, sentence.
fn describe(event: &Event) -> String {
    let process = match event.process.as_str() {
        "" => String::new(),
        process => format!(" {process}[{}]", event.incarnation),
    };
    let seconds = event.guest_nanoseconds / 1_000_000_000;
    let micros = event.guest_nanoseconds % 1_000_000_000 / 1000;
    let mut line = format!("{:>5} {seconds:>6}.{micros:06} {}{process}", event.sequence, event.kind);
    for part in [&event.cause, &event.detail] {
        if !part.is_empty() {
            line = format!("{line}: {part}");
        }
    }
    plain(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_everything() {
        let event = Event {
            sequence: 7,
            guest_nanoseconds: 12_000_345_678,
            kind: "PROCESS_EXITED".into(),
            process: "serial0".into(),
            incarnation: 2,
            cause: "killed by signal 9".into(),
            ..Event::default()
        };
        assert_eq!(describe(&event), "    7     12.000345 PROCESS_EXITED serial0[2]: killed by signal 9");
    }
}
