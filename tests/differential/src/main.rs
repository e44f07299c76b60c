//! `differential`: compares the translator with the CPU that it runs on; repeats a single case.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use differential::forms;
use differential::mutants::{Hunt, MUTANTS, MUTANTS_V3};
use differential::run::{self, Plan};

const USAGE: &str =
    "usage: differential [--model NAME] [--seed N] [--states N] [--threads N] [--mutants | --mutants-v3] [FILTER...]   compare forms that contain a filter
       differential [--model NAME] --seed N --form FORM --state N                      one case, in full";

fn main() -> Result<ExitCode> {
    let (mut seed, mut states, mut threads, mut form, mut state) = (1, run::SAMPLE_STATES, 1, None, None);
    let (mut filters, mut hunt) = (vec![], None);
    let mut model = cpu_model::MODELS[0];
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().with_context(|| format!("{a} needs a value\n{USAGE}"));
        match a.as_str() {
            "--seed" => seed = value()?.parse()?,
            "--states" => states = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--state" => state = Some(value()?.parse()?),
            "--form" => form = Some(value()?),
            "--mutants" => hunt = Some(Hunt::of(MUTANTS)),
            "--mutants-v3" => hunt = Some(Hunt::of(MUTANTS_V3)),
            "--model" => model = cpu_model::by_name(&value()?)?,
            "--alone" => {
                let found = differential::alone::check(model, states)?;
                println!("{found:#?}");
                return Ok(ExitCode::SUCCESS);
            }
            "-h" | "--help" => bail!(USAGE),
            _ => filters.push(a),
        }
    }
    if let Some(name) = form {
        let form = forms::by_name(model, &name).with_context(|| format!("there is no form {name}"))?;
        print!("{}", run::replay(form, seed, state.context(USAGE)?, model)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut list = forms::all(model);
    list.retain(|f| filters.is_empty() || filters.iter().any(|x| f.to_string().contains(x.as_str())));
    let plan = Plan { forms: list, seed, states: 0..states, sequences: 1000 * states, threads };
    let start = std::time::Instant::now();
    let report = run::run(&plan, model, &|name, made, host, guest| match &hunt {
        Some(h) => h.case(name, made, host, guest),
        None => Ok(()),
    })?;
    if let Some(h) = &hunt {
        for (name, by) in h.report() {
            println!("{:<60} {}", name, by.unwrap_or_else(|| "AT LARGE".into()));
        }
    }
    for f in &report.failures {
        println!("{f}");
    }
    for f in &report.empty {
        println!("no case: {f}");
    }
    println!("{report}");
    println!(
        "{} forms, {} without a case, {:.1} s",
        plan.forms.len(),
        report.empty.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(if report.differences() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
