//! The event log of a job: one file of JSON lines in the run folder, written by the leader as things happen: who works where and
//! with what, shards claimed, published and lost, warnings of all ranks, the end. It serves people and their scripts; the
//! program never reads it. And the way of warnings from a rank's log to its leader.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::folder::Folder;
use crate::cluster;

/// Warnings that wait for being sent. More than these in one go are counted only: a rank that warns without end must
/// not fill the leader's memory.
const WAITING: usize = 100;

/// The event log.
pub struct Events {
    log: Mutex<Log>,
    path: PathBuf,
}

#[derive(Default)]
struct Log {
    file: Option<File>,
    /// Events that could not be written since the last one that could.
    lost: u64,
    /// Whether it has been said that something could not.
    warned: bool,
}

impl Events {
    /// Starts the log of this job. A log that cannot be written is a warning: no work depends on it.
    pub fn start(folder: &Folder) -> Events {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path = folder.events().join(format!("{time}-{}-{}.jsonl", cluster::host(), std::process::id()));
        let opened = std::fs::create_dir_all(folder.events())
            .and_then(|()| File::options().create_new(true).append(true).open(&path));
        let file = opened.map_err(|error| warn(&path, &error)).ok();
        Events { log: Mutex::new(Log { file, ..Log::default() }), path }
    }

    /// One that writes nothing, for tests.
    #[cfg(test)]
    pub fn nowhere() -> Events {
        Events { log: Mutex::default(), path: PathBuf::new() }
    }

    /// Writes an event: its name and time, and the fields of `details`, an object. What cannot be written is left out, with
    /// one warning, until there is room again: then the log says how many events it lacks.
    pub fn write(&self, event: &str, details: Value) {
        let Ok(mut log) = self.log.lock() else { return };
        let Log { file: Some(file), lost, warned } = &mut *log else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut line = json!({ "time": time, "event": event });
        if let (Value::Object(line), Value::Object(details)) = (&mut line, details) {
            line.extend(details);
        }
        let gap = if *lost > 0 { format!("{}\n", json!({ "event": "gap", "lost": lost })) } else { String::new() };
        let whole = file.metadata().map(|data| data.len());
        // One write for a line, so that a kill leaves whole lines.
        match file.write_all(format!("{gap}{line}\n").as_bytes()) {
            Ok(()) => *lost = 0,
            Err(error) => {
                // On a full disk the first part of the line may have found room.
                let _ = whole.and_then(|length| file.set_len(length));
                *lost += 1;
                if !std::mem::replace(warned, true) {
                    warn(&self.path, &error);
                }
            }
        }
    }
}

fn warn(path: &std::path::Path, error: &std::io::Error) {
    tracing::warn!("{}: the event log cannot be written, and lacks what comes now: {error}", path.display());
}

/// Warnings and errors of this process, as a layer of its log; clones share them.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<(VecDeque<String>, usize)>>);

impl Warnings {
    /// Takes what has come since the last call.
    pub fn take(&self) -> Vec<String> {
        let Ok(mut waiting) = self.0.lock() else { return Vec::new() };
        let more = std::mem::take(&mut waiting.1);
        let mut taken: Vec<String> = waiting.0.drain(..).collect();
        if more > 0 {
            taken.push(format!("and {more} further warnings"));
        }
        taken
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event, _context: Context<S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let Ok(mut waiting) = self.0.lock() else { return };
        if waiting.0.len() < WAITING {
            waiting.0.push_back(text.0);
        } else {
            waiting.1 += 1;
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn warnings_are_taken_once_and_are_bounded() {
        let warnings = Warnings::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(warnings.clone()), || {
            tracing::info!("nothing to see");
            (0..WAITING + 3).for_each(|index| tracing::warn!("number {index}"));
        });
        let taken = warnings.take();
        assert_eq!((taken.len(), taken[0].as_str()), (WAITING + 1, "number 0"));
        assert_eq!(taken.last().unwrap(), "and 3 further warnings");
        assert!(warnings.take().is_empty());
    }

    #[test]
    fn events_are_lines_and_a_log_that_cannot_be_written_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let events = Events::start(&folder);
        events.write("shard", json!({ "shard": 3 }));
        let text = std::fs::read_to_string(&events.path).unwrap();
        let line: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert!(line["event"] == "shard" && line["shard"] == 3 && line["time"].as_f64().unwrap() > 1e9, "{line}");
        std::fs::remove_dir_all(folder.events()).unwrap();
        std::fs::write(folder.events(), "no folder").unwrap();
        Events::start(&folder).write("shard", json!({}));
    }
}
