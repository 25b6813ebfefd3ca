//! Open vSwitch in a namespace: its database and its switch, with files in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::lab::eventually;
use crate::netns::NetNs;
use crate::process::Process;
use crate::{Script, assets};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running switch; it ends when this is dropped.
#[derive(Debug)]
pub struct OpenVswitch {
    programs: Programs,
    dir: TempDir,
    _switch: Process,
    _database: Process,
}

/// Where its files are: unpacked by the set-up, unless it is installed.
#[derive(Debug)]
struct Programs(Option<PathBuf>);

impl OpenVswitch {
    /// Starts it with an empty database.
    pub fn start(ns: &NetNs) -> Result<Self> {
        let programs = Programs(Some(assets::cache()?.join("openvswitch")).filter(|dir| dir.is_dir()));
        let dir = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let database = dir.path().join("conf.db").to_string_lossy().into_owned();
        let remote = format!("unix:{}", dir.path().join("db.sock").display());
        let schema = programs.place("share/openvswitch/vswitch.ovsschema").to_string_lossy().into_owned();
        let run = |program: &str, args: &[&str]| {
            let mut command = ns.command(programs.place(program));
            command.args(args);
            programs.prepare(&mut command, dir.path());
            Process::spawn(command).context("Open vSwitch is missing: run `scripts/setup test` first")
        };
        run("bin/ovsdb-tool", &["create", &database, &schema])?.wait_output(PATIENCE)?.ok("ovsdb-tool create")?;
        let quiet = "-vconsole:warn -vsyslog:off -vfile:off".split(' ');
        let logged: Vec<&str> = quiet.collect();
        let server = run("sbin/ovsdb-server", &[&logged[..], &[&database, &format!("--remote=p{remote}")]].concat())?;
        eventually("the switch's database is there", || Ok(dir.path().join("db.sock").exists()))?;
        let switch = run("lib/openvswitch-switch/ovs-vswitchd", &[&logged[..], &[&remote]].concat())?;
        Ok(Self { programs, dir, _switch: switch, _database: server })
    }

    /// Has a script find it.
    pub fn known_to(&self, script: Script) -> Script {
        let script = self
            .programs
            .variables(self.dir.path())
            .into_iter()
            .fold(script, |script, (name, value)| script.set(name, value));
        script.programs_of(self.programs.place("bin"))
    }
}

impl Programs {
    fn place(&self, below_usr: &str) -> PathBuf {
        self.0.clone().unwrap_or("/".into()).join("usr").join(below_usr)
    }

    fn prepare(&self, command: &mut Command, dir: &Path) {
        command.envs(self.variables(dir));
    }

    fn variables(&self, dir: &Path) -> Vec<(&'static str, PathBuf)> {
        let mut variables: Vec<_> =
            ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"].map(|name| (name, dir.into())).into();
        if self.0.is_some() {
            variables.push(("LD_LIBRARY_PATH", self.place("lib/x86_64-linux-gnu")));
        }
        variables
    }
}
