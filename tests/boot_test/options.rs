//! What is asked for on the command line.

use std::path::PathBuf;
use weir_tests::board::Machine;

pub const USAGE: &str = "\
weir-boot-test IMAGE --folder FOLDER [--cycles 10] [--machine virt|raspi3b] [--seed 1]
               [--lies]  the disk forgets what it has flushed: losses must be found
  IMAGE    of boards/image, or a folder of boards/tiny
  FOLDER   is made anew: the disk, what QEMU recorded, and what the board has printed";

#[derive(Clone, Debug)]
pub struct Options {
    pub image: PathBuf,
    pub folder: PathBuf,
    pub cycles: u64,
    pub machine: Machine,
    pub seed: u64,
    /// The ledgers are not told at which entry the disk was cut: losses must be found.
    pub lies: bool,
}

impl Options {
    /// An error is a sentence.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            image: PathBuf::new(),
            folder: PathBuf::new(),
            cycles: 10,
            machine: Machine::Virt,
            seed: 1,
            lies: false,
        };
        while let Some(name) = args.next() {
            if !name.starts_with("--") && options.image.as_os_str().is_empty() {
                options.image = name.into();
                continue;
            }
            if name == "--lies" {
                options.lies = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse().map_err(|_| format!("{name} needs a number"));
            match name.as_str() {
                "--folder" => options.folder = value.into(),
                "--cycles" => options.cycles = number()?,
                "--seed" => options.seed = number()?,
                "--machine" => {
                    options.machine = match value.as_str() {
                        "virt" => Machine::Virt,
                        "raspi3b" => Machine::RaspberryPi3,
                        _ => return Err(format!("--machine {value}: virt or raspi3b")),
                    }
                }
                _ => return Err(format!("there is no option {name}")),
            }
        }
        let given = !options.image.as_os_str().is_empty() && !options.folder.as_os_str().is_empty();
        if given { Ok(options) } else { Err("say which IMAGE, and which --folder".into()) }
    }
}
