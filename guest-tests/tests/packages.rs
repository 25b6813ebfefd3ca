//! Packages as an operator meets them: installed in a clean system, started by systemd, upgraded, removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::container::Container;
use guest_tests::driver::Client;
use guest_tests::driver::nic::VERSION_1;
use guest_tests::lab::eventually;
use guest_tests::package::package;
use guest_tests::spell::Spell;
use guest_tests::{Process, Usage};

const PATIENCE: Duration = Duration::from_secs(180);
const OLD: &str = "0.1.0";
const NEW: &str = "0.1.1";
/// Where `systemd-analyze security` still says "OK", and some way from where it says "MEDIUM".
const MOST_EXPOSED: u32 = 25;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(repository());
    Process::spawn(command)?.wait_output(PATIENCE)?.ok(&format!("{program} {}", args.join(" ")))
}

/// What lies on the system's disk but for what it notes itself.
fn files(system: &Container) -> Result<BTreeSet<String>> {
    let listed = system.ok(
        "find / -xdev \\( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /var/lib/systemd -o \
         -path /tmp -o -path /root -o -path /run -o -path /proc \\) -prune -o -print",
    )?;
    Ok(listed.lines().filter(|line| !line.ends_with('-')).map(String::from).collect())
}

const DEVICE: &str = r#"
control = "/run/vnicd/control.sock"
state-dir = "/run/vnicd"
device-dir = "/etc/vnicd/devices"
[[device]]
name = "vm1"
socket-path = "/run/vnicd/vm1.sock"
socket-mode = "660"
socket-group = "kvm"
uplink = "tap=vm1"
mode = "polling"
"#;

const VM2: &str = "control = '/run/vnicd/vm2.control'\n[[device]]\nname = 'vm2'\nuplink = 'tap=vm2'\n";

fn installed_as_it_should_be(system: &Container) -> Result<()> {
    ensure!(system.ok("vnicd --version")?.trim() == format!("vnicd {}", env!("CARGO_PKG_VERSION")));
    ensure!(system.ok("id -nG vnicd")?.split_whitespace().any(|group| group == "kvm"), "not in the group kvm");
    ensure!(system.ok("stat -c '%U %a' /run/vnicd")?.trim() == "vnicd 755");
    for file in [
        "/usr/bin/vnicctl",
        "/etc/vnicd/vnicd.toml",
        "/usr/share/man/man8/vnicd.8.gz",
        "/usr/share/man/man8/vnicctl-mode-set.8.gz",
        "/usr/share/bash-completion/completions/vnicctl",
        "/usr/share/doc/vnicd/examples/qemu.sh",
        "/usr/share/doc/vnicd/copyright",
    ] {
        system.ok(&format!("test -s {file}"))?;
    }
    ensure!(system.ok("stat -c '%U %a' /etc/vnicd/devices && ls -A /etc/vnicd/devices")?.trim() == "root 755");
    // What management software reads (QEMU, docs/interop/vhost-user.json).
    let found: serde_json::Value = serde_json::from_str(&system.ok("cat /usr/share/qemu/vhost-user/50-vnicd.json")?)?;
    ensure!(found["type"] == "net" && found["description"].is_string(), "{found}");
    system.ok(&format!("{} --print-capabilities", found["binary"].as_str().context("no binary")?))?;
    // Nothing runs before somebody says what.
    ensure!(system.property("vnicd.service", "ActiveState")? == "inactive");
    ensure!(system.property("vnicd.service", "UnitFileState")? == "disabled");
    Ok(())
}

fn units_are_sound(system: &Container) -> Result<()> {
    let unit = "/lib/systemd/system";
    let verified = system.run(&format!(
        "systemd-analyze verify --man=no {unit}/vnicd.service {unit}/vnicd@vm2.service {unit}/vnicd@vm2.socket"
    ))?;
    ensure!(verified.status == 0 && verified.stderr.is_empty(), "{verified:?}");
    for name in ["vnicd.service", "vnicd@vm2.service"] {
        let rated = system.run(&format!("systemd-analyze security --no-pager --threshold={MOST_EXPOSED} {name}"))?;
        println!("{}", rated.stdout.lines().last().unwrap_or_default());
        ensure!(rated.status == 0, "{name} is too exposed:\n{}{}", rated.stdout, rated.stderr);
    }
    Ok(())
}

/// The service is started, tells what it does, is as good as without rights, and is started again when it hangs.
fn the_service_runs(system: &Container) -> Result<()> {
    fs::write(system.path("/etc/vnicd/vnicd.toml"), DEVICE)?;
    system.ok("mkdir -p /run/systemd/system/vnicd.service.d && \
               printf '[Service]\\nWatchdogSec=1s\\nRestartSec=0\\n' >/run/systemd/system/vnicd.service.d/test.conf && \
               systemctl daemon-reload")?;
    let started = system.run("systemctl start vnicd.service")?;
    ensure!(started.status == 0, "{started:?}\n{}", system.ok("systemctl status vnicd; journalctl -n 30 --no-pager")?);
    let status = |told: &str| eventually(told, || Ok(system.property("vnicd.service", "StatusText")? == told));
    status("1 device, 0 front ends connected")?;
    let pid = system.main_pid("vnicd.service")?;
    let rights = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| rights.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    // CAP_NET_ADMIN at most, which only the opener has.
    let none_but = |name, allowed: u64| u64::from_str_radix(field(name), 16).is_ok_and(|caps| caps & !allowed == 0);
    ensure!(none_but("CapEff:", 0) && none_but("CapBnd:", 0x1000), "rights:\n{rights}");
    ensure!(field("NoNewPrivs:") == "1" && field("Seccomp:") == "2", "rights:\n{rights}");
    ensure!(system.ok("stat -c '%U %G %a' /run/vnicd/vm1.sock")?.trim() == "vnicd kvm 660");
    system.ok("ip link show vm1")?;
    ensure!(system.ok("vnicctl status")?.contains("vm1"));

    let socket = system.path("/run/vnicd/vm1.sock");
    let mut client = Client::start(&socket, VERSION_1)?;
    let _rings = [client.running_queue(0, 256)?, client.running_queue(1, 256)?];
    status("1 device, 1 front end connected")?;

    // A worker that hangs.
    let worker = || -> Result<u32> {
        let usage = Usage::of(pid)?;
        usage.threads_named("vm1/0").next().map(|thread| thread.tid).context("no worker")
    };
    let spell = Spell::cast(pid, worker()?)?;
    eventually("systemd starts it again", || Ok(system.property("vnicd.service", "NRestarts")? == "1"))?;
    drop(spell);
    status("1 device, 0 front ends connected")?;
    ensure!(system.ok("journalctl -u vnicd --no-pager")?.contains("its rounds do not go on"));
    Client::start(&socket, VERSION_1)?;
    Ok(())
}

/// Devices come by a file of their own and by the main one, and what makes no sense changes nothing.
fn the_service_reloads(system: &Container) -> Result<()> {
    let main = system.path("/etc/vnicd/vnicd.toml");
    let pid = system.main_pid("vnicd.service")?;
    let status = |told: &str| eventually(told, || Ok(system.property("vnicd.service", "StatusText")? == told));
    let added = system.ok("umask 077; vnicctl device add vm3 --socket-path /run/vnicd/vm3.sock --uplink tap=vm3")?;
    ensure!(added == "added: vm3\n", "{added}");
    status("2 devices, 0 front ends connected")?;
    ensure!(system.ok("stat -c '%U %a' /etc/vnicd/devices/vm3.toml")?.trim() == "root 644");

    fs::write(
        &main,
        format!("{DEVICE}[[device]]\nname = 'vm4'\nsocket-path = '/run/vnicd/vm4.sock'\nuplink = 'tap=vm4'\n"),
    )?;
    let reload = |unit: &str| system.run(&format!("systemctl reload {unit}"));
    let reloaded = reload("vnicd.service")?;
    ensure!(reloaded.status == 0, "{reloaded:?}\n{}", system.ok("journalctl -u vnicd -n 30 --no-pager")?);
    status("3 devices, 0 front ends connected")?;
    system.ok("ip link show vm4")?;
    Client::start(&system.path("/run/vnicd/vm4.sock"), VERSION_1)?;

    fs::write(&main, format!("{DEVICE}mtu = many\n"))?;
    ensure!(reload("vnicd.service")?.status != 0, "a file that makes no sense was taken");
    ensure!(
        system.ok("journalctl -u vnicd --no-pager")?.contains("vnicctl: nothing is changed: /etc/vnicd/vnicd.toml:")
    );
    ensure!(system.property("vnicd.service", "ActiveState")? == "active");
    status("3 devices, 0 front ends connected")?;
    Client::start(&system.path("/run/vnicd/vm4.sock"), VERSION_1)?;

    fs::write(&main, DEVICE)?;
    ensure!(reload("vnicd.service")?.status == 0);
    ensure!(system.ok("vnicctl device remove vm3")? == "removed: vm3\n");
    status("1 device, 0 front ends connected")?;
    ensure!(system.ok("ls -A /etc/vnicd/devices")?.is_empty() && system.main_pid("vnicd.service")? == pid);
    // Somebody without rights changes nothing.
    let stranger = system.run("setpriv --reuid=nobody --clear-groups vnicctl device remove vm1")?;
    ensure!(stranger.status == 1 && stranger.stderr.contains("Permission denied"), "{stranger:?}");
    Ok(())
}

/// Whoever connects starts the service.
fn the_socket_starts_its_service(system: &Container) -> Result<()> {
    fs::write(system.path("/etc/vnicd/vm2.toml"), VM2)?;
    system.ok("systemctl start vnicd@vm2.socket")?;
    ensure!(system.ok("stat -c '%U %G %a' /run/vnicd/vm2.sock")?.trim() == "vnicd kvm 660");
    ensure!(system.property("vnicd@vm2.service", "ActiveState")? == "inactive");
    let _client = Client::start(&system.path("/run/vnicd/vm2.sock"), VERSION_1)?;
    ensure!(system.property("vnicd@vm2.service", "ActiveState")? == "active");
    let told = "1 device, 1 front end connected";
    eventually(told, || Ok(system.property("vnicd@vm2.service", "StatusText")? == told))?;
    fs::write(system.path("/etc/vnicd/vm2.toml"), format!("{VM2}mode = 'polling'\n"))?;
    let reloaded = system.run("systemctl reload vnicd@vm2.service")?;
    ensure!(reloaded.status == 0, "{reloaded:?}\n{}", system.ok("journalctl -u vnicd@vm2 -n 30 --no-pager")?);
    ensure!(system.ok("vnicctl --control /run/vnicd/vm2.control mode show")?.contains("polling"));
    Ok(())
}

#[test]
fn a_debian_package_is_installed_runs_is_upgraded_and_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (old, new) = (package(dir.path(), "deb", OLD)?, package(dir.path(), "deb", NEW)?);
    let system = Container::boot()?;
    let before = files(&system)?;
    system.put(&old, "/root/old.deb")?;
    system.put(&new, "/root/new.deb")?;
    system.ok("dpkg -i /root/old.deb")?;
    installed_as_it_should_be(&system)?;
    units_are_sound(&system)?;
    the_service_runs(&system)?;
    the_service_reloads(&system)?;
    the_socket_starts_its_service(&system)?;

    let pid = system.main_pid("vnicd.service")?;
    fs::write(system.path("/etc/vnicd/devices/vm9.toml"), "socket-path = '/run/vnicd/vm9.sock'\n")?;
    system.ok("dpkg -i /root/new.deb")?;
    system.ok("test -s /etc/vnicd/devices/vm9.toml")?;
    ensure!(system.ok("dpkg-query -W -f '${Version}' vnicd")?.trim() == NEW);
    ensure!(system.ok("cat /etc/vnicd/vnicd.toml")?.trim() == DEVICE.trim(), "the configuration was not kept");
    ensure!(system.main_pid("vnicd.service")? == pid, "guests lost their NIC to an upgrade");

    system.ok("dpkg -r vnicd")?;
    ensure!(system.ok("cat /etc/vnicd/vnicd.toml")?.trim() == DEVICE.trim(), "the configuration went with the package");
    ensure!(system.property("vnicd.service", "ActiveState")? != "active", "it runs on");
    system.ok("rm /etc/vnicd/vm2.toml; rm -r /run/systemd/system/vnicd.service.d; dpkg -P vnicd")?;
    ensure!(system.run("id vnicd")?.status != 0, "the user is left behind");
    system.ok("test ! -e /run/vnicd")?;
    let left: Vec<_> = files(&system)?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// Man pages are looked at by lintian, too.
#[test]
fn lintian_has_nothing_to_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let deb = package(dir.path(), "deb", OLD)?.to_string_lossy().into_owned();
    let told = run("lintian", &["--allow-root", "--fail-on", "error,warning", &deb])?;
    ensure!(told.trim().is_empty(), "{told}");
    let root = dir.path().join("root").to_string_lossy().into_owned();
    run("dpkg-deb", &["-x", &deb, &root])?;
    for program in ["vnicd", "vnicctl"] {
        run("bash", &["-n", &format!("{root}/usr/share/bash-completion/completions/{program}")])?;
    }
    Ok(())
}

#[test]
fn an_rpm_package_has_the_same_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (deb, rpm) = (package(dir.path(), "deb", OLD)?, package(dir.path(), "rpm", OLD)?);
    let (deb, rpm) = (deb.to_string_lossy(), rpm.to_string_lossy());
    ensure!(run("rpm", &["-qpc", &rpm])?.trim() == "/etc/vnicd/vnicd.toml", "no configuration file");

    let root = dir.path().join("root");
    let root = root.to_string_lossy();
    run("rpm", &["--root", &root, "-i", "--nodeps", "--noscripts", &rpm])?;
    let version = run(&format!("{root}/usr/bin/vnicd"), &["--version"])?;
    ensure!(version.trim() == format!("vnicd {}", env!("CARGO_PKG_VERSION")), "{version}");

    // Each distribution has its own places for some things.
    let place = |path: &str| {
        let path =
            path.replace("/usr/lib/systemd", "/lib/systemd").replace("zsh/site-functions", "zsh/vendor-completions");
        (!path.starts_with("/usr/share/doc") && !path.starts_with("/usr/share/lintian")).then_some(path)
    };
    let of_rpm: BTreeSet<_> = run("rpm", &["-qlp", &rpm])?.lines().filter_map(place).collect();
    let listed = run("dpkg-deb", &["-c", &deb])?;
    let files = listed.lines().filter(|line| !line.starts_with('d')).filter_map(|line| line.split_whitespace().nth(5));
    let of_deb: Vec<_> = files.filter_map(|path| place(path.trim_start_matches('.'))).collect();
    ensure!(of_rpm.contains("/etc/vnicd/devices") && listed.contains(" ./etc/vnicd/devices/\n"));
    let missing: Vec<_> = of_deb.iter().filter(|path| !of_rpm.contains(*path)).collect();
    ensure!(missing.is_empty() && of_deb.len() > 15, "not in the rpm: {missing:?}");
    Ok(())
}
