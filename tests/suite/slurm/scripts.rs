//! The scripts themselves, with programs that stand in for ours: what they ask for, refuse, count, submit and archive.

use super::Cluster;
use super::workers::Toys;

const ONE: [&str; 5] = ["--array=0", "--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=12"];

/// A program that logs what it is asked for.
#[test]
fn slurm_submit_plans_works_and_joins() {
    let Some(cluster) = Cluster::start("") else { return };
    let program =
        cluster.program("echo \"$1 ${SLURM_ARRAY_TASK_ID:-} $2 ${3:-} ${4:-}\" >>log; [ $1 != run ] || sleep 1");
    let submit = |config: &str| {
        let mut command = cluster.command("slurm/submit.sh");
        command.env("UNSEEING", &program).env("TEST_FOLDER", cluster.folder.path());
        let out = format!("--output={}", cluster.path("out").display());
        command.env("MERGE_OPTIONS", &out).args(["slurm/dev.slurm", config, &out]);
        command.args(["--array=0-2", "--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=12"]);
        command.output().unwrap()
    };
    let output = submit("folder/the.toml");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    cluster.until("the products are joined", || cluster.read("log").contains("merge"));
    let log = cluster.read("log");
    let lines: Vec<&str> = log.lines().map(str::trim).collect();
    assert_eq!(lines[0], "plan  folder/the.toml", "{log}");
    assert_eq!(
        (0..3).filter(|task| lines[1..4].contains(&format!("run {task} folder/the.toml").as_str())).count(),
        3,
        "{log}"
    );
    assert_eq!(lines[4..], ["verify  folder/the.toml", "merge  folder/the.toml --out folder/survey.h5"], "{log}");
    // What cannot be planned is not submitted.
    std::fs::write(&program, "#!/bin/bash\necho no such column >&2; exit 2\n").unwrap();
    let output = submit("other.toml");
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn slurm_other_exit_codes_end_the_job() {
    let Some(cluster) = Cluster::start("") else { return };
    for code in [3, 1] {
        let program = cluster.program(&format!("[ $SLURM_PROCID = 0 ] && exit {code}\nexit 0"));
        let options = ["--array=0", "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=5"];
        let job = cluster.submit(&program, &options, "slurm/dev.slurm", &["the.toml"]);
        assert_eq!(cluster.wait(job), format!("{code}:0"), "{}", cluster.read("out"));
    }
    assert!(!cluster.read("out").contains("requeued"));
}

#[test]
fn slurm_jean_zay_scripts_ask_for_what_those_nodes_have() {
    let Some(cluster) = Cluster::start("v100-32g,a100,h100") else { return };
    let program =
        cluster.program("[ $SLURM_LOCALID = 0 ] && echo \"$SLURM_NTASKS $SLURM_CPUS_PER_TASK $*\" >>log; exit 0");
    for (nodes, tasks, cores) in [("v100", 4, 10), ("a100", 8, 8), ("h100", 4, 24)] {
        let script = format!("slurm/run_{nodes}.slurm");
        let account = format!("--account=abc@{nodes}");
        let job = cluster.submit(&program, &[&account, "--array=0"], &script, &["jz.toml"]);
        assert_eq!(cluster.wait(job), "0:0", "{nodes}: {}", cluster.read("out"));
        assert!(
            cluster.read("log").contains(&format!("{tasks} {cores} run jz.toml")),
            "{nodes}: {}",
            cluster.read("log")
        );
    }
    let out = cluster.read("out");
    assert!(out.contains("module load arch/a100\n") && out.contains("module load arch/h100\n"), "{out}");
}

/// What is missing is one line, and the job's exit code is that of a usage error.
#[test]
fn slurm_a_missing_module_account_device_or_program_is_one_line() {
    let Some(cluster) = Cluster::start("v100-32g") else { return };
    let program = cluster.program("echo \"$*\" >>log");
    let missing = cluster.path("no-program");
    let jean_zay = ["--array=0", "--account=abc@v100"];
    let no_gpu = ["--array=0", "--ntasks-per-node=2", "--gres=none", "--cpus-per-task=1"];
    for (script, options, program, module, words) in [
        ("run_v100", &jean_zay[..], &program, Some("() { [ $1 != load ]; }"), "module openmpi/4.1.5 cannot be loaded"),
        ("run_v100", &jean_zay[..], &program, Some("() { echo ERROR: no such >&2; }"), "cannot be loaded: see"),
        ("run_v100", &jean_zay[..], &program, None, "there is no command 'module'"),
        ("run_v100", &["--array=0"], &program, Some("() { :; }"), "account xxx@v100 is a placeholder"),
        ("dev", &no_gpu, &program, None, "the job has 0 GPUs on a node for 2 tasks: sbatch --gres=gpu:2"),
        ("dev", &ONE, &missing, None, "no-program: no program here"),
    ] {
        let _ = std::fs::remove_file(cluster.path("out"));
        let job = cluster.submit_with(program, options, &format!("slurm/{script}.slurm"), &["the.toml"], module);
        let code = cluster.wait(job);
        let out = cluster.read("out");
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("slurmstepd")).collect();
        assert!(code == "2:0" && lines.len() == 1 && lines[0].contains(words), "{words}: {code}: {out}");
    }
    assert_eq!(cluster.read("log"), "", "something was run");
    // And before anything is submitted.
    let mut submit = cluster.command("slurm/submit.sh");
    let output = submit.env("UNSEEING", &program).args(["slurm/run_v100.slurm", "a.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("add --account=YOURS@v100"), "{said}");
}

/// Ranks that are killed again and again are not started for ever, and the count survives the requeue.
#[test]
fn slurm_requeues_after_kills_and_stops_are_bounded() {
    let Some(cluster) = Cluster::start("") else { return };
    for (end, name, limit, words) in [
        ("kill -9 $$", "MAX_KILLED", "2", "ranks were killed 2 times"),
        ("exit 75", "MAX_STARTS", "2", "started 2 times already"),
    ] {
        for file in ["out", "log"] {
            let _ = std::fs::remove_file(cluster.path(file));
        }
        let program = cluster.program(&format!("echo start >>log; {end}"));
        let export = format!("--export=ALL,{name}={limit}");
        let options = [&ONE[..], &[&export]].concat();
        let job = cluster.submit(&program, &options, "slurm/dev.slurm", &["the.toml"]);
        let code = if name == "MAX_STARTS" { "75:0" } else { "137:0" };
        cluster.until("the second end", || cluster.read("out").contains(words));
        assert_eq!(cluster.wait(job), code, "{}", cluster.read("out"));
        assert_eq!(cluster.read("log"), "start\nstart\n", "{}", cluster.read("out"));
        // The first start's lines are still in the log.
        assert!(cluster.read("out").contains("start 1, on") && cluster.read("out").contains("start 2, on"));
    }
}

/// Seconds that are left by squeue, as the program has said when it asked.
fn told_by_squeue(out: &str) -> u64 {
    let told = out.lines().find_map(|line| line.split_once("by squeue, in ")).map(|(_, rest)| rest.to_string());
    let told = told.unwrap_or_else(|| panic!("squeue was not asked: {out}"));
    told.split_whitespace().next().unwrap().parse().unwrap()
}

/// Two ways to stop in time without SLURM_JOB_END_TIME, at once since a limit is a minute at least: an array over shards whose
/// signal comes before its limit, again and again; and a job without any signal, whose end this Slurm's own squeue tells.
#[test]
fn slurm_jobs_that_stop_before_their_limit_by_signal_or_by_squeue_are_whole_in_the_end() {
    let Some(cluster) = Cluster::start("") else { return };
    let toys = Toys::new(&cluster, 64, 4);
    // A minute of work and more: of 2.6 s each, with one rank.
    let alone = Toys::named(&cluster, ["alone-quick", "alone"], 24, 4);
    let real = env!("CARGO_BIN_EXE_unseeing");
    let program = cluster.program(&format!("exec env -u SLURM_JOB_END_TIME {real} \"$@\""));
    // Twelve minutes less 712 seconds: due eight seconds after each start, and seen within half a minute by Slurm.
    let options = ["--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=12", "--signal=B:USR1@712"];
    let options = [&["--array=0-1"], &options[..]].concat();
    let arguments = [toys.config.to_str().unwrap(), "--engine", "toy"];
    let job = cluster.submit(&program, &options, "slurm/dev.slurm", &arguments);
    // A signal that does nothing, instead of the script's own.
    let options = ["--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=1", "--signal=B:URG@1"];
    let output = format!("--output={}", cluster.path("out-alone").display());
    let options = [&["--array=0", &output], &options[..]].concat();
    let arguments = [alone.config.to_str().unwrap(), "--engine", "toy"];
    let limited = cluster.submit(&program, &options, "slurm/dev.slurm", &arguments);

    toys.assert_whole();
    for task in 0..2 {
        assert_eq!(cluster.wait(format!("{job}_{task}")), "0:0", "{}", cluster.read("out"));
    }
    let out = cluster.read("out");
    assert!(out.contains("asked to stop") && out.contains("requeued (stopped early)"), "{out}");
    // 12 minutes, less what had passed.
    assert!((600..=720).contains(&told_by_squeue(&out)), "{out}");

    assert_eq!(cluster.wait(format!("{limited}_0")), "0:0", "{}", cluster.read("out-alone"));
    alone.assert_whole();
    let out = cluster.read("out-alone");
    assert!((30..=60).contains(&told_by_squeue(&out)), "{out}");
    // By itself, with 75, in time for the script to requeue it.
    assert!(!out.contains("asked to stop") && !out.contains("TIME LIMIT"), "{out}");
    assert!(out.contains("requeued (stopped early)") && out.contains("start 2, on"), "{out}");
}

/// Slurm itself starts jobs again when their node fails: those starts count too, and what is given up says so in one line.
#[test]
fn slurm_starts_after_node_failures_are_bounded() {
    let Some(cluster) = Cluster::start("") else { return };
    // One never ends by itself; the other has been asked to stop once it is started again.
    let program = cluster.program(
        "echo \"$2 ${SLURM_RESTART_COUNT:-0}\" >>log; [ \"$2 ${SLURM_RESTART_COUNT:-0}\" != stops.toml\\ 1 ] || exit 75; \
         exec sleep 300",
    );
    let jobs = ["works", "stops"].map(|name| {
        let output = format!("--output={}", cluster.path(&format!("out-{name}")).display());
        let options = [&ONE[..], &[&output, "--export=ALL,MAX_STARTS=2"]].concat();
        cluster.submit(&program, &options, "slurm/dev.slurm", &[&format!("{name}.toml")])
    });
    let nodes = cluster.command("sinfo").args(["-h", "-N", "-o", "%N"]).output().unwrap();
    let node = String::from_utf8_lossy(&nodes.stdout).trim().to_string();
    let fail = || {
        for state in ["down", "resume"] {
            let update = ["update", &format!("nodename={node}"), &format!("state={state}"), "reason=test"];
            let done = cluster.command("scontrol").args(update).status().unwrap().success();
            // It may have come back by itself.
            assert!(done || state == "resume", "{node} {state}");
        }
    };
    let started = |line: &str| cluster.read("log").lines().any(|own| own == line);
    cluster.until("both at work", || started("works.toml 0") && started("stops.toml 0"));
    fail();
    cluster.until("both are started again by Slurm", || started("works.toml 1") && started("stops.toml 1"));
    assert_eq!(cluster.wait(format!("{}_0", jobs[1])), "75:0", "{}", cluster.read("out-stops"));
    fail();
    assert_eq!(cluster.wait(format!("{}_0", jobs[0])), "2:0", "{}", cluster.read("out-works"));
    for (name, words) in [("works", "given up"), ("stops", "not requeued")] {
        let out = cluster.read(&format!("out-{name}"));
        let said: Vec<&str> =
            out.lines().filter(|line| line.contains("started 2 times already (MAX_STARTS)")).collect();
        assert!(said.len() == 1 && said[0].contains(words), "{name}: {out}");
        assert!(!out.contains("requeued ("), "it was Slurm that started {name} again: {out}");
    }
    assert_eq!(cluster.read("log").lines().count(), 4, "{}", cluster.read("log"));
}

/// A merged survey in $STORE; not one that is not whole, and not over an older archive.
#[test]
fn slurm_archives_hold_the_survey_and_nothing_unchecked() {
    let Some(cluster) = Cluster::start("") else { return };
    let survey = crate::damage::Survey::new();
    let store = cluster.path("store");
    std::fs::create_dir(&store).unwrap();
    let program = std::path::PathBuf::from(env!("CARGO_BIN_EXE_unseeing"));
    let export = format!("--export=ALL,STORE={}", store.display());
    let archive = |config: &std::path::Path, export: &str| {
        let _ = std::fs::remove_file(cluster.path("out"));
        let options = ["--partition=debug", export];
        let job = cluster.submit(&program, &options, "slurm/archive.slurm", &[config.to_str().unwrap()]);
        (cluster.wait(job), cluster.read("out"))
    };
    let refused = |what: &str, words: &str, (code, out): (String, String)| {
        assert!(code == "2:0" && out.lines().any(|line| line.contains(words)), "{what}: {code}: {out}");
        assert!(std::fs::read_dir(&store).unwrap().next().is_none(), "{what}");
    };
    let config = survey.config();
    refused("no store", "STORE is not set", archive(&config, "--export=ALL,STORE="));
    // What the script joins is what was joined by hand.
    let joined = survey.path("survey/survey.h5");
    let by_hand = std::fs::read(&joined).unwrap();
    ["survey.h5", "survey.fits"]
        .iter()
        .for_each(|name| std::fs::remove_file(survey.path("survey").join(name)).unwrap());
    let job = cluster.submit(&program, &["--partition=debug"], "slurm/merge.slurm", &[config.to_str().unwrap()]);
    assert_eq!(cluster.wait(job), "0:0", "{}", cluster.read("out"));
    assert!(std::fs::read(&joined).unwrap() == by_hand && survey.path("survey/survey.fits").exists());
    for (name, what, words) in [
        ("survey.h5", "a damaged file", "survey.h5 is not what it should be"),
        ("run/shards/00001.h5", "a damaged product", "products are not what they should be"),
    ] {
        let path = survey.path("survey").join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        refused(what, words, archive(&config, &export));
        std::fs::write(&path, &whole).unwrap();
    }
    let receipt = survey.path("survey/run/receipts/00001.json");
    std::fs::rename(&receipt, survey.path("receipt")).unwrap();
    refused("not done", "shards are missing", archive(&config, &export));
    std::fs::rename(survey.path("receipt"), &receipt).unwrap();
    let (code, out) = archive(&config, &export);
    assert_eq!(code, "0:0", "{out}");
    let list = std::fs::read_to_string(store.join("run.list")).unwrap();
    for name in
        ["run/plan.json", "run/receipts/00001.json", "run/shards/00000.h5", "config.toml", "survey.h5", "survey.fits"]
    {
        assert!(list.lines().any(|line| line == name), "{name}: {list}");
    }
    let tool = |name: &str, arguments: &[&str]| {
        std::process::Command::new(name).args(arguments).current_dir(&store).status().unwrap().success()
    };
    assert!(tool("sha256sum", &["--status", "-c", "run.tar.sha256"]));
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 3, "{out}");
    let (code, out) = archive(&config, &export);
    assert!(code == "2:0" && out.contains("is there already"), "{out}");
    // What comes out again is what went in, for the program too.
    assert!(tool("tar", &["-xf", "run.tar"]));
    assert_eq!(
        std::fs::read(store.join("survey.h5")).unwrap(),
        std::fs::read(survey.path("survey/survey.h5")).unwrap()
    );
    for place in ["run", "survey.h5"] {
        assert!(crate::common::unseeing().arg("verify").arg(store.join(place)).status().unwrap().success(), "{place}");
    }
}
