//! Monitors whose command line names the socket: whether the guest's memory can be shared with vnicd.

use std::path::Path;

use super::finding::Finding;
use super::host::Host;

/// What is said to QEMU and to cloud-hypervisor.
const MEND_QEMU: &str = "QEMU needs: -object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem";
const MEND_CLOUD_HYPERVISOR: &str = "cloud-hypervisor needs: --memory size=SIZE,shared=on";

/// Looks at every process that names the socket, but for vnicd itself.
pub(super) fn examine(host: &Host, device: &str, socket: &Path) -> Vec<Finding> {
    let mut pids: Vec<u32> = host.names("proc").iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter()
        .filter_map(|pid| {
            let line = host.read(format!("proc/{pid}/cmdline"))?;
            let words: Vec<&str> = line.split('\0').collect();
            let program = Path::new(words.first()?).file_name()?.to_str()?;
            let names_it = words.iter().any(|word| names(word, socket));
            let is_shared = match program {
                program if program.starts_with("qemu") => qemu_shares(&words),
                "cloud-hypervisor" => cloud_hypervisor_shares(&words),
                _ => return None,
            };
            names_it.then(|| finding(device, pid, program, is_shared))
        })
        .collect()
}

fn finding(device: &str, pid: u32, program: &str, is_shared: bool) -> Finding {
    if is_shared {
        return Finding::good(
            device,
            format!("{program}, process {pid}, names its socket and shares the guest's memory"),
        );
    }
    let mend = if program.starts_with("qemu") { MEND_QEMU } else { MEND_CLOUD_HYPERVISOR };
    let what = format!("{program}, process {pid}, does not share the guest's memory: vnicd cannot see its packets");
    Finding::bad(device, what, mend)
}

/// Whether a word of a command line has this path as a value.
fn names(word: &str, socket: &Path) -> bool {
    word.split(',').any(|part| Path::new(part.split_once('=').map_or(part, |(_, value)| value)) == socket)
}

/// Whether a backend with shared memory is the guest's. Memory of a memfd is shared unless it is said not to be.
fn qemu_shares(words: &[&str]) -> bool {
    let backends = words.iter().filter(|word| word.starts_with("memory-backend-"));
    let has_shared = backends.clone().any(|word| {
        let options: Vec<_> = word.split(',').collect();
        match options.iter().find_map(|option| option.strip_prefix("share=")) {
            Some(value) => matches!(value, "on" | "yes" | "true" | "y"),
            None => options[0] == "memory-backend-memfd",
        }
    });
    let is_used = words.iter().any(|word| {
        word.split(',').any(|option| option.starts_with("memdev=") || option.starts_with("memory-backend="))
    });
    has_shared && is_used
}

fn cloud_hypervisor_shares(words: &[&str]) -> bool {
    words.iter().any(|word| word.split(',').any(|option| option == "shared=on"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::host::testing::machine;
    use super::*;

    #[test]
    fn memory_that_is_not_shared_is_found() {
        const CHARDEV: &str = "-chardev\0socket,id=v,path=/run/vm1.sock";
        let judged = |line: &str| {
            let root = machine(&[("proc/42/cmdline", line), ("proc/self/cmdline", "")]);
            examine(&Host::of_files(root.path(), 0, &[]), "vm1", Path::new("/run/vm1.sock"))
        };
        let qemu = |memory: &str| format!("/usr/bin/qemu-system-x86_64\0-m\01G\0{memory}\0{CHARDEV}\0");
        for (line, grade) in [
            (qemu("-object\0memory-backend-memfd,id=m,size=1G,share=on\0-numa\0node,memdev=m"), Grade::Good),
            (qemu("-object\0memory-backend-memfd,id=m,size=1G\0-machine\0q35,memory-backend=m"), Grade::Good),
            (qemu("-object\0memory-backend-file,id=m,size=1G,mem-path=/h\0-numa\0node,memdev=m"), Grade::Bad),
            (qemu("-object\0memory-backend-memfd,id=m,size=1G,share=off\0-numa\0node,memdev=m"), Grade::Bad),
            (qemu("-object\0memory-backend-memfd,id=m,size=1G,share=on"), Grade::Bad),
            (qemu("-smp\0two"), Grade::Bad),
            (
                "cloud-hypervisor\0--memory\0size=1G,shared=on\0--net\0vhost_user=true,socket=/run/vm1.sock\0".into(),
                Grade::Good,
            ),
            ("cloud-hypervisor\0--memory\0size=1G\0--net\0vhost_user=true,socket=/run/vm1.sock\0".into(), Grade::Bad),
        ] {
            let findings = judged(&line);
            assert!(findings.len() == 1 && findings[0].grade == grade, "{line}: {findings:?}");
        }
        assert_eq!(judged("/usr/bin/qemu-system-x86_64\0-chardev\0socket,path=/run/vm10.sock\0"), []);
        assert_eq!(judged("/usr/bin/vnicd\0--socket-path\0/run/vm1.sock\0"), []);
    }
}
