//! Stories of what cannot be: each is refused with what, why and what to do, and leaves nothing behind.

#![cfg(test)]

use boot::Payload;
use guest::Guest;
use rig::{Rig, SOON};

/// Runs, and asserts an error with these texts that has left nothing.
#[track_caller]
fn refused(rig: &Rig, arguments: &[&str], texts: &[&str]) {
    let done = rig.atoll_within(2 * SOON, [&["run", "--memory", "64M"], arguments].concat());
    let status = done.status;
    assert!(status >= 2 && status % 2 == 0, "{status}: {}", done.error);
    done.fails(status, texts).fails(status, &["why:", "do:"]);
    assert_eq!(rig.json(&["ps"]), serde_json::json!([]));
}

#[test]
fn files_that_are_no_kernels() {
    let rig = Rig::new("no-kernel");
    let path = |name: &str, content: &[u8]| rig.file(name, content).display().to_string();
    refused(&rig, &["--kernel", "/nonexistent/kernel"], &["/nonexistent/kernel", "--kernel", "No such file"]);
    let empty = path("empty", b"");
    refused(&rig, &[&empty], &[&empty, "empty"]);
    let text = path("text", &b"this is no kernel\n".repeat(1000));
    refused(&rig, &[&text], &["kernel", "bzImage"]);
    let folder = rig.path(".").display().to_string();
    refused(&rig, &[&folder], &[&folder, "not a regular file"]);
}

#[test]
fn a_kernel_that_is_cut_off() {
    let rig = Rig::new("truncated");
    let kernel = std::fs::read(Guest::find().unwrap().kernel).unwrap();
    for length in [100, 0x1f1, 0x260, 1000, 10_000, kernel.len() / 2, kernel.len() - 4096] {
        let file = rig.file("cut", &kernel[..length]).display().to_string();
        refused(&rig, &[&file], &["kernel"]);
    }
}

#[test]
fn kernels_with_hostile_headers() {
    let rig = Rig::new("hostile");
    let kernel = std::fs::read(Guest::find().unwrap().kernel).unwrap();
    // Linux boot protocol: setup_sects, protocol version, init_size.
    for (offset, bytes) in [(0x1f1, &[0xff][..]), (0x206, &[1, 0]), (0x260, &[0xff; 4])] {
        let mut broken = kernel.clone();
        broken[offset..offset + bytes.len()].copy_from_slice(bytes);
        let file = rig.file("hostile", &broken).display().to_string();
        refused(&rig, &[&file], &["kernel"]);
    }
    // A multiboot header that wants to be loaded over the rest of the machine.
    for address in [0u32, 0xffff_f000, 0xfee0_0000] {
        let mut payload = Payload::new().spin().finish();
        let end = address.wrapping_add(payload.len() as u32);
        for (field, value) in [(3, address), (4, address), (5, end), (6, end), (7, address + 32)] {
            payload[field * 4..field * 4 + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        let file = rig.file("hostile", &payload).display().to_string();
        refused(&rig, &[&file], &["kernel"]);
    }
}

#[test]
fn an_initrd_that_does_not_fit() {
    let rig = Rig::new("initrd");
    let kernel = rig.file("kernel", &Payload::new().spin().finish()).display().to_string();
    let large = rig.path("large");
    std::fs::File::create(&large).unwrap().set_len(80 << 20).unwrap();
    refused(&rig, &[&kernel, "--initrd", &large.display().to_string()], &["initrd", "memory"]);
    std::fs::File::create(&large).unwrap().set_len((4 << 30) + 1).unwrap();
    refused(&rig, &[&kernel, "--initrd", &large.display().to_string()], &["initrd", "4 GiB"]);
    let empty = rig.file("empty", b"").display().to_string();
    refused(&rig, &[&kernel, "--initrd", &empty], &[&empty, "empty"]);
}

#[test]
fn options_that_cannot_be() {
    let rig = Rig::new("options");
    let kernel = rig.file("kernel", &Payload::new().spin().finish()).display().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--cpus", "65"], &["--cpus", "'65'", "1 to 64"]),
        (&["--engine", "kvm"], &["--engine", "no KVM engine"]),
        (&["--console", "tty"], &["--console", "'tty'"]),
        (&["--console", "file:/nonexistent/file"], &["/nonexistent/file", "No such file"]),
        (&["--machine", "pc"], &["--machine", "q35-0"]),
        (&["--cpu-model", "host"], &["--cpu-model", "atoll-v2"]),
        (&["--name", "a/b"], &["'a/b'"]),
        (&["--config", "/nonexistent.toml"], &["/nonexistent.toml"]),
    ];
    for (arguments, texts) in cases {
        refused(&rig, &[&[kernel.as_str()], *arguments].concat(), texts);
    }
    let toml = rig.file("vm.toml", b"memory = \"16M\"\nkernal = \"x\"\n").display().to_string();
    refused(&rig, &["--config", &toml], &["vm.toml, line 2", "kernal"]);
    let toml = rig.file("vm.toml", b"cpus = 400\n").display().to_string();
    refused(&rig, &[&kernel, "--config", &toml], &["'cpus' in ", "vm.toml", "'400'"]);
}

#[test]
fn a_program_of_atoll_that_is_missing() {
    let rig = Rig::new("programs");
    let kernel = rig.file("kernel", &Payload::new().spin().finish());
    let mut command = rig.command(["run".as_ref(), kernel.as_os_str()]);
    let output = command.env("ATOLL_LIBEXEC", rig.path("nowhere")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("'supervisor'") && error.contains("ATOLL_LIBEXEC"), "{error}");
}

#[test]
fn a_command_for_a_vm_that_is_not_there() {
    let rig = Rig::new("unknown");
    for command in ["inspect", "pause", "resume", "reset", "stop", "kill", "events"] {
        rig.atoll([command, "nobody"]).fails(8, &["no VM 'nobody'", "atoll ps"]);
    }
}
