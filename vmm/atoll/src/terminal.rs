//! The terminal in raw mode, and its way back.
//!
//! The idea: a guard. Whatever ends the relay returns through it; signals are read as data there, so they do too.

use std::io::{self, IsTerminal};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Standard input in raw mode.
pub struct Raw {
    before: Termios,
    raw: Termios,
}

impl Raw {
    /// Switches standard input to raw mode, if it is a terminal.
    ///
    /// # Errors
    /// The terminal's own.
    pub fn begin() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let this = Self { before, raw };
        this.again()?;
        Ok(Some(this))
    }

    /// Raw once more, after the shell had the terminal meanwhile (SIGCONT).
    ///
    /// # Errors
    /// The terminal's own.
    pub fn again(&self) -> io::Result<()> {
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.raw)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that was raw or half restored before is given back as it was; nothing else can be done on failure.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a terminal in raw mode")
    }
}
