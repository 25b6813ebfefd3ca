//! Files and options, right and wrong.

use std::fs;
use std::path::Path;

use super::*;
use crate::nic::MAX_QUEUE_PAIRS;
use crate::ring::MAX_QUEUE_SIZE;

/// The configuration of a file, or what is wrong with it, without the names of directories.
fn read(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vnicd.toml"), text).unwrap();
    read_in(dir.path())
}

/// That of the file `vnicd.toml` in `dir`.
fn read_in(dir: &Path) -> Result<Config, String> {
    let read = Texts::read(&dir.join("vnicd.toml")).and_then(|texts| texts.parse()).and_then(Config::check);
    read.map_err(|e| e.to_string().replace(&format!("{}/", dir.display()), ""))
}

#[test]
fn a_file_has_the_names_and_defaults_of_the_command_line() {
    let config = read(
        "control = '/run/c'\nlog-format = 'json'\n[[device]]\nname = 'a'\nsocket-path = '/run/a'\n\
         uplink = 'tap=t,bridge=b'\ncpus = '0-1'\nsocket-mode = '660'\n[[device]]\nname = 'b'\nfd = 3\n",
    )
    .unwrap();
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log, "info");
    let [a, b] = &config.devices[..] else { panic!("two devices") };
    assert_eq!((a.cpus.as_ref().unwrap().0.len(), a.socket_mode), (2, Some(SocketMode(0o660))));
    assert_eq!((b.fd, b.queue_pairs, b.queue_size), (Some(3), MAX_QUEUE_PAIRS, MAX_QUEUE_SIZE));
    assert_eq!(Ok(b.uplink.clone()), "tap=vnic%d".parse());
}

#[test]
fn the_example_is_right_but_for_this_machines_groups() {
    let example = include_str!("../../../configs/vnicd.toml").replace("\"kvm\"", "\"0\"");
    let config = read(&example).unwrap();
    assert_eq!((config.devices.len(), config.devices[0].name.as_str()), (1, "vm1"));
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, says) in [
        ("", "no [[device]]"),
        ("[[device]]\nname = 'a'\n", "needs --socket-path"),
        ("[[device]]\nsocket-path = '/a'\nfd = 3\n", "exclude each other"),
        ("[[device]]\nsocket-path = '/a'\nsocket-pth = 3\n", ":3: unknown field `socket-pth`"),
        ("contrl = 1\n[[device]]\nsocket-path = '/a'\n", "unknown field `contrl`"),
        ("[[device]]\nsocket-path = '/a'\nuplink = 'tun=x'\n", ":3: 'tun=x' is no uplink"),
        ("[[device]]\nsocket-path = '/a'\nqueue-pairs = 33\n", "--queue-pairs 33"),
        ("[[device]]\nsocket-path = '/a'\nname = 'x/y'\n", ":3: 'x/y' is no device name"),
        ("[[device]]\nfd = 3\nrealtime-priority = 100\n", "--realtime-priority 100 is not between 1 and 99"),
        ("[[device]]\nfd = 3\nrealtime-priority = 0\n", "--realtime-priority 0 is not between 1 and 99"),
        ("[[device]\n", ":1: "),
        ("[[device]]\nfd = 3\n[device.governor]\nenter-pps = 5\n", "leave-pps = 200000 is not below enter-pps = 5"),
        ("[[device]]\nfd = 3\n[device.interrupts]\ncoalesce-frames = 5\n", "needs a coalesce-us"),
        ("[[device]]\nfd = 3\n[device.interrupts]\nurgent-priorities = '9'\n", ":4: '9' is no range"),
        ("metrics = ':9'\n[[device]]\nfd = 3\n", ":1: ':9' is no address and port"),
        ("metrics = '[::]:9'\n[[device]]\nfd = 3\n", "--metrics [::]:9 lets other machines in"),
        ("metrics-public = true\n[[device]]\nfd = 3\n", "--metrics-public means nothing"),
        ("[[device]]\nfd = 3\n[device.governor]\nenter-ppm = 5\n", ":4: unknown field `enter-ppm`"),
        ("[[device]]\nfd = 3\nsocket-mode = '660'\n", "--socket-mode means nothing with --fd"),
        (
            "[[device]]\nfd = 3\nname='a'\n[[device]]\nfd = 3\nname = 'b'\n",
            "devices 'a' (vnicd.toml:1) and 'b' (vnicd.toml:4) both use the file descriptor 3: give each its own",
        ),
        ("[[device]]\nfd = 3\nuplink = 'af-xdp=e,steer=mac'\n", "steer=mac needs --mac"),
        (
            "[[device]]\nfd = 3\nname='a'\nuplink='af-xdp=e'\n[[device]]\nfd = 4\nname = 'b'\nuplink='af-xdp=e'\n",
            "both use the queue 0 of 'e'",
        ),
        ("[[device]]\nfd = 3\n[[device]]\nfd = 4\n", "both use the name 'nic0'"),
        (
            "[[device]]\nfd = 3\nname='a'\nuplink='tap=t'\n[[device]]\nfd = 4\nname = 'b'\nuplink='tap=t'\n",
            "both use the TAP 't'",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(says), "{says:?} is not in: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// A directory with a main file that names `devices` in it, and these files.
fn with_devices(main: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let devices = dir.path().join("devices");
    fs::create_dir(&devices).unwrap();
    fs::write(dir.path().join("vnicd.toml"), format!("device-dir = '{}'\n{main}", devices.display())).unwrap();
    for (name, text) in files {
        fs::write(devices.join(name), text).unwrap();
    }
    dir
}

#[test]
fn devices_have_files_of_their_own() {
    let dir = with_devices(
        "[[device]]\nname = 'z'\nfd = 3\n",
        &[
            ("vm2.toml", "name = 'vm2'\nsocket-path = '/b'\n[governor]\nenter-pps = 500000\n"),
            ("vm1.toml", "socket-path = '/a'\nuplink = 'tap=vm1'\n"),
            (".vm3.toml", "this is [ no TOML"),
            ("vm4.toml~", "this is [ no TOML"),
            ("README", "this is [ no TOML"),
        ],
    );
    let config = read_in(dir.path()).unwrap();
    let at = |(device, origin): (&DeviceOptions, Option<&Origin>)| {
        format!("{} {}", device.name, origin.unwrap()).replace(&format!("{}/", dir.path().display()), "")
    };
    let defined: Vec<_> = config.defined().map(at).collect();
    assert_eq!(defined, ["z vnicd.toml:2", "vm1 devices/vm1.toml:1", "vm2 devices/vm2.toml:1"]);
    assert_eq!((config.devices[2].governor.enter_pps, config.devices[2].queue_pairs), (500_000, MAX_QUEUE_PAIRS));
}

#[test]
fn a_directory_may_be_empty_and_must_be_there() {
    let dir = with_devices("", &[]);
    assert_eq!(read_in(dir.path()).unwrap().devices, []);
    fs::remove_dir(dir.path().join("devices")).unwrap();
    let error = read_in(dir.path()).unwrap_err();
    assert!(error.starts_with("the device-dir 'devices' of vnicd.toml cannot be read: No such file"), "{error}");
    assert!(error.contains("make it (mkdir -p devices), or leave device-dir out"), "{error}");
    fs::write(dir.path().join("devices"), "").unwrap();
    assert!(read_in(dir.path()).unwrap_err().contains("name a directory"));
    assert!(read("device-dir = 'devices'\n").unwrap_err().contains("device-dir = 'devices' is not absolute"));
}

#[test]
fn what_is_wrong_in_a_device_s_file_is_one_line_with_file_and_line() {
    let good = "socket-path = '/a'\nuplink = 'tap=t'\n";
    for (files, says) in [
        (vec![("a.toml", "socket-path = '/a'\nsocket-pth = 3\n")], "devices/a.toml:2: unknown field `socket-pth`"),
        (vec![("a.toml", "[[device]]\nsocket-path = '/a'\n")], "devices/a.toml:1: unknown field `device`"),
        (vec![("a.toml", "control = '/c'\n")], "devices/a.toml:1: unknown field `control`"),
        (vec![("a.toml", "\nuplink = 'wire'\n")], "devices/a.toml:2: 'wire' is no uplink"),
        (vec![("a.toml", "queue-pairs = \n")], "devices/a.toml:1: "),
        (vec![("a.toml", "fd = 4\nname = 'b'\n")], "devices/a.toml:2: the name 'b' is not the file's, 'a': leave it"),
        (vec![("a b.toml", good)], "devices/a b.toml:1: 'a b' is no device name: 1 to 32 letters"),
        (vec![("a.toml", "mtu = 1500\n")], "device 'a' (devices/a.toml:1): it needs --socket-path"),
        (vec![("z.toml", good)], "devices 'z' (vnicd.toml:3) and 'z' (devices/z.toml:1) both use the name 'z': give"),
        (
            vec![("a.toml", good), ("b.toml", "fd = 4\nuplink = 'tap=t'\n")],
            "devices 'a' (devices/a.toml:1) and 'b' (devices/b.toml:1) both use the TAP 't'",
        ),
    ] {
        let dir = with_devices("\n[[device]]\nfd = 3\nname = 'z'\n", &files);
        let error = read_in(dir.path()).unwrap_err();
        assert!(error.contains(says), "{says:?} is not in: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // A link that leads nowhere is somebody's mistake.
    let dir = with_devices("", &[]);
    std::os::unix::fs::symlink("/nowhere", dir.path().join("devices/a.toml")).unwrap();
    assert!(read_in(dir.path()).unwrap_err().contains("cannot read the configuration file 'devices/a.toml': No such"));
}
