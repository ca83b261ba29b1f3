//! `run`, `suite`, `list`, `compare`.

use super::{CompareArgs, How, PlotArgs, Suite, SuiteArgs, runtime};
use crate::net::ns;
use crate::result::{self, Report};
use crate::run::{self, Plan};
use crate::scenario::{Scenario, builtins};
use anyhow::Context;
use mahp_runtime::error::StartupError;
use mahp_runtime::say;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Suites leave out scenarios that last longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs one scenario in this process: `Ok(true)` when it passed.
pub(super) fn run(name: &str, short: bool, how: &How) -> Result<bool, StartupError> {
    let (mut scenario, text) = Scenario::load(name)?;
    if short && scenario.short > 0.0 {
        scenario.shorten();
    }
    scenario.seed = how.seed.unwrap_or(scenario.seed);
    let title = std::path::Path::new(name).file_stem().map_or(name.into(), |s| s.to_string_lossy());
    let plan = Plan {
        name: title.clone().into_owned(),
        scenario,
        text,
        out: how.out.clone().unwrap_or_else(|| run::default_out(&title)),
        programs: how.programs.clone(),
        namespaces: !how.no_namespaces,
        verbose: how.verbose,
        progress: !how.verbose && std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    plan.scenario.check_mode(plan.namespaces)?;
    // Before the runtime starts threads.
    if plan.namespaces {
        ns::enter_own()?;
    }
    let failed = |e: anyhow::Error| {
        StartupError::runtime("E-RUN", format!("{e:#}"), "the programs' logs are in the folder of the result")
    };
    let report = runtime().and_then(|r| r.block_on(stoppable(&plan))).map_err(failed)?;
    say::out(result::table(&report));
    say::line(format_args!("report: {}", plan.out.join("report.html").display()));
    Ok(report.passed)
}

/// A run that ends at SIGINT and SIGTERM, everything taken down.
async fn stoppable(plan: &Plan) -> anyhow::Result<Report> {
    let stop = mahp_runtime::shutdown::on_signals();
    tokio::select! {
        report = run::run(plan) => report,
        () = stop.cancelled() => anyhow::bail!("stopped"),
    }
}

/// The exit status of a run: 0 passed, 1 failed, 2 usage.
pub(super) fn exit(result: Result<bool, StartupError>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit)
        }
    }
}

/// Names and titles.
pub(super) fn list() -> ExitCode {
    for builtin in builtins() {
        let title = Scenario::parse(builtin.name, builtin.text).map_or_else(|e| e.to_string(), |s| s.title);
        say::line(format_args!("{:<20} {title}", builtin.name));
    }
    ExitCode::SUCCESS
}

/// Each scenario in a process of its own, with namespaces of its own. Several at a time take processor time from one another: what
/// failed by the clock alone is run again, nothing else beside it.
pub(super) fn suite(args: &SuiteArgs) -> anyhow::Result<ExitCode> {
    let short = args.name == Suite::Short;
    let out = args.how.out.clone().unwrap_or_else(|| run::default_out(if short { "short" } else { "full" }));
    let wanted = |name: &str| args.only.as_ref().is_none_or(|o| name.contains(o.as_str()));
    let mut names: Vec<&str> = Vec::new();
    for builtin in builtins().iter().filter(|b| wanted(b.name)) {
        let scenario = Scenario::parse(builtin.name, builtin.text)?;
        // What lasts longer than everything else together is run by name.
        let fits = scenario.duration.0 <= LONGEST;
        if fits && (!short || scenario.short > 0.0) {
            names.push(builtin.name);
        }
    }
    let begun = Instant::now();
    let mut failed = side_by_side(&names, args.jobs, |name| one(name, short, &args.how, &out.join(name)));
    let mut remarks = Vec::new();
    for attempt in 1..=args.again {
        let (by_clock, others): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(_, failure)| failure.by_the_clock);
        failed = others;
        for (name, failure) in by_clock {
            remarks.push(format!("{name} was run again: {}", failure.why));
            let folder = out.join(format!("{name}-again-{attempt}"));
            failed.extend(one(name, short, &args.how, &folder).err().map(|failure| (name, failure)));
        }
    }
    say::line(format_args!(
        "{} of {} scenarios passed in {} s; reports in {}",
        names.len() - failed.len(),
        names.len(),
        begun.elapsed().as_secs(),
        out.display()
    ));
    remarks.iter().for_each(|remark| say::line(format_args!("  {remark}")));
    failed.iter().for_each(|(name, failure)| say::line(format_args!("  FAILED: {name}: {}", failure.why)));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all, so many at a time; returns what failed.
fn side_by_side<'a>(
    names: &[&'a str],
    jobs: usize,
    run: impl Fn(&'a str) -> Result<(), Failure> + Sync,
) -> Vec<(&'a str, Failure)> {
    let queue = Mutex::new(names.iter().rev().copied().collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = || {
        while let Some(name) = next() {
            if let Err(failure) = run(name) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push((name, failure));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(worker);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Why a scenario did not pass.
struct Failure {
    /// Its criteria that were not as they should be, or what else happened.
    why: String,
    /// A machine without processor time to spare fails these criteria too.
    by_the_clock: bool,
}

/// One scenario; prints its table when it is over.
fn one(name: &str, short: bool, how: &How, out: &std::path::Path) -> Result<(), Failure> {
    let output = command(name, short, how, out).and_then(|mut c| c.output().context("cannot start a run"));
    let output = output.map_err(|error| Failure { why: format!("{error:#}"), by_the_clock: false })?;
    say::out(String::from_utf8_lossy(&output.stdout));
    say::out(String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(());
    }
    let Ok(report) = result::compare::load(out) else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Failure { why: format!("no report ({}): {said}", output.status), by_the_clock: false });
    };
    let bad: Vec<_> = report.criteria.iter().filter(|c| !c.good()).collect();
    let why: Vec<String> = bad.iter().map(|c| format!("{}: {} ({})", c.name, c.measured, c.wanted)).collect();
    Err(Failure { why: why.join("; "), by_the_clock: bad.iter().all(|c| c.by_the_clock()) })
}

fn command(name: &str, short: bool, how: &How, out: &std::path::Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find the program's own file")?);
    command.args(["run", name]).arg("--out").arg(out).stdin(Stdio::null());
    if short {
        command.arg("--short");
    }
    if how.no_namespaces {
        command.arg("--no-namespaces");
    }
    if let Some(seed) = how.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    if let Some(programs) = &how.programs {
        command.arg("--programs").arg(programs);
    }
    Ok(command)
}

/// Two reports.
pub(super) fn compare(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let (a, b) = (result::compare::load(&args.a)?, result::compare::load(&args.b)?);
    say::out(result::compare::compare(&a, &b));
    let page = result::compare::page(&a, &b);
    std::fs::write(&args.out, page).with_context(|| format!("cannot write {}", args.out.display()))?;
    say::line(format_args!("page: {}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// One plot.
pub(super) fn plot(args: &PlotArgs) -> anyhow::Result<ExitCode> {
    let report = result::compare::load(&args.report)?;
    let plot = result::plot_file(&report, &args.title);
    say::out(plot.with_context(|| format!("no plot whose title contains `{}`", args.title))?);
    Ok(ExitCode::SUCCESS)
}
