//! Where a document's commands are carried out: a host of their own, with its network, its `/run`, and guests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::commands::{ANOTHER, CHANGED, SERVED, is_endless, is_program, judge, rehearse};
use super::{Prompt, looks_like};
use crate::driver::nic::VERSION_1;
use crate::driver::{Client, Queue};
use crate::process::exit_code;
use crate::vnicd::binary;
use crate::{Control, Guest, NetNs, Output, Process, Qemu};

const PATIENCE: Duration = Duration::from_secs(60);
/// A guest shares its CPUs with others.
const GUESTS: Duration = Duration::from_secs(120);
/// What waits for room to boot a guest lives on meanwhile.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Where `vnicctl` looks when nothing is said.
const CONTROL: &str = "/run/vnicd/control.sock";
/// The directory that stands for the one of this name.
const ETC: &str = "/etc/vnicd/";
/// A host.
#[derive(Debug)]
pub struct Stage {
    guests: Vec<(Guest, bool)>,
    driver: Option<(Client, [Queue; 2])>,
    /// Whether the newest daemon is the one that answers where a document has started none.
    serves: bool,
    daemons: Vec<(Process, Vec<String>)>,
    background: Vec<Process>,
    ns: NetNs,
    dir: TempDir,
}

impl Stage {
    /// With loopback alone, and an empty `/run`.
    pub fn new() -> Result<Self> {
        let stage = Self {
            guests: Vec::new(),
            driver: None,
            serves: false,
            daemons: Vec::new(),
            background: Vec::new(),
            ns: NetNs::new()?,
            dir: tempfile::Builder::new().prefix("document-").tempdir()?,
        };
        for dir in ["run/vnicd", "etc/vnicd/devices", "work"] {
            fs::create_dir_all(stage.dir.path().join(dir))?;
        }
        stage.file(SERVED)?;
        Ok(stage)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// Writes the configuration file that the daemon reads in this document.
    pub fn file(&self, text: &str) -> Result<()> {
        // This machine's groups are others.
        let text = format!("{}\n", text.replace("\"kvm\"", "\"0\""));
        let text = text.replace(ETC, &format!("{}/", self.path(ETC).display()));
        let control = if text.contains("control =") { String::new() } else { format!("control = '{CONTROL}'\n") };
        Ok(fs::write(self.path(ETC).join("vnicd.toml"), control + &text)?)
    }

    /// Carries a command out. It must do what a reader expects: end well (or badly, where an error is shown), or go on where it
    /// is to, and print what looks like `shown`.
    pub fn run(&mut self, prompt: &Prompt, text: &str, shown: &[String]) -> Result<()> {
        if *prompt == Prompt::Guest {
            let output = self.guest()?.run_for(text, GUESTS)?;
            return judge(&output, shown);
        }
        self.prepare(text)?;
        let text = text.replace(ETC, &format!("{}/", self.path(ETC).display()));
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["vnicd", .., "--version" | "--help" | "--print-capabilities"] => self.finish(&text, shown),
            ["vnicd", ..] => self.daemon(text.trim_end_matches('&').trim()),
            ["qemu-system-x86_64", ..] => self.boot(&words),
            ["kill", "%1"] => self.end_daemon(),
            ["make", ..] => rehearse(&words),
            [script, ..] if script.starts_with("configs/") || script.starts_with("scripts/") => is_program(script),
            ["vnicctl", "reload"] if self.serves => self.reload(shown),
            [.., "&"] => {
                self.background.push(self.spawn(text.trim_end_matches('&'))?);
                Ok(())
            }
            [.., "top"] => self.draw(&text),
            _ if is_endless(&words) => self.interrupt(&text, shown),
            _ => self.finish(&text, shown),
        }
    }

    /// Sends a request to the daemon that answers. It must be understood or refused as is shown, in the same words.
    pub fn exchange(&mut self, request: &str, shown: &str) -> Result<()> {
        self.prepare("vnicctl")?;
        let answer = Control::connect(&self.path(CONTROL))?.exchange(request)?;
        let told = shown.split("\"message\":").nth(1).and_then(|rest| rest.split("\"}").next()).unwrap_or_default();
        let is_alike =
            answer.get("result").is_some() == shown.contains("\"result\":") && answer.to_string().contains(told);
        ensure!(is_alike, "it was answered {answer}, not {shown}");
        Ok(())
    }

    /// Makes what the command takes for granted.
    fn prepare(&mut self, text: &str) -> Result<()> {
        let lacks = |link: &str| text.contains(link) && self.ns.sh(&format!("ip link show {link}")).is_err();
        if lacks("br0") && !text.contains("add br0") {
            self.ns.sh("ip link add br0 type bridge && ip link set br0 up")?;
        }
        if lacks("eth1") {
            let queues = "numtxqueues 4 numrxqueues 4";
            self.ns.sh(&format!("ip link add eth1 {queues} type veth peer name far1 {queues}"))?;
            self.ns.sh("ip link set eth1 up && ip link set far1 up && ethtool -K far1 tx off")?;
        }
        let asks = text.contains("vnicctl") && !text.contains("doctor");
        let is_default = asks && !text.contains("--control") || text.contains(CONTROL) && !text.starts_with("vnicd ");
        // What changes devices needs a daemon that has a file.
        let by_file = ["vnicctl reload", "vnicctl device"].iter().any(|begin| text.starts_with(begin));
        let answers = |(_, words): &(Process, Vec<String>)| {
            words.iter().any(|word| word == "--config" || !by_file && word == CONTROL)
        };
        if is_default && !self.daemons.iter().any(answers) {
            self.file(SERVED)?;
            self.end_those(|words| words.iter().any(|word| word == CONTROL))?;
            self.daemon(&format!("vnicd --config {}", self.path(ETC).join("vnicd.toml").display()))?;
            self.serves = true;
        }
        if asks && self.guests.is_empty() && self.driver.is_none() {
            let mut client = Client::start(&self.newest_socket()?, VERSION_1)?;
            let rings = [client.running_queue(0, 256)?, client.running_queue(1, 256)?];
            self.driver = Some((client, rings));
        }
        Ok(())
    }

    /// The socket of the newest daemon's first device.
    fn newest_socket(&self) -> Result<PathBuf> {
        let (process, _) = self.daemons.last().context("no daemon runs")?;
        let line = process.wait_for_line("listening on", PATIENCE)?;
        let path = line.split("listening on ").last().and_then(|rest| rest.split_whitespace().next());
        Ok(self.path(path.unwrap_or_default()))
    }

    /// A command inside, where `/run` is this host's own.
    fn command(&self, text: &str) -> Result<Command> {
        let programs = binary()?.parent().context("no directory")?.to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.ns.command("sh");
        command.args(["-c", "mount --bind \"$RUN\" /run && cd \"$WORK\" && exec sh -c \"$LINE\""]).env("LINE", text);
        command.env("PATH", format!("{}:{path}", programs.display())).env("NO_COLOR", "1").env("TERM", "xterm");
        command.env("RUN", self.path("run")).env("WORK", self.path("work"));
        Ok(command)
    }

    fn spawn(&self, text: &str) -> Result<Process> {
        Process::spawn_for(self.command(&format!("exec {text}"))?, LIFETIME)
    }

    fn finish(&self, text: &str, shown: &[String]) -> Result<()> {
        let mut output = Process::spawn(self.command(text)?)?.wait_output(PATIENCE)?;
        let here = self.dir.path().to_string_lossy().into_owned();
        (output.stdout, output.stderr) = (output.stdout.replace(&here, ""), output.stderr.replace(&here, ""));
        judge(&output, shown)
    }

    /// A command that goes on until it is interrupted.
    fn interrupt(&self, text: &str, shown: &[String]) -> Result<()> {
        // Something to tell of meanwhile.
        let control = text.split_whitespace().skip_while(|word| *word != "--control").nth(1).unwrap_or(CONTROL);
        let change = format!("vnicctl --control {control} mode set all polling --for 100ms");
        let line = text.replace('\'', "'\\''");
        // The second time for a machine that is slow.
        let mut told = String::new();
        for seconds in [4, 30] {
            let process = Process::spawn(self.command(&format!("timeout -s INT -k 5 {seconds} sh -c '{line}'"))?)?;
            std::thread::sleep(Duration::from_secs(1));
            Process::spawn(self.command(&change)?)?.wait_output(PATIENCE)?;
            let Output { status, stdout, stderr } = process.wait_output(PATIENCE)?;
            let printed = stdout + &stderr;
            match looks_like(shown, &printed) {
                None if [0, 124, 130].contains(&status) => return Ok(()),
                None => told = format!("it ended with {status}\n{printed}"),
                Some(line) => told = format!("nothing like \"{line}\" in\n{printed}"),
            }
        }
        bail!(told)
    }

    /// What draws on a terminal, until `q` is typed.
    fn draw(&self, text: &str) -> Result<()> {
        let line = format!("(sleep 4; printf q) | script -qefc 'stty cols 160 rows 40; {text}' /dev/null");
        let drawn = Process::spawn(self.command(&line)?)?.wait_output(PATIENCE)?.ok(text)?;
        ensure!(drawn.contains("LANE"), "nothing is drawn\n{drawn}");
        Ok(())
    }

    /// Starts a daemon in the place of those that have the same socket or uplink.
    fn daemon(&mut self, text: &str) -> Result<()> {
        let text = text.replace('…', "--socket-path /run/vm1.sock");
        let words: Vec<String> = text.split_whitespace().map(String::from).collect();
        let own = |words: &[String]| -> Vec<String> {
            let owned =
                words.iter().filter(|word| word.starts_with('/') || word.contains("=vm") || word.contains("=eth"));
            owned.map(|word| word.split(',').next().unwrap_or_default().to_owned()).collect()
        };
        let wanted = own(&words);
        self.end_those(|words| own(words).iter().any(|word| wanted.contains(word)))?;
        let process = self.spawn(&text)?;
        let waits = if words.iter().any(|word| word == "--client") { "no front end listens" } else { "listening on" };
        process.wait_for_line(waits, PATIENCE)?;
        self.daemons.push((process, words));
        Ok(())
    }

    fn end_those(&mut self, is_one: impl Fn(&[String]) -> bool) -> Result<()> {
        let (gone, kept) = std::mem::take(&mut self.daemons).into_iter().partition(|(_, words)| is_one(words));
        self.daemons = kept;
        for (process, _) in gone {
            ensure!(process.terminate()?.success(), "a daemon did not end well\n{}", process.tail());
            (self.driver, self.serves) = (None, false);
            self.guests.retain(|(_, comes_back)| *comes_back);
        }
        Ok(())
    }

    fn end_daemon(&mut self) -> Result<()> {
        let (process, _) = self.daemons.pop().context("no daemon runs")?;
        let status = process.terminate()?;
        ensure!(status.success(), "it ended with {}\n{}", exit_code(status), process.tail());
        Ok(())
    }

    /// Boots a guest with the network device of a QEMU's command line; what is not shown of it is as elsewhere.
    fn boot(&mut self, words: &[&str]) -> Result<()> {
        let mut args: Vec<String> = Vec::new();
        for pair in words.windows(2).filter(|pair| ["-chardev", "-netdev", "-device"].contains(&pair[0])) {
            args.push(pair[0].into());
            args.push(pair[1].replace("path=/run/", &format!("path={}/", self.path("run").display())));
        }
        if !words.contains(&"…") {
            let line = words.join(" ");
            ensure!(line.contains("share=on -numa node,memdev=mem"), "the guest's memory is not shared");
        }
        if !words.contains(&"-netdev") {
            args.extend(["-netdev", "vhost-user,id=net,chardev=vnic"].map(String::from));
            args.extend(["-device", "virtio-net-pci,netdev=net"].map(String::from));
        }
        self.boot_with(args)
    }

    fn boot_with(&mut self, args: Vec<String>) -> Result<()> {
        let comes_back = args.iter().any(|arg| arg.contains("reconnect"));
        self.guests.clear();
        self.driver = None;
        let guest = Guest::builder().qemu(Qemu::V10).ns(&self.ns).qemu_args(args).lifetime(LIFETIME).boot()?;
        let (process, _) = self.daemons.last().context("no daemon runs")?;
        process.wait_for_line("ring started", PATIENCE).or_else(|_| {
            guest.run_ok("ip link set eth0 up")?;
            process.wait_for_line("ring started", PATIENCE)
        })?;
        self.guests.push((guest, comes_back));
        Ok(())
    }

    /// The guest that a document speaks of; one with four queue pairs on the newest daemon if it started none.
    fn guest(&mut self) -> Result<&Guest> {
        if self.guests.is_empty() {
            let socket = self.newest_socket()?;
            let args = [
                "-chardev",
                &format!("socket,id=vnic,path={}", socket.display()),
                "-netdev",
                "vhost-user,id=net,chardev=vnic,queues=4",
                "-device",
                "virtio-net-pci,netdev=net,mq=on,vectors=10",
            ];
            self.boot_with(args.map(String::from).into())?;
        }
        self.guests.last().map(|(guest, _)| guest).context("no guest")
    }

    /// Has the service read a file again that has changed, and then again the one that it had.
    fn reload(&self, shown: &[String]) -> Result<()> {
        let reload = || self.finish("vnicctl reload", &[]);
        self.file(&format!("{SERVED}{ANOTHER}"))?;
        reload()?;
        self.file(&format!("{SERVED}{CHANGED}"))?;
        self.finish("vnicctl reload", shown)?;
        self.file(SERVED)?;
        reload()
    }
}
