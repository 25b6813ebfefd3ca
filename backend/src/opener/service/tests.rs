//! What is planned is opened, and nothing else.

use std::os::unix::net::UnixListener;

use super::*;
use crate::opener::{ListenRequest, StatePlan};

fn refused(opener: &mut Opener, request: &Request) -> String {
    match opener.answer(request) {
        (Answer::Refused(text), fds) if fds.is_empty() => text,
        other => panic!("{request:?}: {other:?}"),
    }
}

#[test]
fn nothing_is_opened_that_is_not_planned() {
    let mut opener = Opener::default();
    let name = || "nic0".to_owned();
    for request in [
        Request::Control,
        Request::Metrics,
        Request::Entrance(name()),
        Request::Connect(name()),
        Request::Uplink(name()),
        Request::State(name()),
        Request::Mtu(name(), 1400),
        Request::Realtime(name(), None),
        Request::Reread,
    ] {
        let text = refused(&mut opener, &request);
        assert!(text.contains("configur") || text.contains("'nic0' has no"), "{text}");
    }
    // A device that is there does not stand for others, nor for what it does not have.
    opener.plan.devices.insert(name(), DevicePlan::default());
    for request in [
        Request::Entrance(name()),
        Request::Connect(name()),
        Request::Uplink(name()),
        Request::Uplink("../nic0".into()),
        Request::Mtu("lo".into(), 1400),
        Request::Realtime(name(), Some(1)),
    ] {
        refused(&mut opener, &request);
    }
    assert_eq!(opener.answer(&Request::Remove(Place::Control)).0, Answer::Done);
}

#[test]
fn a_plan_changes_by_its_source_alone() {
    let source = tempfile::NamedTempFile::new().unwrap();
    let path = source.path().to_owned();
    let reread = Reread::new(move || {
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let names = text.split_whitespace().map(|name| (name.to_owned(), DevicePlan::default()));
        if text.contains('!') {
            Err("line 1: '!'".into())
        } else {
            Ok((Plan { devices: names.collect(), ..Plan::default() }, text))
        }
    });
    let mut opener = Opener::default().reread_by(Some(reread));
    let state = |name: &str| Request::State(name.into());
    refused(&mut opener, &state("a"));
    std::fs::write(source.path(), "a b").unwrap();
    refused(&mut opener, &state("a"));
    let (answer, fds) = opener.answer(&Request::Reread);
    assert_eq!(answer, Answer::Done);
    let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
    assert_eq!(io::read_to_string(File::from(fd)).unwrap(), "a b");
    assert_eq!(opener.answer(&state("a")).0, Answer::Done);
    // One that makes no sense changes nothing.
    std::fs::write(source.path(), "c !").unwrap();
    assert_eq!(refused(&mut opener, &Request::Reread), "line 1: '!'");
    assert_eq!(opener.answer(&state("b")).0, Answer::Done);
    refused(&mut opener, &state("c"));
}

#[test]
fn a_socket_that_was_passed_can_be_had_again_where_devices_change() {
    let dir = tempfile::tempdir().unwrap();
    for may_change in [true, false] {
        let listener = UnixListener::bind(dir.path().join(may_change.to_string())).unwrap();
        let device = DevicePlan { entrance: Some(EntrancePlan::Passed(77)), ..DevicePlan::default() };
        let plan = Plan { devices: [("a".into(), device)].into(), ..Plan::default() };
        let reread = may_change.then(|| Reread::new(|| Err("nothing".into())));
        let mut opener = Opener { plan, ..Opener::default() }.reread_by(reread);
        opener.passed.insert(77, listener.into());
        let entrance = Request::Entrance("a".into());
        assert_eq!(opener.answer(&entrance).0, Answer::Passed);
        assert_eq!(matches!(opener.answer(&entrance).0, Answer::Passed), may_change);
    }
}

#[test]
fn what_is_planned_is_opened_and_removed_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = ListenRequest { path: path.clone(), mode: None, group: None };
    let device = DevicePlan {
        entrance: Some(EntrancePlan::Listen(listen)),
        uplink: None,
        state: Some(StatePlan { dir: dir.path().to_owned(), len: 64 }),
        realtime: None,
    };
    let mut opener = Opener::new(Plan { devices: [("a".into(), device)].into(), ..Plan::default() });
    let (answer, fds) = opener.answer(&Request::Entrance("a".into()));
    assert_eq!((answer, fds.len()), (Answer::Listening, 1));
    assert_eq!(opener.answer(&Request::State("a".into())).1.len(), 1);
    assert!(path.exists());
    opener.answer(&Request::Remove(Place::Control));
    assert!(path.exists(), "another socket was meant");
    opener.answer(&Request::Remove(Place::Device("a".into())));
    assert!(!path.exists());
    // What somebody else put there stays, however often.
    let _other = UnixListener::bind(&path).unwrap();
    opener.answer(&Request::Remove(Place::Device("a".into())));
    assert!(path.exists());
}

#[test]
fn a_name_that_the_kernel_chose_is_known_again() {
    for (name, pattern, is) in [
        ("vnic0", "vnic%d", true),
        ("vnic41", "vnic%d", true),
        ("vm3x", "vm%dx", true),
        ("vnic", "vnic%d", false),
        ("vm0", "vnic%d", false),
        ("vnic0", "vnic0", false),
    ] {
        assert_eq!(is_named_by(name, pattern), is, "{name}, {pattern}");
    }
}
