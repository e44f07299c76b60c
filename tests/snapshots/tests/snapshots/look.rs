//! `atoll state`: what a user sees of saved states, and what the exit status says of them.

use std::path::Path;

use guest::bare::SLEEP;
use rig::{Rig, SOON};
use snapshots::{save, start};

use crate::damage::COMMAND_FAILED;
use crate::edit::{rewrite, state};

/// What `atoll state diff` ends with where something differs.
const DIFFERENT: i32 = 1;

#[test]
fn states_are_printed_compared_and_checked() {
    let rig = Rig::new("look");
    let vm = start(&rig, "vm", &SLEEP, &[]);
    vm.expect("S", SOON);
    let folder = save(&rig, "vm", "saved");
    rig.atoll(["kill", "vm"]).ok();
    vm.wait(SOON);
    let name = |path: &Path| path.display().to_string();
    let (saved, changed) = (folder.join("serial0.state"), rig.path("changed.state"));
    rewrite(&saved, &changed, |bytes| {
        state(bytes, |root| {
            let crate::edit::Which::Serial(serial) = root.get_state().which().unwrap() else {
                panic!("no state of a port")
            };
            serial.unwrap().get_uart().unwrap().set_scratch(0x5a);
        })
    });

    let before = rig.atoll(["state", "dump", &name(&saved)]).ok().output;
    let after = rig.atoll(["state", "dump", &name(&changed)]).ok().output;
    assert!(before.contains("process = \"serial0\"\n") && before.contains("serial.uart.scratch = 0\n"), "{before}");
    assert_eq!(after, before.replace("serial.uart.scratch = 0\n", "serial.uart.scratch = 0x5a (90)\n"));

    let differ = |other: &Path| rig.atoll(["state", "diff", &name(&saved), &name(other)]);
    assert_eq!(differ(&saved).ok().output, "");
    let done = differ(&changed);
    assert_eq!((done.status, done.output.trim_end()), (DIFFERENT, "serial.uart.scratch: 0 -> 0x5a (90)"));
    differ(&folder.join("manifest")).fails(COMMAND_FAILED, &["manifest", "  do: "]);

    // A state by itself has no digest; what it says of itself must be possible.
    let check = |what: &Path| rig.atoll(["state", "check", &name(what)]);
    check(&saved).ok();
    check(&changed).ok();
    let whole = check(&folder).ok().output;
    for file in ["engine.state", "board.state", "serial0.state", "all files are as the manifest says"] {
        assert!(whole.contains(file), "{file}: {whole}");
    }
    rewrite(&saved, &changed, |bytes| state(bytes, |mut root| root.set_process("board")));
    check(&changed).fails(COMMAND_FAILED, &["state.wrong", "changed.state", "'process'", "  do: "]);
}
