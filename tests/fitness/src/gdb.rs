//! A client of the GDB remote protocol, as far as single-stepping `qemu-user` needs it.
//!
//! The stub waits for the acknowledgement of each reply before it reads on, so packets go one at a time, each led by the
//! acknowledgement of the reply before it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A stopped `qemu-user` process.
pub struct Gdb {
    stream: UnixStream,
    child: Child,
    buffer: Vec<u8>,
    acknowledge: Vec<u8>,
    folder: PathBuf,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// The instruction is done.
    Done,
    /// With this signal (4 illegal, 7 bus, 8 arithmetic, 11 segment).
    Signal(u8),
}

impl Gdb {
    /// Start `program` under `qemu`, stopped at its first instruction.
    pub fn start(qemu: &Path, program: &[u8], cpu: &str) -> Result<Gdb> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let n = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("atoll-fitness-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let (elf, socket) = (folder.join("program"), folder.join("gdb"));
        std::fs::write(&elf, program)?;
        let mut permissions = std::fs::metadata(&elf)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&elf, permissions)?;
        let child = Command::new(qemu)
            .args(["-cpu", cpu, "-g"])
            .arg(&socket)
            .arg(&elf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", qemu.display()))?;
        let end = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(s) => break s,
                Err(e) if Instant::now() > end => bail!("qemu does not listen on {}: {e}", socket.display()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut g = Gdb { stream, child, buffer: vec![], acknowledge: vec![], folder };
        // Feature negotiation makes the stub serve its vector registers.
        g.ask("qSupported:multiprocess-")?;
        g.ask("qXfer:features:read:target.xml:0,ffb")?;
        Ok(g)
    }

    /// Send `packets` one after the other and return their replies.
    pub fn batch(&mut self, packets: &[String]) -> Result<Vec<String>> {
        packets.iter().map(|p| self.ask(p)).collect()
    }

    fn ask(&mut self, packet: &str) -> Result<String> {
        let mut bytes = std::mem::take(&mut self.acknowledge);
        bytes.extend(frame(packet));
        self.stream.write_all(&bytes)?;
        let reply = self.reply()?;
        self.acknowledge.push(b'+');
        Ok(reply)
    }

    /// As [`Gdb::batch`], where every reply must be OK.
    pub fn set(&mut self, packets: &[String]) -> Result<()> {
        for (p, r) in packets.iter().zip(self.batch(packets)?) {
            ensure!(r == "OK", "the stub answers {r:?} to {}", &p[..p.len().min(40)]);
        }
        Ok(())
    }

    /// Execute one instruction.
    pub fn step(&mut self) -> Result<Stepped> {
        self.resume("s")
    }

    /// The second register of the `g` packet, big-endian: s390x's instruction address.
    pub fn pc(&mut self) -> Result<u64> {
        let g = unhex(&self.ask("g")?)?;
        let bytes = g.get(8..16).context("the stub's register packet is short")?;
        Ok(bytes.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    /// Run to `address` without a stop on the way (a stop would close an exclusive monitor).
    pub fn run_to(&mut self, address: u64) -> Result<Stepped> {
        self.set(&[format!("Z0,{address:x},4")])?;
        let r = self.resume("c")?;
        self.set(&[format!("z0,{address:x},4")])?;
        Ok(r)
    }

    fn resume(&mut self, how: &str) -> Result<Stepped> {
        let r = self.ask(how)?;
        let signal = r.get(1..3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (r.as_bytes().first(), signal) {
            (Some(b'T' | b'S'), Some(5)) => Ok(Stepped::Done),
            (Some(b'T' | b'S'), Some(n)) => Ok(Stepped::Signal(n)),
            _ => bail!("the stub answers {r:?} to a step"),
        }
    }

    fn reply(&mut self) -> Result<String> {
        loop {
            if let Some(start) = self.buffer.iter().position(|b| *b == b'$')
                && let Some(len) = self.buffer[start..].iter().position(|b| *b == b'#')
                && self.buffer.len() >= start + len + 3
            {
                let text = String::from_utf8_lossy(&self.buffer[start + 1..start + len]).into_owned();
                self.buffer.drain(..start + len + 3);
                return Ok(text);
            }
            let mut part = [0; 8192];
            let n = match self.stream.read(&mut part) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                n => n.context("wait for qemu's stub")?,
            };
            ensure!(n != 0, "qemu has gone");
            self.buffer.extend_from_slice(&part[..n]);
        }
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn frame(p: &str) -> Vec<u8> {
    let sum = p.bytes().fold(0u8, u8::wrapping_add);
    format!("${p}#{sum:02x}").into_bytes()
}

/// Bytes as the protocol writes them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Back from [`hex`].
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    (0..text.len() / 2).map(|i| Ok(u8::from_str_radix(&text[2 * i..2 * i + 2], 16)?)).collect()
}
