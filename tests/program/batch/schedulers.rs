//! The scripts of examples/slurm and examples/kubernetes with what the schedulers give them.

use super::*;

const N_SHARDS: usize = 16;
const PROMPT: &str = "What is this?";
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A place with the program, the model and rows by the names that the scripts use.
fn cluster() -> (Place, usize) {
    let place = Place::new();
    let n = place.write_rows(12);
    fs::create_dir(place.path("bin")).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, place.path(name)).unwrap();
    link(env!("CARGO_BIN_EXE_owl2"), "bin/owl2");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny/owl2-tiny.gguf");
    link(model, "owl2.gguf");
    (place, n)
}

fn script(place: &Place, program: &str, args: &[&str], variables: &[(&str, String)]) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap();
    let bin = place.path("bin").display().to_string();
    command.current_dir(place.0.path()).args(args);
    command.env("PATH", format!("{bin}:{path}"));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The script in the manifest of the Job.
fn job_script() -> String {
    let manifest = fs::read_to_string(format!("{EXAMPLES}/kubernetes/caption.yaml")).unwrap();
    let (_, script) = manifest.split_once("- |\n").unwrap();
    let indent = script.len() - script.trim_start().len();
    let lines = script.lines().map_while(|line| {
        line.get(indent..)
            .filter(|_| line[..indent].trim().is_empty())
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// A task of the Slurm array.
fn slurm_task(place: &Place, index: usize) -> Command {
    let scontrol = "#!/bin/sh\necho \"$@\" >> requeued\n";
    let tool = place.path("bin/scontrol");
    if !tool.exists() {
        use std::os::unix::fs::PermissionsExt;
        fs::write(&tool, scontrol).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let variables = [
        ("MODEL", "owl2.gguf".to_owned()),
        ("ROWS", "rows.jsonl".to_owned()),
        ("OUT", "captions".to_owned()),
        ("PROMPT", PROMPT.to_owned()),
        ("SLURM_ARRAY_JOB_ID", "77".to_owned()),
        ("SLURM_ARRAY_TASK_ID", index.to_string()),
        ("SLURM_ARRAY_TASK_COUNT", N_SHARDS.to_string()),
        ("SLURM_CPUS_PER_TASK", "1".to_owned()),
    ];
    script(
        place,
        "bash",
        &[&format!("{EXAMPLES}/slurm/caption.sbatch")],
        &variables,
    )
}

/// A pod of the Kubernetes Job.
fn pod(place: &Place, index: usize) -> Command {
    let variables = [
        ("DATA", ".".to_owned()),
        ("SHARDS", N_SHARDS.to_string()),
        ("PROMPT", PROMPT.to_owned()),
        ("JOB_COMPLETION_INDEX", index.to_string()),
        ("OWL2_THREADS", "1".to_owned()),
    ];
    script(place, "sh", &["-uc", &job_script()], &variables)
}

/// Runs all shards at once, kills and stops some, starts those again, and puts the outputs together.
fn run_and_merge(task: impl Fn(&Place, usize) -> Command) -> (Place, Vec<Option<i32>>) {
    use std::os::unix::process::CommandExt;

    let (place, n) = cluster();
    let whole = [
        "-m",
        "owl2.gguf",
        "-i",
        "rows.jsonl",
        "-o",
        "whole.jsonl",
        "--prompt",
        PROMPT,
    ];
    place.run(&whole, 0);
    let mut tasks: Vec<Child> = (0..N_SHARDS)
        // A group of its own, as schedulers kill all processes of a task.
        .map(|index| task(&place, index).process_group(0).spawn().unwrap())
        .collect();
    for (index, task) in tasks.iter_mut().enumerate() {
        thread::sleep(Duration::from_millis(15));
        let pid = nix::unistd::Pid::from_raw(task.id() as i32);
        match index % 4 {
            1 => drop(nix::sys::signal::killpg(
                pid,
                nix::sys::signal::Signal::SIGKILL,
            )),
            // To the script alone.
            2 => drop(nix::sys::signal::kill(
                pid,
                nix::sys::signal::Signal::SIGTERM,
            )),
            _ => {}
        }
    }
    let codes: Vec<_> = tasks
        .iter_mut()
        .map(|task| task.wait().unwrap().code())
        .collect();
    for (index, code) in codes.iter().enumerate() {
        if *code != Some(0) || index % 4 == 2 {
            assert!(task(&place, index).status().unwrap().success(), "{index}");
        }
    }
    let mut all = BTreeSet::new();
    for index in 0..N_SHARDS {
        let output = format!("captions/{index}.jsonl");
        for outcome in place.outcomes(&output) {
            assert!(all.insert(outcome), "two shards have a row");
        }
    }
    assert_eq!(all.len(), n);
    assert_eq!(all, place.outcomes("whole.jsonl"));
    (place, codes)
}

#[test]
fn shards_of_a_slurm_array_are_merged_to_what_one_run_does() {
    let (place, codes) = run_and_merge(slurm_task);
    for (index, code) in codes.iter().enumerate() {
        // None where a signal came before the script was ready for it.
        let is_interrupted = matches!(index % 4, 1 | 2) && code.is_none();
        assert!(is_interrupted || *code == Some(0), "{index}: {code:?}");
    }
    // A task that was stopped puts itself back into the queue.
    let requeued = fs::read_to_string(place.path("requeued")).unwrap_or_default();
    for line in requeued.lines() {
        let index = line.strip_prefix("requeue 77_").unwrap();
        assert_eq!(index.parse::<usize>().unwrap() % 4, 2, "{line}");
    }
}

#[test]
fn shards_of_a_kubernetes_job_are_merged_to_what_one_run_does() {
    let (_, codes) = run_and_merge(pod);
    for (index, code) in codes.iter().enumerate() {
        let is_stopped = index % 4 == 2 && matches!(code, Some(75 | 143));
        let is_interrupted = matches!(index % 4, 1 | 2) && code.is_none();
        assert!(
            is_stopped || is_interrupted || *code == Some(0),
            "{index}: {code:?}"
        );
    }
}
