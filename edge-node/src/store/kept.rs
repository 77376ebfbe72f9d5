//! What is kept beside the log, each in a small file of the data folder: whose log it is, and its
//! life so far.
//!
//! ```text
//! identity.toml  node and store: written once; a log of another store is refused
//! life.toml      counters of the wear governor, how long the log was, where the scrub is
//! ```
//!
//! Written as design says: temporary file, `fsync`, rename, `fsync` of the folder. A life that
//! cannot be read begins anew; an identity that cannot be read is said, and the operator decides.

use super::advice;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use weir_core::log::{Life, Stats};

pub const IDENTITY: &str = "identity.toml";
const LIFE: &str = "life.toml";

/// A store's UUID as it is written for people.
pub fn store_name(store: &[u8; 16]) -> String {
    store.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The store that the data folder belongs to, if that is known.
pub fn identity(folder: &Path) -> Result<Option<String>, String> {
    let path = folder.join(IDENTITY);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(advice(&error, "read", &path)),
    };
    let table: Result<toml::Table, _> = text.parse();
    let store = table.ok().and_then(|table| Some(table.get("store")?.as_str()?.to_string()));
    store.map(Some).ok_or_else(|| {
        format!(
            "{} does not say which log the folder belongs to: if the log is the right one, delete \
             that file and it is written again",
            path.display()
        )
    })
}

pub fn write_identity(folder: &Path, node: i32, store: &[u8; 16]) -> Result<(), String> {
    let text = format!(
        "# Which flash log belongs to this folder. Delete it only to begin with another log.\n\
         node = {node}\nstore = \"{}\"\n",
        store_name(store)
    );
    let path = folder.join(IDENTITY);
    replace(&path, &text).map_err(|error| advice(&error, "write", &path))
}

/// What is known of the log's past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub life: Life,
    /// Length of the log when it was last known to be on flash.
    pub medium_bytes: u64,
    /// The slot that the scrub reads next.
    pub scrub_slot: u32,
}

impl Past {
    /// The past of this store; the card's own counters go on whatever is on it.
    pub fn read(folder: &Path, store: &str) -> Past {
        let text = fs::read_to_string(folder.join(LIFE)).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let number = |name: &str| {
            table.get(name).and_then(|v| v.as_integer()).and_then(|n| u64::try_from(n).ok())
        };
        let of = |name| number(name).unwrap_or(0);
        let same = table.get("store").and_then(|store| store.as_str()) == Some(store);
        Past {
            life: Life {
                seconds: of("seconds"),
                programmed_bytes: of("programmed_bytes"),
                payload_bytes: of("payload_bytes"),
                written_bytes: of("written_bytes"),
                zeroed_bytes: of("zeroed_bytes"),
                flushes: of("flushes"),
            },
            medium_bytes: if same { of("medium_bytes") } else { 0 },
            scrub_slot: if same { of("scrub_slot") as u32 } else { 0 },
        }
    }

    /// What a running log says of itself.
    pub fn take(&mut self, log: &Stats) {
        self.life = log.life;
        self.scrub_slot = log.scrub.slot;
    }

    pub fn write(&self, folder: &Path, store: &str) -> io::Result<()> {
        let Life { seconds, programmed_bytes, payload_bytes, .. } = self.life;
        let Life { written_bytes, zeroed_bytes, flushes, .. } = self.life;
        let text = format!(
            "# What the flash log has cost its medium so far; weir writes this each hour.\n\
             store = \"{store}\"\nseconds = {seconds}\nprogrammed_bytes = {programmed_bytes}\n\
             payload_bytes = {payload_bytes}\nwritten_bytes = {written_bytes}\n\
             zeroed_bytes = {zeroed_bytes}\nflushes = {flushes}\n\
             medium_bytes = {}\nscrub_slot = {}\n",
            self.medium_bytes, self.scrub_slot
        );
        replace(&folder.join(LIFE), &text)
    }
}

/// Gives a file this content, durably and at once: after a cut it has the old one or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

/// Makes the names in a file's folder durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_survives_and_a_cut_in_between_leaves_the_old_one() {
        let folder = std::env::temp_dir().join(format!("weir-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(identity(&folder).unwrap(), None);
        write_identity(&folder, 3, &[0xab; 16]).unwrap();
        assert_eq!(identity(&folder).unwrap().unwrap(), "ab".repeat(16));
        fs::write(folder.join(IDENTITY), "store = 7").unwrap();
        assert!(identity(&folder).unwrap_err().contains("delete that file"));

        let life = Life { seconds: 7, programmed_bytes: 1 << 40, flushes: 9, ..Life::default() };
        let past = Past { life, medium_bytes: 5 << 20, scrub_slot: 17 };
        past.write(&folder, "one").unwrap();
        fs::write(folder.join("life.new"), "half a fi").unwrap();
        assert_eq!(Past::read(&folder, "one"), past);
        let other = Past::read(&folder, "other");
        assert_eq!(other, Past { life, ..Past::default() }, "a card goes on, its log does not");
        fs::write(folder.join(LIFE), "seconds = \"many\"\n[").unwrap();
        assert_eq!(Past::read(&folder, "one"), Past::default());
        fs::remove_dir_all(folder).unwrap();
    }
}
