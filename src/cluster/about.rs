//! What can be said about MPI without starting it.

use serde::Serialize;

/// Which MPI the binary is linked to, and what started this process.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The library's own description, on one line.
    pub library: String,
    /// The launcher whose traces are in the environment: a hint for people, on which nothing else depends.
    pub launcher: Option<String>,
    /// Trouble that the launch would run into, and how to mend it.
    pub caution: Option<String>,
}

/// Looks at the library and the environment. Does not initialise MPI.
pub fn about() -> About {
    let library = mpi::environment::library_version().unwrap_or_else(|_| "unreadable".into());
    let library = library.split(['\n', '\0']).next().unwrap_or_default().trim().to_string();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let (launcher, caution) = judge(number("OMPI_COMM_WORLD_SIZE"), number("PMIX_RANK"), number("SLURM_NTASKS"));
    About { library, launcher, caution }
}

/// The name of the Slurm job that this process is in, an array's task by its own.
pub fn job() -> Option<String> {
    let text = |name: &str| std::env::var(name).ok();
    match (text("SLURM_ARRAY_JOB_ID"), text("SLURM_ARRAY_TASK_ID")) {
        (Some(job), Some(task)) => Some(format!("{job}_{task}")),
        _ => text("SLURM_JOB_ID"),
    }
}

/// From Open MPI's number of ranks, PMIx's rank and Slurm's number of tasks to a description and a warning.
fn judge(mpirun: Option<u32>, pmix: Option<u32>, slurm: Option<u32>) -> (Option<String>, Option<String>) {
    match (mpirun, pmix, slurm) {
        (Some(ranks), _, _) => (Some(format!("mpirun, {ranks} rank(s)")), None),
        (None, Some(_), tasks) => (Some(format!("srun with PMIx, {} task(s)", tasks.unwrap_or(1))), None),
        (None, None, Some(tasks)) if tasks > 1 => (
            Some(format!("Slurm, {tasks} tasks, no PMIx")),
            Some("under srun every task would be a survey of its own: start them with `srun --mpi=pmix`".into()),
        ),
        (None, None, Some(_)) => (Some("Slurm, 1 task".into()), None),
        (None, None, None) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_names_itself_without_being_started() {
        let about = about();
        assert!(about.library.len() > 5 && !about.library.contains('\n'), "{about:?}");
    }

    #[test]
    fn only_many_slurm_tasks_without_pmix_are_a_caution() {
        assert!(judge(None, None, Some(4)).1.is_some_and(|text| text.contains("--mpi=pmix")));
        for fine in [(Some(4), None, None), (None, Some(0), Some(4)), (None, None, Some(1)), (None, None, None)] {
            assert_eq!(judge(fine.0, fine.1, fine.2).1, None, "{fine:?}");
        }
    }
}
