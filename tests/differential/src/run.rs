//! The run: forms times states, in batches that host and guests work on at the same time, and the report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use cpu_model::Model;
use iced_x86::Code;

use crate::build::{self, Made};
use crate::case::Outcome;
use crate::census::{Census, Fate};
use crate::compare;
use crate::forms::{Form, Shape};
use crate::guest::Guest;
use crate::host::{BATCH, Host};
use crate::random::Pool;
use crate::tiers::Tiers;
use crate::{exclusions, features};

/// States of each form in the sample that runs every time.
pub const SAMPLE_STATES: u64 = 3;
/// Sequences in each mode in that sample.
pub const SAMPLE_SEQUENCES: u64 = 3000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The forms.
    pub forms: Vec<Form>,
    /// Seed of the run.
    pub seed: u64,
    /// States of each form: their numbers.
    pub states: std::ops::Range<u64>,
    /// Sequences in each mode.
    pub sequences: u64,
    /// Threads, each with a child of its own.
    pub threads: usize,
}

/// A case on which the two disagree.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The form.
    pub form: Form,
    /// The run's seed.
    pub seed: u64,
    /// Number of the state.
    pub state: u64,
    /// Its first instruction.
    pub text: String,
    /// What differs.
    pub lines: Vec<String>,
    /// The translator cannot run it, or not in the same way by both tiers.
    pub translators: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.form, self.text)?;
        for l in &self.lines {
            writeln!(f, "    {l}")?;
        }
        write!(f, "    again: differential --seed {} --form {} --state {}", self.seed, self.form, self.state)
    }
}

/// Counts of a feature.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Codes that the model advertises, in each mode.
    pub advertised: BTreeSet<(Code, u32)>,
    /// Of these, those that the host cannot answer for.
    pub excluded: BTreeSet<(Code, u32)>,
    /// Of these, those that ran.
    pub covered: BTreeSet<(Code, u32)>,
    /// Those that ran as loops that count their rounds.
    pub looped: BTreeSet<(Code, u32)>,
    /// Cases.
    pub cases: u64,
    /// Of these, those that this host cannot answer for ([`exclusions::UNANSWERED`]): only the tiers are compared.
    pub unanswered: u64,
    /// Cases that differ.
    pub differ: u64,
    /// Of these, those that the translator cannot run, or not in the same way by both tiers.
    pub failed: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By feature.
    pub features: BTreeMap<String, Count>,
    /// Disagreements, at most [`KEEP`] of each code.
    pub failures: Vec<Failure>,
    /// Forms of which not one case could be made.
    pub empty: Vec<Form>,
    /// Pages that were put next to each other for accesses by T1; `None` if a worker's guest has no mirror.
    pub mirrored: Option<u64>,
}

/// Failures kept of one code.
const KEEP: usize = 6;

impl Report {
    /// Cases that ran.
    pub fn cases(&self) -> u64 {
        self.features.values().map(|c| c.cases).sum()
    }

    /// Of these, those that this host cannot answer for.
    pub fn unanswered(&self) -> u64 {
        self.features.values().map(|c| c.unanswered).sum()
    }

    /// Cases that differ.
    pub fn differences(&self) -> u64 {
        self.features.values().map(|c| c.differ).sum()
    }

    /// The codes that ran, on both sides.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (code, bits) in self.features.values().flat_map(|c| &c.covered) {
            census.add(*code, *bits, Fate::Compared);
        }
        census
    }

    /// Of these, those that the translator cannot run, or not in the same way by both tiers.
    pub fn failed(&self) -> u64 {
        self.features.values().map(|c| c.failed).sum()
    }

    fn merge(&mut self, other: Report) {
        for (k, v) in other.features {
            let c = self.features.entry(k).or_default();
            c.covered.extend(v.covered);
            c.looped.extend(v.looped);
            c.cases += v.cases;
            c.unanswered += v.unanswered;
            c.differ += v.differ;
            c.failed += v.failed;
        }
        self.failures.extend(other.failures);
        self.empty.extend(other.empty);
        self.mirrored = self.mirrored.zip(other.mirrored).map(|(a, b)| a + b);
    }

    fn count(&mut self, code: Code) -> &mut Count {
        self.features.entry(features::name(code)).or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, counts: [&dyn fmt::Display; 6]| {
            let [a, b, c, d, e, g] = counts;
            writeln!(f, "{name:<14} {a:>8} {b:>9} {c:>9} {d:>11} {e:>10} {g:>8}")
        };
        line("feature", [&"covered", &"in loops", &"excluded", &"advertised", &"cases", &"differ"])?;
        let mut total = [0; 4];
        for (name, c) in &self.features {
            let counts = [c.covered.len(), c.looped.len(), c.excluded.len(), c.advertised.len()];
            line(name, [&counts[0], &counts[1], &counts[2], &counts[3], &c.cases, &c.differ])?;
            total = std::array::from_fn(|n| total[n] + counts[n]);
        }
        line("all", [&total[0], &total[1], &total[2], &total[3], &self.cases(), &self.differences()])?;
        writeln!(f, "(codes are counted once for 64-bit and once for 32-bit code)")?;
        write!(f, "{} cases are compared between the tiers alone: this host cannot answer for them", self.unanswered())
    }
}

/// A batch, with the names of its cases. Its memory is used again and again.
#[derive(Default)]
struct Batch {
    names: Vec<(Form, u64)>,
    made: Vec<Made>,
    guests: Vec<Outcome>,
    host: Box<Outcome>,
}

/// One worker: a host, a guest, and what it has found.
struct Worker<'a> {
    plan: &'a Plan,
    host: Host,
    tiers: Tiers,
    report: Report,
    kept: BTreeMap<Code, usize>,
    extra: Extra<'a>,
}

/// Called with each case (form, number of the state) and the outcome on which both sides agree.
pub type Extra<'a> = &'a (dyn Fn(&(Form, u64), &Made, &Outcome, &mut Guest) -> Result<()> + Sync);

/// Run the plan.
///
/// # Errors
/// The harness cannot work here; what differs is in the report.
pub fn run(plan: &Plan, model: &'static Model, extra: Extra<'_>) -> Result<Report> {
    let pool = Pool::default();
    let next = AtomicUsize::new(0);
    let mut report = Report { mirrored: Some(0), ..Report::default() };
    for bits in [64, 32] {
        for code in Code::values().filter(|c| features::has(model, *c) && features::exists(*c, bits)) {
            let count = report.count(code);
            count.advertised.insert((code, bits));
            if exclusions::reason(code).is_some() {
                count.excluded.insert((code, bits));
            }
        }
    }
    let parts: Vec<Result<Report>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads.max(1))
            .map(|_| {
                let (pool, next) = (&pool, &next);
                scope.spawn(move || {
                    let mut w = Worker {
                        plan,
                        host: Host::new()?,
                        tiers: Tiers::new(model)?,
                        report: Report::default(),
                        kept: BTreeMap::new(),
                        extra,
                    };
                    w.work(pool, next, model)?;
                    Ok(Report { mirrored: w.tiers.t1.mirrored(), ..w.report })
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))).collect()
    });
    for p in parts {
        report.merge(p?);
    }
    report.failures.sort_by_key(|f| (f.form.bits, f.form.code as u32, f.state));
    Ok(report)
}

impl Worker<'_> {
    fn work(&mut self, pool: &Pool, next: &AtomicUsize, model: &'static Model) -> Result<()> {
        let mut batch = Batch::default();
        while let Some(form) = self.plan.forms.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut any = false;
            let states = if form.shape == Shape::Sequence { 0..self.plan.sequences } else { self.plan.states.clone() };
            for state in states {
                let Some(made) = build::make(*form, self.plan.seed, state, pool, model) else { continue };
                any = true;
                batch.names.push((*form, state));
                batch.made.push(made);
                if batch.made.len() == BATCH {
                    self.batch(&mut batch)?;
                }
            }
            if !any {
                self.report.empty.push(*form);
            }
        }
        self.batch(&mut batch)
    }

    fn batch(&mut self, b: &mut Batch) -> Result<()> {
        if b.made.is_empty() {
            return Ok(());
        }
        self.host.start(b.made.iter().map(|m| &m.case))?;
        b.guests.resize(BATCH, Outcome::default());
        let mut ran = Vec::with_capacity(b.made.len());
        for ((made, name), out) in b.made.iter().zip(&b.names).zip(&mut b.guests) {
            ran.push(self.tiers.run(made, most(&name.0), out)?);
            if self.tiers.counted {
                self.report.count(name.0.code).looped.insert((name.0.code, name.0.bits));
            }
        }
        let hosts = self.host.finish(b.made.len())?;
        for (i, (host, guest)) in hosts.into_iter().zip(ran).enumerate() {
            self.host.outcome(i, &mut b.host);
            let host = host.map(|()| &*b.host).map_err(|why| format!("the host's child is lost: {why}"));
            self.judge(&b.names[i], &b.made[i], host, guest.map(|()| &b.guests[i]))?;
        }
        b.names.clear();
        b.made.clear();
        Ok(())
    }

    fn judge(&mut self, name: &(Form, u64), made: &Made, host: Side<'_>, guest: Side<'_>) -> Result<()> {
        let lines = verdict(made, &host, &guest);
        let form = name.0;
        let count = self.report.count(form.code);
        count.cases += 1;
        if exclusions::unanswered(made).is_some() {
            count.unanswered += 1;
        } else if host.is_ok() && form.shape != Shape::Sequence {
            count.covered.insert((form.code, form.bits));
        }
        if lines.is_empty() {
            if let Ok(o) = host {
                (self.extra)(name, made, o, &mut self.tiers.t1)?;
            }
            return Ok(());
        }
        count.differ += 1;
        count.failed += u64::from(guest.is_err());
        let kept = self.kept.entry(form.code).or_default();
        *kept += 1;
        if *kept <= KEEP {
            let text = describe(made);
            self.report.failures.push(Failure {
                form,
                seed: self.plan.seed,
                state: name.1,
                text,
                lines,
                translators: guest.is_err(),
            });
        }
        Ok(())
    }
}

/// Instructions of a block: one alone, or as many as the translator takes.
pub fn most(form: &Form) -> usize {
    if form.shape == Shape::Sequence { guest_x86::MAX_INSTRUCTIONS } else { 1 }
}

/// What one side made of a case: its outcome, or why there is none.
pub type Side<'a> = std::result::Result<&'a Outcome, String>;

/// What differs between the two runs of a case.
pub fn verdict(made: &Made, host: &Side<'_>, guest: &Side<'_>) -> Vec<String> {
    match (host, guest) {
        (_, Err(why)) => vec![why.clone()],
        _ if exclusions::unanswered(made).is_some() => vec![],
        (Err(why), _) => vec![why.clone()],
        (Ok(h), Ok(g)) => compare::differences(&made.case, &made.instruction, h, g),
    }
}

/// The bytes of a case and the instruction that they are.
pub fn describe(made: &Made) -> String {
    let bytes: Vec<String> = made.case.code().iter().map(|b| format!("{b:02x}")).collect();
    format!("[{}] {:?}", bytes.join(" "), made.instruction.code())
}

/// One case again, in full: what it was, what each side made of it.
///
/// # Errors
/// No such case, or the harness cannot work here.
pub fn replay(form: Form, seed: u64, state: u64, model: &'static Model) -> Result<String> {
    use fmt::Write as _;
    let pool = Pool::default();
    let made = build::make(form, seed, state, &pool, model).context("this form has no case of that number")?;
    let (mut child, mut blocks) = (Host::new()?, String::new());
    let (mut h, mut g) = (Box::new(Outcome::default()), Box::new(Outcome::default()));
    child.start([&made.case].into_iter())?;
    let host = child.finish(1)?.remove(0);
    child.outcome(0, &mut h);
    let guest = Tiers::new(model)?.run_tampered(&made, most(&form), &mut g, &mut |b| {
        let _ = write!(blocks, "{b}");
    })?;
    let (host, guest) = (host.map(|()| &*h), guest.map(|()| &*g));
    let mut out = format!("{form} {}\n{:#x?}\n{blocks}", describe(&made), made.case.state);
    if let Ok(o) = &host {
        let _ = writeln!(out, "host: {:x?}\n{:#x?}", o.stop, o.state);
    }
    if let Ok(o) = &guest {
        let _ = writeln!(out, "translator: {:x?}\n{:#x?}", o.stop, o.state);
    }
    for l in verdict(&made, &host, &guest) {
        let _ = writeln!(out, "{l}");
    }
    Ok(out)
}
