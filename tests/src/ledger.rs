//! What clients of a site were told, held against what the site has in the end. Each check is named
//! by the promise that it proves, and has a ledger that it must refuse.

use crate::tools;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// By partition and offset.
pub type Log = BTreeMap<(i32, i64), String>;

/// A client that tells of events, a line each, until it is ended.
#[derive(Debug)]
pub struct Client {
    pub name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Client {
    pub fn started(name: &str, command: &mut Command) -> Client {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (output, shared) = (child.stdout.take().expect("it is piped"), lines.clone());
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                shared.lock().unwrap().push(line);
            }
        });
        let input = child.stdin.take();
        Client { name: name.into(), child, input, lines, reader: Some(reader) }
    }

    /// Of `tests/clients/site.py`.
    pub fn of_site(name: &str, scenario: &str, bootstrap: &str, args: &[&str]) -> Client {
        let mut command = tools::python("site.py");
        Client::started(name, command.arg(scenario).arg(bootstrap).args(args))
    }

    /// How many events there are of a kind, by what their lines contain.
    pub fn count(&self, what: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }

    /// All that it has told so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Closes its input, or sends it a signal, and waits for its end; all that it has told.
    pub fn end(mut self, signal: Option<&str>, limit: Duration) -> Vec<String> {
        drop(self.input.take());
        if let Some(signal) = signal {
            tools::signal(self.child.id(), signal);
        }
        crate::wait_for(&format!("{} ends", self.name), limit, || self.child.try_wait().unwrap());
        self.reader.take().expect("it is joined once").join().unwrap();
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One acknowledged record of a producer that numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    pub partition: i32,
    pub offset: i64,
    pub number: u64,
}

/// What a member of a group has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Got {
        partition: i32,
        offset: i64,
        value: String,
    },
    Committed {
        at: u128,
        partition: i32,
        offset: i64,
    },
    /// It began at the group's offset, for which it asked at this moment or later.
    Resumed {
        at: u128,
        partition: i32,
        offset: i64,
    },
}

pub fn acked(lines: &[String]) -> Vec<Acked> {
    let parse = |line: &String| {
        let mut words = line.strip_prefix("acked ")?.split(' ');
        Some(Acked {
            partition: words.next()?.parse().ok()?,
            offset: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
        })
    };
    lines.iter().filter_map(parse).collect()
}

pub fn events(lines: &[String]) -> Vec<Event> {
    let parse = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let partition = |at: usize| words.get(at)?.parse().ok();
        let offset = |at: usize| words.get(at)?.parse().ok();
        let at = || words.get(1)?.parse().ok();
        Some(match words[0] {
            "got" => Event::Got {
                partition: partition(1)?,
                offset: offset(2)?,
                value: words.get(3)?.to_string(),
            },
            "committed" => {
                Event::Committed { at: at()?, partition: partition(2)?, offset: offset(3)? }
            }
            "resumed" => Event::Resumed { at: at()?, partition: partition(2)?, offset: offset(3)? },
            _ => return None,
        })
    };
    lines.iter().filter_map(parse).collect()
}

/// Everything that a reader of the whole topic has got.
pub fn log(lines: &[String]) -> Log {
    let got = events(lines).into_iter().filter_map(|event| match event {
        Event::Got { partition, offset, value } => Some(((partition, offset), value)),
        _ => None,
    });
    got.collect()
}

/// NoAcknowledgedRecordLost: each is where its producer was told.
pub fn nothing_acknowledged_is_lost(name: &str, acked: &[Acked], log: &Log) -> Result<(), String> {
    let lost = acked.iter().find(|acked| {
        let value = log.get(&(acked.partition, acked.offset));
        value.is_none_or(|value| *value != format!("{name}:{}", acked.number))
    });
    match lost {
        None => Ok(()),
        Some(lost) => {
            let there = log.get(&(lost.partition, lost.offset));
            Err(format!("{lost:?} was acknowledged to {name}; there is {there:?}"))
        }
    }
}

/// OrderIsKept, and NoDuplicates of an idempotent producer. Another one sends a batch again when
/// its answer is lost: what is there already may follow a second time.
pub fn order_is_kept(name: &str, log: &Log, idempotent: bool) -> Result<(), String> {
    let mut seen: BTreeMap<i32, BTreeSet<u64>> = BTreeMap::new();
    for ((partition, offset), value) in log {
        let number = value.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'));
        let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else { continue };
        let seen = seen.entry(*partition).or_default();
        let last = seen.last().copied().filter(|last| *last >= number);
        if let Some(last) = last
            && (idempotent || !seen.contains(&number))
        {
            return Err(format!("{partition}-{offset}: {name}'s {number} behind {last}"));
        }
        seen.insert(number);
    }
    Ok(())
}

/// ConsistentOffsets and NothingSkipped: the members of a group have got everything, and what they
/// have got is what there is.
pub fn everything_is_read(members: &[Vec<Event>], log: &Log) -> Result<(), String> {
    let mut seen: BTreeSet<(i32, i64)> = BTreeSet::new();
    for event in members.iter().flatten() {
        let Event::Got { partition, offset, value } = event else { continue };
        let there = log.get(&(*partition, *offset));
        if there != Some(value) {
            return Err(format!("{partition}-{offset} was read as {value}; there is {there:?}"));
        }
        seen.insert((*partition, *offset));
    }
    let missed = log.keys().find(|place| !seen.contains(place));
    missed.map_or(Ok(()), |place| Err(format!("nobody has got {place:?}")))
}

/// OffsetsNeverGoBack: who begins at the group's offset finds what was committed before, or more.
pub fn offsets_never_go_back(members: &[Vec<Event>]) -> Result<(), String> {
    for resumed in members.iter().flatten() {
        let Event::Resumed { at, partition, offset } = resumed else { continue };
        for committed in members.iter().flatten() {
            if let Event::Committed { at: before, partition: of, offset: up_to } = committed
                && before < at
                && of == partition
                && up_to > offset
            {
                return Err(format!("{committed:?}, and then {resumed:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn each_check_refuses_what_breaks_its_promise() {
        let whole = lines(&["got 0 0 a:0", "got 0 1 a:1", "got 1 0 a:0", "end 0"]);
        let acked = acked(&lines(&["acked 0 0 0", "acked 0 1 1", "failed 1 0 X", "end 0"]));
        assert_eq!(acked.len(), 2);
        let check = |log: &[&str]| {
            let log = log.iter().map(|line| line.to_string()).collect::<Vec<_>>();
            nothing_acknowledged_is_lost("a", &acked, &super::log(&log))
        };
        assert_eq!(nothing_acknowledged_is_lost("a", &acked, &log(&whole)), Ok(()));
        assert!(check(&["got 0 0 a:0"]).is_err(), "lost");
        assert!(check(&["got 0 0 a:1", "got 0 1 a:0"]).is_err(), "elsewhere");
        let twice = log(&lines(&["got 0 0 a:0", "got 0 1 a:0", "got 0 2 b:0", "got 1 0 a:0"]));
        assert_eq!(order_is_kept("a", &twice, false), Ok(()));
        assert!(order_is_kept("a", &twice, true).is_err(), "a duplicate");
        let batch = ["got 0 0 a:0", "got 0 1 a:1", "got 0 2 a:0", "got 0 3 a:1", "got 0 4 a:2"];
        assert_eq!(order_is_kept("a", &log(&lines(&batch)), false), Ok(()));
        assert!(order_is_kept("a", &log(&lines(&batch)), true).is_err(), "a batch twice");
        let back = log(&lines(&["got 0 0 a:1", "got 0 1 a:0"]));
        assert!(order_is_kept("a", &back, false).is_err(), "the wrong order");
    }

    #[test]
    fn each_check_of_a_group_refuses_what_breaks_its_promise() {
        let whole = log(&lines(&["got 0 0 a:0", "got 0 1 a:1"]));
        let read = |one: &[&str], other: &[&str]| {
            everything_is_read(&[events(&lines(one)), events(&lines(other))], &whole)
        };
        assert_eq!(read(&["got 0 0 a:0"], &["got 0 0 a:0", "got 0 1 a:1"]), Ok(()));
        assert!(read(&["got 0 0 a:0"], &["resumed 5 0 1"]).is_err(), "one is skipped");
        assert!(read(&["got 0 0 a:0", "got 0 1 a:9"], &["got 0 1 a:1"]).is_err(), "another");
        let go = |one: &[&str], other: &[&str]| {
            offsets_never_go_back(&[events(&lines(one)), events(&lines(other))])
        };
        assert_eq!(go(&["committed 5 0 10"], &["resumed 6 0 10", "resumed 4 0 2"]), Ok(()));
        assert!(go(&["committed 5 0 10"], &["resumed 6 0 9"]).is_err());
        assert_eq!(go(&["committed 5 0 10"], &["resumed 6 1 9"]), Ok(()));
    }
}
