//! Plans for loops that run long, which a thread of its own makes.
//!
//! The idea: whoever runs a vCPU hands over a copy of a loop's block and goes on; the plan is taken between two stays in emitted code, if
//! the block is still there, and nothing waits for it. So all vCPUs share one such thread, at a priority as low as there is.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use emit_x64::Loop;
use ir::op::{NONE, Op};
use ir::{Block, Builder};
use opt::Rounds;

use super::Runner;
use crate::bus::Bus;

/// A loop, whose it is, and whom to tell.
#[derive(Debug)]
pub(crate) struct Ask {
    which: Loop,
    block: Block,
    answer: Sender<(Loop, Rounds)>,
}

impl Ask {
    /// Make the plan, if there is one.
    pub(crate) fn serve(self) {
        if let Some(rounds) = Rounds::of(&self.block) {
            // Who asked may be gone.
            let _ = self.answer.send((self.which, rounds));
        }
    }
}

/// For those who want plans.
#[derive(Clone, Debug)]
pub struct Asker(Sender<Ask>);

/// For the thread that makes them.
#[derive(Debug)]
pub struct Planner(Receiver<Ask>);

/// Both ends.
pub fn planner() -> (Asker, Planner) {
    let (asker, asks) = channel();
    (Asker(asker), Planner(asks))
}

/// For whoever waits for the first time, which takes memory.
const MOMENT: Duration = Duration::from_millis(1);

impl Planner {
    /// Take the memory that serving takes, before anybody may ask.
    #[must_use]
    pub fn settle(self) -> Planner {
        let mut b = Builder::new(0);
        b.instruction(0, 1);
        b.op_imm(Op::Exit, NONE, NONE, 0);
        let _ = Rounds::of(&b.finish());
        let _ = self.0.recv_timeout(MOMENT);
        self
    }

    /// Serve for as long as somebody may ask.
    pub fn serve(&self) {
        self.0.iter().for_each(Ask::serve);
    }

    /// What waits to be served.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> Vec<Ask> {
        self.0.try_iter().collect()
    }
}

/// What a vCPU has asked for.
#[derive(Debug)]
pub(super) struct Plans {
    asker: Asker,
    answer: Sender<(Loop, Rounds)>,
    answers: Receiver<(Loop, Rounds)>,
}

impl Plans {
    pub(super) fn new(asker: Asker) -> Plans {
        let (answer, answers) = channel();
        Plans { asker, answer, answers }
    }
}

impl<B: Bus> Runner<B> {
    /// Have plans for loops made by whoever `asker` leads to. Without, there are none.
    pub fn plan_with(&mut self, asker: Asker) {
        self.plans = Some(Plans::new(asker));
    }

    /// Hand over the loops that are worth a plan, and take the plans that have been made.
    pub(super) fn exchange_plans(&mut self) {
        let (Some(t1), Some(plans)) = (&mut self.t1, &self.plans) else { return };
        while let Some(which) = t1.take_loop() {
            let block = self.cache.at(which.block).and_then(|id| self.cache.block(id));
            if let Some(block) = block {
                // If nobody serves any more, the loop stays as it is.
                let _ = plans.asker.0.send(Ask { which, block: block.clone(), answer: plans.answer.clone() });
            }
        }
        while let Ok((which, rounds)) = plans.answers.try_recv() {
            t1.count_rounds(&self.cache, which, rounds);
        }
    }
}
