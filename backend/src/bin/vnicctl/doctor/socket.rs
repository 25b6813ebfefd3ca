//! The socket that front end and daemon meet at.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use vnicd::config::{DeviceOptions, SocketGroup};

use super::finding::Finding;
use super::host::Host;

/// Bits that let everybody, or a group, pass through a directory.
const PASS_OTHERS: u32 = 0o001;
const PASS_GROUP: u32 = 0o010;

/// `SO_ACCEPTCON` in /proc/net/unix: somebody listens.
const LISTENS: u32 = 0x1_0000;

pub(super) fn examine(host: &Host, device: &DeviceOptions, path: &Path) -> Vec<Finding> {
    let name = device.name.to_string();
    let shown = path.display();
    let Some(parent) = path.parent().filter(|parent| host.path(parent).is_dir()) else {
        let parent = path.parent().unwrap_or(path).display();
        return vec![Finding::bad(&name, format!("the directory of '{shown}' is missing"), format!("mkdir {parent}"))];
    };
    let listens = listens(host, path);
    if device.client {
        return vec![if listens {
            Finding::good(&name, format!("a front end listens at '{shown}'"))
        } else {
            let mend = "start it with server=on, or leave --client away: vnicd tries until it is there";
            Finding::note(&name, format!("no front end listens at '{shown}' yet"), mend)
        }];
    }
    let mut findings = vec![];
    match host.path(path).symlink_metadata() {
        Ok(metadata) if !metadata.file_type().is_socket() => findings.push(Finding::bad(
            &name,
            format!("'{shown}' is there and is no socket"),
            "vnicd does not replace it: choose another path, or remove it",
        )),
        Ok(_) if listens => findings.push(Finding::good(&name, format!("somebody listens at '{shown}'"))),
        Ok(_) => findings.push(Finding::good(&name, format!("'{shown}' is left over; vnicd replaces it"))),
        Err(_) => findings.push(Finding::good(&name, format!("'{shown}' is made when vnicd starts"))),
    }
    findings.extend(closed_directory(host, device, parent).map(|(directory, mode)| {
        let what = format!("only its owner may pass through '{directory}' (mode {mode:o}), on the way to '{shown}'");
        let mend = "a monitor that runs as another user cannot connect: choose another directory, or chmod g+x or o+x";
        Finding::note(&name, what, mend)
    }));
    if let Some(Err(what)) = device.socket_group.as_ref().map(SocketGroup::number) {
        findings.push(Finding::bad(&name, what, "make it with groupadd, or give another --socket-group"));
    }
    let mode = device.socket_mode.as_ref().map(|mode| mode.0);
    if device.socket_group.is_some() && mode.is_some_and(|mode| mode & 0o020 == 0) {
        let what =
            format!("the group of '{shown}' may not write to it (mode {:o}), and so not connect", mode.unwrap_or(0));
        findings.push(Finding::bad(&name, what, "--socket-mode 660"));
    }
    findings
}

/// The first directory on the way that nobody but its owner passes through, and its mode.
fn closed_directory(host: &Host, device: &DeviceOptions, directory: &Path) -> Option<(String, u32)> {
    let wanted = if device.socket_group.is_some() { PASS_OTHERS | PASS_GROUP } else { PASS_OTHERS };
    let on_the_way: Vec<_> = directory.ancestors().collect();
    on_the_way.into_iter().rev().find_map(|directory| {
        let mode = host.path(directory).metadata().ok()?.mode() & 0o7777;
        (mode & wanted == 0).then(|| (directory.display().to_string(), mode))
    })
}

/// Whether somebody listens, without disturbing him: whoever connects to a vhost-user socket is a front end.
fn listens(host: &Host, path: &Path) -> bool {
    let sockets = host.read("proc/net/unix").unwrap_or_default();
    sockets.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let flags = fields.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        flags & LISTENS != 0 && fields.get(7).is_some_and(|name| Path::new(name) == path)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::super::finding::Grade;
    use super::super::host::testing::machine;
    use super::*;

    fn told(root: &Path, change: impl FnOnce(&mut DeviceOptions)) -> (Vec<Grade>, String) {
        let mut device = DeviceOptions::default();
        change(&mut device);
        let findings = examine(&Host::of_files(root, 0, &[]), &device, Path::new("/run/vm1.sock"));
        (findings.iter().map(|finding| finding.grade).collect(), findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_way_to_the_socket_is_looked_at() {
        let root = machine(&[("run/", "")]);
        let (grades, text) = told(root.path(), |_| {});
        assert!(grades == [Grade::Good] && text.contains("is made"), "{text}");
        fs::set_permissions(root.path().join("run"), Permissions::from_mode(0o750)).unwrap();
        let (_, text) = told(root.path(), |_| {});
        assert!(text.contains("pass through '/run' (mode 750)"), "{text}");
        let (grades, text) = told(root.path(), |device| device.socket_group = Some("7".parse().unwrap()));
        assert_eq!(grades, [Grade::Good], "{text}");
        let (_, text) = told(root.path(), |device| {
            device.socket_group = Some("7".parse().unwrap());
            device.socket_mode = Some("600".parse().unwrap());
        });
        assert!(text.contains("--socket-mode 660"), "{text}");
        let (_, text) = told(machine(&[("tmp/", "")]).path(), |_| {});
        assert!(text.contains("mkdir /run"), "{text}");
    }

    #[test]
    fn what_lies_at_the_path_is_told_apart() {
        let root = machine(&[("run/vm1.sock", "")]);
        let (grades, text) = told(root.path(), |_| {});
        assert!(grades.contains(&Grade::Bad) && text.contains("is no socket"), "{text}");
        let root = machine(&[("run/", "")]);
        let listener = UnixListener::bind(root.path().join("run/vm1.sock")).unwrap();
        assert!(told(root.path(), |_| {}).1.contains("left over"));
        assert!(told(root.path(), |device| device.client = true).1.contains("no front end listens"));
        let line =
            "Num RefCount Protocol Flags Type St Inode Path\n0: 00000002 00000000 00010000 0001 01 9 /run/vm1.sock\n";
        fs::create_dir_all(root.path().join("proc/net")).unwrap();
        fs::write(root.path().join("proc/net/unix"), line).unwrap();
        assert!(told(root.path(), |_| {}).1.contains("somebody listens"));
        assert!(told(root.path(), |device| device.client = true).1.contains("a front end listens"));
        drop(listener);
    }
}
