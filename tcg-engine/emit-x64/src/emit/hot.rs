//! What hot blocks do otherwise, access by access.

use std::sync::Arc;

/// What an access does that goes to other pages too often for the memo of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Instead {
    /// It has a memo of a run of pages.
    Run {
        /// Times that this was found to be too short.
        short: u8,
        /// It was restless with a large page.
        large: bool,
    },
    /// It has none, and is looked up by large pages first.
    Large,
    /// It has none.
    Page,
}

/// An operation whose access goes to many pages.
pub type Restless = (u16, Instead);

/// How a hot block is emitted.
#[derive(Clone, Debug, Default)]
pub struct Hot {
    /// Offset from the code's beginning where the memos of its accesses go; `None` if they have none.
    pub memos: Option<usize>,
    /// Operations that do something else.
    pub restless: Vec<Restless>,
    /// What is known about its rounds, if it is a loop that they are to be counted of.
    pub rounds: Option<Arc<opt::Rounds>>,
}

impl Hot {
    /// What the access of an operation does instead of a memo of one page.
    pub(super) fn instead(&self, op: u16) -> Option<Instead> {
        self.restless.iter().find(|(own, _)| *own == op).map(|(_, instead)| *instead)
    }
}
