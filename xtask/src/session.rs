//! One run of a machine with the guest in it: showing what it prints, noting what it reports, and judging how it ended.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use testing_guest::Report;

use crate::{
    check::Observed,
    progress::{Progress, human_bytes},
    qemu::{self, Cause, Ending, Machine},
};

/// What of a machine's output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing.
    Nothing,
    /// What the kernel prints.
    Kernel,
    /// What the firmware prints, too.
    Everything,
}

/// Runs the machine until it ends, and hands over each report as it comes. An error of that ends nothing by itself, but
/// is the result.
pub(crate) fn observe(
    machine: &Machine<'_>,
    limit: Duration,
    verbose: bool,
    answer: impl FnMut(&Report) -> Result<()>,
) -> Result<(Ending, Observed)> {
    observe_showing(if verbose { Show::Everything } else { Show::Kernel }, machine, limit, answer)
}

/// The same, for who wants to see less of it.
pub(crate) fn observe_showing(
    show: Show,
    machine: &Machine<'_>,
    limit: Duration,
    mut answer: impl FnMut(&Report) -> Result<()>,
) -> Result<(Ending, Observed)> {
    let progress = (show != Show::Nothing).then(|| Progress::new("booting the guest"));
    let mut observed = Observed::default();
    let mut problem = None;
    let ending = qemu::watch(&machine.command(), limit, |line| match Report::parse(line) {
        Some(Ok(report)) => {
            if let Some(progress) = &progress {
                progress.say(activity(&report));
            }
            if let Err(error) = answer(&report) {
                problem.get_or_insert(error);
            }
            observed.note(report);
        }
        Some(Err(error)) => drop(problem.get_or_insert(error.into())),
        // Before the kernel reports that it runs, it is the firmware that prints.
        None if observed.started() || show == Show::Everything => {
            if let Some(progress) = &progress {
                progress.print(line);
            }
        }
        None => (),
    });
    drop(progress);
    let ending = ending.with_context(|| format!("running {}", qemu::PROGRAM))?;
    match problem {
        Some(error) => Err(error),
        None => Ok((ending, observed)),
    }
}

/// What the guest is doing after a report, for the line at the bottom.
fn activity(report: &Report) -> String {
    match report {
        Report::Progress { done_bytes, total_bytes } => {
            format!("reading the whole disk: {} of {}", human_bytes(*done_bytes), human_bytes(*total_bytes))
        }
        Report::Read { path, .. } => format!("read {path}"),
        Report::Written { path, .. } => format!("wrote {path}"),
        Report::WholeDisk { .. } => "shutting down".into(),
        _ => "the guest runs".into(),
    }
}

/// Turns a machine that did not end well into one message.
pub(crate) fn judge(ending: &Ending, observed: &Observed) -> Result<()> {
    let what = match (&ending.cause, observed.failure()) {
        (Cause::Exit(Some(0)), None) if observed.finished() => return Ok(()),
        (_, Some(reason)) => bail!("the guest gave up: {reason}"),
        (Cause::Deadline(limit), _) => {
            format!(
                "the guest had not ended by the deadline of {} s (set by --timeout) and was killed",
                limit.as_secs()
            )
        }
        (Cause::Exit(Some(0)), None) => "the guest ended, but did not say that it was done".into(),
        (Cause::Exit(Some(code)), None) if observed.started() => format!("the guest failed (exit code {code})"),
        (Cause::Exit(Some(code)), None) => format!("QEMU or the guest failed at the start (exit code {code})"),
        (Cause::Exit(None), None) => "QEMU was ended by a signal".into(),
    };
    bail!("{what}; the last lines were:\n  {}", ending.last_lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn judged(cause: Cause, reports: &[Report]) -> String {
        let mut observed = Observed::default();
        reports.iter().for_each(|report| observed.note(report.clone()));
        let ending = Ending { cause, last_lines: vec!["the last line".into()] };
        judge(&ending, &observed).map_or_else(|error| error.to_string(), |()| "good".into())
    }

    #[test]
    fn only_a_guest_that_says_so_is_done() {
        let started = Report::Started { demo: "tour".into() };
        let failed = Report::Failed { reason: "no disk".into() };
        assert_eq!(judged(Cause::Exit(Some(0)), &[started.clone(), Report::Finished]), "good");
        assert!(judged(Cause::Exit(Some(0)), from_ref(&started)).contains("did not say"));
        assert!(judged(Cause::Exit(Some(1)), &[started.clone(), Report::Finished]).contains("exit code 1"));
        assert!(judged(Cause::Exit(Some(1)), &[started.clone(), failed]).contains("no disk"));
        assert!(judged(Cause::Exit(Some(1)), &[]).contains("at the start"));
        assert!(judged(Cause::Exit(None), from_ref(&started)).contains("signal"));
        let deadline = judged(Cause::Deadline(Duration::from_secs(7)), &[started]);
        assert!(deadline.contains("deadline of 7 s") && deadline.contains("the last line"), "{deadline}");
    }
}
