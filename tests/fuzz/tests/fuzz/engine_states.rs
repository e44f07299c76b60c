//! Saved states of an engine: a real process of its own, locked down, takes what it is given.
//!
//! An input is a message. What must hold: the process lives on; a state that is refused changes nothing; one that is taken can
//! be left again, and what is left is taken and left as the same bytes; and vCPUs can run from it, wherever that leads.

use std::cell::RefCell;

use anyhow::Result;
use bare::solo::World;
use bare::{Islet, Said};
use fuzz::{Plant, Seen, Target, Verdict};
use sha2::{Digest, Sha256};
use state::Left;

pub static TARGET: Target = Target {
    name: "engine_states",
    run,
    seeds,
    words,
    longest: 8 << 10,
    head: 0,
    plants: &[
        "a state of another process is taken",
        "what a vCPU says of itself is not checked",
        "registers that no vCPU has are taken",
    ],
};

/// What a refusal says where each planted bug would take what is refused.
const REFUSALS: [&str; 3] = ["this is 'engine'", "engine.vcpus[0].", "engine.vcpus[0].registers"];

/// An engine, and what lies around it.
struct Rig {
    world: World,
    engine: Islet,
}

thread_local! {
    // A load leaves nothing of what was before, so one process sees one input after the other.
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

impl Rig {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let engine = world.engine(false, true)?;
        Ok(Self { world, engine })
    }

    fn load(&mut self, bytes: &[u8]) -> Result<Said> {
        self.world.put_state(bytes)?;
        let left = Left { length: bytes.len() as u64, digest: Sha256::digest(bytes).into() };
        self.engine.ask(
            |m| {
                let mut load = m.init_load();
                load.set_length(left.length);
                load.set_digest(&left.digest);
            },
            |_| (),
        )
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        let left = self.engine.save()?;
        self.world.state_bytes(left.length)
    }

    fn take(&mut self, input: &[u8], seen: &mut Seen, plant: Plant) -> Result<Verdict> {
        let before = self.save()?;
        let refusal = match self.load(input)? {
            Said::Done => None,
            Said::Failed(why) => Some(why),
            other => return Ok(Err(format!("{other:?} in answer to a load"))),
        };
        let left = self.save()?;
        if let Some(why) = refusal {
            seen.text("refusal", &why.replace('\'', " "));
            if let Some(n) = (0..REFUSALS.len()).find(|n| plant.is(*n) && why.contains(REFUSALS[*n])) {
                return Ok(Err(format!("planted: {}", TARGET.plants[n])));
            }
            return Ok(if left == before { Ok(()) } else { Err("a state that was refused changed something".into()) });
        }
        seen.hit("taken", 1);
        seen.count("left", left.len() as u64);
        match self.load(&left)? {
            Said::Done if self.save()? == left => {}
            Said::Done => return Ok(Err("is left as other bytes".into())),
            other => return Ok(Err(format!("what was left is not taken: {other:?}"))),
        }
        // Memory is all zeroes, so a vCPU executes `add [rax], al`, or goes from fault to fault.
        self.engine.must(|mut m| m.set_run(()))?;
        self.engine.must(|mut m| m.set_pause(()))?;
        Ok(Ok(()))
    }
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    RIG.with_borrow_mut(|rig| {
        let taken = match rig {
            Some(rig) => rig.take(input, seen, plant),
            None => Rig::new().and_then(|new| rig.insert(new).take(input, seen, plant)),
        };
        taken.unwrap_or_else(|error| {
            *rig = None;
            Err(format!("the engine is gone: {error:#}"))
        })
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let mut rig = Rig::new().unwrap();
    let reset = rig.save().unwrap();
    rig.engine.must(|mut m| m.set_run(())).unwrap();
    rig.engine.must(|mut m| m.set_pause(())).unwrap();
    rig.engine.suspend().unwrap();
    let asleep = rig.save().unwrap();
    vec![reset, asleep]
}

fn words() -> Vec<Vec<u8>> {
    let mut words = (super::islet_messages::TARGET.words)();
    words.extend([&b"engine"[..], b"q35-0", b"atoll-v2"].map(<[u8]>::to_vec));
    words
}

#[test]
fn the_seeds_are_taken() {
    let mut rig = Rig::new().unwrap();
    for seed in seeds() {
        assert_eq!(rig.load(&seed).unwrap(), Said::Done);
    }
}
