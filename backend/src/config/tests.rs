//! Files and options, right and wrong.

use super::*;

fn read(text: &str) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let dir = file.path().parent().unwrap().display().to_string();
    Config::text(file.path())
        .and_then(|text| Config::parse(file.path(), &text))
        .and_then(Config::check)
        .map_err(|e| e.to_string().replace(&dir, ""))
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
            "'a' and 'b' both use the file descriptor 3",
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
